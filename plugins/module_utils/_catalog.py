# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalogue: repositories, wheels, assets and targets as data, checked as a whole before anything is done. Standard library only."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import PurePosixPath
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from ansible_collections.rlinf.offline.plugins.module_utils._apt import check_names
from ansible_collections.rlinf.offline.plugins.module_utils._errors import AptError, CatalogError
from ansible_collections.rlinf.offline.plugins.module_utils._installed import normalize
from ansible_collections.rlinf.offline.plugins.module_utils._urls import HTTP_SCHEMES, RepositoryId, check_url

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*\Z")
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]*\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_PYTHON = re.compile(r"3\.\d{1,2}(\.\d{1,2})?\Z")
_WHEEL_FILE = re.compile(r"[^-/]+-[^-/]+(-\d[^-/]*)?-[^-/]+-[^-/]+-[^-/]+\.whl\Z")
# a suite or component of an archive, as a line of sources.list names it
_SUITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]*\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
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
        if self.python is not None:
            _check_python(self.python, f"wheel {self.name}")


@dataclass(frozen=True)
class Interpreter:
    """An interpreter by URL, in the form of python-build-standalone's ``install_only`` archives.

    :param python: its full version, ``3.11.14``.
    :param machine: ``x86_64``, for glibc.
    """

    name: str
    url: str
    python: str = ""
    machine: str = ""
    sha256: str | None = None

    @property
    def filename(self) -> str:
        return unquote(PurePosixPath(urlsplit(self.url).path).name)

    def check(self) -> None:
        """:raises CatalogError: the URL is no archive's, the version is not a full one, or there is no machine."""
        what = f"interpreter {self.name}"
        check_url(self.url, what, HTTP_SCHEMES)
        if not self.filename.endswith(".tar.gz"):
            raise CatalogError(f"{what}: {self.filename!r} is no .tar.gz. Give the URL of an install_only archive.")
        if not re.fullmatch(r"3\.\d+\.\d+", self.python):
            raise CatalogError(f'{what}: python must be its full version in quotes, such as "3.11.14"; it is {self.python!r}.')
        if not re.fullmatch(r"\w+", self.machine):
            raise CatalogError(f"{what}: machine must be said, such as x86_64.")
        _check_sha256(self.sha256, what)


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
class Release:
    """A release of a distribution that nodes run, named as ``os-release`` says it (``ubuntu-22.04``), and where its packages are.

    :param suites: name of a mirror (``rlinf_apt_mirrors``) -> the suites that are taken of it.
    :param keyring: the file, on the bastion, of the keys that may sign them.
    :param renames: what a package of the lists is called in this release; an empty text: it has no such package.
    """

    name: str
    suites: Mapping[str, tuple[str, ...]]
    components: tuple[str, ...]
    keyring: str
    renames: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One step of a target's installation: what a trace of upstream's own installer would hold.

    *installs*: of a script, the steps that a trace of it would hold.
    """

    kind: str
    value: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    installs: tuple[Step, ...] = ()

    @property
    def items(self) -> tuple[str, ...]:
        """The value as texts: one, or those of a list."""
        return (self.value,) if isinstance(self.value, str) else tuple(self.value)

    @property
    def label(self) -> str:
        """How messages name it: ``editable LIBERO``, ``requirements requirements/embodied/envs/maniskill.txt``."""
        folder = f"/{self.options['subdirectory']}" if self.options.get("subdirectory") else ""
        return f"{self.kind} {' '.join(self.items)}{folder}".strip()


@dataclass(frozen=True)
class Target:
    """What is installed together: the same entry drives the lock and the node.

    *metadata*: what packages require that cannot tell it without a compiler; *build_on_node*: by distribution, the programs that building
    it needs and the variables it is built with; *licences*: variable -> what it accepts; *settings*: variable -> what it must name, where
    the URL of an entry begins with it; *system_packages*: what it needs of the distribution beside ``rlinf_system_packages``;
    *system_files*: path -> text, what is put there where nothing is.
    """

    name: str
    project: str
    python: str
    steps: tuple[Step, ...]
    cut_off: str | None = None
    metadata: tuple[Mapping[str, Any], ...] = ()
    build_on_node: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    licences: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    assets: tuple[str, ...] = ()
    exports: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    imports: tuple[str, ...] = ()
    system_packages: tuple[str, ...] = ()
    system_files: Mapping[str, str] = field(default_factory=dict)

    @property
    def trace(self) -> tuple[Step, ...]:
        """The steps in the order in which they install: those of a script follow it."""
        return tuple(part for step in self.steps for part in (step, *step.installs))

    @property
    def worktrees(self) -> list[str]:
        """Names of the repositories that it has working copies of: the project first."""
        return list(dict.fromkeys([self.project, *(step.value for step in self.trace if step.kind in ("editable", "script", "worktree"))]))

    @property
    def repositories(self) -> list[str]:
        """Names of the repositories that it needs mirrors of: those with working copies first."""
        return list(dict.fromkeys([*self.worktrees, *(step.value for step in self.trace if step.kind == "package")]))

    @property
    def wheels(self) -> list[str]:
        return [name for step in self.trace if step.kind == "wheels" for name in step.value]


@dataclass(frozen=True)
class Catalog:
    """Everything that can be asked for, by name."""

    repositories: Mapping[str, Repository]
    wheels: Mapping[str, Wheel]
    assets: Mapping[str, Asset]
    targets: Mapping[str, Target]
    releases: Mapping[str, Release] = field(default_factory=dict)
    interpreters: Mapping[str, Interpreter] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Catalog:
        """Read and check a catalogue as Ansible holds it.

        :raises CatalogError: an unknown key, a value of the wrong type, a reference to an entry that is not there; the entry is named.
        """
        unknown = set(data) - {item.name for item in fields(cls)}
        if unknown:
            raise CatalogError(
                f"rlinf_catalog: unknown key {', '.join(sorted(map(str, unknown)))}. Known: {', '.join(item.name for item in fields(cls))}."
            )
        catalog = cls(
            repositories={name: _entry(Repository, "repository", name, value) for name, value in _section(data, "repositories")},
            wheels={name: _entry(Wheel, "wheel", name, value) for name, value in _section(data, "wheels")},
            assets={name: _entry(Asset, "asset", name, value) for name, value in _section(data, "assets")},
            targets={name: _target(name, value) for name, value in _extended(dict(_section(data, "targets")))},
            releases={name: _release(name, value) for name, value in _section(data, "releases")},
            interpreters={name: _entry(Interpreter, "interpreter", name, value) for name, value in _section(data, "interpreters")},
        )
        for interpreter in catalog.interpreters.values():
            interpreter.check()
        entries: list[Repository | Wheel | Asset] = [*catalog.repositories.values(), *catalog.wheels.values(), *catalog.assets.values()]
        for entry in entries:
            if not _has_no_host(entry):
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

        :raises CatalogError: one is not there; those that are get listed. Or a wheel of one is for another Python.
        """
        found = []
        for name in targets:
            if name not in self.targets:
                near = difflib.get_close_matches(name, self.targets, 1)
                meant = f" Did you mean {near[0]!r}?" if near else ""
                raise CatalogError(f"There is no target {name!r}.{meant} Known targets: {', '.join(sorted(self.targets))}.")
            found.append(self.targets[name])
            self._check_pythons(found[-1])
        return found

    def _check_pythons(self, target: Target) -> None:
        for name in target.wheels:
            python = self.wheels[name].python
            if python and python.split(".")[:2] != target.python.split(".")[:2]:
                raise CatalogError(
                    f"target {target.name} is for Python {target.python}, but its wheel {name} is for {python}. Name the wheel that fits."
                )

    def unclaimed(self, given: Mapping[str, Any]) -> list[str]:
        """Return the names of repositories, wheels and assets of *given*, a part of this catalogue, that no target has.

        They are wanted for their own sake: there is no other reason to write one down.
        """
        claimed = {name for target in self.targets.values() for name in (*target.repositories, *target.wheels, *target.assets)}
        return [name for kind in ("repositories", "wheels", "assets") for name in given.get(kind) or {} if name not in claimed]

    def closure(
        self, targets: Iterable[str], leave_out: Sequence[str] = (), further: Sequence[str] = ()
    ) -> dict[str, list[dict[str, Any]]]:
        """Return the repositories, wheels and assets that the targets name, as module arguments, without those left out.

        :param further: names of repositories, wheels and assets beside those.
        :raises CatalogError: a target, or a name in *leave_out*, is not there; or a URL is made with a variable that is not set.
        """
        for name in leave_out:
            if name not in self.wheels and name not in self.assets:
                raise CatalogError(f"rlinf_leave_out: {name!r} is neither a wheel nor an asset of the catalogue.")
        selected = self.select(targets)
        for target in selected:
            self._check_hosts(target, leave_out)

        def pick(names: Iterable[str], entries: Mapping[str, Any]) -> list[dict[str, Any]]:
            wanted = (*names, *(name for name in further if name in entries))
            ordered = dict.fromkeys(name for name in wanted if name not in leave_out)
            return [{item.name: getattr(entries[name], item.name) for item in fields(entries[name])} for name in ordered]

        return {
            "repositories": pick((name for target in selected for name in target.repositories), self.repositories),
            "wheels": pick((name for target in selected for name in target.wheels), self.wheels),
            "assets": pick((name for target in selected for name in target.assets), self.assets),
        }

    def _check_hosts(self, target: Target, leave_out: Sequence[str]) -> None:
        entries: list[Wheel | Asset] = [*(self.wheels[name] for name in target.wheels), *(self.assets[name] for name in target.assets)]
        lacking = [entry for entry in entries if _has_no_host(entry) and entry.name not in leave_out]
        if lacking:
            first, *others = lacking
            named = f"{first.name}{f' (and {len(others)} more)' if others else ''}"
            needed = "; ".join(f"set {variable} to {text}" for variable, text in target.settings.items()) or "give its whole URL"
            raise CatalogError(
                f"target {target.name}: {named} cannot be fetched, since the URL {first.url!r} has no host. For this target, {needed}."
            )

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
    # one that is null is not given
    values = {str(key): str(given) if isinstance(given, str) else given for key, given in value.items() if given is not None}
    return kind(**{"name": name, **values})


