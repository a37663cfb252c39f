# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes that give each other the bundle: who connects to whom, starting the peers, and seeing that none is left. Standard library only.

The bastion's peer has everything, connects to a few nodes and listens nowhere. Every other one is started through ssh and ends with that connection.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import queue
import shlex
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from ansible_collections.rlinf.offline.plugins.module_utils import _swarm_peer
from ansible_collections.rlinf.offline.plugins.module_utils._bundle import manifest_digest
from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError
from ansible_collections.rlinf.offline.plugins.module_utils._faults import checkpoint
from ansible_collections.rlinf.offline.plugins.module_utils._files import atomic_write, json_bytes, read_json, sha256_bytes
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._process import environment
from ansible_collections.rlinf.offline.plugins.module_utils._progress import Meter
from ansible_collections.rlinf.offline.plugins.module_utils._push import Ssh
from ansible_collections.rlinf.offline.plugins.module_utils._records import read_record
from ansible_collections.rlinf.offline.plugins.module_utils._urls import redact

NEIGHBOURS = 8
"""To how many others a node is connected at most, apart from the bastion."""
FIRST = 16
"""To how many nodes the bastion is connected at most."""
BEAT = 5.0
"""Seconds between two signs of life that every peer gets."""
PATIENCE = 60.0
"""Seconds in which nothing arrives at a node, or it does not answer, until it is given up."""
PARTING = 10.0
"""Seconds in which peers are to end that are not needed any more."""
ENOUGH = 1_000_000
"""Bytes a second that nodes give each other at least, or the bastion does not fall silent."""
FILES = 50_000
"""How many files nodes give each other at most, the largest: each takes a kilobyte or two of every peer's memory. rsync brings the rest."""
_PIECES = 2000
_PIECE = (256 * 1024, 4 * 1024 * 1024)
# reads the program off its standard input, of which the job is the next line
_BOOTSTRAP = (
    "import sys; size = int(sys.stdin.buffer.readline()); "
    "exec(compile(sys.stdin.buffer.read(size), 'rlinf-swarm', 'exec'), {'__name__': '__main__'})"
)


def swarm_wheels(bundle: Bundle) -> dict[str, str]:
    """Return libtorrent's wheels in a bundle, relative to it, by the version of Python that each is for."""
    wheels_of = read_record(bundle, "swarm.json", {"wheels": {str: [{"filename": str}]}}).get("wheels", {})
    folder = bundle.swarm_tools.relative_to(bundle.root)
    return {python: f"{folder}/{wheel['filename']}" for python, wheels in wheels_of.items() for wheel in wheels}


def keep_names(folder: Path, names: Iterable[str]) -> str:
    """Write a list of files into a directory of this run and return what it is read back by: many nodes lack the same."""
    data = json_bytes(sorted(names))
    digest = sha256_bytes(data)
    path = folder / f"{digest}.names"
    if not path.is_file():
        atomic_write(path, data)
    return digest


def kept_names(folder: Path, digest: str) -> list[str]:
    """Return the list that :func:`keep_names` wrote."""
    return [str(name) for name in read_json(folder / f"{digest}.names", BundleError, [str])]


@dataclass(frozen=True)
class Reach:
    """How a node's peer is started.

    :param become: the user it runs as, by sudo; None is the one who connects.
    :param python: an interpreter of the node.
    :param destination: the bundle there.
    :param address: what others reach it by; by default the address that ssh reached it by.
    :param port: where it listens; 0 is any that is free.
    :param files: the names of what it lacks of the bundle.
    """

    ssh: Ssh
    python: str
    destination: str
    files: Sequence[str]
    become: str | None = None
    address: str = ""
    port: int = 0

    @property
    def command(self) -> list[str]:
        become = f"sudo -n -u {shlex.quote(self.become)} " if self.become else ""
        # sudo keeps no variable of ssh
        script = f'exec {become}{shlex.quote(self.python)} -c {shlex.quote(_BOOTSTRAP)} "$SSH_CONNECTION"'
        return [*self.ssh.command, "-T", self.ssh.host, f"/bin/sh -c {shlex.quote(script)}"]

    def job(self, files: Mapping[str, Any], wheels: Mapping[str, str], bandwidth: int) -> dict[str, Any]:
        return {
            "do": "join",
            "bandwidth": bandwidth,
            "folder": str(Bundle(Path(self.destination)).arriving),
            "destination": self.destination,
            "files": {name: files[name] for name in self.files if name in files},
            "wheels": {python: f"{self.destination}/{wheel}" for python, wheel in wheels.items()},
            "address": self.address,
            "port": self.port,
        }


