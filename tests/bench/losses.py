# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of a push when nodes and the bastion's own peer are killed in its middle, and of a shared directory when its writer is.

    python -m tests.bench.losses [--trials 3] [--bytes 400000000] [--record]

Needs root. A killed node loses its power and comes back with its disk. Moments are random, by a fixed seed. The exit status is 1 if anything
that was verified is sent again, a node ends without the bundle, or a half state is seen.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._files import sha256_file
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._swarm import piece_size
from tests.bench.page import record
from tests.support.fleet import PREFIX, Fleet, bundle_of, command_of, environment, inventory, manifest, play, wait_for

RATE = "200mbit"
NODES = 16
KILLED = 3
SHARING = 8
# what a node gets of a push that has nothing to bring: modules, the looks of rsync
TALK = 4_000_000


def swarm(work: Path, bundle: Bundle, chance: random.Random) -> dict[str, Any]:
    """Kill three of sixteen nodes and the bastion's seeder in the middle of a swarm, then push again."""
    with Fleet(work / "h", NODES, DISK="3G") as fleet:
        fleet.give_python()
        fleet.shape(RATE)
        hosts = {host: fleet.variables(host, rlinf_targets=[], rlinf_push_engine="swarm") for host in fleet.addresses}
        names = inventory(work / "hosts.yml", bundle, hosts)
        victims = chance.sample(sorted(fleet.addresses), KILLED)
        moments = sorted((chance.uniform(0.1, 0.9), victim) for victim in [*victims, "seeder"])
        wheel = next(bundle.swarm_tools.glob("*.whl")).stat().st_size
        begin = fleet.sent() + NODES * wheel
        with _started(names) as first:
            for part, victim in moments:
                _until(first, fleet, begin + part * size(bundle))
                _kill_seeder(first.pid) if victim == "seeder" else fleet.kill(victim)
            first.wait(600)
        for victim in victims:
            fleet.reboot(victim)
        complete = [host for host in fleet.addresses if _stamp(fleet, host) == sha256_file(bundle.manifest)]
        lacking = {host: _lacking(fleet, host, bundle) for host in fleet.addresses}
        before = {host: _received(fleet, host) for host in fleet.addresses}
        again = play("push", names)
        got = {host: _received(fleet, host) - before[host] for host in fleet.addresses}
        verified = sum(_stamp(fleet, host) == sha256_file(bundle.manifest) for host in fleet.addresses)
        twice = {host: got[host] - lacking[host] - TALK for host in fleet.addresses}
        (work / "again.log").write_text(again.output, encoding="utf-8")
        return {
            "killed": ", ".join(f"{victim} at {part:.0%}" for part, victim in moments),
            "complete after the first run": len(complete),
            "verified after the second": verified,
            "lacking before it, MB": round(sum(lacking.values()) / 1e6),
            "received in it, MB": round(sum(got.values()) / 1e6),
            "sent twice": sorted(
                f"{host}, {more / 1e6:.0f} of {lacking[host] / 1e6:.0f} MB" for host, more in twice.items() if more > 0.1 * lacking[host]
            ),
            "good": again.status == 0 and verified == NODES and all(more <= 0.1 * lacking[host] for host, more in twice.items()),
        }


def shared(work: Path, bundle: Bundle, chance: random.Random) -> dict[str, Any]:
    """Kill the writer of a directory that eight nodes share, while somebody looks at it all the time."""
    share = work / "share"
    share.mkdir()
    with Fleet(work / "h", SHARING, SHARE=str(share)) as fleet:
        fleet.shape(RATE)
        options = {"rlinf_targets": [], "rlinf_push_engine": "shared", "rlinf_bundle_dir": f"{share}/bundle"}
        names = inventory(work / "hosts.yml", bundle, {host: fleet.variables(host, **options) for host in fleet.addresses})
        part, begin = chance.uniform(0.1, 0.9), fleet.sent()
        watch = Watch(share / "bundle", manifest(bundle)["files"])
        with _started(names) as first:
            _until(first, fleet, begin + part * size(bundle))
            fleet.kill("node1")
            first.wait(600)
        sent = fleet.sent() - begin
        looks, halves = watch.end()
        stamps = [_stamp(fleet, host) for host in fleet.addresses if host != "node1"]
        verified = sum(stamp == sha256_file(bundle.manifest) for stamp in stamps)
        trees = sorted(path.name for path in share.iterdir())
        return {
            "killed": f"the writer at {part:.0%}",
            "verified": verified,
            "trees": trees,
            "sent / bundle": round(sent / size(bundle), 2),
            "looks": looks,
            "half states seen": halves,
            "good": verified == SHARING - 1 and trees == ["bundle"] and not halves and sent < 1.3 * size(bundle),
        }


class Watch:
    """Somebody who looks at a directory all the time: under a final name is never anything but the whole file, and a manifest never comes early."""

    def __init__(self, root: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
        self.root, self.files = root, files
        self.looks, self.halves = 0, 0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._look)
        self.thread.start()

    def _look(self) -> None:
        while not self.ended.wait(0.05):
            self.looks += 1
            sealed = (self.root / "bundle.json").exists()
            sizes = {name: path.stat().st_size for name in self.files if (path := self.root / name).exists()}
            wrong = [name for name, found in sizes.items() if found != self.files[name].get("size", found)]
            self.halves += bool(wrong or (sealed and len(sizes) < len(self.files)))

    def end(self) -> tuple[int, int]:
        """Return how often it looked, and how often it saw a half state."""
        self.ended.set()
        self.thread.join()
        return self.looks, self.halves


