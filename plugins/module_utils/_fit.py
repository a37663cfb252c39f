# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether nodes can take what a bundle holds, judged on the bastion before anything changes."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from ansible_collections.rlinf.offline.plugins.module_utils._bundle import manifest_digest, read_manifest, size_text
from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Catalog, Target
from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError, OfflineError
from ansible_collections.rlinf.offline.plugins.module_utils._files import read_json
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._tags import Misfit as WheelMisfit
from ansible_collections.rlinf.offline.plugins.module_utils._tags import cuda_majors, misbuilt, unfit
from ansible_collections.rlinf.offline.plugins.module_utils._wheel import Platform, supported_tags

OLDEST_DRIVERS = {"11": "450.80.02", "12": "525.60.13", "13": "580.65.06"}
"""NVIDIA's minor version compatibility: this driver, or a newer one, runs every build for this major version of CUDA."""
UNPACKED = 3.2
"""Bytes on disk, uv's cache and the environment together, for a byte of wheels (13 GB for 4.2 GB of openvla)."""
FILES_PER_PACKAGE = 800
"""Inodes that a package takes in cache and environment together (openvla: 100,000 files of 274 packages in each, most of them shared)."""
RELOCK = "Set rlinf_platform to what the nodes have, and lock it anew (rlinf_update)."
ROOM = "Make room, or set rlinf_prefix."
_PLATFORM = re.compile(r"(?P<machine>\w+?)-manylinux_(?P<glibc>\d+_\d+)\Z")


@dataclass(frozen=True)
class Misfit:
    """Why a node cannot take something: what of it, what was found, and what to do."""

    what: str
    found: str
    remedy: str


@dataclass(frozen=True)
class Wheel:
    """A wheel of a lock: the normalized name of its package, its version and file name."""

    package: str
    version: str
    filename: str


@dataclass(frozen=True)
class Need:
    """What one target asks of a node, out of its lock.

    :param glibc: what the lock was made for.
    :param bytes: of its packages; *assets*: bytes of its assets.
    :param sources: what is compiled on a node, the bundle having no wheel of it: name -> programs that this takes.
    :param digests: name -> sha256 of those sources.
    """

    target: str
    machine: str
    glibc: str
    bytes: int
    packages: int
    python: str = ""
    assets: int = 0
    wheels: tuple[Wheel, ...] = ()
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def cuda(self) -> set[str]:
        """The major versions of CUDA that it is built for."""
        return cuda_majors((wheel.package, wheel.version) for wheel in self.wheels)


@dataclass(frozen=True)
class Offer:
    """What the bundle on the bastion holds for a node; *problems* say what it lacks, *digest* is None where there is no bundle.

    :param wheels: the file names of all wheels in it, among which another may fit.
    """

    digest: str | None = None
    bytes: int = 0
    files: int = 0
    needs: tuple[Need, ...] = ()
    problems: tuple[Misfit, ...] = ()
    wheels: tuple[str, ...] = ()


def offer(root: Path, targets: Sequence[Target], catalog: Catalog) -> Offer:
    """Read what the bundle at *root* holds for these targets."""
    bundle = Bundle(root)
    if not bundle.manifest.is_file():
        return Offer()
    try:
        manifest = read_manifest(bundle)
        locks = {target.name: _lock(bundle, manifest, target, catalog) for target in targets}
    except OfflineError as error:
        return Offer(problems=(Misfit("bundle", str(error), "Run rlinf.offline.download."),))
    problems = [
        Misfit(f"target {name}", f"the bundle {root} has no lock of it", "Name it in rlinf_targets and run rlinf.offline.download.")
        for name, lock in locks.items()
        if lock is None
    ]
    files = manifest["files"]
    wheels = tuple(path.rpartition("/")[2] for path in files if path.endswith(".whl"))
    needs = tuple(_need(target, lock, catalog, files) for target in targets if (lock := locks[target.name]))
    size = sum(entry.get("size", 0) for entry in files.values())
    return Offer(manifest_digest(bundle), size, len(files), needs, tuple(problems), wheels)


