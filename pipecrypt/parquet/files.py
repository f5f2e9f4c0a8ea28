"""The door to the engine for whole files: encrypted, decrypted and shown, each as the table or the blob that it is."""

from __future__ import annotations

from collections.abc import Callable

from pipecrypt.parquet.blob.decrypt import ignore_info, opened_blob, restore_blob
from pipecrypt.parquet.blob.encrypt import encrypt_blob, encrypt_blob_stream
from pipecrypt.parquet.blob.format import DEFAULT_BLOCK_BYTES, ROW_GROUP_BLOCKS, BlobInfo, check_block_bytes
from pipecrypt.parquet.blob.view import BlobView
from pipecrypt.parquet.carry.reading import Gatherer
from pipecrypt.parquet.carry.writing import ignore_bytes
from pipecrypt.parquet.footer.opened import OpenedCheck, OpenedFile
from pipecrypt.parquet.footer.stored import (
    BytesCheck,
    FooterCheck,
    StoredFooter,
    is_parquet,
    read_sealed_footer,
    read_stored_footer,
)
from pipecrypt.parquet.pages.sealing import check_first_page
from pipecrypt.parquet.policy import FooterMode
from pipecrypt.parquet.protocols import AppendSink, DataKeys, PageCodec
from pipecrypt.parquet.report import FileReport
from pipecrypt.parquet.table.decrypt import decrypt_table
from pipecrypt.parquet.table.encrypt import FileEncryption, check_policy, encrypt_file
from pipecrypt.parquet.table.shared import (
    FileStart,
    NextRowGroup,
    PlacedRowGroup,
    RowGroupHelpers,
    RowGroupSealer,
    SealedRowGroup,
)
from pipecrypt.parquet.table.slice import row_group_sizes, slice_row_groups
from pipecrypt.parquet.table.view import ChunkCache, TableView
from pipecrypt.parquet.table.view_layout import MissingKeys
from pipecrypt.parquet.wire.modules import MAX_ORDINALS
from pipecrypt.vocabulary.ranges import RangeSource

__all__ = [
    "DEFAULT_BLOCK_BYTES",
    "MAX_ORDINALS",
    "ROW_GROUP_BLOCKS",
    "BlobInfo",
    "BlobView",
    "ChunkCache",
    "FileEncryption",
    "FileStart",
    "Gatherer",
    "MissingKeys",
    "NextRowGroup",
    "PlacedRowGroup",
    "RowGroupHelpers",
    "RowGroupSealer",
    "SealedRowGroup",
    "TableView",
    "check_block_bytes",
    "check_first_page",
    "check_policy",
    "decrypt_file",
    "encrypt_blob",
    "encrypt_blob_stream",
    "encrypt_file",
    "is_parquet",
    "open_table_view",
    "open_view",
    "row_group_sizes",
    "slice_row_groups",
]


def decrypt_file(
    source: RangeSource,
    sink: AppendSink,
    *,
    keys: DataKeys,
    aad_prefix: bytes | None = None,
    codec: PageCodec | None = None,
    bytes_check: BytesCheck | None = None,
    check: FooterCheck | None = None,
    check_opened: OpenedCheck | None = None,
    checks_digests: bool = True,
    on_info: Callable[[BlobInfo], None] = ignore_info,
    on_bytes: Callable[[int], None] = ignore_bytes,
) -> FileReport:
    """Write the plaintext form of the encrypted Parquet file `source` to `sink`: of a blob, its bytes.

    Bytes reach the sink before the whole file is authenticated, so the caller must publish what the sink holds only
    after this returns, and discard it otherwise.

    Args:
        source: the input, of any writer: AES_GCM_V1 or AES_GCM_CTR_V1.
        sink: the output, empty.
        keys: finds data keys; all columns' keys are needed.
        aad_prefix: the AAD prefix of a file that does not store it.
        codec: decompresses the pages of blobs; those that are not compressed need none.
        bytes_check: called before the footer is parsed; what it raises passes through.
        check: called with the footer before a key is asked for or a byte is written; what it raises passes through.
        check_opened: told how a table is protected, before a byte is written; what it raises passes through.
        checks_digests: check what is in plaintext against the digests that the file stores of it, where it does.
        on_info: told what a blob says about the original, before the first byte is written.
        on_bytes: told how many bytes of the input were done.

    Raises:
        FormatError: the input is not a Parquet file, truncated or malformed.
        UnsupportedError: a blob is compressed, and there is no codec.
        NotEncryptedError: the input is plaintext.
        UsageError: the file needs an AAD prefix and none was given.
        AccessError: a key is missing or was refused; names file, row group and column.
        IntegrityError: a module, the footer, the AAD prefix or a key is not the one it was written with, or a part in
            plaintext was changed; names file, row group and column.
        MissingExtraError: the digests are made with BLAKE3, and its package is not installed.
    """
    sealed = read_sealed_footer(source, check=check, bytes_check=bytes_check)
    with OpenedFile(sealed, keys=keys, aad_prefix=aad_prefix) as opened:
        blob = opened_blob(opened, codec)
        del sealed  # it holds the whole footer as stored
        if blob is not None:
            on_info(blob.info)
            return restore_blob(blob, opened, source, sink, on_bytes)
        return decrypt_table(
            opened, source, sink, check_opened=check_opened, checks_digests=checks_digests, on_bytes=on_bytes
        )


