# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sources that a node builds, by rlinf_venv with real uv and real setuptools. The compiler is a small script
that stands in for ``nvcc``, under a name that no machine has."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils import _bundle
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from tests.support.environments import Run, Site
from tests.support.repack import repack
from tests.support.wheels import build_sdist, build_wheel, sha256, write_tree
from tests.unit.conftest import ModuleFailed

NAME = "transformer-engine-torch"
# as the real one: it imports torch to be built, and calls the compiler
SETUP = """
import subprocess, torch
from setuptools import setup
subprocess.run(["nvcc-of-tests", "te/kernel.txt", torch.__version__], check=True)
setup(name="transformer-engine-torch", version="2.1.0", packages=["te"], package_data={"te": ["kernel.txt"]})
"""
# notes each call, and the variables that the recipe gives
NVCC = """#!/bin/sh
test -x "$CUDNN_PATH/bin/python" || exit 1
echo "$2" >> "{calls}"
echo "for torch $2 with $NVTE_FRAMEWORK" > "$1"
"""


class Node(Site):
    """A site whose lock holds a source, and a toolkit that a node may have."""

    @property
    def toolkit(self) -> Path:
        return self.bundle.parent / "cuda"

    @property
    def calls(self) -> list[str]:
        """The torch that each call of the compiler was for."""
        path = self.bundle.parent / "calls"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def compiling(self) -> dict[str, str]:
        """The variables of a node that has the compiler."""
        write_tree(self.toolkit / "bin", {"nvcc-of-tests": NVCC.format(calls=self.bundle.parent / "calls")})
        (self.toolkit / "bin" / "nvcc-of-tests").chmod(0o755)
        return {"PATH": f"{self.toolkit / 'bin'}:{os.environ['PATH']}"}

    def sources(self, *, torch: str = "2.6.0", setup: str = SETUP, name: str = "reason") -> Path:
        """Lock the source, torch, and what building it needs."""
        pyproject = '[build-system]\nrequires = ["setuptools", "torch"]\nbuild-backend = "setuptools.build_meta"\n'
        files = {"setup.py": setup, "te/__init__.py": "", "pyproject.toml": pyproject}
        made = build_sdist(self.bundle.parent, NAME, "2.1.0", modules={}, files=files)
        sdist = self.bundle / "wheelhouse" / "source" / sha256(made) / made.name
        sdist.parent.mkdir(parents=True, exist_ok=True)
        made.rename(sdist)
        lock = self.lock(sdist, build_wheel(self.index, "torch", torch), name=name)
        build = list(self.index.glob("setuptools*")) or [repack("setuptools", self.index)]
        env = {"NVTE_FRAMEWORK": "pytorch", "CUDNN_PATH": "{venv}"}
        self.tell(lock, build=build, build_on_node={NAME: {"needs": ["nvcc-of-tests"], "env": env}})
        return lock

    @property
    def kernel(self) -> str:
        return self.imports("import te, pathlib; print(pathlib.Path(te.__file__).with_name('kernel.txt').read_text().strip())")


@pytest.fixture
def site(tmp_path: Path, run_module: Run) -> Node:
    return Node(tmp_path / "bundle", tmp_path / "prefix", run_module)


def test_a_source_is_built_once_and_kept(site: Node, tree_hash: Callable[..., Any]) -> None:
    lock = site.sources()
    would = site(lock, check=True, env=site.compiling)
    assert would["built"] == [{"name": NAME, "version": "2.1.0"}] and site.calls == [] and not site.prefix.exists()
    did = site(lock, env=site.compiling)
    assert did["built"] == would["built"] and site.calls == ["2.6.0"] and site.kernel == "for torch 2.6.0 with pytorch"
    (kept,) = (site.prefix / "state" / "built").rglob("*.whl")
    assert (
        kept.parent.name == "torch-2.6.0" and kept.parent.parent.name == next((site.bundle / "wheelhouse" / "source").glob("?" * 64)).name
    )
    tree, bundle = tree_hash(site.prefix, mtimes=True), tree_hash(site.bundle, mtimes=True)
    # nothing more, and no compiler, is needed from now on
    assert not site(lock, check=True)["changed"] and not site(lock)["changed"]
    assert tree_hash(site.prefix, mtimes=True) == tree and tree_hash(site.bundle, mtimes=True) == bundle
    assert site(lock, exports={"A": "1"})["built"] == [] and site(lock, target="second")["changed"] and len(site.calls) == 1
    found = site(lock, state="verified")
    assert {package["name"]: package["source"] for package in found["installed"]}[NAME] == str(kept)


