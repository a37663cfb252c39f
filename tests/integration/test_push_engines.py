# SPDX-License-Identifier: GPL-3.0-or-later
"""The ways a bundle comes to several nodes, by the playbook and over ssh."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils._bundle import seal
from ansible_collections.rlinf.offline.plugins.module_utils._files import sha256_file
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from tests.support.fleet import (
    PREFIX,
    Fleet,
    bundle_of,
    command_of,
    environment,
    inventory,
    left_on,
    manifest,
    play,
    processes,
    wait_for,
)

SIZES = (40_000_000, 9_000_000, 3_000_000, 70_000, 1_000, 0)
RECEIVED = "cat /sys/class/net/eth0/statistics/rx_bytes"
PATHS = f"cd {PREFIX}/bundle && find . '(' -path ./.cache -o -path ./.lock ')' -prune -o -type f -print | sort"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle_of(tmp_path_factory.mktemp("bastion") / "bundle", SIZES)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("f") / "h", 3) as fleet:
        fleet.give_python()
        # as slow as what it stands for, against what nodes have among them; or the bastion may as well send all
        fleet.shape("200mbit")
        yield fleet


@pytest.fixture(autouse=True)
def nothing_yet(fleet: Fleet) -> None:
    forget(fleet)


def forget(fleet: Fleet) -> None:
    """Let no host have anything."""
    for host in fleet.addresses:
        fleet.shell(host, f"rm -rf {PREFIX}")


def hosts(fleet: Fleet, **more: Any) -> dict[str, dict[str, Any]]:
    return {host: fleet.variables(host, rlinf_targets=[], **more) for host in fleet.addresses}


def manifest_bytes(bundle: Bundle) -> int:
    return sum(entry.get("size", 0) for entry in manifest(bundle)["files"].values())


def has_all(fleet: Fleet, bundle: Bundle) -> None:
    """Every host has every file, and the first of them is right; a play verifies all of them."""
    listed = sorted([*(f"./{name}" for name in manifest(bundle)["files"]), "./bundle.json"])
    for host in fleet.addresses:
        assert sorted(fleet.shell(host, PATHS).split()) == listed
        digest = fleet.shell(host, f"sha256sum < {PREFIX}/bundle/wheels/file-00000.bin").split()[0]
        assert digest == manifest(bundle)["files"]["wheels/file-00000.bin"]["sha256"]


def test_of_hosts_that_do_not_come_up_nothing_stays(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(subprocess.CalledProcessError):
        Fleet(tmp_path / "h", 1, LOWER=str(tmp_path / "empty"))
    assert not (tmp_path / "h").exists()


def test_a_swarm_brings_every_node_everything_and_leaves_nothing(fleet: Fleet, bundle: Bundle, tmp_path: Path) -> None:
    names = inventory(tmp_path / "hosts.yml", bundle, hosts(fleet, rlinf_push_engine="swarm"))
    before = fleet.sent()
    ran = play("push", names)
    assert ran.status == 0, ran.output
    sent = fleet.sent() - before
    has_all(fleet, bundle)
    # the wheel of libtorrent goes to each, and everything else hardly more than once, and not three times
    wheel = next(bundle.swarm_tools.glob("*.whl")).stat().st_size
    assert sent < 2 * sum(SIZES) + 3 * 1.1 * wheel, ran.output
    assert [left_on(fleet, host) for host in fleet.addresses] == [""] * 3
    assert not fleet.shell("node1", f"ls {PREFIX}/bundle/.cache")
    again = play("push", names, "-v")
    assert again.status == 0 and set(again.changed.values()) == {0}, again.output
    assert "nothing to be shared" in again.output


def test_a_node_that_cannot_take_part_gets_it_by_rsync(fleet: Fleet, bundle: Bundle, tmp_path: Path) -> None:
    nodes = hosts(fleet, rlinf_push_engine="swarm")
    # of an address that is not its own
    nodes["node3"]["rlinf_swarm_address"] = "198.19.255.1"
    ran = play("push", inventory(tmp_path / "hosts.yml", bundle, nodes))
    assert ran.status == 0, ran.output
    assert "node3 took no part in the swarm, rsync brings it what it lacks: Nothing can listen on 198.19.255.1" in " ".join(
        ran.output.split()
    )
    has_all(fleet, bundle)


@pytest.mark.parametrize("cut", [signal.SIGINT, signal.SIGKILL])
def test_cut_off_it_leaves_no_process_and_goes_on_later(fleet: Fleet, bundle: Bundle, tmp_path: Path, cut: signal.Signals) -> None:
    slow = {"rlinf_push_engine": "swarm", "rlinf_push_bandwidth": 6000}
    names = inventory(tmp_path / "hosts.yml", bundle, hosts(fleet, **slow))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    start = subprocess.Popen(
        command_of("push", names),
        env={**environment(tmp_path), "TMPDIR": str(scratch)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wheel = next(bundle.swarm_tools.glob("*.whl")).stat().st_size
    first = int(fleet.shell("node2", RECEIVED))
    try:
        # in the middle of what comes after libtorrent's wheel
        enough = first + wheel + sum(SIZES) // 3
        wait_for(lambda: start.poll() is not None or int(fleet.shell("node2", RECEIVED)) >= enough, "a third of the bundle")
        assert start.poll() is None
        if cut is signal.SIGINT:
            os.killpg(start.pid, cut)
        else:
            # Ansible's own processes alone: nobody tells the others
            for pid in processes("ansible-playbook", f"ANSIBLE_HOME={tmp_path}"):
                os.kill(pid, cut)
        start.wait(60)
    finally:
        if start.poll() is None:
            os.killpg(start.pid, signal.SIGKILL)
    for host in fleet.addresses:
        wait_for(lambda host=host: not left_on(fleet, host), f"nothing left of the swarm on {host}")  # type: ignore[misc]
    wait_for(lambda: not processes("rlinf-swarm", f"ANSIBLE_HOME={tmp_path}"), "no process left of the swarm on the bastion")
    assert not list(scratch.iterdir()) and {path.name for path in bundle.cache.iterdir()} <= {"push", "torrents"}
    # where a file has its name it is whole; what arrived of it is kept, and is not sent again
    kept = int(fleet.shell("node2", f"du -sb {PREFIX}/bundle/.cache | cut -f1"))
    assert kept > 1_000_000
    before = fleet.sent()
    ran = play("push", inventory(tmp_path / "hosts.yml", bundle, hosts(fleet, rlinf_push_engine="swarm")))
    assert ran.status == 0, ran.output
    has_all(fleet, bundle)
    assert fleet.sent() - before < 2 * sum(SIZES)
    assert not any(fleet.shell(host, f"ls {PREFIX}/bundle/.cache") for host in fleet.addresses)


def test_nodes_with_a_former_bundle_give_each_other_what_is_new_and_others_get_theirs_as_they_are_told(
    fleet: Fleet, bundle: Bundle, tmp_path: Path
) -> None:
    ran = play("push", inventory(tmp_path / "hosts.yml", bundle, hosts(fleet)))
    assert ran.status == 0, ran.output
    new = 20_000_000
    shutil.copytree(bundle.root, tmp_path / "bundle", copy_function=shutil.copy2)
    newer = Bundle(tmp_path / "bundle")
    (newer.wheels / "new.bin").write_bytes(random.Random(1).randbytes(new))
    seal(newer)
    nodes = hosts(fleet, rlinf_push_engine="swarm")
    nodes["node1"]["rlinf_push_engine"] = "rsync"
    # the wheel of libtorrent has come already, for it is of the bundle
    before = {host: int(fleet.shell(host, RECEIVED)) for host in fleet.addresses}
    ran = play("push", inventory(tmp_path / "hosts.yml", newer, nodes), "-v")
    assert ran.status == 0, ran.output
    assert "2 nodes have everything" in ran.output
    has_all(fleet, newer)
    for host in fleet.addresses:
        assert int(fleet.shell(host, RECEIVED)) - before[host] < 1.5 * new


def test_of_nodes_that_share_a_directory_one_writes_and_if_it_dies_another(
    bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> None:
    work = tmp_path_factory.mktemp("s")
    share = work / "share"
    share.mkdir()
    with Fleet(work / "h", 3, SHARE=str(share)) as fleet:
        fleet.shape("200mbit")
        options = {"rlinf_push_engine": "shared", "rlinf_bundle_dir": f"{share}/bundle", "rlinf_push_bandwidth": 6000}
        names = inventory(work / "hosts.yml", bundle, hosts(fleet, **options))
        first = fleet.sent()
        running = subprocess.Popen(
            command_of("push", names), env=environment(work), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            wait_for(lambda: running.poll() is not None or fleet.sent() - first >= sum(SIZES) // 3, "a third of the bundle")
            fleet.kill("node1")
            said, _nothing = running.communicate(timeout=120)
        finally:
            running.kill()
        # one is lost, and nobody else is held back
        assert running.returncode and "node1" in said
        stamps = [fleet.shell(host, f"cat {PREFIX}/state/bundle.json") for host in ("node2", "node3")]
        assert [json.loads(stamp)["manifest"] for stamp in stamps] == [sha256_file(bundle.manifest)] * 2, said
        assert not sorted(share.rglob("*.part")) and {path.name for path in share.iterdir()} == {"bundle"}
        # what the first had brought was not brought again
        assert fleet.sent() - first < 1.3 * manifest_bytes(bundle), said
        again = play("push", names, "--limit", "node2,node3")
        assert again.status == 0 and set(again.changed.values()) == {0}, again.output


def test_what_is_mounted_read_only_is_verified_where_it_is(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> None:
    work = tmp_path_factory.mktemp("o")
    share = work / "share"
    shutil.copytree(bundle.root, share / "bundle", copy_function=shutil.copy2)
    with Fleet(work / "h", 2, SHARE=str(share)) as fleet:
        for host in fleet.addresses:
            fleet.shell(host, f"mount -o remount,bind,ro {share}")
            assert "Read-only" in fleet.shell(host, f"touch {share}/bundle/mine 2>&1 || true")
        options = {"rlinf_push_engine": "shared", "rlinf_bundle_dir": f"{share}/bundle"}
        # from where the bastion has it, too, or from a directory of its own that is the same bundle
        for place in (Bundle(share / "bundle"), bundle):
            names = inventory(work / "hosts.yml", place, hosts(fleet, **options))
            before = fleet.sent()
            for changed in (1, 0):
                ran = play("push", names)
                assert ran.status == 0 and set(ran.changed.values()) == {changed}, ran.output
                for host in fleet.addresses:
                    stamp = json.loads(fleet.shell(host, f"cat {PREFIX}/state/bundle.json"))
                    assert stamp["manifest"] == sha256_file(bundle.manifest)
            assert fleet.sent() - before < sum(SIZES) / 10
            forget(fleet)


def destinations(running: list[int]) -> set[str]:
    """Return the last arguments of processes."""
    found = set()
    for process in running:
        with contextlib.suppress(OSError):
            found.add(Path(f"/proc/{process}/cmdline").read_text(encoding="utf-8").rstrip("\0").rpartition("\0")[2])
    return found


def test_no_more_nodes_than_allowed_are_pushed_to_at_once(fleet: Fleet, bundle: Bundle, tmp_path: Path) -> None:
    most = {}
    for allowed in (1, 3):
        nodes = hosts(fleet, rlinf_push_bandwidth=15_000)
        names = inventory(tmp_path / "hosts.yml", bundle, nodes, rlinf_push_parallel=allowed)
        seen = set()
        with subprocess.Popen(command_of("push", names), env=environment(tmp_path), stdout=subprocess.PIPE, text=True) as running:
            while running.poll() is None:
                # one that sends may have a child for a moment, which becomes ssh
                seen.add(len(destinations(processes("rsync\0--archive", f"ANSIBLE_HOME={tmp_path}"))))
                time.sleep(0.05)
            said = running.stdout.read() if running.stdout else ""
        assert running.returncode == 0, said
        most[allowed] = max(seen)
        forget(fleet)
    # how many of three begin before the first has ended is for the machine to say
    assert most[1] == 1 < most[3] <= 3


def carry(fleet: Fleet, host: str, place: Path) -> None:
    """Put a stick into a host: what lies at *place* here lies in /srv/media there."""
    packed = subprocess.run(["tar", "-c", "-C", place, "."], check=True, capture_output=True).stdout
    fleet.give(host, "mkdir -p /srv/media && tar -x -C /srv/media", packed)


def test_a_bundle_carried_on_media(fleet: Fleet, bundle: Bundle, tmp_path: Path) -> None:
    """Written by the bastion to two sticks, read by each node where they are mounted; one node lacks the second at first."""
    names = inventory(tmp_path / "hosts.yml", bundle, hosts(fleet, rlinf_push_engine="media", rlinf_media_dir=["/srv/media"]))
    for volume in (1, 2):
        said = {"rlinf_media_dir": [str(tmp_path / str(volume))], "rlinf_media_volume_size": "30 MB", "rlinf_media_volumes": [volume]}
        for changed in (1, 0):
            ran = play("media", names, "-e", json.dumps(said))
            assert ran.status == 0 and ran.changed == {"bastion": changed}, ran.output
    for host in fleet.addresses:
        carry(fleet, host, tmp_path / "1")
        if host != "node1":
            carry(fleet, host, tmp_path / "2")
    ran = play("push", names)
    assert ran.failed == {"node1": True, "node2": False, "node3": False}, ran.output
    assert "Of 2 volumes 2 is still to be read" in " ".join(ran.output.split())
    assert "bundle.json" not in fleet.shell("node1", f"ls {PREFIX}/bundle").split()
    carry(fleet, "node1", tmp_path / "2")
    ran = play("push", names)
    assert ran.status == 0, ran.output
    has_all(fleet, bundle)
    again = play("push", names)
    assert again.status == 0 and set(again.changed.values()) == {0}, again.output
    for host in fleet.addresses:
        fleet.shell(host, "rm -rf /srv/media")
