# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bundle on removable media: volumes of a given size, and reading them back. Standard library only.

A volume is a directory: ``data/`` with numbered files, the manifest and its signature, ``volume.json``, which says what of which file they
are, and ``SHA256SUMS``, which ``sha256sum --check`` reads. No name in it troubles a file system of removable media, no file is larger than
FAT32 allows, and there is no link: links are in ``volume.json``. That file also says which file every volume begins with, so that one
volume is enough to tell which others are needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import re
import stat
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from ansible_collections.rlinf.offline.plugins.module_utils._bundle import read_manifest, size_text
from ansible_collections.rlinf.offline.plugins.module_utils._closure import files_for
from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError
from ansible_collections.rlinf.offline.plugins.module_utils._faults import checkpoint
from ansible_collections.rlinf.offline.plugins.module_utils._files import (
    CHUNK,
    atomic_write,
    fsync_directory,
    fsync_file,
    json_bytes,
    parse_json,
    read_json,
    remove,
    rename,
    sha256_bytes,
    sha256_file,
    switch_link,
    write_json,
)
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._progress import Meter

FORMAT = 1
FOLDER = "rlinf-"
"""What the name of a volume's directory begins with; its number follows."""
LARGEST = (1 << 32) - 1
"""The bytes that a file of FAT32 can have."""
SMALLEST = 1 << 20
"""The bytes that a volume must have room for beside the manifest."""
DESCRIPTION, SUMS = "volume.json", "SHA256SUMS"
_VOLUME = re.compile(FOLDER + r"[0-9]{3,}(?P<cut_off>\.part)?")
_PART = re.compile(r"data/[0-9]{3,}/[0-9]{6,}")
# a directory of FAT32 takes 65,536 names
_NAMES = 10_000
# what the lines about a part take in the description and the check file
_LINES = 512


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a file: *size* bytes of *path* from *offset* on lie in *file* of the volume; *mode* is the whole file's."""

    file: str
    path: str
    offset: int
    size: int
    mode: int


@dataclass
class Outcome:
    """What writing or reading came to: the volumes there are, those that were written, read or removed now, bytes, and why."""

    volumes: int
    done: list[int] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    sealed: bool = False
    bytes: int = 0
    reason: str = ""

    @property
    def changed(self) -> bool:
        return bool(self.done or self.removed or self.sealed)


# -- writing -------------------------------------------------------------------------------------------------------------------


def plan(files: Mapping[str, tuple[int, int]], room: int) -> list[list[Part]]:
    """Return the parts of each volume: the files by name, one after the other, cut where a volume or a file of it is full.

    :param files: bytes and mode by path.
    :param room: bytes of a volume.
    """
    volumes: list[list[Part]] = [[]]
    left = room
    for path, (size, mode) in sorted(files.items()):
        offset = 0
        while offset < size or offset == size == 0:
            if left <= _LINES:
                volumes.append([])
                left = room
            count = min(size - offset, left - _LINES, LARGEST)
            number = len(volumes[-1]) + 1
            volumes[-1].append(Part(f"data/{number // _NAMES:03}/{number:06}", path, offset, count, mode))
            left -= count + _LINES
            offset += count
            if not size:
                break
    return volumes


