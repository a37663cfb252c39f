# SPDX-License-Identifier: GPL-3.0-or-later
"""System packages installed for real, on a copy of this machine that has no network and goes away: an overlay of its root."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.apt_archive import build_deb
from tests.support.apt_packages import KEPT, SELECTIONS, Packages
from tests.support.machine import DRIVER, Machine, answer

MODULE = "rlinf_apt_install"


def as_nobody(arguments: dict[str, Any]) -> dict[str, Any]:
    """Run the module as another user than root, on this machine."""
    given = {"ANSIBLE_MODULE_ARGS": {**arguments, "_ansible_tracebacks_for": []}}
    command = ["unshare", "--user", "--map-user", "1", sys.executable, "-c", DRIVER, MODULE]
    return answer(subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=False))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Machine]:
    node = Machine(tmp_path / "node")
    yield node
    node.end()


@pytest.fixture
def packages(tmp_path: Path, run_module: Any) -> Iterator[Packages]:
    with Packages(tmp_path, run_module) as packages:
        yield packages


def test_quad(node: Machine, packages: Packages) -> None:
    """What is lacking is installed out of the bundle alone; the node's apt is as it was, and so is every other package."""
    debs = [
        build_deb(packages.folder, "rlinf-test-a", "1.0", {"Depends": "rlinf-test-b"}),
        build_deb(packages.folder, "rlinf-test-b", "2:1.0"),
    ]
    packages.bring("rlinf-test-a", debs=debs)
    vendor = "/etc/rlinf-test/vendor.json"
    arguments = packages.arguments("rlinf-test-a", "bash", files={vendor: "{}\n"})
    kept, selected = node.shell(KEPT), node.shell(SELECTIONS)
    would = node.module(MODULE, arguments, check=True)
    assert would["changed"] and would["missing"] == ["rlinf-test-a"] and set(would["installs"]) == {"rlinf-test-a", "rlinf-test-b"}
    assert node.shell(SELECTIONS) == selected
    done = node.module(MODULE, arguments)
    assert done["changed"] and done["installs"] == would["installs"] and done["diff"] == would["diff"], done
    assert node.shell(f"cat {vendor} /usr/share/rlinf-test-a/version") == "{}\n1.0"
    assert [node.module(MODULE, arguments, check=check)["changed"] for check in (True, False)] == [False, False]
    assert node.shell(KEPT) == kept
    added = set(node.shell(SELECTIONS).splitlines()) - set(selected.splitlines())
    assert {line.split()[0] for line in added} == {"rlinf-test-a", "rlinf-test-b"}
    assert set(selected.splitlines()) <= set(node.shell(SELECTIONS).splitlines())


def test_what_is_held_is_there_and_what_is_of_another_architecture_is_not(node: Machine, packages: Packages) -> None:
    node.shell("apt-mark hold bash")
    assert not node.module(MODULE, packages.arguments("bash"))["changed"]
    foreign = "Package: rlinf-test-a\\nStatus: install ok installed\\nArchitecture: s390x\\nVersion: 1\\nMaintainer: x\\nDescription: x\\n"
    node.shell(f"dpkg --add-architecture s390x && printf '\\n{foreign}' >> /var/lib/dpkg/status && dpkg-query -W rlinf-test-a:s390x")
    assert "missing: rlinf-test-a." in node.module(MODULE, packages.arguments("rlinf-test-a", state="checked"))["msg"]


def test_a_user_file_stays(node: Machine, packages: Packages) -> None:
    node.shell("mkdir -p /etc/rlinf-test && echo mine > /etc/rlinf-test/vendor.json")
    assert not node.module(MODULE, packages.arguments("bash", files={"/etc/rlinf-test/vendor.json": "{}\n"}))["changed"]
    assert node.shell("cat /etc/rlinf-test/vendor.json") == "mine\n"


