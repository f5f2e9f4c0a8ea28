"""Look at the beginning of a text file: which encoding it seems to have, and what its delimiter is.

Nothing is guessed that a row could contradict unseen: what is not clear is an error that names the setting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pipecrypt.errors import FormatError
from pipecrypt.formats.lines import RowEnds, read_full
from pipecrypt.formats.options import DETECTABLE_DELIMITERS

__all__ = ["TextStart", "encoding_hint", "find_delimiter", "read_start"]

_START_BYTES: Final = 64 << 10
_ROWS: Final = 100
_BOM: Final = b"\xef\xbb\xbf"
# UTF-32's little-endian mark begins with that of UTF-16.
_MARKS: Final = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
_LIKE_UTF16: Final = 0.4


class TextStart:
    """The first bytes of a file, without its byte order mark, and a `read` that begins with them.

    Args:
        data: what was read.
        read: gives the rest.
    """

    __slots__ = ("_data", "_read", "data", "is_all")

    def __init__(self, data: bytes, read: Callable[[int], bytes]) -> None:
        """Read nothing more."""
        self.data = data.removeprefix(_BOM)
        self.is_all = len(data) < _START_BYTES
        self._data = data
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


def find_delimiter(start: TextStart, quote: str | None, name: str, *, fields: int | None) -> str:
    """Return the delimiter of a CSV file: the one that stands in all of its first rows equally often.

    A file in whose first row none stands has one column.

    Args:
        start: of the file.
        quote: of the dialect.
        name: what errors call the file.
        fields: how many there are in a row, if that is known.

    Raises:
        FormatError: there are two such delimiters, or the rows differ where the first row has another than the comma.
    """
    rows = _first_rows(start, quote)
    counts = {delimiter: {row.count(delimiter.encode()) for row in rows} for delimiter in DETECTABLE_DELIMITERS}
    regular = [each for each, found in counts.items() if len(found) == 1 and 0 not in found]
    if fields is not None:
        regular = [each for each in regular if counts[each] == {fields - 1}] or regular
    if len(regular) == 1:
        return regular[0]
    in_first = [each for each in DETECTABLE_DELIMITERS if rows and each.encode() in rows[0]]
    if not regular and (not in_first or "," in in_first or fields == 1):
        return ","
    told = " or ".join(DETECTABLE_DELIMITERS[each] for each in regular or in_first)
    reason = "could be either" if len(regular) > 1 else "does not stand in all rows equally often"
    hint = 'give it: source.csv.delimiter: ";", or --delimiter ";"; a comma for a file of one column'
    raise FormatError(f"{name}: the delimiter is not clear: {told} {reason}", hint=hint)


def _first_rows(start: TextStart, quote: str | None) -> list[bytes]:
    """Return some rows without what stands in quotes."""
    every_delimiter = "".join(DETECTABLE_DELIMITERS).encode()
    data = RowEnds(every_delimiter, quote.encode() if quote else None).without_quoted(start.data)
    rows = [row for row in data.splitlines() if row]
    # The last one may be cut off.
    return (rows if start.is_all or len(rows) == 1 else rows[:-1])[:_ROWS]
