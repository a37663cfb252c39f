# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether nodes can take what a bundle holds, judged on the bastion before anything changes."""

from __future__ import annotations

import functools
import os
import re
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from ansible_collections.rlinf.offline.plugins.module_utils import _kernels
from ansible_collections.rlinf.offline.plugins.module_utils._apt import PACKAGES, RECORD, install_command, installs
from ansible_collections.rlinf.offline.plugins.module_utils._bundle import manifest_digest, read_manifest, size_text
from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Catalog, Target
from ansible_collections.rlinf.offline.plugins.module_utils._closure import files_for
from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError, OfflineError
from ansible_collections.rlinf.offline.plugins.module_utils._files import read_json
from ansible_collections.rlinf.offline.plugins.module_utils._generations import SHORT
from ansible_collections.rlinf.offline.plugins.module_utils._interpreters import Interpreter, fitting, offered
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._records import LOCK, read_lock
from ansible_collections.rlinf.offline.plugins.module_utils._tags import Misfit as WheelMisfit
from ansible_collections.rlinf.offline.plugins.module_utils._tags import cuda_majors, misbuilt, unfit
from ansible_collections.rlinf.offline.plugins.module_utils._wheel import Platform, supported_tags
from ansible_collections.rlinf.offline.plugins.module_utils._wishes import Wish, minor

OLDEST_DRIVERS = {"11": "450.80.02", "12": "525.60.13", "13": "580.65.06"}
"""NVIDIA's minor version compatibility: this driver, or a newer one, runs every build for this major version of CUDA."""
UNPACKED = 3.2
"""Bytes on disk, uv's cache and the environment together, for a byte of wheels (13 GB for 4.2 GB of openvla)."""
FILES_PER_PACKAGE = 500
"""Inodes that a package takes: its files in uv's cache, which the environment shares, and the folders of both (openvla: 103,000 of 279)."""
CHECKED_OUT = 2
"""Bytes on disk of a working copy for a byte of its mirror: its objects, and its files."""
RELOCK = "Set rlinf_platform to what the nodes have, and lock it anew (rlinf_update)."
ROOM = "Make room, or set rlinf_prefix."
WIDTH = 68
"""Columns of a table of misfits: 80 are filled where debug indents and quotes its lines."""
_SETTINGS = {
    "prefix": "rlinf_prefix",
    "bundle": "rlinf_bundle_dir",
    "assets": "rlinf_assets_dir",
    "environment": "rlinf_venv_path",
    "home": "HOME to a directory that this user may write to",
}
_PLATFORM = re.compile(r"(?P<machine>\w+?)-manylinux_(?P<glibc>\d+_\d+)\Z")


@dataclass(frozen=True)
class Misfit:
    """Why a node cannot take something: what of it, what was found, and what to do.

    :param fatal: whether it keeps the node from taking it; otherwise it is worth knowing.
    """

    what: str
    found: str
    remedy: str
    fatal: bool = True


@dataclass(frozen=True)
class Wheel:
    """A wheel of a lock: the normalized name of its package, its version and file name.

    :param code: the GPUs that it holds code for (see :mod:`~_kernels`); empty where it holds none, or nobody has looked.
    """

    package: str
    version: str
    filename: str
    code: tuple[str, ...] = ()


@dataclass(frozen=True)
class Need:
    """What one target asks of a node, out of its lock.

    :param glibc: what the lock was made for.
    :param packages: sha256 -> bytes of its packages' files.
    :param assets: destination -> bytes; *worktrees*: mirror -> bytes.
    :param sources: what is compiled on a node, the bundle having no wheel of it: name -> programs that this takes.
    :param digests: name -> sha256 of those sources.
    :param names: of all its packages.
    """

    target: str
    machine: str
    glibc: str
    python: str = ""
    packages: Mapping[str, int] = field(default_factory=dict)
    assets: Mapping[str, int] = field(default_factory=dict)
    worktrees: Mapping[str, int] = field(default_factory=dict)
    wheels: tuple[Wheel, ...] = ()
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    names: frozenset[str] = frozenset()

    @property
    def cuda(self) -> set[str]:
        """The major versions of CUDA that it is built for."""
        return cuda_majors((wheel.package, wheel.version) for wheel in self.wheels)