def test_an_upgrade_is_refused_unless_it_is_asked_for(node: Machine, packages: Packages) -> None:
    """A package that needs a newer version of one that is there stops before it begins, naming both."""
    old, new = (build_deb(packages.folder, "rlinf-test-b", version) for version in ("1", "2"))
    wanted = build_deb(packages.folder, "rlinf-test-a", "1", {"Depends": "rlinf-test-b (>= 2)"})
    packages.bring("rlinf-test-a", debs=[wanted, new])
    shutil.copy(old, packages.bundle / "old.deb")
    node.shell(f"dpkg -i {packages.bundle}/old.deb")
    selected = node.shell(SELECTIONS)
    said = node.module(MODULE, packages.arguments("rlinf-test-a"))
    assert said["failed"] and "upgrade rlinf-test-b 1 -> 2" in said["msg"] and "Nothing was changed" in said["msg"]
    assert node.shell(SELECTIONS) == selected and "rlinf_system_packages_upgrade: [rlinf-test-b]" in said["msg"]
    done = node.module(MODULE, packages.arguments("rlinf-test-a", upgrade=["rlinf-test-b"]))
    assert done["installs"] == {"rlinf-test-a": "1", "rlinf-test-b": "2"}


def test_a_removal_is_refused(node: Machine, packages: Packages) -> None:
    packages.bring("rlinf-test-a", debs=[build_deb(packages.folder, "rlinf-test-a", "1", {"Conflicts": "rlinf-test-there"})])
    there = build_deb(packages.folder, "rlinf-test-there", "1")
    shutil.copy(there, packages.bundle / "there.deb")
    node.shell(f"dpkg -i {packages.bundle}/there.deb")
    said = node.module(MODULE, packages.arguments("rlinf-test-a"))
    assert said["failed"] and "remove rlinf-test-there" in said["msg"]


@pytest.mark.parametrize("damage", ["replaced", "missing"])
def test_a_damaged_file_is_refused(node: Machine, packages: Packages, damage: str) -> None:
    packages.bring("rlinf-test-a", debs=[build_deb(packages.folder, "rlinf-test-a", "1")])
    (place,) = packages.bundle.glob("apt/*/*/*.deb")
    if damage == "missing":
        place.unlink()
    else:
        place.write_bytes(place.read_bytes()[:-1] + b"x")
    said = node.module(MODULE, packages.arguments("rlinf-test-a"))
    assert said["failed"] and place.name in said["msg"] and "Run push again" in said["msg"]


def test_what_the_bundle_was_made_without(node: Machine, packages: Packages) -> None:
    packages.bring("rlinf-test-a", debs=[build_deb(packages.folder, "rlinf-test-a", "1")])
    said = node.module(MODULE, packages.arguments("rlinf-test-c"))
    assert said["failed"] and "made without rlinf-test-c" in said["msg"]


def test_a_release_that_the_bundle_has_not(node: Machine, packages: Packages) -> None:
    packages.bring("rlinf-test-a", debs=[build_deb(packages.folder, "rlinf-test-a", "1")])
    node.shell(
        "cp /etc/os-release /tmp/o && sed -i 's/^VERSION_ID=.*/VERSION_ID=\"1.0\"/' /tmp/o && rm /etc/os-release && cp /tmp/o /etc/os-release"
    )
    said = node.module(MODULE, packages.arguments("rlinf-test-a"))
    assert said["failed"] and f"it has {packages.release}" in said["msg"]


def test_checked_names_what_is_missing(node: Machine, packages: Packages) -> None:
    said = node.module(MODULE, packages.arguments("rlinf-test-a", "bash", state="checked"))
    assert said["failed"] and "System packages are missing: rlinf-test-a." in said["msg"]
    assert not node.module(MODULE, packages.arguments("bash", state="checked"))["changed"]


def test_auto_installs_what_the_bundle_has_and_names_the_rest(node: Machine, packages: Packages) -> None:
    packages.bring("rlinf-test-a", debs=[build_deb(packages.folder, "rlinf-test-a", "1")])
    done = node.module(MODULE, packages.arguments("rlinf-test-a", "rlinf-test-c", state="auto"))
    assert done["changed"] and set(done["installs"]) == {"rlinf-test-a"}
    assert "rlinf-test-c; the bundle was made without them for this release" in str(done["warnings"])
    assert "apt-get install --no-install-recommends rlinf-test-c" in str(done["warnings"])
    shutil.rmtree(packages.bundle / "apt")
    assert not node.module(MODULE, packages.arguments("rlinf-test-a", "rlinf-test-c", state="auto"))["changed"]


