# SPDX-License-Identifier: GPL-3.0-or-later
"""From a bare installation to a working target: nodes with nothing but python3 and sshd, and the bundle.

    python -m tests.real.bare [--work DIR] [--record PAGE]
    python -m tests.real.bare --bundle DIR --target openvla    (a bundle that `make real` made; RLINF_UPSTREAM as there)

Two nodes of two releases of Debian are made by mmdebstrap from the mirror that this machine's own apt uses. One bundle serves both: system
packages, and a target of the tests' small world. The first node, of the release that has the target's Python, goes through ``site.yml``; the
second through ``push`` and ``prepare``. With a bundle that is given, which is hardlinked and not changed, there is the first node alone.

What is recorded as a connection: each node has a default route into a link with nothing behind it, and a name server there. Whatever a program
sends to any address but the bastion's, name lookups included, goes out on that link, and the kernel counts it (``ip -s link``). That it does is
tried at the end, by a lookup and a connection made on purpose. IPv6 is off.

Root, mmdebstrap and the network are needed. The figures go to ``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from ansible.utils.vars import merge_hash

from ansible_collections.rlinf.offline.plugins.module_utils._apt_resolve import own_mirrors
from tests.demo.cycle import Cycle
from tests.real.page import PAGE, write_section
from tests.real.run import HOSTS, ROOT, Failed, Run
from tests.real.variants import VARIANTS

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SUITES = {"debian-12": "bookworm", "debian-13": "trixie"}
# a further release, as an inventory adds one
TRIXIE = {
    "suites": {"debian": ["trixie", "trixie-updates"], "debian-security": ["trixie-security"]},
    "components": ["main"],
    "keyring": KEYRING,
    "renames": {"libgl1-mesa-glx": "libgl1"},
}
PREFIX = "/opt/rlinf"
APT = "find /etc/apt /var/lib/apt/lists -type f -exec sha256sum {} + | sort; apt-mark showhold"
SELECTIONS = "dpkg-query -W -f '${Package} ${Version} ${Status}\\n'"
_RECAP = re.compile(
    r"^(?P<host>\S+)\s*: ok=\d+\s+changed=(?P<changed>\d+)\s+unreachable=(?P<unreachable>\d+)\s+failed=(?P<failed>\d+)", re.M
)


class Node:
    """A host whose root is a tree that mmdebstrap made; *out* counts what it sends to anywhere but the bastion."""

    def __init__(self, release: str, work: Path) -> None:
        self.release, self.tree, self.state = release, work / f"root-{SUITES[release]}", work / f"hosts-{SUITES[release]}"

    def make(self, mirrors: Mapping[str, str]) -> None:
        """Make its tree, up to date as an installer leaves it."""
        part = self.tree.with_suffix(".part")
        subprocess.run(["rm", "-rf", part], check=True)
        only = ["--variant=minbase", "--include=python3,openssh-server", f"--keyring={KEYRING}", "--quiet"]
        suite = SUITES[self.release]
        sources = [f"deb {mirrors['debian']} {suite} main", f"deb {mirrors['debian-security']} {suite}-security main"]
        subprocess.run(["mmdebstrap", *only, suite, part, *sources], check=True)
        part.rename(self.tree)

    def up(self, disk: str) -> None:
        subprocess.run([HOSTS, "up", "1", self.state], check=True, env={**os.environ, "LOWER": str(self.tree), "DISK": disk})
        bridge = re.findall(r"^bridge=(\S+)", (self.state / "net").read_text())[0]
        self.space = f"{bridge}-node1"
        for command in (
            f"link add out type veth peer name {bridge}-out",
            # without ARP everything is sent at once, to whoever it may be
            "link set out arp off up",
            f"link set {bridge}-out up",
            "addr add 192.0.2.1/32 dev out",
            "route add default dev out",
        ):
            subprocess.run(["ip", "-n", self.space, *command.split()], check=True)
        self.shell("echo nameserver 192.0.2.53 > /etc/resolv.conf")

    def down(self) -> None:
        subprocess.run([HOSTS, "down", self.state], check=True)

    def shell(self, command: str, *, check: bool = True) -> str:
        done = subprocess.run([HOSTS, "ssh", self.state, "node1", command], check=False, capture_output=True, text=True)
        if check and done.returncode:
            raise Failed(f"{self.release}: {command}: {done.stderr}")
        return done.stdout

    @property
    def sent(self) -> int:
        """How many packets went out to anywhere but the bastion."""
        said = subprocess.run(["ip", "-n", self.space, "-s", "-j", "link", "show", "out"], check=True, capture_output=True, text=True)
        return int(json.loads(said.stdout)[0]["stats64"]["tx"]["packets"])

    def variables(self, targets: Sequence[str]) -> dict[str, Any]:
        """Return what the inventory says of it."""
        address = subprocess.run([HOSTS, "list", self.state], check=True, capture_output=True, text=True).stdout.split()[1]
        return {
            "ansible_connection": "ssh",
            "ansible_host": address,
            "ansible_user": "root",
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_ssh_private_key_file": str(self.state / "key"),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={self.state}/known_hosts",
            "rlinf_prefix": PREFIX,
            "rlinf_python": "",
            "rlinf_system_packages_state": "present",
            "rlinf_targets": list(targets),
        }


class Bare:
    """One run: its nodes, its figures."""

    def __init__(self, work: Path, target: str, releases: Sequence[str]) -> None:
        self.work, self.target = work, target
        self.nodes = {release: Node(release, work) for release in releases}
        self.figures: dict[str, Any] = {}

    def say(self, text: str) -> None:
        print(f"{datetime.datetime.now():%H:%M:%S} {text}", flush=True)

    def timed(self, what: str, action: Callable[[], Any]) -> Any:
        start = time.monotonic()
        result = action()
        self.figures[what] = f"{time.monotonic() - start:.1f} s"
        self.say(f"{what}: {self.figures[what]}")
        return result

    def inventory(self, written: Mapping[str, Any]) -> Path:
        """Write the inventory: what another says of the bastion, and these nodes."""
        hosts = {release: node.variables([self.target]) for release, node in self.nodes.items()}
        common = merge_hash(
            dict(written["all"]["vars"]),
            {"rlinf_releases": list(SUITES), "rlinf_targets": [self.target], "rlinf_catalog": {"releases": {"debian-13": TRIXIE}}},
        )
        groups = {**written["all"]["children"], "rlinf_nodes": {"hosts": hosts}}
        path = self.work / "bare.yml"
        path.write_text(yaml.safe_dump({"all": {"vars": common, "children": groups}}), encoding="utf-8")
        return path

    def play(self, inventory: Path, name: str, *extra: str) -> int:
        """Run a playbook; return how many tasks changed something."""
        command = [Path(sys.executable).with_name("ansible-playbook"), "-i", inventory, f"rlinf.offline.{name}", *extra]
        with (self.work / f"{name}.log").open("w", encoding="utf-8") as log:
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True, check=False, stdin=subprocess.DEVNULL)
            log.write(done.stdout)
        if done.returncode:
            raise Failed(f"{name} ended with {done.returncode}; see {self.work / name}.log\n{done.stdout[-3000:]}")
        return sum(int(found["changed"]) for found in _RECAP.finditer(done.stdout))

    def everything(self, written: Mapping[str, Any], bundle: Path, disk: str) -> None:
        mirrors = own_mirrors()
        if not mirrors.keys() >= {"debian", "debian-security"}:
            raise Failed("This machine's own apt uses no mirrors of Debian and its security.")
        for release, node in self.nodes.items():
            if not node.tree.exists():
                self.timed(f"{release}: a bare root, by mmdebstrap", lambda node=node: node.make(mirrors))
        try:
            for release, node in self.nodes.items():
                node.up(disk)
                self.figures[f"{release}: packages of the bare node"] = len(node.shell(SELECTIONS).splitlines())
            self.on_nodes(self.inventory(written), bundle)
        finally:
            for node in self.nodes.values():
                node.down()

    def on_nodes(self, inventory: Path, bundle: Path) -> None:
        bastion = subprocess.run(["bash", "-c", f"{APT}; {SELECTIONS}"], check=True, capture_output=True, text=True).stdout
        self.timed("download", lambda: self.play(inventory, "download"))
        if bastion != subprocess.run(["bash", "-c", f"{APT}; {SELECTIONS}"], check=True, capture_output=True, text=True).stdout:
            raise Failed("download changed what the bastion's own apt knows")
        before = {release: (node.shell(APT), set(node.shell(SELECTIONS).splitlines())) for release, node in self.nodes.items()}
        first, *others = self.nodes
        self.timed(f"{first}: site.yml, from bare to {self.target}", lambda: self.play(inventory, "site", "--limit", first))
        self.figures[f"{first}: site.yml again, changed"] = self.play(inventory, "site", "--limit", first)
        for other in others:
            self.timed(f"{other}: push, beside it", lambda other=other: self.play(inventory, "push", "--limit", other))
            self.timed(f"{other}: prepare", lambda other=other: self.play(inventory, "prepare", "--limit", other))
            self.figures[f"{other}: prepare again, changed"] = self.play(inventory, "prepare", "--limit", other)
        for release, node in self.nodes.items():
            self.compare(release, node, before[release], bundle)
        self.figures["what the target's environment imports"] = (
            self.nodes[first]
            .shell(f"{PREFIX}/venvs/{self.target}/bin/python -c 'import torch; print(torch.__name__, torch.__version__)'")
            .strip()
        )
        for release, node in self.nodes.items():
            self.figures[f"{release}: packets that left for anywhere but the bastion"] = sent = node.sent
            # on purpose: else nothing says that the link counts
            node.shell("timeout 2 getent hosts example.invalid; timeout 2 bash -c 'exec 3<>/dev/tcp/203.0.113.1/443'", check=False)
            self.figures[f"{release}: the same after a lookup and a connection on purpose"] = node.sent
            if sent or not node.sent:
                raise Failed(f"{release}: {sent} packets left, {node.sent} after two on purpose")

    def compare(self, release: str, node: Node, before: tuple[str, set[str]], bundle: Path) -> None:
        """The node's own apt is as it was, and so is every package that was there; what was added came out of the bundle."""
        apt, selections = before
        now = set(node.shell(SELECTIONS).splitlines())
        record = json.loads((bundle / "apt" / release / "amd64" / "packages.json").read_text())
        bundled = {file["package"] for file in record["files"]}
        added = {line.split()[0] for line in now - selections}
        if node.shell(APT) != apt or selections - now or added - bundled:
            raise Failed(f"{release}: the node's packages are not those of the bundle beside its own: {sorted(added - bundled)}")
        self.figures[f"{release}: packages in the bundle"] = f"{len(bundled)}, {sum(file['size'] for file in record['files']) / 1e6:.0f} MB"
        self.figures[f"{release}: packages installed, others changed, apt's files changed"] = f"{len(added)}, 0, 0"

    def report(self, what: str) -> str:
        machine = f"{platform.machine()}, {os.cpu_count()} CPUs"
        rows = [f"| {name} | {value} |" for name, value in self.figures.items()]
        return "\n".join(
            [
                f"## from a bare node to {self.target}, {datetime.date.today().isoformat()}, {machine}",
                "",
                f"`python -m tests.real.bare`: {what}",
                "",
                "| what | figure |",
                "|---|---|",
                *rows,
            ]
        )


