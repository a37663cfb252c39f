# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node has installed, by the stamps of its environments and what it remembers of its targets: read only, nothing is hashed.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._errors import OfflineError
from ansible_collections.rlinf.offline.plugins.module_utils._files import json_bytes, read_json, sha256_bytes
from ansible_collections.rlinf.offline.plugins.module_utils._generations import STAMP
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Node


def installed(prefix: Path, environment: Path | None = None) -> dict[str, Any]:
    """Return what the environment of each target was made of, or what is wrong with it; a link that leads to none counts.

    :param prefix: where environments are.
    :param environment: one that existed already and was installed into; then nothing else is looked at.
    """
    if environment:
        stamps = {path.stem: path for path in environment.glob("rlinf/*.json")}
    else:
        stamps = {link.name: link / STAMP for link in Node(prefix).venvs.glob("*") if link.is_symlink()}
    return {name: _target(path, Node(prefix).target_state(name)) for name, path in sorted(stamps.items())}


def share_packages(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what nodes have said as the arguments ``nodes`` and ``packages`` of ``rlinf_report``: packages that many have alike are there once.

    :param nodes: by host, with ``node`` as :func:`._fleet_report.fleet` takes it.
    """
    shared: dict[str, Any] = {}

    def of(target: Mapping[str, Any]) -> dict[str, Any]:
        if "packages" not in target:
            return dict(target)
        digest = sha256_bytes(json_bytes(target["packages"]))
        shared[digest] = target["packages"]
        return {**target, "packages": digest}

    def node(said: Mapping[str, Any] | None) -> dict[str, Any] | None:
        return {**said, "targets": {name: of(target) for name, target in said["targets"].items()}} if said else None

    return {"nodes": {host: {**said, "node": node(said.get("node"))} for host, said in nodes.items()}, "packages": shared}


def _target(path: Path, state: Path) -> dict[str, Any]:
    try:
        stamp = read_json(path, OfflineError)
        return {
            "digest": str(stamp["digest"]),
            "created": int(stamp.get("created", 0)) // 10**9 or None,
            "seconds": float(stamp["seconds"]) if "seconds" in stamp else None,
            "python": str(stamp["python"]["version"]),
            "damaged": [str(name) for name in stamp.get("damaged", [])],
            "skipped": sorted(str(name) for name in stamp.get("skipped", [])),
            "packages": {
                str(name): {"version": package.get("version"), "sha256": str(package["sha256"]), "kind": str(package["kind"])}
                for name, package in sorted(stamp["packages"].items())
            },
            "remote": {str(name): str(place) for name, place in stamp.get("remote", {}).items()},
            **_placed(state),
        }
    except (OfflineError, OSError) as error:
        return {"problem": str(error)}
    except (AttributeError, KeyError, TypeError, ValueError):
        return {"problem": f"{path} is no stamp of an environment"}


def _placed(state: Path) -> dict[str, Any]:
    """Return at which commit the project of a target is, and its working copies; of the user's own checkouts, which move, None.

    Where nothing that can be read was written down, nothing is known.
    """
    try:
        known = read_json(state, OfflineError)
        worktrees = {str(name): copy["commit"] and str(copy["commit"]) for name, copy in sorted(known["worktrees"].items())}
        return {"commit": str(known["commit"]), "worktrees": worktrees}
    except (OfflineError, OSError, AttributeError, KeyError, TypeError):
        return {"commit": "", "worktrees": {}}
