from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecrypt.errors import UsageError
from pipecrypt.formats.type_names import parse_type, parse_types

_LEAVES = [
    pa.null(), pa.bool_(), pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.string(),
    pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(16), pa.date32(),
    pa.date64(), pa.time32("s"), pa.time64("ns"), pa.duration("us"), pa.timestamp("ms"), pa.timestamp("us", "UTC"),
    pa.timestamp("ns", "Europe/Berlin"), pa.timestamp("s", "+01:00"), pa.decimal128(12, 2), pa.decimal256(50, -2),
]  # fmt: skip


def _nested(inner: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[pa.DataType]:
    return st.one_of(
        inner.map(pa.list_),
        inner.map(pa.large_list),
        inner.map(pa.list_view),
        inner.map(lambda kind: pa.list_(kind, 3)),
        inner.map(lambda kind: pa.list_(pa.field("item", kind, nullable=pa.types.is_null(kind)))),
        inner.map(lambda kind: pa.dictionary(pa.int8(), kind, ordered=True)),
        st.lists(inner, max_size=3, min_size=1).map(
            lambda kinds: pa.struct([(f"f{i}", k) for i, k in enumerate(kinds)])
        ),
        inner.map(lambda kind: pa.map_(pa.string(), kind)),
    )


@given(st.recursive(st.sampled_from(_LEAVES), _nested, max_leaves=5))
def test_what_arrow_prints_is_read(kind: pa.DataType) -> None:
    assert parse_type(str(kind)) == kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Int64", pa.int64()),
        ("double", pa.float64()),
        ("decimal(12,2)", pa.decimal128(12, 2)),
        ("date", pa.date32()),
        ("timestamp", pa.timestamp("us")),
        ("timestamp[us,UTC]", pa.timestamp("us", "UTC")),
        (" list < string > ", pa.list_(pa.string())),
        ("dictionary<string>", pa.dictionary(pa.int32(), pa.string())),
        ("dictionary<string, int8>", pa.dictionary(pa.int8(), pa.string())),
        ("map<string, list<int8>>", pa.map_(pa.string(), pa.list_(pa.int8()))),
        (
            "struct<a: int64, b: struct<c: date32>>",
            pa.struct([("a", pa.int64()), ("b", pa.struct([("c", pa.date32())]))]),
        ),
    ],
)
def test_short_forms_are_read(text: str, kind: pa.DataType) -> None:
    assert parse_type(text) == kind


@pytest.mark.parametrize(
    "text",
    ["", "in64", "int64 int64", "decimal128", "decimal128(99,2)", "decimal128(a)", "timestamp[xs]", "list<", "list<>",
     "struct<int64>", "map<string>", "int64(3)", "time32[ns]", "dictionary<>", "fixed_size_list<int8>", "list<" * 100,
     "(", "<>", "fixed_size_binary[x]", "struct<a: int64", "timestamp[us, UTC, x]"],
)  # fmt: skip
def test_what_is_no_type_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_type(text)


def test_errors_suggest_and_name_the_column() -> None:
    with pytest.raises(UsageError, match=r"column age: .*did you mean int64\?"):
        parse_types({"name": "string", "age": "imt64"})