def demo(run: Bare) -> None:
    """Take the small world for the upstream."""
    shutil.rmtree(run.work / "world", ignore_errors=True)
    with Cycle(run.work / "world", targets={"none": [run.target]}, offline=False, compiler=False) as cycle:
        run.everything(yaml.safe_load(cycle.inventory.read_text()), cycle.bundle, "")


def real(run: Bare, bundle: Path) -> None:
    """Take a copy of a bundle that was made before, by hard links."""
    copy = run.work / "bundle"
    if not copy.exists():
        subprocess.run(["cp", "-al", bundle, copy], check=True)
        (copy / ".lock").unlink(missing_ok=True)
    # the variables with which it was made
    before = Run(run.work, [VARIANTS[run.target]])
    run.everything(yaml.safe_load(before.inventory([run.target], run.work).read_text()), copy, "32G")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / ".real" / "bare", help="where everything is made")
    parser.add_argument("--bundle", type=Path, help="a bundle that was made before")
    parser.add_argument("--target", default="openvla", help="what is installed")
    parser.add_argument("--record", type=Path, default=PAGE, help="the page that gets the figures")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    run = Bare(options.work.resolve(), options.target, list(SUITES)[:1] if options.bundle else list(SUITES))
    try:
        if options.bundle:
            real(run, options.bundle.resolve())
        else:
            demo(run)
    except Failed as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    section = run.report(
        "the real target, out of a real bundle, on a node with nothing but python3 and sshd."
        if options.bundle
        else "a target of the tests' small world; nodes of two releases with nothing but python3 and sshd, one bundle."
    )
    print(section)
    heading = "from a bare node to the real" if options.bundle else "from a bare node to the small world's"
    write_section(heading, section.replace("## from a bare node to", f"## {heading}", 1), options.record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
