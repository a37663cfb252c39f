# SPDX-License-Identifier: GPL-3.0-or-later
"""Inside the gap: out of nothing but a bundle, a host becomes a control node and installs another host. Neither has a network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from tests.demo.cycle import ROOT, Cycle, base_python, common_variables
from tests.demo.dates import BEFORE, dated
from tests.support.repack import closure, repack

HOSTS = ROOT / "tests" / "hosts" / "hosts.sh"
TARGET = "tiny"
MEDIA, CONTROL = "/media/bundle", "/opt/control"


class Gap:
    """Two hosts without a network: the first has the bundle and a key for the second."""

    def __init__(self, state: Path) -> None:
        if os.geteuid():
            raise PermissionError("This test makes hosts in namespaces, which needs root: sudo make integration")
        self.state = state
        # what the tests run with lies in the user's home, perhaps: the hosts see the interpreter alone
        shown = {"HIDE": f"{ROOT}:{Path.home()}", "SHOW": str(Path(base_python()).parents[1])}
        subprocess.run([HOSTS, "up", "2", state], check=True, capture_output=True, env={**os.environ, **shown})
        listed = subprocess.run([HOSTS, "list", state], check=True, capture_output=True, text=True).stdout
        self.addresses = {name: address for name, address, _port in map(str.split, listed.splitlines())}

    def shell(self, host: str, command: str) -> str:
        done = subprocess.run([HOSTS, "ssh", self.state, host, command], check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def fails(self, host: str, command: str) -> str:
        done = subprocess.run([HOSTS, "ssh", self.state, host, command], check=False, capture_output=True, text=True)
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        return done.stderr

    def carry(self, source: Path, host: str, place: str) -> None:
        self.shell(host, f"mkdir -p {place}")
        ssh = f"ssh -F {self.state}/ssh_config"
        subprocess.run(["rsync", "-a", "-e", ssh, "--exclude", ".cache", f"{source}/", f"{host}:{place}/"], check=True, capture_output=True)

    def end(self) -> None:
        subprocess.run([HOSTS, "down", self.state], check=True, capture_output=True)


@pytest.fixture(scope="module")
def catalog() -> dict[str, object]:
    steps = [{"requirements": ["click==8.2.1"]}, {"package": "latex2sympy2", "dependencies": False}]
    return {"targets": {TARGET: {"python": "{}.{}".format(*sys.version_info), "steps": steps, "imports": ["click"]}}}


@pytest.fixture(scope="module")
def cycle(tmp_path_factory: pytest.TempPathFactory, catalog: dict[str, object]) -> Iterator[Cycle]:
    """A bastion whose index has what a control node needs, and its bundle."""
    with Cycle(tmp_path_factory.mktemp("gap") / "work", targets={"node2": [TARGET]}, compiler=False, air_gap=True) as cycle:
        named = re.findall(r"^([\w.-]+) >=", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
        needed = closure(named)
        for name in needed:
            dated(repack(name, cycle.world.root / "index"), BEFORE)
        listed = cycle.work / "control-requirements.txt"
        listed.write_text("".join(f"{name}=={version(name)}\n" for name in needed), encoding="utf-8")
        path = cycle.write_inventory("control", {"node2": {"rlinf_targets": [TARGET]}}, catalog)
        written = yaml.safe_load(path.read_text(encoding="utf-8"))
        bastion = written["all"]["children"]["rlinf_bastion"]["hosts"]["bastion"]
        control = {"rlinf_control_requirements": str(listed), "rlinf_control_pythons": [cycle.world.python]}
        bastion |= {"rlinf_control_node": True, **control}
        path.write_text(yaml.safe_dump(written), encoding="utf-8")
        cycle.inventory = path
        cycle.play("download")
        assert cycle.play("download").changed == 0
        yield cycle


@pytest.fixture(scope="module")
def gap(tmp_path_factory: pytest.TempPathFactory, cycle: Cycle) -> Iterator[Gap]:
    gap = Gap(tmp_path_factory.mktemp("hosts") / "state")
    try:
        gap.carry(cycle.bundle, "node1", MEDIA)
        key = (gap.state / "key").read_text(encoding="utf-8")
        gap.shell("node1", f"install -d -m 700 /root/.ssh && umask 077 && cat > /root/.ssh/id_ed25519 <<'END'\n{key}END\n")
        yield gap
    finally:
        gap.end()


def test_a_control_node_out_of_the_bundle_installs_another_host(gap: Gap, cycle: Cycle, catalog: dict[str, object]) -> None:
    make = f"{base_python()} {MEDIA}/tools/make-control-node {CONTROL}"
    assert "Network is unreachable" in gap.fails("node1", "exec 3<>/dev/tcp/192.0.2.1/80")
    assert gap.shell("node1", make).startswith(f"Made a control node in {CONTROL}.")
    everything = f"find {CONTROL} -type f ! -path '*/__pycache__/*' -exec sha256sum {{}} + | sort"
    before = gap.shell("node1", everything)
    assert gap.shell("node1", make).startswith("Nothing to do:") and gap.shell("node1", everything) == before
    # the user's part: who the node is, and what the bastion was told
    inventory = yaml.safe_load(gap.shell("node1", f"cat {CONTROL}/inventory.yml"))
    inventory["all"]["vars"] = {"rlinf_targets": [TARGET], **common_variables(cycle.world)}
    inventory["all"]["vars"]["rlinf_catalog"] = {**inventory["all"]["vars"]["rlinf_catalog"], "targets": catalog["targets"]}
    node = {"ansible_host": gap.addresses["node2"], "ansible_python_interpreter": base_python(), "rlinf_prefix": "/opt/rlinf"}
    inventory["all"]["children"]["rlinf_nodes"]["hosts"] = {"gpu01": node}
    text = yaml.safe_dump(inventory)
    gap.shell("node1", f"cat > {CONTROL}/inventory.yml <<'END'\n{text}END\n")
    play = f"ANSIBLE_CONFIG={CONTROL}/ansible.cfg ANSIBLE_HOST_KEY_CHECKING=False {CONTROL}/venv/bin/ansible-playbook rlinf.offline.site"
    assert re.search(r"gpu01 +: ok=\d+ +changed=[1-9]", gap.shell("node1", play))
    assert gap.shell("node2", f"/opt/rlinf/venvs/{TARGET}/bin/python -c 'import click; print(click.__version__)'") == "8.2.1\n"
    assert re.search(r"gpu01 +: ok=\d+ +changed=0 +unreachable=0 +failed=0", gap.shell("node1", play))
    # the inventory is the user's from now on
    assert (
        gap.shell("node1", make).startswith("Nothing to do:")
        and yaml.safe_load(gap.shell("node1", f"cat {CONTROL}/inventory.yml")) == inventory
    )


def test_what_is_wrong_is_said_before_anything_is_made(gap: Gap, cycle: Cycle, tmp_path: Path) -> None:
    def make(python: str = base_python(), directory: str = "/opt/other") -> str:
        said = gap.fails("node1", f"{python} /opt/damaged/tools/make-control-node {directory}")
        gap.shell("node1", "test ! -e /opt/other")
        return said

    bundle = tmp_path / "bundle"
    shutil.copytree(cycle.bundle / "tools", bundle / "tools")
    gap.carry(bundle, "node1", "/opt/damaged")
    assert "/opt/damaged/bundle.json is missing or damaged. Carry the bundle over again." in make()
    shutil.copy2(cycle.bundle / "bundle.json", bundle)
    wheel = next(bundle.glob("tools/control/ansible_core-*.whl"))
    wheel.write_bytes(wheel.read_bytes()[:-1])
    gap.carry(bundle, "node1", "/opt/damaged")
    assert f"/opt/damaged/tools/control/{wheel.name} is missing or damaged" in make()
    assert "/opt/damaged/here is inside the bundle" in make(directory="/opt/damaged/here")
    gap.shell("node1", "mv /opt/damaged/tools/control/requirements-*.txt /opt/damaged/tools/control/requirements-2.7.txt")
    assert f"makes control nodes of Python 2.7; this is {sys.version.split()[0]}" in make()
    gap.shell("node1", "rm /opt/damaged/tools/control/*.txt")
    assert "run download with rlinf_control_node: true" in make()
