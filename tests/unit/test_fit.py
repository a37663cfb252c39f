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

from ansible_collections.rlinf.offline.plugins.module_utils import _fit
from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Catalog
from ansible_collections.rlinf.offline.plugins.module_utils._fit import (
    Misfit,
    Need,
    Offer,
    Repository,
    Wheel,
    misfits,
    offer,
    rows,
    silent,
    table,
)
from ansible_collections.rlinf.offline.plugins.module_utils._wishes import Wish

CATALOG = Catalog.parse(
    {
        "repositories": {"RLinf": {"url": "https://github.com/RLinf/RLinf.git"}},
        "assets": {"robots": {"url": "https://h/robots.zip", "dest": "robots"}},
        "targets": {
            "openvla": {"python": "3.11", "steps": [{"uv_sync": []}], "assets": ["robots"]},
            "openpi": {"python": "3.11", "steps": [{"uv_sync": []}], "assets": ["robots"]},
            "linked": {"python": "3.11", "steps": [{"uv_sync": []}], "links": {".robots": "{assets}/robots"}},
        },
    }
)
TARGET = CATALOG.targets["openvla"]
WISH = Wish(CATALOG, (TARGET,))
TORCH = Wheel("torch", "2.6.0", "torch-2.6.0-cp311-cp311-manylinux1_x86_64.whl")
CUBLAS = Wheel("nvidia-cublas-cu12", "12.4.5.8", "nvidia_cublas_cu12-12.4.5.8-py3-none-manylinux2014_x86_64.whl")
PACKAGES = {f"{number:064x}": 4 * 10**7 for number in range(100)}
NEED = Need(
    "openvla",
    "x86_64",
    "2.31",
    "3.11",
    PACKAGES,
    {"robots": 10**9},
    {"github.com/RLinf/RLinf.git": 10**8},
    wheels=(TORCH, CUBLAS),
    names=frozenset({"torch", "nvidia-cublas-cu12"}),
)
OFFER = Offer("/bastion", "d1", bytes=5 * 10**9, files=300, pushed=(5 * 10**9, 300), needs=(NEED,), names=NEED.names)
PLACE = {"path": "/opt", "mount": "/", "device": "8:1", "free_bytes": 10**12, "free_inodes": 10**8, "writable": True, "problem": None}
NODE: dict[str, Any] = {
    "uid": 0,
    "system": {"release": "debian-12", "architecture": "amd64", "missing": [], "problem": None},
    "architecture": "x86_64",
    "glibc": "2.36",
    "pythons": [{"path": "/usr/bin/python3.11", "version": "3.11.2", "implementation": "cpython", "problem": None}],
    "gpus": {"devices": [{"index": 0}], "driver": "535.104.05", "cuda": "12.2", "problem": None},
    "tools": {"git": {"path": "/usr/bin/git"}, "rsync": {"path": "/usr/bin/rsync"}},
    "environments": [],
    "unpacked": [],
    "built": [],
    "bundle_dir": "/opt/bundle",
    "bundle": {"present": False, "sealed": False, "digest": None, "bytes": 0, "files": 0},
    "paths": dict.fromkeys(("prefix", "bundle", "assets", "home", "system", "environment"), PLACE),
}


