# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Unpacking zip and tar archives, of which every member is judged before a byte is written.

An archive is somebody else's program for writing files. What it may do is put regular files, directories and links that stay
inside into one fresh directory; everything else refuses the whole archive. The rules follow tarfile's data filter (PEP 706) and
go further: names that fold together, members that lie about themselves, bombs.
"""

from __future__ import annotations

import calendar
import contextlib
import errno
import itertools
import lzma
import os
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from ansible_collections.rlinf.offline.plugins.module_utils._errors import ArchiveError
from ansible_collections.rlinf.offline.plugins.module_utils._faults import checkpoint
from ansible_collections.rlinf.offline.plugins.module_utils._files import CHUNK, fsync_directory, fsync_file, remove

MEMBERS = 500_000
"""How many members an archive may have."""
RATIO = 250
"""How many times its own size an archive may unpack to, once that is more than :data:`ALLOWED` bytes."""
ALLOWED = 1 << 30
HEADERS = 1 << 20
"""How many bytes the headers of one tar member may have, with its long names and pax fields; those of all, 64 times that or RATIO."""
DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    struct.error,
    # what the readers raise for numbers and methods that they cannot make sense of
    ValueError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
)
"""What the readers of the standard library raise for a damaged archive, apart from an :class:`OSError` (see :func:`is_damage`)."""
_ALL_ONES = 0xFFFFFFFF
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an archive: *path* is relative to where it is unpacked, *size* in bytes.

    *kind*: ``file``, ``directory``, ``symlink`` (to *target*, as it is written) or ``hardlink`` (a copy of the member at *target*).
    """

    name: str
    path: str
    kind: str
    size: int = 0
    mode: int = 0o644
    mtime: int = 0
    target: str = ""


def unpack(archive: Path, fresh: Path, *, strip: bool) -> int:
    """Unpack an archive into the new directory *fresh* and make it durable.

    :param strip: take off the single top folder.
    :returns: the number of files.
    :raises ArchiveError: it is damaged, or holds a member that must not be unpacked; nothing was written.
    :raises OSError: *fresh* is there already, or cannot be written.
    """
    with _opened(archive) as content:
        members = _judged(archive, content, strip=strip)
        free = shutil.disk_usage(fresh.parent).free
        total = sum(member.size for member in members)
        if total > free:
            raise _error(archive, f"it unpacks to {total} bytes, and in {fresh.parent} {free} are free. Make room and run again")
        checkpoint(f"unpack {archive.name}")
        fresh.mkdir()
        try:
            with _damage_named(archive):
                _write(content, members, fresh)
        except BaseException:
            remove(fresh)
            raise
    return sum(1 for member in members if member.kind in ("file", "hardlink"))


def examine(archive: Path, *, strip: bool) -> list[Member]:
    """Judge every member of an archive, read all of it, and return the members; nothing is written.

    :raises ArchiveError: it is damaged, or holds a member that must not be unpacked; the member is named.
    """
    with _opened(archive) as content:
        members = _judged(archive, content, strip=strip)
        with _damage_named(archive):
            for member in members:
                if member.kind == "file":
                    _copy(content, member, None)
        return members


def listed(archive: Path) -> list[Member]:
    """Judge every member of an archive by what is said of it, and return the members; their content is not read.

    :raises ArchiveError: it is damaged, or holds a member that must not be unpacked; the member is named.
    """
    with _opened(archive) as content:
        return _judged(archive, content, strip=False)


# -- the two kinds of archive, brought to one form


@dataclass(frozen=True)
class _Content:
    """The members of an open archive, under the names it gives them, and how one is read."""

    members: Callable[[], Iterator[Member]]
    read: Callable[[Member], IO[bytes]]


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[_Content]:
    """Open an archive by its content, whatever its name says."""
    with contextlib.ExitStack() as stack:
        with _damage_named(archive), archive.open("rb") as stream:
            is_zip = stream.read(4) in _ZIP
        content = _open_zip(archive, stack) if is_zip else _open_tar(archive, stack)
        yield content


