# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A wheel with files of another one copied over its package: what an installer's ``cp -r`` would do in every environment, done once.

Whoever copies into an environment writes through uv's hardlinks into all of them, and leaves a RECORD that is wrong.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import IO

from packaging.utils import canonicalize_name

from ansible_collections.rlinf.offline.plugins.module_utils._errors import LockError

# zip entries are dated, and know no year before 1980: equal content gives equal bytes
_STAMP = (1980, 1, 1, 0, 0, 0)
# where a wheel may keep what goes to site-packages, beside its root (PEP 427)
_DATA = re.compile(r"[^/]+\.data/(?:purelib|platlib)/")
# of other bytes than these will be
_SIGNATURES = ("RECORD", "RECORD.jws", "RECORD.p7s")
_UNIX = 3


def repack(base: Path, donor: Path, path: str, destination: Path) -> int:
    """Write a copy of the wheel *base* in which the files of the wheel *donor* below *path* lie over its package.

    As ``cp -r site-packages/PATH/* site-packages/PACKAGE/`` does: what is there is replaced, what is not is added, and hidden files right
    below *path* stay behind. Name, metadata and everything else are those of *base*; RECORD says what is in it (PEP 376, PEP 427). Equal
    wheels give equal bytes, with one version of zlib.

    :param path: a directory, as it lies in site-packages once *donor* is installed.
    :returns: how many files were replaced or added.
    :raises LockError: *donor* has no such directory, *base* not one package that it could go over, or one of them is damaged.
    """
    try:
        with zipfile.ZipFile(base) as original, zipfile.ZipFile(donor) as other:
            package = _package(base.name, original)
            laid = {f"{package}/{name}": member for name, member in _below(other, path).items()}
            if not laid:
                raise LockError(f"{donor.name} has no files below {path}, which were to be laid over {package}. Correct path.")
            _write(destination, original, other, laid)
    except zipfile.BadZipFile as error:
        raise LockError(f"{base.name} or {donor.name} is damaged ({error}). Remove it and run the download playbook again.") from None
    return len(laid)


def _installed(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the files of a wheel by where they lie in site-packages."""
    return {_DATA.sub("", member.filename, count=1): member for member in archive.infolist() if not member.is_dir()}


def _below(archive: zipfile.ZipFile, path: str) -> dict[str, zipfile.ZipInfo]:
    start = f"{PurePosixPath(path)}/"
    found = {name[len(start) :]: member for name, member in _installed(archive).items() if name.startswith(start)}
    # what a shell's * leaves out
    return {name: member for name, member in found.items() if not name.startswith(".")}


def _package(filename: str, archive: zipfile.ZipFile) -> str:
    """Return the directory of a wheel's package: the one that is named like the distribution, else the only one."""
    packages = {name.partition("/")[0] for name in _installed(archive) if "/" in name}
    packages = {name for name in packages if not name.endswith((".dist-info", ".data"))}
    distribution = canonicalize_name(filename.partition("-")[0])
    named = sorted(name for name in packages if canonicalize_name(name) == distribution) or sorted(packages)
    if len(named) != 1:
        raise LockError(f"{filename} has {', '.join(named) or 'no package'}: which of them files are to be laid over cannot be told.")
    return named[0]


def _write(destination: Path, original: zipfile.ZipFile, other: zipfile.ZipFile, laid: Mapping[str, zipfile.ZipInfo]) -> None:
    there = _installed(original)
    # a member of the original's .data keeps its place there
    members = {there[name].filename if name in there else name: (other, member) for name, member in laid.items()}
    kept = [member for member in original.infolist() if not member.is_dir() and member.filename not in members]
    info = next(member.filename.partition("/")[0] for member in kept if member.filename.partition("/")[0].endswith(".dist-info"))
    members |= {member.filename: (original, member) for member in kept if member.filename not in {f"{info}/{name}" for name in _SIGNATURES}}
    rows = []
    with zipfile.ZipFile(destination, "w", zipfile.ZIP_DEFLATED) as archive:
        # metadata last, as PEP 427 advises
        for name in sorted(members, key=lambda name: (name.startswith(f"{info}/"), name)):
            rows.append(_copy(archive, name, *members[name]))
        rows.append((f"{info}/RECORD", "", ""))
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        archive.writestr(_entry(f"{info}/RECORD", 0o100644 << 16), text.getvalue())


def _entry(name: str, attributes: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _STAMP)
    entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, _UNIX, attributes
    return entry


class _Digesting:
    """A file that remembers digest and length of what is read from it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest, self.size = file, hashlib.sha256(), 0

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.digest.update(data)
        self.size += len(data)
        return data


def _copy(archive: zipfile.ZipFile, name: str, source: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[str, str, str]:
    """Copy one member under *name*; return its row of RECORD."""
    entry = _entry(name, member.external_attr)
    entry.file_size = member.file_size
    with source.open(member) as reading, archive.open(entry, "w") as writing:
        digesting = _Digesting(reading)
        shutil.copyfileobj(digesting, writing, 1 << 20)
    digest = base64.urlsafe_b64encode(digesting.digest.digest()).rstrip(b"=").decode()
    return name, f"sha256={digest}", str(digesting.size)
