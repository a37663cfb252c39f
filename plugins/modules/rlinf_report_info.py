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
  - Returns the driver and GPUs of a node, the state of its bundle, and what the environment of each target was made of, as its stamp says.
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
    description:
      - Where things are installed. V(~) is the user's home.
      - By default V(/opt/rlinf) for root, else V($XDG_DATA_HOME/rlinf) or V(~/.local/share/rlinf).
    type: str
  bundle_dir:
    description: The bundle's directory, by default C(bundle) below the prefix.
    type: str
  environment:
    description: An environment that existed already and was installed into.
    type: str
"""

EXAMPLES = r"""
- name: See what is installed
  rlinf.offline.rlinf_report_info:
  register: __seen

- name: Name the targets
  ansible.builtin.debug:
    var: __seen.node.targets.keys()
"""

RETURN = r"""
node:
  description: What the node has installed.
  returned: always
  type: dict
  contains:
    prefix:
      description: Where things are installed, absolute.
      type: str
    distribution:
      description: Its C(id), C(version) and C(name).
      type: dict
    glibc:
      description: The version of glibc, none with another C library.
      type: str
    bundle:
      description: As M(rlinf.offline.rlinf_node_info) returns it.
      type: dict
    gpus:
      description: As M(rlinf.offline.rlinf_node_info) returns it.
      type: dict
    targets:
      description:
        - For each target with an environment its C(digest), C(created) (seconds since the epoch), the version of its C(python), the C(packages)
          with C(version), C(sha256) and C(kind), those C(damaged), C(skipped) and C(remote). Or a C(problem).
      type: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.rlinf.offline.plugins.module_utils._module import finish
from ansible_collections.rlinf.offline.plugins.module_utils._report_info import gather

ARGUMENTS: dict[str, Any] = {"prefix": {"type": "str"}, "bundle_dir": {"type": "str"}, "environment": {"type": "str"}}


def main() -> None:
    module = AnsibleModule(ARGUMENTS, supports_check_mode=True)
    finish(module, lambda: {"changed": False, "node": gather(**module.params)})


if __name__ == "__main__":
    main()
