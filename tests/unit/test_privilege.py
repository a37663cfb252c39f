# SPDX-License-Identifier: GPL-3.0-or-later
"""Whoever starts it and from where: an umask, a missing HOME, the C locale and no terminal change nothing of what is made."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.origins import Origin
from tests.support.upstream import Upstream
from tests.support.wheels import build_wheel
from tests.unit.test_target import World, built, world

Run = Callable[..., dict[str, Any]]
Modes = dict[str, str]
GITHUB = "https://github.com/"
WHEEL = "apex-0.1-cp311-cp311-linux_x86_64.whl"
__all__ = ["built", "world"]


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Upstream]:
    build_wheel(tmp_path / "upstream/git/github.com/owner/releases", "apex", "0.1", tags="cp311-cp311-linux_x86_64")
    Origin(tmp_path / "upstream", "github.com/owner/name.git").commit(file="one\n", x="y")
    with Upstream(tmp_path / "upstream") as server:
        yield server


def started(folder: Path, umask: str, *, bare: bool = False) -> str:
    """Return a Python that is started with an umask and, *bare*, as cron would: no HOME, no terminal, the C locale."""
    place = folder / f"python-{umask}-{bare}"
    environment = 'env -i PATH="$PATH" LC_ALL=POSIX setsid --wait' if bare else ""
    place.write_text(f'#!/bin/sh\numask {umask}\nexec {environment} {sys.executable} "$@"\n')
    place.chmod(0o755)
    return str(place)


def modes(root: Path) -> Modes:
    """Return the mode of everything, save of locks, which are nobody's to read, and names that hold a digest of the content."""
    paths = [path for path in sorted(root.rglob("*")) if not path.is_symlink() and "lock" not in path.name and "/.git/" not in str(path)]
    return {str(path.relative_to(root)): stat.filemode(path.lstat().st_mode) for path in paths}


def a_bundle(run_module: Run, root: Path, upstream: Upstream, python: str) -> Modes:
    fetch = {"bundle_dir": str(root), "url_rewrites": {GITHUB: f"{upstream.url}/git/github.com/"}}
    run_module("rlinf_repo_mirror", {**fetch, "repos": [{"name": "name", "url": f"{GITHUB}owner/name.git"}]}, python=python)
    run_module("rlinf_wheel_cache", {**fetch, "wheels": [{"name": "apex", "url": f"{GITHUB}owner/releases/{WHEEL}"}]}, python=python)
    run_module("rlinf_bundle", {"bundle_dir": str(root), "state": "sealed"}, python=python)
    return modes(root)


def test_a_bundle_is_readable_for_its_nodes_whatever_the_umask(run_module: Run, tmp_path: Path, upstream: Upstream) -> None:
    """Nodes read it as another user, over rsync or NFS; none but its owner may write."""
    usual = a_bundle(run_module, tmp_path / "022", upstream, started(tmp_path, "022"))
    assert set(usual.values()) <= {"drwxr-xr-x", "-rw-r--r--", "-r--r--r--"}
    assert a_bundle(run_module, tmp_path / "077", upstream, started(tmp_path, "077", bare=True)) == usual
    assert a_bundle(run_module, tmp_path / "000", upstream, started(tmp_path, "000")) == usual


def test_a_node_is_the_same_whatever_the_umask(run_module: Run, world: World, tmp_path: Path) -> None:
    found = []
    for umask, bare in (("022", False), ("077", True), ("000", False)):
        prefix = tmp_path / umask
        run_module(
            "rlinf_target",
            {**world.args, "prefix": str(prefix), "home": str(tmp_path / f"home-{umask}")},
            python=started(tmp_path, umask, bare=bare),
        )
        found.append(modes(prefix))
    assert found[0] == found[1] == found[2]
    assert not [path for path, mode in found[2].items() if mode[5] == "w" or mode[8] == "w"]
