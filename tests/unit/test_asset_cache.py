# SPDX-License-Identifier: GPL-3.0-or-later
"""rlinf_asset_cache through its real main(), against a real server."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils._cache import AssetCache
from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Asset
from ansible_collections.rlinf.offline.plugins.module_utils._fetch import Fetcher, Records
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._network import Network
from tests.support.upstream import Fault, Upstream
from tests.support.wheels import sha256
from tests.unit.conftest import ModuleFailed

Run = Callable[..., dict[str, Any]]
ROBOT = "WidowX-0.2.0.zip"
DATA = "dataset.tar.gz"
MODEL = "tokenizer.model"
DESTS = {ROBOT: ".maniskill/data/robots/widowx", DATA: ".maniskill/data/tasks/bridge", MODEL: ".cache/openpi/big_vision/tokenizer.model"}


def make_robot(path: Path, **extra: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("WidowX-0.2.0/wx250s.urdf", "<robot/>" * 100)
        archive.writestr("WidowX-0.2.0/meshes/base.stl", random.Random(1).randbytes(50_000))
        for name, content in extra.items():
            archive.writestr(f"WidowX-0.2.0/{name}", content)
    return path


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Upstream]:
    root = tmp_path / "upstream"
    root.mkdir()
    make_robot(root / ROBOT)
    (tmp_path / "scene.json").write_text("{}")
    with tarfile.open(root / DATA, "w:gz") as archive:
        archive.add(tmp_path / "scene.json", "scenes/scene.json")
        archive.add(tmp_path / "scene.json", "README")
    (root / MODEL).write_bytes(random.Random(2).randbytes(30_000))
    for path in root.iterdir():
        os.utime(path, (1_700_000_000, 1_700_000_000))
    with Upstream(root) as server:
        yield server


def arguments(tmp_path: Path, upstream: Upstream, *names: str, **options: Any) -> dict[str, Any]:
    assets = [
        {
            "name": name.split(".")[0],
            "url": f"https://host.example/{name}",
            "dest": DESTS[name],
            "unpack": name != MODEL,
            "strip": name == ROBOT,
        }
        for name in names or DESTS
    ]
    rewrites = {"https://host.example/": f"{upstream.url}/"}
    return {"bundle_dir": str(tmp_path / "bundle"), "assets": assets, "url_rewrites": rewrites, "timeout": 20, **options}


def content(tree: dict[str, Any]) -> dict[str, Any]:
    """A bundle's tree without its lock file, which holds the number of the last process."""
    return {path: value for path, value in tree.items() if path != ".lock"}


def test_quad(tmp_path: Path, upstream: Upstream, run_module: Run, tree_hash: Any) -> None:
    args = arguments(tmp_path, upstream)
    before = tree_hash(tmp_path)
    planned = run_module("rlinf_asset_cache", args, check=True, diff=True)
    assert tree_hash(tmp_path) == before
    assert {request.method for request in upstream.requests()} == {"HEAD"}
    assert [(item["state"], item["bytes"]) for item in planned["results"]] == [
        ("missing", (upstream.root / name).stat().st_size) for name in DESTS
    ]

    done = run_module("rlinf_asset_cache", args, diff=True)
    assert [item["state"] for item in done["results"]] == ["present"] * 3
    assert [item["bytes"] for item in done["results"]] == [item["bytes"] for item in planned["results"]]
    assert [item["path"] for item in done["results"]] == [f"assets/{dest}" for dest in DESTS.values()]
    assert [diff["after"] for diff in done["diff"]] == [f"sha256 {sha256(upstream.root / name)}\n" for name in DESTS]
    assets = tmp_path / "bundle/assets"
    files = sorted(str(path.relative_to(assets)) for path in assets.rglob("*") if path.is_file())
    assert files == [
        ".cache/openpi/big_vision/tokenizer.model",
        ".maniskill/data/robots/widowx/meshes/base.stl",
        ".maniskill/data/robots/widowx/wx250s.urdf",
        ".maniskill/data/tasks/bridge/README",
        ".maniskill/data/tasks/bridge/scenes/scene.json",
    ]
    assert (assets / DESTS[MODEL]).read_bytes() == (upstream.root / MODEL).read_bytes()

    after = tree_hash(tmp_path / "bundle", mtimes=True)
    upstream.stop()
    planned = run_module("rlinf_asset_cache", args, check=True)
    again = run_module("rlinf_asset_cache", args, diff=True)
    assert (planned["changed"], again["changed"], again["diff"]) == (False, False, [])
    assert content(tree_hash(tmp_path / "bundle", mtimes=True)) == content(after)


def test_the_manifest_knows_where_assets_come_from(tmp_path: Path, upstream: Upstream, run_module: Run) -> None:
    run_module("rlinf_asset_cache", arguments(tmp_path, upstream))
    run_module("rlinf_bundle", {"bundle_dir": str(tmp_path / "bundle"), "state": "sealed"})
    files = json.loads((tmp_path / "bundle/bundle.json").read_text())["files"]
    origins = {path: entry["origin"] for path, entry in files.items() if path.startswith("assets/")}
    assert len(origins) == 5
    assert all(origin == f"https://host.example/{name}" for name in DESTS for path, origin in origins.items() if DESTS[name] in path)
    assert not any(path.startswith(".cache") or path.endswith(".part") for path in files)


