# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small world for the collection to work in: repositories, an index and files with RLinf's real names and dependency shapes.

:func:`build` writes what :mod:`tests.support.upstream` serves. Dates and bytes are fixed: equal arguments and equal tools give equal files.
What makes it hard is what makes the real one hard:

- The steps of ``openvla`` have no solution together (swanlab wants wrapt >= 1.17, openvla's tensorflow < 1.15); one after the other they have.
- Git dependencies no list names (dlimp), a default branch called ``master``, a tag that is not the newest, a requirement file
  without a final newline, a fork of transformers at the very version that the index has.
- Every repository and several packages have something newer than the cut-off that breaks whoever takes it.
- Packages that are sdists only, one of them with C in it; a LIBERO that asks a question when it is imported.
"""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from tests.support.repack import closure, repack
from tests.support.wheels import STAMP, build_sdist, build_wheel, normalized

CUT_OFF = "2025-12-23"
HOSTS = ("github.com", "huggingface.co", "storage.googleapis.com")
FLASH_ATTN = "flash-attn-cu12torch2.6-cp311"
"""The catalogue's name of the wheel that the demo serves for its own Python."""
_BEFORE, _AFTER = "2025-06-01", "2026-02-01"
# what builds packages; the real ones, out of the running environment, as is what a node is prepared with
_BUILD_BACKENDS = ("setuptools", "wheel")
_RUNTIME = Path(__file__).resolve().parents[2] / "roles" / "download" / "files" / "runtime-requirements.txt"


@dataclass(frozen=True)
class World:
    """What was built: *root* for the upstream to serve, for CPython *python* (``3.11``) on *machine* (``x86_64``)."""

    root: Path
    python: str
    machine: str

    def url_rewrites(self, upstream: str) -> dict[str, str]:
        """Return ``rlinf_url_rewrites`` for an upstream that serves this world at the URL *upstream*."""
        return {f"https://{host}/": f"{upstream}/git/{host}/" for host in HOSTS}

    def index_url(self, upstream: str) -> str:
        """Return ``rlinf_index_url``."""
        return f"{upstream}/simple/"

    @property
    def runtime_requirements(self) -> Path:
        """``rlinf_runtime_requirements``: what the shipped list names, without digests, since here it is repacked from this environment."""
        return self.root / "runtime-requirements.txt"

    @property
    def flash_attn_url(self) -> str:
        """Where the prebuilt wheel for this world's Python is released."""
        tag = f"cp{self.python.replace('.', '')}"
        name = f"flash_attn-2.7.4.post1+cu12torch2.6cxx11abiFALSE-{tag}-{tag}-linux_{self.machine}.whl"
        return f"https://github.com/Dao-AILab/flash-attention/releases/download/v2.7.4.post1/{name}"

    def file(self, url: str) -> Path:
        """Return the file that stands for *url* (https)."""
        return self.root / "git" / url.removeprefix("https://")

    def commit(self, repository: str, revision: str = "HEAD") -> str:
        """Return the commit that *revision* names in ``owner/name`` on github.com."""
        command: list[str | Path] = [
            "git",
            "-C",
            self.root / "git" / "github.com" / f"{repository}.git",
            "rev-parse",
            f"{revision}^{{commit}}",
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=_GIT_ENVIRONMENT)
        return done.stdout.strip()


def build(root: Path, *, python: str | None = None, machine: str | None = None, compiler: bool = True) -> World:
    """Write the world into the empty or missing directory *root*.

    :param python: the minor version that platform wheels are for; by default the running interpreter's.
    :param machine: the architecture they are for; by default this machine's.
    :param compiler: whether the package with C in it is an sdist; without, it is a wheel, for a machine that has no compiler.
    """
    world = World(root, python or "{}.{}".format(*sys.version_info), machine or platform.machine())
    _build_index(world, compiler)
    _build_files(world)
    for repository in _repositories(world):
        repository.write(root)
    return world


def catalog_overrides(world: World, catalog: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``rlinf_catalog``: what is different here from the shipped *catalog*, and one target more.

    The targets' Python and the prebuilt wheel are this machine's. ``openvla-oft`` is made of the entry of ``openvla``, with its own last steps.
    """
    openvla = catalog["targets"]["openvla"]
    model = next(
        number for number, step in enumerate(openvla["steps"]) if "requirements/embodied/models/openvla.txt" in step.get("requirements", [])
    )
    last = [
        {"wheels": [FLASH_ATTN]},
        {"requirements": ["requirements/embodied/models/openvla_oft.txt"], "build_isolation": False},
        {"uninstall": ["pynvml"]},
    ]
    return {
        "wheels": {FLASH_ATTN: {"url": world.flash_attn_url, "python": world.python}},
        "targets": {
            "openvla": {"python": world.python},
            "openvla-oft": {**openvla, "python": world.python, "steps": [*openvla["steps"][:model], *last]},
        },
    }


# -- the index -------------------------------------------------------------------------------------------------------------------------

# name, version, what it requires; pure wheels that were there before the cut-off
_WHEELS: tuple[tuple[str, str, str], ...] = (
    ("accelerate", "1.12.0", "numpy; pyyaml; torch >= 2.0.0"),
    ("aiohttp", "3.13.2", ""),
    ("antlr4-python3-runtime", "4.13.2", ""),
    ("cloudpickle", "3.1.2", ""),
    ("diffusers", "0.36.0", "numpy"),
    ("draccus", "0.8.0", "pyyaml"),
    ("draccus", "0.11.5", "pyyaml"),
    ("einops", "0.8.1", ""),
    ("filelock", "3.20.1", ""),
    ("gymnasium", "0.29.1", "cloudpickle; numpy"),
    ("hydra-core", "1.3.2", "omegaconf < 2.4"),
    ("hydra-core", "1.4.0.dev1", "omegaconf >= 2.4.0.dev2"),
    ("imageio", "2.37.2", "numpy; imageio-ffmpeg ; extra == 'ffmpeg'"),
    ("imageio-ffmpeg", "0.6.0", ""),
    ("json-numpy", "2.1.1", "numpy"),
    ("mpmath", "1.3.0", ""),
    ("numpy", "1.26.4", ""),
    ("numpy", "2.2.6", ""),
    ("nvidia-ml-py", "13.580.82", ""),
    ("nvitop", "1.6.1", "nvidia-ml-py"),
    ("omegaconf", "2.3.0", "pyyaml"),
    ("omegaconf", "2.4.0.dev4", "pyyaml"),
    ("peft", "0.11.1", "accelerate; torch; transformers"),
    ("protobuf", "4.25.8", ""),
    ("protobuf", "6.33.2", ""),
    ("pynput", "1.8.1", "evdev >= 1.3 ; sys_platform == 'linux'"),
    ("pynvml", "13.0.1", "nvidia-ml-py"),
    ("pyyaml", "6.0.3", ""),
    ("ray", "2.53.0", "filelock; protobuf >= 3.20.3; aiohttp ; extra == 'default'"),
    ("regex", "2025.11.3", ""),
    ("rich", "14.2.0", ""),
    ("robosuite", "1.4.1", "numpy; pynput"),
    ("sentencepiece", "0.1.99", ""),
    ("sentencepiece", "0.2.1", ""),
    ("sglang", "0.4.6.post5", "torch; transformers == 4.51.1; uvloop ; extra == 'all'"),
    ("swanlab", "0.7.5", "protobuf; pynvml; wrapt >= 1.17.0"),
    ("sympy", "1.14.0", "mpmath"),
    ("tensorboard", "2.20.0", "numpy; protobuf >= 3.19.6"),
    ("tensordict", "0.10.0", "cloudpickle; numpy; torch"),
    ("tensorflow", "2.15.0", "numpy < 2; protobuf >= 3.20.3, < 5; wrapt >= 1.11.0, < 1.15"),
    ("tensorflow-datasets", "4.9.3", "numpy; protobuf >= 3.20"),
    ("tensorflow-graphics", "2021.12.3", "tensorflow >= 2.2.0"),
    ("timm", "0.9.10", "torch; torchvision"),
    ("tokenizers", "0.19.1", ""),
    ("tokenizers", "0.21.4", ""),
    ("torchdata", "0.11.0", "torch >= 2"),
    ("tqdm", "4.67.1", ""),
    ("transformers", "4.40.1", "filelock; numpy; pyyaml; regex; tokenizers >= 0.19, < 0.20"),
    ("transformers", "4.51.1", "filelock; numpy; pyyaml; regex; tokenizers >= 0.21, < 0.22"),
    ("trimesh", "4.10.1", "numpy"),
    ("typing-extensions", "4.15.0", ""),
    ("uvloop", "0.21.0", ""),
    ("vllm", "0.8.5", "torch == 2.6.0; transformers >= 4.51.0"),
    ("wandb", "0.23.1", "protobuf"),
    ("wrapt", "1.14.2", ""),
    ("wrapt", "1.17.3", ""),
)
# the same, compiled for one Python and machine in the real index
_PLATFORM_WHEELS: tuple[tuple[str, str, str], ...] = (
    ("sapien", "3.0.1", "numpy"),
    ("torch", "2.2.0", "filelock; typing-extensions"),
    ("torch", "2.6.0", "filelock; nvidia-cuda-runtime-cu12 == 12.4.127 ; platform_system == 'Linux'; typing-extensions"),
    ("torch", "2.9.1", "filelock; typing-extensions"),
    ("torchaudio", "2.6.0", "torch == 2.6.0"),
    ("torchvision", "0.21.0", "numpy; torch == 2.6.0"),
)
# only as source, as in the real index
_SDISTS: tuple[tuple[str, str, str], ...] = (
    ("gym", "0.26.2", "cloudpickle >= 1.2.0; numpy >= 1.18.0"),
    ("pylatexenc", "2.10", ""),
    ("word2number", "1.1", ""),
)
# newer than the cut-off; whoever takes one gets requirements that nothing fulfils
_TOO_NEW: tuple[tuple[str, str, str], ...] = (
    ("accelerate", "2.0.0", "torch >= 2.11"),
    ("swanlab", "0.9.0", "torch >= 2.11"),
    ("tensordict", "0.13.0", "torch >= 2.11"),
)


def _build_index(world: World, compiler: bool) -> None:
    index = world.root / "index"
    interpreter = f"cp{world.python.replace('.', '')}"
    compiled = f"{interpreter}-{interpreter}-manylinux_2_17_{world.machine}.manylinux2014_{world.machine}"
    for name, version, requires in _WHEELS:
        _dated(build_wheel(index, name, version, modules=_package(name, version), requires=_split(requires)), _BEFORE)
    for name, version, requires in _PLATFORM_WHEELS:
        _dated(build_wheel(index, name, version, modules=_package(name, version), requires=_split(requires), tags=compiled), _BEFORE)
    for name, version, requires in _SDISTS:
        _dated(build_sdist(index, name, version, modules=_package(name, version), requires=_split(requires)), _BEFORE)
    for name, version, requires in _TOO_NEW:
        _dated(build_wheel(index, name, version, requires=_split(requires)), _AFTER)
    runtime = build_wheel(
        index,
        "nvidia-cuda-runtime-cu12",
        "12.4.127",
        modules={"nvidia/cuda_runtime/__init__.py": ""},
        tags=f"py3-none-manylinux2014_{world.machine}",
    )
    _dated(runtime, _BEFORE)
    _dated(_evdev(index, compiler), _BEFORE)
    runtime_names = re.findall(r"^([\w.-]+)==", _RUNTIME.read_text(encoding="utf-8"), re.MULTILINE)
    world.runtime_requirements.write_text("".join(f"{name}=={installed_version(name)}\n" for name in runtime_names), encoding="utf-8")
    for name in closure([*_BUILD_BACKENDS, *runtime_names]):
        _dated(repack(name, index), _BEFORE)


def _evdev(index: Path, compiler: bool) -> Path:
    """Write evdev, which simulators bring in by way of pynput and which has to be compiled."""
    modules = {"evdev/__init__.py": "__version__ = '1.9.2'\n"}
    if not compiler:
        return build_wheel(index, "evdev", "1.9.2", modules=modules)
    setup = (
        "from setuptools import Extension, setup\n"
        "setup(name='evdev', version='1.9.2', packages=['evdev'], ext_modules=[Extension('evdev._input', ['evdev/input.c'])])\n"
    )
    pyproject = '[build-system]\nrequires = ["setuptools >= 70"]\nbuild-backend = "setuptools.build_meta"\n'
    return build_sdist(
        index, "evdev", "1.9.2", files={**modules, "setup.py": setup, "evdev/input.c": _INPUT_C, "pyproject.toml": pyproject}
    )


_INPUT_C = """\
#include <Python.h>

static PyObject *answer(PyObject *self, PyObject *nothing) { return PyLong_FromLong(42); }
static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, "What the compiled part says."}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_input", NULL, -1, methods};
PyMODINIT_FUNC PyInit__input(void) { return PyModule_Create(&module); }
"""


def _package(name: str, version: str) -> dict[str, str]:
    return {f"{normalized(name)}/__init__.py": f"__version__ = {version!r}\n"}


def _split(requires: str) -> list[str]:
    """Return the requirements of a table's cell: a semicolon parts them, and one with spaces around begins a marker."""
    return [item.strip() for item in requires.replace(" ; ", "\0").split(";") for item in [item.replace("\0", " ; ")] if item.strip()]


def _dated(path: Path, day: str) -> None:
    """Give a file the time that the index says it was uploaded, or that a server says it was changed."""
    when = _seconds(day)
    os.utime(path, (when, when))


def _seconds(day: str) -> int:
    return int(datetime.datetime.fromisoformat(f"{day}T12:00:00+00:00").timestamp())


# -- files that hosts serve ------------------------------------------------------------------------------------------------------------


def _build_files(world: World) -> None:
    wheel = world.file(world.flash_attn_url)
    tags = wheel.name.removesuffix(".whl").split("-", 2)[2]
    modules = {"flash_attn/__init__.py": "__version__ = '2.7.4.post1'\n"}
    requires = ["einops", "torch"]
    built = build_wheel(wheel.parent, "flash_attn", "2.7.4.post1+cu12torch2.6cxx11abiFALSE", modules=modules, requires=requires, tags=tags)
    _dated(built.rename(wheel), _BEFORE)
    for url, members in _ARCHIVES.items():
        _zip(world.file(url), members)
    tokenizer = world.file("https://storage.googleapis.com/big_vision/paligemma_tokenizer.model")
    tokenizer.parent.mkdir(parents=True)
    tokenizer.write_bytes(bytes(range(256)) * 64)
    _dated(tokenizer, _BEFORE)


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


def _zip(path: Path, members: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            entry = zipfile.ZipInfo(name, STAMP)
            entry.external_attr = 0o100644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    _dated(path, _BEFORE)


# -- repositories ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Commit:
    """The whole content of one commit: path to text; *tag* names it besides its branch."""

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
                who = f"Demo <demo@example.invalid> {_seconds(commit.day)} +0000"
                parts.append(f"commit refs/heads/{branch}\ncommitter {who}\n".encode() + _data(commit.message) + b"deleteall\n")
                parts += [f"M 100644 inline {path}\n".encode() + _data(text) for path, text in commit.files.items()]
                if commit.tag:
                    parts.append(f"tag {commit.tag}\nfrom refs/heads/{branch}\ntagger {who}\n".encode() + _data(commit.tag))
        return parts


def _data(text: str) -> bytes:
    content = text.encode()
    return f"data {len(content)}\n".encode() + content + b"\n"


# nothing of the user's git settings may reach a commit
_GIT_ENVIRONMENT = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C.UTF-8"}


def _repositories(world: World) -> list[Repository]:
    major, minor = world.python.split(".")
    project = _rlinf(f">=3.10,<{major}.{int(minor) + 1}")
    newer = {**project, "pyproject.toml": project["pyproject.toml"].replace('version = "0.1.0"', 'version = "0.2.0"')}
    return [
        Repository(
            "RLinf/RLinf",
            {
                "main": [Commit("2025-12-22", "Begin", project), Commit(_AFTER, "Go on", newer)],
                "release/v0.1": [Commit("2025-12-22", "Release", project)],
            },
        ),
        _aging("RLinf/latex2sympy2", _setup("latex2sympy2", "1.9.1", ["antlr4-python3-runtime == 4.13.2", "sympy >= 1.4"])),
        _aging("RLinf/LIBERO", _libero()),
        Repository(
            "haosulab/ManiSkill",
            {
                "main": [
                    Commit("2025-05-01", "Beta 21", _setup("mani_skill", "3.0.0b21", [])),
                    Commit(
                        "2025-09-01",
                        "Beta 22",
                        _setup("mani_skill", "3.0.0b22", ["gymnasium == 0.29.1", "sapien >= 3.0.0", "tqdm", "trimesh"]),
                        "v3.0.0b22",
                    ),
                    Commit("2025-11-01", "Towards beta 23", _setup("mani_skill", "3.0.0b23", ["gymnasium >= 1.0"])),
                ]
            },
        ),
        _aging("openvla/openvla", _openvla("openvla", "0.0.3", ["transformers == 4.40.1"])),
        _aging(
            "moojink/openvla-oft",
            _openvla(
                "openvla-oft", "0.0.1", [f"transformers @ git+{_GITHUB}/moojink/transformers-openvla-oft.git", "diffusers", "imageio"]
            ),
        ),
        _aging(
            "moojink/dlimp_openvla", _setup("dlimp", "0.0.1", ["tensorflow == 2.15.0", "tensorflow-datasets >= 4.9.2"]), branch="master"
        ),
        _aging(
            "moojink/transformers-openvla-oft",
            _setup(
                "transformers",
                "4.40.1",
                ["filelock", "numpy", "pyyaml", "regex", "tokenizers >= 0.19, < 0.20"],
                code="__version__ = '4.40.1'\nATTENTION = 'bidirectional'\n",
            ),
        ),
    ]


_GITHUB = "https://github.com"


def _aging(name: str, files: dict[str, str], branch: str = "main") -> Repository:
    """Return a repository whose last commit, newer than the cut-off, requires what nobody has."""
    setup = "setup.py" if "setup.py" in files else "pyproject.toml"
    broken = (
        files[setup]
        .replace("install_requires=[", "install_requires=['not-released-yet', ")
        .replace("dependencies = [", 'dependencies = ["not-released-yet", ')
    )
    older = Commit("2025-03-01", "Begin", {"README.md": f"# {name}\n"})
    return Repository(name, {branch: [older, Commit("2025-12-01", "Work", files), Commit(_AFTER, "Move on", {**files, setup: broken})]})


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
    listed = "".join(f'    "{item}",\n' for item in [*common, *pins, *requires, *flow])
    return {
        "README.md": f"# {name}\n",
        "pyproject.toml": (
            '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n\n'
            f'[project]\nname = "{name}"\nversion = "{version}"\nrequires-python = ">=3.8"\ndependencies = [\n{listed}]\n\n'
            '[tool.setuptools.packages.find]\nwhere = ["."]\nexclude = ["cache"]\n'
        ),
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


def _rlinf(requires_python: str) -> dict[str, str]:
    """Return RLinf: its pyproject with the shape of release/v0.1, its requirement files byte for byte."""
    return {
        ".gitignore": "__pycache__/\n.venv\nuv.lock\n",
        "README.md": "# RLinf\n",
        "pyproject.toml": _RLINF_PYPROJECT.replace("@requires-python@", requires_python),
        "rlinf/__init__.py": "__version__ = '0.1.0'\n",
        "requirements/embodied/envs/maniskill.txt": f"\nmani_skill @ git+{_GITHUB}/haosulab/ManiSkill.git@v3.0.0b22",
        "requirements/embodied/envs/metaworld.txt": "metaworld==3.0.0",
        "requirements/embodied/models/openpi.txt": f"\nopenpi @ git+{_GITHUB}/RLinf/openpi",
        "requirements/embodied/models/openvla.txt": f"openvla @ git+{_GITHUB}/openvla/openvla.git",
        "requirements/embodied/models/openvla_oft.txt": f"openvla_oft @ git+{_GITHUB}/moojink/openvla-oft.git",
        "requirements/reason/megatron.txt": "transformer_engine[pytorch]==2.1.0",
    }


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
