# SPDX-License-Identifier: GPL-3.0-or-later
"""What a swarm is planned by, and two real peers of one on loopback; tests/integration/test_push_engines.py has nodes and playbooks."""

from __future__ import annotations

import base64
import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils import _swarm, _swarm_peer
from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._push import Seen, Ssh, There
from ansible_collections.rlinf.offline.plugins.module_utils._swarm import (
    NEIGHBOURS,
    Reach,
    Swarm,
    keep_names,
    kept_names,
    neighbours,
    piece_size,
    swarm_wheels,
)
from tests.support.fleet import bundle_of, processes

_PROGRAM = Path(_swarm_peer.__file__)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 100])
def test_everyone_is_a_few_steps_from_everyone_and_has_few_neighbours(count: int) -> None:
    links: dict[int, set[int]] = {number: set() for number in range(count)}
    for number in range(count):
        for other in neighbours(number, count):
            assert other != number
            links[number].add(other)
            links[other].add(number)
    assert max(map(len, links.values())) <= NEIGHBOURS
    distance, queue = {0: 0}, deque([0])
    while queue:
        number = queue.popleft()
        for other in links[number] - distance.keys():
            distance[other] = distance[number] + 1
            queue.append(other)
    assert len(distance) == count and max(distance.values()) <= 8


@pytest.mark.parametrize(("total", "size"), [(0, 2**18), (10**9, 2**19), (10**10, 2**22), (10**12, 2**22)])
def test_a_piece_is_a_power_of_two(total: int, size: int) -> None:
    assert piece_size(total) == size


def test_names_that_many_lack_are_kept_once(tmp_path: Path) -> None:
    digest = keep_names(tmp_path, ["b", "a"])
    assert keep_names(tmp_path, {"a": 1, "b": 2}) == digest and kept_names(tmp_path, digest) == ["a", "b"]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_node_is_asked_by_one_command() -> None:
    reach = Reach(Ssh("gpu01", user="rlinf"), "/usr/bin/python3", "/opt/a b", ["wheels/x"], become="root")
    assert reach.command[-2] == "gpu01" and "exec sudo -n -u root /usr/bin/python3 -c" in reach.command[-1]
    job = reach.job({"wheels/x": (1, 2, 3), "wheels/y": (4, 5, 6)}, {"3.11": "tools/swarm/l.whl"}, 0)
    assert job["files"] == {"wheels/x": (1, 2, 3)} and job["wheels"] == {"3.11": "/opt/a b/tools/swarm/l.whl"}


def test_what_a_node_lacks_is_judged_by_size_and_time(tmp_path: Path) -> None:
    for name, content in (("same", b"1"), ("longer", b"22"), ("newer", b"3"), ("missing", b"4")):
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, ns=(1_000_000_000_999_999_999, 1_000_000_000_999_999_999))
    (tmp_path / "link").symlink_to("same")
    lines = ["python 3.11 /usr/bin/python3", *(f"file f644 1 100000000{rest}\t" for rest in ("0.99999 same", "0.0 longer", "1.0 newer"))]
    seen = Seen.parse([*lines, "file f755 4 5.0 a name with blanks\t", "file l777 4 5.0 link\tsame", "sealed"])
    assert seen.pythons == {"3.11": "/usr/bin/python3"} and seen.sealed and seen.rsync and not seen.shared
    assert seen.files["a name with blanks"] == There("f755", 4, 5) and seen.files["link"].link == "same"
    lacking = seen.lacks(Bundle(tmp_path), ["same", "longer", "newer", "missing", "link"])
    assert lacking == {"longer": 2, "newer": 1, "missing": 1}


def test_placing_is_one_step_and_may_be_done_again(tmp_path: Path) -> None:
    source, path = tmp_path / "cache" / "file", tmp_path / "bundle" / "wheels" / "file"
    source.parent.mkdir()
    source.write_bytes(b"new")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"old")
    for _again in range(2):
        _swarm_peer.place(source, path, 1_500_000_000_123_456_789, 0o640)
        assert path.read_bytes() == b"new" and path.stat().st_mtime_ns == 1_500_000_000_123_456_789 and path.stat().st_mode & 0o777 == 0o640
        assert [entry.name for entry in path.parent.iterdir()] == ["file"]