def extended(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a catalogue's data with what targets take over from others filled in.

    :raises CatalogError: a target extends one that is not there, or itself.
    """
    return {**data, "targets": dict(_extended(dict(_section(data, "targets"))))}


def filled(data: Mapping[str, Any], values: Mapping[str, str]) -> dict[str, Any]:
    """Return a catalogue's data with the settings that URLs of its wheels begin with filled in: ``{isaac_sim_index}/name/file``.

    :param values: the settings by name; of one that is empty nothing comes, and whoever wants such a wheel is told so.
    """

    def fill(entry: Any) -> Any:
        url = entry.get("url") if isinstance(entry, Mapping) else None
        found = re.match(r"\{(\w+)\}(/.*)", url, re.DOTALL) if isinstance(url, str) else None
        return {**entry, "url": values[found[1]].rstrip("/") + found[2]} if found and found[1] in values else entry

    return {**data, "wheels": {name: fill(entry) for name, entry in _section(data, "wheels")}}


def _has_no_host(entry: Repository | Wheel | Asset) -> bool:
    """Return whether the URL of a file begins with a variable that is not set, which matters only to who wants the file."""
    return not isinstance(entry, Repository) and entry.url.startswith("/")


# -- targets -------------------------------------------------------------------------------------------------------------------


def _extended(entries: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield every target's entry with what it takes over from the one that it extends.

    Mappings are merged key by key, anything else takes the place of what was there; null takes it out.

    :raises CatalogError: a target extends one that is not there, or, over others, itself.
    """

    def resolve(name: str, chain: tuple[str, ...]) -> Any:
        entry = entries[name]
        base = entry.get("extends") if isinstance(entry, Mapping) else None
        if base is None:
            return entry
        if not isinstance(base, str) or base not in entries:
            raise CatalogError(
                f"target {name}: extends {base!r}, which is no target of the catalogue. Known: {', '.join(sorted(entries))}."
            )
        if base in chain:
            raise CatalogError(f"target {name}: extends itself: {' -> '.join([*chain, base])}. Take one extends out of this circle.")
        inherited = resolve(base, (*chain, base))
        return _merged(inherited, entry) if isinstance(inherited, Mapping) else inherited

    for name in entries:
        yield name, resolve(name, (name,))


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**base, **{key: value for key, value in own.items() if key != "extends"}}
    for key in set(base) & set(own):
        if isinstance(base[key], Mapping) and isinstance(own[key], Mapping):
            merged[key] = {name: value for name, value in {**base[key], **own[key]}.items() if value is not None}
    return {key: value for key, value in merged.items() if value is not None}


