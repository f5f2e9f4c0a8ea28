"""A proxy before an HTTP server that drops, delays, cuts, loses, refuses and holds back requests.

Which requests fail depends on the seed, the request and how often it was made, not on the order in which threads come.
Put it before an S3 server by its URL; nothing of it needs S3, but what it refuses with is S3's.

A network that is cut off is played by `hold_back`: the first request that is meant is kept, all others are dropped from
then on, and `release` lets the kept one through, long after its sender has given up.
"""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

__all__ = ["FaultKind", "FaultProxy", "HeldRequest", "fault_proxy"]

_DELAY_SECONDS: Final = 0.2
_TIMEOUT_SECONDS: Final = 60.0
_SLOW_DOWN: Final = b"<Error><Code>SlowDown</Code><Message>planned</Message></Error>"
_HOP_BY_HOP: Final = frozenset({"connection", "transfer-encoding", "keep-alive", "content-length"})
_CONDITIONS: Final = frozenset({"if-none-match", "if-match"})
_LINGER_NOTHING: Final = struct.pack("ii", 1, 0)  # closing sends a reset


class FaultKind(Enum):
    """What happens to a request."""

    DROP = "the server never sees it"
    RESET = "the server carries it out, and the answer is lost"
    TRUNCATE = "half of the answer's body comes"
    REFUSE = "503 SlowDown"
    DELAY = "it is late"


@dataclass(slots=True)
class HeldRequest:
    """A request that is kept on its way.

    Args:
        means: says of the method and the path of a request whether it is the one.
        cuts_off: whether all requests after it are dropped until `release`.
    """

    means: Callable[[str, str], bool]
    cuts_off: bool = True
    status: int | None = None
    _caught: threading.Event = field(default_factory=threading.Event)
    _released: threading.Event = field(default_factory=threading.Event)
    _arrived: threading.Event = field(default_factory=threading.Event)

    def wait(self, seconds: float = _TIMEOUT_SECONDS) -> bool:
        """Wait until the request is there; say whether it is."""
        return self._caught.wait(seconds)

    def release(self, seconds: float = _TIMEOUT_SECONDS) -> int | None:
        """Let it through, and return what the server answered; None where it never came."""
        self._released.set()
        if self._caught.is_set():
            self._arrived.wait(seconds)
        return self.status

    @property
    def is_cut_off(self) -> bool:
        """Whether other requests are dropped now."""
        return self.cuts_off and self._caught.is_set() and not self._released.is_set()

    def catches(self, method: str, path: str) -> bool:
        """Keep a request if it is the one; return when it is released."""
        if self._caught.is_set() or not self.means(method, path):
            return False
        self._caught.set()
        self._released.wait()
        return True

    def arrived(self, status: int) -> None:
        """Note what the server answered."""
        self.status = status
        self._arrived.set()


@dataclass(slots=True)
class FaultProxy:
    """What fails, and what was seen.

    Args:
        upstream: URL of the server.
        seed: chooses the requests that fail.
        share: of all requests, from 0 to 1.
        lost_creation: number, from 1, of the request with `If-None-Match` whose answer is lost; 0 for none.
        ignores_conditions: whether the server is told of no condition, as if it knew none.
        url: of the proxy.
        held: the request that is held back, if one is meant.
        seen: how many requests failed in each way.
        creations: how many requests had `If-None-Match`.
        lost: the one whose answer was lost.
        on_request: called with the method, the path with its query, and the headers of each request that comes.
    """

    upstream: str
    seed: int = 0
    share: float = 0.0
    lost_creation: int = 0
    ignores_conditions: bool = False
    url: str = ""
    seen: Counter[FaultKind] = field(default_factory=Counter)
    creations: int = 0
    lost: str = ""
    held: HeldRequest | None = None
    on_request: Callable[[str, str, Mapping[str, str]], None] | None = None
    _made: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def hold_back(self, means: Callable[[str, str], bool], *, cuts_off: bool = True) -> HeldRequest:
        """Keep the next request that is meant; see `HeldRequest`."""
        self.held = HeldRequest(means, cuts_off)
        return self.held

    def choose(self, request: str, *, is_creation: bool) -> FaultKind | None:
        """Return what happens to a request, and count it."""
        with self._lock:
            self._made[request] += 1
            kind = self._draw(f"{self.seed} {request} {self._made[request]}")
            self.creations += is_creation
            if is_creation and self.creations == self.lost_creation:
                kind, self.lost = FaultKind.RESET, request
            if kind is not None:
                self.seen[kind] += 1
            return kind

    def _draw(self, name: str) -> FaultKind | None:
        digest = sha256(name.encode()).digest()
        if int.from_bytes(digest[:4], "big") >= self.share * (1 << 32):
            return None
        return list(FaultKind)[digest[4] % len(FaultKind)]


