# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Working copies of a node, put back to what they were made as: hard reset and clean, of those that we made and no others.

Edits and added files go, and are named before. Commits are never lost: those that no branch holds get one. Files that git ignores stay.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils import _checkout
from ansible_collections.rlinf.offline.plugins.module_utils._actions import Action, perform
from ansible_collections.rlinf.offline.plugins.module_utils._errors import OfflineError, PatchError, TargetError
from ansible_collections.rlinf.offline.plugins.module_utils._files import remove, write_json
from ansible_collections.rlinf.offline.plugins.module_utils._git import Git, session
from ansible_collections.rlinf.offline.plugins.module_utils._journal import RESTORED, Journal
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle, Node
from ansible_collections.rlinf.offline.plugins.module_utils._worktrees import NOTE, OWN, SCRIPTED, named, read_note, unused

# what a killed run has left of a working copy that it was making
_UNFINISHED = re.compile(r"\.{1,2}[^.].*\.new(\.part)?\Z")


@dataclass(frozen=True)
class Stray:
    """Commits that no branch, tag or remote holds: those of HEAD of a repository."""

    folder: Path
    head: str
    commits: int

    @property
    def branch(self) -> str:
        """The branch that keeps them."""
        return f"rlinf-kept-{self.head[:12]}"

    def __str__(self) -> str:
        return f"{_commits(self.commits)} that no branch held, kept in {self.folder.name} as the branch {self.branch}"


@dataclass(frozen=True)
class Loss:
    """What resetting a working copy of ours does.

    :ivar edited: the files that git knows and that were changed, relative to it.
    :ivar patched: those that only patching has changed, which restoring gives back too.
    :ivar added: those that it does not know and does not ignore.
    :ivar strays: the commits that get a branch; of submodules too.
    :ivar ahead: how many commits are on branches of its own, which stay as they are.
    :ivar foreign: repositories that somebody put there.
    """

    place: Path
    commit: str
    head: str
    edited: tuple[str, ...]
    patched: tuple[str, ...]
    added: tuple[str, ...]
    strays: tuple[Stray, ...]
    ahead: int
    foreign: tuple[str, ...]

    @property
    def nothing(self) -> bool:
        return not self.edited and not self.patched and not self.added and self.head == self.commit

    @property
    def text(self) -> str:
        """What goes and what stays, the first names of each."""
        kinds = ((self.edited, "edited"), (self.patched, "patched"), (self.added, "added"))
        said = [f"{len(paths)} {what} ({named(paths)})" for paths, what in kinds if paths]
        said += [str(stray) for stray in self.strays]
        if self.head != self.commit:
            said.append(f"HEAD at {self.head[:12]}")
        if self.ahead:
            said.append(f"{_commits(self.ahead)} on branches of its own, which stay")
        return ", ".join(said) or "clean"

    @property
    def files(self) -> str:
        """Every file that goes."""
        return "; ".join([*self.edited, *self.patched, *(f"{path} (added)" for path in self.added)]) or self.text


def _commits(number: int) -> str:
    return f"{number} commit{'s' * (number != 1)}"


def reset_all(node: Node, bundle: Bundle, *, check: bool = False) -> tuple[list[Action], list[dict[str, Any]]]:
    """Put every working copy under the node's ``src/`` that we made back; return the plan and its results.

    One that cannot be put back does not stop the others.

    :param check: only say what would go.
    :raises TargetError: some could not be put back; each is named.
    """
    patched = _patched(node)
    actions = [*_unfinished(node), *(_planned(place, node, bundle, patched) for place in made_here(node))]
    results: list[dict[str, Any]] = []
    problems = []
    for action in actions:
        try:
            results += perform([action], check=check)
        except OfflineError as error:
            problems.append(str(error))
            results.append({**action.result(), "changed": False, "state": "refused", "reason": str(error)})
    if problems:
        changed = any(item["changed"] for item in results)
        raise TargetError(
            "\n".join([f"{len(problems)} working copies could not be put back:", *problems]), results=results, changed=changed
        )
    return actions, results


def made_here(node: Node) -> Iterator[Path]:
    """Yield the working copies under the node's ``src/`` that we made."""
    for place in sorted(node.src.iterdir()) if node.src.is_dir() else ():
        if not place.is_symlink() and not place.name.startswith(".") and read_note(place) is not None:
            yield place


def _unfinished(node: Node) -> Iterator[Action]:
    for path in sorted(node.src.iterdir()) if node.src.is_dir() else ():
        if _UNFINISHED.match(path.name):
            yield Action("left over", path.name, path, "removed", "of a run that was cut off", partial(remove, path), before="there")


