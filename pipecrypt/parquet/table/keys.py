"""The data keys of a table being encrypted, made on first use and wiped after the last; column metadata under them.

The metadata of a chunk names the places of its pages, so it is sealed once they are written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from pipecrypt.crypto.aead import MessageCipher
from pipecrypt.parquet.footer.columns import LeafColumn
from pipecrypt.parquet.footer.opened import MOST_CIPHERS
from pipecrypt.parquet.footer.row_groups import Chunk
from pipecrypt.parquet.policy import EncryptionPolicy, FooterMode, KeyScope
from pipecrypt.parquet.protocols import DataKeys
from pipecrypt.parquet.report import KeyBytes, SealedColumn
from pipecrypt.parquet.wire.fields import ColumnChunk, ColumnCrypto, ColumnMetaData
from pipecrypt.parquet.wire.modules import FileAAD, ModuleType, seal_module
from pipecrypt.parquet.wire.thrift import Raw, Struct, WireType, encode_struct, encode_varint
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.secret import DataKey

__all__ = ["WritingKeys", "encoded_path"]

_KeyPlace = tuple[int, int | None]  # column, and the row group where each has a key of its own
_KeyAndMetadata = tuple[DataKey, bytes]
_NO_KEY: Final = b""


class WritingKeys:
    """The footer's data key and those of columns; the caller wipes them.

    Args:
        policy: how far one data key reaches, and the footer's master key.
        keys: makes data keys.
        context: of the file; bound into commitments.
        aad: makes the file's AADs.
    """

    def __init__(self, policy: EncryptionPolicy, keys: DataKeys, context: Context, aad: FileAAD) -> None:
        """Make no key yet."""
        self._policy = policy
        self._aad = aad
        self._paths: dict[int, bytes] = {}  # by column
        self._keys = keys
        self._context = context
        self._leaves: Sequence[LeafColumn] = ()
        self._chosen: Sequence[str | None] = ()
        self._footer: _KeyAndMetadata | None = None
        self._columns: dict[_KeyPlace, _KeyAndMetadata] = {}
        self._ciphers: dict[_KeyPlace | None, MessageCipher] = {}
        self._page_bytes: Counter[int] = Counter()  # by column
        self.made = 0

    def choose(self, leaves: Sequence[LeafColumn], references: Sequence[str | None]) -> None:
        """Set the master key of each leaf column; None leaves it in plaintext."""
        self._leaves = leaves
        self._chosen = references

    def is_sealed(self, column: int) -> bool:
        """Return whether a leaf column is encrypted."""
        return self._chosen[column] is not None

    def sealed_columns(self) -> tuple[SealedColumn, ...]:
        """Return the encrypted leaf columns, each with the master key that it is under."""
        footer = self._policy.footer_key_reference()
        return tuple(
            SealedColumn(leaf.path, footer if self._policy.uniform else reference)
            for leaf, reference in zip(self._leaves, self._chosen, strict=True)
            if reference is not None
        )

    def clear_columns(self) -> tuple[tuple[str, ...], ...]:
        """Return the paths of the leaf columns that stay in plaintext."""
        pairs = zip(self._leaves, self._chosen, strict=True)
        return tuple(leaf.path for leaf, reference in pairs if reference is None)

    def count(self, column: int, page_bytes: int) -> None:
        """Count pages of a leaf column that were sealed, or copied."""
        self._page_bytes[column] += page_bytes

    def bytes_by_key(self) -> tuple[KeyBytes, ...]:
        """Return how much is under each master key, those first that are met first, then what is in plaintext."""
        footer, counts = self._policy.footer_key_reference(), Counter[str | None]()
        for column, page_bytes in sorted(self._page_bytes.items()):
            reference = self._chosen[column]
            counts[footer if self._policy.uniform and reference is not None else reference] += page_bytes
        ordered = sorted(counts.items(), key=lambda item: item[0] is None)
        return tuple(KeyBytes(reference, page_bytes) for reference, page_bytes in ordered)

    def place(self, row_group: int, column: int) -> _KeyPlace | None:
        """Return what tells one data key from another: None is the footer's."""
        if self._policy.uniform:
            return None
        return column, (row_group if self._policy.data_keys is KeyScope.BATCH else None)

    def footer(self) -> _KeyAndMetadata:
        """Return the footer's key and key metadata, made on the first call."""
        if self._footer is None:
            self._footer = self._keys.new_data_key(self._policy.footer_key_reference(), self._context.for_footer())
            self.made += 1
        return self._footer

    def of(self, chunk: Chunk) -> _KeyAndMetadata:
        """Return a chunk's key and key metadata."""
        place, reference = self.place(*chunk.ordinals), self._chosen[chunk.column]
        if place is None or reference is None:
            return self.footer()
        if place not in self._columns:
            context = self._context.for_column(chunk.leaf.path, place[1])
            self._columns[place] = self._keys.new_data_key(reference, context)
            self.made += 1
        return self._columns[place]

    def make(self, chunks: Iterable[Chunk]) -> None:
        """Make the keys of all chunks that are encrypted and have none yet."""
        for chunk in chunks:
            if self._chosen[chunk.column] is not None:
                self.of(chunk)

    def cipher(self, chunk: Chunk) -> MessageCipher:
        """Return the cipher of a chunk."""
        place = self.place(chunk.row_group, chunk.column)
        return self._ciphers.get(place) or self._expand(place, self.of(chunk)[0])

    def cipher_at(self, row_group: int, column: int) -> MessageCipher | None:
        """Return the cipher of a place if its key was made before."""
        place = self.place(row_group, column)
        made = self._footer if place is None else self._columns.get(place)
        return None if made is None else self._ciphers.get(place) or self._expand(place, made[0])

    def _expand(self, place: _KeyPlace | None, key: DataKey) -> MessageCipher:
        if len(self._ciphers) >= MOST_CIPHERS:
            self._ciphers.clear()
        cipher = self._ciphers[place] = MessageCipher(key)
        return cipher

    def seal_metadata(self, chunk: Chunk) -> None:
        """Seal the metadata of a chunk whose pages are sealed, in its entry, and forget the metadata of its key.

        The entry keeps encoded bytes only: nothing asks for parts of it again, and a footer has very many of them.
        """
        entry, is_uniform = chunk.entry, self._policy.uniform
        is_footer_encrypted = self._policy.footer is FooterMode.ENCRYPTED
        crypto = _WITH_FOOTER_KEY if is_uniform else self._column_crypto(chunk)
        entry.set(ColumnChunk.CRYPTO_METADATA, WireType.STRUCT, crypto)
        if is_uniform and is_footer_encrypted:
            return  # the encrypted footer protects the metadata in place (Encryption.md 5.3)
        aad = self._aad.module(ModuleType.COLUMN_META_DATA, *chunk.ordinals)
        sealed = seal_module(self.cipher(chunk), encode_struct(chunk.metadata), aad)
        entry.set(ColumnChunk.ENCRYPTED_COLUMN_METADATA, WireType.BINARY, sealed)
        if is_footer_encrypted:
            entry.remove(ColumnChunk.META_DATA)
        else:
            entry.set(ColumnChunk.META_DATA, WireType.STRUCT, Raw(encode_struct(_redacted(chunk.metadata))))
        place = self.place(*chunk.ordinals)
        if place is not None and place[1] is not None:
            # Indexes still need the key of a batch, but nothing needs its key metadata, which is many times longer.
            self._columns[place] = (self._columns[place][0], _NO_KEY)

    def _column_crypto(self, chunk: Chunk) -> Raw:
        """Return the encoded union that names a column's own key."""
        path, key_metadata = self._paths.get(chunk.column), self.of(chunk)[1]
        if path is None:
            # From the schema, not from the chunk's metadata, which may say anything.
            path = self._paths[chunk.column] = encoded_path(chunk.leaf.path)
        return Raw(
            b"%b%b%b%b%b" % (_COLUMN_KEY, path, _KEY_METADATA, encode_varint(len(key_metadata)), key_metadata + _ENDS)
        )

    def take_made(self) -> int:
        """Return how many keys were made since the last time."""
        made, self.made = self.made, 0
        return made

    def end_batches(self) -> None:
        """Wipe the keys of all batches so far: nothing more is encrypted under them."""
        self._end([place for place in self._columns if place[1] is not None])

    def end_batch(self, row_group: int) -> None:
        """Wipe the keys of one batch."""
        self._end([place for place in self._columns if place[1] == row_group])

    def _end(self, places: Iterable[_KeyPlace]) -> None:
        for place in places:
            self._columns.pop(place)[0].wipe()
            self._ciphers.pop(place, None)

    def wipe(self) -> None:
        """Wipe all keys. Safe to call twice."""
        self._ciphers.clear()
        for key, _ in self._columns.values():
            key.wipe()
        if self._footer is not None:
            self._footer[0].wipe()