@contextmanager
def fault_proxy(
    upstream: str, *, seed: int = 0, share: float = 0.0, lost_creation: int = 0, ignores_conditions: bool = False
) -> Iterator[FaultProxy]:
    """Serve on a free port of this machine until the block ends; see `FaultProxy`."""
    proxy = FaultProxy(upstream, seed, share, lost_creation, ignores_conditions)
    server = _Server(proxy)
    thread = threading.Thread(target=server.serve_forever, name="fault-proxy", daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, proxy: FaultProxy) -> None:
        super().__init__(("127.0.0.1", 0), _Exchange)
        self.proxy = proxy
        proxy.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that leave early are what this is for."""


class _Exchange(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _pass_on(self) -> None:
        server = self.server
        assert isinstance(server, _Server)
        body = self._read_body()
        if server.proxy.on_request is not None:
            server.proxy.on_request(self.command, self.path, self.headers)
        held = server.proxy.held
        if held is not None and held.is_cut_off:
            self._reset()
            return
        if held is not None and held.catches(self.command, self.path):
            status, headers, data = self._ask(server.proxy.upstream, body)
            held.arrived(status)
            self._answer(status, headers, data)
            return
        is_creation = self.headers.get("If-None-Match") == "*"
        kind = server.proxy.choose(self._name(), is_creation=is_creation)
        if kind is FaultKind.DELAY:
            time.sleep(_DELAY_SECONDS)
        if kind is FaultKind.REFUSE:
            self._answer(503, [("Content-Type", "application/xml")], _SLOW_DOWN)
        elif kind is FaultKind.DROP:
            self._reset()
        else:
            status, headers, data = self._ask(server.proxy.upstream, body)
            if kind is FaultKind.RESET:
                self._reset()
            else:
                self._answer(status, headers, data, is_cut=kind is FaultKind.TRUNCATE)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on  # noqa: N815 - names of http.server

    def _name(self) -> str:
        """Return what the request is called: the same in each run, so without buckets and upload ids."""
        place = urlsplit(self.path)
        query = parse_qs(place.query, keep_blank_values=True)
        number = query.get("partNumber", [""])[0]
        last = place.path.rpartition("/")[2]
        return f"{self.command} {last} {sorted(query)} {number} {self.headers.get('Range', '')}"

    def _read_body(self) -> bytes:
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _ask(self, upstream: str, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        host = urlsplit(upstream)
        connection = http.client.HTTPConnection(host.hostname or "", host.port, timeout=_TIMEOUT_SECONDS)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            server = self.server
            assert isinstance(server, _Server)
            left_out = _HOP_BY_HOP | {"expect"} | (_CONDITIONS if server.proxy.ignores_conditions else set())
            for name, value in self.headers.items():
                if name.lower() not in left_out:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, *, is_cut: bool = False) -> None:
        self.send_response_only(status)
        length = str(len(data))
        for name, value in headers:
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
            elif name.lower() == "content-length" and self.command == "HEAD":
                length = value
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if is_cut else data)
        if is_cut:
            self._reset()

    def _reset(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOTHING)
        self.connection.close()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""
