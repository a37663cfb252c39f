# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an older system has downloaded, taken into the bundle: clones, prebuilt wheels and assets of the catalogue, each looked at first.

The old directory is only read, and nothing in the bundle depends on it afterwards. Clones are known by the URL of their origin and
checked by git. A wheel or an asset is compared with the SHA-256 that the catalogue or the bundle's records know. Where none is known, it is
taken if its format says that it is whole, and called ``unverified``: that it is what its URL serves was not seen.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils import _whole
from ansible_collections.rlinf.offline.plugins.module_utils._cache import AssetCache, Cache, WheelCache, tree_digest
from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Asset, Catalog, Repository, Wheel
from ansible_collections.rlinf.offline.plugins.module_utils._errors import ArchiveError, BundleError, CatalogError, GitError, OfflineError
from ansible_collections.rlinf.offline.plugins.module_utils._fetch import Download, Fetcher, Records
from ansible_collections.rlinf.offline.plugins.module_utils._files import (
    atomic_write,
    exclusive,
    fsync_file,
    remove,
    rename,
    sha256_file,
    swap_directory,
)
from ansible_collections.rlinf.offline.plugins.module_utils._git import Git, session
from ansible_collections.rlinf.offline.plugins.module_utils._items import answer
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._mirror import KEEP, mirror_config
from ansible_collections.rlinf.offline.plugins.module_utils._network import Network
from ansible_collections.rlinf.offline.plugins.module_utils._urls import RepositoryId, Rewrites, redact, without_userinfo
from ansible_collections.rlinf.offline.plugins.module_utils._wheel import check_whole

OTHERS = frozenset({"wheels", "assets"})
"""Directories of the old system that hold no clone."""
UNSEEN = "whether it is what its URL serves was not seen, as no sha256 is known. To have it fetched, give its sha256 or take it out of the old directory"


@dataclass(frozen=True)
class Adopted:
    """What became, or in check mode would become, of one thing in the old directory.

    *kind*: ``repository``, ``wheel`` or ``asset``. *state*: ``adopted``, ``unverified`` (adopted, but compared with no digest),
    ``present`` (in the bundle already), ``refused`` (it is damaged; the download fetches it) or ``left`` (nothing of the catalogue).
    *source* is its path in the old directory, *path* that in the bundle; *bytes* are what is taken.
    """

    name: str
    kind: str
    source: str
    state: str
    reason: str
    path: str = ""
    sha256: str = ""
    bytes: int = 0
    seconds: float = 0.0

    @property
    def changed(self) -> bool:
        return self.state in ("adopted", "unverified")

    @property
    def json(self) -> dict[str, Any]:
        return {**asdict(self), "changed": self.changed, "seconds": round(self.seconds, 2)}

    @property
    def diff(self) -> dict[str, str]:
        return {"before_header": self.path, "after_header": self.path, "before": "", "after": f"{self.state} from {self.source}\n"}


def adopt(
    bundle: Bundle, source: Path, catalog: Catalog, *, leave_out: Sequence[str] = (), rewrites: Rewrites | None = None, check: bool = False
) -> list[Adopted]:
    """Take what *source* holds of the catalogue into the bundle; return what became of each thing found there.

    :param leave_out: names of wheels and assets that are not wanted.
    :param rewrites: a clone may name the rewritten URL of a repository as its origin.
    :param check: look at everything, and change nothing.
    :raises BundleError: there is no such directory, or it is the bundle.
    """
    if not source.is_dir():
        raise BundleError(f"rlinf_adopt_dir: there is no directory {source}. Correct it, or leave it empty to have everything downloaded.")
    if source.resolve() == bundle.root.resolve():
        raise BundleError(f"rlinf_adopt_dir: {source} is the bundle itself. Give the directory of the old system.")
    with contextlib.nullcontext() if check else exclusive(bundle.lock_file, f"the bundle {bundle.root}"):
        work = _Adoption(bundle, source, catalog, frozenset(leave_out), rewrites or Rewrites(), check)
        return [*work.repositories(), *work.wheels(), *work.assets()]


