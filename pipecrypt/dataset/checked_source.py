"""Digest a whole file, and read it afterwards so that every byte is one that was digested then.

A digest of a whole file says nothing about what is read afterwards: whoever can write to the storage may exchange pages
once the digest is made, and whoever holds a data key makes pages that decrypt. So the pass that digests the file keeps
a digest of each block, and every read after it reads whole blocks and compares them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from pipecrypt.crypto.digest import DIGEST_BYTES, DigestAlgorithm, Digester
from pipecrypt.errors import FormatError, IntegrityError, MissingExtraError
from pipecrypt.parquet.files import Gatherer
from pipecrypt.vocabulary.ranges import RangeSource, SourceTraits, read_into

__all__ = ["BLOCK_BYTES", "CheckedSource", "computable", "digest_file", "ignore_bytes", "pieces"]


BLOCK_BYTES: Final = 1 << 20
# Of blocks that were used in part, because the next read often wants the rest of them.
_KEPT_BLOCKS: Final = 8
_PIECE_BYTES: Final = 8 << 20


class CheckedSource:
    """A RangeSource over another one, safe to read from several threads.

    Until `digest` was called it passes reads on. From then on it serves only bytes that this call has seen.

    Args:
        source: the file.
    """

    traits = SourceTraits(reads_in_flight=1)

    __slots__ = ("_digests", "_gatherer", "_kept", "_lock", "_source", "name", "size_bytes")

    def __init__(self, source: RangeSource) -> None:
        """Check nothing yet."""
        self._source = source
        self._gatherer = Gatherer(source)
        self._digests: bytes | None = None
        self._kept: OrderedDict[int, memoryview] = OrderedDict()
        self._lock = threading.Lock()
        self.name = source.name
        self.size_bytes = source.size_bytes

    @property
    def is_checked(self) -> bool:
        """Whether the whole file was digested."""
        return self._digests is not None

    def digest(
        self, algorithms: Iterable[DigestAlgorithm], *, on_bytes: Callable[[int], None]
    ) -> dict[DigestAlgorithm, str]:
        """Return digests of the whole file, and keep one of each block: 32 bytes for each MiB.

        Args:
            algorithms: as for `digest_file`.
            on_bytes: likewise.
        """
        digesters, blocks = [Digester(algorithm) for algorithm in algorithms], bytearray()
        # Beside the other digest, which takes as long: both leave Python's lock.
        with ThreadPoolExecutor(1, thread_name_prefix="pipecrypt-digest") as thread:
            for _, piece in pieces(self._source):
                of_blocks = thread.submit(_block_digests, piece)
                for digester in digesters:
                    digester.update(piece)
                blocks += of_blocks.result()
                on_bytes(len(piece))
        self._digests = bytes(blocks)
        return {digester.algorithm: digester.hexdigest() for digester in digesters}

    def read_range(self, start: int, length: int) -> memoryview:
        """Return exactly `length` bytes from `start`, which stay valid once the file was digested.

        Raises:
            FormatError: the file is shorter than that.
            IntegrityError: the file was changed after it was digested.
            StorageError: the storage failed.
        """
        if self._digests is None:
            return self._source.read_range(start, length)
        return self.read_many([(start, length)])[0]

    def read_into(self, start: int, out: memoryview) -> None:
        """Fill `out` with the bytes from `start`; raises what `read_range` raises."""
        if self._digests is None:
            read_into(self._source, start, out)
        else:
            out[:] = self.read_range(start, len(out))

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Return the bytes of each range (start, length), which stay valid; raises what `read_range` raises."""
        if self._digests is None:
            return self._gatherer.fetch(ranges)
        for start, length in ranges:
            if start < 0 or length < 0 or start + length > self.size_bytes:
                end = start + length
                raise FormatError(f"{self.name} has {self.size_bytes} bytes, but bytes {start} to {end} are due")
        wanted = sorted({block for start, length in ranges if length for block in _blocks_of(start, length)})
        blocks = self._take_kept(wanted)
        runs = _runs(block for block in wanted if block not in blocks)
        fetched = self._gatherer.fetch([self._range_of(first, last) for first, last in runs]) if runs else []
        for (first, last), data in zip(runs, fetched, strict=True):
            for block in range(first, last + 1):
                at = (block - first) * BLOCK_BYTES
                blocks[block] = self._checked(block, data[at : at + BLOCK_BYTES])
        whole = {first: (last, data) for (first, last), data in zip(runs, fetched, strict=True)}
        found = [self._answer(start, length, blocks, whole) for start, length in ranges]
        self._keep_edges(ranges, blocks)
        return found

    def _range_of(self, first: int, last: int) -> tuple[int, int]:
        start = first * BLOCK_BYTES
        return start, min((last + 1) * BLOCK_BYTES, self.size_bytes) - start

    def _checked(self, block: int, data: memoryview) -> memoryview:
        at = block * DIGEST_BYTES
        if self._digests is None or _block_digests(data) != self._digests[at : at + DIGEST_BYTES]:
            raise IntegrityError(
                f"{self.name} was changed while it was read: it is no longer the file that was compared with what was "
                "signed",
                hint="somebody writes to the storage; keep this copy, and read from one that nobody can change",
            )
        return data

    def _answer(
        self, start: int, length: int, blocks: dict[int, memoryview], whole: dict[int, tuple[int, memoryview]]
    ) -> memoryview:
        if not length:
            return memoryview(b"")
        first, last = start // BLOCK_BYTES, (start + length - 1) // BLOCK_BYTES
        at = start - first * BLOCK_BYTES
        if first == last:
            return blocks[first][at : at + length]
        run = whole.get(first)
        if run is not None and run[0] >= last:  # as it was fetched, without a copy
            return run[1][at : at + length]
        out = memoryview(bytearray(length))
        for block in range(first, last + 1):
            begin = max(start, block * BLOCK_BYTES)
            end = min(start + length, (block + 1) * BLOCK_BYTES)
            inside = begin - block * BLOCK_BYTES
            out[begin - start : end - start] = blocks[block][inside : inside + end - begin]
        return out

    def _take_kept(self, wanted: Iterable[int]) -> dict[int, memoryview]:
        with self._lock:
            found = {block: self._kept[block] for block in wanted if block in self._kept}
            for block in found:
                self._kept.move_to_end(block)
        return found

    def _keep_edges(self, ranges: Sequence[tuple[int, int]], blocks: dict[int, memoryview]) -> None:
        edges = {at // BLOCK_BYTES for start, length in ranges if length for at in (start, start + length - 1)}
        with self._lock:
            for block in edges.difference(self._kept):
                self._kept[block] = memoryview(bytes(blocks[block]))
            while len(self._kept) > _KEPT_BLOCKS:
                self._kept.popitem(last=False)


def _blocks_of(start: int, length: int) -> range:
    return range(start // BLOCK_BYTES, (start + length - 1) // BLOCK_BYTES + 1)


def _runs(blocks: Iterable[int]) -> list[tuple[int, int]]:
    """Return first and last of each run of blocks that follow each other."""
    runs: list[tuple[int, int]] = []
    for block in blocks:
        if runs and runs[-1][1] == block - 1:
            runs[-1] = (runs[-1][0], block)
        else:
            runs.append((block, block))
    return runs


def _block_digests(data: memoryview) -> bytes:
    found = bytearray()
    for at in range(0, len(data), BLOCK_BYTES):
        digester = Digester(DigestAlgorithm.SHA256)
        digester.update(data[at : at + BLOCK_BYTES])
        found += bytes.fromhex(digester.hexdigest())
    return bytes(found)


def ignore_bytes(count: int) -> None:
    """Do nothing about bytes that were digested."""


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
) -> dict[DigestAlgorithm, str]:
    """Return digests of a file, in lower-case hex. Memory: one piece of 8 MiB.

    Args:
        source: the file.
        algorithms: how it is digested, in one pass.
        on_bytes: told after each piece how many bytes it had; may raise to stop.
        most_bytes: where the digests end in a longer file; None to digest all of it.
    """
    digesters = [Digester(algorithm) for algorithm in algorithms]
    for _, piece in pieces(source, most_bytes):
        for digester in digesters:
            digester.update(piece)
        on_bytes(len(piece))
    return {digester.algorithm: digester.hexdigest() for digester in digesters}


def pieces(source: RangeSource, most_bytes: int | None = None) -> Iterator[tuple[int, memoryview]]:
    """Yield a file, or its beginning of so many bytes, in pieces of 8 MiB, each with its offset."""
    end = source.size_bytes if most_bytes is None else min(source.size_bytes, most_bytes)
    for start in range(0, end, _PIECE_BYTES):
        yield start, source.read_range(start, min(_PIECE_BYTES, end - start))
