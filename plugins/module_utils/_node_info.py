# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node is and has: read only, and quick. Standard library only.

Whatever asks something outside this process (a program, a mount that may hang) has a time limit, and its failure is a finding.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import json
import os
import platform
import pwd
import re
import shutil
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils import _apt_install, _bundle
from ansible_collections.rlinf.offline.plugins.module_utils._errors import OfflineError, ProcessError
from ansible_collections.rlinf.offline.plugins.module_utils._generations import SHORT, STAMP
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle, Node
from ansible_collections.rlinf.offline.plugins.module_utils._process import Completed, run
from ansible_collections.rlinf.offline.plugins.module_utils._runtime import Runtime
from ansible_collections.rlinf.offline.plugins.module_utils._signature import Trust

PATIENCE = 10.0
"""Seconds after which a program or a file system that says nothing is reported as such."""
TOOLS: Mapping[str, tuple[str, ...]] = {
    "git": ("git", "--version"),
    "rsync": ("rsync", "--version"),
    "ssh": ("ssh", "-V"),
    "tar": ("tar", "--version"),
    "nvcc": ("nvcc", "--version"),
    "g++": ("g++", "--version"),
}
# beside PATH, which is short where nobody logs in; CUDA_HOME goes first, as where something is compiled. The last two hold nvidia-smi where a
# host mounts its driver into the machine, and in WSL
_TOOL_FOLDERS = (
    *("/usr/local/cuda/bin", "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"),
    *("/usr/local/nvidia/bin", "/usr/lib/wsl/lib"),
)
_PYTHON_FOLDERS = ("~/.local/bin", "~/.pyenv/versions/*/bin", "{uv}/*/bin", "/usr/local/bin", "/usr/bin", "/opt/python*/bin", "/opt/*/bin")
_CONTAINERS = (("/run/.containerenv", "podman"), ("/.dockerenv", "docker"), ("/.singularity.d", "apptainer"))
_SYSTEMD_CONTAINER = Path("/run/systemd/container")
_CONTAINER_VARIABLE = "container"  # systemd's Container Interface
_DRIVER = Path("/proc/driver/nvidia/version")
_PCI = Path("/sys/bus/pci/devices")
# PCI's number of NVIDIA, and its classes of graphics cards: VGA and, without a display, 3D controllers
_NVIDIA = "0x10de"
_GRAPHICS = ("0x0300", "0x0302")
_ABOUT_PYTHON = (
    "import json, os, platform, sys, sysconfig\n"
    "header = os.path.join(sysconfig.get_path('include'), 'Python.h')\n"
    "print(json.dumps({'version': '%d.%d.%d' % sys.version_info[:3], 'implementation': sys.implementation.name,\n"
    "    'headers': os.path.isfile(header), 'virtual': sys.prefix != sys.base_prefix}))\n"
)
# what a bundle and a path are described by, so that one that could not be looked at has the same keys
_BUNDLE = ("present", "sealed", "digest", "serial", "verified", "accepted", "bytes", "files", "problem")
_SYSTEM = ("release", "architecture", "missing", "absent", "cut_off", "problem")
_PATH = ("exists", "existing", "free_bytes", "free_inodes", "device", "mount", "type", "writable", "problem")
_SHA256 = re.compile(rf'sha256 = "([0-9a-f]{{{SHORT}}})')
_VERSION = re.compile(r"\d+(?:\.\d+)+(?:p\d+)?")
# the last ones are unknown to older drivers
_GPU_FIELDS = ("index", "name", "memory.total", "driver_version", "compute_cap", "mig.mode.current")
_KNOWN_TO_ALL = 4


