#!/usr/bin/python
# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Install system packages out of the bundle."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rlinf_apt_install
short_description: Install system packages out of the bundle alone
version_added: "0.1.0"
author: The rlinf.offline authors (@RLinf)
description:
  - Installs what is missing of some packages out of the bundle's repository for this node's release.
  - apt gets that repository as its only source, for one transaction, with lists of its own. The node's sources, lists, holds and pins stay as they are.
  - Nothing is upgraded or removed. A plan that would do so is an error that names the packages, before anything is changed.
  - Where every package is there, apt is not called at all.
extends_documentation_fragment:
  - rlinf.offline.attributes
  - rlinf.offline.bundle
options:
  prefix:
    description: Where everything of this collection lies on the node.
    type: path
    required: true
  packages:
    description: What shall be there.
    type: list
    elements: str
    required: true
  state:
    description:
      - V(present) installs what is missing, which needs root.
      - V(checked) changes nothing, and is an error that names what is missing.
    type: str
    choices: [present, checked]
    default: present
  files:
    description: Small configuration files, path to text, that are put in place where nothing is there.
    type: dict
    default: {}
  timeout:
    description: Seconds to wait for another package manager to end.
    type: int
    default: 120
"""

EXAMPLES = r"""
- name: Install a library
  rlinf.offline.rlinf_apt_install:
    prefix: /opt/rlinf
    bundle_dir: /opt/rlinf/bundle
    packages: [libegl1]
  become: true

- name: Name what is missing
  rlinf.offline.rlinf_apt_install:
    prefix: /opt/rlinf
    bundle_dir: /opt/rlinf/bundle
    packages: [libegl1]
    state: checked
"""

RETURN = r"""
missing:
  description: The packages asked for that were not there.
  type: list
  elements: str
  returned: success
installs:
  description: What was, or would be, installed, package to version.
  type: dict
  returned: success
files:
  description: The configuration files that were, or would be, put in place.
  type: list
  elements: str
  returned: success
bytes:
  description: The size of the package files.
  type: int
  returned: success
after_push:
  description: That the bundle is not there yet, so that what would be installed is known only later.
  type: bool
  returned: in check mode, if the bundle is not there
"""

import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.rlinf.offline.plugins.module_utils._apt_install import Installer
from ansible_collections.rlinf.offline.plugins.module_utils._errors import AptError
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle, Node
from ansible_collections.rlinf.offline.plugins.module_utils._module import finish

ARGUMENTS: dict[str, Any] = {
    "bundle_dir": {"type": "path", "required": True},
    "prefix": {"type": "path", "required": True},
    "packages": {"type": "list", "elements": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "checked"], "default": "present"},
    "files": {"type": "dict", "default": {}},
    "timeout": {"type": "int", "default": 120},
}


def main() -> None:
    module = AnsibleModule(ARGUMENTS, supports_check_mode=True)
    finish(module, lambda: work(module))


def work(module: AnsibleModule) -> dict[str, Any]:
    """Install what is missing, or say what that is."""
    params = module.params
    node = Node(Path(params["prefix"]).absolute())
    bundle = Bundle(Path(params["bundle_dir"]).absolute())
    installer = Installer(bundle, tuple(params["packages"]), node.state / "apt", params["files"], params["timeout"])
    if params["state"] == "checked":
        missing = installer.missing()
        if missing:
            raise AptError(
                f"System packages are missing: {', '.join(missing)}. Install them, or let rlinf.offline.prepare do it as root.",
                missing=missing,
            )
        return {"changed": False, "missing": [], "installs": {}, "files": [], "bytes": 0}
    if module.check_mode and not bundle.root.is_dir():
        missing = installer.missing()
        return {"changed": bool(missing), "missing": missing, "installs": {}, "files": [], "bytes": 0, "after_push": True}
    plan = installer.plan()
    if plan.changed and not module.check_mode:
        if os.geteuid():
            raise AptError(
                f"Installing {', '.join(plan.missing or plan.files)} needs root. Give become for the role prepare, or set rlinf_system_packages_state: checked."
            )
        installer.apply(plan)
    answer: dict[str, Any] = {
        "changed": plan.changed,
        "missing": list(plan.missing),
        "installs": dict(plan.installs),
        "files": list(plan.files),
        "bytes": plan.bytes,
    }
    if module._diff:
        after = [f"{name} {version}\n" for name, version in sorted(plan.installs.items())] + [f"{path}\n" for path in plan.files]
        answer["diff"] = {"before_header": "system packages", "after_header": "system packages", "before": "", "after": "".join(after)}
    return answer


if __name__ == "__main__":
    main()
