#!/usr/bin/python
# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Install the environment of a target from a bundle, without network."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rlinf_venv
short_description: Install the environment of a target from a bundle, without network
version_added: "0.1.0"
description:
  - Builds a virtual environment aside, out of a bundle's lock (PEP 751) and this node's editables, verifies it, and switches to it in one step.
  - A running job keeps the environment it has. Former environments are kept, so that the switch can be undone.
  - Whether anything has to be done is found out by a fingerprint; the network is never asked, and nothing of the user's uv, pip or git
    configuration is read.
author: The rlinf.offline authors (@RLinf)
extends_documentation_fragment:
  - rlinf.offline.attributes
  - rlinf.offline.bundle
requirements:
  - tomlkit and packaging, in the node's private runtime (see M(rlinf.offline.rlinf_runtime))
options:
  prefix:
    description:
      - Where everything of this collection lies on the node.
      - The environments are C(venvs/<target>-<digest>), C(venvs/<target>) links to the current one.
    type: path
    required: true
  target:
    description: The name of the target, which names the environment.
    type: str
    required: true
  state:
    description:
      - V(present) has the environment of the lock current.
      - V(verified) hashes every installed file, compares the packages with the lock where O(lock) is given, and imports O(imports).
        What is found damaged is built anew by the next V(present).
      - V(rolled_back) has the environment current that the last switch took out of use.
    type: str
    choices: [present, verified, rolled_back]
    default: present
  lock:
    description: The pylock of the target in the bundle. Needed for O(state=present).
    type: path
  python:
    description:
      - The interpreter, by version (V(3.11)) or absolute path. Needed for O(state=present).
      - A version is looked for on PATH. None is ever downloaded.
    type: str
  editables:
    description:
      - Projects on this node that are installed editable, without their dependencies, which are in the lock.
      - What building them needs is taken from the bundle.
    type: list
    elements: dict
    default: []
    suboptions:
      package:
        description: The name of the distribution.
        type: str
        required: true
      path:
        description: The directory of its C(pyproject.toml) or C(setup.py).
        type: path
        required: true
  exports:
    description:
      - Environment variables that activating sets, and deactivating gives back.
      - A value is text, or a mapping with the key C(prepend), whose path is put before what the variable holds.
    type: dict
    default: {}
  imports:
    description: Modules that must be importable before the environment is switched to.
    type: list
    elements: str
    default: []
  project_dir:
    description: A checkout that gets a link C(.venv) to the environment, unless it has one or anything else of that name.
    type: path
  exact:
    description:
      - Whether a package that was added by hand has the environment built anew, and is an error for O(state=verified).
      - A package removed or replaced always has, and is.
    type: bool
    default: true
  keep:
    description:
      - How many environments of the target are kept, the current one included.
      - One that a running process uses is kept beyond that.
    type: int
    default: 2
"""

EXAMPLES = r"""
- name: Install openvla
  rlinf.offline.rlinf_venv:
    prefix: /opt/rlinf
    bundle_dir: /opt/rlinf/bundle
    target: openvla
    lock: /opt/rlinf/bundle/targets/0a1b2c3d4e5f60718293a4b5c6d7e8f901234567/openvla/pylock.openvla.toml
    python: "3.11"
    editables:
      - package: libero
        path: /opt/rlinf/src/LIBERO
    exports:
      NVIDIA_DRIVER_CAPABILITIES: all
      PYTHONPATH:
        prepend: /opt/rlinf/src/LIBERO
    imports: [torch, libero]

- name: Go back to the former environment
  rlinf.offline.rlinf_venv:
    prefix: /opt/rlinf
    bundle_dir: /opt/rlinf/bundle
    target: openvla
    state: rolled_back
"""

RETURN = r"""
venv:
  description: The link to the current environment.
  type: str
  returned: success
  sample: /opt/rlinf/venvs/openvla
generation:
  description: The folder of the current environment; in check mode the one there would be, as far as its name is known.
  type: str
  returned: success
  sample: openvla-3f2a9c01b7de
digest:
  description: The SHA-256 of lock, interpreter and exports.
  type: str
  returned: success
reason:
  description: Why something was, or would be, done.
  type: str
  returned: success
  sample: other packages
packages:
  description: The packages that come, go and change, with their lines before and after.
  type: dict
  returned: success
  contains:
    added:
      description: Packages that were not there, C(name) and C(after).
      type: list
      elements: dict
    removed:
      description: Packages that are there no longer, C(name) and C(before).
      type: list
      elements: dict
    changed:
      description: Packages of another version or of other content, C(name), C(before) and C(after).
      type: list
      elements: dict
removed:
  description: Folders of environments that were, or would be, removed.
  type: list
  elements: str
  returned: O(state=present)
after_push:
  description: In check mode, that the bundle or a working copy is not there yet, so that what would be done is known only later.
  type: bool
  returned: in check mode, if one of them is not there
verified:
  description: How many packages were verified.
  type: int
  returned: O(state=verified)
