# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Assets, links and small files of a target on a node. What is the user's is left alone, and said. Standard library only."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ansible_collections.rlinf.offline.plugins.module_utils._actions import Action
from ansible_collections.rlinf.offline.plugins.module_utils._errors import TargetError
from ansible_collections.rlinf.offline.plugins.module_utils._faults import checkpoint
from ansible_collections.rlinf.offline.plugins.module_utils._files import (
    atomic_write,
    fsync_directory,
    fsync_file,
    remove,
    rename,
    sha256_bytes,
    sha256_file,
    swap_directory,
    switch_link,
)
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle

if TYPE_CHECKING:
    from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Asset

# -- assets --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AssetStore:
    """Where assets lie on a node, and what of it is ours.

    :param files: the ``files`` of the bundle's manifest.
    :param ours: whether an asset (by destination) that differs may be replaced.
    """

    bundle: Bundle
    files: Mapping[str, Mapping[str, Any]]
    folder: Path
    ours: Collection[str] | None = None

    @property
    def in_bundle(self) -> bool:
        """Whether the assets are used where they are, in the bundle."""
        return os.path.realpath(self.folder) == os.path.realpath(self.bundle.assets)

    def expected(self, dest: str) -> dict[str, Mapping[str, Any]]:
        """Return the manifest's entries of an asset by path relative to it; that of a single file is ``''``."""
        whole = f"{self.bundle.assets.name}/{dest}"
        found = {path.removeprefix(f"{whole}/"): entry for path, entry in self.files.items() if path.startswith(f"{whole}/")}
        return {**found, **({"": self.files[whole]} if whole in self.files else {})}

    def plan(self, asset: Asset) -> Action:
        """Return what is to be done so that an asset is on the node as it is in the bundle.

        :raises TargetError: the bundle lacks it, or something that is not ours is in its place.
        """
        expected, place = self.expected(asset.dest), self.folder / asset.dest
        if not expected:
            raise TargetError(
                f"asset {asset.name}: the bundle has no assets/{asset.dest}. Download and push it, or name it in rlinf_leave_out."
            )
        size = sum(entry.get("size", 0) for entry in expected.values())
        action = partial(Action, "asset", asset.name, place, after=f"{len(expected)} files, {size} bytes")
        if self.in_bundle:
            return action("in the bundle", "used where it is, in the bundle")
        copy = partial(copy_asset, self.bundle.assets / asset.dest, place, expected)
        if not os.path.lexists(place):
            return action("present", "copied from the bundle", copy, bytes=size)
        different = [path for path, entry in expected.items() if not is_same(place / path, entry)]
        if different:
            return self._replace(asset, action, copy, different, size)
        left = [path for path in _aside(place) if os.path.lexists(path)]
        if left:
            return action("present", "what a copy that was cut off left is removed", partial(_remove_all, left), "with left-overs")
        return action("present", "is as in the bundle")

    def _replace(self, asset: Asset, action: Any, copy: Any, different: list[str], size: int) -> Action:
        place = self.folder / asset.dest
        what = f"{len(different)} files differ from the bundle ({different[0] or place.name})"
        if self.ours is not None and asset.dest not in self.ours:
            raise TargetError(
                f"asset {asset.name}: {place} is there already, was not made from the bundle, and {what}. Move it elsewhere, or give another rlinf_assets_dir."
            )
        replaced: Action = action("present", f"{what}: copied again", copy, f"{len(different)} files differ", bytes=size)
        return replaced


def is_same(path: Path, entry: Mapping[str, Any]) -> bool:
    """Return whether a file or link is what the manifest says; it is read only where size and modification time leave it open."""
    try:
        if "link" in entry:
            return bool(os.readlink(path) == entry["link"])
        status = path.stat()
    except OSError:
        return False
    if status.st_size != entry["size"] or not path.is_file():
        return False
    return bool(status.st_mtime_ns == entry["mtime_ns"]) or sha256_file(path) == entry["sha256"]


