# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Environments of a node: built aside, verified, then switched to; a running job keeps the one it has."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ansible_collections.rlinf.offline.plugins.module_utils._activation import check_exports, with_exports
from ansible_collections.rlinf.offline.plugins.module_utils._effective import EffectiveLock, Package, judge, stored_lock
from ansible_collections.rlinf.offline.plugins.module_utils._errors import VenvError
from ansible_collections.rlinf.offline.plugins.module_utils._files import atomic_write, exclusive, remove, switch_link
from ansible_collections.rlinf.offline.plugins.module_utils._generations import SHORT, STAMPED, Generation, Generations
from ansible_collections.rlinf.offline.plugins.module_utils._gpu_check import IGNORED
from ansible_collections.rlinf.offline.plugins.module_utils._install import (
    MADE_OF,
    SHOWN,
    Installer,
    Wanted,
    compare,
    description,
    refuse_damaged,
)
from ansible_collections.rlinf.offline.plugins.module_utils._installed import cores, damaged_files, fingerprints
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle, Node, environment_lock
from ansible_collections.rlinf.offline.plugins.module_utils._supply import Supply
from ansible_collections.rlinf.offline.plugins.module_utils._uv import Uv

WORK = ".rlinf"
"""A folder in an environment that is being built, for what is only needed meanwhile."""


@dataclass(frozen=True)
class Plan:
    """What would be done, and why; before and after are what a diff shows.

    :param ready: a finished generation that is as wanted; None means that one has to be built.
    :param supply: where everything comes from, if one has to be built.
    :param link: whether the link has to be switched; *project_link*: whether ``.venv`` has to be made.
    :param removable: generations beyond those kept, and what interrupted builds left.
    """

    digest: str
    reason: str
    current: Generation | None
    ready: Generation | None
    link: bool
    project_link: bool
    removable: tuple[Path, ...]
    before: str
    after: str
    supply: Supply | None = None

    @property
    def changed(self) -> bool:
        return self.ready is None or self.link or self.project_link or bool(self.removable)


