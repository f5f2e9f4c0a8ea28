"""Compute CRC-32C, the checksum that Google Cloud KMS sends along. It finds accidents; against attackers it is nothing.

What it is compared with is left to its siblings.
"""

from __future__ import annotations

from typing import Final

__all__ = ["crc32c"]

_POLYNOMIAL: Final = 0x82F63B78  # 0x1EDC6F41 with its bits turned round (RFC 3720 12.1)
_ALL_ONES: Final = 0xFFFFFFFF


def crc32c(data: bytes | bytearray) -> int:
    """Return the CRC-32C of `data`, a few hundred bytes at most: it takes a microsecond for each."""
    register = _ALL_ONES
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (_POLYNOMIAL if register & 1 else 0)
    return register ^ _ALL_ONES
