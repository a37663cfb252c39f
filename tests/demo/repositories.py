# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The repositories of the demo's world: RLinf and what it and its targets clone, with their real names, refs and ways to be built."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.demo.dates import AFTER, seconds


@dataclass(frozen=True)
class Commit:
    """The whole content of one commit: path to text, that of scripts beginning with ``#!``; *tag* names it besides its branch."""

    day: str
    message: str
    files: Mapping[str, str]
    tag: str | None = None


@dataclass(frozen=True)
class Repository:
    """A repository on github.com; the first of its branches is the default one."""

    name: str
    branches: Mapping[str, Sequence[Commit]] = field(default_factory=dict)

    def write(self, root: Path) -> None:
        """Make it as a bare repository where :mod:`tests.support.upstream` serves it."""
        path = root / "git" / "github.com" / f"{self.name}.git"
        default = next(iter(self.branches))
        init: list[str | Path] = ["git", "init", "--quiet", "--bare", "--template=", f"--initial-branch={default}", path]
        subprocess.run(init, check=True, env=_GIT_ENVIRONMENT)
        load: list[str | Path] = ["git", "-C", path, "fast-import", "--quiet"]
        subprocess.run(load, check=True, env=_GIT_ENVIRONMENT, input=b"".join(self._stream()), stdout=subprocess.DEVNULL)

    def _stream(self) -> list[bytes]:
        """Return what ``git fast-import`` reads."""
        parts = []
        for branch, commits in self.branches.items():
            parts.append(f"reset refs/heads/{branch}\n".encode())
            for commit in commits:
                who = f"Demo <demo@example.invalid> {seconds(commit.day)} +0000"
                parts.append(f"commit refs/heads/{branch}\ncommitter {who}\n".encode() + _data(commit.message) + b"deleteall\n")
                for path, text in commit.files.items():
                    parts.append(f"M {100755 if text.startswith('#!') else 100644} inline {path}\n".encode() + _data(text))
                if commit.tag:
                    parts.append(f"tag {commit.tag}\nfrom refs/heads/{branch}\ntagger {who}\n".encode() + _data(commit.tag))
        return parts


def _data(text: str) -> bytes:
    content = text.encode()
    return f"data {len(content)}\n".encode() + content + b"\n"


# nothing of the user's git settings may reach a commit
_GIT_ENVIRONMENT = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C.UTF-8"}


def commit_of(path: Path, revision: str = "HEAD") -> str:
    """Return the commit that *revision* names in a repository."""
    command: list[str | Path] = ["git", "-C", path, "rev-parse", f"{revision}^{{commit}}"]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=_GIT_ENVIRONMENT).stdout.strip()


_GITHUB = "https://github.com"


def write_repositories(root: Path, python: str, behavior_files: Mapping[str, str]) -> None:
    """Write all of them.

    :param root: the root of the world.
    :param python: the minor version that the project is for.
    :param behavior_files: the files of BEHAVIOR-1K.
    """
    lerobot = Repository("huggingface/lerobot", {"main": _lerobot()})
    lerobot.write(root)
    # a commit that no branch or tag names
    pinned = commit_of(root / "git" / "github.com" / "huggingface" / "lerobot.git", "main~1")
    for repository in [*_project(python), *_shared(), *_models(pinned), *_environments(behavior_files)]:
        repository.write(root)


def _project(python: str) -> list[Repository]:
    major, minor = python.split(".")
    project = _rlinf(f">=3.10,<{major}.{int(minor) + 1}")
    newer = {**project, "pyproject.toml": project["pyproject.toml"].replace('version = "0.1.0"', 'version = "0.2.0"')}
    branches = {
        "main": [Commit("2025-12-22", "Begin", project), Commit(AFTER, "Go on", newer)],
        "release/v0.1": [Commit("2025-12-22", "Release", project)],
    }
    return [Repository("RLinf/RLinf", branches)]


def _shared() -> list[Repository]:
    """Return what several targets have in common."""
    maniskill = [
        Commit("2025-05-01", "Beta 21", _setup("mani_skill", "3.0.0b21", [])),
        Commit(
            "2025-09-01",
            "Beta 22",
            _setup("mani_skill", "3.0.0b22", ["gymnasium == 0.29.1", "sapien >= 3.0.0", "tqdm", "trimesh"]),
            "v3.0.0b22",
        ),
        Commit("2025-11-01", "Towards beta 23", _setup("mani_skill", "3.0.0b23", ["gymnasium >= 1.0"])),
    ]
    return [
        _aging("RLinf/latex2sympy2", _setup("latex2sympy2", "1.9.1", ["antlr4-python3-runtime == 4.13.2", "sympy >= 1.4"])),
        _aging("RLinf/LIBERO", _libero()),
        Repository("haosulab/ManiSkill", {"main": maniskill}),
    ]


