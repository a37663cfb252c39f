# SPDX-License-Identifier: GPL-3.0-or-later
"""Which wheel a node takes, and what its compiled parts need."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils._errors import CatalogError, LockError
from ansible_collections.rlinf.offline.plugins.module_utils._wheel import Platform, best_wheel, check_built, needed_glibc, supported_tags
from tests.support.wheels import build_wheel

NODE = Platform.parse("x86_64-manylinux_2_31")


def best(*filenames: str, python: str = "3.11", platform: Platform = NODE) -> str | None:
    return best_wheel(filenames, supported_tags(python, platform))


def test_the_most_specific_fitting_wheel_is_taken():
    pure, old, new = "a-1-py3-none-any.whl", "a-1-cp311-cp311-manylinux_2_17_x86_64.whl", "a-1-cp311-cp311-manylinux_2_28_x86_64.whl"
    assert best(pure, old, new) == new
    assert best(pure, old) == old
    assert best(pure) == pure


def test_a_newer_glibc_another_python_and_another_machine_do_not_fit():
    assert best("a-1-cp311-cp311-manylinux_2_35_x86_64.whl") is None
    assert best("a-1-cp310-cp310-manylinux_2_17_x86_64.whl") is None
    assert best("a-1-cp311-cp311-manylinux_2_17_aarch64.whl") is None
    assert best("a-1-cp311-cp311-macosx_11_0_arm64.whl", "a-1-cp311-cp311-win_amd64.whl") is None


def test_stable_abi_compressed_tags_and_legacy_names_fit():
    assert best("a-1-cp38-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64.whl")
    assert best("a-1-cp311-cp311-manylinux2014_x86_64.whl")
    assert best("a-1-cp311-cp311-manylinux1_x86_64.whl")
    assert best("a-1-py2.py3-none-any.whl")
    assert best("flash_attn-2.7.4.post1+cu12torch2.6cxx11abiFALSE-cp311-cp311-linux_x86_64.whl")


def test_a_higher_build_number_wins_and_a_bad_name_is_passed_over():
    assert best("a-1-1-py3-none-any.whl", "a-1-2-py3-none-any.whl") == "a-1-2-py3-none-any.whl"
    assert best("a-1.whl", "nonsense", "a-1-py3-none-any.whl") == "a-1-py3-none-any.whl"


@pytest.mark.parametrize("text", ["", "x86_64", "linux", "x86_64-manylinux_3_1", "riscv64-manylinux_2_31"])
def test_a_platform_of_another_form_is_refused(text: str):
    with pytest.raises(CatalogError, match="rlinf_platform"):
        Platform.parse(text)


def test_symbol_versions_of_a_compiled_wheel(tmp_path: Path):
    source, library = tmp_path / "a.c", tmp_path / "a.so"
    source.write_text('#include <stdio.h>\nint hello(void) { return puts("hello"); }\n')
    compiler = shutil.which((sysconfig.get_config_var("CC") or "cc").split()[0]) or shutil.which("cc")
    assert compiler, "a C compiler is needed to make a shared library: install gcc"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    wheel = build_wheel(
        tmp_path, "compiled", "1.0", modules={"compiled/__init__.py": ""}, extra_files={"compiled/a.so": library.read_bytes()}
    )
    needed = needed_glibc(wheel)
    assert set(needed) == {"compiled/a.so"} and needed["compiled/a.so"] >= (2, 2)
    check_built(wheel, Platform("x86_64", (2, 99)), "compiled")
    with pytest.raises(LockError, match=r"compiled/a.so, built here, needs glibc 2\.\d+, but the nodes are x86_64-manylinux_2_1 "):
        check_built(wheel, Platform("x86_64", (2, 1)), "compiled")


def test_a_damaged_wheel_is_an_error_that_names_it(tmp_path: Path):
    wheel = tmp_path / "a-1-py3-none-any.whl"
    wheel.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(LockError, match=r"a-1-py3-none-any\.whl is damaged"):
        needed_glibc(wheel)
