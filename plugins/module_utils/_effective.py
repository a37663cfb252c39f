# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The effective lock of a node: the bundle's lock with absolute paths and this node's editables; and whether its wheels fit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag, compatible_tags, cpython_tags, platform_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

from ansible_collections.rlinf.offline.plugins.module_utils import _pylock
from ansible_collections.rlinf.offline.plugins.module_utils._errors import VenvError
from ansible_collections.rlinf.offline.plugins.module_utils._files import json_bytes, sha256_bytes, sha256_file
from ansible_collections.rlinf.offline.plugins.module_utils._installed import normalize
from ansible_collections.rlinf.offline.plugins.module_utils._uv import Interpreter

_MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)_")
# how wheels that link against torch name what they were built with: 2.7.4.post1+cu12torch2.6cxx11abiFALSE
_BUILT_WITH = re.compile(r"cu(?P<cuda>\d\d)\d*torch(?P<torch>\d+\.\d+)")
_CUDA_PACKAGE = re.compile(r"nvidia-.+-cu(\d+)\Z")
# what decides how an editable is built and what it offers besides its modules
_BUILD_FILES = ("pyproject.toml", "setup.py", "setup.cfg")
MISSING_SHOWN = 10


@dataclass(frozen=True)
class Package:
    """One package of an effective lock.

    :param kind: ``wheels`` (a file of an index: name and version say what it is), ``archive`` (its content does) or ``editable``.
    :param path: the wheel's file, or the editable's directory; absolute.
    """

    name: str
    version: str | None
    kind: str
    path: Path
    sha256: str = ""
    size: int | None = None

    @property
    def shown(self) -> str:
        """Its line in a diff: what changes when the package does."""
        if self.kind == "editable":
            return f"{self.name} @ {self.path} (editable)"
        return f"{self.name}=={self.version} sha256:{self.sha256[:12]}"


@dataclass(frozen=True)
class EffectiveLock:
    """Everything that an environment consists of."""

    requires_python: str
    packages: tuple[Package, ...]

    @property
    def identity(self) -> dict[str, Any]:
        """What makes two environments the same: names, versions, content, editables; not where the bundle lies."""
        return {
            "packages": [
                {"name": package.name, "version": package.version, "sha256": package.sha256, "kind": package.kind}
                | ({"path": str(package.path), "build_files": build_files(package.path)} if package.kind == "editable" else {})
                for package in self.packages
            ]
        }

    def digest(self, interpreter: Interpreter, exports: Mapping[str, Any]) -> str:
        """Return the SHA-256 of the lock, the interpreter and the exports: equal digests are equal environments."""
        python = {"version": interpreter.version, "executable": str(interpreter.executable)}
        return sha256_bytes(json_bytes({"format": 1, "python": python, "exports": dict(exports), **self.identity}))

    @property
    def wheels(self) -> dict[str, Path]:
        """The wheel of each package that has one."""
        return {package.name: package.path for package in self.packages if package.kind != "editable"}

    def render(self) -> bytes:
        """Return it as a pylock (PEP 751) for uv."""
        packages = []
        for package in self.packages:
            table: dict[str, Any] = {"name": package.name, **({"version": package.version} if package.version else {})}
            file = {"path": str(package.path), **({"size": package.size} if package.size else {}), "hashes": {"sha256": package.sha256}}
            if package.kind == "editable":
                table["directory"] = {"path": str(package.path), "editable": True}
            else:
                table[package.kind] = [file] if package.kind == "wheels" else file
            packages.append(table)
        document = {"lock-version": "1.0", "created-by": "rlinf.offline", "requires-python": self.requires_python, "packages": packages}
        return tomlkit.dumps(document).encode()


def build_files(path: Path) -> dict[str, str]:
    """Return the SHA-256 of those files of an editable that decide how it is built."""
    return {name: sha256_file(path / name) for name in _BUILD_FILES if (path / name).is_file()}


def effective_lock(lock: Path, editables: Iterable[Mapping[str, str]]) -> EffectiveLock:
    """Read a bundle's lock, make its paths absolute and add the editables; an editable takes the place of a locked package of its name.

    :param editables: mappings of ``package`` and ``path`` (a directory).
    :raises VenvError: the lock is not there or holds what cannot be installed offline; an editable's path is no project.
    """
    if not lock.is_file():
        raise VenvError(f"There is no lock {lock}. Run the playbooks download and push for this target, or correct the path.")
    data = _pylock.read(lock)
    packages = {package.name: package for package in (_package(lock, entry) for entry in data.get("packages", ()))}
    for editable in editables:
        name, path = normalize(editable["package"]), Path(editable["path"])
        if not build_files(path):
            raise VenvError(
                f"The editable {editable['package']}: {path} holds neither pyproject.toml nor setup.py. Put its worktree there first."
            )
        packages[name] = Package(name, None, "editable", path)
    return EffectiveLock(data.get("requires-python", ">=3.10"), tuple(packages[name] for name in sorted(packages)))


