# SPDX-License-Identifier: GPL-3.0-or-later
"""The calls of modules that real playbook runs make, to be made again one by one, in processes that faults can be done to.

A call runs the module's own ``main()`` in a child of this process, with the arguments that the play gave it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils import basic

from ansible_collections.rlinf.offline.plugins.module_utils._faults import KILL_AT, TRACE
from tests.demo.cycle import ROOT, Cycle

MODULES = ROOT / "plugins" / "modules"
_CALLBACKS = ROOT / "tests" / "support" / "callbacks"
# prctl(2)
_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Call:
    """One call of a module by a play."""

    module: str
    host: str
    args: Mapping[str, Any]

    @property
    def online(self) -> bool:
        """Whether it is the bastion's, who alone may reach the network."""
        return self.host == "bastion"


@dataclass(frozen=True)
class Outcome:
    """How a call ended: *status* as :func:`os.waitstatus_to_exitcode` says it, and what the module printed."""

    status: int
    result: Mapping[str, Any]
    errors: str

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL

    @property
    def failed(self) -> bool:
        return bool(self.result.get("failed"))

    @property
    def message(self) -> str:
        return str(self.result.get("msg", ""))

    @property
    def clear(self) -> bool:
        """Whether a failure was said as a user can read it: a message, and no traceback."""
        return bool(self.message) and "Traceback" not in self.errors and "exception" not in self.result


class Broken(Exception):
    """A promise does not hold; the message says which, and how to see it again."""


class Untried(Exception):
    """What was to be done to a call did not happen to it; nothing is known of a promise."""


def record(cycle: Cycle, *plays: tuple[str, ...]) -> list[Call]:
    """Run playbooks, each with its extra arguments, and return the calls that they made, in order."""
    path = cycle.work / "invocations"
    path.unlink(missing_ok=True)
    env = {"ANSIBLE_CALLBACK_PLUGINS": str(_CALLBACKS), "ANSIBLE_CALLBACKS_ENABLED": "invocations", "RLINF_INVOCATIONS": str(path)}
    for name, *extra in plays:
        cycle.play(name, *extra, **env)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    # what was not given counts as given where Ansible looks for what excludes what
    return [
        Call(line["module"], line["host"], {name: value for name, value in line["args"].items() if value is not None}) for line in lines
    ]


def adopt_orphans(adopt: bool = True) -> None:
    """Let what a killed call leaves running become children of this process (prctl(2), PR_SET_CHILD_SUBREAPER), so that it can be waited for."""
    ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0)


def wait_for_orphans(patience: float = 60) -> None:
    """Wait until no child is left; one that does not end by itself is ended.

    :param patience: seconds.
    """
    end = time.monotonic() + patience
    while True:
        try:
            pid, _status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            if time.monotonic() > end:
                for child in _children():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(child, signal.SIGKILL)
            time.sleep(0.005)


def _children() -> list[int]:
    said = subprocess.run(["ps", "-o", "pid=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=False).stdout
    return [int(pid) for pid in said.split()]


def run_call(
    call: Call,
    work: Path,
    env: Mapping[str, str],
    *,
    check: bool = False,
    before: Callable[[], object] | None = None,
    patience: float = 300,
    **faults: str,
) -> Outcome:
    """Make a call in a child process and return how it ended.

    :param work: a directory for what it prints.
    :param env: its environment.
    :param before: run in the child first, for example to give up rights.
    :param patience: seconds until it counts as hung, and is killed.
    :param faults: further variables, such as ``RLINF_FAULT_AT``.
    :raises Broken: it hung.
    """
    out, errors = work / "stdout", work / "stderr"
    child = os.fork()
    if child == 0:
        _become(call, {**env, **faults}, check, out, errors, before)
    end = time.monotonic() + patience
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise Broken(f"{call.module} did not end within {patience:g} seconds")
        time.sleep(0.002)
    lines = out.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    result: dict[str, Any] = {}
    with contextlib.suppress(ValueError, IndexError):
        result = json.loads(lines[-1])
    return Outcome(os.waitstatus_to_exitcode(status), result, errors.read_text(encoding="utf-8", errors="replace"))


def _become(
    call: Call, env: Mapping[str, str], check: bool, out: Path, errors: Path, before: Callable[[], object] | None
) -> None:  # pragma: no cover
    """Run the module in this process, which is a child, and end."""
    try:
        for number, path in ((1, out), (2, errors)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
        # whoever called this may have put something else in their places
        sys.stdout, sys.stderr = os.fdopen(1, "w", encoding="utf-8", closefd=False), os.fdopen(2, "w", encoding="utf-8", closefd=False)
        os.environ.clear()
        os.environ.update(env)
        if before:
            before()
        # the arguments that ansible-core adds
        arguments = {**call.args, "_ansible_check_mode": check, "_ansible_diff": False, "_ansible_tracebacks_for": []}
        basic._ANSIBLE_ARGS = json.dumps({"ANSIBLE_MODULE_ARGS": arguments}).encode()
        basic._ANSIBLE_PROFILE = "legacy"
        runpy.run_path(str(MODULES / f"{call.module}.py"), run_name="__main__")
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(int(end.code or 0))
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        sys.stderr.flush()
    os._exit(70)


def checkpoints(call: Call, work: Path, env: Mapping[str, str]) -> tuple[Outcome, list[str]]:
    """Make a call to its end; return how it ended and the label of every checkpoint that it passed."""
    trace = work / "trace"
    trace.unlink(missing_ok=True)
    outcome = run_call(call, work, env, **{TRACE: str(trace)})
    return outcome, labels_of(trace.read_text(encoding="utf-8") if trace.exists() else "")


def labels_of(trace: str) -> list[str]:
    """Return the labels in a trace, one of which may hold a program, with line ends."""
    return [label for _number, label in re.findall(r"^(\d+) (.*)$", trace, re.MULTILINE)]


def kill_at(number: int) -> dict[str, str]:
    """Return the variable that kills a call at its checkpoint of this number."""
    return {KILL_AT: str(number)}
