"""Encrypting files of any bytes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.cases.columns import decrypting
from benchmarks.inputs import check_decrypts, random_file, ready, warm_up
from benchmarks.peers import AGE, AWS, TINK, copy
from benchmarks.suite import Case, Contender, Place, Ready, Work

__all__ = ["CASES"]

_FILE_BYTES = 1_000_000_000
_READ_BYTES, _READS = 4096, 2000


@contextmanager
def _prepare(place: Place) -> Iterator[Ready]:
    import pipecrypt as pc

    source = random_file(place.root / "input", int((place.point or 1) * _FILE_BYTES * place.scale))
    with ready(place, source) as made:
        pc.encrypt(source, place.root / "encrypted", pc.Policy(default=place.key(), mode="chunks"))
        yield made


def _encrypt(compression: str = "none") -> Contender:
    def start(place: Place) -> Work:
        import pipecrypt as pc

        warm_up(place)
        policy = pc.Policy(default=place.key(), mode="chunks", compression=compression)
        return lambda: pc.encrypt(place.root / "input", place.out, policy) and None

    return Contender(start, lambda place: check_decrypts(place, place.root / "input"), is_ours=True)


def _random_reads(place: Place) -> Work:
    import fsspec

    import pipecrypt.reading.filesystem  # noqa: F401 - imports are start-up

    plain, chance = place.root / "input", random.Random(0)  # noqa: S311
    places = [chance.randrange(plain.stat().st_size - _READ_BYTES) for _ in range(_READS)]
    options = {"pipecrypt": {"keys": [place.key()]}}

    def run() -> dict[str, float]:
        with plain.open("rb") as expected, fsspec.open(f"pipecrypt::file://{place.root}/encrypted", **options) as file:
            for start in places:
                file.seek(start)
                expected.seek(start)
                assert file.read(_READ_BYTES) == expected.read(_READ_BYTES)  # noqa: S101
        return {"reads": _READS}

    return run


CASES = (
    Case(
        "chunks",
        "How long does encrypting a gigabyte of random bytes take, next to a copy and to what else encrypts files "
        "from Python?",
        "Memory: bytes are read, encrypted at more than 3 GB/s a core and written, on three threads. Each peer's "
        "frames hold 1 MiB where it lets one "
        "choose. With zstd, compressing is the limit.",
        _prepare,
        {
            "cp": copy("input"),
            "encrypt": _encrypt(),
            "decrypt": decrypting("input"),
            "encrypt, zstd": _encrypt("zstd"),
            "age, encrypt": AGE[0],
            "age, decrypt": AGE[1],
            "AWS Encryption SDK, encrypt": AWS[0],
            "AWS Encryption SDK, decrypt": AWS[1],
            "Tink, encrypt": TINK[0],
            "Tink, decrypt": TINK[1],
            "2,000 reads of 4 KiB": Contender(_random_reads, is_ours=True),
        },
        "cp",
        rounds=3,
    ),
    Case(
        "chunks: size",
        "Does the time grow with the size alone?",
        "Nothing but the size, above some tens of megabytes: below, the start of threads and the publication of the "
        "file count.",
        _prepare,
        {"cp": copy("input"), "encrypt": _encrypt(), "decrypt": decrypting("input")},
        "cp",
        axis="GB",
        points=(0.03, 0.1, 0.3, 1),
        shows="x cp",
        rounds=3,
    ),
)
