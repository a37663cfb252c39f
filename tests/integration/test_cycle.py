# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole job through the playbooks that a user runs: a bastion, nodes without network, several targets on each, everything twice."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from ansible_collections.rlinf.offline.plugins.module_utils._patch import patch, restore
from tests.demo.dates import CUT_OFF
from tests.integration.conftest import tree
from tests.support.checkouts import status

TARGETS = ("openvla", "openvla-oft")
TARGET = "openvla"
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_the_second_run_changes_nothing(twice):
    twice.assert_unchanged()


def test_no_login_is_said_or_left_or_in_a_list_of_processes(twice):
    twice.assert_no_login()


def test_the_first_run_of_each_playbook_did_something(twice):
    assert [name for name in ("download", "push", "prepare", "install") if not twice.plays[0][name].changed] == []


def test_only_the_download_uses_the_network(twice):
    twice.assert_offline()


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_installed_is_what_is_locked_and_bundled(twice, target):
    twice.assert_locked(target, {"libero": "0.1.0"})
    twice.assert_of_the_bundle(target)


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


def test_the_bill_of_materials_lists_every_file_that_is_used_by_the_digest_of_the_manifest(twice):
    manifest = json.loads((twice.cycle.bundle / "bundle.json").read_text(encoding="utf-8"))["files"]
    bill = json.loads((twice.cycle.bundle / "records" / "sbom.cdx.json").read_text(encoding="utf-8"))
    digests = {item["bom-ref"]: item["hashes"][0]["content"] for item in bill["components"] if "hashes" in item}
    used = {path: entry["sha256"] for path, entry in manifest.items() if path.endswith((".whl", ".deb"))}
    assert {path: digests.get(path) for path in used} == used
    needs = {entry["ref"]: entry["dependsOn"] for entry in bill["dependencies"]}
    for target in TARGETS:
        lock = twice.cycle.lock(target)
        assert {package["path"] for package in lock["packages"]} <= {*needs[f"targets/{lock['project']['commit']}/{target}"]}


def test_the_compiled_package_answers_on_the_node(twice):
    assert twice.cycle.node_python(TARGET, "from evdev import _input; print(_input.answer())") == "42\n"


def test_the_users_own_variables_are_set_too(twice):
    assert twice.activated(TARGET, "import os; print(os.environ['HF_HOME'], os.environ['MS_SKIP_ASSET_DOWNLOAD_PROMPT'])") == "/data/hf 1\n"


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


def test_a_fork_at_the_version_of_the_index_is_installed_where_it_is_asked_for(twice):
    code = "import transformers as t; print(t.__version__, getattr(t, 'ATTENTION', 'causal'))"
    assert twice.cycle.node_python("openvla", code) == "4.40.1 causal\n"
    assert twice.cycle.node_python("openvla-oft", code) == "4.40.1 bidirectional\n"


# -- a target of one's own --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gr00t(twice):
    """Bundle the example's target beside the others, and install it on a node of its own; return the cycle, the trees before, and the node."""
    given = yaml.safe_load((EXAMPLES / "gr00t.yml").read_text(encoding="utf-8"))["all"]["vars"]["rlinf_catalog"]
    before = {name: tree(twice.cycle.bundle / name) for name in ("targets", "wheelhouse", "wheels", "repos")}
    node = {"rlinf_prefix": str(twice.cycle.work / "gpu02"), "rlinf_bundle_dir": str(twice.cycle.bundle), "rlinf_targets": ["gr00t"]}
    inventory = twice.cycle.write_inventory("gr00t", {"gpu02": node}, given)
    twice.cycle.play("download", inventory=inventory)
    home = twice.cycle.work / "home-gpu02"
    home.mkdir()
    twice.cycle.play("site", inventory=inventory, HOME=str(home))
    return twice.cycle, before, inventory


def test_a_target_of_ones_own_is_data_and_leaves_the_others_byte_for_byte(gr00t):
    cycle, before, _inventory = gr00t
    for name, files in before.items():
        after = tree(cycle.bundle / name)
        assert {path: after.get(path) for path in files} == files, name
        assert name == "wheels" or set(after) > set(files), name


def test_a_target_of_ones_own_is_installed_without_the_dependencies_that_nobody_has(gr00t):
    cycle, _before, _inventory = gr00t
    assert cycle.node_python("gr00t", "import gr00t, transformers as t; print(t.__version__)", prefix=cycle.work / "gpu02") == "4.51.3\n"
    assert [item["package"] for item in cycle.lock("gr00t")["editables"]] == ["gr00t", "libero"]
