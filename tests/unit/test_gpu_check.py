# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said of a GPU that does not compute, and where none is asked. A stand-in for PyTorch says what the real one says.

That the program runs real kernels is shown on a real GPU node by ``make gpu`` (docs/benchmarks.md).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils import _gpu_check
from ansible_collections.rlinf.offline.plugins.module_utils._errors import VenvError
from ansible_collections.rlinf.offline.plugins.module_utils._report import gpus

Check = Callable[..., _gpu_check.Checked]
# a stand-in: a PyTorch with two GPUs, of which one, or all, fail as the environment says
STAND_IN = """
import os
__version__ = os.environ.get("TORCH_VERSION", "2.6.0+cu124")
float32 = None
class version:
    cuda = os.environ.get("TORCH_CUDA", "12.4") or None
class Tensor:
    def reshape(self, *shape): return self
    __mul__ = __add__ = __matmul__ = reshape
    def cpu(self): return self
def arange(count, dtype, device):
    if device == "cuda:1" and "FAILS" in os.environ: raise RuntimeError(os.environ["FAILS"])
    return Tensor()
def ones(rows, columns, dtype, device): return Tensor()
def equal(one, other): return "WRONG" not in os.environ
class cuda:
    def init():
        if "BROKEN" in os.environ: raise RuntimeError(os.environ["BROKEN"])
    def device_count(): return int(os.environ.get("COUNT", "2"))
    def get_device_name(index): return "NVIDIA H100 80GB HBM3"
    def get_device_capability(index): return (9, 0)
    def get_arch_list(): return ["sm_75", "sm_80"]
"""


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Check an environment with the stand-in, on a node with a driver."""
    place = tmp_path / "venv"
    (place / "bin").mkdir(parents=True)
    (place / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "torch.py").write_text(STAND_IN)
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(_gpu_check, "_DEVICES", (tmp_path / "dxg", tmp_path / "nvidiactl"))
    for name in _gpu_check._INHERITED:
        monkeypatch.delenv(name, raising=False)

    def run(mode: str = "auto", *, has_torch: bool = True, **exports: Any) -> _gpu_check.Checked:
        return _gpu_check.check(mode, "openvla", place, {"PYTHONPATH": str(tmp_path), **exports}, has_torch=has_torch)

    return run


def test_every_gpu_computes(check: Check) -> None:
    found = check()
    devices = [{"index": index, "name": "NVIDIA H100 80GB HBM3", "compute": "9.0", "problem": None} for index in (0, 1)]
    assert found.json == {"state": "computed", "torch": "2.6.0+cu124", "cuda": "12.4", "devices": devices}
    assert gpus(found.json) == "torch 2.6.0+cu124 for CUDA 12.4 computed rightly on 2 x NVIDIA H100 80GB HBM3 (9.0)"


def test_where_nothing_is_to_compute(check: Check, tmp_path: Path) -> None:
    assert check("ignored").state == "ignored" and check(has_torch=False).state == "no torch"
    built = check(TORCH_CUDA="", TORCH_VERSION="2.6.0+cpu")
    assert built.state == "without CUDA" and gpus(built.json) == "nothing computed: torch 2.6.0+cpu is built without CUDA"
    (tmp_path / "nvidiactl").unlink()
    assert check().state == "no GPU" and gpus(check().json) == "nothing computed: no GPU on this node"
    assert gpus({}) == "nothing computed: not asked (rlinf_gpu_check)"


def test_a_gpu_that_is_required(check: Check, tmp_path: Path) -> None:
    assert check("required").state == "computed"
    with pytest.raises(VenvError, match=r"built without CUDA, and a GPU is required .* Set rlinf_torch_backend"):
        check("required", TORCH_CUDA="")
    (tmp_path / "nvidiactl").unlink()
    with pytest.raises(VenvError, match=r"openvla: a GPU is required .* none, or no driver .* set rlinf_gpu_check: auto"):
        check("required")


@pytest.mark.parametrize(
    ("exports", "said"),
    [
        ({"BROKEN": "No CUDA GPUs are available", "CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES is '' here: take it out"),
        ({"BROKEN": "No CUDA GPUs are available"}, "NVIDIA_DRIVER_CAPABILITIES with compute"),
        ({"COUNT": "0"}, "PyTorch sees no GPU. nvidia-smi on the node says"),
        (
            {"BROKEN": "The NVIDIA driver on your system is too old (found version 11040).\nPlease update"},
            "too old (found version 11040). Install a newer driver",
        ),
        ({"FAILS": "CUDA error: no kernel image is available for execution on the device\nCUDA kernel"}, "such a GPU (sm_75 sm_80)"),
        ({"FAILS": "CUDA out of memory. Tried to allocate"}, "Jobs take up its memory"),
        ({"FAILS": "CUDA error: all CUDA-capable devices are busy or unavailable"}, "Jobs hold it alone"),
        ({"WRONG": "1"}, "GPU 0 (NVIDIA H100 80GB HBM3, 9.0): it computes wrong results; GPU 1"),
        ({"FAILS": "something new"}, "GPU 1 (NVIDIA H100 80GB HBM3, 9.0): something new. nvidia-smi on the node"),
    ],
)
def test_a_gpu_that_does_not_compute(check: Check, exports: dict[str, str], said: str) -> None:
    with pytest.raises(VenvError) as failed:
        check(**exports)
    assert "openvla: torch 2.6.0+cu124 for CUDA 12.4 does not compute on this node's GPUs. " in str(failed.value)
    assert said in str(failed.value)


def test_what_a_job_here_would_see(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ansible's environment on the node counts, too, where the target exports nothing else."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pytest.raises(VenvError, match="CUDA_VISIBLE_DEVICES is '7' here"):
        check(BROKEN="No CUDA GPUs are available")


def test_a_torch_that_cannot_be_imported(check: Check, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudnn.so.9: cannot open shared object file: No such file')\n")
    with pytest.raises(VenvError, match=r"openvla: torch does not compute .* libcudnn.so.9.* exports are right \(LD_LIBRARY_PATH\)"):
        check()


def test_a_torch_that_crashes_or_never_ends(check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("import os\nos.abort()\n")
    with pytest.raises(VenvError, match=r"ended with status -6.* nvidia-smi on the node"):
        check()
    (tmp_path / "torch.py").write_text("import threading\nthreading.Event().wait()\n")
    monkeypatch.setattr(_gpu_check, "PATIENCE", 0.5)
    with pytest.raises(VenvError, match=r"did not end within 0.5 seconds.* dmesg on the node for Xid messages"):
        check()
