"""An HTTP server on this machine for tests of key services: it counts calls, and fails on command. It guards nothing.

The handler knows what a call means: a fake of a vendor's wire protocol, or `forward_to` an emulator.
"""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Final, Self, TypeAlias
from urllib.parse import urlsplit

__all__ = ["HTTPAnswer", "HTTPHandler", "HTTPRequest", "HTTPService", "HTTPTrouble", "forward_to"]

_MAX_HELD_SECONDS: Final = 20.0
_FORWARD_SECONDS: Final = 30.0
_HOP_BY_HOP: Final = frozenset({"connection", "content-length", "date", "keep-alive", "server", "transfer-encoding"})


@dataclass(frozen=True, slots=True)
class HTTPRequest:
    """What a client sent; the names of headers are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class HTTPAnswer:
    """What goes back. A status of 0 closes the connection without an answer."""

    status: int
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)


HTTPHandler: TypeAlias = Callable[[HTTPRequest], HTTPAnswer]
# Returns an answer in the handler's place, or None to let the handler answer.
HTTPTrouble: TypeAlias = Callable[[HTTPRequest], HTTPAnswer | None]


class HTTPService:
    """A server on a free port of the loopback interface, each connection in a thread of its own.

    Args:
        handler: answers requests.
        call_name: returns what a request is counted as, or None for one that is not counted and meets no trouble.
    """

    def __init__(self, handler: HTTPHandler, call_name: Callable[[HTTPRequest], str | None]) -> None:
        """Bind the port; `start` or a `with` block serves it."""
        self.handler = handler
        self.call_name = call_name
        self.calls: Counter[str] = Counter()
        self.trouble: HTTPTrouble | None = None
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._released.set()
        self._has_stopped = False
        self._server = _server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """The address, without a slash at its end."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def start(self) -> Self:
        """Serve until `stop`."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Refuse connections from now on, and answer nothing on those that are open."""
        self._has_stopped = True
        self.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def hold(self) -> None:
        """Answer no counted request until `release`, as a service does that hangs."""
        self._released.clear()

    def release(self) -> None:
        """Let all requests that are held go on."""
        self._released.set()

    def reset(self) -> None:
        """End all trouble and forget all counts."""
        self.release()
        self.trouble = None
        self.calls.clear()

    def answer(self, request: HTTPRequest) -> HTTPAnswer:
        """Count a request and answer it."""
        if self._has_stopped:
            return HTTPAnswer(0)
        name = self.call_name(request)
        if name is None:
            return self.handler(request)
        with self._lock:
            self.calls[name] += 1
            instead = self.trouble(request) if self.trouble is not None else None
        self._released.wait(_MAX_HELD_SECONDS)
        return self.handler(request) if instead is None else instead

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()


def forward_to(url: str) -> HTTPHandler:
    """Return a handler that asks another server, such as an emulator."""
    host = urlsplit(url).netloc

    def forward(request: HTTPRequest) -> HTTPAnswer:
        connection = http.client.HTTPConnection(host, timeout=_FORWARD_SECONDS)
        try:
            headers = {name: value for name, value in request.headers.items() if name not in _HOP_BY_HOP}
            connection.request(request.method, request.path, request.body, headers)
            answer = connection.getresponse()
            body = answer.read()
            kept = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP}
            return HTTPAnswer(answer.status, body, kept)
        finally:
            connection.close()

    return forward


def _server(service: HTTPService) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 64 * 1024  # head and body in one packet, else the client's delayed acknowledgement costs 40 ms

        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline(65537)
            if not self.raw_requestline or not self.parse_request():
                self.close_connection = True
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            self._send(service.answer(HTTPRequest(self.command, self.path, headers, body)))

        def _send(self, answer: HTTPAnswer) -> None:
            if answer.status == 0:
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            if self.close_connection:
                # The client asked for it; told so too, it does not send its next request into the closing connection.
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(answer.body)
            self.wfile.flush()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        # A client that went away while its answer was held is part of the test.
        def handle_error(self, request: object, client_address: object) -> None:
            """Say nothing."""

    return Server(("127.0.0.1", 0), Handler)
