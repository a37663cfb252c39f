# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of trials: the rows of the table in docs/reliability.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.faults.calls import Broken, Untried


@dataclass
class Tally:
    """One promise under one kind of fault.

    :param name: what is done to whom.
    :param promise: what must hold, in words.
    :param command: the class of ``python -m tests.faults.run`` that takes the trials again.
    """

    name: str
    promise: str
    command: str
    trials: int = 0
    lost: list[str] = field(default_factory=list)
    untried: list[str] = field(default_factory=list)

    @contextmanager
    def trial(self, what: str) -> Iterator[None]:
        """Count one trial, and as lost one in which a promise was broken; apart, what came to none."""
        try:
            yield
        except Untried:
            self.untried.append(what)
            return
        except Broken as error:
            self.lost.append(f"{what}: {error}")
        self.trials += 1

    @property
    def survived(self) -> int:
        return self.trials - len(self.lost)

    def add(self, other: Tally) -> None:
        """Add the trials of another process."""
        self.trials += other.trials
        self.lost += other.lost
        self.untried += other.untried


def table(tallies: Iterable[Tally]) -> list[str]:
    """Return the promises as a numbered list of Markdown, and the rows as a table that names each by its number."""
    rows = list(tallies)
    numbers = {promise: number for number, promise in enumerate(dict.fromkeys(tally.promise for tally in rows), 1)}
    lines = [f"{number}. {promise[0].upper()}{promise[1:]}." for promise, number in numbers.items()]
    lines += ["", "| what is done | what is promised | trials | survived | lost | again |", "|---|---:|---:|---:|---:|---|"]
    for tally in rows:
        cells = (tally.name, numbers[tally.promise], tally.trials, tally.survived, len(tally.lost), f"`make faults CLASS={tally.command}`")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines
