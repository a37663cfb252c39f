# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one way to run a program: a list of arguments, the C locale, no terminal, a time limit. Standard library only."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ansible_collections.rlinf.offline.plugins.module_utils._errors import ProcessError
from ansible_collections.rlinf.offline.plugins.module_utils._faults import checkpoint
from ansible_collections.rlinf.offline.plugins.module_utils._files import lock
from ansible_collections.rlinf.offline.plugins.module_utils._urls import redact

# what a child may inherit; everything else of the user's environment (PYTHONPATH, UV_*, GIT_*, PIP_*) could change the outcome
INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "SSH_AUTH_SOCK", "SSL_CERT_FILE", "SSL_CERT_DIR", "RLINF_FAULT_TRACE")
TAIL = 4000
"""Characters of a failed program's output that its error shows."""
# as the C library, Python, uv and git say it
_FULL = re.compile(r"No space left on device|Out of diskspace|os error 28\b")


@dataclass(frozen=True)
class Completed:
    """What a program did: its exit status, output and seconds."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str
    seconds: float


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for a child: the inherited few, the C locale, and *extra*."""
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return {**kept, "LC_ALL": "C.UTF-8", "LANGUAGE": "", **(extra or {})}


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    what: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    check: bool = True,
    log: Path | None = None,
    stdin: Path | None = None,
) -> Completed:
    """Run a program to its end.

    :param argv: the program and its arguments; never a shell line.
    :param what: what it is for, the beginning of an error message ("locking step uv_sync").
    :param env: variables besides the inherited ones (see :func:`environment`).
    :param timeout: seconds; None waits for ever.
    :param check: whether an exit status other than 0 is an error.
    :param log: a file that gets all that it says; the result has the end of it as ``stdout``. The file is locked for as long as the
        program, or another that it has started, goes on (see :func:`wait_for`).
    :param stdin: a file that it reads as its standard input, which is empty otherwise.
    :raises ProcessError: it is not there, ran out of time, or failed (with *check*); credentials in its output are masked.
    """
    arguments = tuple(os.fspath(argument) for argument in argv)
    checkpoint(f"exec {os.path.basename(arguments[0])} {' '.join(arguments[1:3])}")
    start = time.monotonic()
    try:
        with _held(log) as stream, open(stdin or os.devnull, "rb") as given:
            done = subprocess.run(
                arguments,
                cwd=cwd,
                env=environment(env),
                stdin=given,
                stdout=stream or subprocess.PIPE,
                stderr=subprocess.STDOUT if stream else subprocess.PIPE,
                timeout=timeout,
                check=False,
                text=True,
                encoding="utf-8",
                errors="replace",
            )
    except FileNotFoundError:
        missing = arguments[0] if cwd is None or cwd.is_dir() else os.fspath(cwd)
        raise ProcessError(f"{what}: {missing} is not there. Install it or give its path.") from None
    except PermissionError:
        raise ProcessError(f"{what}: {arguments[0]} may not be executed by this user.") from None
    except subprocess.TimeoutExpired:
        raise ProcessError(
            f"{what}: {arguments[0]} did not end within {timeout:g} seconds. Give a longer timeout or look at what it waits for."
        ) from None
    stdout = done.stdout if log is None else log.read_bytes()[-TAIL:].decode("utf-8", "replace")
    result = Completed(arguments, done.returncode, stdout, done.stderr or "", time.monotonic() - start)
    if check and result.status:
        whole = f"\nAll that it said is in {log}." if log else ""
        raise ProcessError(failure(result, what) + whole, status=result.status)
    return result


@contextlib.contextmanager
def _held(log: Path | None) -> Iterator[BinaryIO | None]:
    """Open *log* for a program, empty and locked. A lock belongs to the open file, which the program and its children inherit."""
    if log is None:
        yield None
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as stream:
        lock(stream, fcntl.LOCK_EX)
        stream.truncate(0)
        yield stream


def wait_for(log: Path) -> None:
    """Wait until no program that writes into *log* goes on: one may have outlived the module that started it, and was killed."""
    with contextlib.suppress(FileNotFoundError), open(log, "r+b") as stream:
        lock(stream, fcntl.LOCK_EX)


def failure(result: Completed, what: str) -> str:
    """Return the message for a program that failed: what it was for, its status and the end of what it said."""
    said = redact((result.stderr.strip() or result.stdout.strip())[-TAIL:])
    if _FULL.search(said):
        # a build says it somewhere in the middle
        what = f"The disk is full, or out of inodes: make room and run again. {what}"
    return f"{what}: {os.path.basename(result.argv[0])} ended with status {result.status}" + (f":\n{said}" if said else ".")
