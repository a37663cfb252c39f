# Copyright (c) The rlinf.offline authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The only downloader: files over HTTP, whole and right or not at all (RFC 9110, 13 and 14).

A file grows as ``<name>.part`` beside its place, is hashed while it comes, and gets its name only after its length and content
were found right. What an earlier run left is continued where the server can say that the file is still the same; whatever else
happens, it is started over.
"""

from __future__ import annotations

import email.utils
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urljoin, urlsplit

import requests
import urllib3
from requests.utils import get_netrc_auth, should_bypass_proxies

from ansible_collections.rlinf.offline.plugins.module_utils._errors import FetchError, OfflineError
from ansible_collections.rlinf.offline.plugins.module_utils._faults import checkpoint
from ansible_collections.rlinf.offline.plugins.module_utils._files import read_json, remove, rename, sha256_file, write_json
from ansible_collections.rlinf.offline.plugins.module_utils._layout import Bundle
from ansible_collections.rlinf.offline.plugins.module_utils._network import ATTEMPTS, Network
from ansible_collections.rlinf.offline.plugins.module_utils._progress import Meter
from ansible_collections.rlinf.offline.plugins.module_utils._records import RECORD_REMEDY, URLS
from ansible_collections.rlinf.offline.plugins.module_utils._urls import redact, without_userinfo

Item = TypeVar("Item")
Result = TypeVar("Result")
CHUNK = 1 << 16
"""Bytes read from the network at a time."""
SLOWEST = 1024
"""Bytes a second; a transfer that stays below it for the whole time limit makes no progress."""
STARTS = 5
"""How often a file may be started over."""
REDIRECTS = 10
WORTH_RESUMING = 1 << 20
"""Bytes from which on a later run finds what is needed to continue a file; below, starting over is cheaper."""
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)\Z")


@dataclass(frozen=True)
class Download:
    """One file to fetch.

    :param sha256: what its content must be; without it, what was recorded at its first download.
    :param size: its length in bytes, if it is known beforehand.
    :param judge: called with the complete file before it gets its name; what it raises (an :class:`OfflineError`) refuses the file.
    """

    url: str
    destination: Path
    sha256: str | None = None
    size: int | None = None
    judge: Callable[[Path], object] | None = None


@dataclass(frozen=True)
class Fetched:
    """What became of a download; *size* and *bytes_transferred* in bytes. Not *changed*: the file was there already, as it must be."""

    sha256: str
    size: int
    etag: str | None
    last_modified: str | None
    bytes_transferred: int
    seconds: float
    changed: bool


@dataclass(frozen=True)
class Record:
    """What was seen when a URL was first downloaded."""

    sha256: str
    size: int
    etag: str | None = None
    last_modified: str | None = None


class Records:
    """``records/urls.json``: what was seen at first download is enforced from then on. May be used by several threads.

    :raises FetchError: the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._guard = threading.Lock()
        self._writing = threading.Lock()
        self._version = self._written = 0
        try:
            known = read_json(path, FetchError, URLS, RECORD_REMEDY)
        except FileNotFoundError:
            known = {}
        names = [item.name for item in fields(Record)]
        self._known = {url: Record(**{name: record.get(name) for name in names}) for url, record in known.items()}

    @classmethod
    def of(cls, bundle: Bundle) -> Records:
        """Return those of a bundle."""
        return cls(bundle.records / "urls.json")

    def get(self, url: str) -> Record | None:
        """Return what is known of *url*, credentials in it aside."""
        return self._known.get(without_userinfo(url))

    def put(self, url: str, record: Record) -> None:
        """Remember *record* for *url*."""
        key = without_userinfo(url)
        with self._guard:
            if self._known.get(key) == record:
                return
            self._known[key] = record
            self._version = mine = self._version + 1
        with self._writing:
            if self._written >= mine:
                return  # the write before this one came late enough to hold it: one serves all that wait
            with self._guard:
                known, version = {name: asdict(value) for name, value in self._known.items()}, self._version
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, known)
            self._written = version


