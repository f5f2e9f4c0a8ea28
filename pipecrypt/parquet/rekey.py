"""Put the data keys of a file under another master key: only its footer changes. Writing it is left to others.

Data keys, and so pages, indexes and the sealed metadata of columns, stay as they are, and with them each commitment.
What changes is `key_metadata`: of columns in the footer, of the footer key beside it. So a footer in clear is signed
again, and an encrypted one sealed again, each under the same footer key and with a fresh nonce.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from pipecrypt.crypto.aead import MessageCipher
from pipecrypt.errors import FormatError
from pipecrypt.parquet.chunks import Chunk, RowGroups
from pipecrypt.parquet.columns import leaf_columns
from pipecrypt.parquet.footer import StoredFooter, encode_sealed_footer, open_footer
from pipecrypt.parquet.key_uses import footer_key_use
from pipecrypt.parquet.originals import read_originals
from pipecrypt.parquet.policy import KeyScope
from pipecrypt.parquet.wire.fields import ColumnChunk, ColumnCrypto, FileMetaData
from pipecrypt.parquet.wire.modules import FileAAD
from pipecrypt.parquet.wire.thrift import Struct, WireType
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.secret import DataKey

__all__ = ["NewFooter", "OpenKey", "Rewrap", "rekey_footer"]

# (key_metadata, context) -> the data key, which its receiver wipes.
OpenKey: TypeAlias = Callable[[bytes, Context], DataKey]
# (key_metadata, context) -> the data key's new key_metadata; None where it stays as it is.
Rewrap: TypeAlias = Callable[[bytes, Context], bytes | None]


@dataclass(frozen=True, slots=True)
class NewFooter:
    """What shall stand behind the body of a file.

    Args:
        body_end: where it begins.
        tail: footer, length and magic.
        data_keys: how many data keys are under another master key now.
    """

    body_end: int
    tail: bytes
    data_keys: int


@dataclass(slots=True)
class _Rewrapped:
    """New key metadata by the old: in a file with one data key for each column, its bytes must stay the same in all."""

    rewrap: Rewrap
    known: dict[bytes, bytes | None] = field(default_factory=dict)

    def __call__(self, key_metadata: bytes, context: Context) -> bytes | None:
        if key_metadata not in self.known:
            self.known[key_metadata] = self.rewrap(key_metadata, context)
        return self.known[key_metadata]

    @property
    def count(self) -> int:
        return sum(each is not None for each in self.known.values())


def rekey_footer(stored: StoredFooter, name: str, open_key: OpenKey, rewrap: Rewrap) -> NewFooter | None:
    """Return the footer with other key metadata, or None where all of it stays.

    What holds when it returns: (1) pipecrypt wrote the file; (2) its footer's tag fits the footer key, so that nothing
    is signed again that was changed; (3) each data key that was wrapped again was opened and matched its commitment,
    which is `rewrap`'s to see to. The caller still owes: what authenticates the body.

    Args:
        stored: the footer, which this changes.
        name: what errors call the file.
        open_key: opens data keys.
        rewrap: says what becomes of each.

    Raises:
        FormatError: malformed, or of another writer.
        AccessError: a key is missing or was refused.
        IntegrityError: the footer or a key was changed.
    """
    sealed = stored.sealed
    if sealed is None:
        return None
    footer = footer_key_use(sealed, name)
    aad = FileAAD(sealed.algorithm.aad_prefix or b"", sealed.algorithm.file_unique)
    with open_key(footer.key_metadata, footer.context) as key:
        cipher = MessageCipher(key)
        metadata = open_footer(sealed, cipher, aad, name)  # (2)
        rewrapped = _Rewrapped(rewrap)
        new_key_metadata = rewrapped(footer.key_metadata, footer.context)
        _rekey_columns(metadata, name, footer.context, rewrapped)  # (1), (3)
        if not rewrapped.count:
            return None
        pieces = encode_sealed_footer(
            metadata, sealed.mode, sealed.algorithm, new_key_metadata or footer.key_metadata, cipher
        )
        return NewFooter(stored.body_end, b"".join(pieces), rewrapped.count)


def _rekey_columns(metadata: Struct, name: str, context: Context, rewrap: Rewrap) -> None:
    originals = read_originals(metadata)
    if originals is None:
        raise FormatError(f"{name} was written by another program", hint="rotate it without --deep, by grants")
    per_batch = originals.data_keys is KeyScope.BATCH
    leaves = leaf_columns(metadata.structs(FileMetaData.SCHEMA), name)
    row_groups = RowGroups(metadata, leaves, name, is_sealed=True)
    for index in row_groups.ordinals:
        for chunk in row_groups.chunks(index):
            _rekey_chunk(chunk, context.for_column(chunk.leaf.path, index if per_batch else None), rewrap)
        row_groups.close(index)


def _rekey_chunk(chunk: Chunk, context: Context, rewrap: Rewrap) -> None:
    crypto = chunk.entry.struct(ColumnChunk.CRYPTO_METADATA)
    own = None if crypto is None else crypto.struct(ColumnCrypto.WITH_COLUMN_KEY)
    if own is None:
        return
    new = rewrap(own.binary(ColumnCrypto.KEY_METADATA) or b"", context)
    if new is not None:
        own.set(ColumnCrypto.KEY_METADATA, WireType.BINARY, new)
