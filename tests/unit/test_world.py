# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo's world: built twice it is the same, and it is as hard as the real one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.demo.dates import CUT_OFF
from tests.demo.world import World, build
from tests.support.upstream import Upstream

UV = Path(sys.executable).with_name("uv")
PYTHON = sys.executable


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build(tmp_path_factory.mktemp("world") / "root")


@dataclass(frozen=True)
class Online:
    """A checkout of the demo's RLinf, and an environment in which the world stands behind github.com and the index."""

    project: Path
    env: Mapping[str, str]

    def uv(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([UV, *arguments], cwd=self.project, env=self.env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def online(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Online]:
    work = tmp_path_factory.mktemp("online")
    with Upstream(world.root) as upstream:
        config = work / "gitconfig"
        rules = [f'[url "{to}"]\n\tinsteadOf = {prefix}\n' for prefix, to in world.url_rewrites(upstream.url).items()]
        config.write_text("".join(rules))
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(work),
            "GIT_CONFIG_GLOBAL": str(config),
            "GIT_CONFIG_NOSYSTEM": "1",
            "UV_CACHE_DIR": str(work / "cache"),
            "UV_DEFAULT_INDEX": world.index_url(upstream.url),
            "UV_EXCLUDE_NEWER": f"{CUT_OFF}T00:00:00Z",
            "UV_PYTHON": PYTHON,
            "UV_NO_GITHUB_FAST_PATH": "1",
        }
        clone = ["git", "clone", "-q", "-b", "release/v0.1", "https://github.com/RLinf/RLinf.git", str(work / "RLinf")]
        subprocess.run(clone, check=True, env=env)
        yield Online(work / "RLinf", env)


def test_a_world_built_twice_is_the_same(world, tmp_path, tree_hash):
    again = build(tmp_path / "root")
    served = tree_hash(again.root / "index", mtimes=True)
    assert served == tree_hash(world.root / "index", mtimes=True)
    assert tree_hash(again.root / "git") == tree_hash(world.root / "git")
    assert all(world.file(url).is_file() for url in world.wheels.values())


def test_default_branches_and_tags_are_as_upstreams(world):
    assert world.commit("moojink/dlimp_openvla", "HEAD") == world.commit("moojink/dlimp_openvla", "refs/heads/master")
    assert world.commit("haosulab/ManiSkill", "v3.0.0b22") == world.commit("haosulab/ManiSkill", "main~1")
    assert world.commit("RLinf/RLinf", "release/v0.1") != world.commit("RLinf/RLinf", "main")


def test_the_steps_have_a_solution_one_after_the_other_but_not_together(online, world, tmp_path):
    def compile_with(*inputs: str | Path) -> subprocess.CompletedProcess[str]:
        return online.uv("pip", "compile", "-q", "--no-annotate", "--no-header", *inputs)

    # the last commits of the default branches require what nobody has: take those before the cut-off, as the mirrors do
    openvla = f"openvla @ git+https://github.com/openvla/openvla.git@{world.commit('openvla/openvla', 'main~1')}"
    dlimp = f"dlimp @ git+https://github.com/moojink/dlimp_openvla@{world.commit('moojink/dlimp_openvla', 'HEAD~1')}"
    overrides = tmp_path / "overrides.txt"
    overrides.write_text(
        f"{dlimp}\nlatex2sympy2 @ git+https://github.com/RLinf/latex2sympy2.git@{world.commit('RLinf/latex2sympy2', 'main~1')}\n"
    )
    model = tmp_path / "openvla.in"
    model.write_text(f"{openvla}\n")
    together = compile_with("--override", overrides, "pyproject.toml", model)
    assert together.returncode != 0
    assert "wrapt" in together.stderr and "No solution found" in together.stderr

    pins = tmp_path / "pins.txt"
    first = compile_with("--override", overrides, "--extra", "embodied", "pyproject.toml", "-o", pins)
    assert first.returncode == 0, first.stderr
    before = pins.read_text().splitlines()
    second = compile_with("--override", overrides, model, "-o", pins)
    assert second.returncode == 0, second.stderr
    after = pins.read_text().splitlines()
    assert {"wrapt==1.17.3", "numpy==2.2.6", "transformers==4.40.1", "tensordict==0.10.0", "hydra-core==1.4.0.dev1"} <= set(before)
    assert {"wrapt==1.14.2", "numpy==1.26.4", "transformers==4.40.1", "torch==2.6.0", dlimp} <= set(after)


def test_the_project_can_be_locked_for_every_platform(online, world, tmp_path):
    checkout = world.commit("RLinf/latex2sympy2", "main~1")
    project = tmp_path / "RLinf"
    shutil.copytree(online.project, project)
    pyproject = project / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace("latex2sympy2.git", f"latex2sympy2.git@{checkout}"))
    locked = online.uv("lock", "--project", project)
    assert locked.returncode == 0, locked.stderr
    text = (project / "uv.lock").read_text()
    assert 'version = "4.40.1"' in text and 'version = "4.51.1"' in text
    assert "torch-2.9.1" not in text and "torch-2.6.0" in text


def test_what_is_newer_than_the_cut_off_breaks_whoever_takes_it(online):
    taken = online.uv("pip", "compile", "-q", "pyproject.toml", "--extra", "embodied", "--exclude-newer", "2026-06-01T00:00:00Z")
    assert taken.returncode != 0
    assert "not-released-yet" in taken.stderr


def test_libero_asks_unless_it_is_configured(world, tmp_path):
    checkout = tmp_path / "LIBERO"
    subprocess.run(["git", "clone", "-q", world.root / "git/github.com/RLinf/LIBERO.git", checkout], check=True)
    command = [PYTHON, "-c", "import libero.libero as l; print(l.get_libero_path('datasets'))"]
    env = {"PYTHONPATH": str(checkout), "LIBERO_CONFIG_PATH": str(tmp_path / "config")}
    asked = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert asked.returncode != 0 and "EOFError" in asked.stderr
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.yaml").write_text("datasets: /data\n")
    assert subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout == "/data\n"
