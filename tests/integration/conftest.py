# SPDX-License-Identifier: GPL-3.0-or-later
"""A bastion and its nodes, through the whole job twice; and what integration tests take over from the unit tests: a module run by its main()."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.demo.cycle import PLAYS, Cycle, Play, can_compile, can_unshare
from tests.unit.conftest import run_module

__all__ = ["run_module"]

TARGETS = {"gpu01": ("openvla", "openvla-oft"), "gpu02": ("openvla-oft-behavior", "openpi-metaworld", "reason")}


class Twice:
    """A cycle that has run twice: what each play did, whom it asked, and the trees after each pass."""

    def __init__(self, cycle: Cycle) -> None:
        self.cycle = cycle
        self.plays: list[dict[str, Play]] = []
        self.asked: dict[str, list[str]] = {name: [] for name in PLAYS}
        self.trees: list[dict[str, dict[str, tuple[str, str]]]] = []

    def run(self, names: Sequence[str] = PLAYS) -> None:
        """Run every playbook, and note everything."""
        plays = {}
        for name in names:
            self.cycle.upstream.forget()
            plays[name] = self.cycle.play(name)
            self.asked[name] += [request.path for request in self.cycle.upstream.requests()]
        self.plays.append(plays)
        places = {"bundle": self.cycle.bundle, "home": self.cycle.home}
        for node in self.cycle.targets:
            places |= {f"{node}/{name}": self.cycle.work / node / name for name in ("venvs", "src", "assets", "state", "tools")}
        self.trees.append(
            {name: {path: what for path, what in tree(place).items() if ".cache/" not in path} for name, place in places.items()}
        )

    def activated(self, target: str, code: str) -> str:
        """Run Python code as a user does who has activated the environment; return its output."""
        venv = self.cycle.prefix(target) / "venvs" / target
        command = ["unshare", "-rn", "bash", "-euc", 'source "$0/bin/activate" && python -c "$1"', str(venv), code]
        done = subprocess.run(command, env=self.cycle.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


def tree(root: Path) -> dict[str, tuple[str, str]]:
    """Return what a tree holds: for every path its mode, and its content's digest or link target."""
    found = {}
    for path in sorted(root.rglob("*")):
        mode = path.lstat().st_mode
        content = os.readlink(path) if stat.S_ISLNK(mode) else hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(mode) else ""
        found[str(path.relative_to(root))] = (stat.filemode(mode), content)
    return found


@pytest.fixture(scope="session")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twice]:
    """Have one world, one bundle and two nodes, for all tests of the session; openpi with ManiSkill and LIBERO is Molecule's."""
    assert can_unshare(), "unshare -rn does not work here, so no node can be kept off the network"
    assert can_compile(), "compilers for C and C++ and the headers of this Python are needed"
    with Cycle(tmp_path_factory.mktemp("cycle") / "work", targets=TARGETS) as cycle:
        run = Twice(cycle)
        # a first look changes nothing, although nothing is there yet
        cycle.play("download", "--check", "--diff")
        assert not cycle.bundle.exists()
        run.run()
        run.run([name for name in PLAYS if name != "verify"])
        yield run