class Talk:
    """A peer as a process, spoken to as _swarm.py does, without the ssh between."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, _PROGRAM, "127.0.0.1 1 127.0.0.1 22"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        torrent = base64.b64decode(job.get("torrent", ""))
        self.tell({**job, "torrent": len(torrent)})
        assert self.process.stdin
        self.process.stdin.buffer.write(torrent)
        self.process.stdin.flush()

    def tell(self, command: dict[str, Any]) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def until(self, *events: str) -> dict[str, Any]:
        assert self.process.stdout
        for line in self.process.stdout:
            said: dict[str, Any] = json.loads(line)
            if said["event"] in events:
                return said
        raise AssertionError(f"it ended before any of {events}")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle_of(tmp_path_factory.mktemp("swarm") / "bundle", [700_000, 300_000, 10])


@pytest.fixture
def jobs(bundle: Bundle, tmp_path: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield the jobs of the bastion's peer and of a node's."""
    names = sorted(str(path.relative_to(bundle.root)) for path in bundle.wheels.iterdir())
    stats = {name: (bundle.root / name).stat() for name in names}
    wheels = {"{}.{}".format(*sys.version_info): str(*bundle.swarm_tools.glob("*.whl"))}
    files = {name: [status.st_size, status.st_mtime_ns, 0o644] for name, status in stats.items()}
    common = {"wheels": wheels, "files": files, "settings": {}, "bandwidth": 0}
    made = Talk({**common, "do": "make", "folder": str(bundle.root), "piece": 2**18}).until("made")
    node = {"do": "join", "folder": str(tmp_path / "n/.cache/swarm"), "destination": str(tmp_path / "n"), "address": "", "port": 0}
    shared = {**common, "torrent": made["torrent"]}
    yield {**shared, "do": "seed", "folder": str(bundle.root)}, {**shared, **node}


def test_a_peer_gets_everything_from_another_and_leaves_nothing(
    bundle: Bundle, jobs: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    node, seed = Talk(jobs[1]), Talk(jobs[0])
    ready = node.until("ready")
    assert ready["address"] == "127.0.0.1" and ready["total"] == 1_000_010
    seed.until("ready")
    node.tell({"do": "connect", "peers": [], "admit": ["127.0.0.1"], "prefer": [0, 1]})
    seed.tell({"do": "connect", "peers": [["127.0.0.1", ready["port"]]], "admit": ["127.0.0.1"], "prefer": None})
    assert node.until("complete")["files"] == 3
    for peer in (node, seed):
        peer.tell({"do": "stop"})
        peer.until("ended")
        assert peer.process.wait(30) == 0
    for path in bundle.wheels.iterdir():
        there = tmp_path / "n" / "wheels" / path.name
        assert there.read_bytes() == path.read_bytes() and there.stat().st_mtime_ns == path.stat().st_mtime_ns
    assert not (tmp_path / "n/.cache/swarm").exists()


def test_without_anybody_at_the_other_end_it_ends(jobs: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path) -> None:
    node = Talk(jobs[1])
    node.until("ready")
    assert node.process.stdin
    node.process.stdin.close()
    node.until("ended")
    assert node.process.wait(30) == 0
    # what had arrived is kept for the next time
    assert (tmp_path / "n/.cache/swarm").is_dir() and not (tmp_path / "n/wheels").exists()


def test_two_at_once_on_one_bundle_are_told_apart(jobs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    first = Talk(jobs[1])
    first.until("ready")
    second = Talk(jobs[1])
    assert "is in use by another push" in second.until("failed")["reason"]
    assert second.process.wait(30) == 1
    first.tell({"do": "stop"})
    first.until("ended")


def test_a_file_system_without_locks_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = errno.ENOLCK

    def flock(file: IO[bytes], _how: int) -> None:
        assert fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        raise OSError(said, os.strerror(said))

    monkeypatch.setattr(fcntl, "flock", flock)
    with _swarm_peer.alone(tmp_path / "swarm"):
        assert (tmp_path / "swarm").is_dir()
    said = errno.EIO
    with pytest.raises(OSError, match="Input/output"), _swarm_peer.alone(tmp_path / "swarm"):
        raise AssertionError("not reached")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"wheels": {}}, "."),
        ({"address": "198.19.255.1"}, "Nothing can listen on 198.19.255.1"),
    ],
)
def test_a_peer_that_cannot_take_part_says_why(jobs: tuple[dict[str, Any], dict[str, Any]], change: dict[str, Any], said: str) -> None:
    peer = Talk({**jobs[1], **change})
    assert said in peer.until("failed")["reason"]
    assert peer.process.wait(30) == 1


