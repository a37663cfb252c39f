# SPDX-License-Identifier: GPL-3.0-or-later
"""SIGKILL at every point between two steps that change something on disk, and before every program that is started: each module, exhaustively."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from tests.faults.calls import Broken, Call, Outcome, Untried, checkpoints, kill_at, wait_for_orphans
from tests.faults.scene import Scene
from tests.faults.tally import Tally
from tests.faults.trees import Tree, must_be_right

PROMISE = (
    "no file under a final name is wrong, the environment that jobs use imports, the user's files stay; running again brings about "
    "what an undisturbed run does"
)
_PROGRAM = re.compile("exec |git ")


def kills(scene: Scene, sample: int | None = None, share: tuple[int, int] = (0, 1)) -> Iterator[Tally]:
    """Kill every call at every point; yield a tally for each module, as far as it has come.

    :param sample: how many points of each call are taken, at random by a fixed seed; by default all.
    :param share: which of how many processes this is: each takes every so many-th point.
    """
    tallies: dict[str, Tally] = {}
    known: set[tuple[str, str, bool]] = set()
    chance = random.Random(0)
    for call in scene.calls:
        before = scene.tree()
        scene.save("before")
        outcome, labels = checkpoints_of(scene, call)
        changed = outcome.result.get("changed")
        steps = [(point, label, (call.module, label, bool(changed))) for point, label in enumerate(labels, 1)]
        # where nothing is changed, and where a program is started, an earlier call was killed at such a step already
        points = [(point, label) for point, label, step in steps if step not in known or (changed and not _PROGRAM.match(label))]
        known |= {step for _point, _label, step in steps}
        if not points:
            continue
        after = scene.tree()
        scene.save("after")
        tally = tallies.setdefault(call.module, Tally(f"`{call.module}` killed at every point", PROMISE, "kill"))
        for point, label in chance.sample(points, min(sample, len(points))) if sample else points[share[0] :: share[1]]:
            with tally.trial(f"point {point} ({label})"):
                one(scene, call, point, before, after)
        yield tally
        scene.restore("after")
        if changed:
            scene.must(call)


def checkpoints_of(scene: Scene, call: Call) -> tuple[Outcome, list[str]]:
    """Make a call to its end, in which it must succeed; return how it ended, and its points."""
    outcome, labels = checkpoints(call, scene.scratch, scene.cycle.environment())
    wait_for_orphans()
    if outcome.status or outcome.failed:
        raise Broken(f"{call.module} fails undisturbed: {outcome.message or outcome.errors}")
    return outcome, labels


def one(scene: Scene, call: Call, point: int, before: Tree, after: Tree) -> None:
    """Kill a call at a point and run it again.

    :raises Broken: a promise does not hold.
    :raises Untried: it ended before it came to that point.
    """
    scene.restore("before")
    killed = scene.call(call, **kill_at(point))
    # what the killed module has started goes on meanwhile, as it would on a node
    if not killed.killed:
        if killed.status or killed.failed:
            raise Broken(f"it failed: {killed.message or killed.errors}")
        # threads that meet have other things to do each time
        raise Untried
    must_be_right(scene.tree(), before, after)
    scene.imports()
    scene.must(call)
    scene.expect(after, "after running again the tree is another")
