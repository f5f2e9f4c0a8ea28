"""What a file needs to be opened: the key material and the grants beside and above it, and the codec of its blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from pipecrypt.dataset.share.grants import grants_above
from pipecrypt.errors import FormatError
from pipecrypt.keys.material import KeyMaterial, parse_external_material
from pipecrypt.keys.session import FileKeys, KeySession
from pipecrypt.parquet.protocols import PageCodec
from pipecrypt.store.fsspec import read_small_object
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.store.small_files import FilesystemFiles, locate

__all__ = ["LazyCodec", "keys_of_file", "keys_of_object"]

_PREFIX: Final = "_KEY_MATERIAL_FOR_"  # parquet-java: HadoopFSKeyMaterialStore
_MAX_BYTES: Final = 16 << 20


def keys_of_file(location: Location, session: KeySession) -> FileKeys:
    """Return the keys of a file; what lies outside of it is read when a key needs it, and only then."""
    if location.is_standard_stream:
        return FileKeys(session)
    # What a source may be, a link for instance, what lies beside it may be, too.
    beside = replace(location.sibling(_material_name(location.name)), depth=location.depth)
    files, path = locate(location)
    return FileKeys(
        session,
        lambda: _entries(open_store(beside).read_small(max_bytes=_MAX_BYTES), beside.display),
        grants_above(session, files, path),
    )


def keys_of_object(fs: Any, path: str, session: KeySession) -> FileKeys:
    """Return the keys of a file of an fsspec file system; otherwise as `keys_of_file`."""
    folder, slash, name = path.rpartition("/")
    beside = folder + slash + _material_name(name)
    return FileKeys(
        session,
        lambda: _entries(read_small_object(fs, beside, _MAX_BYTES, beside), beside),
        grants_above(session, FilesystemFiles(fs), path),
    )


def _material_name(name: str) -> str:
    return f"{_PREFIX}{name}.json"


def _entries(data: bytes | None, name: str) -> Mapping[str, KeyMaterial] | None:
    try:
        return None if data is None else parse_external_material(data)
    except FormatError as error:
        raise FormatError(f"{name}: {error.message}", hint=error.hint) from error


class LazyCodec:
    """A PageCodec that loads zstd with pyarrow on first use: most files are not compressed in chunks."""

    __slots__ = ("_codec",)

    def __init__(self) -> None:
        """Load nothing yet."""
        self._codec: PageCodec | None = None

    def compress(self, data: memoryview) -> bytes | memoryview:
        """Return the compressed form."""
        return self._loaded().compress(data)

    def decompress(self, data: memoryview, plain_bytes: int) -> bytes | memoryview:
        """Return the plaintext of authenticated bytes.

        Raises:
            FormatError: malformed, or not exactly `plain_bytes` long.
        """
        return self._loaded().decompress(data, plain_bytes)

    def _loaded(self) -> PageCodec:
        if self._codec is None:
            from pipecrypt.formats.compression import ZstdCodec  # noqa: PLC0415  # pyarrow takes long to import

            self._codec = ZstdCodec()
        return self._codec
