# SPDX-License-Identifier: GPL-3.0-or-later
"""How long repositories and files take to download from an upstream that answers slowly, against git and wget one after the other.

    python -m tests.bench.download [--repositories 16] [--files 16] [--runs 3] [--record]

The upstream is this machine's: each request waits 50 ms before it is answered, and each connection carries 2 MB a second at most. Ours are
the modules as the download playbook runs them, with its number of jobs; a second run of each is measured, too.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.memory import run_module
from tests.bench.page import record
from tests.support.upstream import Fault, Upstream

WAIT = 0.05
"""Seconds before a request is answered."""
RATE = 2_000_000
"""Bytes that a connection carries each second; the upstream sends 64 KiB at a time."""
JOBS = 8
HOST = "github.com"


@dataclass(frozen=True)
class World:
    """What is downloaded: names of repositories, and files with their digests."""

    upstream: Upstream
    repositories: Sequence[str]
    files: Mapping[str, str]

    def ours(self, work: Path) -> None:
        """Download by the modules."""
        network = {"bundle_dir": str(work / "bundle"), "jobs": JOBS}
        rewrites = {f"https://{HOST}/": f"{self.upstream.url}/git/{HOST}/"}
        repos = [{"name": name, "url": f"https://{HOST}/acme/{name}.git", "lfs": False, "submodules": False} for name in self.repositories]
        assets = [
            {
                "name": name,
                "url": f"{self.upstream.url}/files/{name}",
                "sha256": digest,
                "dest": f"bench/{name}",
                "unpack": False,
                "strip": 0,
            }
            for name, digest in self.files.items()
        ]
        run_module("download", "rlinf_repo_mirror", repos=repos, url_rewrites=rewrites, **network)
        run_module("download", "rlinf_asset_cache", assets=assets, **network)

    def peers(self, work: Path) -> None:
        """Download by git and wget, one after the other; where something is there already, only what is new."""
        work.mkdir(exist_ok=True)
        for name in self.repositories:
            mirror = work / f"{name}.git"
            url = f"{self.upstream.url}/git/{HOST}/acme/{name}.git"
            command = ["git", "-C", mirror, "remote", "update"] if mirror.exists() else ["git", "clone", "-q", "--mirror", url, mirror]
            subprocess.run(command, check=True, capture_output=True)
        for name in self.files:
            subprocess.run(["wget", "-q", "-N", f"{self.upstream.url}/files/{name}"], cwd=work, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repositories", type=int, default=16, help="how many repositories, of 1 MB each")
    parser.add_argument("--files", type=int, default=16, help="how many files, of 4 MB each")
    parser.add_argument("--runs", type=int, default=3, help="how often each is done; the median counts")
    parser.add_argument("--record", action="store_true", help="write the table into docs/benchmarks.md")
    options = parser.parse_args()
    took: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="rlinf-bench-") as scratch:
        work = Path(scratch)
        world = _world(work / "upstream", options.repositories, options.files)
        with world.upstream:
            for run in range(options.runs):
                for way, download in (("ours", world.ours), ("git and wget", world.peers)):
                    for which in ("first", "again"):
                        start = time.monotonic()
                        download(work / f"{way}-{run}")
                        took.setdefault((way, which), []).append(time.monotonic() - start)
    medians = {key: statistics.median(seconds) for key, seconds in took.items()}
    rows = [
        {"run": which, "ours": round(medians["ours", which], 1), "git and wget": round(medians["git and wget", which], 1)}
        for which in ("first", "again")
    ]
    for row in rows:
        print(*row.items())
    record("download", "Downloading from a slow upstream", rows, _text(rows, options) if options.record else None)
    return 0


def _world(root: Path, repositories: int, files: int) -> World:
    """Make the upstream; its content does not compress."""
    chance = random.Random(0)
    names = [f"repository-{number:02}" for number in range(repositories)]
    for name in names:
        _repository(root / "git" / HOST / "acme" / f"{name}.git", chance.randbytes(1_000_000))
    digests = {}
    (root / "files").mkdir(parents=True)
    for number in range(files):
        content = chance.randbytes(4_000_000)
        (root / "files" / f"file-{number:02}.bin").write_bytes(content)
        digests[f"file-{number:02}.bin"] = hashlib.sha256(content).hexdigest()
    upstream = Upstream(root)
    upstream.always("*", Fault(before=lambda: time.sleep(WAIT), pace=65536 / RATE))
    return World(upstream, names, digests)


def _repository(bare: Path, content: bytes) -> None:
    bare.parent.mkdir(parents=True, exist_ok=True)
    checkout = bare.with_suffix("")
    git = ["git", "-C", checkout, "-c", "user.name=bench", "-c", "user.email=bench@example.org"]
    subprocess.run(["git", "init", "-q", "-b", "main", checkout], check=True)
    (checkout / "content.bin").write_bytes(content)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "Content"], check=True)
    subprocess.run(["git", "clone", "-q", "--bare", checkout, bare], check=True)


def _text(rows: Sequence[Mapping[str, object]], options: argparse.Namespace) -> str:
    lines = [
        f"{datetime.date.today():%Y-%m-%d}: {options.repositories} repositories of 1 MB and {options.files} files of 4 MB;",
        f"{WAIT * 1000:.0f} ms before each answer, {RATE / 1e6:g} MB/s for each connection; ours with {JOBS} jobs, hashing and fsync included;",
        f"median of {options.runs}. `make bench-download`",
        "",
        "| run | ours, s | git and wget, s | git and wget / ours |",
        "|---|---:|---:|---:|",
    ]
    for row in rows:
        ours, peers = float(str(row["ours"])), float(str(row["git and wget"]))
        lines.append(f"| {row['run']} | {ours:.1f} | {peers:.1f} | {peers / ours:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
