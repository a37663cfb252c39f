# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bundle on removable media: volumes of a given size, and reading them back. Standard library only.

A volume is a directory: ``data/`` with numbered files, the manifest and its signature, ``volume.json``, which says what of which file they
are, and ``SHA256SUMS``, which ``sha256sum --check`` reads. No name in it troubles a file system of removable media, no file is larger than
FAT32 allows, and there is no link: links are in ``volume.json``.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from ansible_collections.rlinf.offline.plugins.module_utils._bundle import read_manifest, size_text
from ansible_collections.rlinf.offline.plugins.module_utils._closure import files_for
from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError
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
    swap_directory,
    write_json,
)
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle

FORMAT = 1
FOLDER = "rlinf-"
"""What the name of a volume's directory begins with; its number follows."""
LARGEST = (1 << 32) - 1
"""The bytes that a file of FAT32 can have."""
SMALLEST = 1 << 20
"""The bytes that a volume must have room for beside the manifest."""
DESCRIPTION, SUMS = "volume.json", "SHA256SUMS"
# what the lines about a part take in the description and the check file
_LINES = 512


@dataclass(frozen=True)
class Part:
    """A piece of a file: *size* bytes of *path* from *offset* on lie in *file* of the volume; *mode* is the whole file's."""

    file: str
    path: str
    offset: int
    size: int
    mode: int


