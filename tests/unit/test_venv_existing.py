# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A target in an environment of the user's, by rlinf_venv with real uv.

The plain one is made by the standard library's venv. The conda one is such an environment, too, made to look like conda's: with conda-meta/,
and packages that say that conda installed them; it stands in for a real one, which no test can have without conda's channels.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils._existing import Existing
from ansible_collections.rlinf.offline.plugins.module_utils._scripts import Script
from tests.support.environments import Run, Site
from tests.support.kills import kill_points, killed_at
from tests.support.repack import repack
from tests.support.wheels import build_wheel, source_tree, write_tree
from tests.unit.conftest import ModuleFailed

Hash = Callable[..., dict[str, tuple[str, ...]]]
EXPORTS = {"VK_DRIVER_FILES": "/etc/vulkan/icd.d/nvidia_icd.json", "PYTHONPATH": {"prepend": "/src/LIBERO"}}


@dataclass(frozen=True)
class User(Site):
    """A site, and an environment of the user's that holds alpha 0.9, shared 1.0 and other 1.0."""

    path: Path = Path()
    conda: bool = False

    def __call__(self, lock: Path | None = None, **arguments: Any) -> dict[str, Any]:
        return super().__call__(lock, **{"mode": "existing", "path": str(self.path), **arguments})

    @property
    def packages(self) -> Path:
        return next(self.path.glob("lib/python3*/site-packages"))

    @property
    def activation(self) -> list[Path]:
        if self.conda:
            return [self.path / "etc" / "conda" / f"{when}.d" / "rlinf-openvla.sh" for when in ("activate", "deactivate")]
        return [self.path / "bin" / "activate"]

    @property
    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / "rlinf" / "openvla.json").read_text())
        return found

    def others(self, tree_hash: Hash, *ours: str) -> dict[str, tuple[str, ...]]:
        """Return what there is apart from these packages, our folder and the files of activation, times included."""
        mine = ("rlinf", "etc", "bin/activate", ".lock", "CACHEDIR.TAG")
        found = tree_hash(self.path, mtimes=True).items()
        kept = {path: entry for path, entry in found if not path.startswith(mine) or path.startswith("bin/activate.")}
        return {
            path: entry
            for path, entry in kept.items()
            if "__pycache__" not in path and not path.removeprefix(f"{self.packages.relative_to(self.path)}/").startswith(ours)
        }

    def python(self, statement: str) -> str:
        return subprocess.run([self.path / "bin" / "python", "-c", statement], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(params=["plain", "conda"])
def user(tmp_path: Path, run_module: Run, request: pytest.FixtureRequest) -> User:
    return make_user(tmp_path, run_module, conda=request.param == "conda")


@pytest.fixture
def plain(tmp_path: Path, run_module: Run) -> User:
    return make_user(tmp_path, run_module, conda=False)


def make_user(root: Path, run_module: Run, *, conda: bool) -> User:
    path = root / "home" / "my env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", path], check=True)
    wheels = [build_wheel(root / "users", name, version) for name, version in (("alpha", "0.9"), ("shared", "1.0"), ("other", "1.0"))]
    user = User(root / "bundle", root / "prefix", run_module, path, conda)
    uv = [
        Path(sys.executable).with_name("uv"),
        "pip",
        "install",
        "--no-config",
        "--offline",
        "--link-mode=copy",
        "--no-index",
        "--python",
        path / "bin" / "python",
    ]
    subprocess.run([*uv, *wheels], check=True, capture_output=True, env={**os.environ, "UV_CACHE_DIR": str(root / "users-cache")})
    if conda:
        write_tree(path / "conda-meta", {"history": "==> made to look like conda <==\n", "alpha-0.9-0.json": "{}"})
        for info in user.packages.glob("*.dist-info"):
            (info / "INSTALLER").write_text("conda\n")
    return user


def openvla(user: User) -> Path:
    """Lock alpha 1.0, shared 1.0 as it is there, and new 1.0."""
    shared = build_wheel(user.index, "shared", "1.0")
    return user.lock(build_wheel(user.index, "alpha", "1.0"), shared, build_wheel(user.index, "new", "1.0"))


