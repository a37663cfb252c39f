# SPDX-License-Identifier: GPL-3.0-or-later
"""Notes every module that is executed on a host's own connection, those that an action calls included: a line of JSON with host and module.

``RLINF_EXECUTED`` names the file.
"""

from __future__ import annotations

import json
import os
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: executed
type: notification
short_description: Notes every module that is executed
description: Notes every module that is executed on a host's own connection.
"""
_execute = ActionBase._execute_module


def _noted(action: Any, module_name: str | None = None, *given: Any, **more: Any) -> Any:
    if not action._task.delegate_to:
        said = {"host": more["task_vars"]["inventory_hostname"], "module": module_name or action._task.action}
        with open(os.environ["RLINF_EXECUTED"], "a", encoding="utf-8") as stream:
            stream.write(json.dumps(said) + "\n")
    return _execute(action, module_name, *given, **more)


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Stands before what executes modules, in the process that those of all tasks are copies of."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "executed"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        ActionBase._execute_module = _noted
