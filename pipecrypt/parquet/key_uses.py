"""Walk over every data key that a file names, with its place. Opening them is left to keys, showing them to dataset.

Under a plaintext footer nothing is needed for that, and nothing of it is authenticated. An encrypted footer hides the
keys of the columns from who does not hold its key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipecrypt.crypto.aead import MessageCipher
from pipecrypt.parquet.chunks import Chunk, RowGroups
from pipecrypt.parquet.columns import leaf_columns
from pipecrypt.parquet.footer import SealedFooter, open_footer
from pipecrypt.parquet.opened import resolve_prefix
from pipecrypt.parquet.originals import read_originals
from pipecrypt.parquet.policy import KeyScope
from pipecrypt.parquet.protocols import DataKeys
from pipecrypt.parquet.wire.fields import ColumnChunk, ColumnCrypto, FileMetaData
from pipecrypt.parquet.wire.modules import FileAAD
from pipecrypt.parquet.wire.thrift import Struct
from pipecrypt.vocabulary.context import Context

__all__ = ["KeyUse", "column_key_uses", "footer_key_use", "open_clear_or_sealed"]


@dataclass(frozen=True, slots=True)
class KeyUse:
    """One data key in a file.

    Args:
        key_metadata: what the file stores of it.
        context: the place that it is bound to; the column is None for the footer's.
        batch: the row group in which it was met; None for the footer's.
    """

    key_metadata: bytes
    context: Context
    batch: int | None


def footer_key_use(sealed: SealedFooter, name: str) -> KeyUse:
    """Return the use of the footer's data key."""
    prefix = resolve_prefix(sealed, None, name)
    context = Context.from_aad_prefix(prefix) or Context("", "")
    return KeyUse(sealed.key_metadata, context.for_footer(), None)


def open_clear_or_sealed(sealed: SealedFooter, name: str, keys: DataKeys) -> Struct:
    """Return a footer's content: as it is where it stands in clear, else opened with its key.

    Raises:
        AccessError: the key of an encrypted footer is missing or refused.
        IntegrityError: an encrypted footer was changed.
    """
    if sealed.metadata is not None:
        return sealed.metadata
    use = footer_key_use(sealed, name)
    aad = FileAAD(resolve_prefix(sealed, None, name), sealed.algorithm.file_unique)
    with keys.open_data_key(use.key_metadata, use.context) as key:
        return open_footer(sealed, MessageCipher(key), aad, name)


def column_key_uses(sealed: SealedFooter, metadata: Struct, name: str) -> Iterator[KeyUse]:
    """Yield the use of the data key of each encrypted column chunk that has one of its own.

    Args:
        sealed: what stands in clear.
        metadata: the result of `open_clear_or_sealed`; row groups in it are opened one at a time.
        name: what errors call the file.

    Raises:
        FormatError: malformed.
    """
    context = footer_key_use(sealed, name).context
    originals = read_originals(metadata)
    per_batch = originals is not None and originals.data_keys is KeyScope.BATCH
    leaves = leaf_columns(metadata.structs(FileMetaData.SCHEMA), name)
    row_groups = RowGroups(metadata, leaves, name, is_sealed=True)
    for index in row_groups.ordinals:
        for chunk in row_groups.chunks(index):
            key_metadata = _own_key_metadata(chunk)
            if key_metadata is not None:
                at = context.for_column(chunk.leaf.path, index if per_batch else None)
                yield KeyUse(key_metadata, at, index)
        row_groups.release(index)


def _own_key_metadata(chunk: Chunk) -> bytes | None:
    crypto = chunk.entry.struct(ColumnChunk.CRYPTO_METADATA)
    own = None if crypto is None else crypto.struct(ColumnCrypto.WITH_COLUMN_KEY)
    return None if own is None else own.binary(ColumnCrypto.KEY_METADATA) or b""
