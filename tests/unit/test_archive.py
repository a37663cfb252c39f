# SPDX-License-Identifier: GPL-3.0-or-later
"""Unpacking: what is good arrives as it was, what is not refuses the whole archive and writes nothing."""

from __future__ import annotations

import io
import os
import stat
import struct
import subprocess
import tarfile
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.rlinf.offline.plugins.module_utils import _archive
from ansible_collections.rlinf.offline.plugins.module_utils._archive import examine, unpack
from ansible_collections.rlinf.offline.plugins.module_utils._errors import ArchiveError

Entries = list[tuple[str, Any]]
"""Name to content; of a link ``("symlink"|"hardlink", target)``; a name that ends in a slash is a directory."""

GOOD: Entries = [
    ("top/", b""),
    ("top/a.txt", b"a" * 3000),
    ("top/sub/deep/b.bin", bytes(range(256)) * 5),
    ("top/ünï.txt", b"utf-8"),
    ("top/sub/link", ("symlink", "../a.txt")),
]


def make_tar(path: Path, entries: Entries, how: str = "w:gz", **fields: Any) -> Path:
    with tarfile.open(path, how) as archive:  # type: ignore[call-overload]
        for name, content in entries:
            entry = tarfile.TarInfo(name)
            entry.mode, entry.mtime = 0o644, 1_700_000_000
            data = content if isinstance(content, bytes) else b""
            entry.size = len(data)
            if name.endswith("/"):
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            elif isinstance(content, tuple):
                entry.type, entry.linkname = {"symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE}[content[0]], content[1]
            for field, value in fields.items():
                setattr(entry, field, value)
            archive.addfile(entry, io.BytesIO(data))
    return path


def make_zip(path: Path, entries: Entries, mode: int = 0o644, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, content in entries:
            entry = zipfile.ZipInfo(name, (2024, 2, 29, 12, 0, 0))
            entry.create_system = 3
            entry.compress_type = compression
            kind = stat.S_IFDIR if name.endswith("/") else stat.S_IFLNK if isinstance(content, tuple) else stat.S_IFREG
            entry.external_attr = (kind | mode) << 16
            archive.writestr(entry, content[1] if isinstance(content, tuple) else content)
    return path


Make = Callable[[Path, Entries], Path]
BOTH = pytest.mark.parametrize("make", [make_zip, make_tar], ids=["zip", "tar"])


@pytest.mark.parametrize(
    "make",
    [
        make_zip,
        lambda path, entries: make_zip(path, entries, compression=zipfile.ZIP_STORED),
        make_tar,
        lambda path, entries: make_tar(path, entries, "w:xz"),
        lambda path, entries: make_tar(path, entries, "w:bz2"),
        lambda path, entries: make_tar(path, entries, "w:"),
    ],
    ids=["zip", "stored zip", "tar.gz", "tar.xz", "tar.bz2", "tar"],
)
@pytest.mark.parametrize("strip", [False, True])
def test_good_archives(tmp_path: Path, make: Make, strip: bool) -> None:
    archive = make(tmp_path / "archive", GOOD)
    assert unpack(archive, tmp_path / "fresh", strip=strip) == 3
    top = tmp_path / "fresh" if strip else tmp_path / "fresh" / "top"
    assert (top / "a.txt").read_bytes() == b"a" * 3000
    assert (top / "sub/deep/b.bin").read_bytes() == bytes(range(256)) * 5
    assert (top / "ünï.txt").read_bytes() == b"utf-8"
    assert os.readlink(top / "sub/link") == "../a.txt"
    assert (top / "sub/link").read_bytes() == b"a" * 3000


@BOTH
def test_the_same_archive_gives_the_same_tree(tmp_path: Path, make: Make, tree_hash: Any) -> None:
    archive = make(tmp_path / "archive", GOOD)
    for name in ("one", "two"):
        unpack(archive, tmp_path / name, strip=True)
    assert tree_hash(tmp_path / "one", mtimes=True) == tree_hash(tmp_path / "two", mtimes=True)


@pytest.mark.parametrize(("mode", "wanted"), [(0o777, 0o755), (0o6755, 0o755), (0o000, 0o644), (0o600, 0o644), (0o2654, 0o644)])
def test_of_modes_only_whether_it_is_a_program_is_kept(tmp_path: Path, mode: int, wanted: int) -> None:
    for archive in (make_zip(tmp_path / "a.zip", [("d/f", b"")], mode), make_tar(tmp_path / "a.tar", [("d/f", b"")], mode=mode)):
        fresh = tmp_path / archive.suffix
        unpack(archive, fresh, strip=False)
        assert stat.S_IMODE((fresh / "d/f").stat().st_mode) == wanted
        assert stat.S_IMODE((fresh / "d").stat().st_mode) == 0o755


BAD: list[tuple[str, Entries, str]] = [
    ("absolute", [("/etc/passwd", b"x")], "leads out"),
    ("up", [("a/../../x", b"x")], "leads out"),
    ("up and back", [("a/../b", b"x")], "leads out"),
    ("backslash", [("a\\b", b"x")], "not allowed"),
    ("newline", [("a\nb", b"x")], "not allowed"),
    ("escape", [("a\x1b[2Jb", b"x")], "not allowed"),
    ("too long", [("x" * 256, b"x")], "too long"),
    ("twice", [("a", b"x"), ("a", b"y")], "there twice"),
    ("twice in two spellings", [("a/b", b"x"), ("a/./b", b"y")], "there twice"),
    ("file and directory", [("a/", b""), ("a", b"y")], "there twice"),
    ("case", [("Readme", b"x"), ("README", b"y")], "differ in case"),
    ("case of a directory", [("Sub/a", b"x"), ("sub/b", b"y")], "differ in case"),
    ("composed and decomposed", [("\u00e9", b"x"), ("e\u0301", b"y")], "differ in case"),
    ("below a file", [("a", b"x"), ("a/b", b"y")], "which is no directory"),
    ("link to absolute", [("a", ("symlink", "/etc/passwd"))], "leads out"),
    ("link up", [("a", ("symlink", "../x"))], "leads out"),
    ("link up from below", [("s/a", ("symlink", "../../x"))], "leads out"),
    ("link down and up", [("a", ("symlink", "b/../../x"))], "leads out"),
    ("empty link", [("a", ("symlink", ""))], "leads out"),
    ("through a link", [("l", ("symlink", "d")), ("d/", b""), ("l/x", b"x")], "which is no directory"),
    ("link through a link", [("d/l", ("symlink", "..")), ("m", ("symlink", "d/l/x"))], "through another link"),
    ("empty", [], "it is empty"),
    ("only a directory named nothing", [("./", b"")], "it is empty"),
]


@BOTH
@pytest.mark.parametrize(("entries", "said"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD])
def test_bad_members_refuse_the_archive_before_a_byte_is_written(tmp_path: Path, make: Make, entries: Entries, said: str) -> None:
    archive = make(tmp_path / "bad.archive", [("good/first.txt", b"x"), *entries] if entries and entries[0][0] != "./" else entries)
    with pytest.raises(ArchiveError, match=said) as raised:
        unpack(archive, tmp_path / "fresh", strip=False)
    assert "bad.archive" in str(raised.value)
    assert "\x1b" not in str(raised.value)
    assert not (tmp_path / "fresh").exists()


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([("h", ("hardlink", "/etc/passwd"))], "leads out"),
        ([("h", ("hardlink", "../x"))], "leads out"),
        ([("h", ("hardlink", "later")), ("later", b"x")], "no file before it"),
        ([("s", ("symlink", "a")), ("h", ("hardlink", "s"))], "no file before it"),
    ],
)
def test_bad_hard_links(tmp_path: Path, entries: Entries, said: str) -> None:
    with pytest.raises(ArchiveError, match=said):
        unpack(make_tar(tmp_path / "a", entries), tmp_path / "fresh", strip=False)
    assert not (tmp_path / "fresh").exists()


