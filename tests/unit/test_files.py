# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing, renaming, removing and locking: whole or not at all, also when killed at any step."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.rlinf.offline.plugins.module_utils import _files
from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError, OfflineError


def in_child(work: Callable[[], None], *, kill_at: int | None = None, uid: int | None = None) -> int:
    """Run *work* in a process of its own; return its status, -9 if it was killed."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if kill_at is not None:
                os.environ["RLINF_FAULT_AT"] = str(kill_at)
            if uid is not None and os.getuid() == 0:
                os.setgid(uid)
                os.setuid(uid)
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_everywhere(prepare: Callable[[int], Path], work: Callable[[Path], None], judge: Callable[[Path], None]) -> int:
    """Kill *work* at each of its checkpoints in turn, each time in a fresh place; judge, finish, judge; return how many there are."""
    for number in range(1, 100):
        place = prepare(number)
        status = in_child(lambda: work(place), kill_at=number)  # noqa: B023
        judge(place)
        if status == 0:
            return number - 1
        assert status == -signal.SIGKILL
        work(place)
        judge(place)
    raise AssertionError("it never ends")


# -- writing -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_mode_and_time_are_those_asked_for(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        _files.atomic_write(tmp_path / "a", b"data", mode=0o640, mtime_ns=1_600_000_000_123_456_789)
        _files.atomic_write(tmp_path / "b", b"")
    finally:
        os.umask(before)
    status = (tmp_path / "a").stat()
    assert (status.st_mode & 0o7777, status.st_mtime_ns) == (0o640, 1_600_000_000_123_456_789)
    assert (tmp_path / "b").stat().st_mode & 0o7777 == 0o644
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_killed_anywhere_a_reader_sees_the_old_or_the_new(tmp_path: Path) -> None:
    def prepare(number: int) -> Path:
        (tmp_path / str(number)).mkdir()
        path = tmp_path / str(number) / "file"
        path.write_bytes(b"old")
        return path

    def judge(path: Path) -> None:
        assert path.read_bytes() in (b"old", b"new")

    assert kill_everywhere(prepare, lambda path: _files.atomic_write(path, b"new"), judge) == 4
    # what the killed ones left was removed by those that came after them
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"file"}


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        _files.atomic_write(tmp_path / "taken", b"x")
    with pytest.raises(FileNotFoundError):
        _files.atomic_write(tmp_path / "missing" / "x", b"x")
    assert [path.name for path in tmp_path.rglob("*")] == ["taken"]


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"outside")
    (tmp_path / "link").symlink_to("outside")
    _files.atomic_write(tmp_path / "link", b"new")
    assert not (tmp_path / "link").is_symlink() and (tmp_path / "outside").read_bytes() == b"outside"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    )
)
def test_equal_values_are_equal_bytes(value: Any) -> None:
    data = _files.json_bytes(value)
    assert json.loads(data) == value and data.endswith(b"\n") and _files.json_bytes(json.loads(data)) == data


def test_damaged_json_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"{")
    with pytest.raises(BundleError, match=r"x\.json is damaged .*Remove it and run again"):
        _files.read_json(tmp_path / "x.json", BundleError)
    with pytest.raises(FileNotFoundError):
        _files.read_json(tmp_path / "y.json")


@pytest.mark.parametrize("size", [0, 1, _files.CHUNK - 1, _files.CHUNK, _files.CHUNK + 1])
def test_digests(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "x").write_bytes(data)
    assert _files.sha256_file(tmp_path / "x") == _files.sha256_bytes(data) == hashlib.sha256(data).hexdigest()


# -- removing ------------------------------------------------------------------------------------------------------------------


def test_read_only_trees_go_and_links_out_of_them_are_not_followed() -> None:
    """As a user who is not root, to whom permissions are nothing."""
    with tempfile.TemporaryDirectory() as folder:
        # pytest's own directories are closed to other users
        os.chmod(folder, 0o777)
        outside, tree = Path(folder, "outside"), Path(folder, "tree")

        def work() -> None:
            outside.mkdir()
            (outside / "kept").touch()
            (tree / "a" / "b").mkdir(parents=True)
            (tree / "a" / "b" / "file").touch()
            (tree / "a" / "link").symlink_to(outside)
            outside.chmod(0o555)
            for closed, mode in ((tree / "a" / "b", 0o000), (tree / "a", 0o555), (tree, 0o500)):
                closed.chmod(mode)
            _files.remove(tree)

        assert in_child(work, uid=65534) == 0
        assert not tree.exists() and (outside / "kept").exists() and outside.stat().st_mode & 0o777 == 0o555


def test_removing_what_is_not_there_or_only_a_link(tmp_path: Path) -> None:
    _files.remove(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept").touch()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("link", "dangling"):
        _files.remove(tmp_path / name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder", "kept"]


# -- switching -----------------------------------------------------------------------------------------------------------------


def test_killed_anywhere_a_link_leads_to_the_old_or_the_new(tmp_path: Path) -> None:
    def prepare(number: int) -> Path:
        (tmp_path / str(number)).mkdir()
        link = tmp_path / str(number) / "link"
        link.symlink_to("old")
        return link

    def judge(link: Path) -> None:
        assert os.readlink(link) in ("old", "new")

    assert kill_everywhere(prepare, lambda link: _files.switch_link(link, "new"), judge) == 3
    assert {path.name for path in tmp_path.rglob("*") if path.is_symlink()} == {"link"}


def test_a_link_takes_the_place_of_links_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OfflineError, match=r"file is in the way of a link to new"):
        _files.switch_link(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "mine"
    _files.switch_link(tmp_path / "fresh", "nowhere")
    _files.switch_link(tmp_path / "fresh", "elsewhere")
    assert os.readlink(tmp_path / "fresh") == "elsewhere"


def test_killed_anywhere_a_directory_is_swapped_by_the_next(tmp_path: Path) -> None:
    """It is the old one, the new one, or for an instant none; never a mixture."""

    def prepare(number: int) -> Path:
        place = tmp_path / str(number)
        (place / "it").mkdir(parents=True)
        (place / "it" / "old").touch()
        return place

    def work(place: Path) -> None:
        fresh = place / "fresh"
        fresh.mkdir(exist_ok=True)
        (fresh / "new").touch()
        _files.swap_directory(fresh, place / "it")

    def judge(place: Path) -> None:
        assert not (place / "it").exists() or [path.name for path in (place / "it").iterdir()] in (["old"], ["new"])

    assert kill_everywhere(prepare, work, judge) >= 6
    for place in tmp_path.iterdir():
        assert [path.name for path in (place / "it").iterdir()] == ["new"] and [path.name for path in place.iterdir()] == ["it"]


@pytest.mark.parametrize("leads", ["elsewhere", "nowhere"])
def test_a_directory_takes_the_place_of_a_link(tmp_path: Path, leads: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").touch()
    (tmp_path / "it").symlink_to(leads)
    (tmp_path / "fresh").mkdir()
    _files.swap_directory(tmp_path / "fresh", tmp_path / "it")
    assert (tmp_path / "it").is_dir() and not (tmp_path / "it").is_symlink() and (tmp_path / "elsewhere" / "kept").exists()


# -- locking -------------------------------------------------------------------------------------------------------------------

HOLDER = """
import sys
from pathlib import Path
from ansible_collections.rlinf.offline.plugins.module_utils._files import exclusive
with exclusive(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(path: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    return process


def test_who_comes_second_is_told_who_is_first(tmp_path: Path) -> None:
    with holder(tmp_path / "new" / ".lock") as first:
        said = rf"^the bundle is in use by process {first.pid} of {re.escape(socket.gethostname())}, since 2\d{{3}}-\d\d-\d\d .*Wait for it to end"
        with pytest.raises(OfflineError, match=said), _files.exclusive(tmp_path / "new" / ".lock", "the bundle"):
            pass
        first.communicate()
    with _files.exclusive(tmp_path / "new" / ".lock", "the bundle"):
        assert (tmp_path / "new" / ".lock").read_text().startswith(f"{os.getpid()} of ")
    assert (tmp_path / "new" / ".lock").read_text() == ""


def test_who_was_killed_holds_nothing(tmp_path: Path) -> None:
    with holder(tmp_path / ".lock") as first:
        first.kill()
        first.wait()
        with _files.exclusive(tmp_path / ".lock", "it"):
            pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_the_file_system_has_no_locks_it_goes_on_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(fcntl, "flock", raising(number))
    with _files.exclusive(tmp_path / ".lock", "it"):
        assert (tmp_path / ".lock").read_text().startswith(f"{os.getpid()} of ")


def test_a_lock_that_fails_otherwise_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", raising(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"), _files.exclusive(tmp_path / ".lock", "it"):
        raise AssertionError("not reached")


def raising(number: int) -> Callable[..., None]:
    def flock(*_arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return flock


def test_a_lock_is_given_back_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), _files.exclusive(tmp_path / ".lock", "it"):
        raise KeyError
    with _files.exclusive(tmp_path / ".lock", "it"):
        pass
