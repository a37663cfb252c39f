# SPDX-License-Identifier: GPL-3.0-or-later
"""The real thing: bundle RLinf's release/v0.1 for openvla with real packages, install it on a host without network, and compare.

    python -m tests.real.run [--work DIR] [--python PATH] [--keep]

``RLINF_UPSTREAM`` names a directory with a stand-in for github.com (``github.com/OWNER/NAME.git``) where GitHub cannot be reached.
Root is needed for the host: a network namespace without a route, whose disk is an image under the work directory (40 GB, sparse).
The figures go to ``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ROOT / "tests" / "hosts" / "hosts.sh"
TARGET = "openvla"
PREFIX = "/opt/rlinf-real"
CUT_OFF = "2025-12-23T00:00:00Z"
# what only GitHub's releases and Hugging Face have
LEFT_OUT = ["flash-attn-cu12torch2.6-cp311", "maniskill-bridge", "maniskill-widowx250s", "sapien-physx"]


class Failed(Exception):
    """A step of the real run did not hold; the message says which."""


class Run:
    """One run: its directory, its log, its figures."""

    def __init__(self, work: Path, python: Path) -> None:
        self.work, self.python = work, python
        self.bundle = work / "bundle"
        self.figures: dict[str, Any] = {}
        self.table = ""
        self.log = (work / "log").open("a", encoding="utf-8")
        upstream = os.environ.get("RLINF_UPSTREAM")
        self.upstream = Path(upstream).resolve() if upstream else None
        self.uv = Path(sys.executable).with_name("uv")

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

    def timed(self, name: str, action: Callable[[], Any]) -> Any:
        """Run *action* and note its seconds under *name*."""
        start = time.monotonic()
        result = action()
        self.figures[name] = round(time.monotonic() - start, 1)
        self.say(f"{name}: {self.figures[name]} s")
        return result

    # -- the peer: upstream's own steps, online -----------------------------------------------------------------------------------

    def reference(self) -> list[str]:
        """Install the same steps online with the same cut-off, as upstream's installer does; return the freeze."""
        folder, freeze = self.work / "reference", self.work / "reference.txt"
        if freeze.exists():
            self.say("reference: kept from an earlier run")
            return freeze.read_text().splitlines()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        git_config = folder / "gitconfig"
        git_config.write_text(
            f'[url "file://{self.upstream}/github.com/"]\n\tinsteadOf = https://github.com/\n[safe]\n\tdirectory = *\n'
            if self.upstream
            else ""
        )
        env = {
            "GIT_CONFIG_GLOBAL": str(git_config),
            "UV_EXCLUDE_NEWER": CUT_OFF,
            "UV_CACHE_DIR": str(folder / "cache"),
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_NO_GITHUB_FAST_PATH": "1",
            "VIRTUAL_ENV": str(folder / "RLinf" / ".venv"),
        }
        for name, branch in (("RLinf", ["-b", "release/v0.1"]), ("LIBERO", [])):
            self.call("git", "clone", "-q", *branch, f"https://github.com/RLinf/{name}.git", folder / name, env=env)
        steps = (
            ["venv", "-q", ".venv", "--python", str(self.python)],
            ["sync", "-q", "--active"],
            ["sync", "-q", "--extra", "embodied", "--active"],
            ["pip", "install", "-q", "-e", str(folder / "LIBERO")],
            ["pip", "install", "-q", "-r", "requirements/embodied/envs/maniskill.txt"],
            ["pip", "install", "-q", "-r", "requirements/embodied/models/openvla.txt", "--no-build-isolation"],
            ["pip", "uninstall", "-q", "pynvml"],
        )
        for step in steps:
            self.call(self.uv, *step, cwd=folder / "RLinf", env=env)
        lines = sorted(
            line
            for line in self.call(self.uv, "pip", "freeze", cwd=folder / "RLinf", env=env).splitlines()
            if line and not line.startswith("-e")
        )
        freeze.write_text("\n".join(lines) + "\n")
        shutil.rmtree(folder)
        return lines

    # -- ours ---------------------------------------------------------------------------------------------------------------------

    def inventory(self, state: Path, address: str = "") -> Path:
        """Write the inventory that the playbooks of this run use; the node's *address* is known once it is up."""
        rewrites = {"https://github.com/": f"file://{self.upstream}/github.com/"} if self.upstream else {}
        common = {"rlinf_targets": [TARGET], "rlinf_leave_out": LEFT_OUT, "rlinf_url_rewrites": rewrites, "rlinf_python": str(self.python)}
        # for the patcher: names that one another's are prefixes of
        common["rlinf_mirror_repositories"] = ["openvla-oft", "openpi"]
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
        data = {
            "all": {
                "vars": common,
                "children": {"rlinf_bastion": {"hosts": {"bastion": bastion}}, "rlinf_nodes": {"hosts": {"gpu01": node}}},
            }
        }
        path = self.work / "inventory.yml"
        path.write_text(yaml.safe_dump(data))
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

    def folder(self) -> Path:
        """Return the folder of the target's lock in the bundle."""
        return next(self.bundle.glob(f"targets/*/{TARGET}"))

    def compare_lock(self, reference: list[str]) -> None:
        pins = (self.folder() / "pins.txt").read_text().splitlines()
        different = sorted(set(pins) ^ set(reference))
        self.figures["pins"], self.figures["difference to the online install"] = len(pins), len(different)
        if different:
            raise Failed("the lock differs from the online install:\n" + "\n".join(different))
        self.say(f"lock == freeze of the online install: {len(pins)} pins, diff empty")

    def compare_installed(self, state: Path) -> None:
        """The set installed on the node equals the lock: names, versions, and every file of every wheel."""
        script = (ROOT / "molecule" / "shared" / "compare_installed.py").read_text()
        said = self.ssh(state, f"{PREFIX}/venvs/{TARGET}/bin/python -I - {PREFIX}/bundle {TARGET}", script=script, check=False).strip()
        lines = said.splitlines()
        if len(lines) != 1 or not lines[0].endswith("packages are what is locked"):
            raise Failed(f"the node differs from the lock:\n{said}")
        self.figures["installed set against the lock: differences"] = 0
        self.say(f"installed set == lock, by name, version and content: {said}")

    def patch_tree(self) -> None:
        """Patch a real checkout and restore it; note the table of its references."""
        tree = self.work / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        self.call("git", "clone", "-q", "-b", "release/v0.1", self.bundle / "repos/github.com/RLinf/RLinf.git", tree)
        self.table = self.call(sys.executable, "-m", "tests.real.patch_tree", tree, self.bundle, cwd=ROOT)
        self.say("patched and restored the real tree")

    def peer_sync(self, state: Path) -> None:
        """Time ``uv pip sync`` alone on the node, from the same wheelhouse, with an empty cache; then remove what it made."""
        peer = f"{PREFIX}/peer"
        uv = f"{PREFIX}/tools/uv"
        lock = f"{PREFIX}/bundle/targets/{self.folder().parent.name}/{TARGET}/pylock.{TARGET}.toml"
        env = f"env UV_CACHE_DIR={peer}/cache UV_OFFLINE=1 UV_PYTHON_DOWNLOADS=never UV_NO_CONFIG=1"
        self.ssh(state, f"mkdir -p {peer} && {env} {uv} venv -q --python {self.python} {peer}/venv")
        self.cold()
        self.timed(
            "uv pip sync alone, cold cache", lambda: self.ssh(state, f"{env} {uv} pip sync -q --no-index --python {peer}/venv {lock}")
        )
        self.ssh(state, f"rm -rf {peer}; sync")

    def cold(self) -> None:
        """Drop the page cache, so that both sides read the wheelhouse from disk."""
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3\n")

    def everything(self) -> None:
        kept = (self.work / "reference.txt").exists()
        reference = self.reference() if kept else self.timed("online install (peer)", self.reference)
        state = self.work / "hosts"
        inventory = self.inventory(state)
        self.timed("download", lambda: self.play("download", inventory))
        self.figures["download, second run: changed"] = self.timed("download, second run", lambda: self.play("download", inventory))[
            "changed"
        ]
        self.compare_lock(reference)
        self.patch_tree()
        manifest = json.loads((self.bundle / "bundle.json").read_text())
        self.figures["bundle files"], self.figures["bundle bytes"] = (
            len(manifest["files"]),
            sum(item["size"] for item in manifest["files"].values()),
        )
        # the node must not see what the bastion has; the interpreter it uses must be there all the same
        self.call(HOSTS, "up", "1", state, env={"DISK": "48G", "HIDE": f"{self.work}:{Path.home()}", "SHOW": str(self.python.parents[1])})
        try:
            address = self.call(HOSTS, "list", state).split()[1]
            self.on_host(state, self.inventory(state, address))
        finally:
            self.call(HOSTS, "down", state)

    def on_host(self, state: Path, inventory: Path) -> None:
        self.timed("push", lambda: self.play("push", inventory))
        self.timed("prepare", lambda: self.play("prepare", inventory))
        self.peer_sync(state)
        self.cold()
        self.timed("install, cold cache", lambda: self.play("install", inventory))
        ratio = self.figures["install, cold cache"] / self.figures["uv pip sync alone, cold cache"]
        self.figures["install over uv pip sync alone"] = round(ratio, 2)
        recap = self.timed("install, second run", lambda: self.play("install", inventory))
        self.figures["install, second run: changed"] = recap["changed"]
        self.compare_installed(state)
        self.timed("verify", lambda: self.play("verify", inventory))
        self.timed("restore", lambda: self.play("restore", inventory, "-e", "rlinf_restore_confirm=true"))
        status = self.ssh(state, f"git -c safe.directory='*' -C {PREFIX}/src/RLinf status --porcelain")
        self.figures["git status after restore, lines"] = len(status.splitlines())
        self.figures["disk of the node's prefix, GB"] = round(int(self.ssh(state, f"du -sb {PREFIX} | cut -f1")) / 1e9, 1)

    def report(self) -> str:
        """Return the figures as a section of docs/benchmarks.md."""
        uv = self.call(self.uv, "--version").split()[1]
        machine = f"{os.cpu_count()} cores, {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB, kernel {platform.release().partition('-')[0]}"
        rows = "\n".join(f"| {name} | {value} |" for name, value in self.figures.items())
        return (
            f"## `make real`, {datetime.date.today():%Y-%m-%d}\n\n"
            f"Target `{TARGET}` of RLinf `release/v0.1`, cut-off {CUT_OFF}; {machine}, uv {uv}; node: one host without network, its disk an ext4 image.\n"
            f"Left out, since only GitHub's releases and Hugging Face have them: {', '.join(LEFT_OUT)}.\n\n"
            f"| what | figure (seconds where nothing else is said) |\n|---|---|\n{rows}\n\n"
            f"References of the real tree, patched and restored:\n\n```\n{self.table.strip().replace(str(self.work), '…')}\n```\n"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / ".real", help="where everything is made (about 60 GB)")
    parser.add_argument("--python", type=Path, help="the Python 3.11 of bastion and node; by default what uv finds")
    parser.add_argument("--record", type=Path, default=ROOT / "docs" / "benchmarks.md", help="the page that gets the figures")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    uv = Path(sys.executable).with_name("uv")
    found = options.python or Path(
        subprocess.run([uv, "python", "find", "--system", "3.11"], capture_output=True, text=True, check=True).stdout.strip()
    )
    run = Run(options.work.resolve(), found)
    try:
        run.everything()
    except Failed as error:
        run.say(f"failed: {error}")
        return 1
    section = run.report()
    print(section)
    page = options.record.read_text() if options.record.exists() else "# Benchmarks\n"
    options.record.write_text(page.partition("## `make real`")[0].rstrip() + "\n\n" + section)
    return 0


if __name__ == "__main__":
    sys.exit(main())
