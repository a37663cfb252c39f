# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pins that ship with the collection: what the documented targets resolved to, for indexes that cannot say what there was at a cut-off.

A package may have another version after each step, so the pins are kept by step. Only what an index serves is among them, no commits.
Files are known by their digests, since a package may get more of them, at the same version, later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._errors import LockError
from ansible_collections.rlinf.offline.plugins.module_utils._files import json_bytes, read_json, sha256_bytes

_PINS = {
    "definition": str,
    "project": str,
    "python": str,
    "platform": str,
    "torch_backend": str,
    "cut_off": (str, type(None)),
    "steps": [{"name": str, "pins": {str: str}}],
    "sha256": {str: str},
    "build": {str: str},
}


@dataclass(frozen=True)
class Shipped:
    """The pins of one target, and what they are the pins of.

    :param definition: the digest of the target's entry (:func:`_definition.definition`).
    :param project: the digest of the project's requirement files (:func:`files_digest`).
    :param steps: label and changes of each step in order: package -> version; empty where it is gone, or no longer from an index.
    :param sha256: the file of each package that was taken in the end, a wheel or an sdist: package -> digest.
    :param build: the newest version, at the cut-off, of each package that builds may take: package -> version.
    """

    definition: str
    project: str
    python: str
    platform: str
    torch_backend: str
    cut_off: str | None
    steps: tuple[tuple[str, Mapping[str, str]], ...]
    sha256: Mapping[str, str]
    build: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_lock(cls, lock: Mapping[str, Any], build: Mapping[str, str] | None = None) -> Shipped:
        """Return the pins of a target's ``lock.json``."""
        steps = tuple((step["name"], {name: _version(pin) for name, pin in step["pins"].items()}) for step in lock["steps"])
        known = {key: lock[key] for key in ("definition", "python", "platform", "torch_backend", "cut_off")}
        # of an overlay, the package that it was made of
        served = {item["name"]: item["source"].get("package", item)["source"] for item in lock["packages"]}
        sha256 = {name: source["sha256"] for name, source in served.items() if "sha256" in source}
        return cls(**known, project=files_digest(lock["files"]), steps=steps, sha256=sha256, build=build or {})

    @classmethod
    def read(cls, path: Path) -> Shipped:
        """Read one file of them.

        :raises FileNotFoundError: it is not there.
        :raises LockError: it is damaged.
        """
        data = read_json(path, LockError, _PINS, "Install the collection again, or set rlinf_pins_dir to another folder or to ''.")
        return cls(**{key: data[key] for key in _PINS} | {"steps": tuple((step["name"], step["pins"]) for step in data["steps"])})

    @property
    def json(self) -> dict[str, Any]:
        """What :meth:`read` reads."""
        return {**vars(self), "steps": [{"name": name, "pins": dict(pins)} for name, pins in self.steps]}

    def constraints(self, labels: Sequence[str]) -> list[tuple[str, ...]]:
        """Return for each step of a target, by its label, what holds after it, as requirement lines.

        A step that left nothing behind when the pins were made, a wheel that was left out for one, has those of the step before it.
        """
        held: dict[str, str] = {}
        remaining = list(self.steps)
        lines = []
        for label in labels:
            if remaining and remaining[0][0] == label:
                held |= remaining.pop(0)[1]
            lines.append(tuple(f"{name}=={version}" for name, version in sorted(held.items()) if version))
        return lines

    @property
    def build_constraints(self) -> tuple[str, ...]:
        """What holds for every build: nothing newer than there was at the cut-off."""
        return tuple(f"{name}<={version}" for name, version in sorted(self.build.items()))

    def mismatch(self, definition: str, project: str, platform: str, torch_backend: str) -> str:
        """Say in which way these pins are of something else; empty if they are not."""
        differing = {
            "the target's entry": self.definition != definition,
            "the project's requirement files": self.project != project,
            "rlinf_platform": self.platform != platform,
            "rlinf_torch_backend": self.torch_backend != torch_backend,
        }
        return ", ".join(name for name, differs in differing.items() if differs)


def files_digest(files: Mapping[str, str]) -> str:
    """Return one digest for the requirement files of a project, path -> SHA-256."""
    return sha256_bytes(json_bytes(dict(files)))


def _version(pin: str) -> str:
    """Return the version of a pin of ``lock.json``; empty if it is a commit, a prebuilt wheel, or none any more."""
    return "" if "/" in pin else pin
