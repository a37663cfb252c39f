# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare the environment that runs this with a target's lock in the bundle: the same names, the same versions, the same bytes.

    compare_installed.py BUNDLE TARGET

What an index serves and the bundle does not hold is fetched from where the lock says.
The bytes are judged file by file: each wheel is hashed against the lock, then what it holds for site-packages against what lies there.
Nothing of the collection is used, so that it is not the collection's own view of itself. Prints every difference; ends with 1 if there is any.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import re
import sys
import sysconfig
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SITE = Path(sysconfig.get_path("purelib"))


def normalized(name: str) -> str:
    """Return a distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def set_differences(lock: dict[str, Any], installed: dict[str, str]) -> Iterator[str]:
    """Yield what is installed and not locked, or locked and not installed; an editable's version is its checkout's."""
    editables = {normalized(item["package"]) for item in lock["editables"]}
    locked = {normalized(package["name"]): package["version"].lower() for package in lock["packages"]}
    for name in sorted({*locked, *editables, *installed}):
        if name in editables and name in installed:
            continue
        if locked.get(name) != installed.get(name):
            yield f"{name}: locked {locked.get(name)}, installed {installed.get(name)}"


def content(bundle: Path, package: dict[str, Any]) -> bytes:
    """Return the file of a package."""
    place = bundle / package["path"]
    if place.is_file() or package["kind"] != "index":
        return place.read_bytes()
    with urllib.request.urlopen(package["source"]["url"], timeout=60) as answer:
        found: bytes = answer.read()
    return found


def content_differences(bundle: Path, packages: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the files of the wheels that lie in site-packages with other content, or don't.

    Where several wheels hold one file (the opencv packages do), what lies there must be of one of them.
    """
    held: dict[str, set[str]] = {}
    for package in packages:
        wheel = content(bundle, package)
        if digest(wheel) != package["sha256"]:
            yield f"{package['path']}: not the bytes that are locked"
        with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
            for member in archive.namelist():
                inside = re.sub(r"^[^/]+\.data/(purelib|platlib)/", "", member)
                if not member.endswith(("/", ".dist-info/RECORD")) and not re.match(r"[^/]+\.data/", inside):
                    held.setdefault(inside, set()).add(digest(archive.read(member)))
    for inside, digests in held.items():
        place = SITE / inside
        if not place.is_file() or digest(place.read_bytes()) not in digests:
            yield f"{inside} differs from what is locked"


def digest(content: bytes) -> str:
    """Return the SHA-256 of some bytes in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def main() -> int:
    bundle, target = Path(sys.argv[1]), sys.argv[2]
    (lock_file,) = bundle.glob(f"targets/*/{target}/lock.json")
    lock = json.loads(lock_file.read_text(encoding="utf-8"))
    # in lower case: PEP 440 knows no other
    installed = {normalized(item.metadata["Name"]): item.version.lower() for item in importlib.metadata.distributions(path=[str(SITE)])}
    found = list(set_differences(lock, installed))
    # a source is compiled on the node: there is nothing to compare with
    found += content_differences(bundle, [package for package in lock["packages"] if package["kind"] != "source"])
    print("\n".join(found) or f"{len(lock['packages'])} packages are what is locked")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