def gather(
    prefix: str | None = None,
    bundle_dir: str | None = None,
    pythons: Sequence[str] = (),
    *,
    assets_dir: str | None = None,
    environment: str | None = None,
    programs: Sequence[str] = (),
    packages: Mapping[str, Sequence[str]] | None = None,
    package_state: bool = False,
    files: Sequence[str] = (),
    targets: Sequence[str] = (),
    trusted_signers: str = "",
    allow_downgrade: bool = False,
    patience: float = PATIENCE,
) -> dict[str, Any]:
    """Return everything that is known of this node.

    :param prefix: where things are installed; by default /opt/rlinf for root, else below the user's data directory (XDG).
    :param bundle_dir: by default ``bundle/`` below the prefix; *assets_dir*: by default ``assets/``.
    :param pythons: versions of Python to look for, ``3.11`` or ``3.11.14``, and paths of interpreters to ask.
    :param environment: an environment that exists already and is installed into.
    :param programs: names of programs to look for, beside :data:`TOOLS`.
    :param packages: the system packages that shall be there, by release; under an empty name those of any other.
    :param package_state: whether to return dpkg's whole state, too.
    :param files: paths of configuration files of the system that shall be there.
    :param targets: those of this node, *trusted_signers* and *allow_downgrade*: what its bundle is accepted by.
    :param patience: seconds for each thing that could hang.
    """
    home = home_directory()
    node = Node(default_prefix(prefix, home))
    bundle = Bundle(absolute(bundle_dir, home) if bundle_dir else node.bundle)
    places = {
        "prefix": node.prefix,
        "bundle": bundle.root,
        "assets": absolute(assets_dir, home) if assets_dir else node.assets,
        "home": home,
        "system": Path("/usr"),
    }
    existing = absolute(environment, home) if environment else None
    if existing:
        places["environment"] = existing
        pythons = [*pythons, str(existing / "bin" / "python")]
    questions: dict[str, Callable[[], Any]] = {
        "bundle": lambda: bundle_state(bundle, node),
        "gpus": lambda: gpus(patience),
        "system": lambda: system(packages or {}, files, package_state),
        "pythons": lambda: find_pythons(pythons, home, patience, node),
        "tools": lambda: tools(programs, patience),
        **{f"path {name}": partial(file_system, place) for name, place in places.items()},
    }
    answers = ask_all(questions, patience + 1)
    if answers["bundle"].get("verified"):
        release = "/".join(filter(None, (answers["system"].get("release"), answers["system"].get("architecture"))))
        trust = Trust.of(trusted_signers, node.bundle_stamp, allow_downgrade)
        accepted = partial(accepted_bundle, bundle, node, targets, release if "/" in release else "", trust)
        found = ask_all({"accepted": accepted}, patience + 1)["accepted"]
        # what could not be told is left to those who verify it, and say why
        answers["bundle"]["accepted"] = {} if "problem" in found else found
    return {
        "user": user_name(),
        "uid": os.getuid(),
        "home": str(home),
        "prefix": str(node.prefix),
        "bundle_dir": str(bundle.root),
        "python": sys.executable,
        "runtime": {"python": str(node.runtime_python), "present": os.access(node.runtime_python, os.X_OK), "ready": ready(node, bundle)},
        "environments": environments(node, existing),
        "unpacked": unpacked(node, existing),
        "built": sorted(path.name for path in node.built.glob("*") if any(path.rglob("*.whl"))),
        "journals": sorted(path.parent.name for path in node.journals.glob("*/journal.json")),
        "architecture": platform.machine(),
        "kernel": os.uname().release,
        "glibc": glibc_version(),
        "distribution": distribution(),
        "container": container(),
        "system": {**dict.fromkeys(_SYSTEM), **answers["system"]},
        "bundle": {**dict.fromkeys(_BUNDLE), **answers["bundle"]},
        **{name: answers[name] for name in ("gpus", "pythons", "tools")},
        "paths": {name: {**dict.fromkeys(_PATH), "path": str(places[name]), **answers[f"path {name}"]} for name in places},
    }


def ask_all(questions: Mapping[str, Callable[[], Any]], patience: float) -> dict[str, Any]:
    """Ask everything at the same time and return the answers; what fails or takes longer than *patience* seconds has ``problem`` alone.

    The threads are daemons: a program or a mount that the kernel cannot interrupt must not hold this process either.
    """
    answers: dict[str, Any] = {}

    def ask(name: str, question: Callable[[], Any]) -> None:
        try:
            answers[name] = question()
        except (OfflineError, OSError, ValueError) as error:
            answers[name] = {"problem": str(error)}

    threads = {name: threading.Thread(target=ask, args=(name, question), daemon=True) for name, question in questions.items()}
    for thread in threads.values():
        thread.start()
    for name, thread in threads.items():
        thread.join(patience)
        if thread.is_alive():
            answers[name] = {"problem": f"no answer within {patience:g} seconds"}
    return {name: answers[name] for name in questions}


