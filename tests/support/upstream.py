# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small upstream on loopback: files, git over smart HTTP and a package index, with faults on demand. Standard library and git only.

What lies under ROOT is served under its own path, with Range, If-Range, ETag and Last-Modified (RFC 9110). Besides::

    ROOT/git/<host>/<owner>/<name>.git   git over smart HTTP, pushes too, at /git/<host>/<owner>/<name>.git (or without .git)
    ROOT/git/…/<name>.git/lfs/objects/…  its LFS objects, by the batch API (git-lfs, docs/api/batch.md)
    ROOT/git/<host>/…                    any other file that this host would serve (release assets, archives)
    ROOT/index/*.whl, *.tar.gz           an index at /simple/ (PEP 503, 658, 691, 700); the time of upload is the file's mtime

so that one rewrite, ``https://github.com/`` to ``<url>/git/github.com/``, stands in for a host. In a test::

    with Upstream(tmp_path) as upstream:
        upstream.script("/files/a.whl", Fault(cut=100), Fault(status=503))   # the next two answers for this path
        upstream.always("/git/*/info/refs", Fault(status=403))               # every answer for these paths
        ...
        assert [request.status for request in upstream.requests("/files/a.whl")] == [200, 503, 206]

or by hand: ``python -m tests.support.upstream --root DIR --port 0`` prints its URL and serves until it is ended.
"""

from __future__ import annotations

import argparse
import base64
import datetime
import email.utils
import fnmatch
import hashlib
import html
import json
import os
import random
import re
import signal
import socket
import ssl
import subprocess
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

SIMPLE_JSON = "application/vnd.pypi.simple.v1+json"
BATCH = "/info/lfs/objects/batch"
SIMPLE_HTML = "text/html; charset=utf-8"
_CHUNK = 65536
_DISTRIBUTION = re.compile(r"(?P<name>.+?)-(?P<version>\d[^-]*?)(-.+\.whl|\.tar\.gz)\Z")


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one answer. Everything not given is as it should be.

    *status*: an answer with this status and no content of the file. *body*: this content with status 200, instead of the file's.
    *headers*: set over those of the answer; None takes one away. *length*: the Content-Length it claims.
    *cut*: the connection ends after so many bytes of content; with a :class:`random.Random` after a random number of them, all included.
    *stall*: after so many bytes of content nothing more comes and the connection stays open; *stall_before_headers*: at once.
    *before*: called before the answer is made, for example to change the file. *pace*: seconds between each 64 KiB of content.
    """

    status: int | None = None
    body: bytes | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    length: int | None = None
    cut: int | random.Random | None = None
    stall: int | None = None
    stall_before_headers: bool = False
    before: Callable[[], object] | None = None
    pace: float = 0