@dataclass(frozen=True)
class Venv:
    """The environments of one target on a node.

    :param project_dir: a checkout that gets a link ``.venv``, where there is none.
    :param keep: how many generations stay.
    """

    node: Node
    bundle: Bundle
    target: str
    uv: Uv
    project_dir: Path | None = None
    keep: int = 2

    @property
    def generations(self) -> Generations:
        return Generations(self.node.venvs, self.target, self.link, {**STAMPED, **MADE_OF, "fingerprints": {str: list}})

    @property
    def installer(self) -> Installer:
        return Installer(self.node, self.bundle, self.target, self.uv)

    @property
    def link(self) -> Path:
        """What leads to the current environment: ``venvs/<target>``."""
        return self.node.venvs / self.target

    def lock_path(self, digest: str) -> Path:
        """Return where the effective lock of a generation lies; uv wants this form of name (PEP 751)."""
        return self.node.locks / f"pylock.{self.target.replace('.', '_')}-{digest[:SHORT]}.toml"

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        return exclusive(environment_lock(self.node.state, self.target), f"The environment {self.target}")

    def plan(self, wanted: Wanted) -> Plan:
        """Find out what is to be done; nothing is changed.

        :raises VenvError: the lock does not fit this node (see :func:`~_effective.judge`), or its files cannot be had (see
            :func:`~_supply.supply`); judged only where something has to be built.
        """
        check_exports(wanted.exports)
        generations, digest = self.generations, wanted.digest
        current = generations.current()
        candidates = [generation for generation in generations.finished() if generation.digest == digest]
        candidates.sort(key=lambda generation: current is None or generation.path != current.path)
        ready = next((generation for generation in candidates if not self._spoilt(generation, wanted)), None)
        found = None
        if ready is None:
            judge(wanted.lock, wanted.interpreter, [self.bundle.wheels, self.bundle.index])
            found = self.installer.supply(wanted)
        link = ready is None or current is None or ready.path != current.path
        project_link = self._project_link_free()
        removable = () if ready is None else (*generations.removable(self.keep, ready.path), *generations.unfinished())
        return Plan(
            digest=digest,
            reason=self._reason(wanted, current, ready, project_link, removable),
            current=current,
            ready=ready,
            link=link,
            project_link=project_link,
            removable=removable,
            before=description(current.stamp if current else None),
            after=description(wanted.stamp(self.target)),
            supply=found,
        )

    def _reason(
        self, wanted: Wanted, current: Generation | None, ready: Generation | None, project_link: bool, removable: Sequence[Path]
    ) -> str:
        if current is None:
            return "built, but not linked to yet" if ready else "not there yet"
        if ready is None or ready.path != current.path:
            if current.digest == wanted.digest:
                return self._spoilt(current, wanted)
            stamp = wanted.stamp(self.target)
            parts = {"packages": "packages", "python": "interpreter", "exports": "exports", "scripts": "scripts"}
            other = [shown for key, shown in parts.items() if current.stamp.get(key) != stamp[key]]
            return f"other {', '.join(other)}"
        if project_link:
            return ".venv is missing in the project"
        return f"no longer needed: {', '.join(path.name for path in removable)}" if removable else "up to date"

    def _spoilt(self, generation: Generation, wanted: Wanted) -> str:
        """Say, cheaply, how a finished generation is no longer what was built; empty if it is as it was."""
        if generation.stamp.get("damaged"):
            return f"found damaged: {', '.join(generation.stamp['damaged'][:SHOWN])}"
        if not os.access(generation.path / "bin" / "python", os.X_OK):
            return "its interpreter is gone"
        built = generation.stamp["fingerprints"]
        try:
            there = fingerprints(generation.path)
        except VenvError as error:
            return f"changed by hand: {error}"
        spoilt = [name for name in built if there.get(name) != built[name]]
        added = [name for name in there if name not in built] if wanted.exact else []
        return f"changed by hand: {', '.join(sorted([*spoilt, *added])[:SHOWN])}" if spoilt or added else ""

    def apply(self, wanted: Wanted) -> tuple[Plan, Generation]:
        """Bring about what :meth:`plan` says, and return it with the generation that is current then.

        :raises OfflineError: another process builds this target, uv failed, or what was built is not what was wanted; the former
            environment stays current.
        """
        with self._alone():
            plan = self.plan(wanted)
            generation = plan.ready or self._build(wanted, plan.digest, cast(Supply, plan.supply))
            if plan.link:
                self.generations.switch(generation)
            if plan.project_link:
                switch_link(self._project_link(), os.fspath(self.link))
            self._tidy(self.generations.removable(self.keep, generation.path))
            return plan, generation

    def _tidy(self, paths: Sequence[Path]) -> None:
        """Remove generations, what interrupted builds left, and the effective locks that none needs any more."""
        for path in [*paths, *self.generations.unfinished()]:
            self.generations.discard(path)
        needed = {self.lock_path(generation.digest) for generation in self.generations.finished()}
        pattern = self.lock_path("?" * SHORT).name
        for lock in set(self.node.locks.glob(pattern)) - needed:
            remove(lock)

    def _build(self, wanted: Wanted, digest: str, found: Supply) -> Generation:
        """Build and verify a generation; packages whose unpacked files in uv's cache turn out damaged are unpacked again, once."""
        installer, place = self.installer, self.generations.place(digest)
        installer.wait()
        start = time.monotonic()
        warm = any(self.node.cache.glob("archive-*"))
        found = self._install(wanted, place, found)
        # what uv unpacked just now it has hashed; what was in its cache may have been edited through a link since
        damaged = damaged_files(place, found.wheels, cores()) if warm else {}
        if damaged:
            self.uv.run(["cache", "clean", *sorted(damaged)], what="removing damaged packages from uv's cache")
            found = self._install(wanted, place, found)
            damaged = damaged_files(place, found.wheels, cores())
        refuse_damaged(damaged, place)
        compare(found.stored, place, exact=True)
        installer.scripts(wanted, found, place, place / WORK)
        installer.try_imports(wanted.imports, place, wanted.exports)
        remove(place / WORK)
        atomic_write(self.lock_path(digest), found.stored.render())
        remote = {package.name: found.policy.place for package in found.remote}
        made = {"remote": remote, "fingerprints": fingerprints(place), "seconds": round(time.monotonic() - start, 1)}
        return self.generations.finish(place, {**wanted.stamp(self.target), **made})

    def _install(self, wanted: Wanted, place: Path, found: Supply) -> Supply:
        if place.exists():
            self.generations.discard(place)
        installer, work = self.installer, place / WORK
        installer.make(place, wanted.interpreter.executable)
        work.mkdir()
        found = installer.build_sources(wanted, found, work)
        installer.packages(wanted, found, place, work)
        activate = place / "bin" / "activate"
        atomic_write(activate, with_exports(activate.read_text(encoding="utf-8"), self.target, wanted.exports).encode())
        return found

    def _project_link(self) -> Path:
        return cast(Path, self.project_dir) / ".venv"

    def _project_link_free(self) -> bool:
        """Whether ``.venv`` is to be made: it is not there, or leads nowhere. Another target's, or the user's own, stays."""
        if self.project_dir is None or not self.project_dir.is_dir():
            return False
        link = self._project_link()
        ours = link.is_symlink() and Path(os.readlink(link)).parent == self.node.venvs
        return not os.path.lexists(link) or (ours and not link.exists() and os.readlink(link) != os.fspath(self.link))

    def verify(self, lock: EffectiveLock | None, imports: Sequence[str], *, exact: bool, mark: bool, gpu: str = IGNORED) -> dict[str, Any]:
        """Hash every file of the current environment again, import its modules, and let its PyTorch compute on this node's GPUs.

        :param lock: the lock it should be of; that of its building if not given.
        :param exact: whether a package that someone added is an error.
        :param mark: whether damage is noted in its stamp, so that the next install builds it anew.
        :param gpu: whether it has to (see :func:`~_gpu_check.check`).
        :returns: the packages with where they came from, what the GPUs did, and the generation, for the module's result.
        :raises VenvError: there is none, it is of another lock, a file is damaged, or a GPU does not compute.
        """
        current = self.generations.current()
        if current is None:
            raise VenvError(f"There is no environment {self.link}. Run the playbook install for {self.target}.")
        own, stamp = stored_lock(self.lock_path(current.digest)), current.stamp
        if lock is not None and locked(stamp) != lock.identity:
            raise VenvError(f"{current.path} is of another lock than the bundle's. Run the playbook install for {self.target}.")
        if not os.access(current.path / "bin" / "python", os.X_OK):
            missing = f"its interpreter {stamp['python']['executable']} is not there any more"
            raise VenvError(f"{current.path}: {missing}. Run the playbooks prepare and install for {self.target}.")
        damaged = damaged_files(current.path, own.wheels, cores(), removes=stamp["removes"])
        if damaged and mark:
            with self._alone():
                # another may be the current one, and this one gone, since it was looked at
                if self.generations.current() == current:
                    current.restamp(damaged=sorted(damaged))
        refuse_damaged(damaged, current.path)
        compare(own, current.path, exact=exact)
        self.installer.try_imports(imports, current.path, stamp["exports"])
        computed = self.installer.try_gpus(gpu, own, current.path, stamp["exports"])
        return {"packages": sources(own, stamp, self.bundle), "gpu": computed, "generation": current.name, "digest": current.digest}

    def previous(self) -> tuple[Generation, Generation | None]:
        """Return the current generation and the one that rolling back leads to: None if it was rolled back already.

        :raises VenvError: there is no environment, or no former one.
        """
        current = self.generations.current()
        if current is None:
            raise VenvError(f"There is no environment {self.link}. Run the playbook install for {self.target}.")
        if current.stamp.get("rolled_back_from"):
            return current, None
        former = self.generations.previous()
        if former is None:
            raise VenvError(f"{self.target} has no former environment to go back to; {current.name} is the only one.")
        return current, former

    def roll_back(self) -> tuple[Generation, Generation | None]:
        """Make the former environment the current one again; a second time changes nothing.

        :returns: what :meth:`previous` said before.
        :raises VenvError: see :meth:`previous`.
        """
        with self._alone():
            current, former = self.previous()
            if former:
                self.generations.roll_back(former)
            return current, former


def describe(generation: Generation) -> str:
    """Return what a diff shows of a generation: interpreter, exports, scripts, packages, a line each."""
    return description(generation.stamp)


def locked(stamp: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the identities of the packages that a stamp holds, as a lock has them."""
    return [{key: value for key, value in package.items() if key != "shown"} for _name, package in sorted(stamp["packages"].items())]


def sources(own: EffectiveLock, stamp: Mapping[str, Any], bundle: Bundle) -> list[dict[str, Any]]:
    """Return every installed package with where it came from: the path of its wheel in the bundle, of the editable, or an index."""
    root = bundle.root.resolve()

    def source(package: Package) -> str:
        if package.name in stamp.get("remote", {}):
            return str(stamp["remote"][package.name])
        return str(package.path.relative_to(root) if package.path.is_relative_to(root) else package.path)

    return [{"name": package.name, "version": package.version, "source": source(package)} for package in own.packages]
