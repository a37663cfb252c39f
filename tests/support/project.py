# SPDX-License-Identifier: GPL-3.0-or-later
"""A small upstream whose project is installed by a sequence of steps: git, an index, sdists, nested git dependencies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.upstream import Upstream
from tests.support.wheels import build_sdist, build_wheel, source_tree, write_tree

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
CUT_OFF = "2025-06-01T00:00:00Z"
OLD, NEW = 1735689600, 1767225600  # 2025-01-01 and 2026-01-01


def commit(repository: Path, files: dict[str, str], *, when: int = OLD, branch: str = "main") -> str:
    """Commit *files* into a bare repository, made if it is not there; return the commit."""
    work = repository.parent / f".{repository.name}.work"
    identity = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@example.invalid",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@example.invalid",
    }
    dates = {"GIT_AUTHOR_DATE": f"{when} +0000", "GIT_COMMITTER_DATE": f"{when} +0000"}
    env = {**os.environ, **identity, **dates, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}

    def git(*args: str, cwd: Path = work) -> str:
        return subprocess.run(["git", *args], cwd=cwd, env=env, check=True, capture_output=True, text=True).stdout.strip()

    if not repository.exists():
        repository.parent.mkdir(parents=True, exist_ok=True)
        git("init", "-q", "--bare", "-b", branch, str(repository), cwd=repository.parent)
        git("clone", "-q", str(repository), str(work), cwd=repository.parent)
        git("checkout", "-q", "-B", branch)
    write_tree(work, files)
    git("add", "-A")
    git("commit", "-q", "-m", "change")
    git("push", "-q", "origin", branch)
    return git("rev-parse", "HEAD")


class World:
    """The upstream's content and the module's arguments."""

    python = MINOR

    def __init__(self, root: Path, bundle: Path) -> None:
        self.root, self.bundle = root, bundle
        self.git = root / "git" / "github.com"
        pyproject = (
            f'[project]\nname = "demo"\nversion = "1"\nrequires-python = ">={MINOR}"\ndependencies = ["base", "pinned>=2", "sourced"]\n'
            '[project.optional-dependencies]\nrobots = ["extra==1.0"]\n[tool.uv]\noverride-dependencies = ["overridden==1.0"]\n'
        )
        requirements = {
            "requirements/model.txt": "model @ git+https://github.com/o/model.git\n",
            "requirements/impossible.txt": "base==99\n",
        }
        self.project_commit = commit(self.git / "o/demo.git", {"pyproject.toml": pyproject, "demo.py": "", **requirements})
        # the nested dependency's default branch is not main; the model wants a pinned that the project's own step would not take
        self.nested_commit = commit(self.git / "o/nested.git", source_tree("nested", "0.1"), branch="trunk")
        nested = "nested @ git+https://github.com/o/nested"
        self.model_commit = commit(
            self.git / "o/model.git", source_tree("model", "0.0.3", requires=[nested, "pinned<2", "overridden==2.0"])
        )
        commit(self.git / "o/model.git", source_tree("model", "0.0.3", requires=["base==99"]), when=NEW)
        self.editable_commit = commit(self.git / "o/editable.git", source_tree("editable-thing", "0.1"))
        self.publish("base", "1.0")
        self.publish("base", "2.0", when=NEW)
        for name, version in (
            ("pinned", "1.5"),
            ("pinned", "2.5"),
            ("extra", "1.0"),
            ("overridden", "1.0"),
            ("overridden", "2.0"),
            ("wheel", "0.45"),
            ("gone", "1.0"),
        ):
            self.publish(name, version)
        sdist = build_sdist(root / "index", "sourced", "3.1", requires=["gone"])
        os.utime(sdist, (OLD, OLD))
        build_wheel(bundle / "wheels", "prebuilt", "7.0", requires=["base"])

    def publish(self, name: str, version: str, *, when: int = OLD) -> None:
        wheel = build_wheel(self.root / "index", name, version)
        os.utime(wheel, (when, when))

    def arguments(self, upstream: Upstream, **more: Any) -> dict[str, Any]:
        steps = [
            {"uv_sync": ["robots"]},
            {"editable": "editable"},
            {"requirements": ["requirements/model.txt"], "build_isolation": False},
            {"wheels": ["prebuilt"]},
            {"uninstall": ["gone"]},
        ]
        catalog = {
            "repositories": {name: {"url": f"https://github.com/o/{name}.git"} for name in ("demo", "editable")},
            "wheels": {"prebuilt": {"url": "https://github.com/o/prebuilt/releases/prebuilt-7.0-py3-none-any.whl"}},
            "targets": {"demo": {"project": "demo", "python": MINOR, "cut_off": CUT_OFF, "steps": steps}},
        }
        rewrites = {"https://github.com/": f"{upstream.url}/git/github.com/"}
        common = {"bundle_dir": str(self.bundle), "python": {MINOR: sys.executable}, "platform": "x86_64-manylinux_2_36"}
        return {**common, "catalog": catalog, "targets": ["demo"], "url_rewrites": rewrites, "index_url": f"{upstream.url}/simple/", **more}