@dataclass
class Part:
    """What became of a node: whether everything is there, or why it could not take part; bytes and seconds."""

    complete: bool = False
    reason: str = ""
    received: int = 0
    sent: int = 0
    seconds: float = 0.0


@dataclass
class Outcome:
    """What became of a push: of each node, and how many bytes the bastion sent."""

    nodes: dict[str, Part]
    seed: Part = field(default_factory=Part)

    @property
    def seconds(self) -> float:
        """How long it took from the first byte until the last of those that got everything had it."""
        return max((part.seconds for part in self.nodes.values()), default=0.0)


_Told: TypeAlias = "queue.Queue[tuple[str, dict[str, Any] | None]]"


class _Running:
    """A peer that was started, and what it last said.

    :param told: gets its name with everything that it says, and None when it has ended.
    :param torrent: given to it behind the job.
    :ivar lacks: how many bytes it is to receive.
    :ivar ended: nothing more is to be expected of it: it has ended, or was given up.
    """

    def __init__(self, name: str, command: Sequence[str], job: Mapping[str, Any], told: _Told, torrent: bytes) -> None:
        self.name = name
        self.part = Part()
        self.lacks = 0
        self.address, self.client, self.port = "", "", 0
        self.ready = self.ended = False
        self._has_job = False
        self.moved = time.monotonic()
        self._words: list[str] = []
        self._told = told
        env = {**os.environ, **environment()}
        checkpoint(f"exec {os.path.basename(command[0])}")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env)
        threading.Thread(target=self._talk, args=(job, torrent), daemon=True).start()

    def _talk(self, job: Mapping[str, Any], torrent: bytes) -> None:
        program = Path(_swarm_peer.__file__).read_bytes()
        self._write(b"%d\n%s" % (len(program), program))
        self._write(json.dumps({**job, "torrent": len(torrent)}).encode() + b"\n")
        self._write(torrent)
        self._has_job = True
        for said in self.process.stdout or ():
            try:
                event = json.loads(said)
            except ValueError:
                self._words = [*self._words, said.decode(errors="replace").strip()][-5:]
                continue
            self._told.put((self.name, event))
        self._told.put((self.name, None))

    def _write(self, data: bytes) -> None:
        # it may have ended; what it said comes all the same
        with contextlib.suppress(OSError, ValueError):
            if self.process.stdin:
                self.process.stdin.write(data)
                self.process.stdin.flush()

    def tell(self, **command: Any) -> None:
        if self.ready and not self.ended:
            self._write(json.dumps(command).encode() + b"\n")

    def leave(self) -> None:
        """Let its standard input end, upon which it ends."""
        if not self._has_job:
            # closing would wait for the job to be taken
            self.process.kill()
        with contextlib.suppress(OSError):
            if self.process.stdin:
                self.process.stdin.close()

    def give_up(self, reason: str) -> None:
        """Expect nothing more of it, whether or not it ends."""
        self.part.reason = self.part.reason or reason
        self.ended = True
        self.leave()

    def hear(self, event: Mapping[str, Any] | None) -> None:
        """Note what it said."""
        if event is None:
            self.ended = True
            if not self.part.complete and not self.part.reason:
                self.part.reason = redact(" ".join(self._words)) or "it ended without a word"
            return
        kind = event.get("event")
        if kind == "ready":
            self.ready = True
            self.address, self.client, self.port = str(event["address"]), str(event["client"]), int(event["port"])
        elif kind == "failed":
            self.part.reason = str(event["reason"])
        if "received" in event:
            if event["received"] > self.part.received or event["complete"]:
                self.moved = time.monotonic()
            self.part.received, self.part.sent = int(event["received"]), int(event["sent"])
        if kind == "complete":
            self.part.complete = True


def _end(peers: Iterable[_Running], patience: float) -> None:
    """Have all of them ended, after so many seconds by force."""
    peers = list(peers)
    for peer in peers:
        peer.leave()
    deadline = time.monotonic() + patience
    for peer in peers:
        try:
            peer.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            peer.process.kill()
            peer.process.wait()