@dataclass
class Outcome:
    """What writing or reading came to: the volumes there are, those that were written or read now, bytes, and why."""

    volumes: int
    done: list[int] = field(default_factory=list)
    bytes: int = 0
    reason: str = ""

    @property
    def changed(self) -> bool:
        return bool(self.done)


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
            volumes[-1].append(Part(f"data/{len(volumes[-1]) + 1:06}", path, offset, count, mode))
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

    :param size: bytes that a volume has at most, what a file system needs for itself aside.
    :param targets: those whose files are needed, as :func:`._closure.files_for` takes them, and *release*.
    :param volumes: the numbers of those to write, where one medium after the other is put in; all if none is named.
    :param check: only say which would be written.
    :raises BundleError: the bundle is not sealed, or not what its manifest says; or the volumes are too small, or not so many.
    """
    entries = read_manifest(bundle)["files"]
    manifest = bundle.manifest.read_bytes()
    signature = bundle.signature.read_bytes() if bundle.signature.is_file() else b""
    wanted = files_for(bundle, entries, targets, release)
    links = {path: entries[path]["link"] for path in wanted if "link" in entries[path]}
    whole = {path: (int(entries[path]["size"]), _mode(bundle, path)) for path in wanted if path not in links}
    room = size - len(manifest) - len(signature) - len(json_bytes(links))
    if room < SMALLEST:
        raise BundleError(f"Volumes of {size_text(size)} are too small: the manifest of the bundle comes with each. Give a larger size.")
    planned = plan(whole, room)
    unknown = sorted(set(volumes) - set(range(1, len(planned) + 1)))
    if unknown:
        raise BundleError(f"There is no volume {unknown[0]}: the bundle takes {len(planned)} of {size_text(size)}.")
    common = {"format": FORMAT, "manifest": sha256_bytes(manifest), "of": len(planned), "links": links}
    outcome = Outcome(len(planned))
    for number, parts in enumerate(planned, 1):
        folder = destination / f"{FOLDER}{number:03}"
        description = json_bytes({**common, "number": number, "parts": [asdict(part) for part in parts]})
        if (volumes and number not in volumes) or _written(folder, description, parts):
            continue
        outcome.done.append(number)
        outcome.bytes += sum(part.size for part in parts)
        if not check:
            _write(bundle, folder, parts, entries, {DESCRIPTION: description, "bundle.json": manifest, "bundle.json.sig": signature})
    said = f"{len(outcome.done)} of {len(planned)} volumes" + (f" ({size_text(outcome.bytes)})" if outcome.done else "")
    outcome.reason = f"{said} {'were not there as they must be' if outcome.done else 'had to be written'}"
    return outcome


def _mode(bundle: Bundle, path: str) -> int:
    try:
        return stat.S_IMODE((bundle.root / path).lstat().st_mode)
    except FileNotFoundError:
        raise BundleError(f"The bundle {bundle.root} lacks {path} of its manifest. Run the playbook rlinf.offline.download.") from None


def _written(folder: Path, description: bytes, parts: Iterable[Part]) -> bool:
    """Return whether a volume is there: its check file is written last, and what it says of the content is in the description."""
    try:
        same = (folder / DESCRIPTION).read_bytes() == description and (folder / SUMS).is_file()
        return same and all((folder / part.file).stat().st_size == part.size for part in parts)
    except OSError:
        return False


def _write(bundle: Bundle, folder: Path, parts: Sequence[Part], entries: Mapping[str, Any], texts: Mapping[str, bytes]) -> None:
    part_folder = folder.with_name(f"{folder.name}.part")
    remove(part_folder)
    (part_folder / "data").mkdir(parents=True)
    sums = {}
    for part in parts:
        source, entry = bundle.root / part.path, entries[part.path]
        with source.open("rb") as read, (part_folder / part.file).open("wb") as out:
            sums[part.file] = _copy(read, out, part.offset, part.size)
        fsync_file(part_folder / part.file)
        digest = sums[part.file] if part.size == entry["size"] else sha256_file(source) if part.offset == 0 else entry["sha256"]
        if digest != entry["sha256"]:
            raise BundleError(f"{source} is not what the manifest says. Run the playbook rlinf.offline.download with rlinf_scrub=true.")
    for name, text in texts.items():
        if text:
            atomic_write(part_folder / name, text)
            sums[name] = sha256_bytes(text)
    fsync_directory(part_folder / "data")
    atomic_write(part_folder / SUMS, "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())).encode())
    swap_directory(part_folder, folder)


def _copy(source: BinaryIO, out: BinaryIO, offset: int, size: int) -> str:
    """Copy *size* bytes from *offset* on and return their SHA-256; fewer, if there are no more."""
    source.seek(offset)
    digest = hashlib.sha256()
    while size and (chunk := source.read(min(CHUNK, size))):
        digest.update(chunk)
        out.write(chunk)
        size -= len(chunk)
    return digest.hexdigest()


# -- reading -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Volume:
    """A volume that was found, by what it says of itself and by its check file."""

    folder: Path
    manifest: str
    number: int
    of: int
    links: Mapping[str, str]
    parts: Sequence[Part]
    sums: Mapping[str, str]

    @property
    def name(self) -> str:
        return f"volume {self.number} of {self.of} in {self.folder}"

    @classmethod
    def parse(cls, folder: Path) -> Volume:
        """:raises BundleError: the description or the check file is damaged."""
        try:
            data, text = (folder / DESCRIPTION).read_bytes(), (folder / SUMS).read_text(encoding="utf-8")
            sums = {name: digest for digest, _mark, name in (line.partition("  ") for line in text.splitlines())}
            said = parse_json(data, folder / DESCRIPTION, BundleError)
            if sums.get(DESCRIPTION) != sha256_bytes(data) or said["format"] != FORMAT:
                raise ValueError("it is not what the check file says")
            parts = [Part(**part) for part in said["parts"]]
            found = cls(folder, str(said["manifest"]), int(said["number"]), int(said["of"]), dict(said["links"]), parts, sums)
            found.check()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(f"{folder} is damaged: {error}. Write this volume again.") from None
        return found

    def check(self) -> None:
        """:raises ValueError: it names a place outside of a bundle's folders, or something that no volume has."""
        folders = {folder.name for folder in Bundle(Path("bundle")).folders}
        for path, target in [*((part.path, "") for part in self.parts), *self.links.items()]:
            pure = PurePosixPath(path)
            where = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
            if pure.is_absolute() or ".." in pure.parts or str(pure) != path or pure.parts[0] not in folders or len(pure.parts) < 2:
                raise ValueError(f"{path!r} is no place in a bundle")
            if posixpath.isabs(target) or (not where.startswith(f"{pure.parts[0]}/") and where != pure.parts[0]):
                raise ValueError(f"the link {path!r} leads out of its folder")
        for part in self.parts:
            if not part.file.startswith("data/") or not part.file[5:].isdecimal() or part.size < 0 or part.offset < 0:
                raise ValueError(f"{part.file!r} is no part of a volume")


