# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbook survey: nodes that answer, one that does not, and the file that the bastion gets."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml

from tests.support.playbooks import Said, play


def survey(folder: Path, *extra: str) -> Said:
    return play(folder / "inventory.yml", "rlinf.offline.survey", *extra)


def test_who_answers_is_kept_and_who_does_not_is_named(tmp_path: Path) -> None:
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "rlinf_prefix": str(tmp_path / "prefix")}
    # nothing listens there
    away = {"ansible_host": "127.0.0.1", "ansible_port": 9, "ansible_ssh_common_args": "-o ConnectTimeout=5"}
    nodes = {"gpu01": local, "gpu02": local, "gpu03": away}
    inventory = {"all": {"children": {"rlinf_nodes": {"hosts": nodes}}}}
    (tmp_path / "inventory.yml").write_text(yaml.safe_dump(inventory), encoding="utf-8")
    kept = tmp_path / "rlinf-survey.json"
    # it is written where all others were seen, though one is away
    assert survey(tmp_path, "--check").status == 4 and not kept.exists()
    said = survey(tmp_path)
    assert said.status == 4 and "not seen now" in said.output and "gpu03" in said.output.partition("not seen now")[2]
    found = json.loads(kept.read_text(encoding="utf-8"))
    assert sorted(found["nodes"]) == ["gpu01", "gpu02"] and len(found["states"]) == 1
    (state,) = found["states"].values()
    assert "\nStatus: install ok installed\n" in state and found["nodes"]["gpu01"]["node"]["tools"]["git"]["version"]
    content = kept.read_bytes()
    again = survey(tmp_path, "--limit", "gpu01,gpu02")
    assert again.status == 0 and "changed=1" not in again.output and kept.read_bytes() == content
    assert not (tmp_path / "prefix").exists()
