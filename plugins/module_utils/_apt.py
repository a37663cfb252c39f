# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What bastion and node agree on about system packages: how they are named, and what a repository in the bundle says of itself.

Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ansible_collections.rlinf.offline.plugins.module_utils._errors import AptError

RECORD = "packages.json"
"""Beside the packages of a repository: which were asked for, and every file with its digest."""
_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]+\Z")


def check_names(packages: Iterable[str]) -> None:
    """Refuse what apt could take for an option or a pattern (Debian Policy 5.6.1).

    :raises AptError: one is no name of a package.
    """
    for name in packages:
        if not _NAME.match(name):
            raise AptError(f"rlinf_system_packages: {name!r} is not the name of a package.")