@dataclass(frozen=True)
class Repository:
    """The system packages that the bundle has for one release: those asked for, and what every file of it unpacks to, in bytes."""

    packages: frozenset[str] = frozenset()
    installed: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Offer:
    """What the bundle on the bastion holds for a node; *problems* say what it lacks, *digest* is None where there is no bundle.

    :param pushed: bytes and files of what a node with these targets gets of it.
    :param wheels: the file names of all wheels in it, among which another may fit.
    :param names: of the packages of all its locks for this commit of the project.
    :param system: release and architecture (``debian-12/amd64``) -> system packages.
    :param interpreters: those that are unpacked where a node has none that fits.
    """

    root: str
    digest: str | None = None
    bytes: int = 0
    files: int = 0
    pushed: tuple[int, int] = (0, 0)
    needs: tuple[Need, ...] = ()
    problems: tuple[Misfit, ...] = ()
    wheels: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()
    system: Mapping[str, Repository] = field(default_factory=dict)
    interpreters: tuple[Interpreter, ...] = ()


def offer(root: Path, targets: Sequence[Target], catalog: Catalog) -> Offer:
    """Read what the bundle at *root* holds for these targets."""
    bundle = Bundle(root)
    if not bundle.manifest.is_file():
        return Offer(str(root))
    try:
        manifest = read_manifest(bundle)
        locks = {target.name: _lock(bundle, manifest, target, catalog) for target in targets}
        system = _repositories(bundle)
        code = {path: tuple(entry["code"]) for path, entry in _kernels.record(bundle).items()}
    except OfflineError as error:
        return Offer(str(root), problems=(Misfit("bundle", str(error), "Run rlinf.offline.download."),))
    problems = [
        Misfit(f"target {name}", f"the bundle {root} has no lock of it", "Name it in rlinf_targets and run rlinf.offline.download.")
        for name, lock in locks.items()
        if lock is None
    ]
    files = manifest["files"]
    wheels = tuple(path.rpartition("/")[2] for path in files if path.endswith(".whl"))
    needs = tuple(_need(target, lock, catalog, files, code) for target in targets if (lock := locks[target.name]))
    size = sum(entry.get("size", 0) for entry in files.values())
    pushed = files_for(bundle, files, [name for name, lock in locks.items() if lock])
    # other wheels of the catalogue fit as well as those in the bundle
    known = tuple(dict.fromkeys([*wheels, *(wheel.filename for wheel in catalog.wheels.values())]))
    named = _names(bundle, manifest, targets, catalog)
    return Offer(
        root=str(root),
        digest=manifest_digest(bundle),
        bytes=size,
        files=len(files),
        pushed=(sum(files[path].get("size", 0) for path in pushed), len(pushed)),
        needs=needs,
        problems=tuple(problems),
        wheels=known,
        names=named,
        system=system,
        interpreters=tuple(offered(manifest)),
    )


def _repositories(bundle: Bundle) -> dict[str, Repository]:
    """Return the system packages of a bundle, by release and architecture."""
    found = {}
    for path in bundle.root.glob(f"apt/*/*/{RECORD}"):
        record = read_json(path, BundleError, PACKAGES)
        installed = {file["package"]: file["installed"] for file in record["files"]}
        found[f"{record['release']}/{record['architecture']}"] = Repository(frozenset(record["packages"]), installed)
    return found


def _names(bundle: Bundle, manifest: Mapping[str, Any], targets: Sequence[Target], catalog: Catalog) -> frozenset[str]:
    """Return the names of the packages of every lock for the commits of the targets' projects: nodes share ``rlinf_skip_packages``."""
    commits = {commit for target in targets if (commit := _commit(manifest, target, catalog))}
    locks = (path for commit in commits for path in bundle.targets.glob(f"{commit}/*/lock.json"))
    return frozenset(package["name"] for path in locks for package in read_lock(path)["packages"])


def _commit(manifest: Mapping[str, Any], target: Target, catalog: Catalog) -> str | None:
    project = manifest.get("repositories", {}).get(catalog.repositories[target.project].id.mirror)
    return project["commit"] if project else None