class _Pulse:
    """The signs of life that peers get while they are waited for."""

    def __init__(self, peers: Mapping[str, _Running]) -> None:
        self.peers = peers
        self.last = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self.last >= BEAT

    def beat(self) -> None:
        self.last = time.monotonic()
        for peer in self.peers.values():
            peer.tell(do="beat")


def _exchange(ready: Sequence[_Running], peers: Mapping[str, _Running], told: _Told, start: float, meter: Meter) -> None:
    """Wait until each has everything, or was given up.

    :param start: when they began, by the monotonic clock.
    """
    seed = peers[""]
    pulse, received, sent = _Pulse(peers), 0, 0
    while not all(peer.part.complete or peer.ended for peer in ready):
        with contextlib.suppress(queue.Empty):
            name, event = told.get(timeout=0.2)
            peers[name].hear(event)
            if peers[name].part.complete and not peers[name].part.seconds:
                peers[name].part.seconds = time.monotonic() - start
            meter.show(sum(peer.part.received for peer in ready))
        now = time.monotonic()
        for peer in ready:
            if not peer.part.complete and not peer.ended and now - peer.moved > PATIENCE:
                peer.give_up(f"nothing arrived for {PATIENCE:g} seconds")
        if pulse.due():
            pulse.beat()
            arrived, came = sum(peer.part.received for peer in ready) - received, seed.part.sent - sent
            # figures of peers are up to a second apart, so that what comes of the bastion alone may seem to be somewhat more
            seed.tell(do="beat", spare=arrived - came >= max(came / 2, ENOUGH * BEAT))
            received, sent = received + arrived, sent + came


