"""Tell how a file is encrypted and under which keys, from its footer, without a key. Comparing it is left to others.

Nothing of it is authenticated here. Unlike in a summary for people, no name is shortened.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pipecrypt.parquet.chunks import Chunk, RowGroups
from pipecrypt.parquet.columns import LeafColumn, leaf_columns
from pipecrypt.parquet.footer import StoredFooter
from pipecrypt.parquet.key_names import KeyNames, read_key_names
from pipecrypt.parquet.policy import FooterMode
from pipecrypt.parquet.wire.fields import ColumnChunk, ColumnCrypto, FileMetaData
from pipecrypt.parquet.wire.thrift import Struct
from pipecrypt.vocabulary.context import Context

__all__ = ["FooterColumn", "FooterEncryption", "observe_encryption"]


@dataclass(frozen=True, slots=True)
class FooterColumn:
    """How a leaf column is encrypted.

    Args:
        path: from the root to the leaf.
        is_encrypted: in every row group.
        master_key_ids: sorted, each once; the footer's where it is under the footer's data key.
    """

    path: tuple[str, ...]
    is_encrypted: bool
    master_key_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FooterEncryption:
    """What a footer says without a key.

    Args:
        mode: None where the file is not encrypted.
        footer_key_ids: master keys of the footer: one, or none where its key metadata names none.
        columns: leaf columns, none where no row group shows any; None where the footer is encrypted.
        dataset_id: from the AAD prefix; None without a prefix of ours.
        path: from the AAD prefix.
        kek_ids: the texts "keyEncryptionKeyID" of footer and columns, sorted, each once.
    """

    mode: FooterMode | None
    footer_key_ids: tuple[str, ...]
    columns: tuple[FooterColumn, ...] | None
    dataset_id: str | None
    path: str | None
    kek_ids: tuple[str, ...]


def observe_encryption(stored: StoredFooter, name: str) -> FooterEncryption:
    """Return what a footer says about the file's encryption, unauthenticated.

    Args:
        stored: the footer, which stays as it is.
        name: what errors call the file.

    Raises:
        FormatError: malformed, or row groups and schema disagree.
    """
    sealed = stored.sealed
    footer_names = KeyNames() if sealed is None else read_key_names(sealed.key_metadata)
    context = Context.from_aad_prefix(b"" if sealed is None else sealed.algorithm.aad_prefix or b"")
    kek_ids = {footer_names.kek_id}
    columns = None if stored.metadata is None else _columns(stored.metadata, footer_names, kek_ids, name)
    return FooterEncryption(
        mode=None if sealed is None else sealed.mode,
        footer_key_ids=_ids({footer_names.master_key_id}),
        columns=columns,
        dataset_id=None if context is None else context.dataset_id,
        path=None if context is None else context.path,
        kek_ids=_ids(kek_ids),
    )


def _columns(footer: Struct, under_footer: KeyNames, kek_ids: set[str | None], name: str) -> tuple[FooterColumn, ...]:
    leaves = leaf_columns(footer.structs(FileMetaData.SCHEMA), name)
    row_groups, seen = RowGroups(footer, leaves, name, is_sealed=True), [_ColumnTally() for _ in leaves]
    if not len(row_groups):
        return ()
    for index in row_groups.ordinals:
        for chunk in row_groups.chunks(index):
            seen[chunk.column].add(chunk, under_footer)
        row_groups.release(index)
    kek_ids.update(*(each.kek_ids for each in seen))
    return tuple(each.column(leaf, len(row_groups)) for leaf, each in zip(leaves, seen, strict=True))


@dataclass(slots=True)
class _ColumnTally:
    """What was seen of a leaf column so far."""

    encrypted: int = 0
    key_ids: set[str | None] = field(default_factory=set)
    kek_ids: set[str | None] = field(default_factory=set)
    _last: tuple[bytes, KeyNames] = (b"", KeyNames())

    def add(self, chunk: Chunk, under_footer: KeyNames) -> None:
        crypto = chunk.entry.struct(ColumnChunk.CRYPTO_METADATA)
        if crypto is None:
            return
        self.encrypted += 1
        own = crypto.struct(ColumnCrypto.WITH_COLUMN_KEY)
        names = under_footer if own is None else self._names(own.binary(ColumnCrypto.KEY_METADATA) or b"")
        self.key_ids.add(names.master_key_id)
        self.kek_ids.add(names.kek_id)

    def _names(self, key_metadata: bytes) -> KeyNames:
        if self._last[0] != key_metadata:  # in a file with one data key for each column, it is the same every time
            self._last = (key_metadata, read_key_names(key_metadata))
        return self._last[1]

    def column(self, leaf: LeafColumn, row_groups: int) -> FooterColumn:
        return FooterColumn(leaf.path, self.encrypted == row_groups, _ids(self.key_ids))


def _ids(found: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(sorted({each for each in found if each is not None}))
