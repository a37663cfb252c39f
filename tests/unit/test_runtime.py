# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""rlinf_runtime on a bare Python, through its real main(), with the real uv inside a wheel made here."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ansible
import pytest

from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError
from ansible_collections.rlinf.offline.plugins.module_utils._runtime import Machine, choose_uv
from ansible_collections.rlinf.offline.plugins.module_utils._uv import find_uv, uv_version
from tests.support.wheels import build_wheel, sha256
from tests.unit.conftest import ModuleFailed

REPOSITORY = Path(__file__).resolve().parents[2]
UV = find_uv()
PLATFORM = f"manylinux_2_17_{platform.machine()}.manylinux2014_{platform.machine()}"
Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def uv_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a wheel like uv's own, with the uv of these tests in it."""
    version = uv_version(UV)
    member = f"uv-{version}.data/scripts/uv"
    folder = tmp_path_factory.mktemp("uv")
    return build_wheel(folder, "uv", version, tags=f"py3-none-{PLATFORM}", modules={}, extra_files={member: UV.read_bytes()}, stored=True)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """Return a Python that has no package at all, and the environment in which it finds what Ansible sends along with a module."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([UV, "venv", "-q", "--no-config", "--offline", folder / "python"], check=True)
    (folder / "sent" / "ansible_collections" / "rlinf").mkdir(parents=True)
    (folder / "sent" / "ansible").symlink_to(Path(ansible.__file__).parent)
    (folder / "sent" / "ansible_collections" / "rlinf" / "offline").symlink_to(REPOSITORY)
    home = folder / "home"
    home.mkdir()
    return str(folder / "python" / "bin" / "python"), {"PYTHONPATH": str(folder / "sent"), "HOME": str(home), "PATH": "/usr/bin:/bin"}


@dataclass(frozen=True)
class Site:
    bundle: Path
    prefix: Path
    run_module: Run
    python: str
    env: Mapping[str, str]

    def __call__(
        self, *, check: bool = False, prefix: Path | None = None, bundle: Path | None = None, env: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        arguments = {"prefix": str(prefix or self.prefix), "bundle_dir": str(bundle or self.bundle)}
        return self.run_module("rlinf_runtime", arguments, check=check, diff=True, python=self.python, env={**self.env, **(env or {})})

    def require(self, *wheels: Path) -> None:
        """Write the requirements of the runtime: these wheels, with hashes."""
        lines = ["{}=={} --hash=sha256:{}\n".format(*wheel.name.split("-")[:2], sha256(wheel)) for wheel in wheels]
        (self.bundle / "tools" / "runtime-requirements.txt").write_text("".join(lines))

    def changed(self, result: Mapping[str, Any]) -> list[str]:
        return [item["name"] for item in result["results"] if item["changed"]]


@pytest.fixture
def site(tmp_path: Path, run_module: Run, uv_wheel: Path, bare: tuple[str, dict[str, str]]) -> Site:
    site = Site(tmp_path / "a bundle", tmp_path / "prefix", run_module, *bare)
    tools = site.bundle / "tools"
    tools.mkdir(parents=True)
    os.link(uv_wheel, tools / uv_wheel.name)
    (site.bundle / "repos" / "git.example" / "o" / "n.git").mkdir(parents=True)
    (site.bundle / "wheelhouse" / "index").mkdir(parents=True)
    site.require(build_wheel(tools, "tomlkit", "0.13", requires=["packaging"]), build_wheel(tools, "packaging", "25.0"))
    return site


def test_quad_on_a_bare_python(site: Site, tree_hash: Callable[..., Any]) -> None:
    bundle = tree_hash(site.bundle, mtimes=True)
    would = site(check=True)
    assert site.changed(would) == ["uv", "gitconfig", "uv.toml", "switch_env", "runtime"] and not site.prefix.exists()
    did = site()
    assert site.changed(did) == site.changed(would) and did["diff"] == would["diff"]
    done = subprocess.run(
        [did["python"], "-c", "import tomlkit, packaging; print(packaging.__version__)"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "25.0\n"
    assert uv_version(Path(did["uv"]["path"])) == did["uv"]["version"]
    tree = tree_hash(site.prefix, mtimes=True)
    assert not site(check=True)["changed"]
    again = site()
    assert not again["changed"] and again["diff"] == [] and {item["reason"] for item in again["results"]} == {"up to date"}
    assert tree_hash(site.prefix, mtimes=True) == tree
    assert tree_hash(site.bundle, mtimes=True) == bundle
    # nothing of the user's was touched
    assert list(Path(site.env["HOME"]).iterdir()) == []


def test_a_look_at_the_node_says_whether_there_is_anything_to_do(site: Site, run_module: Run) -> None:
    def ready() -> bool:
        arguments = {"prefix": str(site.prefix), "bundle_dir": str(site.bundle)}
        found = run_module("rlinf_node_info", arguments, python=site.python, env=site.env)["node"]["runtime"]
        return bool(found["ready"])

    assert not ready()
    run_module("rlinf_bundle", {"bundle_dir": str(site.bundle), "state": "sealed"})
    site()
    assert ready()
    (site.prefix / "tools" / "gitconfig").write_text("")
    assert not ready()
    assert site()["changed"] and ready()


def test_unchanged_is_found_out_without_running_anything(site: Site, tmp_path: Path) -> None:
    site()
    trace = tmp_path / "trace"
    assert not site(env={"RLINF_FAULT_TRACE": str(trace)})["changed"]
    assert not trace.exists()


def test_every_kill_point_converges(site: Site) -> None:
    site()
    before = site.prefix / "runtime"
    tools = site.bundle / "tools"
    new = [build_wheel(tools, "tomlkit", "0.14"), build_wheel(tools, "packaging", "26.0")]
    site.require(*new)
    pristine = site.prefix.with_name("pristine")
    subprocess.run(["cp", "-a", site.prefix, pristine], check=True)
    for point in range(1, 100):
        shutil.rmtree(site.prefix)
        subprocess.run(["cp", "-a", pristine, site.prefix], check=True)
        try:
            site(env={"RLINF_FAULT_AT": str(point)})
            break
        except subprocess.CalledProcessError as error:
            assert error.returncode == -9
        subprocess.run([before / "bin" / "python", "-c", "import tomlkit, packaging"], check=True)
        site()
        done = subprocess.run(
            [before / "bin" / "python", "-c", "import packaging; print(packaging.__version__)"], capture_output=True, check=True
        )
        assert done.stdout == b"26.0\n"
        assert not list(site.prefix.rglob("*.tmp"))
    else:
        pytest.fail("the module never ran to its end")
    assert point > 5


def test_a_shell_switches_between_environments(site: Site, tmp_path: Path) -> None:
    moved = tmp_path / "a prefix"
    site(prefix=moved)
    for name in ("one", "two"):
        place = moved / "venvs" / f"{name}-0123456789ab"
        subprocess.run([UV, "venv", "-q", "--no-config", "--offline", place], check=True)
        (moved / "venvs" / name).symlink_to(place)
    script = f"source '{moved}/bin/switch_env'"
    said = subprocess.run(
        ["bash", "-c", f'{script} one && {script} two && echo "$VIRTUAL_ENV" && echo "$PATH" && {script} three || echo "$VIRTUAL_ENV"'],
        capture_output=True,
        text=True,
        check=True,
    )
    two = str(moved / "venvs" / "two-0123456789ab")
    active, path, still = said.stdout.splitlines()
    assert active == still == two and path.startswith(f"{two}/bin:") and "one-0123456789ab" not in path
    assert said.stderr.splitlines() == [f"Usage: source {moved}/bin/switch_env TARGET, where TARGET is one of:", "one", "two"]


def test_what_changed_is_noticed(site: Site, tmp_path: Path) -> None:
    site()
    (site.bundle / "repos" / "other.example").mkdir()
    assert site.changed(site()) == ["gitconfig"]
    moved = tmp_path / "moved"
    shutil.copytree(site.bundle, moved)
    assert site.changed(site(bundle=moved)) == ["gitconfig"]
    site()
    (site.prefix / "tools" / "uv").write_bytes(b"cut off")
    assert site.changed(site()) == ["uv"]
    shutil.rmtree(next((site.prefix / "runtime" / "lib").glob("*/site-packages/packaging-*")))
    result = site()
    assert site.changed(result) == ["runtime"] and result["results"][-1]["reason"] == "changed by hand"
    assert not site()["changed"]
    relocated = tmp_path / "relocated"
    shutil.move(site.prefix, relocated)
    result = site(prefix=relocated)
    assert site.changed(result) == ["switch_env", "runtime"]
    assert not site(prefix=relocated)["changed"]
    subprocess.run([relocated / "runtime" / "bin" / "python", "-c", "import tomlkit"], check=True)


def test_git_reaches_the_mirrors_however_a_url_is_written(site: Site, tmp_path: Path) -> None:
    mirror = site.bundle / "repos" / "git.example" / "owner" / "name.git"
    subprocess.run(["git", "init", "-q", "--bare", mirror], check=True)
    site()
    env = {
        "PATH": os.environ["PATH"],
        "GIT_CONFIG_GLOBAL": str(site.prefix / "tools" / "gitconfig"),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ALLOW_PROTOCOL": "file",
    }
    for url in (
        "https://git.example/owner/name.git",
        "https://git.example/owner/name",
        "ssh://git@git.example/owner/name.git",
        "git@git.example:owner/name.git",
        "http://git.example/owner/name.git",
    ):
        subprocess.run(["git", "ls-remote", url], check=True, capture_output=True, env=env)
    other = subprocess.run(["git", "ls-remote", "https://git.example.org/owner/name.git"], check=False, capture_output=True, env=env)
    assert other.returncode and b"transport 'https' not allowed" in other.stderr


def test_uv_takes_its_settings(site: Site, tmp_path: Path) -> None:
    site()
    build_wheel(site.bundle / "wheelhouse" / "index", "alpha", "1.0")
    env = {"PATH": os.environ["PATH"], "UV_CONFIG_FILE": str(site.prefix / "tools" / "uv.toml"), "UV_CACHE_DIR": str(tmp_path / "cache")}
    target = site.prefix / "runtime" / "bin" / "python"
    uv = site.prefix / "tools" / "uv"
    command = [uv, "pip", "install", "--dry-run", "-p", target, "alpha"]
    # no index, and no folder but those that it is told
    alone = subprocess.run(command, check=False, capture_output=True, text=True, env=env)
    assert alone.returncode and "alpha was not found in the provided package locations" in alone.stderr
    subprocess.run([*command, "--find-links", site.bundle / "wheelhouse" / "index"], check=True, capture_output=True, env=env)


def test_a_first_check_before_the_push_is_no_error(site: Site) -> None:
    shutil.rmtree(site.bundle)
    result = site(check=True)
    assert result["changed"] and result["after_push"]
    with pytest.raises(ModuleFailed, match="Run the playbooks download and push"):
        site()
    assert not site.prefix.exists()


def test_a_damaged_bundle_changes_nothing(site: Site, uv_wheel: Path) -> None:
    wheel = site.bundle / "tools" / uv_wheel.name
    content = bytearray(wheel.read_bytes())
    content[len(content) // 2] ^= 1
    wheel.unlink()
    wheel.write_bytes(content)
    with pytest.raises(ModuleFailed, match=r"damaged|not what its RECORD says"):
        site()
    assert not (site.prefix / "tools" / "uv").exists()
    wheel.write_bytes(b"no zip")
    with pytest.raises(ModuleFailed, match="is damaged"):
        site(check=True)


def test_a_list_that_is_not_what_was_sealed_is_refused(site: Site, run_module: Run) -> None:
    """An empty list would make an environment without anything in it."""
    run_module("rlinf_bundle", {"bundle_dir": str(site.bundle), "state": "sealed"})
    site.bundle.joinpath("tools", "runtime-requirements.txt").write_bytes(b"")
    with pytest.raises(ModuleFailed, match=r"runtime-requirements\.txt is not what was sealed"):
        site()
    assert not (site.prefix / "runtime").exists()


def test_a_wheel_of_other_content_than_required_is_refused(site: Site) -> None:
    build_wheel(site.bundle / "tools", "packaging", "25.0", modules={"packaging.py": "evil = True\n"})
    with pytest.raises(ModuleFailed, match=r"(?s)installing what the modules need.*Hash mismatch"):
        site()
    assert not (site.prefix / "runtime").exists()


def test_the_newest_uv_that_runs_here_is_chosen(tmp_path: Path) -> None:
    names = {
        "old": ("0.9.30", "manylinux_2_17_x86_64.manylinux2014_x86_64"),
        "new": ("0.13.9", "manylinux_2_17_x86_64.manylinux2014_x86_64"),
        "static": ("0.13.9", "musllinux_1_1_x86_64"),
        "arm": ("0.13.9", "manylinux_2_28_aarch64"),
        "future": ("0.14.0", "manylinux_2_99_x86_64"),
    }
    wheels = {
        key: build_wheel(
            tmp_path, "uv", version, tags=f"py3-none-{tag}", modules={}, extra_files={f"uv-{version}.data/scripts/uv": key.encode()}
        )
        for key, (version, tag) in names.items()
    }
    for machine, key in ((Machine("x86_64", (2, 36)), "new"), (Machine("x86_64", None), "static"), (Machine("aarch64", (2, 35)), "arm")):
        assert choose_uv(tmp_path, machine).read() == key.encode()
    with pytest.raises(BundleError, match=r"no uv for this node \(riscv64 with glibc 2.40\); there: uv-0.13.9"):
        choose_uv(tmp_path, Machine("riscv64", (2, 40)))
    assert wheels
