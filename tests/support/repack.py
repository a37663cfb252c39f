# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wheels out of what is installed in the running environment, so that an index on loopback has real build backends and a real uv."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.wheels import STAMP

# what an installer writes beside what came with the wheel (PEP 376, 610)
_OF_THE_INSTALLER = frozenset({"INSTALLER", "REQUESTED", "RECORD", "direct_url.json", "uv_cache.json"})


def closure(names: Iterable[str]) -> list[str]:
    """Return the distributions of these names and all that they require in this environment, sorted.

    :raises importlib.metadata.PackageNotFoundError: one is not installed.
    """
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for text in distribution(name).requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(requirement.name))
    return sorted(found)


def repack(name: str, directory: Path) -> Path:
    """Write the wheel that the installed distribution *name* came from, as far as its RECORD tells, and return its path.

    Generated scripts are left out (they come back from ``entry_points.txt``), other scripts go under ``.data/scripts`` (PEP 427).
    """
    installed = distribution(name)
    info = next(path.parent.name for path in installed.files or () if path.name == "WHEEL" and path.parent.name.endswith(".dist-info"))
    stem = info.removesuffix(".dist-info")
    members = dict(sorted(_members(installed, info)))
    record = [[path, f"sha256={_digest(data)}", str(len(data))] for path, (data, _mode) in members.items()]
    path = directory / f"{stem}-{_tags(installed)}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for member, (data, mode) in members.items():
            _add(archive, member, data, mode)
        lines = "".join(f"{','.join(_quoted(row))}\n" for row in [*record, [f"{info}/RECORD", "", ""]])
        _add(archive, f"{info}/RECORD", lines.encode(), 0o644)
    return path


def _members(installed: Distribution, info: str) -> Iterator[tuple[str, tuple[bytes, int]]]:
    generated = {entry.name for entry in installed.entry_points if entry.group in ("console_scripts", "gui_scripts")}
    for path in installed.files or ():
        place = Path(str(installed.locate_file(path)))
        if "__pycache__" in path.parts or (path.parent.name == info and path.name in _OF_THE_INSTALLER) or not place.is_file():
            continue
        parts = PurePosixPath(path).parts
        if parts[0] == "..":
            if parts[-2] != "bin" or path.name in generated:
                continue
            member = f"{info.removesuffix('.dist-info')}.data/scripts/{path.name}"
        else:
            member = "/".join(parts)
        yield member, (place.read_bytes(), place.stat().st_mode & 0o777)


def _tags(installed: Distribution) -> str:
    """Return the compressed tag set of a wheel's file name (PEP 425)."""
    lines = (installed.read_text("WHEEL") or "").splitlines()
    tags = [line.partition(": ")[2].split("-") for line in lines if line.startswith("Tag: ")]
    return "-".join(".".join(dict.fromkeys(tag[place] for tag in tags)) for place in range(3))


def _add(archive: zipfile.ZipFile, member: str, data: bytes, mode: int) -> None:
    entry = zipfile.ZipInfo(member, STAMP)
    entry.external_attr = (0o100000 | mode) << 16
    archive.writestr(entry, data)


def _quoted(row: list[str]) -> list[str]:
    return [f'"{cell}"' if "," in cell else cell for cell in row]


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
