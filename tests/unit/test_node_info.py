# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node says of itself, with real programs that answer, fail or never end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils import _bundle, _node_info
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle, Node
from ansible_collections.rlinf.offline.plugins.module_utils._signature import Trust

Run = Callable[..., dict[str, Any]]
Hash = Callable[..., dict[str, tuple[str, ...]]]
SHORT = 0.3

TABLE = "| NVIDIA-SMI 535.104.05   Driver Version: 535.104.05   CUDA Version: 12.2     |"
LIST = "0, NVIDIA A100-SXM4-80GB, 81920, 535.104.05, 8.0, Enabled\n1, NVIDIA A100-SXM4-80GB, [N/A], 535.104.05, 8.0, [N/A]"


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node with a home of its own and nothing on PATH but what a test puts there."""
    for name in ("home", "bin"):
        (tmp_path / name).mkdir()
    for name in ("XDG_DATA_HOME", "UV_PYTHON_INSTALL_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setattr(_node_info, "_DRIVER", tmp_path / "no-driver")
    monkeypatch.setattr(_node_info, "_PCI", tmp_path / "pci")
    monkeypatch.setattr(_node_info, "_TOOL_FOLDERS", ())
    monkeypatch.setattr(_node_info, "_PYTHON_FOLDERS", ("~/.local/bin", "~/.pyenv/versions/*/bin", "{uv}/*/bin"))
    return tmp_path


def program(node: Path, name: str, body: str) -> Path:
    """Put a program on the node's PATH."""
    path = node / "bin" / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def nvidia_smi(node: Path, table: str = TABLE, listed: str = LIST) -> None:
    program(node, "nvidia-smi", f'if [ "$1" ]; then echo "{listed}"; else echo "{table}"; fi')


# -- the module ----------------------------------------------------------------------------------------------------------------


def test_the_module_changes_nothing_and_says_the_same_in_check_mode(tmp_path: Path, run_module: Run, tree_hash: Hash) -> None:
    (tmp_path / "prefix").mkdir()
    before = tree_hash(tmp_path, mtimes=True)
    args = {"prefix": str(tmp_path / "prefix"), "pythons": [f"{sys.version_info[0]}.{sys.version_info[1]}"]}
    env = {"HOME": str(tmp_path), "PATH": f"{os.path.dirname(os.path.realpath(sys.executable))}:/usr/bin:/bin"}
    checked, done = (run_module("rlinf_node_info", args, check=check, env=env) for check in (True, False))
    assert not checked["changed"] and not done["changed"] and tree_hash(tmp_path, mtimes=True) == before
    found = done["node"]
    for name in found:
        if name not in ("paths",):  # what is free moves while others work
            assert checked["node"][name] == found[name]
    assert found["prefix"] == str(tmp_path / "prefix") and found["bundle_dir"] == str(tmp_path / "prefix" / "bundle")
    assert found["runtime"] == {"python": str(tmp_path / "prefix" / "runtime" / "bin" / "python"), "present": False, "ready": False}
    assert found["architecture"] == os.uname().machine and found["kernel"] == os.uname().release
    assert sys.version.split()[0] in [python["version"] for python in found["pythons"]]
    assert set(found["tools"]) == {"git", "rsync", "ssh", "tar", "nvcc", "g++"} and found["tools"]["git"]["version"]
    assert found["paths"]["prefix"]["exists"] and found["paths"]["prefix"]["writable"] and not found["paths"]["bundle"]["exists"]


# -- places --------------------------------------------------------------------------------------------------------------------


