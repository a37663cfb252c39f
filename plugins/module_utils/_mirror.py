# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bare mirrors in a bundle: brought up to date whole or not at all, their HEAD detached at the version that is asked for.

A mirror is a repository that any git can clone from. It holds every branch and tag of its remote, and under ``refs/rlinf/frozen/`` each
commit that was ever HEAD or asked for, so that none is lost when upstream rewrites its history.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils import _lfs
from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Repository
from ansible_collections.rlinf.offline.plugins.module_utils._errors import CatalogError, GitError, OfflineError
from ansible_collections.rlinf.offline.plugins.module_utils._files import atomic_write, remove, rename
from ansible_collections.rlinf.offline.plugins.module_utils._frozen import read_records, write_records
from ansible_collections.rlinf.offline.plugins.module_utils._git import Git, session
from ansible_collections.rlinf.offline.plugins.module_utils._git_config import config_text
from ansible_collections.rlinf.offline.plugins.module_utils._items import Tried, attempt
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._network import Network
from ansible_collections.rlinf.offline.plugins.module_utils._submodules import Submodule, read_submodules
from ansible_collections.rlinf.offline.plugins.module_utils._urls import RepositoryId, without_userinfo

REFSPECS = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
"""What is mirrored: all branches and tags; pull requests are not."""
FROZEN = "refs/rlinf/frozen/"
KEEP = "refs/.keep"
"""A file that git passes over: all refs are packed, and whoever copies only files would lose ``refs/``, without which git sees no repository."""
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_ABBREVIATED = re.compile(r"[0-9a-f]{7,39}\Z")
_RECORDS = threading.Lock()
# one for each mirror: a repository may be asked for by itself and as a submodule at the same time
_IN_WORK: dict[Path, threading.Lock] = {}


@dataclass(frozen=True)
class MirrorResult:
    """What became of one mirror. In check mode *commit* is empty where only fetching would tell.

    *mirror*: its place under the bundle's ``repos/``; *bytes*: its size on disk; *old_commit*: where HEAD was before.
    """

    name: str
    mirror: str
    url: str
    version: str | None
    cut_off: str | None
    commit: str
    old_commit: str
    default_branch: str | None
    changed: bool
    state: str
    reason: str
    bytes: int
    seconds: float
    submodules: tuple[Submodule, ...] = ()

    @property
    def record(self) -> dict[str, Any]:
        """What ``records/repositories.json`` holds of it."""
        return {name: getattr(self, name) for name in ("url", "version", "commit", "default_branch", "cut_off")}

    @property
    def json(self) -> dict[str, Any]:
        return {**asdict(self), "submodules": [asdict(submodule) for submodule in self.submodules]}

    @property
    def diff(self) -> dict[str, str]:
        """The old and the new commit."""
        header = f"{self.name} ({self.url})"
        before, after = f"{self.old_commit}\n" if self.old_commit else "", f"{self.commit or 'known when it is fetched'}\n"
        return {"before_header": header, "after_header": header, "before": before, "after": after}


# -- records -------------------------------------------------------------------------------------------------------------------


def _record(bundle: Bundle, result: MirrorResult) -> None:
    """Write the frozen commit of one mirror, if it is another than before."""
    with _RECORDS:
        records = read_records(bundle)
        if records.get(result.mirror) != result.record:
            write_records(bundle, {**records, result.mirror: result.record})


# -- what is to be mirrored ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Refs:
    """Branches and tags by full name, and the default branch; *peeled* holds what annotated tags point to."""

    default_branch: str | None
    objects: Mapping[str, str]
    peeled: Mapping[str, str]

    def find(self, name: str) -> str | None:
        """Return what a branch or, if there is none, a tag of this name points to."""
        for ref in (f"refs/heads/{name}", f"refs/tags/{name}"):
            if ref in self.objects:
                return self.peeled.get(ref, self.objects[ref])
        return None

    @property
    def names(self) -> list[str]:
        return [ref.split("/", 2)[2] for ref in self.objects]