def _lock(bundle: Bundle, manifest: Mapping[str, Any], target: Target, catalog: Catalog) -> dict[str, Any] | None:
    """Return the lock of a target for the commit of its project that the bundle holds."""
    project = manifest.get("repositories", {}).get(catalog.repositories[target.project].id.mirror)
    if project is None:
        return None
    path = bundle.target(project["commit"], target.name) / "lock.json"
    return dict(read_json(path, BundleError)) if path.is_file() else None


def _need(target: Target, lock: Mapping[str, Any], catalog: Catalog, files: Mapping[str, Any]) -> Need:
    platform = _PLATFORM.match(lock["platform"])
    machine, glibc = (platform["machine"], platform["glibc"].replace("_", ".")) if platform else ("", "0")
    packages = lock.get("packages", [])
    wheels = [
        Wheel(package["name"], package["version"] or "", package["path"].rpartition("/")[2])
        for package in packages
        if package["path"].endswith(".whl")
    ]
    # a source that some node has built already needs no compiler any more
    sources = {package["name"]: package["sha256"] for package in packages if package["kind"] == "source"}
    unbuilt = {name: digest for name, digest in sources.items() if not any(f"wheelhouse/built/{digest}/" in path for path in files)}
    recipes = lock.get("build_on_node", {})
    dests = [catalog.assets[name].dest for name in target.assets]
    return Need(
        target.name,
        machine,
        glibc,
        sum(package["size"] for package in packages),
        len(packages),
        lock["python"],
        sum(entry.get("size", 0) for path, entry in files.items() if any(f"{path}/".startswith(f"assets/{dest}/") for dest in dests)),
        tuple(wheels),
        {name: tuple(recipes.get(name, {}).get("needs", ())) for name in unbuilt},
        unbuilt,
    )


def version_key(text: str) -> tuple[int, ...]:
    """Return the numbers of a version, for comparing drivers and C libraries ("525.60.13")."""
    return tuple(int(number) for number in re.findall(r"\d+", text))


def python_for(target: Target, setting: str | Mapping[str, str]) -> str:
    """Return the interpreter that the user wants for a target, a version or a path: for it by name, by its minor version, or for all.

    :param setting: ``rlinf_python``: a version, a path, or a mapping of targets or minor versions to such.
    """
    minor = ".".join(target.python.split(".")[:2])
    if isinstance(setting, Mapping):
        return str(setting.get(target.name) or setting.get(minor) or target.python)
    return str(setting or target.python)


def interpreters(node: Mapping[str, Any], wanted: str) -> list[str]:
    """Return the paths of a node's interpreters that are of the version *wanted*; those of virtual environments don't count."""
    usable = [python for python in node["pythons"] if not python.get("problem") and not python.get("virtual")]
    return [python["path"] for python in usable if python["version"] == wanted or python["version"].startswith(f"{wanted}.")]


def misfits(
    node: Mapping[str, Any],
    bundle: Offer,
    targets: Sequence[Target],
    python: str | Mapping[str, str],
    *,
    remote: bool,
    skip: Collection[str] = (),
) -> list[Misfit]:
    """Return everything that keeps a node from taking its targets out of a bundle.

    :param node: what ``rlinf_node_info`` found.
    :param bundle: what the bastion's bundle holds for these targets.
    :param python: ``rlinf_python`` of the node.
    :param remote: whether the bundle has to be brought there over a connection.
    :param skip: packages that the node does without (``rlinf_skip_packages``).
    """
    return [
        *bundle.problems,
        *_bundle(node, bundle),
        *_system(node, bundle.needs),
        *_pythons(node, targets, python),
        *(row for need in bundle.needs for row in _wheels(node, need, bundle.wheels, frozenset(map(canonicalize_name, skip)))),
        *_driver(node["gpus"], bundle.needs),
        *_compilers(node, bundle.needs, frozenset(map(canonicalize_name, skip))),
        *_tools(node["tools"], remote and bundle.digest is not None),
        *_room(node, bundle),
    ]


