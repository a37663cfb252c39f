# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One peer of a swarm: the bastion's, which has everything, or a node's. A program of its own, which needs no other file of the collection.

``_swarm.py`` starts it, on a node through ssh, and holds its standard input: when that ends, for whatever reason, so does the peer. Each line of
standard input and of standard output is one object of JSON, apart from the torrent, which follows the first. BitTorrent v2 (BEP 52) is spoken
by libtorrent, out of its wheel.

Standard library only, apart from libtorrent.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import errno
import fcntl
import json
import os
import queue
import shutil
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = "bundle"
"""The name of the directory in the torrent."""
SILENCE = 60.0
"""Seconds without a word after which whoever started this is taken for gone: a connection can die without one."""
_TICK = 0.1
_REPORT = 1.0
_TRICKLE = 100_000
"""Bytes a second."""
# a file system that has no locks; one at a time is for who pushes to see to then
_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP})
# malloc.h of the GNU C library
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_EVERYWHERE = (("0.0.0.0", "255.255.255.255"), ("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"))


class PeerError(Exception):
    """The peer cannot take part; the message says why."""


@contextlib.contextmanager
def library_of(wheel: Path) -> Iterator[Any]:
    """Yield libtorrent out of its wheel, which is unpacked for as long as the body runs.

    :raises PeerError: it is not there, or not for this interpreter.
    """
    with tempfile.TemporaryDirectory(prefix="rlinf-swarm-") as place:
        try:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(place)
        except (OSError, zipfile.BadZipFile) as error:
            raise PeerError(f"{wheel}: {error}") from None
        sys.path.insert(0, place)
        _keep_memory()
        try:
            import libtorrent  # type: ignore[import-not-found,unused-ignore]
        except ImportError as error:
            raise PeerError(f"libtorrent does not load: {error}") from None
        yield libtorrent


def _keep_memory() -> None:
    """Have the C library keep what is freed (mallopt(3)): each piece is given back and asked for again, and pages cost more than what is in them."""
    with contextlib.suppress(OSError, AttributeError):
        for option in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
            ctypes.CDLL(None).mallopt(option, 1 << 30)


@contextlib.contextmanager
def named(folder: Path) -> Iterator[str]:
    """Yield a directory in which *folder* has the name that it has in the torrent."""
    with tempfile.TemporaryDirectory(prefix="rlinf-swarm-") as place:
        Path(place, ROOT).symlink_to(folder.resolve())
        yield place


def torrent(library: Any, folder: Path, names: Sequence[str], piece: int) -> bytes:
    """Return the torrent of these files below *folder*, as BEP 52 writes it.

    :param piece: bytes of a piece, a power of two.
    """
    plain = library.create_torrent.no_attributes
    entries = [library.create_file_entry(f"{ROOT}/{name}", (folder / name).stat().st_size) for name in names]
    made = library.create_torrent(entries, piece, library.create_torrent.v2_only | plain)
    made.set_priv(True)
    made.set_creation_date(0)
    with named(folder) as place:
        library.set_piece_hashes(made, place)
    return bytes(library.bencode(made.generate()))


