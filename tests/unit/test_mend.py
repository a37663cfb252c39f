# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bundle that was damaged after it was sealed: what is taken out, what is left alone, by the module's real main()."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from tests.unit.conftest import ModuleFailed

Run = Callable[..., dict[str, Any]]
Hash = Callable[..., dict[str, tuple[str, ...]]]

MIRROR = "repos/github.com/RLinf/LIBERO.git"
WHEEL = "wheelhouse/index/six-1.16.0-py2.py3-none-any.whl"
LOCK = "targets/c1/openvla/lock.json"
RECORD = "records/urls.json"


def git(*arguments: str | Path, cwd: Path) -> None:
    subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments], cwd=cwd, check=True, capture_output=True)


@pytest.fixture
def bundle(tmp_path: Path, run_module: Run) -> Bundle:
    """A sealed bundle with a wheel, an asset, a lock, a record and a mirror of two commits."""
    root, work = tmp_path / "bundle", tmp_path / "work"
    texts = {
        WHEEL: "wheel" * 100,
        "assets/.sapien/physx.so": "so" * 100,
        LOCK: '{"python": "3.11", "closure": [], "packages": []}\n',
        RECORD: "{}\n",
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    work.mkdir()
    git("init", "-q", "-b", "main", cwd=work)
    for text in ("one", "two"):
        (work / "file").write_text(text * 1000, encoding="utf-8")
        git("add", "file", cwd=work)
        git("commit", "-q", "-m", text, cwd=work)
    git("clone", "-q", "--mirror", "--template=", work, root / MIRROR, cwd=tmp_path)
    git("repack", "-a", "-d", "-q", cwd=root / MIRROR)
    found = Bundle(root)
    run_module("rlinf_bundle", {"bundle_dir": str(root), "state": "sealed"})
    return found


def flip(path: Path) -> None:
    """Change one bit in the middle, as a disk that forgets does: size and times stay."""
    status, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    os.chmod(path, 0o644)
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def pack(bundle: Bundle) -> Path:
    (found,) = (bundle.root / MIRROR).glob("objects/pack/*.pack")
    return found


def mended(bundle: Bundle, run_module: Run, **more: Any) -> dict[str, Any]:
    return run_module("rlinf_bundle", {"bundle_dir": str(bundle.root), "state": "mended"}, **more)


def test_a_sound_bundle_is_left_as_it_is(bundle: Bundle, run_module: Run, tree_hash: Hash) -> None:
    before = tree_hash(bundle.root)
    done = mended(bundle, run_module)
    assert not done["changed"] and done["hashed"] == 0
    assert tree_hash(bundle.root) == before
    done = run_module("rlinf_bundle", {"bundle_dir": str(bundle.root), "state": "mended", "full": True})
    assert not done["changed"] and done["hashed"] == done["files"]
    assert tree_hash(bundle.root) == before


def test_flipped_bits_are_found_by_reading_everything(bundle: Bundle, run_module: Run, tree_hash: Hash) -> None:
    """Size and times are as they were: only who reads the files finds it. Check says what apply does, and then there is nothing to do."""
    for path in (bundle.root / WHEEL, bundle.root / LOCK, pack(bundle)):
        flip(path)
    assert not mended(bundle, run_module)["changed"]
    args = {"bundle_dir": str(bundle.root), "state": "mended", "full": True}
    before = tree_hash(bundle.root, mtimes=True)
    foreseen = run_module("rlinf_bundle", args, check=True, diff=True)
    assert tree_hash(bundle.root, mtimes=True) == before
    done = run_module("rlinf_bundle", args, diff=True)
    assert foreseen["changed"] and done["changed"] and foreseen["diff"] == done["diff"]
    assert done["changes"]["removed"]["first"] == [MIRROR, LOCK, WHEEL]
    assert not any(os.path.lexists(bundle.root / name) for name in (MIRROR, LOCK, WHEEL))
    assert (bundle.root / "assets/.sapien/physx.so").exists()
    assert not run_module("rlinf_bundle", args)["changed"]


def test_what_was_written_over_is_found_by_its_time(bundle: Bundle, run_module: Run) -> None:
    """Of files that never change under their names, and of a mirror that git finds incomplete; a lock may have been made anew."""
    (bundle.root / WHEEL).write_text("w" * 500, encoding="utf-8")
    (bundle.root / LOCK).write_text('{"python": "3.11", "closure": ["x"], "packages": []}\n', encoding="utf-8")
    os.chmod(pack(bundle), 0o644)
    os.truncate(pack(bundle), 50)
    done = mended(bundle, run_module)
    assert done["changes"]["removed"]["first"] == [MIRROR, WHEEL]
    assert (bundle.root / LOCK).exists()


def test_a_mirror_that_moved_on_is_whole(bundle: Bundle, run_module: Run, tmp_path: Path) -> None:
    """A download that was cut off before it sealed has fetched, and that is kept."""
    (tmp_path / "work" / "file").write_text("three", encoding="utf-8")
    git("commit", "-q", "-a", "-m", "three", cwd=tmp_path / "work")
    git("fetch", "-q", "origin", cwd=bundle.root / MIRROR)
    git("repack", "-a", "-d", "-q", cwd=bundle.root / MIRROR)
    assert not mended(bundle, run_module)["changed"]


def test_a_damaged_record_is_refused(bundle: Bundle, run_module: Run) -> None:
    """It says what upstream served at first; nothing is taken out, and the message says what can be done."""
    flip(bundle.root / RECORD)
    flip(bundle.root / WHEEL)
    with pytest.raises(ModuleFailed, match=r"records/urls.json of the bundle .* put back that of a copy of the bundle"):
        run_module("rlinf_bundle", {"bundle_dir": str(bundle.root), "state": "mended", "full": True})
    assert (bundle.root / WHEEL).exists()


def test_what_was_never_sealed_is_left_alone(bundle: Bundle, run_module: Run, tmp_path: Path) -> None:
    bundle.manifest.unlink()
    assert not mended(bundle, run_module)["changed"]
    assert not run_module("rlinf_bundle", {"bundle_dir": str(tmp_path / "none"), "state": "mended"})["changed"]


@pytest.mark.parametrize("full", [True, False])
def test_a_lost_record_is_refused(bundle: Bundle, run_module: Run, full: bool) -> None:
    """A new one would hold only what is downloaded from now on, and take whatever upstream serves."""
    (bundle.root / RECORD).unlink()
    with pytest.raises(ModuleFailed, match=r"records/urls.json of the bundle .* not there"):
        run_module("rlinf_bundle", {"bundle_dir": str(bundle.root), "state": "mended", "full": full})
    (bundle.root / RECORD).write_text("{}", encoding="utf-8")
    assert not mended(bundle, run_module)["changed"]


def test_a_frozen_commit_under_another_name_is_damage(bundle: Bundle, run_module: Run) -> None:
    """git finds nothing wrong with it, and upstream knows nothing of it."""
    mirror = bundle.root / MIRROR
    commit = subprocess.run(["git", "rev-parse", "main"], cwd=mirror, check=True, capture_output=True, text=True).stdout.strip()
    git("update-ref", f"refs/rlinf/frozen/{commit}", commit, cwd=mirror)
    git("pack-refs", "--all", "--prune", cwd=mirror)
    run_module("rlinf_bundle", {"bundle_dir": str(bundle.root), "state": "sealed"})
    assert not mended(bundle, run_module)["changed"]
    refs = mirror / "packed-refs"
    refs.write_text(refs.read_text(encoding="utf-8").replace("refs/rlinf/frozen", "refs/rlinf/fsozen"), encoding="utf-8")
    assert mended(bundle, run_module)["changes"]["removed"]["first"] == [MIRROR]
