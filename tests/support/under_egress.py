# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a program as a module is run that may reach nothing but its machine: under_egress.py FOLDER STEP PROGRAM ARGUMENT..."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ansible_collections.rlinf.offline.plugins.module_utils import _seccomp
from ansible_collections.rlinf.offline.plugins.module_utils._egress import enter
from ansible_collections.rlinf.offline.plugins.module_utils._errors import AirGapError

folder, step, *argv = sys.argv[1:]
if "NO_FILTER" in os.environ:
    # a machine that the filter is not written for
    _seccomp.MACHINES.clear()
if "NO_NAMESPACE" in os.environ:
    # stands in for a container that allows none; only the child uses it
    from ansible_collections.rlinf.offline.plugins.module_utils import _egress

    _egress.leave_network = lambda: False
try:
    watched = enter(Path(folder), step, module=step)
except AirGapError as error:
    sys.exit(str(error))
watched.say(changed=True, digest=None)
os.execvp(argv[0], argv)
