"""Reading encrypted files through other libraries, beside reading the plaintext."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.cases.columns import prepare_lineitem
from benchmarks.suite import Case, Contender, Place, Ready, Work, WrongOutputError

__all__ = ["CASES"]

_PIECE_BYTES = 4 << 20
_WARM = "l_tax"  # read before the time begins: imports are start-up


def _plain(columns: list[str] | None) -> Contender:
    def start(place: Place) -> Work:
        import fsspec
        import pandas as pd

        path = f"file://{place.root}/lineitem.parquet"
        pd.read_parquet(path, columns=[_WARM])

        def run() -> dict[str, float]:
            before = _read_bytes()
            with fsspec.open(path) as file:
                frame = pd.read_parquet(file, columns=columns)
            assert len(frame) > 0  # noqa: S101
            return {"fetched MB": (_read_bytes() - before) / 1e6}

        return run

    return Contender(start)


def _encrypted(columns: list[str] | None, *, keeps: bool) -> Contender:
    """Read through pandas, with a file system that has opened the file before, or with a new one."""

    def start(place: Place) -> Work:
        import pandas as pd

        from pipecrypt.reading.filesystem import PipecryptFileSystem

        url, options = f"pipecrypt::file://{place.root}/encrypted", {"pipecrypt": {"keys": [place.key()]}}
        pd.read_parquet(url, columns=[_WARM], storage_options=options)
        expected = pd.read_parquet(place.root / "lineitem.parquet", columns=columns or [_WARM])
        if not keeps:
            PipecryptFileSystem.clear_instance_cache()

        def run() -> Callable[[], Mapping[str, float]]:
            before = _read_bytes()
            frame = pd.read_parquet(url, columns=columns, storage_options=options)
            fetched = {"fetched MB": (_read_bytes() - before) / 1e6}
            return lambda: fetched | _compared(frame, expected)

        return run

    return Contender(start, is_ours=True)


def _compared(frame: Any, expected: Any) -> dict[str, float]:
    """Compare in the process that has read."""
    if len(frame) != len(expected) or not frame[expected.columns[0]].iloc[::997].equals(expected.iloc[::997, 0]):
        raise WrongOutputError("another table was read")
    return {}


def _read_bytes() -> int:
    """Return how many bytes this process has read by system calls."""
    status = Path("/proc/self/io")
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("rchar:")), 0)


def _whole(mode: str) -> Contender:
    """Read all plaintext of a signed file, whose signature is checked in one of the ways."""

    def start(place: Place) -> Work:
        import pipecrypt as pc

        def run() -> None:
            trust = None if mode == "off" else [place.key("signing")]
            fs = pc.PipecryptFileSystem(
                keys=[place.key()], trust=pc.Trust(trust, verify=mode), skip_instance_cache=True
            )
            count = 0
            with fs.open(str(place.root / "signed.parquet")) as file:
                while piece := file.read(_PIECE_BYTES):
                    count += len(piece)
            assert count == (place.root / "signed.parquet").stat().st_size  # noqa: S101 - a view is as long

        return run

    return Contender(start, is_ours=True)


@contextmanager
def _prepare_signed(place: Place) -> Iterator[Ready]:
    import pipecrypt as pc

    with prepare_lineitem(place) as made:
        policy = pc.Policy(default=place.key(), sign=place.key("signing"))
        pc.encrypt(place.root / "lineitem.parquet", place.root / "signed.parquet", policy)
        yield made


def _open(read: Callable[[Any], object], expected: Callable[[Any], object]) -> Mapping[str, Contender]:
    def ours(place: Place) -> Work:
        import pyarrow.dataset as ds

        import pipecrypt as pc

        right = expected(ds.dataset(place.root / "lineitem.parquet"))

        def run() -> None:
            with pc.open(place.root / "encrypted", keys=[place.key()], trust=pc.Trust(verify="off")) as dataset:
                assert read(dataset) == right  # noqa: S101

        return run

    def plain(place: Place) -> Work:
        import pyarrow.dataset as ds

        return lambda: expected(ds.dataset(place.root / "lineitem.parquet")) and None

    return {"plaintext": Contender(plain), "pipecrypt.open": Contender(ours, is_ours=True)}


def _filter() -> Any:
    import pyarrow.dataset as ds

    return ds.field("l_orderkey") < 1000


def _column(name: str | None) -> Case:
    columns = None if name is None else [name]
    return Case(
        f"readers: {name or 'all 16 columns'}",
        f"How long does pandas take for {f'one of 16 columns, {name}' if name else 'all 16 columns'}, beside the "
        "plaintext file?",
        'A first open reads and decrypts the footer, unlocks the keystore and unwraps the keys; "kept" has done that '
        "before. What is fetched is "
        "the column's chunks and the footer, which key material of each encrypted chunk makes larger.",
        prepare_lineitem,
        {
            "plaintext": _plain(columns),
            "kept": _encrypted(columns, keeps=True),
            "first open": _encrypted(columns, keeps=False),
        },
        "plaintext",
        rounds=7 if name else 3,
    )


CASES = (
    _column("l_linenumber"),
    _column("l_shipdate"),
    _column("l_comment"),
    _column(None),
    Case(
        "readers: rows",
        "How long does it take to count the rows of an encrypted file?",
        "The footer: no page is read for a number of rows.",
        prepare_lineitem,
        _open(lambda dataset: dataset.num_rows, lambda dataset: dataset.count_rows()),
        "plaintext",
    ),
    Case(
        "readers: filter",
        "How long does a filter take that a few row groups can fulfil?",
        "Which row groups are read is known from their statistics, which are decrypted.",
        prepare_lineitem,
        _open(
            lambda dataset: dataset.to_table(columns=["l_tax"], filter=_filter()).num_rows,
            lambda dataset: dataset.to_table(columns=["l_tax"], filter=_filter()).num_rows,
        ),
        "plaintext",
    ),
    Case(
        "readers: signed",
        "What does checking signatures add to reading a whole file?",
        "`read` compares the footer with what was signed, and tags do the rest. `full` digests the whole file first, "
        "and "
        "compares each block that is read after.",
        _prepare_signed,
        {f"verify={mode}": _whole(mode) for mode in ("off", "read", "full")},
        "verify=off",
    ),
)