def _bundle(node: Mapping[str, Any], bundle: Offer) -> Iterator[Misfit]:
    if bundle.digest is None and not bundle.problems and not node["bundle"]["sealed"]:
        yield Misfit("bundle", "neither the bastion nor the node has one", "Run rlinf.offline.download, or correct rlinf_bundle_dir.")


def _system(node: Mapping[str, Any], needs: Iterable[Need]) -> Iterator[Misfit]:
    for need in needs:
        if need.machine and need.machine != node["architecture"]:
            yield Misfit(
                "architecture",
                f"{node['architecture']}, but {need.target} is for {need.machine}",
                RELOCK,
            )
        if node["glibc"] is None:
            yield Misfit("C library", "not glibc", "The packages are built for glibc: use another image.")
        elif version_key(node["glibc"]) < version_key(need.glibc):
            yield Misfit(
                "glibc",
                f"{node['glibc']}, but {need.target} needs {need.glibc}",
                RELOCK,
            )


def _pythons(node: Mapping[str, Any], targets: Iterable[Target], setting: str | Mapping[str, str]) -> Iterator[Misfit]:
    for target in targets:
        wanted = python_for(target, setting)
        # a path is judged where it is used
        if not os.path.isabs(wanted) and not interpreters(node, wanted):
            found = (
                ", ".join(f"{python['path']} {python.get('version', '')}".strip() for python in node["pythons"]) or "none of this version"
            )
            yield Misfit(
                f"Python {wanted}", f"{found}; {target.name} needs it", f"Install python{wanted}, or give its path by rlinf_python."
            )


def _wheels(node: Mapping[str, Any], need: Need, others: Sequence[str], skip: Collection[str]) -> Iterator[Misfit]:
    """Compare every wheel of a target with the node; wheels that fail alike share a row."""
    if (
        not need.wheels
        or node["glibc"] is None
        or version_key(node["glibc"]) < version_key(need.glibc)
        or node["architecture"] != need.machine
    ):
        return  # said already, and every compiled wheel would say it again
    minor = ".".join(need.python.split(".")[:2])
    rows: dict[WheelMisfit, list[str]] = {}
    for wheel, misfit in _unfit(need.wheels, minor, need.machine, version_key(node["glibc"])[:2], tuple(others)):
        if wheel.package not in skip:
            rows.setdefault(misfit, []).append(wheel.filename)
    for misfit, names in rows.items():
        more = f" and {len(names) - 1} more" if names[1:] else ""
        yield Misfit(f"wheel for {need.target}", f"{names[0]}{more}: {misfit.why}", f"{misfit.remedy}.")


@functools.lru_cache(maxsize=256)
def _unfit(
    wheels: tuple[Wheel, ...], minor: str, machine: str, glibc: tuple[int, ...], others: tuple[str, ...]
) -> tuple[tuple[Wheel, WheelMisfit], ...]:
    """Return the wheels that do not fit a kind of node; a fleet has few kinds, and a lock hundreds of wheels."""
    tags = supported_tags(minor, Platform(machine, (glibc[0], glibc[1])))
    torch = next((wheel.version for wheel in wheels if wheel.package == "torch"), None)
    cuda = cuda_majors((wheel.package, wheel.version) for wheel in wheels)
    found = (
        (wheel, unfit(wheel.filename, wheel.package, tags, others) or misbuilt(wheel.package, wheel.version, torch, cuda))
        for wheel in wheels
    )
    return tuple((wheel, misfit) for wheel, misfit in found if misfit)


