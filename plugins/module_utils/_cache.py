# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prebuilt wheels and assets of the catalogue in the bundle: what is there, what is missing, and bringing it.

An unpacked asset is known by ``records/assets.json``: ``{dest: {"url", "sha256", "strip", "tree"}}``, where *sha256* is the
archive's and *tree* the digest of the paths, sizes and links that it unpacked to.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from ansible_collections.rlinf.offline.plugins.module_utils import _archive
from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Asset, Interpreter, Wheel
from ansible_collections.rlinf.offline.plugins.module_utils._errors import ArchiveError, CatalogError, FetchError, OfflineError
from ansible_collections.rlinf.offline.plugins.module_utils._fetch import Download, Fetched, Fetcher, Records
from ansible_collections.rlinf.offline.plugins.module_utils._files import (
    remove,
    sha256_bytes,
    sha256_file,
    swap_directory,
    write_json,
)
from ansible_collections.rlinf.offline.plugins.module_utils._items import answer
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._module import Module, opened
from ansible_collections.rlinf.offline.plugins.module_utils._network import Network
from ansible_collections.rlinf.offline.plugins.module_utils._records import ASSETS, read_record
from ansible_collections.rlinf.offline.plugins.module_utils._urls import without_userinfo
from ansible_collections.rlinf.offline.plugins.module_utils._wheel import check_whole

Entry = TypeVar("Entry", bound="Wheel | Asset | Interpreter")


@dataclass(frozen=True)
class Outcome:
    """What became, or in check mode would become, of one entry.

    *state*: ``present``, ``missing`` (check mode alone) or ``failed``. *bytes*: fetched, or to be fetched. *before* and *after*: the
    entry as text, for the diff.
    """

    name: str
    path: str
    changed: bool
    state: str
    reason: str
    sha256: str = ""
    bytes: int = 0
    seconds: float = 0.0
    before: str = ""
    after: str = ""

    @property
    def json(self) -> dict[str, Any]:
        """As a module returns it."""
        keys = ("name", "path", "changed", "state", "reason", "sha256", "bytes")
        return {**{key: getattr(self, key) for key in keys}, "seconds": round(self.seconds, 2)}

    @property
    def diff(self) -> dict[str, str]:
        return {"before_header": self.path, "after_header": self.path, "before": self.before, "after": self.after}


class Cache(Generic[Entry]):
    """What wheels and assets have in common: many entries at a time, of which one that fails stops no other.

    :param fetcher: with the bundle's records.
    """

    def __init__(self, bundle: Bundle, fetcher: Fetcher) -> None:
        self.bundle = bundle
        self.fetcher = fetcher

    def run(self, entries: Sequence[Entry], *, check: bool) -> list[Outcome]:
        """Bring what is missing, or with *check* say what that would be; return an outcome for each entry, in their order."""
        places = [self.place(entry) for entry in entries]

        def one(number: int) -> Outcome:
            entry, start = entries[number], time.monotonic()
            try:
                entry.check()
                self._check_alone(number, entries, places)
                outcome = self.look(entry) if check else self.bring(entry)
            except OfflineError as error:
                outcome = self._failed(entry, str(error))
            except OSError as error:
                outcome = self._failed(entry, f"{error.filename or places[number]}: {error.strerror or error}.")
            return replace(outcome, seconds=time.monotonic() - start)

        return self.fetcher.map(one, range(len(entries)))

    def place(self, entry: Entry) -> Path:
        """Return where an entry lies in the bundle."""
        raise NotImplementedError

    def look(self, entry: Entry) -> Outcome:
        """Return what is there, and what is missing how many bytes a download would fetch; change nothing."""
        raise NotImplementedError

    def bring(self, entry: Entry) -> Outcome:
        """Bring an entry unless it is there."""
        raise NotImplementedError

    def _check_alone(self, number: int, entries: Sequence[Entry], places: Sequence[Path]) -> None:
        mine = places[number]
        for other, place in enumerate(places):
            if other != number and (place == mine or place in mine.parents or mine in place.parents):
                raise CatalogError(
                    f"{entries[number].name} and {entries[other].name} would lie in each other's place, {mine} and {place}. Leave one of them out, "
                    f"or give another URL or dest."
                )

    def _path(self, entry: Entry) -> str:
        place = self.place(entry)
        return str(place.relative_to(self.bundle.root)) if place.is_relative_to(self.bundle.root) else ""

    def _failed(self, entry: Entry, message: str) -> Outcome:
        return Outcome(entry.name, self._path(entry), changed=False, state="failed", reason=message)

    def _file(self, entry: Entry, download: Download, *, check: bool) -> Outcome:
        """Look at, or bring, an entry that is one file."""
        place = download.destination
        found = self.fetcher.present(download)
        if found:
            return Outcome(entry.name, self._path(entry), changed=False, state="present", reason="there", sha256=found.sha256)
        before = f"sha256 {sha256_file(place)}\n" if place.is_file() else ""
        why = "what was there is not what was asked for" if before else "not there"
        if check:
            return self._missing(entry, download, why, before)
        return self._brought(entry, self.fetcher.fetch(download), f"{why}: fetched", before)

    def _brought(self, entry: Entry, found: Fetched, reason: str, before: str) -> Outcome:
        after = f"sha256 {found.sha256}\n"
        return Outcome(
            entry.name, self._path(entry), True, "present", reason, found.sha256, found.bytes_transferred, before=before, after=after
        )

    def _missing(self, entry: Entry, download: Download, why: str, before: str) -> Outcome:
        """Return the outcome of what a download would bring. Without network, that it is missing can be said all the same."""
        size, note = 0, ""
        if not self.fetcher.present(download):
            try:
                size = self.fetcher.remote_size(download.url) or 0
            except FetchError as error:
                note = f" ({error})"
        digest = self.fetcher.wanted(download) or ""
        after = f"sha256 {digest or 'known when it is fetched'}\n"
        return Outcome(entry.name, self._path(entry), True, "missing", f"{why}{note}", digest, size, before=before, after=after)


