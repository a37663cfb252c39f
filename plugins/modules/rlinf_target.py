#!/usr/bin/python
# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Put in place what a target needs beside its environment."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rlinf_target
short_description: Put in place what a target needs on a node beside its environment
version_added: "0.1.0"
author: The rlinf.offline authors (@RLinf)
description:
  - Makes working copies of the target's repositories out of the bundle, at the frozen commits, their origin set to the real URL.
  - Copies the target's assets, makes the links in the user's home that programs look for, and writes its small files.
  - Returns the exports, editables and the lock that M(rlinf.offline.rlinf_venv) takes.
  - What is the user's stays. A checkout that is given is only read, a working copy that was edited is not moved, a path that is taken is left alone.
  - Everything that is missing or in the way is named before anything changes.
extends_documentation_fragment:
  - rlinf.offline.attributes
  - rlinf.offline.bundle
  - rlinf.offline.bundle.target
options:
  prefix:
    description: Where things are installed on the node, absolute.
    type: path
    required: true
  state:
    description:
      - V(present) puts the target in place.
      - V(reset) puts every working copy that this module made, of any target, back to what it was made as, by hard reset and clean.
        Edits and added files are lost, and files that git ignores stay. In check mode it says what would be lost.
        Commits are never lost. Branches stay, and commits that no branch holds get one. A working copy with somebody's repository in it is refused.
    type: str
    choices: [present, reset]
    default: present
  catalog:
    description: The catalogue, with the keys C(repositories), C(wheels), C(assets) and C(targets). Needed with O(state=present).
    type: dict
  target:
    description: The target. Needed with O(state=present).
    type: str
  project_dir:
    description: A checkout of the project that is there already. It is used as it is and never changed.
    type: path
requirements:
  - GitPython
  - tomlkit
  - packaging
"""

EXAMPLES = r"""
- name: Put openvla in place
  rlinf.offline.rlinf_target:
    prefix: /opt/rlinf
    bundle_dir: /opt/rlinf/bundle
    catalog: "{{ rlinf_catalog }}"
    target: openvla

- name: Use the checkouts that are there
  rlinf.offline.rlinf_target:
    prefix: /opt/rlinf
    bundle_dir: /mnt/bundle
    assets_dir: /mnt/bundle/assets
    catalog: "{{ rlinf_catalog }}"
    target: openvla
    project_dir: /home/user/RLinf
    repo_paths:
      LIBERO: /home/user/LIBERO

- name: Throw away what was changed in our working copies
  rlinf.offline.rlinf_target:
    prefix: /opt/rlinf
    bundle_dir: /opt/rlinf/bundle
    state: reset
"""

RETURN = r"""
results:
  description: What became of each worktree, asset, link, file and reference.
  returned: success
  type: list
  elements: dict
  contains:
    kind:
      description: V(worktree), V(asset), V(link), V(file), V(left over) for what a run that was cut off left of a working copy, or V(reference) for one in
        a requirement file that the bundle has no copy of.
      type: str
    name:
      description: The repository, asset, path or URL.
      type: str
    path:
      description: Where it is.
      type: str
    changed:
      description: Whether something was done about it.
      type: bool
    state:
      description: V(present), V(existing), V(edited), V(in the bundle), V(left alone), V(remote fallback), V(absent), V(removed), V(clean) or
        V(refused).
      type: str
    reason:
      description: Why.
      type: str
    bytes:
      description: How much was copied.
      type: int
    seconds:
      description: How long it took.
      type: float
project_dir:
  description: The checkout of the project.
  returned: with O(state=present)
  type: str
commit:
  description: The commit of the project that the target was locked for.
  returned: with O(state=present)
  type: str
lock:
  description: The lock of its environment.
  returned: with O(state=present)
  type: str
worktrees:
  description: The path of every repository, by name.
  returned: with O(state=present)
  type: dict
assets_dir:
  description: Where the assets lie.
  returned: with O(state=present)
  type: str
exports:
  description: Variables of the environment, each a text or a mapping with the key C(prepend).
  returned: with O(state=present)
  type: dict
editables:
  description: What is installed editable, as C(package) and C(path).
  returned: with O(state=present)
  type: list
  elements: dict
imports:
  description: Modules that must be importable in the environment.
  returned: with O(state=present)
  type: list
  elements: str
scripts:
  description:
    - What is run in the environment while it is built, as C(name), C(cwd), C(argv), C(env) and C(removes).
    - C({venv}) in arguments and variables stands for the environment.
  returned: with O(state=present)
  type: list
  elements: dict
messages:
  description: What patching the target's requirement files would say of each reference, as C(colour), C(text) and C(kind).
  returned: with O(state=present)
  type: list
  elements: dict
drift:
  description: Requirement files that are not those that the target was locked from.
  returned: with O(state=present)
  type: list
  elements: str
sources:
  description: How many things came from where, C(bundle), C(existing) or C(remote).
  returned: with O(state=present)
  type: dict
after_push:
  description: There is no bundle yet, so that nothing more can be said in check mode.
  returned: in check mode, before the bundle was pushed
  type: bool
"""

from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle, Node
from ansible_collections.rlinf.offline.plugins.module_utils._module import ON_NODE, TARGET, Module, finish, require

ARGUMENTS: dict[str, Any] = {
    "bundle_dir": {"type": "path", "required": True},
    "prefix": {"type": "path", "required": True},
    "state": {"type": "str", "choices": ["present", "reset"], "default": "present"},
    "target": {"type": "str"},
    "project_dir": {"type": "path"},
    **TARGET,
}


def main() -> None:
    module = Module(ARGUMENTS, required_if=[("state", "present", ("catalog", "target"))], supports_check_mode=True)
    require(module, ["git", "tomlkit", "packaging"], ON_NODE)
    states = {"present": present, "reset": reset}
    finish(module, lambda: states[module.params["state"]](module))


def present(module: Module) -> dict[str, Any]:
    """Have the target in place."""
    from ansible_collections.rlinf.offline.plugins.module_utils._target import Wanted, placed

    answer = placed(Wanted.of(module.params), check=module.check_mode)
    return answer if module._diff else {key: value for key, value in answer.items() if key != "diff"}


def reset(module: Module) -> dict[str, Any]:
    """Put the working copies back."""
    from ansible_collections.rlinf.offline.plugins.module_utils._actions import diff
    from ansible_collections.rlinf.offline.plugins.module_utils._target import reset as reset_all

    params = module.params
    actions, results = reset_all(
        Node(Path(params["prefix"]).absolute()), Bundle(Path(params["bundle_dir"]).absolute()), check=module.check_mode
    )
    warnings = [action.warning for action in actions if action.warning] if module.check_mode else []
    answer = {"changed": any(action.changed for action in actions), "results": results, "warnings": warnings}
    return {**answer, **({"diff": diff(actions)} if module._diff else {})}


if __name__ == "__main__":
    main()
