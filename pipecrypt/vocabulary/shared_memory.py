"""Memory without a name that two processes see."""

from __future__ import annotations

import os
import sys

__all__ = ["can_share_memory", "open_shared_memory"]


def can_share_memory() -> bool:
    """Return whether this system has such memory."""
    return sys.platform == "linux" and hasattr(os, "memfd_create")


def open_shared_memory(length: int) -> int:
    """Return the handle of new memory, which takes room as it is written to; the caller closes it.

    Raises:
        OSError: there is none.
    """
    if sys.platform != "linux":
        raise OSError("this system has no memory without a name")
    handle = os.memfd_create("pipecrypt", os.MFD_CLOEXEC)
    try:
        os.ftruncate(handle, length)
    except BaseException:
        os.close(handle)
        raise
    return handle
