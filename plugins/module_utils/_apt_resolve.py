# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which .deb files nodes of another release lack, found out by apt itself in a private root; the bastion's own apt is not touched.

Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ansible_collections.rlinf.offline.plugins.module_utils._apt import check_names, unmet
from ansible_collections.rlinf.offline.plugins.module_utils._errors import AptError
from ansible_collections.rlinf.offline.plugins.module_utils._files import remove
from ansible_collections.rlinf.offline.plugins.module_utils._network import Network
from ansible_collections.rlinf.offline.plugins.module_utils._process import TAIL, Completed, run
from ansible_collections.rlinf.offline.plugins.module_utils._urls import HTTP_SCHEMES, check_url, redact, without_userinfo

# 'http://…/foo_1_amd64.deb' foo_1_amd64.deb 1234 SHA256:0f5e…
_URI = re.compile(r"'(?P<url>[^']+)' (?P<file>\S+) (?P<size>\d+) SHA256:(?P<sha256>[0-9a-f]{64})\s*\Z")
# what every installation has, a container's too
_MINIMAL = ("?essential", "?priority(required)")
_FILENAME = re.compile(r"(?m)^Filename: .*$")
_UNKNOWN = re.compile(
    r"Unable to locate package (\S+)|Package '?([\w.+-]+)'? has no installation candidate|Couldn't find any package by \S+ '(\S+)'"
)
_SIGNATURE = re.compile(r"NO_PUBKEY \w+|BADSIG[^\n]*|EXPKEYSIG[^\n]*|is not signed|The following signatures[^\n]*")
BUSY = 4
"""How often lists are asked for while a mirror has no time."""
# Ign:1 http://mirror.example jammy InRelease
#   503  Service Unavailable [IP: …]
_BUSY = re.compile(r"^ +(?:429|5\d\d) +[^\[\n]*", re.MULTILINE)
_EXPIRED = re.compile(r"Release file for (\S+) is (?:expired|not valid)[^\n]*")


@dataclass(frozen=True)
class Source:
    """A repository of packages, as a line of sources.list says it.

    :param mirror: what it is called in ``rlinf_apt_mirrors``: ``debian-security``.
    :param keyring: the file of the keys that its Release may be signed by.
    :param url: where it is, ending in a slash; empty: where the bastion's own apt has it, see :func:`located`.
    """

    mirror: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    keyring: str
    url: str = ""

    def lines(self, url: str, architecture: str) -> Iterator[str]:
        for suite in self.suites:
            yield f"deb [arch={architecture} signed-by={self.keyring}] {url} {suite} {' '.join(self.components)}"


def located(sources: Iterable[Source]) -> tuple[Source, ...]:
    """Return sources with their URLs; where none is given, it is that of the mirror which this machine's own apt uses.

    :raises AptError: its own apt uses none of that name.
    """
    own: dict[str, str] | None = None
    found = []
    for source in sources:
        if not source.url:
            own = own_mirrors() if own is None else own
        url = source.url or (own or {}).get(source.mirror)
        if not url:
            raise AptError(
                f"Where the packages of {', '.join(source.suites)} are is not known: this bastion's own apt uses no mirror of {source.mirror}. "
                f"Give one: rlinf_apt_mirrors: {{{source.mirror}: URL}}."
            )
        check_url(url, f"rlinf_apt_mirrors: {source.mirror}", HTTP_SCHEMES)
        found.append(replace(source, url=f"{url.rstrip('/')}/"))
    return tuple(found)


def own_mirrors() -> dict[str, str]:
    """Return where this machine's own apt has archives, by name.

    An archive's name is what its Release says as ``Label``, in lower case: ``debian-security``. Where the lists were never fetched, as in
    a container, it is how the URL ends.
    """
    if not shutil.which("apt-get"):
        return {}
    wanted = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(COMPONENT) $(LABEL)", "Created-By: Packages"]
    said = run(wanted, what="asking apt for its own mirrors").stdout
    found: dict[str, str] = {}
    for line in said.splitlines():
        url, component, *label = line.split(" ", 2)
        name = " ".join(label).strip().lower() or urlsplit(url).path.rstrip("/").rpartition("/")[2]
        if component == "main" and urlsplit(url).scheme in HTTP_SCHEMES:
            found.setdefault(name, url)
    return found


@dataclass(frozen=True)
class Deb:
    """A package file: where it is, and what it must be."""

    url: str
    filename: str
    size: int
    sha256: str

    @property
    def package(self) -> str:
        return self.filename.partition("_")[0]

    @property
    def version(self) -> str:
        return self.filename.split("_")[1]

    @property
    def place(self) -> str:
        """Its name in the bundle: not every file system carries the colon of an epoch."""
        return self.filename.replace(":", "%3a")


