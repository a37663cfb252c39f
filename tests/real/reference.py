# SPDX-License-Identifier: GPL-3.0-or-later
"""The peer of a lock: RLinf's own ``requirements/install.sh``, run online in a copy with as few changes as it takes, and its freeze."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

BRANCH = "release/v0.1"
CUT_OFF = "2025-12-23T00:00:00Z"


@dataclass(frozen=True)
class Change:
    """One change to the copy of the installer, and why it cannot be done without."""

    before: str
    after: str
    why: str


# every one of them is in the page of the figures
CHANGES = (
    Change('PYTHON_VERSION="3.11.14"', 'PYTHON_VERSION="3.11"', "exact interpreter: whichever 3.11 the machine has"),
    Change("UV_TORCH_BACKEND=auto ", "", "torch backend: builds as the index serves them, not as this machine's GPU asks"),
    Change("bash $SCRIPT_DIR/embodied/sys_deps.sh", ": sys_deps.sh", "system packages"),
    Change('uv pip install "${base_url}/${wheel_name}"', ': "${base_url}/${wheel_name}"', "wheels that only GitHub's releases have"),
    Change("bash $SCRIPT_DIR/embodied/download_assets.sh", ": download_assets.sh", "assets of Hugging Face, GitHub's releases and Google"),
)


@dataclass(frozen=True)
class Reference:
    """Runs upstream's installer.

    :param call: runs a program: arguments, ``cwd`` and ``env``.
    :param upstream: a directory that stands in for github.com, if GitHub cannot be reached.
    """

    call: Callable[..., str]
    uv: Path
    work: Path
    upstream: Path | None

    def freeze(self, name: str, arguments: Sequence[str], python: Path, extra: Mapping[str, str]) -> list[str]:
        """Return what is installed, without the editables, after the installer ran with *arguments* and the first Python on PATH."""
        folder = self.work / "reference"
        checkout = folder / name
        shutil.rmtree(checkout, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        env = {**self._environment(folder, python), **extra}
        self.call("git", "clone", "-q", "-b", BRANCH, "https://github.com/RLinf/RLinf.git", checkout, env=env)
        self._change(checkout / "requirements" / "install.sh")
        self.call("bash", "requirements/install.sh", *arguments, cwd=checkout, env=env)
        said = self.call(self.uv, "pip", "freeze", "--python", checkout / ".venv", cwd=checkout, env=env)
        shutil.rmtree(checkout)
        return sorted(line for line in said.splitlines() if line and not line.startswith("-e"))

    def _environment(self, folder: Path, python: Path) -> dict[str, str]:
        git_config = folder / "gitconfig"
        led = f'[url "file://{self.upstream}/github.com/"]\n\tinsteadOf = https://github.com/\n[safe]\n\tdirectory = *\n'
        git_config.write_text(led if self.upstream else "", encoding="utf-8")
        tools = folder / "bin"
        tools.mkdir(exist_ok=True)
        (tools / "uv").unlink(missing_ok=True)
        (tools / "uv").symlink_to(self.uv)
        return {
            "GIT_CONFIG_GLOBAL": str(git_config),
            "PATH": f"{tools}:{python.parent}:/usr/local/bin:/usr/bin:/bin",
            "UV_EXCLUDE_NEWER": CUT_OFF,
            "UV_CACHE_DIR": str(folder / "cache"),
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_NO_GITHUB_FAST_PATH": "1",
            "VIRTUAL_ENV": "",
            "PYTHONPATH": "",
        }

    def _change(self, script: Path) -> None:
        text = script.read_text(encoding="utf-8")
        for change in CHANGES:
            if change.before not in text:
                raise ValueError(f"install.sh no longer holds {change.before!r}; see CHANGES in {__file__}")
            text = text.replace(change.before, change.after)
        script.write_text(text, encoding="utf-8")
