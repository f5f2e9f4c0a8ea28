from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecrypt.errors import BadRowError, FormatError, UsageError
from pipecrypt.formats.batches import open_batches
from pipecrypt.formats.options import CSVOptions, JSONOptions, ReadOptions, SourceFormat
from pipecrypt.formats.text_rows import TextStream
from tests.formats.world import csv_stream, json_stream, pipe, table_of


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