def write(
    bundle: Bundle,
    destination: Path,
    size: int,
    *,
    targets: Sequence[str] = (),
    release: str = "",
    volumes: Sequence[int] = (),
    check: bool = False,
) -> Outcome:
    """Write a sealed bundle as volumes below *destination*; one that is there as it must be is left alone.

    Volumes of another bundle, or of this one as it was, are removed first: a medium has no room for both, and they cannot be read together.

    :param size: bytes that a volume has at most, what a file system needs for itself aside.
    :param targets: those whose files are needed, as :func:`._closure.files_for` takes them, and *release*.
    :param volumes: the numbers of those to write, where one medium after the other is put in; all if none is named.
    :param check: only say which would be written.
    :raises BundleError: the bundle is not sealed, or not what its manifest says; the volumes are too small, or not so many; or the medium
        has no room for them.
    """
    entries = read_manifest(bundle)["files"]
    texts = {"bundle.json": bundle.manifest.read_bytes()}
    if bundle.signature.is_file():
        texts["bundle.json.sig"] = bundle.signature.read_bytes()
    wanted = files_for(bundle, entries, targets, release)
    common = {
        "format": FORMAT,
        "digests": {name: sha256_bytes(text) for name, text in texts.items()},
        "links": {path: entries[path]["link"] for path in wanted if "link" in entries[path]},
        "left_out": sorted(set(entries) - set(wanted)),
    }
    whole = {path: (int(entries[path]["size"]), _mode(bundle, path)) for path in wanted if "link" not in entries[path]}
    room = size - sum(map(len, texts.values())) - len(json_bytes(common))
    # a volume says where each of them begins; half of the room is surely less than the parts of one take
    count = sum(length + _LINES for length, _ignored in whole.values()) // max(room // 2, 1) + 1
    room -= count * (max((len(json_bytes(path)) for path in whole), default=0) + 64)
    if room < SMALLEST:
        raise BundleError(f"Volumes of {size_text(size)} are too small: the manifest of the bundle comes with each. Give a larger size.")
    planned = plan(whole, room)
    unknown = sorted(set(volumes) - set(range(1, len(planned) + 1)))
    if unknown:
        raise BundleError(f"There is no volume {unknown[0]}: the bundle takes {len(planned)} of {size_text(size)}.")
    common["of"] = len(planned)
    common["starts"] = [[parts[0].path, parts[0].offset] if parts else ["", 0] for parts in planned]
    described = {
        f"{FOLDER}{number:03}": json_bytes({**common, "number": number, "parts": parts}, default=asdict)
        for number, parts in enumerate(planned, 1)
    }
    outcome = Outcome(len(planned))
    stale = list(_stale(destination, described))
    outcome.removed = [folder.name for folder in stale]
    fresh: list[_Fresh] = []
    for number, (parts, (name, description)) in enumerate(zip(planned, described.items(), strict=True), 1):
        volume = _Fresh(destination / name, parts, {DESCRIPTION: description, **texts})
        if (volumes and number not in volumes) or volume.written():
            continue
        outcome.done.append(number)
        outcome.bytes += sum(part.size for part in parts)
        fresh.append(volume)
    sizes = [size for volume in fresh for size in volume.sizes()]
    advice = "Free some, give a larger medium, or name in rlinf_media_volumes those volumes that shall be on this one."
    _check_room(destination, sizes, {*stale, *(volume.folder for volume in fresh)}, advice)
    if not check:
        for folder in stale:
            remove(folder)
        with Meter("write", f"to {destination}", outcome.bytes) as meter:
            for volume in fresh:
                volume.write(bundle, entries, meter)
    said = f"{len(outcome.done)} of {len(planned)} volumes" + (f" ({size_text(outcome.bytes)})" if outcome.done else "")
    outcome.reason = f"{said} {'were not there as they must be' if outcome.done else 'had to be written'}"
    if outcome.removed:
        outcome.reason += f"; not of this bundle as it is: {', '.join(outcome.removed)}"
    return outcome


def _stale(destination: Path, described: Mapping[str, bytes]) -> Iterator[Path]:
    """Yield the volumes below *destination* that do not belong to those described, and what is left of writing that was cut off."""
    for folder in sorted(destination.glob(f"{FOLDER}*")):
        name = _VOLUME.fullmatch(folder.name)
        description = folder / DESCRIPTION
        if name and (name["cut_off"] or (description.is_file() and description.read_bytes() != described.get(folder.name))):
            yield folder


def _mode(bundle: Bundle, path: str) -> int:
    try:
        return stat.S_IMODE((bundle.root / path).lstat().st_mode)
    except FileNotFoundError:
        raise BundleError(f"The bundle {bundle.root} lacks {path} of its manifest. Run the playbook rlinf.offline.download.") from None


