# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How far something has come, told to the callback ``rlinf_progress``. Standard library only; does nothing unless that is enabled."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

FOLDER = "RLINF_PROGRESS"
"""Environment variable: the folder that the callback reads. What sudo starts does not get it, and tells nothing."""
EVERY = 0.25
"""Seconds between two words of one thing at least."""
_numbers = itertools.count()


class Meter:
    """One thing on its way; a context manager, at whose end it has come as far as it ever will.

    :param kind: what is done: things of one kind are shown together, ``download``.
    :param label: what it is done with, for a person; holds no credentials.
    :param total: its bytes, if they are known.
    """

    def __init__(self, kind: str, label: str, total: int | None = None) -> None:
        folder = os.environ.get(FOLDER)
        self.kind, self.label, self.total, self.done = kind, label, total, 0
        self._path = Path(folder, f"{os.getpid()}-{next(_numbers)}.json") if folder else None
        self._next = 0.0

    def __enter__(self) -> Meter:
        self._write(ended=False)
        return self

    def __exit__(self, *_exception: object) -> None:
        self._write(ended=True)

    def show(self, done: int) -> None:
        """Say how many bytes are there."""
        self.done = done
        if self._path and time.monotonic() >= self._next:
            self._write(ended=False)
            self._next = time.monotonic() + EVERY

    @contextlib.contextmanager
    def watching(self, measure: Callable[[], int]) -> Iterator[None]:
        """Ask again and again while the body runs, for something that a program brings by itself.

        :param measure: returns how many bytes are there; what it cannot find (:class:`OSError`) is not shown.
        """
        if not self._path:
            yield
            return
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(EVERY):
                with contextlib.suppress(OSError, ValueError):
                    self.show(measure())

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            with self:
                yield
        finally:
            ended.set()
            thread.join()

    def _write(self, *, ended: bool) -> None:
        # nothing that has to last, so without fsync; a folder that is gone is no reason to fail
        if self._path:
            fresh = self._path.with_suffix(".tmp")
            with contextlib.suppress(OSError):
                fresh.write_text(json.dumps([self.kind, self.label, self.done, self.total, ended]), encoding="utf-8")
                os.replace(fresh, self._path)


def written_by(process: int) -> int:
    """Return how many bytes a process has written so far, to files, pipes and sockets (proc(5), io).

    :raises OSError: it has ended, or this system does not say.
    """
    for line in Path(f"/proc/{process}/io").read_text(encoding="ascii").splitlines():
        name, _colon, value = line.partition(": ")
        if name == "wchar":
            return int(value)
    raise OSError("/proc does not say")


def bytes_below(*folders: Path) -> int:
    """Return the size of the files directly in some folders; one that is not there has none."""
    found = 0
    for folder in folders:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            found += sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
    return found
