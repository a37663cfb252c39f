#!/usr/bin/python
# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge what an install without network tried to reach."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rlinf_air_gap
short_description: Judge what an install without network tried to reach
version_added: "0.1.0"
author: The rlinf.offline authors (@RLinf)
description:
  - Where the environment variable E(RLINF_AIR_GAP) names a directory, every module of this collection works in a network that has only loopback, if the
    node allows one, and under a filter of system calls. What leads beyond the node is refused, and recorded in that directory.
  - This module puts these records together into one file for a security review, C(state/air-gap.json) below the prefix, and judges it.
  - It fails if anything was tried, if a step was cut off or has left processes behind, and if the current environment of a target was made otherwise.
  - Records of attempts stay until somebody removes them who has looked at them.
extends_documentation_fragment:
  - rlinf.offline.attributes
options:
  prefix:
    description: Where things are installed.
    type: path
    required: true
  targets:
    description: The targets whose environments must have been made so.
    type: list
    elements: str
    default: []
  environment:
    description: The environment that existed already and the targets were installed into, if they have none of their own.
    type: path
"""

EXAMPLES = r"""
- name: Install under the filter
  ansible.builtin.include_role:
    name: rlinf.offline.install_target
    apply:
      environment:
        RLINF_AIR_GAP: /opt/rlinf/state/air-gap
  vars:
    rlinf_target: openvla

- name: Judge what was tried
  rlinf.offline.rlinf_air_gap:
    prefix: /opt/rlinf
    targets: [openvla]
"""

RETURN = r"""
record:
  description: The file with all that is known. Only its owner may read it, since it holds command lines.
  type: str
  returned: always
  sample: /opt/rlinf/state/air-gap.json
attempts:
  description:
    - What was tried. C(address), C(port), C(family) and C(call), C(pid), C(program), C(command) and C(parents) of the process, C(step), C(time), and
      how often, C(count).
  type: list
  elements: dict
  returned: always
summary:
  description: A few lines for people.
  type: list
  elements: str
  returned: always
environments:
  description: For each target the C(digest) of its current environment, and the record of the step that made it, C(made_by).
  type: dict
  returned: always
"""

import os
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._air_gap import digests, judge
from ansible_collections.rlinf.offline.plugins.module_utils._errors import AirGapError
from ansible_collections.rlinf.offline.plugins.module_utils._files import atomic_write, json_bytes
from ansible_collections.rlinf.offline.plugins.module_utils._items import lines_diff
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Node
from ansible_collections.rlinf.offline.plugins.module_utils._module import AIR_GAP, Module, finish

ARGUMENTS: dict[str, Any] = {
    "prefix": {"type": "path", "required": True},
    "targets": {"type": "list", "elements": "str", "default": []},
    "environment": {"type": "path"},
}


def main() -> None:
    module = Module(ARGUMENTS, supports_check_mode=True)
    # it reads what the others have recorded, and would wait for itself
    os.environ.pop(AIR_GAP, None)
    finish(module, lambda: work(module))


def work(module: Module) -> dict[str, Any]:
    """Judge the records, keep the judgement, and fail if it is not that nothing was tried."""
    node = Node(Path(module.params["prefix"]).absolute())
    existing = Path(module.params["environment"]).absolute() if module.params["environment"] else None
    proof = judge(node, digests(node, module.params["targets"], existing))
    path, content = node.air_gap_record, json_bytes(proof.document)
    before = path.read_bytes() if path.exists() else b""
    changed = content != before
    if changed and not module.check_mode:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, content, mode=0o600)
    answer: dict[str, Any] = {
        "changed": changed,
        "record": str(path),
        "attempts": proof.attempts,
        "summary": proof.lines(),
        "environments": proof.document["environments"],
    }
    if module._diff:
        answer["diff"] = lines_diff(str(path), before.decode().splitlines(), content.decode().splitlines())
    if proof.problems:
        raise AirGapError(" ".join([*proof.problems, f"All that is known: {path}"]), **answer)
    return {**answer, "warnings": list(proof.warnings)}


if __name__ == "__main__":
    main()