def _lock(bundle: Bundle, manifest: Mapping[str, Any], target: Target, catalog: Catalog) -> dict[str, Any] | None:
    """Return the lock of a target for the commit of its project that the bundle holds."""
    commit = _commit(manifest, target, catalog)
    if commit is None:
        return None
    path = bundle.target(commit, target.name) / "lock.json"
    return read_lock(path, shape={**LOCK, "platform": str}) if path.is_file() else None


def _need(target: Target, lock: Mapping[str, Any], catalog: Catalog, files: Mapping[str, Any], code: Mapping[str, tuple[str, ...]]) -> Need:
    platform = _PLATFORM.match(lock["platform"])
    machine, glibc = (platform["machine"], platform["glibc"].replace("_", ".")) if platform else ("", "0")
    packages = lock.get("packages", [])
    wheels = [
        Wheel(package["name"], package["version"] or "", package["path"].rpartition("/")[2], code.get(package["path"], ()))
        for package in packages
        if package["path"].endswith(".whl")
    ]
    # a source that some node has built already needs no compiler any more
    sources = {package["name"]: package["sha256"] for package in packages if package["kind"] == "source"}
    unbuilt = {name: digest for name, digest in sources.items() if not any(f"wheelhouse/built/{digest}/" in path for path in files)}
    recipes = lock.get("build_on_node", {})
    mirrors = [catalog.repositories[name].id.mirror for name in target.worktrees]
    return Need(
        target.name,
        machine,
        glibc,
        lock["python"],
        {package["sha256"]: package["size"] for package in packages},
        {dest: _size_below(files, f"assets/{dest}") for dest in (catalog.assets[name].dest for name in target.assets)},
        {mirror: _size_below(files, f"repos/{mirror}") for mirror in mirrors},
        tuple(wheels),
        {name: tuple(recipes.get(name, {}).get("needs", ())) for name in unbuilt},
        unbuilt,
        frozenset(package["name"] for package in packages),
    )


def _size_below(files: Mapping[str, Any], folder: str) -> int:
    return sum(entry.get("size", 0) for path, entry in files.items() if path == folder or path.startswith(f"{folder}/"))


def version_key(text: str) -> tuple[int, ...]:
    """Return the numbers of a version, for comparing drivers and C libraries ("525.60.13")."""
    return tuple(int(number) for number in re.findall(r"\d+", text))


def interpreters(node: Mapping[str, Any], wanted: str) -> list[str]:
    """Return the paths of a node's interpreters that are of the version *wanted*; those of virtual environments don't count."""
    usable = [
        python
        for python in node["pythons"]
        if not python.get("problem") and not python.get("virtual") and python.get("implementation", "cpython") == "cpython"
    ]
    return [python["path"] for python in usable if python["version"] == wanted or python["version"].startswith(f"{wanted}.")]


def misfits(node: Mapping[str, Any], bundle: Offer, wish: Wish, *, remote: bool) -> list[Misfit]:
    """Return everything that keeps a node from taking its targets out of a bundle.

    :param node: what ``rlinf_node_info`` found.
    :param bundle: what the bastion's bundle holds for these targets.
    :param wish: what the node shall have.
    :param remote: whether the bundle has to be brought there over a connection.
    """
    skip = frozenset(map(canonicalize_name, wish.skip))
    coming = _coming(node, bundle, wish)
    found = [
        *bundle.problems,
        *_bundle(node, bundle),
        *_skipped(wish, bundle),
        *_system(node, bundle.needs),
        *_pythons(node, wish, bundle),
        *(row for need in bundle.needs for row in _wheels(node, need, bundle.wheels, skip)),
        *_driver(node["gpus"], bundle.needs),
        *(row for need in bundle.needs for row in _code(node["gpus"], need, skip)),
        *_compilers(node, bundle.needs, skip, coming),
        *_system_packages(node, bundle, wish),
        *_tools(node["tools"], remote and bundle.digest not in (None, node["bundle"]["digest"]), coming),
        *_room(node, bundle, wish),
    ]
    return list(dict.fromkeys(found))


