# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two runs at a time: the second is told of the first, by modules in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils import _existing, _venv
from ansible_collections.rlinf.offline.plugins.module_utils._errors import VenvError
from ansible_collections.rlinf.offline.plugins.module_utils._files import read_json, write_json
from ansible_collections.rlinf.offline.plugins.module_utils._layout import environment_lock
from tests.support.environments import Site
from tests.support.origins import git
from tests.support.wheels import build_wheel, write_tree
from tests.unit.conftest import ModuleFailed
from tests.unit.test_files import holder
from tests.unit.test_target import World, built, world

Run = Callable[..., dict[str, Any]]
__all__ = ["built", "world"]


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Have another process hold a lock while the body runs."""
    with holder(path) as first:
        try:
            yield
        finally:
            first.communicate()


@contextmanager
def building(site: Site, lock: Path, tree: Path, **arguments: Any) -> Iterator[None]:
    """Have rlinf_venv run a script in a working copy while the body runs, and end well after it."""
    go = tree.parent / "fifo"
    os.mkfifo(go)
    write_tree(tree, {"wait.sh": f"#!/bin/sh\necho begun > '{go}'\nread -r go < '{go}'\n"})
    (tree / "wait.sh").chmod(0o755)
    script = {"name": tree.name, "cwd": str(tree), "argv": ["./wait.sh"]}
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(site, lock, scripts=[script], **arguments)
        begun = subprocess.run(["timeout", "120", "head", "-n", "1", go], check=True, capture_output=True, text=True).stdout
        assert begun == "begun\n" and not first.done()
        try:
            yield
        finally:
            go.write_text("go\n")
        assert first.result()["changed"]


@pytest.mark.parametrize("mode", ["own", "existing"])
def test_nobody_changes_a_working_copy_that_is_built_from(world: World, run_module: Run, tmp_path: Path, mode: str) -> None:
    run_module("rlinf_target", world.args)
    site = Site(world.bundle.root, world.prefix, run_module)
    lock, tree = site.lock(build_wheel(site.index, "alpha", "1.0")), world.prefix / "src" / "LIBERO"
    arguments: dict[str, Any] = {"mode": mode}
    if mode == "existing":
        arguments["path"] = str(tmp_path / "mine")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "mine"], check=True)
    (tree / "README").write_text("edited\n")
    paths = {name: world.args[name] for name in ("bundle_dir", "prefix")}
    patching = {"project_dir": str(world.tree), "bundle_dir": str(world.bundle.root), "state_dir": str(world.prefix / "state")}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("rlinf_target", {**paths, "state": "reset"}),
        ("rlinf_req_patch", patching),
        ("rlinf_req_patch", {**patching, "state": "restored"}),
    ]
    # another target, which has working copies of its own alone, is nobody's business
    write_json(world.prefix / "state" / "targets" / "other.json", {"worktrees": {"mine": {"path": str(tmp_path / "mine"), "commit": None}}})
    with held(environment_lock(world.prefix / "state", "other")), building(site, lock, tree, **arguments):
        for module, call in calls:
            with pytest.raises(ModuleFailed, match=r"which the environment openvla is built from, is in use by process \d+ of "):
                run_module(module, call)
            # a check changes nothing, and waits for nobody
            run_module(module, call, check=True)
        assert (tree / "README").read_text() == "edited\n"
    for module, call in calls:
        run_module(module, call)
    assert git("status", "--porcelain", "--untracked-files=no", cwd=tree) == ""


def test_nobody_moves_a_working_copy_that_is_built_from(world: World, run_module: Run) -> None:
    """What is at its commit already is used by several at a time."""
    run_module("rlinf_target", world.args)
    site = Site(world.bundle.root, world.prefix, run_module)
    lock, tree = site.lock(build_wheel(site.index, "alpha", "1.0")), world.prefix / "src" / "LIBERO"
    before = git("rev-parse", "HEAD", cwd=tree)
    with building(site, lock, tree):
        assert not run_module("rlinf_target", world.args)["changed"]
        after = world.commit("LIBERO", {"new.txt": "new\n"})
        world.seal()
        with pytest.raises(ModuleFailed, match=r"src/LIBERO, which the environment openvla is built from, is in use by process"):
            run_module("rlinf_target", world.args)
        assert git("rev-parse", "HEAD", cwd=tree) == before
    run_module("rlinf_target", world.args)
    assert git("rev-parse", "HEAD", cwd=tree) == after


@pytest.mark.parametrize("mode", ["own", "existing"])
def test_damage_is_noted_of_what_was_looked_at(run_module: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """While verifying goes on, others install and roll back: their notes are not written over."""
    site = Site(tmp_path / "bundle", tmp_path / "prefix", run_module)
    lock, path = site.lock(build_wheel(site.index, "alpha", "1.0")), tmp_path / "mine"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", path], check=True)
    arguments = {"mode": mode, **({"path": str(path)} if mode == "existing" else {})}
    site(lock, **arguments)
    place = path if mode == "existing" else site.link.resolve()
    note = path / "rlinf" / "openvla.json" if mode == "existing" else place / "rlinf.json"
    next(place.glob("lib/python3*/site-packages/alpha.py")).write_text("damaged\n")

    known = read_json(note)
    taken = path / "rlinf" / ".lock" if mode == "existing" else environment_lock(site.prefix / "state", "openvla")
    with held(taken), pytest.raises(ModuleFailed, match="in use by process"):
        site(state="verified", **arguments)
    assert read_json(note) == known

    subject: Any = _existing.Existing(site.installer, path) if mode == "existing" else _venv.Venv(
        site.installer.node, site.installer.bundle, "openvla", site.installer.uv
    )  # fmt: skip
    options = {} if mode == "existing" else {"exact": True}

    def meanwhile(*_arguments: Any, **_options: Any) -> dict[str, list[str]]:
        write_json(note, {**known, "by": "another"})
        return {"alpha": ["alpha.py"]}

    monkeypatch.setattr(_existing if mode == "existing" else _venv, "damaged_files", meanwhile)
    with pytest.raises(VenvError, match="damaged files of 1 packages"):
        subject.verify(None, [], mark=True, **options)
    assert read_json(note) == {**known, "by": "another"}
    monkeypatch.undo()
    with pytest.raises(ModuleFailed, match="damaged files of 1 packages"):
        site(state="verified", **arguments)
    assert read_json(note) == {**known, "by": "another", "damaged": ["alpha"]}


def test_a_survey_is_changed_by_one_at_a_time(run_module: Run, tmp_path: Path) -> None:
    path = tmp_path / "survey.json"
    arguments = {"path": str(path), "nodes": {}}
    with held(tmp_path / ".survey.json.lock"):
        assert run_module("rlinf_survey", arguments, check=True)["changed"]
        with pytest.raises(ModuleFailed, match=r"The survey .*survey.json is in use by process \d+ of .*run again"):
            run_module("rlinf_survey", arguments)
        assert not path.exists()
    assert run_module("rlinf_survey", arguments)["changed"]


def test_what_a_machine_knows_of_a_bundle_is_noted_by_one_at_a_time(run_module: Run, tmp_path: Path) -> None:
    bundle, stamp = tmp_path / "bundle", tmp_path / "state" / "bundle.json"
    write_tree(bundle / "assets", {"a.txt": "one\n"})
    run_module("rlinf_bundle", {"bundle_dir": str(bundle), "state": "sealed"})
    arguments = {"bundle_dir": str(bundle), "stamp": str(stamp)}
    with held(stamp.with_name(".bundle.json.lock")):
        assert run_module("rlinf_bundle", arguments, check=True)["changed"]
        with pytest.raises(ModuleFailed, match=r"What is known here of .*bundle is in use by process"):
            run_module("rlinf_bundle", arguments)
        assert not stamp.exists()
    assert run_module("rlinf_bundle", arguments)["changed"] and json.loads(stamp.read_text())["serial"] == 1