def test_a_torrent_is_the_same_whenever_it_is_made(bundle: Bundle, jobs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    job = {**jobs[0], "do": "make", "piece": 2**18}
    again = Talk(job).until("made")["torrent"]
    assert again == jobs[0]["torrent"] and b"bundle" in base64.b64decode(again)


def test_a_bastion_that_cannot_take_part_says_why(bundle: Bundle, tmp_path: Path) -> None:
    swarm = Swarm(bundle, {"3.99": "tools/swarm/none.whl"}, sys.executable)
    with pytest.raises(BundleError, match="The bastion cannot make a torrent of the bundle"):
        swarm.push({"gpu01": Reach(Ssh("gpu01"), "python3", str(tmp_path), ["wheels/file-00000.bin"])})


def test_what_a_peer_sends_is_limited_on_private_networks_too(jobs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    limit = 250_000
    node, seed = Talk(jobs[1]), Talk({**jobs[0], "bandwidth": limit})
    ready = node.until("ready")
    seed.until("ready")
    node.tell({"do": "connect", "peers": [], "admit": ["127.0.0.1"], "prefer": None})
    start = time.monotonic()
    seed.tell({"do": "connect", "peers": [["127.0.0.1", ready["port"]]], "admit": ["127.0.0.1"], "prefer": None})
    received = node.until("complete")["received"]
    # what is sent before the limit is felt is no more than a second's worth
    assert received < limit * (time.monotonic() - start + 1)
    for peer in (node, seed):
        peer.tell({"do": "stop"})
        peer.until("ended")


def refused(port: int, source: str) -> bool:
    """Return whether a peer shuts the door before a stranger from this address has said a word."""
    with socket.create_connection(("127.0.0.1", port), timeout=30, source_address=(source, 0)) as stranger:
        try:
            return stranger.recv(1) == b""
        except ConnectionResetError:
            return True


def listening(pid: int) -> set[str]:
    """Return the addresses, without ports, on which a process listens by TCP."""
    listed = subprocess.run(["ss", "-Hltnp"], check=True, capture_output=True, text=True).stdout
    return {line.split()[3].rpartition(":")[0].partition("%")[0] for line in listed.splitlines() if f"pid={pid}," in line}


def test_strangers_are_refused_at_any_time_and_nothing_else_listens(jobs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    node = Talk(jobs[1])
    port = node.until("ready")["port"]
    assert listening(node.process.pid) == {"127.0.0.1"}
    assert refused(port, "127.0.0.1") and refused(port, "127.0.0.2")
    node.tell({"do": "connect", "peers": [], "admit": ["127.0.0.1"], "prefer": None})
    node.until("progress")
    assert refused(port, "127.0.0.2")
    node.tell({"do": "stop"})
    node.until("ended")


# -- whole swarms, with a shell in the place of ssh ------------------------------------------------------------------------------------


@pytest.fixture
def ssh(tmp_path: Path) -> str:
    """Return a program that runs here what ssh would run on a node, of which it says that it is reached at 127.0.0.1."""
    program = tmp_path / "ssh"
    program.write_text('#!/bin/sh\nfor command; do :; done\nexport SSH_CONNECTION="127.0.0.1 1 127.0.0.1 22"\neval "exec $command"\n')
    program.chmod(0o755)
    return str(program)


def nodes_of(bundle: Bundle, tmp_path: Path, ssh: str, count: int) -> dict[str, Reach]:
    """Return nodes that lack all files, and have libtorrent's wheel as an earlier step brings it."""
    names = sorted(str(path.relative_to(bundle.root)) for path in bundle.wheels.iterdir())
    reaches = {}
    for number in range(count):
        destination = tmp_path / f"node{number}"
        shutil.copytree(bundle.swarm_tools, Bundle(destination).swarm_tools)
        address = f"127.0.0.{number + 2}"
        reaches[f"node{number}"] = Reach(Ssh("", executable=ssh), sys.executable, str(destination), names, address=address)
    return reaches


def test_nodes_that_reach_only_the_bastion_get_everything_of_it(tmp_path: Path, ssh: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_swarm, "neighbours", lambda _number, _count: [])
    monkeypatch.setattr(_swarm, "BEAT", 1.0)
    bundle = bundle_of(tmp_path / "bundle", [8_000_000])
    outcome = Swarm(bundle, swarm_wheels(bundle), sys.executable, bandwidth=3_000_000).push(nodes_of(bundle, tmp_path, ssh, 2))
    assert all(part.complete for part in outcome.nodes.values())
    # far more than the trickle of a bastion whose nodes serve each other
    assert outcome.seed.sent > outcome.seconds * 5 * _swarm_peer._TRICKLE
    assert [(tmp_path / f"node{number}/wheels/file-00000.bin").stat().st_size for number in (0, 1)] == [8_000_000] * 2


def test_of_many_files_the_largest_are_given(tmp_path: Path, ssh: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a torrent takes of memory grows with its files. What is left is for rsync, which follows."""
    monkeypatch.setattr(_swarm, "FILES", 2)
    bundle = bundle_of(tmp_path / "bundle", [1000, 300_000, 10, 1000, 0])
    outcome = Swarm(bundle, swarm_wheels(bundle), sys.executable).push(nodes_of(bundle, tmp_path, ssh, 1))
    assert outcome.nodes["node0"].complete and outcome.nodes["node0"].received >= 301_000
    assert sorted(path.name for path in (tmp_path / "node0/wheels").iterdir()) == ["file-00000.bin", "file-00001.bin"]


def test_without_the_bastions_peer_nodes_end_and_go_on_later_from_where_they_were(
    tmp_path: Path, ssh: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, scratch = 8_000_000, tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(_swarm, "PATIENCE", 20.0)
    # on loopback all would come from one address, and libtorrent lets in one of each
    monkeypatch.setattr(_swarm, "neighbours", lambda _number, _count: [])
    bundle = bundle_of(tmp_path / "bundle", [size])
    nodes = nodes_of(bundle, tmp_path, ssh, 2)
    seeder = tmp_path / "seeder"
    seeder.write_text(f'#!/bin/sh\necho $$ > {seeder}.pid\nexec {sys.executable} "$@"\n')
    seeder.chmod(0o755)

    def kill(_meter: object, received: int) -> None:
        pid = Path(f"{seeder}.pid")
        if received > size // 3 and pid.exists():
            os.kill(int(pid.read_text()), signal.SIGKILL)
            pid.unlink()

    with monkeypatch.context() as patched:
        patched.setattr(_swarm.Meter, "show", kill)
        outcome = Swarm(bundle, swarm_wheels(bundle), str(seeder), bandwidth=1_000_000).push(nodes)
    assert [node.reason for node in outcome.nodes.values()] == ["nothing arrived for 20 seconds"] * 2
    assert not processes("rlinf-swarm", f"TMPDIR={scratch}") and not (tmp_path / "node0" / "wheels").exists()
    again = Swarm(bundle, swarm_wheels(bundle), sys.executable).push(nodes)
    assert [(node.complete, node.received < size) for node in again.nodes.values()] == [(True, True)] * 2, again
    assert not any(Bundle(tmp_path / name).arriving.exists() for name in nodes)


# says what a peer says, and gives and takes nothing
_POLITE = """#!/bin/bash
figures='"received": 1, "sent": 0, "complete": true'
while read -r -t 5 line; do
  case $line in
    *'"do": "make"'*) echo '{"event": "made", "torrent": ""}'; exit ;;
    *'"do": "join"'* | *'"do": "seed"'*) echo '{"event": "ready", "address": "127.0.0.2", "client": "", "port": 9}' ;;
    '{"do": "connect"'*) echo '{"event": "complete", '"$figures}" ;;
    '{"do": "stop"'*) exit ;;
  esac
