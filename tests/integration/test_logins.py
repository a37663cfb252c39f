# SPDX-License-Identifier: GPL-3.0-or-later
"""Logins of every kind through a whole download, told as loudly as Ansible can: none is in what it says, logs, leaves or calls."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.origins import Origin
from tests.support.playbooks import play
from tests.support.upstream import Upstream
from tests.support.wheels import build_wheel

GITHUB = "https://github.com/"
SECRETS = {"rewrite": "r3wr1te-hidden", "catalogue": "c4talogue-hidden", "index": "1ndex-hidden", "mirror": "m1rror-hidden"}


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Upstream]:
    build_wheel(tmp_path / "served/git/github.com/owner/releases", "apex", "0.1", tags="cp311-cp311-linux_x86_64")
    build_wheel(tmp_path / "served/files", "other", "0.1")
    (tmp_path / "served/index").mkdir()
    Origin(tmp_path / "served", "github.com/owner/name.git").commit(file="one\n")
    with Upstream(tmp_path / "served") as server:
        server.require_login("/git/", "someone", SECRETS["rewrite"])
        server.require_login("/files/", "someone", SECRETS["catalogue"])
        server.require_login("/simple/", "someone", SECRETS["index"])
        yield server


def listing(folder: Path, *programs: str) -> Path:
    """Put programs first on the path that write down with which arguments they are called, and call the real ones."""
    folder.mkdir()
    for name in programs:
        (folder / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {folder}/called\nexec {shutil.which(name)} "$@"\n')
        (folder / name).chmod(0o755)
    return folder / "called"


def test_no_login_comes_out_of_a_download(tmp_path: Path, upstream: Upstream) -> None:
    def with_login(secret: str, rest: str) -> str:
        return f"{upstream.url}/{rest}".replace("://", f"://someone:{SECRETS[secret]}@")

    aside, home = tmp_path / "aside", tmp_path / "home"
    aside.mkdir()
    home.mkdir()
    # uv is found beside its Python, and what it is called with is looked at in test_network
    called = listing(tmp_path / "bin", "git")
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
        "rlinf_bundle_dir": str(tmp_path / "bundle"),
        "rlinf_prefix": str(tmp_path / "prefix"),
        "rlinf_targets": [],
        "rlinf_releases": [],
        "rlinf_url_rewrites": {GITHUB: with_login("rewrite", "git/github.com/")},
        "rlinf_index_url": with_login("index", "simple/"),
        "rlinf_apt_mirrors": {"debian": with_login("mirror", "debian/")},
        "rlinf_catalog": {
            "repositories": {"name": {"url": f"{GITHUB}owner/name.git"}},
            "wheels": {
                "apex": {"url": f"{GITHUB}owner/releases/apex-0.1-cp311-cp311-linux_x86_64.whl"},
                "other": {"url": with_login("catalogue", "files/other-0.1-py3-none-any.whl")},
            },
        },
    }
    inventory = tmp_path / "inventory" / "inventory.yml"
    inventory.parent.mkdir()
    groups = {"rlinf_bastion": {"hosts": {"bastion": {}}}, "rlinf_nodes": {"hosts": {}}}
    inventory.write_text(yaml.safe_dump({"all": {"vars": variables, "children": groups}}))
    env = {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "TMPDIR": str(aside),
        "ANSIBLE_LOG_PATH": str(aside / "ansible.log"),
        "ANSIBLE_KEEP_REMOTE_FILES": "0",
    }
    said = play(inventory, "rlinf.offline.download", "-vvvv", "--diff", env=env)
    assert (tmp_path / "bundle/repos/github.com/owner/name.git/HEAD").is_file(), said.output[-3000:]
    assert (tmp_path / "bundle/wheels/other-0.1-py3-none-any.whl").is_file(), said.output[-3000:]
    # the index has nothing of what nodes are prepared with, which is told at length
    assert said.status and upstream.requests("/simple/*")
    assert "ls-remote" in called.read_text()
    places = [path for top in ("bundle", "prefix", "aside", "home", "bin", "inventory/ansible") for path in (tmp_path / top).rglob("*")]
    texts = {"what it says": said.output + said.errors, **{str(path): path.read_text("latin-1") for path in places if path.is_file()}}
    assert not [(secret, place) for place, text in texts.items() for secret, word in SECRETS.items() if word in text]
