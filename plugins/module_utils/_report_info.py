# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node has installed, by the stamps of its environments: read only, nothing is hashed. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils import _node_info as node_info
from ansible_collections.rlinf.offline.plugins.module_utils._errors import OfflineError
from ansible_collections.rlinf.offline.plugins.module_utils._files import read_json
from ansible_collections.rlinf.offline.plugins.module_utils._generations import STAMP
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle, Node


def gather(prefix: str | None = None, bundle_dir: str | None = None, environment: str | None = None) -> dict[str, Any]:
    """Return the system, driver and GPUs of this node, the state of its bundle, and what each target's environment was made of.

    :param prefix: where things are installed; *bundle_dir*: the bundle there; both as ``rlinf_node_info`` takes them.
    :param environment: an environment that existed already and was installed into.
    """
    home = node_info.home_directory()
    node = Node(node_info.default_prefix(prefix, home))
    bundle = Bundle(node_info.absolute(bundle_dir, home) if bundle_dir else node.bundle)
    existing = node_info.absolute(environment, home) if environment else None
    questions = {"bundle": lambda: node_info.bundle_state(bundle, node), "gpus": node_info.gpus}
    answers = node_info.ask_all(questions, node_info.PATIENCE + 1)
    return {
        "prefix": str(node.prefix),
        "distribution": node_info.distribution(),
        "glibc": node_info.glibc_version(),
        "bundle": answers["bundle"],
        "gpus": answers["gpus"],
        "targets": dict(sorted(_targets(node, existing))),
    }


def _targets(node: Node, existing: Path | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each target that has a current environment, or a link that leads to none, with what its stamp says."""
    if existing:
        for path in existing.glob("rlinf/*.json"):
            yield path.stem, _target(path)
        return
    for link in node.venvs.glob("*"):
        if link.is_symlink():
            yield link.name, _target(link / STAMP)


def _target(path: Path) -> dict[str, Any]:
    try:
        stamp = read_json(path, OfflineError)
        return {
            "digest": str(stamp["digest"]),
            "created": int(stamp.get("created", 0)) // 10**9 or None,
            "python": str(stamp["python"]["version"]),
            "damaged": [str(name) for name in stamp.get("damaged", [])],
            "skipped": sorted(str(name) for name in stamp.get("skipped", [])),
            "packages": {
                str(name): {"version": package.get("version"), "sha256": str(package["sha256"]), "kind": str(package["kind"])}
                for name, package in sorted(stamp["packages"].items())
            },
            "remote": dict(stamp.get("remote", {})),
        }
    except (OfflineError, OSError) as error:
        return {"problem": str(error)}
    except (AttributeError, KeyError, TypeError, ValueError):
        return {"problem": f"{path} is no stamp of an environment"}
