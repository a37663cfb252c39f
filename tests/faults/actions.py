# SPDX-License-Identifier: GPL-3.0-or-later
"""SIGKILL at every point of what runs on the control node: pushing by rsync and by a swarm, collecting; hosts in namespaces, by ssh."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.rlinf.offline.plugins.module_utils._bundle import seal
from ansible_collections.rlinf.offline.plugins.module_utils._faults import TRACE
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from tests.demo.cycle import ROOT
from tests.faults.calls import Broken, Untried, kill_at
from tests.faults.tally import Tally
from tests.faults.trees import Tree, copy, must_be_right, must_equal, tree
from tests.support.fleet import PREFIX, Fleet, Ran, bundle_of, inventory, left_on, play, wait_for
from tests.support.wheels import build_wheel

PROMISE = (
    "no file under a final name is wrong, on the control node or on any node, and neither a process nor an open port is left; running again "
    "brings about what an undisturbed run does"
)
SIZES = (3_000_000, 70_000, 1_000)
SOURCE = "a" * 64
_KILLED = "worker was found in a dead state"
_FILES = f"cd {PREFIX}/bundle 2>/dev/null && find . -path ./.cache -prune -o -type f ! -name .lock -exec sha256sum '{{}}' + || true"


@dataclass
class Place:
    """Hosts, and a bundle for them.

    :param names: the inventory.
    """

    fleet: Fleet
    bundle: Bundle
    work: Path
    names: Path

    def run(self, playbook: str, action: str = "", **faults: str) -> Ran:
        """Run a playbook; the tasks of *action* have the variables *faults*."""
        callback = {"ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "tests" / "support" / "callbacks"), "ANSIBLE_CALLBACKS_ENABLED": "action_faults"}
        given = {"RLINF_ACTION": action, "RLINF_ACTION_FAULTS": json.dumps(faults), **callback}
        return play(playbook, self.names, env=given if action else {})

    def must(self, playbook: str, action: str = "", **faults: str) -> Ran:
        """:raises Broken: it did not succeed."""
        ran = self.run(playbook, action, **faults)
        if ran.status:
            raise Broken(f"{playbook} failed: {ran.output[-1500:]}")
        return ran

    def tree(self) -> Tree:
        """Return the bundle, and of every node its copy, by digests."""
        found = {f"bastion/{path}": entry for path, entry in tree(self.bundle.root).items()}
        for host in self.fleet.addresses:
            lines = self.fleet.shell(host, _FILES).splitlines()
            found |= {f"{host}/{path}": f"- {digest}" for digest, path in (line.split(maxsplit=1) for line in lines)}
        return found

    def save(self) -> None:
        copy([self.bundle.root], self.work / "kept")

    def restore(self) -> None:
        """Put the bundle back, without what this machine knows of it, and let no host have any."""
        shutil.rmtree(self.bundle.cache, ignore_errors=True)
        copy([self.work / "kept" / self.bundle.root.name], self.bundle.root.parent)
        for host in self.fleet.addresses:
            self.fleet.shell(host, f"rm -rf {PREFIX}/bundle {PREFIX}/state/*.json")


def actions(work: Path, sample: int | None, only: Sequence[str] = ("rlinf_push", "rlinf_swarm", "rlinf_collect")) -> Iterator[Tally]:
    """Kill each action at each of its points.

    :param work: a directory of a short name, since sockets lie below it.
    :param sample: how many points of each at most; by default all.
    """
    work.mkdir()
    with Fleet(work / "h", 2) as fleet:
        fleet.give_python()
        for action in only:
            engine = "swarm" if action == "rlinf_swarm" else "rsync"
            bundle = bundle_of(work / action / "bundle", SIZES, swarm=engine == "swarm")
            hosts = {host: fleet.variables(host, rlinf_targets=[], rlinf_push_engine=engine) for host in fleet.addresses}
            place = Place(fleet, bundle, work, inventory(work / "hosts.yml", bundle, hosts))
            if action == "rlinf_collect":
                _build(place)
            yield _killed(place, action, sample)


def _build(place: Place) -> None:
    """Let a node have built a wheel of a source that is in the bundle."""
    source = place.bundle.wheelhouse / "source" / SOURCE / "te-1.0.tar.gz"
    source.parent.mkdir(parents=True)
    source.write_bytes(b"a source")
    seal(place.bundle)
    wheel = build_wheel(place.work, "te", "1.0", tags="cp311-cp311-linux_x86_64")
    folder = f"{PREFIX}/state/built/{SOURCE}/torch-2.6.0"
    place.fleet.give("node1", f"mkdir -p {folder} && cat > {folder}/{wheel.name}", wheel.read_bytes())


def _killed(place: Place, action: str, sample: int | None) -> Tally:
    """Kill an action at every point of a run that brings something."""
    playbook = "collect" if action == "rlinf_collect" else "push"
    tally = Tally(f"`{action}` killed at every point", PROMISE, "action")
    place.save()
    place.restore()
    before = place.tree()
    trace = place.work / "trace"
    trace.unlink(missing_ok=True)
    place.must(playbook, action, **{TRACE: str(trace)})
    after = place.tree()
    # the task of each host passes its own
    labels = dict(line.split(" ", 1) for line in trace.read_text(encoding="utf-8").splitlines())
    for point, label in [*labels.items()][:sample]:
        with tally.trial(f"point {point} ({label})"):
            _one(place, playbook, action, int(point), before, after)
    return tally


def _one(place: Place, playbook: str, action: str, point: int, before: Tree, after: Tree) -> None:
    """:raises Broken: a promise does not hold."""
    place.restore()
    killed = place.run(playbook, action, **kill_at(point))
    if not killed.status:
        raise Untried
    if _KILLED not in killed.output:
        raise Broken(f"it was not killed, but failed: {killed.output[-1500:]}")
    for host in place.fleet.addresses:
        wait_for(lambda host=host: not left_on(place.fleet, host), f"nothing left on {host}")  # type: ignore[misc]
    must_be_right(place.tree(), before, after)
    place.must(playbook)
    must_equal(place.tree(), after, "after running again something is another")
