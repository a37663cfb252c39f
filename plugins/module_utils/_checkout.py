# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Working copies out of a bundle's mirrors, without the network: making them, and looking at them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ansible_collections.rlinf.offline.plugins.module_utils import _lfs
from ansible_collections.rlinf.offline.plugins.module_utils._errors import GitError
from ansible_collections.rlinf.offline.plugins.module_utils._files import remove, rename
from ansible_collections.rlinf.offline.plugins.module_utils._git import session
from ansible_collections.rlinf.offline.plugins.module_utils._urls import RepositoryId, without_userinfo


def commit_time(mirror_path: Path, commit: str) -> int:
    """Return the committer date of a commit in a mirror, in seconds since the epoch.

    :raises GitError: the mirror has no such commit.
    """
    with session() as git:
        return int(
            git.at(git_dir=mirror_path).read("show", "--no-patch", "--format=%ct", f"{commit}^{{commit}}", about=f"mirror {mirror_path}")
        )


@dataclass(frozen=True)
class WorktreeState:
    """Where a working copy is: its commit, and the files that differ from it or that it does not know (ignored ones do not count).

    *edited*: those of *changed* that git knows; the others were only added.
    """

    commit: str
    clean: bool
    changed: tuple[str, ...]
    edited: tuple[str, ...] = ()


def worktree_state(path: Path) -> WorktreeState:
    """Return the state of a working copy; nothing in it is written.

    :raises GitError: it is none.
    """
    about = f"working copy {path}"
    with session() as git:
        tree = git.at(tree=path)
        commit = tree.read("rev-parse", "--verify", "HEAD^{commit}", about=about)
        listed = tree.read("status", "--porcelain=v1", "-z", "--no-renames", "--untracked-files=all", about=about)
    entries = sorted((entry[3:], entry[:2]) for entry in listed.split("\0") if entry)
    edited = tuple(path for path, code in entries if code != "??")
    return WorktreeState(commit, not entries, tuple(path for path, _code in entries), edited)


def checkout(
    mirror_path: Path,
    commit: str,
    destination: Path,
    *,
    origin_url: str,
    branch: str | None = None,
    submodules: bool = False,
    lfs: bool = False,
) -> None:
    """Make a working copy of a commit out of a bundle's mirror, without the network. It shares nothing with the bundle.

    Made aside and renamed: *destination* is there whole or not at all.

    :param origin_url: the real URL, which ``origin`` of the copy names.
    :param branch: the local branch to make at the commit, following that of ``origin``; HEAD is detached if not given.
    :param submodules: whether to bring its submodules, from mirrors in the same bundle.
    :param lfs: whether to bring the content of LFS files, which the mirror must hold.
    :raises GitError: the mirror lacks the commit, or *destination* is there already.
    """
    about = f"working copy {destination}"
    if destination.is_symlink() or destination.exists():
        raise GitError(f"{about}: it is there already. Move it elsewhere and run again.")
    if not mirror_path.is_dir():
        raise GitError(f"{about}: the bundle has no mirror {mirror_path}. Run the download playbook and push again.")
    plain = without_userinfo(origin_url)
    part = destination.with_name(f".{destination.name}.part")
    remove(part)
    with session(repos=_repos(mirror_path, plain)) as git:
        # by its path, which copies the packs as they are
        git.write("clone", "--quiet", "--no-hardlinks", "--no-checkout", "--", mirror_path, part, about=about)
        tree = git.at(tree=part)
        tree.write("remote", "set-url", "origin", plain, about=about)
        tree.write("checkout", "--quiet", *(("-B", branch) if branch else ("--detach",)), commit, "--", about=about)
        if branch and tree.test("rev-parse", "--verify", "--quiet", f"refs/remotes/origin/{branch}^{{commit}}"):
            tree.write("branch", "--quiet", f"--set-upstream-to=origin/{branch}", branch, about=about)
        if lfs:
            _lfs.check_out(tree, mirror_path, part, about)
        if submodules:
            tree.write("submodule", "--quiet", "update", "--init", "--recursive", "--checkout", about=about)
    rename(part, destination)


def _repos(mirror_path: Path, url: str) -> Path:
    """Return the ``repos/`` that a mirror lies under."""
    return mirror_path.absolute().parents[RepositoryId.parse(url).mirror.count("/")]
