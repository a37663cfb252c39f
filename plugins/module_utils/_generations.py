# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Environments of one name side by side, one of them current: ``<name>-<digest>`` folders and a link. Standard library only.

A generation is finished when it has its stamp, which is written last; the link is switched only to a finished one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._errors import VenvError
from ansible_collections.rlinf.offline.plugins.module_utils._files import read_json, remove, switch_link, write_json

STAMP = "rlinf.json"
SHORT = 12
"""Hexadecimal digits of the digest in a folder's name."""
STAMPED = {
    "digest": str,
    "created": int,
    "fingerprints?": {str: list},
    "previous?": str,
    "rolled_back_from?": str,
    "damaged?": [str],
}
"""What is read of every stamp, in the words of :mod:`._shape`."""


@dataclass(frozen=True)
class Generation:
    """A finished environment and what its stamp says: ``digest``, ``created`` (ns since the epoch), ``previous`` (a folder's name or None), and more."""

    path: Path
    stamp: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def digest(self) -> str:
        digest: str = self.stamp["digest"]
        return digest

    def restamp(self, **changes: Any) -> Generation:
        """Write the stamp again with *changes*; a value of None takes the key out."""
        stamp = {key: value for key, value in {**self.stamp, **changes}.items() if value is not None}
        write_json(self.path / STAMP, stamp)
        return Generation(self.path, stamp)


@dataclass(frozen=True)
class Generations:
    """The generations of *name* in *folder*, and the *link* to the current one.

    :param stamped: what their stamps must look like.
    """

    folder: Path
    name: str
    link: Path
    stamped: Mapping[str, Any] = field(default_factory=lambda: STAMPED)

    def _folders(self) -> list[Path]:
        ours = re.compile(rf"{re.escape(self.name)}-[0-9a-f]{{{SHORT}}}(\.\d+)?\Z")
        if not self.folder.is_dir():
            return []
        return [Path(entry.path) for entry in os.scandir(self.folder) if ours.match(entry.name) and entry.is_dir(follow_symlinks=False)]

    def finished(self) -> list[Generation]:
        """Return the finished generations, the newest first.

        :raises VenvError: a stamp is damaged.
        """
        found = []
        for path in self._folders():
            with contextlib.suppress(FileNotFoundError):
                found.append(Generation(path, read_json(path / STAMP, VenvError, self.stamped)))
        return sorted(found, key=lambda generation: (-generation.stamp["created"], generation.name))

    def unfinished(self) -> list[Path]:
        """Return what an interrupted build left behind."""
        return sorted(path for path in self._folders() if not (path / STAMP).exists())

    def current(self) -> Generation | None:
        """Return the finished generation that the link leads to, if any."""
        path = self.link.resolve()
        return next((generation for generation in self.finished() if generation.path.resolve() == path), None)

    def previous(self) -> Generation | None:
        """Return the generation that the current one took the place of, if it is still there and sound."""
        current = self.current()
        wanted = current.stamp.get("previous") if current else None
        return next((generation for generation in self.finished() if generation.name == wanted and "damaged" not in generation.stamp), None)

    def place(self, digest: str) -> Path:
        """Return the folder for a new generation: a finished one of the same digest, found damaged, keeps its own."""
        stem = f"{self.name}-{digest[:SHORT]}"
        taken = {generation.name for generation in self.finished()}
        number = 1
        while (name := stem if number == 1 else f"{stem}.{number}") in taken:
            number += 1
        return self.folder / name

    def finish(self, path: Path, stamp: Mapping[str, Any]) -> Generation:
        """Stamp a built environment: from now on it is finished.

        :param stamp: at least ``digest``; ``created`` and ``previous`` are added.
        """
        previous = self._superseded(str(stamp["digest"]))
        # the clock may have been set back since: a new one is newer than those that are there all the same
        created = max([time.time_ns(), *(generation.stamp["created"] + 1 for generation in self.finished() if generation.path != path)])
        whole = {**stamp, "created": created, **({"previous": previous} if previous else {})}
        write_json(path / STAMP, whole)
        return Generation(path, whole)

    def _superseded(self, digest: str) -> str | None:
        """Return the generation that one of *digest* takes the place of; a repaired one does not lead back to what it repairs."""
        current = self.current()
        if current is None:
            return None
        repaired = current.digest == digest or "damaged" in current.stamp
        return current.stamp.get("previous") if repaired else current.name

    def switch(self, generation: Generation) -> None:
        """Make *generation* the current one in one step; which one it takes the place of is in its stamp beforehand."""
        current = self.current()
        if current and current.path != generation.path:
            previous = self._superseded(generation.digest)
            if generation.stamp.get("previous") != previous or "rolled_back_from" in generation.stamp:
                generation = generation.restamp(previous=previous, rolled_back_from=None)
        switch_link(self.link, os.path.relpath(generation.path, self.link.parent))

    def roll_back(self, to: Generation) -> None:
        """Make *to* the current one again, noting what it was rolled back from, so that a second time changes nothing."""
        current = self.current()
        to.restamp(rolled_back_from=current.name if current else None)
        switch_link(self.link, os.path.relpath(to.path, self.link.parent))

    def removable(self, keep: int, current: Path | None) -> list[Path]:
        """Return the generations beyond *keep* that nobody uses; never *current* nor the one it took the place of (with keep > 1).

        :param current: the generation that is, or is about to be, the current one.
        """
        finished = self.finished()
        now = next((generation for generation in finished if generation.path == current), None)
        before = now.stamp.get("previous") if now else None
        ranked = sorted(finished, key=lambda each: (each.path != current, each.name != before, "damaged" in each.stamp))
        surplus = [generation.path for generation in ranked[max(keep, 1) :] if generation.path != current]
        used = in_use(surplus) if surplus else set()
        return [path for path in surplus if path not in used]

    def discard(self, path: Path) -> None:
        """Remove a generation; a uv that outlived its killed parent and still writes into it is waited for."""
        with contextlib.suppress(OSError), open(path / ".lock", "rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
        # without its stamp it is unfinished, whenever this is interrupted
        remove(path / STAMP)
        remove(path)


def in_use(paths: Iterable[Path]) -> set[Path]:
    """Return those of *paths* that a running process of this machine works in, as far as this user may see.

    Looked at are its working directory, program, arguments, mapped files and ``VIRTUAL_ENV``.
    """
    wanted = {path: os.fsencode(path) for path in paths}
    used: set[Path] = set()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        seen = _traces(process)
        used |= {path for path, text in wanted.items() if re.search(re.escape(text) + rb"(?![\w.-])", seen)}
    return used


def _traces(process: Path) -> bytes:
    """Return, as one text, the paths that a process shows under /proc; nothing of one that ended or is another user's."""
    seen = []
    for link in ("cwd", "exe"):
        with contextlib.suppress(OSError):
            seen.append(os.fsencode(os.readlink(process / link)))
    for file in ("cmdline", "maps", "environ"):
        with contextlib.suppress(OSError):
            seen.append((process / file).read_bytes())
    return b"\0".join(seen)
