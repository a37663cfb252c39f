# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole job through the playbooks that a user runs: a bastion, a node without network, everything twice."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.version import Version

from tests.demo.cycle import PLAYS, TARGETS, Cycle, Play, can_compile, can_unshare
from tests.demo.world import CUT_OFF

TARGET = "openvla"


def tree(root: Path) -> dict[str, tuple[str, str]]:
    """Return what a tree holds: for every path its mode, and its content's digest or link target."""
    found = {}
    for path in sorted(root.rglob("*")):
        mode = path.lstat().st_mode
        content = os.readlink(path) if stat.S_ISLNK(mode) else hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(mode) else ""
        found[str(path.relative_to(root))] = (stat.filemode(mode), content)
    return found


class Twice:
    """A cycle that has run twice: what each play did, whom it asked, and the trees after each pass."""

    def __init__(self, cycle: Cycle) -> None:
        self.cycle = cycle
        self.plays: list[dict[str, Play]] = []
        self.asked: dict[str, list[str]] = {name: [] for name in PLAYS}
        self.trees: list[dict[str, dict[str, tuple[str, str]]]] = []

    def run(self) -> None:
        """Run every playbook, and note everything."""
        plays = {}
        for name in PLAYS:
            self.cycle.upstream.forget()
            plays[name] = self.cycle.play(name)
            self.asked[name] += [request.path for request in self.cycle.upstream.requests()]
        self.plays.append(plays)
        prefix = self.cycle.prefix
        places = {
            "bundle": self.cycle.bundle,
            **{name: prefix / name for name in ("venvs", "src", "assets", "state", "tools")},
            "home": self.cycle.home,
        }
        self.trees.append(
            {name: {path: what for path, what in tree(place).items() if ".cache/" not in path} for name, place in places.items()}
        )


def activated(twice: Twice, code: str) -> str:
    """Run Python code as a user does who has activated the environment; return its output."""
    command = ["bash", "-euc", 'source "$0/bin/activate" && python -c "$1"', str(twice.cycle.prefix / "venvs" / TARGET), code]
    done = subprocess.run(command, env=twice.cycle.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twice]:
    assert can_unshare(), "unshare -rn does not work here, so no node can be kept off the network"
    assert can_compile(), "a C compiler and the headers of this Python are needed"
    with Cycle(tmp_path_factory.mktemp("cycle") / "work") as cycle:
        run = Twice(cycle)
        # a first look changes nothing, although nothing is there yet
        cycle.play("download", "--check", "--diff")
        assert not cycle.bundle.exists()
        run.run()
        run.run()
        yield run


def test_the_second_run_changes_nothing(twice):
    assert {name: play.changed for name, play in twice.plays[1].items()} == dict.fromkeys(PLAYS, 0)
    first, second = twice.trees
    for name in first:
        assert first[name] == second[name], name


def test_the_first_run_of_each_playbook_did_something(twice):
    assert [name for name in ("download", "push", "prepare", "install") if not twice.plays[0][name].changed] == []


def test_only_the_download_uses_the_network(twice):
    assert twice.asked.pop("download")
    assert {name: paths for name, paths in twice.asked.items() if paths} == {}


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_installed_is_what_is_locked(twice, target):
    lock = twice.cycle.lock(target)
    code = "import importlib.metadata as m, json; print(json.dumps({d.metadata['Name']: d.version for d in m.distributions()}))"
    found = json.loads(twice.cycle.node_python(target, code, PYTHONNOUSERSITE="1"))
    installed = {re.sub(r"[-_.]+", "-", name).lower(): Version(version) for name, version in found.items()}
    assert [installed.pop(item["package"]) for item in lock["editables"]] == [Version("0.1.0")]
    assert installed == {package["name"]: Version(package["version"]) for package in lock["packages"]}


@pytest.mark.parametrize("target", TARGETS)
def test_the_installed_files_are_those_of_the_bundles_wheels(twice, target):
    site = Path(twice.cycle.node_python(target, "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    for package in twice.cycle.lock(target)["packages"]:
        wheel = twice.cycle.bundle / package["path"]
        assert hashlib.sha256(wheel.read_bytes()).hexdigest() == package["sha256"]
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if not name.endswith(("/", ".dist-info/RECORD")) and ".data/" not in name]
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


def test_a_fork_at_the_version_of_the_index_is_installed_where_it_is_asked_for(twice):
    code = "import transformers as t; print(t.__version__, getattr(t, 'ATTENTION', 'causal'))"
    assert twice.cycle.node_python(TARGET, code) == "4.40.1 causal\n"
    assert twice.cycle.node_python("openvla-oft", code) == "4.40.1 bidirectional\n"


def test_libero_asks_nothing_on_an_activated_node(twice):
    root = activated(twice, "import libero.libero as l; print(l.get_libero_path('benchmark_root'))")
    assert Path(root.strip()).samefile(twice.cycle.prefix / "src" / "LIBERO" / "libero" / "libero")


def test_the_checkouts_are_clean_and_know_where_they_come_from(twice):
    for name in ("RLinf", "LIBERO"):
        git = ["git", "-c", "safe.directory=*", "-C", str(twice.cycle.prefix / "src" / name)]
        assert subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout == ""
        origin = subprocess.run([*git, "remote", "get-url", "origin"], capture_output=True, text=True, check=True).stdout.strip()
        assert origin == f"https://github.com/RLinf/{name}.git"


def test_assets_lie_where_the_simulators_look(twice):
    script = "import os; print(os.path.isdir(os.environ['MS_ASSET_DIR'] + '/data/tasks/bridge_v2_real2sim_dataset/custom'))"
    assert activated(twice, script) == "True\n"
    assert (twice.cycle.prefix / "assets" / ".maniskill" / "data" / "robots" / "widowx" / "wx250s.urdf").is_file()
    assert (twice.cycle.home / ".sapien" / "physx" / "105.1-physx-5.3.1.patch0" / "libPhysXGpu_64.so").is_file()
    assert sorted(path.name for path in twice.cycle.home.iterdir()) == [".sapien"]
