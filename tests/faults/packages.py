# SPDX-License-Identifier: GPL-3.0-or-later
"""SIGKILL at every point of installing system packages, on a copy of this machine that goes away."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._faults import TRACE
from tests.faults.calls import Broken, Call, kill_at, labels_of
from tests.faults.scene import Scene
from tests.faults.tally import Tally
from tests.support.apt_archive import build_deb
from tests.support.apt_packages import KEPT, SELECTIONS, Packages
from tests.support.machine import Machine, answer

PROMISE = (
    "every file that it puts in place is whole or not there, and the node's own apt is as it was; running again brings about what an "
    "undisturbed run does, leaves nothing behind, and a third time changes nothing"
)
MODULE = "rlinf_apt_install"
_VENDOR, _CONTENT = "/etc/rlinf-test/vendor.json", '{"one": 1}\n'
_LEFT = "dpkg --audit; ls -d /var/lib/rlinf-offline 2>/dev/null; true"


def packages(scene: Scene, sample: int | None, share: tuple[int, int] = (0, 1)) -> Iterator[Tally]:
    """Kill an installation of two packages, one of which needs the other, and a file.

    :param sample: how many points at most; by default all.
    :param share: which of how many processes this is.
    """

    def run(module: str, arguments: dict[str, Any]) -> object:
        return scene.must(Call(module, "bastion", arguments))

    # on the root itself: an overlay of it shows no other file system, and nothing that a process of the harness has of its own
    with tempfile.TemporaryDirectory(prefix="rlinf-packages-", dir="/var/tmp") as folder, Packages(Path(folder), run) as bundled:
        work = Path(folder)
        first = build_deb(bundled.folder, "rlinf-test-a", "1", {"Depends": "rlinf-test-b"})
        bundled.bring("rlinf-test-a", debs=[first, build_deb(bundled.folder, "rlinf-test-b", "1")])
        arguments = bundled.arguments("rlinf-test-a", files={_VENDOR: _CONTENT})
        with _machine(work) as machine:
            machine.shell(f"touch {work}/trace && chmod 666 {work}/trace")
            kept = machine.shell(KEPT)
            done = answer(machine.start(MODULE, arguments, env={TRACE: f"{work}/trace"}))
            if done.get("failed") or not done["changed"]:
                raise Broken(f"{MODULE} fails undisturbed: {done}")
            labels, wanted = labels_of(machine.shell(f"cat {work}/trace")), _state(machine)
        tally = Tally(f"`{MODULE}` killed at every point", PROMISE, "kill")
        points = list(range(1, len(labels) + 1))[share[0] :: share[1]]
        for point in points[:sample] if sample else points:
            with tally.trial(f"point {point} ({labels[point - 1]})"), _machine(work) as machine:
                _one(machine, arguments, point, kept, wanted)
    yield tally


@contextmanager
def _machine(work: Path) -> Iterator[Machine]:
    place = work / "machine"
    machine = Machine(place)
    try:
        yield machine
    finally:
        machine.end()
        place.rmdir()


def _one(machine: Machine, arguments: dict[str, Any], point: int, kept: str, wanted: str) -> None:
    """:raises Broken: a promise does not hold."""
    killed = machine.start(MODULE, arguments, env=kill_at(point))
    if killed.returncode not in (-signal.SIGKILL, 128 + signal.SIGKILL):
        raise Broken(f"it was not killed, but ended with {killed.returncode}: {killed.stdout}{killed.stderr}")
    vendor = machine.shell(f"cat {_VENDOR} 2>/dev/null || true")
    if vendor not in ("", _CONTENT):
        raise Broken(f"{_VENDOR} holds {vendor!r}")
    again = machine.module(MODULE, arguments)
    if again.get("failed"):
        raise Broken(f"run again, it failed: {again['msg']}")
    if _state(machine) != wanted:
        raise Broken(f"after running again the node is another:\n{_state(machine)}")
    if machine.shell(KEPT) != kept:
        raise Broken("the node's own apt is another")
    if machine.module(MODULE, arguments)["changed"]:
        raise Broken("a third time it changed something")


def _state(machine: Machine) -> str:
    """Return what is installed, what is half installed, what was left behind, and the file."""
    return machine.shell(f"{SELECTIONS}; {_LEFT}; cat {_VENDOR}")