def changed(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a node that fits, but for *changes* (dotted keys; ``disk.`` stands for every path on its one file system)."""
    node = copy.deepcopy(NODE)
    for path, value in (changes or {}).items():
        *folders, last = path.split(".")
        if folders == ["disk"]:
            node["paths"] = {name: {**place, last: value} for name, place in node["paths"].items()}
            continue
        place = node
        for folder in folders:
            place = place[folder]
        place[last] = value
    return node


def judged(
    changes: dict[str, Any] | None = None, bundle: Offer = OFFER, python: Any = "", *, remote: bool = True, skip: tuple[str, ...] = ()
) -> list[str]:
    """Return what does not fit of such a node."""
    wish = Wish(CATALOG, (TARGET,), python, skip)
    return [f"{misfit.what}: {misfit.found}" for misfit in misfits(changed(changes), bundle, wish, remote=remote)]


def test_a_node_that_fits() -> None:
    assert judged() == []


def test_room_is_asked_for_what_the_node_gets_of_the_bundle() -> None:
    (said,) = judged({"disk.free_bytes": 10**10}, bundle=replace(OFFER, pushed=(10**9, 30)))
    assert "about 15.0 GB needed (bundle 1.0 GB, packages 12.8 GB" in said


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
        (
            {"disk.free_bytes": 10**10},
            "disk: 10.0 GB free at /, about 19.0 GB needed (bundle 5.0 GB, packages 12.8 GB, working copies 200.0 MB, assets 1.0 GB)",
        ),
        ({"disk.free_inodes": 1000}, "inodes: 1000 free at /, about 50300 needed"),
        ({"paths.prefix": {**PLACE, "writable": False}}, "prefix directory: /opt cannot be written by this user"),
        ({"paths.prefix": {**PLACE, "problem": "no answer within 10 seconds"}}, "prefix directory: no answer within 10 seconds"),
        ({"paths.assets": {**PLACE, "writable": False}}, "assets directory: /opt cannot be written by this user"),
        # what is known without nvidia-smi, too
        ({"gpus": {"devices": [], "driver": "470.1", "problem": None}}, "NVIDIA driver: 470.1"),
        ({"pythons": [{**NODE["pythons"][0], "implementation": "pypy"}]}, "Python 3.11: /usr/bin/python3.11 (3.11.2); openvla needs it"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], found: str) -> None:
    assert judged(changes) == [found]


@pytest.mark.parametrize(
    "changes",
    [
        {"gpus.driver": "525.60.13"},
        # no GPU: nothing that a driver could be too old for
        {"gpus": {"devices": [], "driver": None, "cuda": None, "problem": None}},
        {"disk.free_inodes": None},
        # installed before, out of this very bundle
        {
            "environments": ["openvla"],
            "bundle": {"present": True, "sealed": True, "digest": "d1"},
            "disk.free_bytes": 0,
            "disk.free_inodes": 0,
        },
        # a former bundle was installed: what is in both needs no room again
        {
            "environments": ["openvla"],
            "unpacked": [digest[:12] for digest in PACKAGES],
            "bundle": {"present": True, "sealed": True, "digest": "d0", "bytes": 5 * 10**9, "files": 300},
            "disk.free_bytes": 0,
        },
        # a push that was cut off
        {"bundle": {"present": True, "sealed": False, "digest": None, "bytes": 4 * 10**9, "files": 200}, "disk.free_bytes": 15 * 10**9},
        # each file system has what comes to it
        {
            "paths.prefix": {**PLACE, "free_bytes": 13 * 10**9},
            "paths.bundle": {**PLACE, "device": "8:2", "free_bytes": 6 * 10**9},
            "paths.assets": {**PLACE, "device": "8:2", "free_bytes": 6 * 10**9},
        },
        # a bundle that is mounted read-only
        {"bundle": {"present": True, "sealed": True, "digest": "d1"}, "paths.bundle": {**PLACE, "device": "8:2", "writable": False}},
    ],
)
def test_what_fits_is_not_named(changes: dict[str, Any]) -> None:
    assert judged(changes) == []


def test_rsync_is_needed_only_where_something_is_pushed() -> None:
    assert judged({"tools.rsync": None}, remote=False) == []
    assert judged({"tools.rsync": None, "bundle.digest": "d1"}) == []


@pytest.mark.parametrize(
    ("found", "misfit"),
    [
        ({"version": "3.11.9", "implementation": "cpython"}, []),
        ({"problem": "/opt/python is not there"}, ["Python /opt/python: /opt/python is not there; openvla needs 3.11"]),
        ({"version": "3.10.2", "implementation": "cpython"}, ["Python /opt/python: cpython 3.10.2; openvla needs 3.11"]),
        ({"version": "3.11.2", "implementation": "pypy"}, ["Python /opt/python: pypy 3.11.2; openvla needs 3.11"]),
    ],
)
def test_a_python_given_by_path_is_asked_itself(found: dict[str, Any], misfit: list[str]) -> None:
    assert judged({"pythons": [{"path": "/opt/python", **found}]}, python="/opt/python") == misfit


def test_a_python_given_by_version() -> None:
    assert judged(python={"openvla": "3.11.9"}) == ["Python 3.11.9: /usr/bin/python3.11 (3.11.2); openvla needs it"]


def test_an_existing_environment_brings_its_own_python_and_room() -> None:
    """Nothing is linked from one file system to another, so what is unpacked is there twice."""
    wish = Wish(CATALOG, (TARGET,), environment="/conda")
    python = {"path": "/conda/bin/python", "version": "3.11.2", "implementation": "cpython", "virtual": True}
    node = changed({"pythons": [python], "paths.environment": {**PLACE, "device": "8:9", "mount": "/conda", "free_bytes": 10**9}})
    assert [misfit.found for misfit in misfits(node, OFFER, wish, remote=True)] == [
        "1.0 GB free at /conda, about 12.8 GB needed (environment 12.8 GB)"
    ]
    node = changed({"pythons": [{"path": "/conda/bin/python", "problem": "is not there"}]})
    (row,) = misfits(node, OFFER, wish, remote=True)
    assert row.what == "Python /conda/bin/python" and row.remedy == "Correct rlinf_venv_path."


def test_a_home_that_cannot_be_written_matters_to_links() -> None:
    node = changed({"paths.home": {**PLACE, "writable": False}})
    (row,) = misfits(node, OFFER, Wish(CATALOG, (CATALOG.targets["linked"],)), remote=True)
    assert row.what == "home directory" and "HOME" in row.remedy


def test_what_targets_share_comes_once() -> None:
    both = replace(OFFER, needs=(NEED, replace(NEED, target="openpi")))
    assert judged({"disk.free_bytes": 19 * 10**9}, bundle=both) == judged({"disk.free_bytes": 19 * 10**9}) == []
    assert len(judged({"architecture": "aarch64"}, bundle=both)) == 1


def test_a_package_that_no_lock_has_cannot_be_skipped() -> None:
    assert judged(skip=("Torch", "tourch")) == ["rlinf_skip_packages: tourch is in no lock of the bundle"]


def test_a_driver_that_cannot_be_asked_is_told_and_holds_nothing_back() -> None:
    (row,) = misfits(changed({"gpus": {"devices": [], "driver": None, "problem": "nvidia-smi failed\nmore"}}), OFFER, WISH, remote=True)
    assert (row.what, row.found, row.fatal) == ("GPU", "nvidia-smi failed", False) and "525.60.13" in row.remedy


def test_everything_is_named_at_once() -> None:
    assert len(judged({"architecture": "aarch64", "glibc": "2.17", "pythons": [], "tools.git": None})) == 4


def test_a_node_may_have_a_bundle_that_the_bastion_lacks() -> None:
    assert judged(bundle=Offer("/bastion")) == ["bundle: neither the bastion nor the node has one (looked in /bastion and /opt/bundle)"]
    assert judged({"bundle": {"present": True, "sealed": True, "digest": "d2"}}, bundle=Offer("/bastion")) == []


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
    (row,) = misfits(NODE, with_wheels(wheel(filename), others=others), WISH, remote=True)
    assert row.what == "wheel for openvla" and row.found.startswith(f"{filename}: ") and found in row.found and remedy in row.remedy


def test_wheels_that_fail_alike_share_a_row() -> None:
    many = [wheel(f"x{number}-1-cp310-cp310-linux_x86_64.whl") for number in range(300)]
    assert judged(bundle=with_wheels(*many)) == ["wheel for openvla: x0-1-cp310-cp310-linux_x86_64.whl and 299 more: for cp310-cp310"]


def test_a_skipped_package_need_not_fit() -> None:
    bundle = replace(with_wheels(wheel("x-1-cp310-cp310-linux_x86_64.whl")), names=frozenset("x"))
    assert judged(bundle=bundle, skip=("X",)) == []


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


KERNELS = replace(TORCH, code=("7.5", "8.0", "9.0"))
SPARSE = Wheel("nvidia-cusparselt-cu12", "0.6", "nvidia_cusparselt_cu12-0.6-py3-none-manylinux2014_x86_64.whl", ("8.0", "9.0"))


@pytest.mark.parametrize(
    ("compute", "found", "fatal"),
    [
        ("9.0", [], False),
        ("8.9", [], False),
        (None, [], False),  # a driver that is too old to tell
        ("7.5", [f"for which {SPARSE.filename} holds no code"], False),
        ("10.0", [f"{TORCH.filename} holds code for 7.5, 8.0, 9.0", f"for which {SPARSE.filename} holds no code"], True),
        ("7.0", [f"{TORCH.filename} holds code for 7.5, 8.0, 9.0", f"for which {SPARSE.filename} holds no code"], True),
    ],
)
def test_wheels_have_code_for_the_gpus(compute: str | None, found: list[str], fatal: bool) -> None:
    """Without PyTorch's nothing computes; what else lacks code may not be used at all."""
    devices = [{"index": index, "name": "NVIDIA X", "compute": compute} for index in range(8)]
    said = misfits(changed({"gpus.devices": devices}), with_wheels(KERNELS, SPARSE), WISH, remote=True)
    assert len(said) == len(found) and all(part in misfit.found for part, misfit in zip(found, said, strict=True))
    assert any(misfit.fatal for misfit in said) is fatal
    assert all(misfit.what == "GPU for openvla" and f"NVIDIA X has compute capability {compute}" in misfit.found for misfit in said)
    if fatal:
        assert f"for {'a newer' if compute == '10.0' else 'an older'} CUDA (rlinf_torch_backend" in said[0].remedy


def test_gpus_without_a_driver_are_counted() -> None:
    gpus = {"devices": [], "driver": None, "on_bus": 8, "problem": "nvidia-smi is not there: no NVIDIA driver"}
    assert judged({"gpus": gpus}) == ["GPU: 8 on the PCI bus, and nvidia-smi is not there: no NVIDIA driver"]


def test_a_compiler_is_needed_only_where_something_is_compiled() -> None:
    bundle = with_wheels(sources={"transformer-engine-torch": ("nvcc", "g++")}, digests={"transformer-engine-torch": "d" * 64})
    assert judged({"tools.g++": {"path": "/usr/bin/g++"}}, bundle=bundle) == [
        "transformer-engine-torch for openvla: is compiled on a node, and nvcc is not there"
    ]
    both = {"tools.nvcc": {"path": "/usr/local/cuda/bin/nvcc"}, "tools.g++": {"path": "/usr/bin/g++"}}
    assert judged(both, bundle=bundle) == []
    assert judged({"built": ["d" * 64]}, bundle=bundle) == []
    assert judged(bundle=replace(bundle, names=frozenset({"transformer-engine-torch"})), skip=("transformer_engine_torch",)) == []


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
    lock = {
        "closure": [],
        "python": "3.11",
        "platform": "x86_64-manylinux_2_31",
        "packages": packages,
        "build_on_node": {"engine": {"needs": ["nvcc"]}},
    }
    (folder / "lock.json").write_text(json.dumps(lock))
    repositories = {"github.com/RLinf/RLinf.git": {"commit": "a" * 40}}
    built = f"wheelhouse/built/{'3' * 64}/built-1-cp311-cp311-linux_x86_64.whl"
    sizes = {"one": 7, built: 3, "assets/robots/arm": 20, "assets/robots2": 1, "repos/github.com/RLinf/RLinf.git/HEAD": 9}
    files = {path: {"size": size, "sha256": "0" * 64, "mtime_ns": 1} for path, size in sizes.items()}
    manifest = {"format": 1, "serial": 1, "files": {**files, "link": {"link": "one"}}, "repositories": repositories}
    (root / "bundle.json").write_text(json.dumps(manifest))
    return root


def test_an_offer_is_read_from_manifest_and_lock(tmp_path: Path) -> None:
    found = offer(write_bundle(tmp_path), [TARGET], CATALOG)
    assert (found.bytes, found.files, found.problems, found.wheels) == (40, 6, (), ("built-1-cp311-cp311-linux_x86_64.whl",))
    assert found.names == {"torch", "engine", "built"}
    (need,) = found.needs
    assert (need.machine, need.glibc, need.wheels) == ("x86_64", "2.31", (TORCH,))
    assert list(need.packages.values()) == [1000, 500, 0] and need.names == found.names
    assert need.assets == {"robots": 20} and need.worktrees == {"github.com/RLinf/RLinf.git": 9}
    # a source that some node has built is no source any more
    assert need.sources == {"engine": ("nvcc",)} and need.digests == {"engine": "2" * 64}


def test_a_bundle_without_the_targets_lock_is_a_misfit(tmp_path: Path) -> None:
    found = offer(write_bundle(tmp_path), [TARGET, CATALOG.targets["openpi"]], CATALOG)
    assert [problem.what for problem in found.problems] == ["target openpi"]
    assert judged(bundle=found)[0] == f"target openpi: the bundle {tmp_path} has no lock of it"


def test_no_bundle_and_a_damaged_one(tmp_path: Path) -> None:
    assert offer(tmp_path, [TARGET], CATALOG) == Offer(str(tmp_path))
    (tmp_path / "bundle.json").write_text("{")
    assert [problem.what for problem in offer(tmp_path, [TARGET], CATALOG).problems] == ["bundle"]


def test_the_table_tells_what_nodes_have_in_common_once() -> None:
    git = Misfit("git", "not there", "Install git on the node.")
    rsync = Misfit("rsync", "not there", "Install rsync on the node.")
    listed = [*rows("gpu01", [git, rsync]), *rows("gpu02", [git, rsync]), *rows("gpu03", [rsync]), *silent("gpu04", "no\npython")]
    assert table(listed) == [
        "what does not fit, and what to do",
        "gpu01, gpu02:",
        "  git: not there",
        "    -> Install git on the node.",
        "gpu01, gpu02, gpu03:",
        "  rsync: not there",
        "    -> Install rsync on the node.",
        "gpu04:",
        "  note: connection: could not be asked: no",
        "    -> See the error above; the others go on without it.",
    ]
    assert table([]) == []


def test_the_table_is_no_wider_than_a_terminal_but_for_names_that_cannot_be_broken() -> None:
    name = f"{'long_name' * 12}-1-py3-none-any.whl"
    wordy = Misfit("wheel for openvla", f"{name}: {'word ' * 30}", "remedy " * 30)
    lines = table([row for number in range(64) for row in rows(f"gpu{number:02}", [wordy])])
    assert {line.strip() for line in lines if len(line) > 68} == {f"{name}:"}
    assert "gpu63" in " ".join(lines[:9])


def test_a_fleet_is_judged_once_for_each_kind_of_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 nodes of two kinds, with three targets of 300 wheels each, take as many looks at wheels as two nodes."""
    looked: list[str] = []
    real = _fit.unfit
    monkeypatch.setattr(_fit, "unfit", lambda filename, *rest: looked.append(filename) or real(filename, *rest))
    many = tuple(wheel(f"fleet{number}-1-py3-none-any.whl") for number in range(300))
    needs = tuple(replace(NEED, target=name, wheels=(*many, Wheel(name, "1", f"{name}-1-py3-none-any.whl"))) for name in ("a", "b", "c"))
    for number in range(64):
        assert misfits(changed({"glibc": f"2.{36 + number % 2}"}), replace(OFFER, needs=needs), WISH, remote=True) == []
    assert len(looked) == 2 * 3 * 301


# -- system packages


BUNDLED = replace(
    OFFER, system={"debian-12/amd64": Repository(frozenset({"libegl1", "git"}), {"libegl1": 10**6, "git": 10**6, "g++": 10**6})}
)


@pytest.mark.parametrize(
    ("state", "changes", "bundle", "found"),
    [
        ("auto", {}, BUNDLED, []),
        ("auto", {}, OFFER, ["note: packages of debian-12/amd64: libegl1 missing; the bundle has packages for none at all"]),
        ("present", {}, OFFER, ["packages of debian-12/amd64: libegl1 missing; the bundle has packages for none at all"]),
        (
            "present",
            {"system.release": "ubuntu-22.04"},
            BUNDLED,
            ["packages of ubuntu-22.04/amd64: libegl1 missing; the bundle has packages for debian-12/amd64"],
        ),
        (
            "auto",
            {"system.missing": ["mesa"]},
            BUNDLED,
            ["note: packages of debian-12/amd64: mesa missing, and the bundle was made without"],
        ),
        ("auto", {"uid": 1000}, BUNDLED, ["note: system packages: libegl1 missing, and only root can install them"]),
        ("present", {"uid": 1000}, BUNDLED, []),
        ("checked", {}, BUNDLED, ["system packages: libegl1 missing"]),
        ("ignored", {}, OFFER, []),
        ("auto", {"system.missing": None, "system.release": "rocky-9"}, BUNDLED, ["note: system packages: rocky-9 has no dpkg"]),
        ("checked", {"system.missing": []}, OFFER, []),
        # git comes before anything needs it, and so does rsync before the bundle
        ("auto", {"tools.git": None, "system.missing": ["git"]}, BUNDLED, []),
        ("ignored", {"tools.git": None, "system.missing": ["git"]}, BUNDLED, ["git: not there"]),
        ("auto", {"tools.rsync": None}, BUNDLED, ["rsync: not there"]),
        (
            "auto",
            {"paths.system": {**PLACE, "device": "8:9", "mount": "/usr", "free_bytes": 10**6, "writable": False}},
            BUNDLED,
            ["disk: 1.0 MB free at /usr, about 3.0 MB needed (system packages 3.0 MB)"],
        ),
    ],
)
def test_system_packages(state: str, changes: dict[str, Any], bundle: Offer, found: list[str]) -> None:
    """What a node lacks and does not get is named; it holds the node back only where it must be there."""
    node = changed({"system.missing": ["libegl1"], **changes})
    told = misfits(node, bundle, replace(WISH, system_state=state), remote=True)
    assert [f"{'' if row.fatal else 'note: '}{row.what}: {row.found}" for row in told] == found


def test_a_compiler_that_comes_is_not_missing() -> None:
    need = replace(NEED, sources={"engine": ("nvcc", "g++")}, digests={"engine": "0" * 64})
    node = changed({"system.missing": ["git"]})
    (row,) = misfits(node, replace(BUNDLED, needs=(need,)), WISH, remote=True)
    assert row.found == "is compiled on a node, and nvcc is not there"