def test_quad_and_nothing_else_is_touched(user: User, tmp_path: Path, tree_hash: Hash) -> None:
    lock = openvla(user)
    editable = write_tree(tmp_path / "src" / "LIBERO", source_tree("libero", "0.1"))
    arguments = {
        "exports": EXPORTS, "imports": ["alpha", "new", "libero"], "editables": [{"package": "libero", "path": str(editable)}],
        "env": {"HOME": str(tmp_path / "home")},
    }  # fmt: skip
    whole, others = tree_hash(user.path, mtimes=True), user.others(tree_hash, "alpha", "new", "libero", "_libero")

    would = user(lock, check=True, **arguments)
    assert would["changed"] and would["reason"] == "not there yet" and would["venv"] == str(user.path)
    assert [package["name"] for package in would["packages"]["added"]] == ["libero", "new"] and would["packages"]["removed"] == []
    (changed,) = would["packages"]["changed"]
    by = "conda" if user.conda else "uv"
    assert changed["before"] == f"alpha==0.9 (of another origin, installed by {by})" and changed["after"].startswith("alpha==1.0 sha256:")
    assert [part["before_header"] for part in would["diff"]] == [str(user.path), *map(str, user.activation)]
    assert tree_hash(user.path, mtimes=True) == whole and not user.prefix.exists()

    did = user(lock, **arguments)
    assert did["diff"] == would["diff"] and did["packages"] == would["packages"]
    assert bool(did.get("warnings")) == user.conda
    assert user(lock, verify=True, **arguments)["verified"] == user(lock, state="verified", editables=arguments["editables"])["verified"]
    assert user.others(tree_hash, "alpha", "new", "libero", "_libero") == others
    assert user.python("import alpha, new, shared, other, libero; print(alpha.__version__, other.__version__)") == "1.0 1.0"
    # nothing of it shares a file with uv's cache, and pip's has seen nothing
    assert [path for path in user.packages.rglob("*") if path.is_file() and path.stat().st_nlink > 1] == []
    assert not (tmp_path / "home" / ".cache").exists()
    assert user.record["former"] == {"alpha": "0.9", "libero": None, "new": None}

    tree = tree_hash(tmp_path / "home", mtimes=True), tree_hash(user.prefix, mtimes=True)
    assert not user(lock, check=True, **arguments)["changed"]
    again = user(lock, **arguments)
    assert not again["changed"] and again["reason"] == "up to date" and len(again["diff"]) == 1
    assert again["diff"][0]["before"] == again["diff"][0]["after"]
    assert (tree_hash(tmp_path / "home", mtimes=True), tree_hash(user.prefix, mtimes=True)) == tree
    found = user(lock, state="verified", imports=["alpha"], editables=arguments["editables"])
    assert (
        found["verified"] == 4
        and {"name": "new", "version": "1.0", "source": "wheelhouse/index/new-1.0-py3-none-any.whl"} in found["installed"]
    )


def test_exports_come_and_go(user: User, tree_hash: Hash) -> None:
    original = [path.read_bytes() if path.is_file() else None for path in user.activation]
    lock = openvla(user)
    user(lock, exports=EXPORTS)
    show = 'echo "$VK_DRIVER_FILES|${PYTHONPATH-unset}"'
    if user.conda:  # what conda does when an environment is activated, and when it is left
        script = f"set -u; export VK_DRIVER_FILES=mine; . '{user.activation[0]}'; {show}; . '{user.activation[1]}'; {show}"
    else:
        activate = f". '{user.path}/bin/activate'"
        script = f"set -u; export VK_DRIVER_FILES=mine; {activate}; {activate}; {show}; deactivate; {show}"
    said = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]}).stdout
    assert said.splitlines() == ["/etc/vulkan/icd.d/nvidia_icd.json|/src/LIBERO", "mine|unset"]
    # one that somebody took away comes again
    user.activation[0].write_bytes(original[0] or b"")
    result = user(lock, exports=EXPORTS)
    assert result["changed"] and result["reason"] == "its exports are missing or were changed" and result["packages"]["changed"] == []
    would = user(state="withdrawn", check=True)
    assert would["changed"] and user.record
    packages = tree_hash(user.packages, mtimes=True)
    gone = user(state="withdrawn")
    assert gone["changed"] and "its packages stay" in gone["reason"] and not (user.path / "rlinf").exists()
    assert [path.read_bytes() if path.is_file() else None for path in user.activation] == original
    assert tree_hash(user.packages, mtimes=True) == packages
    assert not user(state="withdrawn", check=True)["changed"] and not user(state="withdrawn")["changed"]


