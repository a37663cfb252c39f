# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks of PEP 751: read back as written, taken by uv, and refused where they say too little."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils import _pylock
from ansible_collections.rlinf.offline.plugins.module_utils._errors import LockError
from ansible_collections.rlinf.offline.plugins.module_utils._uv import Uv, find_uv, isolated_environment
from tests.support.wheels import build_wheel, sha256

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"


def local(path: Path, name: str, version: str, root: Path, kind: str = "wheels") -> _pylock.LocalFile:
    return _pylock.LocalFile(name, version, str(path.relative_to(root)), path.stat().st_size, sha256(path), kind)


def test_what_is_written_is_read_back_sorted_and_byte_identical(tmp_path: Path):
    files = [local(build_wheel(tmp_path, name, "1.0", modules={f"{name}.py": ""}), name, "1.0", tmp_path) for name in ("zed", "alpha")]
    _pylock.write(tmp_path / "pylock.a.toml", MINOR, files)
    _pylock.write(tmp_path / "pylock.b.toml", MINOR, reversed(files))
    assert (tmp_path / "pylock.a.toml").read_bytes() == (tmp_path / "pylock.b.toml").read_bytes()
    assert [package["name"] for package in _pylock.read(tmp_path / "pylock.a.toml")["packages"]] == ["alpha", "zed"]


def test_uv_installs_it_offline_and_refuses_another_content(tmp_path: Path):
    wheels = [build_wheel(tmp_path, name, "1.0", modules={f"{name}.py": "VALUE = 1\n"}) for name in ("served", "built")]
    lock = tmp_path / "pylock.t.toml"
    _pylock.write(lock, MINOR, [local(wheels[0], "served", "1.0", tmp_path), local(wheels[1], "built", "1.0", tmp_path, "archive")])
    uv = Uv(find_uv(), {**isolated_environment(tmp_path / "cache"), "UV_OFFLINE": "1"})
    uv.run(["venv", "--quiet", "--python", sys.executable, tmp_path / "venv"], what="making an environment")
    install = ["pip", "sync", "--preview-features", "pylock", "--no-index", "--python", tmp_path / "venv", lock]
    uv.run(install, what="installing")
    said = subprocess.run(
        [tmp_path / "venv/bin/python", "-c", "import served, built; print(served.VALUE + built.VALUE)"], capture_output=True, check=True
    )
    assert said.stdout.strip() == b"2"
    wheels[1].write_bytes(build_wheel(tmp_path / "other", "built", "1.0", modules={"built.py": "VALUE = 2\n"}).read_bytes())
    refused = uv.run([*install, "--reinstall"], what="installing", check=False, env={"UV_CACHE_DIR": str(tmp_path / "cache2")})
    assert refused.status != 0 and "Hash mismatch" in refused.stderr


@pytest.mark.parametrize("text", ["", "lock-version = '2.0'\n", "lock-version = [\n"])
def test_another_format_is_an_error_that_names_the_file(tmp_path: Path, text: str):
    (tmp_path / "pylock.toml").write_text(text)
    with pytest.raises(LockError, match=r"pylock\.toml"):
        _pylock.read(tmp_path / "pylock.toml")


def test_an_index_without_hashes_is_refused_by_name():
    with pytest.raises(LockError, match="torch: the index gives a file without a sha256"):
        _pylock.offered({"name": "torch", "wheels": [{"url": "https://index.example/torch-1-py3-none-any.whl"}]})


def test_the_files_offered_are_named_by_their_url():
    entry = {"url": "https://index.example/files/a-1%2Bcu12-py3-none-any.whl#x", "size": 3, "hashes": {"sha256": "0" * 64}}
    wheels, sdist = _pylock.offered({"name": "a", "wheels": [entry]})
    assert wheels == [
        _pylock.RemoteFile("a-1+cu12-py3-none-any.whl", "https://index.example/files/a-1%2Bcu12-py3-none-any.whl", 3, "0" * 64)
    ]
    assert sdist is None
