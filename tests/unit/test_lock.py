# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a lock: sources for nodes, what an index may keep, pins that ship, forks that stay; and that targets leave one another alone."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils import _pylock
from ansible_collections.rlinf.offline.plugins.module_utils._errors import LockError
from ansible_collections.rlinf.offline.plugins.module_utils._files import read_json, write_json
from ansible_collections.rlinf.offline.plugins.module_utils._shipped import Shipped
from tests.support.origins import git
from tests.support.project import CUT_OFF, NEW, OLD, World, commit
from tests.support.upstream import Upstream
from tests.support.wheels import build_sdist, build_wheel, sha256, source_tree
from tests.unit.conftest import ModuleFailed

Arguments = dict[str, Any]
Run = Callable[..., dict[str, Any]]
# what a pyproject names that no bastion can build
UNBUILDABLE = {
    "_backend.py": "raise SystemExit('there is no compiler for GPUs here')\n",
    "pyproject.toml": (
        '[project]\nname = "gpu"\ndynamic = ["version", "dependencies"]\n\n'
        '[build-system]\nrequires = ["pinned", "generator"]\nbuild-backend = "_backend"\nbackend-path = ["."]\n'
    ),
}


@dataclass(frozen=True)
class Locked:
    """A bundle with the locks of ``full`` and ``small``, never changed; tests take copies of it."""

    world: World
    upstream: Upstream
    arguments: Arguments

    def copy(self, to: Path, *, keep: Callable[[str], bool] = lambda _name: True) -> Path:
        """Copy what *keep* wants of the bundle's top."""
        for path in self.world.bundle.iterdir():
            if path.is_dir() and keep(path.name):
                shutil.copytree(path, to / path.name, symlinks=True, copy_function=_copy)
        return to

    def folder(self, bundle: Path, target: str = "full") -> Path:
        return bundle / "targets" / self.world.project_commit / target


def _copy(source: str, destination: str) -> str:
    """Link what nobody writes into, copy the rest."""
    if "/.cache/uv/" in source or "/wheelhouse/" in source:
        os.link(source, destination)
        return destination
    return shutil.copy2(source, destination)


def _targets() -> dict[str, Any]:
    common = {"project": "demo", "python": World.python, "cut_off": CUT_OFF}
    steps: list[dict[str, Any]] = [
        {"uv_sync": ["robots"]},
        {"editable": "editable"},
        {"requirements": ["requirements/model.txt", "fork @ git+https://github.com/o/fork.git"], "build_isolation": False},
        {"requirements": ["wants-fork", "gpu==2.1", "lib", "donor"]},
        {"wheels": ["prebuilt"]},
        {"overlay": "lib", "from": "donor", "path": "donor/replace"},
        {"uninstall": ["gone"]},
    ]
    full = {
        **common,
        "steps": steps,
        "metadata": [{"name": "gpu", "version": "2.1", "requires_dist": ["base"]}],
        "build_on_node": {"gpu": {"needs": ["nvcc"], "env": {"MAX_JOBS": "4"}}},
    }
    small = {**common, "steps": [{"requirements": ["base", "sourced", "wants-fork"]}]}
    return {"full": full, "small": small}


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, run_module: Run) -> Iterator[Locked]:
    root = tmp_path_factory.mktemp("lock")
    world = World(root / "upstream", root / "bundle")
    for name, version in (("fork", "4.40.1"), ("fork", "4.41"), ("generator", "1.0")):
        world.publish(name, version)
    world.publish("generator", "2.0", when=NEW)
    index = world.root / "index"
    more = [
        build_wheel(index, "wants-fork", "1.0", requires=["fork>=4.40"]),
        build_wheel(index, "lib", "1.0", modules={"lib/__init__.py": "OVERLAID = False\n"}),
        build_wheel(index, "donor", "1.0", modules={"donor/replace/__init__.py": "OVERLAID = True\n"}),
        build_sdist(index, "gpu", "2.1", files=UNBUILDABLE),
    ]
    for path in more:
        os.utime(path, (OLD, OLD))
    # at the same version, and preferred by every installer, but later
    os.utime(build_wheel(index, "base", "1.0", build="1", modules={"base.py": "LATER = True\n"}), (NEW, NEW))
    commit(world.git / "o/fork.git", source_tree("fork", "4.40.1"))
    with Upstream(world.root) as upstream:
        arguments = world.arguments(upstream)
        arguments["catalog"]["targets"] = _targets()
        arguments["targets"] = ["full", "small"]
        repos = [{"name": name, **entry} for name, entry in arguments["catalog"]["repositories"].items()]
        run_module(
            "rlinf_repo_mirror",
            {"bundle_dir": str(world.bundle), "url_rewrites": arguments["url_rewrites"], "cut_off": CUT_OFF, "repos": repos},
        )
        run_module("rlinf_target_lock", arguments)
        yield Locked(world, upstream, arguments)