def test_a_hard_link_becomes_a_copy(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a", [("top/a", b"content"), ("top/b", ("hardlink", "./top/a"))])
    assert unpack(archive, tmp_path / "fresh", strip=True) == 2
    assert (tmp_path / "fresh/b").read_bytes() == b"content"
    assert (tmp_path / "fresh/b").stat().st_nlink == 1


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(ArchiveError, match="'dev' is a device"):
        unpack(make_tar(tmp_path / "a", [("dev", b"")], type=kind), tmp_path / "fresh", strip=False)
    archive = make_zip(tmp_path / "b", [("dev", b"")], stat.S_IFIFO ^ stat.S_IFREG)
    with pytest.raises(ArchiveError, match="'dev' is a device"):
        unpack(archive, tmp_path / "fresh", strip=False)


@BOTH
@pytest.mark.parametrize(
    "entries",
    [[("a/x", b""), ("b/x", b"")], [("a", b"x")], [("a/x", b""), ("b", b"")], [(f"{number}/x", b"") for number in range(9)]],
    ids=["two", "a file", "a folder and a file", "many"],
)
def test_strip_needs_a_single_top_folder(tmp_path: Path, make: Make, entries: Entries) -> None:
    with pytest.raises(ArchiveError, match=r"no single top folder to strip, but .*strip: false"):
        unpack(make(tmp_path / "a", entries), tmp_path / "fresh", strip=True)
    assert not (tmp_path / "fresh").exists()


@BOTH
def test_a_link_that_only_the_top_folder_kept_inside(tmp_path: Path, make: Make) -> None:
    archive = make(tmp_path / "a", [("top/a", b"x"), ("top/l", ("symlink", "../top/a"))])
    assert unpack(archive, tmp_path / "whole", strip=False) == 1
    with pytest.raises(ArchiveError, match="leads out"):
        unpack(archive, tmp_path / "fresh", strip=True)


@BOTH
def test_bombs(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_archive, "ALLOWED", 100_000)
    archive = make(tmp_path / "bomb", [(f"zeros{number}", bytes(200_000)) for number in range(8)])
    with pytest.raises(ArchiveError, match="far more than one of its size should"):
        unpack(archive, tmp_path / "fresh", strip=False)
    monkeypatch.setattr(_archive, "ALLOWED", 1 << 30)
    monkeypatch.setattr(_archive, "MEMBERS", 7)
    with pytest.raises(ArchiveError, match="more than 7 members"):
        unpack(archive, tmp_path / "fresh", strip=False)
    assert not (tmp_path / "fresh").exists()


def test_a_bomb_of_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_archive, "ALLOWED", 100_000)
    monkeypatch.setattr(_archive, "RATIO", 1)
    entries: Entries = [("a", os.urandom(5000)), *((f"h{number}", ("hardlink", "a")) for number in range(40))]
    with pytest.raises(ArchiveError, match="far more than"):
        unpack(make_tar(tmp_path / "bomb", entries), tmp_path / "fresh", strip=False)


