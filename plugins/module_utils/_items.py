# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules with many items: each is tried, one that fails stops no other, and the module fails at the end with all of them named."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ansible_collections.rlinf.offline.plugins.module_utils._errors import OfflineError


class Outcome(Protocol):
    """What became of one item."""

    @property
    def json(self) -> dict[str, Any]:
        """Its entry in ``results``: ``name``, ``changed``, ``state`` (``failed`` if it did), ``reason`` and more."""

    @property
    def diff(self) -> dict[str, str]:
        """Its ``before``, ``after`` and their headers; nothing where there is nothing to show."""


@dataclass(frozen=True)
class Tried:
    """An outcome with its seconds, or in place of one that an error ended."""

    json: dict[str, Any]
    diff: dict[str, str]


def attempt(name: str, work: Callable[[], Outcome]) -> Tried:
    """Try one item. An :class:`OfflineError` or :class:`OSError` that *work* raises is its outcome."""
    start = time.monotonic()
    try:
        outcome = work()
        return Tried({**outcome.json, "seconds": _since(start)}, outcome.diff)
    except OfflineError as error:
        message, details = str(error), {"problem": error.details["problem"]} if "problem" in error.details else {}
    except OSError as error:
        message, details = f"{error.filename or 'the file system'}: {error.strerror or error}. Mend this and run again.", {}
    return Tried(
        {"name": name, "changed": False, "state": "failed", "reason": message, **details, "bytes": 0, "seconds": _since(start)}, {}
    )


def answer(outcomes: Sequence[Outcome], what: str, *, diff: bool) -> dict[str, Any]:
    """Return a module's result.

    :param what: what the items are, in the plural ("wheels").
    :param diff: whether to show what changes.
    :raises OfflineError: some failed; each is named, and the result is among the details.
    """
    results = [outcome.json for outcome in outcomes]
    told: dict[str, Any] = {"changed": any(result["changed"] for result in results), "results": results}
    if diff:
        told["diff"] = [outcome.diff for outcome in outcomes if outcome.json["changed"] and outcome.diff]
    errors = [_named(result["name"], result["reason"]) for result in results if result["state"] == "failed"]
    if errors:
        raise OfflineError("\n".join([f"{len(errors)} of {len(results)} {what} failed:", *errors]), **told)
    return told


def lines_diff(header: str, before: Iterable[str], after: Iterable[str]) -> dict[str, str]:
    """Return two lists of lines as Ansible shows a difference."""
    old, new = ("".join(f"{line}\n" for line in lines) for lines in (before, after))
    return {"before_header": header, "after_header": header, "before": old, "after": new}


def _named(name: str, message: str) -> str:
    """Return a message with the item's name before it, unless its beginning says it."""
    return message if name in message.partition(":")[0] else f"{name}: {message}"


def _since(start: float) -> float:
    return round(time.monotonic() - start, 2)
