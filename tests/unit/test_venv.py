# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""rlinf_venv through its real main(), with real uv, real wheels and no network."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils._faults import TRACE
from ansible_collections.rlinf.offline.plugins.module_utils._runtime import UV_CONFIG
from tests.support.environments import PYTHON, Run, Site
from tests.support.wheels import build_wheel, source_tree, write_tree
from tests.unit.conftest import ModuleFailed


@pytest.fixture
def site(tmp_path: Path, run_module: Run) -> Site:
    return Site(tmp_path / "bundle", tmp_path / "prefix", run_module)


def test_quad_and_what_is_installed(site: Site, tmp_path: Path, tree_hash: Callable[..., Any]) -> None:
    alpha = build_wheel(site.index, "alpha", "1.0", requires=["beta-two"])
    beta = build_wheel(site.bundle / "wheelhouse" / "git" / "h" / "o" / "n" / "c", "beta-two", "2.0")
    editable = write_tree(
        tmp_path / "src" / "LIBERO", source_tree("libero", "0.1", modules={"libero.py": "import os\nwhere = os.environ['LIBERO']\n"})
    )
    project = tmp_path / "RLinf"
    project.mkdir()
    lock = site.lock(alpha, archives=(beta,))
    arguments = {
        "editables": [{"package": "libero", "path": str(editable)}],
        "exports": {"LIBERO": "a b'c", "PYTHONPATH": {"prepend": str(editable)}},
        "imports": ["alpha", "beta_two", "libero"],
        "project_dir": str(project),
    }
    bundle = tree_hash(site.bundle, mtimes=True)

    would = site(lock, check=True, **arguments)
    assert would["changed"] and would["reason"] == "not there yet"
    assert not site.prefix.exists() and list(project.iterdir()) == []
    assert [package["name"] for package in would["packages"]["added"]] == ["alpha", "beta-two", "libero"]

    did = site(lock, **arguments)
    assert did["changed"] and did["diff"]["after"] == would["diff"]["after"] and did["generation"] == would["generation"]
    assert site.imports("import alpha, beta_two; print(alpha.__version__, beta_two.__version__)") == "1.0 2.0"
    assert os.readlink(project / ".venv") == str(site.link)
    tree = tree_hash(site.prefix, mtimes=True)

    assert not site(lock, check=True, **arguments)["changed"]
    again = site(lock, **arguments)
    assert not again["changed"] and again["reason"] == "up to date" and again["diff"]["before"] == again["diff"]["after"]
    assert tree_hash(site.prefix, mtimes=True) == tree
    assert tree_hash(site.bundle, mtimes=True) == bundle
    assert site(lock, state="verified", **{key: value for key, value in arguments.items() if key != "exports"})["verified"] == 3


def test_unchanged_is_found_out_without_installing_anything(site: Site, tmp_path: Path) -> None:
    lock = site.lock(build_wheel(site.index, "alpha", "1.0"))
    site(lock)
    trace = tmp_path / "trace"
    site(lock, env={"RLINF_FAULT_TRACE": str(trace)})
    # the interpreter is asked what it is; uv is asked for its version alone
    assert [line.split()[1:4] for line in trace.read_text().splitlines()] == [
        ["exec", "uv", "--version"],
        ["exec", Path(sys.executable).name, "-I"],
    ]


def test_activation_sets_and_gives_back(site: Site) -> None:
    lock = site.lock(build_wheel(site.index, "alpha", "1.0"))
    site(lock, exports={"ONE": "it's $HOME", "TWO": {"prepend": "/first"}, "THREE": {"prepend": "/only"}})
    script = f"""
set -u
export ONE=before TWO=/second
. {site.link}/bin/activate; . {site.link}/bin/activate
echo "$ONE|$TWO|$THREE"
python -c 'import sys, alpha; print(sys.prefix)'
deactivate
echo "$ONE|$TWO|${{THREE-unset}}"
"""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["it's $HOME|/first:/second|/only", str(site.link.resolve()), "before|/second|unset"]


