# SPDX-License-Identifier: GPL-3.0-or-later
"""Locking a target through the module's main(), against an upstream on loopback: git, an index, sdists, nested git dependencies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.project import CUT_OFF, World
from tests.support.upstream import Upstream
from tests.support.wheels import sha256
from tests.unit.conftest import ModuleFailed


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "upstream", tmp_path / "bundle")


@pytest.fixture
def upstream(world: World) -> Iterator[Upstream]:
    with Upstream(world.root) as running:
        yield running


@pytest.fixture
def mirrored(world: World, upstream: Upstream, run_module: Any) -> dict[str, Any]:
    """The arguments, after the repositories of the target are in the bundle."""
    arguments = world.arguments(upstream)
    repos = [{"name": name, **entry} for name, entry in arguments["catalog"]["repositories"].items()]
    common = {"bundle_dir": arguments["bundle_dir"], "url_rewrites": arguments["url_rewrites"], "cut_off": CUT_OFF}
    run_module("rlinf_repo_mirror", {**common, "repos": repos})
    return arguments


def read_lock(world: World) -> dict[str, Any]:
    lock: dict[str, Any] = json.loads((world.bundle / "targets" / world.project_commit / "demo" / "lock.json").read_text())
    return lock


def bundle_tree(world: World, tree_hash: Any) -> dict[str, Any]:
    return {path: value for path, value in tree_hash(world.bundle).items() if not path.startswith((".cache", ".lock"))}


def test_check_apply_check_apply(world: World, mirrored: dict[str, Any], run_module: Any, tree_hash: Any):
    before = bundle_tree(world, tree_hash)
    assert run_module("rlinf_target_lock", mirrored, check=True)["changed"]
    assert bundle_tree(world, tree_hash) == before
    first = run_module("rlinf_target_lock", mirrored, diff=True)
    assert first["changed"] and first["results"][0]["state"] == "locked"
    assert "+" not in first["diff"][0]["before"] and "base==1.0" in first["diff"][0]["after"]
    after = bundle_tree(world, tree_hash)
    assert not run_module("rlinf_target_lock", mirrored, check=True)["changed"]
    second = run_module("rlinf_target_lock", mirrored, diff=True)
    assert not second["changed"] and second["diff"] == []
    assert bundle_tree(world, tree_hash) == after


def test_what_the_lock_holds(world: World, mirrored: dict[str, Any], run_module: Any):
    run_module("rlinf_target_lock", mirrored)
    lock = read_lock(world)
    found = {package["name"]: (package["version"], package["kind"]) for package in lock["packages"]}
    # the newer base came after the cut-off; pinned went down in a later step, as an installer would; gone was uninstalled
    assert found == {
        "base": ("1.0", "index"),
        "extra": ("1.0", "index"),
        "model": ("0.0.3", "git"),
        "nested": ("0.1", "git"),
        "overridden": ("1.0", "index"),
        "pinned": ("1.5", "index"),
        "prebuilt": ("7.0", "wheel"),
        "sourced": ("3.1", "sdist"),
    }
    assert lock["git"]["model"]["commit"] == world.model_commit, "the default branch is taken as it was at the cut-off"
    assert lock["git"]["nested"]["commit"] == world.nested_commit
    assert lock["editables"] == [{"repository": "editable", "package": "editable-thing", "subdirectory": None}]
    assert (world.bundle / "repos/github.com/o/nested.git").is_dir(), "a nested dependency is mirrored"
    for package in lock["packages"]:
        assert sha256(world.bundle / package["path"]) == package["sha256"]
    text = (world.bundle / "targets" / world.project_commit / "demo" / "pylock.demo.toml").read_text()
    assert str(world.bundle) not in text + json.dumps(lock), "the bundle names no path of the bastion"


def test_a_step_without_a_solution_is_named_with_the_reason(mirrored: dict[str, Any], run_module: Any):
    mirrored["catalog"]["targets"]["demo"]["steps"].append({"requirements": ["requirements/impossible.txt"]})
    with pytest.raises(ModuleFailed) as failed:
        run_module("rlinf_target_lock", mirrored)
    message = failed.value.result["msg"]
    assert "target demo: step requirements requirements/impossible.txt cannot be resolved" in message
    assert "there is no version of base==99" in message


def test_only_update_moves_a_lock(world: World, upstream: Upstream, mirrored: dict[str, Any], run_module: Any):
    run_module("rlinf_target_lock", mirrored)
    world.publish("base", "1.1")
    assert not run_module("rlinf_target_lock", mirrored)["changed"]
    moved = run_module("rlinf_target_lock", {**mirrored, "update": ["demo"]}, diff=True)
    assert moved["changed"] and moved["results"][0]["reason"] == "moved by rlinf_update"
    assert "base==1.0" in moved["diff"][0]["before"] and "base==1.1" in moved["diff"][0]["after"]
    assert not run_module("rlinf_target_lock", {**mirrored, "update": ["demo"]})["changed"]


def test_a_changed_entry_is_an_error_until_update_names_it(mirrored: dict[str, Any], run_module: Any):
    run_module("rlinf_target_lock", mirrored)
    mirrored["catalog"]["targets"]["demo"]["steps"].append({"requirements": ["base"]})
    with pytest.raises(ModuleFailed, match=r"target demo is locked, and its entry.*has changed since. Name it in rlinf_update"):
        run_module("rlinf_target_lock", mirrored)
    assert run_module("rlinf_target_lock", {**mirrored, "update": ["demo"]})["changed"]


def test_missing_files_are_brought_again_the_same(world: World, mirrored: dict[str, Any], run_module: Any, tree_hash: Any):
    run_module("rlinf_target_lock", mirrored)
    before = bundle_tree(world, tree_hash)
    for package in read_lock(world)["packages"]:
        if package["kind"] != "wheel":
            (world.bundle / package["path"]).unlink()
    assert run_module("rlinf_target_lock", mirrored, check=True)["results"][0]["state"] == "incomplete"
    assert run_module("rlinf_target_lock", mirrored)["changed"]
    assert bundle_tree(world, tree_hash) == before


def test_what_is_left_out_is_recorded(world: World, mirrored: dict[str, Any], run_module: Any):
    run_module("rlinf_target_lock", {**mirrored, "leave_out": ["prebuilt"]})
    lock = read_lock(world)
    assert lock["left_out"] == ["prebuilt"] and "prebuilt" not in {package["name"] for package in lock["packages"]}


def test_a_wheel_that_is_not_in_the_bundle_is_named(world: World, mirrored: dict[str, Any], run_module: Any):
    next((world.bundle / "wheels").glob("*.whl")).unlink()
    with pytest.raises(ModuleFailed, match=r"the wheel prebuilt is not in the bundle. Fetch it with rlinf_wheel_cache"):
        run_module("rlinf_target_lock", mirrored)


def test_a_dead_index_is_an_error_and_changes_nothing(
    world: World, upstream: Upstream, mirrored: dict[str, Any], run_module: Any, tree_hash: Any
):
    before = bundle_tree(world, tree_hash)
    with pytest.raises(ModuleFailed, match="step uv_sync robots cannot be resolved"):
        run_module("rlinf_target_lock", {**mirrored, "index_url": "http://127.0.0.1:9/simple/"})
    assert bundle_tree(world, tree_hash) == before
