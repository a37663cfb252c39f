# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Environments of a node: built aside, verified, then switched to; a running job keeps the one it has."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from packaging.version import InvalidVersion, Version

from ansible_collections.rlinf.offline.plugins.module_utils._activation import activated, check_exports, exports_script
from ansible_collections.rlinf.offline.plugins.module_utils._effective import EffectiveLock, Package, effective_lock, judge
from ansible_collections.rlinf.offline.plugins.module_utils._errors import VenvError
from ansible_collections.rlinf.offline.plugins.module_utils._files import atomic_write, exclusive, switch_link
from ansible_collections.rlinf.offline.plugins.module_utils._generations import SHORT, Generation, Generations
from ansible_collections.rlinf.offline.plugins.module_utils._installed import (
    cores,
    damaged_files,
    differs_from_wheel,
    distributions,
    fingerprints,
)
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle, Node
from ansible_collections.rlinf.offline.plugins.module_utils._process import failure, run
from ansible_collections.rlinf.offline.plugins.module_utils._uv import Interpreter, Uv

SHOWN = 5
"""How many damaged files or packages a message names."""
# imports each module in turn and says which failed; a failing import may raise anything, or exit
_IMPORTER = (
    "import importlib, json, sys\nfailed = {}\n"
    "for name in sys.argv[1:]:\n"
    "    try: importlib.import_module(name)\n"
    "    except BaseException as error: failed[name] = f'{type(error).__name__}: {error}'\n"
    "print('\\nfailed imports: ' + json.dumps(failed), flush=True)\n"
)


@dataclass(frozen=True)
class Wanted:
    """What an environment shall be.

    :param exports: variable -> text, or ``{"prepend": path}``.
    :param imports: modules that must be importable in it.
    :param exact: whether a package that someone added makes it another environment.
    """

    lock: EffectiveLock
    interpreter: Interpreter
    exports: Mapping[str, Any] = field(default_factory=dict)
    imports: Sequence[str] = ()
    exact: bool = True

    @property
    def digest(self) -> str:
        return self.lock.digest(self.interpreter, self.exports)


