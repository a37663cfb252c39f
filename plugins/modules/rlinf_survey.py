#!/usr/bin/python
# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep what nodes are and have in one file."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rlinf_survey
short_description: Keep what nodes are and have in one file for the bastion
version_added: "0.1.0"
author: The rlinf.offline authors (@RLinf)
description:
  - Writes what M(rlinf.offline.rlinf_node_info) has found on nodes into one file, which the bastion reads so that it downloads only what some node lacks.
  - Nodes that are in the file already and were not seen now stay as they were seen last. Package states are kept once for all nodes that are alike.
  - Free space, which is another at every look, alone does not change the file.
  - It runs on the machine that keeps the file.
extends_documentation_fragment:
  - rlinf.offline.attributes
options:
  path:
    description: The file. Its directory must be there.
    type: path
    required: true
  nodes:
    description: What was found, RV(rlinf.offline.rlinf_node_info#module:node) with its package state, by host.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Keep what was found
  rlinf.offline.rlinf_survey:
    path: /home/me/rlinf-survey.json
    nodes:
      gpu01: "{{ __info.node }}"
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
path:
  description: The file.
  type: str
  returned: success
nodes:
  description: A line for each node that is in the file now.
  type: list
  elements: str
  returned: success
states:
  description: How many package states differ.
  type: int
  returned: success
"""

import contextlib
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._files import atomic_write, exclusive
from ansible_collections.rlinf.offline.plugins.module_utils._items import lines_diff
from ansible_collections.rlinf.offline.plugins.module_utils._module import Module, finish
from ansible_collections.rlinf.offline.plugins.module_utils._survey import Survey

ARGUMENTS: dict[str, Any] = {"path": {"type": "path", "required": True}, "nodes": {"type": "dict", "required": True}}


def main() -> None:
    module = Module(ARGUMENTS, supports_check_mode=True)
    finish(module, lambda: work(module))


def work(module: Module) -> dict[str, Any]:
    """Merge what was found into the file."""
    path = Path(module.params["path"]).absolute()
    # another run's nodes are not to be written over
    with contextlib.nullcontext() if module.check_mode else exclusive(path.with_name(f".{path.name}.lock"), f"The survey {path}"):
        before = Survey.read(path) if path.exists() else Survey({}, {})
        after = before.with_nodes(module.params["nodes"])
        changed = not path.exists() or after.content != before.content
        if changed and not module.check_mode:
            atomic_write(path, after.content)
    answer: dict[str, Any] = {"changed": changed, "path": str(path), "nodes": after.lines(), "states": len(after.states)}
    if module._diff:
        answer["diff"] = lines_diff(str(path), before.lines(), after.lines())
    return answer


if __name__ == "__main__":
    main()
