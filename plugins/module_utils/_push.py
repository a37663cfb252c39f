# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bringing a bundle to a node with rsync: its arguments, what it says, what its failures mean. Standard library only."""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.rlinf.offline.plugins.module_utils._closure import files_for
from ansible_collections.rlinf.offline.plugins.module_utils._errors import BundleError
from ansible_collections.rlinf.offline.plugins.module_utils._faults import checkpoint
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._process import TAIL, environment
from ansible_collections.rlinf.offline.plugins.module_utils._progress import Meter, written_by
from ansible_collections.rlinf.offline.plugins.module_utils._urls import redact

PARTIAL = ".rlinf-partial"
"""The directory beside a file on the node that holds what arrived of it, for the next run to continue."""
# what rsync writes a file under until it is whole: a dot comes before the name, unless one is there, and six characters after it
_TEMPORARY = re.compile(r"(?P<name>\..+)\.[A-Za-z0-9]{6}")
_ITEM = re.compile(r"(?P<change>[<>ch.*][fdLDS][^ ]*) (?P<size>\d+) (?P<name>.+)\Z")
# of Python 3.10 or newer, which is what all of this needs
_PYTHONS = "python3 python3.13 python3.12 python3.11 python3.10"
_PYTHON_SAYS = (
    "import sys; sys.version_info >= (3, 10) or sys.exit(1); print('python', '{}.{}'.format(*sys.version_info[:2]), sys.executable)"
)
# rsync(1), EXIT VALUES; what ssh says comes as 255
_LOST = frozenset({10, 12, 30, 35, 255})


@dataclass(frozen=True)
class Ssh:
    """How Ansible reaches a node: the options of its ssh connection."""

    host: str
    executable: str = "ssh"
    port: int | None = None
    user: str | None = None
    private_key: str | None = None
    arguments: Sequence[str] = ()
    check_host_key: bool = True
    timeout: int | None = None

    @property
    def command(self) -> list[str]:
        """The remote shell for ``rsync -e``. For one option given twice ssh takes the first, so ours come before the user's."""
        # Ansible's own default holds -C, which overrides Compression=no; wheels and packs do not get smaller, only slower
        arguments = [argument for argument in self.arguments if argument != "-C"]
        command = [self.executable, "-o", "BatchMode=yes", "-o", "Compression=no", *arguments]
        # a node that is gone says nothing, and the connection to it would be waited for a quarter of an hour
        command += ["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"]
        if self.timeout:
            command += ["-o", f"ConnectTimeout={self.timeout}"]
        if not self.check_host_key:
            command += ["-o", "StrictHostKeyChecking=no"]
        if self.port:
            command += ["-p", str(self.port)]
        if self.private_key:
            command += ["-i", os.path.expanduser(self.private_key), "-o", "IdentitiesOnly=yes"]
        if self.user:
            command += ["-l", self.user]
        return command

    def jumps(self) -> bool:
        """Return whether the way leads over another host, by all that ssh has been told: then nothing but ssh reaches the node."""
        try:
            said = subprocess.run([*self.command, "-G", self.host], capture_output=True, text=True, errors="replace", check=False).stdout
        except OSError:
            return False
        # a ProxyCommand need not lead elsewhere
        return bool(re.search(r"^proxyjump (?!none$)|^proxycommand .*\bssh\b", said, re.MULTILINE))

    def place(self, path: str) -> str:
        """Return *path* on the node as rsync writes it; an IPv6 address stands in brackets."""
        return f"[{self.host}]:{path}" if ":" in self.host else f"{self.host}:{path}"


@dataclass(frozen=True)
class Transfer:
    """What rsync did, or would do: *sent* files by size in bytes."""

    sent: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def bytes(self) -> int:
        return sum(self.sent.values())


def quoted(argument: str) -> str:
    """Return an argument for ``rsync -e``, which parts at spaces and takes a doubled quote inside quotes for one (rsync(1))."""
    return argument if re.fullmatch(r"[\w@%+=:,./-]+", argument) else "'" + argument.replace("'", "''") + "'"


