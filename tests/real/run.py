# SPDX-License-Identifier: GPL-3.0-or-later
"""The real thing: bundle RLinf's release/v0.1 with real packages, install it on a host without network, and compare.

    python -m tests.real.run [TARGET ...] [--work DIR] [--lock-only] [--record PAGE]

Every target's lock is compared with what upstream's own installer installs online at the same cut-off. The first target's installation
is compared with ``uv pip sync`` alone; the second is installed beside the first; each further one alone.

``RLINF_UPSTREAM`` names a directory with a stand-in for github.com (``github.com/OWNER/NAME.git``) where GitHub cannot be reached.
Root is needed for the host: a network namespace without a route, whose disk is an image under the work directory (48 GB, sparse).
The figures go to ``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from ansible.utils.vars import merge_hash

from tests.real.page import PAGE, write_section
from tests.real.reference import BRANCH, CHANGES, CUT_OFF, Reference
from tests.real.variants import VARIANTS, Variant

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ROOT / "tests" / "hosts" / "hosts.sh"
PREFIX = "/opt/rlinf-real"


class Failed(Exception):
    """A step of the real run did not hold; the message says which."""


class Run:
    """One run: its directory, its log, its figures."""

    def __init__(self, work: Path, variants: Sequence[Variant]) -> None:
        self.work, self.variants = work, variants
        self.bundle = work / "bundle"
        self.uv = Path(sys.executable).with_name("uv")
        self.pythons = {variant.python: self._python(variant.python) for variant in variants}
        self.figures: dict[str, Any] = {}
        self.rows: dict[str, dict[str, Any]] = {variant.target: {} for variant in variants}
        self.log = (work / "log").open("a", encoding="utf-8")
        upstream = os.environ.get("RLINF_UPSTREAM")
        self.upstream = Path(upstream).resolve() if upstream else None

    def _python(self, version: str) -> Path:
        said = subprocess.run([self.uv, "python", "find", "--system", version], capture_output=True, text=True, check=False)
        if said.returncode:
            raise Failed(f"There is no Python {version} on this machine: {said.stderr.strip()}")
        return Path(said.stdout.strip())

    def say(self, text: str) -> None:
        line = f"{datetime.datetime.now():%H:%M:%S} {text}"
        print(line, flush=True)
        self.log.write(line + "\n")
        self.log.flush()

    def call(
        self, *argv: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None, check: bool = True, script: str | None = None
    ) -> str:
        """Run a program, its output in the log; return its standard output."""
        self.log.write(f"$ {' '.join(map(str, argv))}\n")
        self.log.flush()
        done = subprocess.run(
            list(map(str, argv)),
            cwd=cwd,
            env={**os.environ, **(env or {})},
            input=script,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            check=False,
        )
        self.log.write(done.stdout)
        self.log.flush()
        if check and done.returncode:
            raise Failed(f"{' '.join(map(str, argv[:4]))} ended with {done.returncode}; see {self.work / 'log'}")
        return done.stdout

    def timed(self, what: str, action: Callable[[], Any], row: dict[str, Any] | None = None) -> Any:
        """Run *action* and note its seconds under *what*, in a target's row or among the figures."""
        start = time.monotonic()
        result = action()
        seconds = round(time.monotonic() - start, 1)
        (self.figures if row is None else row)[what] = seconds
        self.say(f"{what}: {seconds} s")
        return result

    # -- the peer: upstream's own installer, online -------------------------------------------------------------------------------

    def reference(self, variant: Variant) -> list[str]:
        """Return what upstream's installer installs; kept, with its time, for the next run."""
        kept = self.work / "reference" / f"{variant.target}.json"
        if not kept.exists():
            reference = Reference(self.call, self.uv, self.work, self.upstream)
            row: dict[str, Any] = {}
            freeze = self.timed(
                f"{variant.target}: online install",
                lambda: reference.freeze(variant.target, variant.install, self.pythons[variant.python], variant.env),
                row,
            )
            kept.parent.mkdir(exist_ok=True)
            kept.write_text(json.dumps({"seconds": next(iter(row.values())), "freeze": freeze}))
        known = json.loads(kept.read_text())
        self.rows[variant.target]["online install"] = known["seconds"]
        return list(known["freeze"])

    # -- ours ---------------------------------------------------------------------------------------------------------------------

    def inventory(self, targets: Sequence[str], state: Path, address: str = "") -> Path:
        """Write the inventory that the playbooks use for these targets; the node's *address* is known once it is up."""
        wanted = [VARIANTS[name] for name in targets]
        common = {
            "rlinf_targets": list(targets),
            "rlinf_leave_out": sorted({name for variant in wanted for name in variant.left_out}),
            "rlinf_url_rewrites": {"https://github.com/": f"file://{self.upstream}/github.com/"} if self.upstream else {},
            "rlinf_python": {version: str(path) for version, path in self.pythons.items()},
            "rlinf_catalog": functools.reduce(merge_hash, (variant.catalog for variant in wanted), {}),
            # for the patcher: names that one another's are prefixes of
            "rlinf_mirror_repositories": ["openvla-oft", "openpi"],
        }
        node = {
            "ansible_host": address,
            "ansible_user": "root",
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_ssh_private_key_file": str(state / "key"),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={state}/known_hosts",
            "rlinf_prefix": PREFIX,
        }
        bastion = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "rlinf_bundle_dir": str(self.bundle),
            "rlinf_prefix": str(self.work / "prefix"),
        }
        groups = {"rlinf_bastion": {"hosts": {"bastion": bastion}}, "rlinf_nodes": {"hosts": {"gpu01": node}}}
        path = self.work / "inventory.yml"
        path.write_text(yaml.safe_dump({"all": {"vars": common, "children": groups}}))
        return path

    def play(self, name: str, inventory: Path, *extra: str) -> dict[str, int]:
        """Run a playbook of the collection; return the recap of the node, or of the bastion if the node took no part."""
        said = self.call(Path(sys.executable).with_name("ansible-playbook"), "-i", inventory, f"rlinf.offline.{name}", *extra, cwd=ROOT)
        recaps = {}
        for line in said[said.rindex("PLAY RECAP") :].splitlines()[1:]:
            host, _ignored, counts = line.partition(":")
            if counts:
                recaps[host.strip()] = {key: int(value) for key, value in (item.split("=") for item in counts.split())}
        return recaps.get("gpu01") or recaps["bastion"]

    def ssh(self, state: Path, command: str, *, script: str | None = None, check: bool = True) -> str:
        """Run a command on the node, *script* its standard input."""
        return self.call(HOSTS, "ssh", state, "node1", command, check=check, script=script)

    def folder(self, target: str) -> Path:
        """Return the folder of a target's lock in the bundle."""
        return next(self.bundle.glob(f"targets/*/{target}"))

    def lock(self, variant: Variant, before: Sequence[str], state: Path) -> None:
        """Add a target to the bundle that has those *before* it, and compare its lock with the online install."""
        target, row = variant.target, self.rows[variant.target]
        reference = self.reference(variant)
        inventory = self.inventory([*before, target], state)
        others, wheels = {name: self._lock_bytes(name) for name in before}, self._wheels()
        self.timed("download", lambda: self.play("download", inventory), row)
        pins = (self.folder(target) / "pins.txt").read_text().splitlines()
        different = sorted(set(pins) ^ set(reference))
        if different:
            raise Failed(f"the lock of {target} differs from the online install:\n" + "\n".join(different))
        self.say(f"{target}: lock == freeze of the online install: {len(pins)} pins, diff empty")
        if others != {name: self._lock_bytes(name) for name in before}:
            raise Failed(f"adding {target} changed the lock of another target")
        now = self._wheels()
        changed = sorted(path for path, entry in wheels.items() if now.get(path) != entry)
        if changed:
            raise Failed(f"adding {target} changed wheels that were there: {', '.join(changed)}")
        packages = json.loads((self.folder(target) / "lock.json").read_text())["packages"]
        row |= {"packages": len(packages), "GB": round(sum(item["size"] for item in packages) / 1e9, 2), "differences": len(different)}

    def _lock_bytes(self, target: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder(target).iterdir()}

    def _wheels(self) -> dict[str, Any]:
        """Return what the manifest says of the wheelhouse: every file with its digest, of which sealing made sure."""
        path = self.bundle / "bundle.json"
        files = json.loads(path.read_text())["files"] if path.is_file() else {}
        return {name: entry for name, entry in files.items() if name.startswith("wheelhouse/")}

    def sharing(self) -> None:
        """Note the wheelhouse of all targets beside the sum of the single ones."""
        single = [
            {item["path"]: item["size"] for item in json.loads((self.folder(name) / "lock.json").read_text())["packages"]}
            for name in self.rows
        ]
        together = {path: size for packages in single for path, size in packages.items()}
        self.figures["wheels of all targets together, GB"] = round(sum(together.values()) / 1e9, 2)
        self.figures["wheels of each target alone, sum, GB"] = round(sum(sum(packages.values()) for packages in single) / 1e9, 2)

    def compare_installed(self, target: str, state: Path) -> None:
        """The set installed on the node equals the lock: names, versions, and every file of every wheel."""
        script = (ROOT / "molecule" / "shared" / "compare_installed.py").read_text()
        said = self.ssh(state, f"{PREFIX}/venvs/{target}/bin/python -I - {PREFIX}/bundle {target}", script=script, check=False).strip()
        lines = said.splitlines()
        if len(lines) != 1 or not lines[0].endswith("packages are what is locked"):
            raise Failed(f"the node differs from the lock of {target}:\n{said}")
        self.rows[target]["installed, differences"] = 0
        self.say(f"{target}: installed set == lock, by name, version and content: {said}")

    def peer_sync(self, target: str, python: Path, state: Path) -> None:
        """Time ``uv pip sync`` alone on the node, from the same wheelhouse, with an empty cache; then remove what it made."""
        peer = f"{PREFIX}/peer"
        uv = f"{PREFIX}/tools/uv"
        lock = f"{PREFIX}/bundle/targets/{self.folder(target).parent.name}/{target}/pylock.{target}.toml"
        env = f"env UV_CACHE_DIR={peer}/cache UV_OFFLINE=1 UV_PYTHON_DOWNLOADS=never UV_NO_CONFIG=1"
        self.ssh(state, f"mkdir -p {peer} && {env} {uv} venv -q --python {python} {peer}/venv")
        self.cold()
        self.timed(
            "uv pip sync alone, cold cache", lambda: self.ssh(state, f"{env} {uv} pip sync -q --no-index --python {peer}/venv {lock}")
        )
        self.ssh(state, f"rm -rf {peer}; sync")

    def cold(self) -> None:
        """Drop the page cache, so that both sides read the wheelhouse from disk."""
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3\n")

    def used(self, state: Path) -> float:
        """Return how much of the node's disk is used, in GB; what is hardlinked counts once."""
        return round(int(self.ssh(state, f"du -sB1 {PREFIX} | cut -f1")) / 1e9, 1)

    def everything(self, lock_only: bool) -> None:
        state = self.work / "hosts"
        names = [variant.target for variant in self.variants]
        for number, variant in enumerate(self.variants):
            self.lock(variant, names[:number], state)
        inventory = self.inventory(names, state)
        again = self.timed("download of all targets, second run", lambda: self.play("download", inventory))
        self.figures["download of all targets, second run: changed"] = again["changed"]
        self.sharing()
        manifest = json.loads((self.bundle / "bundle.json").read_text())
        self.figures["bundle, files"] = len(manifest["files"])
        self.figures["bundle, GB"] = round(sum(item.get("size", 0) for item in manifest["files"].values()) / 1e9, 2)
        if lock_only:
            return
        # the node must not see what the bastion has; the interpreters it uses must be there all the same
        shown = ":".join(sorted({str(python.parents[1]) for python in self.pythons.values()}))
        self.call(HOSTS, "up", "1", state, env={"DISK": "48G", "HIDE": f"{self.work}:{Path.home()}", "SHOW": shown})
        try:
            address = self.call(HOSTS, "list", state).split()[1]
            self.on_host(state, address)
        finally:
            self.call(HOSTS, "down", state)

    def on_host(self, state: Path, address: str) -> None:
        first, *others = self.variants
        inventory = self.inventory([first.target], state, address)
        self.timed("push", lambda: self.play("push", inventory))
        self.timed("prepare", lambda: self.play("prepare", inventory))
        self.peer_sync(first.target, self.pythons[first.python], state)
        self.cold()
        row = self.rows[first.target]
        self.timed("install", lambda: self.play("install", inventory), row)
        ratio = row["install"] / self.figures["uv pip sync alone, cold cache"]
        self.figures["install over uv pip sync alone"] = round(ratio, 2)
        recap = self.timed("install, second run", lambda: self.play("install", inventory))
        self.figures["install, second run: changed"] = recap["changed"]
        self.compare_installed(first.target, state)
        self.timed("verify", lambda: self.play("verify", inventory))
        self.timed("restore", lambda: self.play("restore", inventory, "-e", "rlinf_restore_confirm=true"))
        status = self.ssh(state, f"git -c safe.directory='*' -C {PREFIX}/src/RLinf status --porcelain")
        self.figures["git status after restore, lines"] = len(status.splitlines())
        self.figures["disk of the node's prefix, GB"] = self.used(state)
        for number, variant in enumerate(others):
            self.another(variant, state, address, beside=number == 0)

    def another(self, variant: Variant, state: Path, address: str, *, beside: bool) -> None:
        """Install a further target, *beside* what is there or on a node that has but the bundle."""
        if not beside:
            self.ssh(state, f"rm -rf {PREFIX}/venvs {PREFIX}/cache {PREFIX}/src {PREFIX}/state/targets {PREFIX}/state/locks; sync")
        before = self.used(state)
        inventory = self.inventory([variant.target], state, address)
        self.cold()
        row = self.rows[variant.target]
        self.timed("install", lambda: self.play("install", inventory), row)
        self.compare_installed(variant.target, state)
        if beside:
            self.figures[f"{variant.target} installed beside {self.variants[0].target}, seconds"] = row["install"]
            self.figures[f"{variant.target} installed beside {self.variants[0].target}, GB of disk"] = round(self.used(state) - before, 1)

    def report(self) -> str:
        """Return the figures as a section of docs/benchmarks.md."""
        uv = self.call(self.uv, "--version").split()[1]
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        machine = f"{os.cpu_count()} cores, {memory:.0f} GiB, kernel {platform.release().partition('-')[0]}"
        columns = list(dict.fromkeys(key for row in self.rows.values() for key in row))
        table = ["| target | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
        table += [f"| {name} | " + " | ".join(str(row.get(column, "")) for column in columns) + " |" for name, row in self.rows.items()]
        changes = [f"- {change.why}: `{change.before}` became `{change.after}`" for change in CHANGES]
        parts = [f"- {variant.target}: {variant.why}" for variant in self.variants if variant.why]
        figures = [f"| {name} | {value} |" for name, value in self.figures.items()]
        left_out = sorted({name for variant in self.variants for name in variant.left_out})
        return "\n".join(
            [
                f"## `make real`, {datetime.date.today():%Y-%m-%d}",
                "",
                f"RLinf `{BRANCH}`, cut-off {CUT_OFF}; {machine}, uv {uv}; node: one host without network, its disk an ext4 image.",
                f"Left out, since only GitHub's releases, Hugging Face and Google have them: {', '.join(left_out)}.",
                "",
                "Each target's lock against the freeze after upstream's `requirements/install.sh` has run online. Seconds where nothing else is said;",
                "a download adds its target to a bundle that has those above it; the second install is beside the first, the others are alone.",
                "",
                *table,
                "",
                *(["Parts of targets that could not be had, left out on both sides:", "", *parts, ""] if parts else []),
                "The copy of `install.sh` differs from upstream's by:",
                "",
                *changes,
                "",
                "| what | figure |",
                "|---|---|",
                *figures,
            ]
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="*", metavar="TARGET", help="which targets, in this order; all if none is named")
    parser.add_argument("--work", type=Path, default=ROOT / ".real", help="where everything is made (about 90 GB for all targets)")
    parser.add_argument("--lock-only", action="store_true", help="lock and compare, install nothing")
    parser.add_argument("--record", type=Path, default=PAGE, help="the page that gets the figures")
    options = parser.parse_args()
    unknown = sorted(set(options.target) - set(VARIANTS))
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}; known: {', '.join(VARIANTS)}")
    options.work.mkdir(parents=True, exist_ok=True)
    run = None
    try:
        run = Run(options.work.resolve(), [VARIANTS[name] for name in options.target or VARIANTS])
        run.everything(options.lock_only)
    except Failed as error:
        print(f"failed: {error}", file=sys.stderr)
        if run:
            print(run.report())
        return 1
    section = run.report()
    print(section)
    write_section("`make real`", section, options.record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