class Fetcher:
    """Fetches files. One may be shared by threads; each has a session, and so connections, of its own.

    :param network: how servers are reached.
    :param records: where what was seen is kept; without it, only what a download itself says is enforced.
    """

    def __init__(self, network: Network, *, records: Records | None = None) -> None:
        self.network = network
        self.records = records
        self.stop = threading.Event()
        self._local = threading.local()

    @property
    def session(self) -> requests.Session:
        """The session of this thread."""
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = _Session(self.network)
        return session

    def fetch(self, download: Download) -> Fetched:
        """Bring one file; what is there already, and right, is not fetched.

        :raises FetchError: it cannot be had, or is not what it must be; nothing was put under its name.
        :raises OSError: it cannot be written.
        """
        found = self.present(download)
        if found:
            _Part(download).remove()
            return found
        download.destination.parent.mkdir(parents=True, exist_ok=True)
        with Meter("download", download.destination.name, download.size) as meter:
            return _Transfer(self, download, self._expected(download), meter).run()

    def fetch_all(self, downloads: Sequence[Download]) -> list[Fetched | OfflineError]:
        """Bring many files at a time; return what became of each, in their order. None stops another."""
        return self.map(self._outcome, downloads)

    def fetch_every(self, downloads: Sequence[Download], what: str) -> None:
        """Bring many files at a time, all of which are needed.

        :param what: what they are, in the plural ("packages").
        :raises FetchError: some could not be had; each is named.
        """
        failures = [
            f"{download.destination.name}: {outcome}"
            for download, outcome in zip(downloads, self.fetch_all(downloads), strict=True)
            if isinstance(outcome, OfflineError)
        ]
        if failures:
            raise FetchError(
                "\n".join([f"{len(failures)} of {len(downloads)} {what} could not be fetched; those that were stay:", *failures])
            )

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Return what *function* gives for each item, in their order, doing as many at a time as there are jobs."""
        if len(items) < 2:
            return [function(item) for item in items]
        pool = ThreadPoolExecutor(max_workers=max(1, self.network.jobs), thread_name_prefix="fetch")
        try:
            return list(pool.map(function, items))
        except BaseException:
            self.stop.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def wanted(self, download: Download) -> str | None:
        """Return the sha256 that a file must have, as given or as recorded; None if it is not known yet."""
        return self._expected(download).sha256

    def present(self, download: Download) -> Fetched | None:
        """Return what is there already, if it is what it must be. Its content is hashed; the network is not needed."""
        start = time.monotonic()
        expected, place = self._expected(download), download.destination
        if expected.sha256 is None or place.is_symlink() or not place.is_file():
            return None
        size = place.stat().st_size
        if expected.size not in (None, size) or sha256_file(place) != expected.sha256:
            return None
        return Fetched(expected.sha256, size, expected.etag, expected.last_modified, 0, time.monotonic() - start, changed=False)

    def remote_size(self, url: str) -> int | None:
        """Ask the server for the length of a file in bytes, with one HEAD request; None if it does not say.

        :raises FetchError: it cannot be reached or refuses.
        """
        actual = self.actual(url)
        if urlsplit(actual).scheme == "file":
            local = _local_path(actual)
            return local.stat().st_size if local.is_file() else None
        try:
            with self.session.head(actual, allow_redirects=True, timeout=min(self.network.timeout, 10)) as response:
                _raise_for_status(response)
                return _number(response.headers.get("Content-Length"))
        except (_Refused, _Transient) as trouble:
            raise FetchError(f"{redact(url)}: {trouble}.") from None
        except requests.RequestException as error:
            raise FetchError(f"{redact(url)}: {_reason(error)}.") from None

    def page(self, url: str, accept: str) -> requests.Response | None:
        """Return the page of an index, or None where there is none to be had: whoever needs more of it then says why."""
        try:
            with self.session.get(self.actual(url), headers={"Accept": accept}, timeout=min(self.network.timeout, 30)) as response:
                return response if response.status_code == 200 else None
        except (_Refused, requests.RequestException, FetchError):
            return None

    def actual(self, url: str) -> str:
        """Return where *url* is really fetched from.

        :raises FetchError: by neither HTTP nor, where a rewrite leads there, a local file.
        """
        actual = self.network.rewrites.apply(url)
        if urlsplit(actual).scheme not in ("http", "https") and (actual == url or not actual.startswith("file://")):
            raise FetchError(
                f"{redact(url)}: only http and https URLs can be fetched. Correct the URL, or add a prefix of it to rlinf_url_rewrites."
            )
        return actual

    def _outcome(self, download: Download) -> Fetched | OfflineError:
        try:
            return self.fetch(download)
        except OfflineError as error:
            return error
        except OSError as error:
            return FetchError(f"{redact(download.url)}: {error.filename or download.destination}: {error.strerror or error}.")

    def remember(self, url: str, fetched: Fetched) -> None:
        """Put what came on record, if there are records."""
        if self.records:
            self.records.put(url, Record(fetched.sha256, fetched.size, fetched.etag, fetched.last_modified))

    def _expected(self, download: Download) -> _Expected:
        record = self.records.get(download.url) if self.records else None
        if record and download.sha256 in (None, record.sha256):
            return _Expected(**asdict(record), recorded=download.sha256 is None)
        return _Expected(download.sha256, download.size)


@dataclass(frozen=True)
class _Expected:
    """What a file must be, as far as it is known; *recorded*: known from its first download alone."""

    sha256: str | None
    size: int | None
    etag: str | None = None
    last_modified: str | None = None
    recorded: bool = False


class _Transient(Exception):
    """An attempt failed in a way that another may not; *wait*: the seconds that the server asked for."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


