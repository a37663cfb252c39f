# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The manifest: sealed, verified, pruned, by the module's real main()."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils import _bundle, _mend
from ansible_collections.rlinf.offline.plugins.module_utils._closure import files_for
from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError
from ansible_collections.rlinf.offline.plugins.module_utils._faults import TRACE
from ansible_collections.rlinf.offline.plugins.module_utils._files import json_bytes
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from tests.unit.conftest import ModuleFailed

Run = Callable[..., dict[str, Any]]
Hash = Callable[..., dict[str, tuple[str, ...]]]

MIRROR = "github.com/RLinf/LIBERO.git"
LOCKED = {"name": "x", "version": "1", "kind": "sdist", "sha256": "0", "size": 1}
WHEEL = "uv-0.9.1-py3-none-manylinux_2_17_x86_64.whl"


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle with a little of everything; a real bare repository among it."""
    root = tmp_path / "bundle"
    subprocess.run(["git", "init", "-q", "--bare", "--template=", root / "repos" / MIRROR], check=True)
    write(root / "repos" / MIRROR / "refs" / ".keep", "")
    wheel = write(root / "wheels" / "flash_attn-2.7.4-cp311-cp311-linux_x86_64.whl", b"wheel" * 1000)
    write(root / "wheelhouse" / "index" / "six-1.16.0-py2.py3-none-any.whl", b"six")
    write(root / "wheelhouse" / "index" / "built-1-py3-none-any.whl", b"built")
    write(root / "wheelhouse" / "git" / "github.com" / "o" / "n" / "c0" / "n-1-py3-none-any.whl", b"git")
    write(root / "assets" / ".sapien" / "physx" / "1" / "libphysx.so", b"\x7fELF")
    (root / "assets" / ".sapien" / "physx" / "1" / "libphysx.so.1").symlink_to("libphysx.so")
    write(root / "tools" / WHEEL, b"uv")
    records = root / "records"
    url = "https://user:secret@example.org/flash_attn.whl"
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    write(records / "urls.json", json_bytes({url: {"sha256": digest, "size": wheel.stat().st_size, "etag": None, "last_modified": None}}))
    record = {
        "url": "https://github.com/RLinf/LIBERO.git",
        "version": None,
        "commit": "0" * 40,
        "default_branch": "master",
        "cut_off": None,
    }
    write(records / "repositories.json", json_bytes({MIRROR: record, "github.com/gone/gone.git": record}))
    lock = {
        "target": "openvla",
        "python": "3.11",
        "closure": [
            "targets/c1/openvla/",
            f"repos/{MIRROR}/",
            "wheelhouse/index/six-1.16.0-py2.py3-none-any.whl",
            "assets/.sapien/physx/1",
        ],
        "packages": [
            {
                **LOCKED,
                "path": "wheelhouse/index/built-1-py3-none-any.whl",
                "source": {"url": "https://index.example/built-1.tar.gz", "sha256": "0", "size": 1},
            },
            {
                **LOCKED,
                "path": "wheelhouse/git/github.com/o/n/c0/n-1-py3-none-any.whl",
                "source": {"url": "https://github.com/o/n.git", "commit": "c0", "subdirectory": "sub"},
            },
        ],
        "build": [],
    }
    write(root / "targets" / "c1" / "openvla" / "lock.json", json_bytes(lock))
    write(root / ".cache" / "scratch", "not carried")
    write(root / "README", "not ours")
    return Bundle(root)


def sealed(bundle: Bundle, run_module: Run, **more: Any) -> dict[str, Any]:
    return run_module("rlinf_bundle", {"bundle_dir": str(bundle.root), "state": "sealed", **more})


def manifest(bundle: Bundle) -> dict[str, Any]:
    return dict(json.loads(bundle.manifest.read_text(encoding="utf-8")))


# -- sealing -------------------------------------------------------------------------------------------------------------------


def test_sealed_quad(bundle: Bundle, run_module: Run, tree_hash: Hash) -> None:
    """Check says what apply does; a second time nothing changes, and the tree says so too."""
    args = {"bundle_dir": str(bundle.root), "state": "sealed"}
    empty = tree_hash(bundle.root, mtimes=True)
    foreseen = run_module("rlinf_bundle", args, check=True, diff=True)
    assert tree_hash(bundle.root, mtimes=True) == empty
    done = run_module("rlinf_bundle", args, diff=True)
    assert foreseen["changed"] and done["changed"]
    assert foreseen["changes"] == done["changes"] and foreseen["diff"] == done["diff"]
    bundle.lock_file.unlink()
    tree = tree_hash(bundle.root, mtimes=True)
    assert not run_module("rlinf_bundle", args, check=True)["changed"]
    again = run_module("rlinf_bundle", args, diff=True)
    assert not again["changed"] and again["hashed"] == 0 and again["diff"] == {"before": "", "after": ""}
    assert (
        (again["serial"], again["digest"])
        == (done["serial"], done["digest"])
        == (1, hashlib.sha256(bundle.manifest.read_bytes()).hexdigest())
    )
    bundle.lock_file.unlink()
    assert tree_hash(bundle.root, mtimes=True) == tree


def test_manifest_says_what_each_file_is_and_where_it_came_from(bundle: Bundle, run_module: Run) -> None:
    sealed(bundle, run_module)
    files = manifest(bundle)["files"]
    for path, entry in files.items():
        if "link" not in entry:
            assert entry["sha256"] == hashlib.sha256((bundle.root / path).read_bytes()).hexdigest()
            assert (entry["size"], entry["mtime_ns"]) == ((bundle.root / path).stat().st_size, (bundle.root / path).stat().st_mtime_ns)
    assert files["assets/.sapien/physx/1/libphysx.so.1"] == {"link": "libphysx.so", "origin": None}
    assert files["wheels/flash_attn-2.7.4-cp311-cp311-linux_x86_64.whl"]["origin"] == "https://example.org/flash_attn.whl"
    assert files["wheelhouse/index/built-1-py3-none-any.whl"]["origin"] == "https://index.example/built-1.tar.gz"
    assert files["wheelhouse/git/github.com/o/n/c0/n-1-py3-none-any.whl"]["origin"] == "git+https://github.com/o/n.git@c0#subdirectory=sub"
    assert files[f"repos/{MIRROR}/HEAD"]["origin"] == "https://github.com/RLinf/LIBERO.git"
    assert not [path for path in files if path.startswith((".cache", "README", ".lock", "bundle.json"))]
    assert manifest(bundle)["tools"] == {"uv": "0.9.1"}
    assert manifest(bundle)["repositories"] == {
        MIRROR: {"url": "https://github.com/RLinf/LIBERO.git", "version": None, "commit": "0" * 40, "default_branch": "master"}
    }
    assert "secret" not in bundle.manifest.read_text(encoding="utf-8")


def test_manifest_names_no_path_of_this_machine(bundle: Bundle, run_module: Run, tmp_path: Path) -> None:
    """A bundle is relocatable: elsewhere, sealing it changes nothing."""
    sealed(bundle, run_module)
    assert str(tmp_path) not in bundle.manifest.read_text(encoding="utf-8")
    shutil.copytree(bundle.root, tmp_path / "moved", symlinks=True)
    assert not sealed(Bundle(tmp_path / "moved"), run_module)["changed"]


def test_serial_and_date_move_only_with_the_content(bundle: Bundle, run_module: Run) -> None:
    first = sealed(bundle, run_module)
    created = manifest(bundle)["created"]
    six = bundle.index / "six-1.16.0-py2.py3-none-any.whl"
    mtime = six.stat().st_mtime_ns
    os.utime(six, ns=(1, 1))
    trace = bundle.root.parent / "trace"
    touched = run_module("rlinf_bundle", {"bundle_dir": str(bundle.root), "state": "sealed"}, env={TRACE: str(trace)})
    assert f"touch {six.relative_to(bundle.root)}\n" in trace.read_text()
    assert not touched["changed"] and touched["hashed"] == 1 and touched["digest"] == first["digest"]
    assert six.stat().st_mtime_ns == mtime
    assert sealed(bundle, run_module)["hashed"] == 0
    six.write_bytes(b"other")
    changed = sealed(bundle, run_module)
    assert (
        changed["changed"]
        and changed["serial"] == 2
        and changed["changes"]["modified"]["first"] == ["wheelhouse/index/six-1.16.0-py2.py3-none-any.whl"]
    )
    assert changed["hashed"] == 1
    assert manifest(bundle)["serial"] == 2 and manifest(bundle)["created"] >= created


def test_full_finds_what_size_and_time_hide(bundle: Bundle, run_module: Run) -> None:
    sealed(bundle, run_module)
    six = bundle.index / "six-1.16.0-py2.py3-none-any.whl"
    status = six.stat()
    six.write_bytes(b"SIX")
    os.utime(six, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not sealed(bundle, run_module)["changed"]
    assert sealed(bundle, run_module, full=True)["changes"]["modified"]["count"] == 1


def test_diff_counts_files_and_bytes(bundle: Bundle, run_module: Run) -> None:
    sealed(bundle, run_module)
    write(bundle.index / "new-1-py3-none-any.whl", b"12345")
    (bundle.index / "six-1.16.0-py2.py3-none-any.whl").unlink()
    result = run_module("rlinf_bundle", {"bundle_dir": str(bundle.root), "state": "sealed"}, check=True, diff=True)
    assert result["changes"]["added"] == {"count": 1, "bytes": 5, "first": ["wheelhouse/index/new-1-py3-none-any.whl"]}
    assert result["changes"]["removed"] == {"count": 1, "bytes": 3, "first": ["wheelhouse/index/six-1.16.0-py2.py3-none-any.whl"]}
    assert "six-1.16.0" in result["diff"]["before"] and "new-1" in result["diff"]["after"]
    assert result["reason"] == "files: 1 added (5 B), 1 removed (3 B)"


@pytest.mark.parametrize("target", ["/etc/hostname", "../../../outside", "../.cache/scratch"])
def test_a_link_that_leads_out_is_refused(bundle: Bundle, run_module: Run, target: str) -> None:
    (bundle.assets / "link").symlink_to(target)
    with pytest.raises(ModuleFailed, match=r"leads out of assets/.*Put a copy there"):
        sealed(bundle, run_module)
    assert not bundle.manifest.exists()


def test_what_cannot_be_carried_is_named(bundle: Bundle, run_module: Run) -> None:
    os.mkfifo(bundle.assets / "pipe")
    with pytest.raises(ModuleFailed, match="assets/pipe is neither a file"):
        sealed(bundle, run_module)
    (bundle.assets / "pipe").unlink()
    os.close(os.open(os.fsencode(bundle.assets) + b"/\xff", os.O_CREAT))
    with pytest.raises(ModuleFailed, match="not valid UTF-8"):
        sealed(bundle, run_module)


def test_left_overs_are_reported_and_not_sealed(bundle: Bundle, run_module: Run) -> None:
    write(bundle.wheels / "x.whl.part", b"half")
    write(bundle.records / ".urls.json.123.tmp", b"half")
    write(bundle.assets / ".sapien" / ".physx.old" / "lib", b"old")
    write(bundle.repos / "github.com" / "a" / "b.git.part" / "HEAD", b"half")
    result = sealed(bundle, run_module)
    expected = ["assets/.sapien/.physx.old", "records/.urls.json.123.tmp", "repos/github.com/a/b.git.part", "wheels/x.whl.part"]
    assert result["left_over"] == expected and "4 left over" in str(result["warnings"])
    assert not [path for path in manifest(bundle)["files"] if path.endswith((".part", ".tmp")) or ".old/" in path]


def test_an_empty_or_missing_bundle_names_the_download_playbook(tmp_path: Path, run_module: Run) -> None:
    for state in ("sealed", "verified", "pruned"):
        for folder in ("missing", "empty"):
            (tmp_path / "empty").mkdir(exist_ok=True)
            with pytest.raises(ModuleFailed, match=rf"{folder}.*rlinf.offline.download"):
                run_module("rlinf_bundle", {"bundle_dir": str(tmp_path / folder), "state": state})


def test_sealing_waits_for_nobody(bundle: Bundle, run_module: Run) -> None:
    """Who holds the bundle is named, and nothing is written."""
    with _bundle.exclusive(bundle.lock_file, "the bundle"), pytest.raises(ModuleFailed, match=f"in use by process {os.getpid()}"):
        sealed(bundle, run_module)
    assert not bundle.manifest.exists()


def test_a_newer_format_is_refused(bundle: Bundle, run_module: Run) -> None:
    sealed(bundle, run_module)
    bundle.manifest.write_bytes(json_bytes({**manifest(bundle), "format": 99}))
    with pytest.raises(ModuleFailed, match="has format 99"):
        run_module("rlinf_bundle", {"bundle_dir": str(bundle.root)})


# -- verifying -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def carried(bundle: Bundle, run_module: Run) -> dict[str, Any]:
    """A sealed bundle on a node: arguments that verify it with a stamp."""
    sealed(bundle, run_module)
    return {"bundle_dir": str(bundle.root), "state": "verified", "stamp": str(bundle.root.parent / "state" / "bundle.json")}


def test_verified_quad(carried: dict[str, Any], run_module: Run, tree_hash: Hash) -> None:
    root = Path(carried["bundle_dir"]).parent
    tree = tree_hash(root, mtimes=True)
    assert run_module("rlinf_bundle", carried, check=True)["changed"]
    assert tree_hash(root, mtimes=True) == tree
    first = run_module("rlinf_bundle", carried)
    assert first["changed"] and first["hashed"] > 5
    stamped = tree_hash(root, mtimes=True)
    lock = "state/.bundle.json.lock"
    assert {path for path in stamped if path not in tree} == {"state", "state/bundle.json", lock}
    assert not run_module("rlinf_bundle", carried, check=True)["changed"]
    again = run_module("rlinf_bundle", carried)
    assert not again["changed"] and again["hashed"] == 0
    assert run_module("rlinf_bundle", {**carried, "full": True})["hashed"] == first["hashed"]
    assert {**tree_hash(root, mtimes=True), lock: ""} == {**stamped, lock: ""}


def test_without_a_stamp_nothing_is_written(carried: dict[str, Any], run_module: Run, tree_hash: Hash) -> None:
    root = Path(carried["bundle_dir"])
    tree = tree_hash(root, mtimes=True)
    assert not run_module("rlinf_bundle", {"bundle_dir": str(root)})["changed"]
    assert tree_hash(root, mtimes=True) == tree


def test_missing_damaged_and_extra_files_are_named(carried: dict[str, Any], run_module: Run) -> None:
    bundle = Bundle(Path(carried["bundle_dir"]))
    run_module("rlinf_bundle", carried)
    (bundle.index / "six-1.16.0-py2.py3-none-any.whl").write_bytes(b"SIX")
    (bundle.index / "built-1-py3-none-any.whl").write_bytes(b"longer than before")
    (bundle.tools / WHEEL).unlink()
    link = bundle.assets / ".sapien" / "physx" / "1" / "libphysx.so.1"
    link.unlink()
    link.symlink_to("elsewhere")
    write(bundle.repos / MIRROR / "refs" / "heads" / "stale", "0" * 40)
    with pytest.raises(ModuleFailed, match=r"rlinf\.offline\.push again") as failure:
        run_module("rlinf_bundle", carried)
    result = failure.value.result
    assert result["missing"] == {"count": 1, "first": [f"tools/{WHEEL}"]}
    assert result["damaged"]["first"] == [
        "assets/.sapien/physx/1/libphysx.so.1",
        "wheelhouse/index/built-1-py3-none-any.whl",
        "wheelhouse/index/six-1.16.0-py2.py3-none-any.whl",
    ]
    assert result["extra"] == {"count": 1, "first": [f"repos/{MIRROR}/refs/heads/stale"]}


def test_only_the_first_of_many_are_named(carried: dict[str, Any], run_module: Run) -> None:
    for number in range(30):
        write(Path(carried["bundle_dir"], "tools", f"extra-{number:02}"), "x")
    with pytest.raises(ModuleFailed, match=r"30 extra: .*extra-19, …") as failure:
        run_module("rlinf_bundle", carried)
    assert failure.value.result["extra"]["count"] == 30 and len(failure.value.result["extra"]["first"]) == 20


def test_after_an_update_only_what_changed_is_read(carried: dict[str, Any], run_module: Run) -> None:
    bundle = Bundle(Path(carried["bundle_dir"]))
    run_module("rlinf_bundle", carried)
    write(bundle.index / "new-1-py3-none-any.whl", b"new")
    sealed(bundle, run_module)
    result = run_module("rlinf_bundle", carried)
    assert result["changed"] and result["hashed"] == 1 and result["serial"] == 2


def test_what_was_written_since_is_read_again_whatever_its_size_and_time(carried: dict[str, Any], run_module: Run) -> None:
    bundle = Bundle(Path(carried["bundle_dir"]))
    run_module("rlinf_bundle", carried)
    six = bundle.index / "six-1.16.0-py2.py3-none-any.whl"
    status = six.stat()
    six.write_bytes(b"SIX")
    os.utime(six, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert _bundle.recognise(bundle, stamp=Path(carried["stamp"])) is None
    with pytest.raises(ModuleFailed, match=r"1 damaged: wheelhouse/index/six-1\.16\.0"):
        run_module("rlinf_bundle", carried)


def test_a_bundle_that_was_put_back_is_read_once_and_is_the_same(carried: dict[str, Any], run_module: Run) -> None:
    bundle = Bundle(Path(carried["bundle_dir"]))
    first = run_module("rlinf_bundle", carried)
    bundle.root.rename(bundle.root.with_name("aside"))
    shutil.copytree(bundle.root.with_name("aside"), bundle.root, symlinks=True)
    assert _bundle.recognise(bundle, stamp=Path(carried["stamp"])) is None
    assert not run_module("rlinf_bundle", carried, check=True)["changed"]
    again = run_module("rlinf_bundle", carried)
    assert not again["changed"] and again["hashed"] == first["hashed"] and "diff" not in again
    assert _bundle.recognise(bundle, stamp=Path(carried["stamp"])) and run_module("rlinf_bundle", carried)["hashed"] == 0


def test_a_stamp_of_another_place_is_worth_nothing(carried: dict[str, Any], run_module: Run, tmp_path: Path) -> None:
    run_module("rlinf_bundle", carried)
    shutil.copytree(carried["bundle_dir"], tmp_path / "copy", symlinks=True)
    six = tmp_path / "copy" / "wheelhouse" / "index" / "six-1.16.0-py2.py3-none-any.whl"
    status = six.stat()
    six.write_bytes(b"SIX")
    os.utime(six, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(ModuleFailed, match="1 damaged"):
        run_module("rlinf_bundle", {**carried, "bundle_dir": str(tmp_path / "copy")})


def test_a_damaged_stamp_costs_time_only(carried: dict[str, Any], run_module: Run) -> None:
    write(Path(carried["stamp"]), "{")
    assert run_module("rlinf_bundle", carried)["changed"]
    assert not run_module("rlinf_bundle", carried)["changed"]


def test_a_stamp_in_the_bundle_is_refused(carried: dict[str, Any], run_module: Run) -> None:
    with pytest.raises(ModuleFailed, match="lies in the bundle"):
        run_module("rlinf_bundle", {**carried, "stamp": f"{carried['bundle_dir']}/stamp.json"})


def test_before_the_first_download_check_mode_goes_on(tmp_path: Path, run_module: Run) -> None:
    result = run_module("rlinf_bundle", {"bundle_dir": str(tmp_path / "bundle"), "state": "sealed"}, check=True)
    assert result["changed"] and "after download" in result["reason"]
    assert not (tmp_path / "bundle").exists()


def test_before_the_push_check_mode_goes_on(tmp_path: Path, run_module: Run) -> None:
    result = run_module("rlinf_bundle", {"bundle_dir": str(tmp_path / "bundle"), "state": "verified"}, check=True)
    assert result["changed"] and result["after_push"]


def test_verifying_reads_a_bundle_that_may_not_be_written(carried: dict[str, Any], run_module: Run) -> None:
    """Nothing in it is opened for writing, not even a lock; shown by its directories' times."""
    root = Path(carried["bundle_dir"])
    before = {path: path.stat().st_mtime_ns for path in (root, *root.rglob("*")) if path.is_dir()}
    run_module("rlinf_bundle", carried)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    lock = _bundle.exclusive(Bundle(root).lock_file, "the bundle")
    with lock:
        assert not run_module("rlinf_bundle", carried)["changed"]