def test_compiled_code_fits_one_torch(site: Node) -> None:
    site(site.sources(), env=site.compiling)
    result = site(site.sources(torch="2.5.1"), env=site.compiling)
    assert result["built"] and site.kernel == "for torch 2.5.1 with pytorch" and len(site.calls) == 2
    assert not site(site.sources(torch="2.6.0"))["built"] and site.kernel == "for torch 2.6.0 with pytorch"


def test_a_wheel_that_the_bundle_brought_is_used(site: Node, tmp_path: Path) -> None:
    """As `collect` puts it there: the folders below built/ are the same."""
    lock = site.sources()
    site(lock, env=site.compiling)
    shutil.copytree(site.prefix / "state" / "built", site.bundle / "wheelhouse" / "built")
    _bundle.seal(Bundle(site.bundle))
    other = replace(site, prefix=tmp_path / "other")
    assert other(lock)["built"] == [] and other.kernel == "for torch 2.6.0 with pytorch" and not (other.prefix / "state" / "built").exists()
    found = other(lock, state="verified")["installed"]
    assert any(package["source"].startswith("wheelhouse/built/") for package in found)
    assert len(site.calls) == 1


@pytest.mark.parametrize("known", [False, True])
def test_a_wheel_that_the_manifest_does_not_list_is_not_used(site: Node, known: bool) -> None:
    """Neither one of another name nor, *known*, another of a name that it lists."""
    lock = site.sources()
    digest = next((site.bundle / "wheelhouse" / "source").glob("?" * 64)).name
    place = Bundle(site.bundle).built / digest
    if known:
        build_wheel(place, NAME, "2.1.0", modules={"te/__init__.py": ""})
    _bundle.seal(Bundle(site.bundle))
    build_wheel(place, NAME, "2.1.0", modules={"te/__init__.py": "raise SystemExit", "te/kernel.txt": "planted"})
    _bundle.verify(Bundle(site.bundle), stamp=site.prefix / "stamp.json") if not known else None
    assert site(lock, env=site.compiling)["built"] and site.kernel == "for torch 2.6.0 with pytorch"


def test_without_the_compiler_three_ways_out_are_named(site: Node) -> None:
    lock = site.sources()
    for check in (True, False):
        with pytest.raises(ModuleFailed) as caught:
            site(lock, check=check, env={"CUDA_HOME": "/opt/cuda-12"})
        message = str(caught.value)
        assert (
            f"{NAME} 2.1.0 has to be compiled on a node" in message
            and "nvcc-of-tests is not there (looked in /opt/cuda-12/bin, on PATH and in /usr/local/cuda/bin)" in message
        )
        assert "rlinf.offline.collect" in message and "install the CUDA toolkit" in message and f"rlinf_skip_packages: [{NAME}]" in message
    assert not site.prefix.exists()
    result = site(lock, skip_packages=["Transformer_Engine.Torch"])
    assert result["skipped_packages"] == [NAME] and site.imports("import torch; print(torch.__version__)") == "2.6.0"
    assert not site(lock, skip_packages=[NAME])["changed"]
    assert site(lock, state="verified", skip_packages=[NAME])["verified"] == 1
    # with it, it is another environment
    assert site(lock, env=site.compiling)["packages"]["added"][0]["name"] == NAME


