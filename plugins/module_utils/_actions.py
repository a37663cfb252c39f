# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One thing to put in place, and how: what a plan consists of. Standard library only."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Action:
    """One thing that is looked at, and what is done about it.

    :param kind: ``worktree``, ``asset``, ``link`` or ``file``.
    :param state: what it is afterwards, in a word or two.
    :param apply: brings it there; None where nothing is to be done.
    :param before: what is there (a commit, a digest, where a link leads), and *after*, what will be; empty: nothing.
    :param bytes: what is copied for it.
    :param warning: what the user should know although it is no error.
    """

    kind: str
    name: str
    path: Path
    state: str
    reason: str
    apply: Callable[[], None] | None = None
    before: str = ""
    after: str = ""
    bytes: int = 0
    warning: str = ""

    @property
    def changed(self) -> bool:
        return self.apply is not None

    def result(self, seconds: float = 0.0) -> dict[str, Any]:
        """Return it as an item of a module's ``results``."""
        said = {key: getattr(self, key) for key in ("kind", "name", "changed", "state", "reason", "bytes")}
        return {**said, "path": str(self.path), "seconds": round(seconds, 3)}


def perform(actions: Sequence[Action], *, check: bool = False) -> list[dict[str, Any]]:
    """Do what is to be done, in order; return the results.

    :param check: do nothing, return the same results.
    """
    results = []
    for action in actions:
        start = time.monotonic()
        if action.apply and not check:
            action.apply()
        results.append(action.result(time.monotonic() - start))
    return results


def diff(actions: Sequence[Action]) -> Mapping[str, str]:
    """Return the two sides of a diff: a line for each thing that changes."""
    changed = [action for action in actions if action.changed]

    def side(lines: Sequence[tuple[Action, str]]) -> str:
        return "".join(f"{action.kind} {action.path}: {line}\n" for action, line in lines if line)

    return {"before": side([(action, action.before) for action in changed]), "after": side([(action, action.after) for action in changed])}
