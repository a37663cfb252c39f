# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""uv: where it is, which environment it runs in, and which interpreters it knows. Standard library only."""

from __future__ import annotations

import json
import os
import re
import shutil
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.rlinf.offline.plugins.module_utils._errors import OfflineError, ProcessError
from ansible_collections.rlinf.offline.plugins.module_utils._git_config import PROTECTED, overriding
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Node
from ansible_collections.rlinf.offline.plugins.module_utils._process import Completed, run

MINIMUM = (0, 9)
"""The oldest uv that reads and writes PEP 751 locks the way this collection needs."""
_VERSION = re.compile(r"uv (\d+(?:\.\d+)+)")
# looking for an interpreter must leave nothing behind, not even in uv's cache
_NO_CACHE = {"UV_NO_CACHE": "1"}
# what an interpreter says of itself, in isolated mode so that nothing of the user's changes the answer
_ASK = (
    "import json, os, platform, sys, sysconfig; print(json.dumps({"
    "'version': platform.python_version(), 'implementation': sys.implementation.name, 'executable': os.path.realpath(sys.executable),"
    "'free_threaded': bool(sysconfig.get_config_var('Py_GIL_DISABLED')), 'bits': 64 if sys.maxsize > 2**32 else 32}))"
)


@dataclass(frozen=True)
class Interpreter:
    """A Python that an environment can be made of.

    *path* is how it was found, *executable* the file behind all links, *version* the full one ("3.11.9").
    """

    path: Path
    executable: Path
    version: str
    implementation: str = "cpython"
    free_threaded: bool = False
    bits: int = 64

    @property
    def minor(self) -> tuple[int, int]:
        """Major and minor version, ``(3, 11)``."""
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)


@dataclass(frozen=True)
class Uv:
    """A uv and the variables it runs with (see :func:`offline_environment`)."""

    path: Path
    env: Mapping[str, str]

    def run(
        self,
        args: Sequence[str | os.PathLike[str]],
        *,
        what: str,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        check: bool = True,
        log: Path | None = None,
    ) -> Completed:
        """Run uv with *args*; *env* adds to, and overrides, its own variables.

        :param what: what it is for, the beginning of an error message.
        :param timeout: seconds; None waits for ever.
        :param check: whether an exit status other than 0 is an error.
        :param log: a file that gets all that it says (see :func:`~_process.run`).
        :raises ProcessError: it failed; uv's own explanation is in the message.
        """
        return run([self.path, *args], what=what, cwd=cwd, env={**self.env, **(env or {})}, timeout=timeout, check=check, log=log)


def find_uv(explicit: Path | None = None, prefix: Path | None = None) -> Path:
    """Return the uv to use: the one given, the node's own, the one beside this interpreter, the first on PATH.

    :param explicit: what the user gave; nothing else is looked at then.
    :param prefix: the node's ``rlinf_prefix``.
    :raises OfflineError: there is none, or the one found is older than :data:`MINIMUM`; every place looked at is named.
    """
    if explicit is not None:
        places = [("given", explicit)]
    else:
        places = [("this Python's scripts", Path(sysconfig.get_path("scripts")) / "uv")]
        if prefix is not None:
            places.insert(0, ("the prefix", Node(prefix).uv))
        on_path = shutil.which("uv")
        places.append(("PATH", Path(on_path) if on_path else Path("uv")))
    for _place, path in places:
        if path.is_absolute() and os.access(path, os.X_OK) and path.is_file():
            _check_version(path)
            return path
    looked = ", ".join(f"{path} ({place})" for place, path in places)
    raise OfflineError(
        f"There is no uv. Looked for {looked}. On a node, run the playbook rlinf.offline.prepare; "
        "on the bastion, install the collection's requirements.txt or set rlinf_uv to an absolute path."
    )


def uv_version(path: Path) -> str:
    """Return the version of a uv, as "0.13.9".

    :raises OfflineError: the file is no uv.
    """
    said = run([path, "--version"], what=f"asking {path} for its version", timeout=60, env={"UV_NO_CONFIG": "1"}).stdout
    found = _VERSION.match(said)
    if not found:
        raise OfflineError(f"{path} is no uv: asked for its version it said {said.strip()[:80]!r}. Set rlinf_uv to a uv.")
    return found[1]


