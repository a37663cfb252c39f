# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for ansible.posix.json, which ansible-core does not bring: standard output is one JSON document, printed at the end."""

from __future__ import annotations

import json
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: json
type: stdout
short_description: One JSON document at the end
description: One JSON document at the end.
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Gathers what each task said of each host."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "json"

    def __init__(self) -> None:
        super().__init__()
        self.results: list[dict[str, Any]] = []

    def _note(self, result: Any, failed: bool) -> None:
        said = json.loads(self._dump_results(result._result))
        self.results.append(
            {"task": result.task_name.rpartition(" : ")[2], "host": result._host.get_name(), "result": {**said, "failed": failed}}
        )

    def v2_runner_on_ok(self, result: Any) -> None:
        self._note(result, False)

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._note(result, False)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._note(result, True)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._note(result, True)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self._display.display(json.dumps(self.results))