def _target(name: str, value: Any) -> Target:
    what = f"target {name}"
    if not isinstance(value, Mapping):
        raise CatalogError(f"{what}: must be a mapping.")
    known = [item.name for item in fields(Target) if item.name != "name"]
    unknown = set(value) - {*known, "extends"}
    if unknown:
        raise CatalogError(f"{what}: unknown key {', '.join(sorted(map(str, unknown)))}. Known: {', '.join(known)}, extends.")
    steps = value.get("steps")
    if not isinstance(steps, (list, tuple)) or not steps:
        raise CatalogError(f"{what}: steps must be a list of at least one step.")
    target = Target(
        name=name,
        project=str(value.get("project") or "RLinf"),
        python=_check_python(value.get("python"), what),
        steps=tuple(_step(f"{what}: step {number}", step) for number, step in enumerate(steps, 1)),
        cut_off=str(value["cut_off"]) if value.get("cut_off") else None,
        metadata=_metadata(value.get("metadata"), f"{what}: metadata"),
        build_on_node=_build_on_node(value.get("build_on_node"), f"{what}: build_on_node"),
        licences=_variables(value, "licences", what),
        settings=_variables(value, "settings", what),
        assets=_texts(value.get("assets"), f"{what}: assets"),
        exports=_mapping(value.get("exports"), f"{what}: exports"),
        files=_texts_by_name(value.get("files"), f"{what}: files"),
        links=_texts_by_name(value.get("links"), f"{what}: links"),
        imports=_texts(value.get("imports"), f"{what}: imports"),
        system_packages=_packages(value.get("system_packages"), f"{what}: system_packages"),
        system_files=_texts_by_name(value.get("system_files"), f"{what}: system_files"),
    )
    for path in target.links:
        check_relative(path, f"{what}: links")
    for path in target.system_files:
        _check_absolute(path, f"{what}: system_files")
    _check_overlays(target)
    return target


