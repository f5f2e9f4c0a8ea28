from __future__ import annotations

import pytest

from pipecrypt.errors import UsageError
from pipecrypt.formats.compression import Compression
from pipecrypt.formats.options import (
    CSVOptions,
    EncodeOptions,
    ReadOptions,
    SourceFormat,
    guess_csv_options,
    guess_format,
    output_name,
)


@pytest.mark.parametrize(
    ("name", "source_format", "compression", "output"),
    [
        ("a/x.csv.gz", SourceFormat.CSV, Compression.GZIP, "a/x.parquet"),
        ("x.CSV", SourceFormat.CSV, Compression.NONE, "x.parquet"),
        ("x.y.tsv.zst", SourceFormat.CSV, Compression.ZSTD, "x.y.parquet"),
        ("lineitem.tbl", SourceFormat.CSV, Compression.NONE, "lineitem.parquet"),
        ("x.ndjson.bz2", SourceFormat.JSON, Compression.BZ2, "x.parquet"),
        ("x.jsonl", SourceFormat.JSON, Compression.NONE, "x.parquet"),
        ("x.feather", SourceFormat.ARROW, Compression.NONE, "x.parquet"),
        ("x.arrows", SourceFormat.ARROW, Compression.NONE, "x.parquet"),
        ("x.orc", SourceFormat.ORC, Compression.NONE, "x.parquet"),
        ("x.pq", SourceFormat.PARQUET, Compression.NONE, "x.parquet"),
        ("a/x.log", None, Compression.NONE, "a/x.log.parquet"),
        ("a/x.gz", None, Compression.GZIP, "a/x.gz.parquet"),
        ("a.csv/x", None, Compression.NONE, "a.csv/x.parquet"),
        ("a/.csv", None, Compression.NONE, "a/.csv.parquet"),
    ],
)
def test_names_tell(name: str, source_format: SourceFormat | None, compression: Compression, output: str) -> None:
    assert guess_format(name) == (source_format, compression)
    assert output_name(name) == output


def test_extensions_tell_the_dialect() -> None:
    assert guess_csv_options("x.tsv.gz").delimiter == "\t"
    assert guess_csv_options("x.tbl").trailing_delimiter
    assert guess_csv_options("x.csv") == CSVOptions()


@pytest.mark.parametrize(
    "dialect",
    [{"delimiter": ""}, {"delimiter": "||"}, {"quote": "«"}, {"quote": ","}, {"delimiter": "\n"}, {"encoding": "x"}],
)
def test_wrong_dialects_are_refused(dialect: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        CSVOptions(**dialect)  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [0, -1, 1 << 40])
def test_wrong_sizes_are_refused(rows: int) -> None:
    with pytest.raises(UsageError):
        EncodeOptions(batch_rows=rows)
    with pytest.raises(UsageError):
        ReadOptions(block_bytes=min(rows, 0))
