# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""BEHAVIOR-1K of the demo's world: three packages in one repository, and the script that installs them beside Isaac Sim."""

from __future__ import annotations

from collections.abc import Sequence

# By its options, its questions and its order this is upstream's at RLinf/v3.7.1, in other words, and without what RLinf does not ask for.
_SETUP = r"""#!/bin/bash
set -e

BDDL=false OMNIGIBSON=false JOYLO=false CONFIRM_NO_CONDA=false ACCEPT_NVIDIA_EULA=false USE_UV=false
while [ $# -gt 0 ]; do
    case $1 in
        --omnigibson) OMNIGIBSON=true ;;
        --bddl) BDDL=true ;;
        --joylo) JOYLO=true ;;
        --confirm-no-conda) CONFIRM_NO_CONDA=true ;;
        --accept-nvidia-eula) ACCEPT_NVIDIA_EULA=true ;;
        --use-uv) USE_UV=true ;;
        *) echo "Unknown option: $1"; exit 1 ;;
    esac
    shift
done
WORKDIR=$(pwd)
PIP=pip
if [ "$USE_UV" = true ]; then
    command -v uv >/dev/null || { echo "ERROR: uv was not found"; exit 1; }
    PIP="uv pip"
fi
if [ -z "$CONDA_PREFIX" ] && [ "$CONFIRM_NO_CONDA" = false ]; then
    echo "WARNING: this is no conda environment. Continue? [y/n]"
    read -r answer
    [[ $answer =~ ^[Yy]$ ]] || exit 1
fi
if [ "$OMNIGIBSON" = true ] && [ "$ACCEPT_NVIDIA_EULA" = false ]; then
    echo "Do you accept NVIDIA's Isaac Sim EULA? (y/N)"
    read -r answer
    [[ $answer =~ ^[Yy]$ ]] || { echo "The EULA was not accepted. Use --accept-nvidia-eula."; exit 1; }
fi

if [ "$BDDL" = true ]; then
    $PIP install "$WORKDIR/bddl3"
fi

if [ "$OMNIGIBSON" = true ]; then
    found=$(python -c "import sys; print('{}.{}'.format(*sys.version_info))")
    [ "$found" = "@python@" ] || { echo "ERROR: Python @python@ is needed, this is $found"; exit 1; }
    if [ -n "$EXP_PATH" ] || [ -n "$CARB_APP_PATH" ] || [ -n "$ISAAC_PATH" ]; then
        echo "ERROR: another Isaac Sim is set in the environment"
        exit 1
    fi
    $PIP install -e "$WORKDIR/OmniGibson"
    export OMNI_KIT_ACCEPT_EULA=YES
    if python -c "import isaacsim" 2>/dev/null; then
        echo "Isaac Sim is there already"
    else
        folder=$(mktemp -d)
        wheels=()
        for name in @packages@; do
            file=$name-@tags@.whl
            project=${name%-*}
            if [ -n "$ISAAC_SIM_WHEEL_PATH" ]; then
                cp "$ISAAC_SIM_WHEEL_PATH/$file" "$folder/$file"
            else
                curl -fsSL "@index@/${project//_/-}/$file" -o "$folder/$file"
            fi
            wheels+=("$folder/$file")
        done
        $PIP install "${wheels[@]}"
        rm -rf "$folder"
        # an old copy, which is in the way of the one that is installed
        isaac=$(python -c "import isaacsim, os; print(os.environ['ISAAC_PATH'])")
        find "$isaac/extscache" -type d -name websockets -path "*/pip_prebundle/*" -exec rm -rf {} + || true
    fi
    pip install --force-reinstall cffi==1.17.1
fi

if [ "$JOYLO" = true ]; then
    $PIP install -e "$WORKDIR/joylo"
fi
"""
_OMNIGIBSON = """\
from os import path

from setuptools import find_packages, setup

with open(path.join(path.abspath(path.dirname(__file__)), "README.md"), encoding="utf-8") as stream:
    description = stream.read()

setup(
    name="omnigibson",
    version="3.7.1",
    long_description=description,
    packages=find_packages(),
    install_requires=["bddl~=3.7.0", "cffi~=1.17.1", "click>=8.1.3", "gymnasium>=0.28.1", "numpy<2.0.0,>=1.23.5", "pillow~=11.0.0"],
)
"""
_JOYLO = """\
[build-system]
requires = ["setuptools>=61.0", "wheel"]
build-backend = "setuptools.build_meta"

[project]
name = "joylo"
version = "3.7.1"
dependencies = ["numpy<2", "Pillow", "tyro", "websockets"]

[tool.setuptools]
packages = ["joylo"]
"""


def behavior(python: str, index: str, wheels: Sequence[str]) -> dict[str, str]:
    """Return its files.

    :param python: the minor version that it insists on.
    :param index: the URL of the index that its script fetches from by curl.
    :param wheels: the file names of Isaac Sim's wheels, in their order.
    """
    stems = [name.removesuffix(".whl").rsplit("-", 3) for name in wheels]
    script = _SETUP.replace("@python@", python).replace("@index@", index).replace("@packages@", " ".join(stem for stem, *_tags in stems))
    return {
        ".gitignore": "*.egg-info\n__pycache__/\nbuild/\n",
        "README.md": "# BEHAVIOR-1K\n",
        "setup.sh": script.replace("@tags@", "-".join(stems[0][1:])),
        "bddl3/setup.py": "from setuptools import setup\n\nsetup(name='bddl', version='3.7.1', packages=['bddl'], install_requires=['numpy'])\n",
        "bddl3/bddl/__init__.py": "__version__ = '3.7.1'\n",
        "OmniGibson/README.md": "# OmniGibson\n",
        "OmniGibson/setup.py": _OMNIGIBSON,
        "OmniGibson/omnigibson/__init__.py": "__version__ = '3.7.1'\n",
        "joylo/pyproject.toml": _JOYLO,
        "joylo/joylo/__init__.py": "",
    }