# -- the user and the places ---------------------------------------------------------------------------------------------------


def user_name() -> str:
    """Return the user's name, or the uid where no name goes with it (a container with the host's uid)."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def home_directory() -> Path:
    """Return the user's home: ``$HOME``, or what the user database says."""
    return Path(os.path.expanduser("~")).absolute()


def absolute(path: str, home: Path) -> Path:
    """Return *path* without ``~`` and without relative parts; links are kept as they are named."""
    return Path(os.path.normpath(os.path.join(home, os.path.expanduser(path))))


def default_prefix(prefix: str | None, home: Path) -> Path:
    """Return where things are installed, absolute."""
    if prefix:
        return absolute(prefix, home)
    if os.getuid() == 0:
        return Path("/opt/rlinf")
    data = os.environ.get("XDG_DATA_HOME", "")
    # the XDG base directory specification: a relative path is to be ignored
    return (Path(data) if data.startswith("/") else home / ".local" / "share") / "rlinf"


def bundle_state(bundle: Bundle, node: Node) -> dict[str, Any]:
    """Return whether there is a sealed bundle, its manifest's digest and serial, and whether this node has verified just that."""
    if not bundle.manifest.is_file():
        size, files = _held(bundle)
        return {
            "present": bundle.root.is_dir(),
            "sealed": False,
            "digest": None,
            "serial": None,
            "verified": False,
            "bytes": size,
            "files": files,
        }
    manifest = _bundle.read_manifest(bundle)
    digest = _bundle.manifest_digest(bundle)
    stamp = _bundle.read_stamp(node.bundle_stamp, bundle, manifest["files"])
    return {
        "present": True,
        "sealed": True,
        "digest": digest,
        "serial": manifest["serial"],
        "verified": stamp.get("manifest") == digest,
        "bytes": sum(entry.get("size", 0) for entry in manifest["files"].values()),
        "files": len(manifest["files"]),
    }


def accepted_bundle(bundle: Bundle, node: Node, targets: Sequence[str], release: str, trust: Trust | None) -> dict[str, Any]:
    """Return what verifying the bundle would say, and the digest of its signature, if this node has accepted just it and nothing changed since."""
    start = time.monotonic()
    outcome = _bundle.recognise(bundle, stamp=node.bundle_stamp, targets=targets, release=release, trust=trust)
    return {**outcome.said("verified", time.monotonic() - start), "signature": _bundle.signature_digest(bundle)} if outcome else {}


def _held(bundle: Bundle) -> tuple[int, int]:
    """Return bytes and number of the files that a push which was cut off has left."""
    sizes = []
    for folder in bundle.folders:
        for place, _folders, names in os.walk(folder):
            sizes += [os.lstat(os.path.join(place, name)).st_size for name in names]
    return sum(sizes), len(sizes)


def ready(node: Node, bundle: Bundle) -> bool:
    """Return whether rlinf_runtime would find nothing to do with the bundle as it is now."""
    try:
        return bundle.manifest.is_file() and not Runtime(node, bundle).plan().changed
    except (OfflineError, OSError):
        return False


def environments(node: Node, existing: Path | None = None) -> list[str]:
    """Return the targets that have a finished environment here, or are in the existing one."""
    found = [link.name for link in node.venvs.glob("*") if link.is_symlink() and (link / STAMP).is_file()]
    return sorted({*found, *(path.stem for path in existing.glob("rlinf/*.json"))} if existing else found)


def unpacked(node: Node, existing: Path | None = None) -> list[str]:
    """Return the beginnings of the SHA-256 of what finished environments were made from: it needs no room a second time."""
    locks = [lock for lock in node.locks.glob("pylock.*.toml") if (node.venvs / lock.stem.removeprefix("pylock.") / STAMP).is_file()]
    found: set[str] = set()
    for lock in [*locks, *(existing.glob("rlinf/pylock.*.toml") if existing else ())]:
        with contextlib.suppress(OSError):
            found.update(_SHA256.findall(lock.read_text(encoding="utf-8", errors="replace")))
    return sorted(found)