def _bundle(node: Mapping[str, Any], bundle: Offer) -> Iterator[Misfit]:
    if bundle.digest is None and not bundle.problems and not node["bundle"]["sealed"]:
        found = f"neither the bastion nor the node has one (looked in {bundle.root} and {node['bundle_dir']})"
        yield Misfit("bundle", found, "Run rlinf.offline.download, or correct rlinf_bundle_dir.")


def _system(node: Mapping[str, Any], needs: Sequence[Need]) -> Iterator[Misfit]:
    for machine, targets in _by(needs, lambda need: need.machine).items():
        if machine and machine != node["architecture"]:
            yield Misfit("architecture", f"{node['architecture']}, but {targets} is for {machine}", RELOCK)
    if needs and node["glibc"] is None:
        yield Misfit("C library", "not glibc", "The packages are built for glibc: use another image.")
    for glibc, targets in _by(needs, lambda need: need.glibc).items():
        if node["glibc"] and version_key(node["glibc"]) < version_key(glibc):
            yield Misfit("glibc", f"{node['glibc']}, but {targets} needs {glibc}", RELOCK)


def _by(items: Iterable[Any], key: Callable[[Any], str]) -> dict[str, str]:
    """Return the names of targets, told as one, by what they have in common."""
    found: dict[str, list[str]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item.target if isinstance(item, Need) else item.name)
    return {common: ", ".join(names) for common, names in found.items()}


def _skipped(wish: Wish, bundle: Offer) -> Iterator[Misfit]:
    for name in wish.skip if bundle.needs else ():
        if canonicalize_name(name) not in bundle.names:
            yield Misfit("rlinf_skip_packages", f"{name} is in no lock of the bundle", "Correct the name, or take it out.")


def _pythons(node: Mapping[str, Any], wish: Wish, bundle: Offer) -> Iterator[Misfit]:
    for both, targets in _by(wish.targets, lambda target: f"{minor(target.python)} {wish.interpreter(target)}").items():
        version, wanted = both.split(" ", 1)
        if os.path.isabs(wanted):
            yield from _named_python(node, wanted, version, targets, "rlinf_venv_path" if wish.environment else "rlinf_python")
        elif not interpreters(node, wanted) and not fitting(bundle.interpreters, wanted, node["architecture"]):
            listed = [f"{python['path']} ({python.get('problem') or python['version']})" for python in node["pythons"]]
            yield Misfit(
                f"Python {wanted}",
                f"{', '.join(listed) or 'none of this version'}; {targets} needs it",
                f"Install python{wanted}, give its path by rlinf_python, or carry one in the bundle (rlinf_interpreters: auto).",
            )


def _named_python(node: Mapping[str, Any], path: str, version: str, targets: str, variable: str) -> Iterator[Misfit]:
    """Judge an interpreter that the user names."""
    needs = f"{targets} needs {version}"
    found = next((python for python in node["pythons"] if python["path"] == path), {"problem": "was not asked"})
    if found.get("problem"):
        yield Misfit(f"Python {path}", f"{found['problem']}; {needs}", f"Correct {variable}.")
    elif found["implementation"] != "cpython" or minor(found["version"]) != version:
        yield Misfit(f"Python {path}", f"{found['implementation']} {found['version']}; {needs}", f"Name another by {variable}.")


def _wheels(node: Mapping[str, Any], need: Need, others: Sequence[str], skip: Collection[str]) -> Iterator[Misfit]:
    """Compare every wheel of a target with the node; wheels that fail alike share a row."""
    if (
        not need.wheels
        or node["glibc"] is None
        or version_key(node["glibc"]) < version_key(need.glibc)
        or node["architecture"] != need.machine
    ):
        return  # said already, and every compiled wheel would say it again
    rows: dict[WheelMisfit, list[str]] = {}
    for wheel, misfit in _unfit(need.wheels, minor(need.python), need.machine, version_key(node["glibc"])[:2], tuple(others)):
        if wheel.package not in skip:
            rows.setdefault(misfit, []).append(wheel.filename)
    for misfit, names in rows.items():
        more = f" and {len(names) - 1} more" if names[1:] else ""
        yield Misfit(f"wheel for {need.target}", f"{names[0]}{more}: {misfit.why}", f"{misfit.remedy}.")


