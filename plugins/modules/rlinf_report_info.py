#!/usr/bin/python
# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Say what a node has installed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rlinf_report_info
short_description: Say what a node has installed, for a report
version_added: "0.1.0"
author: The rlinf.offline authors (@RLinf)
description:
  - Returns what the environment of each target on a node was made of, as its stamp says, and at which commits its working copies were put.
  - M(rlinf.offline.rlinf_node_info) says what else a report needs.
  - Changes nothing and hashes nothing; damage is known if C(verify) has found it.
  - Needs nothing but the standard library of Python.
extends_documentation_fragment:
  - rlinf.offline.attributes
attributes:
  diff_mode:
    support: none
    details: There is nothing to compare, since nothing changes.
options:
  prefix:
    description: Where things are installed, absolute.
    type: path
    required: true
  environment:
    description: An environment that existed already and was installed into.
    type: path
"""

EXAMPLES = r"""
- name: See what is installed
  rlinf.offline.rlinf_report_info:
    prefix: /opt/rlinf
  register: __seen

- name: Name the targets
  ansible.builtin.debug:
    var: __seen.targets.keys()
"""

RETURN = r"""
targets:
  description:
    - For each target with an environment its C(digest), C(created) (seconds since the epoch), the C(seconds) that building
      it took (null where it was installed into one that existed), the version of its C(python), the C(packages)
      with C(version), C(sha256) and C(kind), those C(damaged), C(skipped) and C(remote) (by the index that gave them),
      the C(commit) of the project, and the C(worktrees) with their commits (null for a checkout of the user's own). Or a C(problem).
  returned: always
  type: dict
"""

from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._module import Module, finish
from ansible_collections.rlinf.offline.plugins.module_utils._report_info import installed

ARGUMENTS: dict[str, Any] = {"prefix": {"type": "path", "required": True}, "environment": {"type": "path"}}


def main() -> None:
    module = Module(ARGUMENTS, supports_check_mode=True)
    prefix, environment = module.params["prefix"], module.params["environment"]
    finish(module, lambda: {"changed": False, "targets": installed(Path(prefix), Path(environment) if environment else None)})


if __name__ == "__main__":
    main()
