# SPDX-License-Identifier: GPL-3.0-or-later
"""A directory served over HTTP by a process of its own, so that what serves takes no time from what measures."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def served(folder: Path, address: str = "127.0.0.1") -> Iterator[str]:
    """Serve what is below *folder*, and yield the URL of that, without a slash at its end."""
    with socket.socket() as chosen:
        chosen.bind((address, 0))
        port = chosen.getsockname()[1]
    command = [sys.executable, "-m", "http.server", str(port), "--bind", address, "--directory", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _answers(server, address, port)
        yield f"http://{address}:{port}"
    finally:
        server.terminate()
        server.wait()


def _answers(server: subprocess.Popen[bytes], address: str, port: int) -> None:
    """:raises RuntimeError: it has ended."""
    while server.poll() is None:
        try:
            socket.create_connection((address, port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"nothing serves {address}:{port}")