@dataclass(frozen=True)
class Root:
    """A private root for apt: its sources, keys, lists and package state, apart from the machine's.

    :param path: a directory of the bastion that may be written at will.
    :param architecture: in Debian's words, ``amd64``.
    :param sources: with their URLs.
    """

    path: Path
    architecture: str
    sources: tuple[Source, ...]
    network: Network

    def prepare(self) -> None:
        """Make the root anew and fetch the lists; signatures and dates are checked by apt.

        :raises AptError: a key or source is missing, a list cannot be had, a signature is wrong, a Release has expired.
        """
        if not shutil.which("apt-get"):
            raise AptError(
                "System packages are resolved by apt, and this bastion has none. Run download on a Debian or Ubuntu machine or in such a container, "
                "or set rlinf_releases: [] and install them on the nodes yourself."
            )
        for source in self.sources:
            if not Path(source.keyring).is_file():
                raise AptError(
                    f"{source.url}: its keyring {source.keyring} is not there. Install the package that holds it "
                    "(debian-archive-keyring, ubuntu-keyring), copy it from such a machine, or name another in rlinf_catalog (releases, keyring)."
                )
        remove(self.path)
        for folder in ("etc/apt/apt.conf.d", "etc/apt/preferences.d", "lists/partial", "archives/partial"):
            (self.path / folder).mkdir(parents=True)
        (self.path / "status").write_text("", encoding="utf-8")
        lines = [line for source in self.sources for line in source.lines(without_userinfo(self._reached(source)), self.architecture)]
        (self.path / "etc" / "apt" / "sources.list").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        (self.path / "apt.conf").write_text(self._configuration(), encoding="utf-8")
        # apt reads it whatever the protocol
        with _unnamed("".join(dict.fromkeys(self._login(source) for source in self.sources))) as logins:
            self._update("-o", f"Dir::Etc::netrc={logins}")

    def _update(self, *options: str) -> None:
        """Fetch the lists, again where a mirror had no time: apt takes an InRelease that it was refused for one that is not there."""
        for failures in range(1, BUSY + 1):
            done = self._done("apt-get", "fetching the package lists", "update", *options)
            if not done.status:
                return
            if failures == BUSY or not _BUSY.search(done.stdout):
                raise AptError(f"fetching the package lists: {explanation(done.stdout, done.stderr)}")
            time.sleep(self.network.pause(failures))

    def _reached(self, source: Source) -> str:
        return self.network.rewrites.apply(source.url)

    def _login(self, source: Source) -> str:
        """Return what apt_auth.conf(5) says of a source that asks for a login."""
        url = self._reached(source)
        known = self.network.credentials(url)
        parts = urlsplit(without_userinfo(url))
        return f"machine {parts.scheme}://{parts.netloc}{parts.path} login {known[0]} password {known[1]}\n" if known else ""

    def _configuration(self) -> str:
        seconds = str(int(self.network.timeout))
        settings = {
            "Dir::State": str(self.path),
            "Dir::State::lists": str(self.path / "lists"),
            "Dir::State::status": str(self.path / "status"),
            "Dir::State::extended_states": str(self.path / "extended_states"),
            "Dir::Cache": str(self.path),
            "Dir::Cache::archives": str(self.path / "archives"),
            "Dir::Etc": str(self.path / "etc" / "apt"),
            "APT::Architecture": self.architecture,
            # any list that cannot be had fails the update, as does one that cannot be trusted
            "APT::Update::Error-Mode": "any",
            # root would hand the fetching to a user that may not write here
            "APT::Sandbox::User": "root",
            "APT::Install-Recommends": "false",
            # otherwise it prints the MD5 of a file
            "Acquire::ForceHash": "SHA256",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Acquire::http::Timeout": seconds,
            "Acquire::https::Timeout": seconds,
        }
        if self.network.authorities:
            settings["Acquire::https::CaInfo"] = str(self.network.authorities)
        lists = f'#clear APT::Architectures;\nAPT::Architectures {{ "{self.architecture}"; }};\n'
        return lists + "".join(f'{name} "{value}";\n' for name, value in settings.items())

    def _get(self, what: str, *arguments: str) -> str:
        return self._run("apt-get", what, *arguments)

    def _run(self, program: str, what: str, *arguments: str) -> str:
        done = self._done(program, what, *arguments)
        if done.status:
            raise AptError(f"{what}: {explanation(done.stdout, done.stderr)}")
        return done.stdout

    def _done(self, program: str, what: str, *arguments: str) -> Completed:
        # what APT_CONFIG names is read first: Dir::Etc in it keeps apt from the machine's own settings. Of proxies it knows by the environment
        env = {**self.network.variables, "APT_CONFIG": str(self.path / "apt.conf")}
        return run([program, *arguments], what=what, env=env, timeout=max(600.0, self.network.timeout), check=False)

    def minimal_state(self) -> str:
        """Return the package state of a system to which nothing was added: dpkg's status of what every installation has."""
        said = self._get("resolving a minimal system", "install", "--print-uris", "-q", "-y", *_MINIMAL)
        names = sorted({deb.package for deb in debs(said)})
        if not names:
            raise AptError("The lists hold no essential package, so they are not those of a whole distribution. Correct rlinf_apt_mirrors.")
        shown = self._run("apt-cache", "reading the packages of a minimal system", "show", "--no-all-versions", *names)
        return "\n\n".join(f"{stanza.strip()}\nStatus: install ok installed" for stanza in shown.split("\n\n") if stanza.strip()) + "\n"

    def lacking(self, packages: Sequence[str], state: str) -> list[Deb]:
        """Return the files that a system in *state* (dpkg's status) needs so that it has *packages*, sorted by name.

        :raises AptError: a package is in no source, or the packages cannot be installed together.
        """
        check_names(packages)
        (self.path / "status").write_text(state, encoding="utf-8")
        said = self._get("resolving the system packages", "install", "--print-uris", "-q", "-y", "--no-upgrade", *packages)
        return sorted(debs(said), key=lambda deb: deb.filename)

    def place_of(self, deb: Deb) -> tuple[str, str]:
        """Return the mirror that a file is of, and its path there, encoded as in a URL."""
        for source in self.sources:
            reached = without_userinfo(self._reached(source))
            if deb.url.startswith(reached):
                return source.mirror, deb.url[len(reached) :]
        raise AptError(f"apt would fetch {deb.filename} from elsewhere than the mirrors of this release. Run download again.")

    def stanzas(self, files: Sequence[Deb]) -> list[str]:
        """Return what the sources' signed Packages files say of each of these files, with its name in a flat repository."""
        if not files:
            return []
        asked = [f"{deb.package}={deb.version}" for deb in files]
        shown = self._run("apt-cache", "reading the packages' entries", "show", "--no-all-versions", *asked)
        found: dict[str, str] = {}
        for stanza in filter(None, (part.strip() for part in shown.split("\n\n"))):
            digest = re.search(r"(?m)^SHA256: (\w+)$", stanza)
            if digest:
                found[digest[1]] = stanza
        missing = [deb.filename for deb in files if deb.sha256 not in found]
        if missing:
            raise AptError(f"The package lists changed while they were read ({', '.join(missing)}). Run download again.")
        return [_FILENAME.sub(lambda _match, name=deb.place: f"Filename: ./{name}", found[deb.sha256]) for deb in files]  # type: ignore[misc]


