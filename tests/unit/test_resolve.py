# SPDX-License-Identifier: GPL-3.0-or-later
"""Resolving steps with real uv, offline, from an index that is a folder; reading what uv resolved, and what it says of a repository that is missing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Catalog
from ansible_collections.rlinf.offline.plugins.module_utils._errors import LockError
from ansible_collections.rlinf.offline.plugins.module_utils._git_config import redirect_config
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._resolve import (
    Editable,
    NoSolution,
    Overlay,
    Pin,
    Resolution,
    Resolver,
    add_metadata,
    missing_repository,
)
from ansible_collections.rlinf.offline.plugins.module_utils._uv import Uv, isolated_environment
from ansible_collections.rlinf.offline.plugins.module_utils._wheel import Platform
from tests.support.origins import Origin
from tests.support.wheels import build_sdist, build_wheel, source_tree, write_tree

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"

COMMIT = "c8f03f48af692657d3060c19588038c7220e9af9"


def test_a_pin_from_an_index_has_a_version():
    pin = Pin.parse("Flash_Attn==2.7.4.post1")
    assert (pin.name, pin.version, pin.git, pin.short) == ("flash-attn", "2.7.4.post1", None, "2.7.4.post1")


def test_a_pin_from_git_has_a_commit_and_a_subdirectory():
    pin = Pin.parse(f"openpi-client @ git+https://github.com/RLinf/openpi@{COMMIT}#egg=x&subdirectory=packages/openpi-client")
    assert pin.git == ("https://github.com/RLinf/openpi", COMMIT, "packages/openpi-client")
    assert pin.version is None


def test_an_ssh_url_keeps_its_user():
    assert Pin.parse(f"a @ git+ssh://git@github.com/o/a.git@{COMMIT}").git == ("ssh://git@github.com/o/a.git", COMMIT, None)


def test_a_git_pin_without_a_commit_is_an_error():
    with pytest.raises(LockError, match="without a commit"):
        _ignored = Pin.parse("a @ git+https://github.com/o/a.git@main").git


def test_the_repository_that_git_asked_for_is_found_in_what_uv_says(tmp_path: Path):
    bundle = Bundle(tmp_path)
    command = "/usr/bin/git fetch --force --update-head-ok 'https://github.com/moojink/dlimp_openvla' '+HEAD:refs/remotes/origin/HEAD'"
    said = f"cause: process didn't exit successfully: `{command}`"
    assert missing_repository(said, bundle) == "https://github.com/moojink/dlimp_openvla"
    (bundle.repos / "github.com/moojink/dlimp_openvla.git").mkdir(parents=True)
    assert missing_repository(said, bundle) is None


def test_a_missing_submodule_is_found_by_the_path_that_git_was_sent_to(tmp_path: Path):
    bundle = Bundle(tmp_path)
    said = f"fatal: '{bundle.repos}/github.com/o/sub.git' does not appear to be a git repository"
    assert missing_repository(said, bundle) == "https://github.com/o/sub.git"


# -- steps ---------------------------------------------------------------------------------------------------------------------


class Site:
    """A project, repositories and an index, and the resolver of a target of them."""

    def __init__(self, root: Path) -> None:
        self.root, self.index = root, root / "index"
        self.bundle = Bundle(root / "bundle")
        self.bundle.root.mkdir()
        self.index.mkdir()
        self.bundle.repos.symlink_to(root / "upstream" / "git")
        self.origins: dict[str, Origin] = {}
        (root / "upstream").mkdir()
        self.repository("project", {"pyproject.toml": '[project]\nname = "project"\nversion = "1"\n'})

    def repository(self, name: str, files: dict[str, str]) -> Origin:
        origin = self.origins[name] = Origin(self.root / "upstream", f"github.com/o/{name}.git")
        write_tree(origin.tree, files)
        origin.commit()
        return origin

    def publish(self, name: str, *versions: str, **more: Any) -> None:
        for version in versions:
            build_wheel(self.index, name, version, **more)

    def resolver(self, steps: list[dict[str, Any]], *, leave_out: tuple[str, ...] = (), **target: Any) -> Resolver:
        entry = {"project": "project", "python": MINOR, "steps": steps, **target}
        wheels = {path.name.split("-")[0]: path for path in sorted(self.bundle.wheels.glob("*.whl"))}
        catalog = Catalog.parse(
            {
                "repositories": {name: {"url": origin.url} for name, origin in self.origins.items()},
                "wheels": {name: {"url": f"https://github.com/o/{path.name}"} for name, path in wheels.items()},
                "targets": {"it": entry},
            }
        )
        git_config = self.root / "gitconfig"
        git_config.write_text(redirect_config(self.bundle.repos), encoding="utf-8")
        env = isolated_environment(self.root / "cache", git_config)
        del env["UV_NO_CONFIG"]
        env |= {
            "UV_OFFLINE": "1",
            "UV_FIND_LINKS": str(self.index),
            "GIT_ALLOW_PROTOCOL": "file",
            "XDG_CONFIG_HOME": str(self.root / "none"),
        }
        checkouts = {name: origin.tree for name, origin in self.origins.items()}
        add_metadata(checkouts["project"], catalog.targets["it"])
        return Resolver(
            uv=Uv(Path(sys.executable).with_name("uv"), env),
            bundle=self.bundle,
            target=catalog.targets["it"],
            python=Path(sys.executable),
            platform=Platform.parse("x86_64-manylinux_2_31"),
            torch_backend="pypi",
            checkouts=checkouts,
            commits={name: (origin.url, origin.head) for name, origin in self.origins.items()},
            wheels=wheels,
            leave_out=frozenset(leave_out),
            scratch=self.root / "scratch",
        )

    def resolve(self, *steps: dict[str, Any], **more: Any) -> Resolution:
        return self.resolver(list(steps), **more).resolve()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_script_stands_for_what_it_installs(site: Site) -> None:
    """As BEHAVIOR-1K's: a package of a folder, in a version that no index has; two working copies that want each other; wheels together."""
    parts = {
        "bddl3": source_tree("bddl", "3.7.0", requires=["base"]),
        "OmniGibson": source_tree("omnigibson", "3.7.1", requires=["bddl~=3.7.0", "pinned"]),
        "joylo": source_tree("joylo", "3.7.0", requires=["omnigibson>=3.7", "bddl"]),
    }
    sim = site.repository("sim", {f"{folder}/{name}": text for folder, files in parts.items() for name, text in files.items()})
    site.publish("bddl", "3.6.0")
    site.publish("base", "1.0", "2.0")
    site.publish("pinned", "1.0", "2.0")
    build_wheel(site.bundle.wheels, "kit", "1.0", requires=["kernel==1.0"])
    build_wheel(site.bundle.wheels, "kernel", "1.0")
    build_wheel(site.bundle.wheels, "unwanted", "1.0")
    found = site.resolve(
        {"requirements": ["pinned<2", "bddl"]},
        {
            "script": "sim",
            "run": ["./setup.sh"],
            "installs": [
                {"package": "sim", "subdirectory": "bddl3"},
                {"editable": "sim", "subdirectory": "OmniGibson"},
                {"wheels": ["kit", "kernel", "unwanted"]},
                {"editable": "sim", "subdirectory": "joylo"},
            ],
        },
        {"uninstall": ["Base"]},
        leave_out=("unwanted",),
    )
    url = f"git+https://github.com/o/sim.git@{sim.head}#subdirectory=bddl3"
    assert found.public_lines == [
        f"bddl @ {url}",
        "kernel @ wheels/kernel-1.0-py3-none-any.whl",
        "kit @ wheels/kit-1.0-py3-none-any.whl",
        "pinned==1.0",
    ]
    assert found.editables == (Editable("sim", "omnigibson", "OmniGibson"), Editable("sim", "joylo", "joylo"))
    assert [name for name, _pins in found.steps] == [
        "requirements pinned<2 bddl",
        "package sim/bddl3",
        "editable sim/OmniGibson",
        "wheels kit kernel unwanted",
        "editable sim/joylo",
        "uninstall Base",
    ]


