# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a wheel fits, and what its compiled parts need of the node (PEP 425, 427, 600)."""

from __future__ import annotations

import base64
import csv
import hashlib
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from email import message_from_bytes
from io import BytesIO, TextIOWrapper
from pathlib import Path

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from ansible_collections.rlinf.offline.plugins.module_utils import _archive
from ansible_collections.rlinf.offline.plugins.module_utils._errors import ArchiveError, CatalogError, LockError
from ansible_collections.rlinf.offline.plugins.module_utils._files import CHUNK

_RECORD = re.compile(r"[^/]+\.dist-info/RECORD\Z")
_DIGESTS = frozenset({"sha256", "sha384", "sha512"})
_METADATA = re.compile(r"[^/]+\.dist-info/METADATA\Z")
_PLATFORM = re.compile(r"(?P<machine>x86_64|aarch64)-manylinux_2_(?P<minor>\d+)\Z")
_DAMAGED = (*_archive.DAMAGED, csv.Error)
# PEP 600: the names that older installers gave to these glibc versions
_ALIASES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
_OLDEST = {"x86_64": 5, "aarch64": 17}


@dataclass(frozen=True)
class Platform:
    """The nodes' machine and glibc, as uv's ``--python-platform`` names them: ``x86_64-manylinux_2_31``."""

    machine: str
    glibc: tuple[int, int]

    @classmethod
    def parse(cls, text: str) -> Platform:
        """:raises CatalogError: it is not of this form."""
        found = _PLATFORM.match(text)
        if not found:
            raise CatalogError(f"rlinf_platform: {text!r} is not of the form x86_64-manylinux_2_31 (machine and glibc of the nodes).")
        return cls(found["machine"], (2, int(found["minor"])))

    def __str__(self) -> str:
        return f"{self.machine}-manylinux_{self.glibc[0]}_{self.glibc[1]}"

    @property
    def tags(self) -> list[str]:
        """Platform tags that such a node takes, the most specific first."""
        names = []
        for minor in range(self.glibc[1], _OLDEST[self.machine] - 1, -1):
            names.append(f"manylinux_2_{minor}_{self.machine}")
            if minor in _ALIASES:
                names.append(f"{_ALIASES[minor]}_{self.machine}")
        return [*names, f"linux_{self.machine}"]


def supported_tags(python: str, platform: Platform) -> list[Tag]:
    """Return the tags that CPython *python* (``3.11``) on *platform* takes, the best first."""
    version = tuple(int(part) for part in python.split(".")[:2])
    interpreter = f"cp{version[0]}{version[1]}"
    return [*cpython_tags(version, platforms=platform.tags), *compatible_tags(version, interpreter, platform.tags)]


def best_wheel(filenames: Iterable[str], tags: list[Tag]) -> str | None:
    """Return the file that an installer with these tags would take, or None if none fits.

    Names that are no wheels by PEP 427 are passed over, as installers do.
    """
    rank = {tag: number for number, tag in enumerate(tags)}
    best: tuple[int, tuple[int, str] | tuple[()], str] | None = None
    for filename in filenames:
        try:
            _name, _version, build, wheel_tags = parse_wheel_filename(filename)
        except InvalidWheelFilename:
            continue
        fitting = [rank[tag] for tag in wheel_tags if tag in rank]
        if not fitting:
            continue
        candidate = (-min(fitting), build, filename)
        if best is None or candidate > best:
            best = candidate
    return best[2] if best else None


def needed_glibc(wheel: Path) -> dict[str, tuple[int, int]]:
    """Return for every ELF file in a wheel the newest glibc symbol version that it needs.

    :raises LockError: the wheel is damaged.
    """
    # it takes a while to import, and only who has built something looks into files
    from elftools.common.exceptions import ELFError

    needed: dict[str, tuple[int, int]] = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith(".so") or ".so." in name or "/scripts/" in name:
                    version = _glibc_of(archive.read(name))
                    if version:
                        needed[name] = version
    except (*_DAMAGED, ELFError, LookupError, AttributeError, TypeError, AssertionError) as error:  # pyelftools believes what a file says
        raise LockError(f"{wheel.name} is damaged ({error}). Remove {wheel} and run again.") from None
    return needed


def _glibc_of(content: bytes) -> tuple[int, int] | None:
    if not content.startswith(b"\x7fELF"):
        return None
    from elftools.elf.elffile import ELFFile
    from elftools.elf.gnuversions import GNUVerNeedSection

    versions = [(2, 0)]
    for section in ELFFile(BytesIO(content)).iter_sections():
        if isinstance(section, GNUVerNeedSection):
            for _need, auxiliaries in section.iter_versions():
                for auxiliary in auxiliaries:
                    found = re.match(r"GLIBC_(\d+)\.(\d+)", auxiliary.name)
                    if found:
                        versions.append((int(found[1]), int(found[2])))
    return max(versions)


