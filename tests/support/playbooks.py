# SPDX-License-Identifier: GPL-3.0-or-later
"""Run ansible-playbook as a user does whose settings are Ansible's own: into a pipe, onto a terminal, or for a program."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOR_PROGRAMS = {"ANSIBLE_STDOUT_CALLBACK": "json", "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "tests/support/callbacks")}
"""The environment in which standard output is JSON (a stand-in's, see there)."""


@dataclass(frozen=True)
class Said:
    """What a run ended with, and what it wrote."""

    status: int
    output: str
    errors: str

    def results(self, host: str) -> dict[str, dict[str, Any]]:
        """Return what each task said of a host, of a run for a program."""
        return {item["task"]: item["result"] for item in json.loads(self.output) if item["host"] == host}


def environment(home: Path, more: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "NO_COLOR"))}
    return {**kept, "TERM": "xterm", "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_HOME": str(home), **more}


def command(inventory: Path, playbook: str | Path, *extra: str) -> list[str]:
    return [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(inventory), str(playbook), *extra]


def play(inventory: Path, playbook: str | Path, *extra: str, env: Mapping[str, str] | None = None) -> Said:
    """Run a playbook into pipes."""
    done = subprocess.run(
        command(inventory, playbook, *extra),
        env=environment(inventory.parent / "ansible", env or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def play_on_terminal(inventory: Path, playbook: str | Path, *extra: str, env: Mapping[str, str] | None = None) -> Said:
    """Run a playbook on a terminal, which is its standard output and error."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command(inventory, playbook, *extra),
        env=environment(inventory.parent / "ansible", env or {}),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as running:
        os.close(theirs)
        output = b""
        try:
            while data := os.read(ours, 65536):
                output += data
        except OSError:
            # Linux says so when the other side is closed
            pass
        os.close(ours)
    return Said(running.returncode, output.decode().replace("\r\n", "\n"), "")
