# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""System calls that wait for a supervisor's word, and a network of one's own: what the kernel gives to keep a process in. Standard library only.

Sources: seccomp(2), seccomp_unotify(2), unshare(2), user_namespaces(7), the kernel's ``uapi/linux/{seccomp,audit,filter}.h``.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import queue
import re
import socket
import struct
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Union

CONTINUE_SINCE = (5, 5)
"""The kernel that can be told to let a call go on after all."""
IO_URING_SETUP = 425  # alike on every machine
X32 = 0x40000000  # the bit in the number of a call of the x32 ABI
IPPROTO_SCTP = 132

_SET_MODE_FILTER, _GET_NOTIF_SIZES = 1, 3
_NEW_LISTENER, _WAIT_KILLABLE = 1 << 3, 1 << 5
_RECEIVE, _SEND, _VALID = 0xC0502100, 0xC0182101, 0x40082102
_FLAG_CONTINUE = 1
_NOTIFY, _ALLOW, _ERRNO = 0x7FC00000, 0x7FFF0000, 0x00050000
_NO_NEW_PRIVS, _CHILD_SUBREAPER, _DEATH_SIGNAL = 38, 36, 1
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1


@dataclass(frozen=True)
class Machine:
    """What one kind of processor calls itself to seccomp, and its numbers of system calls."""

    audit: int
    seccomp: int
    calls: Mapping[str, int]


MACHINES = {
    "x86_64": Machine(
        0xC000003E,
        317,
        {"socket": 41, "connect": 42, "sendto": 44, "sendmsg": 46, "execve": 59, "sendmmsg": 307, "execveat": 322},
    ),
    "aarch64": Machine(
        0xC00000B7,
        277,
        {"socket": 198, "connect": 203, "sendto": 206, "sendmsg": 211, "execve": 221, "sendmmsg": 269, "execveat": 281},
    ),
}
FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_ALG)
"""Families of sockets whose every way out is one of the calls above; no other can be made."""


def machine() -> Machine:
    """Return this machine's numbers.

    :raises OSError: seccomp's notifications cannot be used here; it says why.
    """
    if sys.platform != "linux" or ctypes.sizeof(ctypes.c_void_p) != 8 or platform.machine() not in MACHINES:
        raise OSError(errno.ENOSYS, f"connections are recorded on 64-bit {' and '.join(MACHINES)} only")
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    if not found or (int(found[1]), int(found[2])) < CONTINUE_SINCE:
        raise OSError(errno.ENOSYS, f"Linux {platform.release()} is older than {'.'.join(map(str, CONTINUE_SINCE))}")
    return MACHINES[platform.machine()]


# -- the filter ----------------------------------------------------------------------------------------------------------------

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
# where struct seccomp_data has what is loaded, in bytes; the low half of an argument first on these machines
_NUMBER, _AUDIT, _ARGUMENTS = 0, 4, 16


@dataclass(frozen=True)
class _Jump:
    """A comparison of what was loaded: where it leads if it holds, and if not; no label is the next line."""

    code: int
    value: int
    then: str = ""
    otherwise: str = ""


@dataclass(frozen=True)
class _Load:
    offset: int


@dataclass(frozen=True)
class _Label:
    name: str


@dataclass(frozen=True)
class _Return:
    value: int


_Line = Union[_Jump, _Load, _Label, _Return]  # noqa: UP007


def _argument(number: int, *, high: bool = False) -> _Load:
    return _Load(_ARGUMENTS + 8 * number + (4 if high else 0))


