# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Git LFS: the objects that one commit needs, in a mirror's ``lfs/`` and from there in a working copy."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import cast

from ansible_collections.rlinf.offline.plugins.module_utils._errors import GitError
from ansible_collections.rlinf.offline.plugins.module_utils._faults import checkpoint
from ansible_collections.rlinf.offline.plugins.module_utils._files import fsync_file, remove
from ansible_collections.rlinf.offline.plugins.module_utils._git import Git
from ansible_collections.rlinf.offline.plugins.module_utils._urls import check_url, refuse_userinfo

# git-lfs 3.2 is the first to list as JSON, and older ones are in use
_LISTED = re.compile(r"([0-9a-f]{64}) [*-] ")


def objects(store: Git, commit: str, about: str) -> list[str]:
    """Return the objects (SHA-256) that a commit's files stand for.

    :raises GitError: git-lfs is not installed.
    """
    if store.test("lfs", "version") is None:
        raise GitError(
            f"{about}: it is to be mirrored with LFS, and git-lfs is not there. Install git-lfs, or set lfs to false.", problem="tool"
        )
    # listing makes folders where LFS objects are kept
    aside = Path(store.env["GIT_CONFIG_GLOBAL"]).with_name("lfs")
    listed = store.read("-c", f"lfs.storage={aside}", "lfs", "ls-files", "--long", commit, about=about)
    # names come as they are, line ends in them too: what such a one adds is no digest, or one that no server has
    return sorted({found[1] for line in listed.split("\n") if (found := _LISTED.match(line))})


def place(folder: Path, digest: str) -> Path:
    """Return where an object lies below a git directory."""
    return folder / "lfs" / "objects" / digest[:2] / digest[2:4] / digest


def missing(store: Git, commit: str, about: str) -> list[str]:
    """Return the objects of a commit that a mirror lacks."""
    git_dir = cast(Path, store.git_dir)
    return [digest for digest in objects(store, commit, about) if not place(git_dir, digest).is_file()]


def fetch(store: Git, commit: str, about: str) -> None:
    """Bring the objects of a commit into a mirror; git-lfs compares each with its digest.

    :raises GitError: one cannot be had, or the repository sends git-lfs to a URL that is not allowed.
    """
    git_dir = cast(Path, store.git_dir)
    wanted = missing(store, commit, about)
    if not wanted:
        return
    for entry in filter(
        None, (store.test("config", "--blob", f"{commit}:.lfsconfig", "--null", "--get-regexp", r"url$") or "").split("\0")
    ):
        check_url(refuse_userinfo(entry.partition("\n")[2], f"{about}: .lfsconfig"), f"{about}: .lfsconfig")
    store.fetch("lfs", "fetch", "origin", commit, about=about)
    lost = [digest for digest in wanted if not place(git_dir, digest).is_file()]
    if lost:
        raise GitError(
            f"{about}: {len(lost)} LFS objects could not be had, {lost[0]} among them. Its LFS server may lack them.", problem="damaged"
        )
    for digest in wanted:
        fsync_file(place(git_dir, digest))
    for name in ("tmp", "incomplete", "cache", "logs"):
        remove(git_dir / "lfs" / name)


def check_out(tree: Git, mirror: Path, folder: Path, about: str) -> None:
    """Put the content of LFS files in place of their pointers, out of a mirror, without the network.

    :raises GitError: git-lfs is not installed, or the mirror lacks an object.
    """
    for digest in objects(tree, "HEAD", about):
        source, destination = place(mirror, digest), place(folder / ".git", digest)
        if not source.is_file():
            raise GitError(
                f"{about}: the mirror {mirror} lacks the LFS object {digest}. Run the download playbook again.", problem="damaged"
            )
        destination.parent.mkdir(parents=True, exist_ok=True)
        checkpoint(f"copy LFS object {digest}")
        shutil.copyfile(source, destination)
    tree.write("lfs", "install", "--local", "--skip-repo", about=about)
    tree.write("lfs", "checkout", about=about)
