#!/usr/bin/python
# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetch prebuilt wheels into the bundle."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rlinf_wheel_cache
short_description: Fetch prebuilt wheels into the bundle
version_added: "0.1.0"
author: The rlinf.offline authors (@RLinf)
description:
  - Fetches wheels by URL into the bundle's C(wheels/), several at a time, each under the name that its URL ends in.
  - A wheel gets its name only when it is whole. Its length and SHA-256 are right, and it is a wheel of the distribution and version that it is named for.
  - A download that was cut off is continued, even by a later run, where the server can say that the file is still the same.
  - What was seen at the first download is recorded in the bundle and enforced from then on. Another content later is an error until its SHA-256 is given.
  - A wheel that is there is hashed and not fetched again, without asking the network.
extends_documentation_fragment:
  - rlinf.offline.attributes
  - rlinf.offline.bundle
  - rlinf.offline.bundle.network
  - rlinf.offline.bundle.fetch
options:
  wheels:
    description: The wheels.
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
          - Where it is. It ends in the wheel's file name.
          - For a private one, with credentials, as in V(https://user:token@host/path/name.whl). They are neither recorded nor shown.
        type: str
        required: true
      sha256:
        description: Its SHA-256. Without it, what was recorded at its first download.
        type: str
      python:
        description: The minor version of Python that it is for. It is not looked at here.
        type: str
requirements:
  - requests
  - packaging
  - pyelftools
"""

EXAMPLES = r"""
- name: Fetch flash-attn
  rlinf.offline.rlinf_wheel_cache:
    bundle_dir: /srv/bundle
    wheels:
      - name: flash-attn
        url: "https://github.com/Dao-AILab/flash-attention/releases/download/v2.7.4.post1/\
          flash_attn-2.7.4.post1+cu12torch2.6cxx11abiFALSE-cp311-cp311-linux_x86_64.whl"

- name: Say which wheels are missing, and how many bytes they are
  rlinf.offline.rlinf_wheel_cache:
    bundle_dir: /srv/bundle
    wheels: "{{ my_wheels }}"
    url_rewrites:
      https://github.com/: https://mirror.example/github/
  check_mode: true
"""

RETURN = r"""
results:
  description: What became of each wheel, in the order given; those that failed are among them.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The wheel.
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
      description: The SHA-256 of the wheel. In check mode it is empty where only a download would tell.
      type: str
    bytes:
      description: How many bytes were fetched, or in check mode would be, as far as the server says.
      type: int
    seconds:
      description: How long it took.
      type: float
"""

from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Wheel
from ansible_collections.rlinf.offline.plugins.module_utils._module import FETCH, ON_BASTION, Module, finish, require

WHEEL: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "url": {"type": "str", "required": True},
    "sha256": {"type": "str"},
    "python": {"type": "str"},
}
ARGUMENTS: dict[str, Any] = {
    **FETCH,
    "wheels": {"type": "list", "elements": "dict", "required": True, "options": WHEEL},
}


def main() -> None:
    module = Module(ARGUMENTS, supports_check_mode=True)
    require(module, ["requests", "packaging", "elftools"], ON_BASTION)
    finish(module, lambda: work(module))


def work(module: Module) -> dict[str, Any]:
    """Bring all wheels; fail at the end if one could not be."""
    from ansible_collections.rlinf.offline.plugins.module_utils._cache import WheelCache, bring_all

    return bring_all(module, WheelCache, [Wheel(**item) for item in module.params["wheels"]], "wheels")


if __name__ == "__main__":
    main()
