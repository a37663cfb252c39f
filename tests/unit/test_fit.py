# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which nodes can take what, and the table that says which cannot."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Catalog
from ansible_collections.rlinf.offline.plugins.module_utils._fit import Need, Offer, Wheel, misfits, offer, table

CATALOG = Catalog.parse(
    {
        "repositories": {"RLinf": {"url": "https://github.com/RLinf/RLinf.git"}},
        "targets": {"openvla": {"python": "3.11", "steps": [{"uv_sync": []}]}, "openpi": {"python": "3.11", "steps": [{"uv_sync": []}]}},
    }
)
TARGET = CATALOG.targets["openvla"]
TORCH = Wheel("torch", "2.6.0", "torch-2.6.0-cp311-cp311-manylinux1_x86_64.whl")
CUBLAS = Wheel("nvidia-cublas-cu12", "12.4.5.8", "nvidia_cublas_cu12-12.4.5.8-py3-none-manylinux2014_x86_64.whl")
NEED = Need("openvla", "x86_64", "2.31", 4 * 10**9, 278, "3.11", wheels=(TORCH, CUBLAS))
OFFER = Offer("d1", bytes=5 * 10**9, files=300, needs=(NEED,))
PLACE = {"path": "/opt", "mount": "/", "device": "8:1", "free_bytes": 10**12, "free_inodes": 10**8, "writable": True, "problem": None}
NODE: dict[str, Any] = {
    "architecture": "x86_64",
    "glibc": "2.36",
    "pythons": [{"path": "/usr/bin/python3.11", "version": "3.11.2", "virtual": False, "problem": None}],
    "gpus": {"devices": [{"index": 0}], "driver": "535.104.05", "cuda": "12.2", "problem": None},
    "tools": {"git": {"path": "/usr/bin/git"}, "rsync": {"path": "/usr/bin/rsync"}},
    "environments": [],
    "built": [],
    "bundle": {"present": False, "sealed": False, "digest": None},
    "paths": {"prefix": PLACE, "bundle": PLACE, "home": PLACE},
}


def judged(
    changes: dict[str, Any] | None = None, bundle: Offer = OFFER, python: Any = "", *, remote: bool = True, skip: tuple[str, ...] = ()
) -> list[str]:
    """Return what does not fit of a node that fits, but for *changes* (dotted keys)."""
    node = copy.deepcopy(NODE)
    for path, value in (changes or {}).items():
        *folders, last = path.split(".")
        place = node
        for folder in folders:
            place = place[folder]
        place[last] = value
    return [f"{misfit.what}: {misfit.found}" for misfit in misfits(node, bundle, [TARGET], python, remote=remote, skip=skip)]


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


# -- wheels --------------------------------------------------------------------------------------------------------------------


def with_wheels(*wheels: Wheel, others: tuple[str, ...] = (), **changes: Any) -> Offer:
    """Return the offer with further wheels in the target's lock."""
    return replace(OFFER, needs=(replace(NEED, wheels=(*NEED.wheels, *wheels), **changes),), wheels=others)


def wheel(filename: str) -> Wheel:
    name, version = filename.split("-")[:2]
    return Wheel(name.replace("_", "-"), version, filename)


FLASH = "flash_attn-2.7.4.post1+cu12torch{torch}cxx11abiFALSE-{tag}-{tag}-linux_x86_64.whl"


@pytest.mark.parametrize(
    ("filename", "others", "found", "remedy"),
    [
        # Python and ABI; the wheel that would fit is named
        (
            FLASH.format(torch="2.6", tag="cp310"),
            (FLASH.format(torch="2.6", tag="cp311"),),
            "for cp310-cp310",
            f"{FLASH.format(torch='2.6', tag='cp311')} would fit",
        ),
        ("x-1-cp311-cp311d-linux_x86_64.whl", (), "for cp311-cp311d", "One for cp311-cp311-manylinux_2_36_x86_64 or older would fit"),
        # glibc, and another platform
        ("x-1-cp310-none-manylinux_2_38_x86_64.whl", (), "for manylinux_2_38_x86_64, and this node has glibc 2.36", "One for"),
        ("x-1-cp311-cp311-musllinux_1_2_x86_64.whl", (), "for musllinux_1_2_x86_64", "One for"),
        ("x-1-cp311-cp311-manylinux_2_28_aarch64.whl", (), "for manylinux_2_28_aarch64", "One for"),
        # torch and CUDA
        (
            FLASH.format(torch="2.5", tag="cp311"),
            (),
            "built for torch 2.5 and CUDA 12, the lock holds torch 2.6.0 with CUDA 12",
            "cu12torch2.6",
        ),
        (
            "flash_attn-2.7.4+cu11torch2.6cxx11abiFALSE-cp311-cp311-linux_x86_64.whl",
            (),
            "built for torch 2.6 and CUDA 11, the lock holds torch 2.6.0 with CUDA",
            "would fit",
        ),
    ],
)
def test_a_wheel_that_does_not_fit(filename: str, others: tuple[str, ...], found: str, remedy: str) -> None:
    """Every wheel of the target is compared; the misfit says why, and what would fit."""
    (row,) = misfits(NODE, with_wheels(wheel(filename), others=others), [TARGET], "", remote=True)
    assert row.what == "wheel for openvla" and row.found.startswith(f"{filename}: ") and found in row.found and remedy in row.remedy


