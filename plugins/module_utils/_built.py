# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packages that only a node can build, since it takes a compiler for its GPU: built once, kept, and carried to the other nodes."""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from ansible_collections.rlinf.offline.plugins.module_utils._bundle import read_manifest
from ansible_collections.rlinf.offline.plugins.module_utils._effective import EffectiveLock, Package, Recipe, fitting_tags
from ansible_collections.rlinf.offline.plugins.module_utils._errors import VenvError
from ansible_collections.rlinf.offline.plugins.module_utils._files import remove, sha256_file
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle, Node
from ansible_collections.rlinf.offline.plugins.module_utils._placement import copy_asset, is_same
from ansible_collections.rlinf.offline.plugins.module_utils._scripts import VENV
from ansible_collections.rlinf.offline.plugins.module_utils._uv import Interpreter, Uv

CUDA = Path("/usr/local/cuda")
"""Where the CUDA toolkit lies if nobody says otherwise."""
# a zip knows no year before 1980
_OLDEST = 315532800


@dataclass(frozen=True)
class Builder:
    """Finds what was built of a lock's sources, and builds it.

    Wheels are kept by the source's SHA-256 and, since compiled code fits one torch alone, by the version of torch: ``state/built/<sha256>/
    torch-2.6.0/``, or directly in ``<sha256>/`` where the lock has none or somebody put it there.
    """

    node: Node
    bundle: Bundle
    target: str
    lock: EffectiveLock
    interpreter: Interpreter

    def _folders(self, package: Package, root: Path) -> list[Path]:
        place = root / package.sha256
        return [*([place / f"torch-{self.lock.torch}"] if self.lock.torch else []), place]

    def _wheels(self, package: Package) -> Iterator[Path]:
        """Yield what may have been built of a source: what lies here, then what lies in the bundle and is listed in its manifest."""
        here, carried = (
            [wheel for folder in self._folders(package, root) for wheel in sorted(folder.glob("*.whl"))]
            for root in (self.node.built, self.bundle.built)
        )
        yield from here
        listed = read_manifest(self.bundle)["files"] if carried else {}
        for wheel in carried:
            entry = listed.get(str(wheel.relative_to(self.bundle.root)))
            if entry and is_same(wheel, entry):
                yield wheel

    def find(self, package: Package) -> Path | None:
        """Return a wheel that was built of a source and fits this node: one built here, or one that the bundle brought.

        :raises BundleError: the bundle has wheels of it, and no manifest that tells which.
        """
        tags = frozenset(fitting_tags(self.interpreter))
        for wheel in self._wheels(package):
            try:
                fits = bool(parse_wheel_filename(wheel.name)[3] & tags)
            except InvalidWheelFilename:
                continue
            if fits and not misnamed(wheel, package):
                return wheel
        return None

    def check(self, packages: Sequence[Package]) -> None:
        """Refuse to build what cannot be built here, before anything is changed.

        :raises VenvError: a source, or a program that building it needs, is not there; every one is named, with what can be done.
        """
        problems = []
        for package in packages:
            lacking = [name for name in self._recipe(package).needs if not shutil.which(name, path=_path())]
            if lacking:
                problems.append(self._remedies(package, lacking))
        if problems:
            raise VenvError("\n".join(problems))

    def _remedies(self, package: Package, lacking: Sequence[str]) -> str:
        *others, last = (called for _path, called in _places())
        are, them = ("is", "it") if len(lacking) == 1 else ("are", "them")
        return (
            f"{package.name} {package.version} has to be compiled on a node, no wheel of it is in {self.node.built} or in the bundle, and "
            f"{', '.join(lacking)} {are} not there (looked {', '.join(others)} and {last}). Install it on a node that has {them} and run the "
            f"playbook rlinf.offline.collect, which brings the wheel into the bundle for every other node; or install the CUDA toolkit here; "
            f"or leave the package out with rlinf_skip_packages: [{package.name}]."
        )

    def _recipe(self, package: Package) -> Recipe:
        return self.lock.recipes.get(package.name, Recipe())

    def build(self, package: Package, environment: Path, uv: Uv, found: Path, work: Path) -> Path:
        """Build a source in an environment that has what its build needs, keep the wheel, and return it.

        :param found: a folder of all wheels that uv may use, *work*, one for what is made on the way.
        :raises OfflineError: building failed, or what came out is something else.
        """
        if sha256_file(package.path) != package.sha256:
            raise VenvError(f"{package.path} is damaged: its SHA-256 is not that of the lock. Push the bundle again.")
        output = work / "built"
        remove(output)
        uv.run(
            [
                *(
                    "build",
                    "--wheel",
                    "--no-build-isolation",
                    "--python",
                    environment / "bin" / "python",
                    "--no-index",
                    "--find-links",
                    found,
                ),
                *("--out-dir", output, package.path),
            ],
            what=f"building {package.name} {package.version}",
            cwd=work,
            env=self._variables(package, environment),
            log=self.node.log(self.target, f"build-{package.name}"),
        )
        (wheel,) = output.glob("*.whl")
        problem = misnamed(wheel, package)
        if problem:
            raise VenvError(f"{package.path.name}: {problem}. The source is not what the lock says; lock the target anew.")
        place = self._folders(package, self.node.built)[0] / wheel.name
        copy_asset(wheel, place)
        return place

    def _variables(self, package: Package, environment: Path) -> Mapping[str, str]:
        home = os.environ.get("CUDA_HOME")
        return {
            "VIRTUAL_ENV": os.fspath(environment),
            "PATH": f"{environment / 'bin'}:{_path()}",
            "SOURCE_DATE_EPOCH": str(_newest(package.path)),
            "PYTHONHASHSEED": "0",
            **({"CUDA_HOME": home} if home else {}),
            **{name: value.replace(VENV, os.fspath(environment)) for name, value in self._recipe(package).env.items()},
        }