done
echo '{"event": "failed", "reason": "nobody is there any more"}'
"""
_NEVER_READY = "#!/bin/sh\nexec sleep 1000\n"
_READY_AND_NO_MORE = """#!/bin/sh
echo '{"event": "ready", "address": "127.0.0.2", "client": "", "port": 9}'
exec sleep 1000
"""


def played(program: str, path: Path, ssh: str) -> Reach:
    """Return a node whose peer is this program, which leaves the id of its process beside it if it goes on as another."""
    path.write_text(program.replace("exec", f"echo $$ > {path}.pid\nexec"))
    path.chmod(0o755)
    return Reach(Ssh("", executable=ssh), str(path), str(path.parent), ["wheels/file-00000.bin"])


def test_nothing_has_to_be_written_into_the_bastions_bundle(tmp_path: Path, ssh: str) -> None:
    bundle = bundle_of(tmp_path / "bundle", [1000], swarm=False)
    # in the way of any directory below it, for root as well
    bundle.cache.touch()
    node = played(_POLITE, tmp_path / "polite", ssh)
    assert Swarm(bundle, {}, node.python).push({"node1": node}).nodes["node1"].complete


def test_a_node_that_hangs_is_given_up_and_holds_nobody_back(tmp_path: Path, ssh: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"PATIENCE": 8.0, "PARTING": 1.0, "BEAT": 0.5}.items():
        monkeypatch.setattr(_swarm, name, seconds)
    bundle = bundle_of(tmp_path / "bundle", [1000], swarm=False)
    programs = {"polite": _POLITE, "late": _NEVER_READY, "stuck": _READY_AND_NO_MORE}
    nodes = {node: played(program, tmp_path / node, ssh) for node, program in programs.items()}
    parts = Swarm(bundle, {}, str(tmp_path / "polite")).push(nodes).nodes
    # who was ready got signs of life while the late one was waited for, and only the one that hung was given up then
    assert parts["polite"].complete, parts["polite"].reason
    assert (parts["late"].complete, parts["late"].reason) == (False, "it did not answer within 8 seconds")
    assert (parts["stuck"].complete, parts["stuck"].reason) == (False, "nothing arrived for 8 seconds")
    for node in ("late", "stuck"):
        assert not Path("/proc", (tmp_path / f"{node}.pid").read_text().strip()).exists()