@functools.lru_cache(maxsize=256)
def _unfit(
    wheels: tuple[Wheel, ...], version: str, machine: str, glibc: tuple[int, ...], others: tuple[str, ...]
) -> tuple[tuple[Wheel, WheelMisfit], ...]:
    """Return the wheels that do not fit a kind of node; a fleet has few kinds, and a lock hundreds of wheels."""
    tags = dict.fromkeys(supported_tags(version, Platform(machine, (glibc[0], glibc[1]))))
    torch = next((wheel.version for wheel in wheels if wheel.package == "torch"), None)
    cuda = cuda_majors((wheel.package, wheel.version) for wheel in wheels)
    found = (
        (wheel, unfit(wheel.filename, wheel.package, tags, others) or misbuilt(wheel.package, wheel.version, torch, cuda))
        for wheel in wheels
    )
    return tuple((wheel, misfit) for wheel, misfit in found if misfit)


def _driver(gpus: Mapping[str, Any], needs: Iterable[Need]) -> Iterator[Misfit]:
    """Compare the driver with the builds; which CUDA toolkit a node has does not matter to them."""
    driver, majors = (
        str(gpus.get("driver") or ""),
        sorted({major for need in needs for major in need.cuda} & OLDEST_DRIVERS.keys(), key=int),
    )
    for major in majors if driver else ():
        oldest = OLDEST_DRIVERS[major]
        if version_key(driver) < version_key(oldest):
            yield Misfit("NVIDIA driver", driver, f"Builds for CUDA {major} need {oldest} or newer: install such a driver.")
    if majors and gpus.get("problem"):
        wanted = (
            f"Nothing is held back for it. What is built for CUDA {majors[-1]} needs a driver of {OLDEST_DRIVERS[majors[-1]]} or newer."
        )
        there = f"{gpus['on_bus']} on the PCI bus, and " if gpus.get("on_bus") else ""
        yield Misfit("GPU", there + first_line(gpus["problem"]), wanted, fatal=False)


def _code(gpus: Mapping[str, Any], need: Need, skip: Collection[str]) -> Iterator[Misfit]:
    """Compare the GPUs with what wheels hold code for. Without PyTorch's own nothing computes; others may not be used at all."""
    wheels = [wheel for wheel in need.wheels if wheel.code and wheel.package not in skip]
    devices = {(device["name"], device["compute"]): None for device in gpus.get("devices") or () if device.get("compute")}
    for name, capability in devices:
        without = [wheel for wheel in wheels if not _kernels.runs(wheel.code, capability)]
        for wheel in without:
            if wheel.package != "torch":
                continue
            other = "a newer" if _kernels.newer(wheel.code, capability) else "an older"
            yield Misfit(
                f"GPU for {need.target}",
                f"{name} has compute capability {capability}; {wheel.filename} holds code for {', '.join(wheel.code)}",
                f"Lock a PyTorch for {other} CUDA (rlinf_torch_backend, or another version of the project), or leave this node out.",
            )
        names = [wheel.filename for wheel in without if wheel.package != "torch"]
        if names:
            more = f" and {len(names) - 1} more" if names[1:] else ""
            yield Misfit(
                f"GPU for {need.target}",
                f"{name} has compute capability {capability}, for which {names[0]}{more} hold{'' if more else 's'} no code",
                "Nothing is held back for it; what they compute on the GPU fails. rlinf_skip_packages leaves them out.",
                fatal=False,
            )


def _coming(node: Mapping[str, Any], bundle: Offer, wish: Wish) -> Collection[str]:
    """Return the system packages that prepare can bring to a node; a program that one is named for comes with it."""
    system = node["system"]
    if installs(wish.system_state, node["uid"]):
        repository = bundle.system.get(f"{system['release']}/{system['architecture']}", Repository())
        return repository.installed.keys() if repository.packages.intersection(system["missing"] or ()) else ()
    return ()


