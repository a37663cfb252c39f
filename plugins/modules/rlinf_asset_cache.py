#!/usr/bin/python
# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetch assets into the bundle and unpack them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rlinf_asset_cache
short_description: Fetch assets into the bundle and unpack them
version_added: "0.1.0"
author: The rlinf.offline authors (@RLinf)
description:
  - Fetches files by URL into the bundle's C(assets/), several at a time, as they will lie on the nodes.
  - An archive (zip, tar, tar.gz, tar.xz, tar.bz2) is unpacked into a fresh directory, which then takes its place. The archive itself stays in C(.cache/).
  - Every member of an archive is judged before a byte is written. One that leads out of its directory, or is no file, directory or link, refuses it.
  - A file gets its name only when it is whole. A download that was cut off is continued, even by a later run.
  - What was seen at the first download is recorded in the bundle and enforced from then on. Another content later is an error until its SHA-256 is given.
  - What is there is known by its SHA-256 or, unpacked, by its paths and sizes, without asking the network. What is damaged is unpacked again.
extends_documentation_fragment:
  - rlinf.offline.attributes
  - rlinf.offline.bundle
  - rlinf.offline.bundle.network
  - rlinf.offline.bundle.fetch
options:
  assets:
    description: The assets.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: What messages call it.
        type: str
        required: true
      url:
        description:
          - Where it is.
          - For a private one, with credentials, as in V(https://user:token@host/path). They are neither recorded nor shown.
        type: str
        required: true
      sha256:
        description: The SHA-256 of what the URL serves. Without it, what was recorded at its first download.
        type: str
      dest:
        description: Where it will lie, relative to the assets directory. With O(assets[].unpack) it is the directory of the archive's content.
        type: str
        required: true
      unpack:
        description: Whether it is an archive that is unpacked.
        type: bool
        default: false
      strip:
        description: Whether the archive's single top folder is taken off.
        type: bool
        default: false
requirements:
  - requests
  - packaging
  - pyelftools
"""

EXAMPLES = r"""
- name: Fetch a robot, whose archive has a top folder, and a tokenizer
  rlinf.offline.rlinf_asset_cache:
    bundle_dir: /srv/bundle
    assets:
      - name: widowx
        url: https://github.com/haosulab/ManiSkill-WidowX250S/archive/refs/tags/v0.2.0.zip
        dest: .maniskill/data/robots/widowx
        unpack: true
        strip: true
      - name: paligemma-tokenizer
        url: https://storage.googleapis.com/big_vision/paligemma_tokenizer.model
        dest: .cache/openpi/big_vision/paligemma_tokenizer.model
"""

RETURN = r"""
results:
  description: What became of each asset, in the order given; those that failed are among them.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The asset.
      type: str
    path:
      description: Its place in the bundle.
      type: str
    changed:
      description: Whether it was brought, or in check mode would be.
      type: bool
    state:
      description: V(present), V(missing) (only in check mode) or V(failed).
      type: str
    reason:
      description: Why it was brought, or the error.
      type: str
    sha256:
      description: The SHA-256 of what its URL serves. In check mode it is empty where only a download would tell.
      type: str
    bytes:
      description: How many bytes were fetched, or in check mode would be, as far as the server says.
      type: int
    seconds:
      description: How long it took.
      type: float
"""

from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Asset
from ansible_collections.rlinf.offline.plugins.module_utils._module import FETCH, ON_BASTION, Module, finish, require

ASSET: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "url": {"type": "str", "required": True},
    "sha256": {"type": "str"},
    "dest": {"type": "str", "required": True},
    "unpack": {"type": "bool", "default": False},
    "strip": {"type": "bool", "default": False},
}
ARGUMENTS: dict[str, Any] = {
    **FETCH,
    "assets": {"type": "list", "elements": "dict", "required": True, "options": ASSET},
}


def main() -> None:
    module = Module(ARGUMENTS, supports_check_mode=True)
    require(module, ["requests", "packaging", "elftools"], ON_BASTION)
    finish(module, lambda: work(module))


def work(module: Module) -> dict[str, Any]:
    """Bring all assets; fail at the end if one could not be."""
    from ansible_collections.rlinf.offline.plugins.module_utils._cache import AssetCache, bring_all

    return bring_all(module, AssetCache, [Asset(**item) for item in module.params["assets"]], "assets")


if __name__ == "__main__":
    main()
