"""Decrypt one Parquet file, column chunk by column chunk: the walk of encrypt backwards. Finding keys is left to keys.

Files of pipecrypt come back byte for byte where the original was laid out without gaps. Files of other writers come
back as the same table, with the pages that were encrypted.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from types import TracebackType
from typing import Self

from pipecrypt.context import Context
from pipecrypt.crypto.aead import MessageCipher
from pipecrypt.errors import AccessError, FormatError, IntegrityError, UsageError
from pipecrypt.parquet.body import Body, ignore_bytes
from pipecrypt.parquet.chunks import Chunk, list_chunks, locate_pages, row_count
from pipecrypt.parquet.columns import leaf_columns
from pipecrypt.parquet.footer import PLAIN_MAGIC, SealedFooter, encode_plain_footer, open_footer, read_sealed_footer
from pipecrypt.parquet.indexes import (
    BLOOM_FILTER_HEADER_BYTES,
    bloom_filter_bytes,
    move_offset_index,
    open_bloom_filter,
    sealed_bloom_filter_bytes,
)
from pipecrypt.parquet.layout import ChunkMove, Segment, SegmentKind, order_segments, place_index
from pipecrypt.parquet.modules import FileAAD, ModuleType, open_module
from pipecrypt.parquet.names import COLUMN_META_DATA, ColumnChunk, ColumnCrypto, ColumnMetaData, FileMetaData
from pipecrypt.parquet.originals import Originals, pop_originals
from pipecrypt.parquet.pages import PageAADs, PageBounds, open_pages
from pipecrypt.parquet.policy import KeyScope
from pipecrypt.parquet.protocols import AppendSink, DataKeys, RangeSource
from pipecrypt.parquet.relocate import restore_chunk, restore_row_group
from pipecrypt.parquet.report import FileReport
from pipecrypt.parquet.thrift import Struct, WireType, read_struct
from pipecrypt.secret import DataKey

__all__ = ["OpenedFile", "decrypt_file", "resolve_prefix"]

_UNDECLARED_BYTES = 64 * 1024  # as in encrypt


def decrypt_file(
    source: RangeSource,
    sink: AppendSink,
    *,
    keys: DataKeys,
    aad_prefix: bytes | None = None,
    on_bytes: Callable[[int], None] = ignore_bytes,
) -> FileReport:
    """Write the plaintext form of the encrypted Parquet file `source` to `sink`.

    Bytes reach the sink before the whole file is authenticated, so the caller must publish what the sink holds only
    after this returns, and discard it otherwise.

    Args:
        source: the input, of any writer: AES_GCM_V1 or AES_GCM_CTR_V1.
        sink: the output, empty.
        keys: finds data keys; all columns' keys are needed.
        aad_prefix: the AAD prefix of a file that does not store it.
        on_bytes: told how many bytes of the input were done.

    Raises:
        FormatError: the input is no Parquet file, truncated or malformed.
        NotEncryptedError: the input is plaintext.
        UsageError: the file needs an AAD prefix and none was given.
        AccessError: a key is missing or was refused; names file, row group and column.
        IntegrityError: a module, the footer, the AAD prefix or a key is not the one it was written with.
    """
    sealed, body_end = read_sealed_footer(source)
    with OpenedFile(sealed, source.name, keys=keys, aad_prefix=aad_prefix) as opened:
        segments = order_segments(opened.row_groups, body_end, source.name)
        rows = row_count(opened.footer, source.name)
        batches, encrypted = len(opened.row_groups), opened.encrypted_columns
        with Body(source, sink, on_bytes) as body:
            _Decryption(body, opened).run(segments)
        return FileReport(rows, batches, opened.data_key_count, source.size_bytes, body.position, encrypted)


def resolve_prefix(sealed: SealedFooter, aad_prefix: bytes | None, name: str) -> bytes:
    """Return the AAD prefix to use: the stored one, or the given one where none is stored.

    Raises:
        IntegrityError: the stored prefix is not the given one.
        UsageError: the file needs a prefix and none was given.
    """
    stored = sealed.algorithm.aad_prefix
    if stored is not None:
        if aad_prefix is not None and aad_prefix != stored:
            raise IntegrityError(f"{name} stores another AAD prefix than the one given")
        return stored
    if aad_prefix is None and sealed.algorithm.prefix_is_supplied:
        raise UsageError(
            f"{name} was written with an AAD prefix that it does not store",
            hint="pass it as aad_prefix, or --aad-prefix",
        )
    return aad_prefix or b""


class OpenedFile:
    """An authenticated footer, with the metadata and keys of all columns. Keys are wiped on leaving the `with` block.

    What holds when it is constructed: (1) the AAD prefix is the stored or the given one; (2) the footer's tag fits
    the footer key, AAD prefix and file id; (3) each encrypted column's metadata authenticates under its own key at
    its own row group and column. The caller still owes: pages, indexes and Bloom filters are authenticated as read.
    """

    def __init__(self, sealed: SealedFooter, name: str, *, keys: DataKeys, aad_prefix: bytes | None) -> None:
        """Open the footer and all column metadata."""
        self._keys = keys
        self._column_keys: dict[tuple[int, int | None, bytes], DataKey] = {}
        prefix = resolve_prefix(sealed, aad_prefix, name)  # (1)
        self.context = Context.from_aad_prefix(prefix) or Context("", "")
        self.aad = FileAAD(prefix, sealed.algorithm.file_unique)
        self.ctr_pages = sealed.algorithm.ctr_pages
        self._footer_key = _open_key(keys, sealed.key_metadata, self.context.for_footer(), f"footer of {name}")
        try:
            self.footer = open_footer(sealed, MessageCipher(self._footer_key), self.aad, name)  # (2)
            self.originals: Originals | None = pop_originals(self.footer)
            leaves = leaf_columns(self.footer.structs(FileMetaData.SCHEMA), name)
            self.row_groups = list_chunks(self.footer, leaves, name)
            for chunk in (chunk for chunks in self.row_groups for chunk in chunks):
                self._open_metadata(chunk)  # (3)
        except BaseException:
            self._wipe()
            raise

    def __enter__(self) -> Self:
        """Return the opened file."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wipe all keys."""
        self._wipe()

    def _wipe(self) -> None:
        self._footer_key.wipe()
        for key in self._column_keys.values():
            key.wipe()

    @property
    def data_key_count(self) -> int:
        """How many data keys were opened, the footer's included."""
        return len(self._column_keys) + 1

    @property
    def encrypted_columns(self) -> int:
        """How many leaf columns are encrypted in at least one row group."""
        return len({chunk.column for chunks in self.row_groups for chunk in chunks if is_sealed(chunk)})

    def key_of(self, chunk: Chunk) -> DataKey:
        """Return the data key of an encrypted chunk.

        Raises:
            AccessError: missing or refused.
            IntegrityError: it does not match its commitment.
        """
        crypto = chunk.entry.struct(ColumnChunk.CRYPTO_METADATA)
        if crypto is None or len(crypto.entries) != 1:
            raise FormatError(f"{chunk.what} has malformed crypto metadata")
        own = crypto.struct(ColumnCrypto.WITH_COLUMN_KEY)
        if own is None:
            return self._footer_key
        key_metadata = own.binary(ColumnCrypto.KEY_METADATA) or b""
        is_batch = self.originals is not None and self.originals.data_keys is KeyScope.BATCH
        batch = chunk.row_group if is_batch else None
        place = (chunk.column, batch, key_metadata)
        if place not in self._column_keys:
            context = self.context.for_column(chunk.leaf.path, batch)
            self._column_keys[place] = _open_key(self._keys, key_metadata, context, chunk.what)
        return self._column_keys[place]

    def cipher(self, chunk: Chunk) -> MessageCipher:
        """Return the cipher of an encrypted chunk."""
        return MessageCipher(self.key_of(chunk))

    def _open_metadata(self, chunk: Chunk) -> None:
        if not is_sealed(chunk):
            return
        sealed = chunk.entry.binary(ColumnChunk.ENCRYPTED_COLUMN_METADATA)
        if sealed is None:
            if not chunk.entry.has(ColumnChunk.META_DATA):
                raise FormatError(f"{chunk.what} has no metadata")
            self.key_of(chunk)
            return
        aad = self.aad.module(ModuleType.COLUMN_META_DATA, chunk.row_group, chunk.column)
        what = f"metadata of {chunk.what}"
        plaintext = open_module(self.cipher(chunk), memoryview(sealed), aad, what)
        chunk.metadata, _ = read_struct(plaintext, 0, COLUMN_META_DATA, what)


