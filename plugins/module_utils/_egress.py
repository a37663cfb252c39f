# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Work that may reach nothing but its own machine, and a record of every connection that it tries. Standard library only.

The work goes on in a child, in a network that has only loopback where the node allows one, and under a filter of system calls that it
and whatever it starts cannot leave (:mod:`_seccomp`). The process that was there becomes the supervisor: it is asked before every
``connect``, ``sendto``, ``sendmsg`` and ``sendmmsg``, reads the address out of the caller's memory, and refuses what leads out with
ENETUNREACH, as a machine without a network does. If it is killed, those calls fail in whatever is left.

What this does not see: what others do who are asked over a socket of this machine (``systemd``, ``docker``); such sockets are named in the
record. Of a call that is let pass, another thread may change the address between the look and the kernel's own: the network namespace
has no way out then, and without one the record says so.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import getpass
import ipaddress
import json
import os
import platform
import re
import select
import signal
import socket
import struct
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from ansible_collections.rlinf.offline.plugins.module_utils._errors import AirGapError
from ansible_collections.rlinf.offline.plugins.module_utils._files import atomic_write, fsync_directory, json_bytes, remove
from ansible_collections.rlinf.offline.plugins.module_utils._seccomp import (
    Call,
    Listener,
    adopt_orphans,
    end_with_parent,
    hand_over_listener,
    leave_network,
    machine,
    read_memory,
)
from ansible_collections.rlinf.offline.plugins.module_utils._urls import redact

FORMAT = 1
PART, ATTEMPTS = ".part", ".attempts.json"
"""Endings of a step's record: while it is written, and of one that holds attempts. That of a step without any ends in ``.json``."""
CANARY = ("192.0.2.1", 9)
"""An address that nobody has (RFC 5737). Each step tries it first: what is not refused and noticed then would not be later."""
RESOLVERS = ("/run/nscd/", "/run/systemd/resolve/", "/run/avahi-daemon/")
"""Sockets of those who look up names for others. They are not there for the work: it then asks the network itself, which is seen."""
LINGER = 10.0
"""Seconds that what the work has started may go on after it."""
SHOWN = 1000
"""Different attempts, and different peers of this machine, that a record names; beyond that they are counted."""
_DNS = 53
_COMMAND = 400  # characters of a command line
_DEEP = 12  # parents of a process that are named
_VECTOR = 1024  # messages that sendmmsg takes at most


@dataclass(frozen=True)
class Peer:
    """Whom a call wants to reach: ``family`` (``inet``, ``inet6``, ``unix``, …), an address or path, and a port where there is one."""

    family: str
    address: str = ""
    port: int | None = None

    def __str__(self) -> str:
        if self.port is None:
            return f"{self.family} {self.address}".rstrip()
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    @property
    def leads_out(self) -> bool:
        """Whether it is beyond this machine. A resolver on loopback is: what it is asked, it asks the network."""
        if self.family in ("unix", "netlink"):
            return False
        if self.family not in ("inet", "inet6") or self.port == _DNS:
            return True
        address = ipaddress.ip_address(self.address)
        plain = getattr(address, "ipv4_mapped", None) or address
        return not (plain.is_loopback or plain.is_unspecified)

    @property
    def looks_up_names(self) -> bool:
        return self.family == "unix" and self.address.removeprefix("/var").startswith(RESOLVERS)


def parse_address(data: bytes, *, sending: bool) -> Peer | None:
    """Return whom a ``struct sockaddr`` names; None if nobody.

    :param sending: whether it is a message's. AF_UNSPEC is then taken for AF_INET, as Linux does; in a ``connect`` it ends a connection.
    """
    if len(data) < 2:
        return None
    (family,) = struct.unpack_from("=H", data)
    if family == socket.AF_UNSPEC:
        if not sending:
            return None
        family = socket.AF_INET
    if family == socket.AF_INET and len(data) >= 8:
        return Peer("inet", str(ipaddress.IPv4Address(data[4:8])), int.from_bytes(data[2:4], "big"))
    if family == socket.AF_INET6 and len(data) >= 24:
        return Peer("inet6", str(ipaddress.IPv6Address(data[8:24])), int.from_bytes(data[2:4], "big"))
    if family == socket.AF_UNIX:
        path = data[2:]
        name = path.rstrip(b"\0") if path.startswith(b"\0") else path.partition(b"\0")[0]
        return Peer("unix", name.replace(b"\0", b"@").decode("utf-8", "backslashreplace"))
    if family == socket.AF_NETLINK:
        return Peer("netlink")
    return Peer(f"family {family}")


