# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Locking a target: resolve with the network open, mirror what git asked for, resolve again offline, gather the files, write the lock."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tomlkit

from ansible_collections.rlinf.offline.plugins.module_utils import _mirror, _pylock
from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Catalog, Repository, Target
from ansible_collections.rlinf.offline.plugins.module_utils._errors import LockError
from ansible_collections.rlinf.offline.plugins.module_utils._fetch import Fetcher
from ansible_collections.rlinf.offline.plugins.module_utils._files import (
    atomic_write,
    json_bytes,
    read_json,
    remove,
    sha256_bytes,
    sha256_file,
    write_json,
)
from ansible_collections.rlinf.offline.plugins.module_utils._gather import Gatherer, Package
from ansible_collections.rlinf.offline.plugins.module_utils._git_config import redirect_config
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._process import INHERITED
from ansible_collections.rlinf.offline.plugins.module_utils._resolve import (
    MissingMirror,
    Pin,
    Resolution,
    Resolver,
    add_metadata,
    drop_git_cache,
    write_settings,
)
from ansible_collections.rlinf.offline.plugins.module_utils._urls import RepositoryId, Rewrites, without_userinfo
from ansible_collections.rlinf.offline.plugins.module_utils._uv import Uv, find_python, find_uv, isolated_environment
from ansible_collections.rlinf.offline.plugins.module_utils._wheel import Platform

FORMAT = 1
MOST_MIRRORS = 50
"""Repositories that one target may bring in by nested git dependencies; more is taken for a loop."""
# what an editable installation builds with where it names nothing (PEP 517); wheel for setuptools older than 70.1
_LEGACY_BACKEND = ["setuptools>=40.8.0", "wheel"]
# how a file's content or version is its identity in the lock; an index's wheel by default
_KINDS = {"git": "archive", "overlay": "archive", "source": "sdist", "wheel": "archive"}


@dataclass(frozen=True)
class Settings:
    """How targets are locked: the nodes' platform, and the bastion's network."""

    platform: Platform
    torch_backend: str = "pypi"
    leave_out: frozenset[str] = frozenset()
    pythons: Mapping[str, str] = field(default_factory=dict)
    uv: Path | None = None
    index_url: str | None = None
    rewrites: Rewrites = field(default_factory=Rewrites)
    proxy: str | None = None
    jobs: int = 8
    timeout: float = 120


@dataclass(frozen=True)
class Result:
    """What became of one target's lock."""

    name: str
    changed: bool
    state: str
    reason: str
    commit: str = ""
    packages: int = 0
    bytes: int = 0
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    @property
    def json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key not in ("before", "after")}


