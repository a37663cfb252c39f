# SPDX-License-Identifier: GPL-3.0-or-later
"""What a source tells of its build, whatever kind of archive it is; and what it takes to compile."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils._errors import LockError
from ansible_collections.rlinf.offline.plugins.module_utils._gather import build_requires, check_headers, sdist_content
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
    with pytest.raises(LockError, match=r"a-1\.zip is damaged"):
        sdist_content(zipped(tmp_path / "a-1.zip", {"a-1/pyproject.toml": "[build-system\n"}))


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
