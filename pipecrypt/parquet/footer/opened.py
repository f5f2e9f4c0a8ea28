"""Authenticate an encrypted file's footer, open its metadata and keys.

Only this module turns a SealedFooter, of which nothing is authenticated, into an OpenedFile, which says what is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self, TypeAlias

from pipecrypt.crypto.aead import MessageCipher
from pipecrypt.errors import (
    AccessError,
    ContentError,
    FormatError,
    IntegrityError,
    KeyNotFoundError,
    UnsupportedError,
    UsageError,
)
from pipecrypt.parquet.footer.columns import LeafColumn
from pipecrypt.parquet.footer.entries import Originals, entry_values, pop_digests, pop_originals, restore_notes
from pipecrypt.parquet.footer.row_groups import Chunk, RowGroups, check_counts, row_count
from pipecrypt.parquet.footer.stored import SealedFooter, StoredFooter, open_footer
from pipecrypt.parquet.policy import FooterMode, KeyScope
from pipecrypt.parquet.protocols import DataKeys
from pipecrypt.parquet.wire.fields import BLOB_KEY, COLUMN_META_DATA, ColumnChunk, ColumnCrypto
from pipecrypt.parquet.wire.modules import FileAAD, ModuleType, open_module
from pipecrypt.parquet.wire.thrift import Struct
from pipecrypt.parquet.wire.thrift_read import read_struct
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.secret import DataKey

__all__ = [
    "MOST_CIPHERS",
    "OpenedCheck",
    "OpenedFile",
    "as_tampering",
    "count_rows",
    "resolve_prefix",
]

_logger = logging.getLogger(__name__)
# Expanded keys are kept: metadata, pages and indexes of a chunk follow each other. Each takes about a KiB.
MOST_CIPHERS: Final = 2048


def resolve_prefix(sealed: SealedFooter, aad_prefix: bytes | None) -> bytes:
    """Return the AAD prefix to use: the stored one, or the given one where none is stored.

    Raises:
        IntegrityError: the stored prefix is not the given one.
        UsageError: the file needs a prefix and none was given.
    """
    stored = sealed.algorithm.aad_prefix
    if stored is not None:
        if aad_prefix is not None and aad_prefix != stored:
            raise IntegrityError(f"{sealed.name} stores another AAD prefix than the one given")
        return stored
    if aad_prefix is None and sealed.algorithm.prefix_is_supplied:
        raise UsageError(
            f"{sealed.name} was written with an AAD prefix that it does not store",
            hint="pass it as aad_prefix, or --aad-prefix",
        )
    return aad_prefix or b""


class OpenedFile:
    """An authenticated footer, with the metadata and keys of all columns. Keys are wiped on leaving the `with` block.

    What holds when it is constructed: (1) the AAD prefix is the stored or the given one; (2) the footer's tag fits
    the footer key, AAD prefix and file id; (3) a file of ours names AES_GCM_V1. What holds of a row group once it is
    opened: (4) each encrypted column's metadata authenticates under its own key at its own row group and column. The
    caller still owes: pages, indexes and Bloom filters are authenticated as read.

    Args:
        sealed: the footer as it was read.
        keys: finds data keys.
        aad_prefix: of a file that does not store it.
        allow_missing_keys: columns whose key is not among `keys` are listed in `locked` instead of refused. Where the
            footer is readable and its key is missing, (2) does not hold and `is_authenticated` is False.

    Attributes:
        key_metadata_of_columns: of each encrypted column met so far, in the first row group where it is encrypted.
        digests_entry: the entry with the digests of plaintext parts, taken out of the footer; None without one.
    """

    def __init__(
        self,
        sealed: SealedFooter,
        *,
        keys: DataKeys,
        aad_prefix: bytes | None,
        allow_missing_keys: bool = False,
    ) -> None:
        """Open the footer."""
        self._allow_missing_keys = allow_missing_keys
        self.is_authenticated = True
        self.name = name = sealed.name
        self.body_end = sealed.body_end
        self.mode = sealed.mode
        self.locked: dict[tuple[int, int], AccessError] = {}
        self._keys = keys
        self._data_keys: list[DataKey] = []
        self._is_closed = False
        self._shared_keys: dict[tuple[int, bytes], DataKey] = {}
        self._chunk_keys: dict[tuple[int, int], DataKey] = {}
        self._ciphers: dict[tuple[int, int], MessageCipher] = {}
        self._sealed_columns: set[int] = set()
        self._clear_columns: set[int] = set()
        self._footer_key_metadata = sealed.key_metadata
        self.key_metadata_of_columns: dict[int, bytes] = {}
        prefix = resolve_prefix(sealed, aad_prefix)  # (1)
        self.context = Context.from_aad_prefix(prefix) or Context("", "")
        self.aad = FileAAD(prefix, sealed.algorithm.file_unique)
        self.ctr_pages = sealed.algorithm.ctr_pages
        self._footer_key: DataKey | None = None
        try:
            self.footer = self._open_footer(sealed)  # (2)
            self.digests_entry = pop_digests(self.footer)
            self.originals: Originals | None = pop_originals(self.footer)
            restore_notes(self.footer, self._footer_cipher(), self.aad, name)
            if self.digests_entry is not None and self.originals is None:
                raise FormatError(f"{name} has digests, but was not written by pipecrypt")
            self._check_algorithm(name)  # (3)
            self.row_groups = RowGroups(self.footer, name, is_sealed=True)
            check_counts(len(self.row_groups), len(self.row_groups.leaves), name)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """Return the opened file."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wipe all keys."""
        self.close()

    def close(self) -> None:
        """Wipe all keys. Safe to call twice."""
        self._is_closed = True
        if self._footer_key is not None:
            self._footer_key.wipe()
        for key in self._data_keys:
            key.wipe()
        self._ciphers.clear()

    def _open_footer(self, sealed: SealedFooter) -> Struct:
        context = self.context.for_footer()
        try:
            self._footer_key = _open_key(self._keys, sealed.key_metadata, context, f"footer of {self.name}")
        except KeyNotFoundError:
            if not self._allow_missing_keys or sealed.metadata is None:
                raise
            self.is_authenticated = False
            return sealed.metadata
        return open_footer(sealed, MessageCipher(self._footer_key), self.aad)

    def _footer_cipher(self) -> MessageCipher | None:
        return None if self._footer_key is None else MessageCipher(self._footer_key)

    def _check_algorithm(self, name: str) -> None:
        # Beside an encrypted footer the algorithm stands in clear, and nothing authenticates it. Under AES_GCM_CTR_V1
        # pages are not authenticated, so naming it in a file that was written with AES_GCM_V1 would be a forgery.
        if not self.ctr_pages:
            return
        if self.originals is not None or self.context.dataset_id:
            raise IntegrityError(f"{name} names AES_GCM_CTR_V1, but pipecrypt, which wrote it, uses AES_GCM_V1 only")
        _logger.warning("%s names AES_GCM_CTR_V1: nothing authenticates its pages", name)

    @property
    def holds_blob(self) -> bool:
        """Whether this is not a table, but the bytes of another file in chunks."""
        return bool(entry_values(self.footer, BLOB_KEY))

    @property
    def data_key_count(self) -> int:
        """How many data keys were opened, the footer's included."""
        return len(self._data_keys) + 1

    @property
    def encrypted_columns(self) -> int:
        """How many leaf columns are encrypted in at least one of the row groups opened so far."""
        return len(self._sealed_columns)

    @property
    def clear_columns(self) -> frozenset[int]:
        """The indexes of the leaf columns in plaintext in at least one of the row groups opened so far."""
        return frozenset(self._clear_columns)

    @property
    def clear_paths(self) -> tuple[tuple[str, ...], ...]:
        """The paths of these columns."""
        return tuple(self.row_groups.leaves[column].path for column in sorted(self._clear_columns))

    @property
    def authenticates_all(self) -> bool:
        """Whether every page has a tag, or a digest in the footer; known once all row groups were opened."""
        return not self.ctr_pages and (not self._clear_columns or self.digests_entry is not None)

    def open_row_group(self, index: int) -> list[Chunk]:
        """Return the chunks of a row group, with their metadata opened and authenticated (4).

        Raises:
            FormatError: malformed.
            AccessError: a key is missing or was refused.
            IntegrityError: metadata was not written with its key at this place.
        """
        if self.row_groups.is_open(index):
            return self.row_groups.chunks(index)
        chunks = self.row_groups.chunks(index)
        for chunk in chunks:
            if not chunk.is_sealed:
                self._clear_columns.add(chunk.column)
                continue
            self._sealed_columns.add(chunk.column)
            try:
                self._open_metadata(chunk)
            except KeyNotFoundError as error:
                if not self._allow_missing_keys:
                    raise
                self.locked[chunk.ordinals] = error
        return chunks

    def note_clear_column(self, column: int) -> None:
        """Note that a leaf column is in plaintext in a row group that was looked at, and not opened."""
        self._clear_columns.add(column)

    def open_key_at(self, row_group: int, column: int, key_metadata: bytes) -> DataKey:
        """Return the data key of a chunk that has one of its own, by what its footer entry says of it.

        Raises:
            AccessError: missing or refused.
            IntegrityError: it does not match its commitment.
        """
        key = self._chunk_keys.get((row_group, column))
        if key is None:
            leaf, what = self.row_groups.leaves[column], self.row_groups.what(row_group, column)
            is_own = self.originals is not None and self.originals.data_keys is KeyScope.BATCH
            shared = None if is_own else self._shared_keys.get((column, key_metadata))
            key = shared or self._open_column_key(leaf, key_metadata, row_group if is_own else None, what)
            self._chunk_keys[row_group, column] = key
            if not is_own:
                self._shared_keys[column, key_metadata] = key
        return key

    def open_sealed_metadata(self, row_group: int, column: int, key_metadata: bytes, sealed: bytes) -> bytes:
        """Return the encoded metadata of a chunk after authenticating it (4), without its footer entry.

        Raises:
            AccessError: its key is missing or was refused.
            IntegrityError: it was not written with its key at this place.
        """
        cipher = MessageCipher(self.open_key_at(row_group, column, key_metadata))
        aad = self.aad.module(ModuleType.COLUMN_META_DATA, row_group, column)
        what = f"metadata of {self.row_groups.what(row_group, column)}"
        return bytes(open_module(cipher, memoryview(sealed), aad, what))

    @property
    def hides_column_metadata(self) -> bool:
        """Whether the footer is readable, and shows of each encrypted column less than its sealed metadata."""
        return self.mode is FooterMode.PLAINTEXT and self.originals is not None

    def each_chunk(self) -> Iterator[Chunk]:
        """Yield all chunks, opened as `open_row_group` does; of a large footer, one row group is open at a time."""
        for index in self.row_groups.ordinals:
            yield from self.open_row_group(index)
            self.row_groups.release(index)

    def footer_key(self) -> DataKey:
        """Return the footer's data key.

        Raises:
            KeyNotFoundError: it is missing, which only `allow_missing_keys` lets happen.
        """
        if self._footer_key is None:
            raise KeyNotFoundError(f"the footer key of {self.name} is missing")
        return self._footer_key

    def key_of(self, chunk: Chunk) -> DataKey:
        """Return the data key of an encrypted chunk.

        Raises:
            AccessError: missing or refused.
            IntegrityError: it does not match its commitment.
        """
        place = chunk.ordinals
        if place not in self._chunk_keys:
            self._chunk_keys[place] = self._find_key(chunk)
        return self._chunk_keys[place]

    def key_at(self, row_group: int, column: int) -> DataKey | None:
        """Return the data key of a chunk whose row group was opened before; None where it is plaintext."""
        return self._chunk_keys.get((row_group, column))

    def _find_key(self, chunk: Chunk) -> DataKey:
        crypto = chunk.entry.struct(ColumnChunk.CRYPTO_METADATA)
        if crypto is None or len(crypto.entries) != 1:
            raise FormatError(f"{chunk.what} has malformed crypto metadata")
        own = crypto.struct(ColumnCrypto.WITH_COLUMN_KEY)
        if own is None:
            self.key_metadata_of_columns.setdefault(chunk.column, self._footer_key_metadata)
            return self.footer_key()
        key_metadata = own.binary(ColumnCrypto.KEY_METADATA) or b""
        self.key_metadata_of_columns.setdefault(chunk.column, key_metadata)
        return self.open_key_at(*chunk.ordinals, key_metadata)

    def _open_column_key(self, leaf: LeafColumn, key_metadata: bytes, batch: int | None, what: str) -> DataKey:
        self._check_is_open()
        key = _open_key(self._keys, key_metadata, self.context.for_column(leaf.path, batch), what)
        self._data_keys.append(key)  # before asking again: whoever closes this meanwhile sees one or the other
        self._check_is_open()
        return key

    def _check_is_open(self) -> None:
        if self._is_closed:
            self.close()  # also what came after it was closed by another thread
            raise UsageError(f"{self.name} was closed, and its keys were wiped")

    def cipher_at(self, row_group: int, column: int) -> MessageCipher:
        """Return the cipher of an encrypted chunk whose row group was opened before."""
        place = (row_group, column)
        return self._ciphers.get(place) or self._expand(place, self._chunk_keys[place])

    def cipher(self, chunk: Chunk) -> MessageCipher:
        """Return the cipher of an encrypted chunk."""
        return self._ciphers.get(chunk.ordinals) or self._expand(chunk.ordinals, self.key_of(chunk))

    def _expand(self, place: tuple[int, int], key: DataKey) -> MessageCipher:
        self._check_is_open()
        if len(self._ciphers) >= MOST_CIPHERS:
            self._ciphers.clear()
        cipher = self._ciphers[place] = MessageCipher(key)
        self._check_is_open()
        return cipher

    def _open_metadata(self, chunk: Chunk) -> None:
        sealed = chunk.entry.binary(ColumnChunk.ENCRYPTED_COLUMN_METADATA)
        if sealed is None:
            if not chunk.entry.has(ColumnChunk.META_DATA):
                raise FormatError(f"{chunk.what} has no metadata")
            self.key_of(chunk)
            return
        aad = self.aad.module(ModuleType.COLUMN_META_DATA, chunk.row_group, chunk.column)
        what = f"metadata of {chunk.what}"
        plaintext = open_module(self.cipher(chunk), memoryview(sealed), aad, what)
        chunk.metadata, end = read_struct(plaintext, 0, COLUMN_META_DATA, what, allowance=chunk.allowance)
        chunk.stored_metadata = plaintext if end == len(plaintext) else None


