"""Digests of what an encrypted file keeps in plaintext, and their entry in its footer.

Encrypted parts have their tags. Of each plaintext column chunk, the pages and, where there are any, Bloom filter,
column index and offset index are digested as they are stored in the encrypted file. The footer that holds the digests
is encrypted or signed.

Layout of the value of the key-value entry `pipecrypt.integrity` (JSON, ASCII), absent where no column is plaintext::

    {"v": 1, "digest": "sha256" | "blake3",
     "digests": base64 of all digests (32 bytes each), one behind the other: by row group, then by column, then in the
                order of SegmentKind, of each part that has bytes,
     "longer": [{"row_group": r, "column": c, "bytes": n}, ...]}      absent where empty

`longer` lists the chunks whose pages reach behind the end that their metadata declares (see PARQUET-816).
"""

from __future__ import annotations

import json
import threading
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from pipecrypt.crypto.digest import DIGEST_BYTES, DigestAlgorithm, Digester, digest
from pipecrypt.errors import FormatError, IntegrityError
from pipecrypt.parquet.footer.opened import OpenedFile
from pipecrypt.parquet.footer.segments import Segment, SegmentKind
from pipecrypt.parquet.wire.fields import INTEGRITY_KEY
from pipecrypt.parquet.wire.modules import MAX_ORDINALS
from pipecrypt.vocabulary.documents import Document, DocumentError, encode_base64, parse_document

__all__ = ["ExpectedDigests", "SegmentDigests", "expected_digests"]

_VERSION: Final = 1
_COLUMN_BITS: Final = 32
_KIND_BITS: Final = 2
# What JSON takes for one chunk of `longer`, at most, and for all the rest beside the digests.
_MOST_LONGER_BYTES: Final = 96
_MOST_OTHER_BYTES: Final = 1024
_KIND_NAMES: Final = ("", "Bloom filter of ", "column index of ", "offset index of ")

SegmentPlace: TypeAlias = tuple[int, int, int]  # row group, column, kind


class SegmentDigests:
    """The digests of a file that is being encrypted, 32 bytes for each part.

    Args:
        algorithm: what they are made with.

    Raises:
        MissingExtraError: BLAKE3 is asked for, and its package is not installed.
    """

    def __init__(self, algorithm: DigestAlgorithm) -> None:
        """Know no part yet."""
        Digester(algorithm)  # without its package, nothing is written
        self.algorithm: Final = algorithm
        self._places = array("Q")
        self._digests = bytearray()
        self._longer: list[tuple[int, int, int]] = []
        self._missing = 0
        self._lock = threading.Lock()  # the writer's thread puts what the walk's thread expects

    def expect(self, segments: Iterable[Segment]) -> None:
        """Make room for the digests of these parts, whose row groups follow all that came before."""
        places = array("Q", sorted(map(_code_of, segments)))
        with self._lock:
            self._places += places
            self._digests += bytes(DIGEST_BYTES * len(places))
            self._missing += len(places)

    def put(self, place: SegmentPlace, hex_digest: str) -> None:
        """Keep the digest of a part."""
        with self._lock:
            at = _start_of(self._places, place)
            self._digests[at : at + DIGEST_BYTES] = bytes.fromhex(hex_digest)
            self._missing -= 1

    def lengthen(self, row_group: int, column: int, pages_bytes: int) -> None:
        """Note that the pages of a chunk take more bytes than its metadata declares."""
        self._longer.append((row_group, column, pages_bytes))

    def encode(self) -> bytes:
        """Return the entry's value, once all digests were put."""
        if self._missing:
            raise AssertionError(f"{self._missing} digests are missing")
        document: dict[str, object] = {"v": _VERSION, "digest": self.algorithm.value}
        document["digests"] = encode_base64(bytes(self._digests))
        if self._longer:
            names = ("row_group", "column", "bytes")
            document["longer"] = [dict(zip(names, each, strict=True)) for each in sorted(self._longer)]
        return json.dumps(document, separators=(",", ":")).encode("ascii")


