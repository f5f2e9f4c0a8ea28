"""Digest a whole file, piece by piece. Comparing the digests with those that were signed is left to signed_file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from pipecrypt.crypto.digest import DigestAlgorithm, Digester
from pipecrypt.errors import MissingExtraError
from pipecrypt.vocabulary.ranges import RangeSource

__all__ = ["computable", "digest_file", "ignore_bytes", "pieces"]

_PIECE_BYTES: Final = 8 << 20


def ignore_bytes(count: int) -> None:
    """Do nothing about bytes that were digested."""


def _nothing_beside(piece: memoryview) -> Callable[[], object]:
    """Begin nothing, and wait for nothing."""
    return lambda: None


def computable(algorithms: Iterable[DigestAlgorithm]) -> tuple[DigestAlgorithm, ...]:
    """Return those digests that this installation computes, at least one; one proves as much as all.

    Args:
        algorithms: of the digests that were signed, at least one.

    Raises:
        MissingExtraError: each of them needs a package that is not installed.
    """
    found, missing = [], None
    for algorithm in algorithms:
        try:
            found.append(Digester(algorithm).algorithm)
        except MissingExtraError as error:
            missing = error
    if not found and missing is not None:
        raise missing
    return tuple(found)


def digest_file(
    source: RangeSource,
    algorithms: Iterable[DigestAlgorithm],
    *,
    on_bytes: Callable[[int], None] = ignore_bytes,
    most_bytes: int | None = None,
    beside: Callable[[memoryview], Callable[[], object]] = _nothing_beside,
) -> dict[DigestAlgorithm, str]:
    """Return digests of a file, in lower-case hex. Memory: one piece of 8 MiB.

    Args:
        source: the file.
        algorithms: how it is digested, in one pass.
        on_bytes: told after each piece how many bytes it had; may raise to stop.
        most_bytes: where the digests end in a longer file; None to digest all of it.
        beside: begins something else with each piece, and returns what waits for its end.
    """
    digesters = [Digester(algorithm) for algorithm in algorithms]
    for _, piece in pieces(source, most_bytes):
        wait = beside(piece)
        for digester in digesters:
            digester.update(piece)
        wait()
        on_bytes(len(piece))
    return {digester.algorithm: digester.hexdigest() for digester in digesters}


def pieces(source: RangeSource, most_bytes: int | None = None) -> Iterator[tuple[int, memoryview]]:
    """Yield a file, or its beginning of so many bytes, in pieces of 8 MiB, each with its offset."""
    end = source.size_bytes if most_bytes is None else min(source.size_bytes, most_bytes)
    for start in range(0, end, _PIECE_BYTES):
        yield start, source.read_range(start, min(_PIECE_BYTES, end - start))
