"""Which requests commands send to an S3 server: counted by a proxy before it, for some files and for twice as many."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import parse_qs, unquote, urlsplit

from tests.doubles.fault_proxy import FaultProxy

__all__ = ["Cost", "Place", "Request", "cost_of", "counted", "shown"]

# Blocks of a journal are written by time, not by files: they would make each count differ from the one before.
_JOURNAL_BLOCK = re.compile(r"/_pipecrypt/runs/[^/]+/parts-")


class Place(StrEnum):
    """Where an object lies."""

    SOURCE = "source"
    SINK = "sink"
    RECORDS = "`_pipecrypt/`"


@dataclass(frozen=True, slots=True, order=True)
class Request:
    """What is asked of the server, and where: GET, HEAD, LIST, PUT, COPY, DELETE, or POST for parts of an upload."""

    place: Place
    action: str


@dataclass(frozen=True, slots=True)
class Cost:
    """The requests of one command: so many for each file, and so many more."""

    each_file: Counter[Request]
    each_run: Counter[Request]


@contextmanager
def counted(proxy: FaultProxy, source: str) -> Iterator[Counter[Request]]:
    """Count what goes through a proxy until the block ends; `source` is the folder where plaintext files lie."""
    requests: Counter[Request] = Counter()
    lock = threading.Lock()

    def note(method: str, path: str, headers: Mapping[str, str]) -> None:
        request = _request(method, path, headers, source)
        if request is not None:
            with lock:
                requests[request] += 1

    proxy.on_request = note
    try:
        yield requests
    finally:
        proxy.on_request = None


def _request(method: str, path: str, headers: Mapping[str, str], source: str) -> Request | None:
    parts = urlsplit(path)
    query = parse_qs(parts.query, keep_blank_values=True)
    key = unquote(parts.path)
    is_list = method == "GET" and ("list-type" in query or key.count("/") == 1)
    if is_list:
        key = f"{key}/{query.get('prefix', [''])[0]}"
    if _JOURNAL_BLOCK.search(key):
        return None
    place = Place.SOURCE if f"/{source}/" in f"{key}/" else Place.SINK
    if "/_pipecrypt/" in f"{key}/":
        place = Place.RECORDS
    copies = any(name.lower() == "x-amz-copy-source" for name in headers)
    return Request(place, "LIST" if is_list else "COPY" if copies else method)


def cost_of(few: Counter[Request], many: Counter[Request], files: int) -> Cost:
    """Return what one file costs, and what a run does, from the counts for `files` files and for twice as many.

    Raises:
        AssertionError: a count does not grow by the same number for each file.
    """
    each_file = Counter[Request]()
    for request in few.keys() | many.keys():
        grown = many[request] - few[request]
        assert grown % files == 0, f"{request}: {few[request]} for {files} files, {many[request]} for {2 * files}"
        each_file[request] = grown // files
    each_run = Counter({request: few[request] - files * each_file[request] for request in each_file})
    return Cost(each_file, each_run)


def shown(requests: Counter[Request]) -> str:
    """Return requests as a cell of a table."""
    texts = []
    for place in Place:
        there = [f"{count} {each.action}" for each, count in sorted(requests.items()) if each.place is place and count]
        if there:
            texts.append(f"{place} {', '.join(there)}")
    return f"{requests.total()}: {'; '.join(texts)}" if texts else "none"
