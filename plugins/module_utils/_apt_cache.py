# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""System packages in the bundle: for each release of the nodes a flat repository of what they lack, and nothing else."""

from __future__ import annotations

import contextlib
import email.utils
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._apt import BEFORE_PUSH, PACKAGES, RECORD
from ansible_collections.rlinf.offline.plugins.module_utils._apt_resolve import Root, Source, located
from ansible_collections.rlinf.offline.plugins.module_utils._errors import AptError, FetchError
from ansible_collections.rlinf.offline.plugins.module_utils._fetch import Download, Fetcher
from ansible_collections.rlinf.offline.plugins.module_utils._files import (
    atomic_write,
    json_bytes,
    read_json,
    remove,
    sha256_bytes,
    write_json,
)
from ansible_collections.rlinf.offline.plugins.module_utils._items import lines_diff
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle

FORMAT = 1
_INSTALLED_SIZE = re.compile(r"(?m)^Installed-Size: (\d+)$")


@dataclass(frozen=True)
class Release:
    """A release of a distribution that nodes run, and what they shall have.

    :param name: as ``os-release`` says it: ``ubuntu-22.04``, ``debian-12``.
    :param architecture: in Debian's words.
    :param packages: the packages that a node shall have.
    :param states: the nodes' package states, as ``/var/lib/dpkg/status`` has them; without any, a minimal system is taken as the start.
    """

    name: str
    architecture: str
    sources: tuple[Source, ...]
    packages: tuple[str, ...]
    states: tuple[str, ...] = ()

    def definition(self) -> str:
        """Return the digest of everything that decides which files are brought; from which mirror they come does not."""
        parts = {
            "sources": [[source.mirror, source.suites, source.components] for source in self.sources],
            "packages": sorted(self.packages),
            "states": sorted({sha256_bytes(state.encode()) for state in self.states}),
        }
        return sha256_bytes(json_bytes({"format": FORMAT, "architecture": self.architecture, **parts}))


@dataclass(frozen=True)
class Outcome:
    """What became of a release's packages; *before* and *after* name the files, for a diff."""

    name: str
    changed: bool
    state: str
    reason: str
    packages: int = 0
    bytes: int = 0
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    @property
    def json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key not in ("before", "after")}

    @property
    def diff(self) -> dict[str, str]:
        """The files of the repository."""
        return lines_diff(f"{self.name} (packages)", self.before, self.after)