def test_other_content_under_the_same_version_is_installed(site: Site) -> None:
    for number, archive in enumerate((True, False, True)):
        wheel = build_wheel(site.bundle / str(number), "alpha", "1.0", modules={"alpha.py": f"content = {number}\n"})
        result = site(site.lock(archives=(wheel,)) if archive else site.lock(wheel))
        assert result["changed"]
        assert site.imports("import alpha; print(alpha.content)") == str(number)
        if number:
            (changed,) = result["packages"]["changed"]
            assert (
                changed["name"] == "alpha" and changed["before"].startswith("alpha==1.0 sha256:") and changed["before"] != changed["after"]
            )


def test_other_content_in_the_same_file_is_noticed(site: Site) -> None:
    """The same path, size and mtime: only the lock's hash says that it is another wheel."""
    paths = []
    for content in "12":
        wheel = build_wheel(site.index, "alpha", "1.0", modules={"alpha.py": f"content = {content}\n"}, stored=True)
        os.utime(wheel, ns=(10**18, 10**18))
        paths.append((wheel, wheel.stat().st_size))
        site(site.lock(wheel))
        assert site.imports("import alpha; print(alpha.content)") == content
    assert paths[0] == paths[1]


def test_the_diff_names_what_comes_goes_and_changes(site: Site) -> None:
    one, two = (build_wheel(site.index, "alpha", version) for version in ("1.0", "2.0"))
    gone, new = build_wheel(site.index, "gone", "1"), build_wheel(site.index, "new", "1")
    site(site.lock(one, gone))
    result = site(site.lock(two, new), check=True)
    assert result["reason"] == "other packages"
    assert [package["name"] for package in result["packages"]["added"]] == ["new"]
    assert [package["name"] for package in result["packages"]["removed"]] == ["gone"]
    (changed,) = result["packages"]["changed"]
    assert changed["before"].startswith("alpha==1.0 ") and changed["after"].startswith("alpha==2.0 ")
    assert "alpha==1.0" in result["diff"]["before"] and "alpha==2.0" in result["diff"]["after"]
    assert site.imports("import alpha; print(alpha.__version__)") == "1.0"


def test_what_an_editable_is_built_with_is_what_the_lock_says(site: Site, tmp_path: Path) -> None:
    """A newer file beside it, which no lock names, is not looked at, though it would fit."""

    def backend(version: str) -> Path:
        code = source_tree("edit", "0.1")["_backend.py"] + f"\nopen({str(tmp_path / 'used')!r}, 'w').write({version!r})\n"
        return build_wheel(site.index, "bk", version, modules={"bk.py": code})

    lock = site.lock(build_wheel(site.index, "alpha", "1.0"))
    site.tell(lock, build=[backend("1.0")])
    backend("999")
    pyproject = '[project]\nname = "edit"\nversion = "0.1"\n[build-system]\nrequires = ["bk"]\nbuild-backend = "bk"\n'
    editable = write_tree(tmp_path / "src", {"edit.py": "", "pyproject.toml": pyproject})
    write_tree(site.prefix / "tools", {"uv.toml": UV_CONFIG})
    site(lock, editables=[{"package": "edit", "path": str(editable)}], imports=["edit"])
    assert (tmp_path / "used").read_text() == "1.0"


def test_every_kill_point_leaves_the_former_environment_and_converges(site: Site, tmp_path: Path, tree_hash: Callable[..., Any]) -> None:
    shared = build_wheel(site.index, "shared", "1.0")
    old, new = (build_wheel(site.index, "alpha", version) for version in ("1.0", "2.0"))
    editable = write_tree(tmp_path / "src", source_tree("edit", "0.1"))
    project = tmp_path / "project"
    project.mkdir()
    arguments: dict[str, Any] = {
        "editables": [{"package": "edit", "path": str(editable)}],
        "exports": {"X": "1"},
        "imports": ["alpha", "edit"],
    }
    site(site.lock(shared, old), **arguments)
    first = site.link.resolve().name
    pristine, bundle = tmp_path / "pristine", None
    subprocess.run(["cp", "-a", site.prefix, pristine], check=True)
    lock = site.lock(shared, new)
    bundle = tree_hash(site.bundle)
    switched_at = 0
    for point in range(1, 200):
        shutil.rmtree(site.prefix)
        subprocess.run(["cp", "-a", pristine, site.prefix], check=True)
        (project / ".venv").unlink(missing_ok=True)
        killed = True
        try:
            site(lock, **arguments, project_dir=str(project), keep=1, env={"RLINF_FAULT_AT": str(point)})
            killed = False
        except subprocess.CalledProcessError as error:
            assert error.returncode == -9
        version = site.imports("import alpha, shared, edit; print(alpha.__version__)")
        assert version in ("1.0", "2.0")
        switched_at = switched_at or (point if version == "2.0" else 0)
        # before the switch the former one, afterwards the new one
        assert (version == "2.0") == bool(switched_at)
        site(lock, **arguments, project_dir=str(project), keep=1)
        assert site.imports("import alpha, shared, edit; print(alpha.__version__)") == "2.0"
        assert len(site.generations()) == 1 and site.generations() != [first]
        assert not list((site.prefix / "venvs").glob(".*"))
        assert tree_hash(site.bundle) == bundle
        if not killed:
            break
    else:
        pytest.fail("the module never ran to its end")
    assert 10 < switched_at < point


