# SPDX-License-Identifier: GPL-3.0-or-later
"""The documented targets as the real run takes them: how upstream's installer is called, and what is left out where it cannot be had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FLASH_ATTN = "flash-attn-cu12torch2.6-cp311"
MANISKILL = ("maniskill-bridge", "maniskill-widowx250s", "sapien-physx")


@dataclass(frozen=True)
class Variant:
    """One target.

    :param install: the arguments of ``requirements/install.sh``; *env* is added to its environment.
    :param left_out: wheels and assets that only GitHub's releases, Hugging Face and Google have.
    :param entry: what the inventory overrides of the target's entry, since a part of it cannot be had; *why* names that part.
    :param example: the inventory below ``examples/`` that adds the target, if the collection does not have it.
    """

    target: str
    install: tuple[str, ...]
    python: str = "3.11"
    env: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    entry: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""
    example: str = ""

    @property
    def catalog(self) -> Mapping[str, Any]:
        """What the inventory adds to the catalogue for this target."""
        if self.example:
            return dict(yaml.safe_load((EXAMPLES / self.example).read_text(encoding="utf-8"))["all"]["vars"]["rlinf_catalog"])
        return {"targets": {self.target: dict(self.entry)}} if self.entry else {}


VARIANTS = {
    variant.target: variant
    for variant in (
        Variant("openvla", ("embodied", "--model", "openvla", "--env", "maniskill_libero"), left_out=(FLASH_ATTN, *MANISKILL)),
        Variant("openvla-oft", ("embodied", "--model", "openvla-oft", "--env", "maniskill_libero"), left_out=(FLASH_ATTN, *MANISKILL)),
        Variant(
            "openpi",
            ("embodied", "--model", "openpi", "--env", "maniskill_libero"),
            left_out=(FLASH_ATTN, *MANISKILL, "openpi-tokenizer"),
        ),
        Variant("openpi-metaworld", ("embodied", "--model", "openpi", "--env", "metaworld"), left_out=(FLASH_ATTN, "openpi-tokenizer")),
        Variant(
            "reason",
            ("reason",),
            env={"TEST_BUILD": "1"},
            left_out=(FLASH_ATTN, "apex-cp311"),
            entry={
                "steps": [{"uv_sync": ["sglang-vllm"]}, {"worktree": "Megatron-LM"}, {"uninstall": ["pynvml"]}],
                "metadata": None,
                "build_on_node": None,
            },
            why="requirements/reason/megatron.txt, whose transformer-engine-torch is compiled by nvcc; upstream's own TEST_BUILD=1 leaves it out too",
        ),
        Variant(
            "openvla-oft-behavior",
            ("embodied", "--model", "openvla-oft", "--env", "behavior"),
            python="3.10",
            left_out=("flash-attn-cu12torch2.5-cp310",),
            entry={
                "steps": [
                    {"uv_sync": ["embodied"]},
                    {"requirements": ["requirements/embodied/models/openvla_oft.txt"], "build_isolation": False},
                    {"worktree": "BEHAVIOR-1K"},
                    {"uninstall": ["flash-attn"]},
                    {"requirements": ["ml_dtypes==0.5.3", "protobuf==3.20.3"]},
                    {"requirements": ["click==8.2.1"]},
                    {"requirements": ["torch==2.5.1", "torchvision==0.20.1", "torchaudio==2.5.1"], "project_settings": False},
                    {"uninstall": ["pynvml"]},
                ],
                "licences": None,
                "settings": None,
            },
            why="BEHAVIOR-1K's setup script: the stand-in's does nothing, and Isaac Sim is in NVIDIA's package index alone",
        ),
        Variant(
            "gr00t", ("embodied", "--model", "gr00t", "--env", "maniskill_libero"), left_out=(FLASH_ATTN, *MANISKILL), example="gr00t.yml"
        ),
    )
}