def test_auto_without_root_names_what_is_missing(packages: Packages) -> None:
    """In a user namespace of its own, where this is nobody."""
    vendor = "/etc/rlinf-test/vendor.json"
    arguments = packages.arguments("rlinf-test-a", state="auto", files={vendor: "{}\n"})
    said = as_nobody(arguments)
    assert not said["changed"] and not said.get("failed")
    assert f"System packages are missing: rlinf-test-a, {vendor}; only root can install them" in str(said["warnings"])
    assert "rlinf_system_packages_state: checked" in as_nobody({**arguments, "state": "present"})["msg"]


def test_who_comes_second_lets_the_first_alone(node: Machine, packages: Packages) -> None:
    """What goes on is not taken for what was cut off, though it looks the same; a check lets it alone, too."""
    packages.bring("rlinf-test-a", debs=[build_deb(packages.folder, "rlinf-test-a", "1.0")])
    call = json.dumps({"ANSIBLE_MODULE_ARGS": {**packages.arguments("rlinf-test-a"), "_ansible_tracebacks_for": []}})
    # the first's apt says that it begins, and waits
    wait = f'[ -e /go ] || {{ echo begun > /fifo; read -r go < /fifo; }}; exec {node.shell("command -v apt-get").strip()} "$@"'
    node.shell(
        f"mkfifo /fifo && mkdir /waiting && printf '#!/bin/sh\n%s\n' {shlex.quote(wait)} > /waiting/apt-get && chmod +x /waiting/apt-get"
    )
    node.shell("mkdir -p /var/lib/rlinf-offline && touch /var/lib/rlinf-offline/pending")
    start = f"PATH=/waiting:$PATH {sys.executable} -c {shlex.quote(DRIVER)} {MODULE} <<< {shlex.quote(call)} > /first 2>&1"
    first = node.shell(f"{start} & echo $!; read -r begun < /fifo").strip()
    there = node.shell("ls -R /var/lib/rlinf-offline")
    for check in (True, False):
        said = node.module(MODULE, packages.arguments("rlinf-test-a"), check=check)
        assert said["failed"] and "Installing system packages out of a bundle is in use by process" in said["msg"], said
    assert node.shell("ls -R /var/lib/rlinf-offline") == there
    node.shell(f"touch /go && echo go > /fifo && tail --pid={first} -f /dev/null")
    assert json.loads(node.shell("tail -n 1 /first"))["changed"]
    assert not node.module(MODULE, packages.arguments("rlinf-test-a"))["changed"]


def test_a_run_that_was_cut_off_is_finished_by_the_next(node: Machine, packages: Packages) -> None:
    """dpkg is killed in the middle: the run says so, and the next one brings it to its end."""
    kill = "#!/bin/sh\n[ -e /var/lib/rlinf-test-killed ] || { touch /var/lib/rlinf-test-killed; kill -KILL $PPID; }\n"
    debs = [
        build_deb(packages.folder, "rlinf-test-a", "1", {"Depends": "rlinf-test-b"}, {"DEBIAN/postinst": kill}),
        build_deb(packages.folder, "rlinf-test-b", "1"),
    ]
    packages.bring("rlinf-test-a", debs=debs)
    said = node.module(MODULE, packages.arguments("rlinf-test-a"))
    assert said["failed"] and "installing the system packages" in said["msg"]
    assert node.module(MODULE, packages.arguments("rlinf-test-a"), check=True)["changed"]
    assert not node.module(MODULE, packages.arguments("rlinf-test-a")).get("failed")
    assert node.shell("dpkg --audit; ls -d /var/lib/rlinf-offline || true") == "" and "rlinf-test-a 1 install ok installed" in node.shell(
        SELECTIONS
    )
    assert not node.module(MODULE, packages.arguments("rlinf-test-a"))["changed"]
