# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The effective lock of a node: the bundle's lock with absolute paths and this node's editables; and whether its wheels fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tomlkit
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag, compatible_tags, cpython_tags, platform_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

from ansible_collections.rlinf.offline.plugins.module_utils import _pylock
from ansible_collections.rlinf.offline.plugins.module_utils._errors import VenvError
from ansible_collections.rlinf.offline.plugins.module_utils._files import sha256_file
from ansible_collections.rlinf.offline.plugins.module_utils._installed import normalize
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._records import read_lock
from ansible_collections.rlinf.offline.plugins.module_utils._tags import cuda_majors, misbuilt, unfit
from ansible_collections.rlinf.offline.plugins.module_utils._uv import Interpreter

# what decides how an editable is built and what it offers besides its modules
_BUILD_FILES = ("pyproject.toml", "setup.py", "setup.cfg")


@dataclass(frozen=True)
class Package:
    """One package of an effective lock.

    :param kind: ``wheels`` (a file of an index: name and version say what it is), ``archive`` (its content does), ``sdist`` (a source that
        a node builds) or ``editable``.
    :param path: the file, or the editable's directory; absolute.
    :param sha256: of the file; empty for an editable.
    :param served: whether an index serves this very file, so that it can be had from there.
    """

    name: str
    version: str | None
    kind: str
    path: Path
    sha256: str = ""
    size: int | None = None
    served: bool = False

    @property
    def identity(self) -> dict[str, Any]:
        """What makes two installed packages the same: name, version, content, and of an editable where it is and how it is built."""
        found = {"name": self.name, "version": self.version, "sha256": self.sha256, "kind": self.kind}
        return found | ({"path": str(self.path), "build_files": build_files(self.path)} if self.kind == "editable" else {})

    @property
    def present(self) -> bool:
        """Whether its file is there with the right size; the content is judged when it is unpacked."""
        return self.path.is_file() and self.size in (None, self.path.stat().st_size)

    @property
    def shown(self) -> str:
        """Its line in a diff: what changes when the package does."""
        if self.kind == "editable":
            return f"{self.name} @ {self.path} (editable)"
        return f"{self.name}=={self.version} sha256:{self.sha256[:12]}"

    @property
    def requirement(self) -> str:
        """Its line in a requirements file: this file, and no other."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


@dataclass(frozen=True)
class Recipe:
    """What building a source on a node needs: programs, and variables for its build."""

    needs: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EffectiveLock:
    """Everything that an environment consists of.

    :param build: the packages that building its editables and sources needs.
    :param recipes: how its sources are built, by name.
    :param skipped: packages that were left out of it.
    """

    requires_python: str
    packages: tuple[Package, ...]
    build: tuple[Package, ...] = ()
    recipes: Mapping[str, Recipe] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()

    @property
    def identity(self) -> list[dict[str, Any]]:
        """What makes two environments the same; not where the bundle lies, nor which node built a source."""
        return [package.identity for package in self.packages]

    @property
    def files(self) -> tuple[Package, ...]:
        """The packages that come as files."""
        return tuple(package for package in self.packages if package.kind != "editable")

    @property
    def sources(self) -> tuple[Package, ...]:
        """The packages that a node builds."""
        return tuple(package for package in self.packages if package.kind == "sdist")

    @property
    def wheels(self) -> dict[str, Path]:
        """The wheel of each package that has one."""
        return {package.name: package.path for package in self.files if package.kind != "sdist"}

    @property
    def torch(self) -> str | None:
        """The version of torch in it."""
        return next((package.version for package in self.packages if package.name == "torch"), None)

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


def effective_lock(bundle: Bundle, lock: Path, editables: Iterable[Mapping[str, str]], skip: Iterable[str] = ()) -> EffectiveLock:
    """Read a bundle's lock, make its paths absolute and add the editables; an editable takes the place of a locked package of its name.

    :param editables: mappings of ``package`` and ``path`` (a directory).
    :param skip: packages that are left out.
    :raises VenvError: the lock is not there or holds what cannot be installed offline; an editable's path is no project; a package that
        is to be left out is in no lock of the bundle.
    """
    data = _read(lock)
    packages = _packages(lock, data)
    told = read_lock(lock.with_name("lock.json"), VenvError) if lock.with_name("lock.json").is_file() else {}
    served = {normalize(item["name"]) for item in told.get("packages", ()) if item.get("served")}
    packages = {name: replace(package, served=name in served and package.kind == "wheels") for name, package in packages.items()}
    for editable in editables:
        name, path = normalize(editable["package"]), Path(editable["path"])
        if not build_files(path):
            raise VenvError(
                f"The editable {editable['package']}: {path} holds neither pyproject.toml nor setup.py. Put its worktree there first."
            )
        packages[name] = Package(name, None, "editable", path)
    left_out = {normalize(name) for name in skip}
    _check_known(left_out - packages.keys(), lock)
    return EffectiveLock(
        data.get("requires-python", ">=3.10"),
        tuple(packages[name] for name in sorted(packages.keys() - left_out)),
        tuple(_build_package(bundle, item) for item in told.get("build", ())),
        {
            normalize(name): Recipe(tuple(item.get("needs", ())), item.get("env", {}))
            for name, item in told.get("build_on_node", {}).items()
        },
        tuple(sorted(left_out & packages.keys())),
    )


def stored_lock(path: Path) -> EffectiveLock:
    """Read an effective lock that was rendered before.

    :raises VenvError: it is not there.
    """
    data = _read(path)
    return EffectiveLock(data.get("requires-python", ">=3.10"), tuple(_packages(path, data).values()))


def _read(lock: Path) -> dict[str, Any]:
    if not lock.is_file():
        raise VenvError(f"There is no lock {lock}. Run the playbooks download and push for this target, or correct the path.")
    return _pylock.read(lock)


def _packages(lock: Path, data: Mapping[str, Any]) -> dict[str, Package]:
    return {package.name: package for package in (_package(lock, entry) for entry in data.get("packages", ()))}


def _check_known(unknown: set[str], lock: Path) -> None:
    """Refuse to leave out what no target of this commit has: several targets of a node share the setting."""
    known: set[str] = set()
    for other in lock.parent.parent.glob("*/pylock.*.toml") if unknown else ():
        known |= {normalize(entry["name"]) for entry in _pylock.read(other).get("packages", ())}
    if unknown - known:
        raise VenvError(
            f"rlinf_skip_packages: {', '.join(sorted(unknown - known))} is in no lock of {lock.parent.parent}. Correct the name, or take it out."
        )


def _package(lock: Path, entry: Mapping[str, Any]) -> Package:
    name = normalize(entry["name"])
    directory = entry.get("directory", {})
    if directory.get("editable"):
        return Package(name, None, "editable", lock.parent / directory["path"])
    kind = next((key for key in ("archive", "sdist") if key in entry), "wheels")
    files = entry.get("wheels", []) if kind == "wheels" else [entry[kind]]
    if len(files) != 1 or "path" not in files[0] or "sha256" not in files[0].get("hashes", {}) or "marker" in entry:
        raise VenvError(f"{lock}: {name} is not one file of the bundle with a path and a sha256. Lock the target with rlinf_target_lock.")
    path = (lock.parent / files[0]["path"]).resolve()
    version = entry.get("version") if kind == "sdist" else _wheel_version(path.name)
    if version is None:
        raise VenvError(
            f"{lock}: {path.name} of {name} is no wheel, and no source of a known version. Lock the target with rlinf_target_lock."
        )
    return Package(name, version, kind, path, files[0]["hashes"]["sha256"], files[0].get("size") or None)


def _build_package(bundle: Bundle, item: Mapping[str, Any]) -> Package:
    path = bundle.root / item["path"]
    return Package(
        normalize(item["name"]), item["version"], "wheels", path.resolve(), item["sha256"], item["size"] or None, bool(item.get("served"))
    )


def _wheel_version(filename: str) -> str | None:
    try:
        return str(parse_wheel_filename(filename)[1])
    except InvalidWheelFilename:
        return None


def judge(lock: EffectiveLock, interpreter: Interpreter, elsewhere: Sequence[Path]) -> None:
    """Refuse a lock that this node cannot take, before anything is changed.

    :param elsewhere: directories of the bundle that may hold a wheel that would fit.
    :raises VenvError: the interpreter is another than the lock's, or a wheel is for another Python, machine, glibc, torch or CUDA; each is
        named, with what would fit.
    """
    if interpreter.implementation != "cpython" or Version(interpreter.version) not in SpecifierSet(lock.requires_python, prereleases=True):
        raise VenvError(
            f"The lock is for CPython {lock.requires_python}; {interpreter.path} is {interpreter.implementation} {interpreter.version}. "
            "Install a Python that fits, or name one by rlinf_python."
        )
    wheels = [package for package in lock.files if package.kind != "sdist"]
    tags = fitting_tags(interpreter)
    taken = dict.fromkeys(tags)
    others = [path.name for folder in elsewhere for path in folder.glob("*.whl")]
    cuda = cuda_majors((package.name, package.version) for package in lock.packages)
    node = f"CPython {'.'.join(map(str, interpreter.minor))} on {tags[0].platform}"
    problems = []
    for package in wheels:
        if misfit := unfit(package.path.name, package.name, taken, others):
            problems.append(f"{package.path.name} does not fit {node}: it is {misfit.why}. {misfit.remedy}.")
        elif wrong := misbuilt(package.name, package.version, lock.torch, cuda):
            problems.append(f"{package.path.name} was {wrong.why}. {wrong.remedy}.")
    if problems:
        raise VenvError("\n".join(problems))


def fitting_tags(interpreter: Interpreter) -> list[Tag]:
    """Return the wheel tags (PEP 425, PEP 600) that an interpreter takes on this machine, the best first."""
    name = f"cp{interpreter.minor[0]}{interpreter.minor[1]}"
    platforms = list(platform_tags())
    abis = [name + ("t" if interpreter.free_threaded else "")]
    return [*cpython_tags(interpreter.minor, abis, platforms), *compatible_tags(interpreter.minor, name, platforms)]