def _open_zip(archive: Path, stack: contextlib.ExitStack) -> _Content:
    with _damage_named(archive):
        raw = stack.enter_context(archive.open("rb"))
        opened = stack.enter_context(zipfile.ZipFile(raw))

    def members() -> Iterator[Member]:
        _compare_headers(archive, raw, opened)
        _compare_ends(archive, raw, opened)
        for entry in opened.infolist():
            yield _zip_member(archive, opened, entry)

    return _Content(members, lambda member: opened.open(member.name))


class _TarStream:
    """What a tar archive is read from, unpacked. tarfile reads long names, pax fields and maps of holes whole, whatever their size."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._offset = 0
        self._left: int | None = None
        self.headers = 0
        """How many bytes of headers were read."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def read(self, size: int = -1) -> bytes:
        if self._left is not None:
            if not 0 <= size <= self._left:
                raise ValueError(f"the headers of the member at byte {self._offset} have more than {HEADERS} bytes")
            self._left -= size
            self.headers += size
        return self._stream.read(size)

    @contextlib.contextmanager
    def header(self, offset: int) -> Iterator[None]:
        """Let no more be read than the headers of one member, at *offset*, may have."""
        self._offset, self._left = offset, HEADERS
        try:
            yield
        finally:
            self._left = None


class _Tar(tarfile.TarFile):
    """A tar archive whose headers are bounded."""

    def __init__(self, name: Any = None, mode: Any = "r", fileobj: Any = None, **settings: Any) -> None:
        self.below = _TarStream(fileobj)
        super().__init__(name, mode, self.below, **settings)

    def next(self) -> tarfile.TarInfo | None:
        with self.below.header(self.offset):
            return super().next()


def _open_tar(archive: Path, stack: contextlib.ExitStack) -> _Content:
    with _damage_named(archive):
        raw = stack.enter_context(archive.open("rb"))
        try:
            opened = _Tar.open(fileobj=raw, mode="r:*", encoding="utf-8", errors="strict")
        except tarfile.ReadError:
            raise _error(archive, "it is no whole zip or tar archive. Look at what its URL really serves, or set unpack: false") from None
    stack.enter_context(opened)
    by_name: dict[str, tarfile.TarInfo] = {}
    most = max(64 * HEADERS, archive.stat().st_size * RATIO)

    def members() -> Iterator[Member]:
        for entry in opened:
            if opened.below.headers > most:
                raise _error(
                    archive, f"the headers of its members have more than {most} bytes, far more than those of one of its size should"
                )
            by_name[entry.name] = entry
            yield _tar_member(archive, entry)
        _check_end(opened)

    def read(member: Member) -> IO[bytes]:
        stream: IO[bytes] | None = opened.extractfile(by_name[member.name])
        if stream is None:
            raise EOFError(f"member {member.name!r} has no content")
        return stream

    return _Content(members, read)


def _check_end(opened: tarfile.TarFile) -> None:
    """Read a tar archive from its last member to its end, which a cut-off one lacks and where a compressed one has its sum."""
    stream, size = opened.fileobj, 0
    if stream is None:
        return
    stream.seek(opened.offset)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise EOFError("its end is missing")
    while chunk := stream.read(CHUNK):
        size += len(chunk)
        if size > ALLOWED:
            raise EOFError(f"more than {ALLOWED} bytes follow its end")