def test_a_uv_that_outlives_its_killed_module_is_waited_for(site: Site, tmp_path: Path) -> None:
    """The build of an editable kills the module, which is the parent of its uv, and holds uv up until the second run has begun."""
    files = source_tree("edit", "0.1")
    held_up = f"""
import signal
if os.path.exists({str(tmp_path / "kill")!r}):
    os.unlink({str(tmp_path / "kill")!r})
    os.kill(int(open(f"/proc/{{os.getppid()}}/stat").read().rpartition(")")[2].split()[1]), signal.SIGKILL)
    open({str(tmp_path / "go")!r}).read()
"""
    editable = write_tree(tmp_path / "src", {**files, "_backend.py": files["_backend.py"] + held_up})
    (tmp_path / "kill").touch()
    os.mkfifo(tmp_path / "go")
    lock = site.lock(build_wheel(site.index, "alpha", "1.0"))
    arguments = {"editables": [{"package": "edit", "path": str(editable)}]}
    with pytest.raises(subprocess.CalledProcessError, match="SIGKILL"):
        site(lock, **arguments)
    with ThreadPoolExecutor() as pool:
        second = pool.submit(site, lock, **arguments)
        (tmp_path / "go").write_text("")
        assert second.result()["changed"]
    assert site.imports("import alpha, edit; print(alpha.__version__)") == "1.0"
    assert not site(lock, **arguments)["changed"]


def test_rolling_back_and_forth(site: Site) -> None:
    locks = [site.lock(build_wheel(site.index, "alpha", version), name=f"t{version[0]}") for version in ("1.0", "2.0")]
    for lock in locks:
        site(lock)
    assert len(site.generations()) == 2
    would = site(state="rolled_back", check=True)
    assert would["changed"] and site.imports("import alpha; print(alpha.__version__)") == "2.0"
    back = site(state="rolled_back")
    assert back["changed"] and back["packages"]["changed"][0]["after"].startswith("alpha==1.0")
    assert site.imports("import alpha; print(alpha.__version__)") == "1.0"
    for check in (True, False):
        again = site(state="rolled_back", check=check)
        assert not again["changed"] and again["reason"].startswith("already back from")
    forth = site(locks[1])
    assert forth["changed"] and forth["generation"] == would["diff"]["before_header"].rpartition(" ")[2]
    assert site(state="rolled_back")["changed"] and not site(locks[0])["changed"]
    assert site.imports("import alpha; print(alpha.__version__)") == "1.0"


def test_rolling_back_without_a_former_environment_says_so(site: Site) -> None:
    with pytest.raises(ModuleFailed, match="There is no environment"):
        site(state="rolled_back")
    site(site.lock(build_wheel(site.index, "alpha", "1.0")))
    with pytest.raises(ModuleFailed, match="no former environment to go back to"):
        site(state="rolled_back")


