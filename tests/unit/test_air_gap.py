# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The records of an install, judged: what proves that nothing was tried, and what does not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils._errors import CatalogError
from ansible_collections.rlinf.offline.plugins.module_utils._files import write_json
from ansible_collections.rlinf.offline.plugins.module_utils._generations import Generations
from tests.support.environments import Site
from tests.support.wheels import build_wheel
from tests.unit.conftest import ModuleFailed
from tests.unit.test_egress import ATTEMPT, HELPER, started
from tests.unit.test_egress import Steps as _Steps

DIGEST = "ab" * 32
CLEAN = {
    "format": 1,
    "recorded": True,
    "canary": True,
    "changed": True,
    "attempts": [],
    "left": [],
    "ended": "2026-01-01T00:00:01+00:00",
    "started": "2026-01-01T00:00:00+00:00",
    "passed": {"unix /run/x": 2},
    "programs": {"uv": 3, "git": 1},
}


class Judged:
    """A prefix, its records, and the module that judges them."""

    def __init__(self, run: Callable[..., dict[str, Any]], prefix: Path) -> None:
        self.run, self.prefix, self.folder = run, prefix, prefix / "state" / "air-gap"
        self.folder.mkdir(parents=True)
        self.record = prefix / "state" / "air-gap.json"

    def __call__(self, *targets: str, **options: Any) -> dict[str, Any]:
        arguments = {key: options.pop(key) for key in ("environment",) if key in options}
        return self.run("rlinf_air_gap", {"prefix": str(self.prefix), "targets": list(targets), **arguments}, **options)

    def says(self, *targets: str) -> str:
        """Return why it fails; what it says is in the record, too."""
        with pytest.raises(ModuleFailed) as failed:
            self(*targets)
        assert self.record.is_file() and str(self.record) in failed.value.result["msg"]
        return str(failed.value.result["msg"])

    def step(self, name: str, **values: Any) -> Path:
        path = self.folder / f"{name}.json"
        write_json(path, {**CLEAN, "step": name, **values}, mode=0o600)
        return path

    def environment(self, target: str) -> None:
        """Have a current environment."""
        generations = Generations(self.prefix / "venvs", target, self.prefix / "venvs" / target)
        place = generations.place(DIGEST)
        place.mkdir(parents=True)
        generations.switch(generations.finish(place, {"digest": DIGEST}))


@pytest.fixture
def judged(run_module: Callable[..., dict[str, Any]], tmp_path: Path) -> Judged:
    return Judged(run_module, tmp_path / "prefix")


def made(target: str, **values: Any) -> dict[str, Any]:
    return {"module": "rlinf_venv", "target": target, "digest": DIGEST, **values}


def test_an_install_that_tried_nothing_is_shown_and_kept_once(judged: Judged, tree_hash: Callable[..., Any]) -> None:
    judged.environment("openvla")
    judged.step("rlinf_venv-openvla-present", **made("openvla"))
    judged.step("rlinf_runtime")
    before = tree_hash(judged.prefix)
    assert judged("openvla", check=True)["changed"] and tree_hash(judged.prefix) == before
    result = judged("openvla", diff=True)
    assert result["changed"] and result["attempts"] == [] and result["diff"]["after"].count("rlinf_runtime")
    assert result["summary"] == [
        "steps: 2, which started or looked for programs 8 times",
        "attempts to reach the network: 0",
        "reached on the node itself: unix /run/x",
    ]
    assert result["environments"] == {"openvla": {"digest": DIGEST, "made_by": "rlinf_venv-openvla-present.json"}}
    after = tree_hash(judged.prefix)
    assert judged.record.stat().st_mode & 0o777 == 0o600
    for check in (True, False):
        assert not judged("openvla", check=check)["changed"] and tree_hash(judged.prefix) == after


def test_an_attempt_fails_it_until_somebody_has_looked_at_it(judged: Judged, tmp_path: Path) -> None:
    steps = _Steps(judged.folder)
    steps.run(sys.executable, "-c", ATTEMPT, "443")
    message = judged.says()
    program = Path(os.path.realpath(sys.executable)).name
    assert "Attempts to reach the network were refused, 1 in all: step step: python" in message and program[:6] in message
    assert "by connect to 198.18.0.1:443" in message
    (kept,) = judged.folder.glob("*.attempts.json")
    assert str(kept) in message
    document = json.loads(judged.record.read_text(encoding="utf-8"))
    (attempt,) = document["attempts"]
    assert (attempt["address"], attempt["port"], attempt["step"]) == ("198.18.0.1", 443, "step") and attempt["pid"] > 1
    # doing the same without an attempt does not undo that one
    steps.run("true")
    assert "198.18.0.1" in judged.says()
    kept.unlink()
    assert judged()["attempts"] == []


def test_an_environment_that_was_made_otherwise_proves_nothing(judged: Judged, tmp_path: Path) -> None:
    judged.environment("openvla")
    judged.step("rlinf_venv-openpi-present", **made("openpi"))
    judged.step("rlinf_venv-openvla-present", **made("openvla", digest="cd" * 32))
    judged.step("rlinf_venv-openvla-verified", **made("openvla", changed=False))
    assert "openvla: its environment was not made with rlinf_air_gap" in judged.says("openvla")
    assert "reason: its environment was not made" in judged.says("reason")
    existing = tmp_path / "conda"
    (existing / "rlinf").mkdir(parents=True)
    write_json(existing / "rlinf" / "openpi.json", {"digest": DIGEST})
    assert judged("openpi", environment=str(existing))["environments"]["openpi"]["made_by"] == "rlinf_venv-openpi-present.json"