def check_whole(wheel: Path, filename: str) -> None:
    """Refuse a file that is not, whole, the wheel that its name says (PEP 427): for what comes by a URL alone.

    :param filename: the name that it is to have; the file itself may still have another.
    :raises ArchiveError: it is damaged, has no METADATA or WHEEL, these are of another distribution, or RECORD is not of its content.
    """
    _archive.listed(wheel)
    try:
        name, version, _build, _tags = parse_wheel_filename(filename)
        said = message_from_bytes(_metadata(wheel, filename))
        other = (canonicalize_name(str(said["Name"] or "")), Version(str(said["Version"] or "")))
    except (*_DAMAGED, InvalidWheelFilename, InvalidVersion) as error:
        raise ArchiveError(f"{filename} is no whole wheel ({error}).") from None
    if other != (name, version):
        raise ArchiveError(f"{filename} holds {other[0]} {other[1]}, which is not what its name says.")
    check_record(wheel, content=True)


def _metadata(wheel: Path, filename: str) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        info = next((entry[: -len("METADATA")] for entry in archive.namelist() if _METADATA.match(entry)), None)
        if info is None or f"{info}WHEEL" not in archive.namelist():
            raise ArchiveError(f"{filename} is no whole wheel (METADATA and WHEEL are not both in it).")
        return archive.read(f"{info}METADATA")


def check_record(wheel: Path, *, content: bool = False) -> None:
    """Refuse a wheel with members that must not be unpacked, or others than its RECORD lists (PEP 376, 427).

    :param content: compare what is in it with RECORD's digests, too. Not for what an index serves: its own digest vouches for the whole
        file already, and wheels are served there whose RECORD is of other content (augmax 0.4.1, decord 0.6.0).
    :raises ArchiveError: it is damaged, or something in it is not listed, listed and missing, twice there, a link, or not what RECORD says.
    """
    members = {member.name for member in _archive.listed(wheel) if not _no_file(member)}
    try:
        with zipfile.ZipFile(wheel) as archive:
            rows = _rows(archive, members)
            for name in sorted(members & rows.keys()) if content else ():
                _check_digest(archive, name, rows[name])
    except _DAMAGED as error:
        raise ArchiveError(f"it is no whole wheel ({error}).") from None


def _no_file(member: _archive.Member) -> bool:
    if member.kind not in ("file", "directory"):
        raise ArchiveError(f"{member.name} in it is a link, which no wheel holds.")
    return member.kind == "directory"


def _rows(archive: zipfile.ZipFile, members: set[str]) -> dict[str, str]:
    """Return the digests of RECORD by path, of exactly these members; it lists neither its own nor those of its signatures."""
    records = [name for name in members if _RECORD.match(name)]
    if len(records) != 1:
        raise ArchiveError(f"it has {'more than one' if records else 'no'} RECORD.")
    unlisted = {records[0], f"{records[0]}.jws", f"{records[0]}.p7s"}
    rows: dict[str, str] = {}
    with TextIOWrapper(archive.open(records[0]), encoding="utf-8", newline="") as stream:
        for row in csv.reader(stream):
            if row and (len(row) != 3 or row[0] in rows):
                raise ArchiveError(f"its RECORD lists {row[0]!r} twice, or in another form than path, digest and size.")
            if row and row[0] not in unlisted:
                rows[row[0]] = row[1]
                if row[1].partition("=")[0] not in _DIGESTS:
                    raise ArchiveError(f"its RECORD has no digest of {row[0]}.")
    for name in sorted(members - unlisted - rows.keys())[:1]:
        raise ArchiveError(f"its RECORD does not list {name}.")
    for name in sorted(rows.keys() - members)[:1]:
        raise ArchiveError(f"it lacks {name}, which its RECORD lists.")
    return rows


def _check_digest(archive: zipfile.ZipFile, name: str, wanted: str) -> None:
    kind, _ignored, text = wanted.partition("=")
    digest = hashlib.new(kind)
    with archive.open(name) as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    if base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode() != text.rstrip("="):
        raise ArchiveError(f"{name} in it is not what its RECORD says.")


def check_built(wheel: Path, platform: Platform, source: str) -> None:
    """Refuse a wheel built here that the nodes could not load.

    :param source: what it was built from, for the message.
    :raises LockError: a compiled part needs a newer glibc than the nodes have.
    """
    for name, version in needed_glibc(wheel).items():
        if version > platform.glibc:
            raise LockError(
                f"{source}: {name}, built here, needs glibc {version[0]}.{version[1]}, but the nodes are {platform} (rlinf_platform). "
                f"Download on a host whose glibc is no newer than the nodes', or set rlinf_platform to what the nodes really have."
            )
