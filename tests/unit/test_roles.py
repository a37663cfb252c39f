# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Roles, playbooks and filters: one documented source for every variable, one catalogue, and what is made of them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError

from ansible_collections.rlinf.offline.plugins.filter.rlinf import FilterModule
from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Catalog
from tests.support.catalog import shipped
from tests.tools.role_readmes import pages

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())
PLAYBOOKS = sorted((ROOT / "playbooks").glob("*.yml"))
FILTERS = FilterModule().filters()


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def catalog() -> dict[str, Any]:
    return shipped()


# -- variables -----------------------------------------------------------------------------------------------------------------------


def test_every_public_variable_is_documented_with_its_default() -> None:
    defaults = load(ROOT / "roles" / "common" / "defaults" / "main.yml")
    options = load(ROOT / "roles" / "common" / "meta" / "argument_specs.yml")["argument_specs"]["node_info"]["options"]
    assert {name: option["default"] for name, option in options.items()} == defaults
    assert all(name.startswith("rlinf_") and option["description"] and option["type"] for name, option in options.items())


def test_every_public_variable_is_used() -> None:
    sources = [path for folder in ("tasks", "vars") for path in ROOT.glob(f"roles/*/{folder}/*.yml")] + PLAYBOOKS
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    defaults = load(ROOT / "roles" / "common" / "defaults" / "main.yml")
    assert [name for name in defaults if name not in text] == []


@pytest.mark.parametrize("role", ROLES)
def test_role_is_complete(role: str) -> None:
    folder = ROOT / "roles" / role
    assert all((folder / name).is_file() for name in ("tasks/main.yml", "meta/main.yml", "meta/argument_specs.yml", "README.md"))
    needs = [item["role"] for item in load(folder / "meta" / "main.yml")["dependencies"]]
    assert needs == ([] if role == "common" else ["rlinf.offline.common"])


def test_pages_are_what_the_argument_specs_say() -> None:
    assert {path: path.read_text(encoding="utf-8") if path.is_file() else None for path in pages()} == pages()


@pytest.mark.parametrize("playbook", PLAYBOOKS, ids=lambda path: str(path.stem))
def test_playbook_gathers_no_facts(playbook: Path) -> None:
    plays = load(playbook)
    assert all(play.get("gather_facts") is False for play in plays if "hosts" in play)


@pytest.mark.parametrize("name", ["site", "push"])
def test_every_node_is_judged_before_the_first_batch_begins(name: str) -> None:
    judging, play = load(ROOT / "playbooks" / f"{name}.yml")
    assert judging["ansible.builtin.import_playbook"] == "preflight.yml" and "serial" not in load(ROOT / "playbooks" / "preflight.yml")[0]
    roles = [(task.get("ansible.builtin.import_role") or task["ansible.builtin.include_role"])["name"] for task in play["tasks"]]
    wanted = ("push", "prepare", "install_target", "verify") if name == "site" else ("push",)
    assert roles == [f"rlinf.offline.{role}" for role in wanted]


@pytest.mark.parametrize("name", ["site", "push", "prepare", "install", "restore", "rollback"])
def test_what_changes_nodes_does_so_in_batches(name: str) -> None:
    play = load(ROOT / "playbooks" / f"{name}.yml")[-1]
    assert play["serial"] == "{{ rlinf_serial | default('100%') }}"
    assert play["max_fail_percentage"] == "{{ rlinf_max_fail_percentage | default(100) }}"


@pytest.mark.parametrize(("file", "names"), [("runtime-requirements.txt", []), ("swarm-requirements.txt", ["libtorrent"])])
def test_nodes_get_what_the_tests_ran_with(file: str, names: list[str]) -> None:
    made = subprocess.run([ROOT / "tools" / "runtime-requirements", *names], capture_output=True, text=True, check=True).stdout
    assert made and (ROOT / "roles" / "download" / "files" / file).read_text(encoding="utf-8") == made
    assert "--hash=sha256:" in made


# -- the catalogue -------------------------------------------------------------------------------------------------------------------


def test_catalogue_is_valid_and_whole(catalog: dict[str, Any]) -> None:
    parsed = Catalog.parse(catalog)
    assert {name: entry.version for name, entry in parsed.repositories.items() if entry.version} == {
        "RLinf": "release/v0.1",
        "BEHAVIOR-1K": "RLinf/v3.7.1",
        "Megatron-LM": "core_r0.13.0",
    }
    assert len(parsed.repositories) == 12 and len(parsed.assets) == 4
    wheels = [wheel.filename.split("-")[0] for wheel in parsed.wheels.values() if not wheel.url.startswith("/")]
    assert wheels == ["apex", "flash_attn", "flash_attn"] and len(parsed.wheels) == 3 + 26
    assert all(" " not in wheel.url for wheel in parsed.wheels.values())
    # each repository once, however its URL is written
    assert len({entry.id.key for entry in parsed.repositories.values()}) == len(parsed.repositories)


def test_openvla_takes_upstreams_steps_in_order(catalog: dict[str, Any]) -> None:
    target = Catalog.parse(catalog).targets["openvla"]
    assert [step.label for step in target.steps] == [
        "uv_sync embodied",
        "editable LIBERO",
        "requirements requirements/embodied/envs/maniskill.txt",
        "requirements requirements/embodied/models/openvla.txt",
        "wheels flash-attn-cu12torch2.6-cp311",
        "uninstall pynvml",
    ]
    assert target.steps[3].options == {"build_isolation": False}