@dataclass(frozen=True)
class Plan:
    """What would be done, and why; before and after are what a diff shows.

    :param ready: a finished generation that is as wanted; None means that one has to be built.
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
        return Generations(self.node.venvs, self.target, self.link)

    @property
    def link(self) -> Path:
        """What leads to the current environment: ``venvs/<target>``."""
        return self.node.venvs / self.target

    def lock_path(self, digest: str) -> Path:
        """Return where the effective lock of a generation lies; uv wants this form of name (PEP 751)."""
        return self.node.locks / f"pylock.{self.target.replace('.', '_')}-{digest[:SHORT]}.toml"

    def plan(self, wanted: Wanted) -> Plan:
        """Find out what is to be done; nothing is changed.

        :raises VenvError: the lock does not fit this node (see :func:`~_effective.judge`); judged only where something has to be built.
        """
        check_exports(wanted.exports)
        generations, digest = self.generations, wanted.digest
        current = generations.current()
        candidates = [generation for generation in generations.finished() if generation.digest == digest]
        candidates.sort(key=lambda generation: current is None or generation.path != current.path)
        ready = next((generation for generation in candidates if not self._spoilt(generation, wanted)), None)
        if ready is None:
            judge(wanted.lock, wanted.interpreter, [self.bundle.wheels, self.bundle.index])
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
            before=_description(current.stamp if current else None),
            after=_description(self._stamp(wanted)),
        )

    def _reason(
        self, wanted: Wanted, current: Generation | None, ready: Generation | None, project_link: bool, removable: Sequence[Path]
    ) -> str:
        if current is None:
            return "built, but not linked to yet" if ready else "not there yet"
        if ready is None or ready.path != current.path:
            if current.digest == wanted.digest:
                return self._spoilt(current, wanted)
            stamp, parts = self._stamp(wanted), {"packages": "packages", "python": "interpreter", "exports": "exports"}
            other = [shown for key, shown in parts.items() if current.stamp.get(key) != stamp[key]]
            return f"other {', '.join(other) or 'build files of an editable'}"
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
        with exclusive(self.node.locks / f".{self.target}.lock", f"The environment {self.target}"):
            plan = self.plan(wanted)
            generation = plan.ready or self._build(wanted, plan.digest)
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
            lock.unlink()

    def _build(self, wanted: Wanted, digest: str) -> Generation:
        """Build and verify a generation; packages whose unpacked files in uv's cache turn out damaged are unpacked again, once."""
        place = self.generations.place(digest)
        lock = self.lock_path(digest)
        atomic_write(lock, wanted.lock.render())
        warm = any(self.node.cache.glob("archive-*"))
        self._install(wanted, place, lock)
        # what uv unpacked just now it has hashed; what was in its cache may have been edited through a link since
        damaged = damaged_files(place, wanted.lock.wheels, cores()) if warm else {}
        if damaged:
            self.uv.run(["cache", "clean", *sorted(damaged)], what="removing damaged packages from uv's cache")
            self._install(wanted, place, lock)
            damaged = damaged_files(place, wanted.lock.wheels, cores())
        _refuse_damaged(damaged, place)
        self._compare(wanted.lock, place)
        self._import(wanted.imports, place, wanted.exports)
        return self.generations.finish(place, {**self._stamp(wanted), "fingerprints": fingerprints(place)})

    def _install(self, wanted: Wanted, place: Path, lock: Path) -> None:
        if place.exists():
            self.generations.discard(place)
        self.node.venvs.mkdir(parents=True, exist_ok=True)
        python = place / "bin" / "python"
        self.uv.run(
            ["venv", "--no-project", "--prompt", self.target, "--python", wanted.interpreter.executable, place],
            what=f"making an environment for {self.target}",
        )
        found: list[str | os.PathLike[str]] = ["--find-links", self.bundle.index] if self.bundle.index.is_dir() else []
        self.uv.run(
            ["pip", "sync", "--python", python, "--no-index", *found, "--allow-empty-requirements", lock],
            what=f"installing the packages of {self.target}",
            cwd=self.node.venvs,
        )
        activate = place / "bin" / "activate"
        atomic_write(activate, exports_script(activate.read_text(encoding="utf-8"), wanted.exports).encode())

    def _compare(self, lock: EffectiveLock, place: Path, exact: bool = True) -> None:
        """Compare the installed set with the lock by name, version and, where the bundle still has the wheel, content.

        :raises VenvError: a package is missing, too much, of another version, or not from the lock's file.
        """
        installed = distributions(place)
        added = installed.keys() - {package.name for package in lock.packages} if exact else ()
        wrong = [f"{name} is there, but not in the lock" for name in added]
        for package in lock.packages:
            found = installed.get(package.name)
            if found is None:
                wrong.append(f"{package.name} is missing")
            elif package.version and not _same_version(found.version, package.version):
                wrong.append(f"{package.name} is {found.version}, the lock says {package.version}")
            elif package.kind == "editable":
                wrong += _wrong_editable(package, found.info)
            elif package.path.is_file() and (other := differs_from_wheel(found, package.path)):
                wrong.append(f"{package.name} is not from {package.path.name}: {other} differs")
        if wrong:
            raise VenvError(f"{place} is not what the lock says: {'; '.join(sorted(wrong)[:SHOWN])}. Install again to have it built anew.")

    def _import(self, imports: Sequence[str], place: Path, exports: Mapping[str, Any]) -> None:
        """Import modules in the environment, as a job would see it.

        :raises VenvError: one cannot be imported; each is named with its error.
        """
        if not imports:
            return
        python = place / "bin" / "python"
        done = run([python, "-c", _IMPORTER, *imports], what=f"importing in {place}", cwd=place, env=activated(place, exports), check=False)
        if done.status:
            raise VenvError(failure(done, f"{self.target}: importing {', '.join(imports)}") + " The former environment stays in use.")
        failed = json.loads(done.stdout.rpartition("\nfailed imports: ")[2].splitlines()[0])
        if failed:
            named = "; ".join(f"{name} ({error})" for name, error in failed.items())
            raise VenvError(
                f"{self.target}: these modules cannot be imported in {place}: {named}. See that the target's lock, exports and repositories are right."
            )

    def _stamp(self, wanted: Wanted) -> dict[str, Any]:
        packages = {
            package.name: {"version": package.version, "sha256": package.sha256, "shown": package.shown, "kind": package.kind}
            for package in wanted.lock.packages
        }
        python = {"version": wanted.interpreter.version, "executable": str(wanted.interpreter.executable)}
        return {
            "format": 1,
            "target": self.target,
            "digest": wanted.digest,
            "python": python,
            "exports": dict(wanted.exports),
            "packages": packages,
        }

    def _project_link(self) -> Path:
        return cast(Path, self.project_dir) / ".venv"

    def _project_link_free(self) -> bool:
        """Whether ``.venv`` is to be made: it is not there, or leads nowhere. Another target's, or the user's own, stays."""
        if self.project_dir is None or not self.project_dir.is_dir():
            return False
        link = self._project_link()
        ours = link.is_symlink() and Path(os.readlink(link)).parent == self.node.venvs
        return not os.path.lexists(link) or (ours and not link.exists() and os.readlink(link) != os.fspath(self.link))

    def verify(self, lock: EffectiveLock | None, imports: Sequence[str], *, exact: bool, mark: bool) -> dict[str, Any]:
        """Hash every file of the current environment again and import its modules.

        :param lock: the lock it should be of; that of its building if not given.
        :param exact: whether a package that someone added is an error.
        :param mark: whether damage is noted in its stamp, so that the next install builds it anew.
        :returns: the packages with where they came from, and the generation, for the module's result.
        :raises VenvError: there is none, it is of another lock, or a file is damaged.
        """
        current = self.generations.current()
        if current is None:
            raise VenvError(f"There is no environment {self.link}. Run the playbook install for {self.target}.")
        own = effective_lock(self.lock_path(current.digest), ())
        if lock is not None and lock.identity["packages"] != own.identity["packages"]:
            raise VenvError(f"{current.path} is of another lock than the bundle's. Run the playbook install for {self.target}.")
        damaged = damaged_files(current.path, own.wheels, cores())
        if damaged and mark:
            current.restamp(damaged=sorted(damaged))
        _refuse_damaged(damaged, current.path)
        self._compare(own, current.path, exact)
        self._import(imports, current.path, current.stamp["exports"])
        packages = [{"name": package.name, "version": package.version, "source": self._source(package)} for package in own.packages]
        return {"packages": packages, "generation": current.name, "digest": current.digest}

    def _source(self, package: Package) -> str:
        """Return where a package came from: the path of its wheel in the bundle, or of the editable."""
        root = self.bundle.root.resolve()
        return str(package.path.relative_to(root) if package.path.is_relative_to(root) else package.path)

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

    def roll_back(self) -> None:
        """Make the former environment the current one again; a second time changes nothing.

        :raises VenvError: see :meth:`previous`.
        """
        with exclusive(self.node.locks / f".{self.target}.lock", f"The environment {self.target}"):
            _current, former = self.previous()
            if former:
                self.generations.roll_back(former)