def program(of: Machine) -> bytes:
    """Return the filter: calls that may lead out wait for the supervisor, all others go on.

    Calls of another ABI (32-bit, x32) have other numbers and wait, too. ``io_uring`` makes calls that no filter sees, and cannot be set up.
    A ``sendto`` without an address says nothing that its ``connect`` has not said.
    """
    calls = of.calls
    asked = [_Jump(_EQUAL, calls[name], then="notify") for name in ("connect", "sendmsg", "sendmmsg", "execve", "execveat")]
    lines: list[_Line] = [
        _Load(_AUDIT),
        _Jump(_EQUAL, of.audit, otherwise="notify"),
        _Load(_NUMBER),
        _Jump(_AT_LEAST, X32, then="notify"),
        _Jump(_EQUAL, IO_URING_SETUP, then="unknown"),
        *asked,
        _Jump(_EQUAL, calls["socket"], then="socket"),
        _Jump(_EQUAL, calls["sendto"], otherwise="allow"),
        _argument(4),
        _Jump(_EQUAL, 0, otherwise="notify"),
        _argument(4, high=True),
        _Jump(_EQUAL, 0, then="allow", otherwise="notify"),
        _Label("socket"),
        # SCTP has a way of its own to connect
        _argument(2),
        _Jump(_EQUAL, IPPROTO_SCTP, then="notify"),
        _argument(0),
        *(_Jump(_EQUAL, family, then="allow") for family in FAMILIES),
        _Label("notify"),
        _Return(_NOTIFY),
        _Label("unknown"),
        _Return(_ERRNO | errno.ENOSYS),
        _Label("allow"),
        _Return(_ALLOW),
    ]
    return _assembled(lines)


def _assembled(lines: Sequence[_Line]) -> bytes:
    """Return ``struct sock_filter`` of each line, labels turned into distances."""
    labels: dict[str, int] = {}
    code: list[_Jump | _Load | _Return] = []
    for line in lines:
        if isinstance(line, _Label):
            labels[line.name] = len(code)
        else:
            code.append(line)

    def distance(here: int, label: str) -> int:
        return labels[label] - here - 1 if label else 0

    made = b""
    for here, line in enumerate(code):
        if isinstance(line, _Jump):
            made += struct.pack("=HBBI", line.code, distance(here, line.then), distance(here, line.otherwise), line.value)
        elif isinstance(line, _Load):
            made += struct.pack("=HBBI", _LOAD, 0, 0, line.offset)
        else:
            made += struct.pack("=HBBI", _RETURN, 0, 0, line.value)
    return made


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(answer: int, what: str) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return answer


