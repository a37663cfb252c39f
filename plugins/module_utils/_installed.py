# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is installed in an environment, by its ``*.dist-info`` folders (PEP 376, PEP 427). Standard library only."""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import re
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ansible_collections.rlinf.offline.plugins.module_utils._errors import VenvError
from ansible_collections.rlinf.offline.plugins.module_utils._files import CHUNK, of_many


@dataclass(frozen=True)
class Distribution:
    """An installed package: its normalised name, its version as its folder spells it, and its ``*.dist-info``."""

    name: str
    version: str
    info: Path

    @property
    def record(self) -> Path:
        return self.info / "RECORD"

    def fingerprint(self) -> list[int]:
        """Return size in bytes and mtime in nanoseconds of its RECORD; a reinstallation changes it. Without a RECORD: nothing."""
        try:
            status = self.record.stat()
        except FileNotFoundError:
            return []
        return [status.st_size, status.st_mtime_ns]


def normalize(name: str) -> str:
    """Return a distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def site_packages(environment: Path) -> Path:
    """Return the environment's ``site-packages``.

    :raises VenvError: it has none, so that it is no environment.
    """
    found = sorted(environment.glob("lib/python3.*/site-packages"))
    if not found:
        raise VenvError(f"{environment} is no virtual environment. Remove it and install again.")
    return found[0]


def distributions(environment: Path, only: Collection[str] | None = None) -> dict[str, Distribution]:
    """Return what is installed, by normalised name.

    :param only: look at these packages alone.
    :raises VenvError: a package is there twice, or this is no environment.
    """
    found: dict[str, Distribution] = {}
    for entry in sorted(site_packages(environment).glob("*.dist-info")):
        stem, _ignored, version = entry.name.removesuffix(".dist-info").rpartition("-")
        name = normalize(stem)
        if only is not None and name not in only:
            continue
        if name in found:
            raise VenvError(f"{environment} holds {name} twice: {found[name].version} and {version}. Install again to have it built anew.")
        found[name] = Distribution(name, version, entry)
    return found


def fingerprints(environment: Path) -> dict[str, list[int]]:
    """Return the fingerprint of every package, of the activation script and of the configuration: cheap, and changed by any installer."""
    found = {name: package.fingerprint() for name, package in distributions(environment).items()}
    for file in ("bin/activate", "pyvenv.cfg"):
        path = environment / file
        found[file] = [path.stat().st_size, path.stat().st_mtime_ns] if path.exists() else []
    return found


def recorded(lines: Iterator[str] | list[str]) -> dict[str, str]:
    """Return path -> ``sha256=…`` of a RECORD; lines without a digest (RECORD itself) are left out."""
    return {row[0]: row[1] for row in csv.reader(lines) if len(row) >= 2 and row[1]}


def metadata_version(package: Distribution) -> str:
    """Return the version that an installed package's METADATA tells; empty if it tells none."""
    try:
        text = (package.info / "METADATA").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    found = re.search(r"^Version: *(.+?) *$", text.partition("\n\n")[0], re.MULTILINE)
    return found[1] if found else ""


def damaged_files(
    environment: Path, wheels: Mapping[str, Path], jobs: int, *, removes: Sequence[str] = (), only: Collection[str] | None = None
) -> dict[str, list[str]]:
    """Hash every installed file and return, for each package, the files that are not as its RECORD says or are gone.

    A file that several packages bring is right if it is that of any of them, since the last one installed wins; a file whose
    RECORD is wrong already in the wheel is right if it equals the wheel's.

    :param wheels: the wheel of each package, by normalised name, as far as they are at hand.
    :param jobs: how many files are read at a time.
    :param removes: globs of what may be gone below site-packages (see :func:`matches_glob`).
    :param only: look at these packages alone.
    """
    owners: dict[str, list[tuple[str, str, str]]] = {}
    damaged: dict[str, list[str]] = {}
    for name, package in distributions(environment, only).items():
        if not package.record.is_file():
            damaged[name] = [f"{package.info.name}/RECORD"]
            continue
        folder = os.fspath(package.info.parent)
        with open(package.record, encoding="utf-8", newline="") as stream:
            for path, digest in recorded(stream).items():
                # who installed it is no content: conda writes its own name over pip's
                if path.endswith(".dist-info/INSTALLER"):
                    continue
                owners.setdefault(os.path.normpath(os.path.join(folder, path)), []).append((name, path, digest))
    judged = of_many(lambda item: _matches(item[0], {digest for _name, _path, digest in item[1]}), owners.items(), jobs)
    for (file, claims), is_right in judged:
        if (
            not is_right
            and not _may_be_gone(file, claims, removes)
            and not any(_equals_member(file, wheels.get(name), path) for name, path, _digest in claims)
        ):
            damaged.setdefault(claims[0][0], []).append(claims[0][1])
    return damaged