def test_generations_beyond_keep_are_removed_unless_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = [build_wheel(site.index, "alpha", f"{number}.0") for number in range(4)]
    first = site(site.lock(wheels[0]))["generation"]
    with subprocess.Popen(
        [site.prefix / "venvs" / first / "bin" / "python", "-c", "print('up', flush=True); input()"], stdin=-1, stdout=-1
    ) as job:
        assert job.stdout is not None and job.stdin is not None
        job.stdout.readline()
        for wheel in wheels[1:]:
            last = site(site.lock(wheel))
        assert last["changed"] and len(site.generations()) == 3 and first in site.generations()
        job.communicate(b"\n")
    trace = site.prefix / "trace"
    with monkeypatch.context() as traced:
        traced.setenv(TRACE, str(trace))
        result = site(site.lock(wheels[3]))
    assert " remove pylock." in trace.read_text()
    assert result["changed"] and result["removed"] == [first]
    assert len(site.generations()) == 2
    assert len(list((site.prefix / "state" / "locks").glob("pylock.*"))) == 2
    assert not site(site.lock(wheels[3]))["changed"]


def test_a_clock_that_was_set_back_makes_no_generation_older(site: Site) -> None:
    """The one made last is the newest, whatever the clock said when the others were made: what is kept goes by it."""
    later = 4102444800 * 10**9
    first = site(site.lock(build_wheel(site.index, "alpha", "1.0")))["generation"]
    stamp = site.prefix / "venvs" / first / "rlinf.json"
    stamp.write_text(json.dumps({**json.loads(stamp.read_text(encoding="utf-8")), "created": later}), encoding="utf-8")
    second = site(site.lock(build_wheel(site.index, "alpha", "2.0")))["generation"]
    assert json.loads((site.prefix / "venvs" / second / "rlinf.json").read_text(encoding="utf-8"))["created"] > later


def test_targets_side_by_side_leave_each_other_alone(site: Site, tmp_path: Path, tree_hash: Callable[..., Any]) -> None:
    project = tmp_path / "project"
    project.mkdir()
    lock = site.lock(build_wheel(site.index, "alpha", "1.0"))
    site(lock, project_dir=str(project))
    before = tree_hash(site.link.resolve(), mtimes=True)
    other = site(site.lock(build_wheel(site.index, "alpha", "2.0"), name="other"), target="openvla-oft", project_dir=str(project), keep=1)
    assert other["changed"] and os.readlink(project / ".venv") == str(site.link)
    assert tree_hash(site.link.resolve(), mtimes=True) == before
    assert not site(lock, project_dir=str(project))["changed"]


def test_one_name_and_version_with_other_content_in_two_targets(site: Site) -> None:
    """transformers 4.40.1 is the index's for openvla and a fork's for openvla-oft, under the same name of a file."""
    theirs = build_wheel(site.index, "transformers", "4.40.1", modules={"transformers.py": "of = 'index'\n"})
    fork = build_wheel(site.bundle / "wheelhouse" / "git" / "fork", "transformers", "4.40.1", modules={"transformers.py": "of = 'fork'\n"})
    locks = {"openvla": site.lock(theirs), "openvla-oft": site.lock(archives=(fork,), name="openvla-oft")}
    for target in ("openvla", "openvla-oft", "openvla"):
        site(locks[target], target=target)
    said = {}
    for target, lock in locks.items():
        assert not site(lock, target=target)["changed"]
        found = site(lock, target=target, state="verified")
        content = next((site.prefix / "venvs" / target).resolve().glob("lib/*/site-packages/transformers.py")).read_text()
        said[target] = (content, found["installed"][0]["source"])
    assert said["openvla"] == ("of = 'index'\n", f"wheelhouse/index/{theirs.name}")
    assert said["openvla-oft"] == ("of = 'fork'\n", f"wheelhouse/git/fork/{fork.name}")


def test_the_projects_own_venv_stays(site: Site, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / ".venv").mkdir(parents=True)
    assert site(site.lock(build_wheel(site.index, "alpha", "1.0")), project_dir=str(project))["changed"]
    assert (project / ".venv").is_dir() and not (project / ".venv").is_symlink()


