# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What bastion and node agree on about system packages: how they are named, and what a repository in the bundle says of itself.

Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ansible_collections.rlinf.offline.plugins.module_utils._errors import AptError

RECORD = "packages.json"
"""Beside the packages of a repository: which were asked for, and every file with its digest."""
_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]+\Z")


def check_names(packages: Iterable[str], what: str = "rlinf_system_packages") -> None:
    """Refuse what apt could take for an option or a pattern (Debian Policy 5.6.1).

    :param what: where the names come from, for the message.
    :raises AptError: one is no name of a package.
    """
    for name in packages:
        if not isinstance(name, str) or not _NAME.match(name):
            raise AptError(f"{what}: {name!r} is not the name of a package.")


def renamed(packages: Iterable[str], renames: Mapping[str, str]) -> list[str]:
    """Return packages as a release calls them, sorted, each once; what it has under no name is left out."""
    return sorted({called for name in packages if (called := renames.get(name, name))})
