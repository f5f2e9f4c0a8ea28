from __future__ import annotations

import csv
import io
import sys
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipecrypt.errors import FormatError
from pipecrypt.formats import lines
from pipecrypt.formats.lines import Block, RowEnds, cut_blocks, read_full, read_start
from tests.formats.world import Pipe, csv_stream, table_of

_BOM = b"\xef\xbb\xbf"
_PIECES = st.lists(
    st.sampled_from([b'"', b",", b"\n", b"\r", b"a", b'""', b'",', b',"', b'"\n', b"\r\n", b"bc"]), max_size=40
)


def _blocks(data: bytes, block_bytes: int, *, quote: bytes | None = b'"', max_row_bytes: int = 1 << 20) -> list[Block]:
    ends = RowEnds(b",", quote)
    read = Pipe(data, 7).read
    return list(cut_blocks(read, ends, name="x", block_bytes=block_bytes, max_row_bytes=max_row_bytes))


def _states(data: bytes) -> list[bool]:
    """Return, for every offset, whether a parser that has read up to there is inside of quotes; byte by byte."""
    states = [False]
    inside, at_start, index = False, True, 0
    while index < len(data):
        byte = data[index : index + 1]
        doubled = inside and data[index : index + 2] == b'""'
        if doubled:
            states.append(True)
            index += 1
        elif byte == b'"' and inside:
            inside = False
        elif byte == b'"' and at_start:
            inside = True
        at_start = not inside and byte in (b",", b"\n", b"\r")
        states.append(inside)
        index += 1
    return states


@given(_PIECES.map(b"".join), st.integers(1, 30))
@example(b'5" pipe,"a\nb"\n', 5)
@example(b'"",1\n', 3)
@example(b'"a""\r\n', 1)
@example(b'"a","b",""\n"c', 11)
@example(b'a,",\n",x\n1,2,3\n', 6)
def test_blocks_are_the_input_and_never_end_inside_quotes(data: bytes, block_bytes: int) -> None:
    whole = data if not data or data.endswith(b"\n") else data + b"\n"
    states = _states(whole)
    if states[-1]:
        with pytest.raises(FormatError):
            _blocks(data, block_bytes)
        return

    blocks = _blocks(data, block_bytes)

    assert b"".join(block.data for block in blocks) == whole
    offset = 0
    for block in blocks:
        assert block.line == whole.count(b"\n", 0, offset) + 1
        offset += len(block.data)
        assert block.data.endswith(b"\n")
        assert not states[offset]


@given(_PIECES.map(b"".join), st.integers(1, 9), st.integers(1, 9))
@example(b'",","\n",\n","",\n",', 1, 1)
@example(b'"""\n","""\n', 1, 2)
def test_the_last_row_end_is_found_from_behind_however_far_one_looks(data: bytes, reach: int, piece: int) -> None:
    states = _states(data)
    due = max((end for end in range(1, len(data) + 1) if data[end - 1 : end] == b"\n" and not states[end]), default=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_REACH_BYTES", reach)
        patch.setattr(lines, "_PIECE_BYTES", piece)
        assert RowEnds(b",", b'"').last(data) == due


@pytest.mark.parametrize(
    ("row", "opens"),
    [
        (b'"",""\n', b""),
        (b'",",","\n', b""),
        (b'""",""","""\n"""\n', b""),
        (b'"\n","\n",', b""),
        (b"\n\n", b'"'),
    ],
    ids=["empty", "delimiters", "tripled", "one row", "never closed"],
)
def test_looking_for_the_last_row_end_takes_few_steps_wherever_quotes_stand(row: bytes, opens: bytes) -> None:
    steps = 0

    def count(frame: object, event: str, argument: Any) -> None:
        nonlocal steps
        steps += 1

    data, ends = opens + row * (1 << 16), RowEnds(b",", b'"')
    sys.setprofile(count)
    try:
        found = ends.last(data)
    finally:
        sys.setprofile(None)

    assert found == (0 if opens or row.endswith(b",") else len(data))
    assert steps < 1000  # one for each quote were 130,000 and more


@given(_PIECES.map(b"".join), st.integers(1, 30))
def test_without_quotes_every_line_end_ends_a_row(data: bytes, block_bytes: int) -> None:
    blocks = _blocks(data, block_bytes, quote=None)

    assert b"".join(block.data for block in blocks).removesuffix(b"\n") == data.removesuffix(b"\n")
    assert all(block.data.endswith(b"\n") for block in blocks)


def test_blocks_stay_small_where_rows_are() -> None:
    blocks = _blocks(b'1,"a""b"\n' * 1000, 100)

    assert max(len(block.data) for block in blocks) <= 200


@pytest.mark.parametrize("data", [b"", b"a\n", b"a", b"ab\ncd"])
@pytest.mark.parametrize("piece_bytes", [1, 2, 100])
def test_a_byte_order_mark_is_no_data(data: bytes, piece_bytes: int) -> None:
    start = read_start(Pipe(_BOM + data, piece_bytes).read, "x")
    assert (start.data, start.is_all) == (data, True)
    assert read_full(start.read, 100) == data


def test_long_rows_are_bounded() -> None:
    row = b"x" * 5000 + b"\n"
    assert [block.data for block in _blocks(b"a\n" + row, 10, max_row_bytes=10000)][-1] == row

    with pytest.raises(FormatError, match=r"x:2: a row is longer"):
        _blocks(b"a\n" + row, 10, max_row_bytes=1000)
    with pytest.raises(FormatError, match=r"x:3: a row is longer"):
        _blocks(b'a\nb\n"' + b"c\n" * 5000, 10, max_row_bytes=1000)


def test_a_quote_that_is_never_closed_is_named_by_its_row() -> None:
    with pytest.raises(FormatError, match=r"x:3: a quote is never closed"):
        _blocks(b'a\nb\n1,"c\nd', 1 << 20)


_TEXTS = st.text(st.sampled_from('ab,;"\n\r\t é'), max_size=6)


@settings(deadline=None)  # the first call starts Arrow's threads
@given(
    st.lists(st.lists(_TEXTS, min_size=3, max_size=3), max_size=30),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([",", ";", "\t"]),
    st.integers(1, 60),
)
def test_rows_are_those_of_pythons_csv(
    rows: list[list[str]], quoting: int, line_end: str, delimiter: str, block_bytes: int
) -> None:
    if quoting == csv.QUOTE_MINIMAL:
        line_end = "\r\n"  # else Python leaves a lone carriage return unquoted, which ends a row for Arrow
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=line_end).writerows([["a", "b", "c"], *rows])  # type: ignore[arg-type]
    data = text.getvalue().encode()

    types = dict.fromkeys("abc", "string")
    table = table_of(csv_stream(data, block_bytes=block_bytes, delimiter=delimiter, types=types))

    assert [list(row.values()) for row in table.to_pylist()] == rows
