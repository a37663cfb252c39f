# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The package index of the demo's world: what RLinf's targets ask for, by its real names, versions and requirements, next to nothing in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.demo.dates import AFTER, BEFORE, dated
from tests.support.repack import closure, repack
from tests.support.wheels import build_sdist, build_wheel, normalized

# the real ones, out of the running environment: what builds packages, and what a script of upstream installs by
_REAL = ("pip", "setuptools", "wheel")

# name, version, what it requires; pure wheels that were there before the cut-off
_WHEELS: tuple[tuple[str, str, str], ...] = (
    ("accelerate", "1.12.0", "numpy; pyyaml; torch >= 2.0.0"),
    ("aiohttp", "3.13.2", ""),
    ("albumentations", "1.4.18", "numpy; pydantic >= 2.7.0"),
    ("antlr4-python3-runtime", "4.13.2", ""),
    ("av", "12.3.0", ""),
    ("bddl", "3.6.0", "numpy"),
    ("beartype", "0.19.0", ""),
    ("cffi", "1.17.1", "pycparser"),
    ("cffi", "2.0.0", "pycparser"),
    ("click", "8.2.1", ""),
    ("click", "8.3.1", ""),
    ("cloudpickle", "3.1.2", ""),
    ("decord", "0.6.0", "numpy"),
    ("diffusers", "0.30.2", "numpy"),
    ("diffusers", "0.36.0", "numpy"),
    ("draccus", "0.8.0", "pyyaml"),
    ("draccus", "0.10.0", "pyyaml"),
    ("draccus", "0.11.5", "pyyaml"),
    ("einops", "0.8.1", ""),
    ("filelock", "3.20.1", ""),
    ("flax", "0.10.2", "jax >= 0.4.27"),
    ("gymnasium", "0.29.1", "cloudpickle; numpy"),
    ("gymnasium", "1.2.3", "cloudpickle; numpy"),
    ("huggingface-hub", "0.36.0", "filelock; pyyaml; hf-transfer ; extra == 'hf-transfer'"),
    ("hf-transfer", "0.1.9", ""),
    ("hydra-core", "1.3.2", "omegaconf < 2.4"),
    ("hydra-core", "1.4.0.dev1", "omegaconf >= 2.4.0.dev2"),
    ("imageio", "2.37.2", "numpy; imageio-ffmpeg ; extra == 'ffmpeg'"),
    ("imageio-ffmpeg", "0.6.0", ""),
    ("jax", "0.5.3", "ml-dtypes >= 0.4.0; numpy; jax-cuda12-plugin == 0.5.3 ; extra == 'cuda12'"),
    ("jax-cuda12-plugin", "0.5.3", ""),
    ("json-numpy", "2.1.1", "numpy"),
    ("metaworld", "3.0.0", "gymnasium >= 1.1; mujoco >= 3.0.0; numpy >= 1.18"),
    ("ml-dtypes", "0.3.2", "numpy"),
    ("ml-dtypes", "0.5.3", "numpy"),
    ("mpmath", "1.3.0", ""),
    ("msgpack", "1.1.2", ""),
    ("mujoco", "3.3.7", "numpy"),
    ("numpy", "1.26.4", ""),
    ("numpy", "2.2.6", ""),
    ("numpydantic", "1.6.7", "numpy; pydantic >= 2.3.0"),
    ("nvidia-ml-py", "13.580.82", ""),
    ("nvitop", "1.6.1", "nvidia-ml-py"),
    ("omegaconf", "2.3.0", "pyyaml"),
    ("omegaconf", "2.4.0.dev4", "pyyaml"),
    ("peft", "0.11.1", "accelerate; torch; transformers"),
    ("pillow", "11.0.0", ""),
    ("pillow", "12.0.0", ""),
    ("pipablepytorch3d", "0.7.6", "numpy"),
    ("protobuf", "3.20.3", ""),
    ("protobuf", "4.25.8", ""),
    ("protobuf", "6.33.2", ""),
    ("pycparser", "2.23", ""),
    ("pydantic", "2.10.6", "typing-extensions"),
    ("pynput", "1.8.1", "evdev >= 1.3 ; sys_platform == 'linux'"),
    ("pynvml", "13.0.1", "nvidia-ml-py"),
    ("pyopengl", "3.1.10", ""),
    ("pyyaml", "6.0.3", ""),
    ("pyzmq", "27.1.0", ""),
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
    ("tensorflow", "2.15.0", "ml-dtypes >= 0.3.1, < 0.4; numpy < 2; protobuf >= 3.20.3, < 5; wrapt >= 1.11.0, < 1.15"),
    ("tensorflow-datasets", "4.9.3", "numpy; protobuf >= 3.20"),
    ("tensorflow-graphics", "2021.12.3", "tensorflow >= 2.2.0"),
    ("timm", "0.9.10", "torch; torchvision"),
    ("tokenizers", "0.19.1", ""),
    ("tokenizers", "0.21.4", ""),
    ("torchdata", "0.11.0", "torch >= 2"),
    ("tqdm", "4.67.1", ""),
    ("transformer-engine", "2.1.0", "transformer_engine_cu12 == 2.1.0; transformer_engine_torch == 2.1.0 ; extra == 'pytorch'"),
    ("transformers", "4.40.1", "filelock; numpy; pyyaml; regex; tokenizers >= 0.19, < 0.20"),
    ("transformers", "4.51.1", "filelock; numpy; pyyaml; regex; tokenizers >= 0.21, < 0.22"),
    ("transformers", "4.51.3", "filelock; numpy; pyyaml; regex; tokenizers >= 0.21, < 0.22"),
    ("transformers", "4.53.2", "filelock; huggingface-hub; numpy; pyyaml; regex; tokenizers >= 0.21, < 0.22"),
    ("trimesh", "4.10.1", "numpy"),
    ("typing-extensions", "4.15.0", ""),
    ("tyro", "1.0.3", "typing-extensions"),
    ("uvloop", "0.21.0", ""),
    ("vllm", "0.8.5", "torch == 2.6.0; transformers >= 4.51.0"),
    ("wandb", "0.23.1", "protobuf"),
    ("websockets", "15.0.1", ""),
    ("wrapt", "1.14.2", ""),
    ("wrapt", "1.17.3", ""),
)
# the same, compiled for one Python and machine in the real index
_PLATFORM_WHEELS: tuple[tuple[str, str, str], ...] = (
    ("sapien", "3.0.1", "numpy"),
    ("torch", "2.2.0", "filelock; typing-extensions"),
    ("torch", "2.5.1", "filelock; nvidia-cuda-runtime-cu12 == 12.4.127 ; platform_system == 'Linux'; typing-extensions"),
    ("torch", "2.6.0", "filelock; nvidia-cuda-runtime-cu12 == 12.4.127 ; platform_system == 'Linux'; typing-extensions"),
    ("torch", "2.9.1", "filelock; typing-extensions"),
    ("torchaudio", "2.5.1", "torch == 2.5.1"),
    ("torchaudio", "2.6.0", "torch == 2.6.0"),
    ("torchvision", "0.20.1", "numpy; torch == 2.5.1"),
    ("torchvision", "0.21.0", "numpy; torch == 2.6.0"),
)
# for one machine and any Python: name, version, the package in it
_MACHINE_WHEELS: tuple[tuple[str, str, str], ...] = (
    ("nvidia-cuda-runtime-cu12", "12.4.127", "nvidia/cuda_runtime"),
    ("transformer-engine-cu12", "2.1.0", "transformer_engine_cu12"),
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
# modules besides the one with the version, by distribution and version
_MODULES: dict[tuple[str, str], Mapping[str, str]] = {
    # what openpi lays its own files over
    ("transformers", "4.53.2"): {
        "transformers/models/__init__.py": "",
        "transformers/models/gemma/__init__.py": "",
        "transformers/models/gemma/modeling_gemma.py": "KNOWS_ADARMS = False\n",
        "transformers/models/siglip/__init__.py": "",
    },
}


def build_index(index: Path, python: str, machine: str, runtime: Sequence[str], *, compiler: bool) -> None:
    """Write the files of the index.

    :param python: the minor version that platform wheels are for, *machine*, the architecture.
    :param runtime: the distributions that nodes are prepared with: the real ones, with what they require.
    :param compiler: whether the package with C in it is an sdist; without, it is a wheel, for a machine that has no compiler.
    """
    interpreter = f"cp{python.replace('.', '')}"
    compiled = f"{interpreter}-{interpreter}-manylinux_2_17_{machine}.manylinux2014_{machine}"
    for name, version, requires in _WHEELS:
        dated(build_wheel(index, name, version, modules=_package(name, version), requires=_split(requires)), BEFORE)
    for name, version, requires in _PLATFORM_WHEELS:
        dated(build_wheel(index, name, version, modules=_package(name, version), requires=_split(requires), tags=compiled), BEFORE)
    for name, version, package in _MACHINE_WHEELS:
        dated(build_wheel(index, name, version, modules={f"{package}/__init__.py": ""}, tags=f"py3-none-manylinux2014_{machine}"), BEFORE)
    for name, version, requires in _SDISTS:
        dated(build_sdist(index, name, version, modules=_package(name, version), requires=_split(requires)), BEFORE)
    for name, version, requires in _TOO_NEW:
        dated(build_wheel(index, name, version, requires=_split(requires)), AFTER)
    dated(_evdev(index, compiler), BEFORE)
    dated(_transformer_engine_torch(index), BEFORE)
    for name in closure([*_REAL, *runtime]):
        dated(repack(name, index), BEFORE)


def _package(name: str, version: str) -> dict[str, str]:
    return {f"{normalized(name)}/__init__.py": f"__version__ = {version!r}\n", **_MODULES.get((name, version), {})}


def _split(requires: str) -> list[str]:
    """Return the requirements of a table's cell: a semicolon parts them, and one with spaces around begins a marker."""
    return [item.strip() for item in requires.replace(" ; ", "\0").split(";") for item in [item.replace("\0", " ; ")] if item.strip()]


# -- compiled packages -----------------------------------------------------------------------------------------------------------------


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
    source = _answering("_input", 42)
    return build_sdist(index, "evdev", "1.9.2", files={**modules, "setup.py": setup, "evdev/input.c": source, "pyproject.toml": pyproject})


def _transformer_engine_torch(index: Path) -> Path:
    """Write transformer-engine-torch, which can tell nothing of itself without torch, and is compiled by nvcc."""
    pyproject = '[build-system]\nrequires = ["setuptools >= 61", "wheel", "torch"]\nbuild-backend = "setuptools.build_meta"\n'
    files = {
        "setup.py": _TRANSFORMER_ENGINE_SETUP,
        "csrc/extensions.cpp": f'extern "C" {{\n{_answering("transformer_engine_torch", 2)}}}\n',
        "pyproject.toml": pyproject,
    }
    return build_sdist(index, "transformer-engine-torch", "2.1.0", modules={}, files=files)


_TRANSFORMER_ENGINE_SETUP = '''\
import os
import shutil
import subprocess

import torch
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

if os.environ.get("NVTE_FRAMEWORK") != "pytorch":
    raise SystemExit("NVTE_FRAMEWORK says for which framework to build")


class Nvcc(build_ext):
    """Compiles by the CUDA compiler, as CUDA_HOME or PATH leads to it."""

    def build_extension(self, extension):
        home = os.environ.get("CUDA_HOME")
        nvcc = os.path.join(home, "bin", "nvcc") if home else shutil.which("nvcc")
        target = self.get_ext_fullpath(extension.name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        includes = ["-I" + path for path in self.include_dirs]
        subprocess.run([nvcc, "--shared", "-Xcompiler", "-fPIC", *includes, *extension.sources, "-o", target], check=True)


setup(
    name="transformer_engine_torch",
    version="2.1.0",
    install_requires=["torch"],
    ext_modules=[Extension("transformer_engine_torch", ["csrc/extensions.cpp"])],
    cmdclass={"build_ext": Nvcc},
)
'''


def _answering(module: str, number: int) -> str:
    """Return the C source of a module whose ``answer()`` is a number."""
    return f"""\
#include <Python.h>

static PyObject *answer(PyObject *self, PyObject *nothing) {{ return PyLong_FromLong({number}); }}
static PyMethodDef methods[] = {{{{"answer", answer, METH_NOARGS, "What the compiled part says."}}, {{NULL, NULL, 0, NULL}}}};
static struct PyModuleDef module = {{PyModuleDef_HEAD_INIT, "{module}", NULL, -1, methods}};
PyMODINIT_FUNC PyInit_{module}(void) {{ return PyModule_Create(&module); }}
"""