def test_a_detector_that_detects_nothing_proves_nothing(judged: Judged) -> None:
    judged.step("rlinf_runtime", canary=False)
    assert "was not noticed, so nothing is proven" in judged.says()


def test_a_step_that_has_left_somebody_behind_proves_nothing(judged: Judged) -> None:
    steps = _Steps(judged.folder)
    left = steps.leave_somebody()
    assert f"has left running: {left['program']} (process {left['pid']}" in judged.says()
    steps.run("true")
    assert judged()["attempts"] == []


def test_where_only_the_namespace_denies_that_is_said(judged: Judged) -> None:
    judged.step("rlinf_runtime", recorded=False, canary=False, problem="seccomp: Operation not permitted")
    (warning,) = judged()["warnings"]
    assert "what was tried is not known (seccomp: Operation not permitted)" in str(warning)


def test_a_step_that_goes_on_or_was_killed_proves_nothing(judged: Judged) -> None:
    steps = _Steps(judged.folder)
    with started(steps, "print('ready'); signal.pause()") as running:
        assert "Step step goes on" in judged.says()
        running.kill()
    assert "Step step was cut off" in judged.says()
    steps.run("true")
    assert judged()["attempts"] == []


def test_what_a_killed_step_had_tried_is_known(judged: Judged) -> None:
    steps = _Steps(judged.folder)
    with started(steps, f"sys.argv[1:] = ['80']\n{ATTEMPT}\nprint('ready'); signal.pause()") as running:
        running.send_signal(signal.SIGKILL)
    assert "198.18.0.1:80" in judged.says()
    steps.run("true")
    assert "198.18.0.1:80" in judged.says()


def test_a_damaged_record_is_named(judged: Judged) -> None:
    (judged.folder / "rlinf_runtime.json").write_text("{")
    with pytest.raises(ModuleFailed, match=r"rlinf_runtime\.json is damaged"):
        judged()


def test_it_does_not_wait_for_itself(judged: Judged) -> None:
    assert judged(env={"RLINF_AIR_GAP": str(judged.folder)})["attempts"] == []
    assert list(judged.folder.iterdir()) == []


def test_an_index_beyond_the_node_contradicts_it() -> None:
    from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Catalog
    from ansible_collections.rlinf.offline.plugins.module_utils._wishes import read
    from tests.support.catalog import shipped
    from tests.unit.test_releases import SETTINGS

    values = {**SETTINGS, "rlinf_air_gap": "true", "rlinf_package_source": "index"}
    with pytest.raises(CatalogError, match="rlinf_air_gap shows that an install reaches nothing"):
        read(values, Catalog.parse({**shipped()}))


def test_the_recorder_needs_nothing_but_the_standard_library(tmp_path: Path) -> None:
    code = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    site = next(path for path in sys.path if path.endswith("collections"))
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path.insert(0, {site!r}); {code}",
        HELPER,
        tmp_path / "records",
        "step",
        "true",
    ]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


# -- a real install ------------------------------------------------------------------------------------------------------------------

TRIES = "import socket\nsocket.socket(type=socket.SOCK_DGRAM).connect_ex(('198.18.0.1', 4711))\n"


@pytest.mark.parametrize("trying", ["nobody", "script", "import"])
def test_an_install_is_judged_by_all_that_runs_in_it(
    run_module: Callable[..., dict[str, Any]], judged: Judged, tmp_path: Path, trying: str
) -> None:
    """Real uv, a script of upstream, a package that wants to tell somebody that it is imported; what fails is not the install, but the proof."""
    site = Site(tmp_path / "bundle", judged.prefix, run_module)
    lock = site.lock(build_wheel(site.index, "alpha", "1.0", modules={"alpha.py": TRIES if trying == "import" else ""}))
    checkout = tmp_path / "src"
    checkout.mkdir()
    (checkout / "told.py").write_text(TRIES if trying == "script" else "")
    script = {"name": "BEHAVIOR-1K", "cwd": str(checkout), "argv": ["sh", "-c", "python told.py"]}
    environment = {"RLINF_AIR_GAP": str(judged.folder)}
    named = {"_ansible_module_name": "rlinf.offline.rlinf_venv"}
    assert site(lock, scripts=[script], imports=["alpha"], env=environment, **named)["changed"]
    if trying == "nobody":
        proof = judged("openvla")
        assert proof["attempts"] == [] and proof["environments"]["openvla"]["made_by"].startswith("rlinf_venv-openvla-present-")
        record = json.loads(judged.record.read_text(encoding="utf-8"))["steps"][0]
        assert record["programs"]["uv"] and record["programs"]["sh"] and record["kept_in"]["filter"]
        # running again changes nothing, and what it is known by stays
        assert not site(lock, scripts=[script], imports=["alpha"], env=environment, **named)["changed"]
        assert not judged("openvla")["changed"]
    else:
        message = judged.says("openvla")
        assert "step rlinf_venv openvla present: python" in message and "to 198.18.0.1:4711" in message
        assert "told.py" in message or trying == "import"
