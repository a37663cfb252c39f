# SPDX-License-Identifier: GPL-3.0-or-later
"""The callback rlinf_progress: what it shows of a slow download, on a terminal and in a log, and that it leaves standard output alone."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.rlinf.offline.plugins.callback.rlinf_progress import Pace, line
from tests.support.fleet import bundle_of
from tests.support.playbooks import FOR_PROGRAMS
from tests.support.upstream import Fault, Upstream

CHECKOUT = Path(__file__).resolve().parents[2]
PLAY = """
- hosts: localhost
  gather_facts: false
  connection: local
  tasks:
    - rlinf.offline.rlinf_asset_cache:
        bundle_dir: "{{ bundle }}"
        assets: [{name: big, url: "{{ url }}", dest: big.bin}]
"""


LONG_PLAY = """
- hosts: all
  gather_facts: false
  connection: local
  tasks:
    - name: Something long
      ansible.builtin.command: sleep 5
      changed_when: false
"""


def test_rate_and_time_left() -> None:
    pace = Pace()
    assert pace.rate(0.0, 0) == 0
    assert pace.rate(2.0, 2000) == 1000
    assert pace.rate(3.0, 500) == 0, "started over"
    assert line("a", 500, 2000, 100.0).endswith(", 0:15 left")
    assert "left" not in line("a", 500, None, 100.0), "no length, no time"
    assert "\x1b" not in line("\x1b[2J", 1, None, 0.0)


@pytest.fixture
def slow(tmp_path: Path):  # type: ignore[no-untyped-def]
    (tmp_path / "root").mkdir()
    (tmp_path / "tmp").mkdir()
    (tmp_path / "root" / "big.bin").write_bytes(os.urandom(1 << 20))
    (tmp_path / "play.yml").write_text(PLAY)
    with Upstream(tmp_path / "root") as upstream:
        upstream.always("/big.bin", Fault(pace=0.1))
        command = [Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", tmp_path / "play.yml"]
        command += ["-e", f"bundle={tmp_path}/bundle url={upstream.url}/big.bin ansible_python_interpreter={sys.executable}"]
        yield [str(word) for word in command]


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    enabled = {"ANSIBLE_CALLBACKS_ENABLED": "rlinf.offline.rlinf_progress", "TMPDIR": str(tmp_path / "tmp")}
    return {**os.environ, **enabled, **more}


def on_terminal(command: list[str], env: dict[str, str], until: bytes | None = None) -> tuple[int, bytes]:
    """Run a playbook on a terminal; return its status and what it said.

    :param until: interrupt it, as Ctrl-C does, once it has said this.
    """
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, cwd=CHECKOUT, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # how the end of a terminal looks
        while chunk := os.read(ours, 4096):
            said += chunk
            if until and until in said:
                os.killpg(process.pid, signal.SIGINT)
                until = None
    os.close(ours)
    return process.wait(), said


def left(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "tmp").glob("rlinf-progress-*"))


def test_in_a_log(slow: list[str], tmp_path: Path) -> None:
    env = environment(tmp_path, RLINF_PROGRESS_INTERVAL="0", **FOR_PROGRAMS)
    done = subprocess.run(slow, cwd=CHECKOUT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "big.bin: " in done.stderr
    assert "\x1b[K" not in done.stderr
    assert json.loads(done.stdout), "standard output is the other callback's alone"
    assert not left(tmp_path)


def test_on_a_terminal(slow: list[str], tmp_path: Path) -> None:
    status, said = on_terminal(slow, environment(tmp_path))
    assert status == 0, said
    assert b"download big.bin: " in said and b"left" in said
    for piece in said.split(b"download big.bin: ")[1:]:
        assert b"\r\x1b[K" in piece.split(b"\n")[0], "cleared before anything else"
    assert not left(tmp_path)


def test_ctrl_c_leaves_a_clean_line_and_nothing_else(slow: list[str], tmp_path: Path) -> None:
    status, said = on_terminal(slow, environment(tmp_path), until=b"download big.bin: ")
    assert status != 0
    assert b"\r\x1b[K" in said.split(b"download big.bin: ")[-1]
    assert not left(tmp_path)


def test_a_long_task_is_said_by_its_hosts(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "play.yml").write_text(LONG_PLAY)
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "one,two,", str(tmp_path / "play.yml")]
    command += ["-e", f"ansible_python_interpreter={sys.executable}"]
    status, said = on_terminal(command, environment(tmp_path))
    assert status == 0 and b"Something long: 0 of 2 hosts, 0:0" in said, said
    assert not left(tmp_path)


@pytest.mark.parametrize("name", ["ansible.builtin.minimal", "ansible.builtin.oneline"])
def test_beside_other_callbacks(slow: list[str], tmp_path: Path, name: str) -> None:
    env = environment(tmp_path, RLINF_PROGRESS_INTERVAL="0", ANSIBLE_STDOUT_CALLBACK=name)
    done = subprocess.run(slow, cwd=CHECKOUT, env=env, capture_output=True, text=True, check=False)
    env.pop("ANSIBLE_CALLBACKS_ENABLED")
    plain = subprocess.run(slow, cwd=CHECKOUT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == plain.returncode == 0
    assert "download big.bin: " in done.stderr and "big.bin" not in plain.stderr
    assert "CHANGED" in done.stdout.upper() and "download big.bin: " not in done.stdout


def test_a_push_is_told(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    bundle = bundle_of(tmp_path / "bundle", [2_000_000] * 3, swarm=False)
    command = [
        str(Path(sys.executable).with_name("ansible")),
        "-i",
        "localhost,",
        "localhost",
        "-c",
        "local",
        "-m",
        "rlinf.offline.rlinf_push",
    ]
    command += ["-a", json.dumps({"src": str(bundle.root), "dest": str(tmp_path / "node"), "bandwidth": 2000})]
    folder = tmp_path / "told"
    folder.mkdir()
    seen: list[list[object]] = []
    with subprocess.Popen(command, cwd=CHECKOUT, env={**os.environ, "RLINF_PROGRESS": str(folder)}, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            for path in folder.glob("*.json"):
                with contextlib.suppress(OSError, ValueError):
                    seen.append(json.loads(path.read_text()))
    assert process.returncode == 0
    kinds = {(one[0], one[1], one[3]) for one in seen}
    assert ("push", "localhost", 6_000_000) in {(kind, label, total and min(total, 6_000_000)) for kind, label, total in kinds}  # type: ignore[type-var]
    assert any(0 < one[2] < 6_000_000 for one in seen if one[0] == "push")  # type: ignore[operator]