@pytest.mark.parametrize("damage", ["emptied", "removed", "shortened", "added"])
def test_a_damaged_tree_is_mended_without_network(tmp_path: Path, upstream: Upstream, run_module: Run, tree_hash: Any, damage: str) -> None:
    args = arguments(tmp_path, upstream, ROBOT)
    run_module("rlinf_asset_cache", args)
    whole = tree_hash(tmp_path / "bundle/assets", mtimes=True)
    robot = tmp_path / "bundle/assets" / DESTS[ROBOT]
    if damage == "emptied":
        for path in sorted(robot.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    elif damage == "removed":
        (robot / "meshes/base.stl").unlink()
    elif damage == "shortened":
        (robot / "meshes/base.stl").write_bytes(b"")
    else:
        (robot / "meshes/base.stl.part").write_bytes(b"")
    upstream.stop()
    planned = run_module("rlinf_asset_cache", args, check=True, diff=True)
    assert planned["results"][0]["reason"] == "what was there is damaged or incomplete"
    assert (planned["results"][0]["bytes"], planned["diff"][0]["before"]) == (0, "what was there is damaged or incomplete\n")
    assert run_module("rlinf_asset_cache", args)["changed"]
    assert tree_hash(tmp_path / "bundle/assets", mtimes=True) == whole
    assert not run_module("rlinf_asset_cache", args)["changed"]


def test_the_kept_archive_may_go(tmp_path: Path, upstream: Upstream, run_module: Run) -> None:
    args = arguments(tmp_path, upstream, ROBOT)
    run_module("rlinf_asset_cache", args)
    [kept] = (tmp_path / "bundle/.cache/assets").rglob("*.zip")
    kept.unlink()
    assert not run_module("rlinf_asset_cache", args)["changed"]
    (tmp_path / "bundle/assets" / DESTS[ROBOT] / "wx250s.urdf").unlink()
    done = run_module("rlinf_asset_cache", args)
    assert done["results"][0]["bytes"] == (upstream.root / ROBOT).stat().st_size


def test_a_new_version_takes_the_place_of_the_old(tmp_path: Path, upstream: Upstream, run_module: Run) -> None:
    args = arguments(tmp_path, upstream, ROBOT)
    old = run_module("rlinf_asset_cache", args)["results"][0]["sha256"]
    make_robot(upstream.root / "WidowX-0.3.0.zip", new=b"new")
    args["assets"][0]["url"] = "https://host.example/WidowX-0.3.0.zip"
    planned = run_module("rlinf_asset_cache", args, check=True, diff=True)
    assert planned["diff"][0]["before"] == f"sha256 {old}\n"
    assert run_module("rlinf_asset_cache", args)["results"][0]["reason"] == "what was there comes from another archive: unpacked 3 files"
    robot = tmp_path / "bundle/assets" / DESTS[ROBOT]
    assert sorted(path.name for path in robot.iterdir()) == ["meshes", "new", "wx250s.urdf"]
    assert sorted(path.name for path in robot.parent.iterdir()) == ["widowx"]
    assert not run_module("rlinf_asset_cache", args)["changed"]


def test_another_content_later_needs_its_sha256(tmp_path: Path, upstream: Upstream, run_module: Run) -> None:
    args = arguments(tmp_path, upstream, ROBOT)
    run_module("rlinf_asset_cache", args)
    make_robot(upstream.root / ROBOT, new=b"new")
    assert not run_module("rlinf_asset_cache", args)["changed"]
    args["assets"][0]["sha256"] = new = sha256(upstream.root / ROBOT)
    assert run_module("rlinf_asset_cache", args, check=True)["results"][0]["sha256"] == new
    assert run_module("rlinf_asset_cache", args)["results"][0]["sha256"] == new
    assert (tmp_path / "bundle/assets" / DESTS[ROBOT] / "new").exists()


@pytest.mark.parametrize(
    ("member", "said"),
    [("../../evil", "leads out of the archive"), ("/etc/evil", "leads out of the archive"), ("WidowX-0.2.0/WX250S.urdf", "differ in case")],
)
def test_an_archive_that_must_not_be_unpacked_stops_no_other(
    tmp_path: Path, upstream: Upstream, run_module: Run, member: str, said: str
) -> None:
    with zipfile.ZipFile(upstream.root / ROBOT, "a") as archive:
        archive.writestr(member, "x")
    args = arguments(tmp_path, upstream)
    with pytest.raises(ModuleFailed, match=said) as failure:
        run_module("rlinf_asset_cache", args)
    assert [item["state"] for item in failure.value.result["results"]] == ["failed", "present", "present"]
    assert f"https://host.example/{ROBOT}" in failure.value.result["msg"]
    assert not (tmp_path / "bundle/assets" / DESTS[ROBOT]).exists()
    # it is not remembered either, so that the mended one is taken
    make_robot(upstream.root / ROBOT)
    run_module("rlinf_asset_cache", args)
    assert (tmp_path / "bundle/assets" / DESTS[ROBOT] / "wx250s.urdf").exists()


def test_a_page_to_log_in_is_no_file(tmp_path: Path, upstream: Upstream, run_module: Run) -> None:
    args = arguments(tmp_path, upstream)
    upstream.script(f"/{MODEL}", Fault(body=b"\n<!DOCTYPE html><html>Log in</html>"))
    with pytest.raises(ModuleFailed, match="what came is not usable: a web page"):
        run_module("rlinf_asset_cache", args)
    # nothing of it is remembered
    run_module("rlinf_asset_cache", args)
    assert (tmp_path / "bundle/assets" / DESTS[MODEL]).read_bytes() == (upstream.root / MODEL).read_bytes()


def test_a_failed_update_leaves_what_was_there(tmp_path: Path, upstream: Upstream, run_module: Run, tree_hash: Any) -> None:
    args = arguments(tmp_path, upstream, ROBOT)
    run_module("rlinf_asset_cache", args)
    before = tree_hash(tmp_path / "bundle/assets", mtimes=True)
    make_robot(upstream.root / ROBOT, new=b"new")
    args["assets"][0]["sha256"] = sha256(upstream.root / ROBOT)
    upstream.always("*", Fault(body=b"something else"))
    with pytest.raises(ModuleFailed, match="has the sha256"):
        run_module("rlinf_asset_cache", args)
    assert tree_hash(tmp_path / "bundle/assets", mtimes=True) == before


def test_every_answer_is_cut_at_a_random_byte(tmp_path: Path, upstream: Upstream, run_module: Run) -> None:
    for seed, name in enumerate(DESTS):
        upstream.always(f"/{name}", Fault(cut=random.Random(seed)))
    run_module("rlinf_asset_cache", arguments(tmp_path, upstream))
    assert (tmp_path / "bundle/assets" / DESTS[MODEL]).read_bytes() == (upstream.root / MODEL).read_bytes()


@pytest.mark.parametrize("dest", ["../x", "/etc/x", "~/x", ""])
def test_a_destination_outside_of_the_assets(tmp_path: Path, upstream: Upstream, run_module: Run, dest: str) -> None:
    args = arguments(tmp_path, upstream, MODEL)
    args["assets"][0]["dest"] = dest
    with pytest.raises(ModuleFailed, match="must be a relative path without"):
        run_module("rlinf_asset_cache", args)
    assert upstream.requests() == []


def test_one_inside_another(tmp_path: Path, upstream: Upstream, run_module: Run) -> None:
    args = arguments(tmp_path, upstream)
    args["assets"][2]["dest"] = f"{DESTS[DATA]}/tokenizer.model"
    with pytest.raises(ModuleFailed, match="dataset and tokenizer would lie in each other's place") as failure:
        run_module("rlinf_asset_cache", args)
    assert [item["state"] for item in failure.value.result["results"]] == ["present", "failed", "failed"]


def test_a_file_where_a_directory_was(tmp_path: Path, upstream: Upstream, run_module: Run) -> None:
    args = arguments(tmp_path, upstream, ROBOT)
    run_module("rlinf_asset_cache", args)
    args["assets"][0]["unpack"] = False
    with pytest.raises(ModuleFailed, match="is a directory, but the asset WidowX-0 is a file"):
        run_module("rlinf_asset_cache", args)


def test_killed_at_every_step_it_ends_whole(tmp_path: Path, upstream: Upstream, run_module: Run, tree_hash: Any) -> None:
    """While an asset is replaced: what is there afterwards is the old or the new, and the next run ends at the new."""
    args = arguments(tmp_path, upstream, ROBOT)
    run_module("rlinf_asset_cache", args)
    bundle = tmp_path / "bundle"
    robot = bundle / "assets" / DESTS[ROBOT]
    shutil.copytree(bundle, tmp_path / "before")
    make_robot(upstream.root / "new.zip", new=b"new")
    args["assets"][0]["url"] = "https://host.example/new.zip"
    old, new = tree_hash(robot), None
    for step in itertools.count(1):
        try:
            run_module("rlinf_asset_cache", args, env={"RLINF_FAULT_AT": str(step)})
        except subprocess.CalledProcessError as ended:
            assert ended.returncode == -signal.SIGKILL
        else:
            break
        now = tree_hash(robot) if robot.exists() else None
        again = Fetcher(Network.of(args), records=Records.of(Bundle(bundle)))
        [outcome] = AssetCache(Bundle(bundle), again).run([Asset(**args["assets"][0])], check=False)
        assert outcome.state == "present", outcome
        new = new or tree_hash(robot)
        assert now in (None, old, new)
        assert tree_hash(robot) == new != old
        assert [path.name for path in robot.parent.iterdir()] == ["widowx"]
        shutil.rmtree(bundle)
        shutil.copytree(tmp_path / "before", bundle)
    assert step > 20
    assert tree_hash(robot) == new
    assert set(json.loads((bundle / "records/assets.json").read_text())) == {DESTS[ROBOT]}
