# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Worktrees, assets, links, files and exports of a target, by the module's real main() with real repositories."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.rlinf.offline.plugins.module_utils import _bundle, _worktrees
from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Catalog
from ansible_collections.rlinf.offline.plugins.module_utils._errors import TargetError
from ansible_collections.rlinf.offline.plugins.module_utils._files import json_bytes
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle, Node
from ansible_collections.rlinf.offline.plugins.module_utils._target import Placeholders, Wanted, put_in_place
from tests.support.environments import PYTHON, Site
from tests.support.kills import killed_at
from tests.support.origins import git
from tests.support.wheels import build_wheel
from tests.unit.conftest import ModuleFailed

Run = Callable[..., dict[str, Any]]
Hash = Callable[..., dict[str, tuple[str, ...]]]

REPOSITORIES = {"RLinf": "RLinf/RLinf", "LIBERO": "RLinf/LIBERO"}
FILES: dict[str, dict[str, str]] = {
    "RLinf": {
        "pyproject.toml": "[project]\nname = 'rlinf'\n",
        "requirements/embodied/envs/maniskill.txt": "six\n",
        ".gitignore": "results/\n",
    },
    "LIBERO": {"libero/libero/__init__.py": "", "pyproject.toml": "[project]\nname = 'libero'\n"},
}
PHYSX = ".sapien/physx/105.1"


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@dataclass
class World:
    """A bundle with real mirrors, a node's prefix and a home."""

    root: Path
    commits: dict[str, str] = field(default_factory=dict)
    catalog: dict[str, Any] = field(default_factory=dict)

    @property
    def bundle(self) -> Bundle:
        return Bundle(self.root / "bundle")

    @property
    def prefix(self) -> Path:
        return self.root / "prefix"

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def args(self) -> dict[str, Any]:
        paths = {"bundle_dir": str(self.bundle.root), "prefix": str(self.prefix), "home": str(self.home)}
        return {**paths, "catalog": self.catalog, "target": "openvla"}

    @property
    def target(self) -> dict[str, Any]:
        found: dict[str, Any] = self.catalog["targets"]["openvla"]
        return found

    def mirror(self, name: str) -> Path:
        return self.bundle.repos / "github.com" / f"{REPOSITORIES[name]}.git"

    def commit(self, name: str, files: dict[str, str | None]) -> str:
        """Commit to the origin of a repository (None: remove) and freeze the mirror at it."""
        origin = self.root / "origin" / name
        if not origin.exists():
            origin.mkdir(parents=True)
            git("init", "-q", "-b", "trunk", cwd=origin)
        for path, text in files.items():
            if text is None:
                (origin / path).unlink()
            else:
                write(origin / path, text)
        git("add", "-A", cwd=origin)
        git("commit", "-q", "-m", "work", cwd=origin)
        self.commits[name] = git("rev-parse", "HEAD", cwd=origin)
        shutil.rmtree(self.mirror(name), ignore_errors=True)
        self.mirror(name).parent.mkdir(parents=True, exist_ok=True)
        git("clone", "-q", "--bare", origin, self.mirror(name), cwd=self.root)
        git("update-ref", "--no-deref", "HEAD", self.commits[name], cwd=self.mirror(name))
        return self.commits[name]

    def seal(self) -> None:
        """Write the records, the lock for the project's commit, and the manifest."""
        records = {
            f"github.com/{place}.git": {
                "url": f"https://github.com/{place}.git", "version": None, "commit": self.commits[name], "default_branch": "trunk", "cut_off": None
            }
            for name, place in REPOSITORIES.items()
        }  # fmt: skip
        write(self.bundle.records / "repositories.json", json_bytes(records))
        project = self.root / "origin" / "RLinf"
        files = [path for path in ("pyproject.toml", "requirements/embodied/envs/maniskill.txt") if (project / path).exists()]
        lock = {
            "target": "openvla",
            "python": "3.11",
            "project": {"repository": "RLinf", "commit": self.commits["RLinf"]},
            "files": {path: hashlib.sha256((project / path).read_bytes()).hexdigest() for path in files},
            "editables": [
                {"repository": "RLinf", "package": "rlinf", "subdirectory": None},
                {"repository": "LIBERO", "package": "libero", "subdirectory": None},
            ],
            "closure": [],
            "packages": [],
        }
        folder = self.bundle.target(self.commits["RLinf"], "openvla")
        write(folder / "lock.json", json_bytes(lock))
        write(folder / "pylock.openvla.toml", "")
        _bundle.seal(self.bundle)

    @property
    def tree(self) -> Path:
        return self.prefix / "src" / "RLinf"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The world as it is made once; every test has a copy."""
    world = World(tmp_path_factory.mktemp("world"))
    for name, files in FILES.items():
        world.commit(name, dict(files))
    write(world.bundle.assets / PHYSX / "libphysx.so", b"\x7fELF")
    (world.bundle.assets / PHYSX / "libphysx.so.1").symlink_to("libphysx.so")
    write(world.bundle.assets / ".cache" / "openpi" / "tokenizer.model", b"tokens")
    world.catalog = {
        "repositories": {name: {"url": f"https://github.com/{place}.git"} for name, place in REPOSITORIES.items()},
        "assets": {
            "physx": {"url": "https://example.org/physx.zip", "dest": PHYSX, "unpack": True},
            "tokenizer": {"url": "https://example.org/tokenizer.model", "dest": ".cache/openpi/tokenizer.model"},
        },
        "targets": {
            "openvla": {
                "project": "RLinf",
                "python": "3.11",
                "steps": [{"uv_sync": []}, {"editable": "LIBERO"}],
                "assets": ["physx", "tokenizer"],
                "exports": {"MS_ASSET_DIR": "{assets}/.maniskill", "PYTHONPATH": {"prepend": "{repo[LIBERO]}"}, "PLAIN": "$HOME {} {"},
                "files": {"{state}/libero/config.yaml": "root: {repo[LIBERO]}/libero\n"},
                "links": {".sapien": "{assets}/.sapien", ".cache/openpi": "{assets}/.cache/openpi"},
            }
        },
    }
    world.seal()
    (world.root / "home").mkdir()
    return world


@pytest.fixture
def world(built: World, tmp_path: Path) -> World:
    shutil.copytree(built.root, tmp_path / "world", symlinks=True)
    return World(tmp_path / "world", dict(built.commits), copy.deepcopy(built.catalog))


def items(result: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    """Return state and changed of every item of a result, by kind and last part of its path."""
    return {f"{item['kind']} {Path(item['path']).name}": (item["state"], item["changed"]) for item in result["results"]}


# -- everything at once --------------------------------------------------------------------------------------------------------


def test_quad(world: World, run_module: Run, tree_hash: Hash) -> None:
    before = tree_hash(world.root, mtimes=True)
    foreseen = run_module("rlinf_target", world.args, check=True, diff=True)
    assert tree_hash(world.root, mtimes=True) == before
    done = run_module("rlinf_target", world.args, diff=True)
    assert foreseen["changed"] and done["changed"]
    assert items(foreseen) == items(done) and foreseen["diff"] == done["diff"]
    for name in ("exports", "editables", "lock", "commit", "worktrees", "sources"):
        assert foreseen[name] == done[name]
    bundle_before = {path: value for path, value in before.items() if path.startswith("bundle/")}
    after = tree_hash(world.root, mtimes=True)
    assert {path: value for path, value in after.items() if path.startswith("bundle/")} == bundle_before
    assert not run_module("rlinf_target", world.args, check=True)["changed"]
    again = run_module("rlinf_target", world.args, diff=True)
    assert not again["changed"] and not any(changed for _state, changed in items(again).values())
    assert again["diff"] == {"before": "", "after": ""}
    lock = "prefix/state/targets/.lock"
    final = tree_hash(world.root, mtimes=True)
    assert {**final, lock: ""} == {**after, lock: ""}


@pytest.fixture
def whole(world: World, run_module: Run) -> Callable[..., dict[str, Any]]:
    """Call rlinf_venv so that it puts the target in place, and installs its environment of one wheel."""
    site = Site(world.bundle.root, world.prefix, run_module)
    lock = site.lock(build_wheel(site.index, "alpha", "1.0"))
    folder = world.bundle.target(world.commits["RLinf"], "openvla")
    shutil.move(lock, folder / lock.name)
    said = json.loads((folder / "lock.json").read_text())
    write(folder / "lock.json", json_bytes({**said, "python": PYTHON, "editables": []}))
    world.target["imports"] = ["alpha"]
    _bundle.seal(world.bundle)

    def call(check: bool = False, **more: Any) -> dict[str, Any]:
        return run_module("rlinf_venv", {**world.args, "python": sys.executable, **more}, check=check, diff=True)

    return call


def test_quad_with_the_environment(world: World, whole: Callable[..., dict[str, Any]], tree_hash: Hash) -> None:
    before = tree_hash(world.root)
    would = whole(check=True)
    assert would["changed"] and tree_hash(world.root) == before
    assert [name for name, (_state, changed) in items(would["placed"]).items() if changed]

    did = whole(exports={"PLAIN": "mine"}, verify=True)
    assert did["changed"] and did["placed"]["changed"] and did["verified"] == 1
    assert would["placed"]["lock"] == did["placed"]["lock"] and (world.prefix / "venvs" / "openvla" / "bin" / "python").exists()
    assert len(did["diff"]) == 2 and f"worktree {world.tree}" in did["diff"][0]["after"] and "alpha" in did["diff"][1]["after"]
    activate = (world.prefix / "venvs" / "openvla" / "bin" / "activate").read_text()
    assert "PLAIN=mine" in activate and str(world.prefix / "assets") in activate
    assert os.readlink(world.tree / ".venv") == str(world.prefix / "venvs" / "openvla")

    after = tree_hash(world.root)
    for check in (True, False):
        again = whole(exports={"PLAIN": "mine"}, verify=True, check=check)
        assert not again["changed"] and not again["placed"]["changed"] and again["verified"] == 1, again["reason"]
    assert whole(state="verified")["verified"] == 1
    assert tree_hash(world.root) == after


def test_verifying_what_is_not_in_place_says_so(world: World, whole: Callable[..., dict[str, Any]], tree_hash: Hash) -> None:
    whole()
    (world.home / ".sapien").unlink()
    before = tree_hash(world.root)
    with pytest.raises(ModuleFailed, match=rf"openvla is not in place: {world.home}/.sapien. Run the playbook rlinf.offline.install"):
        whole(state="verified")
    said = whole(state="verified", check=True)
    assert not said["changed"] and f"{world.home}/.sapien" in said["reason"]
    assert tree_hash(world.root) == before


def test_an_environment_that_cannot_be_made_leaves_the_target_in_place(world: World, whole: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ModuleFailed, match="nowhere"):
        whole(python="/nowhere/python3.11")
    assert world.tree.is_dir() and not (world.prefix / "venvs" / "openvla").exists()
    assert whole()["changed"]


def test_what_is_there_afterwards(world: World, run_module: Run) -> None:
    result = run_module("rlinf_target", world.args)
    libero = world.prefix / "src" / "LIBERO"
    assert git("rev-parse", "HEAD", cwd=world.tree) == world.commits["RLinf"] == result["commit"]
    assert git("remote", "get-url", "origin", cwd=world.tree) == "https://github.com/RLinf/RLinf.git"
    assert git("status", "--porcelain", cwd=world.tree) == ""
    assets = world.prefix / "assets"
    assert (assets / PHYSX / "libphysx.so").read_bytes() == b"\x7fELF" and os.readlink(assets / PHYSX / "libphysx.so.1") == "libphysx.so"
    assert os.readlink(world.home / ".sapien") == str(assets / ".sapien")
    assert (world.home / ".cache" / "openpi" / "tokenizer.model").read_bytes() == b"tokens"
    assert (world.prefix / "state" / "libero" / "config.yaml").read_text() == f"root: {libero}/libero\n"
    assert result["exports"] == {"MS_ASSET_DIR": f"{assets}/.maniskill", "PYTHONPATH": {"prepend": str(libero)}, "PLAIN": "$HOME {} {"}
    assert result["editables"] == [{"package": "rlinf", "path": str(world.tree)}, {"package": "libero", "path": str(libero)}]
    assert result["lock"] == str(world.bundle.target(world.commits["RLinf"], "openvla") / "pylock.openvla.toml")
    assert (result["project_dir"], result["sources"]) == (str(world.tree), {"bundle": 4, "existing": 0, "remote": 0})


def test_an_asset_that_was_damaged_in_the_bundle_is_not_put_in_place(world: World, run_module: Run) -> None:
    """Its size and times are as they were sealed: only reading what was copied tells."""
    library = world.bundle.assets / PHYSX / "libphysx.so"
    status = library.stat()
    library.write_bytes(b"\x7fELG")
    os.utime(library, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(ModuleFailed, match=r"libphysx\.so is not what was sealed.*rlinf_scrub=true"):
        run_module("rlinf_target", world.args)
    assert not os.path.lexists(world.prefix / "assets" / PHYSX)


def test_references_are_led_to_the_bundle_and_said(world: World, run_module: Run) -> None:
    """Only those of the files that the target is installed from; another target's are its own business."""
    listed = "requirements/embodied/envs/maniskill.txt"
    world.commit(
        "RLinf",
        {listed: "libero @ git+https://github.com/RLinf/LIBERO.git\n", "requirements/other.txt": "x @ git+https://github.com/o/n.git\n"},
    )
    world.seal()
    world.target["steps"].append({"requirements": [listed]})
    result = run_module("rlinf_target", world.args)
    assert [message["text"] for message in result["messages"]] == [
        f"[local-deps] using local repo LIBERO -> {world.mirror('LIBERO')} in {listed}"
    ]
    world.target["steps"].append({"requirements": ["requirements/other.txt"]})
    with pytest.raises(ModuleFailed, match=r"the bundle has no copy of requirements/other\.txt:1: git\+https://github.com/o/n\.git"):
        run_module("rlinf_target", world.args)
    result = run_module("rlinf_target", {**world.args, "strict": False})
    assert not result["changed"] and result["sources"]["remote"] == 1
    assert [item["name"] for item in result["results"] if item["state"] == "remote fallback"] == ["git+https://github.com/o/n.git"]


