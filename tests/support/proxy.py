# SPDX-License-Identifier: GPL-3.0-or-later
"""A small forward proxy on loopback: plain requests and CONNECT (RFC 9110, 9.3.6), with a login if wanted. Standard library only."""

from __future__ import annotations

import base64
import select
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


class Proxy:
    """The proxy; a context manager that starts and stops it.

    *asked*: the host and port of each request that it let through. *refused*: how many came without the login.

    :param login: ``user:password`` that a request must bring.
    :param to: where every connection really goes to, whatever host is asked for; so that it can stand in for hosts that are not there.
    """

    def __init__(self, login: str = "", to: tuple[str, int] | None = None) -> None:
        self.wanted = f"Basic {base64.b64encode(login.encode()).decode()}" if login else None
        self.to = to
        self.asked: list[str] = []
        self.refused = 0
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{login}@{self.address}" if login else f"http://{self.address}"

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    proxy: Proxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _handle(self) -> None:
        proxy = self.server.proxy
        if proxy.wanted and self.headers.get("Proxy-Authorization") != proxy.wanted:
            proxy.refused += 1
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(407)
            self.send_header("Proxy-Authenticate", 'Basic realm="proxy"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        parts = urlsplit(self.path if "://" in self.path else f"//{self.path}")
        host, port = str(parts.hostname), parts.port or 80
        proxy.asked.append(f"{host}:{port}")
        self.close_connection = True
        with socket.create_connection(proxy.to or (host, port)) as server:
            if self.command == "CONNECT":
                self.send_response(200)
                self.end_headers()
            else:
                kept = "".join(
                    f"{name}: {value}\r\n" for name, value in self.headers.items() if not name.lower().startswith(("proxy-", "connection"))
                )
                path = f"{parts.path}?{parts.query}" if parts.query else parts.path
                server.sendall(f"{self.command} {path} HTTP/1.1\r\n{kept}Connection: close\r\n\r\n".encode())
            self._join(server)

    do_CONNECT = do_GET = do_HEAD = do_POST = _handle

    def _join(self, server: socket.socket) -> None:
        """Hand bytes on both ways until one side ends."""
        self.connection.setblocking(True)
        pairs = {self.connection: server, server: self.connection}
        # what came with the head of the request is in the buffer already
        buffered = self.rfile.peek() if self.command != "CONNECT" and int(self.headers.get("Content-Length") or 0) else b""  # type: ignore[attr-defined]
        server.sendall(buffered)
        while True:
            for ready in select.select(list(pairs), [], [], 20)[0]:
                chunk = ready.recv(1 << 16)
                if not chunk:
                    return
                pairs[ready].sendall(chunk)

    def log_message(self, format: str, *args: Any) -> None:
        """The log is kept by the proxy."""
