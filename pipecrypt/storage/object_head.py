"""What a store says about an object, whichever store it is. How it is asked is left to the files of each store."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["WRITE_ID", "ObjectHead"]

WRITE_ID = "pipecrypt-write-id"
"""Name of the metadata that tells which write made an object."""


@dataclass(frozen=True, slots=True)
class ObjectHead:
    """What a store says about an object.

    Args:
        size_bytes: its size.
        write_id: what its writer marked it with; None where pipecrypt did not write it.
        tag: changes when the object does; what conditions compare. None where the store does not tell.
    """

    size_bytes: int
    write_id: str | None
    tag: str | None = None