def peers(name: str, call: Call) -> Iterator[Peer]:
    """Yield whom a call wants to reach.

    :param name: the call's name.
    :raises OSError: the caller's memory cannot be read there.
    """
    arguments = call.arguments
    if name == "connect":
        yield from _peer(call, arguments[1], arguments[2])
    elif name == "sendto":
        yield from _peer(call, arguments[4], arguments[5], sending=True)
    elif name in ("sendmsg", "sendmmsg"):
        # struct msghdr is 56 bytes, and a length and padding follow it in struct mmsghdr
        for number in range(1 if name == "sendmsg" else min(arguments[2] & 0xFFFFFFFF, _VECTOR)):
            pointer, size = struct.unpack("=QI", _read(call, arguments[1] + 64 * number, 12))
            yield from _peer(call, pointer, size, sending=True)
    elif name == "socket":
        yield Peer(f"socket of family {arguments[0] & 0xFFFFFFFF}, protocol {arguments[2] & 0xFFFFFFFF}")
    else:
        yield Peer("a system call of another ABI")


def _peer(call: Call, pointer: int, size: int, *, sending: bool = False) -> Iterator[Peer]:
    if pointer:
        found = parse_address(_read(call, pointer, min(size & 0xFFFFFFFF, 128)), sending=sending)
        if found:
            yield found


def _read(call: Call, address: int, size: int) -> bytes:
    """:raises OSError: EFAULT where the memory ends before."""
    data = read_memory(call.thread, address, size)
    if len(data) < size:
        raise OSError(errno.EFAULT, "no such memory")
    return data


# -- who asks ------------------------------------------------------------------------------------------------------------------