def test_the_lock_moves_on(plain: User, tree_hash: Hash) -> None:
    plain(openvla(plain), exports=EXPORTS)
    others = plain.others(tree_hash, "alpha")
    shared, new = plain.index / "shared-1.0-py3-none-any.whl", plain.index / "new-1.0-py3-none-any.whl"
    # other content under the same version, and a package that is asked for no longer: it stays
    alpha = build_wheel(plain.bundle / "wheelhouse" / "git", "alpha", "1.0", modules={"alpha.py": "__version__ = 'of a commit'\n"})
    lock = plain.lock(shared, archives=(alpha,))
    assert new.is_file()
    would = plain(lock, check=True)
    assert would["packages"]["changed"][0]["before"] == "alpha==1.0 (of another origin, installed by uv)"
    assert plain(lock)["changed"] and plain.python("import alpha, new; print(alpha.__version__)") == "of a commit"
    assert plain.others(tree_hash, "alpha") == others and plain.record["former"]["alpha"] == "0.9"
    assert (plain.path / "bin" / "activate").read_text().count("rlinf.offline") == 0
    assert not plain(lock)["changed"]


def test_what_was_changed_by_hand_and_damage_are_mended(plain: User) -> None:
    lock = openvla(plain)
    plain(lock)
    shutil.rmtree(plain.packages / "new-1.0.dist-info")
    would = plain(lock, check=True)
    assert would["reason"] == "changed by hand: new" and plain(lock)["changed"] and not plain(lock)["changed"]
    (plain.packages / "alpha.py").write_text("damaged = 1\n")
    with pytest.raises(ModuleFailed, match=r"damaged files of 1 packages \(alpha: alpha.py\)"):
        plain(lock, state="verified")
    assert plain(lock)["reason"] == "changed by hand: alpha" and plain(lock, state="verified")["verified"] == 3
    # what is not the target's may be as it likes
    (plain.packages / "other.py").write_text("edited = 1\n")
    assert plain(lock, state="verified")["verified"] == 3 and not plain(lock)["changed"]


def test_every_kill_point_is_made_good_by_the_next_run(plain: User, tmp_path: Path, tree_hash: Hash) -> None:
    pristine = tmp_path / "pristine"
    subprocess.run(["cp", "-a", plain.path, pristine], check=True)
    lock = openvla(plain)
    given = write_tree(tmp_path / "src", {"setup.sh": "#!/bin/sh\nuv pip install --reinstall new\n"})
    (given / "setup.sh").chmod(0o755)
    wanted = plain.wanted(lock, plain.path / "bin" / "python", exports=EXPORTS, scripts=(Script("own", given, ("./setup.sh",)),))
    existing = Existing(plain.installer, plain.path)
    others = plain.others(tree_hash, "alpha", "new", "shared")
    points = kill_points(lambda: existing.apply(wanted), tmp_path / "trace")
    for point in points:
        shutil.rmtree(plain.path)
        shutil.rmtree(plain.prefix, ignore_errors=True)
        subprocess.run(["cp", "-a", pristine, plain.path], check=True)
        assert killed_at(point, lambda: existing.apply(wanted))
        replace(existing).apply(wanted)
        assert not replace(existing).plan(wanted).changed
        assert plain.others(tree_hash, "alpha", "new", "shared") == others
        assert sorted(path.name for path in (plain.path / "rlinf").iterdir()) == [".lock", "openvla.json", "pylock.openvla.toml"]
        found = {info.name for info in plain.packages.glob("*.dist-info")}
        assert found == {"alpha-1.0.dist-info", "new-1.0.dist-info", "other-1.0.dist-info", "shared-1.0.dist-info"}
    assert len(points) > 10 and plain.python("import alpha, new, shared; print(alpha.__version__)") == "1.0"


