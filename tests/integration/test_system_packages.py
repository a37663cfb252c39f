# SPDX-License-Identifier: GPL-3.0-or-later
"""System packages through the playbooks: one bundle for nodes of two releases, reached by ssh, with packages that the test makes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.rlinf.offline.plugins.module_utils._apt_install import release_name
from tests.demo.cycle import Cycle, PlayFailed, base_python
from tests.support.apt_archive import Archive, Key, build_deb
from tests.support.fleet import Fleet
from tests.support.upstream import Upstream

OWN = release_name()
# what is somebody's own of apt, on bastion and nodes alike: configuration, lists, holds
APT = "find /etc/apt /var/lib/apt/lists -type f -exec sha256sum {} + | sort; apt-mark showhold"
SELECTIONS = "dpkg-query -W -f '${Package} ${Version} ${Status}\\n'"
VENDOR = "/etc/rlinf-test/vendor.json"
RSYNC = "/usr/local/lib/rsync"
MISSING = "rlinf-test-gl"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("hosts") / "state", 2)
    try:
        # no rsync, but for what a package of the test's stands on
        fleet.shell("node1", f"cp /usr/bin/rsync {RSYNC} && dpkg --purge --force-depends rsync && ! command -v rsync")
        # an overlay of this machine's root: what it is called is all that makes it another release
        fleet.shell(
            "node2",
            "cp --remove-destination $(realpath /etc/os-release) /etc/os-release;"
            "sed -i -e '/^ID=/s/=.*/=ubuntu/' -e '/^VERSION_ID=/s/=.*/=\"22.04\"/' /etc/os-release;"
            "useradd --create-home --password '*' installer; install -d -o installer /srv/rlinf /home/installer/.ssh;"
            "install -o installer /root/.ssh/authorized_keys /home/installer/.ssh;"
            "echo 'installer ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/installer; chmod 440 /etc/sudoers.d/installer;"
            # the interpreter may lie in somebody's home
            f"chmod o+x {' '.join(map(str, Path(base_python()).parents))}",
        )
        yield fleet
    finally:
        fleet.end()


@pytest.fixture(scope="module")
def cycle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cycle]:
    with Cycle(tmp_path_factory.mktemp("cycle") / "work", targets={"node1": ["tiny"]}, offline=False, compiler=False) as cycle:
        yield cycle


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Serve an archive in Debian's form, a suite and its security in places of their own, and one in Ubuntu's, two components of one suite."""
    root = tmp_path_factory.mktemp("archives")
    key, served = Key.make(root), root / "served"
    folders = {name: root / f"packages-{name}" for name in ("debian", "ubuntu")}
    for folder in folders.values():
        folder.mkdir()
    rsync = {"usr/bin/rsync": f'#!/bin/sh\nexec {RSYNC} "$@"\n'}
    essential = {"Essential": "yes", "Priority": "required"}
    debian, ubuntu = folders["debian"], folders["ubuntu"]
    Archive(served / "debian", key).publish("own", [build_deb(debian, "bash", "5", essential), build_deb(debian, MISSING, "1.0")])
    newer = build_deb(debian, MISSING, "1.0-security", {"Depends": "rlinf-test-common"})
    security = [newer, build_deb(debian, "rlinf-test-common", "1"), build_deb(debian, "rsync", "3", files=rsync)]
    Archive(served / "security", key).publish("own-security", security)
    jammy = Archive(served / "ubuntu", key)
    main = [build_deb(ubuntu, name, "22", essential if name == "bash" else {}) for name in ("bash", "rlinf-test-common", "rsync")]
    jammy.publish("jammy", main)
    jammy.publish("jammy", [build_deb(ubuntu, f"{MISSING}-jammy", "22.04", {"Depends": "rlinf-test-common"})], component="universe")
    both = {"components": ["main"], "keyring": str(key.keyring)}
    releases = {
        OWN: {**both, "suites": {"debian": ["own"], "debian-security": ["own-security"]}},
        "ubuntu-22.04": {
            **both,
            "components": ["main", "universe"],
            "suites": {"ubuntu": ["jammy"]},
            "renames": {MISSING: f"{MISSING}-jammy"},
        },
    }
    with Upstream(served) as server:
        mirrors = {"debian": f"{server.url}/debian", "debian-security": f"{server.url}/security", "ubuntu": f"{server.url}/ubuntu"}
        yield {"releases": releases, "rlinf_apt_mirrors": mirrors}


