# SPDX-License-Identifier: GPL-3.0-or-later
"""Archives in the form of python-build-standalone's install_only, made of the interpreter that runs the tests: they stand in for the real ones."""

from __future__ import annotations

import io
import os
import sys
import sysconfig
import tarfile
from pathlib import Path

VERSION = "{}.{}.{}".format(*sys.version_info)
MINOR = VERSION.rpartition(".")[0]
# next to nothing of the standard library is needed to make an environment and to install into it
_LEFT_OUT = frozenset(
    {"__pycache__", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages", "test", "tests", "tkinter", "turtledemo"}
)


def build_interpreter(path: Path) -> Path:
    """Write an archive of this interpreter, with a top folder as the real ones have, and return its path.

    A build with a shared library brings that, too, and finds it where it is unpacked, as the real ones do.
    """
    base = Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))
    stdlib = Path(sysconfig.get_path("stdlib"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        program = _relocated(base.read_bytes())
        member = tarfile.TarInfo(f"python/bin/python{MINOR}")
        member.size, member.mode = len(program), 0o755
        archive.addfile(member, io.BytesIO(program))
        archive.add(stdlib, f"python/lib/python{MINOR}", filter=_needed)
        for library in base.parents[1].glob(f"lib/libpython{MINOR}*.so*"):
            archive.add(library, f"python/lib/{library.name}")
        headers = Path(sysconfig.get_path("include"))
        if headers.is_dir():
            archive.add(headers, f"python/include/python{MINOR}")
    return path


def _relocated(program: bytes) -> bytes:
    """Return the program so that it looks for its shared library beside itself (ld.so(8), $ORIGIN), and not where it was built to lie."""
    built, beside = f"{sysconfig.get_config_var('LIBDIR')}\0".encode(), b"$ORIGIN/../lib"
    if not sysconfig.get_config_var("Py_ENABLE_SHARED") or built not in program or len(built) <= len(beside):
        return program
    return program.replace(built, beside.ljust(len(built), b"\0"), 1)


def _needed(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    name = Path(member.name).name
    return None if name in _LEFT_OUT or name.startswith("config-") or name.endswith(".a") else member
