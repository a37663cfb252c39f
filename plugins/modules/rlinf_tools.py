#!/usr/bin/python
# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Put into the bundle what a bare node is prepared with."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rlinf_tools
short_description: Put into the bundle what a bare node is prepared with
version_added: "0.1.0"
author: The rlinf.offline authors (@RLinf)
description:
  - Brings the wheels of uv and of what the modules need on a node, checked by their digests, and the archive of this collection.
  - What was chosen is recorded. As long as the requirements stay as they are, the index is not asked again.
extends_documentation_fragment:
  - rlinf.offline.attributes
  - rlinf.offline.bundle
  - rlinf.offline.bundle.network
  - rlinf.offline.bundle.fetch
  - rlinf.offline.bundle.index
options:
  requirements:
    description:
      - The content of a requirements file that lists uv and everything that the modules need, what that needs included.
      - A digest (C(--hash=sha256:…)) is enforced where it is given.
    type: str
    required: true
  platform:
    description: Machine and glibc of the nodes.
    type: str
    default: x86_64-manylinux_2_31
  control_requirements:
    description:
      - The content of a requirements file that lists ansible-core and everything that a machine needs which runs the playbooks, what that needs included.
      - Where it is given, C(tools/) holds the wheels, and a script that makes a control node without network of a bundle.
    type: str
    default: ""
  swarm_requirements:
    description: The content of a requirements file that lists libtorrent, for nodes that give each other the bundle. Without it they cannot.
    type: str
    default: ""
  control_pythons:
    description: The versions of Python that such a machine, and a node that takes part in a swarm, may have.
    type: list
    elements: str
    default: ["3.10", "3.11", "3.12", "3.13"]
  collection_dir:
    description: Where this collection is installed, or a checkout of it. Without it the archive is left as it is.
    type: path
  uv:
    description: The uv to use. By default the one beside the interpreter that runs this module, or the first on PATH.
    type: path
requirements:
  - uv
  - requests
  - tomlkit
  - packaging
  - pyelftools
"""

EXAMPLES = r"""
- name: Bundle what nodes are prepared with
  rlinf.offline.rlinf_tools:
    bundle_dir: /srv/bundle
    requirements: "{{ lookup('ansible.builtin.file', 'runtime-requirements.txt') }}"
"""

RETURN = r"""
results:
  description: What became of each wheel, and of the archive.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The file.
      type: str
    changed:
      description: Whether it came, or would come.
      type: bool
    state:
      description: V(present), or V(absent) when check mode found it missing.
      type: str
    reason:
      description: Why.
      type: str
    bytes:
      description: Its size, as far as it is known.
      type: int
