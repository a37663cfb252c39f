# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding uv and interpreters, and keeping uv off the network."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils._errors import OfflineError, ProcessError
from ansible_collections.rlinf.offline.plugins.module_utils._uv import (
    Uv,
    ask_interpreter,
    find_python,
    find_uv,
    installed_pythons,
    offline_environment,
)
from tests.support.wheels import build_wheel


@pytest.fixture
def uv(tmp_path: Path) -> Uv:
    return Uv(find_uv(), offline_environment(tmp_path / "cache"))


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_the_prefix_comes_before_this_interpreter(tmp_path: Path) -> None:
    assert find_uv(prefix=tmp_path) == Path(sys.executable).parent / "uv"
    own = script(tmp_path / "tools" / "uv", "echo uv 0.9.0")
    assert find_uv(prefix=tmp_path) == own
    assert find_uv(explicit=Path(sys.executable).parent / "uv", prefix=tmp_path) != own


def test_every_place_is_named_when_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OfflineError, match=r"There is no uv. Looked for /nowhere/uv \(given\).*prepare.*rlinf_uv"):
        find_uv(explicit=Path("/nowhere/uv"))
    monkeypatch.setattr("sysconfig.get_path", lambda _name: str(tmp_path / "scripts"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OfflineError) as caught:
        find_uv(prefix=tmp_path / "prefix")
    for place in (f"{tmp_path}/prefix/tools/uv (the prefix)", f"{tmp_path}/scripts/uv (this Python's scripts)", "uv (PATH)"):
        assert place in str(caught.value)
    found = script(tmp_path / "uv", "echo uv 1.0")
    assert find_uv(prefix=tmp_path / "prefix") == found


def test_an_old_uv_and_what_is_no_uv_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OfflineError, match=r"is uv 0.8.22; 0.9 or newer is needed"):
        find_uv(explicit=script(tmp_path / "uv", "echo 'uv 0.8.22 (abc 2025-01-01)'"))
    with pytest.raises(OfflineError, match="is no uv: asked for its version it said 'hello'"):
        find_uv(explicit=script(tmp_path / "other", "echo hello"))


def test_an_interpreter_by_path_and_by_version(uv: Uv) -> None:
    own = ask_interpreter(Path(sys.executable))
    assert (
        own.version == platform.python_version()
        and own.minor == sys.version_info[:2]
        and own.executable == Path(os.path.realpath(sys.executable))
    )
    assert find_python(sys.executable, uv) == own
    there = installed_pythons(uv)[0]
    found = find_python(there.version, uv)
    assert found.version == there.version and found.path.is_absolute()


def test_a_virtual_environment_is_not_taken_for_a_version(uv: Uv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = find_python(installed_pythons(uv)[0].version, uv).version
    uv.run(["venv", "--no-project", "-p", version, tmp_path / "v"], what="making an environment")
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "v"))
    assert tmp_path not in find_python(version, uv).path.parents


def test_what_is_there_is_named_when_a_version_is_not(uv: Uv) -> None:
    with pytest.raises(OfflineError) as caught:
        find_python("3.99", uv)
    assert all(str(python.path) in str(caught.value) for python in installed_pythons(uv)) and "rlinf_python" in str(caught.value)


def test_what_is_no_python_is_named(uv: Uv, tmp_path: Path) -> None:
    for path, state in ((script(tmp_path / "python", "echo hello"), "cannot be run as a Python"), (tmp_path / "none", "is not there")):
        with pytest.raises(OfflineError, match=f"The interpreter {path} {state}. Set rlinf_python"):
            find_python(str(path), uv)


def test_looking_leaves_nothing_behind(uv: Uv, tmp_path: Path) -> None:
    find_python(installed_pythons(uv)[0].version, uv)
    assert list(tmp_path.iterdir()) == []


def test_uv_stays_off_the_network_and_reads_no_settings(uv: Uv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home" / ".config" / "uv").mkdir(parents=True)
    (tmp_path / "home" / ".config" / "uv" / "uv.toml").write_text("no settings")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("UV_FIND_LINKS", str(build_wheel(tmp_path / "links", "alpha", "1.0").parent))
    uv.run(["venv", "--no-project", "-p", sys.executable, tmp_path / "v"], what="making an environment")
    with pytest.raises(ProcessError, match=r"(?s)asking for alpha: uv ended with status \d+:.*network was disabled"):
        uv.run(["pip", "install", "--dry-run", "-p", tmp_path / "v", "alpha"], what="asking for alpha", cwd=tmp_path)
    with pytest.raises(ProcessError, match=r"(?s)asking for beta.*Remote Git fetches are not allowed"):
        uv.run(
            ["pip", "install", "--dry-run", "-p", tmp_path / "v", "beta @ git+https://git.example/o/n"],
            what="asking for beta",
            cwd=tmp_path,
        )
