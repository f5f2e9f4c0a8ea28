"""Read text as UTF-8, and cut it into blocks of whole rows.

The encoding is given, or the first bytes show that it is another one: nothing is guessed that a row could contradict
unseen.

A line end inside of quotes ends no row. Counting quotes would tell inside from outside only where no unquoted field
holds a quote (`5" pipe`), so quotes are taken by runs of them, without a gap. A run of an even number changes nothing:
it is an empty field, or doubled quotes. An odd one after a delimiter or a line end opens a field, or closes the one
that is open. An odd one after anything else can only close: after it one is outside, whatever came before. There is
nearly always such a run close to the end of a block; from there on, runs are counted. A block begins at a row, outside.

Only searches for bytes are used, and no regular expressions: what those mean has differed between versions of Python.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from pipecrypt.errors import FormatError

__all__ = ["Block", "RowEnds", "TextStart", "cut_blocks", "encoding_hint", "read_full", "read_start", "transcoded"]

_BOM: Final = b"\xef\xbb\xbf"
_START_BYTES: Final = 64 << 10
# UTF-32's little-endian mark begins with that of UTF-16.
_MARKS: Final = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
_LIKE_UTF16: Final = 0.4
_MAX_READ_BYTES: Final = 64 << 20
_LINE_ENDS: Final = b"\r\n"
# Kinds of bytes: a quote for each run of an odd number of them, a line feed, and two for all else.
_RUN: Final = b'"'
_LINE_FEED: Final = b"\n"
_BEFORE_OPENING: Final = b","
_OTHER: Final = b"x"
_CLOSING: Final = _OTHER + _RUN
_REACH_BYTES: Final = 4096
_FURTHER: Final = 8
_PIECE_BYTES: Final = 1 << 18
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

    __slots__ = ("_before_opening", "_kinds", "_quote")

    def __init__(self, delimiter: bytes, quote: bytes | None) -> None:
        """Keep the dialect."""
        self._quote = quote
        self._before_opening = delimiter + _LINE_ENDS
        kinds = bytearray(_OTHER * 256)
        for byte in self._before_opening:
            kinds[byte] = _BEFORE_OPENING[0]
        kinds[_LINE_FEED[0]] = _LINE_FEED[0]
        for byte in quote or b"":
            kinds[byte] = _RUN[0]
        self._kinds = bytes(kinds)

    def last(self, data: bytes) -> int:
        """Return the offset after the last row end of `data`, which begins at a row; 0 where there is none."""
        end = data.rfind(b"\n") + 1
        if self._quote is None or self._quote not in data:
            return end
        reach = _REACH_BYTES
        while True:
            start = data.rfind(b"\n", 0, max(0, end - reach)) + 1  # after a line feed, so no run of quotes is cut
            if found := _last_outside(self._marked(data[start:end]), is_row_start=start == 0):
                return start + found
            if start == 0:
                return 0
            reach *= _FURTHER

    def _marked(self, data: bytes) -> bytes:
        """Return `data`, as long as it is, with kinds of bytes in place of bytes: of each odd run one quote is left."""
        # Backwards, because a pair is replaced from the left and the first quote of a run is the one to keep.
        return data.translate(self._kinds)[::-1].replace(_RUN * 2, _OTHER * 2)[::-1]

    def first(self, data: bytes) -> tuple[int, int] | None:
        """Return the offsets of the first row that is not an empty line."""
        start = len(data) - len(data.lstrip(_LINE_ENDS))
        if start == len(data):
            return None
        at = start
        while True:
            opening = self._opening(data, at, len(data))
            lines = [end for end in (data.find(b"\n", at, opening), data.find(b"\r", at, opening)) if end >= 0]
            if lines:
                end = min(lines)
                return start, end + (2 if data[end : end + 2] == _LINE_ENDS else 1)
            if opening == len(data):
                return start, opening
            at = self._after_closing(data, opening)

    def split(self, data: bytes) -> list[tuple[int, int]]:
        """Return the offsets of every row that is not an empty line."""
        rows, start = [], 0
        for row in self.without_quoted(data).splitlines(keepends=True):
            if row[0] not in _LINE_ENDS:
                rows.append((start, start + len(row)))
            start += len(row)
        return rows

    def _opening(self, data: bytes, start: int, stop: int) -> int:
        """Return where the next quoted field begins, `stop` where none does before it."""
        if self._quote is None:
            return stop
        at = start
        while (at := data.find(self._quote, at, stop)) > 0:
            if data[at - 1] in self._before_opening:
                return at
            at += 1
        return stop if at < 0 else 0

    def _after_closing(self, data: bytes, opening: int) -> int:
        """Return the offset after the quote that closes the field which `opening` opens; the end where none does."""
        quote = self._quote or b""
        at = opening + 1
        while (at := data.find(quote, at)) >= 0:
            if data[at + 1 : at + 2] != quote:
                return at + 1
            at += 2
        return len(data)

    def without_quoted(self, data: bytes) -> bytes:
        """Return `data`, as long as it is, with another character in the place of everything inside of quotes."""
        pieces, at = [], 0
        while (opening := self._opening(data, at, len(data))) < len(data):
            closed = self._after_closing(data, opening)
            pieces += [data[at:opening], b"q" * (closed - opening)]
            at = closed
        return b"".join([*pieces, data[at:]])


def _last_outside(marked: bytes, *, is_row_start: bool) -> int:
    """Return the offset after the last line feed that is certainly outside of quotes; 0 where there is none."""
    stop = len(marked)
    while (end := marked.rfind(_LINE_FEED, 0, stop) + 1) > 0:
        closing = marked.rfind(_CLOSING, 0, end)
        if closing < 0 and not is_row_start:
            return 0
        start = closing + len(_CLOSING) if closing >= 0 else 0
        if found := _last_even(marked, start, end):
            return found
        stop = max(closing, 0)
    return 0


def _last_even(marked: bytes, start: int, end: int) -> int:
    """Return the offset after the last line feed with an even number of quotes between `start` and it."""
    inside = marked.count(_RUN, start, end) % 2
    while end > start:  # by pieces, which bound how many parts there are at once
        begin = max(start, end - _PIECE_BYTES)
        parts = marked[begin:end].split(_RUN)
        first = (len(parts) - 1 - inside) % 2  # every second part is outside: the last one, or the one before it
        outside = _RUN.join(parts[first::2])
        at = outside.rfind(_LINE_FEED)
        if at >= 0:
            before = first + 2 * outside.count(_RUN, 0, at)
            return begin + sum(map(len, parts[:before])) + before + at - outside.rfind(_RUN, 0, at)
        inside = (inside + len(parts) - 1) % 2
        end = begin
    return 0


def cut_blocks(
    read: Callable[[int], bytes], row_ends: RowEnds, *, name: str, block_bytes: int, max_row_bytes: int
) -> Iterator[Block]:
    """Yield blocks of about `block_bytes`; joined, they are the input.

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
    while piece := read_full(read, block_bytes):
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
    if (end := row_ends.last(data)) < len(data):
        at = line + data.count(b"\n", 0, end)
        raise FormatError(f"{name}:{at}: a quote is never closed", hint="the file may be cut off, or has no quotes")
    return Block(data, line)