def test_damage_is_found_and_mended_although_the_cache_is_hardlinked(site: Site) -> None:
    former = site(site.lock(build_wheel(site.index, "alpha", "0.9"), name="former"))["generation"]
    lock = site.lock(build_wheel(site.index, "alpha", "1.0"), build_wheel(site.index, "beta", "1.0"))
    first = site(lock)["generation"]
    file = next(site.link.resolve().glob("lib/*/site-packages/alpha.py"))
    with open(file, "r+") as stream:  # in place, so that uv's cache is changed with it
        stream.write("damaged = ")
    with pytest.raises(ModuleFailed, match=r"damaged files of 1 packages \(alpha: alpha.py\)"):
        site(lock, state="verified", check=True)
    assert not site(lock)["changed"]
    with pytest.raises(ModuleFailed, match="Run the playbook install"):
        site(lock, state="verified")
    result = site(lock)
    assert result["changed"] and result["reason"] == "found damaged: alpha" and result["generation"] == f"{first}.2"
    assert site.imports("import alpha; print(alpha.__version__)") == "1.0"
    assert site(lock, state="verified")["verified"] == 2
    assert not site(lock)["changed"]
    # what was damaged is nothing to go back to
    assert site.generations() == sorted([former, f"{first}.2"]) and site(state="rolled_back")["generation"] == former


def test_what_is_installed_is_verified_in_the_same_breath(site: Site) -> None:
    lock = site.lock(build_wheel(site.index, "alpha", "1.0"), build_wheel(site.index, "beta", "1.0"))
    assert "verified" not in site(lock, verify=True, check=True)
    did = site(lock, verify=True)
    assert did["changed"] and did["verified"] == 2 and did["installed"] == site(lock, state="verified")["installed"]
    assert site(lock, verify=True, check=True)["verified"] == 2 and "verified" not in site(lock)
    next(site.link.resolve().glob("lib/*/site-packages/alpha.py")).write_text("damaged")
    with pytest.raises(ModuleFailed, match=r"damaged files of 1 packages \(alpha: alpha.py\)"):
        site(lock, verify=True)
    assert site(lock, verify=True)["reason"] == "found damaged: alpha"


@pytest.mark.parametrize("how", ["added", "removed", "replaced"])
def test_packages_changed_by_hand_are_noticed(site: Site, tmp_path: Path, how: str) -> None:
    lock = site.lock(build_wheel(site.index, "alpha", "1.0"), build_wheel(site.index, "beta", "1.0"))
    site(lock)
    other = build_wheel(tmp_path, *(("extra", "1.0") if how == "added" else ("beta", "2.0")))
    command = ["uninstall", "beta"] if how == "removed" else ["install", "--no-index", "--no-deps", str(other)]
    uv = Path(sys.executable).parent / "uv"
    environment = {**os.environ, "UV_OFFLINE": "1", "UV_CACHE_DIR": str(tmp_path / "c")}
    subprocess.run(
        [uv, "pip", *command, "-p", site.link],
        check=True,
        capture_output=True,
        env=environment,
    )
    if how == "added":
        assert not site(lock, exact=False)["changed"]
    result = site(lock, check=True)
    assert result["changed"] and result["reason"] == f"changed by hand: {'extra' if how == 'added' else 'beta'}"
    site(lock)
    assert site.imports("import alpha, beta; print(beta.__version__)") == "1.0"
    assert not site(lock)["changed"]


def test_a_package_installed_twice_is_mended(site: Site) -> None:
    lock = site.lock(build_wheel(site.index, "alpha", "1.0"))
    site(lock)
    info = next(site.link.resolve().glob("lib/*/site-packages/alpha-1.0.dist-info"))
    shutil.copytree(info, info.with_name("alpha-0.9.dist-info"))
    result = site(lock)
    assert result["changed"] and result["reason"].startswith("changed by hand:") and "holds alpha twice: 0.9 and 1.0" in result["reason"]
    assert not site(lock)["changed"]


def test_wheels_that_do_not_fit_are_named_before_anything_changes(site: Site) -> None:
    other = "cp310" if PYTHON != "3.10" else "cp311"
    own = f"cp{PYTHON.replace('.', '')}"
    wrong = build_wheel(site.bundle / "wheels", "flash-attn", "2.7", tags=f"{other}-{other}-linux_x86_64")
    fits = build_wheel(site.bundle / "wheels", "flash-attn", "2.7", tags=f"{own}-{own}-linux_x86_64")
    new = build_wheel(site.index, "newer", "1", tags="py3-none-manylinux_2_99_x86_64")
    with pytest.raises(ModuleFailed) as caught:
        site(site.lock(wrong, new))
    message = str(caught.value)
    assert (
        f"{wrong.name} does not fit CPython {PYTHON}" in message
        and f"it is for {other}-{other}" in message
        and f"{fits.name} would fit" in message
    )
    assert f"{new.name} does not fit" in message and "this node has glibc 2." in message
    assert not site.prefix.exists()


