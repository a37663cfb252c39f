#!/usr/bin/python
# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation of an action plugin: plugins/action/rlinf_collect.py does the work, on the machine that runs ansible-playbook."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rlinf_collect
short_description: Collect what a node built from sources into a bundle
version_added: "0.1.0"
author: The rlinf.offline authors (@RLinf)
description:
  - Some packages can only be built on a node, with the compiler for its GPU. M(rlinf.offline.rlinf_venv) builds them once, and keeps the wheels.
    This brings them into the bundle, so that no other node has to build them, or needs the compiler.
  - Each is hashed on both sides. One that the bundle has already, from another node, stays.
  - The bundle has to be sealed afterwards (M(rlinf.offline.rlinf_bundle)).
extends_documentation_fragment:
  - rlinf.offline.attributes
options:
  src:
    description: Where the node keeps what it built, C(state/built) below the prefix.
    type: path
    required: true
  bundle_dir:
    description: The bundle on the machine that runs ansible-playbook.
    type: path
    required: true
"""

EXAMPLES = r"""
- name: Collect what the node built
  rlinf.offline.rlinf_collect:
    src: /opt/rlinf/state/built
    bundle_dir: /srv/rlinf/bundle
"""

RETURN = r"""
results:
  description: What became of each wheel that the node has.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The source's SHA-256 and the wheel, as a path.
      type: str
    changed:
      description: Whether it was, or would be, brought.
      type: bool
    state:
      description: V(collected), V(present), or V(left) for one of a source that the bundle does not have.
      type: str
    reason:
      description: Why.
      type: str
    bytes:
      description: How much was brought.
      type: int
    seconds:
      description: How long it took.
      type: float
"""