def _zip_member(archive: Path, opened: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Member:
    name = entry.orig_filename
    if not entry.flag_bits & 0x800 and not name.isascii():
        raise _error(archive, f"the name of member {name!r} is not in UTF-8")
    if entry.flag_bits & 0x1:
        raise _error(archive, f"member {name!r} is encrypted")
    mode = entry.external_attr >> 16 if entry.create_system == 3 else 0
    kind = {0: "file", stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}.get(stat.S_IFMT(mode))
    if kind is None:
        raise _error(archive, f"member {name!r} is a device, pipe or socket")
    if name.endswith("/"):
        kind = "directory"
    target = ""
    if kind == "symlink":
        if entry.file_size > 4096:
            raise _error(archive, f"member {name!r} is a link with a target of {entry.file_size} bytes")
        target = _text(archive, name, opened.read(entry))
    year, month, *rest = entry.date_time
    mtime = max(calendar.timegm((year, min(max(month, 1), 12), *rest)), 0)
    return Member(name, name, kind, entry.file_size if kind == "file" else 0, mode, mtime, target)


def _tar_member(archive: Path, entry: tarfile.TarInfo) -> Member:
    for test, kind in ((entry.isreg, "file"), (entry.isdir, "directory"), (entry.issym, "symlink"), (entry.islnk, "hardlink")):
        if test():
            size = entry.size if kind == "file" else 0
            mtime = min(max(int(entry.mtime), 0), 1 << 32)
            return Member(entry.name, entry.name, kind, size, entry.mode, mtime, entry.linkname if kind.endswith("link") else "")
    raise _error(archive, f"member {entry.name!r} is a device, pipe or socket")


def _compare_headers(archive: Path, raw: IO[bytes], opened: zipfile.ZipFile) -> None:
    """Refuse a zip whose members say one thing in the directory and another in place, or with anything between them (APPNOTE 4.3).

    Readers that go by the one would see other files than readers that go by the other.
    """
    entries = sorted(opened.infolist(), key=lambda entry: entry.header_offset)
    ends = [*(entry.header_offset for entry in entries), opened.start_dir]
    if ends[0] != 0:
        raise _error(archive, f"{ends[0]} bytes precede its first member, which its directory does not list")
    for entry, end in zip(entries, ends[1:], strict=True):
        raw.seek(entry.header_offset)
        head = raw.read(30)
        signature, _version, flags, method, _time, crc, packed, size, name_length, extra_length = struct.unpack("<4sHHHIIIIHH", head)
        name = raw.read(name_length)
        wide = _wide_sizes(raw.read(extra_length))
        real = (entry.file_size, entry.compress_size)
        # of all ones where the zip64 field has the number
        narrow = [pair for number, pair in enumerate(zip((size, packed), real, strict=True)) if pair[0] != _ALL_ONES or len(wide) <= number]
        coding = "utf-8" if flags & 0x800 else "cp437"
        same = signature == b"PK\x03\x04" and method == entry.compress_type and flags & 0x809 == entry.flag_bits & 0x809
        for said, meant in ((crc, entry.CRC), *zip(wide, itertools.cycle(real), strict=False), *narrow):
            # by flag 8, they may be left out here, and follow the content
            same = same and (said == meant or (said == 0 and bool(flags & 0x8)))
        if not same or not name.decode(coding, "replace") == entry.orig_filename == entry.filename:
            raise _error(archive, f"member {entry.orig_filename!r} is described in two different ways")
        after = end - raw.tell() - entry.compress_size
        if after < 0:
            raise _error(archive, f"member {entry.orig_filename!r} lies over what follows it")
        raw.seek(entry.compress_size, os.SEEK_CUR)
        if after > 24 or raw.read(after) not in _descriptors(flags, entry):
            raise _error(archive, f"after member {entry.orig_filename!r} come {after} bytes that its directory does not list")


def _wide_sizes(extra: bytes) -> tuple[int, ...]:
    """Return the sizes in the zip64 fields of a local header (APPNOTE 4.5.3): of the content, of what it is packed to."""
    wide: tuple[int, ...] = ()
    place = 0
    while place + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, place)
        if kind == 1:
            wide += struct.unpack_from(f"<{min(length // 8, 2)}Q", extra, place + 4)
        place += 4 + length
    return wide


def _descriptors(flags: int, entry: zipfile.ZipInfo) -> list[bytes]:
    """Return what may stand between a member's content and what follows: nothing, or by flag 8 a data descriptor (APPNOTE 4.3.9)."""
    if not flags & 0x8:
        return [b""]
    numbers = (entry.CRC, entry.compress_size, entry.file_size)
    forms = [struct.pack(form, *numbers) for form in ("<III", "<IQQ") if form == "<IQQ" or max(numbers) <= _ALL_ONES]
    return [*forms, *(b"PK\x07\x08" + form for form in forms)]