LONG = 24 << 20


@pytest.mark.parametrize("how", ["w:", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
@pytest.mark.parametrize("first", [True, False])
def test_a_header_that_is_a_bomb_is_not_read(tmp_path: Path, kind: bytes, how: str, first: bool) -> None:
    archive = tmp_path / "bomb"
    with tarfile.open(archive, how) as opened:  # type: ignore[call-overload]
        if not first:
            opened.addfile(tarfile.TarInfo("before"))
        header = tarfile.TarInfo("header")
        header.type, header.size = kind, LONG
        opened.addfile(header, io.BytesIO(bytes(LONG)))
        opened.addfile(tarfile.TarInfo("after"))
    del header
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveError, match=f"headers of the member at byte {0 if first else 512} have more than 1048576 bytes"):
            unpack(archive, tmp_path / "fresh", strip=False)
        assert tracemalloc.get_traced_memory()[1] < LONG / 2
    finally:
        tracemalloc.stop()
    assert not (tmp_path / "fresh").exists()


def test_a_header_after_many_others_is_not_read(tmp_path: Path) -> None:
    archive = tmp_path / "bomb"
    with tarfile.open(archive, "w:gz") as opened:
        for _number in range(3):
            header = tarfile.TarInfo("header")
            header.type, header.size = tarfile.XHDTYPE, 400_000
            opened.addfile(header, io.BytesIO(b"400000 comment=".ljust(399_999, b"x") + b"\n"))
        opened.addfile(tarfile.TarInfo("after"))
    with pytest.raises(ArchiveError, match="headers of the member at byte 0 have more"):
        examine(archive, strip=False)


def test_an_endless_map_of_holes_is_not_read(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("sparse")
    entry.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    header[482] = 1  # more of the map follows
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:]))
    more = b"00000000001\0" * 42 + b"\1" + bytes(7)
    (tmp_path / "bomb").write_bytes(bytes(header) + more * 3000)
    with pytest.raises(ArchiveError, match="headers of the member at byte 0 have more"):
        examine(tmp_path / "bomb", strip=False)


