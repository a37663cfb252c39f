# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts in network namespaces (tests/hosts/hosts.sh), reached by ssh, and bundles to be pushed to them."""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ansible_collections.rlinf.offline.plugins.module_utils import _bundle
from ansible_collections.rlinf.offline.plugins.module_utils._files import json_bytes
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ROOT / "tests" / "hosts" / "hosts.sh"
PREFIX = "/srv/rlinf"
_RECAP = re.compile(
    r"^(?P<host>\S+)\s*: ok=\d+\s+changed=(?P<changed>\d+)\s+unreachable=(?P<unreachable>\d+)\s+failed=(?P<failed>\d+)", re.MULTILINE
)


class Fleet:
    """Some hosts; a context manager, or until :meth:`end`.

    :param state: a directory that hosts.sh makes.
    :param options: variables of hosts.sh: ``DISK``, ``SHARE``.
    """

    def __init__(self, state: Path, count: int, **options: str) -> None:
        if os.geteuid():
            raise PermissionError("Hosts in namespaces are made for this, which needs root: sudo make ...")
        self.state = state
        try:
            subprocess.run([HOSTS, "up", str(count), state], check=True, capture_output=True, env={**os.environ, **options})
            listed = subprocess.run([HOSTS, "list", state], check=True, capture_output=True, text=True).stdout
        except BaseException:
            self.end()
            raise
        self.addresses = {name: address for name, address, _port in map(str.split, listed.splitlines())}

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.end()

    def give_python(self) -> None:
        """Let the hosts have the interpreter of this very version on their PATH."""
        name, python = "python{}.{}".format(*sys.version_info), os.path.realpath(getattr(sys, "_base_executable", sys.executable))
        for host in self.addresses:
            self.shell(host, f"command -v {name} || ln -s {python} /usr/bin/{name}")

    def shell(self, host: str, command: str) -> str:
        """Run a shell command on a host and return its output."""
        return subprocess.run([HOSTS, "ssh", self.state, host, command], check=True, capture_output=True, text=True).stdout

    def give(self, host: str, command: str, data: bytes) -> None:
        """Run a shell command on a host with these bytes as its standard input."""
        subprocess.run([HOSTS, "ssh", self.state, host, command], input=data, check=True, capture_output=True)

    def reboot(self, host: str) -> None:
        """End a host as a power cut does, and start it again; it needs ``DISK``."""
        subprocess.run([HOSTS, "reboot", self.state, host], check=True, capture_output=True)

    def kill(self, host: str) -> None:
        """End a host for good, as a power cut does."""
        os.kill(int((self.state / f"{host}.pid").read_text(encoding="utf-8")), signal.SIGKILL)

    @property
    def bridge(self) -> str:
        """The device by which this machine reaches the hosts: shaping it shapes this machine's uplink, and not what hosts send each other."""
        found = re.search(r"bridge=(\S+)", (self.state / "net").read_text(encoding="utf-8"))
        if not found:
            raise ValueError(f"{self.state}/net names no bridge")
        return found[1]

    @property
    def bastion(self) -> str:
        """The address by which the hosts reach this machine."""
        found = re.search(r"net=(\S+)", (self.state / "net").read_text(encoding="utf-8"))
        if not found:
            raise ValueError(f"{self.state}/net names no network")
        return f"{found[1]}.1"

    def sent(self) -> int:
        """Return how many bytes this machine has sent to the hosts."""
        return int(Path(f"/sys/class/net/{self.bridge}/statistics/tx_bytes").read_text(encoding="utf-8"))

    def shape(self, rate: str) -> None:
        """Limit this machine's uplink, with tc's token bucket: ``200mbit``."""
        command = ["tc", "qdisc", "replace", "dev", self.bridge, "root", "tbf", "rate", rate, "burst", "256kb", "latency", "50ms"]
        subprocess.run(command, check=True, capture_output=True)

    def variables(self, host: str, **more: Any) -> dict[str, Any]:
        """Return what an inventory says of a host."""
        return {
            "ansible_connection": "ssh",
            "ansible_host": self.addresses[host],
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self.state / "key"),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={self.state}/known_hosts",
            # the name of a socket must be short
            "ansible_control_path_dir": str(self.state / "cp"),
            "ansible_remote_tmp": "/tmp/ansible",
            "ansible_python_interpreter": "/usr/bin/python3",
            "rlinf_prefix": PREFIX,
            **more,
        }

    def end(self) -> None:
        subprocess.run([HOSTS, "down", self.state], check=True, capture_output=True)


