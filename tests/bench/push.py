# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a bundle takes to many nodes behind one uplink, by each way of ours and by peers, as multiples of one copy.

    python -m tests.bench.push [--nodes 1 2 4 8 16] [--bytes 200000000] [--runs 3] [--ways swarm rsync ...] [--record]

Needs root. The uplink is shaped to 200 Mbit/s; what nodes send each other is not. One copy is the bundle's bytes over what the shaped uplink
carries, measured in the same run by one rsync to one node.
"""

from __future__ import annotations

import argparse
import datetime
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from tests.real.page import write_section
from tests.support.fleet import PREFIX, ROOT, Fleet, bundle_of, inventory, play

RATE = "200mbit"
PAGE = ROOT / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Took:
    """Seconds of the transfer, of all that was run, and how many bytes the bastion sent."""

    transfer: float
    whole: float
    sent: int


def playbook(fleet: Fleet, bundle: Bundle, work: Path, engine: str, forks: int) -> Took:
    """Push by the playbook, verification included; of a swarm the transfer is what the action says of it."""
    hosts = {host: fleet.variables(host, rlinf_targets=[], rlinf_push_engine=engine) for host in fleet.addresses}
    before, start = fleet.sent(), time.monotonic()
    ran = play("push", inventory(work / "hosts.yml", bundle, hosts), "-v", "-f", str(forks))
    whole = time.monotonic() - start
    if ran.status:
        raise RuntimeError(ran.output)
    said = re.search(r'"reason": "\d+ nodes have everything[^}]*?"seconds": ([0-9.]+)', ran.output)
    return Took(float(said[1]) if said else whole, whole, fleet.sent() - before)


def plain(fleet: Fleet, bundle: Bundle, parallel: int) -> Took:
    """Push by rsync itself, so many at once."""

    def one(host: str) -> None:
        fleet.shell(host, f"mkdir -p {PREFIX}")
        shell = f"ssh -F {fleet.state}/ssh_config"
        subprocess.run(["rsync", "-a", "-e", shell, "--exclude", ".cache", f"{bundle.root}/", f"{host}:{PREFIX}/bundle/"], check=True)

    before, start = fleet.sent(), time.monotonic()
    with ThreadPoolExecutor(parallel) as pool:
        list(pool.map(one, fleet.addresses))
    took = time.monotonic() - start
    return Took(took, took, fleet.sent() - before)


WAYS: Mapping[str, Callable[[Fleet, Bundle, Path], Took]] = {
    "swarm": lambda fleet, bundle, work: playbook(fleet, bundle, work, "swarm", len(fleet.addresses)),
    "rsync, all at once": lambda fleet, bundle, work: playbook(fleet, bundle, work, "rsync", len(fleet.addresses)),
    "rsync itself, all at once": lambda fleet, bundle, _work: plain(fleet, bundle, len(fleet.addresses)),
    "rsync itself, one by one": lambda fleet, bundle, _work: plain(fleet, bundle, 1),
}


@contextmanager
def fleet_of(work: Path, count: int, size: int) -> Iterator[Fleet]:
    """Make hosts that write to disk, each with room for the bundle."""
    with Fleet(work / "h", count, DISK=f"{size // 10**9 + 2}G") as fleet:
        fleet.give_python()
        fleet.shape(RATE)
        yield fleet


def one_copy(work: Path, bundle: Bundle) -> float:
    """Return the seconds that one copy takes."""
    with fleet_of(work, 1, bundle_bytes(bundle)) as fleet:
        return plain(fleet, bundle, 1).transfer


def bundle_bytes(bundle: Bundle) -> int:
    return sum(path.stat().st_size for folder in bundle.folders if folder.is_dir() for path in folder.rglob("*") if path.is_file())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="how many nodes")
    parser.add_argument("--bytes", type=int, default=200_000_000, help="how large the bundle is")
    parser.add_argument("--runs", type=int, default=3, help="how often each is done; the median counts")
    parser.add_argument("--ways", nargs="+", choices=[*WAYS], default=[*WAYS], help="which")
    parser.add_argument("--work", type=Path, help="where everything is made; by default a temporary directory")
    parser.add_argument("--record", action="store_true", help="write the table into docs/benchmarks.md")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="rlinf-bench-"))
    bundle = bundle_of(work / "bundle", [options.bytes // 20] * 15 + [options.bytes // 400] * 100)
    size = bundle_bytes(bundle)
    copy = one_copy(work, bundle)
    rows = ["| nodes | way | transfer / one copy | whole playbook / one copy | sent by the bastion / bundle |", "|---:|---|---:|---:|---:|"]
    for count in options.nodes:
        for way in options.ways:
            runs = []
            for _run in range(options.runs):
                with fleet_of(work, count, size) as fleet:
                    runs.append(WAYS[way](fleet, bundle, work))
            transfer, whole, sent = (statistics.median(getattr(run, name) for run in runs) for name in ("transfer", "whole", "sent"))
            rows.append(f"| {count} | {way} | {transfer / copy:.2f} | {whole / copy:.2f} | {sent / size:.2f} |")
            print(rows[-1], flush=True)
    if options.record:
        said = (
            f"{datetime.date.today():%Y-%m-%d}: {size / 1e6:.0f} MB, uplink {RATE}, one copy {copy:.1f} s, median of {options.runs}; "
            "of a swarm, libtorrent's wheel (8 MB to each node) is sent before the transfer begins. `make bench-push`"
        )
        title = f"Pushing {size / 1e6:.0f} MB to many nodes"
        write_section(title, "\n".join([f"## {title}", "", said, "", *rows]), PAGE)
    if not options.work:
        shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