def _models(lerobot: str) -> list[Repository]:
    """Return the models, and what only they ask for.

    :param lerobot: the commit of lerobot that openpi asks for.
    """
    fork = f"transformers @ git+{_GITHUB}/moojink/transformers-openvla-oft.git"
    dlimp = _setup("dlimp", "0.0.1", ["tensorflow == 2.15.0", "tensorflow-datasets >= 4.9.2"])
    # the very version that the index has, and other code
    transformers = _setup(
        "transformers",
        "4.40.1",
        ["filelock", "numpy", "pyyaml", "regex", "tokenizers >= 0.19, < 0.20"],
        code="__version__ = '4.40.1'\nATTENTION = 'bidirectional'\n",
    )
    return [
        _aging("openvla/openvla", _openvla("openvla", "0.0.3", ["transformers == 4.40.1"])),
        _aging("moojink/openvla-oft", _openvla("openvla-oft", "0.0.1", [fork, "diffusers", "imageio"])),
        _aging("moojink/dlimp_openvla", dlimp, branch="master"),
        _aging("moojink/transformers-openvla-oft", transformers),
        _aging("RLinf/openpi", _openpi(lerobot)),
        _aging("RLinf/Isaac-GR00T", _gr00t()),
    ]


def _environments(behavior_files: Mapping[str, str]) -> list[Repository]:
    """Return what targets have as a working copy, at a branch that is not the default one."""
    broken = {"README.md": "# Moved on\n"}
    megatron = {
        ".gitignore": "__pycache__\n",
        "README.md": "# Megatron-LM\n",
        "megatron/core/__init__.py": "__version__ = '0.13.0'\n",
        "megatron/training/__init__.py": "",
    }
    return [
        Repository(
            "NVIDIA/Megatron-LM", {"main": [Commit(AFTER, "Go on", broken)], "core_r0.13.0": [Commit("2025-08-01", "Core", megatron)]}
        ),
        Repository(
            "RLinf/BEHAVIOR-1K",
            {"main": [Commit(AFTER, "Go on", broken)], "RLinf/v3.7.1": [Commit("2025-12-01", "For RLinf", behavior_files)]},
        ),
    ]


def _aging(name: str, files: dict[str, str], branch: str = "main") -> Repository:
    """Return a repository whose last commit, newer than the cut-off, requires what nobody has."""
    setup = "setup.py" if "setup.py" in files else "pyproject.toml"
    broken = (
        files[setup]
        .replace("install_requires=[", "install_requires=['not-released-yet', ")
        .replace("dependencies = [", 'dependencies = ["not-released-yet", ')
    )
    older = Commit("2025-03-01", "Begin", {"README.md": f"# {name}\n"})
    return Repository(name, {branch: [older, Commit("2025-12-01", "Work", files), Commit(AFTER, "Move on", {**files, setup: broken})]})


def _setup(name: str, version: str, requires: Sequence[str], *, code: str | None = None) -> dict[str, str]:
    """Return a project with a setup.py, as most of these repositories have."""
    listed = ", ".join(map(repr, requires))
    return {
        "README.md": f"# {name}\n",
        "setup.py": (
            "from setuptools import find_packages, setup\n\n"
            f"setup(name={name!r}, version={version!r}, packages=find_packages(), install_requires=[{listed}])\n"
        ),
        f"{name}/__init__.py": code or f"__version__ = {version!r}\n",
    }


def _openvla(name: str, version: str, requires: Sequence[str]) -> dict[str, str]:
    """Return openvla or openvla-oft: old pins, and one requirement that only its URL finds."""
    common = ["accelerate>=0.25.0", "draccus==0.8.0", "einops", "json-numpy", "peft==0.11.1", "protobuf", "rich", "sentencepiece==0.1.99"]
    pins = ["timm==0.9.10", "tokenizers==0.19.1", "torch==2.2.0", "torchvision==0.17.0", "torchaudio==2.2.0", "wandb"]
    flow = [
        "tensorflow==2.15.0",
        "tensorflow_datasets==4.9.3",
        "tensorflow_graphics==2021.12.3",
        f"dlimp @ git+{_GITHUB}/moojink/dlimp_openvla",
    ]
    return {
        "README.md": f"# {name}\n",
        "pyproject.toml": _pyproject(name, version, [*common, *pins, *requires, *flow]),
        "prismatic/__init__.py": f"__version__ = {version!r}\n",
    }