def test_what_a_swarm_left_goes_once_the_bundle_is_verified(carried: dict[str, Any], run_module: Run) -> None:
    bundle = Bundle(Path(carried["bundle_dir"]))
    half = bundle.arriving / "bundle" / "wheels" / "half.whl"
    write(half, b"half")
    run_module("rlinf_bundle", carried, check=True)
    assert half.exists()
    write(bundle.wheels / "late.whl", b"not of the bundle")
    with pytest.raises(ModuleFailed):
        run_module("rlinf_bundle", {**carried, "stamp": None})
    assert half.exists()
    (bundle.wheels / "late.whl").unlink()
    run_module("rlinf_bundle", carried)
    assert not bundle.arriving.exists()


# -- pruning and choosing ------------------------------------------------------------------------------------------------------


def test_pruned_quad(carried: dict[str, Any], run_module: Run, tree_hash: Hash) -> None:
    bundle = Bundle(Path(carried["bundle_dir"]))
    before = tree_hash(bundle.root)
    write(bundle.repos / MIRROR / "refs" / "heads" / "stale", "0" * 40)
    write(bundle.wheelhouse / "git" / "old" / "deep" / "x.whl", b"old")
    write(bundle.repos / "github.com" / "gone" / "gone.git" / "HEAD", b"old")
    write(bundle.wheels / "x.whl.part", b"half")
    args = {"bundle_dir": str(bundle.root), "state": "pruned"}
    littered = tree_hash(bundle.root)
    foreseen = run_module("rlinf_bundle", args, check=True, diff=True)
    assert tree_hash(bundle.root) == littered
    done = run_module("rlinf_bundle", args, diff=True)
    assert foreseen["changes"] == done["changes"] and done["changes"]["removed"]["count"] == 4
    assert "deep/x.whl" in done["diff"]["before"]
    after = tree_hash(bundle.root)
    # git needs refs/heads although nothing lies in it
    assert after == before
    assert not run_module("rlinf_bundle", args, check=True)["changed"]
    assert not run_module("rlinf_bundle", args)["changed"]
    subprocess.run(["git", "-C", bundle.repos / MIRROR, "rev-parse", "--git-dir"], check=True, capture_output=True)
    run_module("rlinf_bundle", carried)