class _Refused(Exception):
    """The server refuses, and would again; the message says what to do."""


class _Session(requests.Session):
    """A session that reaches each server as the network says, and follows no redirect from https to anything else."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        # what the environment says is part of the network; requests itself would look into more of it than git and uv do
        self.trust_env = False
        self.max_redirects = REDIRECTS
        self.headers["Accept-Encoding"] = "identity"
        self.verify = os.fspath(network.authorities) if network.authorities else os.environ.get("SSL_CERT_DIR") or True

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send one request; of a chain of redirects each comes here, without the credentials of another origin."""
        url = str(request.url)
        kwargs["proxies"] = {} if should_bypass_proxies(url, no_proxy=self.network.no_proxy) else self.network.proxies
        login = None if "Authorization" in request.headers else self.network.login(url) or get_netrc_auth(url)
        if login:
            request.prepare_auth(login)
        return super().send(request, **kwargs)

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target and resp.url.startswith("https:") and not urljoin(resp.url, target).lower().startswith("https:"):
            raise _Refused(
                f"it redirects from https to {redact(target)}, which is not protected. Give the URL of a server that stays with https"
            )
        return target


@dataclass(frozen=True)
class _Seen:
    """What a server said of the content that it sends."""

    etag: str | None = None
    last_modified: str | None = None
    length: int | None = None
    condition: str | None = None
    """What If-Range may hold: a strong validator (RFC 9110, 13.1.5 and 8.8.2.2)."""

    @classmethod
    def of(cls, headers: Mapping[str, str], length: int | None) -> _Seen:
        etag, modified, date = headers.get("ETag"), headers.get("Last-Modified"), headers.get("Date")
        condition = None
        if etag:
            condition = None if etag.startswith("W/") else etag
        elif modified and date and _seconds(date) - _seconds(modified) >= 1:
            condition = modified
        return cls(etag, modified, length, condition)


class _Part:
    """A file that is not complete yet: its bytes, the digest of them, and what the server said of it."""

    def __init__(self, download: Download) -> None:
        place = download.destination
        self.path = place.with_name(f"{place.name}.part")
        self.notes = place.with_name(f"{place.name}.seen.part")
        self.url = without_userinfo(download.url)
        self.size = 0
        self.digest = hashlib.sha256()
        self.seen = _Seen()
        self.joined = False  # whether it comes from more than one answer

    @property
    def complete(self) -> bool:
        return self.seen.length == self.size

    def take_up(self, *, verifiable: bool) -> None:
        """Continue what an earlier run left, if it is of this URL.

        :param verifiable: whether the digest is known beforehand. If not, what was written before the machine went down is not
            used: it need not have reached the disk.
        """
        try:
            notes = read_json(self.notes, FetchError)
            if notes["url"] != self.url or (notes["boot"] != _boot() and not verifiable):
                return
            self.seen = _Seen(**notes["seen"])
            with self.path.open("rb") as stream:
                while chunk := stream.read(CHUNK):
                    self.append_digest(chunk)
        except (FileNotFoundError, FetchError, KeyError, TypeError):
            self.seen = _Seen()
            return
        self.joined = True

    def append_digest(self, chunk: bytes) -> None:
        self.digest.update(chunk)
        self.size += len(chunk)

    def restart(self) -> None:
        """Throw away what is there."""
        self.size, self.joined, self.digest, self.seen = 0, False, hashlib.sha256(), _Seen()

    def begin(self, seen: _Seen) -> None:
        """Begin a new file with what the server said of it; a later run can continue it."""
        self.seen = seen
        if seen.condition and (seen.length is None or seen.length >= WORTH_RESUMING):
            write_json(self.notes, {"url": self.url, "boot": _boot(), "seen": asdict(seen)})
        else:
            remove(self.notes)

    def remove(self) -> None:
        for path in (self.path, self.notes):
            remove(path)