def remote_refs(git: Git, url: str, about: str) -> Refs:
    """Ask a remote what it has.

    :raises GitError: it cannot be reached, is no repository, or has no commit.
    """
    default, head, found = None, None, {}
    for line in git.ask("ls-remote", "--symref", "--", url, about=about).splitlines():
        value, _ignored, name = line.partition("\t")
        if name == "HEAD" and value.startswith("ref: refs/heads/"):
            default = value.removeprefix("ref: refs/heads/")
        elif name == "HEAD":
            head = value
        elif name.startswith(("refs/heads/", "refs/tags/")):
            found[name] = value
    objects = {name: value for name, value in found.items() if not name.endswith("^{}")}
    if not objects:
        raise GitError(f"{about}: the repository is empty: it has no branch and no tag.", problem="repository")
    if default is None and head:
        # a server too old to say which branch HEAD is
        same = [
            name.removeprefix("refs/heads/") for name, value in sorted(objects.items()) if value == head and name.startswith("refs/heads/")
        ]
        default = next((name for name in ("main", "master") if name in same), same[0] if same else None)
    return Refs(
        default if f"refs/heads/{default}" in objects else None,
        objects,
        {name.removesuffix("^{}"): value for name, value in found.items() if name.endswith("^{}")},
    )


def cut_off_time(text: str) -> int:
    """Return the last second that a cut-off admits, as seconds since the epoch; a date means its end, in UTC.

    :raises CatalogError: it is neither a date nor a time (ISO 8601).
    """
    try:
        moment = datetime.fromisoformat(re.sub(r"Z\Z", "+00:00", text.strip()))
    except ValueError:
        raise CatalogError(f"cut_off: {text!r} is neither a date (2025-12-23) nor a time (2025-12-23T12:00:00Z).") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    if re.fullmatch(r"\d{4}-?\d{2}-?\d{2}", text.strip()):
        moment += timedelta(days=1, seconds=-1)
    return int(moment.timestamp())


def mirror_config(url: str) -> str:
    """Return a mirror's own settings: no credential, no rewritten URL, no path of this machine.

    :param url: the real one, without user info.
    """
    settings = [("core.repositoryformatversion", "0"), ("core.filemode", "true"), ("core.bare", "true")]
    settings += [("remote.origin.url", url), *(("remote.origin.fetch", refspec) for refspec in REFSPECS)]
    # a client of the old protocol may ask for a commit that no branch holds any more
    settings += [("uploadpack.allowAnySHA1InWant", "true")]
    # git-lfs would write it, even when it only reads
    settings += [("lfs.repositoryformatversion", "0")]
    return config_text(settings)


