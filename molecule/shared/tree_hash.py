# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Print what a checkout holds, as JSON: for every path its mode, its mtime and its content's digest or link target.

Left out: git's own files, and ``.venv``, the link that an installation makes where there is none.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path


def describe(path: Path) -> list[str]:
    """Return mode, mtime in nanoseconds, and digest or link target of a path."""
    status = path.lstat()
    if path.is_symlink():
        return [oct(status.st_mode), "", os.readlink(path)]
    if path.is_file():
        return [oct(status.st_mode), str(status.st_mtime_ns), hashlib.sha256(path.read_bytes()).hexdigest()]
    return [oct(status.st_mode), "", ""]


root = Path(sys.argv[1])
found = {
    str(path.relative_to(root)): describe(path) for path in root.rglob("*") if path.relative_to(root).parts[0] not in (".git", ".venv")
}
print(json.dumps(dict(sorted(found.items())), indent=1))
