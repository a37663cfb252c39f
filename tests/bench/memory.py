# SPDX-License-Identifier: GPL-3.0-or-later
"""How much memory each module takes with a file of 5 GB, and with a bundle of 100,000 files.

    python -m tests.bench.memory [--bytes 5000000000] [--files 100000] [--record]

Each module runs as Ansible runs it, in a process of its own; its peak is the largest resident size that the kernel has seen (getrusage), of
it or of a program that it ran; what works on the control node (rlinf_push) counts with the ansible-playbook around it. The large file is a hole
that this machine serves, and becomes a whole one on its way. It takes eight times the file on disk, and no root.
"""

from __future__ import annotations

import argparse
import base64
import datetime
import hashlib
import json
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._report_info import share_packages
from tests.bench.page import record, recorded
from tests.bench.served import served
from tests.support.environments import Site
from tests.support.fleet import ROOT, repack
from tests.support.interpreters import MINOR, VERSION, build_interpreter

MOST = 200
"""MB that a module may take."""
NOT_MEASURED = {
    "rlinf_air_gap": "reads the records of a node's steps, a few kB each",
    "rlinf_apt_cache": "apt resolves, in a process of its own; files come by what rlinf_asset_cache fetches with",
    "rlinf_apt_install": "apt and dpkg install, in processes of their own; files are hashed as rlinf_bundle hashes them",
    "rlinf_branch_sync": "git fetches and rebases, as for rlinf_repo_mirror; no file of a bundle is touched",
    "rlinf_collect": "Ansible's connection brings the few wheels that a node has built",
    "rlinf_runtime": "unpacks the few wheels in the bundle's tools, as uv does for rlinf_venv",
    "rlinf_survey": "writes one file out of what nodes said",
    "rlinf_target_lock": "uv resolves; files come by what rlinf_wheel_cache fetches and judges them with",
    "rlinf_tools": "uv resolves; files come by what rlinf_wheel_cache fetches and judges them with",
}
"""Modules that neither a large file nor many files reach, or only by what is measured of another."""
BLOCK = 1 << 20
GITHUB = "https://github.com/"
PLAY = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars": {"ansible_python_interpreter": sys.executable}}
_DRIVER = (
    "import sys, runpy; import ansible.module_utils.basic as b\n"
    "b._ANSIBLE_ARGS = sys.stdin.buffer.read(); b._ANSIBLE_PROFILE = 'legacy'\n"
    "runpy.run_path(sys.argv[1], run_name='__main__')\n"
)
_SWARM = """
import json, sys
from pathlib import Path
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._push import Ssh
from ansible_collections.rlinf.offline.plugins.module_utils._swarm import Reach, Swarm
ssh, source, destination = sys.argv[1:]
bundle = Bundle(Path(source))
files = [name for name, entry in json.loads(bundle.manifest.read_bytes())["files"].items() if "link" not in entry]
wheels = {"{}.{}".format(*sys.version_info): str(wheel.relative_to(bundle.root)) for wheel in bundle.swarm_tools.glob("*.whl")}
outcome = Swarm(bundle, wheels, sys.executable).push({"node": Reach(Ssh("node", executable=ssh), sys.executable, destination, files)})
sys.exit(None if outcome.nodes["node"].complete else outcome.nodes["node"].reason)
"""
# what a process has at its peak begins with what the one had that it was forked from, and this one grows
_LAUNCHER = (
    "import os, subprocess, sys\n"
    "_pid, status, usage = os.wait4(subprocess.Popen(sys.argv[2:]).pid, 0)\n"
    "open(sys.argv[1], 'w').write(str(usage.ru_maxrss))\n"
    "sys.exit(bool(status))\n"
)


@dataclass(frozen=True)
class Peak:
    """What a module took: MB (millions of bytes) at its peak, and seconds."""

    case: str
    module: str
    megabytes: float
    seconds: float


