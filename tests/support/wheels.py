# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small real wheels and sdists, made in code (PEP 427, PEP 517); equal arguments give equal bytes."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import re
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

STAMP = (2025, 1, 1, 0, 0, 0)


def normalized(name: str) -> str:
    """Return a distribution's name as wheel and sdist files spell it."""
    return re.sub(r"[-_.]+", "_", name).lower()


def metadata(name: str, version: str, requires: Iterable[str] = (), requires_python: str | None = None) -> str:
    """Return a METADATA or PKG-INFO file."""
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Python: {requires_python}"] if requires_python else []
    return "\n".join([*lines, *(f"Requires-Dist: {text}" for text in requires)]) + "\n"


def build_wheel(
    directory: Path,
    name: str,
    version: str,
    *,
    modules: Mapping[str, str] | None = None,
    requires: Iterable[str] = (),
    requires_python: str | None = None,
    tags: str = "py3-none-any",
    build: str | None = None,
    extra_files: Mapping[str, bytes] | None = None,
    entry_points: str | None = None,
    stored: bool = False,
) -> Path:
    """Write a wheel and return its path.

    :param modules: file name to source, as ``{"pkg/__init__.py": "x = 1"}``; by default a module of the distribution's name
        with ``__version__``.
    :param extra_files: further members (data, scripts under ``<name>-<version>.data/scripts/``).
    :param entry_points: the text of ``entry_points.txt``.
    :param stored: not compressed, so that modules of equal length give wheels of equal size.
    """
    stem = f"{normalized(name)}-{version}"
    info = f"{stem}.dist-info"
    if modules is None:
        modules = {f"{normalized(name)}.py": f"__version__ = {version!r}\n"}
    wheel_tags = [f"Tag: {python}-{abi}-{platform}" for python, abi, platform in _expand(tags)]
    purelib = "true" if tags.endswith("-none-any") else "false"
    members: dict[str, bytes] = {path: text.encode() for path, text in modules.items()}
    members.update(extra_files or {})
    members[f"{info}/METADATA"] = metadata(name, version, requires, requires_python).encode()
    members[f"{info}/WHEEL"] = "\n".join(
        ["Wheel-Version: 1.0", "Generator: tests", f"Root-Is-Purelib: {purelib}", *wheel_tags, ""]
    ).encode()
    if entry_points:
        members[f"{info}/entry_points.txt"] = entry_points.encode()
    record = [f"{path},sha256={_record_digest(data)},{len(data)}" for path, data in members.items()]
    members[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{'-'.join([stem, *([build] if build else []), tags])}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members.items():
            entry = zipfile.ZipInfo(member, STAMP)
            entry.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            entry.external_attr = (0o755 if ".data/scripts/" in member else 0o644) << 16
            archive.writestr(entry, data)
    return path


def build_sdist(
    directory: Path,
    name: str,
    version: str,
    *,
    modules: Mapping[str, str] | None = None,
    requires: Iterable[str] = (),
    build_requires: Iterable[str] = (),
    files: Mapping[str, str] | None = None,
) -> Path:
    """Write an sdist with a build backend of its own and return its path; building it needs *build_requires* alone."""
    stem = f"{normalized(name)}-{version}"
    members = {**source_tree(name, version, modules=modules, requires=requires, build_requires=build_requires), **(files or {})}
    members["PKG-INFO"] = metadata(name, version, requires)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{stem}.tar.gz"
    with (
        open(path, "wb") as raw,
        gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as stream,
        tarfile.open(fileobj=stream, mode="w") as archive,
    ):
        for member, text in members.items():
            entry = tarfile.TarInfo(f"{stem}/{member}")
            entry.size, entry.mode, entry.mtime = len(text.encode()), 0o644, 1735689600
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


def source_tree(
    name: str,
    version: str,
    *,
    modules: Mapping[str, str] | None = None,
    requires: Iterable[str] = (),
    build_requires: Iterable[str] = (),
) -> dict[str, str]:
    """Return the files of a project that any PEP 517 and PEP 660 frontend can build without further tools: path to text.

    Its backend lies in the tree (``backend-path``), so that nothing has to be fetched to build it; wheels and editables both work.
    """
    if modules is None:
        modules = {f"{normalized(name)}.py": f"__version__ = {version!r}\n"}
    pyproject = (
        f'[project]\nname = "{name}"\nversion = "{version}"\ndependencies = {sorted(requires)!r}\n\n'
        f'[build-system]\nrequires = {sorted(build_requires)!r}\nbuild-backend = "_backend"\nbackend-path = ["."]\n'
    )
    backend = _BACKEND.format(
        name=name, stem=f"{normalized(name)}-{version}", version=version, requires=sorted(requires), modules=sorted(modules)
    )
    return {**modules, "pyproject.toml": pyproject, "_backend.py": backend}


def write_tree(root: Path, files: Mapping[str, str]) -> Path:
    """Write *files* (path to text) below *root* and return it."""
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    return root


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _expand(tags: str) -> list[tuple[str, str, str]]:
    pythons, abis, platforms = tags.split("-")
    return [(python, abi, platform) for python in pythons.split(".") for abi in abis.split(".") for platform in platforms.split(".")]


def _record_digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


_BACKEND = '''\
"""A build backend in one file: wheels (PEP 517) and editables (PEP 660) of pure modules."""
import base64, hashlib, os, zipfile

NAME, STEM, VERSION = {name!r}, {stem!r}, {version!r}
REQUIRES, MODULES = {requires!r}, {modules!r}


def _write(directory, members):
    info = STEM + ".dist-info"
    requires = "".join("Requires-Dist: " + text + "\\n" for text in REQUIRES)
    members[info + "/METADATA"] = ("Metadata-Version: 2.1\\nName: " + NAME + "\\nVersion: " + VERSION + "\\n" + requires).encode()
    members[info + "/WHEEL"] = b"Wheel-Version: 1.0\\nGenerator: tests\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    record = ""
    for path, data in members.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += path + ",sha256=" + digest + "," + str(len(data)) + "\\n"
    members[info + "/RECORD"] = (record + info + "/RECORD,,\\n").encode()
    name = STEM + "-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, name), "w") as archive:
        for path, data in members.items():
            archive.writestr(zipfile.ZipInfo(path, (2025, 1, 1, 0, 0, 0)), data)
    return name


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    return _write(wheel_directory, {{path: open(path, "rb").read() for path in MODULES}})


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    return _write(wheel_directory, {{"_" + STEM.split("-")[0] + ".pth": (os.getcwd() + "\\n").encode()}})


def build_sdist(sdist_directory, config_settings=None):
    raise NotImplementedError("these trees are built from source only")
'''
