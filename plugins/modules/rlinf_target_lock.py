#!/usr/bin/python
# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lock targets and gather their packages into the bundle."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rlinf_target_lock
short_description: Lock targets and gather their Python packages into the bundle
version_added: "0.1.0"
author: The rlinf.offline authors (@RLinf)
description:
  - Resolves every step of a target's installation for the nodes' Python and platform, whatever the bastion runs, and installs nothing.
  - Resolves once with the index open, mirroring every git repository that turns up, and once more offline through the mirrors. Both must agree.
  - Gathers the files into the bundle's wheelhouse. What an index serves only as a source, and what comes from git, is built to a wheel once.
  - A lock that is there does not move unless its target is named in O(update). Files of it that are missing are brought again.
  - A package that the target's C(build_on_node) names is carried as its source, with what building it needs, and never built here.
extends_documentation_fragment:
  - rlinf.offline.attributes
  - rlinf.offline.bundle
  - rlinf.offline.bundle.fetch
options:
  catalog:
    description: The catalogue, with the keys C(repositories), C(wheels), C(assets) and C(targets).
    type: dict
    required: true
  targets:
    description: Names of the targets to lock.
    type: list
    elements: str
    required: true
  leave_out:
    description: Names of wheels and assets of the catalogue that are left out.
    type: list
    elements: str
    default: []
  update:
    description: Names of targets whose lock may move.
    type: list
    elements: str
    default: []
  platform:
    description: Machine and glibc of the nodes.
    type: str
    default: x86_64-manylinux_2_31
  torch_backend:
    description: Which builds of PyTorch are taken, V(pypi) or one that uv knows, such as V(cu121). It is part of the lock.
    type: str
    default: pypi
  package_source:
    description:
      - With V(bundle) every package is brought.
      - With V(index) those files are left out that an index serves as they are, for nodes that reach one. The lock is the same.
    type: str
    choices: [bundle, index]
    default: bundle
  pins_dir:
    description:
      - The folder of the pins that ship with the collection, C(TARGET.json). They are constraints of a target whose entry and requirement
        files are those that they were made of.
      - They take the place of a target's cut-off where O(index_url) does not say when files were uploaded (PEP 700).
    type: path
  python:
    description: Interpreters to build with, minor version to path or version. What is not given is looked for on this machine.
    type: dict
    default: {}
  uv:
    description: The uv to use. By default the one beside the interpreter that runs this module, or the first on PATH.
    type: path
  index_url:
    description: The package index, if it is not PyPI.
    type: str
requirements:
  - uv
  - requests
  - GitPython
  - tomlkit
  - packaging
  - pyelftools
"""

EXAMPLES = r"""
- name: Lock openvla
  rlinf.offline.rlinf_target_lock:
    bundle_dir: /srv/bundle
    catalog: "{{ rlinf_catalog }}"
    targets: [openvla]

- name: Move the lock of openvla to what the index has now
  rlinf.offline.rlinf_target_lock:
    bundle_dir: /srv/bundle
    catalog: "{{ rlinf_catalog }}"
    targets: [openvla]
    update: [openvla]
"""

RETURN = r"""
results:
  description: What became of each target.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The target.
      type: str
    changed:
      description: Whether its lock or files changed.
      type: bool
    state:
      description: V(locked), V(incomplete) or V(absent).
      type: str
    reason:
      description: Why.
      type: str
    commit:
      description: The commit of the project that it is locked for.
      type: str
    packages:
      description: How many packages it holds.
      type: int
    bytes:
      description: The size of their files in the bundle.
      type: int
    left_to_index:
      description: The size of the files that are left to an index.
      type: int
    seconds:
      description: How long it took.
      type: float
