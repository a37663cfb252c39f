# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which GPUs wheels hold code for, read out of libraries that CUDA 13.0's nvcc made (``fixtures/gpu_node/kernels``: kernel.cu, built on a GPU node).

What NVIDIA's own ``cuobjdump`` says of each lies beside it.
"""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.rlinf.offline.plugins.module_utils import _kernels
from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError, LockError
from ansible_collections.rlinf.offline.plugins.module_utils._files import sha256_file
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._package import Package

MADE = Path(__file__).parent / "fixtures" / "gpu_node" / "kernels"
NAMES = sorted(path.stem for path in MADE.glob("*.so"))


def told(name: str) -> list[str]:
    """Return what cuobjdump says of a library: ``ELF file    1: many.1.sm_75.cubin``, ``PTX file    1: both.1.sm_80.ptx``."""
    found = re.findall(r"^(ELF|PTX) file .*\.sm_(\d+)(\d)[af]?\.", (MADE / f"{name}.list").read_text(), re.MULTILINE)
    return [
        f"{major}.{minor}{'+PTX' if kind == 'PTX' else ''}"
        for kind, major, minor in sorted(set(found), key=lambda item: (int(item[1]), item[0]))
    ]


def wheel(folder: Path, filename: str, *names: str) -> Path:
    """Write a file with these libraries in it; of a wheel there is nothing else."""
    with zipfile.ZipFile(folder / filename, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/__init__.py", "")
        for name in names:
            archive.write(MADE / f"{name}.so", f"x/{name}.cpython-311-x86_64-linux-gnu.so")
    return folder / filename


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("piece", [7, 64, 1 << 20])
def test_a_library_says_what_cuobjdump_says(name: str, piece: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In whatever pieces it is read."""
    monkeypatch.setattr(_kernels, "CHUNK", piece)
    assert told(name) and _kernels.code_of(wheel(tmp_path, "x-1-cp311-cp311-linux_x86_64.whl", name)) == told(name)


def test_a_wheel_says_what_all_its_libraries_say(tmp_path: Path) -> None:
    found = _kernels.code_of(wheel(tmp_path, "x-1-cp311-cp311-linux_x86_64.whl", "many", "both"))
    assert found == ["7.5", "8.0", "8.0+PTX", "9.0", "10.0"]
    assert _kernels.code_of(wheel(tmp_path, "y-1-cp311-cp311-linux_x86_64.whl")) == []


@given(st.data())
def test_a_damaged_library_is_read_to_its_end(data: st.DataObject) -> None:
    content = bytearray((MADE / "both.so").read_bytes()[0x2000 : 0x2000 + 0x1000])
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(content)))
    repeated = bytes(content[:end]) + bytes(content)
    for capability, kind in _kernels.code_in(io.BytesIO(repeated)):
        assert 20 <= capability < 1000 and kind in (1, 2)


@pytest.mark.parametrize(
    ("code", "capability", "does"),
    [
        (["7.5", "8.0", "9.0"], "9.0", True),
        (["7.5", "8.0"], "8.9", True),  # the same major version
        (["8.6"], "8.0", False),
        (["7.5", "8.0", "9.0"], "10.0", False),
        (["9.0", "9.0+PTX"], "12.0", True),
        (["9.0+PTX"], "8.0", False),
        (["10.0"], "10.3", True),
        (["7.5"], "7.0", False),
    ],
)
def test_what_runs_where(code: list[str], capability: str, does: bool) -> None:
    assert _kernels.runs(code, capability) is does


def test_which_side_a_gpu_is_on() -> None:
    assert _kernels.newer(["7.5", "9.0+PTX"], "10.0") and not _kernels.newer(["7.5", "10.0"], "7.0")


# -- in a bundle ---------------------------------------------------------------------------------------------------------------


def package(bundle: Bundle, filename: str, *names: str) -> Package:
    """Return a package of the bundle with these libraries."""
    bundle.index.mkdir(parents=True, exist_ok=True)
    place = wheel(bundle.index, filename, *names)
    path = str(place.relative_to(bundle.root))
    return Package(filename.split("-")[0], "1", "index", {}, path, sha256_file(place), place.stat().st_size)


def test_each_wheel_is_looked_into_once(tmp_path: Path) -> None:
    bundle = Bundle(tmp_path)
    torch = package(bundle, "torch-1-cp311-cp311-linux_x86_64.whl", "many")
    plain = package(bundle, "plain-1-py3-none-any.whl", "many")
    numpy = package(bundle, "numpy-1-cp311-cp311-linux_x86_64.whl")
    left = Package("left", "1", "index", {}, "wheelhouse/index/left-1-cp311-cp311-linux_x86_64.whl", "0" * 64, 1)
    packages = [torch, plain, numpy, left]
    assert _kernels.unread(bundle, packages) == [numpy, torch]
    _kernels.read(bundle, packages)
    found = {path: entry["code"] for path, entry in _kernels.record(bundle).items()}
    assert found == {torch.path: ["7.5", "8.0", "9.0", "10.0"], numpy.path: []} and _kernels.unread(bundle, packages) == []
    before = (bundle.records / "kernels.json").stat().st_mtime_ns
    _kernels.read(bundle, packages)
    assert (bundle.records / "kernels.json").stat().st_mtime_ns == before
    # another file under the name, and one that is gone
    (bundle.root / numpy.path).unlink()
    other = package(bundle, "torch-1-cp311-cp311-linux_x86_64.whl", "ptx")
    _kernels.read(bundle, [other, plain])
    assert _kernels.record(bundle) == {torch.path: {"sha256": other.sha256, "code": ["8.0+PTX"]}}


def test_what_is_damaged_is_said(tmp_path: Path) -> None:
    bundle = Bundle(tmp_path)
    torch = package(bundle, "torch-1-cp311-cp311-linux_x86_64.whl", "many")
    content = bytearray((bundle.root / torch.path).read_bytes())
    content[200:4000] = bytes(3800)
    (bundle.root / torch.path).write_bytes(content)
    with pytest.raises(LockError, match=r"torch-1-cp311-cp311-linux_x86_64\.whl is damaged"):
        _kernels.read(bundle, [torch])
    bundle.records.mkdir()
    for said in ('{"x": 1}', '{"x": {"sha256": "0", "code": ["nine"]}}', '{"x": {"code": []}}', "[]"):
        (bundle.records / "kernels.json").write_text(said)
        with pytest.raises(BundleError, match=r"kernels.json.* damaged.*rlinf.offline.download"):
            _kernels.record(bundle)
