# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies in a directory, to be compared and put back."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from tests.faults.calls import Broken

Tree = Mapping[str, str]

# scratch space and logs, which no one relies on; what Python compiles; the signature, which is of the manifest's time, too
_ASIDE = re.compile(
    r"(^|/)(\.cache|cache|logs|__pycache__)(/|$)|(^|/)\.lock$|\.lock$|(^|/)CACHEDIR\.TAG$|(^|/)bundle\.json\.sig$|/uv_cache\.json$"
)
# which uv writes into what it has installed editable: when the source was changed
_UV_CACHE = "/uv_cache.json,"
# written anew with every entry that is added, so that each state between is right, too
_GROWING = re.compile(r"(^|/)records/(?P<name>urls|repositories)\.json\Z")
# says when it was made, and what the files' times are
_MANIFEST = re.compile(r"(^|/)(bundle|rlinf-\d+)/bundle\.json\Z|\Abundle\.json\Z")
# name the manifest
_VOLUME = re.compile(r"(^|/)rlinf-\d+/(volume\.json|SHA256SUMS)\Z")
_DIGEST = re.compile(r'"bundle\.json": ?"[0-9a-f]{64}"|^[0-9a-f]{64} [ *](bundle|volume)\.json$', re.MULTILINE)
# says what the files' times are
_VERIFIED = re.compile(r"(^|/)state/bundle\.json\Z")
# names the manifest, which says when it was made
_ACCEPTED = re.compile(r"(^|/)state/accepted\.json\Z")
# says when it was made, in how long, and of which files, by their times; an environment without one is under construction
_STAMP = re.compile(r"(^|/)(venvs|tools)/[^/]+/rlinf\.json\Z")
# written anew with every step of patching and putting back, so that each state between is right, too
_JOURNAL = re.compile(r"(^|/)state/journals/[^/]+/journal\.json\Z")
_TIME = re.compile(r'"mtime_ns": \d+(, )?')
# says when it was made
_REPORT = re.compile(r"(^|/)report/report\.(json|html)\Z")
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00")
_BUILT = re.compile(r"(?P<environment>(^|.*/)(venvs|tools)/[^/]+-[0-9a-f]{12})/")
_GIT = re.compile(r"(?P<repository>(^|.*/)(\.git|[^/]+\.git))(?P<inside>/.*)?\Z")


# what was found of a file or a repository, by its path and all that changes when it does: restoring leaves what is right as it is
_KNOWN: dict[object, str] = {}


