"""CSV: its delimiter and encoding, its names, types and values as Arrow reads them."""

from __future__ import annotations

import io
import subprocess
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecrypt.errors import BadRowError, FormatError, UnsupportedError, UsageError
from pipecrypt.formats.batches import open_batches
from pipecrypt.formats.options import CSVOptions, JSONOptions, ReadOptions, SourceFormat, guess_csv_options
from pipecrypt.formats.text_rows import TextStream
from tests.formats.world import csv_stream, json_stream, pipe, table_of, written

_TABLES = ("lineitem", "orders", "customer", "part", "partsupp", "supplier", "nation", "region")


@pytest.fixture(scope="module")
def tpch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tpch")
    program = Path(sys.executable).with_name("tpchgen-cli")
    for kind in ("csv", "tbl", "parquet"):
        subprocess.run([program, kind, "-s", "0.002", "-o", place], check=True, capture_output=True)
    return place


@pytest.mark.parametrize("table", _TABLES)
@pytest.mark.parametrize("kind", ["csv", "tbl"])
def test_tpch_is_what_its_parquet_is(tpch: Path, table: str, kind: str) -> None:
    expected = pq.read_table(tpch / f"{table}.parquet")
    plain = {name: "string" if "view" in str(kind) else str(kind) for name, kind in _types(expected.schema)}
    guessed = guess_csv_options(f"{table}.{kind}")
    names = None if guessed.header else tuple(expected.schema.names)
    dialect = CSVOptions(
        delimiter=guessed.delimiter,
        header=guessed.header,
        quote=guessed.quote,
        trailing_delimiter=guessed.trailing_delimiter,
        names=names,
        types=plain,
    )
    with (tpch / f"{table}.{kind}").open("rb") as file:
        options = ReadOptions(csv=dialect, block_bytes=100_000)
        table_read = written(open_batches(file, "x", SourceFormat.CSV, options=options), 5000)

    assert table_read.cast(expected.schema).equals(expected)


def _types(schema: pa.Schema) -> list[tuple[str, pa.DataType]]:
    return [(field.name, field.type) for field in schema]


@pytest.mark.parametrize("block_bytes", [50_000, 1 << 20])
def test_inference_is_arrows_own(tpch: Path, block_bytes: int) -> None:
    data = (tpch / "orders.csv").read_bytes()

    assert table_of(csv_stream(data, block_bytes=block_bytes)).equals(pc.read_csv(io.BytesIO(data)).combine_chunks())


def test_pipes_are_read() -> None:
    stream = open_batches(pipe(b"a,b\n" + b"1,x\n" * 5000), "x", SourceFormat.CSV)

    assert table_of(stream).num_rows == 5000


def test_the_dialect_is_obeyed() -> None:
    data = b"\xef\xbb\xbf\r\n'a;1';b\r\n1,5;'x;\r\n''y'\r\n\r\n-;z"

    table = table_of(csv_stream(data, delimiter=";", quote="'", decimal_point=",", null_values=("-",)))

    assert table.to_pydict() == {"a;1": [1.5, None], "b": ["x;\r\n'y", "z"]}


def test_null_values_count_for_text_unless_quoted() -> None:
    table = table_of(csv_stream(b'a,b\nNULL,"NULL"\nx,y\n', null_values=("NULL",)))

    assert table.to_pydict() == {"a": [None, "x"], "b": ["NULL", "y"]}


def test_names_and_headers() -> None:
    assert table_of(csv_stream(b"1,2\n", header=False)).to_pydict() == {"f0": [1], "f1": [2]}
    assert table_of(csv_stream(b"1,2\n", header=False, names=("x", "y"))).to_pydict() == {"x": [1], "y": [2]}
    assert table_of(csv_stream(b"a,b\n1,2\n", names=("x", "y"))).to_pydict() == {"x": [1], "y": [2]}
    assert table_of(csv_stream(b'"a\nb",c\n1,2\n')).to_pydict() == {"a\nb": [1], "c": [2]}
    assert table_of(csv_stream(b"a|b|\n1|2|\n", delimiter="|", trailing_delimiter=True)).to_pydict() == {
        "a": [1],
        "b": [2],
    }


@pytest.mark.parametrize("data", [b"a,b\n", b"a,b", b"\n\na,b\r\n\r\n"])
def test_a_header_alone_is_a_table_without_rows(data: bytes) -> None:
    table = written(csv_stream(data, types={"a": "int64"}))

    assert table.schema == pa.schema({"a": pa.int64(), "b": pa.string()})
    assert len(table) == 0


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_needs_names(data: bytes) -> None:
    with pytest.raises(FormatError):
        csv_stream(data)
    assert table_of(csv_stream(data, names=("a",))).schema == pa.schema({"a": pa.string()})


def test_a_column_without_values_at_first_is_text() -> None:
    table = table_of(csv_stream(b"a,b\n1,\n1,\n1,\n1,x\n", block_bytes=8))

    assert table.to_pydict() == {"a": [1, 1, 1, 1], "b": ["", "", "", "x"]}


