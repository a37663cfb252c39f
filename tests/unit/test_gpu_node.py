# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a real GPU node said, read again: an NVIDIA H100 with driver 580.159.04, on 2026-11-24 (``fixtures/gpu_node``).

Serial, part and device numbers in the fixtures were replaced by zeros.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils import _node_info
from ansible_collections.rlinf.offline.plugins.module_utils._fit import first_line

SAID = Path(__file__).parent / "fixtures" / "gpu_node"


@pytest.fixture
def gpu_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node on which everything says what it said there; nvidia-smi is where the driver was mounted, and not on PATH."""
    folder = tmp_path / "nvidia" / "bin"
    folder.mkdir(parents=True)
    smi = folder / "nvidia-smi"
    asked = f"*nonsense*) cat {SAID}/nvidia-smi-unknown-field.txt; exit 2;; --query-gpu=*) cat {SAID}/nvidia-smi-query.csv"
    smi.write_text(f'#!/bin/sh\ncase "$1" in {asked};; *) cat {SAID}/nvidia-smi.txt;; esac\n')
    smi.chmod(0o755)
    for line in (SAID / "pci.txt").read_text().splitlines():
        path, vendor, device, kind = line.split()
        place = tmp_path / "pci" / Path(path).name
        place.mkdir(parents=True)
        for name, value in (("vendor", vendor), ("device", device), ("class", kind)):
            (place / name).write_text(f"{value}\n")
    shutil.copy(SAID / "driver-version.txt", tmp_path / "version")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setattr(_node_info, "_DRIVER", tmp_path / "version")
    monkeypatch.setattr(_node_info, "_PCI", tmp_path / "pci")
    monkeypatch.setattr(_node_info, "_TOOL_FOLDERS", (*_node_info._TOOL_FOLDERS, str(folder)))
    return tmp_path


def test_what_is_read_is_what_nvidia_smi_says_at_length(gpu_node: Path) -> None:
    """The table, the CSV and the kernel, against the XML of ``nvidia-smi -q -x``, which nothing here reads otherwise."""
    told = ElementTree.parse(SAID / "nvidia-smi-q.xml").getroot()
    [gpu] = told.findall("gpu")
    found = _node_info.gpus()
    assert found == {
        "devices": [
            {
                "index": int(gpu.findtext("minor_number", "")),
                "name": gpu.findtext("product_name"),
                "memory": int(gpu.findtext("fb_memory_usage/total", "").removesuffix(" MiB")),
                "compute": "9.0",  # Hopper; the XML does not name it
                "mig": gpu.findtext("mig_mode/current_mig") == "Enabled",
            }
        ],
        "driver": told.findtext("driver_version"),
        "cuda": told.findtext("cuda_version"),
        "on_bus": int(told.findtext("attached_gpus", "")),
        "problem": None,
    }
    assert found["devices"][0]["name"] == "NVIDIA H100 80GB HBM3" and gpu.findtext("product_architecture") == "Hopper"
    assert (found["driver"], found["cuda"]) == ("580.159.04", "13.0")
    assert _node_info.kernel_driver() == found["driver"]


def test_the_same_node_without_its_driver(gpu_node: Path) -> None:
    """The PCI bus still knows its GPU."""
    for path in (gpu_node / "version", gpu_node / "nvidia" / "bin" / "nvidia-smi"):
        path.unlink()
    found = _node_info.gpus()
    assert found["on_bus"] == 1 and found["devices"] == [] and found["problem"] == "nvidia-smi is not there: no NVIDIA driver"


@pytest.mark.parametrize("name", ["nvidia-smi.txt", "nvidia-smi-version.txt"])
def test_the_newest_cuda_in_either_text(name: str) -> None:
    assert _node_info.read_cuda((SAID / name).read_text()) == "13.0"


def test_the_newest_cuda_in_other_words() -> None:
    assert _node_info.read_cuda("| KMD Version: 595.10    CUDA UMD Version: 13.2 |") == "13.2"
    assert _node_info.read_cuda("| NVIDIA-SMI 535.161.01   Driver Version: 535.161.01   CUDA Version: N/A  |") is None


def test_a_field_that_the_driver_does_not_know(gpu_node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it refuses it, with status 2 and in its words; the row without it is read all the same."""
    refused = (SAID / "nvidia-smi-unknown-field.txt").read_text()
    assert _node_info.read_gpus(refused) == {"devices": [], "driver": None}
    monkeypatch.setattr(_node_info, "_GPU_FIELDS", (*_node_info._GPU_FIELDS[:-1], "nonsense"))
    [device] = _node_info.gpus()["devices"]
    assert device["compute"] == "9.0"


def test_a_driver_whose_devices_are_not_there(gpu_node: Path) -> None:
    """As in a container that was given no GPU: nvidia-smi ends with status 9, and its words come first."""
    smi = gpu_node / "nvidia" / "bin" / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\ncat {SAID}/nvidia-smi-no-devices.txt; exit 9\n")
    found = _node_info.gpus()
    assert first_line(found["problem"]).startswith(
        "nvidia-smi: NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    )
    assert (found["driver"], found["on_bus"], found["devices"]) == ("580.159.04", 1, [])


def test_a_node_with_two() -> None:
    found = _node_info.read_gpus((SAID / "nvidia-smi-query-2.csv").read_text())
    assert [(device["index"], device["memory"], device["compute"]) for device in found["devices"]] == [(0, 81559, "9.0"), (1, 81559, "9.0")]


def test_nothing_in_the_fixtures_names_the_machine() -> None:
    for path in SAID.glob("*.*"):
        for found in re.findall(r"GPU-([0-9a-f-]+)|<serial>(\d+)|<pdi>0x([0-9a-f]+)", path.read_text()):
            assert not "".join(found).strip("0-")
