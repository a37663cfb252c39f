#!/usr/bin/python
# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write a bundle to removable media, or read it back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rlinf_media
short_description: Carry a bundle on removable media
version_added: "0.1.0"
author: The rlinf.offline authors (@RLinf)
description:
  - Writes a sealed bundle as volumes of a given size, each a directory with a check file that C(sha256sum --check) reads, or reads them back.
  - A volume that is there as it must be is not written again. Those of another bundle that lie there are removed, since media have no room for both.
  - What was read is kept, so that volumes may come one after the other, in any order.
  - A bundle that is read gets its manifest last, when every volume was read. Volumes that are missing, damaged or of another bundle are named.
  - What has no room is refused before anything is removed, written or read.
  - Needs nothing but the standard library of Python. Any file system will do, FAT32 included.
extends_documentation_fragment:
  - rlinf.offline.attributes
  - rlinf.offline.bundle
options:
  state:
    description:
      - V(written) writes the bundle to O(path).
      - V(read) brings what is found in O(path) into the bundle.
    type: str
    choices: [written, read]
    required: true
  path:
    description:
      - Where the volumes C(rlinf-001), C(rlinf-002) and so on lie, or with O(state=read) a volume itself.
      - Several may be given to be read, one for each medium that is mounted.
    type: list
    elements: path
    required: true
  volume_size:
    description:
      - How large a volume may be, in bytes or with a unit; C(4 GB) is 4 times 1024 to the third, while media are sold by powers of 1000.
      - What a file system needs for itself comes on top; leave it a hundredth.
      - Needed with O(state=written).
    type: str
  volumes:
    description: The numbers of the volumes to write, where one medium after the other is put in. All of them, if none is given.
    type: list
    elements: int
    default: []
  targets:
    description: Write only what these targets need, and what no target claims. Everything, if none is given.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Write the bundle to two sticks, the first now
  rlinf.offline.rlinf_media:
    bundle_dir: /srv/bundle
    state: written
    path: /media/stick
    volume_size: 7.8 GB
    volumes: [1]

- name: Read what is on the media that are mounted
  rlinf.offline.rlinf_media:
    bundle_dir: /opt/rlinf/bundle
    state: read
    path: [/media/first, /media/second]
"""

RETURN = r"""
volumes:
  description: How many volumes the bundle takes.
  returned: success
  type: int
done:
  description: The numbers of those that were, or would be, written or read.
  returned: success
  type: list
  elements: int
removed:
  description: Names of volumes that were, or would be, removed, since they are of another bundle or of this one as it was.
  returned: success
  type: list
  elements: str
sealed:
  description: Whether the manifest, its signature or links were, or would be, brought.
  returned: success
  type: bool
bytes:
  description: How much that was.
  returned: success
  type: int
reason:
  description: Why something was done, or not.
  returned: success
  type: str
missing:
  description: The numbers of the volumes that are still to be read.
  returned: when they are missing
  type: list
  elements: int
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible.module_utils.common.text.formatters import human_to_bytes

from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError
from ansible_collections.rlinf.offline.plugins.module_utils._media import Outcome, read, write
from ansible_collections.rlinf.offline.plugins.module_utils._module import Module, finish, opened

ARGUMENTS: dict[str, Any] = {
    "bundle_dir": {"type": "path", "required": True},
    "state": {"type": "str", "choices": ["written", "read"], "required": True},
    "path": {"type": "list", "elements": "path", "required": True},
    "volume_size": {"type": "str"},
    "volumes": {"type": "list", "elements": "int", "default": []},
    "targets": {"type": "list", "elements": "str", "default": []},
}


def main() -> None:
    module = Module(ARGUMENTS, supports_check_mode=True, required_if=[("state", "written", ["volume_size"])])
    finish(module, lambda: work(module))


def work(module: Module) -> dict[str, Any]:
    """Write or read."""
    parameters = module.params
    places = [Path(path) for path in parameters["path"]]
    if parameters["state"] == "written" and len(places) != 1:
        raise BundleError(f"Volumes are written to one place, and {len(places)} are given. Give one path.")
    if not module.check_mode and parameters["state"] == "read":
        Path(parameters["bundle_dir"]).mkdir(parents=True, exist_ok=True)
    with opened(module) as bundle:
        if parameters["state"] == "read":
            outcome = read(bundle, places, check=module.check_mode)
        else:
            size = _bytes(parameters["volume_size"])
            outcome = write(bundle, places[0], size, targets=parameters["targets"], volumes=parameters["volumes"], check=module.check_mode)
    return {**asdict(outcome), "changed": outcome.changed, **_diff(module, outcome)}


def _bytes(text: str) -> int:
    try:
        return int(human_to_bytes(text))
    except ValueError:
        raise BundleError(f"{text!r} is no size. Give a number of bytes, or one with a unit: 4 GB.") from None


def _diff(module: Module, outcome: Outcome) -> dict[str, Any]:
    if not module._diff or not outcome.changed:
        return {}
    names = [*(f"volume {number} of {outcome.volumes}" for number in outcome.done), *(["the manifest"] if outcome.sealed else [])]
    return {"diff": {"before": "".join(f"{name}\n" for name in outcome.removed), "after": "".join(f"{name}\n" for name in names)}}


if __name__ == "__main__":
    main()
