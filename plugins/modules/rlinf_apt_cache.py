#!/usr/bin/python
# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring system packages into the bundle."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rlinf_apt_cache
short_description: Bring system packages of the nodes' releases into the bundle
version_added: "0.1.0"
author: The rlinf.offline authors (@RLinf)
description:
  - For each release of a distribution that nodes run, resolves with apt which package files they lack, whatever the bastion itself runs
    or has installed, fetches those, and makes a flat repository of them under the bundle's C(apt/).
  - apt works in a private root of its own. It checks signatures and dates; the bastion's own sources, lists and packages are not touched.
  - What is there for the same packages, sources and states stays as it is, and the network is not asked, unless the release is named in O(update).
extends_documentation_fragment:
  - rlinf.offline.attributes
  - rlinf.offline.bundle
  - rlinf.offline.bundle.network
  - rlinf.offline.bundle.fetch
options:
  releases:
    description: The releases.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: As the node's C(/etc/os-release) says it, C(ID) and C(VERSION_ID), such as V(ubuntu-22.04).
        type: str
        required: true
      architecture:
        description: In Debian's words.
        type: str
        default: amd64
      sources:
        description: Where its packages are.
        type: list
        elements: dict
        required: true
        suboptions:
          mirror:
            description: What the archive is called, such as V(debian-security).
            type: str
            required: true
          url:
            description:
              - The URL of the archive, or of a mirror of it. Its files are the same wherever they come from.
              - By default where the bastion's own apt has the archive that calls itself so.
            type: str
          suites:
            description: Its suites.
            type: list
            elements: str
            required: true
          components:
            description: Its components.
            type: list
            elements: str
            required: true
          keyring:
            description: The file of the keys that may sign it, on the bastion.
            type: path
            required: true
      packages:
        description: What a node shall have.
        type: list
        elements: str
        required: true
      states:
        description:
          - Package states of real nodes, files as C(/var/lib/dpkg/status).
          - What any of them lacks is brought. Without any, and without any in O(survey), what a minimal system lacks.
        type: list
        elements: path
        default: []
  survey:
    description: The file that the playbook C(survey) wrote. It has the package states of its nodes, which count as O(releases[].states) do.
    type: path
  update:
    description: Names of releases that are resolved again.
    type: list
    elements: str
    default: []
requirements:
  - apt, on the bastion
  - requests
"""

EXAMPLES = r"""
- name: Bring two packages for nodes that run Debian 12
  rlinf.offline.rlinf_apt_cache:
    bundle_dir: /srv/bundle
    releases:
      - name: debian-12
        sources:
          - mirror: debian
            url: http://mirror.example/debian
            suites: [bookworm, bookworm-updates]
            components: [main]
            keyring: /usr/share/keyrings/debian-archive-keyring.gpg
        packages: [libegl1, libgles2]
"""

RETURN = r"""
results:
  description: What became of each release.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The release.
      type: str
    changed:
      description: Whether files of it were brought, or in check mode would be.
      type: bool
    state:
      description: V(present), V(missing) (only in check mode) or V(failed).
      type: str
    reason:
      description: Why, or the error.
      type: str
    packages:
      description: How many package files it has.
      type: int
    bytes:
      description: Their size, or that of those that were missing.
      type: int
    seconds:
      description: How long it took.
      type: float
"""

from functools import partial
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._apt_resolve import Source
from ansible_collections.rlinf.offline.plugins.module_utils._items import answer, attempt
from ansible_collections.rlinf.offline.plugins.module_utils._module import FETCH, ON_BASTION, Module, finish, opened, require
from ansible_collections.rlinf.offline.plugins.module_utils._network import Network
from ansible_collections.rlinf.offline.plugins.module_utils._survey import surveyed_states

SOURCE: dict[str, Any] = {
    "mirror": {"type": "str", "required": True},
    "url": {"type": "str"},
    "suites": {"type": "list", "elements": "str", "required": True},
    "components": {"type": "list", "elements": "str", "required": True},
    "keyring": {"type": "path", "required": True},
}
RELEASE: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "architecture": {"type": "str", "default": "amd64"},
    "sources": {"type": "list", "elements": "dict", "required": True, "options": SOURCE},
    "packages": {"type": "list", "elements": "str", "required": True},
    "states": {"type": "list", "elements": "path", "default": []},
}
ARGUMENTS: dict[str, Any] = {
    **FETCH,
    "releases": {"type": "list", "elements": "dict", "required": True, "options": RELEASE},
    "survey": {"type": "path"},
    "update": {"type": "list", "elements": "str", "default": []},
}


def main() -> None:
    module = Module(ARGUMENTS, supports_check_mode=True)
    require(module, ["requests"], ON_BASTION)
    finish(module, lambda: work(module))


def work(module: Module) -> dict[str, Any]:
    """Bring every release's packages; fail at the end if one could not be."""
    from ansible_collections.rlinf.offline.plugins.module_utils import _apt_cache
    from ansible_collections.rlinf.offline.plugins.module_utils._fetch import Fetcher, Records

    network, update, check = Network.of(module.params), frozenset(module.params["update"]), module.check_mode
    survey = Path(module.params["survey"]) if module.params["survey"] else None
    with opened(module) as bundle:
        cache = _apt_cache.AptCache(bundle, Fetcher(network, records=Records.of(bundle)), update)
        outcomes = [attempt(entry["name"], partial(bring, cache, entry, survey, check=check)) for entry in module.params["releases"]]
    return answer(outcomes, "releases", diff=module._diff)


def bring(cache: Any, entry: dict[str, Any], survey: Path | None, *, check: bool) -> Any:
    """Bring the packages of one release, as the module's argument names it."""
    from ansible_collections.rlinf.offline.plugins.module_utils._apt_cache import Release

    sources = tuple(
        Source(item["mirror"], tuple(item["suites"]), tuple(item["components"]), item["keyring"], item["url"] or "")
        for item in entry["sources"]
    )
    states = [Path(path).read_text(encoding="utf-8") for path in entry["states"]]
    states += surveyed_states(survey, entry["name"], entry["architecture"]) if survey else []
    release = Release(entry["name"], entry["architecture"], sources, tuple(entry["packages"]), tuple(states))
    return cache.bring(release, check=check)


if __name__ == "__main__":
    main()
