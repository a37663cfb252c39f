#!/usr/bin/python
# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation of an action plugin: plugins/action/rlinf_swarm.py does the work, on the machine that runs ansible-playbook."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rlinf_swarm
short_description: Let nodes give each other a bundle
version_added: "0.1.0"
author: The rlinf.offline authors (@RLinf)
description:
  - Brings several nodes what they lack of a bundle, by BitTorrent v2, so that the machine that runs ansible-playbook sends about one copy of it.
  - Nobody is looked for. Each node is told a few others, admits nobody but them, listens on one address, and ends with the connection
    through which it was started. Once all have everything, no process, open port or file is left. What arrived of a file before
    it was cut off stays in C(.cache/swarm) of the bundle until that is verified, and the next run goes on from there.
  - A node that cannot take part is reported, as one behind a jump host. M(rlinf.offline.rlinf_push) brings it what it lacks.
  - Is meant for a task with C(run_once), after M(rlinf.offline.rlinf_push) with O(rlinf.offline.rlinf_push#module:state=seen) on each node.
extends_documentation_fragment:
  - rlinf.offline.attributes
options:
  src:
    description: The bundle on the machine that runs ansible-playbook.
    type: path
    required: true
  nodes:
    description: What M(rlinf.offline.rlinf_push) said of each host with O(rlinf.offline.rlinf_push#module:state=seen), by name.
    type: dict
    required: true
  bandwidth:
    description: How much this machine sends in KiB a second. V(0) is without limit.
    type: int
    default: 0
  node_bandwidth:
    description: How much each node sends in KiB a second. V(0) is without limit.
    type: int
    default: 0
  addresses:
    description: The addresses by which hosts reach each other, by name. By default the one that the connection came in at.
    type: dict
    default: {}
  port:
    description: The TCP port that nodes listen on. V(0) is any that is free.
    type: int
    default: 0
"""

EXAMPLES = r"""
- name: See what each node lacks
  rlinf.offline.rlinf_push:
    src: /srv/rlinf/bundle
    dest: /opt/rlinf/bundle
    state: seen
  register: seen

- name: Let the nodes give each other the bundle
  rlinf.offline.rlinf_swarm:
    src: /srv/rlinf/bundle
    nodes: "{{ dict(ansible_play_batch | zip(ansible_play_batch | map('extract', hostvars, 'seen'))) }}"
  run_once: true
"""

RETURN = r"""
reason:
  description: What was done, or why nothing was.
  returned: success
  type: str
sent:
  description: How many bytes this machine sent.
  returned: when nodes took part
  type: int
received:
  description: How many bytes all nodes received.
  returned: when nodes took part
  type: int
seconds:
  description: From the first byte until the last node had everything.
  returned: when nodes took part
  type: float
nodes:
  description: Of each node whether it is C(complete), the C(reason) if not, bytes C(received) and C(sent), and C(seconds).
  returned: success
  type: dict
"""