def test_long_headers_of_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries: Entries = [(f"{'d' * 200}/{'e' * 200}/{'f' * 200}/{number}", b"") for number in range(100)]
    archive = make_tar(tmp_path / "bomb", entries)
    assert len(examine(archive, strip=False)) == 100
    monkeypatch.setattr(_archive, "HEADERS", 2560)
    monkeypatch.setattr(_archive, "RATIO", 1)
    with pytest.raises(ArchiveError, match="headers of its members have more than 163840 bytes"):
        examine(archive, strip=False)


def test_what_does_not_fit_is_noticed_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_zip(tmp_path / "a", [("a", b"x" * 1000)])
    usage = type("usage", (), {"free": 999})
    monkeypatch.setattr(_archive.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ArchiveError, match=r"unpacks to 1000 bytes, and in .* 999 are free"):
        unpack(archive, tmp_path / "fresh", strip=False)


# -- archives that are damaged, or are none


@BOTH
def test_every_cut_is_noticed(tmp_path: Path, make: Make) -> None:
    whole = make(tmp_path / "whole", GOOD).read_bytes()
    cut = tmp_path / "cut"
    for length in range(0, len(whole), 7):
        cut.write_bytes(whole[:length])
        with pytest.raises(ArchiveError):
            unpack(cut, tmp_path / "fresh", strip=False)
        with pytest.raises(ArchiveError):
            examine(cut, strip=False)
        assert not (tmp_path / "fresh").exists()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_damage_gets_past_the_errors(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    tmp_path = tmp_path_factory.mktemp("damage")
    make = data.draw(st.sampled_from([make_zip, lambda path, entries: make_tar(path, entries, "w:")]))
    content = bytearray(make(tmp_path / "a", GOOD).read_bytes())
    for _ignored in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "a").write_bytes(content)
    try:
        unpack(tmp_path / "a", tmp_path / "fresh", strip=False)
    except ArchiveError:
        assert not (tmp_path / "fresh").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) in (["a"], ["a", "fresh"])


def test_a_web_page_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"<html>please log in</html>")
    with pytest.raises(ArchiveError, match=r"a\.zip: it is no whole zip or tar archive\. Look at what its URL really serves"):
        examine(tmp_path / "a.zip", strip=False)


