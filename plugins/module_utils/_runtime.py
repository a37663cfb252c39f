# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a bare node needs before anything else: uv, the private environment of our modules, git's and uv's settings. Standard library only."""

from __future__ import annotations

import base64
import csv
import os
import platform
import re
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.rlinf.offline.plugins.module_utils._activation import switching
from ansible_collections.rlinf.offline.plugins.module_utils._bundle import read_manifest
from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError, VenvError
from ansible_collections.rlinf.offline.plugins.module_utils._files import atomic_write, exclusive, json_bytes, sha256_bytes, sha256_file
from ansible_collections.rlinf.offline.plugins.module_utils._generations import Generation, Generations
from ansible_collections.rlinf.offline.plugins.module_utils._git_config import redirect_config
from ansible_collections.rlinf.offline.plugins.module_utils._installed import fingerprints
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle, Node
from ansible_collections.rlinf.offline.plugins.module_utils._uv import Uv, offline_environment

OLDEST_PYTHON = (3, 10)
REQUIREMENTS = "runtime-requirements.txt"
"""In the bundle's ``tools/``: what the modules need on a node, with hashes."""
KEPT = 2
"""Generations of the runtime that stay: a module may be running in the former one."""
_UV_WHEEL = re.compile(r"uv-(?P<version>\d+(?:\.\d+)*)-py3-none-(?P<platforms>[\w.]+)\.whl\Z")
_MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)_(\w+)\Z")
_MUSLLINUX = re.compile(r"musllinux_\d+_\d+_(\w+)\Z")


@dataclass(frozen=True)
class Machine:
    """What decides which uv runs here: the processor, and the version of glibc (None on a system without)."""

    processor: str
    glibc: tuple[int, int] | None

    @classmethod
    def here(cls) -> Machine:
        """Return this machine's."""
        try:
            text = os.confstr("CS_GNU_LIBC_VERSION") or ""
        except (ValueError, OSError):
            text = ""
        found = re.match(r"glibc (\d+)\.(\d+)", text)
        return cls(platform.machine(), (int(found[1]), int(found[2])) if found else None)

    def takes(self, tag: str) -> bool:
        """Whether a wheel with this platform tag runs here (PEP 600, PEP 656); uv's musl builds are static and run anywhere."""
        manylinux, musllinux = _MANYLINUX.match(tag), _MUSLLINUX.match(tag)
        if manylinux:
            return manylinux[3] == self.processor and self.glibc is not None and (int(manylinux[1]), int(manylinux[2])) <= self.glibc
        return musllinux is not None and musllinux[1] == self.processor

    def __str__(self) -> str:
        return f"{self.processor} with " + (f"glibc {self.glibc[0]}.{self.glibc[1]}" if self.glibc else "no glibc")


@dataclass(frozen=True)
class UvWheel:
    """uv inside its wheel: the member, its SHA-256 by the wheel's RECORD, and uv's version."""

    path: Path
    version: str
    member: str
    sha256: str

    @classmethod
    def open(cls, path: Path, version: str) -> UvWheel:
        """:raises BundleError: the wheel is damaged or holds no uv."""
        try:
            with zipfile.ZipFile(path) as archive:
                member = f"uv-{version}.data/scripts/uv"
                record = archive.read(f"uv-{version}.dist-info/RECORD").decode()
        except (zipfile.BadZipFile, KeyError, UnicodeDecodeError) as error:
            raise BundleError(f"{path} is damaged ({error}). Push the bundle again.") from None
        digests = {row[0]: row[1] for row in csv.reader(record.splitlines()) if len(row) > 1}
        algorithm, _ignored, digest = digests.get(member, "").partition("=")
        if algorithm != "sha256":
            raise BundleError(f"{path} holds no uv with a sha256 in its RECORD. Download and push the bundle again.")
        return cls(path, version, member, base64.urlsafe_b64decode(digest + "=" * (-len(digest) % 4)).hex())

    def read(self) -> bytes:
        """Return uv itself.

        :raises BundleError: it is not what RECORD says.
        """
        try:
            with zipfile.ZipFile(self.path) as archive:
                content = archive.read(self.member)
        except (zipfile.BadZipFile, KeyError) as error:
            raise BundleError(f"{self.path} is damaged ({error}). Push the bundle again.") from None
        if sha256_bytes(content) != self.sha256:
            raise BundleError(f"{self.path}: uv in it is not what its RECORD says. Push the bundle again.")
        return content


