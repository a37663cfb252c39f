# SPDX-License-Identifier: GPL-3.0-or-later
"""What a source tells of its build, whatever kind of archive it is; and what it takes to compile."""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils._errors import ArchiveError, LockError
from ansible_collections.rlinf.offline.plugins.module_utils._gather import build_requires, check_headers, check_sdist, sdist_content
from tests.support.wheels import build_sdist

LEGACY = ["setuptools>=40.8.0", "wheel"]


def zipped(path: Path, members: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


def test_an_sdist_says_when_it_was_made_and_what_its_build_asks_for(tmp_path: Path):
    content = sdist_content(build_sdist(tmp_path, "a", "1", build_requires=["setuptools>=70", "cython"], files={"a/b.pyx": ""}))
    assert (content.newest, content.build_requires, content.compiled) == (1735689600, ["cython", "setuptools>=70"], True)


def test_a_zip_is_an_sdist_too(tmp_path: Path):
    nested = "[build-system]\nrequires = ['nothing-of-ours']\n"
    sdist = zipped(tmp_path / "a-1.zip", {"a-1/setup.py": "", "a-1/vendored/pyproject.toml": nested})
    content = sdist_content(sdist)
    assert (content.build_requires, content.compiled) == (LEGACY, False)
    sdist = zipped(tmp_path / "a-2.zip", {"a-2/pyproject.toml": "[build-system]\nrequires = ['flit-core']\n"})
    assert sdist_content(sdist).build_requires == ["flit-core"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("a-1.tar.gz", b"\x1f\x8b no"), ("a-1.zip", b"PK no"), ("a-1.tar.gz", b"")],
)
def test_a_damaged_sdist_is_named(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LockError, match=f"{name} is damaged"):
        sdist_content(tmp_path / name)


def test_a_pyproject_that_cannot_be_read_is_damage(tmp_path: Path):
    with pytest.raises(LockError, match=r"pyproject\.toml of a-1\.zip cannot be read"):
        sdist_content(zipped(tmp_path / "a-1.zip", {"a-1/pyproject.toml": "[build-system\n"}))


@pytest.mark.parametrize("content", ["build-system = 1", "build-system = {requires = 5}", "[build-system]\nrequires = [1]", "[", "\udc80"])
def test_a_pyproject_of_other_types_is_named(tmp_path: Path, content: str):
    place = tmp_path / "pyproject.toml"
    place.write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(LockError, match=f"{place} cannot be read"):
        build_requires(place)


def packed(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            archive.addfile(member)
    return path


def link(name: str, target: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    return entry


def test_a_pyproject_that_leads_nowhere_is_damage(tmp_path: Path):
    with pytest.raises(LockError, match=r"a-1\.tar\.gz is damaged"):
        sdist_content(packed(tmp_path / "a-1.tar.gz", link("a-1/pyproject.toml", "nowhere")))


def test_an_sdist_that_leads_out_is_not_taken(tmp_path: Path):
    check_sdist(build_sdist(tmp_path, "a", "1"))
    with pytest.raises(ArchiveError, match=r"a-2\.tar\.gz.*out"):
        check_sdist(packed(tmp_path / "a-2.tar.gz", link("a-2/out", "../../../etc")))


def test_a_project_that_names_no_backend_has_the_old_one(tmp_path: Path):
    assert build_requires(tmp_path / "pyproject.toml") == LEGACY
    (tmp_path / "pyproject.toml").write_text("[tool.x]\n")
    assert build_requires(tmp_path / "pyproject.toml") == LEGACY
    (tmp_path / "pyproject.toml").write_text("[build-system]\nrequires = []\n")
    assert build_requires(tmp_path / "pyproject.toml") == []


def test_headers_that_are_not_there_are_named_with_their_package(tmp_path: Path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\ncase "$3" in *include*) echo {tmp_path}/include;; *) exec {sys.executable} "$@";; esac\n')
    python.chmod(0o755)
    version = "{}.{}".format(*sys.version_info)
    with pytest.raises(
        LockError, match=rf"fast must be compiled, and {tmp_path}/include/Python.h is not there. Install python{version}-dev"
    ):
        check_headers(python, "fast")
