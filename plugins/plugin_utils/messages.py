# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action plugins of modules whose ``messages`` people read: a line each, in its colour, on the machine that runs ansible-playbook.

A callback plugin of a collection shows nothing until each user has enabled it; an action plugin runs with its module. Like everything that
Ansible displays, the lines are plain where standard output is no terminal, in a log, and with ANSIBLE_NOCOLOR.
"""

from __future__ import annotations

from typing import Any

from ansible import constants
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

# what is not local is shown whenever it is found, the rest when something changed
ALWAYS = frozenset({"remote_repo", "remote_url", "remote_wheel"})
# callbacks whose standard output programs read: lines for people go to standard error there, as warnings do
FOR_PROGRAMS = frozenset({"json", "jsonl", "null"})


class Telling(ActionBase):  # type: ignore[misc]
    """Runs the module of its own name, and shows what it has to say."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = {**super().run(tmp, variables), **self._execute_module(task_vars=variables)}
        if not self._task.no_log:
            self._tell(result, variables.get("inventory_hostname", ""))
        return result

    @staticmethod
    def _tell(result: dict[str, Any], host: str) -> None:
        display = Display()
        aside = constants.DEFAULT_STDOUT_CALLBACK.rpartition(".")[2] in FOR_PROGRAMS
        for message in result.get("messages", ()):
            if result.get("changed") or result.get("failed") or message["kind"] in ALWAYS:
                display.display(f"{host}: {message['text']}", color=message["colour"], stderr=aside)
