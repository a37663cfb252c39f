# SPDX-License-Identifier: GPL-3.0-or-later
"""Clocks that are years ahead or back, or jump from one call to the next, and files whose times lie in the future."""

from __future__ import annotations

import contextlib
import datetime
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType

from tests.faults.calls import Broken, Call
from tests.faults.scene import Scene
from tests.faults.tally import Tally

PROMISE = "it does what it does with a right clock, a second time it changes nothing, and serials only grow"
_YEAR = 365 * 86400


def clocks(scene: Scene, _sample: int | None, share: tuple[int, int] = (0, 1)) -> Iterator[Tally]:
    """Make all calls in order under a wrong clock, each twice, and compare what came of it with what comes of it under a right one."""
    if share[0]:
        return
    for call in scene.calls:
        scene.must(call)
    wanted = scene.tree()
    scene.restore("nothing")
    chance = random.Random(0)
    steady: Sequence[tuple[str, Callable[[], float], float]] = (
        ("ten years ahead", lambda: 10 * _YEAR, 0),
        ("ten years back", lambda: -10 * _YEAR, 0),
        ("jumping by years from one call to the next", lambda: chance.randint(-20, 20) * _YEAR, 0),
        ("right, with files whose times lie ten years ahead", lambda: 0, 10 * _YEAR),
        ("right, with files of 1980", lambda: 0, 315532800 - time.time()),
    )
    for name, offset, files in steady:
        tally = Tally(f"clock {name}", PROMISE, "clock")
        for number, call in enumerate(scene.calls):
            with tally.trial(f"call {number}, {call.module}"):
                _under(scene, call, offset(), files)
        with tally.trial("what came of all calls"):
            scene.expect(wanted, "the tree is another than under a right clock")
        scene.restore("nothing")
        yield tally


def _under(scene: Scene, call: Call, offset: float, files: float) -> None:
    """:raises Broken: a call fails, or a second time changes something."""
    serial = _serial(scene)
    if files:
        _touch(scene, files)
    scene.must(call, before=lambda: shift(offset))
    if scene.must(call, before=lambda: shift(offset)).result.get("changed"):
        raise Broken("a second time it changed something")
    if _serial(scene) < serial:
        raise Broken(f"the serial went from {serial} to {_serial(scene)}")


def _serial(scene: Scene) -> int:
    with contextlib.suppress(FileNotFoundError):
        return int(scene.cycle.manifest()["serial"])
    return 0


def _touch(scene: Scene, offset: float) -> None:
    """Give every file of the bundle another time than the manifest and the stamps know."""
    then = int((time.time() + offset) * 10**9)
    for folder, _folders, names in os.walk(scene.cycle.bundle):
        for name in names:
            os.utime(os.path.join(folder, name), ns=(then, then), follow_symlinks=False)


def shift(offset: float) -> None:
    """Let this process take the time for another by *offset* seconds: a stand-in for a clock that is wrong, of which programs know nothing."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + offset
    time.time_ns = lambda: now_ns() + int(offset) * 10**9
    real = datetime.datetime

    class Shifted(real):  # type: ignore[misc,valid-type]
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return real.now(tz) + datetime.timedelta(seconds=offset)

    # libraries compare classes with the real one
    for module in [module for name, module in sys.modules.items() if name.startswith("ansible_collections.rlinf.")]:
        if isinstance(module, ModuleType) and getattr(module, "datetime", None) is real:
            module.datetime = Shifted  # type: ignore[attr-defined]