def test_wheels_built_for_another_torch_or_cuda_are_named(site: Site) -> None:
    flash = build_wheel(site.index, "flash-attn", "2.7.4.post1+cu12torch2.5cxx11abiFALSE")
    torch, cuda = build_wheel(site.index, "torch", "2.6.0"), build_wheel(site.index, "nvidia-cublas-cu12", "12.4")
    with pytest.raises(ModuleFailed, match=r"was built for torch 2.5 and CUDA 12, the lock holds torch 2.6.0 with CUDA 12.*cu12torch2.6"):
        site(site.lock(flash, torch, cuda))
    assert site(site.lock(build_wheel(site.index, "flash-attn", "2.7.4.post1+cu12torch2.6cxx11abiFALSE"), torch, cuda), check=True)[
        "changed"
    ]


def test_what_is_missing_is_named_before_anything_changes(site: Site) -> None:
    alpha, beta = build_wheel(site.index, "alpha", "1.0"), build_wheel(site.index, "beta", "1.0")
    lock = site.lock(alpha, beta)
    alpha.unlink()
    beta.write_bytes(b"cut off")
    with pytest.raises(ModuleFailed, match=r"lacks 2 of 2 files.*alpha-1\.0-py3-none-any\.whl, beta-1\.0"):
        site(lock)
    assert not site.prefix.exists()


def test_errors_say_what_to_do(site: Site, tmp_path: Path) -> None:
    lock = site.lock(build_wheel(site.index, "alpha", "1.0"), python="3.9")
    for arguments, message in (
        ({"lock": str(lock)}, r"The lock is for CPython ==3.9.\*; .* is cpython 3"),
        ({"lock": str(lock), "python": "3.99"}, r"There is no Python 3.99 on this machine. Found: .*rlinf_python"),
        ({"lock": str(lock), "python": "/nowhere/python"}, "The interpreter /nowhere/python is not there. Set rlinf_python"),
        ({"lock": str(tmp_path / "none.toml")}, "There is no lock .*download and push"),
        ({"lock": str(lock), "editables": [{"package": "x", "path": str(tmp_path)}]}, "neither pyproject.toml nor setup.py"),
        ({"lock": str(lock), "exports": {"a b": "1"}, "python": sys.executable}, "'a b' cannot be set"),
        ({"lock": str(lock), "exports": {"A": 1}, "python": sys.executable}, "A must be text"),
        ({}, "state is present but any of the following are missing: lock, catalog"),
    ):
        with pytest.raises(ModuleFailed, match=message):
            site(**arguments)
    assert not site.prefix.exists()


def test_a_first_check_without_the_lock_is_no_error(site: Site, tmp_path: Path) -> None:
    result = site(tmp_path / "none.toml", check=True)
    assert result["changed"] and result["after_push"]


def test_a_failing_import_keeps_the_former_environment(site: Site) -> None:
    site(site.lock(build_wheel(site.index, "alpha", "1.0")))
    broken = build_wheel(site.index, "alpha", "2.0", modules={"alpha.py": "import sys\nsys.exit('no GPU')\n"})
    with pytest.raises(ModuleFailed, match=r"alpha \(SystemExit: no GPU\); nowhere \(ModuleNotFoundError"):
        site(site.lock(broken), imports=["alpha", "nowhere"])
    assert site.imports("import alpha; print(alpha.__version__)") == "1.0"


def test_a_wheel_of_other_content_than_locked_is_refused(site: Site) -> None:
    wheel = build_wheel(site.index, "alpha", "1.0", modules={"alpha.py": "content = 1\n"}, stored=True)
    lock = site.lock(wheel)
    build_wheel(site.index, "alpha", "1.0", modules={"alpha.py": "content = 2\n"}, stored=True)
    with pytest.raises(ModuleFailed, match=r"(?s)installing the packages of openvla.*Hash mismatch"):
        site(lock)
    assert not site.link.exists()


