#!/usr/bin/python
# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Say what a bundle holds of what is asked for."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rlinf_bundle_check
short_description: Say what a bundle holds of what is asked for
version_added: "0.1.0"
author: The rlinf.offline authors (@RLinf)
description:
  - Says of each repository, wheel, asset and target, and of the tools, whether it is present, missing or damaged, and how many bytes a download would fetch.
    Of the system packages and interpreters that were sealed, it says whether they are as they were.
  - Unlike the check mode of the modules that fetch, it reads and hashes every file, and so finds damage that neither size nor date shows.
  - It changes nothing, and never fails for what it finds. The network is asked only for the length of wheels and assets that are missing.
extends_documentation_fragment:
  - rlinf.offline.attributes
  - rlinf.offline.bundle
  - rlinf.offline.bundle.network
  - rlinf.offline.bundle.fetch
options:
  catalog:
    description: The catalogue, with the keys C(repositories), C(wheels), C(assets) and C(targets).
    type: dict
    required: true
  targets:
    description: Names of targets.
    type: list
    elements: str
    required: true
  further:
    description: Names of repositories, wheels and assets that are asked for beside those of the targets.
    type: list
    elements: str
    default: []
  leave_out:
    description: Names of wheels and assets that are not asked for.
    type: list
    elements: str
    default: []
requirements:
  - git 2.32 or newer
  - GitPython
  - requests
  - packaging
  - pyelftools
"""

EXAMPLES = r"""
- name: Say what the bundle lacks
  rlinf.offline.rlinf_bundle_check:
    bundle_dir: /srv/bundle
    catalog: "{{ my_catalog }}"
    targets: [openvla]
"""

RETURN = r"""
results:
  description: What was found of each thing.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The entry of the catalogue, V(tools), or of system packages and interpreters what they are for, such as V(debian-12/amd64).
      type: str
    kind:
      description: V(repository), V(wheel), V(asset), V(target), V(tools), V(system packages) or V(interpreter).
      type: str
    changed:
      description: Always V(false).
      type: bool
    state:
      description: V(present), V(missing) or V(damaged).
      type: str
    reason:
      description: What was found, and what to do about it.
      type: str
    bytes:
      description: How many bytes a download would fetch; null where only fetching tells.
      type: int
"""

from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Asset, Catalog, Repository, Wheel
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._module import FETCH, ON_BASTION, Module, finish, require
from ansible_collections.rlinf.offline.plugins.module_utils._network import Network

ARGUMENTS: dict[str, Any] = {
    **FETCH,
    "catalog": {"type": "dict", "required": True},
    "targets": {"type": "list", "elements": "str", "required": True},
    "further": {"type": "list", "elements": "str", "default": []},
    "leave_out": {"type": "list", "elements": "str", "default": []},
}


def main() -> None:
    module = Module(ARGUMENTS, supports_check_mode=True)
    require(module, ["git", "requests", "packaging", "elftools"], ON_BASTION)
    finish(module, lambda: work(module.params))


def work(params: dict[str, Any]) -> dict[str, Any]:
    """Look at everything; nothing is changed."""
    from ansible_collections.rlinf.offline.plugins.module_utils._bundle_check import Wanted, check_bundle
    from ansible_collections.rlinf.offline.plugins.module_utils._fetch import Fetcher, Records

    catalog = Catalog.parse(params["catalog"])
    closure = catalog.closure(params["targets"], params["leave_out"], params["further"])
    wanted = Wanted(
        repositories=[Repository(**item) for item in closure["repositories"]],
        wheels=[Wheel(**item) for item in closure["wheels"]],
        assets=[Asset(**item) for item in closure["assets"]],
        targets=[(target, catalog.repositories[target.project]) for target in catalog.select(params["targets"])],
    )
    bundle = Bundle(Path(params["bundle_dir"]).resolve())
    fetcher = Fetcher(Network.of(params), records=Records.of(bundle))
    results = [item.json for item in check_bundle(bundle, wanted, fetcher, jobs=params["jobs"])]
    return {"changed": False, "results": results}


if __name__ == "__main__":
    main()
