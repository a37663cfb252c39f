# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one way to write: beside the place, fsync, rename. Standard library only.

A reader sees the old content or the new, never a part, and what is under its final name survives a power cut.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import io
import itertools
import json
import os
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, TypeVar

from ansible_collections.rlinf.offline.plugins.module_utils._errors import OfflineError
from ansible_collections.rlinf.offline.plugins.module_utils._faults import checkpoint
from ansible_collections.rlinf.offline.plugins.module_utils._shape import misfit

_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP})
"""What flock(2) says on a file system that has no locks: Lustre mounted without, NFS without its daemon."""
CHUNK = 1 << 20
"""Bytes read at a time when hashing or copying."""
_AT_ONCE = 2000
"""Files that wait for a thread: each takes a kilobyte while it does."""
Item = TypeVar("Item")
Result = TypeVar("Result")


def at_home(path: str) -> Path:
    """Return an absolute path for what a user gave, a leading ``~`` expanded: for values that no argument spec can call a path."""
    return Path(path).expanduser().absolute()


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of *data* in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal, in constant memory.

    :raises OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as stream:
        # one for the whole file: the pages of a fresh one for each piece cost time, and what threads free of them is not given back
        buffer = memoryview(bytearray(min(CHUNK, os.fstat(stream.fileno()).st_size or 1)))
        while count := stream.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def of_many(function: Callable[[Item], Result], items: Iterable[Item], jobs: int) -> Iterator[tuple[Item, Result]]:
    """Yield each item with what a function that reads files returns of it, *jobs* of them at a time. There may be hundreds of thousands."""
    left = iter(items)
    with ThreadPoolExecutor(max_workers=max(jobs, 1)) as pool:
        while some := [*itertools.islice(left, _AT_ONCE)]:
            yield from zip(some, pool.map(function, some), strict=True)


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable; a file system that cannot (EINVAL) is left alone."""
    checkpoint(f"fsync {path.name}/")
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def fsync_file(path: Path) -> None:
    """Make the content of a file durable."""
    checkpoint(f"fsync {path.name}")
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def rename(source: Path, destination: Path) -> None:
    """Rename over *destination* and make it durable; both lie in one file system."""
    checkpoint(f"rename {source.name} -> {destination.name}")
    os.replace(source, destination)
    fsync_directory(destination.parent)


def remove(path: Path) -> None:
    """Remove a file, link or tree if it is there, and make that durable."""
    if not path.is_symlink() and not path.exists():
        return
    checkpoint(f"remove {path.name}")
    if path.is_dir() and not path.is_symlink():
        _remove_tree(path)
    else:
        path.unlink()
    fsync_directory(path.parent)


def _remove_tree(path: Path) -> None:
    """Remove a tree although directories in it may be read-only (git's objects, unpacked archives)."""
    _let_in(path)
    for folder, names, _files in os.walk(path):
        for name in names:
            _let_in(Path(folder, name))
    shutil.rmtree(path)


def _let_in(path: Path) -> None:
    """Let the owner read and change a directory, before anything looks into it; a link is left as it is."""
    mode = os.lstat(path).st_mode
    if stat.S_ISDIR(mode) and mode & stat.S_IRWXU != stat.S_IRWXU:
        os.chmod(path, stat.S_IMODE(mode) | stat.S_IRWXU)


def _temporary(path: Path) -> Path:
    """Return a name beside *path* for what will be renamed to it; what killed processes left under such a name is removed."""
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        pid = stale.name.split(".")[-2]
        if pid.isdigit() and (int(pid) == os.getpid() or not Path("/proc", pid).exists()):
            stale.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def remove_temporaries(path: Path) -> None:
    """Remove what killed processes left beside *path* while writing it. Only for who holds a lock that every writer of *path* takes."""
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if stale.name.removeprefix(f".{path.name}.").removesuffix(".tmp").isdigit():
            stale.unlink(missing_ok=True)


def atomic_write(
    path: Path, data: bytes | Iterable[bytes], *, mode: int = 0o644, mtime_ns: int | None = None, owner: tuple[int, int] | None = None
) -> None:
    """Write *data* under *path*: a temporary file beside it, fsync, rename.

    :param data: the content, or its pieces one after the other.
    :param mode: the permissions of the file, whatever the umask.
    :param mtime_ns: modification time in nanoseconds since the epoch; now if not given.
    :param owner: user and group id, given to the file where this process may; its own if not given.
    :raises OSError: the disk is full, the directory is read-only or missing.
    """
    temporary = _temporary(path)
    checkpoint(f"write {path.name}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.writelines([data] if isinstance(data, bytes) else data)
            stream.flush()
            if owner is not None:
                with contextlib.suppress(PermissionError):
                    os.fchown(stream.fileno(), *owner)
            os.fchmod(stream.fileno(), mode)
            if mtime_ns is not None:
                os.utime(stream.fileno(), ns=(mtime_ns, mtime_ns))
            checkpoint(f"fsync {path.name}")
            os.fsync(stream.fileno())
        rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


def write_json(path: Path, value: Any, *, mode: int = 0o644) -> None:
    """Write *value* as JSON with sorted keys, so that equal values are equal bytes."""
    atomic_write(path, json_bytes(value), mode=mode)


def json_bytes(value: Any, default: Callable[[Any], Any] | None = None) -> bytes:
    """Return the canonical JSON of *value*: sorted keys, two spaces, a final newline.

    :param default: makes something of JSON out of what is none, one after the other.
    """
    buffer = io.BytesIO()
    # as it is made: dumps() keeps each token of an indented text by itself until the last, which is six times the text
    with io.TextIOWrapper(buffer, encoding="utf-8", newline="\n", write_through=False) as text:
        json.dump(value, text, indent=2, sort_keys=True, ensure_ascii=False, default=default)
        text.write("\n")
        text.flush()
        return buffer.getvalue()


AGAIN = "Remove it and run again."
"""What to do with a damaged file that is made anew by itself."""


def read_json(path: Path, error: type[OfflineError] = OfflineError, shape: Any = object, remedy: str = AGAIN) -> Any:
    """Read a JSON file that this collection wrote.

    :param error: the exception for a file that is no JSON, or of another shape; it names the file.
    :param shape: as :mod:`._shape` describes it; without one it may be anything.
    :param remedy: what the user is to do with a damaged one.
    :raises FileNotFoundError: there is none.
    """
    return parse_json(path.read_bytes(), path, error, shape, remedy)


def parse_json(data: bytes, path: Path, error: type[OfflineError] = OfflineError, shape: Any = object, remedy: str = AGAIN) -> Any:
    """Return what the content of a JSON file says, as :func:`read_json` does."""
    try:
        text = data.decode()
        # there may be tens of megabytes of them, and loads() would decode them beside these
        del data
        found = json.loads(text)
    except (ValueError, RecursionError) as exception:  # the latter: a thousand brackets
        raise error(f"{path} is damaged ({exception}). {remedy}") from None
    said = misfit(found, shape)
    if said:
        raise error(f"{path} is damaged: {said}. {remedy}")
    return found


def switch_link(link: Path, target: str) -> None:
    """Make *link* a symbolic link to *target* in one step, whatever link was there before.

    :raises OfflineError: something that is no link is in the way.
    """
    if link.exists() and not link.is_symlink():
        raise OfflineError(f"{link} is in the way of a link to {target}. Move it elsewhere and run again.")
    temporary = _temporary(link)
    checkpoint(f"link {link.name}")
    temporary.symlink_to(target)
    rename(temporary, link)


def swap_directory(fresh: Path, destination: Path) -> None:
    """Put the finished directory *fresh* in the place of *destination*, and remove what was there.

    A reader may see *destination* missing for an instant; if killed then, running again puts it in place.
    """
    old = destination.with_name(f".{destination.name}.old")
    remove(old)
    if os.path.lexists(destination):
        rename(destination, old)
    rename(fresh, destination)
    remove(old)


def lock(stream: IO[Any], how: int) -> None:
    """Lock an open file as flock(2) does, or go on without where its file system has no locks.

    :param stream: open for writing: NFS locks nothing else exclusively.
    :raises BlockingIOError: another process holds it, and *how* says not to wait.
    """
    try:
        fcntl.flock(stream, how)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


@contextlib.contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold *path* as a lock file while the body runs; a holder that died leaves no lock behind.

    :param what: what is being held, for the message of whoever comes second.
    :raises OfflineError: another process holds it, of this machine or of another that shares the file system; it is named, and since when.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as stream:
        try:
            lock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            holder = stream.read().strip() or "unknown"
            raise OfflineError(f"{what} is in use by process {holder} ({path}). Wait for it to end and run again.") from None
        stream.truncate(0)
        stream.write(f"{os.getpid()} of {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S %z')}\n")
        stream.flush()
        try:
            yield
        finally:
            # a lock that nobody holds is the same file every time
            stream.truncate(0)