def _matches(file: str, digests: set[str]) -> bool:
    """Say whether a file has one of the digests of RECORDs: algorithm, ``=``, URL-safe base64 without padding (PEP 376, PEP 427)."""
    sums = {digest.partition("=")[0]: hashlib.new(digest.partition("=")[0]) for digest in digests}
    try:
        with open(file, "rb", buffering=0) as stream:
            while chunk := stream.read(CHUNK):
                for each in sums.values():
                    each.update(chunk)
    except OSError:
        return False
    found = {f"{name}={base64.urlsafe_b64encode(each.digest()).rstrip(b'=').decode()}" for name, each in sums.items()}
    return bool(found & {digest.rstrip("=") for digest in digests})


def _may_be_gone(file: str, claims: Iterable[tuple[str, str, str]], removes: Sequence[str]) -> bool:
    return not os.path.lexists(file) and any(matches_glob(path, pattern) for _name, path, _digest in claims for pattern in removes)


def matches_glob(path: str, pattern: str) -> bool:
    """Say whether a path, or a directory that it is in, matches a pattern: ``*`` is any text without a slash, ``**`` any directories."""
    pieces = re.split(r"(\*\*/|\*|\?)", pattern)
    known = {"**/": "(?:[^/]+/)*", "*": "[^/]*", "?": "[^/]"}
    return re.fullmatch("".join(known.get(piece, re.escape(piece)) for piece in pieces) + "(?:/.*)?", path) is not None


def _equals_member(file: str, wheel: Path | None, path: str) -> bool:
    """Say whether a file is what the wheel holds under *path*; one that the wheel lacks although its RECORD lists it may be missing."""
    if wheel is None:
        return False
    try:
        with zipfile.ZipFile(wheel) as archive:
            if path not in archive.NameToInfo:
                return not os.path.exists(file)
            with archive.open(path) as member, Path(file).open("rb") as there:
                return all(one == there.read(len(one)) for one in iter(partial(member.read, CHUNK), b"")) and not there.read(1)
    except (OSError, zipfile.BadZipFile):
        return False


def differs_from_wheel(package: Distribution, wheel: Path, *, metadata: bool = True) -> str | None:
    """Compare what was installed with the wheel it should come from, by their RECORDs.

    :param metadata: whether its ``*.dist-info`` is compared, too.
    :returns: the first file that has another digest or is not listed, or None. Files below ``*.data`` move when installed and are not compared.
    :raises VenvError: the wheel is damaged.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            name = next(name for name in archive.namelist() if name.count("/") == 1 and name.endswith(".dist-info/RECORD"))
            wanted = recorded(archive.read(name).decode().splitlines())
    except (zipfile.BadZipFile, StopIteration, UnicodeDecodeError):
        raise VenvError(f"{wheel} is damaged. Push the bundle again.") from None
    if not package.record.is_file():
        return f"{package.info.name}/RECORD"
    with open(package.record, encoding="utf-8", newline="") as stream:
        there = recorded(stream)
    compared = (path for path in wanted if ".data/" not in path and (metadata or ".dist-info/" not in path))
    return next((path for path in compared if there.get(path) != wanted[path]), None)


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))
