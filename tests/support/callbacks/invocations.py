# SPDX-License-Identifier: GPL-3.0-or-later
"""Notes every call of a module of the collection that a play makes: a line of JSON with the module, its arguments and the host.

``RLINF_INVOCATIONS`` names the file. What a parameter with ``no_log`` was given is not in it.
"""

from __future__ import annotations

import json
import os
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: invocations
type: notification
short_description: Notes every call of a module
description: Notes every call of a module of the collection.
"""
OURS = "rlinf.offline."


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Appends to the file as results come."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "invocations"
    CALLBACK_NEEDS_ENABLED = True

    def v2_runner_on_ok(self, result: Any) -> None:
        action, invocation = result._task.action, result._result.get("invocation")
        if action.startswith(OURS) and invocation:
            said = {
                "module": action.removeprefix(OURS),
                "host": result._host.get_name(),
                "args": invocation["module_args"],
                "changed": bool(result._result.get("changed")),
            }
            with open(os.environ["RLINF_INVOCATIONS"], "a", encoding="utf-8") as stream:
                stream.write(json.dumps(said) + "\n")

    # of a task with a loop, each item says what it was called with, and the task as a whole does not
    v2_runner_item_on_ok = v2_runner_on_ok
