#!/usr/bin/python
# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lead the requirement files of a checkout to a bundle, and back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rlinf_req_patch
short_description: Lead the requirement files of a checkout to a bundle, and back
version_added: "0.1.0"
description:
  - Rewrites the URLs of git repositories and wheels in all C(*.txt) under C(requirements/), in the main C(pyproject.toml), and in that of
    further checkouts, to the bundle's mirrors and wheels, where the bundle has them.
  - A repository is matched by host, owner and name as a whole, and only when its mirror has the ref that is asked for. Refs, subdirectories,
    extras, markers, comments, line ends and encodings stay as they are; a file with nothing to replace is not written.
  - While a file is patched, its original lies beside it as C(*.backup); after V(restored), what was used lies there as C(*.patched).
    C(uv.lock) is put aside in the same way.
  - Both are listed in the checkout's C(.git/info/exclude), over which a rule of its own C(.gitignore) prevails; O(purge) removes them.
  - A journal makes it safe to be killed at any time. The next V(restored) gives back content, permissions and modification time.
author: The rlinf.offline authors (@RLinf)
extends_documentation_fragment:
  - rlinf.offline.attributes
requirements:
  - tomlkit and GitPython, in the node's private runtime (see M(rlinf.offline.rlinf_runtime)), and git
options:
  project_dir:
    description:
      - The checkout of the project.
      - With O(state=restored) it may be left out. Then every checkout that has a journal in O(state_dir) is restored.
    type: path
  bundle_dir:
    description: The bundle's directory. Needed for O(state=patched).
    type: path
  state:
    description:
      - V(patched) has the files lead to the bundle. What an earlier run that was killed has left is restored first.
      - V(restored) has them as they were. A file that was edited meanwhile is left alone and named in an error, after the others are restored.
    type: str
    choices: [patched, restored]
    default: patched
  state_dir:
    description: Where the journals are, in C(journals/) there. It must be the same for V(patched) and V(restored).
    type: path
    required: true
  worktrees:
    description: Further checkouts whose C(pyproject.toml) is patched too.
    type: list
    elements: path
    default: []
  strict:
    description:
      - Whether a reference of which the bundle has no copy is an error. All of them are named, and nothing is written.
      - Otherwise it is left as it is, and reported.
    type: bool
    default: false
  purge:
    description:
      - With O(state=restored), whether the C(*.patched) files are removed too, and the lines in C(.git/info/exclude).
      - Only files that the journal names are removed. While one is refused, the journal and these lines stay.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Lead the requirement files to the bundle
  rlinf.offline.rlinf_req_patch:
    project_dir: /opt/rlinf/src/RLinf
    bundle_dir: /opt/rlinf/bundle
    state_dir: /opt/rlinf/state
    worktrees:
      - /opt/rlinf/src/LIBERO
    strict: true

- name: Give them back, and leave nothing behind
  rlinf.offline.rlinf_req_patch:
    project_dir: /opt/rlinf/src/RLinf
    state_dir: /opt/rlinf/state
    state: restored
    purge: true

- name: Give back whatever any run has left patched on this node
  rlinf.offline.rlinf_req_patch:
    state_dir: /opt/rlinf/state
    state: restored
"""

RETURN = r"""
messages:
  description: What there is to say of each file, in order.
  type: list
  elements: dict
  returned: always
  contains:
    colour:
      description: V(green) for what is local, V(yellow) for what is not, V(cyan) for what was restored.
      type: str
    text:
      description: The line.
      type: str
      sample: "[local-deps] using local repo openvla -> /opt/rlinf/bundle/repos/github.com/openvla/openvla.git in requirements/embodied/models/openvla.txt"
    kind:
      description: One of V(local_repo), V(local_wheel), V(remote_repo), V(remote_url), V(remote_wheel), V(restore).
      type: str
references:
  description: Every reference found. Credentials in URLs are masked.
  type: list
  elements: dict
  returned: O(state=patched)
  contains:
    file:
      description: The file, relative to the project, or whole if it is elsewhere.
      type: str
    line:
      description: The line, from 1.
      type: int
    kind:
      description: V(git), V(wheel), or V(other).
      type: str
    url:
      description: The URL as it is in the original.
      type: str
    replacement:
      description: The URL while it is patched. None if the bundle has no copy.
      type: str
    reason:
      description: Why there is no replacement.
      type: str
results:
  description: Every file concerned.
  type: list
  elements: dict
  returned: always
  contains:
    name:
      description: The file, relative to the project, or whole if it is elsewhere.
      type: str
    changed:
      description: Whether it was, or would be, changed.
      type: bool
    state:
      description:
        - V(patched), or V(aside) for C(uv.lock).
        - V(restored), V(unchanged), V(kept) for one that the user has taken over, V(refused) for one that was edited, or V(absent) for a purged one.
      type: str
    reason:
      description: Why.
      type: str
counts:
  description: How many of the results there are of each state.
  type: dict
  returned: always
  sample: {restored: 4, unchanged: 1, absent: 4}
reason:
  description: In check mode, what is not there yet.
  type: str
  returned: in check mode, if the bundle or a checkout is not there
after_prepare:
  description: In check mode, that the bundle or the checkout is not there yet, so that what would be done is known only later.
  type: bool
  returned: in check mode, if one of them is not there
"""

from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._module import ON_NODE, Module, finish, require

ARGUMENTS: dict[str, Any] = {
    "project_dir": {"type": "path"},
    "bundle_dir": {"type": "path"},
    "state": {"type": "str", "choices": ["patched", "restored"], "default": "patched"},
    "state_dir": {"type": "path", "required": True},
    "worktrees": {"type": "list", "elements": "path", "default": []},
    "strict": {"type": "bool", "default": False},
    "purge": {"type": "bool", "default": False},
}


def main() -> None:
    module = Module(ARGUMENTS, required_if=[("state", "patched", ("project_dir", "bundle_dir"))], supports_check_mode=True)
    require(module, ["git", "tomlkit"], ON_NODE)
    states = {"patched": patched, "restored": restored}
    finish(module, lambda: states[module.params["state"]](module))


def patched(module: Module) -> dict[str, Any]:
    """Have the files lead to the bundle."""
    from ansible_collections.rlinf.offline.plugins.module_utils._patch import patch

    params = module.params
    project, bundle = Path(params["project_dir"]), Path(params["bundle_dir"])
    worktrees = [Path(path) for path in params["worktrees"]]
    missing = [str(path) for path in (bundle, project, *worktrees) if not path.exists()]
    if module.check_mode and missing:
        reason = f"would patch when it is there: {', '.join(missing)}"
        return {"changed": True, "reason": reason, "after_prepare": True, "messages": [], "references": [], "results": [], "counts": {}}
    result = patch(
        project, bundle, Path(params["state_dir"]).absolute(), worktrees=worktrees, strict=params["strict"], check=module.check_mode
    )
    return {**result.json, **({"diff": result.diff} if module._diff else {})}


def restored(module: Module) -> dict[str, Any]:
    """Have the files as they were."""
    from ansible_collections.rlinf.offline.plugins.module_utils._patch import restore

    params = module.params
    project = Path(params["project_dir"]) if params["project_dir"] else None
    result = restore(project, Path(params["state_dir"]).absolute(), purge=params["purge"], check=module.check_mode)
    return {**result.json, **({"diff": result.diff} if module._diff else {})}


if __name__ == "__main__":
    main()