def _holds(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_file(path) == sha256


def _aside(place: Path) -> tuple[Path, Path]:
    return place.with_name(f".{place.name}.new"), place.with_name(f".{place.name}.old")


def _remove_all(paths: Collection[Path]) -> None:
    for path in paths:
        remove(path)


def copy_asset(source: Path, place: Path, expected: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Copy a file or directory with its times and links beside *place*, and put it there when it is whole and on the disk.

    :param expected: the manifest's entries by path relative to it: nothing else is copied, and the copy is compared with them.
    :raises TargetError: what was copied is not what was sealed; nothing is put in place.
    """
    fresh, _old = _aside(place)
    remove(fresh)
    place.parent.mkdir(parents=True, exist_ok=True)
    checkpoint(f"copy {place.name}")
    if source.is_dir():
        shutil.copytree(source, fresh, symlinks=True, ignore=None if expected is None else _all_but(source, expected))
        for folder, _names, files in os.walk(fresh):
            for name in files:
                if not os.path.islink(os.path.join(folder, name)):
                    fsync_file(Path(folder, name))
            fsync_directory(Path(folder))
    else:
        shutil.copy2(source, fresh)
        fsync_file(fresh)
    for path, entry in (expected or {}).items():
        if "sha256" in entry and not _holds(fresh / path, entry["sha256"]):
            remove(fresh)
            raise TargetError(
                f"{source / path} is not what was sealed. Run the playbook rlinf.offline.push again with rlinf_scrub=true, or, where the bundle "
                "is shared, rlinf.offline.download with it."
            )
    if fresh.is_dir() or place.is_dir():
        swap_directory(fresh, place)
    else:
        rename(fresh, place)


def _all_but(source: Path, paths: Collection[str]) -> Callable[[str, list[str]], list[str]]:
    """Return what tells :func:`shutil.copytree` to leave out everything below *source* but these paths."""
    kept = {*paths, *(str(parent) for path in paths for parent in PurePosixPath(path).parents)}

    def others(folder: str, names: list[str]) -> list[str]:
        inside = PurePosixPath(os.path.relpath(folder, source))
        return [name for name in names if str(inside / name) not in kept]

    return others


# -- links ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Links:
    """Makes links where the place is free.

    :param folder: where assets lie.
    :param dests: the assets that are or will be there, by destination.
    :param ours: the links that we made before: path -> where it led.
    """

    folder: Path
    dests: Collection[str]
    ours: Mapping[str, str]

    def plan(self, link: Path, target: Path) -> Iterator[Action]:
        """Yield what is to be done so that *link* leads to *target*.

        A directory of the user's in its place stays, and the links are made in it: down to the assets, not into them.
        """
        action = partial(Action, "link", str(link), link, after=str(target))
        if not self._is_there(target):
            yield action("absent", f"nothing will be at {target}")
        elif link.is_symlink():
            yield self._existing(action, link, target)
        elif not link.exists():
            yield action("present", f"made, to {target}", partial(_make_link, link, target))
        elif link.is_dir() and self._children(target):
            for name in self._children(target):
                yield from self.plan(link / name, target / name)
        else:
            yield self._left_alone(action, link, target)

    def _existing(self, action: Any, link: Path, target: Path) -> Action:
        leads = os.readlink(link)
        found: Action
        if leads == str(target):
            found = action("present", f"leads to {target}")
        elif self.ours.get(str(link)) == leads:
            found = action("present", f"moved from {leads} to {target}", partial(_make_link, link, target), leads)
        else:
            found = self._left_alone(action, link, target)
        return found

    def _left_alone(self, action: Any, link: Path, target: Path) -> Action:
        said = f"{link} is there already and was left alone: programs will use it, not {target}"
        left: Action = action("left alone", said, warning=f"{said}. Move it elsewhere and run again if that is not what you want.")
        return left

    def _relative(self, target: Path) -> str | None:
        return str(target.relative_to(self.folder)) if target.is_relative_to(self.folder) else None

    def _is_there(self, target: Path) -> bool:
        """Return whether a target is or will be there; one that is no asset is taken to be."""
        relative = self._relative(target)
        if relative is None or relative == ".":
            return True
        return target.exists() or any(f"{dest}/".startswith(f"{relative}/") or relative.startswith(f"{dest}/") for dest in self.dests)

    def _children(self, target: Path) -> list[str]:
        """Return the names in *target* that lead to assets; none if it is an asset itself, or inside one."""
        relative = self._relative(target)
        if relative is None:
            return []
        start = "" if relative == "." else f"{relative}/"
        return sorted({dest[len(start) :].split("/")[0] for dest in self.dests if dest.startswith(start)})


def _make_link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    switch_link(link, str(target))


# -- files ---------------------------------------------------------------------------------------------------------------------


def plan_file(path: Path, text: str, prefix: Path) -> Action:
    """Return what is to be done so that a file under the prefix has this text.

    :raises TargetError: it is to lie elsewhere.
    """
    if not Path(os.path.normpath(path)).is_relative_to(prefix):
        raise TargetError(f"file {path}: files of a target lie under {prefix}, in {{state}} for example. Correct the target's entry.")
    data = text.encode()
    action = partial(Action, "file", str(path), path, after=sha256_bytes(data))
    known = sha256_file(path) if path.is_file() else ""
    if known == sha256_bytes(data):
        return action("present", "has its text")
    return action("present", "written", partial(_write, path, data), known, bytes=len(data))


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, data)
