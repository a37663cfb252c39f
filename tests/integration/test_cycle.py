# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole job through the playbooks that a user runs: a bastion, nodes without network, several targets on each, everything twice."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import zipfile
from pathlib import Path

import pytest
from packaging.version import Version

from ansible_collections.rlinf.offline.plugins.module_utils._patch import patch, restore
from tests.demo.dates import CUT_OFF
from tests.integration.conftest import TARGETS
from tests.support.checkouts import status

TARGET = "openvla"
NAMES = [name for targets in TARGETS.values() for name in targets]
# what a script of upstream deletes after it has installed it
DELETED = "/pip_prebundle/websockets/"


def test_the_second_run_changes_nothing(twice):
    assert {name: play.changed for name, play in twice.plays[1].items()} == dict.fromkeys(twice.plays[1], 0)
    first, second = twice.trees
    for name in first:
        assert first[name] == second[name], name


def test_the_first_run_of_each_playbook_did_something(twice):
    assert [name for name in ("download", "push", "prepare", "install") if not twice.plays[0][name].changed] == []


def test_only_the_download_uses_the_network(twice):
    assert twice.asked.pop("download")
    assert {name: paths for name, paths in twice.asked.items() if paths} == {}


@pytest.mark.parametrize("target", NAMES)
def test_what_is_installed_is_what_is_locked(twice, target):
    lock = twice.cycle.lock(target)
    code = "import importlib.metadata as m, json; print(json.dumps({d.metadata['Name']: d.version for d in m.distributions()}))"
    found = json.loads(twice.cycle.node_python(target, code, PYTHONNOUSERSITE="1"))
    installed = {re.sub(r"[-_.]+", "-", name).lower(): Version(version) for name, version in found.items()}
    editables = {item["package"]: str(installed.pop(item["package"])) for item in lock["editables"]}
    assert editables == (
        {"joylo": "3.7.1", "omnigibson": "3.7.1"} if "behavior" in target else {"libero": "0.1.0"} if "vla" in target else {}
    )
    assert installed == {package["name"]: Version(package["version"]) for package in lock["packages"]}


