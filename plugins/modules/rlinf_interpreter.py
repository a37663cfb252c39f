#!/usr/bin/python
# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Unpack interpreters of the bundle."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rlinf_interpreter
short_description: Unpack interpreters of the bundle on a node
version_added: "0.1.0"
author: The rlinf.offline authors (@RLinf)
description:
  - Unpacks the newest interpreter of the bundle for each version asked for below C(interpreters/) of the prefix, each in a folder of its own, and tries
    whether it runs. One that is there stays as it is.
  - Needs nothing but Python 3.10 or newer.
extends_documentation_fragment:
  - rlinf.offline.attributes
  - rlinf.offline.bundle
options:
  prefix:
    description: Where everything of this collection lies on the node.
    type: path
    required: true
  pythons:
    description: The versions, such as V(3.11) or V(3.11.14).
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Have Python 3.11
  rlinf.offline.rlinf_interpreter:
    prefix: /opt/rlinf
    bundle_dir: /opt/rlinf/bundle
    pythons: ["3.11"]
"""

RETURN = r"""
pythons:
  description: The interpreters, as RV(rlinf.offline.rlinf_node_info#module:node) has them under C(pythons).
  type: list
  elements: dict
  returned: success
results:
  description: What became of each.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: The version asked for.
      type: str
    path:
      description: The interpreter.
      type: str
    changed:
      description: Whether it was unpacked, or would be.
      type: bool
    state:
      description: V(present), or in check mode V(missing).
      type: str
    reason:
      description: Which it is.
      type: str
after_push:
  description: In check mode, that the bundle is not there yet, so that what would be done is known only after it is pushed.
  type: bool
  returned: in check mode, if the bundle is not there
"""

from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._interpreters import Interpreters, Step
from ansible_collections.rlinf.offline.plugins.module_utils._items import lines_diff
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle, Node
from ansible_collections.rlinf.offline.plugins.module_utils._module import Module, finish

ARGUMENTS: dict[str, Any] = {
    "bundle_dir": {"type": "path", "required": True},
    "prefix": {"type": "path", "required": True},
    "pythons": {"type": "list", "elements": "str", "required": True},
}


def main() -> None:
    module = Module(ARGUMENTS, supports_check_mode=True)
    finish(module, lambda: work(module))


def work(module: Module) -> dict[str, Any]:
    """Unpack, or say what would be."""
    params = module.params
    interpreters = Interpreters(Bundle(Path(params["bundle_dir"]).absolute()), Node(Path(params["prefix"]).absolute()))
    if module.check_mode and not interpreters.bundle.manifest.is_file():
        return {"changed": bool(params["pythons"]), "results": [], "pythons": [], "after_push": True}
    steps = interpreters.plan(params["pythons"])
    if any(step.changed for step in steps) and not module.check_mode:
        steps = interpreters.apply(params["pythons"])
    told: dict[str, Any] = {
        "changed": any(step.changed for step in steps),
        "results": [result_of(step, check=module.check_mode) for step in steps],
        "pythons": [entry_of(step) for step in steps],
    }
    if module._diff:
        lines = [f"{step.interpreter.folder}" for step in steps]
        there = [step.interpreter.folder for step in steps if not step.changed]
        told["diff"] = lines_diff(str(interpreters.node.interpreters), there, lines)
    return told


def result_of(step: Step, *, check: bool) -> dict[str, Any]:
    state = "missing" if check and step.changed else "present"
    reason = f"Python {step.interpreter.python} of the bundle" + ("" if step.changed else ", there before")
    return {"name": step.wanted, "path": str(step.path), "changed": step.changed, "state": state, "reason": reason}


def entry_of(step: Step) -> dict[str, Any]:
    """Return an interpreter as rlinf_node_info describes one."""
    said = {"version": step.interpreter.python, "implementation": "cpython", "headers": True, "virtual": False}
    return {"path": str(step.path), "problem": None, **said}


if __name__ == "__main__":
    main()