def with_script(world: World) -> dict[str, Any]:
    """Let the target run a script in LIBERO, of which two projects are installed editable; return the script as it comes out."""
    world.target["steps"] += [
        {
            "script": "LIBERO",
            "run": ["./setup.sh", "--into={venv}", "--wheels", "{wheels}", "{repo[RLinf]}", "{bundle}/x"],
            "env": {"HOW": "{assets}:{state}:{prefix}:$HOME"},
            "installs": [{"editable": "LIBERO", "subdirectory": "tools/sub"}],
            "removes": ["a/**/b"],
        }
    ]
    folder = world.bundle.target(world.commits["RLinf"], "openvla")
    lock = json.loads((folder / "lock.json").read_text())
    lock["editables"] += [{"repository": "LIBERO", "package": "sub", "subdirectory": "tools/sub"}]
    write(folder / "lock.json", json_bytes(lock))
    _bundle.seal(world.bundle)
    bundle, prefix = world.bundle.root, world.prefix
    argv = ["./setup.sh", "--into={venv}", "--wheels", f"{bundle}/wheels", str(world.tree), f"{bundle}/x"]
    env = {"HOW": f"{prefix}/assets:{prefix}/state:{prefix}:$HOME"}
    return {"name": "LIBERO", "cwd": str(prefix / "src" / "LIBERO"), "argv": argv, "env": env, "removes": ["a/**/b"]}