def test_wheels_that_fail_alike_share_a_row() -> None:
    many = [wheel(f"x{number}-1-cp310-cp310-linux_x86_64.whl") for number in range(300)]
    assert judged(bundle=with_wheels(*many)) == ["wheel for openvla: x0-1-cp310-cp310-linux_x86_64.whl and 299 more: for cp310-cp310"]


def test_a_skipped_package_need_not_fit() -> None:
    assert judged(bundle=with_wheels(wheel("x-1-cp310-cp310-linux_x86_64.whl")), skip=("X",)) == []


@pytest.mark.parametrize(
    ("package", "driver", "found"),
    [
        ("nvidia-cublas-cu12", "525.60.13", []),
        ("nvidia-cublas-cu12", "525.60.12", ["NVIDIA driver: 525.60.12"]),
        ("nvidia-cublas-cu11", "450.80.02", []),
        ("nvidia-cublas-cu13", "535.104.05", ["NVIDIA driver: 535.104.05"]),
        ("numpy", "440.33.01", []),
    ],
)
def test_the_driver_is_judged_by_the_builds(package: str, driver: str, found: list[str]) -> None:
    """A driver runs every build of its major version, whichever toolkit the node has."""
    lock = replace(OFFER, needs=(replace(NEED, wheels=(TORCH, Wheel(package, "1", f"{package.replace('-', '_')}-1-py3-none-any.whl"))),))
    assert judged({"gpus.driver": driver, "gpus.cuda": "12.1"}, bundle=lock) == found


def test_a_compiler_is_needed_only_where_something_is_compiled() -> None:
    bundle = with_wheels(sources={"transformer-engine-torch": ("nvcc", "g++")}, digests={"transformer-engine-torch": "d" * 64})
    assert judged({"tools.g++": {"path": "/usr/bin/g++"}}, bundle=bundle) == [
        "transformer-engine-torch for openvla: is compiled on a node, which takes nvcc"
    ]
    both = {"tools.nvcc": {"path": "/usr/local/cuda/bin/nvcc"}, "tools.g++": {"path": "/usr/bin/g++"}}
    assert judged(both, bundle=bundle) == []
    assert judged({"built": ["d" * 64]}, bundle=bundle) == []
    assert judged(bundle=bundle, skip=("transformer_engine_torch",)) == []


# -- what the bundle holds -----------------------------------------------------------------------------------------------------------


def write_bundle(root: Path) -> Path:
    """Write the manifest and lock of a bundle that holds openvla."""
    folder = root / "targets" / ("a" * 40) / "openvla"
    folder.mkdir(parents=True)
    packages = [
        {
            "name": "torch",
            "version": "2.6.0",
            "kind": "index",
            "size": 1000,
            "sha256": "1" * 64,
            "path": f"wheelhouse/index/{TORCH.filename}",
        },
        {
            "name": "engine",
            "version": "2.1",
            "kind": "source",
            "size": 500,
            "sha256": "2" * 64,
            "path": "wheelhouse/source/2/engine-2.1.tar.gz",
        },
        {"name": "built", "version": "1", "kind": "source", "size": 0, "sha256": "3" * 64, "path": "wheelhouse/source/3/built-1.tar.gz"},
    ]
    lock = {"python": "3.11", "platform": "x86_64-manylinux_2_31", "packages": packages, "build_on_node": {"engine": {"needs": ["nvcc"]}}}
    (folder / "lock.json").write_text(json.dumps(lock))
    repositories = {"github.com/RLinf/RLinf.git": {"commit": "a" * 40}}
    built = f"wheelhouse/built/{'3' * 64}/built-1-cp311-cp311-linux_x86_64.whl"
    files = {"one": {"size": 7}, "link": {"link": "one"}, built: {"size": 3}}
    manifest = {"format": 1, "serial": 1, "files": files, "repositories": repositories}
    (root / "bundle.json").write_text(json.dumps(manifest))
    return root


def test_an_offer_is_read_from_manifest_and_lock(tmp_path: Path) -> None:
    found = offer(write_bundle(tmp_path), [TARGET], CATALOG)
    assert (found.bytes, found.files, found.problems, found.wheels) == (10, 3, (), ("built-1-cp311-cp311-linux_x86_64.whl",))
    (need,) = found.needs
    assert (need.machine, need.glibc, need.bytes, need.packages, need.wheels) == ("x86_64", "2.31", 1500, 3, (TORCH,))
    # a source that some node has built is no source any more
    assert need.sources == {"engine": ("nvcc",)} and need.digests == {"engine": "2" * 64}


def test_a_bundle_without_the_targets_lock_is_a_misfit(tmp_path: Path) -> None:
    found = offer(write_bundle(tmp_path), [TARGET, CATALOG.targets["openpi"]], CATALOG)
    assert [problem.what for problem in found.problems] == ["target openpi"]
    assert judged(bundle=found)[0] == f"target openpi: the bundle {tmp_path} has no lock of it"


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
