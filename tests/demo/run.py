# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole job against a small upstream on loopback: download, push, prepare, install, verify, restore; then all again, which changes nothing.

    python -m tests.demo.run [--work DIR] [--keep] [--targets NAMES]

The node is this machine under a prefix of its own, without network. Nothing outside the work directory is written, no root is needed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections import Counter
from pathlib import Path

from tests.demo.cycle import NODE, PLAYS, ROOT, TARGETS, Cycle, Play, PlayFailed, can_compile, can_unshare

_MARK = ".rlinf-demo"
_KINDS = {
    "index": "from the index",
    "sdist": "built from sdists",
    "git": "built from git commits",
    "wheel": "prebuilt wheels of releases",
    "overlay": "with files of others",
    "source": "built on the node",
}


def main() -> int:
    """Run the demo; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / ".demo", help="where everything is made (default: .demo in the checkout)")
    parser.add_argument("--keep", action="store_true", help="keep bundle, node and upstream afterwards, to look at")
    parser.add_argument("--targets", default=",".join(TARGETS), help="what is installed, of the catalogue (default: %(default)s)")
    options = parser.parse_args()
    work = fresh(options.work.absolute())
    log = work / "log"
    offline, push, compiler = can_unshare(), bool(shutil.which("rsync")), can_compile()
    if not offline:
        print(
            "This machine lets no user make a network namespace: the node runs with network, and only requests to the upstream are noticed."
        )
    if not push:
        print("No rsync here: bastion and node share one bundle, which push only verifies.")
    if not compiler:
        print("No C compiler or no Python headers here: the package with C in it comes as a wheel.")
    try:
        with Cycle(work, targets=options.targets.split(","), offline=offline, push=push, compiler=compiler, air_gap=offline) as cycle:
            passes = [run_pass(cycle, number, log) for number in (1, 2)]
            print_summary(cycle, passes)
    except (PlayFailed, Unexpected) as error:
        append(log, str(error))
        print("\n".join(["", "The demo failed:", *str(error).splitlines()[-30:], "", f"All of it: {log}"]), file=sys.stderr)
        return 1
    if not options.keep:
        for path in work.iterdir():
            if path not in (log, work / _MARK):
                remove(path)
    print(f"Log: {log}" + (f"   Bundle and node: {work}" if options.keep else "   (--keep leaves bundle and node to look at)"))
    return 0


class Unexpected(Exception):
    """A playbook succeeded, but not as it should have."""


def fresh(work: Path) -> Path:
    """Return the work directory, empty; one that is not the demo's is left alone."""
    if work.exists() and any(work.iterdir()) and not (work / _MARK).exists():
        sys.exit(f"{work} is not empty and not the demo's. Give another --work.")
    if work.exists():
        remove(work)
    work.mkdir(parents=True)
    (work / _MARK).touch()
    return work


def remove(path: Path) -> None:
    """Remove a file or a tree, read-only directories in it too."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    for folder in [path, *(item for item in path.rglob("*") if item.is_dir() and not item.is_symlink())]:
        folder.chmod(0o700)
    shutil.rmtree(path)


def run_pass(cycle: Cycle, number: int, log: Path) -> list[Play]:
    """Run every playbook in turn, a line for each; in the second pass nothing may change."""
    print(f"\n{'First run' if number == 1 else 'Again: nothing may change'}")
    plays = []
    for name in PLAYS:
        print(f"  {name:<10}", end="", flush=True)
        cycle.upstream.forget()
        play = cycle.play(name)
        append(log, f"=== run {number}: {name}\n{play.output}")
        print(f"{play.seconds:6.1f} s   changed={play.changed}", flush=True)
        if number == 2 and play.changed:
            raise Unexpected(f"{play.output}\nThe second run of {name} changed {play.changed} things.")
        if name != "download" and cycle.upstream.requests():
            raise Unexpected(f"{name} asked the network for {', '.join(sorted({item.path for item in cycle.upstream.requests()}))}.")
        plays.append(play)
    return plays


def append(log: Path, text: str) -> None:
    """Add to the log."""
    with log.open("a", encoding="utf-8") as stream:
        stream.write(f"{text.rstrip()}\n\n")


def print_summary(cycle: Cycle, passes: list[list[Play]]) -> None:
    """Print what is in the bundle, what was installed from where, and how long each step took."""
    files = cycle.manifest()["files"]
    sizes: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for path, entry in files.items():
        top = "/".join(path.split("/")[: 2 if path.startswith("wheelhouse/") else 1])
        counts[top] += 1
        sizes[top] += entry["size"]
    print(f"\nIn the bundle: {len(files)} files, {words(sum(sizes.values()))}, {len(cycle.manifest()['repositories'])} repositories")
    for top in sorted(counts):
        print(f"  {top:<18}{counts[top]:5} files {words(sizes[top]):>10}")
    for target in cycle.targets[NODE]:
        print_target(cycle, target)
    if cycle.air_gap:
        record = json.loads((cycle.work / NODE / "state" / "air-gap.json").read_text(encoding="utf-8"))
        print(f"\nWhat {len(record['steps'])} steps of {NODE} tried to reach beyond it: {record['attempts'] or 'nothing'}")
    print("\nSeconds       first   again")
    for first, again in zip(*passes, strict=True):
        print(f"  {first.name:<10}{first.seconds:7.1f} {again.seconds:7.1f}")
    total = [sum(play.seconds for play in plays) for plays in passes]
    print(f"  {'all':<10}{total[0]:7.1f} {total[1]:7.1f}\n")


def print_target(cycle: Cycle, target: str) -> None:
    """Print where the packages of a target came from."""
    lock = cycle.lock(target)
    where = "without network" if cycle.offline else "with network, the upstream not asked"
    print(
        f"\nOn {NODE}: {target}, {lock['project']['repository']} {lock['project']['commit'][:12]}, Python {lock['python']}, installed {where}"
    )
    for kind, words in _KINDS.items():
        found = [f"{package['name']} {package['version']}" for package in lock["packages"] if package["kind"] == kind]
        shown = f"{len(found)} packages" if kind == "index" else ", ".join(found) or "none"
        print(f"  {words:<28}{shown}")
    editables = ", ".join(f"{item['package']} (src/{item['repository']})" for item in lock["editables"])
    print(f"  {'editable':<28}{editables or 'none'}")


def words(size: int) -> str:
    """Return a number of bytes in words."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


if __name__ == "__main__":
    sys.exit(main())