def transcoded(read: Callable[[int], bytes], encoding: str, name: str) -> Callable[[int], bytes]:
    """Return a `read` that gives UTF-8, whatever the file's encoding.

    Raises:
        FormatError: when reading, at bytes that are not of that encoding; names the place.
    """
    codec = codecs.lookup(encoding)
    if codec.name == "utf-8":
        return read
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    decoded_bytes = 0

    def read_transcoded(size: int) -> bytes:
        nonlocal decoded_bytes
        while True:
            data = read(size)
            pending = len(decoder.getstate()[0])
            try:
                text = decoder.decode(data, final=not data).encode()
            except UnicodeError as error:
                start = error.start if isinstance(error, UnicodeDecodeError) else 0
                where = max(decoded_bytes - pending, 0) + start
                hint = "check the encoding of the file"
                raise FormatError(f"{name}: byte {where:,} is not of {encoding}", hint=hint) from None
            decoded_bytes += len(data)
            if text or not data:
                return text

    return read_transcoded


class TextStart:
    """The first bytes of a file and a `read` that begins with them, without its byte order mark.

    Args:
        data: what was read.
        read: gives the rest.
    """

    __slots__ = ("_data", "_read", "data", "is_all")

    def __init__(self, data: bytes, read: Callable[[int], bytes]) -> None:
        """Read nothing more."""
        self.data = self._data = data.removeprefix(_BOM)
        self.is_all = len(data) < _START_BYTES
        self._read = read

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes of the whole file, b"" at its end."""
        if not self._data:
            return self._read(size)
        piece, self._data = self._data[:size], self._data[size:]
        return piece


def read_start(read: Callable[[int], bytes], name: str) -> TextStart:
    """Return the beginning of a file that should be UTF-8.

    Raises:
        FormatError: it is UTF-16 or UTF-32, by its byte order mark or by a zero in every second byte.
    """
    data = read_full(read, _START_BYTES)
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            raise FormatError(f"{name} begins with the byte order mark of {encoding}", hint=encoding_hint(encoding))
    even, odd = data[: 4 << 10 : 2], data[1 : 4 << 10 : 2]
    for zeros, others, encoding in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
        if others and zeros.count(0) > _LIKE_UTF16 * len(others) and not others.count(0):
            raise FormatError(f"{name} looks like {encoding}: every second byte is zero", hint=encoding_hint(encoding))
    return TextStart(data, read)


def encoding_hint(encoding: str) -> str:
    """Return which setting makes a file readable that has this encoding."""
    return f"give the encoding: source.encoding: {encoding}, or --encoding {encoding}"


def read_full(read: Callable[[int], bytes], length: int) -> bytes:
    """Return `length` bytes, fewer only at the end, where pipes give less at a time; more where `read` gives more."""
    # Lengths may come from a damaged file: no buffer is asked for that the file could not fill.
    pieces = [read(min(length, _MAX_READ_BYTES))]
    missing = length - len(pieces[0])
    while missing > 0 and pieces[-1]:
        pieces.append(read(min(missing, _MAX_READ_BYTES)))
        missing -= len(pieces[-1])
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