def rsync(ssh: Ssh | None, *, remote_program: str | None = None, bandwidth: int = 0, check: bool = False) -> list[str]:
    """Return the rsync command without source and destination; the list of files comes on its standard input.

    :param ssh: None copies on this machine.
    :param remote_program: what runs rsync on the node, ``sudo -n rsync`` for example.
    :param bandwidth: KiB a second; 0 is without limit.
    :param check: only say what would be done.
    """
    # owners are those who receive: git refuses repositories of strangers, and numbers mean someone else on another machine
    command = ["rsync", "--archive", "--no-owner", "--no-group", "--omit-dir-times", "--partial", f"--partial-dir={PARTIAL}"]
    command += ["--from0", "--files-from=-", "--itemize-changes", "--out-format=%i %l %n"]
    if ssh:
        command += ["--secluded-args", "--rsh", " ".join(map(quoted, ssh.command))]
        if remote_program:
            command += ["--rsync-path", remote_program]
    if bandwidth:
        command += [f"--bwlimit={bandwidth}"]
    return [*command, *(["--dry-run"] if check else [])]


def run_rsync(command: Sequence[str], names: Sequence[str], source: Path, destination: str, meter: Meter) -> Transfer:
    """Run the command of :func:`rsync` for these files of *source*.

    :param meter: told how much it has sent.
    :raises BundleError: it failed; the message says what that means and what to do.
    """
    start = time.monotonic()
    listed = "".join(f"{name}\0" for name in names).encode()
    argv = [*command, f"{source}/", f"{destination}/"]
    pipe = subprocess.PIPE
    checkpoint("exec rsync")
    try:
        with (
            subprocess.Popen(argv, env={**os.environ, **environment()}, stdin=pipe, stdout=pipe, stderr=pipe) as process,
            meter.watching(lambda: written_by(process.pid)),
        ):
            stdout, stderr = process.communicate(listed)
    except FileNotFoundError:
        raise BundleError("rsync is not there on the machine that runs ansible-playbook. Install rsync.") from None
    if process.returncode:
        raise BundleError(explain(process.returncode, stderr.decode(errors="replace"), destination), status=process.returncode)
    return Transfer(parse_items(stdout.decode(errors="replace")), time.monotonic() - start)


def parse_items(output: str) -> dict[str, int]:
    """Return the files and links out of rsync's itemized output that were, or would be, written, by size in bytes."""
    found = [_ITEM.match(line) for line in output.splitlines()]
    return {item["name"]: int(item["size"]) for item in found if item and item["change"][1] in "fL"}


def is_unfinished(path: str, files: Container[str]) -> bool:
    """Return whether rsync has left this path of a bundle behind where it could not end: what it had of one of these files.

    :param files: those of the manifest.
    """
    folder, _slash, name = path.rpartition("/")
    found = _TEMPORARY.fullmatch(name)
    names = (found["name"], found["name"][1:]) if found else ()
    return folder.endswith(f"/{PARTIAL}") or any(f"{folder}/{name}" in files for name in names)


def explain(status: int, said: str, destination: str) -> str:
    """Return what a failure of rsync means, by its exit status and its words, and what to do."""
    said = redact(said.strip()[-TAIL:])
    lower = said.lower()
    if "no space left" in lower or "disk quota" in lower or "quota exceeded" in lower:
        cause = f"The disk of {destination} is full. Make room on the node; what has arrived is kept, and the next run continues."
    elif "read-only file system" in lower:
        cause = f"{destination} is read-only. Set rlinf_bundle_dir to a directory that can be written, or to the bundle mounted there."
    elif status == 127 or "command not found" in lower:
        cause = "rsync is not there on the node. Install rsync."
    elif "a password is required" in lower or "a terminal is required" in lower:
        cause = "sudo on the node asks for a password. Allow it without one (NOPASSWD), or push as a user who may write there."
    elif "permission denied (publickey" in lower or "host key verification failed" in lower:
        cause = "ssh refused the connection that Ansible had. See that its key, user and options are in the inventory, and not typed in."
    elif "permission denied" in lower:
        cause = f"This user may not write {destination}. Use become, or set rlinf_bundle_dir."
    elif status in _LOST:
        cause = "The connection to the node was lost or refused. What has arrived is kept: run again, and it continues."
    else:
        cause = "rsync could not copy everything. What has arrived is kept: mend what it says and run again."
    return f"{cause}\nrsync ended with status {status}" + (f":\n{said}" if said else ".")


