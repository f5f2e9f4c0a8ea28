"""Digest bytes as they come. What is digested, and what the digest is compared with, is left to the rooms above."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import TypeAlias

__all__ = ["DigestAlgorithm", "Digester"]

Buffer: TypeAlias = "bytes | bytearray | memoryview"


class DigestAlgorithm(StrEnum):
    """Names of digests, as in-toto spells them."""

    SHA256 = "sha256"
    BLAKE3 = "blake3"


class Digester:
    """A running SHA-256."""

    __slots__ = ("_hash",)

    def __init__(self, algorithm: DigestAlgorithm = DigestAlgorithm.SHA256) -> None:
        """Begin with no bytes."""
        if algorithm is not DigestAlgorithm.SHA256:
            raise AssertionError("only SHA-256 is computed here")
        self._hash = hashlib.sha256()

    def update(self, data: Buffer) -> None:
        """Add bytes."""
        self._hash.update(data)

    def hexdigest(self) -> str:
        """Return the digest so far, in lower-case hex."""
        return self._hash.hexdigest()