def file_system(path: Path) -> dict[str, Any]:
    """Return what is left where *path* is or would be: bytes and inodes (None: without limit), device, type, whether it can be written."""
    place = path
    while not os.path.lexists(place) or not place.is_dir():
        place = place.parent
    status, device = os.statvfs(place), os.stat(place).st_dev
    point, kind = mount_of(place)
    return {
        "path": str(path),
        "exists": path.is_dir(),
        "existing": str(place),
        "free_bytes": status.f_bavail * status.f_frsize,
        "free_inodes": status.f_favail if status.f_files else None,
        "device": f"{os.major(device)}:{os.minor(device)}",
        "mount": point,
        "type": kind,
        "writable": os.access(place, os.W_OK | os.X_OK) and not status.f_flag & os.ST_RDONLY,
    }


def mount_of(path: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> tuple[str | None, str | None]:
    """Return the mount point that *path* lies under and its file system's type (proc_pid_mountinfo(5)); of several, the last mounted."""
    resolved = os.path.realpath(path)
    best: tuple[str | None, str | None] = (None, None)
    try:
        lines = mountinfo.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return best
    for line in lines:
        left, _ignored, right = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), left.split(" ")[4])
        below = resolved == point or resolved.startswith(f"{point.rstrip('/')}/")
        if below and (best[0] is None or len(point) >= len(best[0])):
            best = (point, right.split(" ")[0])
    return best


# -- the system ----------------------------------------------------------------------------------------------------------------


def glibc_version() -> str | None:
    """Return glibc's version (confstr(3)); None with another C library."""
    try:
        name, _ignored, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, OSError):
        return None
    return version if name == "glibc" else None


def distribution() -> dict[str, str | None]:
    """Return id, version and name of the distribution (os-release(5))."""
    try:
        found: Mapping[str, str] = platform.freedesktop_os_release()
    except OSError:
        found = {}
    return {"id": found.get("ID"), "version": found.get("VERSION_ID"), "name": found.get("PRETTY_NAME")}


def system(packages: Mapping[str, Sequence[str]], files: Sequence[str] = (), package_state: bool = False) -> dict[str, Any]:
    """Return release and architecture as a bundle names them, and what is not there of the packages for this release and of *files*.

    ``cut_off`` says that an installation of ours did not come to its end. Without dpkg there is no architecture, and no package is missing
    that could be named.
    """
    release = _apt_install.release_name()
    found = {"release": release, "absent": [path for path in files if not Path(path).exists()], "cut_off": _apt_install.pending().exists()}
    if not shutil.which("dpkg-query", path=_search()):
        return found
    wanted = packages.get(release, packages.get("", ()))
    missing = sorted(set(wanted) - _apt_install.installed())
    state = {"state": _apt_install.package_state()} if package_state else {}
    return {**found, "architecture": _apt_install.dpkg_architecture(), "missing": missing, **state}


def container() -> str | None:
    """Return what kind of container this is in, as far as its engine or its init says so."""
    marks = [os.environ.get(_CONTAINER_VARIABLE), *(kind for path, kind in _CONTAINERS if os.path.exists(path))]
    with contextlib.suppress(OSError):
        marks.append(_SYSTEMD_CONTAINER.read_text(encoding="utf-8", errors="replace").strip())
    return next((mark for mark in (*marks, "kubernetes" if "KUBERNETES_SERVICE_HOST" in os.environ else None) if mark), None)


def _search() -> str:
    home = os.environ.get("CUDA_HOME")
    return os.pathsep.join([*([f"{home}/bin"] if home else []), os.environ.get("PATH", os.defpath), *_TOOL_FOLDERS])


