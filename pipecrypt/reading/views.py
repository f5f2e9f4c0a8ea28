"""Keep the views of files that were opened last, under one key session. Naming and listing files: filesystem.

What kind of view a file gets is decided in `_choose_view`, and nowhere else.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipecrypt.errors import StorageError, UsageError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.session import KeySession
from pipecrypt.parquet.chunk_view import find_chunk_view
from pipecrypt.parquet.footer import is_parquet
from pipecrypt.parquet.kept import KeptChunks
from pipecrypt.parquet.protocols import DataKeys, RangeSource
from pipecrypt.parquet.view import PlaintextView
from pipecrypt.pipeline.chunk_codec import LazyCodec
from pipecrypt.pipeline.file_keys import keys_of_object
from pipecrypt.reading.options import ViewOptions, key_references
from pipecrypt.reading.view_file import FileView
from pipecrypt.storage.problems import map_errors

__all__ = ["StoredFile", "Views"]

_KEPT_VIEWS: Final = 16
_KEPT_BYTES: Final = 256 << 20  # plaintext of all views together
_END_BYTES: Final = 64 * 1024
_OPENING_LOCKS: Final = 64


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as its storage has it.

    Args:
        fs: the fsspec file system that stores it.
        path: its path there.
        size_bytes: its size.
        fingerprint: changes when the file does.
    """

    fs: Any
    path: str
    size_bytes: int
    fingerprint: str


class Views:
    """The views of one file system. Safe to use from several threads; closing it wipes all keys.

    Args:
        options: how files are shown.
        credentials: what opens the keys; None: the environment, when the first key is needed.
    """

    def __init__(self, options: ViewOptions, credentials: Credentials | None = None) -> None:
        """Open no key yet."""
        self._options = options
        self._credentials = credentials
        # Taken in this order. The last two may be taken again: a file system that is collected closes its views on
        # whatever thread is at work, perhaps in here.
        self._opening = tuple(threading.Lock() for _ in range(_OPENING_LOCKS))
        self._session_lock = threading.RLock()  # of the session
        self._lock = threading.RLock()  # of the views and their users
        self._is_closed = False
        self._session: KeySession | None = None
        self._references: tuple[str, ...] = ()
        self._views: OrderedDict[str, tuple[str, FileView | None]] = OrderedDict()
        self._users: Counter[int] = Counter()
        self._kept = KeptChunks(_KEPT_BYTES)

    def view(self, file: StoredFile) -> FileView | None:
        """Return the view of a file, or None where it is shown as it is stored.

        Raises:
            FormatError: a Parquet file is truncated or malformed.
            AccessError: a key cannot be opened, or that of an encrypted footer is missing.
            IntegrityError: the footer was changed after it was written.
            StorageError: the storage failed.
        """
        with self._opening[hash(file.path) % _OPENING_LOCKS]:  # of two threads that want one new file, one opens it
            session = self._current_session()
            known = self.known(file)
            if known is None:
                source = _FileRanges(file)
                keys = keys_of_object(file.fs, file.path, session)
                known = (_choose_view(source, keys, self._options, self._kept),)
                source.forget_ends()
                self._keep(file, known[0], session)
        return known[0]

    def known(self, file: StoredFile) -> tuple[FileView | None] | None:
        """Return the view in a tuple if it was opened before and the file is still the same, else None."""
        with self._lock:
            fingerprint, view = self._views.get(file.path, (None, None))
            if fingerprint != file.fingerprint:
                return None
            self._views.move_to_end(file.path)
            return (view,)

    def use(self, view: FileView) -> None:
        """Say that a file object reads the view from now on."""
        with self._lock:
            self._users[id(view)] += 1

    def leave(self, view: FileView) -> None:
        """Say that a file object was closed; with the last one, plaintext is forgotten."""
        with self._lock:
            self._users[id(view)] -= 1
            is_last = self._users[id(view)] <= 0
            if is_last:
                del self._users[id(view)]
        if is_last:
            view.forget_plaintext()

    def close(self, *, for_good: bool = False) -> None:
        """Wipe all keys and forget all plaintext. Safe to call twice; file objects that are open fail from now on.

        Args:
            for_good: refuse to open files from now on.
        """
        with self._session_lock, self._lock:
            self._is_closed = self._is_closed or for_good
            for _, view in self._views.values():
                if view is not None:
                    view.close()
            self._views.clear()
            if self._session is not None:
                self._session.close()
                self._session = None

    def _current_session(self) -> KeySession:
        credentials = self._credentials or Credentials.from_environment()
        references = key_references(self._options, credentials.environ)
        with self._session_lock:
            if self._is_closed:
                raise _closed()
            if self._session is None or references != self._references:
                self.close()
                self._session = KeySession(references, credentials=credentials)
                self._references = references
            return self._session

    def _keep(self, file: StoredFile, view: FileView | None, session: KeySession) -> None:
        with self._session_lock, self._lock:
            if self._session is not session:  # closed while the view was opened, so nobody else would close the view
                if view is not None:
                    view.close()
                raise _closed()
            self._views[file.path] = (file.fingerprint, view)
            self._views.move_to_end(file.path)
            while len(self._views) > _KEPT_VIEWS:
                # Not closed: somebody may read it. Its keys are wiped when nobody does any more.
                self._views.popitem(last=False)