def choose_uv(tools: Path, machine: Machine) -> UvWheel:
    """Return the newest uv of the bundle that runs on *machine*.

    :raises BundleError: there is none; those that are there are named.
    """
    there = sorted(tools.glob("uv-*.whl"))
    fitting = []
    for path in there:
        found = _UV_WHEEL.match(path.name)
        if found and any(machine.takes(tag) for tag in found["platforms"].split(".")):
            # of one version, the one for glibc
            fitting.append((tuple(map(int, found["version"].split("."))), "manylinux" in found["platforms"], path, found["version"]))
    if not fitting:
        names = ", ".join(path.name for path in there) or "none"
        raise BundleError(
            f"{tools} holds no uv for this node ({machine}); there: {names}. Run the playbooks download and push for this platform."
        )
    _version, _glibc, path, version = max(fitting)
    return UvWheel.open(path, version)


UV_CONFIG = """\
# written by rlinf.offline; used as UV_CONFIG_FILE by its modules alone
offline = true
no-index = true
python-downloads = "never"
"""
"""uv's settings of an offline node: no index, no network, no interpreter from elsewhere. Where files are is said by who calls it, file by file."""


@dataclass(frozen=True)
class Step:
    """One thing to be put in place under *path*; of settings, *before* and *after* are their text, of the rest a digest."""

    name: str
    path: Path
    changed: bool
    reason: str
    before: str = ""
    after: str = ""


@dataclass(frozen=True)
class Plan:
    """What would be done; *ready* is a finished runtime as wanted, if there is one."""

    digest: str
    uv: UvWheel
    steps: tuple[Step, ...]
    ready: Generation | None
    removable: tuple[Path, ...]

    @property
    def changed(self) -> bool:
        return any(step.changed for step in self.steps) or bool(self.removable)


