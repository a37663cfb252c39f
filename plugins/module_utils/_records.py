# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a bundle says of itself: its records and its locks. Standard library only, for who only wants to look."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError
from ansible_collections.rlinf.offline.plugins.module_utils._files import read_json
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle


def read_record(bundle: Bundle, name: str) -> dict[str, Any]:
    """Return ``records/<name>``, or nothing if the bundle has none.

    :raises BundleError: it is damaged.
    """
    path = bundle.records / name
    try:
        record = read_json(path, BundleError)
    except FileNotFoundError:
        return {}
    if not isinstance(record, dict):
        raise BundleError(
            f"{path} is damaged. Take it from a copy of the bundle, or remove it and run the playbook rlinf.offline.download again."
        )
    return record


def read_locks(bundle: Bundle) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield every lock of a bundle with its path, ``targets/<commit>/<target>/lock.json``.

    :raises BundleError: one is damaged.
    """
    for path in sorted(bundle.targets.glob("*/*/lock.json")):
        lock = read_json(path, BundleError)
        if not isinstance(lock, dict) or not isinstance(lock.get("packages"), list):
            raise BundleError(f"{path} is damaged: it is no lock of a target. Run the playbook rlinf.offline.download on the bastion.")
        yield path, lock


def lies_in(path: str, closure: Collection[str]) -> bool:
    """Return whether a file of a bundle is in a closure, or below a directory of it.

    :param closure: paths without a slash at their end.
    """
    return path in closure or any(str(parent) in closure for parent in PurePosixPath(path).parents)