def test_with_a_stamp_only_what_a_former_bundle_had_is_removed(carried: dict[str, Any], run_module: Run, tree_hash: Hash) -> None:
    bundle = Bundle(Path(carried["bundle_dir"]))
    former = {
        bundle.wheels / "former.whl": b"wheel",
        bundle.tools / "former.whl": b"tool",
        bundle.repos / "github.com/gone/gone.git/HEAD": b"mirror",
    }
    own = {bundle.wheels / "own.whl": b"own wheel", bundle.tools / "own.whl": b"own tool"}
    for path, content in former.items():
        write(path, content)
    sealed(bundle, run_module)
    run_module("rlinf_bundle", carried)
    times = {path: path.stat().st_mtime_ns for path in former}
    for path in former:
        path.unlink()
    sealed(bundle, run_module)
    for path, content in former.items():
        write(path, content)
        os.utime(path, ns=(times[path], times[path]))
    for path, content in own.items():
        write(path, content)
    write(bundle.repos / MIRROR / "refs" / "heads" / "stale", b"0" * 40)
    with pytest.raises(ModuleFailed, match="4 extra"):
        run_module("rlinf_bundle", carried)
    args = {"bundle_dir": str(bundle.root), "state": "pruned", "stamp": carried["stamp"], "former": False}
    littered = tree_hash(bundle.root)
    foreseen = run_module("rlinf_bundle", args, check=True)
    assert tree_hash(bundle.root) == littered and foreseen["changes"]["removed"]["count"] == 4 and foreseen["extra"]["count"] == 2
    trace = bundle.root.parent / "trace"
    done = run_module("rlinf_bundle", args, env={TRACE: str(trace)})
    assert "set aside tools/own.whl\n" in trace.read_text()
    assert done["changes"] == foreseen["changes"] and "2 that no bundle has had set aside" in done["reason"]
    assert (bundle.set_aside / "tools" / "own.whl.0").read_bytes() == b"own tool"
    # a ref of a mirror counts as long as it lies there, and is somebody's all the same
    assert (bundle.set_aside / "repos" / MIRROR / "refs/heads/stale.0").read_bytes() == b"0" * 40
    assert not run_module("rlinf_bundle", args, check=True)["changed"] and not run_module("rlinf_bundle", args)["changed"]
    verified = run_module("rlinf_bundle", carried)
    assert verified["extra"]["first"] == ["wheels/former.whl", "wheels/own.whl"]
    # what was of a former bundle is remembered over many verifications, and removed when it is asked for
    run_module("rlinf_bundle", carried)
    asked = run_module("rlinf_bundle", {**args, "former": True})
    assert asked["changes"]["removed"]["first"] == ["wheels/former.whl"] and asked["extra"]["first"] == ["wheels/own.whl"]
    assert (bundle.wheels / "own.whl").read_bytes() == b"own wheel"


