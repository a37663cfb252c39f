# SPDX-License-Identifier: GPL-3.0-or-later
"""Whoever starts it and from where: an umask, a missing HOME, the C locale and no terminal change nothing of what is made."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.support import environments
from tests.support.modes import Modes, modes, others_may_write
from tests.support.origins import Origin
from tests.support.upstream import Upstream
from tests.support.wheels import build_wheel
from tests.unit.test_runtime import Site, bare, site, uv_wheel
from tests.unit.test_target import World, built, world

Run = Callable[..., dict[str, Any]]
Made = TypeVar("Made")
GITHUB = "https://github.com/"
WHEEL = "apex-0.1-cp311-cp311-linux_x86_64.whl"
__all__ = ["bare", "built", "site", "uv_wheel", "world"]


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Upstream]:
    build_wheel(tmp_path / "upstream/git/github.com/owner/releases", "apex", "0.1", tags="cp311-cp311-linux_x86_64")
    Origin(tmp_path / "upstream", "github.com/owner/name.git").commit(file="one\n", x="y")
    with Upstream(tmp_path / "upstream") as server:
        yield server


STARTS = (("022", False), ("077", True), ("000", False))
"""Umasks, and whether cron starts it."""


def started(folder: Path, umask: str, *, cron: bool = False, python: str = sys.executable) -> str:
    """Return a Python that is started with an umask and, *cron*, as cron would: no HOME, no terminal, the C locale."""
    place = folder / f"python-{umask}-{cron}"
    environment = 'env -i PATH="$PATH" PYTHONPATH="$PYTHONPATH" LC_ALL=POSIX setsid --wait' if cron else ""
    place.write_text(f'#!/bin/sh\numask {umask}\nexec {environment} {python} "$@"\n')
    place.chmod(0o755)
    return str(place)


def a_bundle(run_module: Run, work: Path, upstream: Upstream, python: str) -> dict[str, Modes]:
    """Download a bundle, carry it over by media, and return the modes of each."""
    bundle, media, copy = work / "bundle", work / "media", work / "copy"
    fetch = {"bundle_dir": str(bundle), "url_rewrites": {GITHUB: f"{upstream.url}/git/github.com/"}}
    run_module("rlinf_repo_mirror", {**fetch, "repos": [{"name": "name", "url": f"{GITHUB}owner/name.git"}]}, python=python)
    run_module("rlinf_wheel_cache", {**fetch, "wheels": [{"name": "apex", "url": f"{GITHUB}owner/releases/{WHEEL}"}]}, python=python)
    run_module("rlinf_bundle", {"bundle_dir": str(bundle), "state": "sealed"}, python=python)
    volumes = {"path": [str(media)], "volume_size": "20MB"}
    run_module("rlinf_media", {"bundle_dir": str(bundle), "state": "written", **volumes}, python=python)
    run_module("rlinf_media", {"bundle_dir": str(copy), "state": "read", **volumes}, python=python)
    return {place.name: modes(place) for place in (bundle, media, copy)}


def whoever_starts_it(folder: Path, make: Callable[[str, Path], Made], python: str = sys.executable) -> Made:
    """Make something below a directory by each way of starting, see that it is always the same, and return it.

    :param make: takes the Python to start, and a directory of its own.
    """
    found = [make(started(folder, umask, cron=cron, python=python), folder / umask) for umask, cron in STARTS]
    assert found[0] == found[1] == found[2]
    return found[0]


def test_a_bundle_is_readable_for_its_nodes_whatever_the_umask(run_module: Run, tmp_path: Path, upstream: Upstream) -> None:
    """Nodes read it as another user, over rsync or NFS, or from media; none but its owner may write."""
    found = whoever_starts_it(tmp_path, lambda python, work: a_bundle(run_module, work, upstream, python))
    for place, there in found.items():
        assert there and set(there.values()) <= {"drwxr-xr-x", "-rw-r--r--", "-r--r--r--"}, place


def test_a_node_is_the_same_whatever_the_umask(run_module: Run, world: World, tmp_path: Path) -> None:
    def make(python: str, prefix: Path) -> Modes:
        home = tmp_path / f"home-{prefix.name}"
        run_module("rlinf_target", {**world.args, "prefix": str(prefix), "home": str(home)}, python=python)
        return modes(prefix)

    assert not others_may_write(whoever_starts_it(tmp_path, make))


def test_a_runtime_is_the_same_whatever_the_umask(site: Site, tmp_path: Path) -> None:
    def make(python: str, prefix: Path) -> Modes:
        arguments = {"prefix": str(prefix), "bundle_dir": str(site.bundle)}
        assert site.run_module("rlinf_runtime", arguments, python=python, env=site.env)["changed"]
        return modes(prefix)

    found = whoever_starts_it(tmp_path, make, python=site.python)
    assert "tools" in found and not others_may_write(found)


def test_an_environment_is_the_same_whatever_the_umask(run_module: Run, tmp_path: Path) -> None:
    """One that root makes has to serve the users of the node, too."""

    def make(python: str, prefix: Path) -> Modes:
        place = environments.Site(tmp_path / "bundle", prefix, run_module)
        lock = place.lock(build_wheel(place.index, "alpha", "1.0", extra_files={"alpha-1.0.data/scripts/alpha": b"#!python\n"}))
        arguments = {"prefix": str(place.prefix), "bundle_dir": str(place.bundle), "target": "openvla", "lock": str(lock)}
        assert run_module("rlinf_venv", {**arguments, "python": sys.executable, "exports": {"A": "b"}}, python=python)["changed"]
        return modes(place.prefix)

    found = whoever_starts_it(tmp_path, make)
    assert found and not others_may_write(found)
    assert [path for path, mode in found.items() if mode[7] != "r"] == []
