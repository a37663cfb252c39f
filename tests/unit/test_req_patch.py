# SPDX-License-Identifier: GPL-3.0-or-later
"""rlinf_req_patch as Ansible runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkouts import make_bundle, make_checkout, snapshot, status
from tests.unit.conftest import ModuleFailed

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def args(tmp_path: Path) -> dict[str, Any]:
    make_bundle(tmp_path / "bundle")
    make_checkout(tmp_path / "project")
    return {"project_dir": str(tmp_path / "project"), "bundle_dir": str(tmp_path / "bundle"), "state_dir": str(tmp_path / "state")}


def test_quad(run_module: Run, args: dict[str, Any], tree_hash: Callable[..., Any], tmp_path: Path) -> None:
    project = tmp_path / "project"
    pristine, bundle = snapshot(project), tree_hash(tmp_path / "bundle")
    for state in ("patched", "restored"):
        arguments = {**args, "state": state, "purge": True}
        before = tree_hash(tmp_path, mtimes=True)
        foreseen = run_module("rlinf_req_patch", arguments, check=True, diff=True)
        assert tree_hash(tmp_path, mtimes=True) == before
        done = run_module("rlinf_req_patch", arguments, diff=True)
        assert done == foreseen and done["changed"] and done["messages"] and done["diff"]
        after = tree_hash(tmp_path, mtimes=True)
        for check in (True, False):
            again = run_module("rlinf_req_patch", arguments, check=check, diff=True)
            assert not again["changed"] and not again["diff"]
        assert {path: what for path, what in tree_hash(tmp_path, mtimes=True).items() if not path.endswith(".lock")} == {
            path: what for path, what in after.items() if not path.endswith(".lock")
        }
    assert snapshot(project) == pristine and tree_hash(tmp_path / "bundle") == bundle


def test_the_diff_shows_each_file_once(run_module: Run, args: dict[str, Any]) -> None:
    diff = run_module("rlinf_req_patch", args, check=True, diff=True)["diff"]
    assert [part["before_header"] for part in diff] == [
        "requirements/embodied/envs/maniskill.txt",
        "requirements/embodied/models/openpi.txt",
        "requirements/embodied/models/openvla.txt",
        "requirements/embodied/models/openvla_oft.txt",
        "pyproject.toml",
    ]
    assert diff[2]["before"] == "openvla @ git+https://github.com/openvla/openvla.git"
    assert diff[2]["after"] == f"openvla @ git+file://{args['bundle_dir']}/repos/github.com/openvla/openvla.git"


def test_restoring_needs_no_bundle_and_nothing_patched(run_module: Run, args: dict[str, Any], tmp_path: Path) -> None:
    del args["bundle_dir"]
    assert not run_module("rlinf_req_patch", {**args, "state": "restored"})["changed"]
    with pytest.raises(ModuleFailed, match="bundle_dir"):
        run_module("rlinf_req_patch", args)


def test_credentials_are_in_no_output(run_module: Run, args: dict[str, Any], tmp_path: Path) -> None:
    url = "https://user:hunter2@github.com/openvla/openvla"
    path = tmp_path / "project/requirements/private.txt"
    path.write_text(f"a @ git+{url}\nb @ git+{url}@v9\nc @ https://hunter2@h/c-1.zip\n", encoding="utf-8")
    results = [run_module("rlinf_req_patch", args, diff=True), run_module("rlinf_req_patch", {**args, "state": "restored"}, diff=True)]
    assert "hunter2" not in json.dumps(results)
    assert "hunter2" in path.read_text()
    with pytest.raises(ModuleFailed) as caught:
        run_module("rlinf_req_patch", {**args, "strict": True}, diff=True)
    assert "hunter2" not in json.dumps(caught.value.result) and "private.txt:2" in caught.value.result["msg"]


def test_a_node_that_has_nothing_yet(run_module: Run, args: dict[str, Any], tmp_path: Path) -> None:
    missing = {**args, "bundle_dir": str(tmp_path / "no-bundle")}
    foreseen = run_module("rlinf_req_patch", missing, check=True)
    assert foreseen["changed"] and foreseen["after_prepare"] and "no-bundle" in foreseen["reason"]
    with pytest.raises(ModuleFailed, match=r"No local repositories found.*rlinf\.offline\.download"):
        run_module("rlinf_req_patch", missing)
    assert status(tmp_path / "project") == ""


def test_without_a_project_every_one_is_restored(run_module: Run, args: dict[str, Any], tmp_path: Path) -> None:
    pristine = snapshot(tmp_path / "project")
    run_module("rlinf_req_patch", args)
    project = args.pop("project_dir")
    with pytest.raises(ModuleFailed, match="project_dir"):
        run_module("rlinf_req_patch", args)
    done = run_module("rlinf_req_patch", {**args, "state": "restored", "purge": True})
    assert done["counts"] == {"restored": 5, "absent": 5} and {Path(item["name"]).parents[-1] for item in done["results"]} == {Path("/")}
    assert done["messages"][0]["text"].startswith(f"[local-deps] restoring requirements backup {project}/")
    assert snapshot(tmp_path / "project") == pristine