"""

import contextlib
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Catalog, Target
from ansible_collections.rlinf.offline.plugins.module_utils._errors import OfflineError
from ansible_collections.rlinf.offline.plugins.module_utils._files import exclusive
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._module import ON_BASTION, finish, require
from ansible_collections.rlinf.offline.plugins.module_utils._urls import Rewrites

ARGUMENTS: dict[str, Any] = {
    "bundle_dir": {"type": "path", "required": True},
    "catalog": {"type": "dict", "required": True},
    "targets": {"type": "list", "elements": "str", "required": True},
    "leave_out": {"type": "list", "elements": "str", "default": []},
    "update": {"type": "list", "elements": "str", "default": []},
    "package_source": {"type": "str", "choices": ["bundle", "index"], "default": "bundle"},
    "pins_dir": {"type": "path"},
    "platform": {"type": "str", "default": "x86_64-manylinux_2_31"},
    "torch_backend": {"type": "str", "default": "pypi"},
    "python": {"type": "dict", "default": {}},
    "uv": {"type": "path"},
    "index_url": {"type": "str"},
    "jobs": {"type": "int", "default": 8},
    "timeout": {"type": "int", "default": 120},
    "url_rewrites": {"type": "dict", "default": {}},
    "proxy": {"type": "str"},
}


def main() -> None:
    module = AnsibleModule(ARGUMENTS, supports_check_mode=True)
    require(module, ["requests", "git", "tomlkit", "packaging", "elftools"], ON_BASTION)
    finish(module, lambda: work(module))


def work(module: AnsibleModule) -> dict[str, Any]:
    """Lock every target, and fail at the end if one could not be."""
    locker = make_locker(module)
    selected = locker.catalog.select(module.params["targets"])
    locker.catalog.select(module.params["update"])
    with exclusive(locker.bundle.lock_file, f"the bundle {locker.bundle.root}") if not module.check_mode else contextlib.nullcontext():
        outcomes = [_one(locker, target, module) for target in selected]
    results = [result for result, _diff, _error in outcomes]
    errors = [error for _result, _diff, error in outcomes if error]
    if errors:
        raise OfflineError("\n".join(errors), results=results)
    answer: dict[str, Any] = {"changed": any(result["changed"] for result in results), "results": results}
    if module._diff:
        answer["diff"] = [diff for _result, diff, _error in outcomes if diff]
    return answer


def make_locker(module: AnsibleModule) -> Any:
    """Build the lock engine out of the module's arguments."""
    from ansible_collections.rlinf.offline.plugins.module_utils._fetch import Fetcher, Records
    from ansible_collections.rlinf.offline.plugins.module_utils._lock import Locker, Settings
    from ansible_collections.rlinf.offline.plugins.module_utils._wheel import Platform

    params = module.params
    rewrites = Rewrites(params["url_rewrites"])
    settings = Settings(
        platform=Platform.parse(params["platform"]),
        torch_backend=params["torch_backend"],
        package_source=params["package_source"],
        pins_dir=Path(params["pins_dir"]) if params["pins_dir"] else None,
        leave_out=frozenset(params["leave_out"]),
        pythons={str(minor): str(python) for minor, python in params["python"].items()},
        uv=Path(params["uv"]) if params["uv"] else None,
        index_url=params["index_url"] or None,
        rewrites=rewrites,
        proxy=params["proxy"] or None,
        jobs=params["jobs"],
        timeout=params["timeout"],
    )
    bundle = Bundle(Path(params["bundle_dir"]).resolve())
    records = Records(bundle.records / "urls.json")
    fetcher = Fetcher(rewrites, settings.proxy, settings.timeout, settings.jobs, records=records)
    return Locker(bundle, Catalog.parse(params["catalog"]), settings, fetcher, module.debug)


def _one(locker: Any, target: Target, module: AnsibleModule) -> tuple[dict[str, Any], dict[str, Any] | None, str | None]:
    """Lock one target; return its result, its diff, and its error if it failed."""
    start = time.monotonic()
    try:
        result = locker.lock(target, update=target.name in module.params["update"], check=module.check_mode)
    except OfflineError as error:
        failed = {
            "name": target.name,
            "changed": False,
            "state": "failed",
            "reason": str(error),
            "seconds": round(time.monotonic() - start, 1),
        }
        return failed, None, str(error)
    header = f"{target.name} (pins)"
    diff = {"before_header": header, "after_header": header, "before": _text(result.before), "after": _text(result.after)}
    return {**result.json, "seconds": round(time.monotonic() - start, 1)}, diff if result.before != result.after else None, None


def _text(lines: tuple[str, ...]) -> str:
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    main()
