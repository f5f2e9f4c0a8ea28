"""A proxy before an HTTP server that makes it as far away as one in another data centre, and counts what it is asked.

Each request waits for one round trip before it is passed on; bytes then pass as fast as they come. One thread serves a
connection, whose requests follow one another as they do on a real one.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

__all__ = ["CountingProxy", "Request", "counting_proxy"]

_PIECE_BYTES: Final = 1 << 20
_HEAD_END: Final = b"\r\n\r\n"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_NO_BODY: Final = frozenset({204, 304})
# What a query of S3 says about the operation; others, such as a prefix, say nothing.
_OPERATIONS: Final = ("list-type", "uploads", "uploadId", "partNumber", "delete", "versioning", "location")


class Request(NamedTuple):
    """What was asked for.

    Args:
        method: of HTTP, followed by what the query says about the operation: `PUT`, `PUT uploadId partNumber`.
        path: bucket and key.
    """

    method: str
    path: str


@dataclass(slots=True)
class CountingProxy:
    """The proxy, and what it has seen.

    Args:
        host: of the server.
        port: of the server.
        rtt_seconds: how long each request waits; may be changed at any time.
        url: of the proxy.
        seen: how often each request was made.
    """

    host: str
    port: int
    rtt_seconds: float
    url: str = ""
    seen: Counter[Request] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take_seen(self) -> Counter[Request]:
        """Return what was asked for since the last call."""
        with self._lock:
            seen, self.seen = self.seen, Counter()
        return seen

    def count(self, request: Request) -> None:
        """Count a request."""
        with self._lock:
            self.seen[request] += 1


@contextmanager
def counting_proxy(upstream: str, *, rtt_seconds: float) -> Iterator[CountingProxy]:
    """Serve as a proxy before the server at a URL until the block ends."""
    parts = urlsplit(upstream)
    proxy = CountingProxy(parts.hostname or "", parts.port or 80, rtt_seconds)
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        proxy.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        threading.Thread(target=_accept, args=(listener, proxy), name="proxy", daemon=True).start()
        try:
            yield proxy
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # else the thread waits on for a connection


def _accept(listener: socket.socket, proxy: CountingProxy) -> None:
    with contextlib.suppress(OSError):  # it was closed
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_serve, args=(client, proxy), name="proxy-connection", daemon=True).start()


def _serve(client: socket.socket, proxy: CountingProxy) -> None:
    with contextlib.suppress(OSError, EOFError), client:
        server = socket.create_connection((proxy.host, proxy.port))
        with server:
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            from_client, from_server = _Stream(client), _Stream(server)
            while _pass_on(from_client, from_server, proxy):
                pass


def _pass_on(client: _Stream, server: _Stream, proxy: CountingProxy) -> bool:
    """Pass one request on, and its answer back; say whether the connection goes on."""
    head = client.read_head()
    start, fields = _parse(head)
    method, target, _ = start.split(" ", 2)
    proxy.count(_request(method, target))
    time.sleep(proxy.rtt_seconds)
    if "expect" in fields:  # the body comes with the head from here on
        client.socket.sendall(_CONTINUE)
        head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.lower().startswith(b"expect:"))
    server.socket.sendall(head)
    _pass_body(client, server, fields, has_body=True)
    answer = server.read_head()
    start, fields_back = _parse(answer)
    client.socket.sendall(answer)
    has_body = method != "HEAD" and int(start.split(" ")[1]) not in _NO_BODY
    _pass_body(server, client, fields_back, has_body=has_body)
    return "close" not in (fields.get("connection"), fields_back.get("connection"))


def _parse(head: bytes) -> tuple[str, dict[str, str]]:
    start, *lines = head[: -len(_HEAD_END)].decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return start, {name.strip().lower(): value.strip().lower() for name, _, value in pairs}


def _request(method: str, target: str) -> Request:
    parts = urlsplit(target)
    names = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
    return Request(" ".join([method, *(name for name in _OPERATIONS if name in names)]), unquote(parts.path))


def _pass_body(one: _Stream, other: _Stream, fields: dict[str, str], *, has_body: bool) -> None:
    if not has_body:
        return
    if "chunked" in fields.get("transfer-encoding", ""):
        while True:
            line = one.read_until(b"\r\n")
            other.socket.sendall(line)
            size = int(line.split(b";")[0], 16)
            if not size:
                break
            one.pass_on(other, size + 2)
        while (line := one.read_until(b"\r\n")) != b"\r\n":  # trailers
            other.socket.sendall(line)
        other.socket.sendall(line)
        return
    one.pass_on(other, int(fields.get("content-length", "0")))


class _Stream:
    """A socket that is read up to a mark, or passed on."""

    def __init__(self, given: socket.socket) -> None:
        self.socket = given
        self._ahead = b""
        self._buffer = memoryview(bytearray(_PIECE_BYTES))

    def read_head(self) -> bytes:
        return self.read_until(_HEAD_END)

    def read_until(self, mark: bytes) -> bytes:
        while (end := self._ahead.find(mark)) < 0:
            more = self.socket.recv(1 << 16)
            if not more:
                raise EOFError
            self._ahead += more
        end += len(mark)
        found, self._ahead = self._ahead[:end], self._ahead[end:]
        return found

    def pass_on(self, other: _Stream, count: int) -> None:
        if self._ahead and count:
            some, self._ahead = self._ahead[:count], self._ahead[count:]
            other.socket.sendall(some)
            count -= len(some)
        while count:
            length = self.socket.recv_into(self._buffer, min(count, _PIECE_BYTES))
            if not length:
                raise EOFError
            other.socket.sendall(self._buffer[:length])
            count -= length