def test_what_is_there_and_would_do_is_kept_and_what_would_not_is_replaced(site: Site) -> None:
    """Commits, prebuilt wheels and working copies, each on its own: an installer looks into the environment first."""
    fork = site.repository("fork", source_tree("fork", "1.5"))
    site.repository("moved", source_tree("moved", "1.5"))
    for name in ("fork", "moved", "prebuilt"):
        site.publish(name, "2.0")
    build_wheel(site.bundle.wheels, "prebuilt", "1.0")
    there = [{"package": "fork"}, {"package": "moved"}, {"wheels": ["prebuilt"]}]
    found = site.resolve(*there, {"requirements": ["fork>=1", "moved>=2", "prebuilt"]})
    assert found.public_lines == [f"fork @ git+{fork.url}@{fork.head}", "moved==2.0", "prebuilt @ wheels/prebuilt-1.0-py3-none-any.whl"]
    with pytest.raises(NoSolution, match="target it: step requirements fork>=3 cannot be resolved"):
        site.resolve(*there, {"requirements": ["fork>=3"]})


def test_a_wheel_that_does_not_fit_the_nodes_is_refused(site: Site) -> None:
    """By its name: a wheel is never renamed so that it is taken."""
    build_wheel(site.bundle.wheels, "kit", "1.0", tags=f"cp{MINOR.replace('.', '')}-none-manylinux_2_34_x86_64")
    said = rf"step wheels kit: kit-1.0-\S+manylinux_2_34_x86_64.whl does not fit CPython {MINOR} on x86_64-manylinux_2_31. If every node has the glibc"
    with pytest.raises(LockError, match=said):
        site.resolve({"wheels": ["kit"]})
    assert site.resolve({"wheels": ["kit"]}, leave_out=("kit",)).pins == {}