@dataclass(frozen=True)
class Request:
    """One request, the status it was answered with and the address it came from; the names of the headers are in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    status: int
    client: str


class Upstream:
    """The server; a context manager that starts and stops it.

    :param root: the directory that is served.
    :param port: 0 takes a free one.
    :param upload_times: whether the index says when a file was uploaded (PEP 700); many mirrors don't.
    :param as_json: whether the index has JSON pages (PEP 691), or the old ones alone.
    :param relative_links: whether the index writes the URLs of files relative to its page.
    :param certificate: a PEM file with a certificate and its key: then it is served over TLS.
    :param log: a file to which every request is appended, as a line of JSON.
    """

    def __init__(
        self,
        root: Path,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        upload_times: bool = True,
        as_json: bool = True,
        relative_links: bool = False,
        certificate: Path | None = None,
        log: Path | None = None,
    ) -> None:
        self.root = root.resolve()
        self.upload_times, self.as_json, self.relative_links = upload_times, as_json, relative_links
        self._log_file = log
        self._log: list[Request] = []
        self._scripts: dict[str, list[Fault]] = {}
        self._always: dict[str, Fault] = {}
        self._logins: dict[str, str] = {}
        self._digests: dict[tuple[Path, int, int], str] = {}
        self._guard = threading.Lock()
        self.stopping = threading.Event()
        self._server = _Server((host, port), _Handler)
        self._server.upstream = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        if certificate:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"{'https' if certificate else 'http'}://{host}:{self._server.server_address[1]}"

    def start(self) -> Upstream:
        """Serve from now on, in threads of their own."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End, with every stalled answer."""
        self.stopping.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Upstream:
        return self.start()

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    # -- what a test says

    def script(self, path: str, *faults: Fault) -> None:
        """Let the next answers for *path* (a pattern, as for a shell) go wrong, one fault each, in this order."""
        with self._guard:
            self._scripts.setdefault(path, []).extend(faults)

    def always(self, path: str, fault: Fault | None) -> None:
        """Let every answer for *path* (a pattern) go wrong, once its script is through; None ends that."""
        with self._guard:
            self._always.pop(path, None)
            if fault:
                self._always[path] = fault

    def sound(self) -> None:
        """Let nothing go wrong any more."""
        with self._guard:
            self._scripts.clear()
            self._always.clear()

    def require_login(self, prefix: str, user: str, password: str) -> None:
        """Answer 401 to whatever begins with *prefix* unless these credentials come with it."""
        self._logins[prefix] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    def requests(self, path: str = "*") -> list[Request]:
        """Return the requests so far whose path fits the pattern."""
        with self._guard:
            return [request for request in self._log if fnmatch.fnmatchcase(request.path, path)]

    def forget(self) -> None:
        """Empty the log of requests."""
        with self._guard:
            self._log.clear()

    # -- what the handler asks

    def fault_for(self, path: str) -> Fault:
        """Return the fault that is due for *path*."""
        with self._guard:
            for pattern, faults in self._scripts.items():
                if faults and fnmatch.fnmatchcase(path, pattern):
                    return faults.pop(0)
            return next((fault for pattern, fault in self._always.items() if fnmatch.fnmatchcase(path, pattern)), Fault())

    def may_enter(self, path: str, authorization: str | None) -> bool:
        """Return whether the credentials that *path* needs have come."""
        return all(authorization == wanted for prefix, wanted in self._logins.items() if path.startswith(prefix))

    def record(self, request: Request) -> None:
        """Append to the log."""
        with self._guard:
            self._log.append(request)
            if self._log_file:
                with self._log_file.open("a", encoding="utf-8") as stream:
                    said = {"client": request.client, "method": request.method, "path": request.path, "status": request.status}
                    stream.write(json.dumps(said) + "\n")

    def file(self, path: str) -> Path | None:
        """Return the file that lies under a URL's path, if it is one and lies below the root."""
        place = (self.root / unquote(path).lstrip("/")).resolve()
        return place if place.is_file() and place.is_relative_to(self.root) else None

    def sha256(self, path: Path) -> str:
        """Return a file's SHA-256, computed once."""
        status = path.stat()
        key = (path, status.st_mtime_ns, status.st_size)
        if key not in self._digests:
            self._digests[key] = hashlib.sha256(path.read_bytes()).hexdigest()
        return self._digests[key]


