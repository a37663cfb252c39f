# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that are full, out of inodes or read-only, and directories that may not be written: each module, at many points."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.demo.cycle import NODE
from tests.faults.calls import Broken, Call, Outcome
from tests.faults.kills import checkpoints_of
from tests.faults.scene import Scene
from tests.faults.tally import Tally
from tests.faults.trees import Tree, must_be_right
from tests.faults.worlds import mount

AFTERWARDS = "the error says so, no file under a final name is wrong; once mended, running again brings about what an undisturbed run does"
_NOBODY = 65534
_PAGE = 4096


def disks(scene: Scene, trials: int, share: tuple[int, int] = (0, 1)) -> Iterator[Tally]:
    """Make every call that changes something on disks that are too small, read-only or another's.

    :param trials: how many sizes, and how many numbers of inodes, are tried for each call.
    """
    full = Tally("disk full", AFTERWARDS, "disk")
    inodes = Tally("inodes exhausted", AFTERWARDS, "disk")
    read_only = Tally("read-only file system", AFTERWARDS, "disk")
    denied = Tally("permission denied", AFTERWARDS, "disk")
    chance = random.Random(share[0])
    for call in scene.calls:
        before = scene.tree()
        scene.save("before")
        with _disk(scene, call) as disk:
            small = disk.used()
        outcome, _labels = checkpoints_of(scene, call)
        if not outcome.result.get("changed"):
            continue
        after = scene.tree()
        scene.save("after")
        with _disk(scene, call) as disk:
            large = disk.used()
        for tally, unit in ((full, 0), (inodes, 1)):
            for _number in range(max(1, trials // share[1])):
                # what is written meanwhile is more than what is left at the end
                limit = chance.randint(small[unit], small[unit] + max(2 * (large[unit] - small[unit]), 4 * _PAGE if unit == 0 else 4))
                with tally.trial(f"{call.module} with {limit} {'bytes' if unit == 0 else 'inodes'}"):
                    _too_small(scene, call, limit if unit == 0 else None, limit if unit else None, before, after)
        if share[0] == 0:
            with read_only.trial(call.module):
                _read_only(scene, call, before, after)
        if share[0] == share[1] - 1:
            with denied.trial(call.module):
                _denied(scene, call, before, after)
        scene.restore("after")
        yield from (full, inodes, read_only, denied)


class _Disk:
    """A file system of its own where a call writes."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def used(self) -> tuple[int, int]:
        """Return bytes and inodes."""
        status = os.statvfs(self.place)
        return (status.f_blocks - status.f_bfree) * status.f_frsize, status.f_files - status.f_ffree

    def remount(self, options: str) -> None:
        mount("-o", f"remount,{options}", self.place)


@contextmanager
def _disk(scene: Scene, call: Call) -> Iterator[_Disk]:
    """Put what a call writes to on a disk of 4 GB."""
    place = _place(scene, call)
    held = scene.scratch / "held"
    subprocess.run(["rsync", "-aHX", "--delete", f"{place}/", f"{held}/"], check=True)
    mount("-t", "tmpfs", "-o", "size=4g,mode=755", "small", place)
    try:
        subprocess.run(["rsync", "-aHX", f"{held}/", f"{place}/"], check=True)
        yield _Disk(place)
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def _place(scene: Scene, call: Call) -> Path:
    """Return the directory that a call writes to: the node's, or the one on the bastion that its arguments name."""
    if not call.online:
        return scene.work / NODE
    named = next(value for key in ("path", "cache_dir", "bundle_dir") if (value := call.args.get(key)))
    path = Path(named[0] if isinstance(named, list) else named)
    return next(place for place in scene.places() if path.is_relative_to(place))


def _mended(scene: Scene, call: Call, outcome: Outcome, words: tuple[str, ...], before: Tree, after: Tree) -> None:
    """:raises Broken: it failed without a clear word, or left something wrong."""
    if outcome.killed or (outcome.status and not outcome.failed):
        raise Broken(f"it ended with {outcome.status}: {outcome.errors}")
    if outcome.failed and not (outcome.clear and any(word in outcome.message for word in words)):
        raise Broken(f"the error does not say it: {outcome.message or outcome.errors}")
    must_be_right(scene.tree(), before, after)
    scene.imports()


def _again(scene: Scene, call: Call, after: Tree) -> None:
    scene.must(call)
    scene.imports()
    scene.expect(after, "after running again the tree is another")


def _too_small(scene: Scene, call: Call, size: int | None, inodes: int | None, before: Tree, after: Tree) -> None:
    scene.restore("before")
    with _disk(scene, call) as disk:
        disk.remount(f"size={size}" if size is not None else f"nr_inodes={inodes}")
        outcome = scene.call(call)
        _mended(scene, call, outcome, ("No space left", "has no room", "do not fit", "he disk is full", "Make room"), before, after)
        disk.remount("size=4g,nr_inodes=0")
        _again(scene, call, after)


def _read_only(scene: Scene, call: Call, before: Tree, after: Tree) -> None:
    scene.restore("before")
    with _disk(scene, call) as disk:
        disk.remount("ro")
        outcome = scene.call(call)
        if not outcome.failed:
            raise Broken("it did not fail")
        _mended(scene, call, outcome, ("Read-only file system", "read-only"), before, after)
        disk.remount("rw")
        _again(scene, call, after)


def _denied(scene: Scene, call: Call, before: Tree, after: Tree) -> None:
    def nobody() -> None:
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)

    scene.restore("before")
    outcome = scene.call(call, before=nobody)
    if not outcome.failed:
        raise Broken(f"it did not fail: {outcome.status} {outcome.result} {outcome.errors}")
    _mended(scene, call, outcome, ("ermission denied", "may not"), before, after)
    _again(scene, call, after)