class _Transfer:
    """One file on its way: attempts, retries, and the judgement at the end."""

    def __init__(self, fetcher: Fetcher, download: Download, expected: _Expected, meter: Meter) -> None:
        self.fetcher = fetcher
        self.meter = meter
        self.download = download
        self.expected = expected
        self.actual = fetcher.actual(download.url)
        self.part = _Part(download)
        self.received = 0
        self.starts = 0
        self.failures = 0
        self.begun = self.mark = time.monotonic()
        self.marked = 0

    def run(self) -> Fetched:
        self.part.take_up(verifiable=self.expected.sha256 is not None)
        self.mark = time.monotonic()  # reading a large part again is no lack of progress
        if self.part.size and not self._may_continue():
            self.part.restart()
        while True:
            while not self.part.complete:
                self._try()
            if not self._is_damaged():
                return self._finish()
            self._start_over("what an earlier attempt left was damaged")

    # -- the network

    def _try(self) -> None:
        """Make one attempt, and wait if it failed and another may do better."""
        before = self.received
        try:
            if urlsplit(self.actual).scheme == "file":
                self._copy()
            else:
                self._request()
        except _Refused as refusal:
            raise self._error(str(refusal)) from None
        except _Transient as trouble:
            self._pause(trouble, progress=self.received > before)
        except (urllib3.exceptions.HTTPError, requests.RequestException) as error:
            if _is_final(error):
                raise self._error(_reason(error)) from None
            self._pause(_Transient(_reason(error)), progress=self.received > before)

    def _request(self) -> None:
        part, headers = self.part, {}
        if part.size and not self._may_continue():
            self._start_over("the server gives nothing by which a file could be continued")
        if part.size:
            headers = {"Range": f"bytes={part.size}-", "If-Range": str(part.seen.condition)}
        # several addresses of a host are tried one after the other, each for a quarter of what is left; a silence is one when it is as long as the
        # whole limit, since what came in between has set its end anew
        timeout = (min(10.0, max(self._remaining() / 4, 0.1)), self.fetcher.network.timeout)
        with self.fetcher.session.get(self.actual, headers=headers, stream=True, timeout=timeout) as response:
            if part.size and response.status_code in (206, 416):
                if not self._continues(response):
                    return self._start_over("the file changed on the server")
            else:
                _raise_for_status(response)
                if part.size:
                    self._start_over("the server sends the whole file again instead of its rest")
                self._begin(response)
            self._receive(getattr(response.raw, "read1", response.raw.read))
        if part.seen.length is None:
            part.seen = replace(part.seen, length=part.size)
        if not part.complete:
            raise _Transient(f"the connection ended after {part.size} of {part.seen.length} bytes")
        return None

    def _may_continue(self) -> bool:
        seen = self.part.seen
        return seen.condition is not None and (seen.length is None or self.part.size <= seen.length)

    def _continues(self, response: requests.Response) -> bool:
        """Return whether an answer to a range request is the rest of the very file (RFC 9110, 15.3.7)."""
        found = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        seen, etag = self.part.seen, response.headers.get("ETag")
        if response.status_code != 206 or not found or int(found[1]) != self.part.size:
            return False
        same = etag is None or seen.etag is None or etag == seen.etag
        return same and (found[3] == "*" or seen.length in (None, int(found[3])))

    def _begin(self, response: requests.Response) -> None:
        """Look at the head of a whole file before its content comes."""
        length = _number(response.headers.get("Content-Length"))
        if not self.expected.recorded and self.expected.size is not None and length not in (None, self.expected.size):
            raise self._error(f"the server has a file of {length} bytes there, not of {self.expected.size}. {self._remedy()}")
        if (
            self.expected.sha256 is None
            and response.headers.get("Content-Type", "").startswith("text/html")
            and not self.download.url.endswith((".html", "/"))
        ):
            raise self._error(
                "the server answers with a web page instead of the file, perhaps to have someone log in. Open the URL in a browser from this machine"
            )
        if self.expected.sha256 is None and length is None and "chunked" not in response.headers.get("Transfer-Encoding", ""):
            raise self._error(
                "the server does not say how long the file is, so that a cut-off one could not be told from it. Give its sha256 in the catalogue"
            )
        self._check_space(length)
        self.part.begin(_Seen.of(response.headers, length))

    def _check_space(self, length: int | None) -> None:
        free = shutil.disk_usage(self.part.path.parent).free
        needed = (length or 0) - (self.part.path.stat().st_size if self.part.path.exists() else 0)
        if needed > free:
            raise self._error(f"{length} bytes do not fit into {self.part.path.parent}, where {free} are free. Make room and run again")

    def _receive(self, read: Callable[[int], bytes]) -> None:
        """Write what comes behind what is there."""
        self.part.joined = self.part.joined or self.part.size > 0
        with self.part.path.open("r+b" if self.part.size else "wb") as stream:
            stream.seek(self.part.size)
            while chunk := read(CHUNK):
                stream.write(chunk)
                self.part.append_digest(chunk)
                self._progress(len(chunk))

    def _copy(self) -> None:
        """Bring a local file that a rewrite leads to."""
        self.part.restart()
        source = _local_path(self.actual)
        if not source.is_file():
            raise self._error(f"{source}, where rlinf_url_rewrites leads to, is not there. Put it there or correct the rewrite")
        length = source.stat().st_size
        self._check_space(length)
        self.part.begin(_Seen(length=length))
        with source.open("rb") as stream:
            self._receive(stream.read)

    # -- patience

    def _progress(self, count: int) -> None:
        self.received += count
        self.meter.total = self.part.seen.length
        self.meter.show(self.part.size)
        if self.fetcher.stop.is_set():
            raise self._error("interrupted")
        if self.received - self.marked >= SLOWEST * self.fetcher.network.timeout:
            self.mark, self.marked = time.monotonic(), self.received
        elif self._remaining() < 0:
            raise self._error(f"only {self.received - self.marked} bytes came in {self.fetcher.network.timeout:g} seconds. {_AGAIN}")

    def _remaining(self) -> float:
        """Return the seconds left until the lack of progress ends the transfer."""
        return self.mark + self.fetcher.network.timeout - time.monotonic()

    def _pause(self, trouble: _Transient, *, progress: bool) -> None:
        """Wait before the next attempt, longer each time.

        :raises FetchError: there were enough of them, or the time is over.
        """
        self.failures = 0 if progress else self.failures + 1
        delay = max(0.0 if progress else self.fetcher.network.pause(self.failures), trouble.wait)
        if self.failures >= ATTEMPTS:
            raise self._error(f"{trouble}; given up after {self.failures} attempts. {_AGAIN}")
        if delay >= self._remaining():
            raise self._error(f"{trouble}; given up, since there was no progress within {self.fetcher.network.timeout:g} seconds. {_AGAIN}")
        if self.fetcher.stop.wait(delay):
            raise self._error("interrupted")

    def _start_over(self, why: str) -> None:
        self.starts += 1
        if self.starts >= STARTS:
            raise self._error(f"{why}; given up after {self.starts} attempts from the beginning. Run again later")
        self.part.restart()

    # -- the end

    def _is_damaged(self) -> bool:
        """Return whether a wrong content may come from how it was put together, so that starting over may mend it."""
        wrong = self.expected.sha256 is not None and self.part.digest.hexdigest() != self.expected.sha256
        return wrong and self.part.joined

    def _finish(self) -> Fetched:
        part, seen = self.part, self.part.seen
        try:
            self._judge()
        except OfflineError:
            part.remove()
            raise
        checkpoint(f"fsync {part.path.name}")
        with part.path.open("rb") as stream:
            os.fchmod(stream.fileno(), 0o644)
            os.fsync(stream.fileno())
        seconds = time.monotonic() - self.begun
        done = Fetched(part.digest.hexdigest(), part.size, seen.etag, seen.last_modified, self.received, seconds, changed=True)
        # first the record, then the name: what has its name is on record, even if this process is killed in between
        self.fetcher.remember(self.download.url, done)
        # what nobody needs any more goes before what everybody looks for is there: a later run finds the file, and looks no further
        remove(part.notes)
        rename(part.path, self.download.destination)
        return done

    def _judge(self) -> None:
        """:raises OfflineError: the complete file is not what it must be."""
        part, expected, digest = self.part, self.expected, self.part.digest.hexdigest()
        if expected.recorded and digest != expected.sha256:
            raise self._error(
                f"the file has changed since it was first downloaded: then it had {expected.size} bytes and the sha256 {expected.sha256}, now it has "
                f"{part.size} bytes and {digest}. If the new one is wanted, give sha256: {digest} in the catalogue"
            )
        if expected.sha256 not in (None, digest):
            raise self._error(f"the file has the sha256 {digest}, not {expected.sha256}. {self._remedy()}")
        if expected.size not in (None, part.size):
            raise self._error(f"the file has {part.size} bytes, not {expected.size}. {self._remedy()}")
        if self.download.judge:
            try:
                self.download.judge(part.path)
            except OfflineError as error:
                raise self._error(f"what came is not usable: {error}") from None

    def _remedy(self) -> str:
        return "If it was replaced on purpose, give its new sha256 (in the catalogue, or by updating the lock); if not, do not use it"

    def _error(self, message: str) -> FetchError:
        url = redact(self.download.url)
        where = url if self.actual == self.download.url else f"{url} (fetched from {redact(self.actual)})"
        return FetchError(f"{where}: {message.rstrip('.')}.")