@pytest.fixture
def bundle(locked: Locked, tmp_path: Path) -> Path:
    """A copy of the bundle, to be changed."""
    return locked.copy(tmp_path / "bundle")


@pytest.fixture
def arguments(locked: Locked, bundle: Path) -> Arguments:
    """The module's arguments for that copy."""
    return {**copy.deepcopy(locked.arguments), "bundle_dir": str(bundle)}


def packages(folder: Path) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in read_json(folder / "lock.json")["packages"]}


# -- sources -----------------------------------------------------------------------------------------------------------------------------


def test_what_a_node_builds_is_carried_as_its_source_and_never_built_here(locked: Locked):
    folder = locked.folder(locked.world.bundle)
    lock = read_json(folder / "lock.json")
    gpu = packages(folder)["gpu"]
    sdist = locked.world.root / "index" / "gpu-2.1.tar.gz"
    assert (gpu["kind"], gpu["sha256"], gpu["size"], gpu["served"]) == ("source", sha256(sdist), sdist.stat().st_size, False)
    assert gpu["path"] == f"wheelhouse/source/{sha256(sdist)}/gpu-2.1.tar.gz"
    assert sha256(locked.world.bundle / gpu["path"]) == gpu["sha256"]
    entry = next(item for item in _pylock.read(folder / "pylock.full.toml")["packages"] if item["name"] == "gpu")
    assert entry["sdist"] == {
        "path": os.path.relpath(locked.world.bundle / gpu["path"], folder),
        "size": gpu["size"],
        "hashes": {"sha256": gpu["sha256"]},
    }
    assert lock["build_on_node"] == {"gpu": {"needs": ["nvcc"], "env": {"MAX_JOBS": "4"}}}
    assert f"wheelhouse/built/{gpu['sha256']}/" in lock["closure"], "a wheel that some node built goes to the others"


def test_building_a_source_takes_the_targets_own_packages_and_nothing_newer_than_the_cut_off(locked: Locked):
    build = {item["name"]: item["version"] for item in read_json(locked.folder(locked.world.bundle) / "lock.json")["build"]}
    assert build == {"pinned": "1.5", "generator": "1.0", "wheel": "0.45"}


@pytest.mark.parametrize(("name", "why"), [("fork", r"it comes from git\+https://github.com/o/fork"), ("typo", "no step installs it")])
def test_only_what_an_index_serves_can_be_built_on_a_node(arguments: Arguments, run_module: Run, name: str, why: str):
    full = arguments["catalog"]["targets"]["full"]
    full |= {"build_on_node": {name: {}}, "steps": [{"requirements": ["fork @ git+https://github.com/o/fork.git"]}]}
    with pytest.raises(ModuleFailed, match=f"target full: build_on_node names {name}, but {why}"):
        run_module("rlinf_target_lock", {**arguments, "targets": ["full"], "update": ["full"]})


# -- an index beside the bundle ----------------------------------------------------------------------------------------------------------