def _compare_ends(archive: Path, raw: IO[bytes], opened: zipfile.ZipFile) -> None:
    """Refuse a zip that goes on after its end, or whose two ends, if it has that of zip64, do not name the directory that was read."""
    place = raw.seek(-22 - len(opened.comment), os.SEEK_END)
    signature, *narrow = struct.unpack("<4s6xHII2x", raw.read(22))
    raw.seek(max(place - 76, 0))
    first, count, size, start, second, at = struct.unpack("<4s28xQQQ4s4xQ4x", raw.read(min(place, 76)).rjust(76, b"\0"))
    has_wide = second == b"PK\x06\x07"
    place -= 76 if has_wide else 0
    real = (len(opened.infolist()), place - opened.start_dir, opened.start_dir)
    same = signature == b"PK\x05\x06"
    for said, meant, ones in zip(narrow, real, (0xFFFF, _ALL_ONES, _ALL_ONES), strict=True):
        same = same and (said == meant or (has_wide and said == ones))
    if not same or (has_wide and (first, count, size, start, at) != (b"PK\x06\x06", *real, place)):
        raise _error(archive, "its end is not that of the directory that it has, or something follows it")


# -- the judgement


def _judged(archive: Path, content: _Content, *, strip: bool) -> list[Member]:
    """Return the members as they may be written, parents before their children."""
    limit = max(ALLOWED, archive.stat().st_size * RATIO)
    members: list[Member] = []
    sizes: dict[str, int] = {}
    total = 0
    with _damage_named(archive):
        for member in content.members():
            path = _plain(archive, member.name)
            if not path and member.kind != "directory":
                raise _error(archive, f"member {member.name!r} has no name")
            if member.kind == "hardlink":
                target = _plain(archive, member.target)
                member = replace(member, target=target, size=sizes.get(target, 0))
            total += member.size
            if member.size < 0 or total > limit or len(members) >= MEMBERS:
                raise _error(archive, f"it holds more than {MEMBERS} members or {limit} bytes, far more than one of its size should")
            if path:
                sizes[path] = member.size
                members.append(replace(member, path=path))
    if strip:
        members = _stripped(archive, members)
    if not members:
        raise _error(archive, "it is empty")
    _check_tree(archive, members)
    return members


