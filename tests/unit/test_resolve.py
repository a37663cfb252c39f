# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading what uv resolved, and what it says of a repository that it could not reach."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils._errors import LockError
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._resolve import Pin, missing_repository

COMMIT = "c8f03f48af692657d3060c19588038c7220e9af9"


def test_a_pin_from_an_index_has_a_version():
    pin = Pin.parse("Flash_Attn==2.7.4.post1")
    assert (pin.name, pin.version, pin.git, pin.short) == ("flash-attn", "2.7.4.post1", None, "2.7.4.post1")


def test_a_pin_from_git_has_a_commit_and_a_subdirectory():
    pin = Pin.parse(f"openpi-client @ git+https://github.com/RLinf/openpi@{COMMIT}#egg=x&subdirectory=packages/openpi-client")
    assert pin.git == ("https://github.com/RLinf/openpi", COMMIT, "packages/openpi-client")
    assert pin.version is None


def test_an_ssh_url_keeps_its_user():
    assert Pin.parse(f"a @ git+ssh://git@github.com/o/a.git@{COMMIT}").git == ("ssh://git@github.com/o/a.git", COMMIT, None)


def test_a_git_pin_without_a_commit_is_an_error():
    with pytest.raises(LockError, match="without a commit"):
        _ignored = Pin.parse("a @ git+https://github.com/o/a.git@main").git


def test_the_repository_that_git_asked_for_is_found_in_what_uv_says(tmp_path: Path):
    bundle = Bundle(tmp_path)
    command = "/usr/bin/git fetch --force --update-head-ok 'https://github.com/moojink/dlimp_openvla' '+HEAD:refs/remotes/origin/HEAD'"
    said = f"cause: process didn't exit successfully: `{command}`"
    assert missing_repository(said, bundle) == "https://github.com/moojink/dlimp_openvla"
    (bundle.repos / "github.com/moojink/dlimp_openvla.git").mkdir(parents=True)
    assert missing_repository(said, bundle) is None


def test_a_missing_submodule_is_found_by_the_path_that_git_was_sent_to(tmp_path: Path):
    bundle = Bundle(tmp_path)
    said = f"fatal: '{bundle.repos}/github.com/o/sub.git' does not appear to be a git repository"
    assert missing_repository(said, bundle) == "https://github.com/o/sub.git"
