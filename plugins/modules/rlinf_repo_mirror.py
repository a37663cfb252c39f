#!/usr/bin/python
# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mirror git repositories into the bundle."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rlinf_repo_mirror
short_description: Mirror git repositories into the bundle
version_added: "0.1.0"
author: The rlinf.offline authors (@RLinf)
description:
  - Brings bare mirrors up to date, side by side. Each holds all branches and tags with whole objects, and lies under C(repos/HOST/OWNER/NAME.git).
  - A mirror's HEAD is detached at the commit of the version that is asked for, so that a request without a ref gets it.
  - The commit is frozen in C(records/repositories.json). Mirrors are always fetched, but the commit moves only with O(update) or when the entry changes.
  - A frozen commit stays in the mirror although upstream rewrites its history.
  - A new mirror is made aside and gets its name when it is whole. A folder that is not that repository's mirror is left alone.
  - Nothing of the user's git settings is used. Credentials come from the URL, C(~/.netrc) or the SSH agent, and get neither into the bundle nor into results.
  - One repository that fails does not stop the others; the module fails at the end and names each.
extends_documentation_fragment:
  - rlinf.offline.attributes
  - rlinf.offline.bundle
  - rlinf.offline.bundle.network
  - rlinf.offline.bundle.fetch
options:
  repos:
    description: The repositories. Each may come once, however its URL is written.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: How messages name it.
        type: str
        required: true
      url:
        description: An https or SSH URL.
        type: str
        required: true
      version:
        description: A branch, tag or commit. Without it the remote's own default branch, whatever it is called.
        type: str
      submodules:
        description: Whether its submodules are mirrored too, at the commits that it pins, and theirs.
        type: bool
        default: false
      lfs:
        description: Whether the LFS objects of that commit are brought too; this needs git-lfs.
        type: bool
        default: false
  cut_off:
    description:
      - A date such as V(2025-12-23), its end in UTC, or a time such as V(2025-12-23T12:00:00Z).
      - For repositories without a version, the last commit of the default branch that is not newer is used. Empty means the newest.
    type: str
  update:
    description: Whether frozen commits may move.
    type: bool
    default: false
requirements:
  - git 2.32 or newer
  - GitPython
  - git-lfs, for repositories with O(repos[].lfs)
"""

EXAMPLES = r"""
- name: Mirror what openvla is made of
  rlinf.offline.rlinf_repo_mirror:
    bundle_dir: /srv/bundle
    cut_off: "2025-12-23"
    repos:
      - name: RLinf
        url: https://github.com/RLinf/RLinf.git
        version: release/v0.1
      - name: LIBERO
        url: https://github.com/RLinf/LIBERO.git

- name: Let its frozen commit move, by way of a mirror of GitHub
  rlinf.offline.rlinf_repo_mirror:
    bundle_dir: /srv/bundle
    update: true
    url_rewrites:
      https://github.com/: https://git.example/github/
    repos:
      - name: LIBERO
        url: https://github.com/RLinf/LIBERO.git

- name: Mirror a private repository with its submodules, by the SSH agent of the bastion
  rlinf.offline.rlinf_repo_mirror:
    bundle_dir: /srv/bundle
    repos:
      - name: policies
        url: git@github.com:example/policies.git
        version: v1.2
        submodules: true
"""

RETURN = r"""
results:
  description: What became of each repository, in the order given; those that failed are among them.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The repository.
      type: str
    changed:
      description: Whether its mirror, its record or a submodule's changed.
      type: bool
    state:
      description: V(mirrored), V(absent) (only in check mode) or V(failed).
      type: str
    reason:
      description: Why it changed, or the error.
      type: str
    problem:
      description: The kind of failure, such as V(ref), V(unreachable), V(credentials), V(repository), V(foreign), V(damaged), V(other).
      returned: when it failed
      type: str
    mirror:
      description: The mirror's place under the bundle's C(repos/).
      returned: when it did not fail
      type: str
    url:
      description: Its URL, without credentials.
      returned: when it did not fail
      type: str
    version:
      description: The version asked for.
      returned: when it did not fail
      type: str
    cut_off:
      description: The cut-off that was used.
      returned: when it did not fail
      type: str
    commit:
      description: The commit of HEAD. In check mode it is empty where only fetching would tell.
      returned: when it did not fail
      type: str
    old_commit:
      description: The commit before; empty for a new mirror.
      returned: when it did not fail
      type: str
    default_branch:
      description: The remote's default branch.
      returned: when it did not fail
      type: str
    submodules:
      description: Path, URL, mirror and commit of each direct submodule.
      returned: when it did not fail
      type: list
      elements: dict
    bytes:
      description: The size of the mirror.
      type: int
    seconds:
      description: How long it took.
      type: float
"""

from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Repository
from ansible_collections.rlinf.offline.plugins.module_utils._items import answer
from ansible_collections.rlinf.offline.plugins.module_utils._module import FETCH, ON_BASTION, Module, finish, opened, require
from ansible_collections.rlinf.offline.plugins.module_utils._network import Network

REPOSITORY: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "url": {"type": "str", "required": True},
    "version": {"type": "str"},
    "submodules": {"type": "bool", "default": False},
    "lfs": {"type": "bool", "default": False},
}
ARGUMENTS: dict[str, Any] = {
    **FETCH,
    "repos": {"type": "list", "elements": "dict", "required": True, "options": REPOSITORY},
    "cut_off": {"type": "str"},
    "update": {"type": "bool", "default": False},
}


def main() -> None:
    module = Module(ARGUMENTS, supports_check_mode=True)
    require(module, ["git"], ON_BASTION)
    finish(module, lambda: work(module))


def work(module: Module) -> dict[str, Any]:
    """Mirror all repositories; fail at the end if one could not be."""
    from ansible_collections.rlinf.offline.plugins.module_utils._git import doubt, installed
    from ansible_collections.rlinf.offline.plugins.module_utils._mirror import mirror_all

    doubted = doubt(installed())
    if doubted:
        module.warn(doubted)
    params, network = module.params, Network.of(module.params)
    repositories = [Repository(**{**item, "version": item["version"] or None}) for item in params["repos"]]
    with opened(module) as bundle:
        outcomes = mirror_all(
            bundle, repositories, network, cut_off=params["cut_off"] or None, move=params["update"], check=module.check_mode
        )
    return answer(outcomes, "repositories", diff=module._diff)


if __name__ == "__main__":
    main()
