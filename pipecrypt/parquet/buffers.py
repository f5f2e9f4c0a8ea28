"""Allocate the large buffers through which file bodies pass. Filling them and using them again is left to the walks.

Touching fresh memory costs as much as encrypting it, a page at a time. Where the system offers large pages, a buffer
takes few of them; where not, it is memory like any other.
"""

from __future__ import annotations

import contextlib
import mmap
from typing import Final

__all__ = ["allocate_buffer"]

_LARGE_PAGE_BYTES: Final = 2 << 20


def allocate_buffer(length: int) -> memoryview:
    """Return a fresh writable buffer of at least `length` bytes; it is freed when nobody refers to it."""
    if length < _LARGE_PAGE_BYTES:
        return memoryview(bytearray(length))
    area = mmap.mmap(-1, length)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            area.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(area)
