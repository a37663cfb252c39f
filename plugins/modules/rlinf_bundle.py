#!/usr/bin/python
# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Seal, verify or prune a bundle by its manifest."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rlinf_bundle
short_description: Seal, verify or prune a bundle by its manifest
version_added: "0.1.0"
author: The rlinf.offline authors (@RLinf)
description:
  - Sealed, the bundle has a manifest, C(bundle.json), of every file's size, SHA-256 and origin, and of every repository's frozen commit.
  - Verified, every file is what the manifest says, and there is no other. The bundle may be a read-only mount. With O(stamp), other files
    may lie in C(assets/), C(wheelhouse/) and C(wheels/), where nothing is taken but what a manifest or a lock names; RV(extra) says how many.
  - Pruned, what the manifest does not list is removed, left-overs of writes and pushes that were cut off included. With O(stamp), only what is known
    to be of a former bundle, or left by rsync, is; what no bundle has had stays there, or is set aside in C(.set-aside/) of the bundle.
  - Mended, what was damaged since the bundle was sealed is removed, files and whole mirrors, so that the next download or push brings it again.
    Without O(full) only what has another size or time than it was sealed with is looked at, and only what never changes under its name.
  - Only the folders that a bundle is made of count. Anything else at its top is left alone.
  - Needs nothing but the standard library of Python, so that it runs on a bare node. Mended without O(full) also needs git and GitPython.
extends_documentation_fragment:
  - rlinf.offline.attributes
  - rlinf.offline.bundle
options:
  state:
    description: What is asked for.
    type: str
    choices: [sealed, verified, pruned, mended]
    default: verified
  stamp:
    description:
      - Where this machine notes what it verified, outside the bundle, so that only what changed is read the next time. Without it nothing is written.
      - Only with O(state=verified) and O(state=pruned).
    type: path
  targets:
    description:
      - The targets of the host. What only others need may be missing; what is there must be right all the same. Without any, everything must be there.
      - Only with O(state=verified).
    type: list
    elements: str
    default: []
  release:
    description: The host's release and architecture, C(debian-12/amd64). With O(targets), system packages of others may be missing.
    type: str
    default: ""
  signing_key:
    description:
      - The OpenSSH private key that the manifest is signed with, without a passphrase, or the public half of one that an agent holds.
      - The signature is C(bundle.json.sig). Without a key, one that is of another manifest is removed.
      - Only with O(state=sealed).
    type: path
  trusted_signers:
    description:
      - Who must have signed the manifest, as lines that ssh-keygen(1) describes under ALLOWED SIGNERS. It needs O(stamp).
      - With them, a bundle older than the last that was accepted is refused. The stamp's directory has that in C(accepted.json).
      - Only with O(state=verified).
    type: str
    default: ""
  allow_downgrade:
    description: Accept an older bundle, too.
    type: bool
    default: false
  former:
    description:
      - Remove files of former bundles from C(assets/), C(wheelhouse/) and C(wheels/), too. Elsewhere, where all that is there counts, they are in any case.
      - Only with O(state=pruned) and O(stamp).
    type: bool
    default: true
  full:
    description: Hash every file, although its size and times say that it was hashed before.
    type: bool
    default: false
  jobs:
    description: How many files are hashed at a time.
    type: int
    default: 4
"""

EXAMPLES = r"""
- name: Seal the bundle after downloading
  rlinf.offline.rlinf_bundle:
    bundle_dir: /srv/bundle
    state: sealed

- name: Verify it on a node
  rlinf.offline.rlinf_bundle:
    bundle_dir: /opt/rlinf/bundle
    state: verified
    stamp: /opt/rlinf/state/bundle.json

- name: Remove what the manifest does not list
  rlinf.offline.rlinf_bundle:
    bundle_dir: /opt/rlinf/bundle
    state: pruned

- name: Read every file again, and take out what is damaged
  rlinf.offline.rlinf_bundle:
    bundle_dir: /srv/bundle
    state: mended
    full: true
"""

RETURN = r"""
state:
  description: The state asked for.
  returned: success
  type: str
reason:
  description: Why something changed, or did not.
  returned: success
  type: str
serial:
  description: The serial of the manifest. It moves only when the content does.
  returned: success
  type: int
digest:
  description: The SHA-256 of the manifest.
  returned: success
  type: str
files:
  description: How many files the manifest lists.
  returned: success
  type: int
bytes:
  description: The size of these files.
  returned: success
  type: int