def test_scripts_and_editables_in_folders(world: World, run_module: Run, tmp_path: Path) -> None:
    script, libero = with_script(world), world.prefix / "src" / "LIBERO"
    result = run_module("rlinf_target", world.args)
    assert result["scripts"] == [script]
    editables = {item["package"]: item["path"] for item in result["editables"]}
    assert editables == {"rlinf": str(world.tree), "libero": str(libero), "sub": str(libero / "tools" / "sub")}
    # a checkout of the user's is used for both
    shutil.copytree(libero, tmp_path / "mine", symlinks=True)
    result = run_module("rlinf_target", {**world.args, "repo_paths": {"LIBERO": str(tmp_path / "mine")}})
    assert result["scripts"] == [{**script, "cwd": str(tmp_path / "mine")}]
    assert {"package": "sub", "path": str(tmp_path / "mine" / "tools" / "sub")} in result["editables"]
    world.target["steps"][-1]["run"] = ["./setup.sh", "{nowhere}"]
    with pytest.raises(ModuleFailed, match=r"script LIBERO: \{nowhere\} is no placeholder\. There are .*\{venv\}"):
        run_module("rlinf_target", world.args)


def test_what_a_script_writes_into_our_worktree_is_no_drift(world: World, run_module: Run) -> None:
    with_script(world)
    libero = world.prefix / "src" / "LIBERO"
    file = libero / "libero" / "libero" / "__init__.py"
    run_module("rlinf_target", world.args)
    _worktrees.begin_script(libero)
    write(file, "# by the script\n")
    write(libero / "libero.egg-info" / "PKG-INFO", "Name: libero\n")
    _worktrees.end_script(libero)
    assert not run_module("rlinf_target", world.args)["changed"]
    # the next commit takes it away, and nobody's work with it
    world.commit("LIBERO", {"libero/libero/__init__.py": "version = '2'\n"})
    world.seal()
    assert run_module("rlinf_target", world.args)["changed"]
    assert "version = '2'" in file.read_text() and (libero / "libero.egg-info").is_dir()
    # what the user edits besides is work
    _worktrees.begin_script(libero)
    write(file, "# by the script\n")
    _worktrees.end_script(libero)
    write(file, "# and by me\n")
    with pytest.raises(ModuleFailed, match=r"has libero/libero/__init__\.py edited"):
        run_module("rlinf_target", world.args)
    run_module("rlinf_target", {**world.args, "state": "reset"})
    assert not (libero / _worktrees.SCRIPTED).exists() and not run_module("rlinf_target", world.args)["changed"]


