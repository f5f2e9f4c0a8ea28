from __future__ import annotations

import threading
from collections.abc import Iterator

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from pipecrypt.errors import UsageError
from pipecrypt.formats.batches import batches_of
from tests.formats.world import table_of, written

_TABLE = pa.table({"n": [1, 2, 3], "s": ["a", None, "c"]})


@pytest.mark.parametrize(
    "value",
    [
        _TABLE,
        _TABLE.to_batches()[0],
        _TABLE.to_batches(max_chunksize=2),
        iter([_TABLE, _TABLE.slice(0, 0)]),
        pl.DataFrame(_TABLE),
        [pl.DataFrame(_TABLE)],
        _TABLE.to_pandas(),
        _TABLE.to_struct_array().combine_chunks(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_tables_of_any_library(value: object) -> None:
    assert table_of(batches_of(value)).to_pydict() == _TABLE.to_pydict()


def test_readers_and_relations_are_read_once() -> None:
    assert table_of(batches_of(_TABLE.to_reader())).equals(_TABLE)
    with duckdb.connect() as connection:
        relation = connection.sql("select range as n from range(5000)")
        assert written(batches_of(relation)).column("n").to_pylist() == list(range(5000))


def test_a_given_schema_is_asked_for_and_kept() -> None:
    schema = pa.schema({"n": pa.int64(), "s": pa.large_string()})

    assert table_of(batches_of(pl.DataFrame(_TABLE), schema)).schema == schema
    assert written(batches_of(iter([]), schema)).schema == schema
    assert table_of(batches_of(pd.DataFrame({"n": [1]}))).to_pydict() == {"n": [1]}


def test_the_batch_of_another_schema_is_named() -> None:
    good, bad = _TABLE.to_batches()[0], pa.record_batch({"n": [1.5], "s": ["x"]})

    with pytest.raises(UsageError, match="batch 3 has another schema: column n is double, not int64"):
        table_of(batches_of([good, good, bad]))
    with pytest.raises(UsageError, match="batch 1 has another schema: its columns are n, s, not n"):
        table_of(batches_of([good], pa.schema({"n": pa.int64()})))
    with pytest.raises(UsageError, match="item 2, a str, is not a record batch"):
        table_of(batches_of([good, "x"]))


@pytest.mark.parametrize("value", [1, "x", b"x", {"a": [1]}, [], pa.array([1]), pa.chunked_array([[1]]), object()])
def test_what_is_no_table_is_refused(value: object) -> None:
    with pytest.raises(UsageError):
        batches_of(value)


def test_generators_stay_on_their_thread_and_are_closed() -> None:
    threads = set()
    closed = []

    def generate() -> Iterator[pa.RecordBatch]:
        try:
            for _ in range(10):
                threads.add(threading.get_ident())
                yield from _TABLE.to_batches()
        finally:
            closed.append(True)

    assert len(written(batches_of(generate()), 4)) == 30
    assert threads == {threading.get_ident()}
    stream = batches_of(generate())
    next(iter(stream))
    stream.close()
    assert closed == [True, True]


def test_errors_of_a_callers_generator_are_its_own() -> None:
    def generate() -> Iterator[pa.RecordBatch]:
        yield from _TABLE.to_batches()
        raise KeyError("x")

    with pytest.raises(KeyError):
        written(batches_of(generate()))
    with pytest.raises(KeyError):
        written(batches_of(pa.RecordBatchReader.from_batches(_TABLE.schema, generate())))


def test_values_that_do_not_fit_the_asked_schema_are_an_error() -> None:
    schema = pa.schema({"n": pa.int8(), "s": pa.string()})

    with pytest.raises(UsageError):
        table_of(batches_of(pl.DataFrame({"n": [1000], "s": ["x"]}), schema))
