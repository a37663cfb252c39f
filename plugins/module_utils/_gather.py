# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From pins to files: the wheelhouse.

What an index serves as a wheel is taken as it is; sdists and commits are built to wheels once, reproducibly, and kept by what they
were built from, so that another target, or another run, finds the same bytes. Sources that only a node can build are taken as they are.
"""

from __future__ import annotations

import os
import tarfile
import threading
import zipfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from packaging.utils import parse_wheel_filename

from ansible_collections.rlinf.offline.plugins.module_utils import _archive, _checkout, _overlay, _pylock, _pyproject, _wheel
from ansible_collections.rlinf.offline.plugins.module_utils._errors import LockError, OfflineError
from ansible_collections.rlinf.offline.plugins.module_utils._fetch import Download, Fetcher
from ansible_collections.rlinf.offline.plugins.module_utils._files import (
    fsync_file,
    read_json,
    remove,
    rename,
    sha256_bytes,
    sha256_file,
    write_json,
)
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._package import Package
from ansible_collections.rlinf.offline.plugins.module_utils._process import run
from ansible_collections.rlinf.offline.plugins.module_utils._resolve import Overlay, Pin
from ansible_collections.rlinf.offline.plugins.module_utils._urls import RepositoryId
from ansible_collections.rlinf.offline.plugins.module_utils._uv import Uv

_COMPILED = (".c", ".cc", ".cpp", ".cxx", ".cu", ".pyx", ".rs")
# a zip knows no year before it
_YEAR_1980 = 315532800


@dataclass(frozen=True)
class Gatherer:
    """Brings the files of a target's lock into the bundle.

    :param uv: with the same cut-off and index as the resolution had.
    :param python: the interpreter that builds, of the minor version *minor*.
    :param preferred: the digest of the file to take of a package, if it is offered.
    """

    bundle: Bundle
    uv: Uv
    python: Path
    minor: str
    platform: _wheel.Platform
    fetcher: Fetcher
    scratch: Path
    progress: Callable[[str], None]
    preferred: Mapping[str, str] = field(default_factory=dict)

    @property
    def builder(self) -> str:
        """What is built here is for: ``cp311-x86_64-manylinux_2_31``."""
        return f"cp{self.minor.replace('.', '')}-{self.platform}"

    def plan(self, pins: Iterable[Pin], cwd: Path, overlays: Iterable[Overlay] = (), on_node: Collection[str] = ()) -> list[Package]:
        """Return the package of each pin, with the file that an installer on the nodes would take.

        :param overlays: what is copied over packages, once their files are there.
        :param on_node: packages whose source is taken, since only a node can build it.
        :raises LockError: an index offers nothing that fits, or no source where one is wanted.
        """
        packages = []
        served = []
        for pin in pins:
            if pin.git:
                url, commit, subdirectory = pin.git
                packages.append(Package(pin.name, None, "git", {"url": url, "commit": commit, "subdirectory": subdirectory}))
            elif pin.url:
                wheel = Path(unquote(pin.url.removeprefix("file://")))
                path = f"wheels/{wheel.name}"
                version = str(parse_wheel_filename(wheel.name)[1])
                packages.append(Package(pin.name, version, "wheel", {}, path, sha256_file(wheel), wheel.stat().st_size))
            else:
                served.append(pin)
        laid = {overlay.name: overlay for overlay in overlays}
        found = sorted([*packages, *self._served(served, cwd, on_node)], key=lambda package: package.name)
        return [_overlaid(package, laid[package.name]) if package.name in laid else package for package in found]

    def _served(self, pins: Sequence[Pin], cwd: Path, on_node: Collection[str]) -> list[Package]:
        if not pins:
            return []
        remove(self.scratch)
        self.scratch.mkdir(parents=True)
        listed, output = self.scratch / "served.in", self.scratch / "pylock.served.toml"
        listed.write_text("".join(f"{pin.requirement}\n" for pin in pins), encoding="utf-8")
        arguments: list[str | Path] = ["pip", "compile", "--quiet", "--no-deps", "--no-header", "--no-annotate", "--format", "pylock.toml"]
        platform: list[str | Path] = ["--python", self.python, "--python-version", self.minor, "--python-platform", str(self.platform)]
        self.uv.run([*arguments, *platform, listed, "--output-file", output], what="asking the index for the files of the pins", cwd=cwd)
        tags = _wheel.supported_tags(self.minor, self.platform)
        packages = _pylock.read(output)["packages"]
        return [self._source(package) if package["name"] in on_node else self._choose(package, tags) for package in packages]

    def _source(self, package: Mapping[str, Any]) -> Package:
        sdist = _pylock.offered(package)[1]
        if sdist is None:
            raise LockError(
                f"{package['name']} {package['version']}: build_on_node names it, and the index offers no source of it. Take it out of build_on_node."
            )
        source = {"url": sdist.url, "sha256": sdist.sha256, "size": sdist.size}
        path = str((self.bundle.source(sdist.sha256) / sdist.filename).relative_to(self.bundle.root))
        return Package(package["name"], package["version"], "source", source, path, sdist.sha256, sdist.size or 0)

    def _choose(self, package: Mapping[str, Any], tags: list[Any]) -> Package:
        wheels, sdist = _pylock.offered(package)
        preferred = self.preferred.get(package["name"])
        if sdist and sdist.sha256 == preferred:
            wheels = []
        wheels = [wheel for wheel in wheels if wheel.sha256 == preferred] or wheels
        best = _wheel.best_wheel((wheel.filename for wheel in wheels), tags)
        file = next((wheel for wheel in wheels if wheel.filename == best), None)
        name, version = package["name"], package["version"]
        if file:
            source = {"url": file.url, "sha256": file.sha256, "size": file.size}
            path = str((self.bundle.index / file.filename).relative_to(self.bundle.root))
            # a local version (PEP 440) is some other index's, which a mirror of a public one lacks
            return Package(name, version, "index", source, path, file.sha256, file.size or 0, served="+" not in version)
        if sdist:
            return Package(
                name, version, "sdist", {"url": sdist.url, "sha256": sdist.sha256, "size": sdist.size, "filename": sdist.filename}
            )
        offered = ", ".join(wheel.filename for wheel in wheels) or "nothing"
        raise LockError(
            f"{name} {version}: no file fits CPython {self.minor} on {self.platform}; the index offers {offered}. Set rlinf_platform or pin another version."
        )

    def gather(self, packages: Sequence[Package], left: Collection[str] = ()) -> list[Package]:
        """Bring every file that is not there yet; return the packages with their files filled in.

        :param left: paths of files that are left to an index; their packages are returned as if they were there.
        :raises OfflineError: some could not be had; every one of them is named.
        """
        self._fetch(
            [
                package
                for package in packages
                if package.kind in ("index", "source") and package.path not in left and not package.present(self.bundle)
            ]
        )
        builds = Builds(self.bundle)
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            done = list(pool.map(lambda package: self._built(package, builds), packages))
        failed = [item for item in done if isinstance(item, str)]
        if failed:
            raise LockError("\n".join([f"{len(failed)} of {len(packages)} packages could not be built:", *failed]))
        there = {item.name: item for item in done if isinstance(item, Package)}
        made = [self._laid(package, there, builds) if package.kind == "overlay" else package for package in there.values()]
        return [package if package.path in left else self._measured(package) for package in made]

    def _laid(self, package: Package, there: Mapping[str, Package], builds: Builds) -> Package:
        """Return an overlay with its wheel, which is made once of the same two wheels; these need not be in the bundle afterwards."""
        base = self._built(Package.of(package.source["package"]), builds)
        if isinstance(base, str):
            raise LockError(base)
        donor = there[package.source["donor"]]
        key = f"overlay:{base.sha256}:{donor.sha256}:{package.source['path']}"
        known = builds.find(key)
        if known:
            return _filled(package, known)
        self.progress(f"laying files of {donor.name} over {base.name}")
        place = self.bundle.overlay(sha256_bytes(key.encode())) / Path(base.path).name
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = place.with_name(f"{place.name}.part")
        _overlay.repack(self._at_hand(base), self._at_hand(donor), package.source["path"], fresh)
        return self._enter(package, fresh, place, builds, key)

    def _at_hand(self, package: Package) -> Path:
        """Return the file of a package that the bundle need not carry: where it lies in it, or brought into the scratch space."""
        place = self.bundle.root / package.path
        if not place.is_file():
            place = self.scratch / "at-hand" / place.name
            self._fetch([replace(package, path=os.path.relpath(place, self.bundle.root))])
        return place

    def _fetch(self, packages: Sequence[Package]) -> None:
        downloads = [
            Download(
                package.source["url"],
                self.bundle.root / package.path,
                sha256=package.source["sha256"],
                size=package.source["size"],
                judge=_wheel.check_record if package.kind == "index" else check_sdist,
            )
            for package in packages
        ]
        self.progress(f"fetching {len(downloads)} files")
        self.fetcher.fetch_every(downloads, "files")

    def _measured(self, package: Package) -> Package:
        place = self.bundle.root / package.path
        if not place.is_file():
            raise LockError(
                f"{package.name}: {place} is not there. Run the download playbook again; a prebuilt wheel comes by rlinf_wheel_cache."
            )
        return replace(package, size=place.stat().st_size)

    def _built(self, package: Package, builds: Builds) -> Package | str:
        """Return a package with the wheel that is built of it, if one is, or what went wrong."""
        try:
            if package.kind == "sdist":
                return self._from_sdist(package, builds)
            if package.kind == "git":
                return self._from_git(package, builds)
            if package.kind == "source":
                content = sdist_content(self.bundle.root / package.path)
                return replace(package, source={**package.source, "build_requires": content.build_requires})
        except OfflineError as error:
            return f"{package.name}: {error}"
        return package

    def _from_sdist(self, package: Package, builds: Builds) -> Package:
        key = f"sdist:{package.source['sha256']}:{self.builder}"
        known = builds.find(key)
        if known:
            return _filled(package, known)
        sdist = self.bundle.cache / "sdists" / package.source["sha256"] / package.source["filename"]
        sdist.parent.mkdir(parents=True, exist_ok=True)
        source = package.source
        self.fetcher.fetch(Download(source["url"], sdist, sha256=source["sha256"], size=source["size"], judge=check_sdist))
        content = sdist_content(sdist)
        if content.compiled:
            check_headers(self.python, package.name)
        folder = self.bundle.sdist_wheels(package.source["sha256"], self.builder)
        return self._build(package, sdist, content, folder, builds, key)

    def _from_git(self, package: Package, builds: Builds) -> Package:
        url, commit, subdirectory = package.source["url"], package.source["commit"], package.source["subdirectory"]
        mirror = RepositoryId.parse(url).mirror
        key = f"git:{mirror}@{commit}#{subdirectory or ''}:{self.builder}"
        known = builds.find(key)
        if known:
            return _filled(package, known)
        tree = self.scratch / "trees" / package.name
        remove(tree)
        tree.parent.mkdir(parents=True, exist_ok=True)
        _checkout.checkout(self.bundle.repos / mirror, commit, tree, origin_url=url)
        source = tree / subdirectory if subdirectory else tree
        try:
            content = Content(_checkout.commit_time(self.bundle.repos / mirror, commit), build_requires(source / "pyproject.toml"))
            return self._build(package, source, content, self.bundle.git_wheels(mirror, commit, self.builder), builds, key)
        finally:
            remove(tree)

    def _build(self, package: Package, source: Path, content: Content, folder: Path, builds: Builds, key: str) -> Package:
        self.progress(f"building {package.name}")
        output = self.scratch / "built" / package.name
        remove(output)
        # the same source gives the same bytes: zip entries are dated by SOURCE_DATE_EPOCH, and debug information would name the scratch space
        env = {"SOURCE_DATE_EPOCH": str(max(content.newest, _YEAR_1980)), "UV_NO_CONFIG": "1", "PYTHONHASHSEED": "0"}
        env |= {"CFLAGS": "-g0", "CXXFLAGS": "-g0"}
        arguments: list[str | Path] = ["build", "--wheel", "--quiet", "--python", self.python, "--out-dir", output, source]
        self.uv.run(arguments, what=f"building {package.name} from {source.name}", env=env, cwd=self.scratch)
        wheel = next(output.glob("*.whl"))
        _wheel.check_built(wheel, self.platform, package.name)
        if not _wheel.best_wheel([wheel.name], _wheel.supported_tags(self.minor, self.platform)):
            raise LockError(
                f"{wheel.name}, built here, does not fit CPython {self.minor} on {self.platform}. Download on a host like the nodes, or set rlinf_platform."
            )
        folder.mkdir(parents=True, exist_ok=True)
        return self._enter(package, wheel, folder / wheel.name, builds, key, content.build_requires)

    def _enter(
        self, package: Package, wheel: Path, place: Path, builds: Builds, key: str, requires: Sequence[str] | None = None
    ) -> Package:
        """Move a wheel that was made here to its *place*, and remember by *key* what it was made of and, if it was built, with what."""
        found: dict[str, Any] = {
            "path": str(place.relative_to(self.bundle.root)),
            "sha256": sha256_file(wheel),
            "size": wheel.stat().st_size,
            **({} if requires is None else {"build_requires": list(requires)}),
        }
        fsync_file(wheel)
        rename(wheel, place)
        builds.add(key, found)
        return _filled(package, {**found, "version": str(parse_wheel_filename(place.name)[1])})


def _filled(package: Package, found: Mapping[str, Any]) -> Package:
    """Return a package with the wheel that was made of it."""
    asked = {key: found[key] for key in ("build_requires",) if key in found}
    return replace(package, source={**package.source, **asked}, **{key: found[key] for key in ("version", "path", "sha256", "size")})


def _overlaid(package: Package, overlay: Overlay) -> Package:
    return Package(package.name, package.version, "overlay", {"package": package.json, "donor": overlay.donor, "path": overlay.path})


class Builds:
    """What was built from what: ``records/builds.json``."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.path = bundle.records / "builds.json"
        self._lock = threading.Lock()
        self._known: dict[str, dict[str, Any]] = read_json(self.path, LockError) if self.path.exists() else {}
        if not isinstance(self._known, dict) or not all(map(_is_build, self._known.values())):
            raise LockError(
                f"{self.path} is damaged. Put back that of a copy of the bundle, or write {{}} into it to have everything built again."
            )

    def find(self, key: str) -> dict[str, Any] | None:
        """Return path, sha256, size, version and build requirements of the wheel built from *key*, if it is still there as it was."""
        known = self._known.get(key)
        if known is None:
            return None
        place = self.bundle.root / known["path"]
        if not place.is_file() or sha256_file(place) != known["sha256"]:
            return None
        return {**known, "version": str(parse_wheel_filename(place.name)[1])}

    def add(self, key: str, found: Mapping[str, Any]) -> None:
        with self._lock:
            self._known[key] = dict(found)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, self._known)