installed:
  description: The packages, C(name), C(version) and C(source), which is the path of the wheel in the bundle or of the editable.
  type: list
  elements: dict
  returned: O(state=verified)
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle, Node
from ansible_collections.rlinf.offline.plugins.module_utils._module import ON_NODE, finish, require
from ansible_collections.rlinf.offline.plugins.module_utils._uv import Uv, find_python, find_uv, offline_environment

ARGUMENTS: dict[str, Any] = {
    "bundle_dir": {"type": "path", "required": True},
    "prefix": {"type": "path", "required": True},
    "target": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "verified", "rolled_back"], "default": "present"},
    "lock": {"type": "path"},
    "python": {"type": "str"},
    "editables": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {"package": {"type": "str", "required": True}, "path": {"type": "path", "required": True}},
    },
    "exports": {"type": "dict", "default": {}},
    "imports": {"type": "list", "elements": "str", "default": []},
    "project_dir": {"type": "path"},
    "exact": {"type": "bool", "default": True},
    "keep": {"type": "int", "default": 2},
}


def main() -> None:
    module = AnsibleModule(ARGUMENTS, required_if=[("state", "present", ("lock", "python"))], supports_check_mode=True)
    require(module, ["packaging", "tomlkit"], ON_NODE)
    states = {"present": present, "verified": verified, "rolled_back": rolled_back}
    finish(module, lambda: states[module.params["state"]](module))


def venv_of(module: AnsibleModule) -> Any:
    """Return the environments that the arguments speak of."""
    from ansible_collections.rlinf.offline.plugins.module_utils._venv import Venv

    params = module.params
    node = Node(Path(params["prefix"]).absolute())
    config = node.uv_config if node.uv_config.is_file() else None
    git_config = node.git_config if node.git_config.is_file() else None
    uv = Uv(find_uv(prefix=node.prefix), offline_environment(node.cache, git_config, config))
    project = Path(params["project_dir"]).absolute() if params["project_dir"] else None
    return Venv(node, Bundle(Path(params["bundle_dir"]).absolute()), params["target"], uv, project, params["keep"])


def present(module: AnsibleModule) -> dict[str, Any]:
    """Have the environment of the lock current."""
    from ansible_collections.rlinf.offline.plugins.module_utils._effective import effective_lock
    from ansible_collections.rlinf.offline.plugins.module_utils._venv import Wanted, package_changes

    params = module.params
    lock = Path(params["lock"]).absolute()
    missing = [path for path in (str(lock), *(editable["path"] for editable in params["editables"])) if not Path(path).exists()]
    if module.check_mode and missing:
        return {"changed": True, "reason": f"would install when it is there: {', '.join(missing)}", "after_push": True}
    venv = venv_of(module)
    interpreter = find_python(params["python"], venv.uv)
    wanted = Wanted(effective_lock(lock, params["editables"]), interpreter, params["exports"], params["imports"], params["exact"])
    plan = venv.plan(wanted)
    generation = plan.ready.name if plan.ready else venv.generations.place(plan.digest).name
    if plan.changed and not module.check_mode:
        plan, built = venv.apply(wanted)
        generation = built.name
    return {
        "changed": plan.changed,
        "venv": str(venv.link),
        "generation": generation,
        "digest": plan.digest,
        "reason": plan.reason,
        "packages": package_changes(plan.before, plan.after),
        "removed": [path.name for path in plan.removable],
        **_diff(module, plan.before, plan.after, venv, plan.current.name if plan.current else "none", generation),
    }


def verified(module: AnsibleModule) -> dict[str, Any]:
    """Hash the current environment; nothing but a note of damage is written."""
    from ansible_collections.rlinf.offline.plugins.module_utils._effective import effective_lock

    params = module.params
    venv = venv_of(module)
    lock = effective_lock(Path(params["lock"]), params["editables"]) if params["lock"] else None
    found = venv.verify(lock, params["imports"], exact=params["exact"], mark=not module.check_mode)
    return {
        "changed": False,
        "venv": str(venv.link),
        "reason": "verified",
        "packages": {"added": [], "removed": [], "changed": []},
        "generation": found["generation"],
        "digest": found["digest"],
        "verified": len(found["packages"]),
        "installed": found["packages"],
    }


def rolled_back(module: AnsibleModule) -> dict[str, Any]:
    """Have the former environment current."""
    from ansible_collections.rlinf.offline.plugins.module_utils._venv import describe, package_changes

    venv = venv_of(module)
    current, former = venv.previous()
    now = former or current
    if former and not module.check_mode:
        venv.roll_back()
    before, after = describe(current), describe(now)
    return {
        "changed": former is not None,
        "venv": str(venv.link),
        "generation": now.name,
        "digest": now.digest,
        "reason": f"back from {current.name}" if former else f"already back from {current.stamp['rolled_back_from']}",
        "packages": package_changes(before, after),
        **_diff(module, before, after, venv, current.name, now.name),
    }


def _diff(module: AnsibleModule, before: str, after: str, venv: Any, current: str, generation: str) -> dict[str, Any]:
    if not module._diff:
        return {}
    return {
        "diff": {
            "before": before,
            "after": after,
            "before_header": f"{venv.link} -> {current}",
            "after_header": f"{venv.link} -> {generation}",
        }
    }


if __name__ == "__main__":
    main()
