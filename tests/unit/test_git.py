# SPDX-License-Identifier: GPL-3.0-or-later
"""The one gate to git: nothing of the user's settings comes through, failures are told apart, nothing is left running."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.rlinf.offline.plugins.module_utils import _git, _git_config
from ansible_collections.rlinf.offline.plugins.module_utils._errors import GitError
from ansible_collections.rlinf.offline.plugins.module_utils._network import Network
from ansible_collections.rlinf.offline.plugins.module_utils._submodules import resolve_relative
from ansible_collections.rlinf.offline.plugins.module_utils._urls import Rewrites
from tests.support.origins import Origin, git
from tests.support.upstream import Fault, Upstream

GITHUB = "https://github.com/"


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Upstream]:
    (tmp_path / "upstream" / "git").mkdir(parents=True)
    with Upstream(tmp_path / "upstream") as server:
        yield server


@pytest.fixture
def origin(upstream: Upstream) -> Origin:
    made = Origin(upstream.root, "github.com/owner/name.git")
    made.commit(a="1")
    return made


def through(upstream: Upstream, timeout: float = 10) -> Network:
    return Network(Rewrites({GITHUB: f"{upstream.url}/git/github.com/"}), timeout=timeout, backoff=0.001)


# -- failures told apart


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("fatal: unable to access 'https://github.com/a/b/': Could not resolve host: github.com", "unreachable"),
        (
            "fatal: unable to access 'https://github.com/a/b/': Failed to connect to github.com port 443 after 3 ms: Couldn't connect to server",
            "unreachable",
        ),
        ("error: RPC failed; curl 18 transfer closed with outstanding read data remaining\nfatal: early EOF", "unreachable"),
        ("fatal: unable to access 'https://github.com/a/b/': The requested URL returned error: 503", "unreachable"),
        ("ssh: connect to host github.com port 22: Connection timed out\nfatal: Could not read from remote repository.", "unreachable"),
        ("fatal: unable to access 'https://x/a/b/': Proxy CONNECT aborted", "unreachable"),
        ("fatal: could not read Username for 'https://github.com': terminal prompts disabled", "credentials"),
        ("remote: Invalid username or password.\nfatal: Authentication failed for 'https://github.com/a/b.git/'", "credentials"),
        ("git@github.com: Permission denied (publickey).\nfatal: Could not read from remote repository.", "credentials"),
        ("fatal: unable to access 'https://x/a/b/': The requested URL returned error: 403", "credentials"),
        ("Host key verification failed.\nfatal: Could not read from remote repository.", "host_key"),
        ("ERROR: Repository not found.\nfatal: Could not read from remote repository.", "repository"),
        ("fatal: repository 'https://gitlab.com/a/b.git/' not found", "repository"),
        ("fatal: '/srv/x' does not appear to be a git repository", "repository"),
        ("fatal: https://x/a/b/info/refs not valid: is this a git repository?", "repository"),
        ("fatal: couldn't find remote ref 1234", "ref"),
        ("fatal: remote error: upload-pack: not our ref 0123456789", "ref"),
        ("fatal: unable to access 'https://x/': SSL certificate problem: self-signed certificate", "certificate"),
        ("fatal: write error: No space left on device", "full"),
        ("error: object 12 is corrupt\nfatal: bad object HEAD", "damaged"),
        ("remote: aborting due to possible repository corruption on the remote side.\nfatal: early EOF", "damaged"),
        ("error: object 12: gitmodulesUrl: disallowed submodule url: --x\nfatal: fsck error in packed object", "refused"),
        ("fatal: something new", "other"),
    ],
)
def test_what_git_says_is_told_apart(said: str, problem: str) -> None:
    error = _git.failure("repository x", said)
    assert error.details["problem"] == problem
    assert str(error).startswith("repository x: ")
    assert said.splitlines()[-1] in str(error)


def test_a_failure_shows_no_credential_and_no_progress() -> None:
    said = "Receiving objects: 1% (1/99)\rReceiving objects:  40% (40/99)\rerror: lost\nfatal: 'https://me:secret@host/a/b/': Could not resolve host"
    text = str(_git.failure("x", said))
    assert "secret" not in text
    assert "Receiving" not in text
    assert "https://***@host/a/b/" in text


def test_a_refusal_says_that_it_may_be_private_or_missing_and_what_to_give() -> None:
    text = str(_git.failure("x", "fatal: could not read Username for 'https://github.com': terminal prompts disabled"))
    assert all(words in text for words in ("may be private", "may not exist", "git@host:owner/name.git", "token"))


# -- nothing of the user's settings


def test_the_users_settings_and_variables_do_not_come_through(
    origin: Origin, upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / "git").mkdir(parents=True)
    (home / ".gitconfig").write_text(f'[url "file:///nowhere/"]\n\tinsteadOf = {GITHUB}\n[http]\n\tproxy = http://127.0.0.1:1\n')
    (home / "git" / "config").write_text("[http]\n\tproxy = http://127.0.0.1:1\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", "/nowhere")
    monkeypatch.setenv("GIT_SSL_CAINFO", "/nowhere")
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", "'http.proxy=http://127.0.0.1:1'")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", str(home / ".gitconfig"))
    with _git.session(network=through(upstream)) as session:
        assert origin.bare.is_dir()
        assert "refs/heads/main" in session.ask("ls-remote", "--", origin.url, about="x")
        # the credential helper and the like lie in a folder of the session
        assert all(str(home) not in line for line in session.read("config", "--list", "--show-origin", about="x").splitlines())


def test_a_repositorys_own_settings_run_nothing(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    git("init", "--quiet", cwd=tree)
    for program in ("monitor", "hook"):
        (tmp_path / program).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran-{program}\n")
        (tmp_path / program).chmod(0o755)
    git("config", "core.fsmonitor", tmp_path / "monitor", cwd=tree)
    (tree / ".git" / "hooks").mkdir(exist_ok=True)
    (tmp_path / "hook").rename(tree / ".git" / "hooks" / "post-checkout")
    git("-c", "core.fsmonitor=false", "commit", "--quiet", "--allow-empty", "-m", "x", cwd=tree)
    with _git.session() as session:
        session.at(tree=tree).read("status", about="x")
        session.at(tree=tree).write("checkout", "--quiet", "--detach", "HEAD", about="x")
    assert not list(tmp_path.glob("ran-*"))


def test_a_repository_in_a_parent_folder_is_not_taken(tmp_path: Path) -> None:
    git("init", "--quiet", cwd=tmp_path)
    inner = tmp_path / "bundle"
    inner.mkdir()
    with _git.session() as session:
        assert session.at(tree=inner).test("rev-parse", "--git-dir") is None
        assert session.at(git_dir=inner).test("rev-parse", "--git-dir") is None


@pytest.mark.parametrize("url", ["file:///tmp/nothing", "git://127.0.0.1:1/a/b", "http://127.0.0.1:1/a/b"])
def test_only_the_allowed_transports_are_used(url: str) -> None:
    with _git.session() as session, pytest.raises(GitError, match="not allowed"):
        session.ask("ls-remote", "--", url, about="x")


def test_file_is_allowed_where_a_rewrite_leads_there(origin: Origin, upstream: Upstream) -> None:
    to_files = Rewrites({GITHUB: f"file://{upstream.root}/git/github.com/"})
    with _git.session(url=origin.url, network=Network(to_files)) as session:
        assert "refs/heads/main" in session.ask("ls-remote", "--", origin.url, about="x")


# -- credentials


@pytest.mark.parametrize(("user", "password"), [("me", "s3cr%2Fet"), ("tok3n", "")])
def test_credentials_of_a_url_reach_the_remote_but_no_argument(
    origin: Origin, upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: str, password: str
) -> None:
    upstream.require_login("/git/", user, password.replace("%2F", "/"))
    trace = tmp_path / "trace"
    userinfo = f"{user}:{password}@" if password else f"{user}@"
    with _git.session(url=f"https://{userinfo}github.com/owner/name.git", network=through(upstream)) as session:
        with pytest.raises(GitError) as refused:
            session.ask("ls-remote", "--", origin.url, about="x")
        assert refused.value.details["problem"] == "credentials"
    # the credentials are the rewrite's now, as for a mirror that asks who comes
    authority = upstream.url.partition("://")[2]
    told = Rewrites({GITHUB: f"http://{userinfo}{authority}/git/github.com/"})
    with _git.session(url=origin.url, network=Network(told)) as session:
        output = session.run(["ls-remote", "--", origin.url], about="x", env={"GIT_TRACE": str(trace)})
    assert "refs/heads/main" in output.stdout
    assert (password or user) not in trace.read_text()


def test_the_sessions_folder_is_private_and_goes(tmp_path: Path) -> None:
    with _git.session(url="https://token@github.com/a/b") as session:
        config = Path(session.env["GIT_CONFIG_GLOBAL"])
        assert [path.stat().st_mode & 0o777 for path in (config.parent, *sorted(config.parent.iterdir()))] == [0o700, 0o600]
        assert "token" not in config.read_text()
    assert not config.parent.exists()


# -- time


def test_a_silent_server_is_given_up(origin: Origin, upstream: Upstream) -> None:
    upstream.always("/git/*", Fault(stall_before_headers=True))
    with _git.session(network=through(upstream, timeout=1)) as session, pytest.raises(GitError) as error:
        session.ask("ls-remote", "--", origin.url, about="x")
    assert error.value.details["problem"] == "unreachable"


def test_nothing_is_left_running(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with _git.session() as session, pytest.raises(GitError, match="nothing came from it for"):
        session.run(["-c", f"alias.wait=!sh -c 'exec 9>{fifo}; echo started >&9; exec sleep 600'", "wait"], about="x", timeout=3)
    # the end of the fifo is seen once nobody holds its other end
    os.set_blocking(reader, True)
    with open(reader, "rb") as stream:
        assert stream.read() == b"started\n"


def test_a_missing_git_is_said(tmp_path: Path) -> None:
    script = (
        "from ansible_collections.rlinf.offline.plugins.module_utils import _git\nwith _git.session() as s: s.read('version', about='x')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert "Install git and run again" in done.stderr.splitlines()[-1]


# -- settings as text


@given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0\r"), max_size=30))
def test_settings_are_read_back_as_they_were_given(value: str) -> None:
    text = _git_config.config_text(
        [("core.a", value), ("url.https://host/#;x/.insteadOf", value), ("url.https://host/#;x/.insteadOf", "b")]
    )
    done = subprocess.run(["git", "config", "--file", "-", "--null", "--list"], input=text.encode(), capture_output=True, check=True)
    assert done.stdout.decode() == f"core.a\n{value}\0url.https://host/#;x/.insteadof\n{value}\0url.https://host/#;x/.insteadof\nb\0"


@pytest.mark.parametrize(
    "url",
    [
        *(
            "https://github.com/owner/name.git",
            "https://github.com/owner/name",
            "http://github.com/owner/name.git",
            "git@github.com:owner/name.git",
        ),
        *("ssh://git@github.com/owner/name.git", "https://git@github.com/owner/name.git", "https://github.com/owner/name/"),
    ],
)
def test_every_way_to_write_a_url_is_led_to_the_mirror(origin: Origin, upstream: Upstream, tmp_path: Path, url: str) -> None:
    config = tmp_path / "gitconfig"
    config.write_text(_git_config.redirect_config(upstream.root / "git"))
    env = {"GIT_CONFIG_GLOBAL": str(config), "GIT_ALLOW_PROTOCOL": "file", "GIT_TERMINAL_PROMPT": "0"}
    assert "refs/heads/main" in git("ls-remote", url, cwd=tmp_path, env=env)
    with pytest.raises(subprocess.CalledProcessError):
        git("ls-remote", url.replace("github.com", "elsewhere.invalid"), cwd=tmp_path, env=env)


@pytest.mark.parametrize(
    ("base", "url", "expected"),
    [
        ("https://h/o/n.git", "../x.git", "https://h/o/x.git"),
        ("https://h/o/n.git/", "../../p/x.git", "https://h/p/x.git"),
        ("https://h/o/n.git", "./x.git", "https://h/o/n.git/x.git"),
        ("git@h:o/n.git", "../x.git", "git@h:o/x.git"),
        ("git@h:o/n.git", "../../p/x.git", "git@h:p/x.git"),
        ("https://h/o/n.git", "https://other/a/b", "https://other/a/b"),
    ],
)
def test_relative_submodule_urls(base: str, url: str, expected: str) -> None:
    assert resolve_relative(base, url) == expected


@pytest.mark.parametrize("base", ["https://h/o/n.git", "git@h:o/n.git"])
def test_a_relative_submodule_url_does_not_leave_the_host(base: str) -> None:
    with pytest.raises(GitError, match="too far"):
        resolve_relative(base, "../../../../x/y")
