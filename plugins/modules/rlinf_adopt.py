#!/usr/bin/python
# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Take what an older system has downloaded into the bundle."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rlinf_adopt
short_description: Take what an older system has downloaded into the bundle
version_added: "0.1.0"
author: The rlinf.offline authors (@RLinf)
description:
  - Takes the clones, prebuilt wheels and assets of the catalogue out of the directory that RLinf's C(download.sh) has filled.
  - The directory is only read, and nothing in the bundle depends on it afterwards.
  - A clone is known by the URL of its origin, never by the name of its folder. It is checked by git and becomes a mirror; the download fetches what it lacks.
  - A wheel is known by its file name. It must be whole, of the distribution and version that it is named for, and what its RECORD says.
  - An asset lies below the directory, or C(assets/) in it, where it will lie on a node. Files that are empty or cut off are found as far as their format tells.
  - A wheel or asset is compared with the SHA-256 of the catalogue or of the bundle's records. Where none is known, the content that is adopted is what is
    enforced from then on, and its state is V(unverified), since it was never compared with what its URL serves.
  - Of an unpacked archive it can't be told whether a file is missing. Where the SHA-256 of the archive is known, it is not adopted.
  - What is damaged is refused and named, and fetched by the download that follows.
extends_documentation_fragment:
  - rlinf.offline.attributes
  - rlinf.offline.bundle
options:
  src:
    description: The directory of the old system, C(docker/torch-2.6/repos) in its checkout of RLinf.
    type: path
    required: true
  catalog:
    description: The catalogue, with the keys C(repositories), C(wheels), C(assets) and C(targets).
    type: dict
    required: true
  leave_out:
    description: Names of wheels and assets of the catalogue that are not taken.
    type: list
    elements: str
    default: []
  url_rewrites:
    description: Prefixes of URLs that are reached elsewhere. A clone whose origin is the rewritten URL of a repository is one of it.
    type: dict
    default: {}
requirements:
  - git 2.32 or newer
  - GitPython
  - requests
  - packaging
  - pyelftools
"""

EXAMPLES = r"""
- name: Take over what the old system has
  rlinf.offline.rlinf_adopt:
    bundle_dir: /srv/bundle
    src: /home/me/RLinf/docker/torch-2.6/repos
    catalog: "{{ my_catalog }}"
"""

RETURN = r"""
results:
  description: What became of each thing in the directory, clones first, then wheels and assets.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The entry of the catalogue, or the name in the directory of what is none.
      type: str
    kind:
      description: V(repository), V(wheel) or V(asset).
      type: str
    source:
      description: Its path in the directory.
      type: str
    path:
      description: Its path in the bundle.
      type: str
    changed:
      description: Whether it was adopted, or in check mode would be.
      type: bool
    state:
      description: V(adopted), V(unverified) (adopted, and compared with no digest), V(present), V(refused) or V(left).
      type: str
    reason:
      description: What was found.
      type: str
    sha256:
      description: The SHA-256 of a wheel, or of an asset that is one file.
      type: str
    bytes:
      description: How many bytes were taken.
      type: int
    seconds:
      description: How long it took.
      type: float
"""

from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._module import ON_BASTION, Module, finish, require

ARGUMENTS: dict[str, Any] = {
    "bundle_dir": {"type": "path", "required": True},
    "src": {"type": "path", "required": True},
    "catalog": {"type": "dict", "required": True},
    "leave_out": {"type": "list", "elements": "str", "default": []},
    "url_rewrites": {"type": "dict", "default": {}},
}


def main() -> None:
    module = Module(ARGUMENTS, supports_check_mode=True)
    require(module, ["git", "requests", "packaging", "elftools"], ON_BASTION)
    finish(module, lambda: work(module))


def work(module: Module) -> dict[str, Any]:
    """Adopt everything that can be."""
    from ansible_collections.rlinf.offline.plugins.module_utils import _adopt

    return _adopt.run(module.params, check=module.check_mode, diff=module._diff)


if __name__ == "__main__":
    main()
