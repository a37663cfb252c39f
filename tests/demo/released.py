# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that hosts of the demo's world serve: prebuilt wheels and assets, under the URLs that the catalogue has."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

from tests.demo.dates import BEFORE, dated
from tests.support.wheels import STAMP, build_wheel, normalized

# distribution -> what its prebuilt wheels require
_REQUIRES: dict[str, tuple[str, ...]] = {
    "flash_attn": ("einops", "torch"),
    "isaacsim": ("isaacsim-kernel == 4.5.0.0",),
    "isaacsim_kernel": ("omniverse-kit == 106.5.0.162521",),
}
# distribution -> what is in them: Isaac Sim is one package over many wheels
_EXTSCACHE = "isaacsim/extscache/omni.services.pip_archive-0.13.1/pip_prebundle"
_CONTENT: dict[str, Mapping[str, str]] = {
    "isaacsim_kernel": {
        "isaacsim/__init__.py": '''\
"""Isaac Sim: its licence is accepted by a variable, or by answering on the terminal."""
import os

if os.environ.get("OMNI_KIT_ACCEPT_EULA") != "YES" and input("Do you accept the EULA? (Yes/No): ") != "Yes":
    raise SystemExit("The EULA was not accepted.")
os.environ.setdefault("ISAAC_PATH", os.path.dirname(__file__))
'''
    },
    "isaacsim_extscache_kit": {
        f"{_EXTSCACHE}/packaging/__init__.py": "",
        f"{_EXTSCACHE}/websockets/__init__.py": "raise ImportError('in the way of the real one')\n",
    },
}
_ARCHIVES: dict[str, dict[str, bytes]] = {
    "https://huggingface.co/datasets/haosulab/ManiSkill_bridge_v2_real2sim/resolve/main/bridge_v2_real2sim_dataset.zip": {
        "bridge_v2_real2sim_dataset/custom/info_bridge_custom_v0.json": b'{"apple": {"scales": [1.0]}}\n',
        "bridge_v2_real2sim_dataset/custom/models/apple/collision.obj": b"v 0 0 0\n",
        "bridge_v2_real2sim_dataset/real_inpainting/bridge_real_eval_1.png": b"\x89PNG\r\n\x1a\n" + bytes(64),
    },
    "https://github.com/haosulab/ManiSkill-WidowX250S/archive/refs/tags/v0.2.0.zip": {
        "ManiSkill-WidowX250S-0.2.0/wx250s.urdf": b'<robot name="wx250s"/>\n',
        "ManiSkill-WidowX250S-0.2.0/meshes/gripper.stl": bytes(84),
    },
    "https://github.com/sapien-sim/physx-precompiled/releases/download/105.1-physx-5.3.1.patch0/linux-so.zip": {
        "libPhysXGpu_64.so": b"\x7fELF" + bytes(4096),
        "libPhysXDevice64.so": b"\x7fELF" + bytes(512),
    },
}
_TOKENIZER = "https://storage.googleapis.com/big_vision/paligemma_tokenizer.model"


def build_wheel_of(url: str, folder: Path) -> None:
    """Write a prebuilt wheel under the name that its URL ends with."""
    filename = url.rpartition("/")[2]
    name, version, tags = filename.removesuffix(".whl").split("-", 2)
    public = version.partition("+")[0]
    modules = _CONTENT.get(name)
    if modules is None:
        path = f"isaacsim/exts/{name}/__init__.py" if name.startswith("isaacsim") else f"{normalized(name)}/__init__.py"
        modules = {path: f"__version__ = {public!r}\n"}
    built = build_wheel(folder, name, version, modules=modules, requires=_REQUIRES.get(name, ()), tags=tags)
    dated(built.rename(folder / filename), BEFORE)


def build_assets(git: Path) -> None:
    """Write the assets below *git*, by host and path."""
    for url, members in _ARCHIVES.items():
        _zip(git / url.removeprefix("https://"), members)
    tokenizer = git / _TOKENIZER.removeprefix("https://")
    tokenizer.parent.mkdir(parents=True)
    tokenizer.write_bytes(bytes(range(256)) * 64)
    dated(tokenizer, BEFORE)


def _zip(path: Path, members: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            entry = zipfile.ZipInfo(name, STAMP)
            entry.external_attr = 0o100644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    dated(path, BEFORE)
