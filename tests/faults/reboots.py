# SPDX-License-Identifier: GPL-3.0-or-later
"""A node that loses its power while a playbook works on it, and a control node that does: hosts in namespaces, by ssh, with a disk of their own."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.demo.cycle import Cycle, PlayFailed, base_python
from tests.faults.calls import Broken, adopt_orphans
from tests.faults.scene import TARGET, Scene, catalog
from tests.faults.tally import Tally
from tests.faults.trees import Tree, copy, must_be_right, must_equal, tree
from tests.support.fleet import PREFIX, Fleet

PROMISE = "no file under a final name is wrong; running again brings about what an undisturbed run does"
NODE = "node1"
PLAYS = ("push", "prepare", "install", "restore")
# how often each play is disturbed in each way
_TIMES = 3
# what rsync ends with where files went while it read them
_VANISHED = 24


@dataclass
class Host:
    """A host, and its copy on this machine.

    :param copies: the directory beside which copies are.
    """

    fleet: Fleet
    copies: Path

    @property
    def variables(self) -> Mapping[str, object]:
        """What the inventory says of it."""
        return self.fleet.variables(
            NODE,
            # a connection that is kept for another run would have to be waited for
            ansible_ssh_args="-o ControlMaster=auto -o ControlPersist=1s",
            ansible_python_interpreter=base_python(),
            rlinf_targets=[TARGET],
        )

    def _rsync(self, *places: str, moving: bool = False) -> None:
        command = ["rsync", "-aHX", "--delete", "--modify-window=-1", "-e", f"ssh -q -F {self.fleet.state}/ssh_config", *places]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode not in ((0, _VANISHED) if moving else (0,)):
            raise subprocess.CalledProcessError(done.returncode, command, stderr=done.stderr)

    def tree(self, moving: bool = False) -> Tree:
        """Return what is below the prefix now.

        :param moving: whether a module may still be at work there, whose temporary files go while they are read.
        """
        now = self.copies / "now"
        now.mkdir(parents=True, exist_ok=True)
        self._rsync(f"{NODE}:{PREFIX}/", f"{now}/", moving=moving)
        return tree(now)

    def save(self, name: str) -> Tree:
        """Keep what is below the prefix, and return it."""
        found = self.tree()
        copy([self.copies / "now"], self.copies / name)
        return found

    def restore(self, name: str) -> None:
        self._rsync(f"{self.copies / name / 'now'}/", f"{NODE}:{PREFIX}/")


def reboots(scene: Scene, sample: int | None, plays: Sequence[str] = PLAYS) -> Iterator[Tally]:
    """Disturb each play at random moments, by a fixed seed.

    :param sample: how often each play is disturbed in each way.
    """
    cycle = scene.cycle
    cycle.offline = False
    # a host that ends is waited for by whoever has it: not this process, which has other things to do
    adopt_orphans(False)
    try:
        with Fleet(scene.work / "h", 1, DISK="2G") as fleet:
            yield from _rebooted(cycle, Host(fleet, scene.scratch / "host"), sample, plays)
    finally:
        cycle.offline = True
        adopt_orphans()


def _rebooted(cycle: Cycle, host: Host, sample: int | None, plays: Sequence[str]) -> Iterable[Tally]:
    cycle.inventory = cycle.write_inventory("host", {NODE: host.variables}, catalog("8.2.1"))
    cycle.play("download")
    host.fleet.shell(NODE, f"mkdir -p {PREFIX}")
    ways: Mapping[str, Callable[[int], object]] = {
        "a node that is rebooted": lambda _play: host.fleet.reboot(NODE),
        "a control node that is switched off": _end,
    }
    tallies = {(way, play): Tally(f"{way} during {play}", PROMISE, "reboot") for play in plays for way in ways}
    chance = random.Random(0)
    before = host.save("before")
    for play in plays:
        start = time.monotonic()
        cycle.play(play)
        seconds = time.monotonic() - start
        after = host.save("after")
        for way, how in ways.items():
            for _number in range(sample or _TIMES):
                moment = chance.uniform(0, 1)
                with tallies[way, play].trial(f"after {moment:.0%} of the time that it takes"):
                    host.restore("before")
                    _disturbed(cycle, host, play, moment * seconds, how, before, after)
        host.restore("after")
        before = host.save("before")
    return tallies.values()


def _disturbed(cycle: Cycle, host: Host, play: str, seconds: float, how: Callable[[int], object], before: Tree, after: Tree) -> None:
    """:raises Broken: a promise does not hold."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(PlayFailed):
            cycle.play(play)
        os._exit(0)
    time.sleep(seconds)
    how(child)
    os.waitpid(child, 0)
    # without its control node a node goes on with what it was told last
    must_be_right(host.tree(moving=True), before, after)
    try:
        cycle.play(play)
    except PlayFailed as error:
        raise Broken(f"it failed when it was run again: {str(error)[-1500:]}") from None
    must_equal(host.tree(), after, "after running again the node is another")


def _end(process: int) -> None:
    """End a process, and all that it has started, at once."""
    for child in _children(process):
        _end(child)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def _children(process: int) -> list[int]:
    found = []
    for path in Path("/proc", str(process), "task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(pid) for pid in path.read_text(encoding="ascii").split()]
    return found