def _is_build(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(key), str) for key in ("path", "sha256"))
        and isinstance(value.get("size"), int)
    )


@dataclass(frozen=True)
class Content:
    """What a source tells of its build: the time of its newest file in seconds since the epoch, what it asks for, whether it compiles."""

    newest: int
    build_requires: Sequence[str]
    compiled: bool = False


def check_sdist(sdist: Path) -> None:
    """:raises ArchiveError: an sdist, which uv is going to unpack, is damaged or holds a member that must not be unpacked."""
    _archive.examine(sdist, strip=True)


def sdist_content(sdist: Path) -> Content:
    """Return what an sdist tells of its build.

    :raises LockError: it is damaged.
    """
    try:
        if sdist.suffix == ".zip":
            with zipfile.ZipFile(sdist) as archive:
                names = archive.namelist()
                found = next((name for name in names if _is_pyproject(name)), None)
                return _content(sdist, names, _YEAR_1980, archive.read(found) if found else None)
        with tarfile.open(sdist) as archive:
            members = archive.getmembers()
            member = next((member for member in members if _is_pyproject(member.name)), None)
            stream = archive.extractfile(member) if member else None
            newest = int(max((member.mtime for member in members), default=0))
            return _content(sdist, [member.name for member in members], newest, stream.read() if stream else None)
    except (*_archive.DAMAGED, OSError, KeyError) as error:  # the last: a link that leads nowhere
        if not _archive.is_damage(error):
            raise
        raise LockError(f"{sdist.name} is damaged ({error}).") from None


