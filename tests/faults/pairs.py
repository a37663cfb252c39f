# SPDX-License-Identifier: GPL-3.0-or-later
"""Two runs at once, on one bundle or one node: the same call of a module twice, or two that may meet."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Mapping, Sequence

from tests.faults.calls import Broken, Call, Outcome, run_call, wait_for_orphans
from tests.faults.kills import checkpoints_of
from tests.faults.scene import Scene
from tests.faults.tally import Tally
from tests.faults.trees import Tree, must_be_right, wrong

PROMISE = "one waits or says which process it is that works there; no file under a final name is wrong, and running again brings about what one run does"
BESIDE = (
    "one goes through, the other too or says why not; no file under a final name is wrong, and running both again brings about what one "
    "after the other does, in one order or the other"
)
_TIMES = 3
Kind = tuple[str, str]
# by module and state: what is made at the same time as the last of these calls
MEETINGS: Mapping[Kind, Sequence[Kind]] = {
    ("rlinf_venv", "present"): (
        ("rlinf_venv", "verified"),
        ("rlinf_venv", "rolled_back"),
        ("rlinf_target", "reset"),
        ("rlinf_req_patch", "restored"),
    ),
    ("rlinf_req_patch", "patched"): (("rlinf_target", "reset"), ("rlinf_req_patch", "restored")),
    ("rlinf_bundle", "sealed"): (("rlinf_bundle", "mended"), ("rlinf_bundle", "pruned")),
}


def pairs(scene: Scene, sample: int | None, share: tuple[int, int] = (0, 1)) -> Iterator[Tally]:
    """Make every call that changes something twice at the same time, and some beside another.

    :param sample: how often, for each call.
    """
    tally, beside = Tally("two runs at once", PROMISE, "pair"), Tally("two different runs at once", BESIDE, "pair")
    last = {(call.module, str(call.args.get("state"))): call for call in scene.calls}
    for call in scene.calls:
        before = scene.tree()
        scene.save("before")
        outcome, _labels = checkpoints_of(scene, call)
        if not outcome.result.get("changed"):
            continue
        after = scene.tree()
        scene.save("after")
        times = range(_TIMES)[: sample or _TIMES][share[0] :: share[1]]
        for number in times:
            with tally.trial(f"{call.module}, time {number + 1}"):
                _both(scene, call, before, after)
        kind = (call.module, str(call.args.get("state")))
        for other in MEETINGS.get(kind, ()) if times and last[kind] is call else ():
            if other in last:
                meeting = _Meeting(scene, call, last[other], before)
                for number in times:
                    with beside.trial(f"{' '.join(kind)} beside {' '.join(other)}, time {number + 1}"):
                        meeting.trial()
        scene.restore("after")
    yield from (found for found in (tally, beside) if found.trials)


def _both(scene: Scene, call: Call, before: Tree, after: Tree) -> None:
    """:raises Broken: a promise does not hold."""
    scene.restore("before")
    outcomes = at_once(scene, call, call)
    for outcome in outcomes:
        if outcome.status and not (outcome.failed and outcome.clear and "process" in outcome.message):
            raise Broken(f"one ended with {outcome.status}: {outcome.message or outcome.errors}")
    if all(outcome.status for outcome in outcomes):
        raise Broken(f"neither went through: {outcomes[0].message}")
    must_be_right(scene.tree(), before, after)
    scene.must(call)
    scene.expect(after, "after running again the tree is another")


class _Meeting:
    """Two calls, of which each may come first."""

    def __init__(self, scene: Scene, call: Call, other: Call, before: Tree) -> None:
        self.scene, self.calls, self.before = scene, (call, other), before
        self.steps: list[Tree] = []
        """What one of them alone, and one after the other, brings about."""
        self.ends: list[Tree] = []
        for order in ((other, call), (call, other)):
            scene.restore("before")
            for one in order:
                self._make(one)
                self.steps.append(scene.tree())
            self.ends.append(self.steps[-1])

    def _make(self, call: Call) -> None:
        self._check(call, self.scene.call(call))
        wait_for_orphans()

    def _check(self, call: Call, outcome: Outcome) -> None:
        # what is being installed is not whole yet, and what was never installed has nothing to be rolled back to
        if outcome.status and not (outcome.failed and outcome.clear):
            raise Broken(f"{call.module} ended with {outcome.status}: {outcome.message or outcome.errors}")

    def trial(self) -> None:
        """:raises Broken: a promise does not hold."""
        self.scene.restore("before")
        outcomes = at_once(self.scene, *self.calls)
        for call, outcome in zip(self.calls, outcomes, strict=True):
            self._check(call, outcome)
        if all(outcome.status for outcome in outcomes):
            raise Broken(f"neither went through: {outcomes[0].message}")
        now = self.scene.tree()
        found = set.intersection(*(set(wrong(now, self.before, after)) for after in self.steps))
        if found:
            raise Broken("; ".join(sorted(found)))
        for call in self.calls:
            self._make(call)
        if self.scene.tree() not in self.ends:
            self.scene.expect(self.ends[-1], "after running both again the tree is another")


def at_once(scene: Scene, *calls: Call) -> list[Outcome]:
    """Make calls at the same time."""
    places = [scene.scratch / f"run{number}" for number in range(len(calls))]
    children = []
    for call, place in zip(calls, places, strict=True):
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
