# SPDX-License-Identifier: GPL-3.0-or-later
"""What of an entry decides a target's packages: everything that is resolved, and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from packaging.version import Version

from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Catalog
from ansible_collections.rlinf.offline.plugins.module_utils._definition import definition
from ansible_collections.rlinf.offline.plugins.module_utils._shipped import Shipped
from tests.support.catalog import shipped
from tests.tools.pins import PINS

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def catalog() -> dict[str, Any]:
    return copy.deepcopy(shipped())


def digest(catalog: dict[str, Any], target: str) -> str:
    parsed = Catalog.parse(catalog)
    return definition(parsed.targets[target], parsed)


def target(change: Callable[[dict[str, Any]], object]) -> Change:
    return lambda catalog: change(catalog["targets"]["reason"])


def recipes(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: {"needs": ["another"], "env": {"A": "1"}} for name in entry["build_on_node"]}


NOTHING: dict[str, Change] = {
    "exports": target(lambda entry: entry.update(exports={"A": "1"})),
    "files": target(lambda entry: entry.update(files={"{state}/a": "text"})),
    "links": target(lambda entry: entry.update(links={".a": "{assets}/a"})),
    "imports": target(lambda entry: entry.update(imports=["torch"])),
    "licences": target(lambda entry: entry.update(licences={"rlinf_accept_it": "a licence"})),
    "assets": target(lambda entry: entry.update(assets=["sapien-physx"])),
    "how a node builds": target(lambda entry: entry.update(build_on_node=recipes(entry))),
    "a working copy": target(lambda entry: entry["steps"].insert(0, {"worktree": "cython"})),
    "a script that installs nothing": target(lambda entry: entry["steps"].append({"script": "cython", "run": ["./x"]})),
    "where a wheel comes from": lambda catalog: catalog["wheels"]["apex-cp311"].update(
        url="https://mirror.example/" + catalog["wheels"]["apex-cp311"]["url"].rpartition("/")[2]
    ),
    "how the project's URL is written": lambda catalog: catalog["repositories"]["RLinf"].update(url="git@github.com:RLinf/RLinf.git"),
}
SOMETHING: dict[str, Change] = {
    "python": target(lambda entry: entry.update(python="3.11.9")),
    "cut-off": target(lambda entry: entry.update(cut_off="2026-01-01T00:00:00Z")),
    "no cut-off": target(lambda entry: entry.update(cut_off="")),
    "metadata": target(lambda entry: entry.update(metadata=[])),
    "nothing is built on a node": target(lambda entry: entry.update(build_on_node={})),
    "a step": target(lambda entry: entry["steps"].append({"requirements": ["six"]})),
    "the order": target(lambda entry: entry["steps"].reverse()),
    "what a script installs": target(
        lambda entry: entry["steps"].append({"script": "cython", "run": ["./x"], "installs": [{"requirements": ["six"]}]})
    ),
    "another wheel": lambda catalog: catalog["wheels"]["apex-cp311"].update(url="https://e.example/apex-0.2-cp311-cp311-linux_x86_64.whl"),
}


@pytest.mark.parametrize("name", NOTHING)
def test_what_decides_nothing(catalog: dict[str, Any], name: str):
    before = digest(catalog, "reason")
    NOTHING[name](catalog)
    assert digest(catalog, "reason") == before


@pytest.mark.parametrize("name", SOMETHING)
def test_what_decides_something(catalog: dict[str, Any], name: str):
    before = digest(catalog, "reason")
    SOMETHING[name](catalog)
    assert digest(catalog, "reason") != before


def test_the_version_of_what_is_installed_editable_decides_and_its_spelling_does_not(catalog: dict[str, Any]):
    before = digest(catalog, "openvla")
    catalog["repositories"]["LIBERO"]["url"] = "ssh://git@github.com/rlinf/libero.git"
    assert digest(catalog, "openvla") == before
    catalog["repositories"]["LIBERO"]["version"] = "v2"
    assert digest(catalog, "openvla") != before


@pytest.mark.parametrize("path", sorted(PINS.glob("*.json")), ids=lambda path: path.stem)
def test_the_pins_that_ship_are_those_of_the_entries_that_ship(path: Any):
    pins = Shipped.read(path)
    assert pins.definition == digest(shipped(), path.stem), "the entry has changed: lock it and run `make pins`"
    versions = [version for _name, changed in pins.steps for version in changed.values()]
    assert all(Version(version) for version in versions if version), "no commits"
