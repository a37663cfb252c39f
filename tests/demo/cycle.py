# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole job on one machine: the demo's world behind the bastion, nodes with prefixes of their own, the playbooks that a user runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ansible.utils.vars import merge_hash

from tests.demo import world as demo_world
from tests.support.catalog import shipped
from tests.support.upstream import Upstream

ROOT = Path(__file__).resolve().parents[2]
PLAYS = ("download", "push", "prepare", "install", "verify", "restore")
TARGETS = ("openvla", "openvla-oft")
USER = "someone"
"""Who the upstream knows."""
NODE = "gpu01"
_RECAP = re.compile(
    r"^(?P<host>\S+)\s*: ok=\d+\s+changed=(?P<changed>\d+)\s+unreachable=(?P<unreachable>\d+)\s+failed=(?P<failed>\d+)", re.MULTILINE
)
# of the caller's environment, so that nothing that the user has set for git, uv, pip or Ansible reaches the demo
_INHERITED = ("PATH", "USER", "LOGNAME", "TMPDIR", "LANG", "LC_ALL", "ANSIBLE_COLLECTIONS_PATH")


class PlayFailed(Exception):
    """A playbook failed; the message holds what Ansible said of it."""


@dataclass(frozen=True)
class Play:
    """What a run of a playbook did: tasks that changed something over all hosts, seconds, and all that Ansible said."""

    name: str
    changed: int
    seconds: float
    output: str


def can_unshare() -> bool:
    """Return whether this machine lets this user make a network namespace (unshare -rn)."""
    if not shutil.which("unshare"):
        return False
    return subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode == 0


def can_compile() -> bool:
    """Return whether compilers for C and C++ and the headers of this Python are there."""
    compilers = (shutil.which("cc") or shutil.which("gcc")) and shutil.which("g++")
    return bool(compilers) and Path(sysconfig.get_path("include"), "Python.h").is_file()