def test_two_targets_that_cannot_share_an_environment(plain: User) -> None:
    plain(openvla(plain))
    fits = plain.lock(plain.index / "shared-1.0-py3-none-any.whl", name="reason")
    assert plain(fits, target="reason", exports={"R": "1"})["changed"] and not plain(openvla(plain))["changed"]
    rival = plain.lock(build_wheel(plain.index, "alpha", "2.0"), name="openpi")
    with pytest.raises(ModuleFailed, match=r"holds openvla, which needs alpha==1\.0 .*; openpi needs alpha==2\.0 .*rlinf_venv_path"):
        plain(rival, target="openpi")


def test_a_package_that_only_its_own_installer_can_remove(plain: User) -> None:
    (plain.packages / "new-0.1.egg-info").write_text("Name: new\n")
    with pytest.raises(ModuleFailed, match=r"holds new \(new-0\.1\.egg-info\), which only what installed it can take away"):
        plain(openvla(plain))


def test_a_failing_script_or_import_is_made_good(plain: User, tmp_path: Path) -> None:
    lock, given = openvla(plain), {"name": "own", "cwd": str(tmp_path), "argv": ["sh", "-c", "exit 3"]}
    with pytest.raises(ModuleFailed, match="script own: sh ended with status 3"):
        plain(lock, scripts=[given])
    assert plain.record["unfinished"]
    with pytest.raises(ModuleFailed, match="is not, or not wholly, in"):
        plain(lock, state="verified")
    assert plain(lock)["reason"] == "a run that was cut off is finished" and plain(lock, state="verified")["verified"] == 3


def test_what_is_refused(plain: User, tmp_path: Path) -> None:
    lock = openvla(plain)
    plain(lock)
    with pytest.raises(ModuleFailed, match=r"is an existing environment .*no former one to go back to.*a copy made before"):
        plain(state="rolled_back")
    with pytest.raises(ModuleFailed, match=r"is no environment: .*Correct rlinf_venv_path"):
        plain(lock, path=str(tmp_path / "nowhere"))
    with pytest.raises(ModuleFailed, match=r"none is named\. Set rlinf_venv_path"):
        plain(lock, path=None)
    with pytest.raises(ModuleFailed, match="state withdrawn is for mode existing"):
        plain(mode="own", state="withdrawn")
    own = replace(plain, path=plain.prefix / "venvs" / "own")
    assert plain(lock, target="own", mode="own", path=None)["changed"]
    with pytest.raises(ModuleFailed, match="was made by this collection"):
        own(lock)
    # an interpreter that nothing calls an environment, and one that its owner's installer looks after
    system = tmp_path / "system"
    (system / "bin").mkdir(parents=True)
    (system / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    with pytest.raises(ModuleFailed, match=r"neither a virtual environment \(it has no pyvenv.cfg\) nor a conda environment"):
        replace(plain, path=system)(lock)
    with pytest.raises(ModuleFailed, match=r"The lock is for CPython ==3\.9\.\*"):
        plain(plain.lock(plain.index / "alpha-1.0-py3-none-any.whl", python="3.9"))


def test_the_python_of_the_system_is_refused(plain: User, tmp_path: Path) -> None:
    """A program that answers as the system's Python does stands in for it: none may be changed for a test."""
    system = tmp_path / "usr"
    answer = json.dumps({"own": False, "packages": "/usr/lib/python3/dist-packages", "managed": True})
    write_tree(system / "bin", {"python": f"#!/bin/sh\necho '{answer}'\n"})
    (system / "bin" / "python").chmod(0o755)
    with pytest.raises(ModuleFailed, match=r"is the Python of the system \(EXTERNALLY-MANAGED\).*-m venv DIRECTORY.*rlinf_venv_mode"):
        replace(plain, path=system)(openvla(plain))


def test_plain_pip_of_the_user_goes_on_working(plain: User, tmp_path: Path) -> None:
    """What came in can be listed, checked and taken away by the user's own tools."""
    lock = plain.lock(build_wheel(plain.index, "alpha", "1.0"), repack("pip", plain.index))
    plain(lock)
    pip = [plain.path / "bin" / "python", "-m", "pip", "--isolated"]
    listed = subprocess.run([*pip, "list", "--format", "json"], check=True, capture_output=True, text=True).stdout
    assert {"name": "alpha", "version": "1.0"} in json.loads(listed)
    subprocess.run([*pip, "uninstall", "--yes", "alpha"], check=True, capture_output=True)
    assert plain(lock, check=True)["reason"] == "changed by hand: alpha"
