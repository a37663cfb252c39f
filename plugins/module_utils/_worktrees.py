# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Working copies of a node: made out of the bundle, moved while nobody has edited them, reset when asked for.

Each has a note in its ``.git``: without one it is somebody else's, and is never touched. Files that git ignores, and files that were only
added, are never removed by installing: a user's results may be among them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils import _checkout, _lfs
from ansible_collections.rlinf.offline.plugins.module_utils._actions import Action
from ansible_collections.rlinf.offline.plugins.module_utils._catalog import Repository
from ansible_collections.rlinf.offline.plugins.module_utils._errors import TargetError
from ansible_collections.rlinf.offline.plugins.module_utils._files import exclusive, read_json, remove, rename, sha256_file, write_json
from ansible_collections.rlinf.offline.plugins.module_utils._git import session
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle, environment_lock

NOTE = Path(".git", "rlinf.json")
"""In a working copy of ours: the repository, the commit it was put at, and ``moving`` while it is on its way to another."""
NAMED = 5
"""How many edited files a message names."""
SCRIPTED = Path(".git", "rlinf-scripts.json")
"""In a working copy of ours in which an upstream's script ran: ``kept``, the edits that were there before (path -> digest), and ``done``,
those of the script; null while it runs, or when it was cut off."""
_NOTE = {"repository": str, "commit": str, "moving?": str}
_SCRIPTED = {"kept": {str: str}, "done": ({str: str}, type(None))}
_NOTE_REMEDY = "Keep your changes elsewhere, remove the working copy, and install again."
STATE = {"worktrees?": {str: {"path": str}}, "assets?": [str], "links?": {str: str}, "files?": {str: str}}
"""What a node remembers of a target."""
# the link to the environment that rlinf_venv makes in the project
OWN = frozenset({".venv"})


@dataclass(frozen=True)
class Worktree:
    """A working copy that is wanted: of which repository, at which commit, and where."""

    bundle: Bundle
    repository: Repository
    commit: str
    place: Path

    @property
    def mirror(self) -> Path:
        return self.bundle.repos / self.repository.id.mirror

    @property
    def about(self) -> str:
        return f"working copy {self.place}"

    def note(self, **more: str) -> dict[str, Any]:
        return {"format": 1, "repository": self.repository.id.key, "commit": self.commit, **more}


