#!/usr/bin/python
# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a bare node ready for the other modules."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rlinf_runtime
short_description: Make a bare node ready for the modules of this collection
version_added: "0.1.0"
author: The rlinf.offline authors (@RLinf)
description:
  - Takes uv out of its wheel in the bundle, and makes a private environment of the Python that runs this module, with what the other
    modules need. Neither pip nor ensurepip nor network is used.
  - Writes settings for git and uv that keep them off the network and lead every host to the bundle's mirrors. They are private to the
    prefix. Nothing of the user's configuration is touched or read.
  - Whether anything has to be done is found out by a fingerprint. A bundle or prefix that was moved is noticed.
  - Needs nothing but Python 3.10 or newer.
extends_documentation_fragment:
  - rlinf.offline.attributes
  - rlinf.offline.bundle
options:
  prefix:
    description: Where everything of this collection lies on the node.
    type: path
    required: true
"""

EXAMPLES = r"""
- name: Prepare a node
  rlinf.offline.rlinf_runtime:
    prefix: /opt/rlinf
    bundle_dir: /opt/rlinf/bundle
"""

RETURN = r"""
python:
  description: The interpreter that the other modules run in.
  type: str
  returned: success
  sample: /opt/rlinf/runtime/bin/python
uv:
  description: uv, and its version.
  type: dict
  returned: success
  sample: {"path": "/opt/rlinf/tools/uv", "version": "0.13.9"}
after_push:
  description: In check mode, that the bundle is not there yet, so that what would be done is known only after it is pushed.
  type: bool
  returned: in check mode, if the bundle is not there
results:
  description: What was, or would be, put in place.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: V(uv), V(gitconfig), V(uv.toml), V(switch_env) or V(runtime).
      type: str
    path:
      description: Its place.
      type: str
    changed:
      description: Whether it changed.
      type: bool
    state:
      description: V(present), or V(absent) when check mode found nothing there.
      type: str
    reason:
      description: Why it changed, or V(up to date).
      type: str
"""

from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle, Node
from ansible_collections.rlinf.offline.plugins.module_utils._module import Module, finish
from ansible_collections.rlinf.offline.plugins.module_utils._runtime import Runtime, Step

ARGUMENTS: dict[str, Any] = {"bundle_dir": {"type": "path", "required": True}, "prefix": {"type": "path", "required": True}}


def main() -> None:
    module = Module(ARGUMENTS, supports_check_mode=True)
    finish(module, lambda: work(module))


def work(module: Module) -> dict[str, Any]:
    """Plan, apply, and report."""
    runtime = Runtime(Node(Path(module.params["prefix"]).absolute()), Bundle(Path(module.params["bundle_dir"]).absolute()))
    python = str(runtime.node.runtime_python)
    if module.check_mode and not runtime.bundle.tools.is_dir():
        return {
            "changed": True,
            "python": python,
            "results": [],
            "msg": f"would prepare after push: {runtime.bundle.tools} is not there yet",
            "after_push": True,
        }
    plan = runtime.plan()
    if plan.changed and not module.check_mode:
        plan = runtime.apply()
    return {
        "changed": plan.changed,
        "python": python,
        "uv": {"path": str(runtime.node.uv), "version": plan.uv.version},
        "results": [_result(step, module.check_mode) for step in plan.steps],
        **({"diff": [_diff(step) for step in plan.steps if step.changed]} if module._diff else {}),
    }


def _result(step: Step, check: bool) -> dict[str, Any]:
    state = "absent" if check and not step.before else "present"
    return {"name": step.name, "path": str(step.path), "changed": step.changed, "state": state, "reason": step.reason}


def _diff(step: Step) -> dict[str, str]:
    return {"before_header": str(step.path), "after_header": str(step.path), "before": step.before, "after": step.after}


if __name__ == "__main__":
    main()