"""

from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._files import atomic_write, sha256_bytes, sha256_file
from ansible_collections.rlinf.offline.plugins.module_utils._items import Tried, answer
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._module import FETCH, INDEX, ON_BASTION, Module, finish, opened, require
from ansible_collections.rlinf.offline.plugins.module_utils._network import Network
from ansible_collections.rlinf.offline.plugins.module_utils._uv import Uv, find_uv, isolated_environment

ARGUMENTS: dict[str, Any] = {
    **FETCH,
    **INDEX,
    "requirements": {"type": "str", "required": True},
    "platform": {"type": "str", "default": "x86_64-manylinux_2_31"},
    "control_requirements": {"type": "str", "default": ""},
    "swarm_requirements": {"type": "str", "default": ""},
    "control_pythons": {"type": "list", "elements": "str", "default": ["3.10", "3.11", "3.12", "3.13"]},
    "collection_dir": {"type": "path"},
    "uv": {"type": "path"},
}


def main() -> None:
    module = Module(ARGUMENTS, supports_check_mode=True)
    require(module, ["requests", "tomlkit", "packaging", "elftools"], ON_BASTION)
    finish(module, lambda: work(module))


def work(module: Module) -> dict[str, Any]:
    """Bring wheels, archive and script, or say what is missing."""
    from ansible_collections.rlinf.offline.plugins.module_utils._tools import Kit, Requirements
    from ansible_collections.rlinf.offline.plugins.module_utils._wheel import Platform

    params = module.params
    folder, platform = params["collection_dir"], Platform.parse(params["platform"])
    with opened(module) as bundle:
        kits = [Kit.of_nodes(bundle, Requirements.parse(params["requirements"]), platform)]
        if params["control_requirements"]:
            wanted = Requirements.parse(params["control_requirements"])
            kits.append(Kit.of_control_nodes(bundle, wanted, platform, params["control_pythons"]))
        if params["swarm_requirements"]:
            kits.append(Kit.of_swarms(bundle, Requirements.parse(params["swarm_requirements"]), platform, params["control_pythons"]))
        outcomes = [outcome for kit in kits for outcome in wheels(module, bundle, kit)]
        if folder:
            outcomes += archive(Path(folder).resolve(), bundle, control=bool(params["control_requirements"]), check=module.check_mode)
    return answer(outcomes, "tools", diff=module._diff)


def wheels(module: Module, bundle: Bundle, kit: Any) -> list[Tried]:
    """Bring the wheels of a kit; the index is asked only when the requirements are others than those recorded."""
    from ansible_collections.rlinf.offline.plugins.module_utils import _tools
    from ansible_collections.rlinf.offline.plugins.module_utils._fetch import Fetcher

    params, network = module.params, Network.of(module.params)
    tools = known = kit.known(bundle)
    if tools is None and module.check_mode:
        return [outcome_of(line, True, "absent", "would be fetched") for line in kit.requirements.lines]
    if tools is None:
        env = {**isolated_environment(bundle.cache / "uv"), **network.uv_variables}
        tools = kit.choose(Uv(find_uv(Path(params["uv"]) if params["uv"] else None), env))
    wanted = _tools.unique(tools)
    present = {tool.filename for tool in wanted if tool.present(kit.folder)}
    lists = {path: path.is_file() and path.read_bytes() == text.encode() for path, text in kit.texts(tools).items()}
    if not module.check_mode and (len(present) < len(wanted) or known is None or not all(lists.values())):
        kit.folder.mkdir(parents=True, exist_ok=True)
        kit.gather(tools, Fetcher(network))
        kit.record(bundle, tools)
    state = "absent" if module.check_mode else "present"
    outcomes = [
        outcome_of(tool.filename, False, "present", "there before", tool.size)
        if tool.filename in present
        else outcome_of(tool.filename, True, state, "was missing", tool.size)
        for tool in wanted
    ]
    return [*outcomes, *(outcome_of(path.name, True, state, "the wheels are others") for path, same in lists.items() if not same)]


def archive(root: Path, bundle: Bundle, *, control: bool, check: bool) -> list[Tried]:
    """Have this collection's archive in the bundle, and with *control* what makes a control node of it."""
    from ansible_collections.rlinf.offline.plugins.module_utils._tools import ARCHIVE, MAKER, archive_bytes, collection_files

    files = collection_files(root)
    contents = {ARCHIVE: archive_bytes(files), **({MAKER: files[f"roles/download/files/{MAKER}"]} if control else {})}
    outcomes = []
    for name, content in contents.items():
        place = bundle.tools / name
        there = place.is_file() and sha256_file(place) == sha256_bytes(content)
        if not there and not check:
            place.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(place, content)
        state, reason = ("absent" if check and not there else "present"), ("there before" if there else "other files")
        outcomes.append(outcome_of(name, not there, state, reason, len(content)))
    return outcomes


def outcome_of(name: str, changed: bool, state: str, reason: str, size: int | None = None) -> Tried:
    result = {"name": name, "changed": changed, "state": state, "reason": reason, "bytes": size}
    return Tried(result, {"before_header": "tools", "after_header": "tools", "before": "", "after": f"{name}\n"})


if __name__ == "__main__":
    main()