def _is_pyproject(name: str) -> bool:
    return name.removeprefix("./").count("/") == 1 and name.endswith("/pyproject.toml")


def _content(sdist: Path, names: Iterable[str], newest: int, pyproject: bytes | None) -> Content:
    asked = _pyproject.requires(pyproject, f"pyproject.toml of {sdist.name}")
    return Content(newest, asked, any(name.endswith(_COMPILED) for name in names))


def build_requires(pyproject: Path) -> list[str]:
    """Return what building a project asks for (PEP 518), by its ``pyproject.toml``; it need not have one.

    :raises LockError: it cannot be read.
    """
    return _pyproject.requires(pyproject.read_bytes() if pyproject.is_file() else None, str(pyproject))


def check_headers(python: Path, package: str) -> None:
    """Refuse to build compiled code without the headers of the interpreter.

    :raises LockError: ``Python.h`` is not there; the package to install is named.
    """
    said = run(
        [python, "-I", "-c", "import sysconfig; print(sysconfig.get_path('include'))"], what=f"asking {python} for its headers"
    ).stdout.strip()
    if not Path(said, "Python.h").is_file():
        version = run(
            [python, "-I", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], what=f"asking {python} for its version"
        ).stdout.strip()
        raise LockError(
            f"{package} must be compiled, and {said}/Python.h is not there. "
            f"Install python{version}-dev, or give an interpreter that has its headers by rlinf_python."
        )
