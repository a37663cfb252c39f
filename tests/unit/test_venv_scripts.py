# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scripts that rlinf_venv runs while it builds an environment: real ones, with real uv and, in the environment, real pip."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils import _worktrees
from ansible_collections.rlinf.offline.plugins.module_utils._checkout import worktree_state
from ansible_collections.rlinf.offline.plugins.module_utils._installed import matches_glob
from ansible_collections.rlinf.offline.plugins.module_utils._scripts import Script
from ansible_collections.rlinf.offline.plugins.module_utils._venv import Venv
from tests.support.environments import Run, Site
from tests.support.kills import kill_points, killed_at
from tests.support.origins import git
from tests.support.repack import repack
from tests.support.wheels import build_wheel, source_tree, write_tree
from tests.unit.conftest import ModuleFailed

SITE = '"$(python -c \'import sysconfig; print(sysconfig.get_path("purelib"))\')"'
GONE = ["beta/**/prebundle/websockets"]


@pytest.fixture
def site(tmp_path: Path, run_module: Run) -> Site:
    return Site(tmp_path / "bundle", tmp_path / "a prefix", run_module)


def script(root: Path, text: str, **more: Any) -> dict[str, Any]:
    """Write a checkout with a setup.sh and, in ``sub``, a project; return the module's argument."""
    write_tree(root / "sub", source_tree("sub-project", "0.1", modules={"sub_project.py": "from alpha import __version__\n"}))
    write_tree(root, {"setup.sh": f"#!/bin/sh\nset -e\n{text}\n"})
    (root / "setup.sh").chmod(0o755)
    return {"name": "BEHAVIOR-1K", "cwd": str(root), "argv": ["./setup.sh", "{venv}"], **more}


def test_quad_with_a_script_that_installs_and_deletes(site: Site, tmp_path: Path, tree_hash: Callable[..., Any]) -> None:
    alpha = build_wheel(site.index, "alpha", "1.0")
    beta = build_wheel(site.index, "beta", "1.0", modules={"beta/a/b/prebundle/websockets/x.py": "", "beta/__init__.py": "kept = 1\n"})
    git_wheel = build_wheel(site.bundle / "wheelhouse" / "git" / "deep" / "down", "gamma", "1.0")
    lock = site.lock(alpha, beta, repack("pip", site.index), archives=(git_wheel,))
    given = script(
        tmp_path / "src",
        f"""
test "$VIRTUAL_ENV" = "$1" && test "$HOW" = "in $1" && test "$EXPORTED" = 1 && test "$(command -v pip)" = "$1/bin/pip"
! read answer
uv pip install -e sub
pip install --force-reinstall alpha==1.0
uv pip install --reinstall gamma
! uv pip install requests && ! pip install requests
rm -r {SITE}/beta/a/b/prebundle/websockets
echo written > notes.txt""",
        env={"HOW": "in {venv}", "UV_LINK_MODE": "hardlink", "PIP_INDEX_URL": "http://127.0.0.1:9/"},
        removes=GONE,
    )
    arguments = {
        "scripts": [given],
        "editables": [{"package": "sub-project", "path": str(tmp_path / "src" / "sub")}],
        "exports": {"EXPORTED": "1"},
        "imports": ["alpha", "sub_project"],
    }
    would = site(lock, check=True, **arguments)
    assert would["changed"] and not site.prefix.exists() and not (tmp_path / "src" / "notes.txt").exists()
    did = site(lock, **arguments)
    assert did["changed"] and did["generation"] == would["generation"] and "script BEHAVIOR-1K: ./setup.sh {venv}" in did["diff"]["after"]
    folder = next(site.link.resolve().glob("lib/*/site-packages"))
    assert (folder / "alpha-1.0.dist-info" / "INSTALLER").read_text().strip() == "pip"
    assert not (folder / "beta" / "a" / "b" / "prebundle" / "websockets").exists() and site.imports("import beta; print(beta.kept)") == "1"
    assert not (site.link.resolve() / ".rlinf").exists()
    tree = tree_hash(site.prefix, mtimes=True)
    assert not site(lock, check=True, **arguments)["changed"] and not site(lock, **arguments)["changed"]
    assert tree_hash(site.prefix, mtimes=True) == tree
    assert site(lock, state="verified", editables=arguments["editables"])["verified"] == 5
    # another script is another environment
    with (tmp_path / "src" / "setup.sh").open("a") as stream:
        stream.write("true\n")
    assert site(lock, check=True, **arguments)["reason"] == "other scripts"


