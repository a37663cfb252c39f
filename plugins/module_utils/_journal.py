# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal of a project's patched files: whatever happens in between, restoring gives back bytes, mode and time. Standard library only.

Before the first change, every original and a list of what is going to be done are on the disk. So a process may be killed at any
instruction, while patching or while restoring: the digests tell for each file how far it got.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._errors import PatchError
from ansible_collections.rlinf.offline.plugins.module_utils._files import (
    atomic_write,
    exclusive,
    fsync_directory,
    json_bytes,
    read_json,
    remove,
    remove_temporaries,
    rename,
    sha256_bytes,
    sha256_file,
)

FORMAT = 1
REQUIREMENTS, MAIN, REPO, LOCK = "requirements", "main pyproject", "repo pyproject", "uv.lock"
"""The kinds of files, as messages name them. A file of the last kind is put aside while the others are patched."""
EXCLUDE = "exclude"

RESTORED, UNTOUCHED, KEPT, REFUSED, REMOVED = "restored", "unchanged", "kept", "refused", "absent"
"""What became of a file: put back; the original already; the user's by now; edited, so that restoring it would lose something; no longer there."""


@dataclass(frozen=True)
class Change:
    """A file that is to be patched; *before* None: it is not there; *after* None: it is put aside."""

    path: Path
    kind: str
    before: bytes | None
    after: bytes | None


@dataclass(frozen=True)
class Entry:
    """A patched file in the journal: what it was, and the SHA-256 of its content before and while it is patched (None: not there)."""

    path: Path
    kind: str
    mode: int
    mtime_ns: int
    uid: int
    gid: int
    original: str | None
    patched: str | None

    @classmethod
    def of(cls, change: Change) -> Entry:
        """Describe the file as it lies there now."""
        status = change.path.lstat() if change.before is not None else change.path.parent.stat()
        mode, mtime_ns = (status.st_mode & 0o7777, status.st_mtime_ns) if change.before is not None else (0o644, 0)
        return cls(change.path, change.kind, mode, mtime_ns, status.st_uid, status.st_gid, _sha256(change.before), _sha256(change.after))

    @property
    def backup(self) -> Path:
        """Where the original lies while the file is patched."""
        return self.path.with_name(f"{self.path.name}.backup")

    @property
    def used(self) -> Path:
        """Where the patched content lies afterwards."""
        return self.path.with_name(f"{self.path.name}.patched")

    @property
    def owner(self) -> tuple[int, int]:
        return self.uid, self.gid