def is_sealed(chunk: Chunk) -> bool:
    """Say whether a chunk of an encrypted file is encrypted."""
    return chunk.entry.has(ColumnChunk.CRYPTO_METADATA)


def _open_key(keys: DataKeys, key_metadata: bytes, context: Context, what: str) -> DataKey:
    try:
        return keys.open_data_key(key_metadata, context)
    except (AccessError, IntegrityError) as error:
        raise type(error)(f"{what}: {error.message}", hint=error.hint) from error


class _Decryption:
    """The body's walk, and where its parts went."""

    def __init__(self, body: Body, opened: OpenedFile) -> None:
        self._body = body
        self._opened = opened
        self._moves: dict[tuple[int, int], ChunkMove] = {}

    def run(self, segments: list[Segment]) -> None:
        footer = self._opened.footer
        self._body.write(PLAIN_MAGIC)
        for segment in segments:
            self._write_segment(segment)
        for index, chunks in enumerate(self._opened.row_groups):
            self._finish_row_group(index, footer.structs(FileMetaData.ROW_GROUPS)[index], chunks)
        self._body.write(encode_plain_footer(footer))

    def _write_segment(self, segment: Segment) -> None:
        if segment.kind is SegmentKind.PAGES:
            move = self._open_pages(segment) if is_sealed(segment.chunk) else self._copy_pages(segment)
            self._moves[segment.chunk.row_group, segment.chunk.column] = move
            restore_chunk(segment.chunk, move, self._opened.originals)
        elif segment.kind is SegmentKind.BLOOM_FILTER:
            self._write_bloom_filter(segment)
        else:
            self._write_index(segment)

    def _open_pages(self, segment: Segment) -> ChunkMove:
        chunk, place, opened = segment.chunk, locate_pages(segment.chunk), self._opened
        data = self._body.read(segment.start, min(segment.room_bytes, place.declared_bytes + _UNDECLARED_BYTES))
        out = self._body.reserve(len(data))
        bounds = open_pages(
            data,
            place.declared_bytes,
            place.num_values,
            out=out,
            cipher=opened.cipher(chunk),
            aads=PageAADs(opened.aad, chunk.row_group, chunk.column),
            ctr=opened.ctr_pages,
            what=chunk.what,
        )
        move = ChunkMove(segment.start, self._body.position, bounds)
        self._body.commit(bounds.new[-1])
        self._body.done(bounds.old[-1])
        return move

    def _copy_pages(self, segment: Segment) -> ChunkMove:
        # Encrypting left no gap behind a copied chunk, so all of its room is its own, whatever size it declares.
        length = segment.room_bytes if self._opened.originals is not None else (segment.declared_bytes or 0)
        bounds = array("q", (0, length))
        bounds_kept = PageBounds(bounds, bounds, has_dictionary=False)
        move = ChunkMove(segment.start, self._body.position, bounds_kept, is_copy=True)
        self._body.copy(segment.start, length)
        return move

    def _write_bloom_filter(self, segment: Segment) -> None:
        chunk, opened, position = segment.chunk, self._opened, self._body.position
        length = segment.declared_bytes
        if is_sealed(chunk):
            if length is None:
                length = sealed_bloom_filter_bytes(self._body.read, segment.start, segment.room_bytes, chunk)
            data = self._body.read(segment.start, length)
            self._body.write(open_bloom_filter(data, opened.cipher(chunk), opened.aad, chunk))
            self._body.done(length)
        else:
            if length is None:
                start = self._body.read(segment.start, min(segment.room_bytes, BLOOM_FILTER_HEADER_BYTES))
                _, length = bloom_filter_bytes(start, segment.room_bytes, chunk)
            self._body.copy(segment.start, length)
        metadata = chunk.metadata
        metadata.set(ColumnMetaData.BLOOM_FILTER_OFFSET, WireType.I64, position)
        if segment.declared_bytes is not None:
            metadata.set(ColumnMetaData.BLOOM_FILTER_LENGTH, WireType.I32, self._body.position - position)

    def _write_index(self, segment: Segment) -> None:
        chunk, is_offsets = segment.chunk, segment.kind is SegmentKind.OFFSET_INDEX
        data = bytes(self._body.read(segment.start, segment.declared_bytes or 0))
        if is_sealed(chunk):
            module_type = ModuleType.OFFSET_INDEX if is_offsets else ModuleType.COLUMN_INDEX
            aad = self._opened.aad.module(module_type, chunk.row_group, chunk.column)
            what = f"{'offset' if is_offsets else 'column'} index of {chunk.what}"
            data = open_module(self._opened.cipher(chunk), memoryview(data), aad, what)
        move = self._moves.get((chunk.row_group, chunk.column))
        if is_offsets and move is not None and not (move.is_copy and move.old_start == move.new_start):
            data = move_offset_index(data, move, chunk)
        place_index(chunk.entry, segment.kind, self._body.position, len(data))
        self._body.write(data)
        self._body.done(segment.declared_bytes or 0)

    def _finish_row_group(self, index: int, row_group: Struct, chunks: list[Chunk]) -> None:
        moves = [self._moves[place] for chunk in chunks if (place := (index, chunk.column)) in self._moves]
        restore_row_group(index, row_group, moves, self._opened.originals)
        for chunk in chunks:
            if is_sealed(chunk):
                chunk.entry.remove(ColumnChunk.CRYPTO_METADATA)
                chunk.entry.remove(ColumnChunk.ENCRYPTED_COLUMN_METADATA)
                chunk.entry.set(ColumnChunk.META_DATA, WireType.STRUCT, chunk.metadata)
