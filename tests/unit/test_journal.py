# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal gives everything back, takes nothing of the user's, and survives a kill at any of its steps."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils._errors import OfflineError, PatchError
from ansible_collections.rlinf.offline.plugins.module_utils._journal import (
    KEPT,
    LOCK,
    MAIN,
    REFUSED,
    REQUIREMENTS,
    RESTORED,
    UNTOUCHED,
    Change,
    Journal,
)
from tests.support.checkouts import snapshot
from tests.support.kills import killed_at

URL = "file:///bundle/"
PATCHED = ("a.txt", "pyproject.toml", "uv.lock")


class Site:
    """A project with two files and a lock, and its journal."""

    def __init__(self, root: Path) -> None:
        self.project, self.state = root / "project", root / "state"
        self.first, self.second, self.lock = (self.project / name for name in ("a.txt", "pyproject.toml", "uv.lock"))
        self.exclude = self.project / ".git/info/exclude"
        self.exclude.parent.mkdir(parents=True)
        for number, path in enumerate((self.first, self.second, self.lock, self.exclude)):
            path.write_text(f"original {number}", encoding="utf-8")
            path.chmod(0o640)
            os.utime(path, ns=(10**18 + number, 10**18 + number))
        self.before = snapshot(self.project)
        self.changes = [
            Change(self.first, REQUIREMENTS, b"original 0", f"{URL} 0".encode()),
            Change(self.second, MAIN, b"original 1", f"{URL} 1".encode()),
            Change(self.lock, LOCK, b"original 2", None),
        ]

    @property
    def journal(self) -> Journal:
        return Journal(self.state, self.project)

    def apply(self) -> None:
        self.journal.apply(self.changes, [self.exclude], URL)

    def states(self) -> dict[str, str]:
        return {outcome.entry.path.name: outcome.state for outcome in self.journal.restore()}

    def only_ours(self) -> set[str]:
        """Names of the files that were not there at first."""
        return set(snapshot(self.project)) - set(self.before)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_the_states_of_the_files(site: Site) -> None:
    site.apply()
    assert site.first.read_text() == f"{URL} 0" and site.first.stat().st_mode & 0o777 == 0o640
    assert site.first.with_name("a.txt.backup").read_text() == "original 0"
    assert not site.lock.exists() and site.lock.with_name("uv.lock.backup").exists()
    assert site.exclude.read_text().startswith("original 3\n#") and "\n*.backup\n*.patched\n" in site.exclude.read_text()
    assert site.journal.holds(site.changes)
    assert site.states() == {"a.txt": RESTORED, "pyproject.toml": RESTORED, "uv.lock": RESTORED}
    assert site.only_ours() == {"a.txt.patched", "pyproject.toml.patched"}
    assert site.first.with_name("a.txt.patched").read_text() == f"{URL} 0"
    assert not site.journal.holds(site.changes)
    assert site.states() == {}
    site.journal.purge()
    assert snapshot(site.project) == site.before
    assert not site.journal.folder.exists()


def test_the_journal_is_private_and_named_by_the_project(site: Site) -> None:
    site.apply()
    assert len(site.journal.name) == 16 and site.journal.folder.parent == site.state / "journals"
    assert {path.stat().st_mode & 0o077 for path in [site.journal.folder, *site.journal.folder.rglob("*")]} == {0}


def test_a_kill_at_any_step_of_patching_loses_nothing(site: Site, tmp_path: Path) -> None:
    assert kill_everywhere(site, tmp_path, site.apply) > 20


def test_a_kill_at_any_step_of_restoring_loses_nothing(site: Site, tmp_path: Path) -> None:
    def work() -> None:
        site.journal.restore()
        site.journal.purge()

    site.apply()
    assert kill_everywhere(site, tmp_path, work) > 20