@pytest.mark.parametrize("what", [_bundle.prune, _mend.mend], ids=["prune", "mend"])
def test_what_another_process_seals_until_the_lock_is_held_counts(
    bundle: Bundle, run_module: Run, monkeypatch: pytest.MonkeyPatch, what: Callable[[Bundle], Any]
) -> None:
    sealed(bundle, run_module)
    held = _bundle.exclusive

    @contextlib.contextmanager
    def after_a_download(path: Path, said: str) -> Iterator[None]:
        for module in (_bundle, _mend):
            monkeypatch.setattr(module, "exclusive", held)
        write(bundle.index / "new-1-py3-none-any.whl", b"new")
        write(bundle.index / "built-1-py3-none-any.whl", b"built anew")
        sealed(bundle, run_module)
        with held(path, said):
            yield

    for module in (_bundle, _mend):
        monkeypatch.setattr(module, "exclusive", after_a_download)
    assert not what(bundle).changed
    assert (bundle.index / "new-1-py3-none-any.whl").exists() and (bundle.index / "built-1-py3-none-any.whl").exists()


def two_targets(bundle: Bundle, run_module: Run) -> None:
    """Add a target that shares a wheel with the first, an interpreter for each, and system packages of two releases; seal."""
    shared = "wheelhouse/index/six-1.16.0-py2.py3-none-any.whl"
    write(bundle.index / "only-1-py3-none-any.whl", b"only")
    closure = ["targets/c1/openpi/", f"repos/{MIRROR}/", shared, "wheelhouse/index/only-1-py3-none-any.whl"]
    write(
        bundle.target("c1", "openpi") / "lock.json", json_bytes({"target": "openpi", "python": "3.10", "closure": closure, "packages": []})
    )
    for path in (bundle.interpreter("3.11.14", "x86_64"), bundle.interpreter("3.10.19", "x86_64")):
        write(path / "python.tar.gz", b"python")
    for release in ("debian-12", "ubuntu-22.04"):
        write(bundle.apt(release, "amd64") / "Packages", b"")
    sealed(bundle, run_module)


