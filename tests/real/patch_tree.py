# SPDX-License-Identifier: GPL-3.0-or-later
"""Patch a real checkout with a real bundle and restore it: a table of every reference, and the proof that nothing else changed.

    python -m tests.real.patch_tree PROJECT BUNDLE [WORKTREE ...]

The checkout is worked on where it lies, and is as it was at the end. State is kept in a temporary directory.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from ansible_collections.rlinf.offline.plugins.module_utils._patch import Result, patch, restore

Files = dict[Path, tuple[int, int, str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("worktrees", type=Path, nargs="*")
    given = parser.parse_args()
    roots = [given.project.resolve(), *(path.resolve() for path in given.worktrees)]
    before, said = files(roots), [git_status(root) for root in roots]
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        try:
            done = patch(given.project, given.bundle, state, worktrees=given.worktrees)
            table(done)
            changed = [path for path, what in files(roots).items() if path in before and what != before[path]]
            expect([str(path) for path in changed] == sorted(written(done, roots[0])), "only the files with replacements were written")
            expect(not patch(given.project, given.bundle, state, worktrees=given.worktrees).changed, "patching again changes nothing")
        finally:
            restore(given.project, state, purge=True)
    expect(files(roots) == before, f"{len(before)} files have their bytes, modes and times back")
    expect([git_status(root) for root in roots] == said, "git status is what it was")


def files(roots: list[Path]) -> Files:
    """Return mode, time and digest of every file, ``.git`` aside."""
    found: Files = {}
    for root in roots:
        for path in sorted(root.rglob("*")):
            if path.is_file() and not path.is_symlink() and ".git" not in path.relative_to(root).parts:
                status = path.stat()
                found[path] = (status.st_mode, status.st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
    return found


def written(done: Result, project: Path) -> list[str]:
    return [str(project / name) for name in {found.file for found in done.references if found.replacement}]


def git_status(root: Path) -> str:
    return subprocess.run(["git", "status", "--porcelain"], cwd=root, check=True, capture_output=True, text=True).stdout


def table(done: Result) -> None:
    rows = [
        (f"{found.file}:{found.line}", found.kind, found.url, found.replacement or f"left: {found.reason}") for found in done.references
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip())
    led = sum(found.replacement is not None for found in done.references)
    print(f"{len(rows)} references: {led} led to the bundle, {len(rows) - led} left")


def expect(holds: bool, what: str) -> None:
    print(f"{'ok' if holds else 'NOT SO'}: {what}")
    if not holds:
        sys.exit(1)


if __name__ == "__main__":
    main()
