# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Points at which the tests may kill a module; without their two variables they do nothing."""

from __future__ import annotations

import os
import signal

KILL_AT = "RLINF_FAULT_AT"
"""Environment variable: the ordinal (from 1) of the checkpoint at which this process kills itself."""
TRACE = "RLINF_FAULT_TRACE"
"""Environment variable: a file to which the label of every checkpoint is appended, a line each."""

# which process has passed how many: one that another has forked begins anew
_passed = (0, 0)


def checkpoint(label: str) -> None:
    """Mark a point between two steps that change something on disk.

    :param label: what is about to happen, for the trace.
    """
    global _passed
    kill_at, trace = os.environ.get(KILL_AT), os.environ.get(TRACE)
    if kill_at is None and trace is None:
        return
    process, number = os.getpid(), 1
    if process == _passed[0]:
        number += _passed[1]
    _passed = (process, number)
    if trace:
        with open(trace, "a", encoding="utf-8") as stream:
            stream.write(f"{number} {label}\n")
    if kill_at and number == int(kill_at):
        os.kill(process, signal.SIGKILL)
