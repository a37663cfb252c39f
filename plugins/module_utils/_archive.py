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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from ansible_collections.rlinf.offline.plugins.module_utils._errors import ArchiveError
from ansible_collections.rlinf.offline.plugins.module_utils._faults import checkpoint
from ansible_collections.rlinf.offline.plugins.module_utils._files import CHUNK, fsync_directory, fsync_file, remove

MEMBERS = 500_000
"""How many members an archive may have."""
RATIO = 250
"""How many times its own size an archive may unpack to, once that is more than :data:`ALLOWED` bytes."""
ALLOWED = 1 << 30
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
"""What the readers of the standard library raise for a damaged archive, apart from an :class:`OSError`."""
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")


@dataclass(frozen=True)
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
    entries = opened.infolist()
    by_name = {entry.orig_filename: entry for entry in entries}

    def members() -> Iterator[Member]:
        _compare_headers(archive, raw, entries)
        for entry in entries:
            yield _zip_member(archive, opened, entry)

    return _Content(members, lambda member: opened.open(by_name[member.name]))


def _open_tar(archive: Path, stack: contextlib.ExitStack) -> _Content:
    with _damage_named(archive):
        try:
            opened = tarfile.open(archive, "r:*", encoding="utf-8", errors="strict")  # noqa: SIM115 (the stack closes it)
        except tarfile.ReadError:
            raise _error(archive, "it is no whole zip or tar archive. Look at what its URL really serves, or set unpack: false") from None
    stack.enter_context(opened)
    by_name: dict[str, tarfile.TarInfo] = {}

    def members() -> Iterator[Member]:
        for entry in opened:
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


def _compare_headers(archive: Path, raw: IO[bytes], entries: Iterable[zipfile.ZipInfo]) -> None:
    """Refuse a zip whose members say one thing in the directory and another in place, or lie over each other (APPNOTE 4.3.7).

    Readers that go by the one would see other files than readers that go by the other.
    """
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < end:
            raise _error(archive, f"member {entry.orig_filename!r} lies over the one before it")
        raw.seek(entry.header_offset)
        head = raw.read(30)
        signature, _version, flags, method, _time, crc, packed, size, name_length, extra_length = struct.unpack("<4sHHHIIIIHH", head)
        name = raw.read(name_length)
        coding = "utf-8" if flags & 0x800 else "cp437"
        same = signature == b"PK\x03\x04" and method == entry.compress_type and flags & 0x801 == entry.flag_bits & 0x801
        if same and not flags & 0x8:  # otherwise the three follow the content
            extended = 0xFFFFFFFF in (packed, size)
            same = crc == entry.CRC and (extended or (packed, size) == (entry.compress_size, entry.file_size))
        if not same or not name.decode(coding, "replace") == entry.orig_filename == entry.filename:
            raise _error(archive, f"member {entry.orig_filename!r} is described in two different ways")
        end = entry.header_offset + 30 + name_length + extra_length + entry.compress_size


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
    return "/".join(parts)


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
            other = folded.setdefault(unicodedata.normalize("NFC", path).casefold(), path)
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
    parts = path.split("/")
    for length in range(1, len(parts) + 1):
        yield "/".join(parts[:length])


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


@contextlib.contextmanager
def _damage_named(archive: Path) -> Iterator[None]:
    """Turn what the readers of the standard library raise for a damaged archive into an error that names it."""
    try:
        yield
    except UnicodeDecodeError:
        raise _error(archive, "the name of a member is not in UTF-8") from None
    except (*DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _error(archive, f"it is damaged ({error}). Remove it and have it fetched again") from None


def _text(archive: Path, name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise _error(archive, f"the target of the link {name!r} is not in UTF-8") from None


def _error(archive: Path, message: str) -> ArchiveError:
    return ArchiveError(f"{archive.name.removesuffix('.part')}: {message}.")
