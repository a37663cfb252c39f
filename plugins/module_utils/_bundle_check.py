# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a bundle holds of what is asked for: present, missing or damaged, each file hashed, and nothing changed.

The network is asked for nothing but the length of wheels and assets that are missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._bundle import differences, read_manifest, scan
from ansible_collections.rlinf.offline.plugins.module_utils._cache import AssetCache, Cache, WheelCache
from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Asset, Repository, Target, Wheel
from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError, FetchError
from ansible_collections.rlinf.offline.plugins.module_utils._fetch import Fetcher
from ansible_collections.rlinf.offline.plugins.module_utils._files import sha256_file
from ansible_collections.rlinf.offline.plugins.module_utils._frozen import read_records
from ansible_collections.rlinf.offline.plugins.module_utils._git import session
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._records import read_lock

NAMED = 3
"""How many files a reason names."""


@dataclass(frozen=True)
class Item:
    """One thing that is asked for.

    *state*: ``present``, ``missing`` or ``damaged``. *bytes*: what a download would fetch, None where only fetching tells.
    """

    name: str
    kind: str
    state: str
    reason: str
    bytes: int | None = 0

    @property
    def json(self) -> dict[str, Any]:
        return {**asdict(self), "changed": False}


@dataclass(frozen=True)
class Wanted:
    """What is asked for."""

    repositories: Sequence[Repository]
    wheels: Sequence[Wheel]
    assets: Sequence[Asset]
    targets: Sequence[tuple[Target, Repository]]
    """Each with its project."""


def check_bundle(bundle: Bundle, wanted: Wanted, fetcher: Fetcher, *, jobs: int) -> list[Item]:
    """Look at everything that is asked for; return an item for each thing.

    :param fetcher: with the bundle's records.
    :param jobs: how many files are hashed at a time.
    :raises BundleError: the manifest or a record is damaged.
    """
    return list(_Check(bundle, fetcher, *_compared(bundle, jobs)).items(wanted))


def _compared(bundle: Bundle, jobs: int) -> tuple[Mapping[str, Mapping[str, Any]], Mapping[str, str]]:
    """Return the files of the manifest, and those of them that are ``missing`` or ``damaged``; nothing where it was never sealed."""
    if not bundle.manifest.exists():
        return {}, {}
    files: dict[str, dict[str, Any]] = read_manifest(bundle)["files"]
    found, _left_over = scan(bundle)
    missing, damaged, _read = differences(bundle, files, found, (), jobs)
    return files, {**dict.fromkeys(missing, "missing"), **dict.fromkeys(damaged, "damaged")}


