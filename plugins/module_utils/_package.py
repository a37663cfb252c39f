# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One file of a lock: what it is of, where it came from, where it lies in the bundle. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._errors import LockError
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._shape import misfit

PACKAGE = {
    "name": str,
    "version": (str, type(None)),
    "kind": str,
    "source": dict,
    "path": str,
    "sha256": str,
    "size": int,
    "served": bool,
}
"""An entry of a lock, in the words of :mod:`._shape`."""
_SERVED = {"url": str, "sha256": str, "size": (int, type(None))}
# by kind
_SOURCES: Mapping[str, Any] = {
    "index": _SERVED,
    "sdist": {**_SERVED, "filename": str},
    "git": {"url": str, "commit": str, "subdirectory": (str, type(None))},
    "wheel": {},
    "overlay": {"package": PACKAGE, "donor": str, "path": str},
    "source": _SERVED,
}


@dataclass(frozen=True)
class Package:
    """One file of a lock.

    *kind*: ``index`` (as served), ``sdist`` (built from one), ``git`` (built from a commit), ``wheel`` (prebuilt, of the catalogue),
    ``overlay`` (another package's wheel, with files of the wheel of ``donor`` below ``path`` copied over it), ``source`` (an sdist that
    a node builds).
    *source*: the URL and, of what is served, its sha256 and size; of a commit, its URL, commit and subdirectory; of an overlay, the
    package (as JSON) that it is made of, donor and path. Of what is built, ``build_requires`` says what its build asks for.
    *path* (relative to the bundle), *sha256* and *size* are those of the file; empty until it is there.
    *served*: whether an index serves this very file, so that a node can have it from there.
    """

    name: str
    version: str | None
    kind: str
    source: Mapping[str, Any]
    path: str = ""
    sha256: str = ""
    size: int = 0
    served: bool = False

    def present(self, bundle: Bundle) -> bool:
        """Whether the file is there with the right length (its content is judged when the bundle is sealed and verified)."""
        place = bundle.root / self.path
        return bool(self.path) and place.is_file() and place.stat().st_size == self.size

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> Package:
        """Return the package of an entry of a lock that has the shape :data:`PACKAGE`.

        :raises LockError: its source is not what its kind needs.
        """
        kind = item["kind"]
        said = misfit(item["source"], _SOURCES[kind], "source") if kind in _SOURCES else f"there is no kind {kind!r}"
        if said:
            raise LockError(f"The lock is damaged where it names {item['name']}: {said}. Name its target in rlinf_update to lock it anew.")
        return cls(**{part.name: item[part.name] for part in fields(cls)})

    @property
    def json(self) -> dict[str, Any]:
        return asdict(self)