def test_an_index_keeps_what_it_serves_and_the_lock_is_the_same(locked: Locked, tmp_path: Path, run_module: Run, tree_hash: Any):
    bundle = locked.copy(tmp_path / "bundle", keep=lambda name: name not in ("targets", "wheelhouse"))
    arguments = {**locked.arguments, "bundle_dir": str(bundle), "package_source": "index"}
    first = run_module("rlinf_target_lock", arguments)["results"][0]
    assert first["left_to_index"] > 0 and first["reason"].startswith("locked for the first time; ")
    assert tree_hash(locked.folder(bundle).parent) == tree_hash(locked.folder(locked.world.bundle).parent)
    there = {name for name, item in packages(locked.folder(bundle)).items() if (bundle / item["path"]).is_file()}
    # pinned is there since building gpu needs it; nothing of lib but its overlay is
    assert there == {"fork", "gpu", "lib", "model", "nested", "prebuilt", "sourced"}
    assert sorted(path.name for path in (bundle / "wheelhouse" / "index").iterdir()) == [
        "generator-1.0-py3-none-any.whl",
        "wheel-0.45-py3-none-any.whl",
    ]
    before = tree_hash(bundle)
    assert not run_module("rlinf_target_lock", arguments, check=True)["changed"]
    assert not run_module("rlinf_target_lock", arguments)["changed"]
    assert tree_hash(bundle) == before
    # with the bundle as the only source, what is missing is brought
    carried = {**arguments, "package_source": "bundle"}
    assert run_module("rlinf_target_lock", carried, check=True)["results"][0]["state"] == "incomplete"
    second = run_module("rlinf_target_lock", carried)
    assert second["changed"] and second["results"][0]["left_to_index"] == 0
    assert tree_hash(bundle / "wheelhouse") == tree_hash(locked.world.bundle / "wheelhouse")


def test_an_overlays_base_is_not_carried(locked: Locked):
    lib = packages(locked.folder(locked.world.bundle))["lib"]
    assert lib["kind"] == "overlay" and lib["path"].startswith("wheelhouse/overlay/")
    assert not list((locked.world.bundle / "wheelhouse" / "index").glob("lib-*"))


# -- pins that ship ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pins(locked: Locked, tmp_path: Path) -> Path:
    """A folder of pins as the collection has one."""
    lock = read_json(locked.folder(locked.world.bundle) / "lock.json")
    write_json(tmp_path / "full.json", Shipped.of_lock(lock, {"generator": "1.0", "wheel": "0.45"}).json)
    return tmp_path


def test_pins_give_the_same_lock_where_the_index_knows_no_upload_times(
    locked: Locked, arguments: Arguments, bundle: Path, pins: Path, run_module: Run
):
    with Upstream(locked.world.root, upload_times=False) as mirror:
        arguments |= {"index_url": f"{mirror.url}/simple/", "targets": ["full"], "update": ["full"]}
        with pytest.raises(ModuleFailed) as failed:
            run_module("rlinf_target_lock", arguments)
        assert f"the index {mirror.url}/simple/ does not say when files were uploaded (PEP 700)" in failed.value.result["msg"]
        assert "no pins of it ship with the collection. Set rlinf_index_url to an index that does" in failed.value.result["msg"]
        # whatever uv remembers comes from the index that does know them
        shutil.rmtree(bundle / ".cache")
        run_module("rlinf_target_lock", {**arguments, "pins_dir": str(pins)})
    for name in ("pylock.full.toml", "pins.txt"):
        assert (locked.folder(bundle) / name).read_bytes() == (locked.folder(locked.world.bundle) / name).read_bytes()
    assert read_json(locked.folder(bundle) / "lock.json")["build"][0]["version"] == "1.0"


def test_pins_change_nothing_where_the_index_knows_upload_times(
    locked: Locked, arguments: Arguments, bundle: Path, pins: Path, run_module: Run, tree_hash: Any
):
    result = run_module("rlinf_target_lock", {**arguments, "pins_dir": str(pins), "update": ["full"]})
    assert not result["changed"] and result["results"][0]["reason"] == "resolved again, the same"
    assert tree_hash(locked.folder(bundle)) == tree_hash(locked.folder(locked.world.bundle))


