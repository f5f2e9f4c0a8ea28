"""How a source is read and how row groups are written: plain, frozen values. Guessing them is left to formats.

Types are texts here, as in YAML and on the command line; type_names makes Arrow types of them.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from pipecrypt.errors import UsageError

__all__ = [
    "FOUND_DELIMITERS",
    "BadRows",
    "CSVOptions",
    "Codec",
    "EncodeOptions",
    "JSONOptions",
    "ReadOptions",
    "check_encoding",
]

# Parquet's own bound of pyarrow's writer for one row group.
_MAX_BATCH_ROWS: Final = 64 << 20
_MAX_TEXT_BYTES: Final = 512 << 20


def check_encoding(encoding: str) -> None:
    """Refuse what is not the name of a text encoding.

    Raises:
        UsageError: Python does not know it, or it is a codec of another kind, such as `hex`.
    """
    try:
        codecs.lookup(encoding)
        b"x".decode(encoding)
    except UnicodeError:
        return  # an encoding of more bytes a character
    except (LookupError, ValueError):
        hint = "use a name that Python knows, as utf-8, latin-1, cp1252 or utf-16"
        raise UsageError(f"unknown encoding {encoding!r}", hint=hint) from None


# Those that are found where none is given, with their names.
FOUND_DELIMITERS: Final[Mapping[str, str]] = MappingProxyType(
    {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
)


class BadRows(StrEnum):
    """What happens to a row that does not fit: the file fails, or the row is left out and counted."""

    FAIL = "fail"
    SKIP = "skip"


class Codec(StrEnum):
    """What pages are compressed with."""

    ZSTD = "zstd"
    SNAPPY = "snappy"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class CSVOptions:
    """The dialect of a CSV file.

    Args:
        delimiter: one ASCII character between fields; None where the first rows tell it.
        header: whether the first row holds names.
        names: names of the columns, in order; they replace those of a header.
        quote: one ASCII character around fields, doubled inside of them; None where quotes mean nothing.
        null_values: texts that mean null, in columns of every type, unless quoted; None for pyarrow's usual
            ones ("", "NA", "null", ...), which leave text columns alone.
        types: type of a column by its name; the others are inferred from the first block.
        encoding: of the file; anything but UTF-8 is recoded.
        decimal_point: one ASCII character.
        trailing_delimiter: whether a delimiter follows the last field too.
    """

    delimiter: str | None = None
    header: bool = True
    names: tuple[str, ...] | None = None
    quote: str | None = '"'
    null_values: tuple[str, ...] | None = None
    types: Mapping[str, str] = field(default_factory=dict)
    encoding: str = "utf-8"
    decimal_point: str = "."
    trailing_delimiter: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without the file.

        Raises:
            UsageError: a character is not one ASCII character, or two of them are the same.
        """
        for what, text in (("delimiter", self.delimiter), ("quote", self.quote), ("decimal_point", self.decimal_point)):
            if text is not None and (len(text) != 1 or not text.isascii() or text in "\r\n\0"):
                raise UsageError(f"csv: {what} must be one ASCII character", hint='for a tab, write "\\t"')
        if self.quote is not None and self.quote in (self.delimiter or FOUND_DELIMITERS):
            raise UsageError("csv: delimiter and quote are the same character", hint="choose another delimiter")
        check_encoding(self.encoding)


@dataclass(frozen=True, slots=True)
class JSONOptions:
    """How JSON lines are read.

    Args:
        types: type of a field by its name; the others are inferred from the first block.
        encoding: of the file; anything but UTF-8 is recoded.

    Raises:
        UsageError: the encoding is unknown.
    """

    types: Mapping[str, str] = field(default_factory=dict)
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        """Check what can be checked without the file."""
        check_encoding(self.encoding)


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How rows become batches.

    Args:
        csv: the dialect; used for CSV only.
        json: used for JSON lines only.
        on_bad_rows: for CSV and JSON lines.
        block_bytes: text that is parsed at once, and what types are inferred from.
        max_row_bytes: longest row; bounds the memory that a quote which is never closed can take.
    """

    csv: CSVOptions = CSVOptions()
    json: JSONOptions = JSONOptions()
    on_bad_rows: BadRows = BadRows.FAIL
    block_bytes: int = 4 << 20
    max_row_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        """Check the sizes.

        Raises:
            UsageError: a size is not between 1 byte and 512 MiB: Arrow parses up to 2 GiB at once.
        """
        if not (1 <= self.block_bytes <= _MAX_TEXT_BYTES and 1 <= self.max_row_bytes <= _MAX_TEXT_BYTES):
            what = f"block_bytes and max_row_bytes must be between 1 and {_MAX_TEXT_BYTES}"
            raise UsageError(what, hint="leave them out for the defaults")


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """The shape of row groups.

    Args:
        batch_rows: rows of each row group but the last.
        compression: codec of the pages.
    """

    batch_rows: int = 131072
    compression: Codec = Codec.ZSTD

    def __post_init__(self) -> None:
        """Check the number of rows.

        Raises:
            UsageError: it is not between 1 and 67108864.
        """
        if not 1 <= self.batch_rows <= _MAX_BATCH_ROWS:
            raise UsageError(f"batch_rows must be between 1 and {_MAX_BATCH_ROWS}", hint="131072 suits most tables")