def test_a_host_gets_what_its_targets_need_and_what_nobody_claims(bundle: Bundle, run_module: Run) -> None:
    two_targets(bundle, run_module)
    everything = set(manifest(bundle)["files"])
    assert set(files_for(bundle, manifest(bundle)["files"], [])) == everything
    left_out = everything - set(files_for(bundle, manifest(bundle)["files"], ["openvla"], "debian-12/amd64"))
    assert left_out == {
        "apt/ubuntu-22.04/amd64/Packages",
        "interpreters/3.10.19/x86_64/python.tar.gz",
        "wheelhouse/index/only-1-py3-none-any.whl",
    }
    assert "interpreters/3.11.14/x86_64/python.tar.gz" in everything - set(files_for(bundle, manifest(bundle)["files"], ["openpi"]))
    assert "apt/ubuntu-22.04/amd64/Packages" in files_for(bundle, manifest(bundle)["files"], ["openpi"])
    assert set(files_for(bundle, manifest(bundle)["files"], ["openpi", "openvla"])) == everything
    with pytest.raises(BundleError, match="no lock of target reason"):
        files_for(bundle, manifest(bundle)["files"], ["reason"])


def test_a_host_that_has_what_its_targets_need_is_verified(bundle: Bundle, run_module: Run) -> None:
    two_targets(bundle, run_module)
    foreign, own = bundle.index / "only-1-py3-none-any.whl", bundle.index / "six-1.16.0-py2.py3-none-any.whl"
    content = foreign.read_bytes()
    foreign.unlink()
    arguments = {"bundle_dir": str(bundle.root), "state": "verified"}
    with pytest.raises(ModuleFailed, match="1 missing: wheelhouse/index/only-1"):
        run_module("rlinf_bundle", arguments)
    assert run_module("rlinf_bundle", {**arguments, "targets": ["openvla"]})["files"] == len(manifest(bundle)["files"]) - 1
    # what is there has to be right, whoever needs it
    foreign.write_bytes(content + b"!")
    with pytest.raises(ModuleFailed, match="1 damaged: wheelhouse/index/only-1"):
        run_module("rlinf_bundle", {**arguments, "targets": ["openvla"]})
    foreign.unlink()
    own.unlink()
    with pytest.raises(ModuleFailed, match="1 missing: wheelhouse/index/six"):
        run_module("rlinf_bundle", {**arguments, "targets": ["openvla"]})


