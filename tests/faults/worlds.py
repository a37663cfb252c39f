# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes that each have a copy of one scene at the very paths of the first: a mount namespace with other directories in their place."""

from __future__ import annotations

import ctypes
import os
import pickle
import shutil
import subprocess
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.faults.calls import adopt_orphans
from tests.faults.scene import Scene
from tests.faults.tally import Tally

# unshare(2)
_NEW_MOUNTS = 0x00020000


def mount(*arguments: str | Path) -> None:
    """Call mount(8)."""
    subprocess.run(["mount", *arguments], check=True)


def in_parallel(scene: Scene, jobs: int, work: Callable[[tuple[int, int]], Iterable[Tally]]) -> list[Tally]:
    """Let *jobs* processes do their share of trials, each with directories of its own, and return the sum of what became of them.

    :param work: takes the share, (0, 2) is the first of two; what it yields as tallies is added up by name.
    """
    readers = [_start(scene, (number, jobs), work) for number in range(jobs)]
    sums: dict[str, Tally] = {}
    for reader, child in readers:
        with os.fdopen(reader, "rb") as stream:
            said = stream.read()
        os.waitpid(child, 0)
        shutil.rmtree(scene.work / f"process{readers.index((reader, child))}", ignore_errors=True)
        if not said:
            raise RuntimeError("a process of the harness ended without a word")
        result = pickle.loads(said)
        if isinstance(result, str):
            raise RuntimeError(result)
        for tally in result:
            if tally.name in sums:
                sums[tally.name].add(tally)
            else:
                sums[tally.name] = tally
    return list(sums.values())


def _start(scene: Scene, share: tuple[int, int], work: Callable[[tuple[int, int]], Iterable[Tally]]) -> tuple[int, int]:
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return reader, child
    result: object
    try:
        adopt_orphans()
        _own_directories(scene, share[0])
        found: dict[str, Tally] = {}
        for tally in work(share):
            found[tally.name] = tally
        result = list(found.values())
    except BaseException:
        result = traceback.format_exc()
    with os.fdopen(writer, "wb") as stream:
        pickle.dump(result, stream)
    os._exit(0)


def _own_directories(scene: Scene, number: int) -> None:
    if ctypes.CDLL(None).unshare(_NEW_MOUNTS):
        raise OSError("a mount namespace cannot be made: the harness needs root")
    mount("--make-rprivate", "/")
    for place in (*scene.places(), scene.scratch):
        copy = scene.work / f"process{number}" / place.name
        copy.mkdir(parents=True)
        subprocess.run(["rsync", "-aHX", f"{place}/", f"{copy}/"], check=True)
        mount("--bind", copy, place)
