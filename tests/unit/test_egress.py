# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Work that may reach nothing but its machine: real programs, real calls, the kernel's own refusals."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils._egress import Peer, parse_address

ROOT = Path(__file__).resolve().parents[2]
HELPER = ROOT / "tests" / "support" / "under_egress.py"
OUT4, OUT6 = ("198.18.0.1", 80), ("2001:db8::1", 443)
NOBODY = 65534


class Steps:
    """Steps that run programs, and what their records say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def command(self, *argv: str | Path) -> list[str]:
        return [sys.executable, str(HELPER), str(self.folder), "step", *map(str, argv)]

    def run(self, *argv: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*argv), env={**os.environ, **env}, capture_output=True, text=True, check=False)

    def python(self, code: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-c", f"import os, socket, sys, errno\n{code}", *arguments, **env)

    def record(self) -> dict[str, Any]:
        (file,) = self.folder.glob("*.json")
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        assert (file.name == "step.json") == (not found["attempts"])
        assert file.stat().st_mode & 0o777 == 0o600 and list(self.folder.glob("*.part")) == []
        return found

    def tried(self) -> set[tuple[str, str, int | None]]:
        return {(item["call"], item["address"], item["port"]) for item in self.record()["attempts"]}

    def leave_somebody(self) -> dict[str, Any]:
        """Run a step that ends while a process of it goes on; return what is known of that, which has been ended meanwhile."""
        code = "import os, time\nif os.fork() == 0:\n    os.setsid(), os.close(1), os.close(2)\n    time.sleep(600)"
        argv = [sys.executable, "-c", SHORT_WAIT, *self.command(sys.executable, "-c", code)[1:]]
        assert subprocess.run(argv, check=False).returncode == 0
        (part,) = self.folder.glob("*.part")
        (left,) = json.loads(part.read_text(encoding="utf-8").splitlines()[-1])["left"]
        os.kill(left["pid"], signal.SIGKILL)
        found: dict[str, Any] = left
        return found


SHORT_WAIT = """
import runpy, sys
from ansible_collections.rlinf.offline.plugins.module_utils import _egress
_egress.LINGER = 0.2
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    return Steps(tmp_path / "prefix" / "state" / "air-gap")


