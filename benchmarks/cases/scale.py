"""Many files, large files, and several cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.cases.columns import encrypting, one_core
from benchmarks.inputs import check_decrypts, ready, warm_up, write_table
from benchmarks.peers import copy
from benchmarks.suite import Case, Contender, Place, Ready, Work, WrongOutputError

__all__ = ["CASES"]

_SMALL_ROWS, _COLUMNS = 1000, 4  # 34 KB
_MOST_RUN = 20_000  # files that are encrypted once more in each round
_FILE_BYTES = 300_000_000
_LARGE_BYTES = 2_400_000_000


def _make_small(place: Place, count: int, rows: int) -> Path:
    """Make directories of a hundred files, all names of one."""
    first = write_table(place.root / "first.parquet", rows=rows, columns=_COLUMNS)
    for number in range(count):
        folder = place.root / "raw" / f"part={number // 100:04}"
        if number % 100 == 0:
            folder.mkdir(parents=True)
        os.link(first, folder / f"{number:06}.parquet")
    return place.root / "raw"


def _prepare_files(rows: int, *, encrypts: bool = True) -> Callable[[Place], object]:
    @contextmanager
    def prepare(place: Place) -> Iterator[Ready]:
        count = int(place.point)
        with ready(place, _make_small(place, count, rows)) as made:
            if encrypts:
                os.environ["PIPECRYPT_STATE_DIR"] = ""
                _encrypt(place, "done", workers=2)()
            yield made

    return prepare


def _encrypt(
    place: Place, sink: str, *, workers: int, signs: bool = False, executor: str = "local"
) -> Callable[[], None]:
    """Return a call that encrypts `raw`, as `pipecrypt run` does."""
    config = place.root / f"{sink}-{workers}-{executor}.yaml"
    lines = [
        f"source: {{ url: '{place.root}/raw/' }}",
        f"sink: {{ url: '{place.root}/{sink}/' }}",
        "encrypt: { default: pii }",
        f"keys: {{ pii: '{place.key()}' }}",
        f"run: {{ workers: {workers}, executor: {executor} }}",
        *([f"sign: '{place.key('signing')}'"] if signs else []),
    ]
    config.write_text("\n".join(lines), encoding="utf-8")

    def run() -> None:
        import pipecrypt as pc

        pc.run(config)

    return run


def _run(
    *, signs: bool = False, workers: int = 2, executor: str = "local", before: Callable[[], None] | None = None
) -> Contender:
    def start(place: Place) -> Work:
        warm_up(place)
        if before is not None:
            before()
        return _encrypt(place, "out", workers=workers, signs=signs, executor=executor)

    return Contender(start, _check_all, is_ours=True, up_to=_MOST_RUN)


def _check_all(place: Place) -> None:
    """Count files, and decrypt one: they are all the same, or random and checked by other cases."""
    sources, made = (
        sorted(path.relative_to(root) for path in root.rglob("*.parquet")) for root in (place.root / "raw", place.out)
    )
    if sources != made:
        raise WrongOutputError(f"{len(made)} of {len(sources)} files were encrypted")
    check_decrypts(place, place.root / "raw" / sources[-1], place.out / sources[-1])


def _plan(place: Place) -> Work:
    import pipecrypt as pc

    _encrypt(place, "out", workers=2)

    def run() -> None:
        plan = pc.plan(place.root / "out-2-local.yaml")
        assert plan.to_do == int(place.point)  # noqa: S101

    return run


def _nothing_to_do(place: Place) -> Work:
    work = _encrypt(place, "done", workers=2)
    warm_up(place)
    return work


def _open(place: Place) -> Work:
    import pyarrow  # noqa: F401 - imports are start-up

    import pipecrypt as pc

    warm_up(place)

    def run() -> None:
        with pc.open(f"{place.root}/done/", keys=[place.key()], trust=pc.Trust(verify="off")) as dataset:
            assert dataset.num_rows == int(place.point) * _SMALL_ROWS  # noqa: S101

    return run


@contextmanager
def _prepare_cores(place: Place) -> Iterator[Ready]:
    rows = int(_FILE_BYTES * place.scale / 8 / 8)
    for number in range(8):
        write_table(place.root / f"raw/{number}.parquet", rows=rows, columns=8, seed=number, row_group_size=100_000)
    with ready(place, place.root / "raw") as made:
        yield made


@contextmanager
def _prepare_large(place: Place) -> Iterator[Ready]:
    rows = int(_LARGE_BYTES * place.scale / 8 / 8)
    with ready(place, write_table(place.root / "input", rows=rows, columns=8, row_group_size=100_000)) as made:
        yield made


_FILE_LIMITS = (
    "Each file is opened, looked at, synced to the disk and renamed, and has a footer, data keys and a line of the "
    "journal of its own: "
    "milliseconds of Python and of the system. A plan lists and compares; a repeated run reads the journal."
)

CASES = (
    Case(
        "scale: files",
        "What do many small files cost, of 34 KB each?",
        _FILE_LIMITS,
        _prepare_files(_SMALL_ROWS),  # type: ignore[arg-type]
        {
            "cp": Contender(copy("raw").start, up_to=_MOST_RUN),
            "plan": Contender(_plan, is_ours=True),
            "run": _run(),
            "run, signed": _run(signs=True),
            "nothing to do": Contender(_nothing_to_do, is_ours=True),
            "pipecrypt.open and num_rows": Contender(_open, is_ours=True),
        },
        "cp",
        axis="files",
        points=(1, 10, 100, 1000, 20_000),
        quick_points=(1, 50),
        shows="cpu",
        rounds=3,
    ),
    Case(
        "scale: plan of many files",
        "And a plan of up to 100,000 files?",
        "A plan holds one entry for each file while it compares.",
        _prepare_files(3, encrypts=False),  # type: ignore[arg-type]
        {"plan": Contender(_plan, is_ours=True)},
        "plan",
        axis="files",
        points=(1000, 10_000, 100_000),
        quick_points=(100,),
        shows="cpu",
        rounds=3,
    ),
    Case(
        "scale: cores",
        "What do two cores add for eight files of 300 MB?",
        "Memory and the system: both cores read, encrypt and write through one bus. With one worker, its threads may "
        "use both.",
        _prepare_cores,
        {
            "cp": Contender(copy("raw").start),
            "one core": _run(workers=1, before=one_core),
            "one worker": _run(workers=1),
            "two workers": _run(workers=2),
            "Dask, two workers, with its start": _run(workers=2, executor="dask"),
        },
        "cp",
        rounds=3,
    ),
    Case(
        "scale: one large file",
        "And for one file of 2.4 GB?",
        "As before; row groups are sealed by all cores, and written in order.",
        _prepare_large,
        {
            "cp": copy("input"),
            "one core": encrypting(source="input", before=one_core),
            "both cores": encrypting(source="input"),
        },
        "cp",
        rounds=3,
    ),
)
