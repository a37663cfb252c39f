# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The only caller of git, through GitPython: nothing of the user's git settings, no prompt, no hook, no endless wait, errors told apart."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, cast
from urllib.parse import unquote, urlsplit

from ansible_collections.rlinf.offline.plugins.module_utils._errors import GitError
from ansible_collections.rlinf.offline.plugins.module_utils._faults import checkpoint
from ansible_collections.rlinf.offline.plugins.module_utils._git_config import PROTECTED, config_text, overriding, redirect_settings
from ansible_collections.rlinf.offline.plugins.module_utils._network import ATTEMPTS, Network
from ansible_collections.rlinf.offline.plugins.module_utils._progress import Meter, bytes_below
from ansible_collections.rlinf.offline.plugins.module_utils._urls import REMOTE_SCHEMES, redact, without_userinfo

# GitPython looks for git when it is imported, and its complaint is no message for a user; _check_version says it
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
import git

OLDEST = (2, 34, 1)
"""The oldest git that a supported distribution still mends (Ubuntu 22.04). It knows GIT_CONFIG_GLOBAL (2.32), too."""
PATCHED = ((2, 43, 7), (2, 44, 4), (2, 45, 4), (2, 46, 4), (2, 47, 3), (2, 48, 2), (2, 49, 1), (2, 50, 1))
"""By maintenance line, the first git without CVE-2025-48384, by which a submodule's path writes a hook that then runs."""
BACKPORTED = frozenset({(2, 34, 1), (2, 39, 5), (2, 43, 0), (2, 43, 5)})
"""Versions that distributions ship with the fixes of later ones and under the old number (Ubuntu 22.04, Debian 12, Ubuntu 24.04, RHEL)."""
TAIL = 3000
"""Characters of git's output that an error shows."""
BROKEN = 4
"""How often objects may have begun to come before a remote is given up."""
_PROGRESS = re.compile(r"Receiving objects: +\d+%")

# old histories hold these, harmless as they are; everything else that fsck finds while fetching is an error
_TOLERATED = (
    *(
        "zeroPaddedFilemode",
        "badTimezone",
        "badDate",
        "badDateOverflow",
        "zeroPaddedDate",
        "missingSpaceBeforeDate",
        "missingSpaceBeforeEmail",
    ),
    *("missingNameBeforeEmail", "badName", "badEmail", "missingEmail", "multipleAuthors", "missingTaggerEntry", "badTagName", "nullSha1"),
)

# what git-lfs sets; a filter that is anything else does not run
_LFS = {"clean": "git-lfs clean -- %f", "smudge": "git-lfs smudge -- %f", "process": "git-lfs filter-process"}
_FILTERS = r"^filter\..*\.(clean|smudge|process)$"
_TRANSPORT = re.compile(r"[A-Za-z0-9]*::")
_ADDRESS = re.compile(r"[a-z+]+://", re.IGNORECASE)

_SETTINGS = (
    ("safe.directory", "*"),
    # the objects and refs of a mirror are on the disk before it gets its name
    ("core.fsync", "all"),
    # larger files go through git piece by piece; by default it takes 512 MB of one into memory
    ("core.bigFileThreshold", "32m"),
    ("advice.detachedHead", "false"),
    ("init.defaultBranch", "main"),
    ("fetch.fsckObjects", "true"),
    *((f"{command}.{message}", "ignore") for command in ("fsck", "fetch.fsck") for message in _TOLERATED),
    # a small fetch becomes a pack as well
    ("fetch.unpackLimit", "1"),
    # they take time to make, and a mirror is cloned from now and then only
    ("repack.writeBitmaps", "false"),
    ("submodule.recurse", "false"),
)


@dataclass(frozen=True)
class Problem:
    """A kind of failure: how git's words tell it, and what the user is told."""

    name: str
    words: re.Pattern[str]
    summary: str


def _problem(name: str, words: str, summary: str) -> Problem:
    return Problem(name, re.compile(words, re.IGNORECASE), summary)


