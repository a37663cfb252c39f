# SPDX-License-Identifier: GPL-3.0-or-later
"""Repositories of an upstream, made by real git with fixed authors and dates."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

IDENTITY = {
    "GIT_AUTHOR_NAME": "Upstream",
    "GIT_AUTHOR_EMAIL": "upstream@example.invalid",
    "GIT_COMMITTER_NAME": "Upstream",
    "GIT_COMMITTER_EMAIL": "upstream@example.invalid",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
}


def git(*arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """Run git with nothing of this machine's settings; return what it prints."""
    done = subprocess.run(
        ["git", *map(str, arguments)], cwd=cwd, check=True, capture_output=True, text=True, env={**os.environ, **IDENTITY, **(env or {})}
    )
    return done.stdout.removesuffix("\n")


class Origin:
    """A repository of an upstream: worked on in a copy of its own, published as a bare one.

    :param root: the upstream's root; the repository is published under ``git/`` there.
    :param name: ``host/owner/name.git``.
    :param branch: its default branch.
    """

    def __init__(self, root: Path, name: str, branch: str = "main") -> None:
        self.bare = root / "git" / name
        self.tree = root.parent / "origins" / name.removesuffix(".git")
        self.url = f"https://{name}"
        self.tree.mkdir(parents=True)
        git("init", "--quiet", "--bare", f"--initial-branch={branch}", self.bare, cwd=root.parent)
        git("init", "--quiet", f"--initial-branch={branch}", cwd=self.tree)
        git("remote", "add", "origin", self.bare, cwd=self.tree)

    @classmethod
    def copied(cls, root: Path, name: str) -> Origin:
        """Return the one that lies below a copy of the upstream's root and of the ``origins/`` beside it: copying takes less than making."""
        origin = cls.__new__(cls)
        origin.bare, origin.tree, origin.url = root / "git" / name, root.parent / "origins" / name.removesuffix(".git"), f"https://{name}"
        origin.git("remote", "set-url", "origin", origin.bare)
        return origin

    def git(self, *arguments: str | Path) -> str:
        """Run git in the copy."""
        return git(*arguments, cwd=self.tree, env={"GIT_ALLOW_PROTOCOL": "file"})

    def commit(self, date: str = "2025-01-01T12:00:00+00:00", **files: str) -> str:
        """Write files, commit them, publish; return the commit. Without files the commit is empty."""
        for name, text in files.items():
            (self.tree / name).write_text(text, encoding="utf-8")
        git("add", "--all", cwd=self.tree)
        env = {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
        git("commit", "--quiet", "--allow-empty", "--message", f"{date} {sorted(files)}", cwd=self.tree, env=env)
        self.publish()
        return self.head

    @property
    def head(self) -> str:
        return self.git("rev-parse", "HEAD")

    def publish(self) -> None:
        """Make the published repository what the copy is, its history included."""
        self.git(
            "push",
            "--quiet",
            "--force",
            "--prune",
            "origin",
            "+refs/heads/*:refs/heads/*",
            "+refs/tags/*:refs/tags/*",
            "+refs/pull/*:refs/pull/*",
        )

    def submodule(self, path: str, url: str, commit: str) -> None:
        """Pin a submodule, written down by *url* whatever that leads to."""
        self.git("config", "--file", ".gitmodules", f"submodule.{path}.path", path)
        self.git("config", "--file", ".gitmodules", f"submodule.{path}.url", url)
        self.git("update-index", "--add", "--cacheinfo", f"160000,{commit},{path}")
        # a folder must be there, or `git add --all` takes the pin away
        (self.tree / path).mkdir(parents=True, exist_ok=True)