def copy(places: Iterable[Path], folder: Path, *, closely: bool = False) -> None:
    """Make the directories of *folder* that have the names of *places* copies of these, all attributes included.

    :param closely: look at the content of files, too, not at their sizes and times alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # by nanoseconds: two files of one size may be of one second
    look = "--checksum" if closely else "--modify-window=-1"
    subprocess.run(["rsync", "-aHX", "--delete", look, *places, f"{folder}/"], check=True)


def tree(root: Path) -> dict[str, str]:
    """Return for every path below *root* its kind, mode and content; a repository of git by what it holds, not by how it is packed."""
    found: dict[str, str] = {}
    for folder, folders, names in os.walk(root):
        relative = os.path.relpath(folder, root)
        for name in [*names, *folders]:
            path = Path(folder, name)
            key = os.path.normpath(os.path.join(relative, name))
            if _ASIDE.search(key):
                continue
            if (path.name == ".git" or path.name.endswith(".git")) and (path / "HEAD").is_file():
                found[key] = _known((str(path), *_stats(path)), lambda path=path: _repository(path))  # type: ignore[misc]
            elif not _GIT.match(key):
                found[key] = _known((str(path), _stat(path)), lambda path=path, key=key: _entry(path, key))  # type: ignore[misc]
        folders[:] = [name for name in folders if not (name.endswith(".git") and Path(folder, name, "HEAD").is_file())]
    return found


def _known(what: object, look: Callable[[], str]) -> str:
    if what not in _KNOWN:
        _KNOWN[what] = look()
    return _KNOWN[what]


def _stat(path: Path) -> tuple[int, ...]:
    status = path.lstat()
    return status.st_dev, status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _stats(root: Path) -> Iterator[tuple[object, ...]]:
    """Yield what is known of every path of a repository without reading it; what git looks up is in directories, which change, too."""
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            yield os.path.join(folder, name), _stat(Path(folder, name))


def _entry(path: Path, key: str) -> str:
    kind = stat.filemode(path.lstat().st_mode)
    if path.is_symlink():
        return f"{kind} -> {os.readlink(path)}"
    # what is damaged is no text, no JSON, or another
    with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
        said = _said(path, key)
        if said is not None:
            return f"{kind} {said}"
    return f"{kind} {hashlib.sha256(path.read_bytes()).hexdigest()}" if path.is_file() else kind


def _said(path: Path, key: str) -> str | None:
    """Return the content of a file in which something may differ; nothing for any other."""
    if key.endswith(".dist-info/RECORD"):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        return hashlib.sha256("".join(line for line in lines if _UV_CACHE not in line).encode()).hexdigest()
    if _GROWING.search(key):
        return json.dumps(json.loads(path.read_text(encoding="utf-8")), sort_keys=True)
    if _JOURNAL.search(key):
        # the originals' times are those at which they were checked out
        return _TIME.sub("", json.dumps(json.loads(path.read_text(encoding="utf-8")), sort_keys=True))
    if _MANIFEST.search(key):
        return _timeless(path)
    if _VOLUME.search(key):
        return hashlib.sha256(_DIGEST.sub("", path.read_text(encoding="utf-8")).encode()).hexdigest()
    if _VERIFIED.search(key):
        said = json.loads(path.read_text(encoding="utf-8"))
        return json.dumps(
            {
                name: {file: seen[-1] for file, seen in said["files"].items()} if name == "files" else said[name]
                for name in ("format", "serial", "files")
            }
        )
    if _ACCEPTED.search(key):
        return json.dumps({**json.loads(path.read_text(encoding="utf-8")), "manifest": None})
    if _REPORT.search(key):
        return hashlib.sha256(_DATE.sub("", path.read_text(encoding="utf-8")).encode()).hexdigest()
    if _STAMP.search(key):
        own = dict.fromkeys(("fingerprints", "created", "seconds"))
        return json.dumps({**json.loads(path.read_text(encoding="utf-8")), **own}, sort_keys=True)
    return None


def _timeless(manifest: Path) -> str:
    """Return a manifest without the times in it."""
    said = json.loads(manifest.read_text(encoding="utf-8"))
    files = {name: {key: value for key, value in entry.items() if key != "mtime_ns"} for name, entry in said["files"].items()}
    return json.dumps({**said, "files": files, "created": None}, sort_keys=True)


def _repository(path: Path) -> str:
    """Return the refs of a repository that is whole, or what is wrong with it."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["git", "-c", "safe.directory=*", f"--git-dir={path}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    whole = git("fsck", "--connectivity-only", "--no-dangling", "--no-progress")
    refs = git("for-each-ref", "--format=%(refname) %(objectname) %(symref)").stdout
    head = (path / "HEAD").read_text(encoding="utf-8")
    return f"git {'whole' if not whole.returncode else whole.stderr + whole.stdout}\n{head}{refs}"


def differences(one: Tree, other: Tree, limit: int = 8) -> list[str]:
    """Return the first paths at which two trees differ, and how."""
    paths = sorted(path for path in {*one, *other} if one.get(path) != other.get(path))
    said = [f"{path}: {one.get(path, 'not there')!r} != {other.get(path, 'not there')!r}" for path in paths[:limit]]
    return [*said, *([f"and {len(paths) - limit} more"] if len(paths) > limit else [])]


def wrong(now: Tree, before: Tree, after: Tree) -> list[str]:
    """Return the files under a final name that hold neither what was there nor what shall be."""
    return [
        f"{path} is neither what it was nor what it becomes"
        for path, entry in sorted(now.items())
        if path in after and entry.startswith("-") and _used(path, now) and not _right(path, entry, before.get(path), after[path])
    ]


def must_be_right(now: Tree, before: Tree, after: Tree) -> None:
    """:raises Broken: a file under a final name is wrong, see :func:`wrong`."""
    found = wrong(now, before, after)
    if found:
        raise Broken("; ".join(found))


def must_equal(now: Tree, wanted: Tree, what: str) -> None:
    """:raises Broken: the tree is another; the message begins with *what*."""
    said = differences(now, wanted)
    if said:
        raise Broken(f"{what}:\n" + "\n".join(said))


def _used(path: str, now: Tree) -> bool:
    """Whether a path is not of an environment under construction, which nobody uses."""
    found = _BUILT.match(path)
    return not found or f"{found['environment']}/rlinf.json" in now


def _right(path: str, entry: str, before: str | None, after: str) -> bool:
    if entry in (before, after):
        return True
    if _JOURNAL.search(path):
        # of one that is no JSON the digest stands here
        return entry.partition(" ")[2].startswith("{")
    return bool(_GROWING.search(path)) and all(item in _items(after) + _items(before or "- {}") for item in _items(entry))


def _items(entry: str) -> list[tuple[str, object]]:
    """Return the entries of a record, as it is in a tree."""
    try:
        return list(json.loads(entry.partition(" ")[2]).items())
    except ValueError:
        return [(entry, None)]
