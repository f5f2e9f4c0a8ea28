"""How sources are read, as users say it: `pipecrypt.Reading`. Names of files fill in what they leave out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from pipecrypt.errors import FormatError, UsageError
from pipecrypt.formats.compression import Compression
from pipecrypt.formats.options import (
    BadRows,
    CSVOptions,
    JSONOptions,
    ReadOptions,
    SourceFormat,
    guess_csv_options,
    guess_format,
)
from pipecrypt.pipeline.request.choice import choose

__all__ = ["FileReading", "Reading"]

_NO_QUOTE: Final = ""
_TABLES: Final = tuple(each.value for each in SourceFormat if each is not SourceFormat.BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReading:
    """How one file is read.

    Args:
        format: what its bytes are.
        compression: what the whole file is compressed with.
        options: how its rows become batches.
    """

    format: SourceFormat
    compression: Compression
    options: ReadOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How sources are read; what is left out is guessed from each file's name.

    Args:
        format: `parquet`, `csv`, `json` (JSON lines), `arrow` (IPC file or stream, Feather) or `orc`.
        delimiter: of CSV, one character; otherwise each file's first rows tell it.
        header: whether CSV begins with the names of its columns.
        names: names of CSV's columns, instead of a header's.
        quote: of CSV; an empty text where quotes mean nothing.
        null_values: texts of CSV that mean null.
        types: type of a column by its name, such as `decimal128(12, 2)`; for CSV and JSON lines.
        encoding: of CSV and JSON lines, as Python calls it.
        decimal_point: of CSV.
        on_bad_rows: `fail`, or `skip`, which leaves out rows of CSV and JSON lines that do not fit and counts them.

    Raises:
        UsageError: a value is none of those.
    """

    format: str | None = None
    delimiter: str | None = None
    header: bool | None = None
    names: Sequence[str] | None = field(default=None, hash=False)
    quote: str | None = None
    null_values: Sequence[str] | None = field(default=None, hash=False)
    types: Mapping[str, str] = field(default_factory=dict, hash=False)
    encoding: str | None = None
    decimal_point: str | None = None
    on_bad_rows: str = "fail"

    def __post_init__(self) -> None:
        """Refuse now what would fail at the first file."""
        if self.format == SourceFormat.BYTES.value:
            raise UsageError(
                "bytes of no format are not a table", hint="encrypt them in chunks: mode chunks, or --chunks"
            )
        if self.format is not None and self.format not in _TABLES:
            raise UsageError(f"format is {self.format!r}", hint=f"it is one of {', '.join(_TABLES)}")
        self._options("x.csv")

    def of(self, name: str, display: str) -> FileReading:
        """Return how the file called `name` is read; errors call it `display`.

        Raises:
            FormatError: no format is given, and the name tells none.
        """
        guessed, compression = guess_format(name)
        chosen = guessed if self.format is None else SourceFormat(self.format)
        if chosen is None:
            raise FormatError(
                f"{display} is not a Parquet file, and its name tells no other format",
                hint=f"say which it is ({', '.join(_TABLES)}), or encrypt it in chunks",
            )
        if chosen is SourceFormat.PARQUET and compression is not Compression.NONE:
            raise FormatError(f"{display} is a Parquet file inside another compression", hint="decompress it first")
        return FileReading(format=chosen, compression=compression, options=self._options(name))

    def _options(self, name: str) -> ReadOptions:
        given = {
            "delimiter": self.delimiter,
            "header": self.header,
            "names": None if self.names is None else tuple(self.names),
            "null_values": None if self.null_values is None else tuple(self.null_values),
            "encoding": self.encoding,
            "decimal_point": self.decimal_point,
        }
        csv: CSVOptions = replace(
            guess_csv_options(name),
            types=dict(self.types),
            **{option: value for option, value in given.items() if value is not None},  # type: ignore[arg-type]
        )
        if self.quote is not None:
            csv = replace(csv, quote=None if self.quote == _NO_QUOTE else self.quote)
        on_bad_rows = choose(BadRows, self.on_bad_rows, "on_bad_rows")
        json = JSONOptions(types=dict(self.types), encoding=csv.encoding)
        return ReadOptions(csv=csv, json=json, on_bad_rows=on_bad_rows)