def kill_everywhere(site: Site, tmp_path: Path, work: Callable[[], None]) -> int:
    """Kill *work* at each of its checkpoints in turn, restore, and compare; return how many there are.

    Every seventh time restoring is killed as well, at each of its own.
    """
    pristine = tmp_path / "pristine"
    for folder in (site.project, site.state):
        if folder.exists():
            shutil.copytree(folder, pristine / folder.name)
    for number in range(1, 500):
        for folder in (site.project, site.state):
            shutil.rmtree(folder, ignore_errors=True)
            if (pristine / folder.name).exists():
                shutil.copytree(pristine / folder.name, folder)
        if not killed_at(number, work):
            return number - 1
        again = 1
        while number % 7 == 0 and killed_at(again, site.journal.restore):
            again += 1
        assert REFUSED not in site.states().values()
        now = snapshot(site.project)
        assert {name: now[name] for name in PATCHED} == {name: site.before[name] for name in PATCHED}
        assert all(name.endswith(".patched") for name in site.only_ours())
        assert site.states() == {}
        site.journal.purge()
        assert snapshot(site.project) == site.before
    raise AssertionError("it never ends")


def test_an_edited_file_is_refused_and_named_and_the_others_are_restored(site: Site) -> None:
    site.apply()
    site.first.write_text(f"{URL} 0, and a line of mine", encoding="utf-8")
    outcomes = {outcome.entry.path: outcome for outcome in site.journal.restore()}
    assert outcomes[site.first].state == REFUSED and "a.txt.backup" in outcomes[site.first].reason
    assert site.second.read_text() == "original 1" and site.lock.exists()
    assert site.states() == {"a.txt": REFUSED}
    # the remedy that the message names
    site.first.with_name("a.txt.backup").rename(site.first)
    assert site.states() == {"a.txt": UNTOUCHED}
    site.journal.purge()
    assert snapshot(site.project) == site.before


def test_a_file_that_the_user_has_taken_over_is_kept(site: Site) -> None:
    site.apply()
    backup = site.first.with_name("a.txt.backup")
    site.first.write_text("mine", encoding="utf-8")
    assert site.states()["a.txt"] == REFUSED
    backup.unlink()
    assert site.states() == {"a.txt": KEPT}
    assert site.first.read_text() == "mine"


def test_an_edited_file_that_still_leads_to_the_bundle_is_not_taken_for_the_users(site: Site) -> None:
    site.apply()
    site.first.write_text(f"{URL} 0, edited", encoding="utf-8")
    site.first.with_name("a.txt.backup").unlink()
    assert site.states()["a.txt"] == REFUSED


def test_lost_backups_and_lost_files_come_from_the_journal(site: Site) -> None:
    site.apply()
    site.first.with_name("a.txt.backup").unlink()
    site.second.unlink()
    site.lock.with_name("uv.lock.backup").write_text("edited", encoding="utf-8")
    assert set(site.states().values()) == {RESTORED}
    now = snapshot(site.project)
    assert {name: now[name] for name in PATCHED} == {name: site.before[name] for name in PATCHED}
    # what is not what was put there stays where it is
    assert site.lock.with_name("uv.lock.backup").read_text() == "edited"


def test_a_lock_made_out_of_patched_files_is_set_aside(site: Site) -> None:
    site.apply()
    site.lock.write_text(f"git = {URL}", encoding="utf-8")
    assert site.journal.holds(site.changes)
    assert site.states()["uv.lock"] == RESTORED
    assert site.lock.read_text() == "original 2"
    assert site.lock.with_name("uv.lock.patched").read_text() == f"git = {URL}"


def test_a_lock_of_the_users_own_is_refused(site: Site) -> None:
    site.apply()
    site.lock.write_text("mine", encoding="utf-8")
    assert site.states()["uv.lock"] == REFUSED
    assert site.lock.read_text() == "mine"


def test_a_lock_where_there_was_none_goes_again(site: Site) -> None:
    site.lock.unlink()
    site.changes[2] = Change(site.lock, LOCK, None, None)
    site.apply()
    assert site.journal.holds(site.changes)
    site.lock.write_text(f"git = {URL}", encoding="utf-8")
    assert site.states()["uv.lock"] == RESTORED
    assert not site.lock.exists() and site.lock.with_name("uv.lock.patched").exists()