def test_before_the_push_check_mode_goes_on(world: World, run_module: Run) -> None:
    result = run_module("rlinf_target", {**world.args, "bundle_dir": str(world.root / "nothing")}, check=True)
    assert (
        result["changed"]
        and result["after_push"]
        and result["project_dir"] == str(world.tree)
        and result["lock"].startswith(str(world.root))
    )
    with pytest.raises(ModuleFailed, match=r"rlinf\.offline\.download"):
        run_module("rlinf_target", {**world.args, "bundle_dir": str(world.root / "nothing")})


def test_everything_wrong_is_named_before_anything_changes(world: World, run_module: Run, tree_hash: Hash) -> None:
    write(world.prefix / "src" / "LIBERO" / "mine", "mine")
    shutil.rmtree(world.bundle.assets / PHYSX)
    world.seal()
    world.target["exports"]["BAD"] = "{nonsense}"
    world.target["files"]["/etc/passwd"] = ""
    before = tree_hash(world.root)
    with pytest.raises(ModuleFailed) as failure:
        run_module("rlinf_target", world.args)
    assert "src/LIBERO is in the way" in str(failure.value)
    shutil.rmtree(world.prefix)
    with pytest.raises(ModuleFailed) as failure:
        run_module("rlinf_target", world.args, check=True)
    for said in (
        f"the bundle has no assets/{PHYSX}",
        "{nonsense} is no placeholder. There are {src}",
        "{repo[LIBERO]}",
        "file /etc/passwd: files of a target lie under",
    ):
        assert said in str(failure.value)
    assert {path: value for path, value in before.items() if not path.startswith("prefix")} == tree_hash(world.root)


# -- worktrees -----------------------------------------------------------------------------------------------------------------


