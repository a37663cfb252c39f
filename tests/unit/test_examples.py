# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies in examples/: every inventory can be read by Ansible, and asks for targets that there are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.rlinf.offline.plugins.filter.rlinf import rlinf_extended, rlinf_fleet_targets
from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Catalog
from tests.support.catalog import shipped

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
INVENTORIES = sorted(EXAMPLES.glob("*.yml"))


@cache
def listed(inventory: Path) -> dict[str, Any]:
    """Return what ansible-inventory says of an inventory."""
    command: list[str | Path] = [Path(sys.executable).with_name("ansible-inventory"), "-i", inventory, "--list"]
    environment = {**os.environ, "ANSIBLE_INVENTORY_UNPARSED_FAILED": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def hosts(found: dict[str, Any], group: str) -> list[str]:
    entry = found.get(group, {})
    return [*entry.get("hosts", []), *(host for child in entry.get("children", []) for host in hosts(found, child))]


def catalog(found: dict[str, Any]) -> Catalog:
    """Return the shipped catalogue with what an inventory adds to it."""
    data = shipped()
    added = next(iter(found["_meta"]["hostvars"].values())).get("rlinf_catalog", {})
    merged = {section: {**data.get(section, {}), **added.get(section, {})} for section in {*data, *added}}
    return Catalog.parse(rlinf_extended(merged))


@pytest.mark.parametrize("inventory", INVENTORIES, ids=lambda path: path.stem)
def test_an_inventory_names_a_bastion_and_targets_that_there_are(inventory):
    found = listed(inventory)
    nodes = hosts(found, "rlinf_nodes")
    assert hosts(found, "rlinf_bastion") and nodes
    wanted = rlinf_fleet_targets(found["_meta"]["hostvars"], nodes, ["openvla"])
    assert wanted and len(catalog(found).select(wanted)) == len(wanted)


def test_64_nodes_in_groups_of_their_own():
    found = listed(EXAMPLES / "inventory-64-nodes.yml")
    assert sorted(hosts(found, "rlinf_nodes")) == [f"gpu{number:02}" for number in range(1, 65)]
    variables = found["_meta"]["hostvars"]
    assert variables["gpu64"]["rlinf_prefix"] == "/shared/rlinf/reasoning" and "ProxyJump" in variables["gpu01"]["ansible_ssh_common_args"]
    assert rlinf_fleet_targets(variables, ["gpu33"], []) == ["openvla-oft-behavior"]


def test_gr00t_takes_upstreams_steps_and_leaves_the_others_alone():
    added, shipped = catalog(listed(EXAMPLES / "gr00t.yml")), catalog(listed(EXAMPLES / "inventory-64-nodes.yml"))
    target = added.select(["gr00t"])[0]
    assert [step.kind for step in target.steps] == [
        "uv_sync",
        "editable",
        "requirements",
        "editable",
        "requirements",
        "wheels",
        "uninstall",
    ]
    assert target.cut_off == added.select(["openvla"])[0].cut_off and "LIBERO_CONFIG_PATH" in target.exports
    assert {name: entry for name, entry in added.targets.items() if name != "gr00t"} == shipped.targets
