"""Verifying signed datasets, and rotating their keys."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.inputs import check_same, lineitem, ready, warm_up, write_table
from benchmarks.suite import Case, Contender, Place, Ready, Work

__all__ = ["CASES"]

_COPIES = 8
_ROTATED_ROWS = 4_400  # 143 KB in four columns


@contextmanager
def _prepare(place: Place) -> Iterator[Ready]:
    import pipecrypt as pc

    source = lineitem(place, 1.0)
    (place.root / "raw").mkdir()
    for number in range(_COPIES):
        os.link(source, place.root / f"raw/{number}.parquet")
    with ready(place, place.root / "raw") as made:
        for digest in ("sha256", "blake3"):
            policy = pc.Policy(default=place.key(), sign=place.key("signing"), digest=digest)
            pc.encrypt(place.root / "raw", place.root / digest, policy)
        yield made


def _sums(program: str) -> Contender:
    return Contender(lambda place: [program, *sorted(map(str, (place.root / "sha256").glob("*.parquet")))])


def _verify(digest: str, workers: int) -> Contender:
    def start(place: Place) -> Work:
        import pipecrypt as pc

        warm_up(place)

        def run() -> None:
            report = pc.verify(place.root / digest, trust=[place.key("signing")], workers=workers)
            assert report.files == _COPIES  # noqa: S101

        return run

    return Contender(start, is_ours=True)


@contextmanager
def _prepare_rotation(place: Place) -> Iterator[Ready]:
    import pipecrypt as pc

    for number in range(int(place.point)):
        write_table(place.root / f"raw/{number:05}.parquet", rows=_ROTATED_ROWS, columns=4, seed=number)
    with ready(place, place.root / "raw") as made:
        pc.encrypt(place.root / "raw", place.root / "done", pc.Policy(default=place.key()))
        policy = pc.Policy(default=place.key(), sign=place.key("signing"))
        pc.encrypt(place.root / "raw", place.root / "signed", policy)
        yield made


_NEW = "new"  # as long as the name that is left, as a key's next version is, and most names that key services give
_LONGER = "other"


def _rotate(place: Place, *, deep: bool, new: str = _NEW) -> Work:
    shutil.copytree(place.root / ("done" if deep else "signed"), place.out)

    import pipecrypt as pc

    warm_up(place)

    def run() -> dict[str, float]:
        if not deep:
            pc.rotate(place.out, place.key(), place.key(new), trust=[place.key("signing")])
            return {}
        done = pc.rotate(place.out, place.key(), place.key(new), deep=True)
        assert isinstance(done, pc.DeepSummary)  # noqa: S101
        assert done.changed == int(place.point)  # noqa: S101
        return {"% of bytes moved": 100 * done.bytes_moved / done.total_bytes}

    return run


def _check_rotated(place: Place, new: str = _NEW) -> None:
    """See that the new key opens everything, and the old one nothing where the rotation was deep."""
    plain = place.root / "checked"
    place.pipecrypt("decrypt", str(place.out), str(plain), "--key", place.key(new))
    check_same(place.root / "raw", plain)
    shutil.rmtree(plain)


@contextmanager
def _prepare_list(place: Place) -> Iterator[Ready]:
    yield Ready(0)


def _statement(*, writes: bool) -> Contender:
    """Write the signed list of many files, or check it and walk through it."""

    def start(place: Place) -> Work:
        from benchmarks.statements import verify, write

        write(int(place.point), place.root)
        return lambda: (write if writes else verify)(int(place.point), place.root)

    return Contender(start, is_ours=True)


CASES = (
    Case(
        "verify",
        "How fast is verifying, beside sha256sum of the same files?",
        "The digest: SHA-256 with the instructions of the processor, which `sha256sum` of some systems does not use, "
        "or BLAKE3.",
        _prepare,
        {
            "sha256sum": _sums("sha256sum"),
            "openssl dgst -sha256": Contender(
                lambda place: ["openssl", "dgst", "-sha256", *_sums("").start(place)[1:]]
            ),
            "verify, SHA-256, one worker": _verify("sha256", 1),
            "verify, SHA-256, two workers": _verify("sha256", 2),
            "verify, BLAKE3, one worker": _verify("blake3", 1),
        },
        "sha256sum",
        rounds=3,
    ),
    Case(
        "verify: rotation",
        "Does rotating take longer for more files, of 143 KB each, and how many bytes does a deep rotation move?",
        "Grants are one small file, whatever there is. Of the footer of each file, a deep rotation keeps and writes "
        "what differs: that is nearly all of it where the id of the new key has another length.",
        _prepare_rotation,
        {
            "by grants": Contender(lambda place: _rotate(place, deep=False), _check_rotated, is_ours=True),
            "deep rotation": Contender(lambda place: _rotate(place, deep=True), _check_rotated, is_ours=True),
            "deep rotation, a longer id": Contender(
                lambda place: _rotate(place, deep=True, new=_LONGER),
                lambda place: _check_rotated(place, _LONGER),
                is_ours=True,
            ),
        },
        "by grants",
        axis="files",
        points=(10, 100, 1000),
        quick_points=(5, 10),
        rounds=3,
    ),
    Case(
        "verify: statements",
        "How long do writing and checking the signed list of many files take?",
        "A line of JSON for each file: parsed only after the digest of the list was compared, and one by one.",
        _prepare_list,
        {"write": _statement(writes=True), "check": _statement(writes=False)},
        "write",
        axis="files",
        points=(1000, 10_000, 100_000),
        quick_points=(100, 1000),
        rounds=3,
    ),
)
