# SPDX-License-Identifier: GPL-3.0-or-later
"""A bastion and a node, through the whole job twice; and what integration tests take over from the unit tests: a module run by its main()."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import subprocess
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from packaging.version import Version

from tests.demo.cycle import NODE, PLAYS, Cycle, Play, can_compile, can_unshare
from tests.support.processes import Watch, watched
from tests.unit.conftest import run_module

__all__ = ["run_module"]

PASSWORD = "up5tream-hidden"
# what a script of upstream deletes after it has installed it
DELETED = "/pip_prebundle/websockets/"


class Twice:
    """A cycle that has run twice: what each play did, whom it asked, and the trees after each pass."""

    def __init__(self, cycle: Cycle, watch: Watch) -> None:
        self.cycle, self.watch = cycle, watch
        self.plays: list[dict[str, Play]] = []
        self.asked: dict[str, list[str]] = {name: [] for name in PLAYS}
        self.trees: list[dict[str, dict[str, tuple[str, str]]]] = []

    def run(self, names: Sequence[str] = PLAYS) -> None:
        """Run every playbook, and note everything."""
        plays = {}
        for name in names:
            self.cycle.upstream.forget()
            plays[name] = self.cycle.play(name)
            self.asked[name] += [request.path for request in self.cycle.upstream.requests()]
        self.plays.append(plays)
        prefix = self.cycle.work / NODE
        places = {"bundle": self.cycle.bundle, "home": self.cycle.home}
        places |= {name: prefix / name for name in ("venvs", "src", "assets", "state", "tools")}
        self.trees.append(
            {name: {path: what for path, what in tree(place).items() if ".cache/" not in path} for name, place in places.items()}
        )

    def activated(self, target: str, code: str) -> str:
        """Run Python code as a user does who has switched to the environment; return its output."""
        switch = str(self.cycle.prefix(target) / "bin" / "switch_env")
        command = ["unshare", "-rn", "bash", "-euc", 'source "$0" "$1" && python -c "$2"', switch, target, code]
        done = subprocess.run(command, env=self.cycle.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    # -- what holds for every target

    def assert_no_login(self) -> None:
        """Assert that the upstream's password was not said, is in no file but the inventory, and in no list of processes."""
        work = self.cycle.work
        assert self.asked["download"] and PASSWORD in self.cycle.inventory.read_text(encoding="utf-8")
        assert [name for plays in self.plays for name, play in plays.items() if PASSWORD in play.output] == []
        assert self.watch.looks > 100 and self.watch.seen == set()
        files = [path for path in work.rglob("*") if path.is_file() and not path.is_symlink() and path != self.cycle.inventory]
        assert [str(path) for path in files if PASSWORD.encode() in path.read_bytes()] == []

    def assert_unchanged(self) -> None:
        """Assert that the second run changed nothing, by what Ansible says and by hashes of everything."""
        assert {name: play.changed for name, play in self.plays[1].items()} == dict.fromkeys(self.plays[1], 0)
        first, second = self.trees
        for name in first:
            assert first[name] == second[name], name

    def assert_offline(self) -> None:
        """Assert that nobody but the download has asked the upstream for anything."""
        asked = {name: paths for name, paths in self.asked.items() if paths}
        assert asked.pop("download") and asked == {}

    def assert_locked(self, target: str, editables: Mapping[str, str]) -> None:
        """Assert that what is installed is what is locked, and these packages of working copies."""
        code = "import importlib.metadata as m, json; print(json.dumps({d.metadata['Name']: d.version for d in m.distributions()}))"
        found = json.loads(self.cycle.node_python(target, code, PYTHONNOUSERSITE="1"))
        installed = {re.sub(r"[-_.]+", "-", name).lower(): Version(version) for name, version in found.items()}
        lock = self.cycle.lock(target)
        assert {item["package"]: str(installed.pop(item["package"])) for item in lock["editables"]} == editables
        assert installed == {package["name"]: Version(package["version"]) for package in lock["packages"]}

    def assert_of_the_bundle(self, target: str) -> None:
        """Assert that every file that is installed has the bytes that a wheel of the bundle has, and that wheel those of the lock."""
        site = Path(self.cycle.node_python(target, "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        for package in self.cycle.lock(target)["packages"]:
            file = self.cycle.bundle / package["path"]
            assert hashlib.sha256(file.read_bytes()).hexdigest() == package["sha256"]
            if package["kind"] == "source":
                continue
            with zipfile.ZipFile(file) as archive:
                names = [name for name in archive.namelist() if not name.endswith(("/", ".dist-info/RECORD"))]
                names = [name for name in names if ".data/" not in name and DELETED not in name]
                assert [name for name in names if (site / name).read_bytes() != archive.read(name)] == [], file.name


def tree(root: Path) -> dict[str, tuple[str, str]]:
    """Return what a tree holds: for every path its mode, and its content's digest or link target."""
    found = {}
    for path in sorted(root.rglob("*")):
        mode = path.lstat().st_mode
        content = os.readlink(path) if stat.S_ISLNK(mode) else hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(mode) else ""
        found[str(path.relative_to(root))] = (stat.filemode(mode), content)
    return found


@pytest.fixture(scope="module")
def twice(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twice]:
    """Have a bundle and a node with the targets that the module names (``TARGETS``)."""
    assert can_unshare(), "unshare -rn does not work here, so no node can be kept off the network"
    assert can_compile(), "compilers for C and C++ and the headers of this Python are needed"
    work = tmp_path_factory.mktemp("cycle") / "work"
    with Cycle(work, targets=request.module.TARGETS, air_gap=True, password=PASSWORD) as cycle, watched(PASSWORD) as watch:
        run = Twice(cycle, watch)
        # a first look changes nothing, although nothing is there yet
        cycle.play("download", "--check", "--diff")
        assert not cycle.bundle.exists()
        run.run()
        run.run([name for name in PLAYS if name != "verify"])
        yield run
