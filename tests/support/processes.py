# SPDX-License-Identifier: GPL-3.0-or-later
"""What everybody on a machine can see of its processes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

PERIOD = 0.03
"""Seconds between two looks."""


class Watch:
    """Every command line that was seen with one of some words in it, and how many looks there were."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.looks = 0


@contextlib.contextmanager
def watched(*words: str) -> Iterator[Watch]:
    """Look at the command lines of all processes while the body runs.

    One that lives for less than :data:`PERIOD` can be missed.
    """
    watch, ended, sought = Watch(), threading.Event(), [word.encode() for word in words]

    def look() -> None:
        while not ended.wait(PERIOD):
            watch.looks += 1
            for place in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    line = place.read_bytes()
                    if any(word in line for word in sought):
                        watch.seen.add(line.replace(b"\0", b" ").decode(errors="replace"))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        ended.set()
        thread.join()