@dataclass(frozen=True)
class _Plan:
    """What would change in a mirror, and why; *commit* is None where only fetching tells."""

    refs: Refs
    exists: bool
    stale: bool
    commit: str | None
    old_commit: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class _Work:
    """One repository on its way into its mirror.

    *also*: further commits, or refs by full name, that the mirror must hold.
    """

    git: Git
    bundle: Bundle
    repository: Repository
    cut_off: str | None
    frozen: Mapping[str, Any] | None
    also: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        return without_userinfo(self.repository.url)

    @property
    def place(self) -> Path:
        return self.bundle.repos / self.repository.id.mirror

    @property
    def about(self) -> str:
        return f"repository {self.repository.name} ({self.url})"

    @property
    def config(self) -> str:
        return mirror_config(self.url)

    def store(self, place: Path | None = None) -> Git:
        return self.git.at(git_dir=place or self.place)

    # -- the plan: reads only

    def plan(self) -> _Plan:
        """Compare the mirror with its remote.

        :raises GitError: the remote cannot be had, lacks the version, or the place is taken by something else.
        """
        exists = self._is_mirror()
        refs = remote_refs(self.git, self.url, self.about)
        local = self._local_objects() if exists else {}
        stale = sum(1 for name in {*refs.objects, *local} if refs.objects.get(name) != local.get(name))
        old = _head(self.place) if exists else ""
        commit = self.frozen["commit"] if self.frozen else self.choose(refs, self.place if exists else None)
        reasons = []
        if not exists:
            reasons.append("not mirrored before")
        elif stale:
            reasons.append(f"{stale} branches or tags differ upstream")
        if exists and commit != old:
            reasons.append(f"HEAD moves from {old[:12] or 'a branch'} to {commit[:12]}" if commit else f"HEAD may move from {old[:12]}")
        if exists and not reasons:
            reasons += self._unfinished(commit)
        return _Plan(refs, exists, bool(stale), commit, old, tuple(reasons))

    def _is_mirror(self) -> bool:
        """Return whether the mirror is there.

        :raises GitError: something else is; it is left alone.
        """
        if not self.place.is_symlink() and not self.place.exists():
            return False
        origin = (
            self.git.test("config", "--file", self.place / "config", "--get", "remote.origin.url")
            if (self.place / "HEAD").is_file()
            else None
        )
        try:
            if origin and RepositoryId.parse(origin).key == self.repository.id.key:
                return True
        except CatalogError:
            pass
        raise GitError(
            f"{self.about}: {self.place} is in the way: it is not a mirror of this repository{f' but of {origin}' if origin else ''}. "
            "It was left alone; move it elsewhere and run again.",
            problem="foreign",
        )

    def _local_objects(self) -> dict[str, str]:
        listed = self.store().read("for-each-ref", "--format=%(refname) %(objectname)", "refs/heads", "refs/tags", about=self.about)
        return dict(line.rsplit(" ", 1) for line in listed.splitlines())

    def _unfinished(self, commit: str | None) -> list[str]:
        """Return what a run that was killed, or an older one, has left to do."""
        reasons = []
        if (self.place / "config").read_text(encoding="utf-8") != self.config:
            reasons.append("its settings differ")
        if not all(self._kept(name) for name in (commit, *self.also) if name):
            reasons.append("a commit that is asked for is missing")
        if not _one_pack(self.place) or _loose_refs(self.place) or not _is_kept(self.place):
            reasons.append("not packed yet")
        if self.repository.lfs and commit and _lfs.missing(self.store(), commit, self.about):
            reasons.append("LFS objects are missing")
        return reasons

    def _kept(self, name: str) -> bool:
        """Return whether a ref is there, or a commit with a ref that keeps it."""
        return self.store().test("rev-parse", "--verify", "--quiet", name if name.startswith("refs/") else FROZEN + name) is not None

    def choose(self, refs: Refs, place: Path | None) -> str | None:
        """Return the commit of the version asked for; None where the objects that tell are not there yet.

        :param place: where objects are, if anywhere.
        :raises GitError: there is no such version.
        """
        version, store = self.repository.version, self.store(place) if place else None
        if version is None:
            return self._newest(refs, store)
        found = refs.find(version)
        if found:
            return _peeled(store, found) or found
        if _COMMIT.match(version):
            return version
        if _ABBREVIATED.match(version):
            if store is None:
                return None
            known = _peeled(store, version)
            if known:
                return known
        near = difflib.get_close_matches(version, refs.names, n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else " Correct its version."
        raise GitError(f"{self.about}: there is no branch, tag or commit {version!r}.{hint}", problem="ref")

    def _newest(self, refs: Refs, store: Git | None) -> str | None:
        """Return the last commit of the default branch that the cut-off admits, by committer date along first parents."""
        if refs.default_branch is None:
            raise GitError(f"{self.about}: it has no default branch. Give the entry a version.", problem="ref")
        tip = refs.objects[f"refs/heads/{refs.default_branch}"]
        if self.cut_off is None:
            return tip
        if store is None or _peeled(store, tip) is None:
            return None
        limit = f"--min-age={cut_off_time(self.cut_off)}"
        commit = store.read("rev-list", "--first-parent", "--max-count=1", limit, tip, "--", about=self.about)
        if not commit:
            raise GitError(
                f"{self.about}: its default branch {refs.default_branch} has no commit up to {self.cut_off}. Give the entry a version.",
                problem="ref",
            )
        return commit

    # -- the one write

    def apply(self, plan: _Plan) -> str:
        """Bring the mirror to the plan and return its commit. A new one is made aside and gets its name when it is whole."""
        if plan.exists:
            _sweep(self.place)
            return self._bring(plan, self.place)
        part = self.place.with_name(f"{self.place.name}.part")
        remove(part)
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.git.write("init", "--quiet", "--bare", "--template=", "--", part, about=self.about)
            commit = self._bring(plan, part)
        except OfflineError:
            remove(part)
            raise
        rename(part, self.place)
        return commit

    def _bring(self, plan: _Plan, place: Path) -> str:
        store = self.store(place)
        self._configure(place)
        if not _is_kept(place):
            atomic_write(place / KEEP, b"")
        if plan.stale:
            self._fetch(store, "--prune", "--force", "origin", *REFSPECS)
        commit = self._commit(plan, place)
        for name in dict.fromkeys((commit, *self.also)):
            self._keep(store, name)
        if _head(place) != commit:
            store.write("update-ref", "--no-deref", "HEAD", commit, about=self.about)
        if self.repository.lfs:
            _lfs.fetch(store, commit, self.about)
            # git-lfs writes down which URL, the rewritten one, wanted a login
            self._configure(place)
        if not _one_pack(place):
            # what came before a connection broke is no pack
            _sweep(place)
            store.write("repack", "-a", "-d", "-n", "--quiet", about=self.about)
        if _loose_refs(place):
            store.write("pack-refs", "--all", "--prune", about=self.about)
        if plan.stale:
            # every object that a ref needs, blobs included
            store.read("rev-list", "--objects", "--all", "--quiet", about=f"{self.about}: checking what was fetched")
        return commit

    def _configure(self, place: Path) -> None:
        if (place / "config").read_text(encoding="utf-8") != self.config:
            atomic_write(place / "config", self.config.encode())

    def _commit(self, plan: _Plan, place: Path) -> str:
        """Return the commit for HEAD, now that the objects are there."""
        if self.frozen:
            return str(self.frozen["commit"])
        # upstream may have moved since it was asked; what was fetched counts
        listed = self.store(place).read("for-each-ref", "--format=%(refname) %(objectname)", "refs/heads", "refs/tags", about=self.about)
        commit = self.choose(replace(plan.refs, objects=dict(line.rsplit(" ", 1) for line in listed.splitlines()), peeled={}), place)
        if commit is None:
            raise GitError(
                f"{self.about}: upstream changed while it was mirrored, and has no such version any more. Run again.", problem="ref"
            )
        return commit

    def _keep(self, store: Git, name: str) -> None:
        """See to it that a commit, or a ref by full name, is in the mirror and stays there."""
        ref = name if name.startswith("refs/") else FROZEN + name
        if store.test("rev-parse", "--verify", "--quiet", ref) and not name.startswith("refs/"):
            return
        if _COMMIT.match(name) and store.test("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}") == name:
            store.write("update-ref", ref, name, about=self.about)
            return
        try:
            self._fetch(store, "origin", f"+{name}:{ref}")
        except GitError as error:
            if error.details.get("problem") not in ("ref", "other"):
                raise
            remedy = (
                "It is frozen but gone upstream: let it move (rlinf_update)"
                if self.frozen and name == self.frozen["commit"]
                else "Correct the version"
            )
            raise GitError(f"{self.about}: there is no commit {name}. {remedy}.", problem="ref") from None

    def _fetch(self, store: Git, *arguments: str) -> None:
        options = ("--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance", "--progress")
        store.fetch("fetch", *options, *arguments, about=self.about)


def _head(place: Path) -> str:
    """Return the commit that a mirror's HEAD is detached at; nothing if it is not."""
    text = (place / "HEAD").read_text(encoding="ascii", errors="replace").strip()
    return text if _COMMIT.match(text) else ""


def _peeled(store: Git | None, name: str) -> str | None:
    """Return the commit that a name stands for, if its objects are there."""
    return store.test("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}") if store else None


def _one_pack(place: Path) -> bool:
    """Return whether a mirror's objects are one pack, with nothing beside it that a killed git left over."""
    names = [path.name for path in (place / "objects" / "pack").iterdir()]
    loose = any(len(path.name) == 2 for path in (place / "objects").iterdir())
    return not loose and sum(name.endswith(".pack") for name in names) == 1 and all(name.startswith("pack-") for name in names)


def _is_kept(place: Path) -> bool:
    """Return whether ``refs/`` has what it is kept by, as it is written."""
    return (place / KEEP).is_file() and not (place / KEEP).stat().st_size


def _loose_refs(place: Path) -> bool:
    """Return whether a mirror has refs that are files of their own."""
    return any(path.is_file() and path != place / KEEP for path in (place / "refs").rglob("*"))


def _sweep(place: Path) -> None:
    """Remove what a git that was killed leaves behind; whoever works on a bundle holds its lock, so nobody is using it."""
    locks = [*place.glob("*.lock"), *(place / "refs").rglob("*.lock"), *place.glob("objects/info/*.lock")]
    temporary = [
        *place.glob("objects/pack/tmp_*"),
        *place.glob("objects/pack/.tmp-*"),
        *place.glob("objects/tmp_*"),
        *place.glob("objects/??/tmp_obj_*"),
    ]
    for path in (*locks, *temporary):
        remove(path)


# -- mirroring -----------------------------------------------------------------------------------------------------------------


def mirror(
    bundle: Bundle,
    repository: Repository,
    network: Network,
    *,
    cut_off: str | None = None,
    frozen: Mapping[str, Any] | None = None,
    move: bool = False,
    also: Sequence[str] = (),
    check: bool = False,
) -> MirrorResult:
    """Bring the mirror of one repository up to date; neither its record nor its submodules are touched.

    :param cut_off: for an entry without a version, the date or time up to which the default branch is followed.
    :param frozen: its record; the commit stays unless the version or cut-off changed.
    :param move: whether the frozen commit may move.
    :param also: further commits, or refs by full name, that the mirror must hold.
    :param check: only say what would happen (``git ls-remote``).
    :raises CatalogError: the URL or version cannot be used.
    :raises GitError: with the detail ``problem``: the kind of failure (``_git.PROBLEMS``, or ``foreign``).
    """
    repository.check()
    start = time.monotonic()
    # a version that is given says it all
    cut_off = cut_off if repository.version is None else None
    if cut_off:
        cut_off_time(cut_off)
    stays = bool(frozen) and not move and frozen is not None and (frozen["version"], frozen["cut_off"]) == (repository.version, cut_off)
    with session(url=repository.url, network=network) as git, _in_work(bundle, repository):
        work = _Work(git, bundle, repository, cut_off, frozen if stays else None, tuple(also))
        plan = work.plan()
        commit = work.apply(plan) if plan.reasons and not check else plan.commit or ""
        there = not check or plan.exists
        result = MirrorResult(
            name=repository.name,
            mirror=repository.id.mirror,
            url=work.url,
            version=repository.version,
            cut_off=cut_off,
            commit=commit,
            old_commit=str(frozen["commit"]) if frozen else plan.old_commit,
            default_branch=plan.refs.default_branch,
            changed=bool(plan.reasons),
            state="mirrored" if there else "absent",
            reason="; ".join(plan.reasons) or "up to date",
            bytes=_size(work.place) if there else 0,
            seconds=0,
        )
    if result.record != frozen and not plan.reasons:
        result = replace(result, changed=True, reason="its record differs")
    return replace(result, seconds=round(time.monotonic() - start, 3))


def mirror_one(
    bundle: Bundle, repository: Repository, network: Network, *, cut_off: str | None = None, move: bool = False, check: bool = False
) -> MirrorResult:
    """Mirror one repository and, if its entry says so, its submodules; and record their commits.

    :raises OfflineError: as :func:`mirror`; of a submodule the path is named.
    """
    return _Family(bundle, network, check).bring(repository, cut_off, move)


def mirror_all(
    bundle: Bundle,
    repositories: Sequence[Repository],
    network: Network,
    *,
    cut_off: str | None = None,
    move: bool = False,
    check: bool = False,
) -> list[Tried]:
    """Mirror repositories side by side; return what became of each, in their order.

    :raises CatalogError: two entries name one repository.
    """
    _refuse_twins(repositories)

    def one(repository: Repository) -> Tried:
        work = functools.partial(mirror_one, bundle, repository, network, cut_off=cut_off, move=move, check=check)
        return attempt(repository.name, work)

    with ThreadPoolExecutor(max_workers=max(1, network.jobs)) as pool:
        return list(pool.map(one, repositories))


def _refuse_twins(repositories: Sequence[Repository]) -> None:
    seen: dict[str, str] = {}
    for repository in repositories:
        repository.check()
        other = seen.setdefault(repository.id.key, repository.name)
        if other != repository.name or sum(item.name == repository.name for item in repositories) > 1:
            raise CatalogError(
                f"repositories {other} and {repository.name} are the same ({without_userinfo(repository.url)}), and its mirror has one HEAD. Keep one entry."
            )


@dataclass(frozen=True)
class _Family:
    """A repository and its submodules, and theirs."""

    bundle: Bundle
    network: Network
    check: bool
    seen: set[tuple[str, str]] = field(default_factory=set)

    def bring(self, repository: Repository, cut_off: str | None, move: bool, also: tuple[str, ...] = ()) -> MirrorResult:
        """Mirror a repository, record it, and go on with its submodules."""
        frozen = read_records(self.bundle).get(repository.id.mirror)
        result = mirror(self.bundle, repository, self.network, cut_off=cut_off, frozen=frozen, move=move, also=also, check=self.check)
        if not self.check:
            _record(self.bundle, result)
        return self._with_submodules(result, also[0] if also else result.commit) if repository.submodules else result

    def _with_submodules(self, result: MirrorResult, commit: str) -> MirrorResult:
        place = self.bundle.repos / result.mirror
        with session() as git:
            store = git.at(git_dir=place)
            if not commit or not place.is_dir() or _peeled(store, commit) is None:
                return result
            submodules = read_submodules(store, commit, result.url)
        changed = result.changed
        for submodule in submodules:
            if (submodule.mirror, submodule.commit) not in self.seen:
                self.seen.add((submodule.mirror, submodule.commit))
                changed |= self._bring_submodule(submodule).changed
        reason = "a submodule changed" if changed and not result.changed else result.reason
        return replace(result, submodules=tuple(submodules), changed=changed, reason=reason)

    def _bring_submodule(self, submodule: Submodule) -> MirrorResult:
        """Mirror a submodule at its commit; where it is mirrored for its own sake, its HEAD stays as it is."""
        known = read_records(self.bundle).get(submodule.mirror)
        repository = Repository(submodule.path, submodule.url, known["version"] if known else submodule.commit, submodules=True)
        try:
            return self.bring(repository, known["cut_off"] if known else None, False, (submodule.commit,))
        except OfflineError as error:
            raise type(error)(f"submodule {submodule.path}: {error}", **error.details) from None


def ensure_commit(bundle: Bundle, url: str, commit_or_ref: str, network: Network) -> str:
    """See to it that the mirror of a repository holds a commit that perhaps no branch or tag holds, and return the commit.

    The network is asked only for what is not there yet. HEAD stays; a repository without a mirror gets one.

    :param commit_or_ref: a full commit, a branch, a tag, or a ref by full name such as ``refs/pull/5/head``.
    :raises GitError: it cannot be had.
    """
    plain = without_userinfo(url)
    name = RepositoryId.parse(plain)
    place = bundle.repos / name.mirror
    names = [
        f"refs/heads/{commit_or_ref}",
        f"refs/tags/{commit_or_ref}",
        f"{FROZEN}{commit_or_ref}",
        *([commit_or_ref] if "/" in commit_or_ref else []),
    ]
    with session() as git:
        store = git.at(git_dir=place)
        known = next(filter(None, (_peeled(store, candidate) for candidate in names)), None) if place.is_dir() else None
        if known:
            return known
        frozen = read_records(bundle).get(name.mirror)
        repository = Repository(name.name, url, frozen["version"] if frozen else None)
        wanted = (commit_or_ref,) if _COMMIT.match(commit_or_ref) or commit_or_ref.startswith("refs/") else ()
        cut_off = frozen["cut_off"] if frozen else None
        _record(bundle, mirror(bundle, repository, network, cut_off=cut_off, frozen=frozen, also=wanted))
        found = next(filter(None, (_peeled(store, candidate) for candidate in (*names, commit_or_ref))), None)
    if not found:
        raise GitError(
            f"repository {name.name} ({plain}): there is no branch, tag or commit {commit_or_ref!r}. Correct it where it is asked for.",
            problem="ref",
        )
    return found


def _in_work(bundle: Bundle, repository: Repository) -> threading.Lock:
    return _IN_WORK.setdefault(bundle.repos / repository.id.mirror, threading.Lock())


def _size(place: Path) -> int:
    """Return the bytes that a mirror's files hold."""
    return sum(os.lstat(os.path.join(folder, name)).st_size for folder, _folders, names in os.walk(place) for name in names)
