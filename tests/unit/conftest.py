# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of all unit tests: a module's real main() in a process of its own, and the proof by hashes."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible.release import __version__

MODULES = Path(__file__).resolve().parents[2] / "plugins" / "modules"


class ModuleFailed(AssertionError):
    """The module called fail_json; ``result`` holds what it said."""

    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__(result.get("msg"))
        self.result = result


@pytest.fixture(scope="session")
def run_module() -> Callable[..., dict[str, Any]]:
    """Run a module as Ansible does: its file, its arguments as JSON on stdin, its result as JSON on stdout."""

    def run(
        name: str,
        args: dict[str, Any],
        *,
        check: bool = False,
        diff: bool = False,
        env: Mapping[str, str] | None = None,
        python: str = sys.executable,
    ) -> dict[str, Any]:
        # the arguments that ansible-core adds; this one, and the serialization profile, are asked for since 2.19
        since_2_19 = {"_ansible_tracebacks_for": []} if tuple(map(int, __version__.split(".")[:2])) >= (2, 19) else {}
        arguments = {"ANSIBLE_MODULE_ARGS": {**since_2_19, **args, "_ansible_check_mode": check, "_ansible_diff": diff}}
        driver = (
            "import sys, runpy; import ansible.module_utils.basic as b\n"
            "b._ANSIBLE_ARGS = sys.stdin.buffer.read(); b._ANSIBLE_PROFILE = 'legacy'\n"
            f"runpy.run_path({str(MODULES / (name + '.py'))!r}, run_name='__main__')\n"
        )
        done = subprocess.run(
            [python, "-c", driver],
            input=json.dumps(arguments).encode(),
            capture_output=True,
            check=False,
            env={**os.environ, **(env or {})},
        )
        if done.returncode < 0:
            raise subprocess.CalledProcessError(done.returncode, name, done.stdout, done.stderr)
        lines = done.stdout.decode().strip().splitlines()
        assert lines, f"{name} printed nothing:\n{done.stderr.decode()}"
        result: dict[str, Any] = json.loads(lines[-1])
        if result.get("failed"):
            assert "Traceback" not in done.stderr.decode(), done.stderr.decode()
            raise ModuleFailed(result)
        assert done.returncode == 0, done.stderr.decode()
        return result

    return run


@pytest.fixture(scope="session")
def tree_hash() -> Callable[..., dict[str, tuple[str, ...]]]:
    """Return what a tree holds: for every path its mode, and its content's digest or link target."""

    def hash_tree(root: Path, *, mtimes: bool = False) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for path in sorted(root.rglob("*")):
            status = path.lstat()
            kind = stat.filemode(status.st_mode)
            content = os.readlink(path) if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            found[str(path.relative_to(root))] = (kind, content, *((str(status.st_mtime_ns),) if mtimes and path.is_file() else ()))
        return found

    return hash_tree