def test_an_overlay_leaves_the_pins_and_is_noted(site: Site) -> None:
    site.publish("lib", "1.0", "2.0")
    site.publish("donor", "1.0")
    overlay = {"overlay": "Lib", "from": "donor", "path": "donor/replace"}
    found = site.resolve({"requirements": ["lib<2", "donor"]}, overlay, {"requirements": ["lib"]})
    assert found.public_lines == ["donor==1.0", "lib==1.0"] and found.overlays == (Overlay("lib", "donor", "donor/replace"),)
    with pytest.raises(LockError, match=r"step overlay Lib: no earlier step installs donor\. Correct the name, or the order"):
        site.resolve({"requirements": ["lib"]}, overlay)
    with pytest.raises(
        LockError, match=r"step requirements lib>=2 brings another lib after its overlay was made\. Put the overlay after it"
    ):
        site.resolve({"requirements": ["lib<2", "donor"]}, overlay, {"requirements": ["lib>=2"]})


def test_static_metadata_spares_a_build_inside_and_outside_the_project(site: Site) -> None:
    site.publish("base", "1.0")
    tree = {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "none"\nbackend-path = ["."]\n',
        "none.py": "raise SystemExit('no nvcc')\n",
    }
    build_sdist(site.index, "gpu", "2.1", files=tree)
    metadata = [{"name": "gpu", "version": "2.1", "requires_dist": ["base"]}]
    for settings in (True, False):
        steps = {"requirements": ["gpu==2.1"], "project_settings": settings}
        with pytest.raises(LockError, match="no nvcc"):
            site.resolve(steps)
        assert site.resolve(steps, metadata=metadata).lines == ["base==1.0", "gpu==2.1"]
        site.origins["project"].git("checkout", "--quiet", ".")


def test_static_metadata_comes_beside_what_the_project_has(site: Site) -> None:
    tree = site.origins["project"].tree
    text = '[project]\nname = "project" # kept\n[[tool.uv.dependency-metadata]]\nname = "own"\nrequires-dist = []\n'
    (tree / "pyproject.toml").write_text(text)
    metadata = [{"name": "gpu", "version": "2.1", "requires_dist": ["base"]}]
    site.resolver([{"uv_sync": []}], metadata=metadata)
    written = (tree / "pyproject.toml").read_text()
    assert "# kept" in written
    assert tomlkit.parse(written).unwrap()["tool"]["uv"]["dependency-metadata"] == [
        {"name": "own", "requires-dist": []},
        {"name": "gpu", "version": "2.1", "requires-dist": ["base"]},
    ]


def test_settings_above_the_scratch_directory_are_not_looked_for(site: Site) -> None:
    """The bundle may lie inside a checkout of the project."""
    site.publish("base", "1.0", "2.0")
    settings = '[project]\nname = "project"\nversion = "1"\n[tool.uv]\noverride-dependencies = ["base==1.0"]\n'
    (site.root / "pyproject.toml").write_text(settings)
    (site.origins["project"].tree / "pyproject.toml").write_text(settings)
    assert site.resolve({"requirements": ["base"]}).lines == ["base==1.0"]
    assert site.resolve({"requirements": ["base"], "project_settings": False}).lines == ["base==2.0"]


def test_a_subdirectory_that_is_not_there_is_named(site: Site) -> None:
    with pytest.raises(LockError, match="step editable project/sub: project has no such directory at this version"):
        site.resolve({"editable": "project", "subdirectory": "sub"})


def test_variables_of_a_step_reach_what_it_runs(site: Site) -> None:
    """Such as GIT_LFS_SKIP_SMUDGE; here a build that fails without one."""
    tree = source_tree("picky", "1.0")
    tree["pyproject.toml"] = tree["pyproject.toml"].replace("dependencies = []", 'dynamic = ["dependencies"]')
    tree["_backend.py"] = "import os\nos.environ['LET_IT_BUILD']\n" + tree["_backend.py"]
    site.repository("picky", tree)
    requirement = {"requirements": ["picky @ git+https://github.com/o/picky.git"]}
    with pytest.raises(LockError, match="LET_IT_BUILD"):
        site.resolve(requirement)
    assert list(site.resolve({**requirement, "env": {"LET_IT_BUILD": "1"}}).pins) == ["picky"]