def test_a_zip_whose_content_is_damaged(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", [("a", b"0123456789")], compression=zipfile.ZIP_STORED)
    archive.write_bytes(archive.read_bytes().replace(b"0123456789", b"0123456780"))
    for call in (lambda: examine(archive, strip=False), lambda: unpack(archive, tmp_path / "fresh", strip=False)):
        with pytest.raises(ArchiveError, match=r"damaged .*CRC"):
            call()
    assert not (tmp_path / "fresh").exists()


def patched_zip(tmp_path: Path, find: bytes, replacement: bytes, where: int) -> Path:
    """Return a zip in which the occurrence number *where* of some bytes is replaced."""
    data = make_zip(tmp_path / "a.zip", [("abcd", b"x" * 50), ("efgh", b"y" * 50)], compression=zipfile.ZIP_STORED).read_bytes()
    position = -1
    for _ignored in range(where + 1):
        position = data.index(find, position + 1)
    (tmp_path / "a.zip").write_bytes(data[:position] + replacement + data[position + len(find) :])
    return tmp_path / "a.zip"


@pytest.mark.parametrize(
    ("find", "replacement", "where"),
    [
        (b"abcd", b"evil", 0),
        (b"abcd", b"evil", 1),
        (struct.pack("<II", 50, 50), struct.pack("<II", 50, 49), 0),
        (struct.pack("<II", 50, 50), struct.pack("<II", 49, 49), 0),
        (b"PK\x03\x04", b"PK\x03\x05", 1),
        (b"PK\x03\x04\x14\x00\x00\x00\x00\x00", b"PK\x03\x04\x14\x00\x00\x00\x08\x00", 1),
        (b"PK\x03\x04\x14\x00\x00\x00", b"PK\x03\x04\x14\x00\x01\x00", 1),
    ],
    ids=["local name", "central name", "local size", "both local sizes", "no local header", "local method", "local encryption"],
)
def test_a_zip_that_says_two_things(tmp_path: Path, find: bytes, replacement: bytes, where: int) -> None:
    with pytest.raises(ArchiveError, match="described in two different ways"):
        unpack(patched_zip(tmp_path, find, replacement, where), tmp_path / "fresh", strip=False)
    assert not (tmp_path / "fresh").exists()


def test_members_that_lie_over_each_other(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", [("a", b"x" * 500), ("b", b"x" * 500)], compression=zipfile.ZIP_STORED)
    data = bytearray(archive.read_bytes())
    second = data.rindex(b"PK\x01\x02")
    # the second entry of the directory points at the first member's place, as in a bomb whose members share their content
    data[second + 42 : second + 46] = struct.pack("<I", 0)
    archive.write_bytes(data)
    with pytest.raises(ArchiveError, match=r"lies over|two different ways"):
        unpack(archive, tmp_path / "fresh", strip=False)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_member_that_the_directory_does_not_list(tmp_path: Path, place: int) -> None:
    names = ["a.py", "b.py"]
    names.insert(place, "evil.py")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
        archive.filelist = [entry for entry in archive.filelist if entry.filename != "evil.py"]
    assert zipfile.ZipFile(tmp_path / "a.zip").namelist() == ["a.py", "b.py"]
    with pytest.raises(ArchiveError, match=r"bytes .* which its directory does not list|come .* bytes that its directory does not list"):
        examine(tmp_path / "a.zip", strip=False)


def moved(whole: bytes, by: int) -> bytes:
    """Return a zip whose end gives another place for the directory."""
    start = int.from_bytes(whole[-6:-2], "little")
    return whole[:-6] + struct.pack("<I", start + by) + whole[-2:]


def fewer(whole: bytes) -> bytes:
    """Return a zip whose end gives fewer members than its directory has."""
    return whole[:-12] + struct.pack("<H", 1) + whole[-10:]


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda whole: b"PK\x03\x04#!/bin/sh\n" + whole, "14 bytes precede its first member"),
        (lambda whole: whole + b"more", "something follows it"),
        (lambda whole: moved(whole, 4), "is not that of the directory|precede its first member|two different ways|damaged"),
        (fewer, "is not that of the directory"),
    ],
    ids=["before", "behind", "another place", "fewer"],
)
def test_a_zip_that_is_not_all_that_is_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes], said: str, wide: bool
) -> None:
    if wide:
        monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 0)
    archive = make_zip(tmp_path / "a.zip", [("a", b"x"), ("b", b"y")])
    assert (b"PK\x06\x07" in archive.read_bytes()) == wide
    assert len(examine(archive, strip=False)) == 2
    archive.write_bytes(change(archive.read_bytes()))
    with pytest.raises(ArchiveError, match=said):
        examine(archive, strip=False)