def test_the_users_checkouts_are_only_read(world: World, run_module: Run, tree_hash: Hash) -> None:
    git("clone", "-q", world.mirror("RLinf"), world.root / "mine", cwd=world.root)
    write(world.root / "mine" / "notes.txt", "my own")
    write(world.root / "libero" / "libero" / "__init__.py", "no repository at all")
    before = {name: tree_hash(world.root / name, mtimes=True) for name in ("mine", "libero")}
    args = {**world.args, "project_dir": str(world.root / "mine"), "repo_paths": {"LIBERO": str(world.root / "libero")}}
    result = run_module("rlinf_target", args)
    assert {name: tree_hash(world.root / name, mtimes=True) for name in before} == before
    assert items(result)["worktree mine"] == items(result)["worktree libero"] == ("existing", False)
    assert not (world.prefix / "src").exists()
    assert result["exports"]["PYTHONPATH"] == {"prepend": str(world.root / "libero")}
    assert result["sources"]["existing"] == 2
    assert not run_module("rlinf_target", args)["changed"]


def test_a_checkout_that_is_not_there_is_named(world: World, run_module: Run) -> None:
    with pytest.raises(ModuleFailed, match=r"/nowhere, which is given as the checkout of LIBERO, is not there"):
        run_module("rlinf_target", {**world.args, "repo_paths": {"LIBERO": "/nowhere"}})


def test_drift_is_named(world: World, run_module: Run) -> None:
    git("clone", "-q", world.mirror("RLinf"), world.root / "mine", cwd=world.root)
    write(world.root / "mine" / "requirements" / "embodied" / "envs" / "maniskill.txt", "seven\n")
    (world.root / "mine" / "pyproject.toml").unlink()
    args = {**world.args, "project_dir": str(world.root / "mine")}
    with pytest.raises(ModuleFailed, match=r"locked from: pyproject.toml, requirements/embodied/envs/maniskill.txt.*rlinf_allow_drift"):
        run_module("rlinf_target", args)
    result = run_module("rlinf_target", {**args, "allow_drift": True})
    assert result["drift"] == ["pyproject.toml", "requirements/embodied/envs/maniskill.txt"] and "locked from" in str(result["warnings"])


def test_a_checkout_at_another_commit_has_its_own_lock(world: World, run_module: Run) -> None:
    """Versions lie side by side: the lock of the checkout's own commit is taken before that of the bundle's frozen one."""
    first = world.commits["RLinf"]
    git("clone", "-q", world.mirror("RLinf"), world.root / "mine", cwd=world.root)
    world.commit("RLinf", {"requirements/embodied/envs/maniskill.txt": "seven\n"})
    world.seal()
    result = run_module("rlinf_target", {**world.args, "project_dir": str(world.root / "mine")})
    assert result["commit"] == first and first in result["lock"]
    assert run_module("rlinf_target", world.args)["commit"] == world.commits["RLinf"]


def test_a_commit_without_a_lock_is_named(world: World, run_module: Run) -> None:
    first = world.commits["RLinf"]
    second = world.commit("RLinf", {"new": ""})
    world.seal()
    shutil.rmtree(world.bundle.targets / second)
    _bundle.seal(world.bundle)
    with pytest.raises(ModuleFailed, match=rf"no lock of openvla for RLinf at {second[:12]}; it has openvla at {first[:12]}.*rlinf_update"):
        run_module("rlinf_target", world.args)


def test_a_clean_worktree_moves_and_keeps_what_git_does_not_know(world: World, run_module: Run) -> None:
    run_module("rlinf_target", world.args)
    write(world.tree / "results" / "run1", "of a week's training")
    write(world.tree / "added.txt", "mine")
    world.commit("RLinf", {"new.txt": "new", "pyproject.toml": "[project]\nname = 'rlinf'\nversion = '2'\n"})
    world.seal()
    foreseen = run_module("rlinf_target", world.args, check=True)
    done = run_module("rlinf_target", world.args, diff=True)
    assert items(foreseen) == items(done) and items(done)["worktree RLinf"] == ("present", True)
    assert git("rev-parse", "HEAD", cwd=world.tree) == world.commits["RLinf"] and (world.tree / "new.txt").read_text() == "new"
    assert (world.tree / "results" / "run1").exists() and (world.tree / "added.txt").read_text() == "mine"
    assert f"worktree {world.tree}: {world.commits['RLinf']}" in done["diff"]["after"]
    assert not run_module("rlinf_target", world.args)["changed"]


def test_a_file_that_would_be_overwritten_stops_the_move(world: World, run_module: Run) -> None:
    run_module("rlinf_target", world.args)
    before = git("rev-parse", "HEAD", cwd=world.tree)
    write(world.tree / "new.txt", "mine")
    world.commit("RLinf", {"new.txt": "upstream's"})
    world.seal()
    for _attempt in range(2):
        with pytest.raises(ModuleFailed, match=r"new\.txt"):
            run_module("rlinf_target", world.args)
        assert (world.tree / "new.txt").read_text() == "mine" and git("rev-parse", "HEAD", cwd=world.tree) == before


def test_an_edited_worktree_is_refused_and_named(world: World, run_module: Run) -> None:
    run_module("rlinf_target", world.args)
    write(world.tree / "pyproject.toml", "# edited")
    with pytest.raises(ModuleFailed, match=r"has pyproject.toml edited.*rlinf\.offline\.restore.*rlinf_repo_paths"):
        run_module("rlinf_target", world.args)
    result = run_module("rlinf_target", {**world.args, "allow_drift": True})
    assert items(result)["worktree RLinf"] == ("edited", False) and result["drift"] == ["pyproject.toml"]
    world.commit("RLinf", {"new.txt": "new"})
    world.seal()
    with pytest.raises(ModuleFailed, match=r"has pyproject.toml edited, and would have to be at"):
        run_module("rlinf_target", {**world.args, "allow_drift": True})
    assert (world.tree / "pyproject.toml").read_text() == "# edited"