@pytest.mark.parametrize("target", NAMES)
def test_the_installed_files_are_those_of_the_bundles_wheels(twice, target):
    site = Path(twice.cycle.node_python(target, "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    for package in twice.cycle.lock(target)["packages"]:
        wheel = twice.cycle.bundle / package["path"]
        assert hashlib.sha256(wheel.read_bytes()).hexdigest() == package["sha256"]
        if package["kind"] == "source":
            continue
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if not name.endswith(("/", ".dist-info/RECORD")) and ".data/" not in name]
            names = [name for name in names if DELETED not in name]
            assert [name for name in names if (site / name).read_bytes() != archive.read(name)] == [], wheel.name


def test_the_lock_holds_what_the_sequence_of_steps_gives(twice):
    lock = twice.cycle.lock(TARGET)
    versions = {package["name"]: package["version"] for package in lock["packages"]}
    assert (versions["wrapt"], versions["numpy"], versions["torch"], versions["mani-skill"]) == ("1.14.2", "1.26.4", "2.6.0", "3.0.0b22")
    assert "pynvml" not in versions
    kinds = {package["name"]: package["kind"] for package in lock["packages"]}
    assert {name for name, kind in kinds.items() if kind == "git"} == {"dlimp", "latex2sympy2", "mani-skill", "openvla"}
    assert {name for name, kind in kinds.items() if kind == "sdist"} == {"evdev", "gym", "pylatexenc", "word2number"}
    assert {name for name, kind in kinds.items() if kind == "wheel"} == {"flash-attn"}


def test_nothing_newer_than_the_cut_off_is_in_the_bundle(twice):
    world, lock = twice.cycle.world, twice.cycle.lock(TARGET)
    assert lock["cut_off"].startswith(CUT_OFF)
    assert lock["git"]["dlimp"]["commit"] == world.commit("moojink/dlimp_openvla", "HEAD~1")
    assert lock["git"]["openvla"]["commit"] == world.commit("openvla/openvla", "HEAD~1")
    assert lock["git"]["mani-skill"]["commit"] == world.commit("haosulab/ManiSkill", "v3.0.0b22")
    assert lock["project"]["commit"] == world.commit("RLinf/RLinf", "release/v0.1")
    assert not list(twice.cycle.bundle.rglob("accelerate-2*"))


def test_the_bundle_names_no_path_of_the_bastion_and_no_mirror(twice):
    # the URL of an index is kept, since that is where a package came from; a rewritten one is not
    needles = [str(twice.cycle.work).encode(), f"{twice.cycle.upstream.url}/git/".encode()]
    texts = [
        path
        for path in twice.cycle.bundle.rglob("*")
        if path.suffix in (".json", ".toml", ".txt") or path.name in ("config", "packed-refs")
    ]
    assert texts
    assert [
        path for path in texts if path.is_file() and ".cache" not in path.parts and any(needle in path.read_bytes() for needle in needles)
    ] == []


def test_the_compiled_package_answers_on_the_node(twice):
    assert twice.cycle.node_python(TARGET, "from evdev import _input; print(_input.answer())") == "42\n"


def test_libero_asks_nothing_on_an_activated_node(twice):
    root = twice.activated(TARGET, "import libero.libero as l; print(l.get_libero_path('benchmark_root'))")
    assert Path(root.strip()).samefile(twice.cycle.prefix(TARGET) / "src" / "LIBERO" / "libero" / "libero")


def test_the_checkouts_are_clean_and_know_where_they_come_from(twice):
    for name in ("RLinf", "LIBERO"):
        git = ["git", "-c", "safe.directory=*", "-C", str(twice.cycle.prefix(TARGET) / "src" / name)]
        assert subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout == ""
        origin = subprocess.run([*git, "remote", "get-url", "origin"], capture_output=True, text=True, check=True).stdout.strip()
        assert origin == f"https://github.com/RLinf/{name}.git"


def test_assets_lie_where_the_simulators_look(twice):
    script = "import os; print(os.path.isdir(os.environ['MS_ASSET_DIR'] + '/data/tasks/bridge_v2_real2sim_dataset/custom'))"
    assert twice.activated(TARGET, script) == "True\n"
    assert (twice.cycle.prefix(TARGET) / "assets" / ".maniskill" / "data" / "robots" / "widowx" / "wx250s.urdf").is_file()
    assert (twice.cycle.home / ".sapien" / "physx" / "105.1-physx-5.3.1.patch0" / "libPhysXGpu_64.so").is_file()
    assert [path.name for path in twice.cycle.home.iterdir() if path.is_symlink()] == [".sapien"]


def test_an_install_puts_back_what_a_killed_one_left_patched(twice):
    """With rlinf_patch: always the files are patched while the install runs; one that is killed meanwhile leaves them so."""
    prefix = twice.cycle.prefix(TARGET)
    tree, state = prefix / "src" / "RLinf", prefix / "state"
    patch(tree, prefix / "bundle", state, worktrees=[prefix / "src" / "LIBERO"])
    assert status(tree)
    said = twice.cycle.play("install", "-e", f"rlinf_patch=always rlinf_targets={TARGET}", "--limit", "gpu01").output
    restoring = f"[local-deps] restoring main pyproject backup {tree}/pyproject.toml.backup -> {tree}/pyproject.toml"
    using = f"[local-deps] using local repo latex2sympy2 -> {prefix}/bundle/repos/github.com/RLinf/latex2sympy2.git in pyproject.toml"
    # what was left over first, then patched for this run, and put back after it
    assert said.index(restoring) < said.index(using) < said.index("restoring main pyproject backup pyproject.toml.backup -> pyproject.toml")
    assert status(tree) == "" and (tree / "pyproject.toml.patched").is_file()
    assert restore(None, state, purge=True).changed and not list(tree.rglob("*.patched"))
