# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of a target's entry decides which packages it has: two entries with the same digest have the same lock. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._catalog import INSTALLING, Catalog, Step, Target
from ansible_collections.rlinf.offline.plugins.module_utils._files import json_bytes, sha256_bytes

_DECIDING = INSTALLING | {"overlay", "uninstall"}


def definition(target: Target, catalog: Catalog) -> str:
    """Return the digest of what decides which packages a target has, for every platform and whatever is left out.

    Not in it, since nothing is resolved by it: where things are put, what is exported, linked, written, checked or accepted, working
    copies that are only on a path, what a script runs (what it installs counts), and how a node builds a source. Neither is the project's
    commit, which a lock lies under.
    """
    entry = {
        "python": target.python,
        "cut_off": target.cut_off,
        "metadata": [dict(item) for item in target.metadata],
        "build_on_node": sorted(target.build_on_node),
        "steps": [_step(step, catalog) for step in target.trace if step.kind in _DECIDING],
    }
    return sha256_bytes(json_bytes(entry))


def _step(step: Step, catalog: Catalog) -> Mapping[str, Any]:
    return {step.kind: _value(step, catalog), **step.options}


def _value(step: Step, catalog: Catalog) -> Any:
    """Return what a step names; a name of the catalogue stands for what lies behind it, however its URL is written."""
    if step.kind in ("editable", "package"):
        repository = catalog.repositories[step.value]
        return [repository.id.key, repository.version]
    if step.kind == "wheels":
        return [catalog.wheels[name].filename for name in step.value]
    return step.value
