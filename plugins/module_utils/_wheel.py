# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a wheel fits, and what its compiled parts need of the node (PEP 425, 427, 600)."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from email import message_from_bytes
from io import BytesIO
from pathlib import Path

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from ansible_collections.rlinf.offline.plugins.module_utils._errors import ArchiveError, CatalogError, LockError

_METADATA = re.compile(r"[^/]+\.dist-info/METADATA\Z")
_PLATFORM = re.compile(r"(?P<machine>x86_64|aarch64)-manylinux_2_(?P<minor>\d+)\Z")
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
    except (zipfile.BadZipFile, ELFError) as error:
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
    """Refuse a file that is not, whole, the wheel that its name says (PEP 427).

    :param filename: the name that it is to have; the file itself may still have another.
    :raises ArchiveError: it is damaged, has no METADATA or WHEEL, or these are of another distribution.
    """
    try:
        name, version, _build, _tags = parse_wheel_filename(filename)
        with zipfile.ZipFile(wheel) as archive:
            damaged = archive.testzip()
            info = next((entry[: -len("METADATA")] for entry in archive.namelist() if _METADATA.match(entry)), None)
            if damaged or info is None or f"{info}WHEEL" not in archive.namelist():
                raise ArchiveError(
                    f"{filename} is no whole wheel ({f'{damaged} is damaged' if damaged else 'METADATA and WHEEL are not both in it'})."
                )
            said = message_from_bytes(archive.read(f"{info}METADATA"))
        other = (canonicalize_name(said["Name"] or ""), Version(said["Version"] or ""))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, InvalidWheelFilename, InvalidVersion) as error:
        raise ArchiveError(f"{filename} is no whole wheel ({error}).") from None
    if other != (name, version):
        raise ArchiveError(f"{filename} holds {other[0]} {other[1]}, which is not what its name says.")


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
