from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from pipecrypt.errors import UnsupportedError
from pipecrypt.reading.rows import read_rows
from pipecrypt.store.location import Location
from tests.reading.world import CREDENTIALS, Keys, write

_NO_UTF8 = pa.Array.from_buffers(
    pa.string(),
    1,
    [None, pa.py_buffer((0).to_bytes(4, "little") + (2).to_bytes(4, "little")), pa.py_buffer(b"\xfe\xff")],
)
_TWICE = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"])


@pytest.mark.parametrize("odd", [pa.array([1 << 61], pa.timestamp("us")), _NO_UTF8, _TWICE])
def test_values_that_python_has_none_for_are_named_by_their_column(odd: pa.Array, tmp_path: Path, keys: Keys) -> None:
    path = Location(str(write(tmp_path / "a.parquet", pa.table({"id": [7], "odd": odd}), keys.policy())))
    with read_rows(path, keys=[keys.open], credentials=CREDENTIALS) as rows:
        with pytest.raises(UnsupportedError) as raised:
            list(rows.batches())
        assert "odd" in raised.value.message
        assert raised.value.__suppress_context__
    with read_rows(path, keys=[keys.open], columns=["id"], credentials=CREDENTIALS) as rows:
        assert list(rows.batches()) == [[(7,)]]
