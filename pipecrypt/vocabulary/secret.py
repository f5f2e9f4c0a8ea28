"""Secret key bytes that are wiped, and never printed, copied or pickled."""

from __future__ import annotations

import hmac
from types import TracebackType
from typing import NoReturn, Self

__all__ = ["DATA_KEY_BYTES", "DataKey"]

DATA_KEY_BYTES = 32
_AES_KEY_SIZES = frozenset({16, 24, 32})


class DataKey:
    """A symmetric key in a buffer of its own, wiped by `wipe()` or on leaving a `with` block.

    Wiping is best effort: Python and OpenSSL may hold copies that nobody can reach.

    Args:
        key_bytes: 16, 24 or 32 bytes; copied. The caller wipes its own buffer.
    """

    __slots__ = ("_buffer",)

    def __init__(self, key_bytes: bytes | bytearray | memoryview) -> None:
        """Copy `key_bytes` into a buffer that `wipe()` clears."""
        if len(key_bytes) not in _AES_KEY_SIZES:
            raise ValueError(f"an AES key has 16, 24 or 32 bytes, not {len(key_bytes)}")
        self._buffer = bytearray(key_bytes)

    def expose_key_bytes(self) -> bytearray:
        """Return the key's own buffer. For crypto/, keys/ (to wrap) and reading/ (to hand it to other readers)."""
        if not self._buffer:
            raise RuntimeError("this key was wiped")
        return self._buffer

    @property
    def bits(self) -> int:
        """Size of the key in bits."""
        return len(self._buffer) * 8

    def wipe(self) -> None:
        """Overwrite the buffer with zeros and drop it. Safe to call twice."""
        self._buffer[:] = bytes(len(self._buffer))
        self._buffer = bytearray()

    def same_as(self, other: DataKey) -> bool:
        """Compare two keys in constant time."""
        return hmac.compare_digest(self.expose_key_bytes(), other.expose_key_bytes())

    def __enter__(self) -> Self:
        """Return the key itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wipe the key."""
        self.wipe()

    def __repr__(self) -> str:
        """Show the size only."""
        return f"<DataKey {self.bits} bits>"

    def __reduce__(self) -> NoReturn:
        """Refuse: no key crosses a process border, and no second owner keeps one unwiped. Copying asks here too."""
        raise TypeError("a DataKey cannot be pickled or copied")