def read_note(place: Path) -> dict[str, Any] | None:
    """Return our note in a working copy, or None where there is none: then it is not ours.

    :raises TargetError: the note is damaged.
    """
    try:
        note: dict[str, Any] = read_json(place / NOTE, TargetError, _NOTE, _NOTE_REMEDY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return note


@contextlib.contextmanager
def unused(state: Path, places: Iterable[Path]) -> Iterator[None]:
    """Hold the environments of all targets that these working copies are of: nothing is built or run there while the body changes them.

    :param state: the state of a node, which knows the targets.
    :raises OfflineError: one of these environments is being built.
    """
    ours = {place.resolve() for place in places}
    with contextlib.ExitStack() as held:
        for path in sorted((state / "targets").glob("*.json")) if ours else ():
            trees = read_json(path, TargetError, STATE).get("worktrees", {}).values()
            used = ours & {Path(tree["path"]).resolve() for tree in trees}
            if used:
                what = f"{', '.join(map(str, sorted(used)))}, which the environment {path.stem} is built from,"
                held.enter_context(exclusive(environment_lock(state, path.stem), what))
        yield


def plan(wanted: Worktree, *, allow_drift: bool = False) -> Action:
    """Return what is to be done so that a working copy is there at its commit.

    :param allow_drift: use one that was edited, or put at another commit, as it is.
    :raises TargetError: it was edited, or something else is in its place.
    """
    place, commit = wanted.place, wanted.commit
    action = partial(Action, "worktree", wanted.repository.name, place, after=commit)
    if not os.path.lexists(place):
        return action("present", f"made at {commit[:12]}", partial(create, wanted))
    note = read_note(place)
    if note is None or note["repository"] != wanted.repository.id.key:
        raise TargetError(
            f"{place} is in the way of the working copy of {wanted.repository.name}: it was not made from the bundle. "
            f"Move it elsewhere, or name it as your own by rlinf_repo_paths (rlinf_root for the project)."
        )
    if "moving" in note:
        return action(
            "present", f"the move to {commit[:12]}, which was cut off, is finished", partial(move, wanted, force=True), "on the way"
        )
    state = _checkout.worktree_state(place)
    moved = state.commit not in (note["commit"], commit)
    scripted = by_scripts(place, state.edited)
    edited = tuple(path for path in state.edited if path not in scripted)
    if edited or moved:
        what = f"was put at {state.commit[:12]} by someone" if moved else f"has {named(edited)} edited"
        if not allow_drift or (not moved and state.commit != commit):
            raise TargetError(
                f"{wanted.about} {what}, and would have to be at {commit[:12]} as it is in the bundle. Keep your changes elsewhere, or discard them "
                f"with the playbook rlinf.offline.restore; to work in it, name a copy as your own by rlinf_repo_paths (rlinf_root for the project)."
            )
        return action("edited", what, before=commit, warning=f"{wanted.about} {what}, and is used as it is (rlinf_allow_drift).")
    if state.commit != commit:
        return action("present", f"moved from {state.commit[:12]} to {commit[:12]}", partial(move, wanted), state.commit)
    return action("present", f"is at {commit[:12]}", before=commit)


def named(paths: tuple[str, ...]) -> str:
    """Return the first of these paths, and how many more there are."""
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return ", ".join(paths[:NAMED]) + more


def create(wanted: Worktree) -> None:
    """Make a working copy aside, note that it is ours, and give it its name.

    :raises GitError: the mirror lacks the commit.
    """
    fresh = wanted.place.with_name(f".{wanted.place.name}.new")
    remove(fresh)
    fresh.parent.mkdir(parents=True, exist_ok=True)
    repository = wanted.repository
    _checkout.checkout(wanted.mirror, wanted.commit, fresh, origin_url=repository.url, submodules=repository.submodules, lfs=repository.lfs)
    write_json(fresh / NOTE, wanted.note())
    rename(fresh, wanted.place)


def move(wanted: Worktree, *, force: bool = False) -> None:
    """Bring a working copy of ours, which nobody edited, to its commit.

    :param force: it was left on its way by a run that was cut off, so that what looks edited is not.
    :raises GitError: the mirror lacks the commit, or a file that was added is in the way.
    """
    place, note = wanted.place, read_note(wanted.place) or {}
    with session(repos=wanted.bundle.repos) as git:
        tree = git.at(tree=place)
        if force:
            remove(place / ".git" / "index.lock")
        undo_scripts(place)
        options = ("--quiet", "--prune", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules")
        tree.write("fetch", *options, "--", wanted.mirror, "+refs/heads/*:refs/remotes/origin/*", wanted.commit, about=wanted.about)
        if not force:
            # refuses what a real checkout would refuse, before anything is written; it goes by the times in the index
            tree.write("update-index", "-q", "--refresh", about=wanted.about)
            tree.read("read-tree", "--dry-run", "-m", "-u", "HEAD", wanted.commit, about=wanted.about)
        write_json(place / NOTE, {**note, "moving": wanted.commit})
        tree.write("checkout", "--quiet", *(["--force"] if force else []), "--detach", wanted.commit, "--", about=wanted.about)
        if wanted.repository.lfs:
            _lfs.check_out(tree, wanted.mirror, place, wanted.about)
        if wanted.repository.submodules:
            tree.write("submodule", "--quiet", "update", "--init", "--recursive", "--force", "--checkout", about=wanted.about)
    write_json(place / NOTE, wanted.note())


# -- scripts that write into a working copy ------------------------------------------------------------------------------------


def top(path: Path) -> Path | None:
    """Return the working copy of ours that *path* is in, if it is in one."""
    return next((folder for folder in (path, *path.parents) if (folder / NOTE).is_file()), None)


def begin_script(place: Path) -> None:
    """Note that what is edited from now on is a script's, after what a former run of it edited was put back."""
    undo_scripts(place)
    write_json(place / SCRIPTED, {"kept": _digests(place, _checkout.worktree_state(place).edited), "done": None})


def end_script(place: Path) -> None:
    """Note what a script that has ended edited; what is edited from now on is somebody's."""
    known = _scripted(place)
    found = by_scripts(place, _checkout.worktree_state(place).edited)
    if found:
        write_json(place / SCRIPTED, {**known, "done": _digests(place, found)})
    else:
        remove(place / SCRIPTED)


def by_scripts(place: Path, edited: Iterable[str]) -> tuple[str, ...]:
    """Return those of the *edited* files that a script, and nobody after it, edited."""
    try:
        known = _scripted(place)
    except FileNotFoundError:
        return ()
    now, kept, done = _digests(place, edited), known["kept"], known["done"]
    return tuple(path for path, digest in now.items() if (kept.get(path) != digest if done is None else done.get(path) == digest))


def _scripted(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(
        place / SCRIPTED, TargetError, _SCRIPTED, "Remove it: what a script edited there then counts as yours."
    )
    return found


def undo_scripts(place: Path) -> None:
    """Put back what scripts edited."""
    edited = by_scripts(place, _checkout.worktree_state(place).edited)
    if edited:
        with session() as git:
            git.at(tree=place).write("checkout", "--quiet", "HEAD", "--", *edited, about=f"working copy {place}")
    remove(place / SCRIPTED)


def _digests(place: Path, paths: Iterable[str]) -> dict[str, str]:
    return {path: sha256_file(place / path) if (place / path).is_file() else "" for path in paths}
