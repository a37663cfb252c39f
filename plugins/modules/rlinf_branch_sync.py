#!/usr/bin/python
# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring a fork up to date with its upstream."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rlinf_branch_sync
short_description: Bring a fork up to date with its upstream
version_added: "0.1.0"
author: The rlinf.offline authors (@RLinf)
description:
  - Branches that follow upstream are pushed to the fork by fast-forward alone. One that has diverged is refused and named, and nothing is forced.
  - Work branches are rebased onto their base, as it is upstream, and pushed with C(--force-with-lease) on the very commit that was rebased.
  - Each branch is tried in a scratch repository. A conflict stops that branch alone, which stays as it was everywhere, and its files are named.
  - In check mode the rebase is tried as well, and the push is asked for with C(--dry-run), so that the plan is what would happen, to the commit.
  - A branch of a checkout is moved along when it holds nothing else and no working copy stands on it. Its HEAD, index, files and stashes are never touched.
  - A branch of the checkout that is ahead of the fork's is rebased and pushed with what it has more.
  - Nothing of the user's git settings is used but name and address of the committer. No hook runs, and rebased commits are not signed.
  - Credentials come from the URL, C(~/.netrc) or the SSH agent.
extends_documentation_fragment:
  - rlinf.offline.attributes
  - rlinf.offline.bundle.network
options:
  origin:
    description: The URL of the fork, https or SSH. It is pushed to.
    type: str
    required: true
  upstream:
    description: The URL of the repository that it is a fork of.
    type: str
    required: true
  checkout:
    description:
      - A checkout of the fork, or a bare clone of it, with its whole history. One of its remotes is O(origin).
      - Without it, a bare clone is kept in O(cache_dir).
    type: path
  cache_dir:
    description: A directory for what is kept between runs, and for the scratch repository.
    type: path
    required: true
  follow:
    description: The branches that follow upstream.
    type: list
    elements: str
    default: [main, release/v0.1]
  branches:
    description: The work branches.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The branch.
        type: str
        required: true
      base:
        description: The branch that it is rebased onto, one of O(follow).
        type: str
        required: true
  committer:
    description:
      - Who rebases, as V(Name <address>). The authors of commits stay.
      - Without it, what git knows as C(user.name) and C(user.email), of the checkout or of the user.
    type: str
requirements:
  - git 2.32 or newer
  - GitPython
"""

EXAMPLES = r"""
- name: Show what would be done
  rlinf.offline.rlinf_branch_sync:
    origin: git@github.com:example/RLinf.git
    upstream: https://github.com/RLinf/RLinf.git
    cache_dir: /srv/cache
    branches:
      - name: local_install_merged
        base: release/v0.1
  check_mode: true
  diff: true

- name: Bring the fork up to date, and the branches of a checkout with it
  rlinf.offline.rlinf_branch_sync:
    origin: git@github.com:example/RLinf.git
    upstream: https://github.com/RLinf/RLinf.git
    checkout: /home/me/RLinf
    cache_dir: /srv/cache
    committer: Me <me@example.org>
    branches:
      - name: local_install_merged
        base: release/v0.1
      - name: cu121_docker_build
        base: release/v0.1
"""

RETURN = r"""
results:
  description: What became of each branch, those that follow first, in the order given; those that failed are among them.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The branch.
      type: str
    base:
      description: The branch that it is based on; empty for one that follows upstream.
      type: str
    changed:
      description: Whether it was pushed, or moved in the checkout; in check mode, whether it would be.
      type: bool
    state:
      description: V(current), V(pushed), V(outdated) (only in check mode), V(conflict) or V(failed).
      type: str
    reason:
      description: Why it was pushed, or the error.
      type: str
    problem:
      description: The kind of failure, such as V(diverged), V(conflict), V(merges), V(moved), V(credentials), V(ref), V(base), V(identity); empty without one.
      type: str
    old_commit:
      description: The commit of the fork's branch before.
      type: str
    commit:
      description: The commit after, or that it would have.
      type: str
    commits:
      description: What was rebased, the oldest first, as commit before and subject.
      type: list
      elements: str
    files:
      description: The files in conflict.
      type: list
      elements: str
    local:
      description: What became of the branch of that name in the checkout, where something is to be said.
      type: str
    bytes:
      description: Always 0.
      type: int
    seconds:
      description: How long it took.
      type: float
"""

from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._module import NETWORK, ON_BASTION, Module, finish, require
from ansible_collections.rlinf.offline.plugins.module_utils._network import Network

BRANCH: dict[str, Any] = {"name": {"type": "str", "required": True}, "base": {"type": "str", "required": True}}
ARGUMENTS: dict[str, Any] = {
    "origin": {"type": "str", "required": True},
    "upstream": {"type": "str", "required": True},
    "checkout": {"type": "path"},
    "cache_dir": {"type": "path", "required": True},
    "follow": {"type": "list", "elements": "str", "default": ["main", "release/v0.1"]},
    "branches": {"type": "list", "elements": "dict", "default": [], "options": BRANCH},
    "committer": {"type": "str"},
    **NETWORK,
}


def main() -> None:
    module = Module(ARGUMENTS, supports_check_mode=True)
    require(module, ["git"], ON_BASTION)
    finish(module, lambda: work(module))


def work(module: Module) -> dict[str, Any]:
    """Bring all branches up to date; fail at the end if one could not be."""
    from ansible_collections.rlinf.offline.plugins.module_utils import _branches

    return _branches.run(module.params, Network.of(module.params), check=module.check_mode, diff=module._diff)


if __name__ == "__main__":
    main()
