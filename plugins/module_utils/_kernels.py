# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which GPUs the compiled parts of wheels hold code for: their metadata does not say, the fat binaries in their libraries do.

A fat binary, as CUDA's compiler puts it into a library, is a header and any number of entries, each machine code for one compute capability,
or PTX, which a driver compiles for any newer one. ``records/kernels.json`` of a bundle says what was found: ``{path: {"sha256", "code"}}``,
where code is a list of ``9.0`` and, for PTX, ``9.0+PTX``; empty for a wheel that holds none. Standard library only.
"""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from ansible_collections.rlinf.offline.plugins.module_utils._archive import DAMAGED
from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError, LockError
from ansible_collections.rlinf.offline.plugins.module_utils._files import CHUNK, write_json
from ansible_collections.rlinf.offline.plugins.module_utils._installed import cores
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._package import Package
from ansible_collections.rlinf.offline.plugins.module_utils._records import read_record

RECORD = "kernels.json"
# magic number, version 1, length of the header; then the length of what follows (cuda's fatbinary_section.h and fatbinary.h)
_MAGIC = struct.pack("<IHH", 0xBA55ED50, 1, 16)
_HEADER = struct.Struct("<8xQ")
# kind, length of this header and of what it is about; the compute capability, times ten
_ENTRY = struct.Struct("<HxxIQ12xI")
_PTX, _CODE = 1, 2
_CODE_ENTRY = re.compile(r"\d+\.\d(\+PTX)?")
# lengths and capabilities beyond these are no fat binary's: some other bytes begin like one
_LONGEST_HEADER = 4096
_CAPABILITIES = range(20, 1000)


def code_of(wheel: Path) -> list[str]:
    """Return what GPUs a wheel's libraries hold code for, the oldest first: ``8.0``, ``9.0``, ``9.0+PTX``.

    :raises LockError: the wheel is damaged.
    """
    found: set[tuple[int, int]] = set()
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith(".so") or ".so." in name:
                    with archive.open(name) as stream:
                        found.update(code_in(stream))
    except DAMAGED as error:
        raise LockError(f"{wheel.name} is damaged ({error}). Remove {wheel} and run again.") from None
    return [f"{capability // 10}.{capability % 10}{'+PTX' if kind == _PTX else ''}" for capability, kind in sorted(found, key=_older)]


def _older(entry: tuple[int, int]) -> tuple[int, int]:
    return entry[0], -entry[1]


def code_in(library: IO[bytes]) -> Iterator[tuple[int, int]]:
    """Yield the compute capability, times ten, and the kind of every entry of the fat binaries in a library, read once from its beginning."""
    stream = _Window(library)
    while stream.find(_MAGIC):
        (left,) = stream.take(_HEADER)
        while left >= _ENTRY.size and stream.has(_ENTRY.size):
            kind, header, size, capability = stream.look(_ENTRY)
            if not _ENTRY.size <= header <= _LONGEST_HEADER or header + size > left or capability not in _CAPABILITIES:
                break
            if kind in (_PTX, _CODE):
                yield capability, kind
            stream.skip(header + size)
            left -= header + size


class _Window:
    """A stream that is only read forwards, and a little of it at a time."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._bytes = b""
        self._at = 0

    def _read(self) -> bool:
        """Have one more piece; what is behind is forgotten."""
        piece = self._stream.read(CHUNK)
        self._bytes = self._bytes[self._at :] + piece
        self._at = 0
        return bool(piece)

    def has(self, count: int) -> bool:
        """Return whether there are *count* more bytes."""
        while len(self._bytes) - self._at < count:
            if not self._read():
                return False
        return True

    def find(self, wanted: bytes) -> bool:
        """Go to where *wanted* begins, or to the end; a header has to follow it."""
        while (place := self._bytes.find(wanted, self._at)) < 0:
            self._at = max(self._at, len(self._bytes) - len(wanted) + 1)
            if not self._read():
                return False
        self._at = place
        return self.has(_HEADER.size)

    def look(self, form: struct.Struct) -> tuple[int, ...]:
        return form.unpack_from(self._bytes, self._at)

    def take(self, form: struct.Struct) -> tuple[int, ...]:
        found = self.look(form)
        self._at += form.size
        return found

    def skip(self, count: int) -> None:
        """Go on by *count* bytes, or to the end."""
        while count > len(self._bytes) - self._at:
            count -= len(self._bytes) - self._at
            self._at = len(self._bytes)
            if not self._read():
                return
        self._at += count


def runs(code: Iterable[str], capability: str) -> bool:
    """Return whether a GPU of a compute capability (``9.0``) can run some of the code.

    Machine code runs on GPUs of its major version with its minor or a newer one, PTX on any newer one (CUDA's programming guide).
    """
    own = _numbers(capability)
    for entry in code:
        oldest = _numbers(entry.removesuffix("+PTX"))
        if own >= oldest and (entry.endswith("+PTX") or own[0] == oldest[0]):
            return True
    return False


def _numbers(capability: str) -> tuple[int, int]:
    major, _ignored, minor = capability.partition(".")
    return int(major), int(minor or 0)


def newer(code: Sequence[str], capability: str) -> bool:
    """Return whether a GPU is newer than all that the code is for."""
    return _numbers(capability) > max(_numbers(entry.removesuffix("+PTX")) for entry in code)


# -- in a bundle ---------------------------------------------------------------------------------------------------------------


def record(bundle: Bundle) -> dict[str, dict[str, Any]]:
    """Return what was found in the wheels of a bundle.

    :raises BundleError: it is damaged.
    """
    found = read_record(bundle, RECORD)
    if not all(map(_is_entry, found.values())):
        raise BundleError(f"{bundle.records / RECORD} is damaged. Remove it and run the playbook rlinf.offline.download again.")
    return found


def _is_entry(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("sha256"), str) or not isinstance(value.get("code"), list):
        return False
    return all(isinstance(entry, str) and _CODE_ENTRY.fullmatch(entry) for entry in value["code"])


def unread(bundle: Bundle, packages: Iterable[Package]) -> list[Package]:
    """Return the packages whose wheels are in the bundle, hold compiled parts, and were not looked into yet."""
    known = record(bundle)
    compiled = {package.path: package for package in packages if package.path.endswith(".whl") and not package.path.endswith("-any.whl")}
    return [
        package
        for path, package in sorted(compiled.items())
        if known.get(path, {}).get("sha256") != package.sha256 and package.present(bundle)
    ]


def read(bundle: Bundle, packages: Iterable[Package]) -> None:
    """Look into wheels, and write down what code they hold.

    :raises LockError: a wheel is damaged.
    """
    fresh = unread(bundle, packages)
    if not fresh:
        return
    with ThreadPoolExecutor(max_workers=cores()) as pool:
        code = list(pool.map(lambda package: code_of(bundle.root / package.path), fresh))
    found = {package.path: {"sha256": package.sha256, "code": each} for package, each in zip(fresh, code, strict=True)}
    known = {path: entry for path, entry in record(bundle).items() if (bundle.root / path).is_file()}
    bundle.records.mkdir(parents=True, exist_ok=True)
    write_json(bundle.records / RECORD, {**known, **found})