def _check_python(value: Any, what: str) -> str:
    # YAML reads 3.10 without quotes as 3.1
    if not isinstance(value, str) or not _PYTHON.match(value):
        raise CatalogError(f"{what}: python must be a version like '3.11', in quotes; it is {value!r}.")
    return value


def _check_overlays(target: Target) -> None:
    """Refuse an overlay of, or from, what cannot be there when it is made, or is not there at the end."""
    installed = False
    overlaid: dict[str, str] = {}
    for step in target.trace:
        place = f"target {target.name}: {step.label}"
        if step.kind == "overlay":
            names = normalize(step.value), normalize(step.options["from"])
            if names[0] == names[1] or names[0] in overlaid:
                raise CatalogError(
                    f"{place}: {step.value} {'is overlaid already' if names[0] in overlaid else 'cannot be overlaid by itself'}."
                )
            if not installed:
                raise CatalogError(f"{place}: nothing is installed before it. Put it after the steps that bring {' and '.join(names)}.")
            overlaid |= dict.fromkeys(names, step.label)
        elif step.kind == "uninstall":
            gone = [name for name in step.value if normalize(name) in overlaid]
            if gone:
                raise CatalogError(
                    f"{place}: {gone[0]} is needed by {overlaid[normalize(gone[0])]}, an earlier step. Leave one of them out."
                )
        installed = installed or step.kind in INSTALLING


def _mapping(value: Any, what: str) -> dict[str, Any]:
    """Return a mapping without what null takes out of it."""
    if value is not None and not isinstance(value, Mapping):
        raise CatalogError(f"{what} must be a mapping.")
    return {str(key): item for key, item in (value or {}).items() if item is not None}


def _texts(value: Any, what: str) -> tuple[str, ...]:
    if value is not None and not (isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)):
        raise CatalogError(f"{what} must be a list of texts.")
    return tuple(value or ())


def _texts_by_name(value: Any, what: str) -> dict[str, str]:
    found = _mapping(value, what)
    for name, text in found.items():
        if not isinstance(text, str):
            raise CatalogError(f"{what}: {name} must be text; put it in quotes.")
    return found


def _packages(value: Any, what: str) -> tuple[str, ...]:
    found = _texts(value, what)
    _check_packages(found, what)
    return found


def _check_packages(names: Iterable[str], what: str) -> None:
    try:
        check_names(names, what)
    except AptError as error:
        raise CatalogError(str(error)) from None