def volumes_in(sources: Iterable[Path]) -> Iterator[Path]:
    """Yield the directories of volumes: a source itself, or what lies directly in it."""
    for source in sources:
        for folder in (source, *sorted(source.glob(f"{FOLDER}*"))):
            if folder.suffix != ".part" and (folder / DESCRIPTION).is_file():
                yield folder


def read(bundle: Bundle, sources: Sequence[Path], *, check: bool = False) -> Outcome:
    """Bring into a bundle what volumes hold. Its manifest comes last, once every volume was read; until then it is none, or the former one.

    What was read is kept and noted: volumes may come one after the other, in any order.

    :param sources: where media are mounted.
    :param check: only say which volumes would be read.
    :raises BundleError: a volume is damaged, or of another bundle, or some are missing still; each is named.
    """
    folders = list(dict.fromkeys(volumes_in(sources)))
    if not folders:
        if bundle.manifest.is_file() and not _notes(bundle).is_file():
            return Outcome(0, reason="no volume is there, and the bundle is whole")
        places = ", ".join(map(str, sources)) or "any place"
        raise BundleError(f"There is no volume of a bundle in {places}. Mount the media, or correct rlinf_media_dir.")
    found, damaged = _parsed(folders)
    bundles = {volume.manifest: volume for volume in found}
    if len(bundles) > 1:
        raise BundleError(f"{' and '.join(volume.name for volume in bundles.values())} are of different bundles. Mount those of one.")
    if not found:
        raise BundleError("\n".join(damaged))
    reading = _Reading(bundle, found[0], check)
    for volume in found:
        damaged += reading.take(volume)
    return reading.finish(damaged)


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
    """What has been read of the volumes of one bundle, in this run and in those before."""

    def __init__(self, bundle: Bundle, first: Volume, check: bool) -> None:
        self.bundle, self.first, self.check = bundle, first, check
        notes = read_json(_notes(bundle), BundleError) if _notes(bundle).is_file() else {}
        same = notes.get("manifest") == first.manifest
        self.read: set[int] = set(notes["read"]) if same else set()
        self.cut: dict[str, dict[str, int]] = notes["cut"] if same else {}
        self.complete = bundle.manifest.is_file() and sha256_file(bundle.manifest) == first.manifest and not same
        self.entries: Mapping[str, Any] = {}
        self.outcome = Outcome(first.of)
        if any(not _partial(self.bundle.root / path).is_file() for path in self.cut):
            self.read, self.cut = set(), {}  # somebody has cleaned up

    def take(self, volume: Volume) -> list[str]:
        """Bring what a volume holds and return what is wrong with it."""
        manifest = (volume.folder / "bundle.json").read_bytes() if (volume.folder / "bundle.json").is_file() else b""
        if sha256_bytes(manifest) != volume.manifest:
            return [f"{volume.name} is damaged: bundle.json. Write this volume again."]
        self.entries = parse_json(manifest, volume.folder / "bundle.json", BundleError)["files"]
        if volume.number in self.read:
            return []
        lacking = [part for part in volume.parts if not self._there(part.path)]
        if lacking or not self.complete:
            self.outcome.done.append(volume.number)
            self.outcome.bytes += sum(part.size for part in lacking)
        if self.check:
            self.read.add(volume.number)
            return []
        wrong = [part for part in lacking if not self._bring(volume, part)]
        if wrong:
            named = ", ".join(f"{part.file} ({part.path})" for part in wrong[:5])
            return [f"{volume.name} is damaged: {named}{', …' if len(wrong) > 5 else ''}. Write this volume again."]
        if lacking or not self.complete:
            self.read.add(volume.number)
            self._note()
        return []

    def _there(self, path: str) -> bool:
        entry = self.entries.get(path, {})
        try:
            status = (self.bundle.root / path).lstat()
        except OSError:
            return False
        return stat.S_ISREG(status.st_mode) and (status.st_size, status.st_mtime_ns) == (entry.get("size"), entry.get("mtime_ns"))

    def _bring(self, volume: Volume, part: Part) -> bool:
        """Copy a part and return whether it is what the check file, and of a whole file the manifest, says."""
        entry, path = self.entries.get(part.path), self.bundle.root / part.path
        source = volume.folder / part.file
        if not entry or part.offset + part.size > entry.get("size", -1) or not source.is_file():
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial(path)
        with source.open("rb") as read_from, partial.open("r+b" if partial.exists() else "w+b") as out:
            out.seek(part.offset)
            digest = _copy(read_from, out, 0, part.size)
        fsync_file(partial)
        if digest != volume.sums.get(part.file):
            return False
        self.cut.setdefault(part.path, {})[str(part.offset)] = part.size
        if sum(self.cut[part.path].values()) < entry["size"]:
            return True
        del self.cut[part.path]
        return self._place(partial, path, part.mode, entry)

    def _place(self, partial: Path, path: Path, mode: int, entry: Mapping[str, Any]) -> bool:
        """Give a complete file its name, if it is what the manifest says."""
        os.truncate(partial, entry["size"])
        if sha256_file(partial) != entry["sha256"]:
            self._forget(partial)
            return False
        os.chmod(partial, mode & 0o755)
        os.utime(partial, ns=(entry["mtime_ns"], entry["mtime_ns"]))
        rename(partial, path)
        return True

    def _forget(self, *partial: Path) -> None:
        """Have every volume read again: which of them a wrong file came from cannot be told."""
        for path in (*partial, _notes(self.bundle)):
            remove(path)
        self.read, self.cut = set(), {}

    def _note(self) -> None:
        _notes(self.bundle).parent.mkdir(parents=True, exist_ok=True)
        write_json(_notes(self.bundle), {"manifest": self.first.manifest, "read": sorted(self.read), "cut": self.cut})

    def finish(self, damaged: Sequence[str]) -> Outcome:
        """Seal the bundle if everything is there.

        :raises BundleError: something is damaged or missing.
        """
        missing = [] if self.complete else sorted(set(range(1, self.first.of + 1)) - self.read)
        if self.cut and not missing:
            self._forget()
            missing = list(range(1, self.first.of + 1))
        if damaged or missing:
            lines = list(damaged)
            if missing:
                numbers = ", ".join(map(str, missing))
                lines.append(
                    f"Of {self.first.of} volumes {numbers} {'is' if len(missing) == 1 else 'are'} still to be read. Mount and run again."
                )
            raise BundleError("\n".join(lines), missing=missing, read=self.outcome.done)
        self.outcome.reason = f"{len(self.outcome.done)} of {self.first.of} volumes held something new"
        if self.check or (self.complete and not self.outcome.done):
            return self.outcome
        for path, target in self.first.links.items():
            link = self.bundle.root / path
            if not link.is_symlink() or os.readlink(link) != target:
                remove(link)
                link.parent.mkdir(parents=True, exist_ok=True)
                os.symlink(target, link)
        signature = self.first.folder / self.bundle.signature.name
        if signature.is_file():
            atomic_write(self.bundle.signature, signature.read_bytes())
        else:
            remove(self.bundle.signature)
        atomic_write(self.bundle.manifest, (self.first.folder / self.bundle.manifest.name).read_bytes())
        remove(_notes(self.bundle))
        return self.outcome


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")
