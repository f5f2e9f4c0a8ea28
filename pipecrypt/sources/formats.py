"""Guess format, compression and dialect from a file name; name the output. Reading the formats is left to batches."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from pipecrypt.formats.options import CSVOptions

__all__ = [
    "MAGIC_BYTES",
    "Compression",
    "SourceFormat",
    "guess_csv_options",
    "guess_format",
    "known_suffixes",
    "output_name",
    "sniff_format",
]


class SourceFormat(StrEnum):
    """What a source's bytes are: `json` is JSON lines, `bytes` anything at all."""

    PARQUET = "parquet"
    CSV = "csv"
    JSON = "json"
    ARROW = "arrow"
    ORC = "orc"
    BYTES = "bytes"


class Compression(StrEnum):
    """What a whole source file is compressed with; codecs inside of a format do not count."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"
    BZ2 = "bz2"


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
_COMPRESSIONS: Final = {
    "gz": Compression.GZIP,
    "gzip": Compression.GZIP,
    "zst": Compression.ZSTD,
    "zstd": Compression.ZSTD,
    "bz2": Compression.BZ2,
}
# TPC-H's tables have no header, no quotes, and a delimiter after the last field too.
_DIALECTS: Final = {
    "tsv": CSVOptions(delimiter="\t"),
    "tbl": CSVOptions(delimiter="|", header=False, quote=None, trailing_delimiter=True),
}


def guess_format(name: str) -> tuple[SourceFormat | None, Compression]:
    """Return format and compression by the extensions of a file name; None for an extension nobody knows."""
    _, extension, compression = _split(name)
    return _FORMATS.get(extension.lower()), compression


def sniff_format(start: bytes) -> SourceFormat | None:
    """Return the format whose files begin so, for names that tell none; None where text or something else does."""
    return next((source_format for magic, source_format in _MAGIC.items() if start.startswith(magic)), None)


def guess_csv_options(name: str) -> CSVOptions:
    """Return the dialect by extension: tab for .tsv, TPC-H's for .tbl; else the first rows tell the delimiter."""
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
    compression = _COMPRESSIONS.get(extension.lower(), Compression.NONE)
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
    compressed = ["", *(f".{name}" for name in _COMPRESSIONS)]
    return tuple(f".{extension}{end}" for extension in extensions for end in compressed)
