# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether PyTorch of an environment computes on this node's GPUs: kernels run on each of them. Standard library only."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._activation import activated
from ansible_collections.rlinf.offline.plugins.module_utils._errors import ProcessError, VenvError
from ansible_collections.rlinf.offline.plugins.module_utils._process import failure, run

AUTO, REQUIRED, IGNORED = CHOICES = ("auto", "required", "ignored")
PATIENCE = 300.0
"""Seconds for importing PyTorch and running its kernels; a driver that hangs does so for ever."""
_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
# beside what every child inherits: where a container is given the driver's libraries, and what a job here would see of the GPUs
_INHERITED = ("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES")
_MARK = "\ngpu check: "
# integers below 2**24 are exact as floats, and so is their sum by rows; the first kernel is PyTorch's own, the second cuBLAS's
_PROGRAM = """
import json, sys
said = {"torch": None, "cuda": None, "archs": [], "devices": [], "problem": None}
def first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
def compute(where):
    numbers = torch.arange(4096, dtype=torch.float32, device=where).reshape(64, 64)
    doubled = numbers * 2 + 1
    return doubled.cpu(), (doubled @ torch.ones(64, 64, dtype=torch.float32, device=where)).cpu()
try:
    import torch
    said["torch"], said["cuda"] = torch.__version__, torch.version.cuda
    if said["cuda"]:
        torch.cuda.init()
        said["archs"] = torch.cuda.get_arch_list()
        wanted = compute("cpu")
        for index in range(torch.cuda.device_count()):
            device = {"index": index, "name": "", "compute": "", "problem": None}
            said["devices"].append(device)
            try:
                device["name"] = torch.cuda.get_device_name(index)
                device["compute"] = "%d.%d" % torch.cuda.get_device_capability(index)
                if not all(map(torch.equal, compute("cuda:%d" % index), wanted)):
                    device["problem"] = "it computes wrong results"
            except Exception as error:
                device["problem"] = first_line(error)
except BaseException as error:
    said["problem"] = first_line(error)
print("\\ngpu check: " + json.dumps(said), flush=True)
"""
# what PyTorch and CUDA say, and what to do about it; the first that is in it
_ADVICE = (
    ("driver on your system is too old", "Install a newer driver, or take a build for an older CUDA (rlinf_torch_backend)."),
    ("driver version is insufficient", "Install a newer driver, or take a build for an older CUDA (rlinf_torch_backend)."),
    (
        "no kernel image",
        "This build has no code for such a GPU ({archs}): take one that has (rlinf_torch_backend, or another version of the project).",
    ),
    ("out of memory", "Jobs take up its memory: verify when it is free, or set rlinf_gpu_check: ignored."),
    (
        "busy or unavailable",
        "Jobs hold it alone (nvidia-smi names its compute mode): verify when it is free, or set rlinf_gpu_check: ignored.",
    ),
    ("wrong results", "Take it out of use, and see nvidia-smi -q for its ECC errors and dmesg for Xid messages."),
    ("uncorrectable", "Reset it or take it out of use; dmesg has Xid messages about it."),
    ("cannot open shared object file", "See that the target's packages and exports are right (LD_LIBRARY_PATH)."),
)
_HIDDEN = "CUDA_VISIBLE_DEVICES is {value!r} here: take it out, or name GPUs that are there."
_UNSEEN = (
    "nvidia-smi on the node says whether the driver is well. In a container, it needs the GPUs and the driver's libraries for computing "
    "(NVIDIA_DRIVER_CAPABILITIES with compute), and this user must be able to open /dev/nvidia*."
)


@dataclass(frozen=True)
class Checked:
    """What was found: *state* is ``computed``, ``no GPU``, ``no torch``, ``without CUDA`` or ``ignored``; *devices* with index, name, compute."""

    state: str
    torch: str | None = None
    cuda: str | None = None
    devices: tuple[Mapping[str, Any], ...] = ()

    @property
    def json(self) -> dict[str, Any]:
        return {"state": self.state, "torch": self.torch, "cuda": self.cuda, "devices": [dict(device) for device in self.devices]}


def has_gpu() -> bool:
    """Return whether this machine or container has been given NVIDIA GPUs, by the devices of a driver that was loaded."""
    return any(path.exists() for path in _DEVICES)


def check(mode: str, target: str, place: Path, exports: Mapping[str, Any], *, has_torch: bool) -> Checked:
    """Run kernels on every GPU that PyTorch sees in an activated environment, and compare their results with the processor's.

    :param mode: ``auto`` runs them where there is a GPU and PyTorch, ``required`` wants both, ``ignored`` runs nothing.
    :param has_torch: whether the target has PyTorch at all.
    :raises VenvError: a kernel did not run, or not rightly, although it should; what to do is said.
    """
    if mode == IGNORED:
        return Checked("ignored")
    if not has_torch:
        return Checked("no torch")
    if not has_gpu():
        if mode == REQUIRED:
            raise VenvError(
                f"{target}: a GPU is required (rlinf_gpu_check), and this node has none, or no driver for it ({' and '.join(map(str, _DEVICES))} "
                f"are not there). Install the driver, give the container its GPUs, or set rlinf_gpu_check: auto."
            )
        return Checked("no GPU")
    env = {**{name: os.environ[name] for name in _INHERITED if name in os.environ}, **activated(place, exports)}
    said = _run(target, place, env)
    if said["torch"] and not said["cuda"]:
        if mode == REQUIRED:
            raise VenvError(
                f"{target}: torch {said['torch']} is built without CUDA, and a GPU is required (rlinf_gpu_check). Set rlinf_torch_backend."
            )
        return Checked("without CUDA", said["torch"])
    problems = [f"GPU {device['index']} ({device['name']}, {device['compute']}): {device['problem']}" for device in said["devices"]]
    failed = [text.rstrip(".") for text, device in zip(problems, said["devices"], strict=True) if device["problem"]]
    if said["problem"] or not said["devices"]:
        failed = [(said["problem"] or "PyTorch sees no GPU").rstrip(".")]
    if failed:
        build = f"torch {said['torch']} for CUDA {said['cuda']}" if said["torch"] else "torch"
        raise VenvError(f"{target}: {build} does not compute on this node's GPUs. {'; '.join(failed)}. {_advice(failed[0], said, env)}")
    return Checked("computed", said["torch"], said["cuda"], tuple(said["devices"]))


def _run(target: str, place: Path, env: Mapping[str, str]) -> dict[str, Any]:
    """Return what the program says.

    :raises VenvError: it crashed, or did not end.
    """
    what = f"{target}: computing on this node's GPUs"
    try:
        done = run([place / "bin" / "python", "-c", _PROGRAM], what=what, cwd=place, env=env, timeout=PATIENCE, check=False)
    except ProcessError as error:
        raise VenvError(f"{error} See dmesg on the node for Xid messages, or set rlinf_gpu_check: ignored.") from None
    if _MARK not in done.stdout:
        raise VenvError(f"{failure(done, what)} {_UNSEEN}")
    found: dict[str, Any] = json.loads(done.stdout.rpartition(_MARK)[2].splitlines()[0])
    return found


def _advice(problem: str, said: Mapping[str, Any], env: Mapping[str, str]) -> str:
    """Return what to do about a problem, in the words of PyTorch."""
    known = next((advice for part, advice in _ADVICE if part in problem), None)
    if known:
        return known.format(archs=" ".join(said["archs"]) or "none for this CUDA")
    hidden = env.get("CUDA_VISIBLE_DEVICES")
    return _HIDDEN.format(value=hidden) if hidden is not None and not said["devices"] else _UNSEEN
