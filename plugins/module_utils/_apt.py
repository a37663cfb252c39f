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
PACKAGES = {
    "release": str,
    "architecture": str,
    "definition": str,
    "index": str,
    "packages": [str],
    "before_push": [str],
    "files": [{"package": str, "filename": str, "size": int, "installed": int, "sha256": str}],
}
"""What is read of it, in the words of :mod:`._shape`."""
INDEXES = ("Packages", "Release", RECORD)
"""What a repository of the bundle says of its packages."""
BEFORE_PUSH = "rsync"
"""The package that a bundle cannot be pushed without: where a node lacks it, it comes before the bundle."""
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


def installs(state: str, uid: int) -> bool:
    """Return whether packages may be installed: *state* is ``rlinf_system_packages_state``, *uid* that of the user that modules run as."""
    return state == "present" or (state == "auto" and uid == 0)


def install_command(packages: Iterable[str]) -> str:
    """Return how whoever has the network and root installs packages by hand."""
    return f"apt-get install --no-install-recommends {' '.join(packages)}"


def unmet(stdout: str) -> str:
    """Return which dependencies apt-get found unmet, or nothing; it lists them on its standard output."""
    return stdout.partition("The following packages have unmet dependencies:")[2].strip()