@dataclass(frozen=True)
class _Check:
    """A bundle as it was found: the *files* of its manifest, and what is *wrong* with some of them."""

    bundle: Bundle
    fetcher: Fetcher
    files: Mapping[str, Mapping[str, Any]]
    wrong: Mapping[str, str]

    def items(self, wanted: Wanted) -> Iterator[Item]:
        for repository in wanted.repositories:
            yield self._repository(repository)
        wheels, assets = WheelCache(self.bundle, self.fetcher), AssetCache(self.bundle, self.fetcher)
        yield from self._cached(wheels, wanted.wheels, "wheel")
        yield from self._cached(assets, wanted.assets, "asset")
        for target, project in wanted.targets:
            yield self._target(target, project)
        yield self._tools()
        yield from self._carried("apt", "system packages")
        yield from self._carried(self.bundle.interpreters.name, "interpreter")

    def _carried(self, folder: str, kind: str) -> Iterator[Item]:
        """Yield what lies two levels below a folder, a release and architecture for example; what is not sealed is not known."""
        for place in dict.fromkeys("/".join(path.split("/")[:3]) for path in self.files if path.startswith(f"{folder}/")):
            listed, wrong = self._below(place)
            name, size = place.partition("/")[2], sum(self._size(path) for path in wrong)
            if wrong:
                yield Item(name, kind, "damaged", self._named(wrong), size)
            else:
                yield Item(name, kind, "present", f"{len(listed)} files as they were sealed")

    def _repository(self, repository: Repository) -> Item:
        place, name = self.bundle.repos / repository.id.mirror, repository.name
        if not place.is_dir():
            return Item(name, "repository", "missing", "not mirrored", None)
        listed, wrong = self._below(str(place.relative_to(self.bundle.root)))
        if wrong:
            remedy = f"{self._named(wrong)}. Remove {place} and download again"
            return Item(name, "repository", "damaged", remedy, sum(self._size(path) for path in listed))
        if listed:
            return Item(name, "repository", "present", f"{len(listed)} files as they were sealed")
        # mirrored, and not sealed yet: git knows the digest of everything by itself
        with session() as git:
            output = git.at(git_dir=place).run(["fsck", "--full", "--no-dangling", "--no-progress"], about="", check=False)
        if output.status:
            return Item(name, "repository", "damaged", f"git fsck finds it damaged. Remove {place} and download again", None)
        return Item(name, "repository", "present", "not sealed yet, git fsck finds nothing wrong")

    def _cached(self, cache: Cache[Any], entries: Sequence[Any], kind: str) -> Iterator[Item]:
        """Say of wheels or assets what bringing them would do, and what the manifest knows of their content."""
        for entry, outcome in zip(entries, cache.run(entries, check=True), strict=True):
            _listed, wrong = self._below(outcome.path)
            if outcome.state == "failed":
                yield Item(entry.name, kind, "damaged", outcome.reason, None)
            elif outcome.state == "missing":
                state = "damaged" if outcome.before or cache.place(entry).exists() else "missing"
                yield Item(entry.name, kind, state, outcome.reason, outcome.bytes or None)
            elif wrong:
                # paths and sizes of what was unpacked are right, the content is not
                remedy = f"{self._named(wrong)}. Remove {cache.place(entry)} and download again"
                yield Item(entry.name, kind, "damaged", remedy, self._remote_size(entry.url))
            else:
                yield Item(entry.name, kind, "present", "as it was fetched")

    def _target(self, target: Target, project: Repository) -> Item:
        record = read_records(self.bundle).get(project.id.mirror)
        place = self.bundle.target(record["commit"], target.name) if record else None
        item = Item(target.name, "target", "missing", "not locked yet", None)
        if place is None or not (place / "lock.json").is_file():
            return item
        _listed, wrong = self._below(str(place.relative_to(self.bundle.root)))
        try:
            lock = read_lock(place / "lock.json")
            carried = set(lock["closure"])
            packages = [package for package in [*lock["packages"], *lock.get("build", [])] if package["path"] in carried]
        except (BundleError, KeyError, TypeError, AttributeError):
            return replace(item, state="damaged", reason=f"{place / 'lock.json'} is damaged. Remove {place} and download again")
        states = {package["path"]: self._package(package) for package in packages if not package["path"].startswith("wheels/")}
        bad = {path: state for path, state in states.items() if state != "present"}
        for mirror in (path.rstrip("/") for path in carried if path.startswith("repos/")):
            state = "damaged" if self._below(mirror)[1] else "present" if (self.bundle.root / mirror).is_dir() else "missing"
            bad |= {mirror: state} if state != "present" else {}
        if wrong or bad:
            sizes = {package["path"]: package["size"] for package in packages}
            kinds = {*bad.values(), *("damaged" for _path in wrong)}
            said = self._named([*wrong, *bad])
            state = "damaged" if "damaged" in kinds else "missing"
            return Item(target.name, "target", state, f"{said}, of {len(states)} packages", sum(sizes.get(path, 0) for path in bad))
        return Item(target.name, "target", "present", f"{len(states)} packages as they were locked")

    def _package(self, package: Mapping[str, Any]) -> str:
        """Return the state of a file of a lock, by the manifest or, where it is not sealed yet, by the lock's own digest."""
        path = self.bundle.root / package["path"]
        if not path.is_file():
            return "missing"
        if package["path"] in self.wrong:
            return self.wrong[package["path"]]
        known = self.files.get(package["path"], {}).get("sha256")
        return "present" if (known or sha256_file(path)) == package["sha256"] else "damaged"

    def _tools(self) -> Item:
        listed, wrong = self._below(self.bundle.tools.name)
        item = Item("tools", "tools", "missing", "what a node is prepared with is not there", None)
        if not self.bundle.tools.is_dir():
            return item
        if wrong:
            return replace(item, state="damaged", reason=self._named(wrong), bytes=sum(self._size(path) for path in wrong))
        return replace(item, state="present", reason=f"{len(listed)} files as they were sealed" if listed else "not sealed yet", bytes=0)

    # -- what the manifest says

    def _below(self, path: str) -> tuple[list[str], list[str]]:
        """Return the manifest's files at or below a path, and those of them that are wrong."""
        listed = [name for name in self.files if name == path or name.startswith(f"{path}/")]
        return listed, [name for name in listed if name in self.wrong]

    def _size(self, path: str) -> int:
        return int(self.files.get(path, {}).get("size", 0))

    def _named(self, paths: Sequence[str]) -> str:
        """Return how many files are wrong, and the first of them."""
        more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
        return f"{', '.join(sorted(paths)[:NAMED])}{more} missing or damaged"

    def _remote_size(self, url: str) -> int | None:
        try:
            return self.fetcher.remote_size(url)
        except FetchError:
            return None