CONTENT = b"content"
CRC = zlib.crc32(CONTENT)
ONES = 0xFFFFFFFF


def one_member(
    path: Path, flags: int, *, sizes: tuple[int, int] = (7, 7), crc: int = CRC, extra: bytes = b"", behind: bytes = b"", central: int = -1
) -> Path:
    """Return a zip of one member, as its local header and what follows the content are given."""
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, flags, 0, 0, 33, crc, *sizes, 1, len(extra)) + b"a" + extra + CONTENT + behind
    flags = flags if central < 0 else central
    directory = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, flags, 0, 0, 33, CRC, 7, 7, 1, 0, 0, 0, 0, 0, 0) + b"a"
    path.write_bytes(local + directory + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(directory), len(local), 0))
    return path


def zip64(*numbers: int) -> bytes:
    return struct.pack(f"<HH{len(numbers)}Q", 1, 8 * len(numbers), *numbers)


SIGNATURE = b"PK\x07\x08"
NARROW, WIDE = struct.pack("<III", CRC, 7, 7), struct.pack("<IQQ", CRC, 7, 7)


@pytest.mark.parametrize(
    "given",
    [
        {"flags": 0},
        {"flags": 0, "extra": b"\0" * 5},
        {"flags": 0, "extra": struct.pack("<HHI", 0xD935, 4, 0)},
        {"flags": 0, "sizes": (ONES, ONES), "extra": zip64(7, 7)},
        {"flags": 0, "extra": zip64(7, 7)},
        *({"flags": 8, "crc": 0, "sizes": (0, 0), "behind": sign + body} for sign in (b"", SIGNATURE) for body in (NARROW, WIDE)),
        {"flags": 8, "behind": SIGNATURE + NARROW},
        {"flags": 8, "crc": 0, "sizes": (ONES, ONES), "extra": zip64(0, 0), "behind": SIGNATURE + WIDE},
    ],
)
def test_all_forms_of_a_local_header_and_what_follows(tmp_path: Path, given: dict[str, Any]) -> None:
    assert [(member.path, member.size) for member in examine(one_member(tmp_path / "a.zip", **given), strip=False)] == [("a", 7)]


@pytest.mark.parametrize(
    "given",
    [
        {"flags": 0, "behind": b"x"},
        {"flags": 0, "behind": SIGNATURE + NARROW},
        {"flags": 0, "crc": 0},
        {"flags": 0, "sizes": (0, 0)},
        {"flags": 0, "sizes": (ONES, ONES)},
        {"flags": 0, "sizes": (ONES, ONES), "extra": zip64(7)},
        {"flags": 0, "sizes": (ONES, ONES), "extra": zip64(7, 9)},
        {"flags": 0, "sizes": (ONES, ONES), "extra": zip64(0, 0)},
        {"flags": 0, "extra": zip64(7, 9)},
        {"flags": 0, "extra": zip64(7, 7) + zip64(7, 9)},
        {"flags": 0, "extra": b"\1\0\xff\0"},
        {"flags": 8},
        {"flags": 8, "behind": SIGNATURE},
        {"flags": 8, "behind": SIGNATURE + NARROW[:-1]},
        {"flags": 8, "behind": SIGNATURE + struct.pack("<III", CRC, 7, 8)},
        {"flags": 8, "behind": SIGNATURE + struct.pack("<IQQ", CRC, 8, 7)},
        {"flags": 8, "behind": struct.pack("<III", CRC ^ 1, 7, 7)},
        {"flags": 8, "behind": SIGNATURE + WIDE + b"x"},
        {"flags": 8, "sizes": (6, 7), "behind": SIGNATURE + NARROW},
        {"flags": 8, "sizes": (ONES, ONES), "extra": zip64(7, 6), "behind": SIGNATURE + WIDE},
        {"flags": 8, "behind": SIGNATURE + NARROW, "central": 0},
        {"flags": 0, "central": 8},
    ],
)
def test_a_local_header_or_what_follows_that_is_not_what_the_directory_says(tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(ArchiveError, match=r"described in two different ways|bytes that its directory does not list|damaged"):
        examine(one_member(tmp_path / "a.zip", **given), strip=False)


def test_a_zip_that_git_makes(tmp_path: Path) -> None:
    """It writes what is large as a stream."""
    for name, size in (("small", 10), ("large", 5000)):
        (tmp_path / name).write_bytes(b"x" * size)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "core.bigFileThreshold=1k"]
    for command in (
        ["init", "-q"],
        ["add", "small", "large"],
        ["commit", "-qm", "x"],
        ["archive", "--format=zip", "--prefix=top/", "-oa.zip", "HEAD"],
    ):
        subprocess.run([*git, *command], check=True)
    assert unpack(tmp_path / "a.zip", tmp_path / "fresh", strip=True) == 2
    assert (tmp_path / "fresh/large").read_bytes() == b"x" * 5000