@dataclass(frozen=True)
class State:
    """What a journal says: the files that are patched, every ``*.patched`` that was left, and the changed lists of ignored files."""

    bundle_url: str = ""
    files: tuple[Entry, ...] = ()
    used: tuple[Path, ...] = ()
    excludes: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What restoring did, or would do, to a file."""

    entry: Entry
    state: str
    reason: str


class Journal:
    """The journal of one project.

    :param state_dir: where state is kept on this machine; journals are in ``journals/`` there.
    :param project: the project's directory, resolved.
    """

    def __init__(self, state_dir: Path, project: Path) -> None:
        self.state_dir = state_dir
        self.project = project
        self.name = hashlib.sha256(os.fsencode(project)).hexdigest()[:16]
        self.folder = state_dir / "journals" / self.name
        self.file = self.folder / "journal.json"
        self.originals_dir = self.folder / "originals"

    @classmethod
    def every(cls, state_dir: Path) -> list[Journal]:
        """Return the journals of all projects of which something is patched, or left over.

        :raises PatchError: one is damaged.
        """
        files = sorted((state_dir / "journals").glob("*/journal.json"))
        return [cls(state_dir, _project(file)) for file in files]

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep every other process of this machine off while the body runs.

        :raises OfflineError: another one is at it.
        """
        with exclusive(self.folder.with_name(f"{self.name}.lock"), f"the patch journal of {self.project}"):
            yield

    def read(self) -> State:
        """Return what is in the journal; nothing if there is none.

        :raises PatchError: it is damaged.
        """
        try:
            data = _known(self.file)
        except FileNotFoundError:
            return State()
        try:
            return State(
                bundle_url=_text(data["bundle_url"]),
                files=tuple(_entry(item) for item in data["files"]),
                used=tuple(_path(path) for path in data["used"]),
                excludes=tuple(_entry(item) for item in data["excludes"]),
            )
        except (KeyError, TypeError, ValueError) as exception:
            raise _damaged(self.file, exception) from None

    def originals(self) -> dict[Path, bytes | None]:
        """Return what the files that are patched held before; None for one that was not there."""
        return {entry.path: None if entry.original is None else self._original(entry) for entry in self.read().files}

    def holds(self, changes: Sequence[Change]) -> bool:
        """Return whether exactly these changes are in place, complete."""
        state = self.read()
        wanted = {change.path: (_sha256(change.before), _sha256(change.after)) for change in changes}
        return (
            wanted == {entry.path: (entry.original, entry.patched) for entry in state.files}
            and all(self._is_patched(entry) for entry in state.files)
            and (not changes or all(self._block in _content(note.path) for note in state.excludes))
        )

    def _is_patched(self, entry: Entry) -> bool:
        if entry.original is not None and _digest(entry.backup) != entry.original:
            return False
        if entry.kind == LOCK:
            # uv may have made a new one out of the patched files
            return entry.original is None or _digest(entry.path) != entry.original
        return _digest(entry.path) == entry.patched

    def check_free(self, changes: Sequence[Change]) -> None:
        """Make sure that nothing of the user's lies where backups and used files will.

        :raises PatchError: something does; all of it is named.
        """
        state = self.read()
        ours = {entry.backup for entry in state.files} | set(state.used)
        entries = [Entry.of(change) for change in changes]
        found = [path for entry in entries for path in (entry.backup, entry.used) if path not in ours and os.path.lexists(path)]
        if found:
            names = ", ".join(str(path) for path in found)
            raise PatchError(
                f"In the way, and not in the journal {self.folder}: {names}. They may come from another tool or another state_dir: "
                "restore with that one, or move them elsewhere. Nothing was changed."
            )

    def apply(self, changes: Sequence[Change], excludes: Sequence[Path], bundle_url: str) -> None:
        """Write the journal, then make the changes. What was patched before must be restored by now.

        :param excludes: lists of ignored files (``.git/info/exclude``) in which backups and used files are to be listed.
        :param bundle_url: the beginning of every URL that is patched in.
        :raises PatchError: a file changed meanwhile.
        :raises OSError: one could not be written; restoring puts everything back.
        """
        entries = [Entry.of(change) for change in changes]
        state = self.read()
        notes = {note.path: note for note in state.excludes}
        listing = {path: content for path, content in ((path, _content(path)) for path in excludes) if self._block not in content}
        for path, content in listing.items():
            before = content if path.exists() else None
            path.parent.mkdir(exist_ok=True)
            notes[path] = Entry.of(Change(path, EXCLUDE, before, self._listed(content)))
        used = dict.fromkeys([*state.used, *(entry.used for entry in entries)])
        self._keep([change.before for change in changes if change.before is not None] + list(listing.values()))
        self._write(State(bundle_url, tuple(entries), tuple(used), tuple(notes.values())))
        for path, content in listing.items():
            atomic_write(path, self._listed(content), mode=notes[path].mode, owner=notes[path].owner)
        for entry, change in zip(entries, changes, strict=True):
            self._patch(entry, change)

    def _patch(self, entry: Entry, change: Change) -> None:
        if _digest(entry.path) != entry.original:
            raise PatchError(f"{entry.path} changed while it was being patched. Run again.")
        if change.before is not None:
            atomic_write(entry.backup, change.before, mode=entry.mode, mtime_ns=entry.mtime_ns, owner=entry.owner)
        if change.after is None:
            remove(entry.path)
        else:
            atomic_write(entry.path, change.after, mode=entry.mode, owner=entry.owner)

    def restore(self, *, write: bool = True) -> list[Outcome]:
        """Put every patched file back, but those that were edited meanwhile.

        :param write: whether to do it, or only to say what would be done.
        :returns: what became of each; those refused stay in the journal.
        """
        state = self.read()
        outcomes = [self._restored(entry, state.bundle_url, write) for entry in state.files]
        if write and outcomes:
            self._write(replace(state, files=tuple(outcome.entry for outcome in outcomes if outcome.state == REFUSED)))
        if write:
            # those, too, that a killed process no longer came to
            self._drop_originals()
        return outcomes

    def _restored(self, entry: Entry, bundle_url: str, write: bool) -> Outcome:
        """Decide by content what is to become of a file, and do it."""
        try:
            now = _digest(entry.path)
            backup = os.path.lexists(entry.backup)
            # a lock that uv made out of patched files names the bundle, as an edited file does that is still patched
            ours = bundle_url.encode() in _content(entry.path)
            if now == entry.original:
                outcome = Outcome(entry, UNTOUCHED, "the original already")
            elif now == entry.patched or (now is None and backup) or (entry.kind == LOCK and ours):
                outcome = Outcome(entry, RESTORED, "put back")
                if write:
                    self._put_back(entry)
            elif backup or ours:
                return Outcome(entry, REFUSED, self._edited(entry))
            else:
                outcome = Outcome(entry, KEPT, "edited, and its backup is gone: left as it is")
            if write:
                self._clear(entry)
            return outcome
        except OSError as error:
            return Outcome(entry, REFUSED, f"{error.filename or entry.path}: {error.strerror}")

    def _edited(self, entry: Entry) -> str:
        take = f"to have the original, run: mv {entry.backup} {entry.path}"
        keep = f"to keep yours, take the bundle's paths out of it and remove {entry.backup}"
        return f"{entry.path} was edited since it was patched: {take}; {keep}"

    def _put_back(self, entry: Entry) -> None:
        if entry.path.exists():
            atomic_write(entry.used, entry.path.read_bytes(), mode=entry.mode, owner=entry.owner)
        if entry.original is None:
            remove(entry.path)
        elif self._is_whole(entry):
            rename(entry.backup, entry.path)
        else:
            atomic_write(entry.path, self._original(entry), mode=entry.mode, mtime_ns=entry.mtime_ns, owner=entry.owner)

    def _is_whole(self, entry: Entry) -> bool:
        """Return whether the backup is what was put there. Renaming it is possible on a full disk too."""
        if _digest(entry.backup) != entry.original:
            return False
        status = entry.backup.lstat()
        return (status.st_mode & 0o7777, status.st_mtime_ns) == (entry.mode, entry.mtime_ns)

    def _clear(self, entry: Entry) -> None:
        """Remove the backup and what killed processes left beside the file."""
        if _digest(entry.backup) == entry.original:
            remove(entry.backup)
        for path in (entry.path, entry.backup, entry.used):
            remove_temporaries(path)

    def leftovers(self) -> list[Path]:
        """Return every used file of ours that is there."""
        return [path for path in self.read().used if path.is_file() and not path.is_symlink()]

    def purge(self) -> None:
        """Remove every used file; when everything is restored, give back the lists of ignored files, and remove the journal."""
        for path in self.leftovers():
            remove(path)
        state = self.read()
        if state.files:
            self._write(replace(state, used=()))
            return
        for note in state.excludes:
            self._unlist(note)
        remove(self.folder)

    def _unlist(self, note: Entry) -> None:
        content = _content(note.path)
        if _sha256(content) == note.patched and note.original is None:
            remove(note.path)
        elif _sha256(content) == note.patched:
            atomic_write(note.path, self._original(note), mode=note.mode, mtime_ns=note.mtime_ns, owner=note.owner)
        elif self._block in content:
            atomic_write(note.path, content.replace(self._block, b"", 1), mode=note.mode, owner=note.owner)
        remove_temporaries(note.path)

    @property
    def _block(self) -> bytes:
        return f"# rlinf.offline, journal {self.name}\n*.backup\n*.patched\n".encode()

    def _listed(self, content: bytes) -> bytes:
        return content + (b"\n" if content and not content.endswith(b"\n") else b"") + self._block

    def _write(self, state: State) -> None:
        files, excludes = ([{**asdict(entry), "path": str(entry.path)} for entry in entries] for entries in (state.files, state.excludes))
        data = {
            "format": FORMAT,
            "project": str(self.project),
            "bundle_url": state.bundle_url,
            "files": files,
            "used": [str(path) for path in state.used],
            "excludes": excludes,
        }
        atomic_write(self.file, json_bytes(data), mode=0o600)

    def _keep(self, contents: Sequence[bytes]) -> None:
        """Have copies of these contents on the disk, each under its digest."""
        self.originals_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        for content in contents:
            atomic_write(self.originals_dir / sha256_bytes(content), content, mode=0o600)
        for folder in (self.folder, self.folder.parent, self.folder.parent.parent):
            fsync_directory(folder)

    def _original(self, entry: Entry) -> bytes:
        copy = self.originals_dir / str(entry.original)
        content = _content(copy)
        if _sha256(content) != entry.original:
            raise PatchError(f"{copy}, the original of {entry.path}, is missing or damaged. Take the file from git or a backup.")
        return content

    def _drop_originals(self) -> None:
        state = self.read()
        needed = {entry.original for entry in (*state.files, *state.excludes)}
        for copy in sorted(self.originals_dir.iterdir()) if self.originals_dir.is_dir() else ():
            if copy.name not in needed:
                remove(copy)
        remove_temporaries(self.file)