def describe(thread: int) -> dict[str, Any]:
    """Return what /proc says of a thread's process: ``pid``, ``program``, ``command`` (credentials masked) and ``parents``, the nearest first."""
    pid, program, parent = _status(thread)
    parents: list[str] = []
    while parent > 1 and parent != os.getpid() and len(parents) < _DEEP:
        _pid, name, parent = _status(parent)
        parents.append(name)
    try:
        words = Path(f"/proc/{thread}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        words = []
    command = redact(" ".join(word.decode("utf-8", "backslashreplace") for word in words))[:_COMMAND]
    return {"pid": pid, "program": program, "command": command, "parents": parents}


def _status(thread: int) -> tuple[int, str, int]:
    """Return process, name and parent of a thread; of one that has ended its number alone."""
    try:
        text = Path(f"/proc/{thread}/status").read_text(encoding="utf-8", errors="backslashreplace")
    except OSError:
        return thread, "", 0
    found = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    return int(found["Tgid"]), found["Name"], int(found["PPid"])


def now() -> str:
    """Return the time in UTC, as ISO 8601 writes it."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")


# -- the record ----------------------------------------------------------------------------------------------------------------


@dataclass
class Record:
    """What one step tried: beside its place while it goes on, in its place when it has ended. Only its owner may read it."""

    folder: Path
    step: str
    header: dict[str, Any]
    attempts: dict[tuple[str, ...], dict[str, Any]] = field(default_factory=dict)
    beyond: int = 0
    passed: Counter[str] = field(default_factory=Counter)
    programs: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._owner = _make(self.folder)
        self.part = self.folder / f"{self.step}.{os.getpid()}{PART}"
        handle = os.open(self.part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.fchown(handle, *self._owner)
        except OSError:
            # root of a user namespace, who cannot give anything to those who are not in it
            self._owner = (os.geteuid(), os.getegid())
        self._stream = os.fdopen(handle, "wb")
        # held for as long as this process lives, and no longer
        fcntl.flock(handle, fcntl.LOCK_EX)
        self._append(self.header)
        fsync_directory(self.folder)

    def _append(self, line: dict[str, Any]) -> None:
        self._stream.write(json.dumps(line, sort_keys=True).encode() + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def attempt(self, name: str, peer: Peer, who: dict[str, Any]) -> None:
        """Note an attempt, durably; one of the same process to the same address is counted."""
        key = (name, str(peer), str(who["pid"]), str(who["command"]))
        if key in self.attempts:
            self.attempts[key]["count"] += 1
        elif len(self.attempts) < SHOWN:
            found = {"time": now(), "call": name, "family": peer.family, "address": peer.address, "port": peer.port, "count": 1, **who}
            self.attempts[key] = found
            self._append({"attempt": found})
        else:
            self.beyond += 1

    def let_pass(self, peer: Peer) -> None:
        """Count a call to somebody on this machine."""
        key = str(peer) if str(peer) in self.passed or len(self.passed) < SHOWN else "others"
        self.passed[key] += 1

    def finish(self, result: dict[str, Any], **more: Any) -> None:
        """Put the record in its place.

        One with attempts stays until somebody who has looked at it removes it, one of what has left processes behind until the step is
        seen to its end. Of the others the last that changed something stays.

        :param result: what the work said of itself: ``changed``, ``digest``.
        """
        attempts = list(self.attempts.values())
        whole = {
            **self.header,
            **result,
            **more,
            "ended": now(),
            "attempts": attempts,
            "attempts_beyond": self.beyond,
            "passed": dict(self.passed),
            "programs": dict(self.programs),
        }
        if more["left"]:
            self._append({"left": more["left"]})
            self._stream.close()
            return
        if attempts:
            self._keep(f"{self.step}.{self.header['id']}{ATTEMPTS}", whole)
        else:
            if result.get("changed"):
                version = str(result.get("digest") or "")[:12]
                self._keep(f"{self.step}{'-' if version else ''}{version}.json", whole)
            self._forget_cut_off()
        remove(self.part)

    def _keep(self, name: str, whole: dict[str, Any]) -> None:
        atomic_write(self.folder / name, json_bytes(whole), mode=0o600, owner=self._owner)

    def _forget_cut_off(self) -> None:
        """Remove what is left of the same step where that was killed, had tried nothing, and was done to its end now."""
        for part in self.folder.glob(f"{self.step}.*{PART}"):
            if part != self.part and not going_on(part) and not any("attempt" in line for line in read_part(part)):
                remove(part)


def _make(folder: Path) -> tuple[int, int]:
    """Make a folder that only its owner may read, and return its owner and group.

    What root makes, as for system packages, belongs to whoever owns the folder above: the next step may be that user's.
    """
    if not folder.is_dir():
        above = folder.parent
        if not above.is_dir():
            _make(above)
            above.chmod(0o755)
        folder.mkdir(mode=0o700, exist_ok=True)
        if os.geteuid() == 0:
            os.chown(folder, above.stat().st_uid, above.stat().st_gid)
    found = folder.stat()
    return found.st_uid, found.st_gid


def read_part(part: Path) -> list[dict[str, Any]]:
    """Return the lines of a record that is not finished, the header first; a line that was cut off is none."""
    found = []
    for line in part.read_bytes().splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            found.append(json.loads(line))
    return [line for line in found if isinstance(line, dict)]


def going_on(part: Path) -> bool:
    """Return whether the supervisor that writes *part* lives."""
    try:
        with open(part, "rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


# -- the supervisor ------------------------------------------------------------------------------------------------------------


class Watched:
    """The work's side, in the child."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    def say(self, **result: Any) -> None:
        """Tell the supervisor what came of the work, for the record."""
        with contextlib.suppress(OSError):
            self._channel.send(json.dumps({"result": result}).encode())


def enter(folder: Path, step: str, **header: Any) -> Watched:
    """Go on in a child that reaches nothing but this machine. The process itself becomes the supervisor, and ends as the child ends.

    :param folder: where records lie.
    :param step: what is going on, a name for a file.
    :param header: more for the record.
    :raises AirGapError: the node allows neither a filter nor a network namespace.
    """
    name = re.sub(r"[^A-Za-z0-9_.+-]+", "-", step)
    started = now()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # what was printed and not written yet would be written twice
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    adopt_orphans()
    child = os.fork()
    if child:
        theirs.close()
        about = {
            "format": FORMAT,
            "id": f"{re.sub('[^0-9]', '', started)}-{child}",
            "step": step,
            "started": started,
            **header,
            **_whereabouts(),
        }
        _supervise(_Supervisor(child, ours, folder, name, about))
    ours.close()
    end_with_parent(parent, signal.SIGKILL)
    confine(theirs)
    return Watched(theirs)


def _supervise(supervisor: _Supervisor) -> NoReturn:
    """Let the supervisor work, and end as the child ends; whatever happens here, this process does nothing else."""
    try:
        _end_as(supervisor.run())
    except OSError as error:
        # what cannot be recorded must not go on
        with contextlib.suppress(ProcessLookupError):
            os.kill(supervisor.child, signal.SIGKILL)
        sys.stderr.write(f"The record of connections could not be written ({error}).\n")
        sys.stderr.flush()
    finally:
        if sys.exc_info()[0]:
            traceback.print_exc()
        os._exit(1)


def _whereabouts() -> dict[str, Any]:
    return {"host": platform.node(), "kernel": platform.release(), "uid": os.geteuid(), "user": _user()}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # of a container's user there may be no name
        return ""


def confine(channel: socket.socket) -> None:
    """Keep this process and its children in, tell the supervisor how, and try it.

    :raises AirGapError: it is not possible here, or does not work.
    """
    namespace = leave_network()
    problem = ""
    try:
        hand_over_listener(channel)
    except OSError as error:
        problem = error.strerror or str(error)
        if not namespace:
            raise AirGapError(
                f"This node can keep nothing off the network: it allows no network namespace, and no filter of system calls ({problem}). "
                "Run as root or on a newer kernel, let the container have seccomp or user namespaces, or take out rlinf_air_gap."
            ) from None
    channel.send(json.dumps({"namespace": namespace, "filter": not problem, "problem": problem}).encode())
    _try_canary(filtered=not problem)


def _try_canary(*, filtered: bool) -> None:
    """:raises AirGapError: what leads out is not refused, or what does not is. Nothing is sent: connecting a datagram socket only looks for a way."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        number = out.connect_ex(CANARY)
    if number != errno.ENETUNREACH:
        raise AirGapError(f"A try to reach {CANARY[0]} was not refused as it should be ({os.strerror(number)}). Nothing was installed.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as local:
        number = local.connect_ex(_canary(os.getpid()).replace("@", "\0"))
    if filtered and number != errno.ECONNREFUSED:
        raise AirGapError(f"A try to reach a socket of this machine was not let through ({os.strerror(number)}). Take out rlinf_air_gap.")


def _canary(pid: int) -> str:
    """Return a name that no socket of this machine has; each step tries it, too, since what stays on the machine has to go on."""
    return f"@rlinf-offline-{pid}"


class _Supervisor:
    """Answers calls until the work, and all that it has started, has ended."""

    def __init__(self, child: int, channel: socket.socket, folder: Path, step: str, header: dict[str, Any]) -> None:
        self.child, self.channel = child, channel
        self.folder, self.step, self.header = folder, step, header
        self.listener: Listener | None = None
        self.record: Record | None = None
        self.canary = self.ended = False
        self.status = 0
        self.poller = select.poll()
        self.result: dict[str, Any] = {}

    def run(self) -> int:
        """Return the child's status, as ``waitpid`` says it.

        :raises OSError: the record cannot be written.
        """
        wake = self._listen_to_signals()
        self.poller.register(self.channel, select.POLLIN)
        until, late = None, False
        while self._reap() and not late:
            if self.ended and until is None:
                until = time.monotonic() + LINGER
            # rounded up, so that it is over then
            for descriptor, events in self.poller.poll(None if until is None else 1 + 1000 * max(until - time.monotonic(), 0)):
                if descriptor == wake:
                    os.read(wake, 4096)
                elif not events & select.POLLIN:
                    # nobody is there any more who could ask or tell
                    self.poller.unregister(descriptor)
                elif descriptor == self.channel.fileno():
                    self._hear()
                elif self.listener:
                    self._answer(self.listener)
            late = until is not None and time.monotonic() >= until
        while self._hear():
            pass
        if self.record:
            self.record.finish(
                self.result, status=os.waitstatus_to_exitcode(self.status), canary=self.canary, left=self._left() if late else []
            )
        return self.status

    def _listen_to_signals(self) -> int:
        """Hand on those that ask to end, and return a descriptor that can be read when a child has ended."""
        wake, waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.poller.register(wake, select.POLLIN)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, self._hand_on)
        return wake

    def _hand_on(self, number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.child, number)

    def _reap(self) -> bool:
        """Take note of who has ended; return whether anybody is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.child:
                self.ended, self.status = True, status

    def _hear(self) -> bool:
        """Take a message of the child; return whether there was one."""
        try:
            data, descriptors, _flags, _address = socket.recv_fds(self.channel, 65536, 1, socket.MSG_DONTWAIT)
        except (BlockingIOError, ConnectionResetError):
            return False
        if descriptors:
            os.set_inheritable(descriptors[0], False)
            self.listener = Listener(descriptors[0], machine())
            self.poller.register(descriptors[0], select.POLLIN)
        elif data:
            self._take(json.loads(data))
        return bool(data)

    def _take(self, said: dict[str, Any]) -> None:
        if "result" in said:
            self.result = said["result"]
            return
        self.header |= {"kept_in": {"filter": said["filter"], "namespace": said["namespace"]}, "recorded": said["filter"]}
        self.header |= {"problem": said["problem"]} if said["problem"] else {}
        self.record = Record(self.folder, self.step, self.header)

    def _answer(self, listener: Listener) -> None:
        call = listener.receive()
        if call is None:
            return
        name = listener.name(call)
        if name in ("execve", "execveat"):
            self._note_program(call, name)
            listener.let_pass(call)
            return
        try:
            found = list(peers(name, call))
        except OSError as error:
            found = [] if error.errno == errno.EFAULT else [Peer("an address that could not be read")]
            if not found:
                listener.refuse(call, errno.EFAULT)
                return
        if not listener.waits(call):
            return
        out = [peer for peer in found if peer.leads_out]
        who = describe(call.thread) if out else {}
        for peer in out:
            self._note_attempt(name, peer, who)
        if out:
            listener.refuse(call, _REFUSALS.get(name, errno.ENOSYS))
        elif any(peer.looks_up_names for peer in found):
            listener.refuse(call, errno.ECONNREFUSED)
        else:
            for peer in found:
                if self.record and peer.address != _canary(self.child):
                    self.record.let_pass(peer)
            listener.let_pass(call)

    def _note_attempt(self, name: str, peer: Peer, who: dict[str, Any]) -> None:
        if not self.canary and who["pid"] == self.child and (peer.address, peer.port) == CANARY:
            self.canary = True
        elif self.record:
            self.record.attempt(name or "system call", peer, who)

    def _note_program(self, call: Call, name: str) -> None:
        if not self.record:
            return
        try:
            path = read_memory(call.thread, call.arguments[0 if name == "execve" else 1], 4096).partition(b"\0")[0]
        except OSError:
            path = b""
        self.record.programs[os.path.basename(path).decode("utf-8", "backslashreplace") or "?"] += 1

    def _left(self) -> list[dict[str, Any]]:
        """Return the processes that go on. What they try from now on fails, and nobody sees it."""
        pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()
        return [describe(int(pid)) for pid in pids]


_REFUSALS = {
    **dict.fromkeys(("connect", "sendto", "sendmsg", "sendmmsg"), errno.ENETUNREACH),
    "socket": errno.EAFNOSUPPORT,
}


def _end_as(status: int) -> None:
    """End as a child did that ``waitpid`` said *status* of."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))
