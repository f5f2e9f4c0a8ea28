"""Show an encrypted table as a plaintext file by range, decrypting what is read.

A range is answered in four steps: find the parts that it touches, fetch their ciphertext, all at once, decrypt, put
together. A chunk that is read whole is decrypted into the answer. A chunk of which a piece is read is decrypted whole
too, once, and kept: finding a page takes a walk over the headers before it. The chunks read last are kept. A plaintext
chunk whose digest the file stores is treated alike, because its digest is that of the whole: it is checked, not opened.
"""

from __future__ import annotations

import threading
import weakref
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Final, NamedTuple, Self, TypeAlias

from pipecrypt.errors import AccessError, FormatError
from pipecrypt.parquet.carry.reading import Gatherer
from pipecrypt.parquet.footer.columns import LeafColumn, leaf_columns
from pipecrypt.parquet.footer.opened import OpenedCheck, OpenedFile, as_tampering
from pipecrypt.parquet.footer.segments import SegmentKind
from pipecrypt.parquet.footer.stored import StoredFooter
from pipecrypt.parquet.pages.sealing import open_pages
from pipecrypt.parquet.table.view_layout import MissingKeys, ViewLayout, ViewPart, lay_out
from pipecrypt.parquet.table.view_scan import LazyChunks
from pipecrypt.vocabulary.ranges import RangeSource

__all__ = [
    "ChunkCache",
    "TableView",
]

_KEPT_BYTES: Final = 256 << 20


class _Piece(NamedTuple):
    """What a range touches: a part, or None for the bytes between parts; from `start` to `end`."""

    part: ViewPart | None
    start: int
    end: int

    @property
    def chunk_read_in_part(self) -> ViewPart | None:
        """The chunk of which this is not the whole."""
        part = self.part
        is_less = part is not None and part.chunk is not None and self.end - self.start < part.length
        return part if is_less else None


