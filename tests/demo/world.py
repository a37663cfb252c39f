# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small world for the collection to work in: repositories, an index and files with RLinf's real names and dependency shapes.

:func:`build` writes what :mod:`tests.support.upstream` serves. Dates and bytes are fixed: equal arguments and equal tools give equal files.
What makes it hard is what makes the real one hard:

- The steps of ``openvla`` have no solution together (swanlab wants wrapt >= 1.17, openvla's tensorflow < 1.15); one after the other they have.
  Those of ``openpi-metaworld`` pin another gymnasium in another order.
- Git dependencies no list names (dlimp), a default branch called ``master``, a tag that is not the newest, a commit that no ref names,
  a workspace with a package in a subdirectory, an LFS pointer, a requirement file without a final newline, a fork of transformers at the
  very version that the index has.
- Every repository and several packages have something newer than the cut-off that breaks whoever takes it.
- Packages that are sdists only, one of them with C in it, and one that only a node with nvcc can build; a LIBERO and an Isaac Sim that ask
  a question when they are imported; a setup script that calls uv, pip and curl.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from tests.demo.behavior import behavior
from tests.demo.index import build_index
from tests.demo.released import build_assets, build_wheel_of
from tests.demo.repositories import commit_of, write_repositories
from tests.support.catalog import shipped

ISAAC_SIM_INDEX = "https://isaac-sim.example"
"""What stands for NVIDIA's package index."""
HOSTS = ("github.com", "huggingface.co", "storage.googleapis.com", ISAAC_SIM_INDEX.removeprefix("https://"))
# what a node is prepared with, out of the running environment
_RUNTIME = Path(__file__).resolve().parents[2] / "roles" / "download" / "files" / "runtime-requirements.txt"
# what wheels of the catalogue are tagged for
_TAGGED_FOR = re.compile(r"cp31[01](?=-)|x86_64(?=\.whl)")


@dataclass(frozen=True)
class World:
    """What was built: *root* for the upstream to serve, for CPython *python* (``3.11``) on *machine* (``x86_64``)."""

    root: Path
    python: str
    machine: str

    def url_rewrites(self, upstream: str) -> dict[str, str]:
        """Return ``rlinf_url_rewrites`` for an upstream that serves this world at the URL *upstream*."""
        return {f"https://{host}/": f"{upstream}/git/{host}/" for host in HOSTS}

    def index_url(self, upstream: str) -> str:
        """Return ``rlinf_index_url``."""
        return f"{upstream}/simple/"

    @property
    def platform(self) -> str:
        """``rlinf_platform``: Isaac Sim's wheels are for glibc 2.34; a machine that has an older one does without them."""
        there = tuple(map(int, platform.libc_ver()[1].split(".")))
        return f"{self.machine}-manylinux_2_{34 if there >= (2, 34) else 31}"

    @property
    def runtime_requirements(self) -> Path:
        """``rlinf_runtime_requirements``: what the shipped list names, without digests, since here it is repacked from this environment."""
        return self.root / "runtime-requirements.txt"

    @property
    def wheels(self) -> dict[str, str]:
        """The URLs of the catalogue's wheels by name, as they are for this world's Python and machine."""
        tags = {"x86_64": self.machine}
        interpreter = f"cp{self.python.replace('.', '')}"
        given = shipped(ISAAC_SIM_INDEX)["wheels"]
        return {name: _TAGGED_FOR.sub(lambda found: tags.get(found[0], interpreter), wheel["url"]) for name, wheel in given.items()}

    def file(self, url: str) -> Path:
        """Return the file that stands for *url* (https)."""
        return self.root / "git" / url.removeprefix("https://")

    def commit(self, repository: str, revision: str = "HEAD") -> str:
        """Return the commit that *revision* names in ``owner/name`` on github.com."""
        return commit_of(self.root / "git" / "github.com" / f"{repository}.git", revision)


def build(root: Path, *, python: str | None = None, machine: str | None = None, compiler: bool = True) -> World:
    """Write the world into the empty or missing directory *root*.

    :param python: the minor version that platform wheels are for; by default the running interpreter's.
    :param machine: the architecture they are for; by default this machine's.
    :param compiler: whether the package with C in it is an sdist; without, it is a wheel, for a machine that has no compiler.
    """
    world = World(root, python or "{}.{}".format(*sys.version_info), machine or platform.machine())
    runtime = re.findall(r"^([\w.-]+)==", _RUNTIME.read_text(encoding="utf-8"), re.MULTILINE)
    build_index(root / "index", world.python, world.machine, runtime, compiler=compiler)
    world.runtime_requirements.write_text("".join(f"{name}=={installed_version(name)}\n" for name in runtime), encoding="utf-8")
    for url in world.wheels.values():
        build_wheel_of(url, world.file(url).parent)
    build_assets(root / "git")
    isaac = [os.path.basename(url) for url in world.wheels.values() if url.startswith(ISAAC_SIM_INDEX)]
    write_repositories(root, world.python, behavior(world.python, ISAAC_SIM_INDEX, isaac))
    return world


def catalog_overrides(world: World, catalog: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``rlinf_catalog``: what is different here from the shipped *catalog*: Python and machine of the prebuilt wheels and targets."""
    return {
        "wheels": {
            name: {"url": url, **({"python": world.python} if catalog["wheels"][name].get("python") else {})}
            for name, url in world.wheels.items()
        },
        "targets": {name: {"python": world.python} for name in catalog["targets"]},
    }