def run_module(case: str, name: str, label: str = "", **arguments: Any) -> Peak:
    """Run a module to its end.

    :raises RuntimeError: it failed; the message holds what it said.
    """
    given = json.dumps({"ANSIBLE_MODULE_ARGS": {**arguments, "_ansible_tracebacks_for": []}}).encode()
    command = [sys.executable, "-c", _DRIVER, str(ROOT / "plugins" / "modules" / f"{name}.py")]
    return _measured(case, f"{name} {label or arguments.get('state', '')}".strip(), command, given)


def run_action(case: str, name: str, label: str, work: Path, **arguments: Any) -> Peak:
    """Run what works on the control node, by ansible-playbook and for this machine.

    :raises RuntimeError: it failed; the message holds what it said.
    """
    task = {"name": name, f"rlinf.offline.{name}": arguments}
    playbook = work / "play.json"
    playbook.write_text(json.dumps([{**PLAY, "tasks": [task]}]))
    program = Path(sys.executable).with_name("ansible-playbook")
    return _measured(case, f"{name} {label}".strip(), [str(program), "-i", "localhost,", str(playbook)], b"", cwd=ROOT)


def _measured(case: str, name: str, command: Sequence[str], given: bytes, cwd: Path | None = None) -> Peak:
    start = time.monotonic()
    with tempfile.NamedTemporaryFile() as told:
        process = subprocess.run(
            [sys.executable, "-c", _LAUNCHER, told.name, *command], input=given, stdout=subprocess.PIPE, cwd=cwd, check=False
        )
        if process.returncode:
            raise RuntimeError(f"{name}: {process.stdout.decode()[-2000:]}")
        peak = Peak(case, name, int(told.read()) * 1024 / 1e6, time.monotonic() - start)
    print(f"{peak.case}: {peak.module}: {peak.megabytes:.0f} MB, {peak.seconds:.1f} s", flush=True)
    return peak


# -- a large file --------------------------------------------------------------------------------------------------------------


def large_file(work: Path, size: int) -> Iterator[Peak]:
    """Yield what every module takes that a file's size reaches."""
    case, bundle = f"a file of {size / 1e9:g} GB", work / "bundle"
    upstream = work / "upstream"
    upstream.mkdir()
    hole = upstream / "weights.bin"
    with hole.open("wb") as stream:
        stream.truncate(size)
    digest = _sha256(hole)
    with served(upstream) as base:
        asset = {
            "name": "weights",
            "url": f"{base}/weights.bin",
            "sha256": digest,
            "dest": "weights/weights.bin",
            "unpack": False,
            "strip": False,
        }
        yield run_module(case, "rlinf_asset_cache", bundle_dir=str(bundle), assets=[asset])
        yield run_module(case, "rlinf_asset_cache", "again", bundle_dir=str(bundle), assets=[asset])
        hole.unlink()
        _repository(work / "checkout", upstream / "acme" / "large.git", size)
        repository = {"name": "large", "url": f"{GITHUB}acme/large.git", "version": "main", "lfs": False, "submodules": False}
        rewrites = {GITHUB: f"{base}/"}
        yield run_module(case, "rlinf_repo_mirror", bundle_dir=str(bundle), repos=[repository], url_rewrites=rewrites)
        shutil.rmtree(upstream / "acme")
        shutil.rmtree(work / "checkout")
        wheel = _wheel(upstream, {"weights.bin": size})
        yield from _wheels(case, bundle, base, wheel)
        yield from _interpreters(case, bundle, base, _interpreter(upstream, {"weights.bin": size}))
    yield from _adopted(case, bundle, work, asset)
    yield from _targets(case, bundle, work, wheel.name, repository["url"], asset)
    yield from _bundled(case, bundle, work, size=f"{size // 2_000_000}M")