@dataclass
class _Answer:
    status: int
    headers: dict[str, str]
    body: bytes = b""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    upstream: Upstream

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        upstream = self.server.upstream
        parts = urlsplit(self.path)
        body = self._request_body()
        fault = upstream.fault_for(parts.path)
        if fault.before:
            fault.before()
        if not upstream.may_enter(parts.path, self.headers.get("Authorization")):
            answer = _Answer(401, {"WWW-Authenticate": 'Basic realm="upstream"'}, b"log in\n")
        elif fault.status is not None:
            answer = _Answer(fault.status, {"Content-Type": "text/plain"}, fault.body or b"")
        elif fault.body is not None:
            answer = _Answer(200, {"Content-Type": "application/octet-stream"}, fault.body)
        else:
            answer = self._answer(parts.path, parts.query, body)
        headers = {name.lower(): value for name, value in self.headers.items()}
        upstream.record(Request(self.command, parts.path, parts.query, headers, answer.status, self.client_address[0]))
        self._send(answer, fault)

    do_HEAD = do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """The log is kept by the upstream."""

    def _request_body(self) -> bytes:
        """Read the body of a request; git sends a long one in chunks."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    def _answer(self, path: str, query: str, body: bytes) -> _Answer:
        upstream = self.server.upstream
        repository = _repository(upstream.root, path)
        if repository:
            return self._git(*repository, query, body)
        if path.endswith(BATCH):
            return _lfs_batch(upstream, path, body)
        if path.startswith("/simple/"):
            return _simple(upstream, path, self.headers.get("Accept", ""))
        place = upstream.file(path)
        if place:
            return self._file(place)
        wheel = upstream.file(path.removesuffix(".metadata")) if path.endswith(".whl.metadata") else None
        if wheel:
            return _Answer(200, {"Content-Type": "text/plain"}, _core_metadata(wheel) or b"")
        return _Answer(404, {"Content-Type": "text/plain"}, b"not found\n")

    def _file(self, place: Path) -> _Answer:
        """Answer with a file, or the part of it that is asked for (RFC 9110, 13 and 14)."""
        status = place.stat()
        etag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
        modified = email.utils.formatdate(status.st_mtime, usegmt=True)
        headers = {"ETag": etag, "Last-Modified": modified, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        if self.headers.get("If-None-Match") == etag:
            return _Answer(304, headers)
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not asked or self.headers.get("If-Range", etag) not in (etag, modified):
            return _Answer(200, headers, place.read_bytes())
        first, last = asked[1], asked[2]
        start = int(first) if first else max(status.st_size - int(last or 0), 0)
        end = min(int(last), status.st_size - 1) if first and last else status.st_size - 1
        if start > end:
            return _Answer(416, {**headers, "Content-Range": f"bytes */{status.st_size}"})
        with place.open("rb") as stream:
            stream.seek(start)
            part = stream.read(end - start + 1)
        return _Answer(206, {**headers, "Content-Range": f"bytes {start}-{end}/{status.st_size}"}, part)

    def _git(self, repository: Path, rest: str, query: str, body: bytes) -> _Answer:
        """Answer by ``git http-backend``, which speaks CGI, as generously as GitHub does."""
        allowed = {
            "safe.directory": "*",
            "uploadpack.allowAnySHA1InWant": "true",
            "uploadpack.allowFilter": "true",
            "http.receivepack": "true",
        }
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_COUNT": str(len(allowed)),
            **{f"GIT_CONFIG_KEY_{number}": name for number, name in enumerate(allowed)},
            **{f"GIT_CONFIG_VALUE_{number}": value for number, value in enumerate(allowed.values())},
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROJECT_ROOT": str(repository.parent),
            "PATH_INFO": f"/{repository.name}{rest}",
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True, check=False)
        head, _ignored, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
        return _Answer(int(headers.pop("Status", "200").split()[0]), headers, content)

    def _send(self, answer: _Answer, fault: Fault) -> None:
        if fault.stall_before_headers:
            return self._hold()
        length = len(answer.body) if fault.length is None else fault.length
        headers: dict[str, str | None] = {"Date": self.date_time_string(), **answer.headers, "Content-Length": str(length), **fault.headers}
        self.send_response_only(answer.status, HTTPStatus(answer.status).phrase)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return None
        cut = fault.cut.randint(0, len(answer.body)) if isinstance(fault.cut, random.Random) else fault.cut
        if fault.stall is not None:
            self.wfile.write(answer.body[: fault.stall])
            return self._hold()
        content = answer.body if cut is None else answer.body[:cut]
        for start in range(0, len(content), _CHUNK) if fault.pace else ():
            self.wfile.write(content[start : start + _CHUNK])
            time.sleep(fault.pace)
        if not fault.pace:
            self.wfile.write(content)
        if (cut is not None and cut < len(answer.body)) or length != len(answer.body):
            self._hang_up()
        return None

    def _hold(self) -> None:
        """Keep the connection open and silent until the end."""
        self.server.upstream.stopping.wait()
        self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


def _repository(root: Path, path: str) -> tuple[Path, str] | None:
    """Return the repository that a URL's path leads to and the rest of the path, if it leads to one."""
    asked = re.match(r"/git/(?P<name>.+?)(?P<rest>/info/refs|/git-upload-pack|/git-receive-pack|/HEAD|/objects/.+)\Z", path)
    for name in (asked["name"], f"{asked['name']}.git") if asked else ():
        place = (root / "git" / unquote(name)).resolve()
        if asked and place.is_relative_to(root) and (place / "HEAD").is_file():
            return place, asked["rest"]
    return None


def _lfs_batch(upstream: Upstream, path: str, body: bytes) -> _Answer:
    """Say where the LFS objects are that git-lfs asks for; a repository may be named with or without ``.git``."""
    repository = path.removesuffix(BATCH).removesuffix(".git") + ".git"
    answers: list[dict[str, Any]] = []
    for asked in json.loads(body)["objects"]:
        oid = asked["oid"]
        place = f"{repository}/lfs/objects/{oid[:2]}/{oid[2:4]}/{oid}"
        there = upstream.file(place) is not None
        told = {"actions": {"download": {"href": upstream.url + place}}} if there else {"error": {"code": 404, "message": "not there"}}
        answers.append({**asked, **told})
    content = json.dumps({"transfer": "basic", "objects": answers}).encode()
    return _Answer(200, {"Content-Type": "application/vnd.git-lfs+json"}, content)


