# SPDX-License-Identifier: GPL-3.0-or-later
"""Which wheel a node takes, and what its compiled parts need."""

from __future__ import annotations

import base64
import hashlib
import shutil
import stat
import subprocess
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils._errors import ArchiveError, CatalogError, LockError
from ansible_collections.rlinf.offline.plugins.module_utils._wheel import (
    Platform,
    best_wheel,
    check_built,
    check_record,
    check_whole,
    needed_glibc,
    supported_tags,
)
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


# -- what a wheel holds is what its RECORD lists


INFO = "a-1.dist-info"
Members = dict[str, bytes]


def wheel_of(place: Path, members: Members, link: str = "") -> Path:
    with zipfile.ZipFile(place, "w") as archive:
        for name, data in members.items():
            entry = zipfile.ZipInfo(name)
            entry.create_system = 3
            entry.external_attr = ((stat.S_IFLNK if name == link else stat.S_IFREG) | 0o644) << 16
            archive.writestr(entry, data)
    return place


def members_of() -> Members:
    files = {
        "a/__init__.py": b"",
        "a/b,c.py": b"x = 1\n",
        f"{INFO}/METADATA": b"Name: a\nVersion: 1\n",
        f"{INFO}/WHEEL": b"Wheel-Version: 1.0\n",
    }
    rows = [
        f'"{name}",sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()},{len(data)}\n' for name, data in files.items()
    ]
    return {**files, f"{INFO}/RECORD": "".join([*rows, f"{INFO}/RECORD,,\n"]).encode()}


def recorded(change: Callable[[bytes], bytes]) -> Members:
    made = members_of()
    return {**made, f"{INFO}/RECORD": change(made[f"{INFO}/RECORD"])}


def test_a_wheel_that_is_what_it_lists(tmp_path: Path) -> None:
    wheel = wheel_of(tmp_path / "a-1-py3-none-any.whl", {**members_of(), f"{INFO}/RECORD.jws": b"{}", "a/": b""})
    check_record(wheel)
    check_whole(wheel, wheel.name)


def test_the_content_counts_where_no_index_vouches_for_the_file(tmp_path: Path) -> None:
    """Wheels whose RECORD is of other content are served, and installed, since years."""
    wheel = wheel_of(tmp_path / "a-1-py3-none-any.whl", {**members_of(), "a/__init__.py": b"evil"})
    check_record(wheel)
    with pytest.raises(ArchiveError, match=r"a/__init__\.py in it is not what its RECORD says"):
        check_whole(wheel, wheel.name)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({**members_of(), "evil.pth": b"import evil"}, "does not list evil.pth"),
        ({name: data for name, data in members_of().items() if name != "a/b,c.py"}, "lacks a/b,c.py, which"),
        ({name: data for name, data in members_of().items() if not name.endswith("RECORD")}, "has no RECORD"),
        ({**members_of(), "b-1.dist-info/RECORD": b""}, "more than one RECORD"),
        (recorded(lambda text: text + text.splitlines()[0] + b"\n"), "twice"),
        (recorded(lambda text: text + b"x\n"), "another form"),
        (recorded(lambda text: text.replace(b"sha256=", b"md5=", 1)), "no digest of a/__init__.py"),
        (recorded(lambda text: b"\xff" + text), "no whole wheel"),
        (recorded(lambda text: b'"' + b"x" * 200_000), "no whole wheel"),
        ({**members_of(), "../evil.py": b""}, "leads out"),
        ({**members_of(), "/etc/evil.py": b""}, "leads out"),
        ({**members_of(), "a\\..\\evil.py": b""}, "not allowed"),
        ({**members_of(), "A/__init__.py": b""}, "differ in case alone"),
        ({**members_of(), "a/__init__.py/x": b""}, "no directory"),
    ],
)
def test_a_wheel_that_is_not_what_it_lists_is_refused(tmp_path: Path, members: Members, said: str) -> None:
    wheel = wheel_of(tmp_path / "a-1-py3-none-any.whl", members)
    for check in (check_record, lambda path: check_whole(path, path.name)):
        with pytest.raises(ArchiveError, match=said):
            check(wheel)


def test_a_wheel_with_a_link_is_refused(tmp_path: Path) -> None:
    wheel = wheel_of(tmp_path / "a-1-py3-none-any.whl", {**members_of(), "a/link": b"b,c.py"}, link="a/link")
    with pytest.raises(ArchiveError, match="a/link in it is a link"):
        check_record(wheel)