def test_what_stays_on_the_machine_goes_on_and_is_named(steps: Steps, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        listening.listen()
        code = """
with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
    print(client.getpeername() == server.getsockname())
with socket.socket(socket.AF_INET6) as six:
    print(errno.errorcode[six.connect_ex(("::1", 9))])
with socket.socket(socket.AF_UNIX) as local:
    local.connect(sys.argv[1])
print(os.listdir("/sys/class/net") != [])
"""
        done = steps.python(code, str(tmp_path / "socket"))
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.split() == ["True", "ECONNREFUSED", "True"]
    record = steps.record()
    assert record["attempts"] == [] and record["recorded"] and record["canary"] and record["status"] == 0 and record["changed"]
    assert f"unix {tmp_path}/socket" in record["passed"] and "[::1]:9" in record["passed"]
    assert any(peer.startswith("127.0.0.1:") for peer in record["passed"])
    assert record["programs"][Path(sys.executable).name] == 1


CALLS = {
    "connect": ("s = socket.socket(); s.connect(('198.18.0.1', 80))", ("connect", *OUT4)),
    "connect-6": ("s = socket.socket(socket.AF_INET6); s.connect(('2001:db8::1', 443))", ("connect", *OUT6)),
    "mapped": ("s = socket.socket(socket.AF_INET6); s.connect(('::ffff:198.18.0.1', 80))", ("connect", "::ffff:c612:1", 80)),
    "sendto": ("s = socket.socket(type=socket.SOCK_DGRAM); s.sendto(b'x', ('198.18.0.1', 80))", ("sendto", *OUT4)),
    "sendmsg": ("s = socket.socket(type=socket.SOCK_DGRAM); s.sendmsg([b'x'], [], 0, ('198.18.0.1', 80))", ("sendmsg", *OUT4)),
    "fastopen": ("s = socket.socket(); s.sendto(b'x', socket.MSG_FASTOPEN, ('198.18.0.1', 80))", ("sendto", *OUT4)),
    "thread": (
        "import threading, concurrent.futures as f\nf.ThreadPoolExecutor().submit(socket.create_connection, ('198.18.0.1', 80)).result()",
        ("connect", *OUT4),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_leads_out_is_refused_as_without_a_network_and_named(steps: Steps, name: str) -> None:
    code, tried = CALLS[name]
    done = steps.python(code)
    assert done.returncode == 1 and f"[Errno {errno.ENETUNREACH}]" in done.stderr, done.stderr
    assert steps.tried() == {tried}
    (attempt,) = steps.record()["attempts"]
    assert attempt["count"] == 1 and attempt["pid"] > 1 and attempt["command"].startswith(f"{sys.executable} -c import os")


def test_messages_sent_together_are_all_looked_at(steps: Steps) -> None:
    """sendmmsg is what the C library looks up names with."""
    code = """
import ctypes, struct
def address(host, port):
    return ctypes.create_string_buffer(struct.pack("=H", socket.AF_INET) + struct.pack(">H", port) + socket.inet_aton(host) + bytes(8))
kept = [address("127.0.0.1", 9), address("198.18.0.1", 80)]
vector = b"".join(struct.pack("=QI4xQQQQI4xI4x", ctypes.addressof(item), 16, 0, 0, 0, 0, 0, 0) for item in kept)
assert len(vector) == 128
libc = ctypes.CDLL(None, use_errno=True)
s = socket.socket(type=socket.SOCK_DGRAM)
print(libc.sendmmsg(s.fileno(), vector, 2, 0), errno.errorcode[ctypes.get_errno()])
"""
    assert steps.python(code).stdout.split() == ["-1", "ENETUNREACH"]
    assert steps.tried() == {("sendmmsg", *OUT4)}


def test_a_name_that_is_looked_up_is_an_attempt(steps: Steps) -> None:
    """Whatever the machine's resolver is, one on loopback included."""
    done = steps.python("s = socket.socket(type=socket.SOCK_DGRAM); s.connect(('127.0.0.53', 53))")
    assert done.returncode == 1 and steps.tried() == {("connect", "127.0.0.53", 53)}


def test_those_who_look_up_names_for_others_are_not_there(steps: Steps) -> None:
    code = "s = socket.socket(socket.AF_UNIX); print(errno.errorcode[s.connect_ex('/run/systemd/resolve/io.systemd.Resolve')])"
    assert steps.python(code).stdout.strip() == "ECONNREFUSED"
    assert not any("resolve" in peer for peer in steps.record()["passed"])


@pytest.mark.parametrize(
    "argv",
    [
        ["git", "ls-remote", "https://user:secret@198.18.0.1/x.git"],
        ["curl", "-sS", "--noproxy", "*", "https://user:secret@198.18.0.1/x"],
        [str(Path(sys.executable).with_name("uv")), "pip", "download", "https://user:secret@198.18.0.1/x-1-py3-none-any.whl"],
    ],
    ids=["git", "curl", "uv"],
)
def test_programs_are_seen_however_they_are_linked(steps: Steps, tmp_path: Path, argv: list[str]) -> None:
    if argv[1:3] == ["pip", "download"]:
        argv = [argv[0], "pip", "install", "--no-config", "--target", str(tmp_path / "t"), f"x @ {argv[-1]}"]
    done = steps.run(*argv, UV_HTTP_RETRIES="0", UV_CACHE_DIR=str(tmp_path / "cache"))
    assert done.returncode != 0
    assert ("connect", "198.18.0.1", 443) in steps.tried()
    assert "secret" not in json.dumps(steps.record())


ATTEMPT = "import socket, sys; socket.socket().connect_ex(('198.18.0.1', int(sys.argv[1])))"


def test_a_grandchild_and_an_orphan_are_seen_with_their_parents(steps: Steps) -> None:
    code = """
import subprocess
subprocess.run(["sh", "-c", '"$0" -c "$1" 81; true', sys.executable, sys.argv[1]], check=True)
reader, writer = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        # a daemon: its parent has ended when this returns
        os.close(writer)
        os.read(reader, 1)
        os.execv(sys.executable, [sys.executable, "-c", sys.argv[1], "82"])
    os._exit(0)
"""
    assert steps.python(code, ATTEMPT).returncode == 0
    parents = {item["port"]: item["parents"] for item in steps.record()["attempts"]}
    python = Path(os.path.realpath(sys.executable)).name
    assert set(parents) == {81, 82} and parents[81][0] == "sh" and parents[81][-1].startswith(python[:6]) and "sh" not in parents[82]


@pytest.mark.parametrize(
    ("code", "tried"),
    [
        ("socket.socket(socket.AF_PACKET, socket.SOCK_RAW)", "socket of family 17, protocol 0"),
        ("socket.socket(socket.AF_VSOCK)", "socket of family 40, protocol 0"),
        ("socket.socket(proto=132)", "socket of family 2, protocol 132"),
    ],
    ids=["packet", "vsock", "sctp"],
)
def test_sockets_that_lead_out_otherwise_cannot_be_made(steps: Steps, code: str, tried: str) -> None:
    done = steps.python(code)
    assert done.returncode == 1 and f"[Errno {errno.EAFNOSUPPORT}]" in done.stderr
    assert [(item["call"], item["family"]) for item in steps.record()["attempts"]] == [("socket", tried)]


def test_io_uring_cannot_be_set_up(steps: Steps) -> None:
    code = "import ctypes; libc = ctypes.CDLL(None, use_errno=True); print(libc.syscall(425, 1, bytes(120)), errno.errorcode[ctypes.get_errno()])"
    assert steps.python(code).stdout.split() == ["-1", "ENOSYS"]
    assert steps.record()["attempts"] == []


def program_of_32_bits(place: Path) -> Path:
    """Write an ELF file for i386 that ends with 42 if ``socket`` (by socketcall) fails and ``exit`` does not, and return it."""
    code = bytes.fromhex(
        "b866000000"  # mov eax, 102: socketcall
        "bb01000000"  # mov ebx, 1: socket
        "b900000000"  # mov ecx, its arguments
        "cd80"  # int 0x80
        "b801000000"  # mov eax, 1: exit
        "bb2a000000"  # mov ebx, 42
        "cd80"
    )
    base, size = 0x08048000, 52 + 32
    header = b"\x7fELF\x01\x01\x01" + bytes(9)
    header += struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, base + size, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    segment = struct.pack("<IIIIIIII", 1, 0, base, base, size + len(code), size + len(code), 5, 0x1000)
    place.write_bytes(header + segment + code)
    place.chmod(0o755)
    return place


def test_calls_of_another_abi_are_refused_and_named(steps: Steps, tmp_path: Path) -> None:
    """Where the kernel runs 32-bit programs at all, none of their calls is let pass, so such a program does not even end by itself."""
    program = program_of_32_bits(tmp_path / "program")
    try:
        runs = subprocess.run([program], check=False).returncode == 42
    except OSError:
        runs = False
    done = steps.run(program)
    assert done.returncode != 42
    families = {item["family"] for item in steps.record()["attempts"]}
    assert families == ({"a system call of another ABI"} if runs else set())


# -- how a step ends -----------------------------------------------------------------------------------------------------------------


def test_the_childs_status_is_the_steps(steps: Steps) -> None:
    assert steps.python("sys.exit(7)").returncode == 7
    assert steps.record()["status"] == 7


def test_a_signal_that_ends_the_child_ends_the_step(steps: Steps) -> None:
    assert steps.python("os.kill(os.getpid(), 9)").returncode == -signal.SIGKILL
    assert steps.python("import signal; os.kill(os.getpid(), signal.SIGTERM)").returncode == -signal.SIGTERM
    assert steps.record()["status"] == -signal.SIGTERM


def started(steps: Steps, code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a step that prints a line when it is where it shall be."""
    argv = steps.command(sys.executable, "-u", "-c", f"import os, signal, socket, sys, time, errno\n{code}", *arguments)
    running = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert running.stdout and running.stdout.readline() == "ready\n"
    return running


def test_a_signal_is_handed_on_to_the_child(steps: Steps) -> None:
    code = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3)); print('ready'); signal.pause()"
    with started(steps, code) as running:
        running.send_signal(signal.SIGTERM)
        assert running.wait() == 3
    assert steps.record()["status"] == 3


def test_what_is_left_of_a_killed_supervisor_reaches_nothing_not_even_this_machine(steps: Steps, tmp_path: Path) -> None:
    """The child ends with it; a process of that one goes on, without anybody who could let it pass. The record says that it was cut off."""
    said = tmp_path / "said"
    os.mkfifo(said)
    code = """
parent = os.getpid()
if os.fork() == 0:
    os.setsid()
    while os.getppid() == parent:
        pass
    with open(sys.argv[1], "w") as said:
        print(errno.errorcode[socket.socket().connect_ex(("127.0.0.1", 9))], file=said)
    os._exit(0)
print("ready")
signal.pause()
"""
    with started(steps, code, str(said)) as running:
        running.kill()
        with said.open() as stream:
            assert stream.read().strip() == "ENOSYS"
    (part,) = steps.folder.glob("*.part")
    assert list(steps.folder.glob("*.json")) == [] and "ended" not in part.read_text(encoding="utf-8")
    # the same step, seen to its end, takes its place
    assert steps.run("true").returncode == 0
    assert steps.record()["status"] == 0


def test_what_a_step_leaves_running_is_named(steps: Steps) -> None:
    """It is waited for only for a while."""
    left = steps.leave_somebody()
    (part,) = steps.folder.iterdir()
    assert part.suffix == ".part" and "time.sleep(600)" in left["command"]


def test_only_the_last_step_that_changed_something_is_kept_but_every_attempt(steps: Steps) -> None:
    for port in (80, 81):
        steps.python(ATTEMPT, str(port))
    assert len(list(steps.folder.glob("step.*.attempts.json"))) == 2
    assert steps.run("true").returncode == 0
    assert len(list(steps.folder.glob("*.json"))) == 3 and json.loads((steps.folder / "step.json").read_text())["attempts"] == []


# -- where less is allowed -----------------------------------------------------------------------------------------------------------


def test_without_a_namespace_the_filter_alone_refuses(steps: Steps) -> None:
    done = steps.python("print(os.readlink('/proc/self/ns/net')); " + ATTEMPT, "80", NO_NAMESPACE="1")
    assert done.stdout.strip() == os.readlink("/proc/self/ns/net")
    assert steps.record()["kept_in"] == {"filter": True, "namespace": False} and steps.tried() == {("connect", *OUT4)}


def test_without_a_filter_the_namespace_alone_denies_and_says_so(steps: Steps) -> None:
    done = steps.python("print(errno.errorcode[socket.socket().connect_ex(('198.18.0.1', 80))])", NO_FILTER="1")
    record = steps.record()
    assert done.stdout.strip() == "ENETUNREACH" and record["attempts"] == []
    assert record["recorded"] is False and "64-bit" in record["problem"]


def test_without_either_nothing_is_run(steps: Steps, tmp_path: Path) -> None:
    done = steps.run("touch", tmp_path / "run", NO_FILTER="1", NO_NAMESPACE="1")
    assert done.returncode == 1 and "take out rlinf_air_gap" in done.stderr and not (tmp_path / "run").exists()


AS_NOBODY = f"""
import ctypes, encodings.idna, getpass, json, os, pwd, runpy, select, sys, threading
import ansible_collections.rlinf.offline.plugins.module_utils._egress
# the tools may lie where this user cannot go: all that is imported is imported by now
source = open(sys.argv[1]).read()
os.setgroups([]), os.setgid({NOBODY}), os.setuid({NOBODY})
# what has changed its user may not be looked into until it runs another program, as sudo does at once
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
sys.argv = sys.argv[1:]
exec(compile(source, sys.argv[0], "exec"))
"""


@pytest.mark.parametrize("less", [{}, {"NO_NAMESPACE": "1"}], ids=["namespace", "filter"])
def test_it_needs_no_root(steps: Steps, tmp_path: Path, less: dict[str, str]) -> None:
    """As another user, where the tests run as root; as this one otherwise."""
    state, user = steps.folder.parent, os.geteuid()
    state.mkdir(parents=True)
    command = steps.command("/usr/bin/env", "python3", "-c", ATTEMPT, "80")
    if user == 0:
        command, user = [sys.executable, "-c", AS_NOBODY, *command[1:]], NOBODY
        os.chown(state, user, user)
        for folder in list(state.relative_to("/tmp").parents)[:-1]:
            Path("/tmp", folder).chmod(0o755)
    done = subprocess.run(command, env={**os.environ, "PATH": "/usr/bin:/bin", **less}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = steps.record()
    assert steps.tried() == {("connect", *OUT4)} and record["recorded"] and record["uid"] == user
    assert record["kept_in"]["namespace"] is not bool(less)


def test_what_cannot_be_looked_into_is_refused_and_named(steps: Steps) -> None:
    """A process that lets nobody read its memory, not even to this machine."""
    code = "import ctypes; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0); print(errno.errorcode[socket.socket().connect_ex(('127.0.0.1', 9))])"
    arguments = {"PATH": "/usr/bin:/bin"}
    done = steps.python(code, **arguments)
    if os.geteuid() == 0:
        # root may read it all the same
        assert done.stdout.strip() == "ECONNREFUSED" and steps.record()["attempts"] == []
    else:
        assert done.stdout.strip() == "ENETUNREACH" and steps.record()["attempts"][0]["family"] == "an address that could not be read"


# -- addresses -----------------------------------------------------------------------------------------------------------------------


def inet(host: str, port: int, family: int = socket.AF_INET) -> bytes:
    return struct.pack("=H", family) + struct.pack(">H", port) + socket.inet_aton(host) + bytes(8)


def inet6(host: str, port: int) -> bytes:
    return struct.pack("=H", socket.AF_INET6) + struct.pack(">HI", port, 0) + socket.inet_pton(socket.AF_INET6, host) + bytes(4)


@pytest.mark.parametrize(
    ("data", "sending", "leads_out"),
    [
        (inet("127.1.2.3", 80), False, False),
        (inet("0.0.0.0", 80), False, False),
        (inet("10.0.0.1", 80), False, True),
        (inet("127.0.0.1", 53), False, True),
        (inet("198.18.0.1", 80, socket.AF_UNSPEC), True, True),
        (inet6("::1", 80), False, False),
        (inet6("::", 80), False, False),
        (inet6("::ffff:127.0.0.1", 80), False, False),
        (inet6("::ffff:10.0.0.1", 80), False, True),
        (inet6("fe80::1", 80), False, True),
        (struct.pack("=H", socket.AF_UNIX) + b"/run/x\0rest", False, False),
        (struct.pack("=H", socket.AF_NETLINK) + bytes(10), True, False),
        (struct.pack("=H", 40) + bytes(14), False, True),
        # the kernel refuses what is too short; it is nobody's loopback all the same
        (inet("127.0.0.1", 80)[:6], False, True),
    ],
)
def test_what_leads_out(data: bytes, sending: bool, leads_out: bool) -> None:
    found = parse_address(data, sending=sending)
    assert found is not None and found.leads_out is leads_out


def test_who_ends_a_connection_reaches_nobody() -> None:
    assert parse_address(inet("198.18.0.1", 80, socket.AF_UNSPEC), sending=False) is None
    assert parse_address(b"", sending=True) is None


def test_sockets_without_a_file_have_a_name() -> None:
    assert parse_address(struct.pack("=H", socket.AF_UNIX) + b"\0name", sending=False) == Peer("unix", "@name")
    assert str(Peer("inet6", "2001:db8::1", 443)) == "[2001:db8::1]:443"


# -- modules -------------------------------------------------------------------------------------------------------------------------


def test_a_module_works_under_it_where_it_is_asked_to(run_module: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    folder = tmp_path / "air-gap"
    arguments = {"path": str(tmp_path / "kept.json"), "nodes": {}, "_ansible_module_name": "rlinf.offline.rlinf_survey"}
    for check, kept in ((True, []), (False, ["rlinf_survey.json"])):
        result = run_module("rlinf_survey", arguments, check=check, env={"RLINF_AIR_GAP": str(folder)})
        assert result["changed"] and sorted(path.name for path in folder.glob("*")) == kept
    record = json.loads((folder / "rlinf_survey.json").read_text())
    assert record["module"] == "rlinf_survey" and record["changed"] and record["attempts"] == []
    # one that changes nothing leaves the record of what did
    before = (folder / "rlinf_survey.json").read_bytes()
    assert not run_module("rlinf_survey", arguments, env={"RLINF_AIR_GAP": str(folder)})["changed"]
    assert [path.read_bytes() for path in folder.iterdir()] == [before]