def test_what_a_script_deletes_is_gone_although_it_skips_that(site: Site, tmp_path: Path) -> None:
    """Upstream's deletes it only after it has installed the package, which is there already."""
    lock = site.lock(build_wheel(site.index, "beta", "1.0", modules={"beta/__init__.py": "", "beta/a/prebundle/websockets/x.py": ""}))
    assert site(lock, scripts=[script(tmp_path / "src", "python -c 'import beta'", removes=GONE)])["changed"]
    assert [path.name for path in site.link.glob("lib/*/site-packages/beta/a/prebundle/*")] == []
    assert site(lock, state="verified")["verified"] == 1


def test_pip_is_served_where_the_environment_has_none(site: Site, tmp_path: Path) -> None:
    """The pip of the system would change the system."""
    lock = site.lock(build_wheel(site.index, "alpha", "1.0"))
    given = script(tmp_path / "src", f"rm -r {SITE}/alpha*\npip install --force-reinstall alpha==1.0\npip3 list")
    assert site(lock, scripts=[given])["changed"] and site.imports("import alpha; print(alpha.__version__)") == "1.0"
    (log,) = (site.prefix / "state" / "logs" / "openvla").glob("script-*.log")
    assert "alpha==1.0" in log.read_text() and log.name == "script-1-BEHAVIOR-1K.log"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("uv pip install $OTHER", "alpha is 2.0, the lock says 1.0"),
        ("uv pip install $EXTRA", "extra is there, but not in the lock"),
        ("uv pip uninstall beta", "beta is missing"),
        (f"echo changed >> {SITE}/alpha.py", r"damaged files of 1 packages \(alpha: alpha.py\)"),
        (f"rm {SITE}/beta.py", r"damaged files of 1 packages \(beta: beta.py\)"),
    ],
)
def test_a_script_that_leaves_other_than_the_lock_says(site: Site, tmp_path: Path, text: str, message: str) -> None:
    lock = site.lock(build_wheel(site.index, "alpha", "1.0"), build_wheel(site.index, "beta", "1.0"))
    site(lock)
    before, inode = site.generations(), next(site.link.resolve().glob("lib/*/site-packages/alpha.py")).read_bytes()
    env = {"OTHER": str(build_wheel(tmp_path, "alpha", "2.0")), "EXTRA": str(build_wheel(tmp_path, "extra", "1.0"))}
    with pytest.raises(ModuleFailed, match=rf"(?s)script BEHAVIOR-1K left the environment other than the lock says: .*{message}") as caught:
        site(lock, scripts=[script(tmp_path / "src", text, env=env, removes=GONE)])
    assert "state/logs/openvla/script-1-BEHAVIOR-1K.log" in str(caught.value)
    assert site.link.resolve().name in before and next(site.link.resolve().glob("lib/*/site-packages/alpha.py")).read_bytes() == inode
    # what it left of its own goes with the next install, which does not unpack damaged files again
    assert site(lock, exports={"A": "1"})["changed"] and len(site.generations()) == 2
    assert site(lock, state="verified")["verified"] == 2


def test_a_failing_script_shows_its_last_lines_and_keeps_all(site: Site, tmp_path: Path) -> None:
    lock = site.lock(build_wheel(site.index, "alpha", "1.0"))
    site(lock)
    first = site.link.resolve()
    with pytest.raises(ModuleFailed, match=r"(?s)script BEHAVIOR-1K: setup\.sh ended with status 7:.*line 999\n.*no GPU") as caught:
        site(lock, scripts=[script(tmp_path / "src", "seq -f 'line %.0f' 999\necho 'no GPU' >&2\nexit 7")])
    assert "line 1\n" not in str(caught.value) and site.link.resolve() == first
    log = (site.prefix / "state" / "logs" / "openvla" / "script-1-BEHAVIOR-1K.log").read_text()
    assert log.startswith("line 1\n") and str(caught.value).rpartition("is in ")[2].rstrip(".").endswith("script-1-BEHAVIOR-1K.log")
    with pytest.raises(ModuleFailed, match="nowhere is not there"):
        site(lock, scripts=[{"name": "x", "cwd": str(tmp_path), "argv": ["nowhere"]}])


