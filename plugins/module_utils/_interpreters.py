# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Interpreters on a node, out of the bundle: unpacked where none fits. Standard library only."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils import _archive
from ansible_collections.rlinf.offline.plugins.module_utils._bundle import read_manifest
from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError, ProcessError, VenvError
from ansible_collections.rlinf.offline.plugins.module_utils._files import exclusive, remove, rename, sha256_file, write_json
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle, Node
from ansible_collections.rlinf.offline.plugins.module_utils._process import run

STAMP = "rlinf.json"
"""In the folder of an interpreter, written last: one without it is unfinished."""
_PLACE = re.compile(r"interpreters/(?P<python>3\.\d+\.\d+)/(?P<machine>\w+)/[^/]+\Z")


@dataclass(frozen=True)
class Interpreter:
    """An archive of the bundle.

    :param python: its full version; *machine*: where it runs.
    :param path: relative to the bundle.
    """

    python: str
    machine: str
    path: str
    sha256: str

    @property
    def folder(self) -> str:
        """What it is called once it is unpacked."""
        return f"cpython-{self.python}-{self.machine}-{self.sha256[:12]}"


@dataclass(frozen=True)
class Step:
    """An interpreter that is to be there, at *path* (its program), for the version *wanted*."""

    wanted: str
    interpreter: Interpreter
    path: Path
    changed: bool


def offered(manifest: Mapping[str, Any]) -> list[Interpreter]:
    """Return the interpreters of a bundle, newest first."""
    found = []
    for path, entry in manifest["files"].items():
        place = _PLACE.match(path)
        if place and "sha256" in entry:
            found.append(Interpreter(place["python"], place["machine"], path, entry["sha256"]))
    return sorted(found, key=lambda item: tuple(map(int, item.python.split("."))), reverse=True)


def fitting(interpreters: Iterable[Interpreter], wanted: str, machine: str) -> Interpreter | None:
    """Return the newest interpreter of a version, ``3.11`` or ``3.11.14``, for a machine."""
    return next((item for item in interpreters if item.machine == machine and f"{item.python}.".startswith(f"{wanted}.")), None)


@dataclass(frozen=True)
class Interpreters:
    """Unpacks what a node lacks."""

    bundle: Bundle
    node: Node

    def plan(self, wanted: Sequence[str]) -> list[Step]:
        """Return what is to be there for these versions.

        :raises BundleError: the bundle has none for one of them; those that it has are named.
        """
        known = offered(read_manifest(self.bundle))
        steps = []
        for version in dict.fromkeys(wanted):
            found = fitting(known, version, platform.machine())
            if found is None:
                there = ", ".join(f"{item.python} ({item.machine})" for item in known) or "none"
                raise BundleError(
                    f"No Python {version} is on this node, and none for {platform.machine()} in the bundle, which has {there}. "
                    "Set rlinf_interpreters: auto and run download, then push; or install one, or give its path by rlinf_python."
                )
            folder = self.node.interpreters / found.folder
            steps.append(Step(version, found, self._program(folder, found), not (folder / STAMP).is_file()))
        return steps

    def apply(self, wanted: Sequence[str]) -> list[Step]:
        """Unpack what is not there.

        :raises BundleError: an archive is damaged. :raises ArchiveError: it must not be unpacked.
        :raises VenvError: it does not run here.
        """
        self.node.interpreters.mkdir(parents=True, exist_ok=True)
        with exclusive(self.node.state / ".interpreters.lock", f"The interpreters of {self.node.prefix}"):
            steps = self.plan(wanted)
            for step in steps:
                if step.changed:
                    self._unpack(step.interpreter)
            return steps

    def _unpack(self, interpreter: Interpreter) -> None:
        archive, place = self.bundle.root / interpreter.path, self.node.interpreters / interpreter.folder
        fresh = place.with_name(f".{place.name}.part")
        for left in (fresh, place):
            remove(left)
        if not archive.is_file() or sha256_file(archive) != interpreter.sha256:
            raise BundleError(f"{archive} is missing or damaged. Run the playbook rlinf.offline.push again with rlinf_scrub=true.")
        _archive.unpack(archive, fresh, strip=True)
        try:
            self._check(fresh, interpreter)
        except VenvError:
            remove(fresh)
            raise
        write_json(fresh / STAMP, {"format": 1, "python": interpreter.python, "sha256": interpreter.sha256})
        rename(fresh, place)

    def _check(self, folder: Path, interpreter: Interpreter) -> None:
        """:raises VenvError: it does not run here, or is of another version than its place says."""
        program = self._program(folder, interpreter)
        code = "import json, ssl, sys, venv; print(json.dumps('.'.join(map(str, sys.version_info[:3]))))"
        try:
            said = json.loads(run([program, "-I", "-B", "-c", code], what=f"trying {program}", timeout=120).stdout)
        except (ProcessError, ValueError) as error:
            raise VenvError(
                f"{interpreter.path} of the bundle does not run on this node ({error}). Carry one that does (rlinf_catalog, interpreters), or install one."
            ) from None
        if said != interpreter.python:
            raise VenvError(
                f"{interpreter.path} of the bundle is Python {said}, not {interpreter.python}. Correct its entry in rlinf_catalog."
            )

    @staticmethod
    def _program(folder: Path, interpreter: Interpreter) -> Path:
        return folder / "bin" / f"python{interpreter.python.rpartition('.')[0]}"
