# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action plugins of modules whose ``messages`` people read: a line each, in its colour, on the machine that runs ansible-playbook."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

# what is not local is shown whenever it is found, the rest when something changed
ALWAYS = frozenset({"remote_repo", "remote_url", "remote_wheel"})


class Telling(ActionBase):  # type: ignore[misc]
    """Runs the module of its own name, and shows what it has to say."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = {**super().run(tmp, variables), **self._execute_module(task_vars=variables)}
        display, host = Display(), variables.get("inventory_hostname", "")
        for message in result.get("messages", ()):
            if result.get("changed") or result.get("failed") or message["kind"] in ALWAYS:
                display.display(f"{host}: {message['text']}", color=message["colour"])
        return result
