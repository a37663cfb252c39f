# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a folder to carry to a GPU node without network: a bundle of the tests' small world, and a program that tries everything there.

    python -m tests.real.gpu DIR            (here, by the Python of the node's minor version; nothing but loopback is asked)
    python3 DIR/try.py [--out DIR]          (there; root or not, nothing but python3 and git is needed)

PyTorch is too large to carry for a trial, so that the bundle's wheel of it is a stand-in: a path configuration file that lets the environment
import the PyTorch that the machine has. What it computes is real, and so is everything else. The libraries with kernels, which a GPU has or has
not code for, are those of ``tests/unit/fixtures/gpu_node/kernels``, made by the real nvcc.

``try.py`` is ``tests/real/gpu_node.py``.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from tests.demo.cycle import ROOT, Cycle, common_variables
from tests.demo.dates import BEFORE, dated
from tests.support.repack import closure, repack
from tests.support.wheels import build_wheel

KERNELS = ROOT / "tests" / "unit" / "fixtures" / "gpu_node" / "kernels"
PYTHON = "{}.{}".format(*sys.version_info)
PLATFORM = f"cp{PYTHON.replace('.', '')}-cp{PYTHON.replace('.', '')}-manylinux_2_28_x86_64"
# what is installed there, and what the node's GPU has no code for
INSTALLED, TOO_OLD = "gpu", "turing"
# the project overrides the version of torch
ELSEWHERE = {"project_settings": False}
TARGETS: dict[str, dict[str, Any]] = {
    INSTALLED: {
        "steps": [
            {"requirements": ["torch==2.11.0", "click==8.2.1"], **ELSEWHERE},
            {"package": "latex2sympy2", "dependencies": False},
            {"editable": "LIBERO", "dependencies": False},
        ],
        "imports": ["click"],
    },
    TOO_OLD: {"steps": [{"requirements": ["torch==2.10.0"], **ELSEWHERE}]},
}
# locks as a preflight reads them, written by hand: what their wheels are built for, by what the lock is called
COMMIT = "a" * 40
FITTING: Mapping[str, tuple[str, ...]] = {
    "cu121": (f"torch-2.5.1+cu121-{PLATFORM}", "nvidia_cublas_cu12-12.1.3.1-py3-none-manylinux1_x86_64"),
    "cu124": (f"torch-2.6.0-{PLATFORM}", "nvidia_cublas_cu12-12.4.5.8-py3-none-manylinux2014_x86_64"),
    "cu130": (f"torch-2.11.0+cu130-{PLATFORM}", "nvidia_cudnn_cu13-9.15.1.9-py3-none-manylinux_2_27_x86_64"),
}
UNFIT: Mapping[str, tuple[str, ...]] = {
    "other-python": (
        f"torch-2.6.0-{PLATFORM}",
        "flash_attn-2.7.4.post1+cu12torch2.6cxx11abiFALSE-cp310-cp310-linux_x86_64",
        "flash_attn-2.7.4.post1+cu12torch2.6cxx11abiFALSE-{0}-{0}-linux_x86_64".format(PLATFORM.partition("-")[0]),
    ),
    "other-cuda": (
        f"torch-2.6.0-{PLATFORM}",
        "nvidia_cublas_cu12-12.4.5.8-py3-none-manylinux2014_x86_64",
        "flash_attn-2.7.4.post1+cu11torch2.6cxx11abiFALSE-{0}-{0}-linux_x86_64".format(PLATFORM.partition("-")[0]),
    ),
    "other-torch": (
        f"torch-2.6.0-{PLATFORM}",
        "nvidia_cublas_cu12-12.4.5.8-py3-none-manylinux2014_x86_64",
        "flash_attn-2.7.4.post1+cu12torch2.5cxx11abiFALSE-{0}-{0}-linux_x86_64".format(PLATFORM.partition("-")[0]),
    ),
}
# a Python that the node lacks
NO_PYTHON = "no-python"


def main() -> int:
    """Make the folder; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where it is made, empty or missing")
    folder = parser.parse_args().folder.absolute()
    if folder.exists() and any(folder.iterdir()):
        sys.exit(f"{folder} is not empty. Give another.")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work, Cycle(Path(work) / "work", targets=[INSTALLED], compiler=False) as cycle:
        download(cycle)
        shutil.copytree(cycle.bundle, folder / "bundle", symlinks=True, ignore=shutil.ignore_patterns(".cache", ".lock"))
        variables = common_variables(cycle.world)
    # the interpreter of the node is found there, and its GPUs compute
    del variables["rlinf_python"], variables["rlinf_gpu_check"]
    variables["rlinf_catalog"]["targets"] = catalog()
    settings = {"python": PYTHON, "installed": INSTALLED, "too_old": TOO_OLD, "fitting": [*FITTING], "unfit": [*UNFIT, NO_PYTHON]}
    written = {"settings": settings, "variables": variables, "judged": write_locks(folder / "judged")}
    (folder / "settings.json").write_text(json.dumps(written, indent=1, sort_keys=True), encoding="utf-8")
    shutil.copy(ROOT / "tests" / "real" / "gpu_node.py", folder / "try.py")
    shutil.copy(KERNELS / "kernel.cu", folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    print(f"{folder}: {size / 1e6:.0f} MB for nodes with Python {PYTHON}. There: python3 {folder.name}/try.py")
    return 0


def catalog() -> dict[str, dict[str, Any]]:
    """Return the targets that are installed, or tried to."""
    return {name: {"python": PYTHON, **target} for name, target in TARGETS.items()}


def download(cycle: Cycle) -> None:
    """Make the bundle: the targets, and what makes a control node."""
    index = cycle.world.root / "index"
    machine = {"torch_of_the_machine.pth": "import site; site.addsitedir('/opt/torch/.venv/lib/python" + PYTHON + "/site-packages')\n"}
    for number, kernels in (("2.11.0", "many"), ("2.10.0", "sm75")):
        files = {"torch_lib/libkernels.so": (KERNELS / f"{kernels}.so").read_bytes()}
        dated(build_wheel(index, "torch", number, modules=machine, extra_files=files, tags=PLATFORM), BEFORE)
    needed = closure(re.findall(r"^([\w.-]+) >=", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE))
    for name in needed:
        dated(repack(name, index), BEFORE)
    listed = cycle.work / "control-requirements.txt"
    listed.write_text("".join(f"{name}=={version(name)}\n" for name in needed), encoding="utf-8")
    path = cycle.write_inventory("control", {"gpu01": {"rlinf_targets": [*TARGETS]}}, {"targets": catalog()})
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    control = {"rlinf_control_node": True, "rlinf_control_requirements": str(listed), "rlinf_control_pythons": [PYTHON]}
    written["all"]["children"]["rlinf_bastion"]["hosts"]["bastion"] |= control
    path.write_text(yaml.safe_dump(written), encoding="utf-8")
    print(cycle.play("download", inventory=path).output[-2000:])


def write_locks(folder: Path) -> dict[str, Any]:
    """Write a bundle with locks and a manifest as far as a preflight reads them, and return its targets."""
    files: dict[str, Any] = {}
    python = {**dict.fromkeys([*FITTING, *UNFIT], PYTHON), NO_PYTHON: "3.9"}
    for number, (name, wheels) in enumerate({**FITTING, **UNFIT, NO_PYTHON: ()}.items()):
        packages = []
        for index, stem in enumerate(wheels):
            path = f"wheelhouse/index/{stem}.whl"
            package, numbered = stem.split("-")[:2]
            entry = {"kind": "index", "size": 1000, "sha256": f"{number:032x}{index:032x}", "path": path}
            packages.append({"name": package.replace("_", "-"), "version": numbered, **entry})
            files[path] = {"size": 1000, "sha256": entry["sha256"]}
        if name == "other-python":
            # the last is in the bundle, and not in the lock: it would fit
            packages.pop()
        place = folder / "targets" / COMMIT / name
        place.mkdir(parents=True)
        text = {"python": python[name], "platform": "x86_64-manylinux_2_28", "packages": packages}
        (place / "lock.json").write_text(json.dumps(text), encoding="utf-8")
    repositories = {"github.com/RLinf/RLinf.git": {"url": "https://github.com/RLinf/RLinf.git", "commit": COMMIT}}
    manifest = {"format": 1, "serial": 1, "tools": {}, "files": files, "repositories": repositories}
    (folder / "bundle.json").write_text(json.dumps(manifest), encoding="utf-8")
    return {name: {"python": minor, "steps": [{"uv_sync": []}]} for name, minor in python.items()}


if __name__ == "__main__":
    sys.exit(main())
