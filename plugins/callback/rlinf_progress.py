# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Show on standard error how far downloads, pushes and long tasks have come."""

from __future__ import annotations

DOCUMENTATION = r"""
name: rlinf_progress
type: aggregate
short_description: Shows how far downloads, pushes, media and long tasks have come
version_added: 0.1.0
description:
  - Bytes, rate and time left of what is downloaded, pushed, written to media and read from them.
  - Of any other task that takes long, on how many hosts it is done, and for how long it runs.
  - On a terminal one line is rewritten, and cleared before anything else is printed. Elsewhere sparse plain lines are written.
  - It writes to standard error alone, so that what other callbacks print stays as it is.
  - Modules that run with become on the machine of ansible-playbook tell no bytes, since sudo drops the environment.
author: The rlinf.offline authors (@RLinf)
requirements:
  - It is enabled with C(callbacks_enabled=rlinf.offline.rlinf_progress) in C(ansible.cfg).
options:
  log_interval:
    description: Seconds between two lines where standard error is no terminal.
    type: float
    default: 30
    env:
      - name: RLINF_PROGRESS_INTERVAL
    ini:
      - section: callback_rlinf_progress
        key: log_interval
"""

import atexit
import json
import os
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

from ansible_collections.rlinf.offline.plugins.module_utils._bundle import size_text
from ansible_collections.rlinf.offline.plugins.module_utils._progress import EVERY, FOLDER

WINDOW = 10.0
"""Seconds over which the rate is taken."""
LONG = 3.0
"""Seconds after which a task is long."""


class Pace:
    """Bytes a second over the last while."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def rate(self, now: float, done: int) -> float:
        """Note *done* bytes at *now* (seconds) and return the rate; 0 while it is not known."""
        if self._seen and done < self._seen[-1][1]:
            self._seen.clear()  # started over
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[0][0] > WINDOW:
            self._seen.popleft()
        then, before = self._seen[0]
        return (done - before) / (now - then) if now > then else 0.0


def line(label: str, done: int, total: int | None, rate: float) -> str:
    """Return what is said of one thing: bytes, and rate and time left as far as they are known."""
    said = f"{label}: {size_text(done)}" + (f" of {size_text(total)}" if total else "")
    if rate > 0:
        said += f", {size_text(int(rate))}/s"
        if total and total > done:
            said += f", {_clock((total - done) / rate)} left"
    return printable(said)


def printable(text: str) -> str:
    """Return a text without what a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _clock(seconds: float) -> str:
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes}:{left:02d}"


@dataclass
class Kind:
    """Everything of one kind that is, or was, on its way in a task: what has ended counts on.

    :param ended: how many things have, and *bytes* what they came to.
    """

    name: str
    pace: Pace = field(default_factory=Pace)
    ended: int = 0
    bytes: int = 0
    going: dict[str, tuple[str, int, int | None]] = field(default_factory=dict)

    def told(self, path: str, label: str, done: int, total: int | None, ended: bool) -> None:
        """Note what one thing has told."""
        self.going.pop(path, None)
        if ended:
            self.ended += 1
            self.bytes += done
        else:
            self.going[path] = (label, done, total)

    def said(self, now: float) -> str:
        """Return the line about it."""
        things = list(self.going.values())
        done = self.bytes + sum(one[1] for one in things)
        totals = [one[2] for one in things]
        total = self.bytes + sum(one or 0 for one in totals) if totals and all(totals) else None
        label = things[0][0] if len(things) == 1 and not self.ended else f"{len(things)} at once, {self.ended} done"
        return line(f"{self.name} {label}", done, total, self.pace.rate(now, done))


@dataclass
class Running:
    """A task: since when, on how many hosts it was begun, and on how many it has ended."""

    name: str
    since: float
    begun: int = 0
    ended: int = 0

    def said(self, now: float) -> str:
        return printable(f"{self.name}: {self.ended} of {self.begun} hosts, {_clock(now - self.since)}")


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """A thread reads what the modules tell, and shows it."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "rlinf.offline.rlinf_progress"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, playbook: Any) -> None:
        self._process = os.getpid()
        self._folder = Path(tempfile.mkdtemp(prefix="rlinf-progress-"))
        os.environ[FOLDER] = str(self._folder)
        self._interval = float(self.get_option("log_interval"))
        self._terminal = os.isatty(2)
        self._kinds: dict[str, Kind] = {}
        self._task: Running | None = None
        self._spoken = time.monotonic()
        self._shown = False
        self._guard = threading.Lock()
        self._stop = threading.Event()
        if self._terminal:
            self._clear_before_others()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        atexit.register(self._end)  # Ctrl-C comes to no end of a playbook

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self._task = Running(task.get_name().strip(), time.monotonic())
        self._kinds = {}

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        if self._task:
            self._task.begun += 1

    def _one_ended(self) -> None:
        if self._task:
            self._task.ended += 1

    def v2_runner_on_ok(self, result: Any) -> None:
        self._one_ended()

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._one_ended()

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._one_ended()

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._one_ended()

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self._end()

    def _end(self) -> None:
        if os.getpid() != self._process or self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        os.environ.pop(FOLDER, None)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _clear_before_others(self) -> None:
        """Have the line cleared before anything is printed: the callback of standard output hears of everything first."""
        display: Callable[..., Any] = self._display.display

        def cleared(*args: Any, **kwargs: Any) -> Any:
            if os.getpid() != self._process:
                return display(*args, **kwargs)  # of a fork, in which the lock may never be freed
            with self._guard:
                self._clear()
                return display(*args, **kwargs)

        self._display.display = cleared

    def _clear(self) -> None:
        if self._shown:
            os.write(2, b"\r\x1b[K")
            self._shown = False

    def _watch(self) -> None:
        while not self._stop.wait(EVERY):
            self._look()
        with self._guard:
            self._clear()

    def _look(self) -> None:
        now, kinds = time.monotonic(), self._kinds
        for path, (kind, *told) in self._told():
            kinds.setdefault(kind, Kind(kind)).told(path, *told)
        said = [kind.said(now) for kind in kinds.values() if kind.going]
        task = self._task
        if not said and task and task.begun > task.ended and now - task.since > LONG:
            said = [task.said(now)]
        if self._terminal:
            self._draw(said)
        elif said and now - self._spoken >= self._interval:
            self._spoken = now
            os.write(2, "".join(f"{one}\n" for one in said).encode())

    def _told(self) -> Iterator[tuple[str, Sequence[Any]]]:
        """Yield what each thing has told last; of one that has ended, or whose process has, for the last time."""
        for path in sorted(self._folder.glob("*.json")):
            try:
                kind, label, done, total, ended = json.loads(path.read_bytes())
            except (OSError, ValueError):
                continue
            ended = ended or not Path("/proc", path.name.partition("-")[0]).exists()
            if ended:
                path.unlink(missing_ok=True)
            yield path.name, (kind, label, done, total, ended)

    def _draw(self, said: Sequence[str]) -> None:
        with self._guard:
            self._clear()
            if said:
                width = max(shutil.get_terminal_size().columns - 1, 10)
                os.write(2, "; ".join(said)[:width].encode())
                self._shown = True