class TableView:
    """A RangeSource of plaintext over a RangeSource of ciphertext; a context manager that wipes its keys.

    Safe to read from several threads. Its keys are wiped with it, too.

    Args:
        source: the file, encrypted or not.
        stored: its footer.
        opened: the same, open, allowed to lack keys of columns; the view changes and closes it. None where the file is
            not encrypted.
        missing: what is shown of columns whose key is missing: an error when they are read, or nulls.
        cache: keeps the plaintext of chunks that were read in part, for several views perhaps; None: for this one.
        check_opened: told how the table is protected, before a byte is shown; what it raises passes through. With it,
            the footer is taken for a signed one: pages that are malformed raise IntegrityErrors.
        checks_digests: check chunks in plaintext against the digests that the file stores of them, where it does.
        statistics: show those of encrypted columns, for readers that filter; without them, only what is read is opened.

    Raises:
        FormatError: malformed.
        IntegrityError: metadata was not written with these keys, or digests do not fit the footer.
        MissingExtraError: the digests are made with BLAKE3, and its package is not installed.
    """

    def __init__(
        self,
        source: RangeSource,
        stored: StoredFooter,
        opened: OpenedFile | None,
        *,
        missing: MissingKeys = MissingKeys.ERROR,
        cache: ChunkCache | None = None,
        check_opened: OpenedCheck | None = None,
        checks_digests: bool = True,
        statistics: bool = True,
    ) -> None:
        """Lay out the view; columns whose key is missing stay closed until they are read."""
        self._source = source
        self._is_signed = check_opened is not None
        self._gatherer = Gatherer(source)
        self._opened = opened
        self._shown = ViewLayout((), (), source.size_bytes, source.size_bytes)
        self._cache = cache or ChunkCache(_KEPT_BYTES)
        self._owner = object()
        weakref.finalize(self, self._cache.forget, self._owner)
        # One for each chunk that is read in part, so that none is decrypted twice at once.
        self._locks: dict[int, threading.Lock] = {}
        self._plain_schema = stored.metadata
        if opened is not None:
            self._wipe = weakref.finalize(self, opened.close)
            try:
                self._shown = lay_out(
                    opened, source.size_bytes, missing, checks_digests=checks_digests, statistics=statistics
                )
                if check_opened is not None:
                    check_opened(opened)
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Self:
        """Return the view."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wipe all keys and forget all plaintext."""
        self.close()

    def close(self) -> None:
        """Wipe all keys and forget all plaintext. Safe to call twice."""
        self.forget_plaintext()
        if self._opened is not None:
            self._wipe()

    def forget_plaintext(self) -> None:
        """Forget the chunks that are kept; reading goes on."""
        self._cache.forget(self._owner)

    @property
    def name(self) -> str:
        """The file's name."""
        return self._source.name

    @property
    def size_bytes(self) -> int:
        """Size of the view: the file's own, unless keys are missing."""
        return self._shown.size_bytes

    @property
    def is_encrypted(self) -> bool:
        """Whether the file is encrypted at all."""
        return self._opened is not None

    @property
    def holds_blob(self) -> bool:
        """Whether this is not a table, but the bytes of another file in chunks."""
        return self._opened is not None and self._opened.holds_blob

    @property
    def is_authenticated(self) -> bool:
        """Whether the footer's tag was checked, which takes the footer's key."""
        return self._opened is not None and self._opened.is_authenticated

    @property
    def leaves(self) -> tuple[LeafColumn, ...]:
        """The leaf columns of the file, in order; names may stand twice."""
        footer = self._plain_schema if self._opened is None else self._opened.footer
        if footer is None:
            raise AssertionError("a plaintext file has a readable footer")
        return leaf_columns(footer, self.name)

    @property
    def locked_columns(self) -> frozenset[int]:
        """The indexes of the leaf columns whose key is missing in at least one row group."""
        return frozenset() if self._opened is None else frozenset(column for _, column in self._opened.locked)

    @property
    def clear_columns(self) -> frozenset[int]:
        """The indexes of the leaf columns that are in plaintext in at least one row group; all of a plaintext file."""
        return frozenset(range(len(self.leaves))) if self._opened is None else self._opened.clear_columns

    @property
    def authenticates_pages(self) -> bool:
        """Whether encrypted pages have tags; those of AES_GCM_CTR_V1 have none."""
        return self._opened is not None and not self._opened.ctr_pages

    @property
    def column_keys(self) -> dict[int, bytes]:
        """What the file stores about the key of each encrypted leaf column, in the first row group that has one."""
        return {} if self._opened is None else dict(self._opened.key_metadata_of_columns)

    def check_column(self, column: int) -> None:
        """Raise what reading the leaf column would raise.

        Raises:
            AccessError: its key is missing; names file, row group and column.
        """
        opened = self._opened
        for (_, index), error in opened.locked.items() if opened is not None else ():
            if index == column:
                raise _again(error)

    def read_range(self, start: int, length: int) -> memoryview:
        """Return exactly `length` plaintext bytes from `start`.

        Raises:
            AccessError: the range touches a column whose key is missing; names file, row group and column.
            IntegrityError: a page was not written with these keys at this place.
        """
        return self.read_many([(start, length)])[0]

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Return several ranges (start, length); their ciphertext is fetched at once.

        Raises:
            AccessError: as `read_range`.
            IntegrityError: as `read_range`.
        """
        if self._opened is None:
            return self._gatherer.fetch(ranges)
        touched = [list(self._pieces(start, length)) for start, length in ranges]
        pieces = [piece for found in touched for piece in found]
        chunks = {chunk.start: chunk for piece in pieces if (chunk := piece.chunk_read_in_part) is not None}
        with ExitStack() as stack:
            for at in sorted(chunks):  # in order, so that two threads never wait for each other
                stack.enter_context(self._locks.setdefault(at, threading.Lock()))
            plain = {at: kept for at in chunks if (kept := self._cache.get(self._owner, at)) is not None}
            missing = [chunk for at, chunk in chunks.items() if at not in plain]
            fetched = self._fetch(pieces, missing)
            plain.update((chunk.start, self._keep(chunk, fetched)) for chunk in missing)
        return [
            self._answer(start, length, found, fetched, plain)
            for (start, length), found in zip(ranges, touched, strict=True)
        ]

    def _pieces(self, start: int, length: int) -> Iterator[_Piece]:
        """Yield what a range touches, after checking that all of it may be read."""
        end = start + length
        if start < 0 or length < 0 or end > self.size_bytes:
            raise FormatError(f"{self.name} has {self.size_bytes} bytes, but bytes {start} to {end} are due")
        starts = self._shown.starts
        first = max(0, bisect_right(starts, start) - 1)
        touched = self._shown.parts[first : bisect_right(starts, end - 1)] if length else ()
        for part in touched:
            if part.error is not None and part.start + part.length > start:
                raise _again(part.error)
        position = start
        for part in touched:
            if part.start > position:
                yield _Piece(None, position, part.start)
                position = part.start
            part_end = min(end, part.start + part.length)
            if part_end > position:
                yield _Piece(part, position, part_end)
                position = part_end
        if position < end:
            yield _Piece(None, position, end)

    def _fetch(self, pieces: list[_Piece], missing: list[ViewPart]) -> dict[int, memoryview]:
        """Return what is needed of the encrypted file, by offset."""
        wanted = {(chunk.start, chunk.length) for chunk in missing}
        for piece in pieces:
            part = piece.part
            if part is None and piece.start < self._shown.copied_end:
                wanted.add((piece.start, min(piece.end, self._shown.copied_end) - piece.start))
            elif part is not None and part.chunk is not None and piece.chunk_read_in_part is None:
                wanted.add((part.start, part.length))
        ranges = sorted(wanted)
        if not ranges:
            return {}
        return {start: data for (start, _), data in zip(ranges, self._gatherer.fetch(ranges), strict=True)}

    def _keep(self, part: ViewPart, fetched: dict[int, memoryview]) -> memoryview:
        plain = memoryview(bytearray(part.length))
        self._open(part, fetched[part.start], plain)
        self._cache.put(self._owner, part.start, plain)
        return plain

    def _answer(
        self,
        start: int,
        length: int,
        pieces: list[_Piece],
        fetched: dict[int, memoryview],
        plain: dict[int, memoryview],
    ) -> memoryview:
        only = pieces[0].part if len(pieces) == 1 else None
        if only is not None and only.start in plain:  # no copy: kept plaintext never changes
            return plain[only.start][start - only.start : start - only.start + length].toreadonly()
        if only is not None and only.chunk is not None and only.is_digested:  # no copy here either
            return self._checked(only.chunk, fetched[only.start]).toreadonly()
        out = memoryview(bytearray(length))
        for piece in pieces:
            part, room = piece.part, out[piece.start - start : piece.end - start]
            if part is None:
                data = fetched.get(piece.start, memoryview(b""))[: len(room)]  # behind the body there are zeros
                room[: len(data)] = data
            elif part.chunk is None:
                room[:] = part.data[piece.start - part.start : piece.end - part.start]
            elif part.start in plain:
                room[:] = plain[part.start][piece.start - part.start : piece.end - part.start]
            else:
                self._open(part, fetched[part.start], room)
        return out.toreadonly()

    def _open(self, part: ViewPart, data: memoryview, out: memoryview) -> None:
        """Decrypt or check a chunk into `out`, which is as long as its part."""
        opened, chunk, place = self._opened, part.chunk, part.place
        if opened is None or chunk is None:
            raise AssertionError("only encrypted and digested chunks are opened")
        if part.is_digested:
            out[:] = self._checked(chunk, data)
            return
        with as_tampering(is_signed=self._is_signed):
            if place is None:
                place = self._lazy.open(*chunk)
            bounds = open_pages(
                data,
                place.declared_bytes,
                place.num_values,
                out=out,
                cipher=opened.cipher_at(*chunk),
                aads=opened.aad.pages(*chunk),
                ctr=opened.ctr_pages,
                what=opened.row_groups.what(*chunk),
            )
        # Opening moves pages inside the buffer where a checksum changes its length, so clear what is left behind.
        end = bounds.new[-1]
        out[end:] = bytes(len(out) - end)

    @property
    def _lazy(self) -> LazyChunks:
        if self._shown.lazy is None:
            raise AssertionError("all chunks of this view are open")
        return self._shown.lazy

    def _checked(self, chunk: tuple[int, int], data: memoryview) -> memoryview:
        digests = self._shown.digests
        if digests is None:
            raise AssertionError("without digests, no plaintext chunk is a part")
        digests.check((*chunk, SegmentKind.PAGES), data)
        return data


def _again(error: AccessError) -> AccessError:
    # A raised error collects the traceback of its thread, so each reader gets its own.
    return type(error)(error.message, hint=error.hint)


_Name: TypeAlias = tuple[object, int]


class ChunkCache:
    """Plaintext by its owner and a number; the last that was put is always kept, others within the bound.

    Safe to use from several threads.

    Args:
        bound_bytes: of all plaintext together.
    """

    def __init__(self, bound_bytes: int) -> None:
        """Keep nothing yet."""
        self._bound_bytes = bound_bytes
        self._bytes = 0
        self._chunks: OrderedDict[_Name, memoryview] = OrderedDict()
        # May be taken again: a view that is collected forgets its plaintext on whatever thread is at work, perhaps
        # in here.
        self._guard = threading.RLock()

    def get(self, owner: object, index: int) -> memoryview | None:
        """Return what is kept under a number of the owner, or None."""
        with self._guard:
            plain = self._chunks.get((owner, index))
            if plain is not None:
                self._chunks.move_to_end((owner, index))
            return plain

    def put(self, owner: object, index: int, plain: memoryview) -> None:
        """Keep plaintext, and drop what was used longest ago."""
        with self._guard:
            replaced = self._chunks.pop((owner, index), None)
            self._bytes += len(plain) - (0 if replaced is None else len(replaced))
            self._chunks[owner, index] = plain
            while len(self._chunks) > 1 and self._bytes > self._bound_bytes:
                _, dropped = self._chunks.popitem(last=False)
                self._bytes -= len(dropped)

    def forget(self, owner: object) -> None:
        """Drop all plaintext of an owner."""
        with self._guard:
            for name in [name for name in self._chunks if name[0] is owner]:
                self._bytes -= len(self._chunks.pop(name))
