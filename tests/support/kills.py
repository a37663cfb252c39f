# SPDX-License-Identifier: GPL-3.0-or-later
"""Killing a piece of work at a checkpoint, in a process of its own that need not start an interpreter."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path

from ansible_collections.rlinf.offline.plugins.module_utils._faults import KILL_AT, TRACE


def killed_at(number: int, work: Callable[[], object]) -> bool:
    """Run *work* in a child that dies at the checkpoint of this number; return whether there was one."""
    child = os.fork()
    if child == 0:
        os.environ[KILL_AT] = str(number)
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), f"the work failed with status {status}"
    return status != 0


def kill_points(work: Callable[[], object], trace: Path) -> list[int]:
    """Run *work* in a child to its end; return the numbers of its checkpoints, those before an fsync apart.

    A process that is killed before an fsync leaves what one that is killed at the next checkpoint leaves: only a power cut would not.

    :param trace: a file for the labels.
    """

    def traced() -> None:
        os.environ[TRACE] = str(trace)
        work()

    # a number that no work reaches
    assert not killed_at(10**9, traced)
    labels = [line.partition(" ") for line in trace.read_text(encoding="utf-8").splitlines()]
    return [int(number) for number, _space, label in labels if not label.startswith("fsync")]