def _package(lock: Path, entry: Mapping[str, Any]) -> Package:
    name = normalize(entry["name"])
    directory = entry.get("directory", {})
    if directory.get("editable"):
        return Package(name, None, "editable", lock.parent / directory["path"])
    kind = "archive" if "archive" in entry else "wheels"
    files = [entry["archive"]] if kind == "archive" else entry.get("wheels", [])
    if len(files) != 1 or "path" not in files[0] or "sha256" not in files[0].get("hashes", {}) or "marker" in entry:
        raise VenvError(f"{lock}: {name} is not one file of the bundle with a path and a sha256. Lock the target with rlinf_target_lock.")
    path = (lock.parent / files[0]["path"]).resolve()
    try:
        version = str(parse_wheel_filename(path.name)[1])
    except InvalidWheelFilename:
        raise VenvError(
            f"{lock}: {path.name} of {name} is no wheel, and a node builds nothing. Lock the target with rlinf_target_lock."
        ) from None
    return Package(name, version, kind, path, files[0]["hashes"]["sha256"], files[0].get("size"))


def judge(lock: EffectiveLock, interpreter: Interpreter, elsewhere: Sequence[Path]) -> None:
    """Refuse a lock that this node cannot take, before anything is changed.

    :param elsewhere: directories of the bundle that may hold a wheel that would fit.
    :raises VenvError: the interpreter is another than the lock's, a file is missing or has another size, or a wheel is for another
        Python, machine, glibc, torch or CUDA; each is named, with what would fit.
    """
    if interpreter.implementation != "cpython" or Version(interpreter.version) not in SpecifierSet(lock.requires_python, prereleases=True):
        raise VenvError(
            f"The lock is for CPython {lock.requires_python}; {interpreter.path} is {interpreter.implementation} {interpreter.version}. "
            "Install a Python that fits, or name one by rlinf_python."
        )
    wheels = [package for package in lock.packages if package.kind != "editable"]
    missing = [package.path for package in wheels if not package.path.is_file() or package.size not in (None, package.path.stat().st_size)]
    if missing:
        names = ", ".join(path.name for path in missing[:MISSING_SHOWN]) + (
            f" and {len(missing) - MISSING_SHOWN} more" if missing[MISSING_SHOWN:] else ""
        )
        raise VenvError(
            f"The bundle lacks {len(missing)} of {len(wheels)} wheels, or holds them in another size: {names}. Run the playbook push for this node."
        )
    tags = fitting_tags(interpreter)
    problems = [
        text for text in (_misfit(package, tags, interpreter, elsewhere) or _misbuilt(package, wheels) for package in wheels) if text
    ]
    if problems:
        raise VenvError("\n".join(problems))


def fitting_tags(interpreter: Interpreter) -> list[Tag]:
    """Return the wheel tags (PEP 425, PEP 600) that an interpreter takes on this machine, the best first."""
    name = f"cp{interpreter.minor[0]}{interpreter.minor[1]}"
    platforms = list(platform_tags())
    abis = [name + ("t" if interpreter.free_threaded else "")]
    return [*cpython_tags(interpreter.minor, abis, platforms), *compatible_tags(interpreter.minor, name, platforms)]


def _misfit(package: Package, tags: list[Tag], interpreter: Interpreter, elsewhere: Sequence[Path]) -> str | None:
    """Say why a wheel does not fit, and which one would; None if it does."""
    own = parse_wheel_filename(package.path.name)[3]
    if own & set(tags):
        return None
    platforms = {tag.platform for tag in tags}
    best = next(iter(tags))
    newest = max((tuple(map(int, found.groups())) for tag in tags if (found := _MANYLINUX.match(tag.platform))), default=None)
    node = f"CPython {'.'.join(map(str, interpreter.minor))} on {best.platform}"
    if {tag.platform for tag in own} & platforms:
        why = f"it is for {' or '.join(sorted({f'{tag.interpreter}-{tag.abi}' for tag in own}))}"
    else:
        why = f"it is for {' or '.join(sorted({tag.platform for tag in own}))}" + (
            f", and this node has glibc {newest[0]}.{newest[1]}" if newest else ""
        )
    fitting = sorted(path.name for folder in elsewhere for path in folder.glob("*.whl") if _is_of(path.name, package.name, set(tags)))
    remedy = f"{fitting[-1]} would fit: lock the target for this Python and platform" if fitting else f"One for {best} or older would fit"
    return f"{package.path.name} does not fit {node}: {why}. {remedy}."


def _is_of(filename: str, name: str, tags: set[Tag]) -> bool:
    try:
        found, _version, _build, own = parse_wheel_filename(filename)
    except InvalidWheelFilename:
        return False
    return found == name and bool(own & tags)


def _misbuilt(package: Package, packages: Sequence[Package]) -> str | None:
    """Say when a wheel was built for another torch or CUDA major than the lock's own; None if it says nothing or agrees."""
    built = _BUILT_WITH.search(package.version or "")
    torch = next((other.version for other in packages if other.name == "torch"), None)
    if not built or not torch:
        return None
    cuda = {found[1] for other in packages if (found := _CUDA_PACKAGE.match(other.name))}
    have = f"torch {torch}" + (f" with CUDA {'/'.join(sorted(cuda))}" if cuda else "")
    if Version(torch).release[:2] == Version(built["torch"]).release[:2] and (not cuda or built["cuda"] in cuda):
        return None
    wanted = f"cu{'/'.join(sorted(cuda)) or built['cuda']}torch{'.'.join(map(str, Version(torch).release[:2]))}"
    return (
        f"{package.path.name} was built for torch {built['torch']} and CUDA {built['cuda']}, the lock holds {have}. "
        f"A wheel of {package.name} with {wanted} in its version would fit."
    )
