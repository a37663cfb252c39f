# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bundle's ``tools/``: wheels for nodes and for a control node without network, and the collection's own archive."""

from __future__ import annotations

import gzip
import io
import os
import re
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils import _pylock, _wheel
from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError, CatalogError
from ansible_collections.rlinf.offline.plugins.module_utils._fetch import Download, Fetcher
from ansible_collections.rlinf.offline.plugins.module_utils._files import (
    atomic_write,
    json_bytes,
    read_json,
    remove,
    sha256_bytes,
    sha256_file,
    write_json,
)
from ansible_collections.rlinf.offline.plugins.module_utils._installed import normalize
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._process import run
from ansible_collections.rlinf.offline.plugins.module_utils._runtime import REQUIREMENTS
from ansible_collections.rlinf.offline.plugins.module_utils._uv import Uv

OLDEST_PYTHON = "3.10"
"""The wheels of nodes are for this Python and every newer one."""
ARCHIVE = "rlinf-offline.tar.gz"
MAKER = "make-control-node"
"""The script that makes a control node out of a bundle."""
# uv is taken out of its wheel; what is installed does not hold it
_NOT_INSTALLED = frozenset({"uv"})
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Tool:
    """One wheel of ``tools/``."""

    name: str
    version: str
    filename: str
    url: str
    sha256: str
    size: int | None

    def present(self, folder: Path) -> bool:
        place = folder / self.filename
        return place.is_file() and sha256_file(place) == self.sha256


@dataclass(frozen=True)
class Requirements:
    """A requirements file: for each line the requirement, and the digests that its file may have (any, if none is given)."""

    text: str
    lines: Mapping[str, frozenset[str]]

    @classmethod
    def parse(cls, text: str) -> Requirements:
        """:raises CatalogError: a line is an option, or there is none."""
        lines: dict[str, frozenset[str]] = {}
        for line in re.sub(r"\\\n", " ", text).splitlines():
            content = re.sub(r"(^|\s)#.*", "", line).strip()
            if not content:
                continue
            if content.startswith("-"):
                raise CatalogError(
                    f"rlinf_runtime_requirements: the option {content.split()[0]} has no place there. List requirements only."
                )
            lines[_HASH.sub("", content).strip()] = frozenset(_HASH.findall(content))
        if not lines:
            raise CatalogError("rlinf_runtime_requirements lists nothing.")
        return cls(text, lines)


