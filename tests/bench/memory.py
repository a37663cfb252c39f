# SPDX-License-Identifier: GPL-3.0-or-later
"""How much memory each module takes with a file of 5 GB, and with a bundle of 100,000 files.

    python -m tests.bench.memory [--bytes 5000000000] [--files 100000] [--record]

Each module runs as Ansible runs it, in a process of its own; its peak is the largest resident size that the kernel has seen (getrusage), of
it or of a program that it ran. The large file is a hole that this machine serves, and becomes a whole one on its way. It takes four times
the file on disk, and no root.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from tests.bench.page import record
from tests.bench.served import served
from tests.support.fleet import ROOT

MOST = 200
"""MB that a module may take."""
BLOCK = 1 << 20
_DRIVER = (
    "import sys, runpy; import ansible.module_utils.basic as b\n"
    "b._ANSIBLE_ARGS = sys.stdin.buffer.read(); b._ANSIBLE_PROFILE = 'legacy'\n"
    "runpy.run_path(sys.argv[1], run_name='__main__')\n"
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
    start = time.monotonic()
    module = ROOT / "plugins" / "modules" / f"{name}.py"
    process = subprocess.Popen([sys.executable, "-c", _DRIVER, module], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the module has no pipes")
    process.stdin.write(given)
    process.stdin.close()
    output = process.stdout.read()
    _pid, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{name}: {output.decode()[-2000:]}")
    peak = Peak(case, f"{name} {label or arguments.get('state', '')}".strip(), usage.ru_maxrss * 1024 / 1e6, time.monotonic() - start)
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
            "strip": 0,
        }
        yield run_module(case, "rlinf_asset_cache", bundle_dir=str(bundle), assets=[asset])
        yield run_module(case, "rlinf_asset_cache", "again", bundle_dir=str(bundle), assets=[asset])
        hole.unlink()
        _repository(work / "checkout", upstream / "acme" / "large.git", size)
        repository = {"name": "large", "url": "https://github.com/acme/large.git", "version": "main", "lfs": False, "submodules": False}
        rewrites = {"https://github.com/": f"{base}/"}
        yield run_module(case, "rlinf_repo_mirror", bundle_dir=str(bundle), repos=[repository], url_rewrites=rewrites)
    yield from _bundled(case, bundle, work, size=f"{size // 2_000_000}M")


def _repository(path: Path, bare: Path, size: int) -> None:
    """Make a repository with one commit of a large file, as a server of plain files has it."""
    path.mkdir()
    git = ["git", "-C", path, "-c", "user.name=bench", "-c", "user.email=bench@example.org"]
    subprocess.run([*git, "init", "-q", "-b", "main"], check=True)
    with (path / "weights.bin").open("wb") as stream:
        stream.truncate(size)
    subprocess.run([*git, "add", "weights.bin"], check=True)
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
        asset = {"name": "assets", "url": f"{base}/assets.tar", "sha256": _sha256(archive), "dest": "assets", "unpack": True, "strip": 1}
        yield run_module(case, "rlinf_asset_cache", bundle_dir=str(bundle), assets=[asset])
        yield run_module(case, "rlinf_asset_cache", "again", bundle_dir=str(bundle), assets=[asset])
    yield from _bundled(case, bundle, work, size="1G")


def _bundled(case: str, bundle: Path, work: Path, size: str) -> Iterator[Peak]:
    """Yield what modules take that read a bundle as a whole."""
    place = {"bundle_dir": str(bundle)}
    stamp = str(work / "state" / "bundle.json")
    yield run_module(case, "rlinf_sbom", **place)
    yield run_module(case, "rlinf_bundle", state="sealed", **place)
    yield run_module(case, "rlinf_bundle", "sealed, all hashed again", state="sealed", full=True, **place)
    yield run_module(case, "rlinf_bundle", "mended, all hashed again", state="mended", full=True, **place)
    yield run_module(case, "rlinf_bundle", state="verified", stamp=stamp, **place)
    yield run_module(case, "rlinf_bundle", "verified again", state="verified", stamp=stamp, **place)
    yield run_module(case, "rlinf_bundle", "verified, all hashed again", state="verified", stamp=stamp, full=True, **place)
    yield run_module(case, "rlinf_bundle", state="pruned", stamp=stamp, **place)
    yield run_module(case, "rlinf_media", state="written", path=[str(work / "media")], volume_size=size, **place)
    yield run_module(case, "rlinf_media", state="read", path=[str(work / "media")], bundle_dir=str(work / "copy"))
    template = str(ROOT / "roles" / "report" / "templates" / "report.html.j2")
    yield run_module(case, "rlinf_report", path=str(work / "report"), template=template, nodes={}, **place)


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
    parser.add_argument("--cases", nargs="+", choices=["file", "files"], default=["file", "files"], help="which")
    parser.add_argument("--record", action="store_true", help="write the table into docs/benchmarks.md")
    options = parser.parse_args()
    peaks: list[Peak] = []
    for case, measured, amount in (("file", large_file, options.bytes), ("files", many_files, options.files)):
        if case in options.cases:
            with tempfile.TemporaryDirectory(prefix="rlinf-bench-") as work:
                peaks += measured(Path(work), amount)
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
