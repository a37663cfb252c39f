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
  - Looks into each compiled wheel once for the GPUs that it holds code for, and writes that to C(records/kernels.json) of the bundle.
extends_documentation_fragment:
  - rlinf.offline.attributes
  - rlinf.offline.bundle
  - rlinf.offline.bundle.network
  - rlinf.offline.bundle.fetch
  - rlinf.offline.bundle.index
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

from functools import partial
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Catalog
from ansible_collections.rlinf.offline.plugins.module_utils._items import answer, attempt
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._module import FETCH, INDEX, ON_BASTION, Module, finish, opened, require
from ansible_collections.rlinf.offline.plugins.module_utils._network import Network

ARGUMENTS: dict[str, Any] = {
    **FETCH,
    **INDEX,
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
}


def main() -> None:
    module = Module(ARGUMENTS, supports_check_mode=True)
    require(module, ["requests", "git", "tomlkit", "packaging", "elftools"], ON_BASTION)
    finish(module, lambda: work(module))


def work(module: Module) -> dict[str, Any]:
    """Lock every target; fail at the end if one could not be."""
    catalog = Catalog.parse(module.params["catalog"])
    # it may name releases of distributions, too, which are no business of this module
    update = [name for name in module.params["update"] if name not in catalog.releases]
    selected = catalog.select(module.params["targets"])
    catalog.select(update)
    with opened(module) as bundle:
        locker = make_locker(module, bundle, catalog)
        outcomes = [
            attempt(target.name, partial(locker.lock, target, update=target.name in update, check=module.check_mode)) for target in selected
        ]
    return answer(outcomes, "targets", diff=module._diff)


def make_locker(module: Module, bundle: Bundle, catalog: Catalog) -> Any:
    """Build the lock engine out of the module's arguments."""
    from ansible_collections.rlinf.offline.plugins.module_utils._lock import Locker, Settings
    from ansible_collections.rlinf.offline.plugins.module_utils._wheel import Platform

    params = module.params
    settings = Settings(
        platform=Platform.parse(params["platform"]),
        torch_backend=params["torch_backend"],
        package_source=params["package_source"],
        pins_dir=Path(params["pins_dir"]) if params["pins_dir"] else None,
        leave_out=frozenset(params["leave_out"]),
        pythons={str(minor): str(python) for minor, python in params["python"].items()},
        uv=Path(params["uv"]) if params["uv"] else None,
        network=Network.of(params),
    )
    return Locker(bundle, catalog, settings, module.debug)


if __name__ == "__main__":
    main()