def _check_absolute(path: str, what: str) -> str:
    if not path.startswith("/") or ".." in PurePosixPath(path).parts or "\x00" in path:
        raise CatalogError(f"{what}: {path!r} must be an absolute path without '..'.")
    return path


def _variables(entry: Mapping[str, Any], key: str, what: str) -> dict[str, str]:
    found = _texts_by_name(entry.get(key), f"{what}: {key}")
    for name in found:
        if not _VARIABLE.match(name):
            raise CatalogError(f"{what}: {key}: {name!r} is not the name of a variable.")
    return found


def _named(value: Any, what: str) -> str:
    if not isinstance(value, str) or not _NAME.match(value):
        raise CatalogError(f"{what}: {value!r} is not usable as a name (letters, digits, '.', '_', '+', '-').")
    return value


def _metadata(value: Any, what: str) -> tuple[dict[str, Any], ...]:
    """Read static metadata of packages, as uv's ``dependency-metadata`` has it."""
    if value is not None and not isinstance(value, (list, tuple)):
        raise CatalogError(f"{what} must be a list of mappings with name, version and requires_dist.")
    found = []
    for number, entry in enumerate(value or (), 1):
        place = f"{what}: {number}"
        item = _mapping(entry, place)
        if set(item) != {"name", "version", "requires_dist"}:
            raise CatalogError(f"{place}: must have name, version and requires_dist, and nothing else.")
        requires = _texts(item["requires_dist"], f"{place}: requires_dist")
        found.append({"name": _named(item["name"], place), "version": _named(item["version"], place), "requires_dist": list(requires)})
    return tuple(found)


def _build_on_node(value: Any, what: str) -> dict[str, dict[str, Any]]:
    found = {}
    for name, entry in _mapping(value, what).items():
        place = f"{what}: {_named(name, what)}"
        item = _mapping(entry, place)
        unknown = set(item) - {"needs", "env"}
        if unknown:
            raise CatalogError(f"{place}: unknown key {', '.join(sorted(unknown))}. Known: needs, env.")
        needs = [_named(program, place) for program in _texts(item.get("needs"), f"{place}: needs")]
        found[normalize(name)] = {"needs": needs, "env": _environment(item.get("env"), f"{place}: env")}
    return found


# -- releases of distributions -------------------------------------------------------------------------------------------------


def _release(name: str, value: Any) -> Release:
    what = f"release {name}"
    entry = _mapping(value, what)
    known = [item.name for item in fields(Release) if item.name != "name"]
    unknown = set(entry) - set(known)
    if unknown:
        raise CatalogError(f"{what}: unknown key {', '.join(sorted(unknown))}. Known: {', '.join(known)}.")
    missing = [key for key in known if key != "renames" and not entry.get(key)]
    if missing:
        raise CatalogError(f"{what}: {missing[0]} is missing.")
    if not isinstance(entry["keyring"], str):
        raise CatalogError(f"{what}: keyring must be text.")
    renames = _texts_by_name(entry.get("renames"), f"{what}: renames")
    _check_packages(filter(None, (*renames, *renames.values())), f"{what}: renames")
    return Release(
        name,
        {
            _named(mirror, f"{what}: suites"): _suites(suites, f"{what}: suites: {mirror}")
            for mirror, suites in _mapping(entry["suites"], f"{what}: suites").items()
        },
        _suites(entry["components"], f"{what}: components"),
        _check_absolute(entry["keyring"], f"{what}: keyring"),
        renames,
    )


def _suites(value: Any, what: str) -> tuple[str, ...]:
    found = _texts(value, what)
    if not found or not all(map(_SUITE.match, found)):
        raise CatalogError(f"{what} must be a list of names, such as [bookworm, bookworm-updates]; it is {value!r}.")
    return found


# -- steps ---------------------------------------------------------------------------------------------------------------------


def _flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise CatalogError(f"{what} must be true or false.")
    return value