def test_files_that_two_packages_bring_are_no_damage(site: Site) -> None:
    """opencv-python and opencv-python-headless both bring cv2: the last one installed wins."""
    wheels = [build_wheel(site.index, name, "1.0", modules={"cv2.py": f"name = {name!r}\n"}) for name in ("opencv", "opencv-headless")]
    site(site.lock(*wheels))
    assert site(state="verified")["verified"] == 2


def test_a_moved_bundle_is_the_same_environment(site: Site, tmp_path: Path) -> None:
    lock = site.lock(build_wheel(site.index, "alpha", "1.0"))
    site(lock)
    moved = Site(tmp_path / "elsewhere", site.prefix, site.run_module)
    shutil.move(site.bundle, moved.bundle)
    assert not moved(moved.bundle / lock.relative_to(site.bundle))["changed"]
    assert moved(state="verified")["verified"] == 1


def test_two_at_once_do_not_build_the_same_target(site: Site) -> None:
    lock = site.lock(build_wheel(site.index, "alpha", "1.0"))
    (site.prefix / "state" / "locks").mkdir(parents=True)
    with open(site.prefix / "state" / "locks" / ".openvla.lock", "w") as stream:
        stream.write("4711")
        stream.flush()
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(ModuleFailed, match="openvla is in use by process 4711"):
            site(lock)
    assert site(lock)["changed"]


def test_the_users_settings_are_not_read(site: Site, tmp_path: Path) -> None:
    home = tmp_path / "home"
    write_tree(home / ".config" / "uv", {"uv.toml": "this is no toml"})
    env = {
        "HOME": str(home),
        "UV_INDEX_URL": "http://127.0.0.1:9/",
        "UV_TARGET": "/nowhere",
        "PYTHONPATH": "/nowhere",
        "UV_CONFIG_FILE": "/nowhere",
    }
    assert site(site.lock(build_wheel(site.index, "alpha", "1.0")), env=env)["changed"]
    assert sorted(path.name for path in home.iterdir()) == [".config"]


def test_the_stamp_holds_what_was_built(site: Site) -> None:
    result = site(site.lock(build_wheel(site.index, "alpha", "1.0")))
    stamp = json.loads((site.link / "rlinf.json").read_text())
    assert stamp["digest"] == result["digest"] and result["generation"] == f"openvla-{result['digest'][:12]}"
    assert list(stamp["packages"]) == ["alpha"] and stamp["target"] == "openvla"


def test_several_targets_in_one_call_stay_apart(site: Site) -> None:
    one = site.lock(build_wheel(site.index, "alpha", "1.0"))
    together = {"targets": ["first", "second"], "pythons": {"first": sys.executable, "second": "/nowhere/python"}}
    arguments = {"prefix": str(site.prefix), "bundle_dir": str(site.bundle), "lock": str(one), **together}
    with pytest.raises(ModuleFailed) as caught:
        site.run_module("rlinf_venv", arguments)
    done, failed = caught.value.result["results"]
    assert (done["name"], done["state"], done["changed"], done["venv"]) == ("first", "present", True, str(site.prefix / "venvs" / "first"))
    assert (failed["name"], failed["state"], failed["changed"]) == ("second", "failed", False)
    assert str(caught.value).splitlines()[0] == "1 of 2 targets failed:" and "second: The interpreter /nowhere/python" in str(caught.value)
    assert "first:" not in str(caught.value)

    arguments["pythons"] = {"first": sys.executable, "second": sys.executable}
    would = site.run_module("rlinf_venv", arguments, check=True, diff=True)
    did = site.run_module("rlinf_venv", {**arguments, "verify": True}, diff=True)
    assert [(result["name"], result["changed"], result["verified"]) for result in did["results"]] == [
        ("first", False, 1),
        ("second", True, 1),
    ]
    assert would["diff"] == did["diff"] and len(did["diff"]) == 2 and did["changed"]
    assert not site.run_module("rlinf_venv", arguments)["changed"]
