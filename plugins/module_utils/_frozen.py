# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``records/repositories.json``: the commit that each mirror is frozen at. Standard library only, for who only wants to look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError
from ansible_collections.rlinf.offline.plugins.module_utils._files import read_json, write_json
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle

KEYS = frozenset({"url", "version", "commit", "default_branch", "cut_off"})
"""What is known of a mirror."""


def read_records(bundle: Bundle) -> dict[str, dict[str, Any]]:
    """Return the frozen commits: for each mirror its ``url``, ``version``, ``commit``, ``default_branch`` and ``cut_off``.

    :raises BundleError: the file is damaged.
    """
    path = bundle.records / "repositories.json"
    try:
        records: dict[str, dict[str, Any]] = read_json(path, BundleError)
    except FileNotFoundError:
        return {}
    if not isinstance(records, dict) or not all(map(_is_record, records.values())):
        raise BundleError(f"{path} is damaged. Take it from a backup of the bundle, or remove it and have every repository frozen anew.")
    return records


def _is_record(value: Any) -> bool:
    if not isinstance(value, dict) or not value.keys() >= KEYS:
        return False
    return all(isinstance(value[key], str) or (value[key] is None and key not in ("url", "commit")) for key in KEYS)


def write_records(bundle: Bundle, records: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the frozen commits of all mirrors."""
    bundle.records.mkdir(parents=True, exist_ok=True)
    write_json(bundle.records / "repositories.json", records)
