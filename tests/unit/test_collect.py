# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook collect, as it is typed: two nodes, whose prefixes are directories of this machine, and the bastion's bundle."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils._bundle import read_manifest, seal, verify
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from tests.support.wheels import build_wheel, write_tree
from tests.unit.test_files import holder

ROOT = Path(__file__).resolve().parents[2]
SOURCE, FOREIGN = "a" * 64, "b" * 64


@dataclass(frozen=True)
class Fleet:
    """A bundle with the source of one package, and nodes."""

    root: Path

    @property
    def bundle(self) -> Bundle:
        return Bundle(self.root / "bundle")

    def built(self, node: str, source: str = SOURCE) -> Path:
        return self.root / node / "state" / "built" / source / "torch-2.6.0"

    def collect(self, *options: str, umask: int = -1) -> dict[str, int]:
        """Run the playbook; return how many tasks changed something, by host."""
        done = self.run(*options, umask=umask)
        assert done.returncode == 0, done.stdout + done.stderr
        return {host: int(count) for host, count in re.findall(r"^(\S+) +: ok=\d+ +changed=(\d+)", done.stdout, re.MULTILINE)}

    def run(self, *options: str, umask: int = -1) -> subprocess.CompletedProcess[str]:
        nodes = {name: {"rlinf_prefix": str(self.root / name)} for name in ("gpu01", "gpu02")}
        local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "rlinf_bastion_python": sys.executable}
        inventory = {
            "all": {"vars": local},
            "rlinf_bastion": {"hosts": {"localhost": {"rlinf_bundle_dir": str(self.bundle.root)}}},
            "rlinf_nodes": {"hosts": nodes},
        }
        (self.root / "inventory.yml").write_text(json.dumps(inventory))
        settings = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_LOCAL_TEMP": str(self.root / "tmp"), "HOME": str(self.root)}
        command = [Path(sys.executable).with_name("ansible-playbook"), "-i", self.root / "inventory.yml", "rlinf.offline.collect", "--diff"]
        environment = {**os.environ, **settings}
        return subprocess.run([*command, *options], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, umask=umask)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    fleet = Fleet(tmp_path)
    write_tree(fleet.bundle.wheelhouse / "source" / SOURCE, {"te-1.0.tar.gz": "a source"})
    seal(fleet.bundle)
    # what both built, and differently: one of the two serves all
    for node in ("gpu01", "gpu02"):
        build_wheel(fleet.built(node), "te", "1.0", modules={"te.py": f"built_on = {node!r}\n"}, tags="cp311-cp311-linux_x86_64")
    build_wheel(fleet.built("gpu02"), "te", "1.0", tags="cp310-cp310-linux_x86_64")
    # of a source that this bundle does not have, and one that was being written
    build_wheel(fleet.built("gpu01", FOREIGN), "other", "1.0")
    write_tree(fleet.built("gpu01"), {".te-1.0-cp311-cp311-linux_x86_64.whl.new": "half"})
    return fleet


def test_looked_at_collected_and_collected_again(fleet: Fleet, tree_hash: Callable[..., Any]) -> None:
    before = tree_hash(fleet.bundle.root, mtimes=True)
    # on the first of them, for the bastion, the bill of materials, too
    assert fleet.collect("--check") == {"gpu01": 2, "gpu02": 1}
    assert tree_hash(fleet.bundle.root, mtimes=True) == before
    assert sum(fleet.collect().values()) == 4  # each node's, the bill of materials, and sealing
    found = {path.name: path for path in fleet.bundle.built.rglob("*") if path.is_file()}
    assert sorted(found) == [f"te-1.0-cp{minor}-cp{minor}-linux_x86_64.whl" for minor in (310, 311)]
    (either,) = (path for name, path in found.items() if "cp311" in name)
    assert either.read_bytes() in [path.read_bytes() for node in ("gpu01", "gpu02") for path in fleet.built(node).glob("*cp311*.whl")]
    verify(fleet.bundle)
    assert str(either.relative_to(fleet.bundle.root)) in read_manifest(fleet.bundle)["files"]
    (fleet.bundle.root / ".lock").unlink()
    after = tree_hash(fleet.bundle.root, mtimes=True)
    assert fleet.collect() == {"gpu01": 0, "gpu02": 0}
    (fleet.bundle.root / ".lock").unlink()
    assert tree_hash(fleet.bundle.root, mtimes=True) == after


def test_what_is_collected_is_readable_whatever_the_umask(fleet: Fleet) -> None:
    fleet.collect(umask=0o077)
    made = [path for path in fleet.bundle.built.parent.rglob("*") if path.is_relative_to(fleet.bundle.built)]
    assert {stat.filemode(path.stat().st_mode) for path in (*made, fleet.bundle.built)} == {"drwxr-xr-x", "-rw-r--r--"}


def test_of_a_node_one_collects_at_a_time(fleet: Fleet) -> None:
    """Two would write the same parts, and remove each other's; what comes from another node is nobody's business."""
    with holder(fleet.bundle.cache / "collect" / "gpu01.lock") as first:
        done = fleet.run()
        assert done.returncode and f"Collecting from gpu01 into {fleet.bundle.root} is in use by process {first.pid}" in done.stdout
        assert re.search(r"^gpu02 .* changed=3 .* failed=0", done.stdout, re.MULTILINE), done.stdout
        first.communicate()
    assert not list(fleet.bundle.root.rglob("*.part")) and fleet.run().returncode == 0
