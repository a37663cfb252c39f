# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the files of a lock come from on a node: the bundle, a build of this node or of another, or an index of the LAN."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._built import Builder
from ansible_collections.rlinf.offline.plugins.module_utils._effective import EffectiveLock, Package
from ansible_collections.rlinf.offline.plugins.module_utils._errors import VenvError
from ansible_collections.rlinf.offline.plugins.module_utils._files import sha256_file
from ansible_collections.rlinf.offline.plugins.module_utils._network import Network
from ansible_collections.rlinf.offline.plugins.module_utils._urls import redact, without_userinfo


@dataclass(frozen=True)
class Policy:
    """What else than the bundle may be used.

    :param network: how an index of packages is reached; one that names none: the bundle alone (``rlinf_package_source: bundle``).
    :param fallback: whether it may really be used (``rlinf_remote_fallback``).
    """

    network: Network = field(default_factory=Network)
    fallback: bool = True

    @property
    def index_url(self) -> str | None:
        """The index, with credentials if it needs some."""
        return self.network.index_url

    @property
    def place(self) -> str:
        """The index without credentials, for what is kept."""
        return without_userinfo(self.index_url or "")

    @property
    def shown(self) -> str:
        """The index with its credentials masked, for what people read."""
        return redact(self.index_url or "")

    @property
    def environment(self) -> dict[str, str]:
        """uv's variables for it; on a command line every user of the machine would see the credentials."""
        return self.network.uv_variables


@dataclass(frozen=True)
class Supply:
    """Where each file of a lock comes from.

    :param wheels: those that are on this node, by package.
    :param to_build: sources of which there is no wheel yet.
    :param remote: packages that come from the index, and *remote_build*, what building needs and comes from there.
    """

    lock: EffectiveLock
    policy: Policy
    wheels: Mapping[str, Path] = field(default_factory=dict)
    to_build: tuple[Package, ...] = ()
    remote: tuple[Package, ...] = ()
    remote_build: tuple[Package, ...] = ()

    @property
    def all_remote(self) -> list[Package]:
        return list({package.path.name: package for package in (*self.remote, *self.remote_build)}.values())

    @property
    def reported(self) -> list[dict[str, Any]]:
        """What comes from the index, for a module's result."""
        return [
            {"name": package.name, "version": package.version, "file": package.path.name, "from": self.policy.shown}
            for package in self.all_remote
        ]

    @property
    def messages(self) -> list[dict[str, str]]:
        """The same, a line for each."""
        said = "[local-deps] remote fallback for {} from {}"
        return [
            {"kind": "remote_package", "colour": "yellow", "text": said.format(package.path.name, self.policy.shown)}
            for package in self.all_remote
        ]

    @property
    def local_build(self) -> list[Path]:
        """The wheels on this node that building needs."""
        gone = {package.name for package in self.remote_build}
        return [package.path for package in self.lock.build if package.name not in gone and package.path.is_file()]

    def local(self, names: Iterable[str] | None = None, *, editables: bool = True) -> EffectiveLock:
        """Return the part of the lock that uv installs out of files on this node, sources as what was built of them.

        :param names: only these packages.
        """
        wanted = None if names is None else set(names)
        remote = {package.name for package in self.remote}
        packages = [
            self._as_file(package)
            for package in self.lock.packages
            if package.name not in remote
            and (wanted is None or package.name in wanted)
            and (package.kind != "editable" or editables)
            and (package.kind != "sdist" or package.name in self.wheels)
        ]
        return replace(self.lock, packages=tuple(packages))

    @property
    def stored(self) -> EffectiveLock:
        """The lock as it is kept beside what was installed of it."""
        return replace(self.lock, packages=tuple(self._as_file(package) for package in self.lock.packages))

    def _as_file(self, package: Package) -> Package:
        if package.kind != "sdist" or package.name not in self.wheels:
            return package
        wheel = self.wheels[package.name]
        return replace(package, kind="archive", path=wheel, sha256=sha256_file(wheel), size=wheel.stat().st_size)


def supply(lock: EffectiveLock, policy: Policy, builder: Builder, *, scripts: bool = False) -> Supply:
    """Find out where every file of a lock comes from; nothing is changed.

    :param scripts: whether scripts are run in the environment, which may build what they find.
    :raises VenvError: files are missing, and may not, or cannot, come from an index; or a source cannot be built here. All are named.
    """
    built = {package.name: found for package in lock.sources if (found := builder.find(package))}
    to_build = tuple(package for package in lock.sources if package.name not in built)
    builds = scripts or bool(to_build) or any(package.kind == "editable" for package in lock.packages)
    wanted = [package for package in lock.files if package.name not in built]
    build = [package for package in lock.build if builds]
    missing = [package for package in (*wanted, *build) if not package.present]
    _refuse([package for package in missing if not (policy.index_url and policy.fallback and package.served)], missing, policy, len(wanted))
    builder.check(to_build)
    remote = tuple(package for package in wanted if not package.present)
    wheels = {name: path for name, path in lock.wheels.items() if name not in {package.name for package in remote}} | built
    return Supply(lock, policy, wheels, to_build, remote, tuple(package for package in build if not package.present))


def _refuse(refused: Sequence[Package], missing: Sequence[Package], policy: Policy, wanted: int) -> None:
    """Name every file that is not there, with what to do about it."""
    if not refused:
        return
    files = sorted({package.path.name for package in refused})
    text = f"The bundle lacks {len(files)} of {wanted} files, or holds them in another size: {', '.join(files)}. "
    if not policy.index_url:
        raise VenvError(f"{text}Run the playbook push for this node.", missing=files)
    if not policy.fallback and all(package.served for package in refused):
        raise VenvError(
            f"{text}rlinf_remote_fallback is false: download with rlinf_package_source=bundle and push, or let them come from {policy.shown}.",
            missing=files,
        )
    unserved = sorted({package.path.name for package in missing if not package.served})
    raise VenvError(
        f"{text}Of these, an index has not what was built from sources or commits ({', '.join(unserved)}). Run the playbooks download and push.",
        missing=files,
    )