_AGAIN = "Run again: it goes on where it stopped"


def _raise_for_status(response: requests.Response) -> None:
    """:raises _Refused: the answer is no file. :raises _Transient: the next one may be."""
    status = response.status_code
    if status == 200:
        return
    if status in (408, 425, 429) or status >= 500:
        wait = _retry_after(response.headers)
        asked = f" and asks to wait {wait:g} seconds" if wait else ""
        raise _Transient(f"the server answers {status} {response.reason}{asked}", wait)
    credentials = "If it is private, give credentials in the URL (https://user:token@host/…, best out of a vault) or in ~/.netrc"
    said = {
        401: f"the server asks for credentials (401). {credentials}",
        403: f"the server refuses access (403). {credentials}",
        404: f"the server has no such file (404). Correct the URL. Some hosts say so of private files, too. {credentials}",
        407: "the proxy asks for credentials (407). Give them in rlinf_proxy (http://user:password@host:port, best out of a vault)",
        410: "the server no longer has the file (410). Give another URL",
    }
    raise _Refused(said.get(status, f"the server answers {status} {response.reason}. Correct the URL"))


def _is_final(error: Exception) -> bool:
    """Return whether the same request would fail in the same way again."""
    final = (
        requests.TooManyRedirects,
        requests.exceptions.InvalidURL,
        requests.exceptions.InvalidSchema,
        requests.exceptions.MissingSchema,
        requests.exceptions.InvalidHeader,
    )
    return isinstance(error, final) or "CERTIFICATE_VERIFY_FAILED" in str(error)