def test_commits_of_the_users_in_our_worktree_are_not_lost(world: World, run_module: Run) -> None:
    run_module("rlinf_target", world.args)
    write(world.tree / "work.py", "work")
    git("add", "-A", cwd=world.tree)
    git("commit", "-q", "-m", "my work", cwd=world.tree)
    with pytest.raises(ModuleFailed, match=r"was put at .* by someone"):
        run_module("rlinf_target", world.args)
    assert items(run_module("rlinf_target", {**world.args, "allow_drift": True}))["worktree RLinf"] == ("edited", False)


def test_a_clone_of_somebody_elses_is_not_taken_for_ours(world: World, run_module: Run, tree_hash: Hash) -> None:
    world.tree.parent.mkdir(parents=True)
    git("clone", "-q", world.mirror("RLinf"), world.tree, cwd=world.root)
    before = tree_hash(world.tree, mtimes=True)
    with pytest.raises(ModuleFailed, match="was not made from the bundle"):
        run_module("rlinf_target", world.args)
    assert not run_module("rlinf_target", {**world.args, "state": "reset"})["changed"]
    assert tree_hash(world.tree, mtimes=True) == before


# -- assets --------------------------------------------------------------------------------------------------------------------


def test_a_damaged_asset_is_copied_again(world: World, run_module: Run) -> None:
    run_module("rlinf_target", world.args)
    asset = world.prefix / "assets" / PHYSX / "libphysx.so"
    asset.write_bytes(b"\x7fBAD")
    result = run_module("rlinf_target", world.args)
    assert items(result)["asset 105.1"] == ("present", True) and asset.read_bytes() == b"\x7fELF"
    os.utime(asset, ns=(1, 1))
    assert not run_module("rlinf_target", world.args)["changed"]


def test_only_what_the_manifest_lists_of_an_asset_is_copied(world: World, run_module: Run) -> None:
    """Whatever else lies in its folder, by the name of a directory that is listed or of none."""
    write(world.bundle.assets / PHYSX / "deep" / "listed.txt", "listed")
    world.seal()
    for name in ("planted.py", "deep/planted.py", "planted/deep/planted.py"):
        write(world.bundle.assets / PHYSX / name, "raise SystemExit")
    (world.bundle.assets / PHYSX / "planted.so").symlink_to("libphysx.so")
    run_module("rlinf_target", world.args)
    asset = world.prefix / "assets" / PHYSX
    assert sorted(str(path.relative_to(asset)) for path in asset.rglob("*")) == ["deep", "deep/listed.txt", "libphysx.so", "libphysx.so.1"]
    assert not run_module("rlinf_target", world.args)["changed"]


def test_assets_in_a_directory_of_the_users(world: World, run_module: Run) -> None:
    args = {**world.args, "assets_dir": str(world.root / "shared")}
    write(world.root / "shared" / PHYSX / "libphysx.so", "the user's")
    with pytest.raises(ModuleFailed, match=r"was not made from the bundle, and 2 files differ.*rlinf_assets_dir"):
        run_module("rlinf_target", args)
    shutil.rmtree(world.root / "shared")
    run_module("rlinf_target", args)
    assert os.readlink(world.home / ".sapien") == str(world.root / "shared" / ".sapien")
    write(world.root / "shared" / PHYSX / "libphysx.so", "damaged")
    assert items(run_module("rlinf_target", args))["asset 105.1"] == ("present", True)


def test_assets_used_in_the_bundle(world: World, run_module: Run) -> None:
    args = {**world.args, "assets_dir": str(world.bundle.assets)}
    result = run_module("rlinf_target", args)
    assert items(result)["asset 105.1"] == ("in the bundle", False) and not (world.prefix / "assets").exists()
    assert os.readlink(world.home / ".sapien") == str(world.bundle.assets / ".sapien")
    assert not run_module("rlinf_target", args)["changed"]


def test_an_asset_left_out_has_no_link(world: World, run_module: Run) -> None:
    result = run_module("rlinf_target", {**world.args, "leave_out": ["physx"]})
    assert items(result)["link .sapien"] == ("absent", False) and not os.path.lexists(world.home / ".sapien")
    assert (world.home / ".cache" / "openpi").is_symlink()


def test_what_the_bundle_lacks_is_a_fallback_if_allowed(world: World, run_module: Run) -> None:
    shutil.rmtree(world.bundle.assets / PHYSX)
    world.seal()
    result = run_module("rlinf_target", {**world.args, "strict": False})
    assert items(result)["asset 105.1"] == ("remote fallback", False) and result["sources"]["remote"] == 1
    assert "https://example.org/physx.zip" in str(result["warnings"])


# -- links and files -----------------------------------------------------------------------------------------------------------