def test_the_prefix(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = node / "home"
    assert _node_info.default_prefix("~/rlinf", home) == home / "rlinf"
    assert _node_info.default_prefix("relative/./x/..", home) == home / "relative"
    assert _node_info.default_prefix("/data/../opt", home) == Path("/opt")
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert _node_info.default_prefix(None, home) == Path("/opt/rlinf")
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    assert _node_info.default_prefix(None, home) == home / ".local" / "share" / "rlinf"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert _node_info.default_prefix(None, home) == home / ".local" / "share" / "rlinf"
    monkeypatch.setenv("XDG_DATA_HOME", "/data/xdg")
    assert _node_info.default_prefix("", home) == Path("/data/xdg/rlinf")


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container with the host's uid nobody knows it."""
    monkeypatch.setattr(os, "getuid", lambda: 3999999999)
    assert _node_info.user_name() == "3999999999"


def test_room_is_that_of_the_nearest_directory(node: Path) -> None:
    (node / "file").touch()
    for path in (node / "not" / "there" / "yet", node / "file" / "below"):
        found = _node_info.file_system(path)
        assert (found["existing"], found["exists"], found["path"]) == (str(node), False, str(path))
    status = os.statvfs(node)
    assert found["free_bytes"] % status.f_frsize == 0 and found["free_bytes"] > 0
    device = node.stat().st_dev
    assert found["device"] == f"{os.major(device)}:{os.minor(device)}"
    said = subprocess.run(["/usr/bin/findmnt", "-n", "-o", "TARGET,FSTYPE", "-T", node], capture_output=True, text=True, check=True).stdout
    assert [found["mount"], found["type"]] == said.split()


def test_the_mount_that_counts(tmp_path: Path) -> None:
    """The longest, the last of equal ones, with escapes read, and no mere prefix of a name."""
    (tmp_path / "a b" / "c").mkdir(parents=True)
    (tmp_path / "a bc").mkdir()
    escaped = str(tmp_path / "a b").replace(" ", "\\040")
    lines = [
        "1 0 254:0 / / rw shared:1 - ext4 /dev/vda rw",
        f"2 1 0:5 / {escaped} rw - nfs4 server:/x rw",
        f"3 1 0:6 / {escaped} rw,noatime shared:2 master:3 - tmpfs tmpfs rw",
    ]
    info = tmp_path / "mountinfo"
    info.write_text("\n".join(lines))
    assert _node_info.mount_of(tmp_path / "a b" / "c", info) == (str(tmp_path / "a b"), "tmpfs")
    assert _node_info.mount_of(tmp_path / "a bc", info) == ("/", "ext4")
    assert _node_info.mount_of(tmp_path, tmp_path / "missing") == (None, None)


def test_the_bundle_and_its_stamp(node: Path) -> None:
    place = Node(node / "prefix")
    bundle = Bundle(place.bundle)
    nothing = {"present": False, "sealed": False, "digest": None, "serial": None, "verified": False, "bytes": 0, "files": 0}
    assert _node_info.bundle_state(bundle, place) == nothing
    (bundle.wheels).mkdir(parents=True)
    (bundle.wheels / "x.whl").write_bytes(b"x")
    # as a push that was cut off leaves it
    assert _node_info.bundle_state(bundle, place) == {**nothing, "present": True, "bytes": 1, "files": 1}
    sealed = _bundle.seal(bundle)
    found = _node_info.bundle_state(bundle, place)
    assert (found["sealed"], found["serial"], found["digest"], found["verified"]) == (True, 1, sealed.digest, False)
    assert (found["bytes"], found["files"]) == (1, 1)
    _bundle.verify(bundle, stamp=place.bundle_stamp)
    assert _node_info.bundle_state(bundle, place)["verified"]
    (bundle.wheels / "y.whl").write_bytes(b"y")
    _bundle.seal(bundle)
    assert not _node_info.bundle_state(bundle, place)["verified"]
    bundle.manifest.write_text("{")
    assert "damaged" in _node_info.gather(str(place.prefix), None, [])["bundle"]["problem"]


def test_a_bundle_that_was_accepted_is_recognised_and_nothing_else(tmp_path: Path) -> None:
    place, key = Node(tmp_path / "prefix"), tmp_path / "key"
    bundle = Bundle(place.bundle)
    bundle.wheels.mkdir(parents=True)
    (bundle.wheels / "x.whl").write_bytes(b"x")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    signers = f"bastion {key.with_suffix('.pub').read_text(encoding='utf-8')}"
    sealed = _bundle.seal(bundle, key=key)

    def accepted(**options: Any) -> Any:
        return _node_info.gather(str(place.prefix), None, [], **options)["bundle"]["accepted"]

    assert accepted() is None
    _bundle.verify(bundle, stamp=place.bundle_stamp)
    assert accepted()["digest"] == sealed.digest and accepted()["signature"] == _bundle.signature_digest(bundle)
    # the stamp does not say who has signed it
    assert accepted(trusted_signers=signers) == {}
    _bundle.verify(bundle, stamp=place.bundle_stamp, trust=Trust.of(signers, place.bundle_stamp, False))
    assert accepted(trusted_signers=signers)["digest"] == sealed.digest
    (place.state / "accepted.json").write_text("{")
    assert accepted(trusted_signers=signers, allow_downgrade=True) == {}
    (place.state / "accepted.json").unlink()
    assert accepted(trusted_signers=signers) == {}
    _bundle.verify(bundle, stamp=place.bundle_stamp)
    os.utime(bundle.wheels / "x.whl")
    assert accepted() == {}


def test_what_finished_environments_were_made_from(node: Path) -> None:
    """It is unpacked already; what an unfinished one left does not count."""
    place, existing = Node(node / "prefix"), node / "conda"
    place.locks.mkdir(parents=True)
    for target, digest, finished in (("openvla", "a" * 12, True), ("openpi", "b" * 12, False)):
        environment = place.venvs / f"{target}-{digest}"
        environment.mkdir(parents=True)
        (place.venvs / target).symlink_to(environment.name)
        (place.locks / f"pylock.{target}-{digest}.toml").write_text(f'[packages.wheels.hashes]\nsha256 = "{digest[0] * 64}"\n')
        if finished:
            (environment / "rlinf.json").write_text("{}")
    (existing / "rlinf").mkdir(parents=True)
    (existing / "rlinf" / "reason.json").write_text("{}")
    (existing / "rlinf" / "pylock.reason.toml").write_text(f'archive = {{hashes = {{sha256 = "{"c" * 64}"}}}}')
    assert _node_info.environments(place) == ["openvla"] and _node_info.unpacked(place) == ["a" * 12]
    assert _node_info.environments(place, existing) == ["openvla", "reason"]
    assert _node_info.unpacked(place, existing) == ["a" * 12, "c" * 12]
    found = _node_info.gather(str(place.prefix), environment=str(existing), assets_dir="~/assets")
    assert found["paths"]["environment"]["path"] == str(existing) and found["environments"] == ["openvla", "reason"]
    assert found["paths"]["assets"]["path"] == str(node / "home" / "assets")
    assert [python["path"] for python in found["pythons"]] == [str(existing / "bin" / "python")] and found["pythons"][0]["problem"]


@pytest.mark.parametrize(
    ("marks", "variables", "said"),
    [
        ([], {}, None),
        (["dockerenv"], {}, "docker"),
        (["containerenv"], {"container": "lxc"}, "lxc"),
        (["containerenv"], {}, "podman"),
        ([], {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "kubernetes"),
    ],
)
def test_a_container(node: Path, monkeypatch: pytest.MonkeyPatch, marks: list[str], variables: dict[str, str], said: str | None) -> None:
    for name in ("container", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for mark in marks:
        (node / mark).touch()
    places = (("containerenv", "podman"), ("dockerenv", "docker"))
    monkeypatch.setattr(_node_info, "_CONTAINERS", tuple((str(node / name), kind) for name, kind in places))
    monkeypatch.setattr(_node_info, "_SYSTEMD_CONTAINER", node / "none")
    assert _node_info.container() == said


# -- interpreters and tools ----------------------------------------------------------------------------------------------------


def test_interpreters_are_found_once_each_and_scripts_are_none(node: Path) -> None:
    real = os.path.realpath(sys.executable)
    minor, full = f"{sys.version_info[0]}.{sys.version_info[1]}", ".".join(map(str, sys.version_info[:3]))
    folders = [
        node / "home" / ".pyenv" / "versions" / full / "bin",
        node / "home" / ".local" / "share" / "uv" / "python" / "cpython" / "bin",
    ]
    program(node, f"python{minor}", f'exec {real} "$@"')
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / f"python{minor}").symlink_to(real)
    [found] = _node_info.find_pythons([minor, full], node / "home")
    assert (found["path"], found["version"], found["implementation"], found["problem"]) == (
        str(folders[0] / f"python{minor}"),
        full,
        sys.implementation.name,
        None,
    )
    include = subprocess.run(
        [real, "-c", "import sysconfig; print(sysconfig.get_path('include'))"], capture_output=True, text=True, check=True
    ).stdout
    assert found["headers"] == Path(include.strip(), "Python.h").is_file()
    assert _node_info.find_pythons([f"{minor}.999", "2.7"], node / "home") == []
    assert _node_info.find_pythons([], node / "home") == []


def test_an_interpreter_that_does_not_run_is_a_finding(node: Path) -> None:
    broken = node / "bin" / "python3.11"
    broken.write_bytes(b"\x7fELF is all it has")
    broken.chmod(0o755)
    [found] = _node_info.find_pythons(["3.11"], node / "home", SHORT)
    assert found["path"] == str(broken) and found["problem"]


def test_an_interpreter_that_is_named_is_asked_whatever_it_is(node: Path) -> None:
    wrapper = program(node, "mine", f'exec {os.path.realpath(sys.executable)} "$@"')
    found = _node_info.find_pythons([str(wrapper), "/not/there"], node / "home")
    assert (found[0]["path"], found[0]["version"]) == (str(wrapper), ".".join(map(str, sys.version_info[:3])))
    assert "/not/there is not there" in found[1]["problem"]


@pytest.mark.parametrize(
    ("version", "wanted", "is_it"),
    [("3.11.4", "3.11", True), ("3.11.4", "3.1", False), ("3.11.4", "3.11.4", True), ("3.11.14", "3.11.1", False)],
)
def test_versions(version: str, wanted: str, is_it: bool) -> None:
    assert _node_info.is_version(version, wanted) is is_it


def test_tools_say_their_versions_each_in_its_own_way(node: Path) -> None:
    program(node, "git", "echo git version 2.39.5")
    program(node, "ssh", "echo 'OpenSSH_9.2p1 Debian-2+deb12u3, OpenSSL 3.0.15' >&2")
    program(node, "nvcc", "echo 'Copyright (c) 2005-2023\nbuilt on x_2023.1\nCuda compilation tools, release 12.1, V12.1.105'")
    program(node, "rsync", "echo weird; exit 1")
    found = _node_info.tools()
    assert {name: tool and tool["version"] for name, tool in found.items()} == {
        "git": "2.39.5",
        "ssh": "9.2p1",
        "nvcc": "12.1",
        "rsync": None,
        "tar": None,
        "g++": None,
    }
    assert found["tar"] is None and found["git"]["path"] == str(node / "bin" / "git")


def test_the_cuda_toolkit_that_is_named_comes_first(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(node, "nvcc", "echo 'release 11.8, V11.8.89'")
    (node / "cuda" / "bin").mkdir(parents=True)
    program(node, "../cuda/bin/nvcc", "echo 'Cuda compilation tools, release 12.4, V12.4.131'")
    monkeypatch.setenv("CUDA_HOME", str(node / "cuda"))
    assert _node_info.tools()["nvcc"] == {"path": str(node / "cuda" / "bin" / "nvcc"), "version": "12.4"}


def test_programs_that_somebody_asks_for_are_not_run(node: Path) -> None:
    made = program(node, "cmake", f"touch {node}/ran")
    found = _node_info.tools(["cmake", "nowhere", "git"])
    assert found["cmake"] == {"path": str(made), "version": None} and found["nowhere"] is None and not (node / "ran").exists()


# -- GPUs ----------------------------------------------------------------------------------------------------------------------


def test_gpus(node: Path) -> None:
    nvidia_smi(node)
    assert _node_info.gpus() == {
        "devices": [
            {"index": 0, "name": "NVIDIA A100-SXM4-80GB", "memory": 81920, "compute": "8.0", "mig": True},
            {"index": 1, "name": "NVIDIA A100-SXM4-80GB", "memory": None, "compute": "8.0", "mig": None},
        ],
        "driver": "535.104.05",
        "cuda": "12.2",
        "on_bus": 0,
        "problem": None,
    }


def test_an_old_driver_that_knows_no_compute_capability(node: Path) -> None:
    """It refuses the whole question for one field that it does not know."""
    refusal = "echo 'Field \"compute_cap\" is not a valid field to query.'; exit 2"
    old = "0, Tesla V100, 16160, 450.80.02"
    program(node, "nvidia-smi", f'case "$1" in *compute_cap*) {refusal};; --query*) echo "{old}";; *) echo "{TABLE}";; esac')
    found = _node_info.gpus()
    assert found["driver"] == "450.80.02" and found["problem"] is None
    assert found["devices"] == [{"index": 0, "name": "Tesla V100", "memory": 16160, "compute": None, "mig": None}]


def test_no_driver_is_a_finding(node: Path) -> None:
    assert _node_info.gpus()["problem"] == "nvidia-smi is not there: no NVIDIA driver"


def test_a_broken_driver_is_a_finding(node: Path) -> None:
    program(node, "nvidia-smi", "echo 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.'; exit 9")
    found = _node_info.gpus()
    assert "could not communicate" in found["problem"] and found["devices"] == [] and found["driver"] is None


@pytest.mark.parametrize("output", ["\\377\\000\\nrubbish", "a, b, c, d, e", ""])
def test_a_driver_that_says_rubbish_is_a_finding(node: Path, output: str) -> None:
    program(node, "nvidia-smi", f"printf '{output}'")
    found = _node_info.gpus()
    assert found["devices"] == [] and "cannot be understood" in found["problem"]


def test_the_kernel_knows_its_driver_without_nvidia_smi(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = node / "version"
    monkeypatch.setattr(_node_info, "_DRIVER", said)
    assert _node_info.kernel_driver() is None
    for line in (
        "NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19",
        "NVIDIA UNIX Open Kernel Module for x86_64  535.104.05  Release",
    ):
        said.write_text(f"NVRM version: {line} Build\nGCC version:  gcc version 12.3.0\n")
        assert _node_info.kernel_driver() == "535.104.05"
    said = _node_info.gpus()
    assert said == {"devices": [], "driver": "535.104.05", "cuda": None, "on_bus": 0, "problem": "nvidia-smi is not there"}


def test_a_driver_that_never_answers_is_a_finding(node: Path) -> None:
    os.mkfifo(node / "never")
    program(node, "nvidia-smi", f"read x < {node}/never")
    assert f"within {SHORT:g} seconds" in _node_info.gpus(SHORT)["problem"]


def test_gpus_without_any(node: Path) -> None:
    nvidia_smi(node, listed="No devices were found")
    found = _node_info.gpus()
    assert found["devices"] == [] and found["driver"] is None and found["problem"] is None


# -- asking --------------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_interrupted_holds_nobody(node: Path) -> None:
    """As with a mount whose server is gone: the thread is left behind, and the others' answers are there."""
    release = threading.Event()
    try:
        answers = _node_info.ask_all({"hangs": release.wait, "fails": lambda: int("x"), "answers": lambda: 42}, SHORT)
    finally:
        release.set()
    assert answers["hangs"] == {"problem": f"no answer within {SHORT:g} seconds"}
    assert "invalid literal" in answers["fails"]["problem"] and answers["answers"] == 42


def test_a_path_that_cannot_be_looked_at_has_the_same_keys(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> dict[str, Any]:
        raise OSError(116, "Stale file handle", str(path))

    good = _node_info.gather(str(node), None, [])["paths"]["prefix"]
    monkeypatch.setattr(_node_info, "file_system", broken)
    bad = _node_info.gather(str(node), None, [])["paths"]["prefix"]
    assert set(bad) == set(good) and "Stale" in bad["problem"] and bad["free_bytes"] is None and good["problem"] is None