def test_every_kill_point_around_a_script_leaves_the_former_environment(site: Site, tmp_path: Path) -> None:
    wheels = [build_wheel(site.index, "alpha", version) for version in ("1.0", "2.0")]
    site(site.lock(wheels[0]))
    pristine = tmp_path / "pristine"
    subprocess.run(["cp", "-a", site.prefix, pristine], check=True)
    lock = site.lock(wheels[1])
    given = Script.parse(script(tmp_path / "src", "uv pip install --reinstall alpha"))
    installer, wanted = site.installer, site.wanted(lock, scripts=(given,))
    venv = Venv(installer.node, installer.bundle, "openvla", installer.uv)
    versions = []
    for point in kill_points(lambda: venv.apply(wanted), tmp_path / "trace"):
        shutil.rmtree(site.prefix)
        subprocess.run(["cp", "-a", pristine, site.prefix], check=True)
        assert killed_at(point, lambda: venv.apply(wanted))
        (installed,) = site.link.resolve().glob("lib/*/site-packages/alpha-*.dist-info")
        versions.append(installed.name)
        venv.apply(wanted)
        assert not venv.plan(wanted).changed and not list(site.prefix.glob("venvs/*/.rlinf"))
    # the switch is the last thing of all
    assert len(versions) > 8 and set(versions) == {"alpha-1.0.dist-info"}
    assert site.imports("import alpha; print(alpha.__version__)") == "2.0"


def test_a_script_that_outlives_its_killed_module_is_waited_for(site: Site, tmp_path: Path) -> None:
    """The script kills the module that runs it, and goes on until the second run has begun."""
    lock = site.lock(build_wheel(site.index, "alpha", "1.0"))
    (tmp_path / "kill").touch()
    os.mkfifo(tmp_path / "go")
    text = f'if test -e {tmp_path}/kill; then rm {tmp_path}/kill; kill -9 $PPID; cat {tmp_path}/go; echo late > "$1/late"; fi'
    arguments = {"scripts": [script(tmp_path / "src", text)]}
    with pytest.raises(subprocess.CalledProcessError, match="SIGKILL"):
        site(lock, **arguments)
    with ThreadPoolExecutor() as pool:
        second = pool.submit(site, lock, **arguments)
        (tmp_path / "go").write_text("")
        assert second.result()["changed"]
    assert not (site.link.resolve() / "late").exists() and not site(lock, **arguments)["changed"]


def test_what_a_script_edits_in_our_working_copy_is_nobodys_work(tmp_path: Path) -> None:
    tree = tmp_path / "src" / "BEHAVIOR-1K"
    write_tree(tree, {"a.txt": "a\n", "b.txt": "b\n", "sub/c.txt": "c\n"})
    git("init", "-q", cwd=tree)
    git("add", "-A", cwd=tree)
    git("commit", "-q", "-m", "all", cwd=tree)
    (tree / _worktrees.NOTE).write_text("{}")
    assert _worktrees.top(tree / "sub") == tree and _worktrees.top(tmp_path) is None

    def edited() -> tuple[str, ...]:
        found = worktree_state(tree).edited
        return tuple(path for path in found if path not in _worktrees.by_scripts(tree, found))

    (tree / "b.txt").write_text("mine\n")
    _worktrees.begin_script(tree)
    (tree / "a.txt").write_text("by the script\n")
    # a run that was cut off here leaves it so
    assert edited() == ("b.txt",)
    _worktrees.begin_script(tree)
    assert (tree / "a.txt").read_text() == "a\n" and (tree / "b.txt").read_text() == "mine\n"
    (tree / "a.txt").write_text("by the script\n")
    (tree / "sub" / "c.txt").unlink()
    _worktrees.end_script(tree)
    assert edited() == ("b.txt",)
    (tree / "a.txt").write_text("and by me\n")
    assert edited() == ("a.txt", "b.txt")
    _worktrees.undo_scripts(tree)
    assert (tree / "sub" / "c.txt").read_text() == "c\n" and (tree / "a.txt").read_text() == "and by me\n"


@pytest.mark.parametrize(
    ("path", "pattern", "expected"),
    [
        ("a/b/prebundle/x/websockets/y/z.py", "a/**/prebundle/**/websockets", True),
        ("a/prebundle/websockets/z.py", "a/**/prebundle/**/websockets", True),
        ("a/prebundle/websockets2/z.py", "a/**/prebundle/**/websockets", False),
        ("a/b/c.py", "a/*.py", False),
        ("a/c.py", "a/?.py", True),
        ("b/a/c.py", "a", False),
        ("a/b/c.py", "a/**", True),
        ("a.c", "a?c", True),
        ("aXc", "a.c", False),
    ],
)
def test_globs(path: str, pattern: str, expected: bool) -> None:
    assert matches_glob(path, pattern) is expected