def open_view(
    source: RangeSource,
    *,
    keys: DataKeys,
    aad_prefix: bytes | None = None,
    codec: PageCodec | None = None,
    missing: MissingKeys = MissingKeys.ERROR,
    cache: ChunkCache | None = None,
    stored: StoredFooter | None = None,
    check_opened: OpenedCheck | None = None,
    checks_digests: bool = True,
    statistics: bool = True,
) -> TableView | BlobView:
    """Return the view of a Parquet file: of its plaintext table, encrypted or not, or of the bytes of its blob.

    Args:
        source: the file.
        keys: finds data keys.
        aad_prefix: of a file that does not store it.
        codec: decompresses the pages of blobs.
        missing: as for `TableView`.
        cache: likewise.
        stored: the file's footer, where it was read before; a view changes it.
        check_opened: as for `TableView`; with it, the footer is taken for a signed one.
        checks_digests: as for `TableView`.
        statistics: likewise.

    Raises:
        FormatError: no Parquet file, truncated or malformed.
        AccessError: the footer is encrypted, and its key is missing or was refused.
        IntegrityError: footer or metadata were not written with these keys, or digests do not fit the footer.
        MissingExtraError: the digests are made with BLAKE3, and its package is not installed.
    """
    stored = stored or read_stored_footer(source)
    opened = _open_footer(stored, keys, aad_prefix)
    if opened is not None and opened.mode is FooterMode.ENCRYPTED:  # which footers of blobs always are
        try:
            blob = opened_blob(opened, codec)
            if blob is not None:
                return BlobView(source, opened, blob, is_signed=check_opened is not None)
        except BaseException:
            opened.close()
            raise
    return TableView(
        source,
        stored,
        opened,
        missing=missing,
        cache=cache,
        check_opened=check_opened,
        checks_digests=checks_digests,
        statistics=statistics,
    )


def open_table_view(
    source: RangeSource,
    *,
    keys: DataKeys,
    aad_prefix: bytes | None = None,
    missing: MissingKeys = MissingKeys.ERROR,
    cache: ChunkCache | None = None,
    stored: StoredFooter | None = None,
    check_opened: OpenedCheck | None = None,
    checks_digests: bool = True,
    statistics: bool = True,
) -> TableView:
    """Return the view of a table, as `open_view` does; a blob is shown as the table of its blocks."""
    stored = stored or read_stored_footer(source)
    return TableView(
        source,
        stored,
        _open_footer(stored, keys, aad_prefix),
        missing=missing,
        cache=cache,
        check_opened=check_opened,
        checks_digests=checks_digests,
        statistics=statistics,
    )


def _open_footer(stored: StoredFooter, keys: DataKeys, aad_prefix: bytes | None) -> OpenedFile | None:
    sealed = stored.sealed
    return None if sealed is None else OpenedFile(sealed, keys=keys, aad_prefix=aad_prefix, allow_missing_keys=True)
