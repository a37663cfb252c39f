# SPDX-License-Identifier: GPL-3.0-or-later
"""Do to real runs whatever may happen to them, and say what became of each promise.

    python -m tests.faults.run [CLASS ...] [--sample N] [--jobs N] [--work DIR] [--record PAGE]

Needs root: file systems, namespaces and hosts are made. Nothing leaves this machine.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.faults.actions import actions
from tests.faults.clocks import clocks
from tests.faults.disks import disks
from tests.faults.kills import kills
from tests.faults.packages import packages
from tests.faults.pairs import pairs
from tests.faults.reboots import reboots
from tests.faults.resumes import resumes
from tests.faults.rot import rot
from tests.faults.scene import Scene, scene
from tests.faults.servers import servers
from tests.faults.tally import Tally, table
from tests.faults.worlds import in_parallel
from tests.real.page import write_section

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"
MEMORY = Path("/dev/shm")

Share = tuple[int, int]
# what is done, by class: a scene, how many trials of each kind at most (None: all that there are), and the share of a process
CLASSES: Mapping[str, Callable[[Scene, int | None, Share], Iterable[Tally]]] = {
    "kill": lambda made, sample, share: itertools.chain(kills(made, sample, share), packages(made, sample, share)),
    "disk": lambda made, sample, share: disks(made, sample or 5, share),
    "rot": rot,
    "pair": pairs,
    "clock": clocks,
}
Alone = Mapping[str, Callable[[Scene, int | None], Iterable[Tally]]]
# those for which the upstream is told what to do, which is of this process: they wait for it most of the time
SERVED: Alone = {
    "server": lambda made, _sample: servers(made),
    "resume": resumes,
}
# those that have hosts, and run whole playbooks
HOSTED: Alone = {
    "reboot": reboots,
    "action": lambda made, sample: actions(made.work / "a", sample),
}
ALONE = {**SERVED, **HOSTED}
GROUPS = (CLASSES, SERVED, HOSTED)
ALL = (*CLASSES, *ALONE)


def run(names: Iterable[str], work: Path, sample: int | None, jobs: int) -> list[Tally]:
    """Take the trials of some classes and return what became of them."""
    tallies: list[Tally] = []
    with scene(work) as made:
        for name in names:
            start = time.monotonic()
            # as each begins from nothing
            made.restore("nothing")
            if name in ALONE:
                found = list({tally.name: tally for tally in ALONE[name](made, sample)}.values())
            else:
                found = in_parallel(made, jobs, lambda share, one=CLASSES[name]: one(made, sample, share))  # type: ignore[misc]
            for tally in found:
                print(f"{tally.name}: {tally.trials} trials, {len(tally.lost)} lost, {len(tally.untried)} came to none", flush=True)
                for lost in tally.lost:
                    print(f"  {lost}", flush=True)
            print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
            tallies += found
    return tallies


def run_groups(names: Sequence[str], work: Path, sample: int | None, jobs: int) -> list[Tally]:
    """Take the trials of each group beside those of the others, which wait while these keep the processors busy, in a scene of its own."""
    groups = [group for classes in GROUPS if (group := [name for name in names if name in classes])]
    # a process each, since what a scene starts becomes its process's child
    with ProcessPoolExecutor(len(groups), mp_context=multiprocessing.get_context("fork")) as pool:
        parts = [pool.submit(run, group, work / group[0], sample, jobs) for group in groups]
        return [tally for part in parts for tally in part.result()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classes", nargs="*", metavar="CLASS", help=f"which of {', '.join(ALL)}; all if none is named")
    parser.add_argument("--sample", type=int, help="how many trials of each kind, by a fixed seed, instead of all")
    cores = os.cpu_count() or 1
    # one more than cores: a trial waits for disks and for others now and then
    parser.add_argument("--jobs", type=int, default=cores + 1, help="how many processes share the trials")
    parser.add_argument("--work", type=Path, help="where everything is made; by default in memory, where disks cost nothing")
    parser.add_argument("--record", type=Path, help="the page that gets the table; docs/reliability.md when all classes run in full")
    options = parser.parse_args()
    unknown = sorted(set(options.classes) - set(ALL))
    if unknown:
        parser.error(f"no such class: {', '.join(unknown)}; there are {', '.join(ALL)}")
    if os.geteuid():
        parser.error("file systems and hosts are made for it, which needs root")
    work = options.work or Path(tempfile.mkdtemp(prefix="rlinf-faults-", dir=MEMORY if MEMORY.is_dir() else None))
    start = time.monotonic()
    tallies = run_groups(options.classes or ALL, work, options.sample, options.jobs)
    rows = table(tallies)
    print("\n".join(rows))
    whole = not options.classes and not options.sample
    page = options.record or (PAGE if whole else None)
    if page:
        minutes = (time.monotonic() - start) / 60
        said = f"{datetime.date.today():%Y-%m-%d}, {cores} cores, {minutes:.0f} minutes; each row is made again by its command."
        write_section("Trials", "\n".join(["## Trials", "", said, "", *rows]), page)
    if not options.work:
        shutil.rmtree(work)
    return 1 if any(tally.lost for tally in tallies) else 0


if __name__ == "__main__":
    sys.exit(main())