def test_given_types_are_read() -> None:
    types = {
        "d": "decimal128(12,2)",
        "t": "timestamp[us, UTC]",
        "c": "dictionary<string>",
        "l": "large_string",
        "n": "int32",
        "o": "date32",
    }
    table = written(csv_stream(b"d,t,c,l,n,o\n1.5,2020-01-01T00:00:00Z,x,y,,2020-02-03\n" * 1, types=types))

    assert [str(kind) for _, kind in _types(table.schema)] == [
        "decimal128(12, 2)",
        "timestamp[us, tz=UTC]",
        "dictionary<values=string, indices=int32, ordered=0>",
        "large_string",
        "int32",
        "date32[day]",
    ]
    assert table.select(["d", "c", "l", "n", "o"]).to_pylist() == [
        {"d": Decimal("1.50"), "c": "x", "l": "y", "n": None, "o": date(2020, 2, 3)}
    ]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-8-sig", "cp1252"])
def test_other_encodings_are_recoded(encoding: str) -> None:
    data = "größe,b\nä,1\n".encode(encoding)

    assert table_of(csv_stream(data, encoding=encoding)).to_pydict() == {"größe": ["ä"], "b": [1]}


def test_recoding_streams_whatever_text_grows_to() -> None:
    data = ("a,b\n" + "ä,ö\n" * 5000).encode("latin-1")
    stream = open_batches(
        pipe(data), "x", SourceFormat.CSV, options=ReadOptions(CSVOptions(encoding="latin-1"), block_bytes=700)
    )

    assert table_of(stream).num_rows == 5000
    assert all(len(batch) < 700 for batch in csv_stream(data, encoding="latin-1", block_bytes=700))


def test_wrong_encodings_are_named() -> None:
    with pytest.raises(BadRowError, match=r"x.csv:3: column a is not UTF-8: the file may be latin-1"):
        table_of(csv_stream(b"a\nx\n\xff\n"))
    with pytest.raises(FormatError):
        table_of(csv_stream(b"a\nx", encoding="utf-16"))


def test_a_byte_order_mark_inside_of_the_file_is_a_value() -> None:
    table = table_of(csv_stream("a,b\n\ufeffx,1\n\ufeffy,2\n".encode(), block_bytes=8))

    assert table.to_pydict() == {"a": ["\ufeffx", "\ufeffy"], "b": [1, 2]}


def test_quotes_inside_of_unquoted_fields_are_text() -> None:
    data = b'a,b\n5" pipe,"x\ny"\n7",z\n' * 1 + b'"q""r",6" s\n' * 20

    for block_bytes in range(1, 40):
        table = table_of(csv_stream(data, block_bytes=block_bytes))
        assert table.to_pydict() == {"a": ['5" pipe', '7"'] + ['q"r'] * 20, "b": ["x\ny", "z"] + ['6" s'] * 20}


def test_types_that_csv_cannot_hold_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="column a"):
        csv_stream(b"a\n1\n", types={"a": "list<int8>"})
    with pytest.raises(UsageError) as caught:
        csv_stream(b"amount,b\n1,2\n", types={"amuont": "int8"})
    assert caught.value.hint == "did you mean amount?"
    with pytest.raises(FormatError, match="two columns are called 'a'"):
        csv_stream(b"a,a\n1,2\n")


def _delimiter(data: bytes, **dialect: object) -> str | None:
    stream = csv_stream(data, **dialect)  # type: ignore[arg-type]
    assert isinstance(stream, TextStream)
    stream.close()
    return stream.delimiter


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\n\r\n"])
def test_the_delimiter_is_the_one_of_all_rows(delimiter: str, end: str) -> None:
    rows = [["id", "name", "note"], ["1", '"x; y, z | w"', "b"], ["2", '"a""\n;"', ""], ["3", "", '"\t,"']]
    data = end.join(delimiter.join(row) for row in rows).encode()

    assert _delimiter(data) == delimiter
    table = table_of(csv_stream(data))
    assert table.to_pydict() == {"id": [1, 2, 3], "name": ["x; y, z | w", 'a"\n;', ""], "note": ["b", "", "\t,"]}


@pytest.mark.parametrize(
    "data",
    [b"a\n1\n2\n", b"a", b"note\nhello; bye\nx | y, z\n", b"a\n\n\n1\n", b'"a;b"\n1\n', b"\n", b"a\tb,c\n1,2\n3\n"],
)
def test_the_comma_stays_where_nothing_speaks_against_it(data: bytes) -> None:
    names = ("x",) if data == b"\n" else None

    assert _delimiter(data, names=names) == ","


def test_ragged_rows_of_commas_are_bad_rows() -> None:
    with pytest.raises(BadRowError, match=r"x\.csv:3: 1 field instead of 2"):
        table_of(csv_stream(b"a,b\n1,2\n3\n"))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"a;b\n1;2\n3\n", "semicolon does not occur in all rows"),
        (b"a;b\tc\n1;2\t3\n", "semicolon or tab could be either"),
        (b"a,b;c\n1,2;3\n", "comma or semicolon could be either"),
    ],
)
def test_what_is_not_clear_is_refused_with_the_setting(data: bytes, told: str) -> None:
    with pytest.raises(FormatError) as caught:
        csv_stream(data)
    assert told in caught.value.message
    assert "--delimiter" in caught.value.hint
    assert table_of(csv_stream(data, delimiter=";", skip=True)).num_columns >= 2