def count_rows(stored: StoredFooter, *, keys: DataKeys, aad_prefix: bytes | None) -> int:
    """Return the rows of a table, encrypted or not; the footer is authenticated where its key is at hand.

    Raises:
        FormatError: malformed.
        UsageError: the file holds no table.
        AccessError: the footer is encrypted, and its key is missing or was refused.
        IntegrityError: the footer was changed after it was written.
    """
    if stored.sealed is None:
        if stored.metadata is None:
            raise AssertionError("a footer that is not encrypted is readable")
        return row_count(stored.metadata, stored.name)
    with OpenedFile(stored.sealed, keys=keys, aad_prefix=aad_prefix, allow_missing_keys=True) as opened:
        if opened.holds_blob:
            raise UsageError(f"{stored.name} holds the bytes of another file, no table")
        return row_count(opened.footer, stored.name)


def _open_key(keys: DataKeys, key_metadata: bytes, context: Context, what: str) -> DataKey:
    try:
        return keys.open_data_key(key_metadata, context)
    except (AccessError, FormatError, IntegrityError, UnsupportedError) as error:
        raise error.prefixed(what) from error


# Raises IntegrityError to refuse a file before anything of it is used, when all its row groups were opened.
OpenedCheck: TypeAlias = Callable[[OpenedFile], None]


@contextmanager
def as_tampering(*, is_signed: bool) -> Iterator[None]:
    """Raise errors about the content as IntegrityErrors, if `is_signed`.

    Args:
        is_signed: the footer is one that a trusted key signed, so that what does not fit it was changed afterwards.
    """
    try:
        yield
    except ContentError as error:
        if not is_signed:
            raise
        raise IntegrityError(error.message) from error
