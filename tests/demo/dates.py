# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When things of the demo's world happened: before the cut-off of the targets, or after it."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

CUT_OFF = "2025-12-23"
BEFORE, AFTER = "2025-06-01", "2026-02-01"


def seconds(day: str) -> int:
    """Return noon of a day (ISO 8601) in seconds since the epoch."""
    return int(datetime.datetime.fromisoformat(f"{day}T12:00:00+00:00").timestamp())


def dated(path: Path, day: str) -> Path:
    """Give a file the time that the index says it was uploaded, or that a server says it was changed; return it."""
    os.utime(path, (seconds(day), seconds(day)))
    return path