def _libero() -> dict[str, str]:
    """Return LIBERO: found by PYTHONPATH alone, and asking a question before it has a configuration."""
    asks = '''\
"""Where the benchmark's files lie: asked for at first, then read from a file."""
import os
from pathlib import Path

folder = Path(os.environ.get("LIBERO_CONFIG_PATH") or Path.home() / ".libero")
here = Path(__file__).resolve().parent

if not (folder / "config.yaml").exists():
    datasets = input("Where shall the data sets lie? ") or str(here.parent / "datasets")
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"benchmark_root": here, "bddl_files": here / "bddl_files", "datasets": datasets}
    (folder / "config.yaml").write_text("".join(f"{name}: {path}\\n" for name, path in paths.items()))


def get_libero_path(name):
    """Return one of the paths of the configuration."""
    lines = (folder / "config.yaml").read_text().splitlines()
    return dict(line.split(": ", 1) for line in lines if ": " in line)[name]
'''
    return {
        ".gitignore": "*pyc\ndatasets\nlibero.egg-info/\n",
        "README.md": "# LIBERO\n",
        "setup.py": "from setuptools import find_packages, setup\n\nsetup(name='libero', version='0.1.0', packages=find_packages(), install_requires=[])\n",
        "libero/libero/__init__.py": asks,
        "libero/libero/bddl_files/libero_10/kitchen.bddl": "(define (problem kitchen))\n",
        "libero/lifelong/__init__.py": "",
    }


def _lerobot() -> list[Commit]:
    """Return lerobot: the commit that openpi asks for, and one after it; both before the cut-off."""
    listed = ["draccus==0.10.0", "gymnasium==0.29.1", "huggingface-hub[hf-transfer,cli]>=0.27.1", "omegaconf>=2.3.0", "pynput>=1.7.7"]
    files = {
        # as `git lfs install` wants it: what is kept is a pointer
        ".gitattributes": "*.safetensors filter=lfs diff=lfs merge=lfs -text\n",
        "README.md": "# lerobot\n",
        "pyproject.toml": _pyproject("lerobot", "0.1.0", [*listed, "torch>=2.2.1", "torchvision>=0.21.0"], data="*.safetensors"),
        "lerobot/__init__.py": "",
        "lerobot/policy.safetensors": f"version https://git-lfs.github.com/spec/v1\noid sha256:{'5' * 64}\nsize 4096\n",
    }
    newer = {**files, "pyproject.toml": files["pyproject.toml"].replace("draccus==0.10.0", "draccus==0.8.0")}
    return [Commit("2025-06-02", "As openpi wants it", files), Commit("2025-09-02", "Go on", newer)]


def _openpi(lerobot: str) -> dict[str, str]:
    """Return openpi: a workspace whose client lies in it, a dependency at a commit, and files to be laid over transformers."""
    listed = [
        *("beartype==0.19.0", "einops>=0.8.0", "filelock>=3.16.1", "flax==0.10.2", "imageio>=2.36.1", "jax[cuda12]==0.5.3", "lerobot"),
        *("numpy>=1.22.4,<2.0.0", "openpi-client", "pillow>=11.0.0", "rich>=14.0.0", "sentencepiece>=0.2.0", "torch==2.7.1"),
        *("transformers==4.53.2", "tyro>=0.9.5", "wandb>=0.19.1"),
    ]
    workspace = (
        '\n[tool.uv]\noverride-dependencies = ["ml-dtypes==0.4.1"]\n\n'
        f'[tool.uv.sources]\nopenpi-client = {{ workspace = true }}\nlerobot = {{ git = "{_GITHUB}/huggingface/lerobot", rev = "{lerobot}" }}\n\n'
        '[tool.uv.workspace]\nmembers = ["packages/*"]\n'
    )
    replaced = "src/openpi/models_pytorch/transformers_replace/models"
    return {
        "README.md": "# openpi\n",
        "pyproject.toml": _pyproject("openpi", "0.1.0", listed, folder="src") + workspace,
        "packages/openpi-client/pyproject.toml": _pyproject(
            "openpi-client", "0.1.0", ["msgpack>=1.0.5", "numpy>=1.22.4,<2.0.0", "pillow>=9.0.0", "websockets>=11.0"], folder="src"
        ),
        "packages/openpi-client/src/openpi_client/__init__.py": "__version__ = '0.1.0'\n",
        "src/openpi/__init__.py": "",
        "src/openpi/models_pytorch/__init__.py": "",
        f"{replaced}/gemma/modeling_gemma.py": "KNOWS_ADARMS = True\n",
        f"{replaced}/siglip/check.py": "import transformers\n\n\ndef check():\n    return transformers.__version__ == '4.53.2'\n",
    }


