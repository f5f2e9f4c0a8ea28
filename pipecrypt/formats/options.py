"""What a file is, by its name and first bytes, and how it is read and written: plain, frozen values without pyarrow.

Types are texts here, as in YAML and on the command line; `type_names` makes Arrow types of them.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from pipecrypt.errors import UsageError
from pipecrypt.formats.compression import EXTENSIONS, Compression

__all__ = [
    "DEFAULT_BATCH_ROWS",
    "DETECTABLE_DELIMITERS",
    "MAGIC_BYTES",
    "BadRows",
    "CSVOptions",
    "Codec",
    "EncodeOptions",
    "JSONOptions",
    "ReadOptions",
    "SourceFormat",
    "guess_csv_options",
    "guess_format",
    "known_suffixes",
    "output_name",
    "sniff_format",
]

DEFAULT_BATCH_ROWS: Final = 131_072
# Parquet's own bound of pyarrow's writer for one row group.
_MAX_BATCH_ROWS: Final = 64 << 20
_MAX_TEXT_BYTES: Final = 512 << 20
# Those that are detected where none is given, with their names.
DETECTABLE_DELIMITERS: Final[Mapping[str, str]] = MappingProxyType(
    {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
)


def _check_encoding(encoding: str) -> None:
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


class SourceFormat(StrEnum):
    """What a source's bytes are: `json` is JSON lines, `bytes` anything at all."""

    PARQUET = "parquet"
    CSV = "csv"
    JSON = "json"
    ARROW = "arrow"
    ORC = "orc"
    BYTES = "bytes"


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
        delimiter: one ASCII character between fields; None where the first rows show it.
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
        if self.quote is not None and self.quote in (self.delimiter or DETECTABLE_DELIMITERS):
            raise UsageError("csv: delimiter and quote are the same character", hint="choose another delimiter")
        _check_encoding(self.encoding)


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
        _check_encoding(self.encoding)


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

    batch_rows: int = DEFAULT_BATCH_ROWS
    compression: Codec = Codec.ZSTD

    def __post_init__(self) -> None:
        """Check the number of rows.

        Raises:
            UsageError: it is not between 1 and 67108864.
        """
        if not 1 <= self.batch_rows <= _MAX_BATCH_ROWS:
            raise UsageError(f"batch_rows must be between 1 and {_MAX_BATCH_ROWS}", hint="131072 suits most tables")


_FORMATS: Final = {
    "parquet": SourceFormat.PARQUET,
    "pq": SourceFormat.PARQUET,
    "csv": SourceFormat.CSV,
    "tsv": SourceFormat.CSV,
    "tbl": SourceFormat.CSV,
    "json": SourceFormat.JSON,
    "jsonl": SourceFormat.JSON,
    "ndjson": SourceFormat.JSON,
    "arrow": SourceFormat.ARROW,
    "arrows": SourceFormat.ARROW,
    "ipc": SourceFormat.ARROW,
    "feather": SourceFormat.ARROW,
    "orc": SourceFormat.ORC,
}
_MAGIC: Final = {
    b"PAR1": SourceFormat.PARQUET,
    b"PARE": SourceFormat.PARQUET,
    b"ARROW1": SourceFormat.ARROW,
    b"ORC": SourceFormat.ORC,
}
MAGIC_BYTES: Final = 6
# TPC-H's tables have no header, no quotes, and a delimiter after the last field too.
_DIALECTS: Final = {
    "tsv": CSVOptions(delimiter="\t"),
    "tbl": CSVOptions(delimiter="|", header=False, quote=None, trailing_delimiter=True),
}


def guess_format(name: str) -> tuple[SourceFormat | None, Compression]:
    """Return format and compression by the extensions of a file name; None for an unknown extension."""
    _, extension, compression = _split(name)
    return _FORMATS.get(extension.lower()), compression


def sniff_format(start: bytes) -> SourceFormat | None:
    """Return the format whose files begin so, for names without a known extension; None for text and all else."""
    return next((source_format for magic, source_format in _MAGIC.items() if start.startswith(magic)), None)


def guess_csv_options(name: str) -> CSVOptions:
    """Return the dialect by extension: tab for .tsv, TPC-H's for .tbl; else the first rows show the delimiter."""
    _, extension, _ = _split(name)
    return _DIALECTS.get(extension.lower(), CSVOptions())


def output_name(name: str) -> str:
    """Return the Parquet file's name for a source's: `a/x.csv.gz` gives `a/x.parquet`.

    An extension that names no format stays: `a/x.log` gives `a/x.log.parquet`.
    """
    stem, extension, _ = _split(name)
    return f"{stem}.parquet" if extension.lower() in _FORMATS else f"{name}.parquet"


def _split(name: str) -> tuple[str, str, Compression]:
    """Return stem, extension and compression; the stem keeps its directory, and a leading dot is no extension."""
    stem, extension = _last_extension(name)
    compression = EXTENSIONS.get(extension.lower(), Compression.NONE)
    if compression is not Compression.NONE:
        stem, extension = _last_extension(stem)
    return stem, extension, compression


def _last_extension(name: str) -> tuple[str, str]:
    start = name.rfind("/") + 1
    dot = name.rfind(".")
    return (name[:dot], name[dot + 1 :]) if dot > start else (name, "")


def known_suffixes(source_format: SourceFormat | None) -> tuple[str, ...]:
    """Return how file names of a format end, in lower case and with every compression; None for all formats."""
    extensions = [name for name, each in _FORMATS.items() if source_format in {None, each}]
    compressed = ["", *(f".{name}" for name in EXTENSIONS)]
    return tuple(f".{extension}{end}" for extension in extensions for end in compressed)
