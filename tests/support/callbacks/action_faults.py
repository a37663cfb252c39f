# SPDX-License-Identifier: GPL-3.0-or-later
"""Hands the variables of faults (plugins/module_utils/_faults.py) to the tasks of one action alone.

``RLINF_ACTION`` names the action, ``RLINF_ACTION_FAULTS`` is a JSON object of the variables.
"""

from __future__ import annotations

import json
import os
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: action_faults
type: notification
short_description: Hands the variables of faults to the tasks of one action
description: Hands the variables of faults to the tasks of one action alone.
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Sets them in the process that those of a task are copies of, before they are made."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "action_faults"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        faults = json.loads(os.environ["RLINF_ACTION_FAULTS"])
        if task.action.rpartition(".")[2] == os.environ["RLINF_ACTION"]:
            os.environ.update(faults)
        else:
            for name in faults:
                os.environ.pop(name, None)