def tools(programs: Iterable[str] = (), patience: float = PATIENCE) -> dict[str, Any]:
    """Return path and version of each of :data:`TOOLS`, and the path of each of *programs*; None for one that is not there."""
    search = _search()

    def version(path: str, arguments: Sequence[str]) -> dict[str, str | None]:
        done = run([path, *arguments], what=f"asking {path} for its version", timeout=patience, check=False)
        # nvcc's release is in its fourth line, everyone else's in the first; ssh says it on stderr
        text = done.stdout or done.stderr
        found = _VERSION.search(text.partition("release ")[2]) or _VERSION.search(text)
        return {"path": path, "version": found[0] if found else None}

    paths = {name: shutil.which(command[0], path=search) for name, command in TOOLS.items()}
    there = {name: partial(version, path, TOOLS[name][1:]) for name, path in paths.items() if path}
    # how others tell their version is unknown, and what running them does, too
    others = {name: shutil.which(name, path=search) for name in programs if name not in TOOLS}
    asked = {name: {"path": paths[name], "version": None, **answer} for name, answer in ask_all(there, patience).items()}
    return {**dict.fromkeys(TOOLS), **asked, **{name: {"path": path, "version": None} if path else None for name, path in others.items()}}


def find_pythons(wanted: Sequence[str], home: Path, patience: float = PATIENCE, node: Node | None = None) -> list[dict[str, Any]]:
    """Return the interpreters of the versions wanted, in order of preference: their path, version, and whether their headers are there.

    Looked for on PATH and where pyenv, uv, conda and builds from source put them, and last among those that came with the bundle of *node*.
    A wrapper script (pyenv's shims) is none.

    :param wanted: versions, and absolute paths of interpreters, which are asked whatever their version is.
    """
    named = [item for item in wanted if os.path.isabs(item)]
    wanted = [item for item in wanted if item not in named]
    minors = {".".join(version.split(".")[:2]) for version in wanted}
    candidates: dict[str, str] = {}
    ours = sorted(map(str, node.interpreters.glob("cpython-*/bin")), reverse=True) if node else []
    for folder in [*python_folders(home), *ours]:
        for minor in sorted(minors):
            path = os.path.join(folder, f"python{minor}")
            if is_program(path):
                candidates.setdefault(os.path.realpath(path), path)

    def about(path: str) -> dict[str, Any]:
        done = run([path, "-I", "-S", "-c", _ABOUT_PYTHON], what=f"asking {path} for its version", timeout=patience)
        return {"path": path, "problem": None, **json.loads(done.stdout)}

    answers = ask_all({path: partial(about, path) for path in (*candidates.values(), *named)}, patience)
    found = [{"path": path, **answer} for path, answer in answers.items()]
    return [
        python
        for python in found
        if python["problem"] or python["path"] in named or any(is_version(python["version"], version) for version in wanted)
    ]


def is_version(version: str, wanted: str) -> bool:
    """Return whether a full version is the one wanted, or one of the minor version wanted."""
    return version == wanted or version.startswith(f"{wanted}.")


def python_folders(home: Path) -> list[str]:
    """Return the directories that interpreters are looked for in, PATH first."""
    data = os.environ.get("XDG_DATA_HOME", "")
    uv = os.environ.get("UV_PYTHON_INSTALL_DIR") or os.path.join(
        data if data.startswith("/") else home / ".local" / "share", "uv", "python"
    )
    folders = [folder for folder in os.environ.get("PATH", os.defpath).split(os.pathsep) if folder.startswith("/")]
    for pattern in _PYTHON_FOLDERS:
        folders += sorted(glob.glob(pattern.replace("~", glob.escape(str(home)), 1).replace("{uv}", glob.escape(uv))))
    return list(dict.fromkeys(folders))


