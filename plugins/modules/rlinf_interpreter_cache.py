#!/usr/bin/python
# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetch interpreters into the bundle."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rlinf_interpreter_cache
short_description: Fetch interpreters into the bundle
version_added: "0.1.0"
author: The rlinf.offline authors (@RLinf)
description:
  - Brings archives of Python interpreters, in the form of python-build-standalone's C(install_only), into C(interpreters/) of the bundle.
  - What an archive holds is judged before it counts as there. A digest that is not given is recorded at the first download, and enforced from then on.
extends_documentation_fragment:
  - rlinf.offline.attributes
  - rlinf.offline.bundle
  - rlinf.offline.bundle.network
  - rlinf.offline.bundle.fetch
options:
  interpreters:
    description: The interpreters.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Its name in the catalogue.
        type: str
        required: true
      url:
        description: The URL of the archive.
        type: str
        required: true
      python:
        description: Its full version, such as V(3.11.14).
        type: str
        required: true
      machine:
        description: The machine it runs on, such as V(x86_64).
        type: str
        required: true
      sha256:
        description: What the archive must be.
        type: str
requirements:
  - requests
  - packaging
  - pyelftools
"""

EXAMPLES = r"""
- name: Bring an interpreter
  rlinf.offline.rlinf_interpreter_cache:
    bundle_dir: /srv/bundle
    interpreters:
      - name: cpython-3.11.14
        url: https://mirror.example/cpython-3.11.14-x86_64-unknown-linux-gnu-install_only.tar.gz
        python: 3.11.14
        machine: x86_64
"""

RETURN = r"""
results:
  description: What became of each interpreter.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
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
      description: The SHA-256 of the archive. In check mode it is empty where only a download would tell.
      type: str
    bytes:
      description: How many bytes were fetched, or in check mode would be, as far as the server says.
      type: int
    seconds:
      description: How long it took.
      type: float
"""

from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Interpreter
from ansible_collections.rlinf.offline.plugins.module_utils._module import FETCH, ON_BASTION, Module, finish, require

INTERPRETER: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "url": {"type": "str", "required": True},
    "python": {"type": "str", "required": True},
    "machine": {"type": "str", "required": True},
    "sha256": {"type": "str"},
}
ARGUMENTS: dict[str, Any] = {
    **FETCH,
    "interpreters": {"type": "list", "elements": "dict", "required": True, "options": INTERPRETER},
}


def main() -> None:
    module = Module(ARGUMENTS, supports_check_mode=True)
    require(module, ["requests", "packaging", "elftools"], ON_BASTION)
    finish(module, lambda: work(module))


def work(module: Module) -> dict[str, Any]:
    """Bring all interpreters; fail at the end if one could not be."""
    from ansible_collections.rlinf.offline.plugins.module_utils._cache import InterpreterCache, bring_all

    return bring_all(module, InterpreterCache, [Interpreter(**item) for item in module.params["interpreters"]], "interpreters")


if __name__ == "__main__":
    main()