class _Local(Fetcher):
    """A fetcher to which the old directory is what every URL leads to."""

    def __init__(self, records: Records) -> None:
        super().__init__(Network(jobs=1), records=records)
        self.places: dict[str, Path] = {}

    def actual(self, url: str) -> str:
        return self.places[url].as_uri()


class _Trees(AssetCache):
    """Assets that were unpacked by somebody else."""

    def is_there(self, entry: Asset) -> bool:
        """Return whether the bundle has the asset, as its records say."""
        return not self._problem(entry, self._archive(entry))

    def wanted(self, entry: Asset) -> str | None:
        """Return the digest of the archive, if it is known."""
        return self.fetcher.wanted(self._archive(entry))

    def take(self, entry: Asset, tree: Path) -> None:
        """Copy a tree to its place and record it, with no digest of an archive."""
        place = self.place(entry)
        fresh = place.with_name(f".{place.name}.part")
        remove(fresh)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(tree, fresh, symlinks=True, copy_function=_copy)
        digest = tree_digest(fresh)
        swap_directory(fresh, place)
        self._remember(entry, None, digest)


def _copy(source: str, destination: str) -> None:
    shutil.copy2(source, destination)
    os.chmod(destination, 0o755 if os.stat(source).st_mode & stat.S_IXUSR else 0o644)
    fsync_file(Path(destination))


