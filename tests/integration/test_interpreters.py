# SPDX-License-Identifier: GPL-3.0-or-later
"""A node without the interpreter that a target needs gets the bundle's, and the environment is made with it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.demo.cycle import ROOT, Cycle, PlayFailed
from tests.support.interpreters import MINOR, VERSION, build_interpreter

HOSTS = ROOT / "tests" / "hosts" / "hosts.sh"
URL = "https://github.com/pythons/releases/cpython-install_only.tar.gz"
TARGET = "tiny"


def test_a_target_stands_on_the_bundles_interpreter(tmp_path_factory: pytest.TempPathFactory) -> None:
    if os.geteuid():
        raise PermissionError("This test makes a host in namespaces, which needs root: sudo make integration")
    # short, since ssh's sockets lie below it
    folder = tmp_path_factory.mktemp("py")
    steps = [{"requirements": ["click==8.2.1"]}, {"package": "latex2sympy2", "dependencies": False}]
    catalog = {
        "targets": {TARGET: {"python": MINOR, "steps": steps, "imports": ["click"]}},
        "interpreters": {"own": {"python": VERSION, "machine": os.uname().machine, "url": URL}},
    }
    with Cycle(folder / "work", targets={"node1": [TARGET]}, offline=False, compiler=False) as cycle:
        build_interpreter(cycle.world.file(URL))
        state = folder / "state"
        # what runs the tests lies in the user's home, perhaps; the system's own Python is all that the host has
        hidden = {**os.environ, "HIDE": f"{Path.home()}:/usr/local/bin:{ROOT}"}
        subprocess.run([HOSTS, "up", "1", state], check=True, capture_output=True, env=hidden)
        try:
            address = subprocess.run([HOSTS, "list", state], check=True, capture_output=True, text=True).stdout.split()[1]
            node = {
                "ansible_connection": "ssh",
                "ansible_host": address,
                "ansible_user": "root",
                "ansible_python_interpreter": "/usr/bin/python3",
                "ansible_ssh_private_key_file": str(state / "key"),
                "ansible_ssh_common_args": f"-o UserKnownHostsFile={state}/known_hosts",
                "ansible_remote_tmp": "/tmp/ansible",
                "rlinf_prefix": "/opt/rlinf",
                "rlinf_targets": [TARGET],
            }
            cycle.inventory = cycle.write_inventory("host", {"node1": node}, catalog)
            written = yaml.safe_load(cycle.inventory.read_text(encoding="utf-8"))
            bastion = written["all"]["children"]["rlinf_bastion"]["hosts"]["bastion"]
            bastion["rlinf_python"] = written["all"]["vars"]["rlinf_python"]
            # not the one that the host has by itself
            written["all"]["vars"]["rlinf_python"] = VERSION
            cycle.inventory.write_text(yaml.safe_dump(written), encoding="utf-8")
            cycle.play("download")
            assert f"Python {VERSION}" in _refused(cycle)
            bastion["rlinf_interpreters"] = ["own"]
            cycle.inventory.write_text(yaml.safe_dump(written), encoding="utf-8")
            cycle.play("download")
            assert cycle.play("download").changed == 0
            assert cycle.play("site").changed > 0
            code = "import sys; print(sys.base_prefix, '.'.join(map(str, sys.version_info[:3])))"
            command = f'/opt/rlinf/venvs/{TARGET}/bin/python -c "{code}"'
            said = subprocess.run([HOSTS, "ssh", state, "node1", command], check=True, capture_output=True, text=True).stdout
            assert re.match(rf"/opt/rlinf/interpreters/cpython-{re.escape(VERSION)}-\w+-[0-9a-f]{{12}} {re.escape(VERSION)}$", said)
            assert cycle.play("site").changed == 0
        finally:
            subprocess.run([HOSTS, "down", state], check=True, capture_output=True)


def _refused(cycle: Cycle) -> str:
    """Return what the preflight says, which has to refuse."""
    try:
        cycle.play("preflight")
    except PlayFailed as failure:
        assert "rlinf_interpreters: auto" in str(failure)
        return str(failure)
    raise AssertionError("the preflight found an interpreter that is not there")