@contextlib.contextmanager
def _unnamed(text: str) -> Iterator[str]:
    """Give the path of a file that is on no disk, that this user's processes alone can open, and that goes with this process even if it is killed."""
    handle = os.memfd_create("rlinf")
    with os.fdopen(handle, "wb") as stream:
        stream.write(text.encode())
        stream.flush()
        yield f"/proc/{os.getpid()}/fd/{handle}"


def debs(said: str) -> Iterator[Deb]:
    """Yield the files of ``apt-get --print-uris``.

    :raises AptError: apt gives no SHA-256 for one.
    """
    for line in said.splitlines():
        if not line.startswith("'"):
            continue
        found = _URI.match(line)
        if not found:
            raise AptError(f"apt gives no sha256 for {line.split()[0]}. Use a repository whose Packages file has them.")
        yield Deb(found["url"], unquote(found["file"]), int(found["size"]), found["sha256"])


def explanation(stdout: str, stderr: str) -> str:
    """Return what a failure of apt means and what to do, out of what apt said."""
    said = redact(stderr.strip() or stdout.strip())
    unknown = sorted({name for groups in _UNKNOWN.findall(said) for name in groups if name})
    if unknown:
        return (
            f"{', '.join(unknown)} is in no source of this release. Correct rlinf_system_packages, or say in rlinf_catalog what the release calls it "
            "(releases, renames), or which suite or component has it."
        )
    if busy := _BUSY.search(stdout):
        return f"a mirror has no time for it ({busy[0].strip()}). Run again later, or name another mirror in rlinf_apt_mirrors."
    if expired := _EXPIRED.search(said):
        return f"{expired[0]}. The mirror is out of date, or this machine's clock is wrong ({said.splitlines()[-1]})."
    if signature := _SIGNATURE.search(said):
        return (
            f"the signature of a Release file is not one of its keyring's ({signature[0].strip()}). "
            "Nothing of it is used. Name the right keyring in rlinf_catalog (releases, keyring)."
        )
    if problems := unmet(stdout):
        return f"the packages cannot be installed together, or not beside what the nodes have:\n{problems}"
    return said[-TAIL:]