class Peer:
    """A session with one torrent in it.

    :param job: ``torrent``, ``files`` {name: [bytes, modification time in ns, mode]}, ``folder`` where what arrives lies, ``destination``
        the bundle that it is linked into (none: this is the bastion's, which has everything in ``folder``), ``listen`` (address:port, or empty),
        ``bandwidth`` (bytes a second that it sends at most; 0: without limit).
    """

    def __init__(self, library: Any, job: Mapping[str, Any]) -> None:
        self.library = library
        self.folder = Path(job["folder"])
        self.destination = Path(job["destination"]) if job["destination"] else None
        self.files: Mapping[str, Sequence[int]] = job["files"]
        # not by way of bdecode(), whose objects of Python take ten times the torrent
        info = library.torrent_info(job["torrent"])
        self.pieces = int(info.num_pieces())
        layout = info.layout()
        self.names = [layout.file_path(number).removeprefix(f"{ROOT}/") for number in range(layout.num_files())]
        self.lacking = [self.destination is not None and name in self.files for name in self.names]
        self.limit = int(job["bandwidth"])
        self.sparing = True
        parameters = library.session_params()
        parameters.settings = self._settings(job)
        # nobody is admitted before the fleet is known
        parameters.ip_filter = self._admitting(())
        self.session = library.session(parameters)
        self.handle = self._add(info)

    def _settings(self, job: Mapping[str, Any]) -> dict[str, Any]:
        off = ("enable_dht", "enable_lsd", "enable_upnp", "enable_natpmp", "enable_incoming_utp", "enable_outgoing_utp")
        return {
            **dict.fromkeys(off, False),
            "listen_interfaces": job["listen"],
            "alert_mask": self.library.alert.category_t.storage_notification,
            "strict_end_game_mode": True,
            # what waits to be written, in bytes and in blocks of 16 KiB: libtorrent 2.1 lets it grow to 100 MB of a node's memory
            "max_queued_disk_bytes": 8 << 20,
            "cache_size": 256,
            "connection_speed": 100,
            # what is asked for far ahead, in seconds and in blocks of 16 KiB, or together with its neighbours, is got twice
            "request_queue_time": 1,
            "max_out_request_queue": 64,
            "whole_pieces_threshold": 0,
            # every node has its share of the bundle from the bastion: none waits until others have theirs
            "unchoke_slots_limit": -1,
            "min_reconnect_time": 2,
            "max_failcount": 30,
            "user_agent": "rlinf.offline",
        }

    def _add(self, info: Any) -> Any:
        flags = self.library.torrent_flags
        parameters = self.library.add_torrent_params()
        parameters.ti = info
        parameters.save_path = str(self.folder)
        # the session's own limit does not hold for addresses of private networks
        parameters.upload_limit = self.limit
        parameters.flags = flags.disable_dht | flags.disable_lsd | flags.disable_pex | flags.apply_ip_filter
        if self.destination is None:
            parameters.flags |= flags.seed_mode
        else:
            parameters.file_priorities = [4 if lacks else 0 for lacks in self.lacking]
        return self.session.add_torrent(parameters)

    @property
    def port(self) -> int:
        return int(self.session.listen_port())

    @property
    def total(self) -> int:
        """Bytes that this peer has to get."""
        return sum(int(self.files[name][0]) for name, lacks in zip(self.names, self.lacking, strict=True) if lacks)

    def _admitting(self, addresses: Sequence[str]) -> Any:
        """Return libtorrent's rules for these addresses and no other."""
        rules = self.library.ip_filter()
        for first, last in _EVERYWHERE:
            rules.add_rule(first, last, 1)
        for address in addresses:
            rules.add_rule(address, address, 0)
        return rules

    def connect(self, peers: Sequence[tuple[str, int]], admit: Sequence[str]) -> None:
        """Admit these addresses and no other, and connect to these peers."""
        self.session.set_ip_filter(self._admitting(admit))
        for address, port in peers:
            self.handle.connect_peer((address, port))

    def prefer(self, number: int, count: int) -> None:
        """Ask for every *count*-th piece first: with each node asking for others, the bastion need send few pieces twice."""
        priorities = self.handle.get_piece_priorities()
        self.handle.prioritize_pieces([(7 if piece % count == number else 1) if old else 0 for piece, old in enumerate(priorities)])

    def spare(self) -> None:
        """Send hardly anything more while the others have every piece among them, and give each other what one still lacks."""
        held: set[int] = set()
        for peer in self.handle.get_peer_info():
            held.update(number for number, has in enumerate(peer.pieces) if has)
        trickle = min(_TRICKLE, self.limit or _TRICKLE)
        self.handle.set_upload_limit(trickle if self.sparing and len(held) == self.pieces else self.limit)

    @property
    def progress(self) -> dict[str, Any]:
        status = self.handle.status()
        return {
            "done": status.total_wanted_done,
            "received": status.total_payload_download,
            "sent": status.total_payload_upload,
            "peers": status.num_peers,
            "complete": self.destination is None or bool(status.is_finished),
            "error": status.errc.message() if status.errc.value() else None,
        }

    def place(self) -> int:
        """Link every file that is whole into the bundle and return how many that are; here it stays, to be given to others."""
        if self.destination is None:
            return 0
        self._flush()
        done = self.handle.file_progress(flags=self.library.file_progress_flags_t.piece_granularity)
        count = 0
        for number, name in enumerate(self.names):
            if self.lacking[number] and done[number] == self.files[name][0]:
                place(self.folder / ROOT / name, self.destination / name, *self.files[name][1:])
                count += 1
        return count

    def _flush(self) -> None:
        """Wait until everything that arrived is written."""
        self.session.pop_alerts()
        self.handle.flush_cache()
        end = time.monotonic() + SILENCE
        while not any(isinstance(alert, self.library.cache_flushed_alert) for alert in self.session.pop_alerts()):
            if time.monotonic() > end:
                raise PeerError(f"What arrived in {self.folder} could not be written within {SILENCE:g} seconds.")
            self.session.wait_for_alert(100)

    def close(self) -> None:
        self.session.remove_torrent(self.handle)
        self.session.pause()