def test_pins_of_another_entry_do_not_count(locked: Locked, arguments: Arguments, pins: Path, run_module: Run):
    arguments["catalog"]["targets"]["full"]["steps"].append({"requirements": ["extra"]})
    with (
        Upstream(locked.world.root, upload_times=False) as mirror,
        pytest.raises(ModuleFailed, match="of another state of the target's entry"),
    ):
        index = f"{mirror.url}/simple/"
        run_module("rlinf_target_lock", {**arguments, "pins_dir": str(pins), "index_url": index, "targets": ["full"], "update": ["full"]})


def test_pins_hold_step_by_step():
    lock = {
        "definition": "d",
        "python": "3.11",
        "platform": "p",
        "torch_backend": "pypi",
        "cut_off": CUT_OFF,
        "files": {},
        "packages": [{"name": "a", "source": {"sha256": "0" * 64}}, {"name": "g", "source": {"url": "https://github.com/o/g"}}],
        "steps": [
            {"name": "uv_sync", "pins": {"a": "1", "b": "1", "c": "1"}},
            {"name": "requirements x", "pins": {"a": "2", "b": "git+https://github.com/o/b@0", "w": "wheels/w-1.whl"}},
            {"name": "uninstall c", "pins": {"c": ""}},
        ],
    }
    shipped = Shipped.of_lock(lock)
    assert shipped.sha256 == {"a": "0" * 64}
    first, second, left_out, last = shipped.constraints(["uv_sync", "requirements x", "wheels w", "uninstall c"])
    assert first == ("a==1", "b==1", "c==1")
    # from here on a commit's b: an index's version must not hold it
    assert second == left_out == ("a==2", "c==1")
    assert last == ("a==2",)


@pytest.mark.parametrize("text", ["{", "[]", '{"definition": "x"}'])
def test_damaged_pins_are_named(tmp_path: Path, text: str):
    (tmp_path / "full.json").write_text(text)
    with pytest.raises(LockError, match=r"full\.json"):
        Shipped.read(tmp_path / "full.json")


# -- forks -------------------------------------------------------------------------------------------------------------------------------


def test_a_fork_stays_where_a_later_step_is_content_with_it(locked: Locked):
    assert packages(locked.folder(locked.world.bundle))["fork"]["kind"] == "git", (
        "wants-fork takes 4.41 of the index where there is nothing"
    )
    assert packages(locked.folder(locked.world.bundle, "small"))["fork"]["version"] == "4.41"