def _gr00t() -> dict[str, str]:
    """Return Isaac-GR00T, whose dependencies nobody could fulfil: it is installed without them."""
    return {
        "README.md": "# Isaac-GR00T\n",
        "pyproject.toml": _pyproject("gr00t", "1.1.0", ["torch==2.5.1", "not-released-yet"]),
        "gr00t/__init__.py": "__version__ = '1.1.0'\n",
    }


def _pyproject(name: str, version: str, requires: Sequence[str], *, folder: str = ".", data: str = "") -> str:
    """Return a pyproject.toml that setuptools builds.

    :param folder: where the packages lie.
    :param data: which files of them are no modules.
    """
    listed = "".join(f'    "{item}",\n' for item in requires)
    return (
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n\n'
        f'[project]\nname = "{name}"\nversion = "{version}"\nrequires-python = ">=3.8"\ndependencies = [\n{listed}]\n\n'
        f'[tool.setuptools.packages.find]\nwhere = ["{folder}"]\nexclude = ["cache", "packages*", "tests*"]\n'
        + (f'\n[tool.setuptools.package-data]\n"*" = ["{data}"]\n' if data else "")
    )


def _rlinf(requires_python: str) -> dict[str, str]:
    """Return RLinf: its pyproject with the shape of release/v0.1, its requirement files byte for byte."""
    return {
        ".gitignore": "__pycache__/\n.venv\nuv.lock\n",
        "README.md": "# RLinf\n",
        "pyproject.toml": _RLINF_PYPROJECT.replace("@requires-python@", requires_python),
        "rlinf/__init__.py": "__version__ = '0.1.0'\n",
        "requirements/embodied/envs/maniskill.txt": f"\nmani_skill @ git+{_GITHUB}/haosulab/ManiSkill.git@v3.0.0b22",
        "requirements/embodied/envs/metaworld.txt": "metaworld==3.0.0",
        "requirements/embodied/models/gr00t.txt": _GR00T,
        "requirements/embodied/models/openpi.txt": f"\nopenpi @ git+{_GITHUB}/RLinf/openpi",
        "requirements/embodied/models/openvla.txt": f"openvla @ git+{_GITHUB}/openvla/openvla.git",
        "requirements/embodied/models/openvla_oft.txt": f"openvla_oft @ git+{_GITHUB}/moojink/openvla-oft.git",
        "requirements/reason/megatron.txt": "transformer_engine[pytorch]==2.1.0",
    }


_GR00T = """\
diffusers==0.30.2
numpydantic==1.6.7
av==12.3.0
pydantic==2.10.6
pipablepytorch3d==0.7.6
albumentations==1.4.18
pyzmq
decord==0.6.0
transformers==4.51.3
pyopengl==3.1.10
mujoco==3.3.7"""
_RLINF_PYPROJECT = """\
[project]
name = "RLinf"
version = "0.1.0"
readme = {file = "README.md", content-type = "text/markdown"}
requires-python = "@requires-python@"

dependencies = [
    # Core System
    "accelerate",
    "ray[default]>=2.47.0",
    "torch==2.6.0",

    # Data processing
    "pylatexenc",
    "latex2sympy2 @ git+https://github.com/RLinf/latex2sympy2.git",
    "sentencepiece",
    "torchdata",
    "wandb",
    "word2number",
    "regex",

    # Utilities
    "hydra-core==1.4.0.dev1",
    "einops",
    "nvitop",
    "setuptools>=69.5.1,<75.9",
    "pip",

    # Logging
    "swanlab>=0.6.11",
    "tensorboard",
]

[project.optional-dependencies]
sglang-vllm = [
    "transformers==4.51.1",
    "sglang[all]==0.4.6.post5",
    "vllm==0.8.5",
    # uvloop is not compatible with simulators, put it here
    "uvloop==0.21.0",
]
embodied = [
    "transformers==4.40.1",
    "draccus",
    "rich",
    "peft==0.11.1",
    "timm==0.9.10",
    "sapien==3.0.1;platform_system=='Linux'",
    "tensordict",
    "imageio[ffmpeg]",
    "robosuite==1.4.1",
    "bddl",
    "cloudpickle",
    "gym",
]

[tool.uv]
prerelease = "allow"
conflicts = [
    [
      { extra = "sglang-vllm" },
      { extra = "embodied" },
    ],
]
override-dependencies = [
    "torch==2.6.0",
    "torchvision==0.21.0",
    "torchaudio==2.6.0",
    "uvloop==0.21.0",
    "hydra-core==1.4.0.dev1",
]
"""