class WheelCache(Cache[Wheel]):
    """``wheels/<filename>``: prebuilt wheels, as their URL names them."""

    def place(self, entry: Wheel) -> Path:
        return self.bundle.wheels / entry.filename

    def look(self, entry: Wheel) -> Outcome:
        return self._file(entry, self._download(entry), check=True)

    def bring(self, entry: Wheel) -> Outcome:
        return self._file(entry, self._download(entry), check=False)

    def _download(self, entry: Wheel) -> Download:
        try:
            parse_wheel_filename(entry.filename)
        except InvalidWheelFilename as error:
            raise CatalogError(f"wheel {entry.name}: {error}. Give the URL of the wheel itself.") from None
        return Download(entry.url, self.place(entry), entry.sha256, judge=lambda path: check_whole(path, entry.filename))


class InterpreterCache(Cache[Interpreter]):
    """``interpreters/<version>/<machine>/<filename>``: one archive for each."""

    def place(self, entry: Interpreter) -> Path:
        return self.bundle.interpreter(entry.python, entry.machine) / entry.filename

    def look(self, entry: Interpreter) -> Outcome:
        return self._file(entry, self._download(entry), check=True)

    def bring(self, entry: Interpreter) -> Outcome:
        outcome = self._file(entry, self._download(entry), check=False)
        place = self.place(entry)
        for other in set(place.parent.glob("*.tar.gz")) - {place}:
            remove(other)
        return outcome

    def _download(self, entry: Interpreter) -> Download:
        return Download(entry.url, self.place(entry), entry.sha256, judge=lambda path: check_interpreter(path, entry.python))


