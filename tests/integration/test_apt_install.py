# SPDX-License-Identifier: GPL-3.0-or-later
"""System packages installed for real, on a copy of this machine that has no network and goes away: an overlay of its root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.apt_archive import Archive, Key, build_deb
from tests.support.upstream import Upstream

ROOT = Path(__file__).resolve().parents[2]
COLLECTIONS = ROOT / ".venv" / "collections"
MODULE = ROOT / "plugins" / "modules" / "rlinf_apt_install.py"
DRIVER = (
    "import sys, runpy; import ansible.module_utils.basic as b\n"
    "sys.path.insert(0, {collections!r})\n"
    "b._ANSIBLE_ARGS = sys.stdin.buffer.read(); b._ANSIBLE_PROFILE = 'legacy'\n"
    "runpy.run_path({module!r}, run_name='__main__')\n"
)
# what must be as before on the node, but for the packages asked for
KEPT = "find /etc/apt /var/lib/apt/lists /var/cache/apt -type f -printf '%p %s %T@ %C@\\n' | sort"
SELECTIONS = "dpkg-query -W -f '${Package} ${Version} ${Status}\\n'"
ENTER = (
    "mount -t tmpfs tmpfs {0} && mkdir {0}/upper {0}/work {0}/tree && mount -t overlay -o lowerdir=/,upperdir={0}/upper,workdir={0}/work overlay {0}/tree "
    "&& mount --rbind /proc {0}/tree/proc && mount --rbind /dev {0}/tree/dev && echo ready && exec sleep infinity"
)


class Node:
    """A copy of this machine: what it writes lies in memory, its network is empty."""

    def __init__(self, place: Path) -> None:
        if os.geteuid():
            raise PermissionError("This test makes an overlay of the machine's root, which needs root: sudo make integration")
        place.mkdir()
        self.root = place / "tree"
        self.process = subprocess.Popen(
            ["unshare", "--mount", "--net", "--propagation", "private", "bash", "-c", ENTER.format(place)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout and self.process.stdout.readline() == "ready\n"

    def run(self, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        inside = ["nsenter", "--target", str(self.process.pid), "--mount", "--net", "chroot", str(self.root), *argv]
        return subprocess.run(inside, input=stdin, capture_output=True, text=True, check=False)

    def shell(self, command: str) -> str:
        done = self.run("bash", "-c", command)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def module(self, arguments: dict[str, Any], *, check: bool = False) -> dict[str, Any]:
        """Run rlinf_apt_install, whatever it answers."""
        driver = DRIVER.format(collections=str(COLLECTIONS), module=str(MODULE))
        given = {**arguments, "_ansible_check_mode": check, "_ansible_diff": True, "_ansible_tracebacks_for": []}
        done = self.run(sys.executable, "-c", driver, stdin=json.dumps({"ANSIBLE_MODULE_ARGS": given}))
        assert done.stdout.strip(), done.stderr
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def as_nobody(arguments: dict[str, Any]) -> dict[str, Any]:
    """Run the module as another user than root, on this machine."""
    driver = DRIVER.format(collections=str(COLLECTIONS), module=str(MODULE))
    given = {"ANSIBLE_MODULE_ARGS": {**arguments, "_ansible_tracebacks_for": []}}
    done = subprocess.run(
        ["unshare", "--user", "--map-user", "1", sys.executable, "-c", driver],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip(), done.stderr
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "node")
    yield node
    node.end()


class Packages:
    """A bundle with packages of the test's for this machine's own release, chosen for its own state."""

    def __init__(self, tmp_path: Path, run_module: Any) -> None:
        self.folder, self.run_module = tmp_path / "packages", run_module
        self.folder.mkdir()
        self.key = Key.make(tmp_path)
        self.archive = Archive(tmp_path / "served" / "debian", self.key)
        self.bundle = tmp_path / "bundle"
        values = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
        self.release = "-".join(values[key].strip('"') for key in ("ID", "VERSION_ID"))
        self.server = Upstream(tmp_path / "served")

    def bring(self, *packages: str, debs: list[Path]) -> None:
        self.archive.publish("suite", debs)
        source = {"mirror": "debian", "url": f"{self.server.url}/debian"}
        source |= {"suites": ["suite"], "components": ["main"], "keyring": str(self.key.keyring)}
        release = {"name": self.release, "sources": [source], "packages": list(packages), "states": ["/var/lib/dpkg/status"]}
        self.run_module("rlinf_apt_cache", {"bundle_dir": str(self.bundle), "releases": [release]})

    def arguments(self, *packages: str, **more: Any) -> dict[str, Any]:
        return {"bundle_dir": str(self.bundle), "packages": list(packages), **more}


@pytest.fixture
def packages(tmp_path: Path, run_module: Any) -> Iterator[Packages]:
    packages = Packages(tmp_path, run_module)
    with packages.server:
        yield packages
    packages.key.forget()


def test_quad(node: Node, packages: Packages) -> None:
    """What is lacking is installed out of the bundle alone; the node's apt is as it was, and so is every other package."""
    debs = [
        build_deb(packages.folder, "rlinf-test-a", "1.0", {"Depends": "rlinf-test-b"}),
        build_deb(packages.folder, "rlinf-test-b", "2:1.0"),
    ]
    packages.bring("rlinf-test-a", debs=debs)
    vendor = "/etc/rlinf-test/vendor.json"
    arguments = packages.arguments("rlinf-test-a", "bash", files={vendor: "{}\n"})
    kept, selected = node.shell(KEPT), node.shell(SELECTIONS)
    would = node.module(arguments, check=True)
    assert would["changed"] and would["missing"] == ["rlinf-test-a"] and set(would["installs"]) == {"rlinf-test-a", "rlinf-test-b"}
    assert node.shell(SELECTIONS) == selected
    done = node.module(arguments)
    assert done["changed"] and done["installs"] == would["installs"] and done["diff"] == would["diff"], done
    assert node.shell(f"cat {vendor} /usr/share/rlinf-test-a/version") == "{}\n1.0"
    assert [node.module(arguments, check=check)["changed"] for check in (True, False)] == [False, False]
    assert node.shell(KEPT) == kept
    added = set(node.shell(SELECTIONS).splitlines()) - set(selected.splitlines())
    assert {line.split()[0] for line in added} == {"rlinf-test-a", "rlinf-test-b"}
    assert set(selected.splitlines()) <= set(node.shell(SELECTIONS).splitlines())