def _repository(path: Path, bare: Path, size: int) -> None:
    """Make a repository with one commit of a large file, as a server of plain files has it."""
    path.mkdir()
    git = ["git", "-C", path, "-c", "user.name=bench", "-c", "user.email=bench@example.org"]
    subprocess.run([*git, "init", "-q", "-b", "main"], check=True)
    with (path / "weights.bin").open("wb") as stream:
        stream.truncate(size)
    (path / "pyproject.toml").write_text("[project]\nname = 'large'\n")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "A large file"], check=True)
    subprocess.run(["git", "clone", "-q", "--bare", path, bare], check=True)
    subprocess.run(["git", "-C", bare, "update-server-info"], check=True)


# -- many files ----------------------------------------------------------------------------------------------------------------


def many_files(work: Path, count: int) -> Iterator[Peak]:
    """Yield what every module takes that the number of a bundle's files reaches."""
    case, bundle = f"a bundle of {count:,} files", work / "bundle"
    upstream = work / "upstream"
    upstream.mkdir()
    archive = upstream / "assets.tar"
    with tarfile.open(archive, "w") as tar:
        for number in range(count):
            content = b"%d" % number
            entry = tarfile.TarInfo(f"assets/{number // 1000:03}/a-file-of-an-archive-{number:06}.bin")
            entry.size = len(content)
            tar.addfile(entry, BytesIO(content))
    with served(upstream) as base:
        asset = {"name": "assets", "url": f"{base}/assets.tar", "sha256": _sha256(archive), "dest": "assets", "unpack": True, "strip": True}
        yield run_module(case, "rlinf_asset_cache", bundle_dir=str(bundle), assets=[asset])
        yield run_module(case, "rlinf_asset_cache", "again", bundle_dir=str(bundle), assets=[asset])
        _repository_of_many(upstream / "acme" / "large.git", count)
        repository = {"name": "large", "url": f"{GITHUB}acme/large.git", "version": "main", "lfs": False, "submodules": False}
        rewrites = {GITHUB: f"{base}/"}
        yield run_module(case, "rlinf_repo_mirror", bundle_dir=str(bundle), repos=[repository], url_rewrites=rewrites)
        members = {f"acme/{number // 1000:03}/a-file-of-a-package-{number:06}.bin": 8 for number in range(count)}
        wheel = _wheel(upstream, members)
        yield from _wheels(case, bundle, base, wheel)
        yield from _interpreters(case, bundle, base, _interpreter(upstream, members))
    # of a tree whose archive's digest is known it could not be said whether it is that
    yield from _adopted(case, bundle, work, {key: value for key, value in asset.items() if key != "sha256"})
    yield from _targets(case, bundle, work, wheel.name, repository["url"], asset)
    yield from _bundled(case, bundle, work, size="1G")
    (bundle / "records" / "assets.json").unlink()
    yield run_module(case, "rlinf_sbom", "of files in no record", bundle_dir=str(bundle))


def _repository_of_many(bare: Path, count: int) -> None:
    """Make a bare repository whose one commit has many requirement files, as a server of plain files has it."""
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", bare], check=True)
    files = "".join(f"M 644 inline requirements/{number // 1000:03}/{number:06}.txt\ndata 4\nsix\n\n" for number in range(count))
    project = "M 644 inline pyproject.toml\ndata 24\n[project]\nname = 'many'\n\n"
    commit = f"commit refs/heads/main\ncommitter bench <bench@example.org> 1735689600 +0000\ndata 4\nmany\n{project}{files}\n"
    subprocess.run(["git", "-C", bare, "fast-import", "--quiet"], input=commit.encode(), check=True)
    subprocess.run(["git", "-C", bare, "update-server-info"], check=True)


# -- of both -------------------------------------------------------------------------------------------------------------------


