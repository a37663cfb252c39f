# SPDX-License-Identifier: GPL-3.0-or-later
"""How many bytes verifying a bundle hashes each second, against sha256sum and openssl on the same cores.

    python -m tests.bench.verify [--bytes 4000000000] [--runs 5] [--record]

The files lie in the page cache for all. sha256sum and openssl run as many processes as there are cores; ours is the whole module, Python's
start, the scan and the comparison with the manifest included. What cores can hash is what the fastest of the peers hashes.
"""

from __future__ import annotations

import argparse
import datetime
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from tests.bench.memory import run_module
from tests.bench.page import record
from tests.support.fleet import bundle_of

LEAST = 0.9
"""What verifying must reach of what the cores can hash."""
PIECES = 64


def by_module(bundle: Bundle) -> None:
    run_module("verify", "rlinf_bundle", state="verified", bundle_dir=str(bundle.root), full=True, jobs=8)


def by_program(*command: str) -> Callable[[Bundle], None]:
    """Return what hashes all files by a program, in as many processes as there are cores."""

    def run(bundle: Bundle) -> None:
        names = "\0".join(str(path) for path in sorted(bundle.wheels.iterdir()))
        spread = ["xargs", "-0", "-n", "4", "-P", str(cores()), *command]
        subprocess.run(spread, input=names.encode(), stdout=subprocess.DEVNULL, check=True)

    return run


def cores() -> int:
    return len(os.sched_getaffinity(0))


OURS = "rlinf_bundle, verified"
WAYS: Mapping[str, Callable[[Bundle], None]] = {
    OURS: by_module,
    "sha256sum": by_program("sha256sum"),
    "openssl dgst -sha256": by_program("openssl", "dgst", "-sha256"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, default=8_000_000_000, help="how large the bundle is: those of users have 5 to 20 GB")
    parser.add_argument("--runs", type=int, default=5, help="how often each is done; the median counts")
    parser.add_argument("--record", action="store_true", help="write the table into docs/benchmarks.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rlinf-bench-") as work:
        bundle = _bundle(Path(work), options.bytes)
        took: dict[str, list[float]] = {way: [] for way in WAYS}
        for _run in range(options.runs):
            for way, hashes in WAYS.items():
                start = time.monotonic()
                hashes(bundle)
                took[way].append(time.monotonic() - start)
    rates = {way: options.bytes / statistics.median(seconds) / 1e6 for way, seconds in took.items()}
    able = max(rate for way, rate in rates.items() if way != OURS)
    rows = [
        {"way": way, "megabytes per second": round(rate), "of what the cores can hash": round(rate / able, 2)}
        for way, rate in rates.items()
    ]
    for row in rows:
        print(*row.values())
    record("verify", "Verifying a bundle", rows, _text(rows, options.bytes, options.runs) if options.record else None)
    print(f"verify reaches {rates[OURS] / able:.2f} of what {cores()} cores can hash (at least {LEAST})")
    return 0 if rates[OURS] >= LEAST * able else 1


def _bundle(work: Path, size: int) -> Bundle:
    """Make a sealed bundle of pieces whose content differs in their first bytes only, which no hash can make use of."""
    bundle = bundle_of(work / "bundle", [], swarm=True)
    bundle.wheels.mkdir()
    content = random.Random(0).randbytes(size // PIECES)
    for number in range(PIECES):
        (bundle.wheels / f"piece-{number:02}.bin").write_bytes(b"%08d" % number + content[8:])
    run_module("verify", "rlinf_bundle", state="sealed", bundle_dir=str(bundle.root))
    return bundle


def _text(rows: list[dict[str, object]], size: int, runs: int) -> str:
    lines = [
        f"{datetime.date.today():%Y-%m-%d}: {size / 1e9:g} GB in {PIECES} files in the page cache, {cores()} cores, median of {runs}; the programs in as many",
        "processes as cores, ours the whole module. `make bench-verify`",
        "",
        "| way | MB/s | of what the cores can hash |",
        "|---|---:|---:|",
    ]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row.values()))} |" for row in rows)])


if __name__ == "__main__":
    sys.exit(main())