def files_to_push(bundle: Bundle, files: Iterable[str], targets: Sequence[str], release: str = "") -> list[str]:
    """Return the files that a host with these targets gets, without the manifest, as :func:`._closure.files_for` says.

    :param files: those of the manifest.
    :raises BundleError: a target has no lock in the bundle, or a file of it is missing.
    """
    names = files_for(bundle, files, targets, release)
    missing = [name for name in names if not os.path.lexists(bundle.root / name)]
    if missing:
        raise BundleError(
            f"The bundle {bundle.root} lacks {len(missing)} files of its manifest ({missing[0]}, …). Run the playbook rlinf.offline.download."
        )
    return names


def look(destination: Path, nonce: str, bundle: Bundle, *, make: bool, pythons: bool) -> str:
    """Return a shell script for the node that says what is at *destination*, one finding a line.

    ``shared``: the nonce file of the bastion is there, too. ``sealed``: it has a manifest. ``no-rsync``: there is none.
    ``python <version> <path>``: an interpreter. ``file <type and mode> <bytes> <seconds> <name>``, a tab and where it leads, if it is a link: the
    manifest, its signature, and everything in the bundle's folders.

    :param make: have the directory there.
    :param pythons: look for interpreters, too.
    """
    folders = " ".join(shlex.quote(folder.name) for folder in bundle.folders)
    place = shlex.quote(str(destination))
    lines = [
        "command -v rsync >/dev/null 2>&1 || echo no-rsync",
        *([f'for name in {_PYTHONS}; do "$name" -c {shlex.quote(_PYTHON_SAYS)} 2>/dev/null; done'] if pythons else []),
        f"mkdir -p {place} || exit 1" if make else f"test -d {place} || exit 0",
        f"cd {place} || exit 1",
        f"if test -e .cache/{shlex.quote(nonce)}; then echo shared; exit 0; fi",
        "if test -e bundle.json; then echo sealed; fi",
        f'for place in bundle.json bundle.json.sig {folders}; do if test -e "$place"; then find "$place" '
        "'(' -type f -o -type l ')' -printf 'file %y%m %s %T@ %p\\t%l\\n'; fi; done",
    ]
    return "\n".join(lines)


@dataclass(frozen=True)
class There:
    """A file or link, by what rsync's quick check looks at.

    :param mode: ``f644``; a link's own mode says nothing.
    :param size: in bytes.
    :param seconds: its modification time, in whole seconds.
    :param link: where it leads, if it is one.
    """

    mode: str
    size: int
    seconds: int
    link: str = ""

    @classmethod
    def of(cls, path: Path) -> There:
        """Return what is so on this machine."""
        status = path.lstat()
        link = os.readlink(path) if stat.S_ISLNK(status.st_mode) else ""
        return cls(f"{'l' if link else 'f'}{stat.S_IMODE(status.st_mode):o}", status.st_size, status.st_mtime_ns // 10**9, link)


@dataclass(frozen=True)
class Seen:
    """What the script of :func:`look` said.

    :param pythons: interpreters that a peer of a swarm could run with, by version, ``3.11``.
    :param files: what is known of each file and link, by name.
    """

    shared: bool
    sealed: bool
    rsync: bool
    pythons: Mapping[str, str]
    files: Mapping[str, There]

    @classmethod
    def parse(cls, lines: Sequence[str]) -> Seen:
        files = {}
        for line in lines:
            if line.startswith("file "):
                mode, size, seconds, rest = line.removeprefix("file ").split(" ", 3)
                name, _tab, link = rest.rpartition("\t")
                files[name] = There(mode, int(size), int(seconds.partition(".")[0]), link)
        pythons = dict(line.split(" ", 2)[1:] for line in lines if line.startswith("python "))
        return cls("shared" in lines, "sealed" in lines, "no-rsync" not in lines, pythons, files)

    def lacks(self, bundle: Bundle, names: Sequence[str]) -> dict[str, int]:
        """Return those of these files of a bundle that are not on the node as they are here, by size in bytes; links are left out."""
        lacking = {}
        for name in names:
            here, there = There.of(bundle.root / name), self.files.get(name)
            if not here.link and (there is None or (here.size, here.seconds) != (there.size, there.seconds)):
                lacking[name] = here.size
        return lacking

    def same(self, bundle: Bundle, names: Iterable[str]) -> bool:
        """Return whether these files and links of a bundle are on the node as they are here, so that rsync would find nothing to do."""
        return all(self.files.get(name) == There.of(bundle.root / name) for name in names)
