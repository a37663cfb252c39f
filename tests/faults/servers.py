# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers that break off, are slow, stall, lie, go round in circles or have no time: every module that fetches."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tests.faults.calls import Broken, Call
from tests.faults.kills import checkpoints_of
from tests.faults.scene import Scene
from tests.faults.tally import Tally
from tests.faults.trees import Tree, must_be_right
from tests.support.upstream import Fault

PROMISE = "it succeeds, or a clear error comes within the time allowed; no file under a final name is wrong; running again with a sound server succeeds"
PASSES = "it succeeds by itself, and brings what an undisturbed run brings"
_PATIENCE = 3
"""Seconds that a silent server is given (``rlinf_timeout``)."""


@dataclass(frozen=True)
class Trouble:
    """What a server does.

    :param fault: what an answer is like.
    :param passes: whether the module has to get through: the answers after the first are sound, or all are but late.
    """

    name: str
    fault: Fault
    passes: bool = False


def troubles(chance: random.Random) -> list[Trouble]:
    """Return everything that a server may do."""
    return [
        Trouble("server breaks off in the middle, always", Fault(cut=chance)),
        Trouble("server breaks off in the middle, once each", Fault(cut=chance), passes=True),
        Trouble("server is slow", Fault(pace=0.05), passes=True),
        Trouble("server stalls in the middle", Fault(stall=100)),
        Trouble("server stalls before it answers", Fault(stall_before_headers=True)),
        Trouble("server claims more bytes than it sends", Fault(length=10_000_000)),
        Trouble("server sends a login page with status 200", Fault(body=b"<html>Log in</html>")),
        Trouble("server redirects in a circle", Fault(status=302, headers={"Location": "/files/again"})),
        Trouble("server says 503, once each", Fault(status=503, headers={"Retry-After": "0"}), passes=True),
        Trouble("server says 429, once each", Fault(status=429, headers={"Retry-After": "0"}), passes=True),
        Trouble("server says 503, always", Fault(status=503, headers={"Retry-After": "0"})),
        Trouble("server says 404", Fault(status=404)),
    ]


def servers(scene: Scene) -> Iterator[Tally]:
    """Make every call that fetches from a server in trouble."""
    tallies: dict[str, Tally] = {}
    for call in scene.calls:
        before = scene.tree()
        scene.save("before")
        scene.cycle.upstream.forget()
        checkpoints_of(scene, call)
        asked = sorted({request.path for request in scene.cycle.upstream.requests()})
        if not asked:
            continue
        after = scene.tree()
        scene.save("after")
        hasty = replace(call, args={**call.args, "timeout": _PATIENCE})
        for trouble in troubles(random.Random(1)):
            tally = tallies.setdefault(trouble.name, Tally(trouble.name, PASSES if trouble.passes else PROMISE, "server"))
            with tally.trial(call.module):
                _troubled(scene, hasty, trouble, asked, before, after)
        scene.restore("after")
        yield from tallies.values()


def _troubled(scene: Scene, call: Call, trouble: Trouble, asked: list[str], before: Tree, after: Tree) -> None:
    upstream = scene.cycle.upstream
    scene.restore("before")
    try:
        if trouble.passes and not trouble.fault.pace:
            for path in asked:
                upstream.script(path, trouble.fault)
        else:
            upstream.always("*", trouble.fault)
        outcome = scene.call(call)
    finally:
        upstream.sound()
    if trouble.passes and (outcome.failed or outcome.status):
        raise Broken(f"it did not get through: {outcome.message or outcome.errors}")
    if outcome.status and not outcome.failed:
        raise Broken(f"it ended with {outcome.status}: {outcome.errors}")
    if outcome.failed and not outcome.clear:
        raise Broken(f"the error is not clear: {outcome.message or outcome.errors}")
    must_be_right(scene.tree(), before, after)
    scene.must(call)
    scene.expect(after, "after running again the tree is another")