def test_a_commit_that_no_branch_holds_is_mirrored_when_it_is_asked_for(
    arguments: Arguments, locked: Locked, bundle: Path, run_module: Run
):
    place = locked.world.git / "o/fork.git"
    lonely = git("commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "a pull request", cwd=place)
    git("update-ref", "refs/pull/1/head", lonely, cwd=place)
    steps = [{"requirements": [f"fork @ git+https://github.com/o/fork.git@{lonely}"]}]
    arguments["catalog"]["targets"]["lonely"] = {**arguments["catalog"]["targets"]["small"], "steps": steps}
    run_module("rlinf_target_lock", {**arguments, "targets": ["lonely"]})
    assert packages(locked.folder(bundle, "lonely"))["fork"]["source"]["commit"] == lonely
    assert git("rev-parse", f"refs/rlinf/frozen/{lonely}", cwd=bundle / "repos/github.com/o/fork.git") == lonely


def test_a_fork_goes_where_a_later_step_wants_another_version(arguments: Arguments, bundle: Path, locked: Locked, run_module: Run):
    arguments["catalog"]["targets"]["moved"] = {
        **arguments["catalog"]["targets"]["small"],
        "steps": [{"requirements": ["fork @ git+https://github.com/o/fork.git"]}, {"requirements": ["wants-fork", "fork>4.40.1"]}],
    }
    run_module("rlinf_target_lock", {**arguments, "targets": ["moved"]})
    fork = packages(locked.folder(bundle, "moved"))["fork"]
    assert (fork["kind"], fork["version"]) == ("index", "4.41")


# -- targets beside one another ----------------------------------------------------------------------------------------------------------


def test_another_target_leaves_locks_and_files_of_the_others_alone(
    locked: Locked, arguments: Arguments, bundle: Path, run_module: Run, tree_hash: Any
):
    arguments["catalog"]["targets"]["third"] = {
        **arguments["catalog"]["targets"]["small"],
        "cut_off": "",
        "steps": [{"requirements": ["base", "sourced", "generator", "fork @ git+https://github.com/o/fork.git", "gpu==2.1"]}],
        "metadata": [{"name": "gpu", "version": "2.1", "requires_dist": []}],
        "build_on_node": {"gpu": {}},
    }
    before = tree_hash(bundle, mtimes=True)
    result = run_module("rlinf_target_lock", {**arguments, "targets": ["full", "small", "third"]})
    assert [item["changed"] for item in result["results"]] == [False, False, True]
    after = tree_hash(bundle, mtimes=True)
    kept = ("targets/", "wheelhouse/", "wheels/", "repos/")
    assert {path: after.get(path) for path in before if path.startswith(kept)} == {
        path: value for path, value in before.items() if path.startswith(kept)
    }
    assert packages(locked.folder(bundle, "third"))["base"]["version"] == "2.0"


# -- what is not resolved ----------------------------------------------------------------------------------------------------------------


def test_what_decides_nothing_about_packages_is_written_anew_without_resolving(
    arguments: Arguments, bundle: Path, locked: Locked, run_module: Run, tree_hash: Any
):
    # nothing can be asked
    arguments |= {"index_url": "http://127.0.0.1:9/simple/", "url_rewrites": {}, "uv": "/nonexistent"}
    catalog = arguments["catalog"]
    full = catalog["targets"]["full"]
    full |= {"exports": {"A": "1"}, "links": {".x": "{assets}/x"}, "imports": ["base"], "licences": {"rlinf_accept": "something"}}
    assert not run_module("rlinf_target_lock", arguments)["changed"]
    before = tree_hash(bundle)
    catalog["assets"] = {"thing": {"url": "https://example.invalid/thing", "dest": "thing"}}
    full |= {"assets": ["thing"], "build_on_node": {"gpu": {"needs": ["nvcc", "ninja"]}}}
    planned = run_module("rlinf_target_lock", arguments, check=True)["results"][0]
    assert (planned["changed"], planned["state"]) == (True, "locked") and tree_hash(bundle) == before
    result = run_module("rlinf_target_lock", arguments)["results"][0]
    assert result["reason"] == "written again, the packages are the same"
    lock = read_json(locked.folder(bundle) / "lock.json")
    assert "assets/thing" in lock["closure"] and lock["build_on_node"]["gpu"]["needs"] == ["nvcc", "ninja"]
    assert not run_module("rlinf_target_lock", arguments)["changed"]
    left = {**arguments, "leave_out": ["thing"]}
    assert (
        run_module("rlinf_target_lock", left)["changed"] and "assets/thing" not in read_json(locked.folder(bundle) / "lock.json")["closure"]
    )


@pytest.mark.parametrize("name", ["pylock.full.toml", "pins.txt"])
def test_a_lock_whose_writing_was_cut_off_is_made_whole_without_resolving(
    arguments: Arguments, bundle: Path, locked: Locked, run_module: Run, tree_hash: Any, name: str
):
    arguments |= {"index_url": "http://127.0.0.1:9/simple/", "uv": "/nonexistent"}
    # as after a kill between the files of another lock
    (locked.folder(bundle) / name).write_text("of another lock\n")
    assert run_module("rlinf_target_lock", arguments, check=True)["results"][0]["changed"]
    assert run_module("rlinf_target_lock", arguments)["changed"]
    assert tree_hash(locked.folder(bundle)) == tree_hash(locked.folder(locked.world.bundle))
    assert not run_module("rlinf_target_lock", arguments)["changed"]


def test_each_thing_that_keeps_a_lock_from_standing_is_named(arguments: Arguments, run_module: Run):
    changed = {**arguments, "leave_out": ["prebuilt"], "platform": "x86_64-manylinux_2_31", "torch_backend": "cu121", "targets": ["full"]}
    with pytest.raises(
        ModuleFailed, match="target full is locked, and rlinf_platform and rlinf_torch_backend and rlinf_leave_out have changed since"
    ):
        run_module("rlinf_target_lock", changed)