def test_names_that_are_not_in_utf8(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as opened:
        opened.addfile(tarfile.TarInfo("caf\u00e9"))
    with pytest.raises(ArchiveError, match="not in UTF-8"):
        unpack(archive, tmp_path / "fresh", strip=False)

    make_zip(tmp_path / "a.zip", [("cafXX", b"x")])
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes().replace(b"cafXX", b"caf\xc3\xa9"))
    with pytest.raises(ArchiveError, match="not in UTF-8"):
        unpack(tmp_path / "a.zip", tmp_path / "fresh", strip=False)


def test_an_encrypted_member(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", [("abcd", b"x")], compression=zipfile.ZIP_STORED)
    data = bytearray(archive.read_bytes())
    data[data.index(b"PK\x03\x04") + 6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    with pytest.raises(ArchiveError, match="'abcd' is encrypted"):
        unpack(archive, tmp_path / "fresh", strip=False)


def test_a_zip_of_a_stream_and_a_large_one(tmp_path: Path) -> None:
    """Sizes that follow the content, and zip64 fields, are no contradiction."""

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("streamed.txt", b"s" * 1000)
        with archive.open(zipfile.ZipInfo("large.bin"), "w", force_zip64=True) as member:
            member.write(b"l" * 1000)
    (tmp_path / "a.zip").write_bytes(pipe.data)
    assert unpack(tmp_path / "a.zip", tmp_path / "fresh", strip=False) == 2
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive, archive.open("large.bin", "w", force_zip64=True) as member:
        member.write(b"l" * 1000)
    assert unpack(tmp_path / "b.zip", tmp_path / "fresh-b", strip=False) == 1


def test_dates_that_are_none(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo("a", (1980, 0, 0, 0, 0, 0)), b"x")
    unpack(tmp_path / "a.zip", tmp_path / "zip", strip=False)
    unpack(make_tar(tmp_path / "a.tar", [("a", b"x")], mtime=-5), tmp_path / "tar", strip=False)
    assert (tmp_path / "tar/a").stat().st_mtime == 0
    make_tar(tmp_path / "b.tar", [("a", b"x")], pax_headers={"mtime": "nan"})
    with pytest.raises(ArchiveError, match="damaged"):
        unpack(tmp_path / "b.tar", tmp_path / "nan", strip=False)


def test_what_is_there_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "fresh").mkdir()
    (tmp_path / "fresh/mine").write_text("mine")
    with pytest.raises(FileExistsError):
        unpack(make_zip(tmp_path / "a", GOOD), tmp_path / "fresh", strip=True)
    assert [path.name for path in (tmp_path / "fresh").iterdir()] == ["mine"]