@dataclass(frozen=True)
class Runtime:
    """The private part of a prefix: ``tools/uv``, ``tools/gitconfig``, ``tools/uv.toml``, ``bin/switch_env``, and ``runtime``, a link to an environment."""

    node: Node
    bundle: Bundle

    @property
    def generations(self) -> Generations:
        return Generations(self.node.tools, "runtime", self.node.runtime)

    def plan(self) -> Plan:
        """Find out what is to be done, without running anything.

        :raises BundleError: the bundle's tools are missing or damaged.
        :raises VenvError: this Python is too old.
        """
        if sys.version_info < OLDEST_PYTHON:
            raise VenvError(
                f"{sys.executable} is Python {platform.python_version()}; a node needs 3.10 or newer. Install one and set ansible_python_interpreter to it."
            )
        requirements = self.bundle.tools / REQUIREMENTS
        if not requirements.is_file():
            raise BundleError(f"There is no {requirements}. Run the playbooks download and push, or correct rlinf_bundle_dir.")
        self._check_sealed(requirements)
        uv = choose_uv(self.bundle.tools, Machine.here())
        digest = self._digest(requirements, uv)
        finished = [generation for generation in self.generations.finished() if generation.digest == digest]
        ready = next((generation for generation in finished if self._intact(generation)), None)
        steps = (self._uv_step(uv), *self._settings(), self._environment_step(digest, ready))
        removable = () if ready is None else (*self.generations.removable(KEPT, ready.path), *self.generations.unfinished())
        return Plan(digest, uv, steps, ready, removable)

    def _check_sealed(self, requirements: Path) -> None:
        """:raises BundleError: the list is not the one that was sealed; what it lists is checked by its hashes."""
        if not self.bundle.manifest.is_file():
            return
        entry = read_manifest(self.bundle)["files"].get(str(requirements.relative_to(self.bundle.root)), {})
        if entry.get("sha256") != sha256_file(requirements):
            raise BundleError(
                f"{requirements} is not what was sealed. Run the playbook rlinf.offline.push again with rlinf_scrub=true, or, where the "
                "bundle is shared, rlinf.offline.download with it."
            )

    def _digest(self, requirements: Path, uv: UvWheel) -> str:
        """Return what a runtime is known by: its requirements, the uv that makes it, its Python, and its place (scripts name it)."""
        python = {"version": platform.python_version(), "executable": os.path.realpath(sys.executable)}
        made_of = {
            "format": 1,
            "requirements": sha256_file(requirements),
            "uv": uv.sha256,
            "python": python,
            "prefix": os.fspath(self.node.prefix),
        }
        return sha256_bytes(json_bytes(made_of))

    def _intact(self, generation: Generation) -> bool:
        return os.access(generation.path / "bin" / "python", os.X_OK) and fingerprints(generation.path) == generation.stamp.get(
            "fingerprints"
        )

    def _uv_step(self, uv: UvWheel) -> Step:
        path = self.node.uv
        there = sha256_file(path) if path.is_file() else None
        right = there == uv.sha256 and os.access(path, os.X_OK)
        reason = "up to date" if right else "not there yet" if there is None else f"not the uv {uv.version} of the bundle"
        return Step("uv", path, not right, reason, f"sha256 {there}\n" if there else "", f"sha256 {uv.sha256}\n")

    def _settings(self) -> list[Step]:
        steps = []
        for name, path, after in (
            ("gitconfig", self.node.git_config, redirect_config(self.bundle.repos)),
            ("uv.toml", self.node.uv_config, UV_CONFIG),
            ("switch_env", self.node.switch_env, switching(self.node.switch_env, self.node.venvs)),
        ):
            before = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
            reason = "up to date" if before == after else "the bundle or the prefix is another" if before else "not there yet"
            steps.append(Step(name, path, before != after, reason, before, after))
        return steps

    def _environment_step(self, digest: str, ready: Generation | None) -> Step:
        current = self.generations.current()
        right = ready is not None and current is not None and current.path == ready.path
        known = current is not None and current.digest == digest
        reason = (
            "up to date"
            if right
            else "not there yet"
            if current is None
            else "changed by hand"
            if known
            else "other uv, Python, packages or prefix"
        )
        return Step("runtime", self.node.runtime, not right, reason, f"{current.digest}\n" if current else "", f"{digest}\n")

    def apply(self) -> Plan:
        """Bring about what :meth:`plan` says.

        :raises OfflineError: uv failed, the bundle is damaged, or another process does the same.
        """
        with exclusive(self.node.state / ".runtime.lock", f"The runtime of {self.node.prefix}"):
            plan = self.plan()
            for step in plan.steps:
                if not step.changed:
                    continue
                step.path.parent.mkdir(parents=True, exist_ok=True)
                if step.name == "uv":
                    atomic_write(step.path, plan.uv.read(), mode=0o755)
                elif step.name == "runtime":
                    self.generations.switch(plan.ready or self._build(plan.digest))
                else:
                    atomic_write(step.path, step.after.encode())
            current = self.generations.current()
            for path in [*self.generations.removable(KEPT, current.path if current else None), *self.generations.unfinished()]:
                self.generations.discard(path)
            return plan

    def _build(self, digest: str) -> Generation:
        """Make the private environment of this Python; it needs neither pip nor ensurepip."""
        place = self.generations.place(digest)
        if place.exists():
            self.generations.discard(place)
        uv = Uv(self.node.uv, offline_environment(self.node.cache))
        uv.run(
            ["venv", "--no-project", "--no-cache", "--python", os.path.realpath(sys.executable), place],
            what="making the private environment",
        )
        requirements = self.bundle.tools / REQUIREMENTS
        options: list[str | os.PathLike[str]] = ["--no-index", "--find-links", self.bundle.tools, "--require-hashes", "--no-build"]
        # without a cache, so that nothing shares a file with it, and the cache of the targets' environments stays theirs
        uv.run(
            [
                "pip",
                "install",
                "--python",
                place / "bin" / "python",
                "--no-cache",
                "--link-mode",
                "copy",
                *options,
                "--requirements",
                requirements,
            ],
            what="installing what the modules need",
            cwd=self.node.tools,
        )
        return self.generations.finish(place, {"format": 1, "digest": digest, "fingerprints": fingerprints(place)})