def _reason(error: Exception) -> str:
    """Return why a request failed, in words and without the objects' names that requests and urllib3 put around it."""
    if isinstance(error, (requests.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError)):
        return "the server does not answer"
    if isinstance(error, (requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError)):
        return "the server fell silent"
    if isinstance(error, requests.TooManyRedirects):
        return f"more than {REDIRECTS} redirects. Give the URL that they end at"
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return "the server's certificate is not trusted. Name the file of its authority in rlinf_ca_bundle"
    inner = error.args[0] if error.args else error
    text = str(getattr(inner, "reason", None) or inner)
    return redact(text.rpartition("): ")[2] or text)


def _retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that a Retry-After header asks for (RFC 9110, 10.2.3); 0 if none. A time in it is one of the server's clock."""
    value = headers.get("Retry-After")
    if value is None:
        return 0.0
    number = _number(value)
    return float(number) if number is not None else max(_seconds(value) - (_seconds(headers.get("Date", "")) or time.time()), 0.0)


def _seconds(date: str) -> float:
    """Return an HTTP date in seconds since the epoch; 0 for what is none."""
    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return 0.0


def _number(value: str | None) -> int | None:
    return int(value) if value is not None and re.fullmatch(r"\d{1,20}", value.strip()) else None


def _local_path(url: str) -> Path:
    return Path(unquote(urlsplit(url).path))


def _boot() -> str:
    """Return what this machine calls the time since it was started."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