@dataclass(frozen=True)
class Kit:
    """Wheels that travel together: those that nodes are prepared with, those of a control node, or those of a swarm's peers.

    :param name: of its record below ``records/``.
    :param folder: where they lie.
    :param pythons: the versions of Python that they are chosen for; wheels that serve several are there once.
    :param lists: the file below *folder* that lists, with hashes, what is installed, for each of them.
    :param elsewhere: names of what is needed too, and is there already.
    """

    name: str
    folder: Path
    requirements: Requirements
    platform: _wheel.Platform
    pythons: tuple[str, ...]
    lists: Mapping[str, str]
    elsewhere: frozenset[str] = frozenset()

    @classmethod
    def of_nodes(cls, bundle: Bundle, requirements: Requirements, platform: _wheel.Platform) -> Kit:
        return cls("tools", bundle.tools, requirements, platform, (OLDEST_PYTHON,), {OLDEST_PYTHON: REQUIREMENTS})

    @classmethod
    def of_control_nodes(cls, bundle: Bundle, requirements: Requirements, platform: _wheel.Platform, pythons: Sequence[str]) -> Kit:
        lists = {python: f"requirements-{python}.txt" for python in pythons}
        return cls("control", bundle.tools / "control", requirements, platform, tuple(pythons), lists, _NOT_INSTALLED)

    @classmethod
    def of_swarms(cls, bundle: Bundle, requirements: Requirements, platform: _wheel.Platform, pythons: Sequence[str]) -> Kit:
        lists = {python: f"requirements-{python}.txt" for python in pythons}
        return cls("swarm", bundle.swarm_tools, requirements, platform, tuple(pythons), lists)

    @property
    def chosen_by(self) -> str:
        """The digest of what decides which wheels are taken."""
        parts = {"requirements": self.requirements.text, "platform": str(self.platform), "pythons": self.pythons}
        return sha256_bytes(json_bytes(parts))

    def known(self, bundle: Bundle) -> dict[str, list[Tool]] | None:
        """Return the wheels on record for each Python, or nothing if they were chosen by something else."""
        try:
            record = read_json(self._record(bundle), BundleError)
        except FileNotFoundError:
            return None
        if record.get("chosen_by") != self.chosen_by:
            return None
        return {python: [Tool(**wheel) for wheel in wheels] for python, wheels in record["wheels"].items()}

    def choose(self, uv: Uv) -> dict[str, list[Tool]]:
        """Ask the index for the wheels, and for nothing that they require: all of it is listed.

        :raises BundleError: no wheel fits, or its digest is not one of those listed.
        :raises ProcessError: the index cannot be asked, or lacks a version.
        """
        return {python: [tool for tool in self._choose(uv, python) if tool.name not in self.elsewhere] for python in self.pythons}

    def _choose(self, uv: Uv, python: str) -> list[Tool]:
        with tempfile.TemporaryDirectory(prefix="rlinf-tools-") as scratch:
            listed, output = Path(scratch, "tools.in"), Path(scratch, "pylock.tools.toml")
            listed.write_text("".join(f"{line}\n" for line in self.requirements.lines), encoding="utf-8")
            options = ["--quiet", "--no-deps", "--no-header", "--no-annotate", "--only-binary", ":all:", "--format", "pylock.toml"]
            machine = ["--python", sys.executable, "--python-version", python, "--python-platform", str(self.platform)]
            arguments: list[str | os.PathLike[str]] = ["pip", "compile", *options, *machine, listed, "--output-file", output]
            uv.run(arguments, what="asking the index for the nodes' tools", cwd=Path(scratch))
            packages = _pylock.read(output)["packages"]
        tags = _wheel.supported_tags(python, self.platform)
        allowed: dict[str, frozenset[str]] = {}
        for line, digests in self.requirements.lines.items():
            allowed[_key(line)] = allowed.get(_key(line), frozenset()) | digests
        return [_tool(package, tags, allowed.get(_key(package["name"]), frozenset())) for package in packages]

    def texts(self, tools: Mapping[str, Sequence[Tool]]) -> dict[Path, str]:
        """Return what is installed for each Python, with hashes, by the file that lists it."""
        return {self.folder / self.lists[python]: requirements_text(wheels) for python, wheels in tools.items()}

    def gather(self, tools: Mapping[str, Sequence[Tool]], fetcher: Fetcher) -> None:
        """Bring the wheels that are not there, and remove those of other versions.

        :raises FetchError: one could not be had; each is named.
        """
        wanted = unique(tools)
        missing = [tool for tool in wanted if not tool.present(self.folder)]
        downloads = [
            Download(tool.url, self.folder / tool.filename, sha256=tool.sha256, size=tool.size, judge=_wheel.check_record)
            for tool in missing
        ]
        fetcher.fetch_every(downloads, "tools")
        files = {tool.filename for tool in wanted} | set(self.lists.values())
        for path in [*self.folder.glob("*.whl"), *self.folder.glob("requirements-*.txt")]:
            if path.name not in files:
                remove(path)

    def record(self, bundle: Bundle, tools: Mapping[str, Sequence[Tool]]) -> None:
        """Write what was chosen; after it the wheels are known not to have to be asked for again."""
        for path, text in self.texts(tools).items():
            atomic_write(path, text.encode())
        bundle.records.mkdir(parents=True, exist_ok=True)
        wheels = {python: [vars(tool) for tool in chosen] for python, chosen in tools.items()}
        write_json(self._record(bundle), {"format": 1, "chosen_by": self.chosen_by, "wheels": wheels})

    def _record(self, bundle: Bundle) -> Path:
        return bundle.records / f"{self.name}.json"


