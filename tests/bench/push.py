# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a bundle takes to many nodes behind one uplink, by each way of ours and by peers, as multiples of one copy.

    python -m tests.bench.push [--nodes 1 2 4 8 16] [--bytes 200000000] [--runs 3] [--ways swarm rsync ...] [--record]

Needs root. The uplink is shaped to 200 Mbit/s; what nodes send each other is not. One copy is the bundle's bytes over what the shaped uplink
carries, measured in the same run by one rsync to one node. ansible.posix.synchronize is of PyPI's package ansible, which is downloaded for it.
What goes through the uplink once for each node differs little from run to run: with more than 200 MB it is run once. Figures that are recorded
already, of other ways and numbers of nodes, stay.
"""

from __future__ import annotations

import argparse
import atexit
import datetime
import functools
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from tests.bench.page import record, recorded
from tests.support.fleet import PREFIX, Fleet, bundle_of, environment, inventory, play

RATE = "200mbit"
ANSIBLE = "ansible==12.3.0"
# more than this, and what is sent once for each node is run once
OFTEN = 200_000_000


@dataclass(frozen=True)
class Took:
    """Seconds of the transfer, of all that was run, and how many bytes the bastion sent."""

    transfer: float
    whole: float
    sent: int


def playbook(fleet: Fleet, bundle: Bundle, work: Path, engine: str, forks: int) -> Took:
    """Push by the playbook, verification included; of a swarm the transfer is what the actions say of it.

    It begins with the first byte of libtorrent's wheel, which all nodes get at the same time.
    """
    hosts = {host: fleet.variables(host, rlinf_targets=[], rlinf_push_engine=engine) for host in fleet.addresses}
    before, start = fleet.sent(), time.monotonic()
    ran = play("push", inventory(work / "hosts.yml", bundle, hosts), "-v", "-f", str(forks))
    whole = time.monotonic() - start
    if ran.status:
        raise RuntimeError(ran.output)
    swarm = re.search(r'"reason": "\d+ nodes have everything[^}]*?"seconds": ([0-9.]+)', ran.output)
    wheels = re.findall(r'"reason": "lacks \d+ files[^}]*?"seconds": ([0-9.]+)', ran.output)
    if engine == "swarm" and not (swarm and len(wheels) == len(hosts)):
        raise RuntimeError(f"it does not say how long the swarm took:\n{ran.output}")
    return Took(float(swarm[1]) + max(map(float, wheels)) if swarm else whole, whole, fleet.sent() - before)


def synchronize(fleet: Fleet, bundle: Bundle, work: Path) -> Took:
    """Push by a plain playbook of one task, as many at once as there are nodes."""
    hosts = {host: fleet.variables(host) for host in fleet.addresses}
    task = {"src": f"{bundle.root}/", "dest": f"{PREFIX}/bundle/", "rsync_opts": ["--exclude=.cache"], "ssh_connection_multiplexing": True}
    tasks = [
        {"name": "Have the directory", "ansible.builtin.file": {"path": PREFIX, "state": "directory", "mode": "0755"}},
        {"name": "Push the bundle", "ansible.posix.synchronize": task},
    ]
    book = work / "synchronize.yml"
    book.write_text(yaml.safe_dump([{"name": "Push", "hosts": "rlinf_nodes", "gather_facts": False, "tasks": tasks}]), encoding="utf-8")
    names = inventory(work / "hosts.yml", bundle, hosts)
    variables = {**environment(work), "ANSIBLE_COLLECTIONS_PATH": str(_ansible_posix())}
    before, start = fleet.sent(), time.monotonic()
    command = [Path(sys.executable).with_name("ansible-playbook"), "-i", names, book, "-f", str(len(hosts))]
    done = subprocess.run(command, env=variables, cwd=work, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    took = time.monotonic() - start
    return Took(took, took, fleet.sent() - before)


@functools.cache
def _ansible_posix() -> Path:
    """Return a directory of collections with ansible.posix, out of PyPI's package ansible."""
    folder = Path(tempfile.mkdtemp(prefix="rlinf-posix-"))
    atexit.register(shutil.rmtree, folder)
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "pip", "install", "-q", "--no-deps", "--target", folder, ANSIBLE], check=True)
    return folder


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
    "ansible.posix.synchronize, all at once": synchronize,
    "rsync itself, one by one": lambda fleet, bundle, _work: plain(fleet, bundle, 1),
}


@contextmanager
def fleet_of(work: Path, count: int) -> Iterator[Fleet]:
    """Make hosts. What they write lies in memory: nodes have a disk each, and of one that all share that disk would be measured."""
    with Fleet(work / "h", count) as fleet:
        fleet.give_python()
        fleet.shape(RATE)
        yield fleet


def one_copy(work: Path, bundle: Bundle) -> float:
    """Return the seconds that one copy takes."""
    with fleet_of(work, 1) as fleet:
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
    if options.work:
        return measure(options, options.work)
    with tempfile.TemporaryDirectory(prefix="rlinf-bench-") as scratch:
        return measure(options, Path(scratch))


def measure(options: argparse.Namespace, work: Path) -> int:
    """Run what was asked for, in this directory, and write down what came out."""
    bundle = bundle_of(work / "bundle", [options.bytes // 20] * 15 + [options.bytes // 400] * 100)
    size = bundle_bytes(bundle)
    copy = one_copy(work, bundle)
    figures: list[dict[str, Any]] = []
    for count in options.nodes:
        for way in options.ways:
            runs = []
            for _run in range(options.runs if way == "swarm" or options.bytes <= OFTEN else 1):
                with fleet_of(work, count) as fleet:
                    runs.append(WAYS[way](fleet, bundle, work))
            transfer, whole, sent = (statistics.median(getattr(run, name) for run in runs) for name in ("transfer", "whole", "sent"))
            figures.append(
                {
                    "nodes": count,
                    "way": way,
                    "runs": len(runs),
                    "transfer": round(transfer / copy, 2),
                    "whole": round(whole / copy, 2),
                    "sent": round(sent / size, 2),
                }
            )
            print(figures[-1], flush=True)
    title, name = f"Pushing {size / 1e6:.0f} MB to many nodes", f"push-{size // 10**6}"
    figures = _merged(name, figures)
    record(name, title, figures, _text(figures, size, copy) if options.record else None)
    return 0


def _merged(name: str, figures: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return these figures and those recorded of other ways and numbers of nodes, in order."""
    every = {(row["nodes"], row["way"]): row for row in (*recorded(name), *figures)}
    order = [*WAYS]
    return [every[key] for key in sorted(every, key=lambda key: (key[0], order.index(key[1])))]


def _text(figures: Sequence[Mapping[str, Any]], size: int, copy: float) -> str:
    lines = [
        f"{datetime.date.today():%Y-%m-%d}: {size / 1e6:.0f} MB, uplink {RATE}, one copy {copy:.1f} s, medians. What nodes write lies in memory. Of a swarm,",
        "libtorrent's wheel (8 MB to each node, by rsync) is part of the transfer; the whole playbook verifies as well, as the others do not.",
        "`make bench-push`",
        "",
        "| nodes | way | runs | transfer / one copy | whole playbook / one copy | sent by the bastion / bundle |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    keys = ("nodes", "way", "runs", "transfer", "whole", "sent")
    return "\n".join([*lines, *(f"| {' | '.join(str(figure[key]) for key in keys)} |" for figure in figures)])


if __name__ == "__main__":
    sys.exit(main())