@dataclass(frozen=True)
class AptCache:
    """Brings the files of releases into one bundle."""

    bundle: Bundle
    fetcher: Fetcher
    update: frozenset[str] = field(default_factory=frozenset)

    def bring(self, release: Release, *, check: bool = False) -> Outcome:
        """Have the repository of a release in the bundle.

        What is there for the same packages, sources and states stays as it is, unless the release is to be updated; the network is then
        not asked. In check mode apt resolves in its private root, and nothing enters the bundle.

        :raises AptError: a package cannot be resolved.
        :raises FetchError: a file cannot be had.
        """
        folder = self.bundle.apt(release.name, release.architecture)
        known = self._known(folder)
        definition = release.definition()
        before = tuple(sorted(file["filename"] for file in known["files"])) if known else ()
        if known and known["definition"] == definition and _written(folder, known) and release.name not in self.update:
            return self._complete(release, folder, known, before, check=check)
        release = replace(release, sources=located(release.sources))
        with self._scratch(release, check=check) as path:
            files, first, packages = self._resolve(release, Root(path, release.architecture, release.sources, self.fetcher.network))
        after = tuple(sorted(file["filename"] for file in files))
        size = sum(file["size"] for file in files)
        record: dict[str, Any] = {
            "format": FORMAT,
            "release": release.name,
            "architecture": release.architecture,
            "definition": definition,
            "packages": sorted(release.packages),
            "files": files,
            "before_push": first,
            "index": sha256_bytes(packages.encode()),
        }
        changed = known is None or known != record or not _written(folder, known)
        reason = "resolved for the first time" if known is None else "resolved again" + ("" if known != record else ", the same")
        if not check:
            self._fetch(release, folder, files)
            self._write(folder, record, packages)
        state = "present" if not check or not changed else "missing"
        return Outcome(release.name, changed, state, reason, len(files), size, before, after)

    @contextlib.contextmanager
    def _scratch(self, release: Release, *, check: bool) -> Iterator[Path]:
        """Give a folder for apt's private root; a check leaves the bundle alone, and another place is not found again after a kill."""
        if check:
            with tempfile.TemporaryDirectory() as folder:
                yield Path(folder) / "apt"
            return
        path = self.bundle.cache / "apt" / f"{release.name}-{release.architecture}"
        try:
            yield path
        finally:
            remove(path)

    def _known(self, folder: Path) -> dict[str, Any] | None:
        path = folder / RECORD
        return dict(read_json(path, AptError, PACKAGES)) if path.is_file() else None

    def _complete(self, release: Release, folder: Path, known: Mapping[str, Any], before: tuple[str, ...], *, check: bool) -> Outcome:
        """Bring again what is missing of a repository; it must be the same bytes."""
        files = known["files"]
        missing = [file for file in files if not _there(folder, file)]
        if not missing:
            size = sum(file["size"] for file in files)
            return Outcome(release.name, False, "present", "every file is there", len(files), size, before, before)
        if not check:
            self._fetch(replace(release, sources=located(release.sources)), folder, missing)
        size = sum(file["size"] for file in missing)
        state = "missing" if check else "present"
        kept = tuple(name for name in before if name not in {file["filename"] for file in missing})
        return Outcome(release.name, True, state, f"{len(missing)} missing files", len(files), size, kept, before)

    def _resolve(self, release: Release, root: Root) -> tuple[list[dict[str, Any]], list[str], str]:
        """Return what the record says of the files that any of the states lacks, and their stanzas as the sources' Packages files have them.

        Between them the names of those files that a node needs before it can have a bundle.
        """
        root.prepare()
        states = sorted(set(release.states)) or [root.minimal_state()]
        found = {deb.filename: deb for state in states for deb in root.lacking(release.packages, state)}
        first = {deb.place for state in states for deb in root.lacking([BEFORE_PUSH], state)} if BEFORE_PUSH in release.packages else set()
        debs = [found[name] for name in sorted(found)]
        stanzas = root.stanzas(debs)
        files = []
        for deb, stanza in zip(debs, stanzas, strict=True):
            (mirror, path), kib = root.place_of(deb), _INSTALLED_SIZE.search(stanza)
            files.append(
                {
                    "package": deb.package,
                    "filename": deb.place,
                    "mirror": mirror,
                    "path": path,
                    "sha256": deb.sha256,
                    "size": deb.size,
                    "installed": int(kib[1]) * 1024 if kib else deb.size,
                }
            )
        return files, sorted(first), "".join(f"{stanza}\n\n" for stanza in stanzas)

    def _fetch(self, release: Release, folder: Path, files: Sequence[Mapping[str, Any]]) -> None:
        """Fetch what is not there of these files.

        :raises FetchError: one cannot be had.
        """
        urls = {source.mirror: source.url for source in release.sources}
        downloads = [
            Download(f"{urls[file['mirror']]}{file['path']}", folder / file["filename"], sha256=file["sha256"], size=file["size"])
            for file in files
            if not _there(folder, file)
        ]
        try:
            self.fetcher.fetch_every(downloads, "packages")
        except FetchError as error:
            raise FetchError(f"{error}\nIf the mirror has gone on to newer ones, name {release.name} in rlinf_update.") from None

    def _write(self, folder: Path, record: Mapping[str, Any], packages: str) -> None:
        """Write the repository's indexes, the record last; files that are no longer of it go."""
        content = packages.encode()
        atomic_write(folder / "Packages", content)
        atomic_write(folder / "Release", _description(record, len(content)))
        write_json(folder / RECORD, record)
        wanted = {file["filename"] for file in record["files"]}
        for path in folder.glob("*.deb"):
            if path.name not in wanted:
                remove(path)


def _written(folder: Path, record: Mapping[str, Any]) -> bool:
    """Return whether the indexes are those of this record, which is written last: a run that was cut off between them leaves others."""
    packages, release = folder / "Packages", folder / "Release"
    if not packages.is_file() or not release.is_file():
        return False
    content = packages.read_bytes()
    return sha256_bytes(content) == record["index"] and release.read_bytes() == _description(record, len(content))


def _description(record: Mapping[str, Any], size: int) -> bytes:
    """Return the Release file of a repository whose Packages file is that of this record, and has so many bytes."""
    lines = (
        "Origin: rlinf.offline",
        f"Suite: {record['release']}",
        f"Architectures: {record['architecture']}",
        f"Date: {email.utils.formatdate(0, usegmt=True)}",
        "SHA256:",
        f" {record['index']} {size} Packages",
    )
    return "".join(f"{line}\n" for line in lines).encode()


def _there(folder: Path, file: Mapping[str, Any]) -> bool:
    place = folder / str(file["filename"])
    return place.is_file() and place.stat().st_size == file["size"]
