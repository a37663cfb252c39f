# SPDX-License-Identifier: GPL-3.0-or-later
"""Two runs at once: the same call of a module twice, on one bundle or one node."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator

from tests.faults.calls import Broken, Call, Outcome, run_call
from tests.faults.kills import checkpoints_of
from tests.faults.scene import Scene
from tests.faults.tally import Tally
from tests.faults.trees import Tree, wrong

PROMISE = "one waits or says which process it is that works there; no file under a final name is wrong, and running again brings about what one run does"
_TIMES = 3


def pairs(scene: Scene, sample: int | None, share: tuple[int, int] = (0, 1)) -> Iterator[Tally]:
    """Make every call that changes something twice at the same time.

    :param sample: how often, for each call.
    """
    tally = Tally("two runs at once", PROMISE, "pair")
    for call in scene.calls:
        before = scene.tree()
        scene.save("before")
        outcome, _labels = checkpoints_of(scene, call)
        if not outcome.result.get("changed"):
            continue
        after = scene.tree()
        scene.save("after")
        for number in range(_TIMES)[: sample or _TIMES][share[0] :: share[1]]:
            with tally.trial(f"{call.module}, time {number + 1}"):
                _both(scene, call, before, after)
        scene.restore("after")
    yield tally


def _both(scene: Scene, call: Call, before: Tree, after: Tree) -> None:
    """:raises Broken: a promise does not hold."""
    scene.restore("before")
    outcomes = at_once(scene, call)
    for outcome in outcomes:
        if outcome.status and not (outcome.failed and outcome.clear and "process" in outcome.message):
            raise Broken(f"one ended with {outcome.status}: {outcome.message or outcome.errors}")
    if all(outcome.status for outcome in outcomes):
        raise Broken(f"neither went through: {outcomes[0].message}")
    found = wrong(scene.tree(), before, after)
    if found:
        raise Broken("; ".join(found))
    scene.must(call)
    scene.expect(after, "after running again the tree is another")


def at_once(scene: Scene, call: Call) -> list[Outcome]:
    """Make a call twice at the same time."""
    places = [scene.scratch / f"run{number}" for number in range(2)]
    children = []
    for place in places:
        place.mkdir(exist_ok=True)
        child = os.fork()
        if child == 0:
            # its own output, beside the other's
            outcome = run_call(call, place, scene.cycle.environment(), before=scene.offline(call))
            (place / "outcome").write_bytes(pickle.dumps(outcome))
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    return [pickle.loads((place / "outcome").read_bytes()) for place in places]