def test_a_name_to_skip_that_no_lock_has_is_an_error(site: Node) -> None:
    lock = site.sources()
    other = site.lock(build_wheel(site.index, "alpha", "1.0"), name="openvla")
    with pytest.raises(ModuleFailed, match="rlinf_skip_packages: nowhere is in no lock of"):
        site(lock, skip_packages=[NAME, "nowhere"])
    # one of another target of the node is none: the setting is the node's
    assert site(other, skip_packages=[NAME])["skipped_packages"] == []


def test_the_compiler_is_found_where_the_toolkit_is(site: Node) -> None:
    lock, path = site.sources(), site.compiling["PATH"].partition(":")[2]
    assert site(lock, env={"PATH": path, "CUDA_HOME": str(site.toolkit)})["built"] and site.calls == ["2.6.0"]


def test_a_build_that_fails_or_gives_something_else(site: Node) -> None:
    lock = site.sources(setup=SETUP.replace("2.1.0", "2.2.0"))
    with pytest.raises(ModuleFailed, match=r"declares version 2.1.0, but the wheel declares version 2.2.0"):
        site(lock, env=site.compiling)
    lock = site.sources(setup="raise SystemExit('out of memory')")
    with pytest.raises(
        ModuleFailed, match=r"(?s)building transformer-engine-torch 2.1.0: uv ended.*out of memory.*build-transformer-engine-torch\.log"
    ):
        site(lock, env=site.compiling)
    sdist = next((site.bundle / "wheelhouse" / "source").rglob("*.tar.gz"))
    lock = site.sources()
    for sdist in (site.bundle / "wheelhouse" / "source").rglob("*.tar.gz"):
        data = bytearray(sdist.read_bytes())
        data[-1] ^= 1
        sdist.write_bytes(data)
    with pytest.raises(ModuleFailed, match="is damaged: its SHA-256 is not that of the lock"):
        site(lock, env=site.compiling)
    assert not list((site.prefix / "state").glob("built/*/*")) and not site.link.exists()


def test_a_damaged_wheel_is_built_again(site: Node) -> None:
    lock = site.sources()
    site(lock, env=site.compiling)
    (kept,) = (site.prefix / "state" / "built").rglob("*.whl")
    kept.write_bytes(kept.read_bytes()[:100])
    # neither is one taken that holds another version, whatever it is called
    other = build_wheel(kept.parent.parent, NAME, "2.2.0")
    other.rename(other.with_name(kept.name))
    assert site(lock, exports={"A": "1"}, env=site.compiling)["built"] and len(site.calls) == 2


def test_killed_while_it_builds(site: Node, tmp_path: Path) -> None:
    """From the start of the build until the wheel is kept: nothing half-written is ever taken for one."""
    lock, trace = site.sources(), tmp_path / "trace"
    site(lock, env={**site.compiling, "RLINF_FAULT_TRACE": str(trace)})
    labels = [line.partition(" ")[2] for line in trace.read_text().splitlines()]
    first = next(number for number, label in enumerate(labels, 1) if label.startswith("exec uv build"))
    last = next(number for number, label in enumerate(labels, 1) if number > first and label.startswith("fsync torch-2.6.0/"))
    # killed before an fsync it leaves what it leaves at the next point
    for point in (number for number in range(first, last + 1) if number == last or not labels[number - 1].startswith("fsync")):
        shutil.rmtree(site.prefix)
        with pytest.raises(subprocess.CalledProcessError, match="SIGKILL"):
            site(lock, env={**site.compiling, "RLINF_FAULT_AT": str(point)})
        assert not site.link.exists()
        found = list((site.prefix / "state").glob("built/*/*/*.whl"))
        assert bool(found) == (point == last), labels[point - 1]
    assert site(lock, env=site.compiling)["changed"] and site.kernel == "for torch 2.6.0 with pytorch"
    assert not list(site.prefix.rglob(".rlinf")) and not list((site.prefix / "state").rglob("*.new"))