def size(bundle: Bundle) -> int:
    return sum(entry.get("size", 0) for entry in manifest(bundle)["files"].values())


@contextlib.contextmanager
def _started(names: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Have a push run, and no longer than the body."""
    command = command_of("push", names, "-f", str(NODES))
    with (names.parent / "first.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment(names.parent), stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _until(process: subprocess.Popen[bytes], fleet: Fleet, sent: float) -> None:
    """Wait until so many bytes were sent to the hosts."""
    wait_for(lambda: process.poll() is not None or fleet.sent() >= sent, "so much of the push", 600)
    if process.poll() is not None:
        raise RuntimeError("the push had ended before anything was killed")


def _kill_seeder(playbook: int) -> None:
    """Kill the bastion's peer of the swarm, which is below the process of the playbook."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    parents, peers = {}, []
    for line in listed.splitlines():
        pid, parent, arguments = line.split(None, 2)
        parents[int(pid)] = int(parent)
        if "rlinf-swarm" in arguments and "ssh" not in arguments.split()[0]:
            peers.append(int(pid))
    mine = [pid for pid in peers if _below(pid, playbook, parents)]
    if not mine:
        raise RuntimeError("the bastion has no peer of a swarm")
    for pid in mine:
        os.kill(pid, signal.SIGKILL)


def _below(pid: int, top: int, parents: Mapping[int, int]) -> bool:
    while pid in parents and pid != top:
        pid = parents[pid]
    return pid == top


def _stamp(fleet: Fleet, host: str) -> str:
    """Return the digest of the manifest that a host has verified last."""
    text = fleet.shell(host, f"cat {PREFIX}/state/bundle.json 2>/dev/null || echo '{{}}'")
    return str(json.loads(text).get("manifest", ""))


def _lacking(fleet: Fleet, host: str, bundle: Bundle) -> int:
    """Return the bytes that a host has neither under their names nor, as whole pieces, among what it keeps of a swarm."""
    files = {name: entry.get("size", 0) for name, entry in manifest(bundle)["files"].items()}
    piece = piece_size(sum(files.values()))
    found = json.loads(fleet.shell(host, f"python3 -c {shlex.quote(_HASH)} {PREFIX}/bundle {piece}"))
    return sum(
        min(piece, size - number * piece)
        for name, size in files.items()
        for number, digest in enumerate(_pieces(bundle.root / name, piece))
        if digest not in found.get(name, [])[number : number + 1]
    )


# prints {name: [digest of a piece]} of what is there, and of what a swarm keeps where it is not
_HASH = """
import hashlib, json, pathlib, sys
root, piece = pathlib.Path(sys.argv[1]), int(sys.argv[2])
found = {}
for top in (root / ".cache" / "swarm" / "bundle", root):
    for path in top.rglob("*"):
        name = str(path.relative_to(top))
        if path.is_file() and not name.startswith(".cache/"):
            with path.open("rb") as file:
                found[name] = [hashlib.sha256(part).hexdigest() for part in iter(lambda: file.read(piece), b"")]
print(json.dumps(found))
"""


def _pieces(path: Path, piece: int) -> list[str]:
    with path.open("rb") as file:
        return [hashlib.sha256(part).hexdigest() for part in iter(lambda: file.read(piece), b"")]


def _received(fleet: Fleet, host: str) -> int:
    return int(fleet.shell(host, "cat /sys/class/net/eth0/statistics/rx_bytes"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=3, help="how many of each kind")
    parser.add_argument("--bytes", type=int, default=400_000_000, help="how large the bundle is")
    parser.add_argument("--record", action="store_true", help="write the tables into docs/benchmarks.md")
    options = parser.parse_args()
    kinds: Mapping[str, Callable[[Path, Bundle, random.Random], dict[str, Any]]] = {"swarm": swarm, "shared": shared}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in kinds}
    with tempfile.TemporaryDirectory(prefix="rlinf-losses-") as scratch:
        bundle = bundle_of(Path(scratch) / "bundle", [options.bytes // 20] * 15 + [options.bytes // 400] * 100)
        for name, kind in kinds.items():
            for number in range(options.trials):
                work = Path(scratch) / f"{name}{number}"
                work.mkdir()
                found[name].append(kind(work, bundle, random.Random(number)))
                print(name, found[name][-1], flush=True)
        record("losses", "Losing nodes in the middle of a push", [found], _text(found, size(bundle)) if options.record else None)
    return 0 if all(trial["good"] for trials in found.values() for trial in trials) else 1


def _text(found: Mapping[str, list[dict[str, Any]]], count: int) -> str:
    lines = [
        f"{datetime.date.today():%Y-%m-%d}: {count / 1e6:.0f} MB, uplink {RATE}. `make bench-losses`",
        "",
        f"{KILLED} of {NODES} nodes and the bastion's peer are killed in a swarm, at parts of what one copy takes. The nodes come back; the same again:",
    ]
    for trials in found.values():
        keys = [key for key in trials[0] if key != "good"]
        lines += ["", f"| {' | '.join(keys)} |", f"|{'---|' * len(keys)}"]
        for trial in trials:
            cells = [", ".join(map(str, trial[key])) or "none" if isinstance(trial[key], list) else str(trial[key]) for key in keys]
            lines.append(f"| {' | '.join(cells)} |")
        if trials is found["swarm"]:
            lines += ["", f"{SHARING} nodes on one directory, of which one writes; it is killed, and the same run goes on with another:"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