def test_what_lies_where_a_backup_will_is_named_before_anything_is_written(site: Site) -> None:
    site.first.with_name("a.txt.backup").write_text("of another tool", encoding="utf-8")
    site.second.with_name("pyproject.toml.patched").symlink_to("nowhere")
    with pytest.raises(PatchError, match=r"a\.txt\.backup, .*pyproject\.toml\.patched"):
        site.journal.check_free(site.changes)
    assert not site.state.exists()


def test_a_file_that_changed_since_it_was_read_is_not_patched(site: Site) -> None:
    site.second.write_text("changed", encoding="utf-8")
    with pytest.raises(PatchError, match=r"pyproject\.toml changed while"):
        site.apply()
    assert set(site.states().values()) <= {RESTORED, UNTOUCHED, KEPT}
    assert (site.first.read_text(), site.second.read_text(), site.lock.read_text()) == ("original 0", "changed", "original 2")


def test_lines_that_the_user_added_to_the_list_of_ignored_files_stay(site: Site) -> None:
    site.apply()
    with site.exclude.open("a", encoding="utf-8") as stream:
        stream.write("mine\n")
    site.states()
    site.journal.purge()
    assert site.exclude.read_text() == "original 3\nmine\n"


def test_a_list_of_ignored_files_that_was_not_there_goes_again(site: Site) -> None:
    shutil.rmtree(site.exclude.parent)
    site.apply()
    assert "*.backup" in site.exclude.read_text()
    site.states()
    site.journal.purge()
    assert not site.exclude.exists()


def test_two_projects_share_a_list_of_ignored_files(site: Site, tmp_path: Path) -> None:
    other = Journal(site.state, tmp_path / "other")
    site.apply()
    other.apply([], [site.exclude], URL)
    site.states()
    site.journal.purge()
    assert site.journal.name not in site.exclude.read_text() and other.name in site.exclude.read_text()
    other.purge()
    assert site.exclude.read_text() == "original 3\n"


def test_patching_twice_keeps_the_first_list_of_ignored_files(site: Site) -> None:
    for _ignored in range(2):
        site.apply()
        site.states()
    site.journal.purge()
    assert snapshot(site.project) == site.before


def test_a_damaged_journal_is_named(site: Site) -> None:
    site.apply()
    copy = next(site.journal.originals_dir.iterdir())
    copy.write_text("damaged", encoding="utf-8")
    with pytest.raises(PatchError, match=copy.name):
        site.journal.originals()
    # the backups are whole, so that nothing is lost
    assert set(site.states().values()) == {RESTORED}
    site.journal.file.write_text("{", encoding="utf-8")
    with pytest.raises(PatchError, match="damaged"):
        site.journal.read()
    site.journal.file.write_text(json.dumps({"format": 99}), encoding="utf-8")
    with pytest.raises(PatchError, match="another version"):
        site.journal.read()


def test_a_full_disk_while_patching_is_reported_and_everything_can_be_restored(site: Site) -> None:
    """The limit on a file's size lets the journal and the first file through, but not the second."""
    site.changes[1] = Change(site.second, MAIN, b"original 1", URL.encode() * 1000)

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        with pytest.raises(OSError):
            site.apply()

    assert not killed_at(10_000, limited)
    assert site.first.read_text() == f"{URL} 0" and site.second.read_text() == "original 1"
    assert set(site.states().values()) == {RESTORED, UNTOUCHED}
    site.journal.purge()
    assert snapshot(site.project) == site.before


def test_only_one_at_a_time(site: Site) -> None:
    with site.journal.held(), pytest.raises(OfflineError, match=str(os.getpid())), site.journal.held():
        pass


def test_the_owner_is_kept(site: Site) -> None:
    if os.geteuid() == 0:
        os.chown(site.first, 1234, 5678)
    owner = (site.first.stat().st_uid, site.first.stat().st_gid)
    site.apply()
    backup = site.first.with_name("a.txt.backup")
    assert [(path.stat().st_uid, path.stat().st_gid) for path in (site.first, backup)] == [owner, owner]
    backup.unlink()
    site.states()
    used = site.first.with_name("a.txt.patched")
    assert [(path.stat().st_uid, path.stat().st_gid) for path in (site.first, used)] == [owner, owner]