def test_what_is_held_is_there_and_what_is_of_another_architecture_is_not(node: Node, packages: Packages) -> None:
    node.shell("apt-mark hold bash")
    assert not node.module(packages.arguments("bash"))["changed"]
    foreign = "Package: rlinf-test-a\\nStatus: install ok installed\\nArchitecture: s390x\\nVersion: 1\\nMaintainer: x\\nDescription: x\\n"
    node.shell(f"dpkg --add-architecture s390x && printf '\\n{foreign}' >> /var/lib/dpkg/status && dpkg-query -W rlinf-test-a:s390x")
    assert "missing: rlinf-test-a." in node.module(packages.arguments("rlinf-test-a", state="checked"))["msg"]


def test_a_user_file_stays(node: Node, packages: Packages) -> None:
    node.shell("mkdir -p /etc/rlinf-test && echo mine > /etc/rlinf-test/vendor.json")
    assert not node.module(packages.arguments("bash", files={"/etc/rlinf-test/vendor.json": "{}\n"}))["changed"]
    assert node.shell("cat /etc/rlinf-test/vendor.json") == "mine\n"


def test_an_upgrade_is_refused_unless_it_is_asked_for(node: Node, packages: Packages) -> None:
    """A package that needs a newer version of one that is there stops before it begins, naming both."""
    old, new = (build_deb(packages.folder, "rlinf-test-b", version) for version in ("1", "2"))
    wanted = build_deb(packages.folder, "rlinf-test-a", "1", {"Depends": "rlinf-test-b (>= 2)"})
    packages.bring("rlinf-test-a", debs=[wanted, new])
    shutil.copy(old, packages.bundle / "old.deb")
    node.shell(f"dpkg -i {packages.bundle}/old.deb")
    selected = node.shell(SELECTIONS)
    said = node.module(packages.arguments("rlinf-test-a"))
    assert said["failed"] and "upgrade rlinf-test-b 1 -> 2" in said["msg"] and "Nothing was changed" in said["msg"]
    assert node.shell(SELECTIONS) == selected and "rlinf_system_packages_upgrade: [rlinf-test-b]" in said["msg"]
    done = node.module(packages.arguments("rlinf-test-a", upgrade=["rlinf-test-b"]))
    assert done["installs"] == {"rlinf-test-a": "1", "rlinf-test-b": "2"}


def test_a_removal_is_refused(node: Node, packages: Packages) -> None:
    packages.bring("rlinf-test-a", debs=[build_deb(packages.folder, "rlinf-test-a", "1", {"Conflicts": "rlinf-test-there"})])
    there = build_deb(packages.folder, "rlinf-test-there", "1")
    shutil.copy(there, packages.bundle / "there.deb")
    node.shell(f"dpkg -i {packages.bundle}/there.deb")
    said = node.module(packages.arguments("rlinf-test-a"))
    assert said["failed"] and "remove rlinf-test-there" in said["msg"]


