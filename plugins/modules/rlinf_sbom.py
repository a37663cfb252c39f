#!/usr/bin/python
# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the bill of materials of a bundle."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rlinf_sbom
short_description: Write the bill of materials of a bundle
version_added: "0.1.0"
author: The rlinf.offline authors (@RLinf)
description:
  - Writes C(records/sbom.cdx.json) of a bundle, CycloneDX 1.6, so that the manifest, and its signature, cover it once the bundle is sealed.
  - It lists the repositories, the packages of every target, prebuilt wheels, assets, interpreters, system packages and tools, each with its
    package URL, digest, where it came from and, of what was built, what it was built from. Wheels have the licences that they declare.
  - Packages that are left to an index of the nodes are listed, too. What they declare is not known here.
  - Targets depend on what they need, the bundle on its targets and on everything else.
  - Equal bundles have equal bills. Neither a date nor a login is in them.
extends_documentation_fragment:
  - rlinf.offline.attributes
  - rlinf.offline.bundle
"""

EXAMPLES = r"""
- name: Write the bill of materials before sealing the bundle
  rlinf.offline.rlinf_sbom:
    bundle_dir: /srv/bundle
"""

RETURN = r"""
path:
  description: The bill of materials.
  returned: success
  type: str
components:
  description: How many components it lists.
  returned: success
  type: int
bytes:
  description: Its size.
  returned: success
  type: int
sha256:
  description: Its digest.
  returned: success
  type: str
seconds:
  description: How long it took.
  returned: success
  type: float
"""

import time
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError, OfflineError
from ansible_collections.rlinf.offline.plugins.module_utils._files import atomic_write, parse_json, sha256_file
from ansible_collections.rlinf.offline.plugins.module_utils._items import lines_diff
from ansible_collections.rlinf.offline.plugins.module_utils._module import Module, finish, opened
from ansible_collections.rlinf.offline.plugins.module_utils._sbom import bill_of

ARGUMENTS: dict[str, Any] = {"bundle_dir": {"type": "path", "required": True}}


def main() -> None:
    module = Module(ARGUMENTS, supports_check_mode=True)
    finish(module, lambda: work(module))


def work(module: Module) -> dict[str, Any]:
    """Write the bill, unless it says the same already."""
    root = Path(module.params["bundle_dir"])
    if not root.is_dir() and not module.check_mode:
        raise BundleError(f"There is no bundle: {root} is not there. Run the playbook rlinf.offline.download, or correct rlinf_bundle_dir.")
    start = time.monotonic()
    with opened(module) as bundle:
        bill = bill_of(bundle)
        changed = not bundle.sbom.is_file() or sha256_file(bundle.sbom) != bill.sha256
        former = lines(bundle.sbom.read_bytes(), bundle.sbom) if module._diff and changed and bundle.sbom.is_file() else []
        if changed and not module.check_mode:
            bundle.records.mkdir(exist_ok=True)
            atomic_write(bundle.sbom, bill.pieces())
    told: dict[str, Any] = {
        "changed": changed,
        "path": str(bundle.sbom),
        "components": bill.components,
        "bytes": bill.size,
        "sha256": bill.sha256,
        "seconds": round(time.monotonic() - start, 2),
    }
    if module._diff and changed:
        told["diff"] = lines_diff(str(bundle.sbom), former, lines(bill.content, bundle.sbom))
    return told


def lines(content: bytes, path: Path) -> list[str]:
    """Return a line for each component; none of what cannot be read, and is written anew."""
    try:
        components = parse_json(content, path)["components"]
        return [f"{component['bom-ref']} {component.get('purl', component['name'])}" for component in components]
    except (OfflineError, KeyError, TypeError, AttributeError):
        return []


if __name__ == "__main__":
    main()