def _simple(upstream: Upstream, path: str, accept: str) -> _Answer:
    """Answer as an index: its projects, or the files of one."""
    files: dict[str, list[Path]] = {}
    for place in sorted((upstream.root / "index").glob("*")):
        found = _DISTRIBUTION.match(place.name)
        if found:
            files.setdefault(re.sub(r"[-_.]+", "-", found["name"]).lower(), []).append(place)
    project = path.removeprefix("/simple/").strip("/")
    as_json = upstream.as_json and SIMPLE_JSON in accept
    if not project:
        names = [{"name": name} for name in files]
        links = [f'<a href="/simple/{name}/">{name}</a><br>' for name in files]
        return _page(as_json, {"meta": {"api-version": "1.1"}, "projects": names}, links)
    if project not in files:
        return _Answer(404, {"Content-Type": "text/plain"}, b"not found\n")
    entries = [_index_entry(upstream, place) for place in files[project]]
    versions = sorted({found["version"] for found in map(_DISTRIBUTION.match, (place.name for place in files[project])) if found})
    page = {"meta": {"api-version": "1.1"}, "name": project, "versions": versions, "files": entries}
    return _page(as_json, page, [_index_link(entry) for entry in entries])


def _page(as_json: bool, page: Mapping[str, Any], links: list[str]) -> _Answer:
    if as_json:
        return _Answer(200, {"Content-Type": SIMPLE_JSON}, json.dumps(page).encode())
    return _Answer(200, {"Content-Type": SIMPLE_HTML}, "\n".join(["<!DOCTYPE html><html><body>", *links, "</body></html>"]).encode())


def _index_entry(upstream: Upstream, place: Path) -> dict[str, Any]:
    metadata = _core_metadata(place)
    digest = {"sha256": hashlib.sha256(metadata).hexdigest()} if metadata and place.suffix == ".whl" else False
    wanted = re.search(rb"^Requires-Python: *(.+?)\r?$", metadata or b"", re.MULTILINE)
    uploaded = datetime.datetime.fromtimestamp(int(place.stat().st_mtime), datetime.timezone.utc)
    return {
        "filename": place.name,
        "url": f"{'../..' if upstream.relative_links else upstream.url}/index/{quote(place.name)}",
        "hashes": {"sha256": upstream.sha256(place)},
        "size": place.stat().st_size,
        "core-metadata": digest,
        **({"requires-python": wanted[1].decode()} if wanted else {}),
        **({"upload-time": uploaded.strftime("%Y-%m-%dT%H:%M:%S.000000Z")} if upstream.upload_times else {}),
    }


def _index_link(entry: Mapping[str, Any]) -> str:
    wanted = entry.get("requires-python")
    attributes = f' data-requires-python="{html.escape(wanted)}"' if wanted else ""
    if entry["core-metadata"]:
        attributes += f' data-core-metadata="sha256={entry["core-metadata"]["sha256"]}"'
    return f'<a href="{entry["url"]}#sha256={entry["hashes"]["sha256"]}"{attributes}>{entry["filename"]}</a><br>'


def _core_metadata(place: Path) -> bytes | None:
    """Return a wheel's METADATA or an sdist's PKG-INFO, as far as it can be read."""
    try:
        if place.suffix == ".whl":
            with zipfile.ZipFile(place) as wheel:
                return next((wheel.read(name) for name in wheel.namelist() if name.endswith(".dist-info/METADATA")), None)
        with tarfile.open(place) as sdist:
            found = next((member for member in sdist if member.name.count("/") == 1 and member.name.endswith("/PKG-INFO")), None)
            stream = sdist.extractfile(found) if found else None
            return stream.read() if stream else None
    except (zipfile.BadZipFile, tarfile.TarError):
        return None


def main() -> None:
    """Serve until SIGTERM or SIGINT; print the URL first."""
    parser = argparse.ArgumentParser(description="Serve files, git and a package index on loopback.")
    parser.add_argument("--root", type=Path, required=True, help="the directory that is served")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--no-upload-times", action="store_true", help="let the index not say when a file was uploaded")
    parser.add_argument("--log", type=Path, help="append every request to this file, as a line of JSON")
    options = parser.parse_args()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with Upstream(options.root, options.port, host=options.host, upload_times=not options.no_upload_times, log=options.log) as upstream:
        print(upstream.url, flush=True)
        ended.wait()


if __name__ == "__main__":
    main()
