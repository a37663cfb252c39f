# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which nodes can take what, and the table that says which cannot."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Catalog
from ansible_collections.rlinf.offline.plugins.module_utils._fit import Need, Offer, misfits, offer, table

CATALOG = Catalog.parse(
    {
        "repositories": {"RLinf": {"url": "https://github.com/RLinf/RLinf.git"}},
        "targets": {"openvla": {"python": "3.11", "steps": [{"uv_sync": []}]}, "openpi": {"python": "3.11", "steps": [{"uv_sync": []}]}},
    }
)
TARGET = CATALOG.targets["openvla"]
OFFER = Offer("d1", bytes=5 * 10**9, files=300, needs=(Need("openvla", "x86_64", "2.31", 4 * 10**9, 278),))
PLACE = {"path": "/opt", "mount": "/", "device": "8:1", "free_bytes": 10**12, "free_inodes": 10**8, "writable": True, "problem": None}
NODE: dict[str, Any] = {
    "architecture": "x86_64",
    "glibc": "2.36",
    "pythons": [{"path": "/usr/bin/python3.11", "version": "3.11.2", "virtual": False, "problem": None}],
    "gpus": {"devices": [{"index": 0}], "driver": "535.104.05", "cuda": "12.2", "problem": None},
    "tools": {"git": {"path": "/usr/bin/git"}, "rsync": {"path": "/usr/bin/rsync"}},
    "environments": [],
    "bundle": {"present": False, "sealed": False, "digest": None},
    "paths": {"prefix": PLACE, "bundle": PLACE, "home": PLACE},
}


def judged(changes: dict[str, Any] | None = None, bundle: Offer = OFFER, python: Any = "", *, remote: bool = True) -> list[str]:
    """Return what does not fit of a node that fits, but for *changes* (dotted keys)."""
    node = copy.deepcopy(NODE)
    for path, value in (changes or {}).items():
        *folders, last = path.split(".")
        place = node
        for folder in folders:
            place = place[folder]
        place[last] = value
    return [f"{misfit.what}: {misfit.found}" for misfit in misfits(node, bundle, [TARGET], python, remote=remote)]


def test_a_node_that_fits() -> None:
    assert judged() == []


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"architecture": "aarch64"}, "architecture: aarch64, but openvla is for x86_64"),
        ({"glibc": "2.28"}, "glibc: 2.28, but openvla needs 2.31"),
        ({"glibc": None}, "C library: not glibc"),
        ({"pythons": []}, "Python 3.11: none of this version; openvla needs it"),
        ({"gpus.driver": "525.60.11"}, "NVIDIA driver: 525.60.11"),
        ({"tools.git": None}, "git: not there"),
        ({"tools.rsync": None}, "rsync: not there"),
        ({"paths.prefix": {**PLACE, "free_bytes": 10**10}}, "disk: 10.0 GB free at /, about 17.8 GB needed"),
        ({"paths.prefix": {**PLACE, "free_inodes": 1000}}, "inodes: 1000 free at /, about 222700 needed"),
        ({"paths.prefix": {**PLACE, "writable": False}}, "prefix directory: /opt cannot be written by this user"),
        ({"paths.prefix": {**PLACE, "problem": "no answer within 10 seconds"}}, "prefix directory: no answer within 10 seconds"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], found: str) -> None:
    assert judged(changes) == [found]


@pytest.mark.parametrize(
    "changes",
    [
        {"gpus.driver": "525.60.13"},
        # no GPU: nothing that a driver could be too old for
        {"gpus": {"devices": [], "driver": None, "cuda": None, "problem": "no driver"}},
        {"paths.prefix": {**PLACE, "free_inodes": None}},
        # installed before, out of this very bundle
        {
            "environments": ["openvla"],
            "bundle": {"present": True, "sealed": True, "digest": "d1"},
            "paths.prefix": {**PLACE, "free_bytes": 0, "free_inodes": 0},
        },
        # each file system has what comes to it
        {"paths.prefix": {**PLACE, "free_bytes": 13 * 10**9}, "paths.bundle": {**PLACE, "device": "8:2", "free_bytes": 6 * 10**9}},
        # a bundle that is mounted read-only
        {"bundle": {"present": True, "sealed": True, "digest": "d1"}, "paths.bundle": {**PLACE, "device": "8:2", "writable": False}},
    ],
)
def test_what_fits_is_not_named(changes: dict[str, Any]) -> None:
    assert judged(changes) == []


def test_rsync_is_needed_only_where_something_is_pushed() -> None:
    assert judged({"tools.rsync": None}, remote=False) == []


def test_a_python_given_by_path_is_judged_where_it_is_used() -> None:
    assert judged({"pythons": []}, python="/opt/python3.11") == []
    assert judged(python={"openvla": "3.11.9"}) == ["Python 3.11.9: /usr/bin/python3.11 3.11.2; openvla needs it"]


def test_everything_is_named_at_once() -> None:
    assert len(judged({"architecture": "aarch64", "glibc": "2.17", "pythons": [], "tools.git": None})) == 4


def test_a_node_may_have_a_bundle_that_the_bastion_lacks() -> None:
    assert judged(bundle=Offer()) == ["bundle: neither the bastion nor the node has one"]
    assert judged({"bundle": {"present": True, "sealed": True, "digest": "d2"}}, bundle=Offer()) == []


# -- what the bundle holds -----------------------------------------------------------------------------------------------------------


def write_bundle(root: Path) -> Path:
    """Write the manifest and lock of a bundle that holds openvla."""
    folder = root / "targets" / ("a" * 40) / "openvla"
    folder.mkdir(parents=True)
    packages = [{"name": "torch", "size": 1000}, {"name": "numpy", "size": 500}]
    (folder / "lock.json").write_text(json.dumps({"platform": "x86_64-manylinux_2_31", "packages": packages}))
    repositories = {"github.com/RLinf/RLinf.git": {"commit": "a" * 40}}
    manifest = {"format": 1, "serial": 1, "files": {"one": {"size": 7}, "link": {"link": "one"}}, "repositories": repositories}
    (root / "bundle.json").write_text(json.dumps(manifest))
    return root


def test_an_offer_is_read_from_manifest_and_lock(tmp_path: Path) -> None:
    found = offer(write_bundle(tmp_path), [TARGET], CATALOG)
    assert (found.bytes, found.files, found.problems) == (7, 2, ())
    assert found.needs == (Need("openvla", "x86_64", "2.31", 1500, 2),)


def test_a_bundle_without_the_targets_lock_is_a_misfit(tmp_path: Path) -> None:
    found = offer(write_bundle(tmp_path), [TARGET, CATALOG.targets["openpi"]], CATALOG)
    assert [problem.what for problem in found.problems] == ["target openpi"]
    assert judged(bundle=found) == [f"target openpi: the bundle {tmp_path} has no lock of it"]


def test_no_bundle_and_a_damaged_one(tmp_path: Path) -> None:
    assert offer(tmp_path, [TARGET], CATALOG) == Offer()
    (tmp_path / "bundle.json").write_text("{")
    assert [problem.what for problem in offer(tmp_path, [TARGET], CATALOG).problems] == ["bundle"]


def test_the_table_holds_every_node_with_a_misfit() -> None:
    git = {"what": "git", "found": "not there", "remedy": "Install git on the node."}
    assert table({"gpu01": [git], "gpu02": [], "gpu03": None}) == [
        "node   what        found               what to do",
        "gpu01  git         not there           Install git on the node.",
        "gpu03  connection  could not be asked  See the error above; the others go on without it.",
    ]
    assert table({"gpu01": [], "gpu02": []}) == []