def place(source: Path, path: Path, mtime: int, mode: int) -> None:
    """Give *path* the content of *source*, at once and for good; both names lead to it afterwards, where the file system can do that.

    :param mtime: nanoseconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(source, os.O_RDWR)
    try:
        os.fchmod(descriptor, mode)
        os.utime(descriptor, ns=(mtime, mtime))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        os.link(source, part)
    except OSError:
        shutil.copy2(source, part)
    os.replace(part, path)
    # two names of one file are not renamed over each other (rename(2)): an earlier run linked it
    part.unlink(missing_ok=True)


class Commands:
    """What comes on standard input, line by line, and how long ago the last was."""

    def __init__(self) -> None:
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self._last = time.monotonic()

    def _read(self) -> None:
        for line in sys.stdin.buffer:
            self._queue.put(json.loads(line))
        self._queue.put(None)

    def next(self) -> dict[str, Any] | None:
        """Return the next one, {} if there is none yet, and None when there will be none any more."""
        try:
            command = self._queue.get(timeout=_TICK)
        except queue.Empty:
            return {} if time.monotonic() - self._last < SILENCE else None
        self._last = time.monotonic()
        return command


def say(event: str, **figures: Any) -> None:
    with contextlib.suppress(OSError):
        sys.stdout.write(json.dumps({"event": event, **figures}) + "\n")
        sys.stdout.flush()


def take_part(peer: Peer, address: str, client: str) -> bool:
    """Give and take until told to stop; return whether that was said, and not that nobody is there any more."""
    say("ready", address=address, client=client, port=peer.port, total=peer.total)
    commands = Commands()
    reported, placed = 0.0, False
    while (command := commands.next()) is not None:
        if command.get("do") == "connect":
            if command["prefer"]:
                peer.prefer(*command["prefer"])
            peer.connect([tuple(one) for one in command["peers"]], command["admit"])
        elif command.get("do") == "beat":
            peer.sparing = command.get("spare", peer.sparing)
        elif command.get("do") == "stop":
            return True
        now = peer.progress
        if now["error"]:
            raise PeerError(str(now["error"]))
        if now["complete"] and not placed:
            placed = True
            say("complete", files=peer.place(), **now)
        elif time.monotonic() - reported >= _REPORT:
            reported = time.monotonic()
            if peer.destination is None:
                peer.spare()
            say("progress", **now)
    return False


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a directory while the body runs.

    :raises PeerError: another peer holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # NFS locks nothing that is not open for writing
    with open(folder / "lock", "wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PeerError(f"{folder} is in use by another push") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield


def run(job: Mapping[str, Any], connection: str) -> None:
    """Make a torrent, or take part in a swarm.

    :param connection: SSH_CONNECTION, as sshd sets it: the third word is the address that the fleet reaches this node by.
    """
    wheel = Path(job["wheels"].get(f"{sys.version_info[0]}.{sys.version_info[1]}", ""))
    with library_of(wheel) as library:
        if job["do"] == "make":
            content = torrent(library, Path(job["folder"]), list(job["files"]), job["piece"])
            say("made", torrent=base64.b64encode(content).decode())
        elif job["do"] == "seed":
            with named(Path(job["folder"])) as view:
                peer = Peer(library, {**job, "folder": view, "destination": None, "listen": ""})
                take_part(peer, "", "")
                peer.close()
        else:
            _node(library, job, connection)


def _node(library: Any, job: Mapping[str, Any], connection: str) -> None:
    words = connection.split()
    address = job["address"] or (words[2] if len(words) == 4 else "")
    if not address:
        raise PeerError("The address that other nodes reach this one by is not known. Set rlinf_swarm_address for it.")
    folder = Path(job["folder"])
    with alone(folder):
        peer = Peer(library, {**job, "listen": f"[{address}]:{job['port']}" if ":" in address else f"{address}:{job['port']}"})
        if not peer.port:
            raise PeerError(f"Nothing can listen on {address}, port {job['port'] or 'any'}.")
        try:
            told = take_part(peer, address, words[0] if words else "")
        finally:
            peer.place()
            peer.close()
    # NFS does not remove what is open
    if told:
        shutil.rmtree(folder)


def main() -> None:  # pragma: no cover
    """Read the job, a line of JSON, and the torrent of as many bytes as that says, and do it."""
    job = json.loads(sys.stdin.buffer.readline())
    job["torrent"] = sys.stdin.buffer.read(job["torrent"])
    try:
        run(job, sys.argv[1] if len(sys.argv) > 1 else "")
    except (PeerError, OSError, RuntimeError) as error:
        say("failed", reason=str(error))
        status = 1
    else:
        say("ended")
        status = 0
    # a thread waits for standard input, which an orderly end would wait for
    os._exit(status)


if __name__ == "__main__":
    main()
