# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Locking a target: resolve with the network open, mirror what git asked for, resolve again offline, gather the files, write the lock."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.rlinf.offline.plugins.module_utils import _kernels
from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Catalog, Target
from ansible_collections.rlinf.offline.plugins.module_utils._definition import definition
from ansible_collections.rlinf.offline.plugins.module_utils._errors import LockError
from ansible_collections.rlinf.offline.plugins.module_utils._files import atomic_write, sha256_bytes, sha256_file, write_json
from ansible_collections.rlinf.offline.plugins.module_utils._frozen import read_records
from ansible_collections.rlinf.offline.plugins.module_utils._items import lines_diff
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._network import Network
from ansible_collections.rlinf.offline.plugins.module_utils._package import PACKAGE, Package
from ansible_collections.rlinf.offline.plugins.module_utils._records import LOCK, read_lock
from ansible_collections.rlinf.offline.plugins.module_utils._shipped import Shipped
from ansible_collections.rlinf.offline.plugins.module_utils._urls import RepositoryId
from ansible_collections.rlinf.offline.plugins.module_utils._wheel import Platform

if TYPE_CHECKING:
    from ansible_collections.rlinf.offline.plugins.module_utils._session import Session

FORMAT = 1
# how a file's content or version is its identity in the lock; an index's wheel by default
_KINDS = {"git": "archive", "overlay": "archive", "source": "sdist", "wheel": "archive"}
_WHOLE = {
    **LOCK,
    "target": str,
    "definition": str,
    "project": {"commit": str},
    "platform": str,
    "torch_backend": str,
    "cut_off": (str, type(None)),
    "steps": [{"name": str, "pins": {str: str}}],
    "files": {str: str},
    "git": {str: {"url": str}},
    "pins": [str],
    "left_out": [str],
    "packages": [PACKAGE],
    "build": [PACKAGE],
}


@dataclass(frozen=True)
class Settings:
    """How targets are locked: the nodes' platform, and the bastion's network.

    *package_source*: ``bundle``, or ``index`` to leave to an index of the nodes what it serves; the locks are the same. *pins_dir*: where
    the pins lie that ship with the collection.
    """

    platform: Platform
    torch_backend: str = "pypi"
    package_source: str = "bundle"
    pins_dir: Path | None = None
    leave_out: frozenset[str] = frozenset()
    pythons: Mapping[str, str] = field(default_factory=dict)
    uv: Path | None = None
    network: Network = field(default_factory=Network)


@dataclass(frozen=True)
class Result:
    """What became of one target's lock: how many packages it holds, the bytes of their files in the bundle and of those left to an index."""

    name: str
    changed: bool
    state: str
    reason: str
    commit: str = ""
    packages: int = 0
    bytes: int = 0
    left_to_index: int = 0
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    @property
    def json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key not in ("before", "after")}

    @property
    def diff(self) -> dict[str, str]:
        """The closure before and after; nothing where it is the same."""
        if self.before == self.after:
            return {}
        return lines_diff(f"{self.name} (pins)", self.before, self.after)


