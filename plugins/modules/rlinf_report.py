#!/usr/bin/python
# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the report of a fleet."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rlinf_report
short_description: Write what is installed on a fleet as JSON and as one HTML page
version_added: "0.1.0"
author: The rlinf.offline authors (@RLinf)
description:
  - Compares what M(rlinf.offline.rlinf_report_info) says of the nodes with the locks in the bundle of this machine.
  - Says, too, what nodes took from an index, and where everything in the bundle came from, as its bill of materials (M(rlinf.offline.rlinf_sbom)) has it.
  - Writes C(report.json) and C(report.html), a page that needs nothing else. If only the date would change, nothing is written.
  - Needs Jinja2, which ansible-core has.
extends_documentation_fragment:
  - rlinf.offline.attributes
options:
  path:
    description: The directory of the report. It is made if it is not there.
    type: path
    required: true
  bundle_dir:
    description: The bundle of this machine, which the nodes are compared with. It need not be there.
    type: path
    required: true
  template:
    description: The page as a Jinja2 template.
    type: path
    required: true
  nodes:
    description:
      - By host the targets C(wanted), and as C(node) what M(rlinf.offline.rlinf_node_info) and M(rlinf.offline.rlinf_report_info) say of it,
        or a C(problem) if it didn't answer.
    type: dict
    required: true
  packages:
    description:
      - What the environments of nodes consist of. The C(packages) of a target of O(nodes) are a key of it, since many nodes have the same;
        the filter P(rlinf.offline.rlinf_report_nodes#filter) makes both arguments.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Write the report
  rlinf.offline.rlinf_report:
    path: /home/me/rlinf-report
    bundle_dir: /opt/rlinf/bundle
    template: "{{ role_path }}/templates/report.html.j2"
    nodes:
      gpu01: {wanted: [openvla], node: "{{ __seen.node }}"}
      gpu02: {wanted: [openvla], problem: no route to host}
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
path:
  description: The page.
  type: str
  returned: success
counts:
  description: How many targets of nodes are in each state.
  type: dict
  returned: success
"""

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._errors import OfflineError
from ansible_collections.rlinf.offline.plugins.module_utils._files import atomic_write, json_bytes, read_json
from ansible_collections.rlinf.offline.plugins.module_utils._fleet_report import FORMAT, fleet, page
from ansible_collections.rlinf.offline.plugins.module_utils._items import lines_diff
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._module import ON_BASTION, Module, finish, require

ARGUMENTS: dict[str, Any] = {
    "path": {"type": "path", "required": True},
    "bundle_dir": {"type": "path", "required": True},
    "template": {"type": "path", "required": True},
    "nodes": {"type": "dict", "required": True},
    "packages": {"type": "dict", "default": {}},
}


def main() -> None:
    module = Module(ARGUMENTS, supports_check_mode=True)
    require(module, ["jinja2"], ON_BASTION)
    finish(module, lambda: work(module))


def work(module: Module) -> dict[str, Any]:
    """Write both files, unless they say the same already."""
    folder = Path(module.params["path"]).absolute()
    report = fleet(module.params["nodes"], module.params["packages"], Bundle(Path(module.params["bundle_dir"]).absolute()))
    before = read_former(folder / "report.json")
    made = contents(report, module, before.get("date", ""))
    changed = not before or any(not (folder / name).is_file() or (folder / name).read_bytes() != content for name, content in made.items())
    if changed and not module.check_mode:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents(report, module, datetime.now(timezone.utc).isoformat(timespec="seconds")).items():
            atomic_write(folder / name, content)
    answer: dict[str, Any] = {"changed": changed, "path": str(folder / "report.html"), "counts": report["counts"]}
    if module._diff:
        answer["diff"] = lines_diff(str(folder / "report.json"), lines(before), lines(report))
    return answer


def read_former(path: Path) -> dict[str, Any]:
    """Return the report that is there; nothing if there is none, or if it cannot be read and is written anew."""
    try:
        found = read_json(path)
    except (FileNotFoundError, OfflineError):
        return {}
    return found if isinstance(found, dict) and found.get("format") == FORMAT and isinstance(found.get("date"), str) else {}


def contents(report: dict[str, Any], module: Module, date: str) -> dict[str, bytes]:
    """Return the files of a report of that date."""
    return {
        "report.html": page(report, Path(module.params["template"]), date),
        "report.json": json_bytes({**report, "date": date}),
    }


def lines(report: dict[str, Any]) -> list[str]:
    """Return a line for each target of each node."""
    return [f"{row['host']} {name}: {cell['state']}" for row in report.get("nodes", []) for name, cell in sorted(row["targets"].items())]


if __name__ == "__main__":
    main()
