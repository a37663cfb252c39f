# SPDX-License-Identifier: GPL-3.0-or-later
"""Several nodes, and several targets on one: what a run costs a node, and which nodes a run reaches when one of them fails."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.demo.cycle import Cycle, PlayFailed
from tests.support.playbooks import ROOT

TARGETS = ("one", "two")
# of what the shipped ones need without what only root puts on a machine
CATALOG = {
    "targets": {
        name: {"extends": target, "system_packages": None, "system_files": None}
        for name, target in zip(TARGETS, ("openvla", "openvla-oft"), strict=True)
    }
}
MOST = 6
"""Modules that a whole run of ``site`` may execute on a node."""


@pytest.fixture(scope="module")
def cycle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cycle]:
    """Have a bundle for the targets."""
    with Cycle(tmp_path_factory.mktemp("fleet") / "work", targets={"gpu01": TARGETS}, compiler=False) as made:
        made.inventory = made.write_inventory("inventory", {"gpu01": {"rlinf_targets": list(TARGETS)}}, CATALOG)
        made.play("download")
        yield made


def nodes_of(cycle: Cycle, *names: str, **variables: Any) -> dict[str, dict[str, Any]]:
    return {name: {"rlinf_prefix": str(cycle.work / name), **variables} for name in names}


def executed(cycle: Cycle, node: str, inventory: Path, *extra: str) -> Counter[str]:
    """Run ``site`` and return the modules that were executed on the node."""
    log = cycle.work / "executed"
    log.unlink(missing_ok=True)
    callback = {"ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "tests/support/callbacks"), "ANSIBLE_CALLBACKS_ENABLED": "executed"}
    cycle.play("site", *extra, inventory=inventory, RLINF_EXECUTED=str(log), **callback)
    lines = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    return Counter(line["module"].rpartition(".")[2] for line in lines if line["host"] == node)


def test_a_site_executes_few_modules_on_a_node_however_many_targets_it_has(cycle: Cycle) -> None:
    variables = {"rlinf_targets": list(TARGETS), "rlinf_system_packages_state": "auto", "rlinf_system_packages": ["dpkg"]}
    inventory = cycle.write_inventory("counted", nodes_of(cycle, "counted", **variables), CATALOG)
    # one that neither the node nor the bundle has
    first = executed(cycle, "counted", inventory, "-e", json.dumps({"rlinf_system_packages": ["dpkg", "rlinf-test-absent"]}))
    assert first == dict.fromkeys(("rlinf_node_info", "rlinf_bundle", "rlinf_apt_install", "rlinf_runtime", "rlinf_venv"), 1)
    again = executed(cycle, "counted", inventory)
    assert again == {"rlinf_node_info": 1, "rlinf_venv": 1}
    assert max(first.total(), again.total()) <= MOST
    assert all(os.path.islink(cycle.work / "counted" / "venvs" / target) for target in TARGETS)


def test_what_is_recorded_by_target_is_installed_one_after_the_other(cycle: Cycle) -> None:
    variables = {"rlinf_targets": list(TARGETS), "rlinf_air_gap": True}
    inventory = cycle.write_inventory("recorded", nodes_of(cycle, "recorded", **variables), CATALOG)
    found = executed(cycle, "recorded", inventory)
    assert (found["rlinf_venv"], found["rlinf_air_gap"]) == (2, 1)
    proof = json.loads((cycle.work / "recorded" / "state" / "air-gap.json").read_text(encoding="utf-8"))
    assert all(proof["environments"][target]["made_by"].startswith(f"rlinf_venv-{target}-present-") for target in TARGETS)


def test_nodes_that_share_a_prefix_bring_and_install_everything_once_and_verify_at_the_same_time(cycle: Cycle) -> None:
    shared = {"rlinf_prefix": str(cycle.work / "shared"), "rlinf_push_engine": "shared", "rlinf_shared_prefix": True}
    names = ("gpu31", "gpu32")
    inventory = cycle.write_inventory("shared", nodes_of(cycle, *names, rlinf_targets=["one"], **shared), CATALOG)
    first = results_of(cycle.play("site", inventory=inventory).output)
    changed = Counter(task for task, _host, came in first if came == "changed")
    assert {changed[task] for task in changed if task.startswith(("Bring what", "Make the node", "Put in place"))} == {1}, changed
    assert executed(cycle, names[0], inventory) == executed(cycle, names[1], inventory) == {"rlinf_node_info": 1, "rlinf_venv": 1}
    # one that others share may be read by all at once
    own = {name: {"rlinf_prefix": str(cycle.work / name), "rlinf_bundle_dir": str(cycle.work / "share")} for name in ("gpu33", "gpu34")}
    hosts = {name: {**variables, "rlinf_push_engine": "shared", "rlinf_targets": ["one"]} for name, variables in own.items()}
    output = cycle.play("push", inventory=cycle.write_inventory("share", hosts, CATALOG)).output
    came = [(task, what) for task, _host, what in results_of(output) if task.startswith(("Bring what", "Verify"))]
    assert sorted(came) == [
        ("Bring what is missing of a directory that nodes share", "changed"),
        ("Bring what is missing of a directory that nodes share", "ok"),
        ("Verify the bundle", "changed"),
        ("Verify the bundle", "changed"),
    ]
    assert all((cycle.work / name / "state" / "bundle.json").is_file() for name in own)


# -- one batch after the other ---------------------------------------------------------------------------------------------------------

NODES = ("gpu11", "gpu12", "gpu13")


def broken(cycle: Cycle, name: str, prefixes: Sequence[str]) -> Path:
    """Return an inventory of three nodes; on the second working copies cannot be made, which no look at it tells."""
    hosts = nodes_of(cycle, *prefixes, rlinf_targets=["one"])
    (cycle.work / prefixes[1]).mkdir()
    (cycle.work / prefixes[1] / "src").write_text("mine\n", encoding="utf-8")
    return cycle.write_inventory(name, hosts, CATALOG)


def results_of(output: str) -> list[tuple[str, str, str]]:
    """Return task, host and what came of it, in order."""
    found, task = [], ""
    for line in output.splitlines():
        if said := re.match(r"TASK \[(?:\S+ : )?(.+)\]", line):
            task = said[1]
        elif said := re.match(r"(changed|fatal|ok): \[(\S+?)\]", line):
            found.append((task, said[2], said[1]))
    return found


def test_one_node_after_the_other_and_no_more_of_them_once_too_many_have_failed(cycle: Cycle) -> None:
    inventory = broken(cycle, "serial", NODES)
    with pytest.raises(PlayFailed) as caught:
        cycle.play("site", "-e", "rlinf_serial=1", "-e", "rlinf_max_fail_percentage=0", inventory=inventory)
    output = str(caught.value)
    results = results_of(output)
    judged = next(number for number, (task, _host, _came) in enumerate(results) if task.startswith("Refuse to go on"))
    looked_at = [host for task, host, _came in results[:judged] if task == "Find out what the host is and has"]
    assert sorted(looked_at) == list(NODES) and "could not be asked" not in output
    assert {came for _task, _host, came in results[:judged]} == {"ok"}
    # the first is done to its end, the second fails, and the third is left as it was
    touched = [(host, came) for _task, host, came in results[judged + 1 :] if came != "ok"]
    assert list(dict.fromkeys(touched)) == [(NODES[0], "changed"), (NODES[1], "changed"), (NODES[1], "fatal")]
    assert [(cycle.work / node / "venvs" / "one").is_symlink() for node in NODES] == [True, False, False]
    assert not (cycle.work / NODES[2]).exists()


def test_the_others_are_installed_where_a_node_may_fail(cycle: Cycle) -> None:
    names = tuple(f"{node}-b" for node in NODES)
    inventory = broken(cycle, "some", names)
    with pytest.raises(PlayFailed) as caught:
        cycle.play("site", "-e", '{"rlinf_serial": [1, 2]}', inventory=inventory)
    assert re.search(rf"^{names[1]} .*failed=1", str(caught.value), re.M)
    assert [(cycle.work / node / "venvs" / "one").is_symlink() for node in names] == [True, False, True]


def test_a_playbook_of_ones_own_may_take_one_node_after_the_other(cycle: Cycle, tmp_path: Path) -> None:
    """Its preflight judges whom it has looked at: of later batches nothing is known yet."""
    inventory = cycle.write_inventory("own", nodes_of(cycle, "gpu21", "gpu22", rlinf_targets=["one"]), CATALOG)
    play = {"hosts": "rlinf_nodes", "gather_facts": False, "serial": 1}
    play["roles"] = [f"rlinf.offline.{role}" for role in ("preflight", "push", "prepare")]
    play["roles"].append({"role": "rlinf.offline.install_target", "rlinf_target": "one"})
    playbook = tmp_path / "own.yml"
    playbook.write_text(yaml.safe_dump([play]), encoding="utf-8")
    said = cycle.play(str(playbook), inventory=inventory)
    assert "could not be asked" not in said.output
    assert [(cycle.work / node / "venvs" / "one").is_symlink() for node in ("gpu21", "gpu22")] == [True, True]
