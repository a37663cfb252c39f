# SPDX-License-Identifier: GPL-3.0-or-later
"""The downloader against a server that does what servers do: cuts, stalls, lies, changes its mind."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.rlinf.offline.plugins.module_utils import _fetch
from ansible_collections.rlinf.offline.plugins.module_utils._errors import ArchiveError, FetchError
from ansible_collections.rlinf.offline.plugins.module_utils._fetch import Download, Fetched, Fetcher, Record, Records
from ansible_collections.rlinf.offline.plugins.module_utils._network import Network
from ansible_collections.rlinf.offline.plugins.module_utils._urls import Rewrites
from tests.support.upstream import Fault, Upstream

CONTENT = random.Random(1).randbytes(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
OTHER = random.Random(2).randbytes(300_000)


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Upstream]:
    root = tmp_path / "upstream"
    root.mkdir()
    (root / "a.bin").write_bytes(CONTENT)
    # older than a second, so that its date is a strong validator (RFC 9110, 8.8.2.2)
    os.utime(root / "a.bin", (1_700_000_000, 1_700_000_000))
    with Upstream(root) as server:
        yield server


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "bundle" / "wheels" / "a.bin"


def fetcher(**options: Any) -> Fetcher:
    records = options.pop("records", None)
    return Fetcher(Network(**{"timeout": 20, "jobs": 4, "backoff": 0.001, **options}), records=records)


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.parent.iterdir())


def statuses(upstream: Upstream) -> list[int]:
    return [request.status for request in upstream.requests()]


def test_a_file_comes_whole_with_nothing_left_beside_it(upstream: Upstream, place: Path) -> None:
    got = fetcher().fetch(Download(f"{upstream.url}/a.bin", place, sha256=DIGEST, size=len(CONTENT)))
    assert place.read_bytes() == CONTENT
    assert names(place) == ["a.bin"]
    assert (got.sha256, got.size, got.bytes_transferred, got.changed) == (DIGEST, len(CONTENT), len(CONTENT), True)
    assert place.stat().st_mode & 0o777 == 0o644
    [request] = upstream.requests()
    assert request.method == "GET"
    assert request.headers["accept-encoding"] == "identity"
    assert "range" not in request.headers


def test_what_is_there_and_right_needs_no_network(upstream: Upstream, place: Path) -> None:
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    got = fetcher().fetch(Download(f"{upstream.url}/a.bin", place, sha256=DIGEST))
    assert (got.changed, got.bytes_transferred) == (False, 0)
    assert upstream.requests() == []


@pytest.mark.parametrize("damaged", [b"", CONTENT[:-1], OTHER, CONTENT[:-1] + b"x"])
def test_what_is_there_and_wrong_is_fetched_again(upstream: Upstream, place: Path, damaged: bytes) -> None:
    place.parent.mkdir(parents=True)
    place.write_bytes(damaged)
    assert fetcher().fetch(Download(f"{upstream.url}/a.bin", place, sha256=DIGEST)).changed
    assert place.read_bytes() == CONTENT


@pytest.mark.parametrize("seed", range(8))
def test_every_answer_is_cut_at_a_random_byte(upstream: Upstream, place: Path, seed: int) -> None:
    upstream.always("/a.bin", Fault(cut=random.Random(seed)))
    got = fetcher().fetch(Download(f"{upstream.url}/a.bin", place))
    assert place.read_bytes() == CONTENT
    assert got.sha256 == DIGEST
    # resumed, not begun again: what was transferred is exactly the file
    assert got.bytes_transferred == len(CONTENT)
    assert all(request.headers.get("if-range") for request in upstream.requests()[1:] if "range" in request.headers)
    assert names(place) == ["a.bin"]


@pytest.mark.parametrize(
    ("headers", "resumed"),
    [
        ({}, True),
        ({"ETag": None}, True),
        ({"ETag": 'W/"weak"'}, False),
        ({"ETag": None, "Last-Modified": None}, False),
        ({"ETag": None, "Date": "Tue, 14 Nov 2023 22:13:20 GMT"}, False),
    ],
    ids=["strong etag", "date", "weak etag", "nothing", "date of the same second"],
)
def test_only_strong_validators_continue_a_file(upstream: Upstream, place: Path, headers: dict[str, str | None], resumed: bool) -> None:
    upstream.script("/a.bin", Fault(cut=1000, headers=headers))
    fetcher().fetch(Download(f"{upstream.url}/a.bin", place, sha256=DIGEST))
    assert place.read_bytes() == CONTENT
    assert statuses(upstream) == [200, 206 if resumed else 200]


def test_the_file_changes_while_it_comes(upstream: Upstream, place: Path) -> None:
    upstream.script("/a.bin", Fault(cut=1000), Fault(before=lambda: (upstream.root / "a.bin").write_bytes(OTHER)))
    fetcher().fetch(Download(f"{upstream.url}/a.bin", place))
    assert place.read_bytes() == OTHER
    assert statuses(upstream) == [200, 200]


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": '"new"'},
        {"Content-Range": "bytes 999-299999/300000"},
        {"Content-Range": "bytes 1000-299999/300001"},
        {"Content-Range": None},
        {"Content-Range": "lines 1-2/3"},
    ],
    ids=["other etag", "other start", "other length", "no content-range", "other unit"],
)
def test_a_part_that_is_not_the_rest_is_not_taken(upstream: Upstream, place: Path, headers: dict[str, str | None]) -> None:
    upstream.script("/a.bin", Fault(cut=1000), Fault(headers=headers))
    fetcher().fetch(Download(f"{upstream.url}/a.bin", place))
    assert place.read_bytes() == CONTENT
    assert statuses(upstream) == [200, 206, 200]


def test_a_range_that_is_refused_starts_over(upstream: Upstream, place: Path) -> None:
    upstream.script("/a.bin", Fault(cut=1000), Fault(status=416))
    fetcher().fetch(Download(f"{upstream.url}/a.bin", place))
    assert place.read_bytes() == CONTENT
    assert statuses(upstream) == [200, 416, 200]


def test_a_server_that_cannot_resume_and_always_cuts_is_given_up(upstream: Upstream, place: Path) -> None:
    upstream.always("/a.bin", Fault(cut=1000, headers={"ETag": None, "Last-Modified": None}))
    with pytest.raises(FetchError, match="could be continued; given up after 5 attempts from the beginning"):
        fetcher().fetch(Download(f"{upstream.url}/a.bin", place))
    assert not place.exists()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(body=OTHER), "has the sha256"),
        (Fault(body=CONTENT[:-1]), "a file of 299999 bytes there, not of 300000"),
        (Fault(body=b"", length=0), "a file of 0 bytes there, not of 300000"),
        (Fault(length=len(CONTENT) - 1), "a file of 299999 bytes there, not of 300000"),
        (Fault(length=len(CONTENT) + 1), "a file of 300001 bytes there, not of 300000"),
        (Fault(body=CONTENT[:-1] + b"x"), "has the sha256"),
    ],
    ids=["content", "shorter", "empty", "claims less", "claims more", "last byte"],
)
def test_a_liar_leaves_nothing_under_the_final_name(upstream: Upstream, place: Path, fault: Fault, said: str) -> None:
    upstream.always("/a.bin", fault)
    with pytest.raises(FetchError, match=said) as raised:
        fetcher().fetch(Download(f"{upstream.url}/a.bin", place, sha256=DIGEST, size=len(CONTENT)))
    assert "give its new sha256" in str(raised.value)
    assert names(place) == []


def test_a_length_that_is_never_reached_without_anything_known(upstream: Upstream, place: Path) -> None:
    upstream.always("/a.bin", Fault(length=len(CONTENT) + 1, headers={"Content-Range": None}))
    with pytest.raises(FetchError, match="given up"):
        fetcher().fetch(Download(f"{upstream.url}/a.bin", place))
    assert not place.exists()


def test_without_length_or_digest_a_cut_file_could_not_be_told(upstream: Upstream, place: Path) -> None:
    upstream.always("/a.bin", Fault(headers={"Content-Length": None, "Connection": "close"}, cut=5000))
    with pytest.raises(FetchError, match="does not say how long"):
        fetcher().fetch(Download(f"{upstream.url}/a.bin", place))
    assert not place.exists()


def test_a_login_page_is_no_file(upstream: Upstream, place: Path) -> None:
    upstream.always("/a.bin", Fault(body=b"<html>log in", headers={"Content-Type": "text/html"}))
    with pytest.raises(FetchError, match="web page instead of the file"):
        fetcher().fetch(Download(f"{upstream.url}/a.bin", place))


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, r"asks for credentials \(401\).*or in ~/.netrc"),
        (403, r"refuses access \(403\).*user:token@host"),
        (404, r"no such file \(404\)"),
        (410, r"no longer has"),
        (418, "answers 418"),
        (204, "answers 204"),
    ],
)
def test_a_refusal_is_not_tried_again(upstream: Upstream, place: Path, status: int, said: str) -> None:
    upstream.always("/a.bin", Fault(status=status))
    with pytest.raises(FetchError, match=said):
        fetcher().fetch(Download(f"{upstream.url}/a.bin", place))
    assert statuses(upstream) == [status]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_trouble_passes(upstream: Upstream, place: Path, status: int) -> None:
    upstream.script("/a.bin", Fault(status=status), Fault(status=status, headers={"Retry-After": "0"}))
    fetcher().fetch(Download(f"{upstream.url}/a.bin", place))
    assert statuses(upstream) == [status, status, 200]


def test_trouble_stays(upstream: Upstream, place: Path) -> None:
    upstream.always("/a.bin", Fault(status=503))
    with pytest.raises(FetchError, match=f"answers 503 Service Unavailable; given up after {_fetch.ATTEMPTS} attempts"):
        fetcher().fetch(Download(f"{upstream.url}/a.bin", place))
    assert len(upstream.requests()) == _fetch.ATTEMPTS


@pytest.mark.parametrize("when", ["3600", "Wed, 21 Oct 2099 07:28:00 GMT"])
def test_a_server_that_asks_for_more_patience_than_there_is(upstream: Upstream, place: Path, when: str) -> None:
    upstream.always("/a.bin", Fault(status=429, headers={"Retry-After": when}))
    with pytest.raises(FetchError, match=r"429 .* asks to wait .* no progress within 20 seconds"):
        fetcher().fetch(Download(f"{upstream.url}/a.bin", place))
    assert len(upstream.requests()) == 1


def test_a_time_to_wait_until_is_of_the_servers_clock(upstream: Upstream, place: Path) -> None:
    when = {"Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT", "Date": "Wed, 21 Oct 2099 07:28:00 GMT"}
    upstream.script("/a.bin", Fault(status=503, headers=when))
    fetcher().fetch(Download(f"{upstream.url}/a.bin", place))
    assert statuses(upstream) == [503, 200]


@pytest.mark.parametrize("fault", [Fault(stall_before_headers=True), Fault(stall=0), Fault(stall=1000)], ids=["head", "start", "middle"])
def test_a_server_that_falls_silent_ends_in_an_error(upstream: Upstream, place: Path, fault: Fault) -> None:
    upstream.always("/a.bin", fault)
    with pytest.raises(FetchError, match=r"fell silent; given up, since there was no progress within 0\.5 seconds"):
        fetcher(timeout=0.5).fetch(Download(f"{upstream.url}/a.bin", place))
    assert not place.exists()


def test_a_server_that_drips_makes_no_progress(place: Path) -> None:
    def drip() -> None:
        connection, _ignored = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
            try:
                while True:
                    connection.sendall(b"x")
                    time.sleep(0.01)
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=drip, daemon=True).start()
        with pytest.raises(FetchError, match=r"bytes came in 1 seconds"):
            fetcher(timeout=1).fetch(Download(f"http://127.0.0.1:{server.getsockname()[1]}/a.bin", place))
    assert not place.exists()


def test_nobody_listens(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(FetchError, match="Connection refused; given up after 10 attempts"):
        fetcher().fetch(Download(f"http://127.0.0.1:{port}/a.bin", place))


def test_an_address_that_swallows_everything_ends_in_time(place: Path) -> None:
    # a listener whose queue is full answers no connection, as a dead host does
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        waiting = [socket.socket() for _ignored in range(3)]
        for other in waiting:
            other.setblocking(False)
            other.connect_ex(server.getsockname())
        with pytest.raises(FetchError, match="does not answer; given up"):
            fetcher(timeout=0.8).fetch(Download(f"http://127.0.0.1:{server.getsockname()[1]}/a.bin", place))
        for other in waiting:
            other.close()


def test_redirects_are_followed_and_ranges_with_them(upstream: Upstream, place: Path) -> None:
    upstream.always("/latest", Fault(status=302, headers={"Location": "/a.bin"}))
    upstream.script("/a.bin", Fault(cut=1000))
    fetcher().fetch(Download(f"{upstream.url}/latest", place))
    assert place.read_bytes() == CONTENT
    assert statuses(upstream) == [302, 200, 302, 206]


def test_redirects_end(upstream: Upstream, place: Path) -> None:
    upstream.always("/loop", Fault(status=302, headers={"Location": "/loop"}))
    with pytest.raises(FetchError, match="more than 10 redirects"):
        fetcher().fetch(Download(f"{upstream.url}/loop", place))


def test_no_redirect_leaves_https() -> None:
    response = _fetch.requests.Response()
    response.status_code, response.url = 302, "https://host/a.bin"
    response.headers["Location"] = "http://user:secret@host/a.bin"
    with pytest.raises(_fetch._Refused, match=r"from https to http://\*\*\*@host/a.bin, which is not protected"):
        fetcher().session.get_redirect_target(response)
    response.headers["Location"] = "/elsewhere"
    assert fetcher().session.get_redirect_target(response) == "/elsewhere"


def test_credentials_are_sent_to_their_host_alone_and_never_shown(upstream: Upstream, place: Path, tmp_path: Path) -> None:
    upstream.require_login("/a.bin", "user", "secret")
    url = f"{upstream.url}/a.bin".replace("://", "://user:secret@")
    records = Records(tmp_path / "records" / "urls.json")
    fetcher(records=records).fetch(Download(url, place))
    assert place.read_bytes() == CONTENT
    assert "secret" not in records.path.read_text()
    assert records.get(f"{upstream.url}/a.bin") == records.get(url)

    with Upstream(upstream.root, host="127.0.0.2") as elsewhere:
        elsewhere.always("/a.bin", Fault(status=404))
        upstream.always("/moved", Fault(status=302, headers={"Location": f"{elsewhere.url}/a.bin"}))
        with pytest.raises(FetchError, match="404") as raised:
            fetcher().fetch(Download(url.replace("/a.bin", "/moved"), place.with_name("b.bin")))
        assert "secret" not in str(raised.value)
        [request] = elsewhere.requests()
        assert "authorization" not in request.headers


def test_a_proxy_is_used_when_given(upstream: Upstream, place: Path) -> None:
    # as a proxy, the upstream sees the whole URL in the request line; only its path matters to it
    fetcher(proxy=upstream.url).fetch(Download("http://never.invalid/a.bin", place))
    assert place.read_bytes() == CONTENT


def test_a_rewritten_url_is_fetched_elsewhere_and_recorded_as_it_is(upstream: Upstream, place: Path, tmp_path: Path) -> None:
    rewrites = Rewrites({"https://huggingface.co/": f"{upstream.url}/"})
    records = Records(tmp_path / "urls.json")
    fetcher(rewrites=rewrites, records=records).fetch(Download("https://huggingface.co/a.bin", place))
    assert records.get("https://huggingface.co/a.bin") is not None
    with pytest.raises(FetchError, match=r"https://huggingface.co/no \(fetched from http://127"):
        fetcher(rewrites=rewrites).fetch(Download("https://huggingface.co/no", place))


def test_a_rewrite_may_lead_to_local_files(upstream: Upstream, place: Path) -> None:
    rewrites = Rewrites({"https://huggingface.co/": f"file://{upstream.root}/"})
    got = fetcher(rewrites=rewrites).fetch(Download("https://huggingface.co/a.bin", place))
    assert (place.read_bytes(), got.sha256) == (CONTENT, DIGEST)
    assert fetcher(rewrites=rewrites).remote_size("https://huggingface.co/a.bin") == len(CONTENT)
    with pytest.raises(FetchError, match="where rlinf_url_rewrites leads to, is not there"):
        fetcher(rewrites=rewrites).fetch(Download("https://huggingface.co/no", place))
    with pytest.raises(FetchError, match="only http and https"):
        fetcher().fetch(Download(f"file://{upstream.root}/a.bin", place.with_name("b")))


def test_the_judge_has_the_last_word_before_the_name(upstream: Upstream, place: Path, tmp_path: Path) -> None:
    def refuse(path: Path) -> None:
        assert path.read_bytes() == CONTENT
        assert not place.exists()
        raise ArchiveError("it is no zip file.")

    records = Records(tmp_path / "urls.json")
    with pytest.raises(FetchError, match="what came is not usable: it is no zip file"):
        fetcher(records=records).fetch(Download(f"{upstream.url}/a.bin", place, judge=refuse))
    assert names(place) == []
    assert records.get(f"{upstream.url}/a.bin") is None


def test_a_full_disk_is_noticed_beforehand(upstream: Upstream, place: Path) -> None:
    upstream.always("/a.bin", Fault(body=b"", length=1 << 60))
    with pytest.raises(FetchError, match=f"{1 << 60} bytes do not fit into .*Make room"):
        fetcher().fetch(Download(f"{upstream.url}/a.bin", place))
    assert names(place) == []


def test_what_was_seen_first_is_enforced(upstream: Upstream, place: Path, tmp_path: Path) -> None:
    path = tmp_path / "records" / "urls.json"
    url = f"{upstream.url}/a.bin"
    first = fetcher(records=Records(path)).fetch(Download(url, place))
    assert json.loads(path.read_text())[url] == {
        "sha256": DIGEST, "size": len(CONTENT), "etag": first.etag, "last_modified": "Tue, 14 Nov 2023 22:13:20 GMT",
    }  # fmt: skip
    stamp = path.stat().st_mtime_ns
    again = fetcher(records=Records(path)).fetch(Download(url, place))
    assert (again.changed, again.etag) == (False, first.etag)
    assert len(upstream.requests()) == 1
    assert path.stat().st_mtime_ns == stamp

    (upstream.root / "a.bin").write_bytes(OTHER[:-5])
    place.unlink()
    new = hashlib.sha256(OTHER[:-5]).hexdigest()
    with pytest.raises(
        FetchError, match=f"(?s)changed since.*300000 bytes and the sha256 {DIGEST}.*299995 bytes and {new}.*give sha256: {new}"
    ):
        fetcher(records=Records(path)).fetch(Download(url, place))
    assert names(place) == []

    assert fetcher(records=Records(path)).fetch(Download(url, place, sha256=new)).changed
    known = Records(path).get(url)
    assert known is not None
    assert known.sha256 == new


def test_records_that_are_damaged_are_named(tmp_path: Path) -> None:
    path = tmp_path / "urls.json"
    for content in ("{", "[]", '{"u": 3}', '{"u": {"digest": ""}}'):
        path.write_text(content)
        with pytest.raises(FetchError, match=f"{path} is damaged"):
            Records(path)


def test_records_of_many_threads(tmp_path: Path, upstream: Upstream) -> None:
    records = Records(tmp_path / "urls.json")
    urls = [f"{upstream.url}/{number}.bin" for number in range(40)]
    for number in range(40):
        (upstream.root / f"{number}.bin").write_bytes(b"%d" % number)
    done = fetcher(records=records, jobs=8).fetch_all([Download(url, tmp_path / "to" / url[-7:].replace("/", "_")) for url in urls])
    assert all(isinstance(one, Fetched) for one in done)
    again = Records(records.path)
    assert [again.get(url) for url in urls] == [
        Record(one.sha256, one.size, one.etag, one.last_modified) for one in done if isinstance(one, Fetched)
    ]


def test_one_failure_stops_none_and_order_is_kept(upstream: Upstream, place: Path) -> None:
    upstream.script("/a.bin", Fault(cut=10))
    downloads = [
        Download(f"{upstream.url}/a.bin", place),
        Download(f"{upstream.url}/missing", place.with_name("missing")),
        Download("gopher://x/y", place.with_name("gopher")),
        Download(f"{upstream.url}/a.bin", place / "below a file"),
        Download(f"{upstream.url}/a.bin", place.with_name("b.bin"), sha256=DIGEST),
    ]
    place.parent.mkdir(parents=True)
    place.write_bytes(b"")
    first, missing, gopher, below, last = fetcher(jobs=1).fetch_all(downloads)
    assert isinstance(first, Fetched)
    assert "404" in str(missing)
    assert "only http and https" in str(gopher)
    assert isinstance(below, FetchError)
    assert str(place) in str(below)
    assert isinstance(last, Fetched)


def test_hundreds_of_known_files_take_one_request_each(upstream: Upstream, tmp_path: Path) -> None:
    downloads = []
    for number in range(200):
        data = b"%d" % number * 50
        (upstream.root / f"{number}.whl").write_bytes(data)
        downloads.append(
            Download(f"{upstream.url}/{number}.whl", tmp_path / "index" / f"{number}.whl", hashlib.sha256(data).hexdigest(), len(data))
        )
    assert all(isinstance(one, Fetched) and one.changed for one in fetcher(jobs=8).fetch_all(downloads))
    assert [request.method for request in upstream.requests()] == ["GET"] * 200
    assert all(isinstance(one, Fetched) and not one.changed for one in fetcher(jobs=8).fetch_all(downloads))
    assert len(upstream.requests()) == 200


def test_head_tells_the_size(upstream: Upstream) -> None:
    assert fetcher().remote_size(f"{upstream.url}/a.bin") == len(CONTENT)
    assert [request.method for request in upstream.requests()] == ["HEAD"]
    with pytest.raises(FetchError, match="404"):
        fetcher().remote_size(f"{upstream.url}/no")
    with pytest.raises(FetchError, match="refused"):
        fetcher().remote_size("http://127.0.0.1:1/no")


# -- killed

LARGE = random.Random(3).randbytes(4 << 20)
CHILD = """
import sys
from pathlib import Path
from ansible_collections.rlinf.offline.plugins.module_utils._fetch import Download, Fetcher, Records
from ansible_collections.rlinf.offline.plugins.module_utils._network import Network
url, place, records, sha256 = sys.argv[1:]
fetcher = Fetcher(Network(timeout=20, jobs=1, backoff=0.001), records=Records(Path(records)))
fetcher.fetch(Download(url, Path(place), sha256=sha256 or None))
"""


@pytest.fixture
def child(upstream: Upstream, place: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """Start a process that fetches LARGE; it can be killed."""
    (upstream.root / "large.bin").write_bytes(LARGE)
    os.utime(upstream.root / "large.bin", (1_700_000_000, 1_700_000_000))

    def start(sha256: str = "", **env: str) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-c", CHILD, f"{upstream.url}/large.bin", str(place), str(tmp_path / "records" / "urls.json"), sha256]
        return subprocess.Popen(argv, env={**os.environ, **env})

    return start


def kill_in_mid_download(process: subprocess.Popen[bytes], place: Path, size: int) -> None:
    part = place.with_name(f"{place.name}.part")
    while not part.exists() or part.stat().st_size < size:
        assert process.poll() is None
    process.kill()
    assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("sha256", ["", hashlib.sha256(LARGE).hexdigest()], ids=["unknown", "known"])
def test_killed_in_mid_download_it_goes_on(upstream: Upstream, place: Path, child: Callable[..., Any], sha256: str) -> None:
    upstream.script("/large.bin", Fault(stall=3 << 20))
    kill_in_mid_download(child(sha256), place, 2 << 20)
    assert not place.exists()
    assert child(sha256).wait() == 0
    assert place.read_bytes() == LARGE
    first, second = upstream.requests()
    assert (first.status, second.status) == (200, 206)
    assert int(second.headers["range"].removeprefix("bytes=").rstrip("-")) >= 2 << 20
    assert names(place) == ["a.bin"]


def test_what_was_left_damaged_is_started_over(upstream: Upstream, place: Path, child: Callable[..., Any]) -> None:
    upstream.script("/large.bin", Fault(stall=3 << 20))
    kill_in_mid_download(child(), place, 2 << 20)
    part = place.with_name("a.bin.part")
    part.write_bytes(bytes(part.stat().st_size))
    assert child(hashlib.sha256(LARGE).hexdigest()).wait() == 0
    assert place.read_bytes() == LARGE
    assert statuses(upstream) == [200, 206, 200]


def test_what_was_written_before_the_machine_went_down_is_not_trusted(upstream: Upstream, place: Path, child: Callable[..., Any]) -> None:
    upstream.script("/large.bin", Fault(stall=3 << 20))
    kill_in_mid_download(child(), place, 2 << 20)
    notes = place.with_name("a.bin.seen.part")
    notes.write_text(json.dumps({**json.loads(notes.read_text()), "boot": "an earlier one"}))
    assert child().wait() == 0
    assert place.read_bytes() == LARGE
    assert statuses(upstream) == [200, 200]


def test_what_another_url_left_is_not_continued(upstream: Upstream, place: Path, child: Callable[..., Any]) -> None:
    upstream.script("/large.bin", Fault(stall=3 << 20))
    kill_in_mid_download(child(), place, 2 << 20)
    (upstream.root / "large.bin").rename(upstream.root / "other.bin")
    fetcher().fetch(Download(f"{upstream.url}/other.bin", place))
    assert place.read_bytes() == LARGE
    assert statuses(upstream) == [200, 200]


def test_killed_at_every_step_it_ends_whole_and_on_record(
    upstream: Upstream, place: Path, tmp_path: Path, child: Callable[..., Any]
) -> None:
    records = tmp_path / "records" / "urls.json"
    for step in range(1, 100):
        process = child(RLINF_FAULT_AT=str(step))
        process.wait()
        if place.exists():
            assert place.read_bytes() == LARGE
            # what has its name is on record
            assert json.loads(records.read_text())[f"{upstream.url}/large.bin"]["sha256"] == hashlib.sha256(LARGE).hexdigest()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        fetcher(records=Records(records)).fetch(Download(f"{upstream.url}/large.bin", place))
        assert place.read_bytes() == LARGE
        assert names(place) == ["a.bin"]
        place.unlink()
        records.unlink()
    assert step > 10