def _prctl(option: int, value: int, what: str) -> None:
    _checked(_libc().prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)), what)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, so that none is lost sight of."""
    _prctl(_CHILD_SUBREAPER, 1, "PR_SET_CHILD_SUBREAPER")


def end_with_parent(parent: int, signal: int) -> None:
    """Have *signal* sent to this process when its parent ends; one that has ended already counts, too."""
    _prctl(_DEATH_SIGNAL, signal, "PR_SET_PDEATHSIG")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal)


def hand_over_listener(channel: socket.socket) -> None:
    """Put this process and all that it will ever start under the filter, and send the listener's descriptor through *channel*.

    :raises OSError: the kernel, or who confines this process already, does not allow it; nothing was done then.
    """
    of = machine()
    made = program(of)
    ready: queue.SimpleQueue[int] = queue.SimpleQueue()

    def send() -> None:
        descriptor = ready.get()
        if descriptor >= 0:
            socket.send_fds(channel, [b"listener"], [descriptor])
            os.close(descriptor)

    # A thread that is older than the filter is not under it. It has to send: sending a descriptor is one of the calls that wait.
    thread = threading.Thread(target=send)
    thread.start()
    descriptor = -1
    try:
        _prctl(_NO_NEW_PRIVS, 1, "PR_SET_NO_NEW_PRIVS")
        descriptor = _filter(of, made)
    finally:
        ready.put(descriptor)
        thread.join()


def _filter(of: Machine, made: bytes) -> int:
    """Set the filter for this thread and return its listener."""
    argument = _Program(len(made) // 8, made)
    for flags in (_NEW_LISTENER | _WAIT_KILLABLE, _NEW_LISTENER):
        answer = _libc().syscall(of.seccomp, _SET_MODE_FILTER, flags, ctypes.byref(argument))
        # Linux before 5.19 does not know the second: a signal then makes a call that waits begin anew, and wait again
        if answer >= 0 or ctypes.get_errno() != errno.EINVAL:
            break
    return int(_checked(answer, "seccomp"))


# -- the supervisor's side -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """A system call that waits: who made it (a thread's number), for which ABI, its number and arguments."""

    id: int
    thread: int
    audit: int
    number: int
    arguments: tuple[int, ...]


class Listener:
    """Where calls that wait are asked about, and answered."""

    def __init__(self, descriptor: int, of: Machine) -> None:
        self.descriptor, self.machine = descriptor, of
        self.names = {number: name for name, number in of.calls.items()}
        sizes = (ctypes.c_uint16 * 3)()
        _checked(_libc().syscall(of.seccomp, _GET_NOTIF_SIZES, 0, sizes), "seccomp")
        # a newer kernel may write more than is read here
        self._room, self._answer_room = max(sizes[0], 80), max(sizes[1], 24)

    def receive(self) -> Call | None:
        """Return the next call that waits; None if who made it has ended meanwhile."""
        buffer = bytearray(self._room)
        try:
            fcntl.ioctl(self.descriptor, _RECEIVE, buffer, True)
        except (FileNotFoundError, InterruptedError):
            return None
        number, thread, _flags, call, audit, _pointer, *arguments = struct.unpack_from("=QIIiIQ6Q", buffer)
        return Call(number, thread, audit, call, tuple(arguments))

    def name(self, call: Call) -> str:
        """Return a call's name; empty for one of another ABI."""
        return self.names.get(call.number, "") if call.audit == self.machine.audit else ""

    def waits(self, call: Call) -> bool:
        """Return whether the call still waits: only then is what was read under its thread's number of that thread."""
        try:
            fcntl.ioctl(self.descriptor, _VALID, struct.pack("=Q", call.id))
        except FileNotFoundError:
            return False
        return True

    def let_pass(self, call: Call) -> None:
        """Let the kernel go on with it."""
        self._answer(call, 0, _FLAG_CONTINUE)

    def refuse(self, call: Call, number: int) -> None:
        """Let it fail with an error number of :mod:`errno`."""
        self._answer(call, -number, 0)

    def _answer(self, call: Call, error: int, flags: int) -> None:
        answer = bytearray(self._answer_room)
        struct.pack_into("=QqiI", answer, 0, call.id, 0, error, flags)
        try:
            fcntl.ioctl(self.descriptor, _SEND, answer, True)
        except FileNotFoundError:
            # killed while it waited
            return


def read_memory(thread: int, address: int, size: int) -> bytes:
    """Return bytes of another process's memory.

    :raises OSError: it has ended, does not let itself be read, or has nothing there.
    """
    handle = os.open(f"/proc/{thread}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(handle, size, address)
    except OverflowError:
        raise OSError(errno.EFAULT, "no address") from None
    finally:
        os.close(handle)


# -- a network of one's own ----------------------------------------------------------------------------------------------------


def leave_network() -> bool:
    """Go into a network that has nothing but loopback, as root or in a user namespace; return whether that is allowed here.

    It must be called while there is one thread only. What is not allowed is found out by a child, so that nothing is left half done.
    """
    for flags in (_NEW_NET, _NEW_NET | _NEW_USER):
        child = os.fork()
        if not child:
            status = 1
            try:
                _unshare(flags)
                status = 0
            finally:
                os._exit(status)
        if os.waitpid(child, 0)[1] == 0:
            _unshare(flags)
            return True
    return False


def _unshare(flags: int) -> None:
    user, group = os.geteuid(), os.getegid()
    _checked(_libc().unshare(ctypes.c_int(flags)), "unshare")
    if flags & _NEW_USER:
        for file, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            Path("/proc/self", file).write_bytes(text.encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
