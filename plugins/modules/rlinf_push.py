#!/usr/bin/python
# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation of an action plugin: plugins/action/rlinf_push.py does the work, on the machine that runs ansible-playbook."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rlinf_push
short_description: Push a bundle to a node
version_added: "0.1.0"
author: The rlinf.offline authors (@RLinf)
description:
  - Copies what the manifest of a bundle lists, and the node lacks or has otherwise, with rsync. The manifest comes last.
  - Uses the connection that Ansible uses for the node, its port, user, key, jump host and options included. A transfer that was cut off is continued.
  - Copies nothing where node and bastion share the directory, or where the bastion has no bundle and the node has one.
  - With O(verify), whatever came by whichever way is compared with the manifest in the end, and removed if only a former bundle had it and its being
    there would matter; see M(rlinf.offline.rlinf_bundle).
  - Needs rsync on both sides. A connection by password is refused.
extends_documentation_fragment:
  - rlinf.offline.attributes
options:
  src:
    description: The bundle on the machine that runs ansible-playbook.
    type: path
    required: true
  dest:
    description: Where it goes on the node.
    type: path
    required: true
  bandwidth:
    description: How much is sent in KiB a second. V(0) is without limit.
    type: int
    default: 0
  targets:
    description: The targets of the host. What only others need is not sent. Without any, everything is.
    type: list
    elements: str
    default: []
  release:
    description: The host's release and architecture, C(debian-12/amd64). With O(targets), system packages of others are not sent.
    type: str
    default: ""
  prune:
    description: Remove everything that only a former bundle had. Needs O(verify).
    type: bool
    default: false
  verify:
    description:
      - Verify the bundle on the node, as M(rlinf.offline.rlinf_bundle) with O(rlinf.offline.rlinf_bundle#module:state=verified) does.
      - With O(state=seen), only O(verify.trusted_signers) counts. What the node needs for a swarm is judged here, since it is used before that.
    type: dict
    suboptions:
      stamp:
        description: Where the node notes what it verified.
        type: path
        required: true
      trusted_signers:
        description: Who must have signed the manifest.
        type: str
        default: ""
      allow_downgrade:
        description: Accept an older bundle, too.
        type: bool
        default: false
      jobs:
        description: How many files are hashed at a time.
        type: int
        default: 4
  accepted:
    description:
      - What M(rlinf.offline.rlinf_node_info) says that the node has accepted (C(node.bundle.accepted)).
      - If that is just this bundle, the node is not asked again. Needs O(verify).
    type: dict
    default: {}
  state:
    description:
      - V(pushed) copies, and with O(verify) verifies.
      - V(brought) leaves verifying to a task of its own. Where nodes share the directory they copy one after the other, and verify at the same time.
      - V(seen) only says what is lacking, and brings what the node needs to take part in a swarm; see M(rlinf.offline.rlinf_swarm).
    type: str
    choices: [pushed, brought, seen]
    default: pushed
"""

EXAMPLES = r"""
- name: Push the bundle
  rlinf.offline.rlinf_push:
    src: /srv/rlinf/bundle
    dest: /opt/rlinf/bundle
"""

RETURN = r"""
reason:
  description: Why something was, or was not, copied.
  returned: success
  type: str
shared:
  description: Whether node and bastion share the directory.
  returned: success
  type: bool
files:
  description: How many files were, or would be, written.
  returned: success
  type: int
bytes:
  description: Their size.
  returned: success
  type: int
seconds:
  description: How long that took.
  returned: success
  type: float
first:
  description: The first of these files.
  returned: success
  type: list
  elements: str
extra:
  description: Files on the node that the manifest does not list, of a former bundle or of a push that was cut off, as C(count) and the C(first) names.
    C(by_name) is whether all of them lie where files are only ever taken by name, and none was left by rsync.
  returned: success
  type: dict
accepted:
  description: What verifying found, as M(rlinf.offline.rlinf_bundle) says it.
  returned: with O(verify), unless in check mode something would be sent
  type: dict
pruned:
  description: What was removed or set aside, as M(rlinf.offline.rlinf_bundle) says it.
  returned: with O(verify), where the node had such files
  type: dict
lacking:
  description: How many C(files) are not on the node as they are here, their C(bytes), and by what M(rlinf.offline.rlinf_swarm) finds their C(names).
  returned: with O(state=seen)
  type: dict
peer:
  description: How the node is reached by M(rlinf.offline.rlinf_swarm). It is not there where it cannot take part; RV(reason) says why.
  returned: with O(state=seen)
  type: dict
"""