class ExpectedDigests:
    """The digests that the plaintext parts of a file must have.

    What holds when it is constructed: (1) the entry is no longer than these parts need; (2) its version and algorithm
    are known; (3) it has one digest for each part and no other; (4) what it says about longer chunks fits plaintext
    chunks of this file. The caller owes the digests of all parts that it uses.

    Args:
        entry: the entry's value, from the footer.
        segments: all plaintext parts of the file.
        name_of: returns what errors call a chunk.
        name: what errors call the file.

    Raises:
        FormatError: the entry is malformed, or of a later version.
        IntegrityError: digests are missing or left over, or made with an algorithm that this release does not know.
        MissingExtraError: they are made with BLAKE3, and its package is not installed.
    """

    def __init__(
        self, entry: bytes, segments: Iterable[Segment], name_of: Callable[[int, int], str], name: str
    ) -> None:
        """Read the entry."""
        self._name_of = name_of
        self._places = array("Q", sorted(map(_code_of, segments)))
        count, what = len(self._places), f"the key-value entry {INTEGRITY_KEY.decode()!r} of {name}"
        text_bytes = -(-count * DIGEST_BYTES // 3) * 4
        if len(entry) > text_bytes + count * _MOST_LONGER_BYTES + _MOST_OTHER_BYTES:  # (1)
            raise IntegrityError(f"{what} is longer than the {count} plaintext parts of the file need")
        try:
            document = parse_document(entry, max_bytes=len(entry))
            if document.integer("v") != _VERSION:  # (2)
                raise FormatError(f"{what} has another version than {_VERSION}", hint="upgrade pipecrypt")
            algorithm = document.text("digest", max_characters=_MOST_OTHER_BYTES)
            if algorithm not in set(DigestAlgorithm):
                raise IntegrityError(
                    f"{what} names an algorithm of digests that this release does not know", hint="upgrade pipecrypt"
                )
            self.algorithm: Final = DigestAlgorithm(algorithm)
            document.only("v", "digest", "digests", "longer")
            self._digests = document.base64("digests", max_bytes=max(len(entry), 1))
            self._longer = dict(_decode_longer(document, count))
        except DocumentError as error:
            raise FormatError(f"{what} is malformed: {error}") from None
        if len(self._digests) != count * DIGEST_BYTES:  # (3)
            found = len(self._digests) // DIGEST_BYTES
            raise IntegrityError(f"{what} has {found} digests where the file has {count} plaintext parts")
        if any(_find(self._places, (*place, SegmentKind.PAGES)) is None for place in self._longer):  # (4)
            raise FormatError(f"{what} names a chunk that is not in plaintext")
        Digester(self.algorithm)

    def put(self, place: SegmentPlace, hex_digest: str) -> None:
        """Check the digest of a part.

        Raises:
            IntegrityError: it is another; names row group and column.
        """
        at = _start_of(self._places, place)
        if self._digests[at : at + DIGEST_BYTES] != bytes.fromhex(hex_digest):
            row_group, column, kind = place
            what = f"{_KIND_NAMES[kind]}{self._name_of(row_group, column)}"
            raise IntegrityError(f"{what} was changed after it was written: its digest is another")

    def check(self, place: SegmentPlace, data: bytes | memoryview) -> None:
        """Check a whole part; raises what `put` raises."""
        self.put(place, digest(data, self.algorithm))

    def pages_bytes(self, row_group: int, column: int, declared_bytes: int) -> int:
        """Return how many bytes a chunk's pages take, of which the metadata declares `declared_bytes`."""
        return self._longer.get((row_group, column), declared_bytes)


def expected_digests(opened: OpenedFile, segments: Iterable[Segment]) -> ExpectedDigests | None:
    """Return the digests that a file stores of its plaintext parts; None where it stores none."""
    entry = opened.digests_entry
    return None if entry is None else ExpectedDigests(entry, segments, opened.row_groups.what, opened.name)


def _code_of(segment: Segment) -> int:
    return _code((segment.row_group, segment.column, segment.kind))


def _code(place: SegmentPlace) -> int:
    row_group, column, kind = place
    return row_group << _COLUMN_BITS | column << _KIND_BITS | kind


def _find(places: array[int], place: SegmentPlace) -> int | None:
    code = _code(place)
    at = bisect_left(places, code)
    return at if at < len(places) and places[at] == code else None


def _start_of(places: array[int], place: SegmentPlace) -> int:
    """Return where in all digests that of a part begins."""
    at = _find(places, place)
    if at is None:
        raise AssertionError("this part was not expected")
    return at * DIGEST_BYTES


def _decode_longer(document: Document, count: int) -> Iterable[tuple[tuple[int, int], int]]:
    if "longer" not in document:
        return
    for each in document.documents("longer", max_count=count):
        each.only("row_group", "column", "bytes")
        row_group, column = (each.integer(name, least=0, most=MAX_ORDINALS) for name in ("row_group", "column"))
        yield (row_group, column), each.integer("bytes", least=1, most=2**63 - 1)