def describe(generation: Generation) -> str:
    """Return what a diff shows of a generation: interpreter, exports, packages, a line each."""
    return _description(generation.stamp)


def package_changes(before: str, after: str) -> dict[str, list[dict[str, str]]]:
    """Return the packages that come, go and change between two descriptions, each with its lines before and after."""

    def packages(text: str) -> dict[str, str]:
        lines = [line for line in text.splitlines() if not line.startswith(("python ", "export "))]
        return {line.partition("==")[0].partition(" @ ")[0]: line for line in lines}

    old, new = packages(before), packages(after)
    return {
        "added": [{"name": name, "after": new[name]} for name in new if name not in old],
        "removed": [{"name": name, "before": old[name]} for name in old if name not in new],
        "changed": [{"name": name, "before": old[name], "after": new[name]} for name in new if name in old and old[name] != new[name]],
    }


def _description(stamp: Mapping[str, Any] | None) -> str:
    if stamp is None:
        return ""
    exports = [f"export {name}={json.dumps(value)}" for name, value in sorted(stamp["exports"].items())]
    packages = [package["shown"] for _name, package in sorted(stamp["packages"].items())]
    return "\n".join([f"python {stamp['python']['version']} {stamp['python']['executable']}", *exports, *packages, ""])


def _same_version(one: str, other: str) -> bool:
    try:
        return Version(one) == Version(other)
    except InvalidVersion:
        return one == other


def _wrong_editable(package: Package, info: Path) -> list[str]:
    """Say what is wrong with an editable install, by the URL that its ``direct_url.json`` holds (PEP 610)."""
    try:
        url = json.loads((info / "direct_url.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        url = {}
    if url.get("dir_info", {}).get("editable") and url.get("url") in (package.path.as_uri(), package.path.resolve().as_uri()):
        return []
    return [f"{package.name} is not the editable at {package.path}"]


def _refuse_damaged(damaged: Mapping[str, Sequence[str]], place: Path) -> None:
    if damaged:
        shown = "; ".join(f"{name}: {', '.join(files[:SHOWN])}" for name, files in sorted(damaged.items())[:SHOWN])
        raise VenvError(
            f"{place} holds damaged files of {len(damaged)} packages ({shown}). Run the playbook install: it is built anew.",
            damaged=sorted(damaged),
        )
