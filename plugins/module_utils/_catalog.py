# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalogue: repositories, wheels, assets and targets as data, checked as a whole before anything is done. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import PurePosixPath
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from ansible_collections.rlinf.offline.plugins.module_utils._errors import CatalogError
from ansible_collections.rlinf.offline.plugins.module_utils._urls import HTTP_SCHEMES, RepositoryId, check_url

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*\Z")
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]*\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_PYTHON = re.compile(r"3\.\d{1,2}(\.\d{1,2})?\Z")
_WHEEL_FILE = re.compile(r"[^-/]+-[^-/]+(-\d[^-/]*)?-[^-/]+-[^-/]+-[^-/]+\.whl\Z")
Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Repository:
    """A git repository: where it is, and the branch, tag or commit that is used of it (None: the remote's default branch)."""

    name: str
    url: str
    version: str | None = None
    submodules: bool = False
    lfs: bool = False

    @property
    def id(self) -> RepositoryId:
        return RepositoryId.parse(self.url)

    def check(self) -> None:
        """:raises CatalogError: the URL or the version cannot be used."""
        check_url(self.url, f"repository {self.name}")
        RepositoryId.parse(self.url)
        if self.version is not None:
            check_ref(self.version, f"repository {self.name}")


@dataclass(frozen=True)
class Wheel:
    """A prebuilt wheel by URL; *python* is the minor version it is for."""

    name: str
    url: str
    sha256: str | None = None
    python: str | None = None

    @property
    def filename(self) -> str:
        return unquote(PurePosixPath(urlsplit(self.url).path).name)

    def check(self) -> None:
        """:raises CatalogError: the URL does not end in the name of a wheel (PEP 427), or the digest is none."""
        check_url(self.url, f"wheel {self.name}", HTTP_SCHEMES)
        if not _WHEEL_FILE.match(self.filename):
            raise CatalogError(
                f"wheel {self.name}: {self.filename!r} is not the name of a wheel (name-version-python-abi-platform.whl). Give the URL of the wheel itself."
            )
        _check_sha256(self.sha256, f"wheel {self.name}")


@dataclass(frozen=True)
class Asset:
    """A file by URL, kept under *dest* (relative to the assets directory).

    *unpack*: it is an archive, and *dest* becomes the directory of its content; *strip*: its single top folder is taken off.
    """

    name: str
    url: str
    dest: str
    sha256: str | None = None
    unpack: bool = False
    strip: bool = False

    def check(self) -> None:
        """:raises CatalogError: the URL, digest or destination cannot be used."""
        check_url(self.url, f"asset {self.name}", HTTP_SCHEMES)
        _check_sha256(self.sha256, f"asset {self.name}")
        check_relative(self.dest, f"asset {self.name}: dest")


@dataclass(frozen=True)
class Step:
    """One step of a target's installation: what a trace of upstream's own installer would hold."""

    kind: str
    value: Any
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """How messages name it: ``editable LIBERO``, ``requirements requirements/embodied/envs/maniskill.txt``."""
        value = self.value
        if isinstance(value, Mapping):
            value = [item for part in value.values() for item in (part if isinstance(part, (list, tuple)) else [part])]
        if isinstance(value, (list, tuple)):
            value = " ".join(str(item) for item in value)
        return f"{self.kind} {value}".strip()


# kind -> (type of its value, the options it takes besides)
STEPS: dict[str, tuple[type | tuple[type, ...], frozenset[str]]] = {
    "uv_sync": (list, frozenset()),  # extras of the project
    "requirements": (list, frozenset({"build_isolation", "project_settings", "env"})),  # files of the project (*.txt) or specifiers
    "editable": (str, frozenset({"dependencies"})),  # a repository
    "wheel": (str, frozenset({"dependencies"})),  # a wheel of the catalogue
    "uninstall": (list, frozenset()),  # distribution names
    "worktree": (str, frozenset()),  # a repository that is only on a path
}


@dataclass(frozen=True)
class Target:
    """What is installed together: the same entry drives the lock and the node."""

    name: str
    project: str
    python: str
    steps: tuple[Step, ...]
    cut_off: str | None = None
    assets: tuple[str, ...] = ()
    exports: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    imports: tuple[str, ...] = ()

    @property
    def repositories(self) -> list[str]:
        """Names of the repositories it has worktrees of: the project first."""
        return [self.project, *(step.value for step in self.steps if step.kind in ("editable", "worktree"))]

    @property
    def wheels(self) -> list[str]:
        return [step.value for step in self.steps if step.kind == "wheel"]


