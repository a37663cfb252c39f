# SPDX-License-Identifier: GPL-3.0-or-later
"""A bundle with mirrors and wheels, and a checkout that refers to them as RLinf's does."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.support.origins import git

MIRRORS = (
    "github.com/RLinf/LIBERO.git",
    "github.com/RLinf/latex2sympy2.git",
    "github.com/RLinf/openpi.git",
    "github.com/haosulab/ManiSkill.git",
    "github.com/moojink/dlimp_openvla.git",
    "github.com/moojink/openvla-oft.git",
    "github.com/openvla/openvla.git",
    "gitlab.example/group/sub/tool.git",
)
TAG, BRANCH = "v3.0.0b22", "RLinf/v3.7.1"
WHEEL = "flash_attn-2.7.4.post1+cu12torch2.6cxx11abiFALSE-cp311-cp311-linux_x86_64.whl"
WHEEL_URL = f"https://github.com/Dao-AILab/flash-attention/releases/download/v2.7.4.post1/{WHEEL}"

REQUIREMENTS = {
    "requirements/embodied/envs/maniskill.txt": f"\nmani_skill @ git+https://github.com/haosulab/ManiSkill.git@{TAG}",
    "requirements/embodied/models/openpi.txt": "# the model\r\nopenpi @ git+https://github.com/RLinf/openpi\r\n",
    "requirements/embodied/models/openvla.txt": "openvla @ git+https://github.com/openvla/openvla.git",
    "requirements/embodied/models/openvla_oft.txt": "openvla_oft @ git+https://github.com/moojink/openvla-oft.git",
    "requirements/reason/megatron.txt": "transformer_engine[pytorch]==2.1.0",
}
PYPROJECT = """\
[project]
name = "RLinf"
version = "0.1.0"
description = "see git+https://github.com/RLinf/latex2sympy2.git"
dependencies = [
    "torch==2.6.0",
    # once "latex2sympy2 @ git+https://github.com/RLinf/latex2sympy2.git"
    "latex2sympy2 @ git+https://github.com/RLinf/latex2sympy2.git",
]
"""


def make_bundle(root: Path, mirrors: Iterable[str] = MIRRORS, wheels: Mapping[str, bytes] | None = None) -> str:
    """Make a bundle whose mirrors have the branches main and BRANCH and the tag TAG, HEAD detached; return the commit of all."""
    seed = root.parent / f"{root.name}-seed"
    git("init", "--quiet", "--initial-branch=main", seed, cwd=root.parent)
    git("commit", "--quiet", "--allow-empty", "--message", "first", cwd=seed)
    git("tag", TAG, cwd=seed)
    git("branch", BRANCH, cwd=seed)
    for name in mirrors:
        mirror = root / "repos" / name
        git("clone", "--quiet", "--bare", seed, mirror, cwd=root.parent)
        (mirror / "HEAD").write_text(git("rev-parse", "main", cwd=seed) + "\n", encoding="utf-8")
    for name, data in ({WHEEL: b"a wheel"} if wheels is None else wheels).items():
        (root / "wheels").mkdir(parents=True, exist_ok=True)
        (root / "wheels" / name).write_bytes(data)
    return git("rev-parse", "main", cwd=seed)


def make_checkout(root: Path, files: Mapping[str, str | bytes] | None = None) -> Path:
    """Make a checkout of these files, committed, each with a mode and a time of its own."""
    contents = {**REQUIREMENTS, "pyproject.toml": PYPROJECT, ".gitignore": "uv.lock\n"} if files is None else files
    git("init", "--quiet", "--initial-branch=main", root, cwd=root.parent)
    for number, (name, content) in enumerate(contents.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        path.chmod(0o600 + 0o44 * (number % 2))
        os.utime(path, ns=(10**18 + number * 1_000_000_007, 10**18 + number * 1_000_000_007))
    git("add", "--all", "--force", ".", cwd=root)
    git("commit", "--quiet", "--message", "all", cwd=root)
    return root


def status(root: Path) -> str:
    """Return what `git status` says of a checkout."""
    return git("status", "--porcelain", cwd=root)


def snapshot(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return mode, time and content of every file of a checkout, ``.git`` aside except for its list of ignored files."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_file() and (not name.startswith(".git/") or name == ".git/info/exclude"):
            found[name] = (path.lstat().st_mode, path.lstat().st_mtime_ns, path.read_bytes())
    return found
