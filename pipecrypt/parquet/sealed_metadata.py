"""Seal the metadata of encrypted column chunks, and redact what a readable footer still shows. Pages are encrypt's.

The metadata names the places of the pages, so it is sealed once they are written.
"""

from __future__ import annotations

from pipecrypt.parquet.chunks import Chunk
from pipecrypt.parquet.policy import EncryptionPolicy, FooterMode
from pipecrypt.parquet.wire.fields import ColumnChunk, ColumnCrypto, ColumnMetaData
from pipecrypt.parquet.wire.modules import FileAAD, ModuleType, seal_module
from pipecrypt.parquet.wire.thrift import Raw, Struct, WireType, encode_struct
from pipecrypt.parquet.writing_keys import WritingKeys

__all__ = ["MetadataSealer"]


class MetadataSealer:
    """Seals metadata in place, in the entries of one file's footer.

    Args:
        policy: the footer's mode, and whose key a column is under.
        keys: of the file.
        aad: of the file.
    """

    __slots__ = ("_aad", "_is_footer_encrypted", "_is_uniform", "_keys", "_paths")

    def __init__(self, policy: EncryptionPolicy, keys: WritingKeys, aad: FileAAD) -> None:
        """Seal nothing yet."""
        self._is_footer_encrypted = policy.footer is FooterMode.ENCRYPTED
        self._is_uniform = policy.uniform
        self._keys = keys
        self._aad = aad
        self._paths: dict[int, Raw] = {}

    def seal(self, chunk: Chunk) -> None:
        """Seal the metadata of a chunk whose pages are sealed, and forget the metadata of its key."""
        entry, crypto = chunk.entry, Struct()
        if self._is_uniform:
            crypto.set(ColumnCrypto.WITH_FOOTER_KEY, WireType.STRUCT, Struct())
        else:
            crypto.set(ColumnCrypto.WITH_COLUMN_KEY, WireType.STRUCT, self._column_key_struct(chunk))
        entry.set(ColumnChunk.CRYPTO_METADATA, WireType.STRUCT, crypto)
        if self._is_uniform and self._is_footer_encrypted:
            return  # the encrypted footer protects the metadata in place (Encryption.md 5.3)
        aad = self._aad.module(ModuleType.COLUMN_META_DATA, chunk.row_group, chunk.column)
        sealed = seal_module(self._keys.cipher(chunk), encode_struct(chunk.metadata), aad)
        entry.set(ColumnChunk.ENCRYPTED_COLUMN_METADATA, WireType.BINARY, sealed)
        if self._is_footer_encrypted:
            entry.remove(ColumnChunk.META_DATA)
        else:
            entry.set(ColumnChunk.META_DATA, WireType.STRUCT, _redacted(chunk.metadata))
        self._keys.forget_metadata(chunk)

    def _column_key_struct(self, chunk: Chunk) -> Struct:
        struct = Struct()
        path = self._paths.get(chunk.column)
        if path is None:
            # From the schema, not from the chunk's metadata, which may say anything.
            path = self._paths[chunk.column] = _encoded_path(chunk.leaf.path)
        struct.entries = [
            (ColumnCrypto.PATH_IN_SCHEMA, WireType.LIST, path),
            (ColumnCrypto.KEY_METADATA, WireType.BINARY, self._keys.of(chunk)[1]),
        ]
        return struct


def _encoded_path(path: tuple[str, ...]) -> Raw:
    """Return the list of a path's names as it stands in a struct, without its field header and the struct's end."""
    struct, names = Struct(), [name.encode() for name in path]
    struct.set_list(ColumnCrypto.PATH_IN_SCHEMA, WireType.BINARY, [*names])
    return Raw(encode_struct(struct)[1:-1])


def _redacted(metadata: Struct) -> Struct:
    # A field that an old draft used for something else was not opened, so nobody knows what it tells.
    clear = metadata.kept(ColumnMetaData.CLEAR)
    optional = (ColumnMetaData.BLOOM_FILTER_OFFSET, ColumnMetaData.BLOOM_FILTER_LENGTH)
    for field in optional:
        if isinstance(clear.get(field), Raw):
            clear.remove(field)
    return clear
