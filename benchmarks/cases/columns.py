"""Encrypting and decrypting the columns of Parquet files."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from benchmarks.inputs import check_decrypts, check_same, lineitem, ready, warm_up, write_table
from benchmarks.peers import copy, duckdb_encrypted, parquet_rewrite, polars_encrypted
from benchmarks.profile import stage_shares
from benchmarks.suite import Case, Contender, Place, Ready, Work

__all__ = ["CASES", "decrypting", "encrypting", "one_core", "prepare_lineitem"]

TWO_COLUMNS = ("l_comment", "l_extendedprice")
_SOURCE = "lineitem.parquet"
_TABLE_BYTES = 128_000_000  # of tables of many shapes
_GROWTH_POINTS = (0.25, 0.5, 1, 2, 4, 8)


def encrypting(
    columns: Sequence[str] | Callable[[Place], Sequence[str]] = (),
    *,
    digest: str | None = None,
    source: str = _SOURCE,
    before: Callable[[], object] = lambda: None,
) -> Contender:
    """pipecrypt encrypts a file or directory: all columns, or the named ones, signed where a digest is named."""

    def start(place: Place) -> Work:
        import pipecrypt as pc

        before()
        warm_up(place)
        key = place.key()
        chosen = columns(place) if callable(columns) else columns
        signing = {} if digest is None else {"sign": place.key("signing"), "digest": digest}
        policy = (
            pc.Policy(columns=dict.fromkeys(chosen, key), **signing) if chosen else pc.Policy(default=key, **signing)
        )
        return lambda: pc.encrypt(place.root / source, place.out, policy) and None

    return Contender(start, lambda place: check_decrypts(place, place.root / source), is_ours=True)


def decrypting(source: str, encrypted: str = "encrypted") -> Contender:
    """pipecrypt decrypts what was encrypted before."""

    def start(place: Place) -> Work:
        import pipecrypt as pc

        warm_up(place)
        return lambda: pc.decrypt(place.root / encrypted, place.out, keys=[place.key()]) and None

    return Contender(start, lambda place: check_same(place.root / source, place.out), is_ours=True)


def _command(place: Place) -> Work:
    arguments = ["encrypt", str(place.root / _SOURCE), str(place.out), "--key", place.key()]
    return [sys.executable, "-m", "pipecrypt", *arguments]


@contextmanager
def prepare_lineitem(place: Place, scale: float = 1.0) -> Iterator[Ready]:
    """Make lineitem, and encrypt it."""
    import pipecrypt as pc

    source = lineitem(place, scale)
    with ready(place, source) as made:
        pc.encrypt(source, place.root / "encrypted", pc.Policy(default=place.key()))
        yield made


def _table(shape: Callable[[float, float], dict[str, object]]) -> Callable[[Place], AbstractContextManager[Ready]]:
    """Prepare a table of `_TABLE_BYTES`, of a shape that the point decides."""

    def prepare(place: Place) -> AbstractContextManager[Ready]:
        chosen = {"columns": 16, "row_group_size": 120_000, **shape(place.point, place.scale)}
        rows = int(_TABLE_BYTES * place.scale / 8 / int(str(chosen["columns"])))
        return ready(place, write_table(place.root / "input", rows=rows, **chosen))  # type: ignore[arg-type]

    return prepare


def one_core() -> None:
    """Hold this process to one core. The first one often serves interrupts, so it is the last."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def _profiled(place: Place) -> Work:
    import pipecrypt as pc

    warm_up(place)
    policy = pc.Policy(default=place.key())
    return lambda: stage_shares(lambda: pc.encrypt(place.root / _SOURCE, place.out, policy))


def _share(place: Place) -> list[str]:
    return [f"c{number}" for number in range(int(place.point * 16 / 100))]


_SHAPES = {"cp": copy("input"), "pipecrypt": encrypting(source="input")}
_CPU_LIMITS = "CPU time for each page and each column chunk, in Python, which AES-GCM hides only in large pages"

