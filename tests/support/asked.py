# SPDX-License-Identifier: GPL-3.0-or-later
"""What a requirement file or pyproject.toml asks for, read by other means than the patcher's: packaging, tomllib, and plain splitting.

A file is taken apart into its addresses and all the rest. Whoever has two of them, before and after patching, can say that the rest is
equal, and judge each address by itself.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_OPTION = re.compile(r"(-e|--editable|-r|--requirement|-c|--constraint)(?:\s+|=)(.*)", re.DOTALL)


@dataclass(frozen=True)
class Address:
    """A URL that something is installed from, taken apart.

    :ivar place: host and path, without user and ``.git``; of a file, its path.
    :ivar ref: after the ``@`` of the path, or beside the URL in ``tool.uv.sources``, with its key.
    :ivar rest: query and fragment.
    """

    url: str
    git: bool
    place: str
    ref: str
    rest: str

    @classmethod
    def of(cls, url: str, beside: Mapping[str, Any] | None = None) -> Address:
        """Take apart a URL; *beside* is the table of ``tool.uv.sources`` whose ``git`` it is."""
        git = url.startswith("git+") or beside is not None
        scheme, _ignored, rest = url.removeprefix("git+").partition("://")
        address, hash_sign, fragment = rest.partition("#")
        host, slash, path = address.partition("/")
        path, _at, ref = path.partition("@") if git else (path, "", "")
        for key in ("rev", "tag", "branch"):
            if beside and key in beside:
                ref = f"{key} {beside[key]}"
        place = path if scheme == "file" else f"{host.rpartition('@')[2]}{slash}{path}"
        return cls(url, git, unquote(place.rstrip("/").removesuffix(".git")), ref, hash_sign + fragment)

    @property
    def local(self) -> bool:
        return urlsplit(self.url.removeprefix("git+")).scheme == "file"


@dataclass(frozen=True)
class Asked:
    """What a file asks for: its addresses in order, and the rest, in which a number stands for each of them."""

    addresses: tuple[Address, ...]
    rest: Any


def by_requirements(text: str) -> Asked:
    """Read a requirement file: continued lines, comments, options, PEP 508."""
    addresses: list[Address] = []
    rest = [_line(line.strip(), addresses) for line in re.sub(r"(?m)(?:^|[ \t]+)#.*$", "", re.sub(r"\\\r?\n", "", text)).splitlines()]
    return Asked(tuple(addresses), [item for item in rest if item])


def _line(line: str, addresses: list[Address]) -> Any:
    option = _OPTION.fullmatch(line)
    if option:
        return option[1], _line(option[2].strip(), addresses)
    if line.startswith("-"):
        return line
    before, _ignored, hashes = line.partition(" --")
    return _requirement(before.strip(), addresses), hashes


def _requirement(text: str, addresses: list[Address]) -> Any:
    try:
        asked = Requirement(text)
    except InvalidRequirement:
        url, semicolon, marker = text.partition(" ;")
        if "://" not in url:
            return text
        addresses.append(Address.of(url))
        return len(addresses), semicolon, marker
    if not asked.url:
        return str(asked)
    addresses.append(Address.of(asked.url))
    return len(addresses), asked.name, frozenset(asked.extras), str(asked.marker)


def by_pyproject(text: str) -> Asked:
    """Read a pyproject.toml: every string where a requirement may be, and uv's sources."""
    addresses: list[Address] = []
    rest = _value(tomllib.loads(text.replace("\r\n", "\n")), (), addresses)
    return Asked(tuple(addresses), rest)


def _value(value: Any, path: tuple[str, ...], addresses: list[Address]) -> Any:
    if isinstance(value, dict):
        return {
            key: _value(item, (*path, key), addresses) if key not in ("git", "url") else _source(key, value, path, addresses)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_value(item, (*path, "*"), addresses) for item in value]
    return _requirement(value, addresses) if isinstance(value, str) and _holds_requirements(path) else value


def _source(key: str, table: Mapping[str, Any], path: tuple[str, ...], addresses: list[Address]) -> Any:
    if path[:3] != ("tool", "uv", "sources") or not isinstance(table[key], str):
        return table[key]
    addresses.append(Address.of(table[key], table if key == "git" else None))
    return len(addresses)


def _holds_requirements(path: tuple[str, ...]) -> bool:
    shape = "/".join(part.replace("/", "_") for part in path)
    return any(
        re.fullmatch(pattern, shape)
        for pattern in (
            r"build-system/requires/\*",
            r"project/dependencies/\*",
            r"(project/optional-dependencies|dependency-groups)/[^/]+/\*",
            r"tool/uv/[a-z-]*dependencies/\*",
            r"tool/uv/extra-build-dependencies/[^/]+/\*(/requirement)?",
            r"tool/uv/dependency-metadata/\*/requires-dist/\*",
        )
    )
