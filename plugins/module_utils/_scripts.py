# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scripts of upstream, run in an environment while it is built: they find what the bundle has, and must leave what the lock says."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._activation import activated
from ansible_collections.rlinf.offline.plugins.module_utils._files import remove, sha256_file
from ansible_collections.rlinf.offline.plugins.module_utils._installed import site_packages
from ansible_collections.rlinf.offline.plugins.module_utils._process import run
from ansible_collections.rlinf.offline.plugins.module_utils._uv import Uv

VENV = "{venv}"
"""What stands for the environment in the arguments and variables of a script."""


@dataclass(frozen=True)
class Script:
    """A script: where it runs, its arguments, variables besides those of the environment, and globs below site-packages of what it may delete."""

    name: str
    cwd: Path
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    removes: tuple[str, ...] = ()

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Script:
        """Read one as the module's arguments have it."""
        return cls(given["name"], Path(given["cwd"]), tuple(given["argv"]), given.get("env") or {}, tuple(given.get("removes") or ()))

    @property
    def identity(self) -> dict[str, Any]:
        """What makes two runs the same: also the content of the files that its arguments name."""
        files = {text: sha256_file(self.cwd / text) for text in self.argv if (self.cwd / text).is_file()}
        return {
            "name": self.name,
            "cwd": str(self.cwd),
            "argv": list(self.argv),
            "env": dict(self.env),
            "removes": list(self.removes),
            "files": files,
        }


@dataclass(frozen=True)
class Stage:
    """What scripts find: an environment, its exports, and a folder of everything that uv and pip may install.

    :param work: a folder for the run, in which ``wheels`` holds links to the wheels.
    """

    environment: Path
    exports: Mapping[str, Any]
    uv: Uv
    work: Path

    @property
    def wheels(self) -> Path:
        return self.work / "wheels"

    @property
    def programs(self) -> Path:
        return self.work / "bin"

    def set(self, wheels: Sequence[Path]) -> None:
        """Make the folder of links: pip looks into no folders below one. The first of two files of a name wins."""
        self.wheels.mkdir(parents=True, exist_ok=True)
        for wheel in wheels:
            link = self.wheels / wheel.name
            if not link.is_symlink():
                link.symlink_to(wheel)

    def run(self, script: Script, log: Path) -> None:
        """Run a script to its end.

        :param log: what gets all that it says.
        :raises ProcessError: it failed; the end of what it said is in the message.
        """
        # git and all that belongs to it, which only a script needs
        from ansible_collections.rlinf.offline.plugins.module_utils import _worktrees

        self._provide()
        edited = _worktrees.top(script.cwd)
        if edited:
            _worktrees.begin_script(edited)
        run(
            [self._filled(text) for text in script.argv], what=f"script {script.name}", cwd=script.cwd, env=self._variables(script), log=log
        )
        if edited:
            _worktrees.end_script(edited)
        # one that finds a package there already may leave out what it does after installing it
        for pattern in script.removes:
            for path in sorted(site_packages(self.environment).glob(pattern)):
                remove(path)

    def _provide(self) -> None:
        """Make the programs and the settings: uv, and a pip for environments that have none, since that of the system would change the system."""
        self.programs.mkdir(exist_ok=True)
        for name in ("pip", "pip3"):
            (self.programs / name).write_text(f'#!/bin/sh\nexec {shlex.quote(os.fspath(self.uv.path))} pip "$@"\n', encoding="utf-8")
            (self.programs / name).chmod(0o755)
        if not (self.programs / "uv").is_symlink():
            (self.programs / "uv").symlink_to(self.uv.path)
        # JSON strings are TOML strings
        found = json.dumps(os.fspath(self.wheels), ensure_ascii=False)
        settings = f'offline = true\nno-index = true\npython-downloads = "never"\nfind-links = [{found}]\n'
        (self.work / "uv.toml").write_text(settings, encoding="utf-8")

    def _variables(self, script: Script) -> dict[str, str]:
        """Return what a script runs with; nothing that it is given by a target leads uv or pip elsewhere."""
        active = activated(self.environment, self.exports)
        own, _colon, rest = active["PATH"].partition(":")
        return {
            **active,
            **{name: self._filled(text) for name, text in script.env.items()},
            **{name: value for name, value in self.uv.env.items() if name != "UV_NO_CONFIG"},
            "VIRTUAL_ENV": active["VIRTUAL_ENV"],
            "PATH": f"{own}:{self.programs}:{rest}",
            "UV_CONFIG_FILE": os.fspath(self.work / "uv.toml"),
            # what is installed shares no file with uv's cache, so that the script may do with it as it likes
            "UV_LINK_MODE": "copy",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            # a list of words
            "PIP_FIND_LINKS": self.wheels.as_uri(),
            "PIP_NO_CACHE_DIR": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INPUT": "1",
            "PYTHONNOUSERSITE": "1",
        }

    def _filled(self, text: str) -> str:
        return text.replace(VENV, os.fspath(self.environment))
