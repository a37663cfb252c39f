# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a file of unknown origin is whole, as far as its format can tell: for what comes without a digest.

A file that was cut off is found where the format says how long it is or how it ends. Bytes that were changed in between are not.
"""

from __future__ import annotations

import json
import mmap
import struct
import xml.parsers.expat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from ansible_collections.rlinf.offline.plugins.module_utils._errors import ArchiveError

MAY_BE_EMPTY = frozenset({"__init__.py", ".gitkeep", ".keep", ".gitattributes", ".gitignore", ".nojekyll", "py.typed"})
"""Names of files that are empty on purpose."""


def check(path: Path) -> bool:
    """Look at one file.

    :returns: whether its format tells that it is whole; of others only that it is not empty is known.
    :raises ArchiveError: it is empty, or not whole; why is said, without its name.
    :raises OSError: it cannot be read.
    """
    if not path.stat().st_size:
        if path.name in MAY_BE_EMPTY:
            return True
        raise ArchiveError("it is empty (0 bytes)")
    with path.open("rb") as stream:
        is_elf = stream.read(4) == b"\x7fELF"
    judge = _elf if is_elf else _FORMATS.get(path.suffix.lower())
    if judge is None:
        return False
    try:
        problem = judge(path)
    except (ELFError, struct.error, zipfile.BadZipFile, zlib.error, EOFError, ValueError, IndexError, OverflowError) as error:
        problem = str(error) or type(error).__name__
    if problem:
        raise ArchiveError(f"it is cut off or damaged: {problem}")
    return True


# -- formats: each returns what is wrong with a file


def _elf(path: Path) -> str:
    """System V ABI: every segment and section lies within the file."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        elf = ELFFile(stream)
        header = elf.header
        end = max(
            header["e_phoff"] + header["e_phnum"] * header["e_phentsize"], header["e_shoff"] + header["e_shnum"] * header["e_shentsize"]
        )
        if end <= size:
            segments = [segment["p_offset"] + segment["p_filesz"] for segment in elf.iter_segments()]
            sections = [part["sh_offset"] + part["sh_size"] for part in elf.iter_sections() if part["sh_type"] != "SHT_NOBITS"]
            end = max([end, *segments, *sections])
    return f"its headers speak of {end} bytes, and it has {size}" if end > size else ""


def _zip(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        bad = archive.testzip()
    return f"{bad} in it is damaged" if bad else ""


def _json(path: Path) -> str:
    json.loads(path.read_bytes())
    return ""


def _xml(path: Path) -> str:
    parser = xml.parsers.expat.ParserCreate()
    try:
        with path.open("rb") as stream:
            parser.ParseFile(stream)
    except xml.parsers.expat.ExpatError as error:
        return str(error)
    return ""


def _glb(path: Path) -> str:
    """glTF 2.0, 4.4.2: magic, version and length of the whole in little endian."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        magic, _version, length = struct.unpack("<4sII", stream.read(12))
    return "" if (magic, length) == (b"glTF", size) else f"it says that it has {length} bytes, and it has {size}"


def _png(path: Path) -> str:
    """PNG, 5.6 and 11.2.5: it ends in an empty IEND chunk, whose CRC is always the same."""
    head, tail = _ends(path)
    return "" if head.startswith(b"\x89PNG\r\n\x1a\n") and b"IEND\xaeB`\x82" in tail else "it does not end as a PNG"


def _jpeg(path: Path) -> str:
    head, tail = _ends(path)
    return "" if head.startswith(b"\xff\xd8") and b"\xff\xd9" in tail else "it does not end as a JPEG"


def _ends(path: Path) -> tuple[bytes, bytes]:
    """Return the first and the last 1024 bytes of a file."""
    with path.open("rb") as stream:
        head = stream.read(1024)
        stream.seek(max(0, path.stat().st_size - 1024))
        return head, stream.read()


def _stl(path: Path) -> str:
    """Binary: a header of 80 bytes, the number of triangles, 50 bytes for each. Text: from solid to endsolid."""
    size = path.stat().st_size
    head, tail = _ends(path)
    if size >= 84 and 84 + 50 * struct.unpack("<I", head[80:84])[0] <= size:
        return ""
    return "" if head.lstrip().startswith(b"solid") and b"endsolid" in tail else "it has fewer triangles than it says"


def _sentencepiece(path: Path) -> str:
    """sentencepiece's ModelProto: pieces (1), then how they were trained (2) and normalised (3), as protobuf's wire format has them."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _protobuf(content)


def _protobuf(content: mmap.mmap) -> str:
    place, seen = 0, set()
    while place < len(content):
        key, place = _varint(content, place)
        if key & 7 == 0:
            _value, place = _varint(content, place)
        elif key & 7 == 2:
            length, place = _varint(content, place)
            place += length
        else:
            place += {1: 8, 5: 4}.get(key & 7, len(content) + 1)
        seen.add(key >> 3)
    if place > len(content):
        return f"its last part ends at byte {place}, and it has {len(content)}"
    return "" if {1, 2, 3} <= seen else "it lacks a part that every sentencepiece model has"


def _varint(content: mmap.mmap, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place


_FORMATS: dict[str, Callable[[Path], str]] = {
    **dict.fromkeys((".zip", ".npz", ".whl"), _zip),
    **dict.fromkeys((".json", ".gltf"), _json),
    **dict.fromkeys((".xml", ".urdf", ".srdf", ".dae"), _xml),
    **dict.fromkeys((".jpg", ".jpeg"), _jpeg),
    ".glb": _glb,
    ".png": _png,
    ".stl": _stl,
    ".so": _elf,
    ".model": _sentencepiece,
}