@dataclass
class Swarm:
    """A push of files of a bundle to some nodes.

    :param wheels: libtorrent's wheel in the bundle by the version of Python, ``3.11``.
    :param python: an interpreter of the bastion that one of them is for.
    :param bandwidth: bytes a second that the bastion sends at most; 0 is without limit.
    :param node_bandwidth: the same of each node.
    """

    bundle: Bundle
    wheels: Mapping[str, str]
    python: str
    bandwidth: int = 0
    node_bandwidth: int = 0

    def push(self, nodes: Mapping[str, Reach]) -> Outcome:
        """Bring every node what it lacks.

        :raises BundleError: the bastion cannot take part.
        """
        names = sorted({name for reach in nodes.values() for name in reach.files})
        found = {name: _stat(self.bundle.root / name) for name in names}
        # an empty file has no piece that could be given; sorted() leaves those of one size in the order of their names
        given = sorted((name for name in names if found[name][0]), key=lambda name: -found[name][0])[:FILES]
        files = {name: found[name] for name in sorted(given)}
        torrent = self._torrent(list(files))
        told: _Told = queue.Queue()
        peers: dict[str, _Running] = {}
        try:
            for name, reach in nodes.items():
                job = reach.job(files, self.wheels, self.node_bandwidth)
                peers[name] = _Running(name, reach.command, job, told, torrent)
                peers[name].lacks = sum(files[lacking][0] for lacking in reach.files if lacking in files)
            _until(told, peers, lambda peer: peer.ready)
            ready = [peer for peer in peers.values() if peer.ready and not peer.ended]
            if ready:
                self._give(torrent, files, ready, peers, told)
        finally:
            _end(peers.values(), PARTING)
        parts = {name: peer.part for name, peer in peers.items()}
        return Outcome(parts, parts.pop("", Part()))

    def _give(
        self,
        torrent: bytes,
        files: Mapping[str, Any],
        ready: Sequence[_Running],
        peers: dict[str, _Running],
        told: _Told,
    ) -> None:
        """Let the ready ones and the bastion give and take until each has everything, or was given up."""
        seeding = {
            "do": "seed",
            "folder": str(self.bundle.root),
            "files": files,
            "wheels": self._own_wheels(),
            "bandwidth": self.bandwidth,
        }
        seed = peers[""] = _Running("", [self.python, "-c", _BOOTSTRAP], seeding, told, torrent)
        _until(told, peers, lambda peer: peer.ready)
        if not seed.ready:
            raise BundleError(f"The bastion cannot take part in a swarm: {seed.part.reason}.")
        start = time.monotonic()
        addresses = [peer.address for peer in ready]
        first = ready[:: max(1, len(ready) // FIRST)][:FIRST]
        checkpoint("connect peers")
        for number, peer in enumerate(ready):
            peer.moved = start
            ends = [ready[other] for other in neighbours(number, len(ready))]
            share = [first.index(peer), len(first)] if peer in first else None
            # the way of the connection that started it may be another than the one to its address
            admit = sorted({*addresses, peer.client, _own_address(peer.address)} - {""})
            peer.tell(do="connect", peers=[[end.address, end.port] for end in ends], admit=admit, prefer=share)
        seed.tell(do="connect", peers=[[peer.address, peer.port] for peer in first], admit=addresses, prefer=None)
        with Meter("swarm", f"to {len(ready)} nodes", sum(peer.lacks for peer in ready)) as meter:
            _exchange(ready, peers, told, start, meter)
        checkpoint("stop peers")
        for peer in peers.values():
            peer.tell(do="stop")
        _until(told, peers, lambda peer: peer.ended)

    def _own_wheels(self) -> dict[str, str]:
        return {python: str(self.bundle.root / wheel) for python, wheel in self.wheels.items()}

    def _torrent(self, names: Sequence[str]) -> bytes:
        """Return the torrent of these files; it is kept where the bundle may be written, since making it reads everything."""
        key = sha256_bytes("\0".join([manifest_digest(self.bundle), *names]).encode())
        kept = self.bundle.cache / "torrents" / f"{key}.torrent"
        with contextlib.suppress(OSError):
            return kept.read_bytes()
        total = sum((self.bundle.root / name).stat().st_size for name in names)
        job = {
            "do": "make",
            "folder": str(self.bundle.root),
            "files": list(names),
            "piece": piece_size(total),
            "wheels": self._own_wheels(),
        }
        told: _Told = queue.Queue()
        maker = _Running("", [self.python, "-c", _BOOTSTRAP], job, told, b"")
        try:
            while True:
                event = told.get()[1]
                maker.hear(event)
                if event is None:
                    raise BundleError(f"The bastion cannot make a torrent of the bundle: {maker.part.reason}.")
                if event["event"] == "made":
                    break
        finally:
            _end([maker], PATIENCE)
        made = base64.b64decode(event["torrent"])
        with contextlib.suppress(OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            for old in kept.parent.glob("*.torrent"):
                old.unlink(missing_ok=True)
            atomic_write(kept, made)
        return made


def _until(told: _Told, peers: Mapping[str, _Running], reached: Callable[[_Running], bool]) -> None:
    """Hear the peers until each has come so far, has ended, or is too late and so given up."""
    end, pulse = time.monotonic() + PATIENCE, _Pulse(peers)
    while time.monotonic() < end and not all(peer.ended or reached(peer) for peer in peers.values()):
        with contextlib.suppress(queue.Empty):
            name, event = told.get(timeout=0.5)
            peers[name].hear(event)
        # who is ready leaves when nobody speaks to it
        if pulse.due():
            pulse.beat()
    for peer in peers.values():
        if not peer.ended and not reached(peer):
            peer.give_up(f"it did not answer within {PATIENCE:g} seconds")


def neighbours(number: int, count: int) -> list[int]:
    """Return to which of *count* nodes the one of this number connects: those 1, 2, 4, 8, … further on in a ring.

    So each has few, and all are a few steps apart.
    """
    found: list[int] = []
    step = 1
    while step < count and len(found) < NEIGHBOURS // 2:
        found.append((number + step) % count)
        step *= 2
    return found


def piece_size(total: int) -> int:
    """Return how many bytes a piece has in a torrent of this size: a power of two, about 2,000 pieces in all."""
    smallest, largest = _PIECE
    wanted = max(smallest, min(largest, total // _PIECES))
    return int(1 << (wanted - 1).bit_length())


def _own_address(other: str) -> str:
    """Return the address of this machine that its connections to another one come from; empty where there is no way to it."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6 if ":" in other else socket.AF_INET, socket.SOCK_DGRAM) as way:
        # nothing is sent
        way.connect((other, 9))
        return str(way.getsockname()[0])
    return ""


def _stat(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, stat.S_IMODE(status.st_mode)