def is_program(path: str) -> bool:
    """Return whether *path* is an executable file and no script."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode) or not os.access(path, os.X_OK):
            return False
        with open(path, "rb") as stream:
            return stream.read(2) != b"#!"
    except OSError:
        return False


# -- GPUs ----------------------------------------------------------------------------------------------------------------------


def gpus(patience: float = PATIENCE) -> dict[str, Any]:
    """Return the GPUs, the driver's version and the newest CUDA that it runs, as ``nvidia-smi`` says.

    ``problem`` says why if it doesn't; the driver's version is then the kernel's word. ``on_bus`` counts what PCI knows, driver or not.
    """
    nothing: dict[str, Any] = {"devices": [], "driver": kernel_driver(), "cuda": None, "on_bus": gpus_on_bus()}
    path = shutil.which("nvidia-smi", path=_search())
    if path is None:
        return {**nothing, "problem": "nvidia-smi is not there" + (": no NVIDIA driver" if nothing["driver"] is None else "")}
    # where a container is given the driver's libraries by this alone
    libraries = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}

    def ask(*arguments: str) -> Completed:
        return run([path, *arguments], what="asking nvidia-smi for the GPUs", timeout=patience, env=libraries, check=False)

    def devices() -> str:
        # a driver refuses the whole question for one field that it does not know
        for count in range(len(_GPU_FIELDS), _KNOWN_TO_ALL - 1, -1):
            done = ask(f"--query-gpu={','.join(_GPU_FIELDS[:count])}", "--format=csv,noheader,nounits")
            if not done.status:
                break
        return _answered(done)

    answers = ask_all(
        {
            "devices": devices,
            # only the table that people read names the newest CUDA
            "table": lambda: _answered(ask()),
        },
        patience + 0.5,
    )
    problems = [answer["problem"] for answer in answers.values() if isinstance(answer, dict)]
    if problems:
        return {**nothing, "problem": problems[0]}
    found = read_gpus(answers["devices"])
    if not found["devices"] and "No devices" not in answers["devices"]:
        return {**nothing, "problem": f"nvidia-smi says what cannot be understood: {answers['devices'].strip()[:80]!r}"}
    return {**nothing, **found, "driver": found["driver"] or nothing["driver"], "cuda": read_cuda(answers["table"]), "problem": None}


def _answered(done: Completed) -> str:
    """Return what nvidia-smi said.

    :raises ProcessError: it failed; its own words are the whole message, of which a table shows the first line.
    """
    if not done.status:
        return done.stdout
    said = done.stdout.strip() or done.stderr.strip() or f"it ended with status {done.status} and said nothing"
    raise ProcessError(f"nvidia-smi: {said}")


def gpus_on_bus() -> int:
    """Return how many NVIDIA GPUs the PCI bus has, which the kernel knows without a driver, too."""
    count = 0
    for device in _PCI.glob("*"):
        with contextlib.suppress(OSError):
            vendor, kind = ((device / name).read_text(encoding="ascii").strip() for name in ("vendor", "class"))
            count += vendor == _NVIDIA and kind.startswith(_GRAPHICS)
    return count


def kernel_driver() -> str | None:
    """Return the version of the driver that the kernel has loaded, which is known without nvidia-smi, too."""
    try:
        found = re.search(r"Kernel Module\b.*?\s(\d+(?:\.\d+)+)", _DRIVER.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return found[1] if found else None


def read_cuda(table: str) -> str | None:
    """Return the newest CUDA that the driver runs, out of what nvidia-smi prints for people."""
    found = re.search(r"CUDA(?: \w+)? Version\s*:\s*(\d+\.\d+)", table)
    return found[1] if found else None


def read_gpus(text: str) -> dict[str, Any]:
    """Return the devices and the driver's version out of nvidia-smi's CSV, whose rows have :data:`_GPU_FIELDS` or as many as the driver knows.

    Of a device, ``memory`` is in MiB, ``compute`` the compute capability, ``mig`` whether it is split into instances; None is unknown.
    """
    lines = [[field.strip() for field in row] for row in csv.reader(text.splitlines())]
    rows = [row for row in lines if _KNOWN_TO_ALL <= len(row) <= len(_GPU_FIELDS) and _VERSION.fullmatch(row[3])]
    devices = []
    for row in rows:
        index, name, memory, _driver, compute, mig = (*row, *[""] * (len(_GPU_FIELDS) - len(row)))
        devices.append(
            {
                "index": int(index) if index.isdigit() else None,
                "name": name,
                "memory": int(memory) if memory.isdigit() else None,
                "compute": compute if _VERSION.fullmatch(compute) else None,
                "mig": {"Enabled": True, "Disabled": False}.get(mig),
            }
        )
    return {"devices": devices, "driver": rows[0][3] if rows else None}
