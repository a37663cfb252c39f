# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may read and write what lies in a tree."""

from __future__ import annotations

import re
import stat
from pathlib import Path

Modes = dict[str, str]


def modes(root: Path) -> Modes:
    """Return the mode of everything, save of locks, which are nobody's to read, and of caches, whose names are digests.

    What the name of an interpreter's path is a digest of differs from one start to the next.
    """
    paths = [path.relative_to(root) for path in sorted(root.rglob("*")) if not path.is_symlink()]
    kept = [path for path in paths if "lock" not in path.name and ".git" not in path.parts and path.parts[0] not in ("cache", ".cache")]
    return {re.sub(r"runtime-[0-9a-f]+", "runtime-", str(path)): stat.filemode((root / path).lstat().st_mode) for path in kept}


def others_may_write(found: Modes) -> list[str]:
    """Return what the group or everybody may write."""
    return [path for path, mode in found.items() if mode[5] == "w" or mode[8] == "w"]