# -- killed --------------------------------------------------------------------------------------------------------------------


def until_it_lives(run: Callable[[dict[str, str]], Any], check: Callable[[int], None]) -> int:
    """Kill a run at each of its checkpoints in turn, and judge what is left each time; return how many there are."""
    for number in range(1, 200):
        try:
            run({"RLINF_FAULT_AT": str(number)})
        except subprocess.CalledProcessError as killed:
            assert killed.returncode == -9
            check(number)
        else:
            return number - 1
    raise AssertionError("it never ends")


def test_killed_anywhere_sealing_leaves_the_old_manifest_or_the_new(bundle: Bundle, run_module: Run) -> None:
    sealed(bundle, run_module)
    old = bundle.manifest.read_bytes()
    write(bundle.index / "new-1-py3-none-any.whl", b"new")
    seen = []

    def check(_number: int) -> None:
        seen.append(bundle.manifest.read_bytes() == old)
        if not seen[-1]:
            assert manifest(bundle)["serial"] == 2 and len(manifest(bundle)["files"]) == len(json.loads(old)["files"]) + 1
            bundle.manifest.write_bytes(old)

    args = {"bundle_dir": str(bundle.root), "state": "sealed"}
    assert until_it_lives(lambda env: run_module("rlinf_bundle", args, env=env), check) >= 3
    assert True in seen
    assert not sealed(bundle, run_module)["changed"]


def test_killed_anywhere_pruning_is_finished_by_the_next(carried: dict[str, Any], run_module: Run) -> None:
    bundle = Bundle(Path(carried["bundle_dir"]))

    def litter(_number: int = 0) -> None:
        for name in ("a", "b"):
            write(bundle.wheelhouse / "git" / name / "x.whl", b"old")

    litter()
    args = {"bundle_dir": str(bundle.root), "state": "pruned"}
    assert until_it_lives(lambda env: run_module("rlinf_bundle", args, env=env), litter) >= 2
    run_module("rlinf_bundle", carried)


def test_reading_is_shared_by_threads(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files are being read at one time: each reader waits for the other."""
    barrier = threading.Barrier(2)
    real = _bundle.sha256_file

    def meeting(path: Path) -> str:
        barrier.wait(30)
        return real(path)

    monkeypatch.setattr(_bundle, "sha256_file", meeting)
    paths = ["wheelhouse/index/six-1.16.0-py2.py3-none-any.whl", "wheelhouse/index/built-1-py3-none-any.whl"]
    assert dict(_bundle.hash_files(bundle.root, paths, 2)) == {path: real(bundle.root / path) for path in paths}
