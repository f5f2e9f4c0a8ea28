from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecrypt.errors import BadRowError, FormatError, UnsupportedError
from pipecrypt.formats.json import MAX_DEPTH, is_too_deep
from tests.formats.world import json_stream, table_of, written

_TEXTS = st.text(alphabet='ab"\\[]{}\n,:', max_size=8)
_VALUES = st.recursive(
    _TEXTS | st.integers() | st.none(),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(_TEXTS, each, max_size=3),
    max_leaves=12,
)


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


def _nested(levels: int) -> bytes:
    return b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}\n"


@given(st.lists(_VALUES, min_size=1, max_size=4), st.sampled_from([None, 2]))
def test_the_depth_is_exact_whatever_texts_hold(values: list[Any], indent: int | None) -> None:
    data = "\n".join(json.dumps(value, indent=indent) for value in values).encode()
    depth = max(map(_depth, values))
    with pytest.MonkeyPatch.context() as patch:
        for limit in (depth - 1, depth):
            patch.setattr("pipecrypt.formats.json.MAX_DEPTH", limit)
            assert is_too_deep(data) == (depth > limit)


def test_texts_cannot_hide_a_level() -> None:
    assert is_too_deep(b'{"a":' + b'["]",' * MAX_DEPTH + b"1" + b"]" * MAX_DEPTH + b"}")
    assert not is_too_deep(b'{"a":"' + b"[" * 1000 + b'"}')


@pytest.mark.parametrize(
    "deep", [_nested(200_000), b'{"a":' * 200_000 + b"1" + b"}" * 200_000 + b"\n", b"[" * 200_000 + b"\n"]
)
def test_deep_rows_are_bad_rows_and_end_no_process(deep: bytes) -> None:
    with pytest.raises(FormatError):
        json_stream(b" " + deep)
    with pytest.raises(BadRowError):
        table_of(json_stream(b'{"a":[]}\n' + deep))
    stream = json_stream(b'{"b":1}\n' + deep + b'{"b":2}\n', skip=True)
    assert table_of(stream).to_pydict() == {"b": [1, 2]}
    assert stream.bad_rows == 1


def test_rows_as_deep_as_parquet_are_read_and_deeper_ones_named() -> None:
    levels = MAX_DEPTH - 2  # the schema and the leaf are levels too
    assert len(written(json_stream(b'{"a":' * levels + b"1" + b"}" * levels + b"\n"))) == 1
    with pytest.raises(UnsupportedError):
        written(json_stream(_nested(MAX_DEPTH)))
    with pytest.raises(FormatError):
        json_stream(_nested(MAX_DEPTH + 1))