CASES = (
    Case(
        "columns",
        "How long does encrypting TPC-H lineitem take, next to a copy and to what else encrypts Parquet?",
        "lineitem has 53 row groups of 16 columns, so 848 column chunks and some 6,000 pages of 40 KB: about half of "
        "the time is "
        "AES-GCM and the moving of bytes, the other half what Python does for each page and chunk. pyarrow, Polars "
        "and DuckDB "
        "decode and encode all values. The command adds the start of Python and its imports. Keys are opened by a key "
        "file; a passphrase adds a tenth of a second.",
        prepare_lineitem,
        {
            "cp": copy(_SOURCE),
            "16 columns": encrypting(),
            "2 columns": encrypting(TWO_COLUMNS),
            "decrypt": decrypting(_SOURCE),
            "16 columns, signed, SHA-256": encrypting(digest="sha256"),
            "16 columns, signed, BLAKE3": encrypting(digest="blake3"),
            "2 columns, signed, SHA-256": encrypting(TWO_COLUMNS, digest="sha256"),
            "16 columns, one core": encrypting(before=one_core),
            "16 columns, command": Contender(
                _command, lambda place: check_decrypts(place, place.root / _SOURCE), is_ours=True
            ),
            "pyarrow, plain": parquet_rewrite(encrypts=False),
            "pyarrow, encrypted": parquet_rewrite(encrypts=True),
            "Polars, encrypted": polars_encrypted,
            "DuckDB, encrypted": duckdb_encrypted,
        },
        "cp",
    ),
    Case(
        "columns: size",
        "Does the time grow with the size alone?",
        "Nothing but the size: keys, start and publication take some milliseconds for each file, the rest is the same "
        "for each "
        "column chunk. A small file is further from `cp`, which has nothing to begin with.",
        lambda place: prepare_lineitem(place, place.point),
        {"cp": copy(_SOURCE), "16 columns": encrypting(), "decrypt": decrypting(_SOURCE)},
        "cp",
        axis="scale of lineitem (1: 232 MB)",
        points=_GROWTH_POINTS,
        shows="x cp",
        rounds=3,
    ),
    Case(
        "columns: share",
        "What does each encrypted column add to those that are copied?",
        "Column chunks that stay plaintext are copied by the system between local files; where all of them stay, a "
        "key is still "
        "needed for the footer.",
        _table(lambda point, scale: {}),
        {"cp": copy("input"), "pipecrypt": encrypting(_share, source="input")},
        "cp",
        axis="% of the columns encrypted",
        points=(6.25, 25, 50, 75, 100),
        shows="x cp",
        rounds=3,
    ),
    Case(
        "columns: width",
        "What do many columns cost?",
        "The number of column chunks: 128 MB in 4,000 columns and one row group are chunks of 32 KB, each with a data "
        "key, "
        "key material and an entry of the footer of its own.",
        _table(lambda point, scale: {"columns": int(point), "row_group_size": 1_000_000}),
        _SHAPES,
        "cp",
        axis="columns",
        points=(4, 40, 400, 4000),
        quick_points=(4, 40),
        shows="cpu per GB",
        rounds=3,
    ),
    Case(
        "columns: page size",
        "What do small pages cost?",
        f"{_CPU_LIMITS}.",
        _table(lambda point, scale: {"data_page_size": int(point * 1024), "write_batch_size": int(point * 128)}),
        _SHAPES,
        "cp",
        axis="KiB in a page",
        points=(4, 16, 64, 256, 1024),
        shows="cpu per GB",
        rounds=3,
    ),
    Case(
        "columns: row group size",
        "What do small row groups cost?",
        f"{_CPU_LIMITS}: each row group is a batch with data keys of its own, one for each column.",
        _table(lambda point, scale: {"row_group_size": int(point)}),
        _SHAPES,
        "cp",
        axis="rows in a row group",
        points=(2_000, 10_000, 50_000, 250_000, 1_000_000),
        shows="cpu per GB",
        rounds=3,
    ),
    Case(
        "columns: stages",
        "Where does the CPU time go?",
        "Shares of a profiled run, by the folder of pipecrypt whose functions were running, and what they called "
        "outside of it: a profiler adds "
        "to what makes many calls, so the shares of Python are a little too large. `crypto` is AES-GCM and what wraps "
        "keys.",
        prepare_lineitem,
        {
            "16 columns": encrypting(),
            "16 columns, profiled": Contender(
                _profiled, lambda place: check_decrypts(place, place.root / _SOURCE), is_ours=True
            ),
        },
        "16 columns",
        rounds=3,
        shows="share",
    ),
)
