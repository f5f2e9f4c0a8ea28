"""Where the parts of an encrypted file lie, for tampers that exchange them. Works on plaintext footers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipecrypt.parquet.footer.row_groups import RowGroups, locate_pages
from pipecrypt.parquet.footer.segments import SegmentKind, chunk_parts
from pipecrypt.parquet.footer.stored import read_stored_footer
from pipecrypt.parquet.wire.fields import ColumnChunk, ColumnCrypto
from tests.parquet.world import MemorySource, every_row_group


@dataclass(frozen=True)
class Range:
    """A part of a file."""

    start: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.length

    def of(self, data: bytes) -> bytes:
        return data[self.start : self.end]


@dataclass(frozen=True)
class Parts:
    """Parts by (row group, column), and the key metadata of encrypted chunks."""

    pages: dict[tuple[int, int], Range]
    others: dict[tuple[int, int, SegmentKind], Range]
    key_metadata: dict[tuple[int, int], bytes]
    body_end: int


def parts_of(data: bytes) -> Parts:
    stored = read_stored_footer(MemorySource(data))
    assert stored.metadata is not None, "an encrypted footer hides its parts"
    pages, others, keys = {}, {}, {}
    for chunks in every_row_group(RowGroups(stored.metadata, "a file")):
        for chunk in chunks:
            place = (chunk.row_group, chunk.column)
            where = locate_pages(chunk)
            pages[place] = Range(where.start, where.declared_bytes)
            for start, length, row_group, column, kind in chunk_parts(chunk):
                if kind != SegmentKind.PAGES:
                    others[row_group, column, SegmentKind(kind)] = Range(start, length)
            crypto = chunk.entry.struct(ColumnChunk.CRYPTO_METADATA)
            own = None if crypto is None else crypto.struct(ColumnCrypto.WITH_COLUMN_KEY)
            if own is not None:
                keys[place] = own.binary(ColumnCrypto.KEY_METADATA) or b""
    return Parts(pages, others, keys, stored.body_end)


def modules_of(data: bytes, chunk: Range) -> list[Range]:
    """Return an encrypted chunk's modules: page header, page, page header, page, ..."""
    found, at = [], chunk.start
    while at < chunk.end:
        length = 4 + int.from_bytes(data[at : at + 4], "little")
        found.append(Range(at, length))
        at += length
    return found


def exchange(data: bytes, one: Range, two: Range) -> bytes:
    """Return the bytes with two parts of one length exchanged."""
    assert one.length == two.length
    assert one.of(data) != two.of(data)
    changed = bytearray(data)
    changed[one.start : one.end], changed[two.start : two.end] = two.of(data), one.of(data)
    return bytes(changed)


def edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    before = path.read_bytes()
    after = change(before)
    assert after != before, "a tamper must change something"
    path.write_bytes(after)