def _system_packages(node: Mapping[str, Any], bundle: Offer, wish: Wish) -> Iterator[Misfit]:
    """Name the system packages that a node lacks and does not get."""
    system, what = node["system"], "system packages"
    missing = system["missing"]
    if wish.system_state == "ignored" or not (missing or missing is None):
        return
    fatal = wish.system_state != "auto"
    by_hand = f"on the node, {install_command(missing or ())}"
    if missing is None:
        found = system["problem"] or f"{system['release']} has no dpkg"
        yield Misfit(what, found, "Install what it needs yourself, and set rlinf_system_packages_state: ignored.", fatal)
    elif wish.system_state == "checked":
        yield Misfit(what, f"{', '.join(missing)} missing", f"Run {by_hand}.")
    elif wish.system_state == "auto" and node["uid"]:
        yield Misfit(
            what,
            f"{', '.join(missing)} missing, and only root can install them",
            f"Set rlinf_system_packages_state: present, which uses sudo for that alone; or run {by_hand}.",
            fatal=False,
        )
    elif bundle.digest is not None:
        yield from _not_bundled(f"{system['release']}/{system['architecture']}", missing, bundle, fatal)


def _not_bundled(place: str, missing: Collection[str], bundle: Offer, fatal: bool) -> Iterator[Misfit]:
    """Name what the bundle lacks of the system packages that a node lacks."""
    lacking = sorted(set(missing) - bundle.system.get(place, Repository()).packages)
    if lacking and place not in bundle.system:
        has = ", ".join(sorted(bundle.system)) or "none at all"
        found = f"{', '.join(lacking)} missing; the bundle has packages for {has}"
        yield Misfit(
            f"packages of {place}", found, f"Name {place.partition('/')[0]} in rlinf_releases and run rlinf.offline.download.", fatal
        )
    elif lacking:
        found = f"{', '.join(lacking)} missing, and the bundle was made without"
        yield Misfit(f"packages of {place}", found, "Run rlinf.offline.download with the same rlinf_system_packages.", fatal)


def _compilers(node: Mapping[str, Any], needs: Iterable[Need], skip: Collection[str], coming: Collection[str] = ()) -> Iterator[Misfit]:
    """Name the programs that a node lacks for what is compiled there, unless it has compiled that before."""
    for need in needs:
        for name, programs in need.sources.items():
            missing = [program for program in programs if not node["tools"].get(program) and program not in coming]
            if name in skip or not missing or need.digests[name] in node.get("built", ()):
                continue
            yield Misfit(
                f"{name} for {need.target}",
                f"is compiled on a node, and {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not there",
                f"Install on a node that has it and run rlinf.offline.collect; or install the CUDA toolkit; or set rlinf_skip_packages: [{name}].",
            )


def _tools(tools: Mapping[str, Any], remote: bool, coming: Collection[str]) -> Iterator[Misfit]:
    for name in ("git", *(["rsync"] if remote else [])):
        if not tools.get(name) and name not in coming:
            yield Misfit(name, "not there", f"Install {name} on the node.")


@dataclass(frozen=True)
class _Load:
    """What comes to one of a node's paths: what of it, bytes, inodes."""

    path: str
    what: str
    bytes: int
    files: int = 0


def _loads(node: Mapping[str, Any], bundle: Offer, wish: Wish) -> Iterator[_Load]:
    """Return what comes to a node; what is there already is not among it. What targets share comes once."""
    held = node["bundle"]
    if bundle.digest not in (None, held["digest"]):
        more = bundle.bytes - (held.get("bytes") or 0), bundle.files - (held.get("files") or 0)
        # what is other in it since, is not known without comparing
        size, count = (max(0, min(new, pushed)) for new, pushed in zip(more, bundle.pushed, strict=True))
        yield _Load("bundle", "bundle", size, count)
    there = set(node["environments"])
    needs = [need for need in bundle.needs if need.target not in there or held["digest"] != bundle.digest]
    known = set(node.get("unpacked", ()))
    fresh = [size for digest, size in {**_union(need.packages for need in needs)}.items() if digest[:SHORT] not in known]
    packages = _Load("prefix", "packages", int(sum(fresh) * UNPACKED), len(fresh) * FILES_PER_PACKAGE)
    yield packages
    if wish.environment and node["paths"]["environment"]["device"] != node["paths"]["prefix"]["device"]:
        # uv cannot link from its cache to another file system: it copies
        yield _Load("environment", "environment", packages.bytes, packages.files)
    coming = _coming(node, bundle, wish)
    if coming:
        installed = bundle.system[f"{node['system']['release']}/{node['system']['architecture']}"].installed
        # what of it the node has already is not known
        yield _Load("system", "system packages", sum(installed.values()))
    needs = [need for need in needs if need.target not in there]
    yield _Load("prefix", "working copies", CHECKED_OUT * sum(_union(need.worktrees for need in needs).values()))
    yield _Load("assets", "assets", sum(_union(need.assets for need in needs).values()))