class AssetCache(Cache[Asset]):
    """``assets/<dest>``: a file, or the directory that an archive unpacks to."""

    def __init__(self, bundle: Bundle, fetcher: Fetcher) -> None:
        super().__init__(bundle, fetcher)
        self.record = bundle.records / "assets.json"
        self._guard = threading.Lock()
        self._unpacked: dict[str, dict[str, Any]] = read_record(bundle, self.record.name, ASSETS, FetchError)

    def place(self, entry: Asset) -> Path:
        return self.bundle.assets / entry.dest

    def look(self, entry: Asset) -> Outcome:
        if not entry.unpack:
            return self._file(entry, self._download(entry), check=True)
        archive = self._archive(entry)
        problem = self._problem(entry, archive)
        return self._missing(entry, archive, problem, self._before(entry, problem)) if problem else self._there(entry)

    def bring(self, entry: Asset) -> Outcome:
        if not entry.unpack:
            return self._file(entry, self._download(entry), check=False)
        place, archive = self.place(entry), self._archive(entry)
        fresh, old = place.with_name(f".{place.name}.part"), place.with_name(f".{place.name}.old")
        remove(fresh)
        problem = self._problem(entry, archive)
        if not problem:
            remove(old)
            return self._there(entry)
        before = self._before(entry, problem)
        found = self.fetcher.fetch(archive)
        place.parent.mkdir(parents=True, exist_ok=True)
        files = _archive.unpack(archive.destination, fresh, strip=entry.strip)
        tree = tree_digest(fresh)
        swap_directory(fresh, place)
        self._remember(entry, found.sha256, tree)
        return self._brought(entry, found, f"{problem}: unpacked {files} files", before)

    def _download(self, entry: Asset) -> Download:
        place = self.place(entry)
        if place.is_dir():
            raise FetchError(f"{place} is a directory, but the asset {entry.name} is a file. Remove it, or set unpack: true.")
        return Download(entry.url, place, entry.sha256, judge=lambda path: check_no_page(path, entry.url))

    def _archive(self, entry: Asset) -> Download:
        """Return the download of an archive, which is kept outside of what is carried, so that it need not be fetched twice."""
        folder = self.bundle.cache / "assets" / sha256_bytes(without_userinfo(entry.url).encode())[:16]
        place = folder / (PurePosixPath(urlsplit(entry.url).path).name or "archive")
        return Download(entry.url, place, entry.sha256, judge=lambda path: _archive.examine(path, strip=entry.strip))

    def _there(self, entry: Asset) -> Outcome:
        return Outcome(entry.name, self._path(entry), False, "present", "there", self._unpacked[entry.dest]["sha256"] or "")

    def _problem(self, entry: Asset, archive: Download) -> str:
        """Return why an archive must be unpacked (again); nothing if what is there is what it unpacks to, by paths and sizes."""
        known, place = self._unpacked.get(entry.dest), self.place(entry)
        if not place.is_dir() or place.is_symlink():
            return "not there"
        if known is None:
            return "what was there is not on record"
        if known["sha256"] != self.fetcher.wanted(archive) or known["strip"] != entry.strip:
            return "what was there comes from another archive"
        return "" if tree_digest(place) == known["tree"] else "what was there is damaged or incomplete"

    def _before(self, entry: Asset, problem: str) -> str:
        if not self.place(entry).exists():
            return ""
        known = self._unpacked.get(entry.dest)
        return f"sha256 {known['sha256']}\n" if known and "another archive" in problem else f"{problem}\n"

    def _remember(self, entry: Asset, sha256: str | None, tree: str) -> None:
        """Put an unpacked archive on record; *sha256* is None where somebody else has unpacked it, and the archive was never seen."""
        with self._guard:
            self._unpacked[entry.dest] = {"url": without_userinfo(entry.url), "sha256": sha256, "strip": entry.strip, "tree": tree}
            self.record.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.record, self._unpacked)


def tree_digest(root: Path) -> str:
    """Return a digest of what a tree holds: paths, sizes of files and targets of links, but not the content of files."""
    digest = hashlib.sha256()
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted([*names, *folders]):
            path = os.path.join(folder, name)
            what = os.readlink(path) if os.path.islink(path) else "/" if name in folders else str(os.lstat(path).st_size)
            digest.update(f"{os.path.relpath(path, root)}\0{what}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def check_interpreter(path: Path, python: str) -> None:
    """:raises ArchiveError: an archive must not be unpacked, or holds no interpreter of this version."""
    minor = ".".join(python.split(".")[:2])
    wanted = f"bin/python{minor}"
    if not any(member.path == wanted for member in _archive.examine(path, strip=True)):
        raise ArchiveError(f"{path.name} holds no {wanted} below its top folder. Give an install_only archive of Python {python}.")


def check_no_page(path: Path, url: str) -> None:
    """Refuse a web page where a file of another kind was asked for: portals and proxies answer with one, and with status 200.

    :raises FetchError: it is one.
    """
    with path.open("rb") as stream:
        begin = stream.read(512).lstrip().lower()
    asked = PurePosixPath(urlsplit(url).path).suffix.lower()
    if begin.startswith((b"<!doctype html", b"<html")) and asked not in (".html", ".htm", ""):
        raise FetchError("a web page, perhaps one to log in or to say no. Open the URL in a browser on this machine's network")


def bring_all(module: Module, kind: type[Cache[Any]], entries: Sequence[Entry], what: str) -> dict[str, Any]:
    """Bring entries for a module that has the arguments of ``_module.FETCH``, and return its result.

    :param kind: the cache that they belong in.
    :param what: what they are, in the plural.
    :raises OfflineError: some failed; each is named.
    """
    network = Network.of(module.params)
    with opened(module) as bundle:
        outcomes = kind(bundle, Fetcher(network, records=Records.of(bundle))).run(entries, check=module.check_mode)
    return answer(outcomes, what, diff=module._diff)