# The union ColumnCryptoMetaData around what differs: field headers, and what ends the alternative and the union.
_COLUMN_KEY: Final = bytes((ColumnCrypto.WITH_COLUMN_KEY << 4 | WireType.STRUCT,))
_KEY_METADATA: Final = bytes(((ColumnCrypto.KEY_METADATA - ColumnCrypto.PATH_IN_SCHEMA) << 4 | WireType.BINARY,))
_ENDS: Final = b"\x00\x00"
_WITH_FOOTER_KEY: Final = Raw(bytes((ColumnCrypto.WITH_FOOTER_KEY << 4 | WireType.STRUCT,)) + _ENDS)


def encoded_path(path: tuple[str, ...]) -> bytes:
    """Return the field with a path's names as it stands in a struct, without the struct's end."""
    struct, names = Struct(), [name.encode() for name in path]
    struct.set_list(ColumnCrypto.PATH_IN_SCHEMA, WireType.BINARY, [*names])
    return encode_struct(struct)[:-1]


def _redacted(metadata: Struct) -> Struct:
    # A field that an old draft used for something else was not opened, so nobody knows what it tells.
    clear = metadata.kept(ColumnMetaData.CLEAR)
    optional = (ColumnMetaData.BLOOM_FILTER_OFFSET, ColumnMetaData.BLOOM_FILTER_LENGTH)
    for field in optional:
        if isinstance(clear.get(field), Raw):
            clear.remove(field)
    return clear
