# SPDX-License-Identifier: GPL-3.0-or-later
"""A copy of this machine that has no network and goes away: an overlay of its root, whose changes lie in memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DRIVER = (
    "import sys, runpy; import ansible.module_utils.basic as b\n"
    f"sys.path.insert(0, {str(ROOT / '.venv' / 'collections')!r})\n"
    "b._ANSIBLE_ARGS = sys.stdin.buffer.read(); b._ANSIBLE_PROFILE = 'legacy'\n"
    f"runpy.run_path(f'{ROOT}/plugins/modules/{{sys.argv[1]}}.py', run_name='__main__')\n"
)
"""A program that runs the module which its argument names, with the arguments on its standard input."""
_ENTER = (
    "mount -t tmpfs tmpfs {0} && mkdir {0}/upper {0}/work {0}/tree && mount -t overlay -o lowerdir=/,upperdir={0}/upper,workdir={0}/work overlay {0}/tree "
    "&& mount --rbind /proc {0}/tree/proc && mount --rbind /dev {0}/tree/dev && echo ready && exec sleep infinity"
)


class Machine:
    """A copy of this machine, until :meth:`end`.

    :param place: a directory for it, which is made.
    :raises PermissionError: this is not root.
    """

    def __init__(self, place: Path) -> None:
        if os.geteuid():
            raise PermissionError("A copy of the machine's root is an overlay of it, which needs root")
        place.mkdir()
        self.root = place / "tree"
        self.process = subprocess.Popen(
            ["unshare", "--mount", "--net", "--propagation", "private", "bash", "-c", _ENTER.format(place)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout and self.process.stdout.readline() == "ready\n"

    def run(self, *argv: str, stdin: str = "", env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program there.

        :param env: variables over those of this process.
        """
        inside = ["nsenter", "--target", str(self.process.pid), "--mount", "--net", "chroot", str(self.root), *argv]
        return subprocess.run(inside, input=stdin, capture_output=True, text=True, check=False, env={**os.environ, **(env or {})})

    def shell(self, command: str) -> str:
        """Return what a shell command prints, which must succeed."""
        done = self.run("bash", "-c", command)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(
        self, module: str, arguments: Mapping[str, Any], *, check: bool = False, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a module there, however it ends."""
        given = {**arguments, "_ansible_check_mode": check, "_ansible_diff": True, "_ansible_tracebacks_for": []}
        return self.run(sys.executable, "-c", DRIVER, module, stdin=json.dumps({"ANSIBLE_MODULE_ARGS": given}), env=env)

    def module(self, module: str, arguments: Mapping[str, Any], *, check: bool = False) -> dict[str, Any]:
        """Run a module there and return its answer, whatever that is."""
        return answer(self.start(module, arguments, check=check))

    def end(self) -> None:
        """Let it go with all that was written there."""
        self.process.kill()
        self.process.wait()


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return what a module answered."""
    assert done.stdout.strip(), done.stderr
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))
