# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a bundle says of itself: its records and its locks. Standard library only, for who only wants to look."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError, OfflineError
from ansible_collections.rlinf.offline.plugins.module_utils._files import read_json
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle

LOCK = {
    "target?": str,
    "python": str,
    "platform?": str,
    "project?": {"commit": str},
    "packages": [
        {"name": str, "version": (str, type(None)), "kind": str, "source?": dict, "path": str, "sha256": str, "size": int, "served?": bool}
    ],
    "build?": [{"name": str, "version": (str, type(None)), "path": str, "sha256": str, "size": int, "served?": bool}],
    "build_on_node?": {str: {"needs?": [str], "env?": {str: str}}},
    "closure?": [str],
    "editables?": [{"package": str, "repository": str}],
    "files?": {str: str},
    "git?": {str: dict},
    "written?": {str: str},
}
"""What every reader of a lock counts on, in the words of :mod:`._shape`; who needs more asks for it."""
ASSETS = {str: {"url": str, "sha256": (str, type(None)), "strip": bool, "tree": str}}
"""What ``records/assets.json`` says of the archive that each asset was unpacked from, by dest."""
URLS = {str: {"sha256": str, "size": int, "etag?": (str, type(None)), "last_modified?": (str, type(None))}}
"""What ``records/urls.json`` says of each URL."""
RECORD_REMEDY = "Take it from a copy of the bundle, or remove it and run the playbook rlinf.offline.download again."
_LOCK_REMEDY = (
    "On a node, run the playbook rlinf.offline.push again with rlinf_scrub=true; on the bastion, run rlinf.offline.download with it, which brings a copy "
    "back or says what is lost."
)


def read_record(bundle: Bundle, name: str, shape: Any = dict, error: type[OfflineError] = BundleError) -> dict[str, Any]:
    """Return ``records/<name>``, or nothing if the bundle has none.

    :param shape: what is read of it, in the words of :mod:`._shape`.
    :raises OfflineError: *error*: it is damaged.
    """
    try:
        record: dict[str, Any] = read_json(bundle.records / name, error, shape, RECORD_REMEDY)
    except FileNotFoundError:
        return {}
    return record


def read_locks(bundle: Bundle, shape: Any = None) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield every lock of a bundle with its path, ``targets/<commit>/<target>/lock.json``.

    :param shape: what is read of each, in the words of :mod:`._shape`; by default :data:`LOCK`.
    :raises BundleError: one is damaged.
    """
    for path in sorted(bundle.targets.glob("*/*/lock.json")):
        yield path, read_lock(path, shape=shape)


def read_lock(path: Path, error: type[OfflineError] = BundleError, shape: Any = None) -> dict[str, Any]:
    """Return a lock of a target, ``lock.json``.

    :param shape: what is read of it; by default :data:`LOCK`.
    :raises OfflineError: *error*: it is damaged.
    :raises FileNotFoundError: there is none.
    """
    lock: dict[str, Any] = read_json(path, error, LOCK if shape is None else shape, _LOCK_REMEDY)
    return lock


def lies_in(path: str, closure: Collection[str]) -> bool:
    """Return whether a file of a bundle is in a closure, or below a directory of it.

    :param closure: paths without a slash at their end.
    """
    return path in closure or any(str(parent) in closure for parent in PurePosixPath(path).parents)