def _driver(gpus: Mapping[str, Any], needs: Iterable[Need]) -> Iterator[Misfit]:
    """Compare the driver with the builds; which CUDA toolkit a node has does not matter to them."""
    driver = gpus.get("driver")
    if not gpus.get("devices") or not driver:
        return
    for major in sorted({major for need in needs for major in need.cuda}):
        oldest = OLDEST_DRIVERS.get(major)
        if oldest and version_key(driver) < version_key(oldest):
            yield Misfit("NVIDIA driver", driver, f"Builds for CUDA {major} need {oldest} or newer.")


def _compilers(node: Mapping[str, Any], needs: Iterable[Need], skip: Collection[str]) -> Iterator[Misfit]:
    """Name the programs that a node lacks for what is compiled there, unless it has compiled that before."""
    for need in needs:
        for name, programs in need.sources.items():
            missing = [program for program in programs if not node["tools"].get(program)]
            if name in skip or not missing or need.digests[name] in node.get("built", ()):
                continue
            yield Misfit(
                f"{name} for {need.target}",
                f"is compiled on a node, which takes {', '.join(missing)}",
                f"Install on a node that has it and run rlinf.offline.collect; or install the CUDA toolkit; or set rlinf_skip_packages: [{name}].",
            )


def _tools(tools: Mapping[str, Any], remote: bool) -> Iterator[Misfit]:
    for name in ("git", *(["rsync"] if remote else [])):
        if not tools.get(name):
            yield Misfit(name, "not there", f"Install {name} on the node.")


def _room(node: Mapping[str, Any], bundle: Offer) -> Iterator[Misfit]:
    """Compare the room on the node's file systems with what comes; what is there already needs none."""
    paths = node["paths"]
    unpacked = [need for need in bundle.needs if need.target not in node["environments"] or node["bundle"]["digest"] != bundle.digest]
    size = int(sum(need.bytes for need in unpacked) * UNPACKED) + sum(need.assets for need in unpacked)
    wanted = {"prefix": (size, sum(need.packages for need in unpacked) * FILES_PER_PACKAGE)}
    if not node["bundle"]["sealed"]:
        wanted["bundle"] = (bundle.bytes, bundle.files)
    if len(wanted) == 2 and paths["bundle"]["device"] == paths["prefix"]["device"]:
        pair = wanted.pop("bundle")
        wanted["prefix"] = (wanted["prefix"][0] + pair[0], wanted["prefix"][1] + pair[1])
    for name, (size, count) in wanted.items():
        place = paths[name]
        if place.get("problem"):
            yield Misfit(f"{name} directory", place["problem"], f"See to {place['path']} on the node.")
            continue
        if not place["writable"]:
            yield Misfit(
                f"{name} directory",
                f"{place['path']} cannot be written by this user",
                f"Set rlinf_{'prefix' if name == 'prefix' else 'bundle_dir'}.",
            )
        if place["free_bytes"] < size:
            yield Misfit(
                "disk",
                f"{size_text(place['free_bytes'])} free at {place['mount']}, about {size_text(size)} needed",
                ROOM,
            )
        if place["free_inodes"] is not None and place["free_inodes"] < count:
            yield Misfit("inodes", f"{place['free_inodes']} free at {place['mount']}, about {count} needed", ROOM)


def rows(found: Iterable[Misfit]) -> list[dict[str, str]]:
    """Return misfits as Ansible passes them on."""
    return [asdict(misfit) for misfit in found]


def table(nodes: Mapping[str, Sequence[Mapping[str, str]] | None]) -> list[str]:
    """Return the misfits of all nodes as the lines of a table; None stands for a node that could not be asked."""
    unknown = [asdict(Misfit("connection", "could not be asked", "See the error above; the others go on without it."))]
    cells = [("node", "what", "found", "what to do")]
    for name, listed in nodes.items():
        cells += [(name, row["what"], row["found"], row["remedy"]) for row in (unknown if listed is None else listed)]
    if len(cells) == 1:
        return []
    widths = [min(60, max(len(row[column]) for row in cells)) for column in range(3)]
    return ["  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3]]) for row in cells]