def _places() -> list[tuple[str, str]]:
    """Return where programs are looked for, and how a message calls it: PATH alone rarely has the CUDA toolkit where no one logs in."""
    home = os.environ.get("CUDA_HOME")
    toolkit = str(CUDA / "bin")
    return [
        *([(f"{home}/bin", f"in {home}/bin")] if home else []),
        (os.environ.get("PATH", os.defpath), "on PATH"),
        (toolkit, f"in {toolkit}"),
    ]


def _path() -> str:
    return ":".join(path for path, _called in _places())


def misnamed(wheel: Path, package: Package) -> str:
    """Say how a wheel is not of the package that a lock names, by its own name and its METADATA (PEP 427); empty if it is."""
    # only who builds looks into archives
    from ansible_collections.rlinf.offline.plugins.module_utils._archive import DAMAGED

    try:
        name, version = parse_wheel_filename(wheel.name)[:2]
        with zipfile.ZipFile(wheel) as archive:
            entry = next(entry for entry in archive.namelist() if entry.count("/") == 1 and entry.endswith(".dist-info/METADATA"))
            said = message_from_bytes(archive.read(entry))
        told = canonicalize_name(str(said["Name"] or "")), Version(str(said["Version"] or ""))
    except (*DAMAGED, OSError, StopIteration, InvalidWheelFilename, InvalidVersion) as error:
        return f"{wheel.name} is no whole wheel ({error or 'without METADATA'})"
    if {(name, version), told} != {(canonicalize_name(package.name), Version(package.version or "0"))}:
        return f"{wheel.name} holds {told[0]} {told[1]}, the lock says {package.name} {package.version}"
    return ""


def _newest(sdist: Path) -> int:
    """Return the time of the newest file of a source, in seconds since the epoch: the same source then gives the same wheel."""
    from ansible_collections.rlinf.offline.plugins.module_utils._archive import DAMAGED

    try:
        with tarfile.open(sdist) as archive:
            return max([_OLDEST, *(int(member.mtime) for member in archive)])
    except (*DAMAGED, OSError):
        return _OLDEST