def test_links_go_into_a_directory_of_the_users(world: World, run_module: Run) -> None:
    write(world.home / ".sapien" / "settings", "mine")
    write(world.home / ".sapien" / "physx" / "104" / "libphysx.so", "older")
    run_module("rlinf_target", world.args)
    assert os.readlink(world.home / PHYSX) == str(world.prefix / "assets" / PHYSX)
    assert (world.home / ".sapien" / "settings").read_text() == "mine" and (world.home / ".sapien" / "physx" / "104").is_dir()
    assert not run_module("rlinf_target", world.args)["changed"]


@pytest.mark.parametrize("kind", ["file", "link", "dangling", "asset"])
def test_what_is_the_users_is_left_alone_and_said(world: World, run_module: Run, tree_hash: Hash, kind: str) -> None:
    place = world.home / ".sapien"
    if kind == "file":
        write(place, "mine")
    elif kind == "asset":
        write(world.home / PHYSX / "libphysx.so", "mine")
    else:
        place.symlink_to(world.bundle.root if kind == "link" else "/nowhere")
    before = tree_hash(world.home)
    result = run_module("rlinf_target", world.args)
    after = tree_hash(world.home)
    assert {path: after[path] for path in before} == before
    assert [state for item, (state, _changed) in items(result).items() if item.startswith("link")].count("left alone") == 1
    assert "was left alone" in str(result["warnings"]) and "Move it elsewhere" in str(result["warnings"])
    assert not run_module("rlinf_target", world.args)["changed"]


def test_what_nobody_asks_for_any_more_goes_if_it_is_ours(world: World, run_module: Run) -> None:
    world.target["files"]["{state}/extra"] = "extra"
    run_module("rlinf_target", world.args)
    world.target["links"].pop(".sapien")
    (world.home / ".cache" / "openpi").unlink()
    (world.home / ".cache" / "openpi").symlink_to("/elsewhere")
    world.target["links"].pop(".cache/openpi")
    world.target["files"] = {}
    write(world.prefix / "state" / "extra", "edited")
    result = run_module("rlinf_target", world.args)
    assert items(result)["link .sapien"] == items(result)["file config.yaml"] == ("removed", True)
    assert not os.path.lexists(world.home / ".sapien") and not (world.prefix / "state" / "libero" / "config.yaml").exists()
    assert os.readlink(world.home / ".cache" / "openpi") == "/elsewhere" and (world.prefix / "state" / "extra").read_text() == "edited"
    assert not run_module("rlinf_target", world.args)["changed"]


def test_a_link_that_another_target_asks_for_stays(world: World, run_module: Run) -> None:
    other = world.bundle.target(world.commits["RLinf"], "other")
    shutil.copytree(world.bundle.target(world.commits["RLinf"], "openvla"), other)
    _bundle.seal(world.bundle)
    world.catalog["targets"]["other"] = {**world.target, "links": dict(world.target["links"])}
    for name in ("openvla", "other"):
        run_module("rlinf_target", {**world.args, "target": name})
    world.target["links"].pop(".sapien")
    run_module("rlinf_target", world.args)
    assert (world.home / ".sapien").is_symlink()


def test_moved_assets_move_our_links(world: World, run_module: Run) -> None:
    run_module("rlinf_target", world.args)
    result = run_module("rlinf_target", {**world.args, "assets_dir": str(world.root / "shared")})
    assert items(result)["link .sapien"] == ("present", True)
    assert os.readlink(world.home / ".sapien") == str(world.root / "shared" / ".sapien")


# -- placeholders --------------------------------------------------------------------------------------------------------------

TEXT = Placeholders({"src": "/s", "home": "/h"}, {"LIBERO": "/l"})


@given(st.text())
def test_text_without_placeholders_stays_as_it_is(text: str) -> None:
    plain = text.replace("{", "{ ")
    assert TEXT.expand(plain, "it") == plain


def test_placeholders() -> None:
    assert TEXT.expand('{src}/{repo[LIBERO]} {"a": {}} ${ x } {{src}}', "it") == '/s//l {"a": {}} ${ x } {/s}'
    for wrong in ("{SRC}", "{repo}", "{repo[other]}", "{src[LIBERO]}", "${HOME}"):
        with pytest.raises(TargetError, match=r"^it: .* is no placeholder\. There are {src}, {home}, {repo\[LIBERO\]}\."):
            TEXT.expand(wrong, "it")


# -- reset ---------------------------------------------------------------------------------------------------------------------