def _known(file: Path) -> dict[str, Any]:
    """Return what a journal's file holds.

    :raises PatchError: it is damaged, or of another version.
    """
    data = read_json(file, PatchError)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise PatchError(f"{file} was written by another version of this collection. Restore with that version first.")
    return data


def _project(file: Path) -> Path:
    try:
        return _path(_known(file)["project"])
    except (KeyError, ValueError) as exception:
        raise _damaged(file, exception) from None


def _damaged(file: Path, exception: Exception) -> PatchError:
    return PatchError(
        f"{file} is damaged ({type(exception).__name__}: {exception}). The originals lie beside it and as *.backup in the project: put "
        "them back by hand, then remove its folder."
    )


def _text(text: Any) -> str:
    """:raises ValueError: it is none."""
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is no text")
    return text


def _path(text: Any) -> Path:
    """:raises ValueError: it is no absolute path."""
    if b"\0" in os.fsencode(_text(text)) or not text.startswith("/"):
        raise ValueError(f"{text!r} is no absolute path")
    return Path(text)


def _entry(data: dict[str, Any]) -> Entry:
    """:raises ValueError: a value is of another kind than it must be; KeyError and TypeError likewise."""
    entry = Entry(**{**data, "path": _path(data["path"])})
    numbers = (entry.mode, entry.mtime_ns, entry.uid, entry.gid)
    texts = (entry.original or "", entry.patched or "", entry.kind)
    if not all(isinstance(number, int) for number in numbers) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{data!r} describes no file")
    return entry


def _sha256(content: bytes | None) -> str | None:
    return None if content is None else sha256_bytes(content)


def _digest(path: Path) -> str | None:
    """Return the SHA-256 of a file; None if it is not there, and a word that is no digest for what is no plain file."""
    if path.is_symlink() or path.is_dir():
        return "no file"
    try:
        return sha256_file(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _content(path: Path) -> bytes:
    """Return what is in a file; nothing if it is not there or no plain file."""
    return path.read_bytes() if path.is_file() and not path.is_symlink() else b""