@dataclass(frozen=True)
class Catalog:
    """Everything that can be asked for, by name."""

    repositories: Mapping[str, Repository]
    wheels: Mapping[str, Wheel]
    assets: Mapping[str, Asset]
    targets: Mapping[str, Target]

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Catalog:
        """Read and check a catalogue as Ansible holds it.

        :raises CatalogError: an unknown key, a value of the wrong type, a reference to an entry that is not there; the entry is named.
        """
        unknown = set(data) - {item.name for item in fields(cls)}
        if unknown:
            raise CatalogError(
                f"rlinf_catalog: unknown key {', '.join(sorted(unknown))}. Known: {', '.join(item.name for item in fields(cls))}."
            )
        catalog = cls(
            repositories={name: _entry(Repository, "repository", name, value) for name, value in _section(data, "repositories")},
            wheels={name: _entry(Wheel, "wheel", name, value) for name, value in _section(data, "wheels")},
            assets={name: _entry(Asset, "asset", name, value) for name, value in _section(data, "assets")},
            targets={name: _target(name, value) for name, value in _section(data, "targets")},
        )
        entries: list[Repository | Wheel | Asset] = [*catalog.repositories.values(), *catalog.wheels.values(), *catalog.assets.values()]
        for entry in entries:
            entry.check()
        for target in catalog.targets.values():
            catalog._check_references(target)
        return catalog

    def _check_references(self, target: Target) -> None:
        for what, names, known in (
            ("repository", target.repositories, self.repositories),
            ("wheel", target.wheels, self.wheels),
            ("asset", target.assets, self.assets),
        ):
            for name in names:
                if name not in known:
                    raise CatalogError(
                        f"target {target.name}: there is no {what} {name!r} in the catalogue. Add it to rlinf_catalog, or correct the name."
                    )

    def select(self, targets: Iterable[str]) -> list[Target]:
        """Return the targets of these names.

        :raises CatalogError: one is not there; those that are get listed.
        """
        found = []
        for name in targets:
            if name not in self.targets:
                raise CatalogError(f"There is no target {name!r}. Known targets: {', '.join(sorted(self.targets))}.")
            found.append(self.targets[name])
        return found

    def closure(self, targets: Iterable[str], leave_out: Sequence[str] = ()) -> dict[str, list[dict[str, Any]]]:
        """Return the repositories, wheels and assets that the targets name, as module arguments, without those left out.

        :raises CatalogError: a target, or a name in *leave_out*, is not there.
        """
        for name in leave_out:
            if name not in self.wheels and name not in self.assets:
                raise CatalogError(f"rlinf_leave_out: {name!r} is neither a wheel nor an asset of the catalogue.")
        selected = self.select(targets)

        def pick(names: Iterable[str], entries: Mapping[str, Any]) -> list[dict[str, Any]]:
            ordered = dict.fromkeys(name for name in names if name not in leave_out)
            return [{item.name: getattr(entries[name], item.name) for item in fields(entries[name])} for name in ordered]

        return {
            "repositories": pick((name for target in selected for name in target.repositories), self.repositories),
            "wheels": pick((name for target in selected for name in target.wheels), self.wheels),
            "assets": pick((name for target in selected for name in target.assets), self.assets),
        }

    def repository_for(self, url: str) -> Repository | None:
        """Return the entry of the repository that *url* names, however either is written."""
        wanted = RepositoryId.parse(url).key
        return next((entry for entry in self.repositories.values() if entry.id.key == wanted), None)


def check_ref(ref: str, entry: str) -> str:
    """Return a branch, tag or commit that git cannot take for an option or a range (git-check-ref-format).

    :raises CatalogError: it can.
    """
    if not _REF.match(ref) or ".." in ref or ref.endswith((".lock", "/", ".")):
        raise CatalogError(f"{entry}: {ref!r} is not the name of a branch, tag or commit.")
    return ref


def check_relative(path: str, what: str) -> str:
    """Return a relative path that stays below where it starts.

    :raises CatalogError: it is absolute, empty, or goes up.
    """
    parts = PurePosixPath(path).parts
    if not path or path.startswith(("/", "~")) or ".." in parts or "\x00" in path or not parts:
        raise CatalogError(f"{what}: {path!r} must be a relative path without '..'.")
    return path


def _check_sha256(value: str | None, entry: str) -> None:
    if value is not None and not _SHA256.match(value):
        raise CatalogError(f"{entry}: sha256 {value!r} is not 64 lower-case hexadecimal digits.")


def _section(data: Mapping[str, Any], name: str) -> list[tuple[str, Any]]:
    section = data.get(name) or {}
    if not isinstance(section, Mapping):
        raise CatalogError(f"rlinf_catalog.{name} must map names to entries.")
    for key in section:
        if not _NAME.match(str(key)):
            raise CatalogError(f"rlinf_catalog.{name}: {key!r} is not usable as a name (letters, digits, '.', '_', '+', '-').")
    return [(str(key), value) for key, value in section.items()]