def test_reset_quad(world: World, run_module: Run, tree_hash: Hash) -> None:
    run_module("rlinf_target", world.args)
    write(world.tree / "results" / "run1", "ignored by git")
    (world.tree / ".venv").symlink_to(world.prefix / "venvs" / "openvla")
    clean = {path: value for path, value in tree_hash(world.prefix / "src").items() if "/.git/" not in path}
    write(world.tree / "pyproject.toml", "# edited")
    write(world.tree / "staged.txt", "staged")
    git("add", "staged.txt", cwd=world.tree)
    git("commit", "-q", "-m", "mine", "staged.txt", cwd=world.tree)
    write(world.tree / "added" / "deep.txt", "added")
    args = {name: world.args[name] for name in ("bundle_dir", "prefix")} | {"state": "reset"}
    dirty = tree_hash(world.root, mtimes=True)
    foreseen = run_module("rlinf_target", args, check=True, diff=True)
    assert tree_hash(world.root, mtimes=True) == dirty
    lost = "1 edited (pyproject.toml), 1 added (added/deep.txt), 1 commit that no branch held"
    assert foreseen["changed"] and lost in str(foreseen["warnings"])
    assert foreseen["diff"]["before"].endswith("RLinf: pyproject.toml; added/deep.txt (added)\n")
    done = run_module("rlinf_target", args)
    assert items(done) == items(foreseen) and items(done)["worktree LIBERO"] == ("clean", False)
    assert {path: value for path, value in tree_hash(world.prefix / "src").items() if "/.git/" not in path} == clean
    assert git("rev-parse", "HEAD", cwd=world.tree) == world.commits["RLinf"]
    assert not run_module("rlinf_target", args, check=True)["changed"]
    assert not run_module("rlinf_target", args)["changed"]
    assert not run_module("rlinf_target", world.args)["changed"]


# -- killed --------------------------------------------------------------------------------------------------------------------


def kill_everywhere(world: World, tmp_path: Path, judge: Callable[[World], None]) -> int:
    """Kill a run at each of its checkpoints in turn, each time in a fresh copy of *world*; return how many there are.

    What is left is judged as it is, and once more after a second run has finished it.
    """
    for number in range(1, 200):
        made = World(tmp_path / f"killed{number}", world.commits, world.catalog)
        shutil.copytree(world.root, made.root, symlinks=True)
        if not killed_at(number, lambda made=made: put_in_place(wanted(made))):  # type: ignore[misc]
            return number - 1
        judge(made)
        put_in_place(wanted(made))
        judge(made)
        assert not put_in_place(wanted(made), check=True).changed
        assert not [path for path in made.prefix.rglob(".*") if path.name.endswith((".new", ".old", ".tmp"))]
        shutil.rmtree(made.root)
    raise AssertionError("it never ends")


def wanted(world: World) -> Wanted:
    catalog = Catalog.parse(world.catalog)
    node = Node(world.prefix)
    return Wanted(node, world.bundle, catalog, catalog.targets["openvla"], world.home, node.assets)


def assert_whole(world: World) -> None:
    """Whatever has its name is whole."""
    if world.tree.exists():
        assert git("status", "--porcelain", cwd=world.tree) == ""
    asset = world.prefix / "assets" / PHYSX
    if asset.exists():
        assert (asset / "libphysx.so").read_bytes() == b"\x7fELF" and (asset / "libphysx.so.1").is_symlink()
    config = world.prefix / "state" / "libero" / "config.yaml"
    if config.exists():
        assert config.read_text() == f"root: {world.tree}\n"


@pytest.fixture
def small(world: World) -> World:
    """A target of one repository, since each more only repeats its steps."""
    world.target["steps"] = [{"uv_sync": []}]
    world.target["exports"] = {}
    world.target["files"] = {"{state}/libero/config.yaml": "root: {repo[RLinf]}\n"}
    return world


def test_killed_anywhere_the_first_run_is_finished_by_the_next(small: World, tmp_path: Path) -> None:
    assert kill_everywhere(small, tmp_path, assert_whole) > 20


def test_killed_anywhere_a_move_is_finished_by_the_next(small: World, run_module: Run, tmp_path: Path) -> None:
    run_module("rlinf_target", small.args)
    write(small.tree / "results" / "run1", "of a week's training")
    write(small.prefix / "assets" / PHYSX / "libphysx.so", "damaged")
    small.commit("RLinf", {"new.txt": "new", "pyproject.toml": None})
    small.seal()
    # the paths in links and files are the world's own, so that the copies begin with them made anew
    shutil.rmtree(small.home)
    small.home.mkdir()
    states = []

    def judge(made: World) -> None:
        assert (made.tree / "results" / "run1").exists()
        states.append(git("rev-parse", "HEAD", cwd=made.tree))

    assert kill_everywhere(small, tmp_path, judge) > 10
    assert len(set(states)) == 2


def test_a_checkout_cut_off_in_the_middle_is_finished(world: World, run_module: Run) -> None:
    """git itself was killed: half of the files written, its lock left."""
    run_module("rlinf_target", world.args)
    old = world.commits["RLinf"]
    world.commit("RLinf", {"new.txt": "new", "pyproject.toml": "# new\n"})
    world.seal()
    note = world.tree / ".git" / "rlinf.json"
    write(note, json_bytes({**json.loads(note.read_text()), "commit": old, "moving": world.commits["RLinf"]}))
    write(world.tree / "new.txt", "ne")
    write(world.tree / "pyproject.toml", "n")
    write(world.tree / ".git" / "index.lock", "")
    run_module("rlinf_target", world.args)
    assert git("status", "--porcelain", cwd=world.tree) == "" and git("rev-parse", "HEAD", cwd=world.tree) == world.commits["RLinf"]
    assert not run_module("rlinf_target", world.args)["changed"]