@dataclass(frozen=True)
class Locker:
    """Locks targets into one bundle."""

    bundle: Bundle
    catalog: Catalog
    settings: Settings
    fetcher: Fetcher
    progress: Callable[[str], None] = lambda _text: None

    # -- what is there ---------------------------------------------------------------------------------------------------------

    def project(self, target: Target) -> Mapping[str, Any]:
        """Return the record of the target's project: its mirror and frozen commit.

        :raises LockError: the project is not mirrored yet.
        """
        repository = self.catalog.repositories[target.project]
        record = _mirror.read_records(self.bundle).get(repository.id.mirror)
        if record is None:
            raise LockError(
                f"target {target.name}: the bundle has no mirror of {target.project}. Mirror it with rlinf_repo_mirror first (the download playbook does)."
            )
        return record

    def definition(self, target: Target) -> str:
        """Return the digest of everything that a lock's identity is made of, apart from the project's commit."""
        entry = asdict(target)
        # these are not part of what is installed
        for name in ("exports", "files", "links", "imports", "assets", "licences", "settings"):
            del entry[name]
        entry["wheels"] = {name: self.catalog.wheels[name].filename for name in target.wheels if name not in self.settings.leave_out}
        entry["left_out"] = self.left_out(target)
        entry["platform"], entry["torch_backend"] = str(self.settings.platform), self.settings.torch_backend
        return sha256_bytes(json_bytes(json.loads(json.dumps(entry))))

    def left_out(self, target: Target) -> list[str]:
        return sorted(self.settings.leave_out & {*target.wheels, *target.assets})

    def lock(self, target: Target, *, update: bool, check: bool = False) -> Result:
        """Bring one target's lock and its files into the bundle.

        :param update: whether an existing lock may move.
        :param check: only say what would happen.
        :raises LockError: it cannot be resolved, or its definition changed and it may not move.
        """
        if check and self.catalog.repositories[target.project].id.mirror not in _mirror.read_records(self.bundle):
            return Result(target.name, True, "absent", f"would be locked, once {target.project} is mirrored")
        record = self.project(target)
        folder = self.bundle.target(record["commit"], target.name)
        known = read_json(folder / "lock.json", LockError) if (folder / "lock.json").exists() else None
        before = tuple((folder / "pins.txt").read_text(encoding="utf-8").splitlines()) if known and (folder / "pins.txt").exists() else ()
        definition = self.definition(target)
        if known and not update:
            if known["definition"] != definition:
                raise LockError(
                    f"target {target.name} is locked, and its entry, rlinf_platform, rlinf_torch_backend or rlinf_leave_out has changed since. "
                    f"Name it in rlinf_update to lock it anew, or take the change back."
                )
            packages = [Package(**item) for item in known["packages"]]
            missing = [package.name for package in packages if not package.present(self.bundle)]
            written = all((folder / name).is_file() for name in (f"pylock.{target.name}.toml", "pins.txt"))
            if not missing and written:
                return self._result(
                    target, known, before, before, changed=False, state="locked", reason="locked before, every file is there"
                )
            if check:
                return self._result(
                    target, known, before, before, changed=True, state="incomplete", reason=f"{len(missing)} files would be fetched again"
                )
            known = self._complete(target, known)
            return self._result(
                target, known, before, before, changed=True, state="locked", reason=f"{len(missing)} missing files brought again"
            )
        if check:
            reason = "would be locked anew" if known else "would be locked"
            return Result(target.name, True, "absent" if not known else "locked", reason, record["commit"], before=before)
        new = self._lock(target, record, definition)
        after = tuple(new["pins"])
        same = known is not None and known["packages"] == new["packages"] and known["definition"] == new["definition"]
        reason = ("resolved again, the same" if same else "moved by rlinf_update") if known else "locked for the first time"
        return self._result(target, new, before, after, changed=not same, state="locked", reason=reason)

    def _result(
        self,
        target: Target,
        lock: Mapping[str, Any],
        before: tuple[str, ...],
        after: tuple[str, ...],
        *,
        changed: bool,
        state: str,
        reason: str,
    ) -> Result:
        size = sum(item["size"] for item in lock["packages"])
        return Result(target.name, changed, state, reason, lock["project"]["commit"], len(lock["packages"]), size, before, after)

    # -- making a lock ---------------------------------------------------------------------------------------------------------

    def _lock(self, target: Target, record: Mapping[str, Any], definition: str) -> dict[str, Any]:
        session = Session(self, target, record)
        self.progress(f"{target.name}: resolving with the network open")
        opened = session.resolve_open()
        self.progress(f"{target.name}: resolving again offline, through the mirrors")
        closed = session.resolve_closed()
        if opened.lines != closed.lines:
            raise LockError(
                f"target {target.name}: resolving offline through the mirrors gave other pins than with the network:\n{difference(opened.lines, closed.lines)}"
            )
        gatherer = session.gatherer()
        packages = gatherer.plan(closed.pins.values(), session.online_folder, closed.overlays)
        build = gatherer.plan(session.build_pins(closed), session.online_folder)
        packages = gatherer.gather(packages)
        build = gatherer.gather(build)
        lock = {
            "format": FORMAT,
            "target": target.name,
            "definition": definition,
            "project": {
                "repository": target.project,
                **{key: record[key] for key in ("url", "version", "commit")},
                "mirror": self.catalog.repositories[target.project].id.mirror,
            },
            "python": target.python,
            "platform": str(self.settings.platform),
            "torch_backend": self.settings.torch_backend,
            "cut_off": target.cut_off,
            "steps": [{"name": name, "pins": dict(pins)} for name, pins in closed.steps],
            "files": session.files,
            "editables": [asdict(editable) for editable in sorted(closed.editables, key=lambda item: item.package)],
            "git": {
                pin.name: dict(zip(("url", "commit", "subdirectory"), pin.git, strict=True)) for pin in closed.pins.values() if pin.git
            },
            "pins": closed.public_lines,
            "packages": [package.json for package in packages],
            "build": [package.json for package in build],
            "left_out": self.left_out(target),
        }
        lock["closure"] = self._closure(target, lock, [*packages, *build])
        self._write(target, lock, packages)
        session.close()
        return lock

    def _complete(self, target: Target, known: dict[str, Any]) -> dict[str, Any]:
        """Bring the missing files of a lock again; they must be the same bytes."""
        session = Session(self, target, self.project(target))
        gatherer = session.gatherer()
        packages = [Package(**item) for item in known["packages"]]
        gathered = gatherer.gather(packages)
        gatherer.gather([Package(**item) for item in known["build"]])
        other = [new.name for old, new in zip(packages, gathered, strict=True) if old != new]
        if other:
            raise LockError(
                f"target {target.name}: {', '.join(other)} could be had only with other content than locked. Name the target in rlinf_update to lock it anew."
            )
        self._write(target, known, gathered)
        session.close()
        return known

    def _closure(self, target: Target, lock: Mapping[str, Any], packages: list[Package]) -> list[str]:
        """Return the paths in the bundle that a node needs for this target, directories with a final slash."""
        repositories = [self.catalog.repositories[name].id.mirror for name in target.repositories]
        mirrors = [*repositories, *(RepositoryId.parse(item["url"]).mirror for item in lock["git"].values())]
        folder = self.bundle.target(lock["project"]["commit"], target.name).relative_to(self.bundle.root)
        assets = [self.catalog.assets[name].dest for name in target.assets if name not in self.settings.leave_out]
        return sorted(
            {
                f"{folder}/",
                *(f"repos/{mirror}/" for mirror in mirrors),
                *(package.path for package in packages),
                *(f"assets/{dest}" for dest in assets),
            }
        )

    def _write(self, target: Target, lock: Mapping[str, Any], packages: list[Package]) -> None:
        folder = self.bundle.target(lock["project"]["commit"], target.name)
        folder.mkdir(parents=True, exist_ok=True)
        files = [
            _pylock.LocalFile(
                package.name,
                package.version,
                os.path.relpath(self.bundle.root / package.path, folder),
                package.size,
                package.sha256,
                _KINDS.get(package.kind, "wheels"),
            )
            for package in packages
        ]
        _pylock.write(folder / f"pylock.{target.name}.toml", target.python, files)
        atomic_write(folder / "pins.txt", "".join(f"{line}\n" for line in lock["pins"]).encode())
        # last: without it the folder is no lock
        write_json(folder / "lock.json", lock)