@dataclass(frozen=True)
class _Adoption:
    """The old directory on its way into the bundle."""

    bundle: Bundle
    source: Path
    catalog: Catalog
    leave_out: frozenset[str]
    rewrites: Rewrites
    check: bool

    # -- clones

    def repositories(self) -> Iterator[Adopted]:
        """Take each clone whose origin is a repository of the catalogue."""
        with session(url=self.source.as_uri()) as git:
            for place in sorted(self.source.iterdir()):
                if place.is_dir() and place.name not in OTHERS and (not place.name.startswith(".") or place.suffix == ".git"):
                    yield self._timed(lambda clone=place: self._repository(git, clone))  # type: ignore[misc]

    def _repository(self, git: Git, place: Path) -> Adopted:
        clone, found = git.at(tree=place), Adopted(place.name, "repository", str(place), "left", "")
        if clone.test("rev-parse", "--git-dir") is None:
            return replace(found, reason="it is no git repository")
        origin = clone.test("config", "--get", "remote.origin.url") or ""
        repository = self._known(origin)
        if repository is None:
            return replace(found, reason=f"its origin is {redact(origin) or 'not set'}, which is no repository of the catalogue")
        mirror = self.bundle.repos / repository.id.mirror
        found = replace(found, name=repository.name, path=str(mirror.relative_to(self.bundle.root)))
        if mirror.exists():
            return replace(found, state="present", reason="mirrored already")
        try:
            head, specs = _branches_of(clone, f"the clone {place}")
            clone.read("fsck", "--full", "--no-dangling", "--no-progress", about=f"the clone {place}")
            if not self.check:
                _make_mirror(git, place, mirror, without_userinfo(repository.url), head, specs)
        except GitError as error:
            return replace(found, state="refused", reason=str(error))
        size = sum(path.lstat().st_size for path in (place if self.check else mirror).rglob("*"))
        return replace(found, state="adopted", reason="checked by git; the download fetches what it lacks", bytes=size)

    def _known(self, origin: str) -> Repository | None:
        """Return the repository of the catalogue that a URL names, by host, owner and name."""
        for repository in self.catalog.repositories.values():
            for url in (repository.url, self.rewrites.apply(repository.url)):
                with contextlib.suppress(CatalogError):
                    if RepositoryId.parse(url).key == RepositoryId.parse(origin).key:
                        return repository
        return None

    # -- wheels

    def wheels(self) -> Iterator[Adopted]:
        """Take each wheel that the catalogue names, by its file name."""
        fetcher = _Local(Records.of(self.bundle))
        cache = WheelCache(self.bundle, fetcher)
        known = {entry.filename: entry for name, entry in self.catalog.wheels.items() if name not in self.leave_out}
        for place in sorted((self.source / "wheels").glob("*.whl")):
            entry = known.get(place.name)
            if entry is None:
                yield Adopted(place.name, "wheel", str(place), "left", "no wheel of the catalogue has this file name")
            else:
                yield self._timed(lambda file=place, wheel=entry: self._file(cache, fetcher, wheel, file, _check_wheel))  # type: ignore[misc]

    # -- assets

    def assets(self) -> Iterator[Adopted]:
        """Take each asset of the catalogue that lies where it will lie on a node, below the old directory or its ``assets/``."""
        fetcher = _Local(Records.of(self.bundle))
        cache = _Trees(self.bundle, fetcher)
        for name, entry in self.catalog.assets.items():
            place = next((top / entry.dest for top in (self.source / "assets", self.source) if (top / entry.dest).exists()), None)
            if place is None or name in self.leave_out:
                continue
            if entry.unpack:
                yield self._timed(lambda tree=place, asset=entry: self._tree(cache, asset, tree))  # type: ignore[misc]
            else:
                yield self._timed(lambda file=place, asset=entry: self._file(cache, fetcher, asset, file, _whole.check))  # type: ignore[misc]

    def _tree(self, cache: _Trees, entry: Asset, tree: Path) -> Adopted:
        found = Adopted(entry.name, "asset", str(tree), "refused", "", str(cache.place(entry).relative_to(self.bundle.root)))
        if cache.is_there(entry):
            return replace(found, state="present", reason="there")
        if cache.wanted(entry):
            return replace(found, reason="the sha256 of its archive is known, and what was unpacked cannot be compared with that")
        try:
            files, told, size = _look_through(tree)
        except ArchiveError as error:
            return replace(found, reason=str(error))
        if not self.check:
            cache.take(entry, tree)
        reason = f"{files} files, of which {told} say themselves that they are whole; whether a file is missing, and {UNSEEN}"
        return replace(found, state="unverified", reason=reason, bytes=size)

    # -- what wheels and assets of one file have in common

    def _file(self, cache: Cache[Any], fetcher: _Local, entry: Wheel | Asset, place: Path, judge: Callable[[Path], bool]) -> Adopted:
        kind = "wheel" if isinstance(entry, Wheel) else "asset"
        target = cache.place(entry)
        found = Adopted(entry.name, kind, str(place), "refused", "", str(target.relative_to(self.bundle.root)))
        download = Download(entry.url, target, entry.sha256)
        if fetcher.present(download):
            return replace(found, state="present", reason="there")
        wanted, digest, size = fetcher.wanted(download), sha256_file(place), place.stat().st_size
        if wanted not in (None, digest):
            return replace(found, reason=f"its sha256 is {digest}, not {wanted}, which is known of it")
        try:
            if not judge(place) and wanted is None:
                return replace(found, reason="its format does not say whether it is whole, and no sha256 of it is known")
        except ArchiveError as error:
            return replace(found, reason=str(error))
        if not self.check:
            fetcher.places[entry.url] = place
            [outcome] = cache.run([entry], check=False)
            if outcome.state == "failed":
                return replace(found, reason=outcome.reason)
        state, reason = ("adopted", "its sha256 is the one that is known") if wanted else ("unverified", f"whole; {UNSEEN}")
        return replace(found, state=state, reason=reason, sha256=digest, bytes=size)

    def _timed(self, work: Callable[[], Adopted]) -> Adopted:
        start = time.monotonic()
        return replace(work(), seconds=time.monotonic() - start)


# -- looking -------------------------------------------------------------------------------------------------------------------


