# SPDX-License-Identifier: GPL-3.0-or-later
"""rlinf_wheel_cache through its real main(), against a real server."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.upstream import Fault, Upstream
from tests.support.wheels import build_wheel, sha256
from tests.unit.conftest import ModuleFailed

Run = Callable[..., dict[str, Any]]
GITHUB = "https://github.com/"


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Upstream]:
    releases = tmp_path / "upstream" / "git" / "github.com" / "o" / "r" / "releases" / "download" / "v1"
    padding = {"flash_attn/data.bin": random.Random(1).randbytes(200_000)}
    build_wheel(releases, "flash-attn", "2.7.4.post1+cu12", tags="cp311-cp311-linux_x86_64", extra_files=padding)
    build_wheel(releases, "apex", "0.1", tags="cp311-cp311-linux_x86_64")
    for wheel in releases.iterdir():
        os.utime(wheel, (1_700_000_000, 1_700_000_000))
    with Upstream(tmp_path / "upstream") as server:
        yield server


RELEASES = "o/r/releases/download/v1"
FLASH = "flash_attn-2.7.4.post1+cu12-cp311-cp311-linux_x86_64.whl"
APEX = "apex-0.1-cp311-cp311-linux_x86_64.whl"


def arguments(tmp_path: Path, upstream: Upstream, *names: str, **options: Any) -> dict[str, Any]:
    wheels = [{"name": name.partition("-")[0], "url": f"{GITHUB}{RELEASES}/{name.replace('+', '%2B')}"} for name in names or (FLASH, APEX)]
    rewrites = {GITHUB: f"{upstream.url}/git/github.com/"}
    return {"bundle_dir": str(tmp_path / "bundle"), "wheels": wheels, "url_rewrites": rewrites, "timeout": 20, **options}


def served(upstream: Upstream, name: str) -> Path:
    return upstream.root / "git/github.com" / RELEASES / name


def test_quad(tmp_path: Path, upstream: Upstream, run_module: Run, tree_hash: Any) -> None:
    args = arguments(tmp_path, upstream)
    before = tree_hash(tmp_path)
    planned = run_module("rlinf_wheel_cache", args, check=True, diff=True)
    assert tree_hash(tmp_path) == before
    assert {request.method for request in upstream.requests()} == {"HEAD"}
    assert [result["state"] for result in planned["results"]] == ["missing", "missing"]
    assert [result["bytes"] for result in planned["results"]] == [served(upstream, name).stat().st_size for name in (FLASH, APEX)]

    done = run_module("rlinf_wheel_cache", args, diff=True)
    assert (planned["changed"], done["changed"]) == (True, True)
    assert [result["state"] for result in done["results"]] == ["present", "present"]
    assert [result["bytes"] for result in done["results"]] == [result["bytes"] for result in planned["results"]]
    assert [result["path"] for result in done["results"]] == [f"wheels/{FLASH}", f"wheels/{APEX}"]
    assert [diff["after"] for diff in done["diff"]] == [f"sha256 {sha256(served(upstream, name))}\n" for name in (FLASH, APEX)]
    assert [(diff["before"], diff["after_header"]) for diff in planned["diff"]] == [("", f"wheels/{FLASH}"), ("", f"wheels/{APEX}")]
    for name in (FLASH, APEX):
        assert (tmp_path / "bundle/wheels" / name).read_bytes() == served(upstream, name).read_bytes()

    after = tree_hash(tmp_path / "bundle", mtimes=True)
    upstream.forget()
    assert not run_module("rlinf_wheel_cache", args, check=True)["changed"]
    again = run_module("rlinf_wheel_cache", args, diff=True)
    assert (again["changed"], again["diff"]) == (False, [])
    assert upstream.requests() == []
    now = tree_hash(tmp_path / "bundle", mtimes=True)
    assert {path: value for path, value in now.items() if path != ".lock"} == {
        path: value for path, value in after.items() if path != ".lock"
    }
    assert sorted(after) == [".lock", "records", "records/urls.json", "wheels", f"wheels/{APEX}", f"wheels/{FLASH}"]


def test_what_is_missing_can_be_said_without_network(tmp_path: Path, upstream: Upstream, run_module: Run) -> None:
    upstream.stop()
    result = run_module("rlinf_wheel_cache", arguments(tmp_path, upstream, APEX), check=True)
    [item] = result["results"]
    assert (item["state"], item["bytes"], item["changed"]) == ("missing", 0, True)
    assert "refused" in item["reason"]
    assert not (tmp_path / "bundle").exists()


def test_every_answer_is_cut_at_a_random_byte(tmp_path: Path, upstream: Upstream, run_module: Run) -> None:
    upstream.always(f"*{APEX}", Fault(cut=random.Random(7)))
    upstream.always("*flash*", Fault(cut=random.Random(8)))
    run_module("rlinf_wheel_cache", arguments(tmp_path, upstream))
    for name in (FLASH, APEX):
        assert (tmp_path / "bundle/wheels" / name).read_bytes() == served(upstream, name).read_bytes()
    assert any("range" in request.headers for request in upstream.requests())


@pytest.mark.parametrize("sha256_given", [False, True])
@pytest.mark.parametrize(
    "fault",
    [
        Fault(body=b""),
        Fault(body=b"<html>log in</html>", headers={"Content-Type": "text/html"}),
        Fault(body=b"PK\x03\x04 and so on"),
        Fault(length=1000),
    ],
    ids=["empty", "web page", "no zip", "claims less"],
)
def test_one_that_lies_stops_no_other_and_leaves_nothing(
    tmp_path: Path, upstream: Upstream, run_module: Run, fault: Fault, sha256_given: bool
) -> None:
    upstream.always("*flash*", fault)
    args = arguments(tmp_path, upstream)
    if sha256_given:
        args["wheels"][0]["sha256"] = sha256(served(upstream, FLASH))
    with pytest.raises(ModuleFailed) as failure:
        run_module("rlinf_wheel_cache", args)
    result = failure.value.result
    assert result["msg"].startswith("1 of 2 wheels failed:\nflash_attn: https://github.com/")
    assert [item["state"] for item in result["results"]] == ["failed", "present"]
    assert [path.name for path in (tmp_path / "bundle/wheels").iterdir()] == [APEX]
    # what was refused is not remembered as what was seen first
    assert list(json.loads((tmp_path / "bundle/records/urls.json").read_text())) == [args["wheels"][1]["url"]]
    upstream.always("*flash*", None)
    assert run_module("rlinf_wheel_cache", args)["changed"]
    assert sha256(tmp_path / "bundle/wheels" / FLASH) == sha256(served(upstream, FLASH))


def test_a_wheel_of_something_else(tmp_path: Path, upstream: Upstream, run_module: Run) -> None:
    upstream.always("*flash*", Fault(body=served(upstream, APEX).read_bytes()))
    with pytest.raises(ModuleFailed, match=r"holds apex 0.1, which is not what its name says"):
        run_module("rlinf_wheel_cache", arguments(tmp_path, upstream, FLASH))


def test_a_zip_that_is_no_wheel(tmp_path: Path, upstream: Upstream, run_module: Run) -> None:
    wheel = served(upstream, APEX).read_bytes()
    upstream.always("*apex*", Fault(body=wheel.replace(b"dist-info/WHEEL", b"dist-info/WHEAL")))
    with pytest.raises(ModuleFailed, match="METADATA and WHEEL are not both in it"):
        run_module("rlinf_wheel_cache", arguments(tmp_path, upstream, APEX))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"{GITHUB}o/apex.whl", "is not the name of a wheel"),
        (f"{GITHUB}o/apex-one-cp311-cp311-linux_x86_64.whl", "Invalid wheel filename.*URL of the wheel itself"),
        ("file:///etc/apex-0.1-py3-none-any.whl", "has the scheme 'file'"),
        (f"{GITHUB}o/..%2F..%2Fapex-0.1-py3-none-any.whl", "is not the name of a wheel"),
    ],
)
@pytest.mark.parametrize("check", [False, True])
def test_names_and_urls_are_judged_first(tmp_path: Path, upstream: Upstream, run_module: Run, url: str, said: str, check: bool) -> None:
    args = arguments(tmp_path, upstream, wheels=[{"name": "apex", "url": url}])
    with pytest.raises(ModuleFailed, match=said):
        run_module("rlinf_wheel_cache", args, check=check)
    assert upstream.requests() == []


def test_two_in_one_place(tmp_path: Path, upstream: Upstream, run_module: Run) -> None:
    args = arguments(tmp_path, upstream, APEX)
    args["wheels"].append({"name": "other", "url": f"https://elsewhere.invalid/{APEX}"})
    with pytest.raises(ModuleFailed, match="apex and other would lie in each other's place"):
        run_module("rlinf_wheel_cache", args)


def test_a_damaged_wheel_is_fetched_again(tmp_path: Path, upstream: Upstream, run_module: Run) -> None:
    args = arguments(tmp_path, upstream, APEX)
    run_module("rlinf_wheel_cache", args)
    wheel = tmp_path / "bundle/wheels" / APEX
    whole = wheel.read_bytes()
    wheel.write_bytes(whole[:-1] + b"x")
    planned = run_module("rlinf_wheel_cache", args, check=True, diff=True)
    assert "not what was asked for" in planned["results"][0]["reason"]
    assert planned["diff"][0]["before"] == f"sha256 {sha256(wheel)}\n"
    assert planned["diff"][0]["after"] == f"sha256 {hashlib.sha256(whole).hexdigest()}\n"
    assert run_module("rlinf_wheel_cache", args)["changed"]
    assert wheel.read_bytes() == whole


def test_another_content_later_needs_its_sha256(tmp_path: Path, upstream: Upstream, run_module: Run) -> None:
    args = arguments(tmp_path, upstream, APEX)
    old = run_module("rlinf_wheel_cache", args)["results"][0]["sha256"]
    build_wheel(served(upstream, APEX).parent, "apex", "0.1", tags="cp311-cp311-linux_x86_64", modules={"apex.py": "new = True\n"})
    new = sha256(served(upstream, APEX))
    assert not run_module("rlinf_wheel_cache", args)["changed"]
    (tmp_path / "bundle/wheels" / APEX).unlink()
    with pytest.raises(ModuleFailed, match=f"(?s){old}.*give sha256: {new} in the catalogue"):
        run_module("rlinf_wheel_cache", args)
    args["wheels"][0]["sha256"] = new
    assert run_module("rlinf_wheel_cache", args)["results"][0]["sha256"] == new
    args["wheels"][0].pop("sha256")
    assert not run_module("rlinf_wheel_cache", args)["changed"]


def test_credentials_come_out_nowhere(tmp_path: Path, upstream: Upstream, run_module: Run) -> None:
    upstream.require_login("/git", "someone", "hidden-word")
    args = arguments(tmp_path, upstream, APEX)
    with pytest.raises(ModuleFailed, match=r"asks for credentials \(401\)"):
        run_module("rlinf_wheel_cache", args)
    args["url_rewrites"] = {GITHUB: args["url_rewrites"][GITHUB].replace("://", "://someone:hidden-word@")}
    done = run_module("rlinf_wheel_cache", args, diff=True)
    (tmp_path / "bundle/wheels" / APEX).unlink()
    upstream.always("*", Fault(status=403))
    with pytest.raises(ModuleFailed) as failure:
        run_module("rlinf_wheel_cache", args)
    texts = [json.dumps(done), json.dumps(failure.value.result), (tmp_path / "bundle/records/urls.json").read_text()]
    assert all("hidden-word" not in text for text in texts)


def test_killed_in_mid_download_it_goes_on(tmp_path: Path, upstream: Upstream, run_module: Run) -> None:
    large = {"flash_attn/data.bin": random.Random(2).randbytes(4 << 20)}
    wheel = build_wheel(
        served(upstream, FLASH).parent, "flash-attn", "2.7.4.post1+cu12", tags="cp311-cp311-linux_x86_64", extra_files=large
    )
    os.utime(wheel, (1_700_000_000, 1_700_000_000))
    upstream.script("*flash*", Fault(stall=3 << 20))
    args = arguments(tmp_path, upstream, FLASH)
    part = tmp_path / "bundle/wheels" / f"{FLASH}.part"
    lock = tmp_path / "bundle/.lock"

    def kill() -> None:
        while not part.exists() or part.stat().st_size < 2 << 20:
            pass
        os.kill(int(lock.read_text().split()[0]), signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with pytest.raises(subprocess.CalledProcessError):
        run_module("rlinf_wheel_cache", args)
    killer.join()
    done = run_module("rlinf_wheel_cache", args)
    assert done["results"][0]["bytes"] <= wheel.stat().st_size - (2 << 20)
    assert [request.status for request in upstream.requests()] == [200, 206]
    assert [path.name for path in part.parent.iterdir()] == [FLASH]
    assert sha256(part.with_name(FLASH)) == sha256(wheel)


def test_a_dead_server_ends_within_the_time_limit(tmp_path: Path, upstream: Upstream, run_module: Run) -> None:
    upstream.always("*apex*", Fault(stall=100))
    with pytest.raises(ModuleFailed, match="fell silent; given up, since there was no progress within 3 seconds"):
        run_module("rlinf_wheel_cache", arguments(tmp_path, upstream, timeout=3))
    assert [path.name for path in (tmp_path / "bundle/wheels").iterdir() if path.suffix != ".part"] == [FLASH]