def _check_version(path: Path) -> None:
    version = uv_version(path)
    if tuple(int(part) for part in version.split(".")[:2]) < MINIMUM:
        wanted = ".".join(map(str, MINIMUM))
        raise OfflineError(f"{path} is uv {version}; {wanted} or newer is needed. Update it, or set rlinf_uv to a newer one.")


def isolated_environment(cache: Path, git_config: Path | None = None, config: Path | None = None) -> dict[str, str]:
    """Return variables under which uv sees nothing of the user's settings, downloads no interpreter, and draws nothing.

    :param cache: uv's cache; on the file system of the environments it can hardlink into them.
    :param git_config: the only configuration git reads; none at all if not given.
    :param config: the only ``uv.toml`` it reads; none at all if not given.
    """
    return {
        "UV_CACHE_DIR": os.fspath(cache),
        # by default uv makes a folder for logins in the user's home as soon as a server says no
        "UV_CREDENTIALS_DIR": os.fspath(cache / "credentials"),
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_NO_PROGRESS": "1",
        "UV_NO_WRAP": "1",
        "NO_COLOR": "1",
        # asking api.github.com about a reference takes seconds where there is no network, and gains little where there is
        "UV_NO_GITHUB_FAST_PATH": "1",
        **({"UV_CONFIG_FILE": os.fspath(config)} if config else {"UV_NO_CONFIG": "1"}),
        "GIT_CONFIG_GLOBAL": os.fspath(git_config or os.devnull),
        "GIT_CONFIG_NOSYSTEM": "1",
        # uv checks out commits, their submodules too, and what it builds may ask git as well
        **overriding(PROTECTED),
        "GIT_TERMINAL_PROMPT": "0",
    }


def offline_environment(cache: Path, git_config: Path | None = None, config: Path | None = None) -> dict[str, str]:
    """Return the variables of :func:`isolated_environment`, and those that keep uv and git off the network.

    ``UV_NO_INDEX`` has no effect on uv: give ``--no-index`` or a *config* with ``no-index = true`` beside it.
    """
    return {**isolated_environment(cache, git_config, config), "UV_OFFLINE": "1", "GIT_ALLOW_PROTOCOL": "file"}


def find_python(wanted: str, uv: Uv) -> Interpreter:
    """Return the interpreter of this machine that *wanted* names.

    :param wanted: a version ("3.11", "3.11.9") or an absolute path; uv looks for a version on PATH, outside virtual environments.
    :raises OfflineError: there is none; those that are there are named.
    """
    if os.path.isabs(wanted):
        return ask_interpreter(Path(wanted))
    found = uv.run(
        ["python", "find", "--system", "--no-managed-python", "--no-project", wanted],
        what=f"looking for Python {wanted}",
        timeout=120,
        check=False,
        env=_NO_CACHE,
    )
    if found.status == 0:
        return ask_interpreter(Path(found.stdout.strip()))
    there = installed_pythons(uv)
    listed = ", ".join(f"{python.version} ({python.path})" for python in there) or "none"
    raise OfflineError(
        f"There is no Python {wanted} on this machine. Found: {listed}. Install it from your system's packages, or set rlinf_python to the path of one."
    )


def installed_pythons(uv: Uv) -> list[Interpreter]:
    """Return the interpreters that uv finds on PATH, one for each file, newest first."""
    said = uv.run(
        ["python", "list", "--only-installed", "--no-managed-python", "--output-format", "json"],
        what="listing the Pythons of this machine",
        timeout=120,
        check=False,
        env=_NO_CACHE,
    )
    pythons: dict[Path, Interpreter] = {}
    for entry in json.loads(said.stdout or "[]") if said.status == 0 else []:
        path = Path(entry["path"])
        pythons.setdefault(path.resolve(), Interpreter(path, path.resolve(), entry["version"], entry["implementation"]))
    return list(pythons.values())


def ask_interpreter(path: Path) -> Interpreter:
    """Return what the interpreter at *path* says of itself.

    :raises OfflineError: it is not there or is no Python.
    """
    try:
        said = json.loads(run([path, "-I", "-c", _ASK], what=f"asking {path} what it is", timeout=60).stdout)
    except (ProcessError, ValueError):
        state = "cannot be run as a Python" if path.exists() else "is not there"
        raise OfflineError(f"The interpreter {path} {state}. Set rlinf_python to a version or to the path of an interpreter.") from None
    said["executable"] = Path(said["executable"])
    return Interpreter(path=path, **said)
