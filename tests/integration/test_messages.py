# SPDX-License-Identifier: GPL-3.0-or-later
"""What patching and restoring say, word for word: in colours on a terminal, plain elsewhere, beside the output that programs read."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.checkouts import WHEEL, WHEEL_URL, make_bundle, make_checkout
from tests.support.playbooks import FOR_PROGRAMS, play, play_on_terminal

HOSTS = ("gpu01", "gpu02")
GREEN, YELLOW, CYAN = "\x1b[0;32m", "\x1b[0;33m", "\x1b[0;36m"
FILES = {
    "requirements/a.txt": f"openvla @ git+https://github.com/openvla/openvla.git\nflash-attn @ {WHEEL_URL}\n",
    "requirements/b.txt": "a @ git+https://github.com/fork/openvla\nb @ https://h/b-1.tar.gz\nc @ https://u:hunter2@h/c-1-py3-none-any.whl\n",
    "pyproject.toml": "[project]\nname = 'x'\ndependencies = ['openpi @ git+https://github.com/RLinf/openpi']\n",
}
PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Patch
      rlinf.offline.rlinf_req_patch:
        project_dir: "{{ project }}"
        bundle_dir: "{{ bundle }}"
        state_dir: "{{ state }}"
        strict: "{{ strict | default(false) }}"
    - name: Restore
      rlinf.offline.rlinf_req_patch: {project_dir: "{{ project }}", state_dir: "{{ state }}", state: restored}
    - name: Patch in secret
      rlinf.offline.rlinf_req_patch: {project_dir: "{{ project }}", bundle_dir: "{{ bundle }}", state_dir: "{{ state }}"}
      check_mode: true
      no_log: true
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with an inventory of two hosts, each with a checkout of its own."""
    root = tmp_path_factory.mktemp("messages")
    make_bundle(root / "bundle")
    hosts = {}
    for host in HOSTS:
        (root / host).mkdir()
        make_checkout(root / host / "project", FILES)
        hosts[host] = {"project": str(root / host / "project"), "state": str(root / host / "state")}
    common = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "bundle": str(root / "bundle")}
    (root / "inventory.yml").write_text(yaml.safe_dump({"all": {"vars": common, "hosts": hosts}}), encoding="utf-8")
    (root / "play.yml").write_text(PLAYBOOK, encoding="utf-8")
    return root


def expected(place: Path) -> list[tuple[str, str]]:
    """Return the lines that a host is to see, each with its colour."""
    said = [
        (GREEN, f"using local repo openvla -> {place}/bundle/repos/github.com/openvla/openvla.git in requirements/a.txt"),
        (GREEN, f"using local wheel {place}/bundle/wheels/{WHEEL} in requirements/a.txt"),
        (YELLOW, "remote fallback for repo openvla (not referenced) in requirements/b.txt"),
        (YELLOW, "remote fallback for https://h/b-1.tar.gz in requirements/b.txt"),
        (YELLOW, "remote wheel fallback https://***@h/c-1-py3-none-any.whl in requirements/b.txt"),
        (GREEN, f"using local repo openpi -> {place}/bundle/repos/github.com/RLinf/openpi.git in pyproject.toml"),
        (CYAN, "restoring requirements backup requirements/a.txt.backup -> requirements/a.txt"),
        (CYAN, "restoring main pyproject backup pyproject.toml.backup -> pyproject.toml"),
    ]
    return [(colour, f"[local-deps] {text}") for colour, text in said]


def seen(output: str, host: str) -> list[tuple[str, str]]:
    """Return the lines of a host, each with what stands before it to colour it."""
    found = re.finditer(rf"^((?:\x1b\[[0-9;]*m)?){host}: (\[local-deps\] [^\x1b\n]*)(\x1b\[0m)?$", output, re.MULTILINE)
    return [(line[1], line[2]) for line in found]


def test_on_a_terminal_they_are_coloured(place: Path) -> None:
    said = play_on_terminal(place / "inventory.yml", place / "play.yml")
    assert said.status == 0, said.output
    assert {host: seen(said.output, host) for host in HOSTS} == dict.fromkeys(HOSTS, expected(place))
    # each before the line of the task that it is of
    assert said.output.index("[local-deps] using") < said.output.index("changed: [gpu0") < said.output.index("[local-deps] restoring")


def test_elsewhere_they_are_plain(place: Path) -> None:
    plain = [("", text) for _colour, text in expected(place)]
    said = play(place / "inventory.yml", place / "play.yml", "-v", env={"ANSIBLE_LOG_PATH": str(place / "log")})
    assert said.status == 0, said.output
    assert {host: seen(said.output, host) for host in HOSTS} == dict.fromkeys(HOSTS, plain)
    assert "hunter2" not in said.output
    log = (place / "log").read_text(encoding="utf-8")
    assert all(log.count(f"{host}: {text}") == 1 for host in HOSTS for _colour, text in plain) and "\x1b" not in log
    said = play_on_terminal(place / "inventory.yml", place / "play.yml", "--check", env={"ANSIBLE_NOCOLOR": "1"})
    assert {host: seen(said.output, host) for host in HOSTS} == dict.fromkeys(HOSTS, plain[:6])


def test_what_programs_read_stays_whole(place: Path) -> None:
    said = play(place / "inventory.yml", place / "play.yml", env=FOR_PROGRAMS)
    for host in HOSTS:
        results = said.results(host)
        texts = [message["text"] for task in ("Patch", "Restore") for message in results[task]["messages"]]
        assert texts == [text for _colour, text in expected(place)] == [text for _colour, text in seen(said.errors, host)]


def test_a_task_that_failed_says_what_it_found(place: Path) -> None:
    said = play(place / "inventory.yml", place / "play.yml", "-e", "{strict: true}")
    assert said.status == 2
    plain = [("", text) for _colour, text in expected(place)[:6]]
    assert {host: seen(said.output, host) for host in HOSTS} == dict.fromkeys(HOSTS, plain)
    assert "The bundle has no copy of 3 references" in said.output and "Nothing was changed" in said.output