def _plain(archive: Path, name: str) -> str:
    """Return a name in its one plain spelling; an empty one is the top itself."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts:
        raise _error(archive, f"the name {name!r} leads out of the archive")
    if not _is_text(name) or any(len(part.encode()) > 255 for part in parts):
        raise _error(archive, f"the name {name!r} is too long or holds characters that are not allowed")
    plain = "/".join(parts)
    return name if plain == name else plain


def _is_text(name: str) -> bool:
    """Return whether a name is free of what terminals, shells and other systems would make something else of."""
    return "\\" not in name and not any(unicodedata.category(character) in ("Cc", "Cs") for character in name)


def _stripped(archive: Path, members: list[Member]) -> list[Member]:
    """Take off the single top folder."""
    tops = sorted({member.path.partition("/")[0] for member in members})
    if len(tops) != 1 or any(member.path == tops[0] and member.kind != "directory" for member in members):
        raise _error(
            archive, f"it has no single top folder to strip, but {', '.join(tops[:5])}{', …' if len(tops) > 5 else ''}. Set strip: false"
        )
    top = f"{tops[0]}/"
    return [
        replace(
            member, path=member.path[len(top) :], target=member.target.removeprefix(top) if member.kind == "hardlink" else member.target
        )
        for member in members
        if member.path != tops[0]
    ]


def _check_tree(archive: Path, members: list[Member]) -> None:
    """Judge the members together: each has a place of its own, and no link leads out or is led through."""
    kinds: dict[str, str] = {}
    folded: dict[str, str] = {}
    for member in members:
        if member.path in kinds and (kinds[member.path], member.kind) != ("directory", "directory"):
            raise _error(archive, f"member {member.path!r} is there twice")
        for path in _with_parents(member.path):
            fold = unicodedata.normalize("NFC", path).casefold()
            # one text for both where they are equal: there may be hundreds of thousands
            other = folded.setdefault(path if fold == path else fold, path)
            if other != path:
                raise _error(archive, f"members {other!r} and {path!r} differ in case alone")
        if member.kind == "hardlink" and kinds.get(member.target) != "file":
            raise _error(archive, f"member {member.path!r} is a link to {member.target!r}, which is no file before it in the archive")
        kinds[member.path] = member.kind
    for member in members:
        for parent in list(_with_parents(member.path))[:-1]:
            if kinds.get(parent, "directory") != "directory":
                raise _error(archive, f"member {member.path!r} lies below {parent!r}, which is no directory")
        if member.kind == "symlink":
            _check_link(archive, member, kinds)


def _check_link(archive: Path, member: Member, kinds: dict[str, str]) -> None:
    """Refuse a symbolic link whose target is not plainly inside: absolute, upwards after a name, or through another link."""
    steps = [part for part in member.target.split("/") if part not in ("", ".")]
    names = list(itertools.dropwhile(lambda part: part == "..", steps))
    above, ups = member.path.split("/")[:-1], len(steps) - len(names)
    plain = bool(member.target) and not member.target.startswith("/") and ".." not in names and _is_text(member.target)
    if not plain or ups > len(above):
        raise _error(archive, f"member {member.path!r} is a link to {member.target!r}, which leads out of the archive or is not plain")
    place = "/".join([*above[: len(above) - ups], *names])
    for parent in list(_with_parents(place))[:-1]:
        if kinds.get(parent) == "symlink":
            raise _error(archive, f"member {member.path!r} is a link to {member.target!r}, which leads through another link")


def _with_parents(path: str) -> Iterator[str]:
    """Yield the directories above a path, the topmost first, and the path."""
    end = path.find("/")
    while end >= 0:
        yield path[:end]
        end = path.find("/", end + 1)
    yield path


# -- writing


def _write(content: _Content, members: list[Member], fresh: Path) -> None:
    """Write what was judged: directories, files, links; times last, then everything to the disk."""
    sources = {member.path: member for member in members if member.kind == "file"}
    for member in members:
        place = fresh / member.path
        (place if member.kind == "directory" else place.parent).mkdir(parents=True, exist_ok=True)
        if member.kind == "symlink":
            place.symlink_to(member.target)
            os.utime(place, (member.mtime, member.mtime), follow_symlinks=False)
        elif member.kind != "directory":
            source = sources[member.target] if member.kind == "hardlink" else member
            _write_file(content, source, place)
    for folder, _names, files in os.walk(fresh, topdown=False):
        for name in files:
            if not Path(folder, name).is_symlink():
                fsync_file(Path(folder, name))
        os.chmod(folder, 0o755)
        fsync_directory(Path(folder))


def _write_file(content: _Content, source: Member, place: Path) -> None:
    """Write one file with its time and, of its mode, nothing but whether it is a program."""
    handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as stream:
        _copy(content, source, stream)
        stream.flush()
        os.fchmod(stream.fileno(), 0o755 if source.mode & stat.S_IXUSR else 0o644)
        os.utime(stream.fileno(), (source.mtime, source.mtime))


def _copy(content: _Content, source: Member, stream: IO[bytes] | None) -> None:
    """Read one file to its end, which also checks its sum, and write it if there is somewhere to."""
    size = 0
    with content.read(source) as data:
        while chunk := data.read(CHUNK):
            size += len(chunk)
            if stream:
                stream.write(chunk)
    if size != source.size:
        raise EOFError(f"member {source.name!r} has {size} bytes, not {source.size}")


# -- errors


def is_damage(error: Exception) -> bool:
    """Return whether what a reader raised is about what it has read, and not about the disk: a place before a file's beginning is EINVAL."""
    return not isinstance(error, OSError) or error.errno in (None, errno.EINVAL)


@contextlib.contextmanager
def _damage_named(archive: Path) -> Iterator[None]:
    """Turn what the readers of the standard library raise for a damaged archive into an error that names it."""
    try:
        yield
    except UnicodeDecodeError:
        raise _error(archive, "the name of a member is not in UTF-8") from None
    except (*DAMAGED, OSError) as error:
        if not is_damage(error):
            raise
        raise _error(archive, f"it is damaged ({error}). Remove it and have it fetched again") from None


def _text(archive: Path, name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise _error(archive, f"the target of the link {name!r} is not in UTF-8") from None


def _error(archive: Path, message: str) -> ArchiveError:
    return ArchiveError(f"{archive.name.removesuffix('.part')}: {message}.")