@dataclass(frozen=True)
class Locker:
    """Locks targets into one bundle."""

    bundle: Bundle
    catalog: Catalog
    settings: Settings
    progress: Callable[[str], None] = lambda _text: None

    # -- what is there ---------------------------------------------------------------------------------------------------------

    def lock(self, target: Target, *, update: bool, check: bool = False) -> Result:
        """Bring one target's lock and its files into the bundle.

        :param update: whether an existing lock may move.
        :param check: only say what would happen.
        :raises LockError: it cannot be resolved, or its definition changed and it may not move.
        """
        record = read_records(self.bundle).get(self.catalog.repositories[target.project].id.mirror)
        if record is None:
            if check:
                return Result(target.name, True, "absent", f"would be locked, once {target.project} is mirrored")
            raise LockError(
                f"target {target.name}: the bundle has no mirror of {target.project}. Mirror it with rlinf_repo_mirror first (the download playbook does)."
            )
        folder = self.bundle.target(record["commit"], target.name)
        known = read_lock(folder / "lock.json", LockError, _WHOLE) if (folder / "lock.json").exists() else None
        if known and not update:
            self._refuse_changed(target, known)
            return self._known(target, known, check=check)
        before = _pins(folder) if known else ()
        if check:
            reason, state = ("would be locked anew", "locked") if known else ("would be locked", "absent")
            return Result(target.name, True, state, reason, record["commit"], before=before)
        new = self._lock(target, record)
        same = known is not None and _deciding(known) == _deciding(new)
        reason = ("resolved again, the same" if same else "moved by rlinf_update") if known else "locked for the first time"
        return self._result(new, before, changed=not same, state="locked", reason=reason)

    def _known(self, target: Target, known: dict[str, Any], *, check: bool) -> Result:
        """Keep a lock as it is: bring what is missing, and write anew what of it does not take resolving."""
        folder = self.bundle.target(known["project"]["commit"], target.name)
        before = _pins(folder)
        packages, build = ([Package.of(item) for item in known[part]] for part in ("packages", "build"))
        left = self._left(packages)
        missing = [package for package in _distinct(packages, build) if package.path not in left and not package.present(self.bundle)]
        current = {**known, **self._described(target, known)}
        texts = known.get("written", {})
        written = current == known and bool(texts) and all(_is(folder / name, digest) for name, digest in texts.items())
        if written and not missing and not _kernels.unread(self.bundle, packages):
            return self._result(known, before, changed=False, state="locked", reason="locked before, every file is there")
        if check:
            reason = f"{len(missing)} files would be fetched again" if missing else "would be written again, the packages are the same"
            return self._result(known, before, changed=True, state="incomplete" if missing else "locked", reason=reason)
        if missing:
            packages = self._complete(target, known, packages, build)
        self._write(target, current, packages)
        reason = f"{len(missing)} missing files brought again" if missing else "written again, the packages are the same"
        return self._result(current, before, changed=True, state="locked", reason=reason)

    def _refuse_changed(self, target: Target, known: Mapping[str, Any]) -> None:
        """:raises LockError: what decided the packages of a lock is not what it was, and nobody said that it may move."""
        wheels = {*target.wheels}
        differing = {
            "its entry": known["definition"] != definition(target, self.catalog),
            "rlinf_platform": known["platform"] != str(self.settings.platform),
            "rlinf_torch_backend": known["torch_backend"] != self.settings.torch_backend,
            "rlinf_leave_out": wheels & {*known["left_out"]} != wheels & self.settings.leave_out,
        }
        changed = [name for name, differs in differing.items() if differs]
        if changed:
            raise LockError(
                f"target {target.name} is locked, and {' and '.join(changed)} {'has' if len(changed) == 1 else 'have'} changed since. "
                f"Name it in rlinf_update to lock it anew, or take the change back."
            )

    def _left(self, packages: Sequence[Package]) -> frozenset[str]:
        """Return the paths of the files that are left to an index: all that it serves, if the length is known that it must have."""
        if self.settings.package_source == "bundle":
            return frozenset()
        return frozenset(package.path for package in packages if package.served and package.size)

    def _result(self, lock: Mapping[str, Any], before: tuple[str, ...], *, changed: bool, state: str, reason: str) -> Result:
        packages = [Package.of(item) for item in lock["packages"]]
        there = [package for package in packages if package.present(self.bundle)]
        left = [package for package in packages if package.path in self._left(packages) and package not in there]
        return Result(
            lock["target"],
            changed,
            state,
            reason if not left else f"{reason}; {len(left)} are left to an index",
            lock["project"]["commit"],
            len(packages),
            sum(package.size for package in there),
            sum(package.size for package in left),
            before,
            tuple(lock["pins"]),
        )

    # -- making a lock ---------------------------------------------------------------------------------------------------------

    def _session(self, target: Target, *more: Shipped) -> Session:
        """Begin to resolve or to build; beside what ships with the collection, *more* may serve as pins."""
        # git, requests and the like take a while to import, and who only looks whether everything is there needs none of them
        from ansible_collections.rlinf.offline.plugins.module_utils._session import Session

        shipped = []
        if self.settings.pins_dir:
            with contextlib.suppress(FileNotFoundError):
                shipped.append(Shipped.read(self.settings.pins_dir / f"{target.name}.json"))
        return Session(self, target, definition(target, self.catalog), [*shipped, *more])

    def _lock(self, target: Target, record: Mapping[str, Any]) -> dict[str, Any]:
        session = self._session(target)
        self.progress(f"{target.name}: resolving with the network open")
        opened = session.resolve_open()
        self.progress(f"{target.name}: resolving again offline, through the mirrors")
        closed = session.resolve_closed()
        if opened.lines != closed.lines:
            raise LockError(
                f"target {target.name}: resolving offline through the mirrors gave other pins than with the network:\n{difference(opened.lines, closed.lines)}"
            )
        gatherer = session.gatherer()
        planned = gatherer.plan(closed.pins.values(), session.online_folder, closed.overlays, session.on_node(closed))
        packages = gatherer.gather(planned, self._left(planned))
        build = gatherer.plan(session.build_pins(closed, packages), session.online_folder)
        build = gatherer.gather(build, self._left(packages))
        lock = {
            "format": FORMAT,
            "target": target.name,
            "definition": definition(target, self.catalog),
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
        }
        lock |= self._described(target, lock)
        self._write(target, lock, packages)
        session.close()
        return lock

    def _complete(self, target: Target, known: Mapping[str, Any], packages: list[Package], build: list[Package]) -> list[Package]:
        """Bring the missing files of a lock again.

        :raises LockError: they are not the same bytes any more.
        """
        session = self._session(target, Shipped.of_lock(known))
        gatherer = session.gatherer()
        gathered = gatherer.gather(packages, self._left(packages))
        gathered_build = gatherer.gather(build, self._left(packages))
        pairs = zip([*packages, *build], [*gathered, *gathered_build], strict=True)
        other = [new.name for old, new in pairs if old != new]
        if other:
            raise LockError(
                f"target {target.name}: {', '.join(other)} could be had only with other content than locked. Name the target in rlinf_update to lock it anew."
            )
        session.close()
        return gathered

    def _described(self, target: Target, lock: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a lock says beside its packages: what nodes need to know, and what may change without resolving."""
        return {
            "left_out": sorted(self.settings.leave_out & {*target.wheels, *target.assets}),
            "build_on_node": {name: dict(recipe) for name, recipe in target.build_on_node.items()},
            "closure": self._closure(target, lock),
        }

    def _closure(self, target: Target, lock: Mapping[str, Any]) -> list[str]:
        """Return the paths in the bundle that a node needs for this target, directories with a final slash."""
        repositories = [self.catalog.repositories[name].id.mirror for name in target.repositories]
        mirrors = [*repositories, *(RepositoryId.parse(item["url"]).mirror for item in lock["git"].values())]
        folder = self.bundle.target(lock["project"]["commit"], target.name).relative_to(self.bundle.root)
        assets = [self.catalog.assets[name].dest for name in target.assets if name not in self.settings.leave_out]
        sources = [item["sha256"] for item in lock["packages"] if item["kind"] == "source"]
        built = self.bundle.built.relative_to(self.bundle.root)
        return sorted(
            {
                f"{folder}/",
                *(f"repos/{mirror}/" for mirror in mirrors),
                *(item["path"] for item in (*lock["packages"], *lock["build"])),
                *(f"{built}/{digest}/" for digest in sources),
                *(f"assets/{dest}" for dest in assets),
            }
        )

    def _write(self, target: Target, lock: Mapping[str, Any], packages: list[Package]) -> None:
        from ansible_collections.rlinf.offline.plugins.module_utils import _pylock

        if fresh := _kernels.unread(self.bundle, packages):
            self.progress(f"{target.name}: looking which GPUs {len(fresh)} wheels hold code for")
            _kernels.read(self.bundle, fresh)
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
        texts = {
            f"pylock.{target.name}.toml": _pylock.render(target.python, files).encode(),
            "pins.txt": "".join(f"{line}\n" for line in lock["pins"]).encode(),
        }
        for name, text in texts.items():
            atomic_write(folder / name, text)
        # last: without it the folder is no lock, and with another's digests in it what was cut off here is written again
        write_json(folder / "lock.json", {**lock, "written": {name: sha256_bytes(text) for name, text in texts.items()}})


def _pins(folder: Path) -> tuple[str, ...]:
    """Return the closure of a lock as it was written down; a lock that lost it has none."""
    listed = folder / "pins.txt"
    return tuple(listed.read_text(encoding="utf-8").splitlines()) if listed.is_file() else ()


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and sha256_file(path) == digest


def _distinct(*parts: Sequence[Package]) -> list[Package]:
    return list({package.path: package for part in parts for package in part}.values())


def _deciding(lock: Mapping[str, Any]) -> Mapping[str, Any]:
    return {key: lock[key] for key in ("definition", "packages", "build")}


def difference(before: list[str], after: list[str]) -> str:
    """Return the lines that only one of two lists has, as a diff shows them."""
    return "\n".join([*(f"- {line}" for line in before if line not in after), *(f"+ {line}" for line in after if line not in before)])
