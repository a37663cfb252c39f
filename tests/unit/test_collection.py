# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection as a user gets it: built from what git tracks, installed without network, its playbooks known by name."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tarfile
from pathlib import Path, PurePosixPath

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PLAYBOOKS = sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml"))
MODULES = sorted(path.stem for path in (ROOT / "plugins" / "modules").glob("rlinf_*.py"))

# what a user needs: anything else in the archive is either missing here or should not be shipped
SHIPPED = {
    "CHANGELOG.rst",
    "COPYING",
    "FILES.json",
    "MANIFEST.json",
    "README.md",
    "README.zh.md",
    "SECURITY.md",
    "changelogs",
    "docs",
    "examples",
    "inventory.example",
    "meta",
    "playbooks",
    "plugins",
    "requirements.txt",
    "roles",
}


def run(*argv: str | Path, cwd: Path, collections: Path | None = None) -> str:
    """Run one of ansible-core's programs, with *collections* as the only place of collections."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environment |= {"ANSIBLE_LOCAL_TEMP": str(cwd / "tmp"), "HOME": str(cwd), "PYTHONPATH": ""}
    if collections:
        environment["ANSIBLE_COLLECTIONS_PATH"] = str(collections)
    done = subprocess.run([BIN / argv[0], *argv[1:]], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The collection's archive, built from a copy that holds what git tracks (with changes not committed yet)."""
    work = tmp_path_factory.mktemp("build")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in tracked:
        if name and (ROOT / name).is_file():
            copy = work / "source" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((ROOT / name).read_bytes())
    run("ansible-galaxy", "collection", "build", "source", "--output-path", work, cwd=work)
    (found,) = work.glob("rlinf-offline-*.tar.gz")
    return found


@pytest.fixture(scope="module")
def installed(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the archive is installed: a directory of collections that holds nothing else."""
    work = tmp_path_factory.mktemp("installed")
    # forced: the tools' own Python finds the checkout, and ansible-galaxy takes it for installed
    run("ansible-galaxy", "collection", "install", "--offline", "--force", archive, "-p", work / "collections", cwd=work)
    return work / "collections"


def test_archive_holds_only_what_a_user_needs(archive: Path) -> None:
    with tarfile.open(archive) as content:
        names = [PurePosixPath(name) for name in content.getnames()]
    assert {name.parts[0] for name in names} <= SHIPPED
    assert {"COPYING", "README.md", "meta", "playbooks", "plugins", "roles"} <= {name.parts[0] for name in names}
    assert not [
        name for name in names if name.suffix in (".pyc", ".gz", ".whl") or "__pycache__" in name.parts or "fragments" in name.parts
    ]


def test_depends_on_no_other_collection() -> None:
    assert yaml.safe_load((ROOT / "galaxy.yml").read_text())["dependencies"] == {}


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_installed_playbook_runs_by_its_name(installed: Path, tmp_path: Path, playbook: str) -> None:
    inventory = tmp_path / "inventory.yml"
    inventory.write_text("all: {children: {rlinf_bastion: {hosts: {localhost: }}, rlinf_nodes: {hosts: {node1: }}}}\n")
    said = run("ansible-playbook", "--syntax-check", "-i", inventory, f"rlinf.offline.{playbook}", cwd=tmp_path, collections=installed)
    assert f"playbook: {installed}/ansible_collections/rlinf/offline/playbooks/{playbook}.yml" in said


def test_installed_modules_are_documented(installed: Path, tmp_path: Path) -> None:
    listed = run("ansible-doc", "--list", "--json", "-t", "module", "rlinf.offline", cwd=tmp_path, collections=installed)
    assert sorted(yaml.safe_load(listed)) == [f"rlinf.offline.{name}" for name in MODULES]


def test_requirements_are_what_the_development_lock_holds() -> None:
    """What a user's bastion needs is what the tests ran with: nothing is tested that requirements.txt does not name."""
    wanted = {line.split()[0].lower() for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")}
    locked = {line.split("==")[0] for line in (ROOT / "requirements-dev.txt").read_text().splitlines() if "==" in line}
    assert wanted <= locked


@pytest.mark.parametrize("module", MODULES)
def test_no_module_returns_what_ansible_takes_for_its_own(module: str) -> None:
    """A result with a true ``skipped``, say, counts as that of a task that was skipped, and its changes for nothing."""
    returned = yaml.safe_load(importlib.import_module(f"ansible_collections.rlinf.offline.plugins.modules.{module}").RETURN)
    names = {*returned, *returned.get("results", {}).get("contains", {})}
    assert names and not names & {"skipped", "failed", "unreachable", "exception", "invocation", "ansible_facts", "add_host", "add_group"}