class Session:
    """The scratch space, the checkouts and the two uvs (online, offline) of locking one target."""

    def __init__(self, locker: Locker, target: Target, record: Mapping[str, Any]) -> None:
        self.locker, self.target, self.record = locker, target, record
        self.bundle, self.settings = locker.bundle, locker.settings
        self.root = self.bundle.cache / "lock" / target.name
        self.online_folder = self.root / "outside"
        self.git_config = self.root / "gitconfig"
        self.uv_cache = self.bundle.cache / "uv"
        remove(self.root)
        self.online_folder.mkdir(parents=True)
        path = find_uv(self.settings.uv)
        self.online = Uv(path, self._environment())
        self.offline = Uv(path, {**self.online.env, "UV_OFFLINE": "1"})
        wanted = self.settings.pythons.get(target.python, target.python)
        interpreter = find_python(wanted, self.online)
        if ".".join(str(part) for part in interpreter.minor) != ".".join(target.python.split(".")[:2]):
            raise LockError(
                f"target {target.name} is for Python {target.python}, but {interpreter.path} is {interpreter.version}. Give another one by rlinf_python."
            )
        self.python = interpreter.path
        self.checkouts: dict[str, Path] = {}
        self.commits: dict[str, tuple[str, str]] = {}
        self.files: dict[str, str] = {}
        self.write_git_config()
        write_settings(self.online_folder, target)

    def _environment(self) -> dict[str, str]:
        """uv's variables: the project's own settings apply, the user's do not; git sees the bundle's mirrors and nothing else."""
        env = isolated_environment(self.uv_cache, self.git_config)
        env.pop("UV_NO_CONFIG", None)
        env |= {"XDG_CONFIG_HOME": str(self.root / "none"), "XDG_CONFIG_DIRS": str(self.root / "none"), "GIT_ALLOW_PROTOCOL": "file"}
        if self.target.cut_off:
            env["UV_EXCLUDE_NEWER"] = self.target.cut_off
        if self.settings.index_url:
            env["UV_DEFAULT_INDEX"] = self.settings.index_url
        if self.settings.proxy:
            env |= {"HTTP_PROXY": self.settings.proxy, "HTTPS_PROXY": self.settings.proxy, "ALL_PROXY": self.settings.proxy}
        return {name: value for name, value in env.items() if name not in INHERITED or name == "PATH"}

    def write_git_config(self) -> None:
        self.git_config.write_text(redirect_config(self.bundle.repos), encoding="utf-8")

    def resolve_open(self) -> Resolution:
        """Resolve with the index open; a repository that git asks for and the bundle lacks is mirrored, and the step tried again."""
        asked: set[str] = set()
        done: dict[int, dict[str, Pin]] = {}
        resolver = self._resolver(self.online)
        while True:
            try:
                return resolver.resolve(done)
            except MissingMirror as missing:
                key = RepositoryId.parse(missing.url).key
                if key in asked or len(asked) >= MOST_MIRRORS:
                    raise LockError(
                        f"target {self.target.name}: {missing} Mirroring it did not help; is its URL written in another way somewhere?"
                    ) from None
                asked.add(key)
                self.mirror(missing.url)
                self.write_git_config()

    def mirror(self, url: str) -> None:
        """Mirror a repository that locking found, as its catalogue entry says if there is one."""
        self.locker.progress(f"{self.target.name}: mirroring {url}")
        plain = without_userinfo(url)
        repository = self.locker.catalog.repository_for(plain) or Repository(RepositoryId.parse(plain).name, plain)
        _mirror.mirror_one(
            self.bundle,
            repository,
            cut_off=self.target.cut_off,
            rewrites=self.settings.rewrites,
            proxy=self.settings.proxy,
            timeout=self.settings.timeout,
        )

    def resolve_closed(self) -> Resolution:
        """Resolve once more in fresh checkouts, without the network, git's caches dropped: only the mirrors can answer."""
        drop_git_cache(self.uv_cache)
        return self._resolver(self.offline).resolve()

    def _resolver(self, uv: Uv) -> Resolver:
        for name in self.target.repositories:
            repository = self.locker.catalog.repositories[name]
            record = _mirror.read_records(self.bundle)[repository.id.mirror]
            tree = self.root / "src" / name
            remove(tree)
            tree.parent.mkdir(parents=True, exist_ok=True)
            _mirror.checkout(self.bundle.repos / repository.id.mirror, record["commit"], tree, origin_url=repository.url)
            self.checkouts[name], self.commits[name] = tree, (repository.url, record["commit"])
        project = self.checkouts[self.target.project]
        self.files = requirement_files(project)
        add_metadata(project, self.target)
        wheels = {}
        for name in self.target.wheels:
            if name in self.settings.leave_out:
                continue
            wheels[name] = self.bundle.wheels / self.locker.catalog.wheels[name].filename
            if not wheels[name].is_file():
                raise LockError(
                    f"target {self.target.name}: the wheel {name} is not in the bundle. Fetch it with rlinf_wheel_cache first, or name it in rlinf_leave_out."
                )
        return Resolver(
            uv=uv,
            bundle=self.bundle,
            target=self.target,
            python=self.python,
            platform=self.settings.platform,
            torch_backend=self.settings.torch_backend,
            checkouts=self.checkouts,
            commits=self.commits,
            wheels=wheels,
            leave_out=self.settings.leave_out,
            scratch=self.root / "step",
        )

    def build_pins(self, resolution: Resolution) -> Iterator[Pin]:
        """Yield pins of what building the editables on a node needs."""
        wanted: set[str] = set()
        for editable in resolution.editables:
            wanted.update(_build_requires(self.checkouts[editable.repository] / (editable.subdirectory or "") / "pyproject.toml"))
        if not wanted:
            return
        listed, output = self.online_folder / "build.in", self.online_folder / "build.txt"
        listed.write_text("".join(f"{item}\n" for item in sorted(wanted)), encoding="utf-8")
        options = ["--quiet", "--no-annotate", "--no-header", "--python", str(self.python), "--python-version", self.target.python]
        platform = ["--python-platform", str(self.settings.platform)]
        self.online.run(
            ["pip", "compile", *options, *platform, listed, "--output-file", output],
            what="resolving the build requirements of the editables",
            cwd=self.online_folder,
        )
        for line in output.read_text(encoding="utf-8").splitlines():
            if line.strip() and not line.startswith("#"):
                yield Pin.parse(line.strip())

    def gatherer(self) -> Gatherer:
        return Gatherer(
            self.bundle,
            self.online,
            self.python,
            self.target.python,
            self.settings.platform,
            self.locker.fetcher,
            self.root / "gather",
            self.locker.progress,
        )

    def close(self) -> None:
        """Remove the scratch space; uv's cache stays, since the next target has much in common."""
        remove(self.root)


def _build_requires(pyproject: Path) -> list[str]:
    if not pyproject.is_file():
        return _LEGACY_BACKEND
    table = tomlkit.parse(pyproject.read_text(encoding="utf-8")).unwrap().get("build-system", {})
    return [*table.get("requires", _LEGACY_BACKEND), "wheel"]


def requirement_files(project: Path) -> dict[str, str]:
    """Return the digest of every file of a checkout that decides what is installed, by relative path."""
    files = sorted([*project.glob("requirements/**/*.txt"), *project.glob("pyproject.toml")])
    return {str(path.relative_to(project)): sha256_file(path) for path in files}


def difference(before: list[str], after: list[str]) -> str:
    """Return the lines that only one of two lists has, as a diff shows them."""
    return "\n".join([*(f"- {line}" for line in before if line not in after), *(f"+ {line}" for line in after if line not in before)])