def _patched(node: Node) -> frozenset[Path]:
    """Return the files that are patched at the moment, and that nobody has edited since."""
    # who restores is told of a damaged journal; whoever resets only sees more edited files
    with contextlib.suppress(PatchError):
        outcomes = [outcome for journal in Journal.every(node.state) for outcome in journal.restore(write=False)]
        return frozenset(outcome.entry.path for outcome in outcomes if outcome.state == RESTORED)
    return frozenset()


def _planned(place: Path, node: Node, bundle: Bundle, patched: Collection[Path]) -> Action:
    """Return what resetting a working copy of ours does."""
    lost = loss(place, patched)
    apply = None if lost.nothing else partial(_reset_unused, lost, node, bundle)
    warning = f"{place}: {lost.text}" if apply else ""
    return Action("worktree", place.name, place, "clean", lost.text, apply, before=lost.files, after="clean", warning=warning)


def _reset_unused(lost: Loss, node: Node, bundle: Bundle) -> None:
    with unused(node.state, [lost.place]):
        reset(lost, bundle)


def loss(place: Path, patched: Collection[Path] = ()) -> Loss:
    """Return what resetting the working copy at *place*, which is ours, does.

    :param patched: files, wherever they are, that only patching has changed.
    :raises GitError: git cannot read it.
    """
    note, about = read_note(place) or {}, f"working copy {place}"
    state = _checkout.worktree_state(place)
    added = tuple(path for path in state.changed if path not in state.edited and path not in OWN)
    with session() as git:
        tree = git.at(tree=place)
        strays = [found for found in (_stray(tree, place, note["commit"]), *_strays_below(git, place)) if found]
        ahead = tree.read("rev-list", "--count", "--branches", "--not", "--remotes", "--tags", note["commit"], about=about)
    return Loss(
        place=place,
        commit=note.get("moving", note["commit"]),
        head=state.commit,
        edited=tuple(path for path in state.edited if place.resolve() / path not in patched),
        patched=tuple(path for path in state.edited if place.resolve() / path in patched),
        added=added,
        strays=tuple(strays),
        ahead=int(ahead),
        foreign=tuple(path for path in added if (place / path / ".git").is_dir()),
    )


def _stray(tree: Git, folder: Path, *known: str) -> Stray | None:
    about = f"working copy {folder}"
    count = int(tree.read("rev-list", "--count", "HEAD", "--not", "--branches", "--remotes", "--tags", *known, about=about))
    return Stray(folder, tree.read("rev-parse", "HEAD", about=about), count) if count else None


def _strays_below(git: Git, place: Path) -> Iterator[Stray | None]:
    """Yield those of the submodules that are not at the commit that the repository asks for."""
    if not (place / ".gitmodules").is_file():
        return
    for line in git.at(tree=place).read("submodule", "status", "--recursive", about=f"working copy {place}").splitlines():
        if line.startswith("+"):
            # "+<commit> <path>", and what git describes it as in parentheses
            folder = place / line[1:].partition(" ")[2].rpartition(" (")[0]
            yield _stray(git.at(tree=folder), folder)


def reset(lost: Loss, bundle: Bundle) -> None:
    """Put a working copy of ours back to the commit it was made at: hard reset and clean, after its commits are kept.

    :raises TargetError: there are repositories of somebody's in it, or it is not clean afterwards.
    """
    place, about = lost.place, f"working copy {lost.place}"
    if lost.foreign:
        raise TargetError(
            f"{about} has repositories in it that are not ours: {named(lost.foreign)}. Move them elsewhere; it is left as it is."
        )
    with session(repos=bundle.repos) as git:
        tree = git.at(tree=place)
        for stray in lost.strays:
            git.at(tree=stray.folder).write("branch", "--force", stray.branch, stray.head, about=about)
        remove(place / ".git" / "index.lock")
        tree.write("reset", "--quiet", "--hard", "HEAD", about=about)
        tree.write("checkout", "--quiet", "--force", "--detach", lost.commit, "--", about=about)
        if (place / ".gitmodules").is_file():
            tree.write("submodule", "--quiet", "update", "--recursive", "--force", "--checkout", about=about)
        # twice -f: submodules that this commit does not have
        tree.write("clean", "--quiet", "-ffd", *(f"--exclude=/{name}" for name in sorted(OWN)), about=about)
    left = tuple(path for path in _checkout.worktree_state(place).changed if path not in OWN)
    if left:
        raise TargetError(f"{about} is not clean after the reset: {named(left)}. Look at it, or remove it and install again.")
    note = read_note(place) or {}
    remove(place / SCRIPTED)
    if "moving" in note:
        write_json(place / NOTE, {key: value for key, value in note.items() if key != "moving"} | {"commit": lost.commit})
