# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files of a bundle a host needs for its targets. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._records import lies_in, read_locks


def files_for(bundle: Bundle, files: Iterable[str], targets: Sequence[str], release: str = "") -> list[str]:
    """Return which of the *files* that the manifest of a bundle lists, sorted, a host with these targets needs.

    They are all but what only other targets need: what no target claims is there because somebody asked for it. Locks and mirrors always
    come: the locks say what is whose, and the requirement files of a checkout name repositories of every target.

    :param targets: names of targets; every commit that one is locked for counts. Without any, the host gets everything.
    :param release: the host's release and architecture, ``debian-12/amd64``: system packages of others are left out. All of them, if not given.
    :raises BundleError: a target has no lock in the bundle, or a lock is damaged.
    """
    if not targets:
        return sorted(files)
    locks = [(path.parent.name, lock) for path, lock in read_locks(bundle)]
    own = [lock for target, lock in locks if target in targets]
    others = [lock for target, lock in locks if target not in targets]
    for target in targets:
        if target not in dict(locks):
            raise BundleError(
                f"The bundle {bundle.root} has no lock of target {target}. Run the playbook rlinf.offline.download with it in rlinf_targets."
            )
    # a lock that lost its closure says nothing of what is whose
    if not all("closure" in lock for lock in own):
        return sorted(files)
    needed, claimed = _closure(own), _closure(lock for lock in others if "closure" in lock)
    always = (f"{bundle.targets.name}/", f"{bundle.repos.name}/")
    left_out = {path for path in files if lies_in(path, claimed) and not lies_in(path, needed) and not path.startswith(always)}
    pythons = {lock["python"] for lock in own}
    for path in files:
        parts = PurePosixPath(path).parts
        foreign_system = parts[0] == "apt" and release and "/".join(parts[1:3]) != release
        foreign_python = parts[0] == bundle.interpreters.name and parts[1].rpartition(".")[0] not in pythons
        if foreign_system or foreign_python:
            left_out.add(path)
    return sorted(set(files) - left_out)


def _closure(locks: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    # a directory is written with a slash at its end; an asset is one or the other, and the lock doesn't know which
    return frozenset(path.rstrip("/") for lock in locks for path in lock["closure"])