def unique(tools: Mapping[str, Iterable[Tool]]) -> list[Tool]:
    """Return the wheels of several Pythons, each once."""
    return list({tool.filename: tool for wheels in tools.values() for tool in wheels}.values())


def _key(requirement: str) -> str:
    """Return the normalized name at the beginning of a requirement (PEP 503)."""
    return normalize(re.split(r"[\s=<>!~;\[@]", requirement, maxsplit=1)[0])


def _tool(package: Mapping[str, Any], tags: list[Any], allowed: frozenset[str]) -> Tool:
    wheels, _sdist = _pylock.offered(package)
    best = _wheel.best_wheel((wheel.filename for wheel in wheels), tags)
    wheel = next((wheel for wheel in wheels if wheel.filename == best), None)
    name, version = package["name"], package["version"]
    if wheel is None:
        raise BundleError(
            f"{name} {version}: the index offers no wheel that fits the nodes. Set rlinf_platform, or use an index that has it."
        )
    if allowed and wheel.sha256 not in allowed:
        raise BundleError(
            f"{wheel.filename} of the index has the sha256 {wheel.sha256}, which is not listed. Use an index that serves the original."
        )
    return Tool(name, version, wheel.filename, wheel.url, wheel.sha256, wheel.size)


def requirements_text(tools: Iterable[Tool]) -> str:
    """Return what a node installs into its private environment, with hashes."""
    wanted = [tool for tool in sorted(tools, key=lambda tool: tool.name) if tool.name not in _NOT_INSTALLED]
    return "".join(f"{tool.name}=={tool.version} --hash=sha256:{tool.sha256}\n" for tool in wanted)


# -- the collection itself -----------------------------------------------------------------------------------------------------------


def collection_files(root: Path) -> dict[str, bytes]:
    """Return the files of this collection's archive by name, from where it is installed or from a checkout of it.

    :raises BundleError: it is neither.
    """
    if (root / "MANIFEST.json").is_file():
        listed = read_json(root / "FILES.json", BundleError, {"files": [{"name": str, "ftype": str}]}, "Install the collection again.")[
            "files"
        ]
        names = ["MANIFEST.json", "FILES.json", *(entry["name"] for entry in listed if entry["ftype"] == "file")]
        return {name: (root / name).read_bytes() for name in names}
    if not (root / "galaxy.yml").is_file():
        raise BundleError(f"{root} is not this collection: it has neither MANIFEST.json nor galaxy.yml.")
    with tempfile.TemporaryDirectory(prefix="rlinf-build-") as scratch:
        command = [sys.executable, "-m", "ansible", "galaxy", "collection", "build", os.fspath(root), "--output-path", scratch]
        run(command, what="building the collection's archive", cwd=Path(scratch), env={"ANSIBLE_HOME": scratch})
        with tarfile.open(next(Path(scratch).glob("*.tar.gz"))) as archive:
            members = [(member.name, archive.extractfile(member)) for member in archive.getmembers() if member.isfile()]
            return {name: stream.read() for name, stream in members if stream}


def archive_bytes(files: Mapping[str, bytes]) -> bytes:
    """Return files as a gzipped tar archive, equal bytes for equal files."""
    tar, packed = io.BytesIO(), io.BytesIO()
    folders = {str(parent) for name in files for parent in PurePosixPath(name).parents if parent.name}
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT) as archive:
        # ansible-galaxy asks the archive for the directories, too
        for name in sorted(folders):
            member = tarfile.TarInfo(name)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(member)
        for name, content in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))
    with gzip.GzipFile(filename="", fileobj=packed, mode="wb", mtime=0) as stream:
        stream.write(tar.getvalue())
    return packed.getvalue()