def _entry(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the catalogue says of something that a module was given."""
    return {key: value for key, value in item.items() if key != "name"}


def _wheel(folder: Path, members: Mapping[str, int]) -> Path:
    """Write a wheel with members of so many zeros and return its path."""
    path, info = folder / "acme-1.0-py3-none-any.whl", "acme-1.0.dist-info"
    texts = {f"{info}/METADATA": "Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n"}
    texts[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: bench\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    rows = []
    with zipfile.ZipFile(path, "w") as archive:
        for name, size in [*members.items(), *((name, 0) for name in texts)]:
            digest = hashlib.sha256()
            with archive.open(zipfile.ZipInfo(name, (2025, 1, 1, 0, 0, 0)), "w", force_zip64=size >= 1 << 31) as out:
                for block in [texts[name].encode()] if name in texts else _zeros(size):
                    digest.update(block)
                    out.write(block)
            rows.append(f"{name},sha256={base64.urlsafe_b64encode(digest.digest()).rstrip(b'=').decode()},")
        archive.writestr(f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,\n"]))
    return path


def _zeros(size: int) -> Iterator[bytes]:
    for start in range(0, size, BLOCK):
        yield bytes(min(BLOCK, size - start))


def _interpreter(folder: Path, members: Mapping[str, int]) -> Path:
    """Write an archive of this interpreter with further members of so many zeros, and return its path."""
    path = folder / f"cpython-{VERSION}-install_only.tar.gz"
    plain = build_interpreter(folder / "plain.tar.gz")
    with tarfile.open(plain) as source, tarfile.open(path, "w:gz", compresslevel=0) as archive:
        for member in source:
            archive.addfile(member, source.extractfile(member) if member.isfile() else None)
        for name, size in members.items():
            entry = tarfile.TarInfo(f"python/share/{name}")
            entry.size = size
            with Path("/dev/zero").open("rb") as zeros:
                archive.addfile(entry, zeros)
    plain.unlink()
    return path


def _wheels(case: str, bundle: Path, base: str, wheel: Path) -> Iterator[Peak]:
    entry = {"name": "acme", "url": f"{base}/{wheel.name}", "sha256": _sha256(wheel)}
    yield run_module(case, "rlinf_wheel_cache", bundle_dir=str(bundle), wheels=[entry])
    wheel.unlink()


def _interpreters(case: str, bundle: Path, base: str, archive: Path) -> Iterator[Peak]:
    entry = {
        "name": "cpython",
        "url": f"{base}/{archive.name}",
        "python": VERSION,
        "machine": platform.machine(),
        "sha256": _sha256(archive),
    }
    yield run_module(case, "rlinf_interpreter_cache", bundle_dir=str(bundle), interpreters=[entry])
    archive.unlink()


def _adopted(case: str, bundle: Path, work: Path, asset: Mapping[str, Any]) -> Iterator[Peak]:
    """Yield what taking an asset over takes, into a bundle of its own."""
    (work / "old").mkdir()
    (work / "old" / "assets").symlink_to(bundle / "assets")
    yield run_module(
        case, "rlinf_adopt", bundle_dir=str(work / "adopted"), src=str(work / "old"), catalog={"assets": {"asset": _entry(asset)}}
    )
    shutil.rmtree(work / "adopted")


def _targets(case: str, bundle: Path, work: Path, wheel: str, url: str, asset: Mapping[str, Any]) -> Iterator[Peak]:
    """Yield what modules take that install a target of a repository, a wheel and an asset."""
    commit = json.loads((bundle / "records" / "repositories.json").read_bytes())["github.com/acme/large.git"]["commit"]
    site, prefix = Site(bundle, work / "prefix", lambda *_ignored: {}), work / "prefix"
    packages = [{"name": "acme", "version": "1.0", "kind": "wheel", "source": {"url": None}, "path": f"wheels/{wheel}"}]
    packages[0] |= {"sha256": _sha256(bundle / "wheels" / wheel), "size": (bundle / "wheels" / wheel).stat().st_size}
    closure = [f"wheels/{wheel}", f"assets/{asset['dest']}", "repos/github.com/acme/large.git/"]
    about = {"definition": "0" * 64, "platform": "x86_64-manylinux_2_31", "files": {}, "editables": [], "build": [], "git": {}}
    project = {"repository": "large", "url": url, "commit": commit}
    lock = site.lock(archives=(bundle / "wheels" / wheel,), name="bench")
    site.tell(lock, target="bench", project=project, packages=packages, closure=closure, **about)
    lock.parent.parent.rename(bundle / "targets" / commit)
    lock = bundle / "targets" / commit / "bench" / lock.name
    steps = [{"wheels": ["acme"]}]
    catalog = {
        "repositories": {"large": {"url": url}},
        "wheels": {"acme": {"url": f"https://example.org/{wheel}"}},
        "assets": {"asset": _entry(asset)},
        "targets": {"bench": {"project": "large", "python": MINOR, "steps": steps, "assets": ["asset"]}},
    }
    place = {"bundle_dir": str(bundle), "prefix": str(prefix), "target": "bench"}
    run_module(case, "rlinf_bundle", "sealed, for a target", state="sealed", bundle_dir=str(bundle))
    yield run_module(case, "rlinf_bundle_check", bundle_dir=str(bundle), catalog=catalog, targets=["bench"])
    yield run_module(case, "rlinf_interpreter", bundle_dir=str(bundle), prefix=str(prefix), pythons=[VERSION])
    for label in ("", "again"):
        yield run_module(case, "rlinf_target", label, catalog=catalog, home=str(work / "home"), **place)
    for label in ("", "again"):
        yield run_module(case, "rlinf_venv", label, lock=str(lock), python=sys.executable, **place)
    yield run_module(case, "rlinf_venv", state="verified", **place)
    yield run_module(case, "rlinf_report_info", prefix=str(prefix))
    tree = {"project_dir": str(prefix / "src" / "large"), "state_dir": str(prefix / "state"), "bundle_dir": str(bundle)}
    for state in ("patched", "restored"):
        yield run_module(case, "rlinf_req_patch", state=state, **tree)
    # what follows reads the bundle as a whole, for which one file is enough
    for folder in (prefix, *(bundle / name for name in ("wheels", "interpreters", "targets"))):
        shutil.rmtree(folder)
    (bundle / "bundle.json").unlink()


def _nodes(count: int) -> dict[str, Any]:
    """Return what nodes with two targets of 280 packages say for a report."""
    packages = {f"package-{number}": {"version": "1.0", "sha256": "0" * 64, "kind": "index"} for number in range(280)}
    target = {"digest": "d" * 64, "created": 1, "seconds": 60.0, "python": "3.11.14", "damaged": [], "skipped": [], "remote": {}}
    target |= {"commit": "c" * 40, "worktrees": {}, "packages": packages}
    gpus = {"driver": "535.104.05", "cuda": "12.2", "devices": [{"name": "H100"}] * 8}
    node = {"distribution": {"name": "A Linux"}, "gpus": gpus, "bundle": {}, "targets": {"bench": target, "other": target}}
    return {f"gpu{number:03}": {"wanted": ["bench"], "node": node} for number in range(count)}


def _bundled(case: str, bundle: Path, work: Path, size: str) -> Iterator[Peak]:
    """Yield what modules take that read a bundle as a whole."""
    place = {"bundle_dir": str(bundle)}
    node = work / "node"
    stamp = str(node / "state" / "bundle.json")
    yield run_module(case, "rlinf_sbom", **place)
    yield run_module(case, "rlinf_bundle", state="sealed", **place)
    yield run_module(case, "rlinf_bundle", "sealed, all hashed again", state="sealed", full=True, **place)
    yield run_module(case, "rlinf_bundle", "mended, all hashed again", state="mended", full=True, **place)
    yield run_module(case, "rlinf_bundle", state="verified", stamp=stamp, **place)
    yield run_module(case, "rlinf_bundle", "verified again", state="verified", stamp=stamp, **place)
    yield run_module(case, "rlinf_bundle", "verified, all hashed again", state="verified", stamp=stamp, full=True, **place)
    yield run_module(case, "rlinf_node_info", prefix=str(node), **place)
    yield run_module(case, "rlinf_bundle", state="pruned", stamp=stamp, **place)
    yield run_module(case, "rlinf_media", state="written", path=[str(work / "media")], volume_size=size, **place)
    yield run_module(case, "rlinf_media", state="read", path=[str(work / "media")], bundle_dir=str(work / "copy"))
    template = str(ROOT / "roles" / "report" / "templates" / "report.html.j2")
    yield run_module(case, "rlinf_report", path=str(work / "report"), template=template, **share_packages(_nodes(200)), **place)
    shutil.rmtree(work / "copy")
    yield _swarmed(case, Bundle(bundle), work)
    pushed = {"src": str(bundle), "dest": str(work / "copy"), "verify": {"stamp": str(work / "pushed" / "bundle.json")}}
    for label in ("", "again"):
        yield run_action(case, "rlinf_push", label, work, **pushed)


def _swarmed(case: str, bundle: Bundle, work: Path) -> Peak:
    """Return what a swarm of the bastion and one node takes, or what makes its torrent: the largest of them.

    An ssh that leads to this machine stands for the way to the node.
    """
    ssh = work / "ssh"
    ssh.write_text('#!/bin/sh\nfor last; do :; done\nSSH_CONNECTION="127.0.0.1 1 127.0.0.1 22" exec /bin/sh -c "$last"\n')
    ssh.chmod(0o755)
    for place in (bundle, Bundle(work / "copy")):
        repack("libtorrent", place.swarm_tools)
    command = [sys.executable, "-c", _SWARM, str(ssh), str(bundle.root), str(work / "copy")]
    peak = _measured(case, "rlinf_swarm", command, b"", cwd=ROOT)
    shutil.rmtree(work / "copy")
    shutil.rmtree(bundle.swarm_tools)
    return peak


# -- the whole -----------------------------------------------------------------------------------------------------------------


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, default=5_000_000_000, help="how large the file is")
    parser.add_argument("--files", type=int, default=100_000, help="how many files the bundle has")
    parser.add_argument(
        "--cases", nargs="+", choices=["file", "files"], default=["file", "files"], help="which; the others stay as recorded"
    )
    parser.add_argument("--record", action="store_true", help="write the table into docs/benchmarks.md")
    options = parser.parse_args()
    peaks: list[Peak] = []
    for case, measured, amount in (("file", large_file, options.bytes), ("files", many_files, options.files)):
        if case in options.cases:
            with tempfile.TemporaryDirectory(prefix="rlinf-bench-") as work:
                peaks += measured(Path(work), amount)
    cases = {peak.case for peak in peaks}
    peaks = [*(Peak(**row) for row in recorded("memory") if row["case"] not in cases), *peaks]
    record("memory", "Memory of the modules", [asdict(peak) for peak in peaks], _text(peaks) if options.record else None)
    above = [peak for peak in peaks if peak.megabytes > MOST]
    for peak in above:
        print(f"{peak.case}: {peak.module} took {peak.megabytes:.0f} MB, which is more than {MOST}")
    return 1 if above else 0


def _text(peaks: list[Peak]) -> str:
    cases = list(dict.fromkeys(peak.case for peak in peaks))
    lines = [
        f"{datetime.date.today():%Y-%m-%d}: the peak of each module's own process, or of a program that it ran, in MB, at most {MOST}. `make bench-memory`",
        "",
        f"| module | {' | '.join(cases)} |",
        f"|---|{'---:|' * len(cases)}",
    ]
    taken = {(peak.case, peak.module): f"{peak.megabytes:.0f}" for peak in peaks}
    lines += [
        f"| {module} | {' | '.join(taken.get((case, module), '') for case in cases)} |"
        for module in dict.fromkeys(peak.module for peak in peaks)
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
