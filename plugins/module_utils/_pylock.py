# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lock files of PEP 751: what uv resolved, and what we write beside the wheelhouse."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import tomlkit
from packaging.utils import canonicalize_name
from tomlkit.exceptions import TOMLKitError

from ansible_collections.rlinf.offline.plugins.module_utils._errors import LockError
from ansible_collections.rlinf.offline.plugins.module_utils._files import atomic_write
from ansible_collections.rlinf.offline.plugins.module_utils._urls import without_userinfo


@dataclass(frozen=True)
class RemoteFile:
    """A file that an index offers for a package."""

    filename: str
    url: str
    size: int | None
    sha256: str


@dataclass(frozen=True)
class LocalFile:
    """A file of a lock: *path* relative to the lock.

    *kind*, as PEP 751 names it: ``wheels`` (name and version are its identity), ``archive`` (its content is) or ``sdist`` (a source).
    """

    name: str
    version: str | None
    path: str
    size: int
    sha256: str
    kind: str = "wheels"


def read(path: Path) -> dict[str, Any]:
    """Return a pylock as plain Python values.

    :raises LockError: it is no TOML, not of version 1.x, or its packages are not what PEP 751 says of them.
    """
    try:
        data: dict[str, Any] = tomlkit.parse(path.read_text(encoding="utf-8")).unwrap()
    except (TOMLKitError, UnicodeDecodeError) as error:
        raise LockError(f"{path} is damaged ({error}). Remove its folder and lock the target again.") from None
    if str(data.get("lock-version", "")).partition(".")[0] != "1":
        raise LockError(f"{path} has lock-version {data.get('lock-version')!r}; 1.x is understood.")
    packages = data.get("packages", [])
    if not isinstance(packages, list) or not all(map(_is_package, packages)):
        raise LockError(f"{path} has packages in a form that PEP 751 does not know. Remove its folder and lock the target again.")
    return data


def _is_package(entry: Any) -> bool:
    """Whether a package has what others rely on, in the right types."""
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        return False
    wheels, single = entry.get("wheels", []), [entry[key] for key in ("sdist", "archive") if key in entry]
    return isinstance(entry.get("version", ""), str) and isinstance(wheels, list) and all(map(_is_file, [*wheels, *single]))


def _is_file(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("hashes", {}), dict):
        return False
    texts = [entry[key] for key in ("name", "url", "path") if key in entry] + list(entry.get("hashes", {}).values())
    size = entry.get("size", 0)
    return all(isinstance(text, str) for text in texts) and isinstance(size, int) and not isinstance(size, bool)


def offered(package: Mapping[str, Any]) -> tuple[list[RemoteFile], RemoteFile | None]:
    """Return the wheels and the sdist that an index offers, from a package of a lock that uv made.

    :raises LockError: a file has no URL or no sha256.
    """
    wheels = [_remote(package["name"], entry) for entry in package.get("wheels", ())]
    sdist = package.get("sdist")
    return wheels, _remote(package["name"], sdist) if sdist else None


def _remote(package: str, entry: Mapping[str, Any]) -> RemoteFile:
    url, digest = entry.get("url"), entry.get("hashes", {}).get("sha256")
    if not url or not digest:
        raise LockError(
            f"{package}: the index gives a file without {'a URL' if not url else 'a sha256'}. Use an index that serves hashes (PEP 503, 691)."
        )
    filename = entry.get("name") or url.partition("#")[0].rpartition("/")[2]
    return RemoteFile(unquote(filename), without_userinfo(url.partition("#")[0]), entry.get("size"), digest)


def render(python: str, packages: Iterable[LocalFile]) -> str:
    """Return a pylock whose files are given by relative paths, packages sorted by name."""
    document = tomlkit.document()
    document.add("lock-version", tomlkit.item("1.0"))
    document.add("created-by", tomlkit.item("rlinf.offline"))
    document.add("requires-python", tomlkit.item(f"=={python}.*"))
    tables = tomlkit.aot()
    for package in sorted(packages, key=lambda item: canonicalize_name(item.name)):
        table = tomlkit.table()
        table.add("name", canonicalize_name(package.name))
        if package.version:
            table.add("version", package.version)
        file: dict[str, Any] = {"path": package.path, "size": package.size, "hashes": {"sha256": package.sha256}}
        if package.kind == "wheels":
            wheels = tomlkit.array()
            wheels.append(_inline(file))
            table.add("wheels", wheels)
        else:
            table.add(package.kind, _inline(file))
        tables.append(table)
    document.add("packages", tables)
    return tomlkit.dumps(document)


def _inline(value: Mapping[str, Any]) -> tomlkit.items.InlineTable:
    table = tomlkit.inline_table()
    for key, item in value.items():
        table.add(key, _inline(item) if isinstance(item, Mapping) else item)
    return table


def write(path: Path, python: str, packages: Iterable[LocalFile]) -> None:
    """Write the lock that :func:`render` makes."""
    atomic_write(path, render(python, packages).encode())
