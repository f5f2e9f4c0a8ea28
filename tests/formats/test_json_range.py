"""JSON numbers that no double holds: the line, the field and the reason are told."""

from __future__ import annotations

import io

import pytest

from pipecrypt.errors import FormatError
from pipecrypt.formats.json import open_json
from pipecrypt.formats.options import ReadOptions


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b'{"a": 1e400}\n', 1),
        (b'\n{"a": -1e400}\n', 2),
        (b'{"a": 1}\n{"a": 1e400}\n', 2),
        (b'{"a": 1.5}\n{"a": 1e999}\n', 2),
        (b'{"a": [1.5]}\n{"a": [1e400]}\n', 2),
        (b'{"a": {"b": 1e400}}\n', 1),
    ],
)
def test_a_number_beyond_a_double_is_named_with_its_line(data: bytes, line: int) -> None:
    with pytest.raises(FormatError) as caught:
        list(open_json(io.BytesIO(data).read, "rows.json", ReadOptions()))
    assert caught.value.message.startswith(f"rows.json:{line}: ")
    assert caught.value.message.endswith("field a has a number beyond the range of a double")