# the first that fits
PROBLEMS = (
    _problem(
        "host_key",
        r"host key verification failed|remote host identification has changed",
        "its host key is not known here. Add it to ~/.ssh/known_hosts (ssh-keyscan) after checking it.",
    ),
    _problem(
        "proxy",
        r"(code|error:|response) 407|proxy authentication required",
        "the proxy asks for credentials. Give them in rlinf_proxy (http://user:password@host:port, best out of a vault).",
    ),
    _problem(
        "credentials",
        r"could not read (username|password)|authentication failed|permission denied|terminal prompts disabled|returned error: 40[13]|access denied",
        "it was refused for lack of credentials. The repository may be private, or it may not exist: GitHub answers both in the same way. Check the URL; "
        "for a private one give an SSH URL (git@host:owner/name.git) with a key in the agent, or a token (https://token@host/owner/name.git, or ~/.netrc).",
    ),
    _problem(
        "moved",
        r"\((stale info|fetch first|non-fast-forward)\)",
        "somebody has pushed to it meanwhile. Nothing was overwritten; run again, which takes their commits along.",
    ),
    _problem(
        "declined",
        r"\[remote rejected\]|hook declined",
        "its host declined what was pushed. The branch may be protected there; allow it for this user.",
    ),
    _problem(
        "ref",
        r"couldn't find remote ref|not our ref|unadvertised object|remote branch .* not found",
        "it has no such branch, tag or commit. Correct the version.",
    ),
    _problem(
        "repository",
        r"repository not found|repository '.*' not found|does not appear to be a git repository|returned error: 404|is this a git repository"
        r"|could not be found or you don't have permission|not valid: |no such repository",
        "there is no git repository at that URL. Correct the URL.",
    ),
    _problem(
        "certificate",
        r"ssl certificate problem|certificate verif|server certificate",
        "its TLS certificate could not be verified. Name the file of its authority in rlinf_ca_bundle.",
    ),
    _problem(
        "damaged",
        r"corruption on the remote side",
        "the remote's own copy is damaged. Its owner has to mend it.",
    ),
    _problem(
        "unreachable",
        r"could not resolve|failed to connect|couldn't connect|connection (refused|timed out|reset|closed)|network is unreachable|no route to host"
        r"|operation (timed out|too slow)|empty reply|recv failure|early eof|rpc failed|returned error: (429|5\d\d)|proxy|hung up|unexpected disconnect"
        r"|transfer closed|body are still expected|send failure|ssl_(connect|read|error)|gnutls|http/2 (stream|framing)",
        "the host could not be reached, or the connection broke. Check the network, rlinf_proxy and rlinf_url_rewrites, and run again.",
    ),
    _problem(
        "full",
        # git says no reason where a ref or its settings cannot be written
        r"no space left|disk quota|out of diskspace|couldn't write '|failed to write new configuration|unable to create directory for '",
        "the disk is full, or it cannot be written. Make room and run again.",
    ),
    _problem(
        "refused",
        r"fsck error|disallowed submodule",
        "it holds an object that git's checks refuse as malformed or dangerous. Its owner has to mend it.",
    ),
    _problem(
        "damaged",
        r"bad object|missing (blob|tree|commit|object)|corrupt|invalid index-pack|did not send all necessary objects"
        r"|unable to read|inflate|not a valid object",
        "objects are missing or damaged. If it is a mirror in the bundle, remove that folder and run again.",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Output:
    """What git did: its exit status and output."""

    status: int
    stdout: str
    stderr: str


class _Stalled(Exception):
    """git said nothing for too long."""


@dataclass(frozen=True)
class Git:
    """git with an environment of its own; made by :func:`session`."""

    env: Mapping[str, str]
    network: Network = field(default_factory=Network)
    git_dir: Path | None = None
    tree: Path | None = None

    def at(self, *, git_dir: Path | None = None, tree: Path | None = None) -> Git:
        """Return the same git for one repository: a bare one by *git_dir*, a working copy by *tree*; none in a parent folder is ever taken."""
        return replace(self, git_dir=git_dir, tree=tree)

    def read(self, *arguments: str | os.PathLike[str], about: str) -> str:
        """Return what a command that changes nothing prints, without the last line end.

        :param about: what it is for, the beginning of an error message.
        :raises GitError: it failed.
        """
        return self.run(arguments, about=about).stdout.removesuffix("\n")

    def test(self, *arguments: str | os.PathLike[str]) -> str | None:
        """Return what a command that changes nothing prints; None when it fails."""
        output = self.run(arguments, about="", check=False)
        return None if output.status else output.stdout.removesuffix("\n")

    def attempt(self, *arguments: str | os.PathLike[str]) -> Output:
        """Run a command that changes a repository of this machine, and return how it ended."""
        checkpoint(f"git {' '.join(os.fspath(argument) for argument in arguments[:2])}")
        return self.run(arguments, about="", check=False)

    def write(self, *arguments: str | os.PathLike[str], about: str) -> None:
        """Run a command that changes a repository of this machine.

        :raises GitError: it failed.
        """
        checkpoint(f"git {' '.join(os.fspath(argument) for argument in arguments[:2])}")
        self.run(arguments, about=about)

    def fetch(self, *arguments: str | os.PathLike[str], about: str) -> None:
        """Run a command that changes a repository of this machine and talks to a remote; it must show progress.

        :raises GitError: it failed, even when tried again, or said nothing for the network's time limit.
        """
        checkpoint(f"git {' '.join(os.fspath(argument) for argument in arguments[:2])}")
        packs = [self.git_dir / "objects" / "pack"] if self.git_dir else []
        before = bytes_below(*packs)
        with Meter("mirror", about).watching(lambda: bytes_below(*packs) - before):
            self._patiently(arguments, about)

    def ask(self, *arguments: str | os.PathLike[str], about: str) -> str:
        """Return what a command that talks to a remote and changes nothing prints.

        :raises GitError: it failed, even when tried again, or said nothing for the network's time limit.
        """
        return self._patiently(arguments, about).stdout

    def _patiently(self, arguments: Sequence[str | os.PathLike[str]], about: str) -> Output:
        """Run a command that talks to a remote, again where another attempt may do better.

        git cannot go on where a connection broke, so that what came counts for no more than a new time limit, and that a few times only.
        """
        mark, failures, broken = time.monotonic(), 0, 0
        while True:
            output = self.run(arguments, about=about, timeout=self.network.timeout, check=False)
            if not output.status:
                return output
            failures += 1
            error = failure(about, output.stderr or output.stdout, os.fspath(arguments[0]), output.status)
            if error.details["problem"] != "unreachable" or failures >= ATTEMPTS:
                raise error
            if _PROGRESS.search(output.stderr):
                mark, broken = time.monotonic(), broken + 1
            delay = self.network.pause(failures)
            if broken >= BROKEN or time.monotonic() + delay - mark >= self.network.timeout:
                raise error
            time.sleep(delay)

    def run(
        self,
        arguments: Sequence[str | os.PathLike[str]],
        *,
        about: str,
        timeout: float | None = None,
        check: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> Output:
        """Run git to its end.

        :param timeout: seconds without a word from git after which it is killed with all its children; None waits for ever.
        :param check: whether an exit status other than 0 is an error.
        :param env: variables besides the session's.
        :raises GitError: with the detail ``problem``, the kind of failure (see :data:`PROBLEMS`).
        """
        _check_version()
        words = [os.fspath(argument) for argument in arguments]
        _check_words(words, about)
        place = ["--git-dir", os.fspath(self.git_dir)] if self.git_dir else []
        folder = self.tree or self.git_dir
        ceiling = {"GIT_CEILING_DIRECTORIES": os.fspath(self.tree.parent)} if self.tree else {}
        variables = {**self.env, **ceiling, **(env or {})}
        if self.tree:
            variables |= _without_filters(self.tree, variables)
        try:
            status, stdout, stderr = _execute([*place, *words], folder, variables, timeout)
        except _Stalled:
            remedy = "Check the network and rlinf_proxy, or give a longer timeout."
            text = f"{about}: the host could not be reached: nothing came from it for {timeout:g} seconds. {remedy}"
            raise GitError(text, problem="unreachable") from None
        if check and status:
            raise failure(about, stderr or stdout, words[0], status)
        return Output(status, stdout, stderr)


def _check_words(words: Sequence[str], about: str) -> None:
    """Refuse an argument that no caller may hand to git, however it came to be: a URL with a login, or a transport that runs a command.

    :raises GitError: there is one.
    """
    for word in words:
        if _TRANSPORT.match(word) or (_ADDRESS.match(word) and without_userinfo(word) != word):
            raise GitError(
                f"{about}: {redact(word)!r} is nothing that git may be given. This is a fault of the collection.", problem="other"
            )


def _without_filters(tree: Path, env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that keep git from running the filters which the settings of a working copy name.

    Its attributes say which files go through a filter, its settings which program that is: who may write them runs what he likes as
    whoever asks for its state, which may be root. git-lfs alone is let through, as git-lfs itself sets it.
    """
    files = [["--includes", "--file", os.fspath(path)] for path in _configs_of_submodules(tree)]
    listed = [_execute(["config", *where, "--null", "--get-regexp", _FILTERS], tree, env, None) for where in ([], *files)]
    stdout = "".join(said for status, said, _error in listed if not status)
    foreign = []
    for entry in filter(None, stdout.split("\0")):
        key, _ignored, value = entry.partition("\n")
        section, _ignored, name = key.rpartition(".")
        if not (section == "filter.lfs" and _LFS.get(name) == value):
            foreign += [(key, ""), (f"{section}.required", "false")]
    return overriding(foreign, int(env.get("GIT_CONFIG_COUNT", "0"))) if foreign else {}


def _configs_of_submodules(tree: Path) -> Iterator[Path]:
    """Yield the settings of a working copy's submodules, and of theirs, which git reads when it looks into them."""
    for folder, names, files in os.walk(tree / ".git" / "modules"):
        if "HEAD" in files:
            names[:] = ["modules"] if "modules" in names else []
        if "config" in files:
            yield Path(folder, "config")


def failure(about: str, said: str, command: str = "", status: int = 1) -> GitError:
    """Return the error for what git said in the C locale; ``problem`` in its details is the kind.

    :param about: what was being done, the beginning of the message.
    """
    # progress ends in a carriage return; what is left are whole lines
    lines = [line.rpartition("\r")[2].rstrip() for line in redact(said).splitlines()]
    tail = "\n".join(line for line in lines if line and not re.match(r"(remote: )?[A-Z][a-z ]+: +\d+%", line))[-TAIL:]
    for problem in PROBLEMS:
        if problem.words.search(tail):
            return GitError(f"{about}: {problem.summary}\ngit said: {tail}", problem=problem.name)
    return GitError(f"{about}: git {command} ended with status {status}." + (f"\ngit said: {tail}" if tail else ""), problem="other")


@contextlib.contextmanager
def session(*, url: str | None = None, network: Network | None = None, repos: Path | None = None) -> Iterator[Git]:
    """Make a git that knows only what is given here; its settings are in a private folder that goes with it.

    Credentials in *url*, the rewrites and the proxy are handed to git by its environment, which none but its user can read: no file holds
    them, which a killed process would leave behind, and no argument, which every user of the machine could see.

    :param url: the remote that is going to be asked, as the user gave it.
    :param network: how remotes are reached; not needed where none is.
    :param repos: a bundle's ``repos/``: then every host is looked for there, and the network is not used at all.
    """
    network = network or Network()
    given = [url or "", *network.rewrites.prefixes.values()]
    with tempfile.TemporaryDirectory(prefix="rlinf-git-") as name:
        folder = Path(name)
        config = folder / "gitconfig"
        settings = [*_SETTINGS, *PROTECTED]
        settings += redirect_settings(repos) if repos else network.rewrites.git_config
        settings += [("http.lowSpeedLimit", "1"), ("http.lowSpeedTime", str(max(1, round(network.timeout))))]
        # curl as it is built for most systems does not look at SSL_CERT_FILE
        settings += [(key, os.fspath(network.authorities)) for key in ("http.sslCAInfo", "http.proxySSLCAInfo") if network.authorities]
        config.touch(mode=0o600)
        config.write_text(config_text(settings), encoding="utf-8")
        asked = {text.partition(":")[0].lower() for text in given}
        schemes = {"file"} if repos else REMOTE_SCHEMES | (asked & {"file", "http"})
        logins, secret = ([], {}) if repos else _logins(given)
        yield Git({**_environment(folder, config, schemes, network.timeout, logins), **network.variables, **secret}, network)


def committer(repository: Path | None) -> tuple[str, str] | None:
    """Return the name and address that the user's own git would commit with: as set for a repository, for the user, or in the environment.

    This is the one thing of the user's settings that is asked for, and nothing is guessed where they are silent.

    :param repository: a working copy or bare repository whose settings count, too.
    """
    asked = ("GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM")
    settings = (("safe.directory", "*"), ("user.useConfigOnly", "true"))
    env = {name: os.environ[name] for name in asked if name in os.environ}
    env |= {"LC_ALL": "C", "LANGUAGE": "", "GIT_CONFIG_COUNT": str(len(settings))}
    for number, (key, value) in enumerate(settings):
        env |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    said = Git(env).at(tree=repository).test("var", "GIT_COMMITTER_IDENT")
    found = re.match(r"(?P<name>.+) <(?P<email>[^>]+)> \d+ [+-]\d+\Z", said or "")
    return (found["name"], found["email"]) if found else None


def _logins(urls: Iterable[str]) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Return settings by which git finds the logins that URLs hold, each for its own origin, and the variables that those read.

    The helper is a line of shell without another program (gitcredentials(7)); the first URL of an origin counts.
    """
    settings: dict[str, str] = {}
    variables: dict[str, str] = {}
    for url in urls:
        parts = urlsplit(url)
        key = f"credential.{parts.scheme}://{parts.netloc.rpartition('@')[2]}.helper"
        if parts.scheme in ("http", "https") and parts.username and key not in settings:
            user, password = f"RLINF_GIT_USER_{len(settings)}", f"RLINF_GIT_PASSWORD_{len(settings)}"
            said = f'printf \'username=%s\\npassword=%s\\n\' "${user}" "${password}"'
            settings[key] = f'!f() {{ test "$1" != get || {said}; }}; f'
            variables |= {user: unquote(parts.username), password: unquote(parts.password or "")}
    return list(settings.items()), variables


def _environment(
    folder: Path, config: Path, schemes: set[str] | frozenset[str], timeout: float, logins: Sequence[tuple[str, str]]
) -> dict[str, str]:
    connect = max(1, round(min(timeout, 60)))
    return {
        **overriding([*PROTECTED, *logins]),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.fspath(config),
        "GIT_ATTR_NOSYSTEM": "1",
        "XDG_CONFIG_HOME": os.fspath(folder),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "",
        "SSH_ASKPASS": "",
        "GIT_ALLOW_PROTOCOL": ":".join(sorted(schemes)),
        # a master connection left in the background would hold git's output open
        "GIT_SSH_COMMAND": f"ssh -o BatchMode=yes -o ConnectTimeout={connect} -o ControlMaster=no -o ControlPath=none",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        # a path is a path: upstream may name a file ":(top)" or "*"
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "LC_ALL": "C",
        "LANGUAGE": "",
    }


def version_of(said: str) -> tuple[int, int, int]:
    """Return the number in what ``git version`` says.

    :raises GitError: it is too old; the holes that it has are named.
    """
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", said)
    version = (int(found[1]), int(found[2]), int(found[3] or 0)) if found else (0, 0, 0)
    if version < OLDEST:
        raise GitError(
            f"git is too old ({said.strip()}): {'.'.join(map(str, OLDEST))} or newer is needed. No supported distribution mends an older one, "
            "which lets a repository run commands (CVE-2022-24765, CVE-2022-39253, CVE-2024-32002). Install a newer one.",
            problem="tool",
        )
    return version


def doubt(version: tuple[int, int, int]) -> str | None:
    """Return why a git that is new enough may have a known hole all the same; None where it has none, or its distribution mends it."""
    if version in BACKPORTED or version >= PATCHED[-1]:
        return None
    fixed = next((patched for patched in PATCHED if patched[:2] == version[:2]), PATCHED[-1])
    if version >= fixed:
        return None
    told, wanted = (".".join(map(str, numbers)) for numbers in (version, fixed))
    return (
        f"git {told} may have CVE-2025-48384, unless whoever built it has mended it; {wanted} has not. "
        "What it is used for here is refused before git sees it; update git all the same."
    )


@functools.cache
def _check_version() -> tuple[int, int, int]:
    """:raises GitError: git is not there, or too old."""
    _status, stdout, _stderr = _execute(["version"], None, {}, None)
    return version_of(stdout)


def installed() -> tuple[int, int, int]:
    """Return the version of the git that is used.

    :raises GitError: it is not there, or too old.
    """
    return _check_version()


def _execute(arguments: Sequence[str], folder: Path | None, env: Mapping[str, str], timeout: float | None) -> tuple[int, str, str]:
    """Run git in a process group of its own, and leave none of it behind."""
    # GitPython hands on the whole environment; what the user has set for git must not be in it
    unset = [option for name in os.environ if name.startswith("GIT_") and name not in env for option in ("-u", name)]
    command = ["env", *unset, "git", *arguments] if unset else ["git", *arguments]
    try:
        # it terminates the process when it is let go
        holder = git.Git(folder or "/").execute(command, as_process=True, env=env, start_new_session=True)
    except (git.GitCommandNotFound, git.NoSuchPathError):
        raise GitError("git is not there. Install git and run again.", problem="tool") from None
    process = cast("subprocess.Popen[bytes]", holder.proc)
    try:
        stdout, stderr = _communicate(process, timeout)
        return process.wait(), stdout, stderr
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _communicate(process: subprocess.Popen[bytes], timeout: float | None) -> tuple[str, str]:
    """Read both streams to their end.

    :raises _Stalled: nothing came for *timeout* seconds.
    """
    parts: dict[str, list[bytes]] = {"out": [], "err": []}
    with selectors.DefaultSelector() as selector:
        for stream, label in ((process.stdout, "out"), (process.stderr, "err")):
            selector.register(cast(IO[bytes], stream), selectors.EVENT_READ, label)
        while selector.get_map():
            ready = selector.select(timeout)
            if not ready:
                raise _Stalled
            for key, _events in ready:
                chunk = os.read(key.fd, 1 << 16)
                if chunk:
                    parts[key.data].append(chunk)
                else:
                    selector.unregister(key.fileobj)
    return b"".join(parts["out"]).decode("utf-8", "replace"), b"".join(parts["err"]).decode("utf-8", "replace")
