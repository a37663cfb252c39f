# SPDX-License-Identifier: GPL-3.0-or-later
"""rlinf_survey through its real main(), with what rlinf_node_info really says of this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils._apt_install import package_state
from ansible_collections.rlinf.offline.plugins.module_utils._survey import surveyed_releases, surveyed_states
from tests.unit.conftest import ModuleFailed

Run = Callable[..., dict[str, Any]]
NODE = (
    '{"format": 1, "nodes": {"a": {"release": RELEASE, "architecture": "amd64", "packages": "0123456789abcdef", "node": {}}}, '
    '"states": {"0123456789abcdef": "Package: a"}}'
)
STATUS = """Package: git
Status: install ok installed
Priority: optional
Maintainer: someone
Architecture: amd64
Version: 1:2.39.5-0+deb12u2
Depends: libc6 (>= 2.36), perl
Conffiles:
 /etc/bash_completion.d/git-prompt 7baac5c3ced94ebf2c0e1dde65c3b1a6
Description: fast
 and more
 .
 of it

Package: gone
Status: deinstall ok config-files
Version: 1.0
"""


@pytest.fixture(scope="module")
def seen(run_module: Run) -> Mapping[str, Any]:
    """What this machine is and has, as a node's would be."""
    return dict(run_module("rlinf_node_info", {"package_state": True})["node"])


def with_state(seen: Mapping[str, Any], state: str, release: str = "debian-12") -> dict[str, Any]:
    return {**seen, "system": {"release": release, "architecture": "amd64", "missing": [], "state": state}}


def test_quad(tmp_path: Path, run_module: Run, seen: Mapping[str, Any]) -> None:
    path = tmp_path / "survey.json"
    nodes = {
        "gpu01": with_state(seen, "Package: a\n"),
        "gpu02": with_state(seen, "Package: a\n"),
        "gpu03": with_state(seen, "Package: b\n"),
    }
    arguments = {"path": str(path), "nodes": nodes}
    would = run_module("rlinf_survey", arguments, check=True, diff=True)
    assert would["changed"] and not path.exists()
    did = run_module("rlinf_survey", arguments, diff=True)
    assert did["changed"] and did["diff"] == would["diff"] and did["states"] == 2
    assert did["nodes"][0].startswith(f"gpu01: debian-12 amd64; glibc {seen['glibc']}; ")
    content = path.read_bytes()
    # free space is another at every look, and no news
    for node in nodes.values():
        node["paths"] = {name: {**place, "free_bytes": 1} for name, place in node["paths"].items()}
    assert not run_module("rlinf_survey", arguments, check=True)["changed"] and not run_module("rlinf_survey", arguments)["changed"]
    assert path.read_bytes() == content and set(tmp_path.iterdir()) == {path, path.with_name(".survey.json.lock")}
    assert surveyed_releases(path, "amd64") == ["debian-12"] and surveyed_releases(path, "arm64") == []
    assert sorted(surveyed_states(path, "debian-12", "amd64")) == ["Package: a\n", "Package: b\n"]


def test_who_is_not_seen_now_stays_and_states_that_no_one_has_go(tmp_path: Path, run_module: Run, seen: Mapping[str, Any]) -> None:
    path = tmp_path / "survey.json"
    run_module(
        "rlinf_survey", {"path": str(path), "nodes": {"one": with_state(seen, "Package: a\n"), "two": with_state(seen, "Package: b\n")}}
    )
    told = run_module("rlinf_survey", {"path": str(path), "nodes": {"two": with_state(seen, "Package: c\n", "ubuntu-22.04")}})
    assert told["changed"] and [line.partition(":")[0] for line in told["nodes"]] == ["one", "two"]
    assert surveyed_releases(path, "amd64") == ["debian-12", "ubuntu-22.04"]
    assert surveyed_states(path, "debian-12", "amd64") == ["Package: a\n"]
    assert set(json.loads(path.read_text())["states"].values()) == {"Package: a\n", "Package: c\n"}


def test_a_node_without_dpkg_counts_for_no_release(tmp_path: Path, run_module: Run, seen: Mapping[str, Any]) -> None:
    path = tmp_path / "survey.json"
    node = {**seen, "system": {"release": "rocky-9", "architecture": None, "missing": None}}
    assert run_module("rlinf_survey", {"path": str(path), "nodes": {"one": node}})["nodes"][0].endswith("; no dpkg")
    assert surveyed_releases(path, "amd64") == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "is not what rlinf.offline.survey of this version writes. Run it again, or correct rlinf_survey_file"),
        ('{"format": 2, "nodes": {}, "states": {}}', "is not what rlinf.offline.survey of this version writes"),
        ('{"format": 1, "nodes": {"a": 1}, "states": {}}', "is not what rlinf.offline.survey of this version writes"),
        (NODE.replace("RELEASE", "null"), "is not what rlinf.offline.survey of this version writes"),
        (NODE.replace("RELEASE", '"debian-12"'), "the package state 0123456789ab is missing or was changed"),
        ("cut of", "survey.json"),
    ],
)
def test_another_file_is_refused_and_kept(tmp_path: Path, run_module: Run, seen: Mapping[str, Any], content: str, said: str) -> None:
    path = tmp_path / "survey.json"
    path.write_text(content)
    with pytest.raises(ModuleFailed) as caught:
        run_module("rlinf_survey", {"path": str(path), "nodes": {"one": dict(seen)}})
    assert said in str(caught.value) and path.read_text() == content


def test_a_package_state_is_what_apt_resolves_by(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text(STATUS)
    assert package_state(status) == (
        "Package: git\nStatus: install ok installed\nPriority: optional\nArchitecture: amd64\nVersion: 1:2.39.5-0+deb12u2\n"
        "Depends: libc6 (>= 2.36), perl\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1.0\n"
    )