def test_the_number_of_names_tells_too() -> None:
    data = b"1,5;2,5\n3,5;4,5\n"

    assert table_of(csv_stream(data, header=False, names=("a", "b"), decimal_point=",")).to_pydict() == {
        "a": [1.5, 3.5],
        "b": [2.5, 4.5],
    }
    assert _delimiter(b"x;y\nz;w\n", names=("a",), delimiter=",") == ","


def test_a_quote_cannot_be_one_of_the_delimiters_that_are_looked_for() -> None:
    with pytest.raises(UsageError):
        CSVOptions(quote="|")
    assert CSVOptions(quote="|", delimiter=",").quote == "|"


@settings(deadline=None)
@given(
    st.lists(st.lists(st.text("ab,;|\t\n\"' é", max_size=6), min_size=3, max_size=3), min_size=1, max_size=12),
    st.sampled_from([",", ";", "\t", "|"]),
)
def test_files_with_all_fields_in_quotes_are_never_cut_wrongly(rows: list[list[str]], delimiter: str) -> None:
    lines = [["a", "b", "c"], *rows]
    data = "\n".join(delimiter.join('"' + text.replace('"', '""') + '"' for text in row) for row in lines).encode()

    assert _delimiter(data) == delimiter
    table = table_of(csv_stream(data, types=dict.fromkeys("abc", "string")))
    assert [list(row.values()) for row in table.to_pylist()] == rows


def test_a_first_row_longer_than_what_is_looked_at() -> None:
    header = ";".join(f"column_{number}" for number in range(6000))
    data = f"{header}\n{';'.join(['1'] * 6000)}\n".encode()

    assert _delimiter(data) == ";"
    assert table_of(csv_stream(data)).num_columns == 6000


@pytest.mark.parametrize("format_", [SourceFormat.CSV, SourceFormat.JSON])
@pytest.mark.parametrize(
    ("encoding", "named"),
    [("utf-16", "utf-16"), ("utf-32", "utf-32"), ("utf-16-le", "utf-16-le"), ("utf-16-be", "utf-16-be")],
)
def test_other_unicode_is_named_and_read_when_told(format_: SourceFormat, encoding: str, named: str) -> None:
    text = "a,b\nä,1\n" * 10 if format_ is SourceFormat.CSV else '{"a": "ä", "b": 1}\n' * 10
    data = text.encode(encoding)
    stream = csv_stream if format_ is SourceFormat.CSV else json_stream

    with pytest.raises(FormatError) as caught:
        stream(data)
    assert named in caught.value.message
    assert f"source.encoding: {named}" in caught.value.hint
    assert f"--encoding {named}" in caught.value.hint
    options = ReadOptions(CSVOptions(encoding=encoding), JSONOptions(encoding=encoding))
    table = table_of(open_batches(pipe(data), "x", format_, options=options))
    assert table.num_columns == 2
    assert table["a"].to_pylist()[0] == "ä"


@pytest.mark.parametrize(
    ("data", "where"),
    [(b"gr\xf6\xdfe,b\n1,2\n", "x.csv:1: the names"), (b"a,b\n1,2\n\xe4,3\n", "x.csv:3: column a is not UTF-8")],
)
def test_text_of_one_byte_a_character_is_named(data: bytes, where: str) -> None:
    with pytest.raises(FormatError) as caught:
        table_of(csv_stream(data))
    assert caught.value.message.startswith(where)
    assert "--encoding cp1252" in caught.value.hint
    assert table_of(csv_stream(data, encoding="latin-1")).num_columns == 2


def test_json_of_one_byte_a_character_is_named() -> None:
    with pytest.raises(FormatError) as caught:
        table_of(json_stream(b'{"a": "x"}\n{"a": "\xe4"}\n'))
    assert caught.value.message.startswith("x.json:2: the line is not UTF-8")
    assert "--encoding cp1252" in caught.value.hint


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252", "utf-16", "shift_jis"])
def test_bytes_of_another_encoding_are_refused_with_their_place(encoding: str) -> None:
    data = ("a,b\n" + "x,y\n" * 9000).encode(encoding) + b"\x81\xff\xff"

    with pytest.raises(FormatError) as caught:
        table_of(open_batches(pipe(data), "x", SourceFormat.CSV, options=ReadOptions(CSVOptions(encoding=encoding))))
    if encoding != "utf-8":
        where = len(data) - (1 if encoding == "utf-16" else 3)  # the first two bytes are a character of UTF-16
        assert f"byte {where:,} is not of {encoding}" in caught.value.message


@pytest.mark.parametrize("encoding", ["hex", "rot13", "klingon", "", "base64", "a\0b"])
def test_what_is_not_an_encoding_of_text_is_refused(encoding: str) -> None:
    with pytest.raises(UsageError):
        CSVOptions(encoding=encoding)
