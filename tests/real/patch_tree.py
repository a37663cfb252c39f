# SPDX-License-Identifier: GPL-3.0-or-later
"""Patch real trees of RLinf and restore them: what is found, patched and left, what of it is wrong, and what differs afterwards.

    python -m tests.real.patch_tree [BRANCH ...] [--work DIR] [--record PAGE]

Each branch is patched alone; then, beside the first, the working copies of every other repository of the catalogue.
The bundle has mirrors of all of these, and in place of every x86_64 wheel that a tree refers to a stand-in with its name.
``RLINF_UPSTREAM`` names a directory with a stand-in for github.com (``github.com/OWNER/NAME.git``) where GitHub cannot be reached; whatever
lies there is mirrored. The figures go to ``docs/benchmarks.md``.

Whether a rewrite is right is not the patcher's own opinion: both sides of every file are read by :mod:`tests.support.asked`, and each address
is judged by what the mirrors hold.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ansible_collections.rlinf.offline.plugins.module_utils._patch import Found, Result, patch, restore
from tests.real.page import PAGE, write_section
from tests.support.asked import Address, by_pyproject, by_requirements

ROOT = Path(__file__).resolve().parents[2]
BRANCHES = ("release/v0.1", "release/v0.2", "release/v0.3", "main")
HEADING = "Patching real trees"
Files = dict[Path, tuple[int, int, bytes]]


def git(*arguments: str | Path, cwd: Path | None = None) -> str:
    return subprocess.run(["git", *map(str, arguments)], cwd=cwd, check=True, capture_output=True, text=True).stdout.strip()


# -- the bundle and the trees ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Repository:
    """One of the catalogue."""

    name: str
    url: str
    version: str

    @property
    def place(self) -> str:
        return self.url.removeprefix("https://").removesuffix(".git")


def catalogue() -> list[Repository]:
    text = (ROOT / "roles" / "common" / "vars" / "main.yml").read_text(encoding="utf-8")
    known = yaml.safe_load(text)["__rlinf_shipped_catalog"]["repositories"]
    return [Repository(name, entry["url"], entry.get("version", "HEAD")) for name, entry in known.items()]


def make_bundle(bundle: Path, upstream: Path | None) -> None:
    """Have a mirror of every repository of the catalogue; of a stand-in for github.com, links to all that it has."""
    if upstream:
        found = [path.relative_to(upstream) for path in upstream.glob("*/*/*.git")]
        for place in found:
            (bundle / "repos" / place).parent.mkdir(parents=True, exist_ok=True)
            (bundle / "repos" / place).symlink_to(upstream / place)
        return
    for repository in catalogue():
        git("clone", "--quiet", "--bare", repository.url, bundle / "repos" / f"{repository.place}.git")


def check_out(bundle: Path, repository: Repository, version: str, place: Path) -> Path:
    git("clone", "--quiet", "--shared", "--no-checkout", bundle / "repos" / f"{repository.place}.git", place)
    commit = git("rev-parse", "--verify", f"origin/{version}" if version != "HEAD" else "HEAD", cwd=place)
    git("checkout", "--quiet", "--detach", commit, cwd=place)
    return place


def stand_in_wheels(bundle: Path, trees: Iterable[Path]) -> int:
    """Put a file in the place of each x86_64 wheel that trees refer to; return how many there are."""
    (bundle / "wheels").mkdir()
    for path in (path for tree in trees for path in tree.glob("requirements/**/*.txt")):
        for address in by_requirements(path.read_text(encoding="utf-8")).addresses:
            if address.place.endswith("x86_64.whl"):
                (bundle / "wheels" / Path(address.place).name).write_bytes(b"a stand-in")
    return len(list((bundle / "wheels").iterdir()))


# -- judging -----------------------------------------------------------------------------------------------------------------------


@dataclass
class Judge:
    """Says of an address what it should have become, by looking at the mirrors with git, and at the wheels."""

    bundle: Path
    mirrors: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        repos = self.bundle / "repos"
        self.mirrors = {str(path.relative_to(repos)).removesuffix(".git").lower(): path for path in repos.glob("*/*/*.git")}

    def wanted(self, address: Address) -> Path | None:
        """Return the mirror or wheel that an address is to lead to, if there is one that has what is asked for."""
        if not address.git:
            wheel = self.bundle / "wheels" / Path(address.place).name
            return wheel if wheel.is_file() else None
        mirror = self.mirrors.get(address.place.lower())
        revision = address.ref.rpartition(" ")[2] or "HEAD"
        if not mirror or address.url.partition("#")[0].endswith("@"):
            return None
        looked = ["git", "--git-dir", str(mirror), "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"]
        return mirror if subprocess.run(looked, check=False, capture_output=True).returncode == 0 else None

    def problems(self, old: Address, new: Address) -> Iterator[str]:
        """Yield what is wrong with what an address became."""
        wanted = self.wanted(old)
        if wanted is None:
            if new != old:
                yield f"{old.url} became {new.url}, which was to be left"
        elif not new.local:
            yield f"{old.url} was left, although {wanted} has it"
        elif (f"/{new.place}", new.git, new.ref, new.rest) != (str(wanted).removesuffix(".git"), old.git, old.ref, old.rest):
            yield f"{old.url} became {new.url}, not what {wanted} has of it"
        elif new.git:
            # what an installer does with it
            git("ls-remote", new.url.removeprefix("git+").partition("#")[0].partition("@")[0])


# -- one tree ----------------------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """What came of one tree."""

    name: str
    files: int
    done: Result
    wrong: list[str]
    different: list[str]

    @property
    def left(self) -> list[Found]:
        return [found for found in self.done.references if found.replacement is None]

    @property
    def cells(self) -> list[str]:
        found = len(self.done.references)
        return [self.name, *map(str, (self.files, found, found - len(self.left), len(self.left), len(self.wrong), len(self.different)))]


def look(name: str, judge: Judge, project: Path, worktrees: Sequence[Path] = ()) -> Row:
    """Patch a tree, judge it, restore it, and look for any difference."""
    roots = [project, *worktrees]
    before, said = snapshot(roots), [git("status", "--porcelain", cwd=root) for root in roots]
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        try:
            done = patch(project, judge.bundle, state, worktrees=worktrees)
            patched = snapshot(roots)
            again = patch(project, judge.bundle, state, worktrees=worktrees).changed
        finally:
            restore(project, state, purge=True)
    after = snapshot(roots)
    read = [path for path in before if is_read(path, project, worktrees)]
    wrong = list(judged(judge, read, before, patched, done, project)) + ["patching again changed something"] * again
    different = [str(path) for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
    different += [str(root) for root, status in zip(roots, said, strict=True) if git("status", "--porcelain", cwd=root) != status]
    return Row(name, len(read), done, wrong, different)


def is_read(path: Path, project: Path, worktrees: Iterable[Path]) -> bool:
    """Return whether a file is one of those that are documented to be patched."""
    own = path.is_relative_to(project / "requirements") and path.suffix == ".txt"
    return own or path in {root / "pyproject.toml" for root in (project, *worktrees)}


def judged(judge: Judge, read: Sequence[Path], before: Files, patched: Files, done: Result, project: Path) -> Iterator[str]:
    """Yield everything that is wrong with the patched files."""
    expected = Counter[tuple[str, str]]()
    for path in read:
        texts = [files[path][2].decode() for files in (before, patched)]
        old, new = (by_pyproject(text) if path.suffix == ".toml" else by_requirements(text) for text in texts)
        name = str(path.relative_to(project)) if path.is_relative_to(project) else str(path)
        expected.update((name, address.url) for address in old.addresses if not address.local)
        if old.rest != new.rest or with_urls(texts[1], new.addresses, old.addresses) != texts[0]:
            yield f"{name}: more than its URLs changed"
            continue
        for one, other in zip(old.addresses, new.addresses, strict=True):
            yield from (f"{name}: {problem}" for problem in judge.problems(one, other))
    names = {item["name"] for item in done.results}
    for path in before.keys() | patched.keys():
        name = str(path.relative_to(project)) if path.is_relative_to(project) else str(path)
        if path in before and before[path] != patched.get(path) and name not in names:
            yield f"{name} was written without being named"
    found = Counter((item.file, item.url) for item in done.references)
    nearby = {name for name, _url in found} - {name for name, _url in expected}
    seen = Counter({key: count for key, count in found.items() if key[0] not in nearby})
    for (name, url), _count in ((expected - seen) + (seen - expected)).items():
        yield f"{name}: {url} was found by one reader only"


def with_urls(text: str, there: Sequence[Address], wanted: Sequence[Address]) -> str:
    """Return a text with the URLs in it replaced one by one, in their order."""
    done = ""
    for one, other in zip(there, wanted, strict=True):
        before, _found, text = text.partition(one.url)
        done += before + other.url
    return done + text


def snapshot(roots: Iterable[Path]) -> Files:
    """Return mode, time and content (of what may be patched; else its digest) of every file, ``.git`` aside."""
    found: Files = {}
    for root in roots:
        for path in sorted(root.rglob("*")):
            if path.is_file() and not path.is_symlink() and ".git" not in path.relative_to(root).parts:
                data, status = path.read_bytes(), path.stat()
                content = data if path.suffix in (".txt", ".toml") else hashlib.sha256(data).digest()
                found[path] = (status.st_mode, status.st_mtime_ns, content)
    return found


# -- the page ----------------------------------------------------------------------------------------------------------------------


def section(rows: Sequence[Row], work: Path, mirrors: int, wheels: int) -> str:
    """Return the figures as a section of docs/benchmarks.md."""
    columns = ["tree", "files read", "references found", "patched", "left", "wrong", "files that differ once restored"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *(f"| {' | '.join(row.cells)} |" for row in rows)]
    every = [
        f"{found.file}:{found.line}  {found.url}\n    -> {found.replacement or f'left: {found.reason}'}"
        for row in rows
        for found in row.done.references
    ]
    return "\n".join(
        [
            f"## {HEADING}, {datetime.date.today():%Y-%m-%d}",
            "",
            f"Trees of RLinf, patched with a bundle of {mirrors} mirrors, and restored (`python -m tests.real.patch_tree`). For the {wheels} x86_64 wheels",
            "that they refer to, stand-ins of the same names are in the bundle.",
            "The last row is the first tree with working copies of the catalogue's other repositories. Wrong is what a reader that shares nothing",
            "with the patcher finds: a URL that leads to another repository, ref or subdirectory, one left although a mirror has it, one that was not",
            "found, or anything else that changed. What differs is judged by content, mode, time and `git status`. From `release/v0.2` on, the git",
            "dependencies of RLinf are named by `requirements/install.sh` and no longer by requirement files, so that there is nothing to patch in them.",
            "",
            *lines,
            "",
            "```",
            *(line.replace(str(work), "…") for line in dict.fromkeys(every)),
            "```",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("branch", nargs="*", default=BRANCHES)
    parser.add_argument(
        "--work", type=Path, help="where bundle and trees are made (a directory that is not there yet); a temporary one if not given"
    )
    parser.add_argument("--record", type=Path, default=PAGE, help="the page that gets the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = (options.work or Path(folder, "work")).resolve()
        work.mkdir(parents=True)
        upstream = os.environ.get("RLINF_UPSTREAM")
        bundle = work / "bundle"
        make_bundle(bundle, Path(upstream).resolve() if upstream else None)
        rlinf, *others = sorted(catalogue(), key=lambda repository: repository.name != "RLinf")
        judge = Judge(bundle)
        trees = {branch: check_out(bundle, rlinf, branch, work / "trees" / branch.replace("/", "-")) for branch in options.branch}
        wheels = stand_in_wheels(bundle, trees.values())
        rows = [look(f"`{branch}`", judge, tree) for branch, tree in trees.items()]
        copies = [check_out(bundle, repository, repository.version, work / "src" / repository.name) for repository in others]
        first = options.branch[0]
        rows.append(look(f"`{first}` and {len(copies)} working copies", judge, trees[first], copies))
        text = section(rows, work, len(judge.mirrors), wheels)
    print(text)
    wrong = [problem for row in rows for problem in (*row.wrong, *(f"differs: {path}" for path in row.different))]
    print("\n".join(wrong), file=sys.stderr)
    if wrong:
        return 1
    write_section(HEADING, text, options.record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