def _branches_of(clone: Git, about: str) -> tuple[str, tuple[str, ...]]:
    """Return the commit that the default branch of a clone's remote is at, and what to fetch of the clone.

    :raises GitError: it lacks a part of its history, or holds no branch of its remote.
    """
    if clone.test("rev-parse", "--is-shallow-repository") != "false" or clone.test("config", "--get", "extensions.partialClone"):
        raise GitError(f"{about} is shallow or partial: it lacks a part of its history.", problem="shallow")
    bare = clone.test("rev-parse", "--is-bare-repository") == "true"
    prefix = "refs/heads/" if bare else "refs/remotes/origin/"
    listed = clone.read("for-each-ref", "--format=%(refname)", prefix.rstrip("/"), about=about).splitlines()
    names = [name for name in listed if name != f"{prefix}HEAD"]
    if not names:
        raise GitError(f"{about} holds no branch of its remote: it was never finished.", problem="repository")
    default = (clone.test("symbolic-ref", "HEAD" if bare else f"{prefix}HEAD"), f"{prefix}main", f"{prefix}master", names[0])
    head = next(name for name in default if name in names)
    commit = clone.read("rev-parse", f"{head}^{{commit}}", about=about)
    # where its remote's HEAD is, a clone notes beside the branches
    return commit, (f"+{prefix}*:refs/heads/*", "+refs/tags/*:refs/tags/*", *(() if bare else (f"^{prefix}HEAD",)))


def _make_mirror(git: Git, clone: Path, mirror: Path, url: str, head: str, specs: Sequence[str]) -> None:
    """Make a mirror out of a clone. git hands the objects over as to another machine: each is hashed, and nothing is shared."""
    part, about = mirror.with_name(f"{mirror.name}.part"), f"the clone {clone}"
    remove(part)
    part.parent.mkdir(parents=True, exist_ok=True)
    store = git.at(git_dir=part)
    git.write("init", "--quiet", "--bare", "--template=", "--", part, about=about)
    try:
        atomic_write(part / "config", mirror_config(url).encode())
        atomic_write(part / KEEP, b"")
        store.write("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--", clone, *specs, about=about)
        store.write("update-ref", "--no-deref", "HEAD", head, about=about)
        store.write("pack-refs", "--all", "--prune", about=about)
    except OfflineError:
        remove(part)
        raise
    rename(part, mirror)


def _check_wheel(place: Path) -> bool:
    """:raises ArchiveError: a wheel is empty, cut off, or not what its name and its RECORD say."""
    _whole.check(place)
    check_whole(place, place.name)
    return True


def _look_through(tree: Path) -> tuple[int, int, int]:
    """Look at every file of an unpacked archive; return how many there are, how many of them say that they are whole, and the bytes.

    :raises ArchiveError: one is not whole, or something is there that does not belong into a bundle; it is named.
    """
    if not tree.is_dir() or tree.is_symlink():
        raise ArchiveError("it is not the directory that its archive unpacks to")
    files = told = size = 0
    root = tree.resolve()
    for path in sorted(tree.rglob("*")):
        name, status = path.relative_to(tree), path.lstat()
        if stat.S_ISLNK(status.st_mode):
            if os.path.isabs(os.readlink(path)) or not path.resolve().is_relative_to(root):
                raise ArchiveError(f"{name} is a link that leads out of it")
        elif stat.S_ISREG(status.st_mode):
            try:
                told += _whole.check(path)
            except ArchiveError as error:
                raise ArchiveError(f"{name}: {error}") from None
            files, size = files + 1, size + status.st_size
        elif not stat.S_ISDIR(status.st_mode):
            raise ArchiveError(f"{name} is neither a file, a directory nor a link")
    if not files:
        raise ArchiveError("it is empty")
    return files, told, size


def run(params: Mapping[str, Any], *, check: bool, diff: bool) -> dict[str, Any]:
    """Do the work of the module with its arguments and return its result. What was refused is a warning: the download fetches it."""
    catalog = Catalog.parse(params["catalog"])
    bundle, source = Bundle(Path(params["bundle_dir"]).resolve()), Path(params["src"]).absolute()
    found = adopt(bundle, source, catalog, leave_out=params["leave_out"], rewrites=Rewrites(params["url_rewrites"]), check=check)
    told = [
        f"{item.kind} {item.name} ({item.source}) is {item.state}: {item.reason}"
        for item in found
        if item.state in ("refused", "unverified")
    ]
    if not any(item.state != "left" for item in found):
        told.append(
            f"{source} holds no clone, wheel or asset of the catalogue: everything is downloaded. Correct rlinf_adopt_dir if it should."
        )
    return {**answer(found, "items", diff=diff), "warnings": told}
