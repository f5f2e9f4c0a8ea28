"""Open the store of a place, whichever kind it is."""

from __future__ import annotations

from pipecrypt.store.filesystem import S3_PROTOCOLS, protocol_of
from pipecrypt.store.fsspec import FsspecStore
from pipecrypt.store.local import LocalStore
from pipecrypt.store.location import Location
from pipecrypt.store.protocol import Store
from pipecrypt.store.s3 import S3Store
from pipecrypt.store.streams import StandardStreams

__all__ = ["open_store"]


def open_store(location: Location) -> Store:
    """Return the store whose root is this place; nothing is looked at yet."""
    if location.is_standard_stream:
        return StandardStreams(location)
    if location.is_local:
        return LocalStore(location)
    if protocol_of(location) in S3_PROTOCOLS and not location.is_chained:
        return S3Store(location)
    return FsspecStore(location)
