"""Cut a stream of bytes into blocks of whole rows. Parsing the blocks is left to csv_lines and json_lines.

A line end inside of quotes ends no row. Counting quotes would tell inside from outside only where no unquoted field
holds a quote (`5" pipe`). Two facts are used instead. First: right behind a quote one is inside of a quoted field only
if it is the quote that opened it, which follows a delimiter or a line end, or one of two doubled quotes. So behind a
quote between other characters one is outside, whatever came before. There is nearly always such a quote close to the
end of a block; from there on, one regular expression walks exactly. Second: a block begins at a row, so the walk can
begin there where the first fact does not help.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from pipecrypt.errors import FormatError

__all__ = ["Block", "RowEnds", "cut_blocks", "read_full"]

_BOM: Final = b"\xef\xbb\xbf"
_MAX_READ_BYTES: Final = 64 << 20
# Quotes to look at before a block is walked.
_TRIES: Final = 64
_LONG_ROW: Final = "a quote may never be closed: check the quote character; or lines end with a carriage return only"


@dataclass(frozen=True, slots=True)
class Block:
    """Whole rows, the last one ended by a line end too, and the line of the file that they begin at (from 1)."""

    data: bytes
    line: int


class RowEnds:
    """Finds where rows end.

    Args:
        delimiter: one byte.
        quote: one byte, or None where every line end ends a row.
    """

    __slots__ = ("_quote", "_row", "_rows", "_tail", "_unclear")

    def __init__(self, delimiter: bytes, quote: bytes | None) -> None:
        """Compile the expressions for this dialect."""
        self._quote = quote
        if quote is None:
            self._unclear = b""
            self._row = re.compile(rb"[^\r\n]*+(?:\r?\n|\r)")
            self._rows = self._tail = re.compile(rb"(?:[^\n]*+\n)*+")
            return
        d, q = re.escape(delimiter), re.escape(quote)
        self._unclear = delimiter + quote + b"\r\n"
        closed = rb"(?:%b(?:[^%b]++|%b%b)*+%b|(?!%b))" % (q, q, q, q, q, q)
        value = closed + rb"[^%b\r\n]*+" % d
        self._row = re.compile(rb"(?:%b%b)*+%b(?:\r?\n|\r)" % (value, d, value))
        # A lone carriage return ends a row for the parser, but no block: its line feed may still come.
        rows = rb"(?:(?:%b(?:%b|\r(?!\n)))*+%b\r?\n)*+" % (value, d, value)
        self._rows = re.compile(rows)
        # From behind a closing quote: the rest of its row, then more rows.
        self._tail = re.compile(rb"[^%b\r\n]*+(?:(?:%b|\r(?!\n))%b)*+\r?\n%b" % (d, d, value, rows))

    def last(self, data: bytes) -> int:
        """Return the offset after a row end near the end of `data`, which begins at a row; 0 where there is none."""
        if self._quote is None:
            return data.rfind(b"\n") + 1
        end = at = data.rfind(b"\n")
        for _ in range(_TRIES):
            before, at = at, data.rfind(self._quote, 0, max(at, 0))
            if at < 0:
                # Without any quote before it, the last line end ends a row.
                return end + 1 if before == end else self.walk(data)
            is_single = at > 0 and data[at - 1] not in self._unclear and data[at + 1] != self._quote[0]
            if is_single and (found := self._tail.match(data, at + 1)):
                return found.end()
        return self.walk(data)

    def walk(self, data: bytes) -> int:
        """Return the offset after the last row end; slower than `last`, which may stop at an earlier one."""
        found = self._rows.match(data)
        return found.end() if found else 0

    def rows(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Yield the offsets of every row that is not an empty line."""
        for row in self._row.finditer(data):
            start, end = row.span()
            if data[start] not in b"\r\n":
                yield start, end

    def split(self, data: bytes) -> list[tuple[int, int]]:
        """Return the offsets of every row that is not an empty line."""
        return list(self.rows(data))


def cut_blocks(
    read: Callable[[int], bytes], row_ends: RowEnds, *, name: str, block_bytes: int, max_row_bytes: int
) -> Iterator[Block]:
    """Yield blocks of about `block_bytes`; joined, they are the input without its byte order mark.

    A last line without end gets one. A row longer than a block makes its block as long as it needs.

    Args:
        read: returns up to so many bytes, b"" at the end.
        row_ends: of the dialect.
        name: what errors call the file.
        block_bytes: bytes to read at once.
        max_row_bytes: longest row.

    Raises:
        FormatError: a row is longer than that, or a quote is never closed.
    """
    line = 1
    rest = b""
    is_start = True
    while piece := read_full(read, block_bytes):
        if is_start:
            piece = _without_bom(piece, read)
            is_start = False
        # A row that goes on and on is joined and searched each time its length has doubled.
        while len(piece) < len(rest) and (more := read_full(read, len(rest) - len(piece))):
            piece += more
        data = rest + piece
        end = row_ends.last(data)
        rest = data[end:]
        if len(rest) > max_row_bytes:
            line += data.count(b"\n", 0, end)
            raise FormatError(f"{name}:{line}: a row is longer than {max_row_bytes} bytes", hint=_LONG_ROW)
        if end:
            block = Block(data[:end], line)
            line += block.data.count(b"\n")
            del data, piece
            yield block
    if rest:
        yield _last_block(rest, line, row_ends, name)


def _last_block(rest: bytes, line: int, row_ends: RowEnds, name: str) -> Block:
    data = rest if rest.endswith(b"\n") else rest + b"\n"
    end = row_ends.walk(data)
    if end < len(data):
        at = line + data.count(b"\n", 0, end)
        raise FormatError(f"{name}:{at}: a quote is never closed", hint="the file may be cut off, or has no quotes")
    return Block(data, line)


def _without_bom(piece: bytes, read: Callable[[int], bytes]) -> bytes:
    if len(piece) < len(_BOM):
        piece += read_full(read, len(_BOM) - len(piece))
    return piece.removeprefix(_BOM)


def read_full(read: Callable[[int], bytes], length: int) -> bytes:
    """Return `length` bytes, fewer only at the end, where pipes give less at a time; more where `read` gives more."""
    # Lengths may come from a damaged file: no buffer is asked for that the file could not fill.
    pieces = [read(min(length, _MAX_READ_BYTES))]
    missing = length - len(pieces[0])
    while missing > 0 and pieces[-1]:
        pieces.append(read(min(missing, _MAX_READ_BYTES)))
        missing -= len(pieces[-1])
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
