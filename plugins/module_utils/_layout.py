# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where everything lies in a bundle and on a node; nobody else joins these names. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SYSTEM_STATE = Path("/var/lib/rlinf-offline")
"""Of root, while it installs system packages; the prefix may be another user's."""


@dataclass(frozen=True)
class Bundle:
    """The paths of a bundle. It is relocatable: what it holds names no absolute path."""

    root: Path

    @property
    def manifest(self) -> Path:
        return self.root / "bundle.json"

    @property
    def signature(self) -> Path:
        """Of the manifest, and so of everything."""
        return self.root / "bundle.json.sig"

    @property
    def lock_file(self) -> Path:
        """Held by whoever writes into the bundle; not part of it."""
        return self.root / ".lock"

    @property
    def records(self) -> Path:
        """What was seen at first download; ``records/urls.json`` for files, ``records/repositories.json`` for frozen commits."""
        return self.root / "records"

    @property
    def sbom(self) -> Path:
        """The bill of materials (CycloneDX)."""
        return self.records / "sbom.cdx.json"

    @property
    def repos(self) -> Path:
        """Bare mirrors: ``<host>/<owner>/<name>.git``."""
        return self.root / "repos"

    @property
    def wheels(self) -> Path:
        """Prebuilt wheels of the catalogue, by file name."""
        return self.root / "wheels"

    @property
    def wheelhouse(self) -> Path:
        return self.root / "wheelhouse"

    @property
    def index(self) -> Path:
        """Files as an index serves them."""
        return self.wheelhouse / "index"

    def sdist_wheels(self, sha256: str, builder: str) -> Path:
        """Wheels built from one sdist; *builder* says for what: ``cp311-x86_64-manylinux_2_31``."""
        return self.wheelhouse / "sdist" / sha256 / builder

    def source(self, sha256: str) -> Path:
        """Where an sdist lies that nodes build, by its SHA-256."""
        return self.wheelhouse / "source" / sha256

    def git_wheels(self, mirror: str, commit: str, builder: str) -> Path:
        """Wheels built from one commit; *mirror* as ``RepositoryId.mirror``, *builder* as for an sdist."""
        return self.wheelhouse / "git" / mirror.removesuffix(".git") / commit / builder

    @property
    def built(self) -> Path:
        """Wheels that nodes built from sources, by the source's SHA-256."""
        return self.wheelhouse / "built"

    def overlay(self, digest: str) -> Path:
        """Where the wheel lies that an overlay made; *digest* is that of its inputs."""
        return self.wheelhouse / "overlay" / digest

    @property
    def targets(self) -> Path:
        return self.root / "targets"

    def target(self, commit: str, name: str) -> Path:
        """The lock of one target for one commit of the project."""
        return self.targets / commit / name

    @property
    def assets(self) -> Path:
        """As they will lie on the node: ``.maniskill/ .sapien/ .cache/openpi/``."""
        return self.root / "assets"

    @property
    def tools(self) -> Path:
        """Wheels of uv and of what the modules need on a node, and the collection's archive."""
        return self.root / "tools"

    @property
    def swarm_tools(self) -> Path:
        """What nodes need to give each other the bundle."""
        return self.tools / "swarm"

    def apt(self, release: str, architecture: str) -> Path:
        """A flat repository of system packages for one release of a distribution: ``ubuntu-22.04``, ``amd64``."""
        return self.root / "apt" / release / architecture

    @property
    def interpreters(self) -> Path:
        return self.root / "interpreters"

    def interpreter(self, python: str, machine: str) -> Path:
        """Where the archive of an interpreter lies: ``3.11.14``, ``x86_64``."""
        return self.interpreters / python / machine

    @property
    def folders(self) -> tuple[Path, ...]:
        """What is carried and listed in the manifest; anything else at the top is not part of the bundle."""
        return (
            self.root / "apt",
            self.assets,
            self.interpreters,
            self.records,
            self.repos,
            self.targets,
            self.tools,
            self.wheelhouse,
            self.wheels,
        )

    @property
    def by_name(self) -> tuple[Path, ...]:
        """Those of the folders whose files are only ever taken by the names that a manifest or a lock lists: nobody looks what else is there."""
        return (self.assets, self.wheelhouse, self.wheels)

    @property
    def set_aside(self) -> Path:
        """What lay in the folders of the bundle, and no bundle has had it: somebody's own."""
        return self.root / ".set-aside"

    @property
    def cache(self) -> Path:
        """Scratch space of the bastion (uv's cache, checkouts, partial downloads): not in the manifest, not pushed."""
        return self.root / ".cache"

    @property
    def arriving(self) -> Path:
        """What has come to a node by a swarm, and is not whole yet."""
        return self.cache / "swarm"


def environment_lock(state: Path, target: str) -> Path:
    """Return what is held by whoever changes a target's environment, builds it, or changes a working copy that it is built from.

    :param state: the state of a node, ``Node.state``.
    """
    return state / "locks" / f".{target}.lock"


@dataclass(frozen=True)
class Node:
    """The paths under ``rlinf_prefix`` of a node."""

    prefix: Path

    @property
    def bundle(self) -> Path:
        return self.prefix / "bundle"

    @property
    def runtime(self) -> Path:
        """The private environment that the modules run in."""
        return self.prefix / "runtime"

    @property
    def runtime_python(self) -> Path:
        return self.runtime / "bin" / "python"

    @property
    def tools(self) -> Path:
        return self.prefix / "tools"

    @property
    def uv(self) -> Path:
        return self.tools / "uv"

    @property
    def uv_config(self) -> Path:
        """uv's settings of an offline node."""
        return self.tools / "uv.toml"

    @property
    def git_config(self) -> Path:
        """git's settings of an offline node, used as GIT_CONFIG_GLOBAL: every host redirected to the bundle's mirrors."""
        return self.tools / "gitconfig"

    @property
    def switch_env(self) -> Path:
        """What a shell reads to go over to a target's environment."""
        return self.prefix / "bin" / "switch_env"

    @property
    def interpreters(self) -> Path:
        """Interpreters out of the bundle, each in a folder of its own."""
        return self.prefix / "interpreters"

    @property
    def src(self) -> Path:
        return self.prefix / "src"

    @property
    def venvs(self) -> Path:
        return self.prefix / "venvs"

    @property
    def assets(self) -> Path:
        return self.prefix / "assets"

    @property
    def state(self) -> Path:
        return self.prefix / "state"

    @property
    def cache(self) -> Path:
        return self.prefix / "cache"

    @property
    def bundle_stamp(self) -> Path:
        """Says which manifest was verified on this node."""
        return self.state / "bundle.json"

    @property
    def air_gap(self) -> Path:
        """What steps that were kept off the network tried to reach, a file each."""
        return self.state / "air-gap"

    @property
    def air_gap_record(self) -> Path:
        """All that together, judged."""
        return self.state / "air-gap.json"

    @property
    def journals(self) -> Path:
        return self.state / "journals"

    def target_state(self, name: str) -> Path:
        """What was put in place for a target beside its environment."""
        return self.state / "targets" / f"{name}.json"

    @property
    def locks(self) -> Path:
        """Effective locks: what each environment was built from, with absolute paths."""
        return self.state / "locks"

    @property
    def built(self) -> Path:
        """Wheels that were built here from sources, by the source's SHA-256."""
        return self.state / "built"

    def log(self, target: str, what: str) -> Path:
        """All that a script, or a build, of a target said when it last ran."""
        return self.state / "logs" / target / f"{what}.log"