def inventory(path: Path, bundle: Bundle, hosts: Mapping[str, Mapping[str, Any]], **common: Any) -> Path:
    """Write an inventory of this machine as the bastion with a bundle, and of hosts, and return its path."""
    bastion = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "rlinf_bundle_dir": str(bundle.root)}
    children = {"rlinf_bastion": {"hosts": {"bastion": bastion}}, "rlinf_nodes": {"hosts": dict(hosts)}}
    path.write_text(yaml.safe_dump({"all": {"vars": common, "children": children}}, sort_keys=False), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Ran:
    """How a playbook ended: its status, what it said, and by host how many tasks changed something and whether it failed."""

    status: int
    output: str
    changed: Mapping[str, int]
    failed: Mapping[str, bool]


def command_of(play: str, inventory: Path, *extra: str) -> list[str | Path]:
    """Return the command of the playbook ``rlinf.offline.<play>``."""
    return [Path(sys.executable).with_name("ansible-playbook"), "-i", inventory, f"rlinf.offline.{play}", *extra]


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a user who has set nothing."""
    kept = {name: os.environ[name] for name in ("PATH", "USER", "LOGNAME", "ANSIBLE_COLLECTIONS_PATH") if name in os.environ}
    ansible = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_HOME": str(home)}
    return {**kept, **ansible, "HOME": str(home), "LC_ALL": "C.UTF-8"}


def processes(word: str, variable: str) -> list[int]:
    """Return the processes of this machine with a word in their command, and with a variable."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command, variables = (place / "cmdline").read_text(errors="replace"), (place / "environ").read_text(errors="replace")
            if word in command and variable in variables.split("\0"):
                found.append(int(place.name))
    return found


def wait_for(reached: Callable[[], bool], what: str, seconds: float = 120) -> None:
    """Wait until something is so.

    :raises TimeoutError: it was not for so long.
    """
    end = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come to pass within {seconds:g} seconds")
        time.sleep(0.02)


def play(name: str, inventory: Path, *extra: str, env: Mapping[str, str] | None = None) -> Ran:
    """Run a playbook to its end, which has to come within half an hour.

    :param env: variables over those of :func:`environment`.
    """
    command = command_of(name, inventory, *extra)
    done = subprocess.run(
        command,
        env={**environment(inventory.parent), **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=1800,
    )
    recaps = list(_RECAP.finditer(done.stdout))
    return Ran(
        done.returncode,
        done.stdout,
        {recap["host"]: int(recap["changed"]) for recap in recaps},
        {recap["host"]: bool(int(recap["failed"]) + int(recap["unreachable"])) for recap in recaps},
    )


def left_on(fleet: Fleet, host: str) -> str:
    """Return what is left of a swarm on a host: processes, listening ports, files that are no more than that."""
    return fleet.shell(
        host,
        "for pid in /proc/[0-9]*; do tr '\\0' ' ' < $pid/cmdline | grep rlinf-swarm | grep -v 'grep' || true; done;"
        # the hosts' sshd listens on port 22 (0016), and state 0A is LISTEN
        "awk 'NR > 1 && $4 == \"0A\" && $2 !~ /:0016$/' /proc/net/tcp /proc/net/tcp6 2>/dev/null;"
        f"ls -d /tmp/rlinf-swarm-* 2>/dev/null; find {PREFIX}/bundle -name '*.part' || true",
    )


# -- bundles -------------------------------------------------------------------------------------------------------------------------


def bundle_of(root: Path, sizes: Sequence[int], *, swarm: bool = True, seed: int = 0) -> Bundle:
    """Make a sealed bundle of files with these sizes in bytes, of content that does not compress.

    :param swarm: whether it holds libtorrent's wheel, too.
    """
    bundle, chance = Bundle(root), random.Random(seed)
    for number, size in enumerate(sizes):
        path = bundle.wheels / f"file-{number:05}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(size))
    if swarm:
        wheel = repack("libtorrent", bundle.swarm_tools)
        record = {"format": 1, "chosen_by": "", "wheels": {"{}.{}".format(*sys.version_info): [{"filename": wheel.name}]}}
        bundle.records.mkdir(parents=True, exist_ok=True)
        (bundle.records / "swarm.json").write_bytes(json_bytes(record))
    _bundle.seal(bundle)
    return bundle


def repack(name: str, folder: Path) -> Path:
    """Write the wheel that an installed distribution came from, as its RECORD lists it, into *folder*."""
    found = importlib.metadata.distribution(name)
    tags = [line.partition(": ")[2] for line in (found.read_text("WHEEL") or "").splitlines() if line.startswith("Tag: ")]
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-{found.version}-{tags[0]}.whl"
    aside = {"INSTALLER", "REQUESTED", "uv_cache.json", "direct_url.json"}
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, _digest, _size in csv.reader((found.read_text("RECORD") or "").splitlines()):
            if Path(path).name not in aside and "__pycache__" not in path:
                archive.write(found.locate_file(path), path)
    return wheel


def manifest(bundle: Bundle) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(bundle.manifest.read_text(encoding="utf-8"))
    return content