def _closed() -> UsageError:
    return UsageError("this dataset was closed, and its keys were wiped", hint="read it inside of its with block")


def _choose_view(source: RangeSource, keys: DataKeys, options: ViewOptions, kept: KeptChunks) -> FileView | None:
    """Return the view that fits the kind of file, or None where the file is shown as it is stored."""
    if not is_parquet(source):
        return None
    chunks = find_chunk_view(source, keys=keys, aad_prefix=options.aad_prefix, codec=LazyCodec())
    if chunks is not None:
        return chunks
    view = PlaintextView(source, keys=keys, aad_prefix=options.aad_prefix, missing=options.missing, kept=kept)
    return view if view.is_encrypted else None


class _FileRanges:
    """Ranges of a file of some fsspec file system, one request each, and several side by side where it can."""

    __slots__ = ("_ends", "_file", "name", "size_bytes")

    def __init__(self, file: StoredFile) -> None:
        """Fetch both ends, which opening a file takes, at once."""
        self._file = file
        self.name = file.path
        self.size_bytes = size = file.size_bytes
        tail = max(0, size - _END_BYTES)
        ranges = [(0, min(size, _END_BYTES))] if tail == 0 else [(0, 4), (tail, size - tail)]
        self._ends: list[tuple[int, memoryview]] = []
        if size:
            self._ends = [(start, data) for (start, _), data in zip(ranges, self.read_many(ranges), strict=True)]

    def forget_ends(self) -> None:
        self._ends = []

    def read_range(self, start: int, length: int) -> memoryview:
        for first, data in self._ends:
            if first <= start and start + length <= first + len(data):
                return data[start - first : start - first + length]
        return self.read_many([(start, length)])[0]

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        with map_errors(f"cannot read {self.name}"):
            try:
                found = self._fetch(ranges)
            except FileNotFoundError as error:
                raise StorageError(f"{self.name} is gone", hint="it was removed while it was read") from error
        for (_, length), data in zip(ranges, found, strict=True):
            if len(data) != length:
                raise StorageError(
                    f"{self.name}: the storage returned {len(data)} bytes where {length} were asked for",
                    hint="the file changed while it was read, or the storage does not serve ranges",
                )
        return [memoryview(data) for data in found]

    def _fetch(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        fs, path = self._file.fs, self._file.path
        if len(ranges) == 1:
            start, length = ranges[0]
            return [fs.cat_file(path, start=start, end=start + length)]
        starts, ends = [start for start, _ in ranges], [start + length for start, length in ranges]
        return list(fs.cat_ranges([path] * len(ranges), starts, ends, on_error="raise"))