def test_libero_gets_the_file_that_it_would_write_itself(catalog: dict[str, Any]) -> None:
    text = catalog["targets"]["openvla"]["files"]["{state}/libero/config.yaml"].replace("{repo[LIBERO]}", "/src/LIBERO")
    root = "/src/LIBERO/libero/libero"
    assert yaml.safe_load(text) == {
        "benchmark_root": root,
        "bddl_files": f"{root}/./bddl_files",
        "init_states": f"{root}/./init_files",
        "datasets": f"{root}/../datasets",
        "assets": f"{root}/./assets",
    }


# -- filters -------------------------------------------------------------------------------------------------------------------------


def test_every_filter_is_documented() -> None:
    documented = {path.stem: load(path) for path in (ROOT / "plugins" / "filter").glob("*.yml")}
    assert set(documented) == set(FILTERS)
    assert all(page["DOCUMENTATION"]["name"] == name for name, page in documented.items())


def test_closure_names_what_a_target_needs(catalog: dict[str, Any]) -> None:
    closure = FILTERS["rlinf_closure"](catalog, ["openvla"], ["sapien-physx"])
    assert [item["name"] for item in closure["repositories"]] == ["RLinf", "LIBERO"]
    assert [item["name"] for item in closure["wheels"]] == ["flash-attn-cu12torch2.6-cp311"]
    assert [item["name"] for item in closure["assets"]] == ["maniskill-bridge", "maniskill-widowx250s"]


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (
            "rlinf_closure",
            (["openvl"],),
            r"There is no target 'openvl'\. Did you mean 'openvla'\? Known targets: openpi, openpi-metaworld, openvla, openvla-oft",
        ),
        ("rlinf_closure", (["openvla"], ["nothing"]), "rlinf_leave_out: 'nothing' is neither"),
        ("rlinf_mirrors", (["openvla"], [], ["nothing"]), "rlinf_mirror_repositories: there is no repository 'nothing'"),
        ("rlinf_mirrors", (["openvla"], ["nothing"]), "There is no target 'nothing'"),
    ],
)
def test_a_wrong_name_is_an_error_with_its_own_message(
    catalog: dict[str, Any], function: str, arguments: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(AnsibleFilterError, match=message):
        FILTERS[function](catalog, *arguments)


def test_repositories_are_mirrored_once_with_the_cut_off_of_their_target(catalog: dict[str, Any]) -> None:
    other = {**catalog["targets"]["openvla"], "cut_off": "2026-01-01"}
    both = {**catalog, "targets": {**catalog["targets"], "other": other}}
    mirrors = FILTERS["rlinf_mirrors"]

    def names(groups: list[dict[str, Any]]) -> list[tuple[Any, bool, list[str]]]:
        return [(group["cut_off"], group["update"], [item["name"] for item in group["repos"]]) for group in groups]

    cut_off = catalog["targets"]["openvla"]["cut_off"]
    assert names(mirrors(both, ["openvla", "other"])) == [(cut_off, False, ["RLinf", "LIBERO"])]
    assert names(mirrors(both, ["openvla", "other"], ["other"])) == [("2026-01-01", True, ["RLinf", "LIBERO"])]
    assert names(mirrors(both, ["openvla"], [], ["cython", "LIBERO"])) == [(cut_off, False, ["RLinf", "LIBERO"]), (None, False, ["cython"])]


@pytest.mark.parametrize(
    ("given", "behavior", "names"),
    [
        ("openvla, openpi,", False, ["openvla", "openpi"]),
        (["openvla", "openvla"], False, ["openvla"]),
        ("openvla-oft", True, ["openvla-oft-behavior"]),
        ("openvla-oft", "false", ["openvla-oft"]),
        ([], False, []),
    ],
)
def test_targets_are_a_list_or_words(given: Any, behavior: Any, names: list[str]) -> None:
    assert FILTERS["rlinf_target_names"](given, behavior) == names


def test_the_bastion_bundles_what_any_node_wants() -> None:
    hosts = {"a": {"rlinf_targets": "openpi"}, "b": {}, "c": {"rlinf_targets": ["openvla-oft"], "rlinf_enable_behavior": True}}
    assert FILTERS["rlinf_fleet_targets"](hosts, ["a", "b", "c"], ["openvla"]) == ["openpi", "openvla", "openvla-oft-behavior"]
    assert FILTERS["rlinf_fleet_targets"]({}, [], ["openvla"]) == ["openvla"]


def test_python_by_target_by_version_or_for_all(catalog: dict[str, Any]) -> None:
    def python(*given: Any) -> str:
        catalog, target, *rest = given
        found: dict[str, str] = FILTERS["rlinf_target_pythons"](catalog, [target], *rest)
        return found[target]

    node = {
        "pythons": [
            {"path": "/broken", "problem": "no answer"},
            {"path": "/venv/bin/python3.11", "version": "3.11.9", "virtual": True, "problem": None},
            {"path": "/usr/bin/python3.11", "version": "3.11.2", "virtual": False, "problem": None},
        ]
    }
    assert python(catalog, "openvla", "") == "3.11"
    assert python(catalog, "openvla", "", node) == "/usr/bin/python3.11"
    assert python(catalog, "openvla", "3.11.9", node) == "3.11.9"
    assert python(catalog, "openvla", "/opt/python", node) == "/opt/python"
    assert python(catalog, "openvla", {"openvla": "/for/it", "3.11": "/for/311"}) == "/for/it"
    assert python(catalog, "openvla", {"3.11": "/for/311"}) == "/for/311"
    assert python(catalog, "openvla", {"3.10": "/for/310"}) == "3.11"
    assert FILTERS["rlinf_pythons"](catalog, ["openvla"], "/opt/python") == {"3.11": "/opt/python"}
