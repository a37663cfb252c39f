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
  - Nothing is upgraded that O(upgrade) does not name, and nothing removed. A plan that would do so is an error that names the packages, before
    anything is changed.
  - Where every package is there, apt is not called at all.
extends_documentation_fragment:
  - rlinf.offline.attributes
  - rlinf.offline.bundle
options:
  packages:
    description: What shall be there.
    type: list
    elements: str
    required: true
  state:
    description:
      - V(present) installs what is missing, which needs root.
      - V(auto) installs as V(present) does what the bundle has for this node, if this is root. What is missing otherwise is named in a warning.
      - V(checked) changes nothing, and is an error that names what is missing.
    type: str
    choices: [auto, present, checked]
    default: present
  upgrade:
    description: Packages that may be upgraded, to what the bundle has, where something missing needs newer ones.
    type: list
    elements: str
    default: []
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
    bundle_dir: /opt/rlinf/bundle
    packages: [libegl1]
  become: true

- name: Name what is missing
  rlinf.offline.rlinf_apt_install:
    bundle_dir: /opt/rlinf/bundle
    packages: [libegl1]
    state: checked
"""

RETURN = r"""
missing:
  description: The packages asked for that were not there and were, or would be, installed.
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
later:
  description: That the bundle with these packages is not there yet, or this is not root, so that what would be installed is known only later.
  type: bool
  returned: in check mode, if that is so
"""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._apt import check_names, install_command
from ansible_collections.rlinf.offline.plugins.module_utils._apt_install import Installer, Plan
from ansible_collections.rlinf.offline.plugins.module_utils._errors import AptError
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._module import Module, finish

ARGUMENTS: dict[str, Any] = {
    "bundle_dir": {"type": "path", "required": True},
    "packages": {"type": "list", "elements": "str", "required": True},
    "state": {"type": "str", "choices": ["auto", "present", "checked"], "default": "present"},
    "upgrade": {"type": "list", "elements": "str", "default": []},
    "files": {"type": "dict", "default": {}},
    "timeout": {"type": "int", "default": 120},
}


def main() -> None:
    module = Module(ARGUMENTS, supports_check_mode=True)
    finish(module, lambda: work(module))


def work(module: Module) -> dict[str, Any]:
    """Install what is missing, or say what that is."""
    params = module.params
    check_names(params["packages"])
    bundle = Bundle(Path(params["bundle_dir"]).absolute())
    installer = Installer(bundle, tuple(params["packages"]), params["files"], frozenset(params["upgrade"]), params["timeout"])
    if params["state"] == "auto":
        installer, warnings = within_reach(installer)
        return {**work_on(module, installer), "warnings": warnings}
    if params["state"] == "checked":
        missing, absent = installer.missing(), installer.absent()
        if missing or absent:
            raise AptError(
                f"System packages are missing: {told(missing, absent)}. Install them, or let rlinf.offline.prepare do it as root.",
                missing=missing,
            )
        return said(Plan((), {}, ()))
    return work_on(module, installer)


def within_reach(installer: Installer) -> tuple[Installer, list[str]]:
    """Return the installer of what this user can install out of this bundle, and a warning that names the rest."""
    try:
        missing, absent = installer.missing(), installer.absent()
    except AptError as error:
        return replace(installer, packages=(), files={}), [str(error)]
    if os.geteuid():
        left, why = missing, "only root can install them (rlinf_system_packages_state: present uses sudo for that)"
        installer = replace(installer, packages=(), files={})
    else:
        offered = installer.offered() if installer.bundle.root.is_dir() else frozenset(missing)
        left, why = tuple(name for name in missing if name not in offered), "the bundle was made without them for this release"
        installer = replace(installer, packages=tuple(name for name in missing if name in offered))
        absent = ()
    if not left and not absent:
        return installer, []
    remedy = f" They come with: {install_command(left)}" if left else ""
    return installer, [f"System packages are missing: {told(left, absent)}; {why}.{remedy}"]


def work_on(module: Module, installer: Installer) -> dict[str, Any]:
    """Install what is missing, which must be possible."""
    missing = installer.missing() if installer.packages else ()
    if module.check_mode and (os.geteuid() or not installer.offered().issuperset(missing)):
        return {**said(Plan(missing, {}, installer.absent())), "later": True}
    if os.geteuid() and not module.check_mode and (missing or installer.absent()):
        raise AptError(
            f"Installing {told(missing, installer.absent())} needs root. Give become, or set rlinf_system_packages_state: checked."
        )
    # a plan is apt's, too; one of nothing looks at what is there alone
    with installer.alone() if not os.geteuid() and (missing or not module.check_mode) else contextlib.nullcontext():
        if not module.check_mode and not os.geteuid():
            installer.resume()
        plan = installer.plan() if installer.packages else Plan((), {}, installer.absent())
        files = plan.files if module.check_mode or not plan.changed else installer.apply(plan)
    answer = said(replace(plan, files=files))
    if module._diff:
        after = [f"{name} {version}\n" for name, version in sorted(plan.installs.items())] + [f"{path}\n" for path in plan.files]
        answer["diff"] = {"before_header": "system packages", "after_header": "system packages", "before": "", "after": "".join(after)}
    return answer


def told(missing: Sequence[str], absent: Sequence[str]) -> str:
    return ", ".join([*missing, *absent])


def said(plan: Plan) -> dict[str, Any]:
    """Return what a plan is as the module's result."""
    return {
        "changed": plan.changed,
        "missing": list(plan.missing),
        "installs": dict(plan.installs),
        "files": list(plan.files),
        "bytes": plan.bytes,
    }


if __name__ == "__main__":
    main()