def _entry(kind: type[Entry], what: str, name: str, value: Any) -> Entry:
    """Make a dataclass of strings and booleans out of a mapping, naming what is wrong with it."""
    if not isinstance(value, Mapping):
        raise CatalogError(f"{what} {name}: must be a mapping, is {type(value).__name__}.")
    known = {item.name: item for item in fields(kind) if item.name != "name"}  # type: ignore[arg-type]
    unknown = set(value) - set(known)
    if unknown:
        raise CatalogError(f"{what} {name}: unknown key {', '.join(sorted(map(str, unknown)))}. Known: {', '.join(known)}.")
    for key, given in value.items():
        wanted = bool if known[key].type == "bool" else str
        if given is not None and not isinstance(given, wanted):
            raise CatalogError(f"{what} {name}: {key} must be {'true or false' if wanted is bool else 'text; put it in quotes'}.")
    for needed in ("url", "dest"):
        if needed in known and not value.get(needed):
            raise CatalogError(f"{what} {name}: {needed} is missing.")
    return kind(**{"name": name, **{str(key): (str(given) if isinstance(given, str) else given) for key, given in value.items()}})


def _target(name: str, value: Any) -> Target:
    what = f"target {name}"
    if not isinstance(value, Mapping):
        raise CatalogError(f"{what}: must be a mapping.")
    known = [item.name for item in fields(Target) if item.name != "name"]
    unknown = set(value) - set(known)
    if unknown:
        raise CatalogError(f"{what}: unknown key {', '.join(sorted(map(str, unknown)))}. Known: {', '.join(known)}.")
    python = value.get("python")
    # YAML reads 3.10 without quotes as 3.1
    if not isinstance(python, str) or not _PYTHON.match(python):
        raise CatalogError(f"{what}: python must be a version like '3.11', in quotes; it is {python!r}.")
    steps = value.get("steps")
    if not isinstance(steps, (list, tuple)) or not steps:
        raise CatalogError(f"{what}: steps must be a list of at least one step.")
    links = _texts_by_name(value, "links", what)
    for path in links:
        check_relative(path, f"{what}: links")
    return Target(
        name=name,
        project=str(value.get("project") or "RLinf"),
        python=python,
        steps=tuple(_step(what, number, step) for number, step in enumerate(steps, 1)),
        cut_off=str(value["cut_off"]) if value.get("cut_off") else None,
        assets=_texts(value.get("assets"), f"{what}: assets"),
        exports=_mapping(value.get("exports"), f"{what}: exports"),
        files=_texts_by_name(value, "files", what),
        links=links,
        imports=_texts(value.get("imports"), f"{what}: imports"),
    )


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise CatalogError(f"{what} must be a mapping.")
    return {str(key): item for key, item in (value or {}).items()}


def _texts(value: Any, what: str) -> tuple[str, ...]:
    if value is not None and not (isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)):
        raise CatalogError(f"{what} must be a list of texts.")
    return tuple(value or ())


def _texts_by_name(entry: Mapping[str, Any], key: str, what: str) -> dict[str, str]:
    found = _mapping(entry.get(key), f"{what}: {key}")
    for name, text in found.items():
        if not isinstance(text, str):
            raise CatalogError(f"{what}: {key}: {name} must be text; put it in quotes.")
    return found


def _step(what: str, number: int, value: Any) -> Step:
    place = f"{what}: step {number}"
    kinds = sorted(set(value) & set(STEPS)) if isinstance(value, Mapping) else []
    if len(kinds) != 1:
        raise CatalogError(f"{place}: must have exactly one of {', '.join(STEPS)}.")
    kind = kinds[0]
    wanted, options = STEPS[kind]
    unknown = set(value) - {kind} - options
    if unknown:
        raise CatalogError(
            f"{place} ({kind}): unknown option {', '.join(sorted(map(str, unknown)))}. Known: {', '.join(sorted(options)) or 'none'}."
        )
    if not isinstance(value[kind], wanted):
        raise CatalogError(f"{place}: {kind} must be {'a list' if wanted is list else 'a name'}.")
    _check_items(kind, _texts(value[kind], f"{place}: {kind}") if wanted is list else (value[kind],), place)
    for key in options & set(value):
        if key == "env":
            _texts_by_name(value, key, place)
        elif not isinstance(value[key], bool):
            raise CatalogError(f"{place}: {key} must be true or false.")
    return Step(kind, value[kind], {key: given for key, given in value.items() if key != kind})


def _check_items(kind: str, items: Iterable[str], place: str) -> None:
    """Refuse what would not be one requirement, extra or name where it is going to be written."""
    for item in items:
        if kind != "requirements" and not _NAME.match(item):
            raise CatalogError(f"{place}: {item!r} is not usable as a name (letters, digits, '.', '_', '+', '-').")
        if not item.strip() or not item.isprintable():
            raise CatalogError(f"{place}: {item!r} is not one requirement.")
        if item.endswith(".txt"):
            check_relative(item, place)
        if item.strip().startswith("-"):
            raise CatalogError(f"{place}: {item!r} is an option, not a requirement.")
