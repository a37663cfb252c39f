# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""rlinf_push as Ansible runs it, with real rsync, over a real sshd on loopback whose port, key and user are not the usual ones."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils._bundle import seal
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._push import Ssh, explain, parse_items, quoted, rsync
from tests.unit.test_files import holder

ROOT = Path(__file__).resolve().parents[2]
ANSIBLE = Path(sys.executable).with_name("ansible")
TreeHash = Callable[..., dict[str, tuple[str, ...]]]


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Run an sshd of this user; yield the connection variables of a host that it stands for."""
    folder = tmp_path_factory.mktemp("ssh") / "with space"  # in the path of the key: quoting is tested by every transfer
    folder.mkdir()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "authorized").write_bytes((folder / "user.pub").read_bytes())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = folder / "sshd_config"
    config.write_text(
        f'ListenAddress 127.0.0.1:{port}\nHostKey "{folder}/host"\nAuthorizedKeysFile "{folder}/authorized"\n'
        "PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\nMaxStartups 100\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    assert program and shutil.which("rsync"), "openssh-server and rsync are needed: make system-packages"
    with subprocess.Popen([program, "-D", "-e", "-f", config], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("listening on" in line for line in process.stderr)
        yield {
            "ansible_host": "127.0.0.1",
            "ansible_port": port,
            "ansible_user": getpass.getuser(),
            "ansible_ssh_private_key_file": str(folder / "user"),
            "ansible_ssh_common_args": f"-o StrictHostKeyChecking=no -o UserKnownHostsFile={folder.parent}/known_hosts -F none",
        }
        process.terminate()


@dataclass(frozen=True)
class Site:
    """A sealed bundle, a node, and the module between them."""

    bundle: Path
    dest: Path
    node: dict[str, Any]
    work: Path

    def __call__(
        self, *options: str, dest: Path | None = None, src: Path | None = None, given: Mapping[str, Any] | None = None, **variables: Any
    ) -> dict[str, Any]:
        """Push, and return the module's result.

        :param given: more arguments of the module.
        """
        inventory = {"all": {"hosts": {"gpu01": {**self.node, "ansible_python_interpreter": sys.executable, **variables}}}}
        (self.work / "inventory.yml").write_text(json.dumps(inventory))
        arguments = json.dumps({"src": str(src or self.bundle), "dest": str(dest or self.dest), **(given or {})})
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_") or name == "ANSIBLE_COLLECTIONS_PATH"}
        # the path of a control socket is limited to some hundred characters
        settings = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_LOCAL_TEMP": str(self.work / "tmp"), "ANSIBLE_SSH_ARGS": "-C"}
        done = subprocess.run(
            [ANSIBLE, "gpu01", "-i", self.work / "inventory.yml", "-m", "rlinf.offline.rlinf_push", "-a", arguments, *options],
            env={**kept, **settings},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert " => {" in done.stdout, done.stdout + done.stderr
        result: dict[str, Any] = json.JSONDecoder().raw_decode(done.stdout[done.stdout.index(" => {") + 4 :])[0]
        # the callback takes them out of what it shows
        return {**result, "failed": "| FAILED! =>" in done.stdout}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Return a small sealed bundle: an empty file, a link, a name with a space, scratch space that is nobody's business."""
    root = tmp_path / "bundle"
    for name, content in (
        ("wheels/a-1-py3-none-any.whl", "a" * 5000),
        ("repos/github.com/o/r.git/refs/.keep", ""),
        ("assets/.maniskill/a file.txt", "asset\n"),
        ("tools/uv", "#!/bin/sh\n"),
        (".cache/scratch", "scratch\n"),
        (".lock", "1\n"),
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        os.utime(path, (1_700_000_000, 1_700_000_000))
    (root / "tools" / "uv").chmod(0o755)
    (root / "assets" / "link").symlink_to(".maniskill")
    seal(Bundle(root))
    return root


@pytest.fixture
def site(bundle: Path, sshd: dict[str, Any], tmp_path: Path) -> Site:
    return Site(bundle, tmp_path / "node dir" / "bundle", sshd, tmp_path)


def sent(root: Path, tree_hash: TreeHash) -> dict[str, tuple[str, ...]]:
    """Return the files of a bundle that a node gets, with modes, contents and times."""
    return {
        name: value
        for name, value in tree_hash(root, mtimes=True).items()
        if not name.startswith((".cache", ".lock")) and value[0][0] != "d"
    }


def test_push_over_ssh_is_idempotent(site: Site, tree_hash: TreeHash) -> None:
    checked = site("--check")
    assert checked["changed"] and checked["files"] == len(checked["first"]) == 6 and not site.dest.exists()
    pushed = site()
    assert pushed["changed"] and (pushed["files"], pushed["bytes"]) == (checked["files"], checked["bytes"])
    assert sent(site.dest, tree_hash) == sent(site.bundle, tree_hash)
    assert not (site.dest / ".cache").exists() and not (site.dest / ".lock").exists()
    before = tree_hash(site.dest, mtimes=True)
    assert not site("--check")["changed"]
    assert not site()["changed"]
    assert tree_hash(site.dest, mtimes=True) == before


def test_only_what_differs_is_sent_and_what_is_too_much_is_named(site: Site) -> None:
    site()
    (site.bundle / "wheels" / "a-1-py3-none-any.whl").rename(site.bundle / "wheels" / "b-1-py3-none-any.whl")
    seal(Bundle(site.bundle))
    (site.dest / "tools" / "uv").write_text("damaged")
    result = site()
    assert sorted(result["first"]) == ["bundle.json", "tools/uv", "wheels/b-1-py3-none-any.whl"]
    assert result["extra"] == {"count": 1, "first": ["wheels/a-1-py3-none-any.whl"], "by_name": True}


def test_what_a_swarm_runs_on_a_node_is_judged_before_it_is_sent(site: Site) -> None:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    wheel = site.bundle / "tools" / "swarm" / "libtorrent.whl"
    wheel.parent.mkdir()
    wheel.write_text("signed")
    (site.bundle / "records").mkdir()
    (site.bundle / "records" / "swarm.json").write_text(json.dumps({"wheels": {python: [{"filename": wheel.name}]}}))
    key = site.work / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    seal(Bundle(site.bundle), key=key)
    signers = f"me {key.with_name('key.pub').read_text()}"
    given = {"state": "seen", "verify": {"stamp": str(site.work / "state" / "bundle.json"), "trusted_signers": signers}}
    status = wheel.stat()
    wheel.write_text("forged")
    os.utime(wheel, ns=(status.st_atime_ns, status.st_mtime_ns))
    refused = site(given=given)
    assert refused["failed"] and "1 damaged: tools/swarm/libtorrent.whl" in refused["msg"]
    assert not (site.dest / "tools").exists()
    wheel.write_text("signed")
    accepted = site(given=given)
    assert not accepted["failed"] and (site.dest / "tools" / "swarm" / "libtorrent.whl").read_text() == "signed" and "peer" in accepted


def test_what_nodes_share_is_brought_by_one_and_verified_by_each_later(site: Site) -> None:
    given = {"verify": {"stamp": str(site.work / "state" / "bundle.json")}, "state": "brought"}
    brought = site(given=given)
    assert brought["changed"] and brought["files"] == 6 and "accepted" not in brought and not (site.work / "state").exists()
    (site.bundle / "tools" / "b").write_text("b")
    seal(Bundle(site.bundle))
    site(given=given)
    (site.bundle / "tools" / "b").unlink()
    seal(Bundle(site.bundle))
    # what would be one too many for whoever verifies is out of the way by then
    assert site(given=given)["pruned"]["changed"] and not (site.dest / "tools" / "b").exists()
    assert not site(given=given)["changed"]


def test_what_was_pushed_is_verified_and_a_former_bundle_removed_on_request(site: Site, tree_hash: TreeHash) -> None:
    given = {"verify": {"stamp": str(site.work / "state" / "bundle.json")}}
    checked = site("--check", given=given)
    assert checked["changed"] and "accepted" not in checked
    first = site(given=given)
    assert first["accepted"]["files"] == 5 and first["accepted"]["hashed"] == 4 and "pruned" not in first
    for folder in ("wheels", "tools"):
        (site.bundle / folder / "b-1-py3-none-any.whl").write_text("b")
    seal(Bundle(site.bundle))
    site(given=given)
    for folder in ("wheels", "tools"):
        (site.bundle / folder / "b-1-py3-none-any.whl").unlink()
    seal(Bundle(site.bundle))
    (site.dest / "wheels" / "mine.whl").write_text("mine")
    kept = site(given=given)
    # tools are looked through, so that one too many may not be there; wheels are taken by name
    assert kept["pruned"]["changes"]["removed"]["first"] == ["tools/b-1-py3-none-any.whl"]
    assert kept["accepted"]["extra"]["first"] == ["wheels/b-1-py3-none-any.whl", "wheels/mine.whl"]
    assert "2 files (5 B) that are not of this bundle stay (rlinf_push_prune)" in kept["reason"]
    before = tree_hash(site.dest, mtimes=True)
    again = site(given=given)
    assert not again["changed"] and again["files"] == 0 and tree_hash(site.dest, mtimes=True) == before
    asked = {**given, "prune": True}
    assert site("--check", given=asked)["changed"] and tree_hash(site.dest, mtimes=True) == before
    pruned = site(given=asked)
    assert pruned["pruned"]["changes"]["removed"]["first"] == ["wheels/b-1-py3-none-any.whl"]
    assert (site.dest / "wheels" / "mine.whl").read_text() == "mine"
    assert not site("--check", given=asked)["changed"] and not site(given=asked)["changed"]


def test_what_does_not_verify_fails_the_push(site: Site) -> None:
    given = {"verify": {"stamp": str(site.work / "state" / "bundle.json")}}
    site(given=given)
    uv = site.dest / "tools" / "uv"
    times = uv.stat()
    uv.write_text("#!/bin/SH\n")
    os.utime(uv, ns=(times.st_atime_ns, times.st_mtime_ns))
    (site.work / "state" / "bundle.json").unlink()
    result = site(given=given)
    assert result["failed"] and "1 damaged: tools/uv" in result["msg"] and "rlinf_scrub=true" in result["msg"]


def test_a_mode_or_link_that_differs_is_mended(site: Site) -> None:
    site()
    (site.dest / "tools" / "uv").chmod(0o600)
    assert site()["changed"] is True and (site.dest / "tools" / "uv").stat().st_mode & 0o777 == 0o755
    (site.dest / "assets" / "link").unlink()
    (site.dest / "assets" / "link").symlink_to("elsewhere")
    assert site()["changed"] is True and os.readlink(site.dest / "assets" / "link") == ".maniskill"


def test_a_transfer_that_was_cut_off_is_continued(site: Site) -> None:
    whole = (site.bundle / "wheels" / "a-1-py3-none-any.whl").read_bytes()
    partial = site.dest / "wheels" / ".rlinf-partial" / "a-1-py3-none-any.whl"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(whole[:3000])
    assert site()["changed"]
    assert (site.dest / "wheels" / "a-1-py3-none-any.whl").read_bytes() == whole and not partial.exists()


def writers(place: Path) -> Iterator[tuple[int, Path]]:
    """Yield the processes in which rsync writes what will be *place*, and the temporary files."""
    temporary = re.compile(rf"\.{re.escape(place.name.removeprefix('.'))}\.[A-Za-z0-9]{{6}}")
    for process in Path("/proc").glob("[0-9]*"):
        # it may end meanwhile
        with contextlib.suppress(OSError):
            for link in (process / "fd").iterdir():
                path = Path(os.readlink(link))
                if path.parent == place.parent and temporary.fullmatch(path.name):
                    yield int(process.name), path


@pytest.mark.parametrize("name", ["wheels/a-1-py3-none-any.whl", "tools/uv", "assets/.maniskill/.config"])
def test_what_rsync_left_where_it_was_killed_is_gone_after_the_next_push(site: Site, tree_hash: TreeHash, name: str) -> None:
    """As where a node loses its power: rsync ends without a chance to tidy up, and its temporary file would be one too many."""
    (site.bundle / name).write_bytes(os.urandom(1 << 20))
    seal(Bundle(site.bundle))
    given = {"verify": {"stamp": str(site.work / "state" / "bundle.json")}}
    with ThreadPoolExecutor() as pool:
        pushing = pool.submit(site, given={**given, "bandwidth": 200})
        while not (found := [*writers(site.dest / name)]):
            assert not pushing.done()
        process, temporary = found[0]
        os.kill(process, signal.SIGKILL)
        assert pushing.result()["failed"]
    assert temporary.exists() and not (site.dest / name).exists()
    # what it kept of a file that is no longer in the bundle by now
    old = temporary.with_name(".rlinf-partial") / "gone.whl"
    old.parent.mkdir()
    old.write_text("half")
    # what looks like it, and is of no file of the bundle, is somebody's
    own = site.dest / "wheels" / ".own.config"
    own.write_text("own")
    result = site(given=given)
    assert not result["failed"] and result["pruned"]["left_over"] == sorted(str(path.relative_to(site.dest)) for path in (old, temporary))
    assert own.read_text() == "own"
    own.unlink()
    assert sent(site.dest, tree_hash) == sent(site.bundle, tree_hash)


def test_to_a_node_one_pushes_at_a_time(site: Site) -> None:
    """Two would go on with the same partial files. A check changes none."""
    site()
    (lock,) = (site.bundle / ".cache" / "push").iterdir()
    (site.dest / "tools" / "uv").write_text("damaged")
    with holder(lock) as first:
        assert site("--check")["files"] == 1
        result = site()
        assert result["failed"] and re.search(rf"The bundle at .*/bundle \(port \d+\) is in use by process {first.pid} of ", result["msg"])
        assert (site.dest / "tools" / "uv").read_text() == "damaged"
        # elsewhere it goes on
        assert site(dest=site.dest.with_name("other"))["files"] == 6
        first.communicate()
    assert site()["files"] == 1


def test_the_manifest_comes_last(site: Site) -> None:
    (site.dest / "tools" / "uv" / "in the way").mkdir(parents=True)
    result = site()
    assert result["failed"] and "rsync could not copy everything" in result["msg"]
    assert not (site.dest / "bundle.json").exists()
    assert (site.dest / "wheels" / "a-1-py3-none-any.whl").exists()


def test_a_shared_directory_is_recognized(site: Site, tree_hash: TreeHash) -> None:
    before = tree_hash(site.bundle, mtimes=True)
    shared = site.dest.parent
    shared.parent.mkdir(exist_ok=True)
    shared.symlink_to(site.bundle)
    result = site(dest=shared)
    assert not result["changed"] and result["shared"]
    assert tree_hash(site.bundle, mtimes=True) == before


def test_on_one_machine_it_is_copied_without_ssh(site: Site, tree_hash: TreeHash) -> None:
    local = {"ansible_connection": "local"}
    assert site(dest=site.bundle, **local)["shared"]
    assert site("--check", **local)["changed"] and not site.dest.exists()
    assert site(**local)["changed"] and not site(**local)["changed"]
    assert sent(site.dest, tree_hash) == sent(site.bundle, tree_hash)


def test_without_a_bundle_on_the_bastion_the_nodes_own_stays(site: Site, tmp_path: Path) -> None:
    missing = site(src=tmp_path / "none")
    assert (
        missing["failed"] and f"There is no bundle at {tmp_path / 'none'}" in missing["msg"] and "rlinf.offline.download" in missing["msg"]
    )
    assert not site.dest.exists()
    site()
    own = site(src=tmp_path / "none")
    assert not own["changed"] and "a bundle of its own" in own["reason"]


def test_an_incomplete_bundle_is_not_pushed(site: Site) -> None:
    (site.bundle / "tools" / "uv").unlink()
    result = site()
    assert result["failed"] and "lacks 1 files of its manifest (tools/uv" in result["msg"]


def test_a_node_that_cannot_be_reached_is_unreachable(site: Site) -> None:
    assert site(ansible_port=1)["unreachable"]


def test_a_password_is_refused_with_what_to_do(site: Site) -> None:
    result = site(ansible_password="hush")
    assert result["failed"] and "Give a key (ansible_ssh_private_key_file)" in result["msg"] and "hush" not in json.dumps(result)


def test_another_connection_is_refused(site: Site) -> None:
    result = site(ansible_connection="paramiko_ssh")
    assert result["failed"] and "Use the connection ssh or local" in result["msg"]


def test_arguments_of_the_remote_shell_survive_rsync() -> None:
    ssh = Ssh("::1", port=2222, user="me", private_key="/a b/it's", arguments=["-o", "ProxyJump=bastion"], check_host_key=False, timeout=10)
    command = rsync(ssh, remote_program="sudo -n rsync", bandwidth=500, check=True)
    shell = command[command.index("--rsh") + 1]
    options = "-o ServerAliveInterval=15 -o ServerAliveCountMax=4 -o ConnectTimeout=10 -o StrictHostKeyChecking=no"
    assert f"-o ProxyJump=bastion {options} -p 2222 -i '/a b/it''s'" in shell
    assert {"--dry-run", "--bwlimit=500", "--secluded-args"} <= set(command) and command[
        command.index("--rsync-path") + 1
    ] == "sudo -n rsync"
    assert ssh.place("/opt") == "[::1]:/opt"
    assert quoted("plain") == "plain"


@pytest.mark.parametrize(
    ("arguments", "jumps"),
    [
        ([], False),
        (["-J", "gate"], True),
        (["-o", "ProxyJump=none"], False),
        (["-o", "ProxyCommand=ssh -W %h:%p gate"], True),
        (["-o", "ProxyCommand=/usr/bin/sss_ssh_knownhostsproxy -p %p %h"], False),
    ],
)
def test_a_jump_host_is_seen_in_what_ssh_was_told(arguments: list[str], jumps: bool) -> None:
    assert Ssh("gpu01", arguments=["-F", "none", *arguments]).jumps() == jumps


def test_items_are_files_and_links_only() -> None:
    said = "cd+++++++++ 4096 wheels/\n<f+++++++++ 12 wheels/a b.whl\ncL+++++++++ 3 assets/link -> .x\n.d..t...... 0 ./\n*deleting   0 x\nnoise\n"
    assert parse_items(said) == {"wheels/a b.whl": 12, "assets/link -> .x": 3}


@pytest.mark.parametrize(
    ("status", "said", "meaning"),
    [
        (11, "rsync: write failed: No space left on device (28)", "The disk of gpu01:/opt is full"),
        (11, "mkdir failed: Read-only file system (30)", "is read-only"),
        (127, "bash: rsync: command not found", "rsync is not there on the node"),
        (12, "sudo: a password is required", "sudo on the node asks for a password"),
        (255, "root@gpu01: Permission denied (publickey).", "ssh refused the connection"),
        (23, "mkstemp failed: Permission denied (13)", "may not write gpu01:/opt"),
        (255, "Connection closed", "The connection to the node was lost"),
        (12, "", "The connection to the node was lost"),
        (23, "some files", "could not copy everything"),
    ],
)
def test_a_failure_says_what_to_do(status: int, said: str, meaning: str) -> None:
    message = explain(status, said, "gpu01:/opt")
    assert meaning in message and f"rsync ended with status {status}" in message and said in message
