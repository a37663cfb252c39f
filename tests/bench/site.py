# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a fleet takes to be installed, and to be found installed, against a plain playbook that does the same work.

    python -m tests.bench.site [--nodes 16] [--runs 3] [--record]

Needs root. One target of the tests' small world, on hosts by ssh. The nodes run on the cores of this machine, as the control node does: what
a node takes is an upper bound. Between the runs of one way come those of the other.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from tests.bench.page import record
from tests.demo.cycle import Cycle, base_python
from tests.support.fleet import Fleet

TARGET = "openvla"
PLAIN = Path(__file__).with_name("plain") / "site.yml"
# where the plain playbook puts everything
PREFIX = "/srv/plain"
MOST_SECONDS = 1.5
LEAST_FACTOR = 5
_RECAP = re.compile(r"^\S+\s*: ok=\d+\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)


class Site:
    """A bundle, and nodes that both playbooks can be run for."""

    def __init__(self, work: Path, cycle: Cycle, fleet: Fleet) -> None:
        self.work, self.cycle, self.fleet = work, cycle, fleet
        self.address = fleet.bastion
        variables = {"rlinf_targets": [TARGET], "ansible_python_interpreter": base_python(), "rlinf_system_packages_state": "ignored"}
        hosts = {host: fleet.variables(host, **variables) for host in fleet.addresses}
        cycle.inventory = cycle.write_inventory("fleet", hosts)

    def ours(self) -> tuple[float, int, float]:
        """Run ``site``; return the seconds, how many tasks changed something, and the seconds of a core that the control node took."""
        before = _cpu_seconds()
        play = self.cycle.play("site", "--forks", str(len(self.fleet.addresses)), "-v")
        (self.work / "ours.log").write_text(play.output, encoding="utf-8")
        return play.seconds, play.changed, _cpu_seconds() - before

    def plain(self, variables: Mapping[str, Any]) -> tuple[float, int, float]:
        """Run the plain playbook; return the same."""
        path = self.work / "plain.json"
        path.write_text(json.dumps(variables), encoding="utf-8")
        command = [Path(sys.executable).with_name("ansible-playbook"), "-i", self.cycle.inventory, PLAIN, "-e", f"@{path}"]
        before, start = _cpu_seconds(), time.monotonic()
        done = subprocess.run(
            [*command, "--forks", str(len(self.fleet.addresses))],
            cwd=self.work,
            env=self.cycle.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - start
        if done.returncode:
            raise RuntimeError(done.stdout)
        changed = sum(int(changed) for changed, _unreachable, _failed in _RECAP.findall(done.stdout))
        return seconds, changed, _cpu_seconds() - before

    @contextmanager
    def served(self) -> Iterator[dict[str, Any]]:
        """Serve what the plain playbook fetches, and yield its variables."""
        files = self.work / "served"
        files.mkdir()
        lock = self.cycle.lock(TARGET)
        wheels = [path for path in self.cycle.bundle.rglob("*.whl") if "tools" not in path.parts]
        for wheel in wheels:
            os.link(wheel, files / wheel.name)
        archives = [self._archive(files, folder) for folder in sorted(self.cycle.bundle.joinpath("assets").iterdir())]
        handler = partial(_Quiet, directory=str(files))
        server = ThreadingHTTPServer((self.address, 0), handler)
        Thread(target=server.serve_forever, daemon=True).start()
        repos = self.cycle.bundle / "repos"
        daemon = [
            "git",
            "daemon",
            "--reuseaddr",
            "--export-all",
            f"--base-path={repos}",
            f"--listen={self.address}",
            "--port=9418",
            str(repos),
        ]
        git = subprocess.Popen(daemon, stderr=subprocess.DEVNULL)
        base = f"http://{self.address}:{server.server_port}"
        try:
            yield {
                "prefix": PREFIX,
                "python": base_python(),
                "index": f"{base}/",
                "repositories": [self._repository(path, repos) for path in sorted(repos.glob("*/*/*.git"))],
                "wheels": [_file(base, files / Path(package["path"]).name) for package in lock["packages"] if package["kind"] == "wheel"],
                "archives": [_file(base, archive) for archive in archives],
                "requirements": "".join(f"{package['name']}=={package['version']}\n" for package in lock["packages"]),
                "editables": [editable["repository"] for editable in lock["editables"]],
            }
        finally:
            git.terminate()
            git.wait()
            server.shutdown()

    def _repository(self, path: Path, repos: Path) -> dict[str, str]:
        """Return what the plain playbook clones of a mirror: the commit that is frozen."""
        mirror = str(path.relative_to(repos))
        frozen = self.cycle.manifest()["repositories"][mirror]["commit"]
        return {"name": path.stem, "url": f"git://{self.address}/{mirror}", "version": frozen}

    @staticmethod
    def _archive(files: Path, folder: Path) -> Path:
        archive = files / f"{folder.name.strip('.')}.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(folder, folder.name)
        return archive


def _cpu_seconds() -> float:
    """Return what ended children have taken of the cores: what runs for a node is no child of this process."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_arguments: Any) -> None:
        pass


def _file(base: str, path: Path) -> dict[str, str]:
    return {"url": f"{base}/{path.name}", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[4, 8, 16], help="how many nodes; the last number is what is promised for")
    parser.add_argument("--runs", type=int, default=3, help="how often a second run is done; the median counts")
    parser.add_argument("--record", action="store_true", help="write the table into docs/benchmarks.md")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="rlinf-bench-") as scratch:
        work = Path(scratch)
        with Cycle(work / "cycle", targets={"node1": [TARGET]}) as cycle:
            cycle.offline = False
            cycle.play("download")
            for count in options.nodes:
                rows.append(_measured(work / f"of-{count}", cycle, count, options.runs))
                print(rows[-1], flush=True)
    last = rows[-1]
    record("site", "`site` on many nodes", rows, _text(rows) if options.record else None)
    each, factor = last["ours, again"] / last["nodes"], last["plain, again"] / last["ours, again"]
    print(
        f"{last['nodes']} nodes, second run: {each:.2f} s per node (at most {MOST_SECONDS}), {factor:.2f} times faster (at least {LEAST_FACTOR})"
    )
    return 0 if last["changed, again"] == 0 and each <= MOST_SECONDS and factor >= LEAST_FACTOR else 1


def _measured(work: Path, cycle: Cycle, count: int, runs: int) -> dict[str, Any]:
    """Return the seconds of both ways on so many nodes: the first run, and the median of the following ones."""
    work.mkdir()
    with Fleet(work / "h", count, DISK="4G") as fleet:
        site = Site(work, cycle, fleet)
        with site.served() as variables:
            first = {"ours": site.ours(), "plain": site.plain(variables)}
            again = [(site.ours(), site.plain(variables)) for _run in range(runs)]
    return {
        "nodes": count,
        **{f"{way}, first": round(run[0], 1) for way, run in first.items()},
        **{f"{way}, again": round(statistics.median(run[number][0] for run in again), 1) for number, way in enumerate(first)},
        "changed, again": max(ours[1] for ours, _plain in again),
        "control node, again": round(statistics.median(ours[2] for ours, _plain in again), 1),
        "plain changed, again": max(plain[1] for _ours, plain in again),
    }


def _text(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"{datetime.date.today():%Y-%m-%d}: the tests' small world's `{TARGET}`, {os.cpu_count()} cores on which all nodes run as well. First run, then the",
        "median of further ones, which change nothing. System packages are left alone on both sides (`rlinf_system_packages_state: ignored`), since the",
        f"nodes' are this machine's. The peer is `{PLAIN.relative_to(PLAIN.parents[3])}`. `make bench-site`",
        "",
        "| nodes | first, s | again, s | again, s per node | of it control node, core s per node | changed | plain, first / ours | plain, again / ours |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['nodes']} | {row['ours, first']} | {row['ours, again']} | {row['ours, again'] / row['nodes']:.2f} "
        f"| {row['control node, again'] / row['nodes']:.2f} | {row['changed, again']} "
        f"| {row['plain, first'] / row['ours, first']:.1f} | {row['plain, again'] / row['ours, again']:.1f} |"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