@pytest.mark.parametrize("damage", ["replaced", "missing"])
def test_a_damaged_file_is_refused(node: Node, packages: Packages, damage: str) -> None:
    packages.bring("rlinf-test-a", debs=[build_deb(packages.folder, "rlinf-test-a", "1")])
    (place,) = packages.bundle.glob("apt/*/*/*.deb")
    if damage == "missing":
        place.unlink()
    else:
        place.write_bytes(place.read_bytes()[:-1] + b"x")
    said = node.module(packages.arguments("rlinf-test-a"))
    assert said["failed"] and place.name in said["msg"] and "Run push again" in said["msg"]


def test_what_the_bundle_was_made_without(node: Node, packages: Packages) -> None:
    packages.bring("rlinf-test-a", debs=[build_deb(packages.folder, "rlinf-test-a", "1")])
    said = node.module(packages.arguments("rlinf-test-c"))
    assert said["failed"] and "made without rlinf-test-c" in said["msg"]


def test_a_release_that_the_bundle_has_not(node: Node, packages: Packages) -> None:
    packages.bring("rlinf-test-a", debs=[build_deb(packages.folder, "rlinf-test-a", "1")])
    node.shell(
        "cp /etc/os-release /tmp/o && sed -i 's/^VERSION_ID=.*/VERSION_ID=\"1.0\"/' /tmp/o && rm /etc/os-release && cp /tmp/o /etc/os-release"
    )
    said = node.module(packages.arguments("rlinf-test-a"))
    assert said["failed"] and f"it has {packages.release}" in said["msg"]


def test_checked_names_what_is_missing(node: Node, packages: Packages) -> None:
    said = node.module(packages.arguments("rlinf-test-a", "bash", state="checked"))
    assert said["failed"] and "System packages are missing: rlinf-test-a." in said["msg"]
    assert not node.module(packages.arguments("bash", state="checked"))["changed"]


def test_auto_installs_what_the_bundle_has_and_names_the_rest(node: Node, packages: Packages) -> None:
    packages.bring("rlinf-test-a", debs=[build_deb(packages.folder, "rlinf-test-a", "1")])
    done = node.module(packages.arguments("rlinf-test-a", "rlinf-test-c", state="auto"))
    assert done["changed"] and set(done["installs"]) == {"rlinf-test-a"}
    assert "rlinf-test-c; the bundle was made without them for this release" in str(done["warnings"])
    assert "apt-get install --no-install-recommends rlinf-test-c" in str(done["warnings"])
    shutil.rmtree(packages.bundle / "apt")
    assert not node.module(packages.arguments("rlinf-test-a", "rlinf-test-c", state="auto"))["changed"]


def test_auto_without_root_names_what_is_missing(packages: Packages) -> None:
    """In a user namespace of its own, where this is nobody."""
    vendor = "/etc/rlinf-test/vendor.json"
    arguments = packages.arguments("rlinf-test-a", state="auto", files={vendor: "{}\n"})
    said = as_nobody(arguments)
    assert not said["changed"] and not said.get("failed")
    assert f"System packages are missing: rlinf-test-a, {vendor}; only root can install them" in str(said["warnings"])
    assert "rlinf_system_packages_state: checked" in as_nobody({**arguments, "state": "present"})["msg"]


def test_a_run_that_was_cut_off_is_finished_by_the_next(node: Node, packages: Packages) -> None:
    """dpkg is killed in the middle: the run says so, and the next one brings it to its end."""
    kill = "#!/bin/sh\n[ -e /var/lib/rlinf-test-killed ] || { touch /var/lib/rlinf-test-killed; kill -KILL $PPID; }\n"
    debs = [
        build_deb(packages.folder, "rlinf-test-a", "1", {"Depends": "rlinf-test-b"}, {"DEBIAN/postinst": kill}),
        build_deb(packages.folder, "rlinf-test-b", "1"),
    ]
    packages.bring("rlinf-test-a", debs=debs)
    said = node.module(packages.arguments("rlinf-test-a"))
    assert said["failed"] and "installing the system packages" in said["msg"]
    assert node.module(packages.arguments("rlinf-test-a"), check=True)["changed"]
    assert not node.module(packages.arguments("rlinf-test-a")).get("failed")
    assert node.shell("dpkg --audit; ls -d /var/lib/rlinf-offline || true") == "" and "rlinf-test-a 1 install ok installed" in node.shell(
        SELECTIONS
    )
    assert not node.module(packages.arguments("rlinf-test-a"))["changed"]
