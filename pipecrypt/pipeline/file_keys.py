"""Find the key material that parquet-java keeps beside a file. Opening keys is left to keys/."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pipecrypt.errors import FormatError
from pipecrypt.keys.material import KeyMaterial, parse_external_material
from pipecrypt.keys.session import FileKeys, KeySession
from pipecrypt.storage.location import Location
from pipecrypt.storage.source import read_small_file

__all__ = ["keys_of_file"]

_PREFIX: Final = "_KEY_MATERIAL_FOR_"  # parquet-java: HadoopFSKeyMaterialStore
_MAX_BYTES: Final = 16 << 20


def keys_of_file(location: Location, session: KeySession) -> FileKeys:
    """Return the keys of a file; its external key material is read when a key is kept there, and only then."""
    if location.is_standard_stream:
        return session.for_file(lambda: None)
    beside = location.sibling(f"{_PREFIX}{location.name}.json")
    return session.for_file(lambda: _read_entries(beside))


def _read_entries(beside: Location) -> Mapping[str, KeyMaterial] | None:
    data = read_small_file(beside, _MAX_BYTES)
    try:
        return None if data is None else parse_external_material(data)
    except FormatError as error:
        raise FormatError(f"{beside.display}: {error.message}", hint=error.hint) from error