@pytest.fixture(scope="module")
def inventory(fleet: Fleet, cycle: Cycle, archives: dict[str, Any]) -> Path:
    tiny = {
        "python": cycle.world.python,
        "steps": [{"requirements": ["click==8.2.1"]}],
        "imports": ["click"],
        "system_packages": [MISSING],
        "system_files": {VENDOR: "{}\n"},
    }
    nodes = {
        "node1": fleet.variables("node1", rlinf_targets=["tiny"], rlinf_system_packages_state="auto"),
        "node2": fleet.variables("node2", rlinf_targets=["tiny"], ansible_user="installer", rlinf_system_packages_state="present"),
    }
    path = cycle.write_inventory("fleet", nodes, {"targets": {"tiny": tiny}, "releases": archives["releases"]})
    written = yaml.safe_load(path.read_text())
    written["all"]["vars"] |= {
        "rlinf_releases": [OWN, "ubuntu-22.04"],
        "rlinf_apt_mirrors": archives["rlinf_apt_mirrors"],
        "rlinf_system_packages": ["bash", "rsync"],
    }
    path.write_text(yaml.safe_dump(written))
    return path


@pytest.fixture(scope="module")
def bundled(cycle: Cycle, inventory: Path) -> Path:
    """Have the bundle, made without touching what apt of this machine knows; return the inventory."""
    before = apt_of_this_machine()
    cycle.play("download", inventory=inventory)
    assert apt_of_this_machine() == before
    return inventory


def apt_of_this_machine() -> str:
    return subprocess.run(["bash", "-c", f"{APT}; {SELECTIONS}"], check=True, capture_output=True, text=True).stdout


def test_one_bundle_serves_two_releases(fleet: Fleet, cycle: Cycle, bundled: Path) -> None:
    """Each node gets what its release calls it, out of the bundle alone; root is taken for that one task; nobody's apt is touched.

    The first has no rsync, which the bundle is pushed by.
    """
    brought = sorted(str(path.relative_to(cycle.bundle)) for path in cycle.bundle.glob("apt/*/*/*.deb"))
    assert brought == sorted(
        [
            f"apt/{OWN}/amd64/{MISSING}_1.0-security_all.deb",
            f"apt/{OWN}/amd64/rlinf-test-common_1_all.deb",
            f"apt/{OWN}/amd64/rsync_3_all.deb",
            f"apt/ubuntu-22.04/amd64/{MISSING}-jammy_22.04_all.deb",
            "apt/ubuntu-22.04/amd64/rlinf-test-common_22_all.deb",
            "apt/ubuntu-22.04/amd64/rsync_22_all.deb",
        ]
    )
    assert set(brought) < set(cycle.manifest()["files"])
    before = {host: (fleet.shell(host, APT), set(fleet.shell(host, SELECTIONS).splitlines())) for host in fleet.addresses}
    cycle.play("push", "--check", inventory=bundled)
    assert fleet.shell("node1", "ls /srv") == "" and "rsync" not in fleet.shell("node1", SELECTIONS)
    cycle.play("push", inventory=bundled)
    would = cycle.play("prepare", "--check", "--diff", inventory=bundled)
    assert f"+{MISSING}-jammy 22.04" in would.output and f"+{MISSING} 1.0-security" in would.output
    cycle.play("prepare", inventory=bundled)
    assert cycle.play("prepare", inventory=bundled).changed == 0
    for host, (apt, selections) in before.items():
        assert fleet.shell(host, APT) == apt
        now = set(fleet.shell(host, SELECTIONS).splitlines())
        assert selections < now
        added = {line.split()[0] for line in now - selections}
        assert added == {"node1": {MISSING, "rlinf-test-common", "rsync"}, "node2": {f"{MISSING}-jammy", "rlinf-test-common"}}[host]
        assert fleet.shell(host, f"cat {VENDOR}") == "{}\n"
    # nothing but the packages is root's
    assert fleet.shell("node2", "find /srv/rlinf -not -user installer") == ""


def test_what_the_bundle_has_not_is_named_before_anything_changes(cycle: Cycle, bundled: Path) -> None:
    """A node that lacks what the bundle lacks, too, is told of it; where it must be there, it is held back."""
    written = yaml.safe_load(bundled.read_text())
    nodes = written["all"]["children"]["rlinf_nodes"]["hosts"]
    for node, state in (("node1", "auto"), ("node2", "checked")):
        nodes[node] |= {"rlinf_system_packages": ["rlinf-test-nowhere"], "rlinf_system_packages_state": state}
    other = bundled.with_name("other.yml")
    other.write_text(yaml.safe_dump(written))
    with pytest.raises(PlayFailed) as failed:
        cycle.play("preflight", inventory=other)
    said = " ".join(str(failed.value).replace('",', " ").replace('"', " ").split())
    assert f"note: packages of {OWN}/amd64: rlinf-test-nowhere missing, and the bundle was made without" in said
    assert "system packages: rlinf-test-nowhere missing" in said
    assert "apt-get install --no-install-recommends rlinf-test-nowhere" in said
