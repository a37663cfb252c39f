# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Let nodes give each other a bundle, of which the machine that runs ansible-playbook sends hardly more than one copy."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

from ansible import constants

from ansible_collections.rlinf.offline.plugins.module_utils._bundle import size_text
from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._push import Ssh
from ansible_collections.rlinf.offline.plugins.module_utils._swarm import (
    Outcome,
    Part,
    Reach,
    Swarm,
    kept_names,
    swarm_wheels,
)
from ansible_collections.rlinf.offline.plugins.plugin_utils.working import Working

FEWEST = 2
"""Nodes for which a swarm is worth it."""


class ActionModule(Working):
    """Documented in plugins/modules/rlinf_swarm.py."""

    ARGUMENTS: ClassVar[dict[str, Any]] = {
        "src": {"type": "path", "required": True},
        "nodes": {"type": "dict", "required": True},
        "bandwidth": {"type": "int", "default": 0},
        "node_bandwidth": {"type": "int", "default": 0},
        "addresses": {"type": "dict", "default": {}},
        "port": {"type": "int", "default": 0},
    }
    PLACE = "src"

    def work(self, arguments: dict[str, Any]) -> dict[str, Any]:
        bundle = Bundle(Path(arguments["src"]))
        seen: dict[str, dict[str, Any]] = arguments["nodes"]
        lacking = {host: found for host, found in seen.items() if found.get("lacking", {}).get("bytes")}
        able = {host: found for host, found in lacking.items() if "peer" in found}
        unable = {host: Part(reason=str(found["reason"])) for host, found in lacking.items() if host not in able}
        if len(able) < FEWEST:
            return {"changed": False, "reason": f"{len(able)} nodes lack something and can take part: nothing to be shared", "nodes": {}}
        if self._task.check_mode:
            return {"changed": True, "reason": f"{len(able)} nodes would give each other what they lack", "nodes": {}}
        reaches = {host: self._reach(host, found, arguments) for host, found in able.items()}
        swarm = Swarm(
            bundle,
            swarm_wheels(bundle),
            sys.executable,
            bandwidth=arguments["bandwidth"] * 1024,
            node_bandwidth=arguments["node_bandwidth"] * 1024,
        )
        try:
            outcome = swarm.push(reaches)
        except (BundleError, OSError) as error:
            # rsync follows: slower, but it comes to the same
            return {
                "changed": False,
                "reason": str(error),
                "nodes": {},
                "warnings": [f"No swarm, rsync brings each node what it lacks: {error}"],
            }
        return result(outcome, unable)

    @staticmethod
    def _reach(host: str, found: dict[str, Any], arguments: dict[str, Any]) -> Reach:
        peer = found["peer"]
        return Reach(
            ssh=Ssh(**peer["ssh"]),
            python=peer["python"],
            destination=peer["destination"],
            become=peer["become"],
            files=kept_names(Path(constants.DEFAULT_LOCAL_TMP), found["lacking"]["names"]),
            address=arguments["addresses"].get(host) or "",
            port=arguments["port"],
        )


def result(outcome: Outcome, unable: dict[str, Part]) -> dict[str, Any]:
    """Return the result of the task; who took no part is a warning, since rsync brings the bundle there, and that takes its time."""
    parts = {**outcome.nodes, **unable}
    complete = [part for part in parts.values() if part.complete]
    left = {host: part.reason for host, part in parts.items() if not part.complete}
    received = sum(part.received for part in parts.values())
    return {
        "changed": bool(received),
        "reason": f"{len(complete)} nodes have everything; {size_text(outcome.seed.sent)} sent once, {size_text(received)} received",
        "sent": outcome.seed.sent,
        "received": received,
        "seconds": round(outcome.seconds, 1),
        "nodes": {host: vars(part) for host, part in parts.items()},
        "warnings": [f"{host} took no part in the swarm, rsync brings it what it lacks: {reason}" for host, reason in sorted(left.items())],
    }