hashed:
  description: How many files were read.
  returned: success
  type: int
changes:
  description: What was added, removed and modified, each with C(count), C(bytes) and the C(first) paths.
  returned: success
  type: dict
left_over:
  description: What cut-off writes left behind. It is not part of the bundle.
  returned: success
  type: list
  elements: str
seconds:
  description: How long it took.
  returned: success
  type: float
missing:
  description: With O(state=verified), which files of the manifest are not there, as C(count) and the C(first) paths.
  returned: when the bundle is not what its manifest says
  type: dict
damaged:
  description: With O(state=verified), which files have another content, as RV(missing).
  returned: when the bundle is not what its manifest says
  type: dict
extra:
  description: Which files the manifest does not list, and are still there, as C(count), their C(bytes) and the C(first) paths.
  returned: with O(state=verified) and O(state=pruned)
  type: dict
"""

import contextlib
import time
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._bundle import prune, seal, verify
from ansible_collections.rlinf.offline.plugins.module_utils._files import exclusive
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._mend import mend
from ansible_collections.rlinf.offline.plugins.module_utils._module import Module, finish
from ansible_collections.rlinf.offline.plugins.module_utils._signature import Trust

ARGUMENTS: dict[str, Any] = {
    "bundle_dir": {"type": "path", "required": True},
    "state": {"type": "str", "choices": ["sealed", "verified", "pruned", "mended"], "default": "verified"},
    "stamp": {"type": "path"},
    "targets": {"type": "list", "elements": "str", "default": []},
    "release": {"type": "str", "default": ""},
    "signing_key": {"type": "path", "no_log": False},
    "trusted_signers": {"type": "str", "default": ""},
    "allow_downgrade": {"type": "bool", "default": False},
    "former": {"type": "bool", "default": True},
    "full": {"type": "bool", "default": False},
    "jobs": {"type": "int", "default": 4},
}
DIFF_LINES = 200
"""More lines than this of a diff help nobody; the counts at its top are of everything."""


def main() -> None:
    module = Module(ARGUMENTS, supports_check_mode=True)
    finish(module, lambda: work(module))


def work(module: Module) -> dict[str, Any]:
    """Bring the bundle to the state asked for, or say what that would change."""
    params = module.params
    bundle = Bundle(Path(params["bundle_dir"]))
    if params["state"] == "mended" and not bundle.root.exists():
        return {"changed": False, "state": "mended", "reason": "not there yet, nothing to mend"}
    if module.check_mode and not bundle.root.exists():
        pushed = params["state"] != "sealed"
        before = "push" if pushed else "download"
        return {
            "changed": True,
            "reason": f"would be {params['state']} after {before}: {bundle.root} is not there yet",
            "after_push": pushed,
        }
    start = time.monotonic()
    options: dict[str, Any] = {"full": params["full"], "jobs": params["jobs"], "check": module.check_mode}
    stamp = Path(params["stamp"]) if params["stamp"] else None
    if params["state"] == "sealed":
        outcome = seal(bundle, key=Path(params["signing_key"]) if params["signing_key"] else None, **options)
    elif params["state"] == "verified":
        trust = Trust.of(params["trusted_signers"], stamp, params["allow_downgrade"])
        with noting(bundle, None if module.check_mode else stamp):
            outcome = verify(bundle, stamp=stamp, targets=params["targets"], release=params["release"], trust=trust, **options)
    elif params["state"] == "mended":
        outcome = mend(bundle, **options)
    else:
        outcome = prune(bundle, stamp=stamp, former=params["former"], check=module.check_mode)
    found = outcome.said(params["state"], time.monotonic() - start)
    if module._diff:
        found["diff"] = {"before": shortened(outcome.before), "after": shortened(outcome.after)}
    return found


def noting(bundle: Bundle, stamp: Path | None) -> contextlib.AbstractContextManager[None]:
    """Keep others off what this machine notes of the bundle, beside the stamp: the bundle itself may be read-only."""
    return exclusive(stamp.with_name(f".{stamp.name}.lock"), f"What is known here of {bundle.root}") if stamp else contextlib.nullcontext()


def shortened(text: str) -> str:
    lines = text.splitlines(keepends=True)
    return text if len(lines) <= DIFF_LINES else "".join([*lines[:DIFF_LINES], f"… and {len(lines) - DIFF_LINES} more\n"])


if __name__ == "__main__":
    main()
