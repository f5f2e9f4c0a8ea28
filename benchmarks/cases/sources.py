"""Making encrypted Parquet of rows of other formats."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.inputs import lineitem, new_keys, warm_up
from benchmarks.peers import arrow_keys
from benchmarks.suite import Case, Contender, Place, Ready, Work, WrongOutputError

__all__ = ["CASES", "FORMATS", "encrypting_rows", "prepare_rows"]

FORMATS = ("csv", "csv.gz", "csv.zst", "jsonl", "arrow", "orc")
_PEER = "pyarrow's reader, encrypted"
_OWN_ROWS = 6_001_215  # of lineitem at a scale of 1


def prepare_rows(kind: str, scale: float = 0.5) -> Callable[[Place], AbstractContextManager[Ready]]:
    """Make lineitem in a format."""

    @contextmanager
    def prepare(place: Place) -> Iterator[Ready]:
        path = place.root / f"rows.{kind}"
        plain = lineitem(place, place.point or scale, "csv" if kind.startswith("csv") else "parquet")
        if kind == "csv":
            plain.rename(path)
        else:
            _converted(plain, path, kind)
            plain.unlink()
        yield Ready(path.stat().st_size, new_keys(place.root))

    return prepare


def _converted(plain: Path, path: Path, kind: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if kind.startswith("csv."):
        codec = {"gz": "gzip", "zst": "zstd"}[path.suffix[1:]]
        with plain.open("rb") as source, pa.CompressedOutputStream(str(path), codec) as sink:
            while piece := source.read(1 << 20):
                sink.write(piece)
        return
    file = pq.ParquetFile(plain)  # tpchgen-cli asks for string views, which ORC has not
    fields = [each.with_type(pa.string()) if each.type == pa.string_view() else each for each in file.schema_arrow]
    batches = (batch.cast(pa.schema(fields)) for batch in file.iter_batches())
    if kind == "arrow":
        with pa.ipc.new_file(path, pa.schema(fields)) as writer:
            for batch in batches:
                writer.write_batch(batch)
    elif kind == "orc":
        import pyarrow.orc

        with pyarrow.orc.ORCWriter(path) as writer:
            for batch in batches:
                writer.write(pa.Table.from_batches([batch]))
    else:
        with path.open("w", encoding="utf-8") as out:
            for batch in batches:
                batch.to_pandas().to_json(out, orient="records", lines=True, date_format="iso")


def _opened(path: Path, kind: str) -> tuple[Any, Any]:
    """Return the schema and the batches that pyarrow's own reader finds."""
    if kind == "csv":
        import pyarrow.csv

        reader = pyarrow.csv.open_csv(path)
        return reader.schema, reader
    if kind == "jsonl":
        import pyarrow.json

        reader = pyarrow.json.open_json(path)
        return reader.schema, reader
    import pyarrow as pa

    file = pa.ipc.open_file(pa.OSFile(str(path)))
    return file.schema, (file.get_batch(number) for number in range(file.num_record_batches))


def _arrow(kind: str, *, encrypts: bool) -> Contender:
    def start(place: Place) -> Work:
        import pyarrow.parquet as pq

        _opened(place.root / f"rows.{kind}", kind)  # imports are start-up

        def run() -> None:
            schema, batches = _opened(place.root / f"rows.{kind}", kind)
            factory, properties, _ = arrow_keys(schema.names)
            with pq.ParquetWriter(
                place.out, schema, compression="zstd", encryption_properties=properties if encrypts else None
            ) as writer:
                for batch in batches:
                    writer.write_batch(batch)
            assert factory  # noqa: S101 - the properties die with their factory

        return run

    return Contender(start, lambda place: _check_rows(place, is_encrypted=encrypts))


def _check_rows(place: Place, *, is_encrypted: bool) -> None:
    import pyarrow.parquet as pq

    factory, _, reads = arrow_keys()
    file = pq.ParquetFile(place.out, decryption_properties=reads if is_encrypted else None)
    _compare_rows(place, file.metadata.num_rows)
    del factory


def _compare_rows(place: Place, rows: int) -> None:
    if abs(rows / (_OWN_ROWS * place.scale * (place.point or 0.5)) - 1) > 0.02:
        raise WrongOutputError(f"{place.out} has {rows} rows")


def encrypting_rows(kind: str) -> Contender:
    """pipecrypt encrypts rows of a format."""

    def start(place: Place) -> Work:
        import pipecrypt as pc

        warm_up(place, "warm.csv")
        policy = pc.Policy(default=place.key(), compression="zstd")
        return lambda: pc.encrypt(place.root / f"rows.{kind}", place.out, policy) and None

    return Contender(start, _check_encrypted, is_ours=True)


def _check_encrypted(place: Place) -> None:
    import pipecrypt as pc

    with pc.open(place.out, keys=[place.key()], trust=pc.Trust(verify="off")) as dataset:
        _compare_rows(place, dataset.num_rows)


def _case(kind: str, limits: str) -> Case:
    return Case(
        f"sources: {kind}",
        f"How long does encrypted Parquet of lineitem as {kind} take, next to pyarrow's reader and writer?",
        limits,
        prepare_rows(kind),
        {
            _PEER: _arrow(kind, encrypts=True),
            "pyarrow's reader, plain": _arrow(kind, encrypts=False),
            "pipecrypt": encrypting_rows(kind),
        },
        _PEER,
        rounds=3,
    )


CASES = (
    _case(
        "csv",
        "Finding types and encoding Parquet, both pyarrow's code, which run on two threads side by side; encrypting "
        "is a small part.",
    ),
    _case(
        "jsonl",
        "Parsing JSON; each text is compared with what its type tells, so that no number is rounded in silence.",
    ),
    _case("arrow", "Encoding Parquet: reading costs nothing, so only encoding and encrypting can run side by side."),
)