def _union(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    return {key: size for part in parts for key, size in part.items()}


def _room(node: Mapping[str, Any], bundle: Offer, wish: Wish) -> Iterator[Misfit]:
    """Compare the room on each of the node's file systems with all that comes to it."""
    volumes: dict[str, list[_Load]] = {}
    for load in _loads(node, bundle, wish):
        place = node["paths"][load.path]
        if load.path != "prefix" and not load.bytes:
            continue
        if load.path != "system":
            # root writes there, whoever this is
            yield from _writable(load.path, place)
        if not place.get("problem"):
            volumes.setdefault(place["device"], []).append(load)
    if any(target.links for target in wish.targets):
        yield from _writable("home", node["paths"]["home"])
    for loads in volumes.values():
        place = min((node["paths"][load.path] for load in loads), key=lambda place: int(place["free_bytes"]))
        size, count = sum(load.bytes for load in loads), sum(load.files for load in loads)
        what = ", ".join(f"{load.what} {size_text(load.bytes)}" for load in loads if load.bytes)
        if place["free_bytes"] < size:
            yield Misfit(
                "disk", f"{size_text(place['free_bytes'])} free at {place['mount']}, about {size_text(size)} needed ({what})", ROOM
            )
        if place["free_inodes"] is not None and place["free_inodes"] < count:
            yield Misfit("inodes", f"{place['free_inodes']} free at {place['mount']}, about {count} needed", ROOM)


def _writable(name: str, place: Mapping[str, Any]) -> Iterator[Misfit]:
    if place.get("problem"):
        yield Misfit(f"{name} directory", place["problem"], f"See to {place['path']} on the node.")
    elif not place["writable"]:
        yield Misfit(f"{name} directory", f"{place['path']} cannot be written by this user", f"Set {_SETTINGS[name]}.")


def first_line(text: str) -> str:
    """Return the first line of what a program or a module said, without more than a table can hold."""
    return textwrap.shorten(next(iter(text.strip().splitlines()), ""), 200, placeholder=" ...")


# -- a fleet -------------------------------------------------------------------------------------------------------------------


def rows(node: str, found: Iterable[Misfit]) -> list[dict[str, Any]]:
    """Return the misfits of a node as Ansible passes them on."""
    return [{"node": node, **asdict(misfit)} for misfit in found]


def silent(node: str, said: str) -> list[dict[str, Any]]:
    """Return the row of a node that could not be asked; *said* is its error, as far as it is known."""
    found = f"could not be asked{f': {first_line(said)}' if said else ''}"
    return rows(node, [Misfit("connection", found, "See the error above; the others go on without it.", fatal=False)])


def table(listed: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the misfits of all nodes as the lines of a table: what nodes have in common once, and no line wider than a terminal."""
    by_misfit: dict[tuple[str, str, str, bool], list[str]] = {}
    for row in listed:
        by_misfit.setdefault((row["what"], row["found"], row["remedy"], row["fatal"]), []).append(row["node"])
    by_nodes: dict[str, list[str]] = {}
    for misfit, nodes in by_misfit.items():
        by_nodes.setdefault(", ".join(nodes), []).extend(_cell(*misfit))
    if not by_nodes:
        return []
    lines = ["what does not fit, and what to do"]
    for names, cell in by_nodes.items():
        lines += [*_wrapped(f"{names}:", WIDTH), *(f"  {line}" for line in cell)]
    return lines


def _cell(what: str, found: str, remedy: str, fatal: bool) -> list[str]:
    first, *more = _wrapped(remedy, WIDTH - 7)
    return [*_wrapped(f"{'' if fatal else 'note: '}{what}: {found}", WIDTH - 2, "  "), f"  -> {first}", *(f"     {line}" for line in more)]


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Break lines between words; what is one word, such as a wheel's name, stays whole."""
    return textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