class Cycle:
    """One bastion and its nodes below *work*, and the upstream that only the bastion can reach.

    A context manager: the upstream serves inside. The user's home directory is one below *work*, too, and so is a CUDA toolkit.

    :param targets: what is installed, by node; a list is that of the only one.
    :param offline: whether what runs for the nodes runs without network.
    :param push: whether each node gets a bundle of its own, by rsync; without, they share the bastion's.
    :param compiler: whether the world has packages to compile.
    :param air_gap: whether verifying fails if an install has tried to reach anything, even where there was nobody to be reached.
    :param password: one that the upstream asks for, and that the bastion's inventory holds.
    """

    def __init__(
        self,
        work: Path,
        *,
        targets: Mapping[str, Sequence[str]] | Sequence[str] = TARGETS,
        offline: bool = True,
        push: bool = True,
        compiler: bool = True,
        air_gap: bool = False,
        password: str = "",
    ) -> None:
        self.targets = targets if isinstance(targets, Mapping) else {NODE: targets}
        self.work, self.offline, self.push, self.air_gap = work, offline, push, air_gap
        work.mkdir(parents=True, exist_ok=True)
        self.bundle, self.home = work / "bundle", work / "home"
        self.home.mkdir()
        # of a user who has run `git lfs install`: whatever git checks out unguarded, it fetches the content of pointers for
        (self.home / ".gitconfig").write_text('[filter "lfs"]\n\tsmudge = git-lfs smudge -- %f\n\trequired = true\n', encoding="utf-8")
        self.key = work / "signing-key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "demo", "-f", self.key], check=True)
        self.toolkit = write_toolkit(work / "cuda")
        self.world = demo_world.build(work / "upstream", compiler=compiler)
        self.upstream, self.password = Upstream(self.world.root), password
        self.inventory = work / "inventory.yml"

    def __enter__(self) -> Cycle:
        self.upstream.start()
        if self.password:
            self.upstream.require_login("/", USER, self.password)
        bundle = {} if self.push else {"rlinf_bundle_dir": str(self.bundle)}
        nodes = {
            name: {"rlinf_targets": list(targets), "rlinf_prefix": str(self.work / name), **bundle}
            for name, targets in self.targets.items()
        }
        self.inventory = self.write_inventory("inventory", nodes)
        return self

    def __exit__(self, *_exception: object) -> None:
        self.upstream.stop()

    def write_inventory(self, name: str, nodes: Mapping[str, Mapping[str, Any]], catalog: Mapping[str, Any] | None = None) -> Path:
        """Write an inventory of the bastion and nodes, all of them this machine, and return it.

        :param nodes: the variables of each.
        :param catalog: what is merged into the world's ``rlinf_catalog``.
        """
        bastion = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "rlinf_bundle_dir": str(self.bundle),
            "rlinf_signing_key": str(self.key),
            **bastion_variables(self.world, self.upstream.url.replace("://", f"://{USER}:{self.password}@" if self.password else "://")),
        }
        common = common_variables(self.world)
        # nodes accept what the bastion signs, and nothing else
        common["rlinf_trusted_signers"] = f"bastion@example.org {self.key.with_suffix('.pub').read_text(encoding='utf-8')}"
        common["rlinf_catalog"] = merge_hash(common["rlinf_catalog"], catalog or {})
        # a node's Python has none of the libraries that the bastion's has
        local = {"ansible_connection": "local", "ansible_python_interpreter": base_python()}
        # nothing outside of *work* is touched
        local["rlinf_system_packages_state"] = "ignored"
        if self.air_gap:
            local["rlinf_air_gap"] = True
        hosts = {node: {**local, **variables} for node, variables in nodes.items()}
        children = {"rlinf_bastion": {"hosts": {"bastion": bastion}}, "rlinf_nodes": {"hosts": hosts}}
        inventory = self.work / f"{name}.yml"
        inventory.write_text(yaml.safe_dump({"all": {"vars": common, "children": children}}, sort_keys=False), encoding="utf-8")
        return inventory

    def play(self, name: str, *extra: str, inventory: Path | None = None, **env: str) -> Play:
        """Run the playbook ``rlinf.offline.<name>``, the bastion's with network, the node's without; or that at a path.

        :param inventory: by default that of all nodes.
        :param env: variables over those of :meth:`environment`.
        :raises PlayFailed: it ended with another status than 0.
        """
        command: list[str | Path] = [Path(sys.executable).with_name("ansible-playbook"), "-i", inventory or self.inventory]
        command += [name if name.endswith(".yml") else f"rlinf.offline.{name}", *extra]
        if name == "restore":
            command += ["-e", "rlinf_restore_confirm=true"]
        if self.offline and name != "download":
            command = ["unshare", "-rn", *command]
        start = time.monotonic()
        done = subprocess.run(
            command,
            cwd=self.work,
            env={**self.environment(), **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - start
        recaps = list(_RECAP.finditer(done.stdout))
        if done.returncode or not recaps:
            raise PlayFailed(f"$ {' '.join(map(str, command))}\n{done.stdout}")
        return Play(name, sum(int(recap["changed"]) for recap in recaps), seconds, done.stdout)

    def environment(self) -> dict[str, str]:
        """Return the environment of a user who has set nothing, with a home of its own."""
        kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        ansible = {
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_FORCE_COLOR": "0",
            "ANSIBLE_HOME": str(self.work / "ansible"),
            # by default it lies in the home that the password database names, which in a namespace is root's
            "ANSIBLE_REMOTE_TEMP": str(self.work / "ansible" / "tmp"),
        }
        return {**kept, **ansible, "HOME": str(self.home), "PATH": f"{self.toolkit}/bin:{kept['PATH']}"}

    # -- what came of it

    def prefix(self, target: str) -> Path:
        """Return the prefix of the node that has a target."""
        return self.work / next(name for name, targets in self.targets.items() if target in targets)

    def lock(self, target: str) -> dict[str, Any]:
        """Return the lock of a target in the bundle."""
        (found,) = self.bundle.glob(f"targets/*/{target}/lock.json")
        lock: dict[str, Any] = json.loads(found.read_text(encoding="utf-8"))
        return lock

    def manifest(self) -> Mapping[str, Any]:
        """Return the bundle's manifest."""
        manifest: dict[str, Any] = json.loads((self.bundle / "bundle.json").read_text(encoding="utf-8"))
        return manifest

    def node_python(self, target: str, code: str, *, prefix: Path | None = None, **env: str) -> str:
        """Run *code* in the node's environment of *target*, without network and without a terminal; return its output."""
        python = (prefix or self.prefix(target)) / "venvs" / target / "bin" / "python"
        command: list[str | Path] = [*(["unshare", "-rn"] if self.offline else []), python, "-c", code]
        environment = {**self.environment(), **env}
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PlayFailed(f"{python} -c {code!r}\n{done.stderr}")
        return done.stdout


def bastion_variables(world: demo_world.World, upstream: str) -> dict[str, Any]:
    """Return what the bastion's inventory says so that it reaches *world* instead of the internet, served at the URL *upstream*."""
    return {
        "rlinf_url_rewrites": world.url_rewrites(upstream),
        "rlinf_index_url": world.index_url(upstream),
        "rlinf_runtime_requirements": str(world.runtime_requirements),
        # the wheels of ansible-core and of all that it needs take a while to be made
        "rlinf_control_node": False,
    }


def common_variables(world: demo_world.World) -> dict[str, Any]:
    """Return what every host's inventory says, since *world* is made for the running Python and machine."""
    return {
        "rlinf_python": base_python(),
        "rlinf_platform": world.platform,
        "rlinf_catalog": demo_world.catalog_overrides(world, shipped()),
        # of an Isaac Sim that there is next to nothing in
        "rlinf_accept_nvidia_eula": True,
        "rlinf_exports": {"HF_HOME": "/data/hf"},
        # of a PyTorch that computes nothing: whoever has a GPU may try the demo, too
        "rlinf_gpu_check": "ignored",
    }


def write_toolkit(root: Path) -> Path:
    """Write what stands in for a CUDA toolkit, and return it: an nvcc that counts its calls and leaves the rest to g++, as the real one does."""
    compiler = root / "bin" / "nvcc"
    compiler.parent.mkdir(parents=True)
    compiler.write_text(
        "#!/bin/sh\n# a stand-in for the CUDA compiler\n"
        f"echo \"$@\" >> '{root}/calls'\n"
        'for argument do\n  shift\n  case $argument in\n    -Xcompiler) ;;\n    --shared) set -- "$@" -shared ;;\n'
        '    *) set -- "$@" "$argument" ;;\n  esac\ndone\nexec g++ "$@"\n',
        encoding="utf-8",
    )
    compiler.chmod(0o755)
    return root


def base_python() -> str:
    """Return the interpreter behind the running environment."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))
