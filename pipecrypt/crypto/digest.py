"""Digests with SHA-256 or BLAKE3.

SHA-256 is always there, and any tool checks it. BLAKE3 is an extra, `pipecrypt[blake3]`: it is several times as fast
on processors without SHA instructions. Both give 32 bytes, written as 64 hexadecimal digits.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable
from enum import StrEnum
from typing import Final, Protocol, TypeAlias, cast

from pipecrypt.errors import MissingExtraError

__all__ = ["DIGEST_BYTES", "DigestAlgorithm", "Digester", "digest"]

DIGEST_BYTES: Final = 32
ByteBuffer: TypeAlias = bytes | bytearray | memoryview


class DigestAlgorithm(StrEnum):
    """How bytes are digested; the names stand in manifests."""

    SHA256 = "sha256"
    BLAKE3 = "blake3"


class _State(Protocol):
    def update(self, data: ByteBuffer, /) -> object: ...

    def hexdigest(self) -> str: ...


class Digester:
    """A digest of bytes that come in pieces: `update` for each, then `hexdigest`.

    Both algorithms let go of Python's lock while they digest a large piece, so threads run side by side.

    Args:
        algorithm: how.

    Raises:
        MissingExtraError: BLAKE3 is asked for, and its package is not installed.
    """

    __slots__ = ("_state", "algorithm", "update")

    def __init__(self, algorithm: DigestAlgorithm = DigestAlgorithm.SHA256) -> None:
        """Begin with no bytes."""
        self.algorithm: Final = algorithm
        self._state = hashlib.sha256() if algorithm is DigestAlgorithm.SHA256 else _new_blake3()
        self.update: Callable[[ByteBuffer], object] = self._state.update

    def hexdigest(self) -> str:
        """Return the digest of the bytes so far, as 64 hexadecimal digits; more may follow."""
        return self._state.hexdigest()


def digest(data: ByteBuffer, algorithm: DigestAlgorithm = DigestAlgorithm.SHA256) -> str:
    """Return the digest of `data`, as 64 hexadecimal digits.

    Raises:
        MissingExtraError: BLAKE3 is asked for, and its package is not installed.
    """
    digester = Digester(algorithm)
    digester.update(data)
    return digester.hexdigest()


def _new_blake3() -> _State:
    try:
        # Imported by name, and only here: a reader without the extra meets it first when a manifest asks for BLAKE3.
        return cast(_State, importlib.import_module("blake3").blake3())
    except ImportError as error:
        raise MissingExtraError(
            "digests with BLAKE3 need the package blake3", hint="pip install pipecrypt[blake3]"
        ) from error