def _below(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise CatalogError(f"{what} must be text; put it in quotes.")
    return check_relative(value, what)


def _paths(value: Any, what: str) -> list[str]:
    return [check_relative(item, what) for item in _texts(value, what)]


def _environment(value: Any, what: str) -> dict[str, str]:
    found = _texts_by_name(value, what)
    for name, text in found.items():
        if not _VARIABLE.match(name) or "\x00" in text:
            raise CatalogError(f"{what}: {name!r} is not the name of an environment variable, or its value holds a NUL.")
    return found


def _arguments(value: Any, what: str) -> list[str]:
    found = list(_texts(value, what))
    if not found or not found[0].strip() or found[0].startswith("-") or any("\x00" in item for item in found):
        raise CatalogError(f"{what} must be a program and its arguments, as a list of texts.")
    return found


# what an option is read by: its value and, for the message, its name -> its value, checked
_OPTIONS: dict[str, Callable[[Any, str], Any]] = {
    "build_isolation": _flag,
    "project_settings": _flag,
    "dependencies": _flag,
    "env": _environment,
    "subdirectory": _below,
    "from": _named,
    "path": _below,
    "run": _arguments,
    "removes": _paths,
}
# kind -> (type of its value, the options it takes besides); those that it cannot do without are in _REQUIRED
STEPS: dict[str, tuple[type, frozenset[str]]] = {
    "uv_sync": (list, frozenset()),  # extras of the project
    "requirements": (list, frozenset({"build_isolation", "project_settings", "env"})),  # files of the project (*.txt) or specifiers
    "editable": (str, frozenset({"dependencies", "subdirectory"})),  # a repository
    "package": (str, frozenset({"dependencies", "subdirectory"})),  # a repository, installed as a wheel that is built of its commit
    "wheels": (list, frozenset({"dependencies", "project_settings"})),  # wheels of the catalogue
    "uninstall": (list, frozenset()),  # distribution names
    "worktree": (str, frozenset()),  # a repository that is only on a path
    "overlay": (str, frozenset({"from", "path"})),  # a distribution, over which files of another are copied
    "script": (str, frozenset({"run", "env", "installs", "removes"})),  # a repository, and what is run in it
}
_REQUIRED = {"overlay": ("from", "path"), "script": ("run",)}
INSTALLING = frozenset({"uv_sync", "requirements", "editable", "package", "wheels"})
"""The kinds of steps that bring distributions."""


def _step(place: str, value: Any, *, nested: bool = False) -> Step:
    kinds = sorted(set(value) & set(STEPS)) if isinstance(value, Mapping) else []
    if len(kinds) != 1:
        raise CatalogError(f"{place}: must have exactly one of {', '.join(STEPS)}.")
    kind = kinds[0]
    wanted, known = STEPS[kind]
    unknown = set(value) - {kind} - known
    if unknown:
        raise CatalogError(
            f"{place} ({kind}): unknown option {', '.join(sorted(map(str, unknown)))}. Known: {', '.join(sorted(known)) or 'none'}."
        )
    missing = [key for key in _REQUIRED.get(kind, ()) if value.get(key) is None]
    if missing:
        raise CatalogError(f"{place} ({kind}): {missing[0]} is missing.")
    if not isinstance(value[kind], wanted):
        raise CatalogError(f"{place}: {kind} must be {'a list' if wanted is list else 'a name'}.")
    items = _texts(value[kind], f"{place}: {kind}") if wanted is list else (value[kind],)
    _check_items(kind, items, place)
    if nested and kind == "script":
        raise CatalogError(f"{place}: a script cannot be inside another one's installs. Write down what it installs instead.")
    options = {key: _OPTIONS[key](given, f"{place}: {key}") for key, given in value.items() if key not in (kind, "installs")}
    return Step(kind, list(items) if wanted is list else items[0], options, _installs(value.get("installs"), f"{place}: installs"))


def _installs(value: Any, place: str) -> tuple[Step, ...]:
    if value is not None and not isinstance(value, (list, tuple)):
        raise CatalogError(f"{place} must be a list of steps.")
    return tuple(_step(f"{place}: step {number}", step, nested=True) for number, step in enumerate(value or (), 1))


def _check_items(kind: str, items: Iterable[str], place: str) -> None:
    """Refuse what would not be one requirement, extra or name where it is going to be written."""
    for item in items:
        if kind != "requirements":
            _named(item, place)
        if not item.strip() or not item.isprintable():
            raise CatalogError(f"{place}: {item!r} is not one requirement.")
        if item.endswith(".txt"):
            check_relative(item, place)
        if item.strip().startswith("-"):
            raise CatalogError(f"{place}: {item!r} is an option, not a requirement.")