@dataclass(frozen=True)
class _Fresh:
    """A volume as it has to be: its parts, and the texts beside them."""

    folder: Path
    parts: Sequence[Part]
    texts: Mapping[str, bytes]

    def sizes(self) -> Iterator[int]:
        """Yield the bytes of each of its files; of the check file, with what directories take, at most."""
        yield from (part.size for part in self.parts)
        yield from map(len, self.texts.values())
        yield _LINES * (len(self.parts) + len(self.texts))

    def written(self) -> bool:
        """Return whether it is there: its check file is written last, and what it says of the content is in the description."""
        folder = self.folder
        try:
            same = (folder / SUMS).is_file() and all((folder / name).read_bytes() == text for name, text in self.texts.items())
            return same and all((folder / part.file).stat().st_size == part.size for part in self.parts)
        except OSError:
            return False

    def write(self, bundle: Bundle, entries: Mapping[str, Any], meter: Meter) -> None:
        part_folder = self.folder.with_name(f"{self.folder.name}.part")
        # what is there is damaged, and a medium has no room for two
        for former in (part_folder, self.folder):
            remove(former)
        part_folder.mkdir(parents=True)
        sums = {}
        for part in self.parts:
            source, entry, place = bundle.root / part.path, entries[part.path], part_folder / part.file
            place.parent.mkdir(parents=True, exist_ok=True)
            with source.open("rb") as read, place.open("wb") as out:
                sums[part.file] = _copy(read, out, part.offset, part.size, meter)
            fsync_file(place)
            digest = sums[part.file] if part.size == entry["size"] else sha256_file(source) if part.offset == 0 else entry["sha256"]
            if digest != entry["sha256"] or place.stat().st_size != part.size:
                raise BundleError(f"{source} is not what the manifest says. Run the playbook rlinf.offline.download with rlinf_scrub=true.")
        for name, text in self.texts.items():
            atomic_write(part_folder / name, text)
            sums[name] = sha256_bytes(text)
        for directory in sorted({part_folder / PurePosixPath(part.file).parent for part in self.parts}):
            fsync_directory(directory)
        atomic_write(part_folder / SUMS, "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())).encode())
        rename(part_folder, self.folder)


def _copy(source: BinaryIO, out: BinaryIO, offset: int, size: int, meter: Meter) -> str:
    """Copy *size* bytes from *offset* on and return their SHA-256; fewer, if there are no more."""
    source.seek(offset)
    digest = hashlib.sha256()
    while size and (chunk := source.read(min(CHUNK, size))):
        digest.update(chunk)
        out.write(chunk)
        size -= len(chunk)
        meter.show(meter.done + len(chunk))
    return digest.hexdigest()


def _check_room(place: Path, sizes: Iterable[int], replaced: Iterable[Path], advice: str) -> None:
    """:raises BundleError: files of these sizes have no room in the file system of *place*, even without what they replace."""
    there = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.is_dir())
    system = os.statvfs(there)
    needed = sum(-(-size // system.f_frsize) * system.f_frsize for size in sizes)
    free = system.f_bavail * system.f_frsize + sum(map(_occupied, replaced))
    if needed > free:
        raise BundleError(f"{place} has no room: {needed} bytes are needed, and {free} are free once what is replaced is gone. {advice}")


def _occupied(path: Path) -> int:
    """Return the bytes of its file system that a file, or all in a directory, takes; none if there is nothing."""
    inside = (os.path.join(folder, name) for folder, _folders, names in os.walk(path) for name in names)
    found = 0
    for place in (os.fspath(path), *inside):
        with contextlib.suppress(FileNotFoundError):
            found += os.lstat(place).st_blocks * 512
    return found


# -- reading -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Volume:
    """A volume that was found, by what it says of itself and by its check file.

    :ivar series: the digest of what all volumes that were written together say alike.
    :ivar starts: the path, and the offset in it, that each volume of the series begins with.
    """

    folder: Path
    series: str
    number: int
    starts: Sequence[tuple[str, int]]
    links: Mapping[str, str]
    left_out: frozenset[str]
    parts: Sequence[Part]
    sums: Mapping[str, str]
    digests: Mapping[str, str]

    @property
    def name(self) -> str:
        return f"volume {self.number} of {len(self.starts)} in {self.folder}"

    @classmethod
    def parse(cls, folder: Path) -> Volume:
        """:raises BundleError: the description, the manifest, its signature or the check file is damaged."""
        try:
            text = (folder / SUMS).read_text(encoding="utf-8")
            sums = {name: digest for digest, _mark, name in (line.partition("  ") for line in text.splitlines())}
            said = parse_json(_checked(folder, DESCRIPTION, sums.get(DESCRIPTION)), folder / DESCRIPTION, BundleError)
            if said["format"] != FORMAT:
                raise ValueError(f"{DESCRIPTION} has format {said['format']!r}, of which this version knows nothing")
            digests = {str(name): str(digest) for name, digest in said["digests"].items()}
            for name in {"bundle.json", *digests}:
                _checked(folder, name, digests.get(name))
            common = {name: value for name, value in said.items() if name not in ("number", "parts")}
            found = cls(
                folder=folder,
                series=sha256_bytes(json_bytes(common)),
                number=int(said["number"]),
                starts=[(str(path), int(offset)) for path, offset in said["starts"]],
                links=dict(said["links"]),
                left_out=frozenset(said["left_out"]),
                parts=[Part(**part) for part in said["parts"]],
                sums=sums,
                digests=digests,
            )
            found.check()
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise BundleError(f"{folder} is damaged: {error}. Write this volume again.") from None
        return found

    def check(self) -> None:
        """:raises ValueError: it names a place outside of a bundle's folders, or something that no volume has."""
        folders = {folder.name for folder in Bundle(Path("bundle")).folders}
        for path, target in [*((part.path, "") for part in self.parts), *self.links.items()]:
            pure = PurePosixPath(path)
            where = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
            if pure.is_absolute() or ".." in pure.parts or str(pure) != path or len(pure.parts) < 2 or pure.parts[0] not in folders:
                raise ValueError(f"{path!r} is no place in a bundle")
            if posixpath.isabs(target) or (not where.startswith(f"{pure.parts[0]}/") and where != pure.parts[0]):
                raise ValueError(f"the link {path!r} leads out of its folder")
        for part in self.parts:
            if not _PART.fullmatch(part.file) or part.size < 0 or part.offset < 0:
                raise ValueError(f"{part.file!r} is no part of a volume")
        if not 1 <= self.number <= len(self.starts) or sorted(self.starts) != list(self.starts):
            raise ValueError(f"there is no volume {self.number} of {len(self.starts)}")

    def holders(self, path: str, size: int) -> Iterator[tuple[int, int, int]]:
        """Yield the number of each volume that a file of *size* bytes has some in, and from and to which offset."""
        first = bisect_right(self.starts, (path, 0))
        # an empty file has a volume, too
        for number in range(first, max(first, bisect_left(self.starts, (path, size))) + 1):
            following = self.starts[number] if number < len(self.starts) else ("", 0)
            begin = 0 if number == first else self.starts[number - 1][1]
            yield number, begin, following[1] if following[0] == path and following[1] else size


def _checked(folder: Path, name: str, digest: str | None) -> bytes:
    if name not in (DESCRIPTION, "bundle.json", "bundle.json.sig"):
        raise ValueError(f"{name!r} is no part of a volume")
    data = (folder / name).read_bytes()
    if sha256_bytes(data) != digest:
        raise ValueError(f"{name} is not what the check file says")
    return data


def volumes_in(sources: Iterable[Path]) -> Iterator[Path]:
    """Yield the directories of volumes: a source itself, or what lies directly in it."""
    for source in sources:
        for folder in (source, *sorted(source.glob(f"{FOLDER}*"))):
            if folder.suffix != ".part" and ((folder / DESCRIPTION).is_file() or (folder / SUMS).is_file()):
                yield folder


def read(bundle: Bundle, sources: Sequence[Path], *, check: bool = False) -> Outcome:
    """Bring into a bundle what volumes hold. Its manifest comes last, once everything is there; until then it is none, or the former one.

    What was read is kept: volumes may come one after the other, in any order, and those whose files are there need not come at all.

    :param sources: where media are mounted.
    :param check: only say which volumes would be read.
    :raises BundleError: volumes are damaged, or of several bundles, or some are needed still; each is named. Or the bundle has no room for
        what they hold.
    """
    folders = list(dict.fromkeys(volumes_in(sources)))
    if not folders:
        if bundle.manifest.is_file() and not _notes(bundle).is_file():
            return Outcome(0, reason="no volume is there, and the bundle is whole")
        places = ", ".join(map(str, sources)) or "any place"
        raise BundleError(f"There is no volume of a bundle in {places}. Mount the media, or correct rlinf_media_dir.")
    found, damaged = _parsed(folders)
    if not found:
        raise BundleError("\n".join(damaged))
    series = {volume.series: volume for volume in found}
    if len(series) > 1:
        names = " and ".join(volume.name for volume in series.values())
        raise BundleError(
            f"{names} are of different bundles, or were written with different sizes. Mount those that were written together."
        )
    reading = _Reading(bundle, found[0])
    wanted = {(part.path, part.offset): part for volume in found for part in reading.wanted(volume)}
    advice = "Make room there, or name a place that has it in rlinf_bundle_dir."
    _check_room(bundle.root, (part.size for part in wanted.values()), reading.replaced(wanted.values()), advice)
    places = ", ".join(map(str, sources))
    with contextlib.nullcontext() if check else Meter("read", f"from {places}", sum(part.size for part in wanted.values())) as meter:
        for volume in found:
            damaged += reading.take(volume, meter)
    return reading.finish(damaged, {volume.number for volume in found} if check else set(), check)


def _parsed(folders: Iterable[Path]) -> tuple[list[Volume], list[str]]:
    found, damaged = [], []
    for folder in folders:
        try:
            found.append(Volume.parse(folder))
        except BundleError as error:
            damaged.append(str(error))
    return found, damaged


def _notes(bundle: Bundle) -> Path:
    return bundle.cache / "media.json"


class _Reading:
    """What the volumes of one series have brought, in this run and in those before."""

    def __init__(self, bundle: Bundle, any_volume: Volume) -> None:
        self.bundle, self.series = bundle, any_volume
        self.entries: Mapping[str, Any] = read_manifest(Bundle(any_volume.folder))["files"]
        self.outcome = Outcome(len(any_volume.starts))
        carried = (path for path, entry in self.entries.items() if "link" not in entry and path not in any_volume.left_out)
        self.lacking = {path for path in carried if not self._there(path)}
        self.cut = self._noted()

    def _noted(self) -> dict[str, dict[str, int]]:
        """Return what there is of files that are not complete: bytes by offset by path. Notes that cannot be used are as good as none."""
        try:
            said = read_json(_notes(self.bundle), BundleError)
            if said["series"] != self.series.series:
                return {}
            cut = {path: {str(int(offset)): int(size) for offset, size in sizes.items()} for path, sizes in said["cut"].items()}
        except (FileNotFoundError, BundleError, LookupError, TypeError, ValueError, AttributeError):
            return {}
        return {path: sizes for path, sizes in cut.items() if path in self.lacking and _partial(self.bundle.root / path).is_file()}

    def _note(self) -> None:
        _notes(self.bundle).parent.mkdir(parents=True, exist_ok=True)
        write_json(_notes(self.bundle), {"series": self.series.series, "cut": self.cut})

    def _there(self, path: str) -> bool:
        entry = self.entries[path]
        try:
            status = (self.bundle.root / path).lstat()
        except OSError:
            return False
        return stat.S_ISREG(status.st_mode) and (status.st_size, status.st_mtime_ns) == (entry.get("size"), entry.get("mtime_ns"))

    def wanted(self, volume: Volume) -> list[Part]:
        """Return what a volume holds that is lacking."""
        return [part for part in volume.parts if part.path in self.lacking and str(part.offset) not in self.cut.get(part.path, {})]

    def replaced(self, wanted: Iterable[Part]) -> Iterator[Path]:
        """Yield what will not be there any more once these parts were brought: former files, and parts of which nothing is noted."""
        for path in {part.path for part in wanted}:
            yield self.bundle.root / path
            if path not in self.cut:
                yield _partial(self.bundle.root / path)

    def take(self, volume: Volume, meter: Meter | None) -> list[str]:
        """Bring what a volume holds that is lacking, and return what is wrong with it.

        :param meter: told how much has come; None is a check, which brings nothing.
        """
        wanted = self.wanted(volume)
        if not wanted:
            return []
        if meter:
            self._note()
        wrong = [part for part in wanted if not self._bring(volume, part, meter)] if meter else []
        if len(wrong) < len(wanted):
            self.outcome.done.append(volume.number)
            self.outcome.bytes += sum(part.size for part in wanted) - sum(part.size for part in wrong)
        if not wrong:
            return []
        named = ", ".join(f"{part.file} ({part.path})" for part in wrong[:5])
        return [f"{volume.name} is damaged: {named}{', …' if len(wrong) > 5 else ''}. Write this volume again."]

    def _bring(self, volume: Volume, part: Part, meter: Meter) -> bool:
        """Copy a part and return whether it is what the check file, and of a whole file the manifest, says."""
        entry, path, source = self.entries[part.path], self.bundle.root / part.path, volume.folder / part.file
        if part.offset + part.size > entry["size"] or not source.is_file():
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial(path)
        with source.open("rb") as read_from, partial.open("r+b" if partial.exists() else "w+b") as out:
            out.seek(part.offset)
            digest = _copy(read_from, out, 0, part.size, meter)
        fsync_file(partial)
        if digest != volume.sums.get(part.file):
            return False
        if part.size == entry["size"]:
            return self._place(partial, part, digest)
        self.cut.setdefault(part.path, {})[str(part.offset)] = part.size
        if sum(self.cut[part.path].values()) == entry["size"]:
            checkpoint(f"truncate {partial.name}")
            os.truncate(partial, entry["size"])
            return self._place(partial, part, sha256_file(partial))
        self._note()
        return True

    def _place(self, partial: Path, part: Part, digest: str) -> bool:
        """Give a complete file its name, if it is what the manifest says."""
        entry = self.entries[part.path]
        self.cut.pop(part.path, None)
        if digest != entry["sha256"]:
            remove(partial)
            return False
        checkpoint(f"truncate {partial.name}")
        os.truncate(partial, entry["size"])
        os.chmod(partial, part.mode & 0o755)
        os.utime(partial, ns=(entry["mtime_ns"], entry["mtime_ns"]))
        rename(partial, self.bundle.root / part.path)
        self.lacking.discard(part.path)
        return True

    def needed(self) -> set[int]:
        """Return the numbers of the volumes that hold what is lacking still."""
        numbers = set()
        for path in self.lacking:
            brought = self.cut.get(path, {})
            for number, begin, end in self.series.holders(path, self.entries[path]["size"]):
                if sum(size for offset, size in brought.items() if begin <= int(offset) < end) < end - begin or begin == end:
                    numbers.add(number)
        return numbers

    def finish(self, damaged: Sequence[str], to_read: set[int], check: bool) -> Outcome:
        """Seal the bundle if everything is there.

        :param to_read: the volumes that a check takes for read.
        :raises BundleError: something is damaged or missing.
        """
        missing = sorted(self.needed() - to_read)
        if missing:
            numbers, are = ", ".join(map(str, missing)), "is" if len(missing) == 1 else "are"
            last = f"Of {self.outcome.volumes} volumes {numbers} {are} still to be read. Mount and run again."
            raise BundleError("\n".join([*damaged, last]), missing=missing, read=self.outcome.done)
        texts = {place: self._text(place.name) for place in (self.bundle.signature, self.bundle.manifest)}
        links = {path: target for path, target in self.series.links.items() if not self._links_to(path, target)}
        self.outcome.sealed = bool(links) or any(_content(place) != text for place, text in texts.items())
        self.outcome.reason = f"{len(self.outcome.done)} of {self.outcome.volumes} volumes held something new"
        if check:
            return self.outcome
        for path, target in links.items():
            link = self.bundle.root / path
            remove(link)
            link.parent.mkdir(parents=True, exist_ok=True)
            switch_link(link, target)
        for place, text in texts.items():
            if text is None:
                remove(place)
            elif _content(place) != text:
                atomic_write(place, text)
        remove(_notes(self.bundle))
        return self.outcome

    def _text(self, name: str) -> bytes | None:
        return _content(self.series.folder / name) if name in self.series.digests else None

    def _links_to(self, path: str, target: str) -> bool:
        link = self.bundle.root / path
        return link.is_symlink() and os.readlink(link) == target


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")
