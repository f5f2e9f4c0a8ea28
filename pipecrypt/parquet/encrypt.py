"""Encrypt one Parquet file, column chunk by column chunk, without decoding it. The way back is left to decrypt.

The life of a chunk: its pages are read in one range, walked, sealed into one reused buffer, written; its metadata
then names the new places and is sealed itself. Plaintext chunks are copied. Memory is bounded by the largest chunk.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self

from pipecrypt.context import Context
from pipecrypt.crypto.aead import MessageCipher, random_bytes
from pipecrypt.errors import PipecryptError
from pipecrypt.parquet.body import Body, ignore_bytes
from pipecrypt.parquet.chunks import Chunk, RowGroups, locate_pages, row_count
from pipecrypt.parquet.clear import check_clear_fields, check_clear_footer
from pipecrypt.parquet.columns import choose_keys, leaf_columns
from pipecrypt.parquet.footer import Algorithm, encode_sealed_footer, magic, read_plain_footer
from pipecrypt.parquet.indexes import (
    BLOOM_FILTER_HEADER_BYTES,
    bloom_filter_bytes,
    move_offset_index,
    seal_bloom_filter,
)
from pipecrypt.parquet.layout import (
    UNDECLARED_BYTES,
    ChunkMove,
    IndexPlaces,
    Part,
    Segment,
    SegmentKind,
    chunk_parts,
    last_changes,
    order_segments,
    read_windows,
)
from pipecrypt.parquet.limits import check_counts, check_invocations, check_page_count, most_modules
from pipecrypt.parquet.modules import FileAAD, ModuleType, seal_module
from pipecrypt.parquet.names import ColumnChunk, ColumnCrypto, ColumnMetaData, FileMetaData, RowGroup
from pipecrypt.parquet.originals import Originals, push_originals
from pipecrypt.parquet.pages import PageAADs, PageBounds, scan_pages, seal_pages, sealed_bound
from pipecrypt.parquet.policy import EncryptionPolicy, FooterMode, KeyScope
from pipecrypt.parquet.protocols import AppendSink, DataKeys, RangeSource
from pipecrypt.parquet.relocate import relocate_chunk, relocate_row_group
from pipecrypt.parquet.report import FileReport
from pipecrypt.parquet.thrift import Raw, Struct, Value, WireType, encode_struct
from pipecrypt.secret import DataKey

__all__ = ["encrypt_file"]

_FILE_UNIQUE_BYTES: Final = 8

_Key = tuple[DataKey, bytes]


def encrypt_file(
    source: RangeSource,
    sink: AppendSink,
    policy: EncryptionPolicy,
    *,
    keys: DataKeys,
    context: Context,
    on_bytes: Callable[[int], None] = ignore_bytes,
) -> FileReport:
    """Write the encrypted form (AES_GCM_V1, 256-bit keys) of the plaintext Parquet file `source` to `sink`.

    The caller publishes what the sink holds only after this returns.

    Args:
        source: the input.
        sink: the output, empty.
        policy: which columns under which key.
        keys: makes data keys.
        context: dataset id and path; bound into AADs and commitments.
        on_bytes: told how many bytes of the input were done.

    Raises:
        FormatError: the input is no Parquet file, truncated or malformed.
        AlreadyEncryptedError: the input is encrypted.
        ColumnNotFoundError: the policy names a column that is not there.
        PolicyError: the policy gives a column two keys.
        LimitError: the format cannot number the input's parts.
        UnsupportedError: the input uses what cannot be encrypted.
    """
    footer, body_end = read_plain_footer(source)
    leaves = leaf_columns(footer.structs(FileMetaData.SCHEMA), source.name)
    chosen = choose_keys(policy, leaves, source.name)
    row_groups = RowGroups(footer, leaves, source.name)
    batches = len(row_groups)
    check_counts(batches, len(leaves), source.name)
    if policy.footer is FooterMode.PLAINTEXT:
        check_clear_footer(footer, [leaf for leaf, key in zip(leaves, chosen, strict=True) if key], source.name)
    rows = row_count(footer, source.name)
    encrypted_columns = sum(reference is not None for reference in chosen)
    with (
        Body(source, sink, on_bytes) as body,
        _Encryption(body, policy, chosen, keys=keys, context=context, source_bytes=source.size_bytes) as encryption,
    ):
        segments = encryption.survey(source, row_groups, body_end)
        data_keys = encryption.run(footer, row_groups, segments)
        size = body.position
    return FileReport(rows, batches, data_keys, source.size_bytes, size, encrypted_columns)


class _Encryption:
    """One file's encryption: its keys, and where its parts went."""

    def __init__(
        self,
        body: Body,
        policy: EncryptionPolicy,
        chosen: Sequence[str | None],
        *,
        keys: DataKeys,
        context: Context,
        source_bytes: int,
    ) -> None:
        self.body = body
        self._policy = policy
        self._chosen = chosen
        self._keys = keys
        # A reader rebuilds the context from the AAD prefix alone, so without one nothing is bound.
        self._context = context if policy.bind_path else Context("", "")
        prefix = context.aad_prefix() if policy.bind_path else None
        self._algorithm = Algorithm(ctr_pages=False, aad_prefix=prefix, file_unique=random_bytes(_FILE_UNIQUE_BYTES))
        self._aad = FileAAD(prefix or b"", self._algorithm.file_unique)
        self._column_keys: dict[tuple[int, int | None], _Key] = {}
        self._moves: dict[tuple[int, int], ChunkMove] = {}
        self._originals = Originals(policy.data_keys, source_bytes)
        self._footer_key: _Key | None = None
        self._index_places = IndexPlaces()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for key, _ in self._column_keys.values():
            key.wipe()
        if self._footer_key is not None:
            self._footer_key[0].wipe()

    def survey(self, source: RangeSource, row_groups: RowGroups, body_end: int) -> list[Segment]:
        """Return the segments in order, once all that must hold before the first byte is written does."""
        parts: list[Part] = []
        modules_by_key: Counter[object] = Counter()
        for index in range(len(row_groups)):
            for chunk in row_groups.chunks(index):
                parts += chunk_parts(chunk)
                if self._is_sealed(chunk.column):
                    check_page_count(source, chunk, body_end)
                    modules_by_key[self._key_place(index, chunk.column)] += most_modules(chunk)
                    if self._policy.footer is FooterMode.PLAINTEXT:
                        check_clear_fields(chunk.entry, ColumnChunk.KNOWN, chunk.what)
            if self._policy.footer is FooterMode.PLAINTEXT:
                check_clear_fields(row_groups.struct(index), RowGroup.KNOWN, f"{source.name} row group {index}")
            row_groups.release(index)
        check_invocations(modules_by_key, source.name)
        return order_segments(parts, body_end, row_groups)

    def run(self, footer: Struct, row_groups: RowGroups, segments: list[Segment]) -> int:
        """Write the whole file; return the number of data keys."""
        # The footer key is made first: a key service that refuses is met before the first byte.
        self._footer_key = self._keys.new_data_key(self._policy.footer_key_reference(), self._context.for_footer())
        self.body.write(magic(self._policy.footer))
        due = last_changes(segments)
        for index in range(len(row_groups)):
            if not due[index]:
                self._finish_row_group(index, row_groups)
        self.body.read_ahead(read_windows(segments))
        segments.reverse()
        while segments:  # dropped as they are done: a large file has many
            segment = segments.pop()
            if segment.kind in (SegmentKind.COLUMN_INDEX, SegmentKind.OFFSET_INDEX):
                self._write_index(segment, row_groups)
                continue
            self._write_segment(segment, row_groups.chunks(segment.row_group)[segment.column])
            due[segment.row_group] -= 1
            if not due[segment.row_group]:
                self._finish_row_group(segment.row_group, row_groups)
        self._index_places.write(row_groups)
        push_originals(footer, self._originals)
        key, key_metadata = self._footer_key
        cipher = MessageCipher(key)
        for piece in encode_sealed_footer(footer, self._policy.footer, self._algorithm, key_metadata, cipher):
            self.body.write(piece)
        return len(self._column_keys) + 1

    def _is_sealed(self, column: int) -> bool:
        return self._chosen[column] is not None

    def _key_place(self, row_group: int, column: int) -> tuple[int, int | None] | None:
        """Return what tells one data key from another: None is the footer's."""
        if self._policy.uniform:
            return None
        return column, (row_group if self._policy.data_keys is KeyScope.BATCH else None)

    def _key_of(self, chunk: Chunk) -> _Key:
        place, reference = self._key_place(chunk.row_group, chunk.column), self._chosen[chunk.column]
        if place is None or reference is None:
            if self._footer_key is None:
                raise AssertionError("the footer key is made first")
            return self._footer_key
        if place not in self._column_keys:
            context = self._context.for_column(chunk.leaf.path, place[1])
            self._column_keys[place] = self._keys.new_data_key(reference, context)
        return self._column_keys[place]

    def _cipher(self, chunk: Chunk) -> MessageCipher:
        return MessageCipher(self._key_of(chunk)[0])

    def _write_segment(self, segment: Segment, chunk: Chunk) -> None:
        if segment.kind is SegmentKind.BLOOM_FILTER:
            self._write_bloom_filter(segment, chunk)
            return
        seal_or_copy = self._seal_pages if self._is_sealed(chunk.column) else self._copy_pages
        move = seal_or_copy(segment, chunk)
        self._moves[chunk.row_group, chunk.column] = move
        relocate_chunk(chunk, move, self._originals)

    def _seal_pages(self, segment: Segment, chunk: Chunk) -> ChunkMove:
        place = locate_pages(chunk)
        data = self.body.read(segment.start, min(segment.room_bytes, place.declared_bytes + UNDECLARED_BYTES))
        pages = scan_pages(data, place.declared_bytes, place.num_values, chunk.what)
        out = self.body.reserve(sealed_bound(pages))
        aads = PageAADs(self._aad, chunk.row_group, chunk.column)
        bounds = seal_pages(data, pages, out, self._cipher(chunk), aads)
        move = ChunkMove(segment.start, self.body.position, bounds)
        self.body.commit(bounds.new[-1])
        self.body.done(bounds.old[-1])
        return move

    def _copy_pages(self, segment: Segment, chunk: Chunk) -> ChunkMove:
        length = self._true_length(segment, chunk)
        bounds = array("q", (0, length))
        move = ChunkMove(segment.start, self.body.position, PageBounds(bounds, bounds, has_dictionary=False), True)
        self.body.copy(segment.start, length)
        return move

    def _true_length(self, segment: Segment, chunk: Chunk) -> int:
        place = locate_pages(chunk)
        if segment.room_bytes == place.declared_bytes:
            return place.declared_bytes
        data = self.body.read(segment.start, min(segment.room_bytes, place.declared_bytes + UNDECLARED_BYTES))
        try:
            return scan_pages(data, place.declared_bytes, place.num_values, chunk.what)[-1].end
        except PipecryptError:
            return place.declared_bytes  # what cannot be walked is copied as declared, as every reader would read it

    def _write_bloom_filter(self, segment: Segment, chunk: Chunk) -> None:
        length = segment.declared_bytes
        if length is None:
            start = self.body.read(segment.start, min(segment.room_bytes, BLOOM_FILTER_HEADER_BYTES))
            _, length = bloom_filter_bytes(start, segment.room_bytes, chunk)
        metadata, position = chunk.metadata, self.body.position
        if self._is_sealed(chunk.column):
            data = self.body.read(segment.start, length)
            self.body.write(seal_bloom_filter(data, self._cipher(chunk), self._aad, chunk))
            self.body.done(length)
        else:
            self.body.copy(segment.start, length)
        metadata.set(ColumnMetaData.BLOOM_FILTER_OFFSET, WireType.I64, position)
        if segment.declared_bytes is not None:
            metadata.set(ColumnMetaData.BLOOM_FILTER_LENGTH, WireType.I32, self.body.position - position)

    def _write_index(self, segment: Segment, row_groups: RowGroups) -> None:
        place, is_offsets = (segment.row_group, segment.column), segment.kind is SegmentKind.OFFSET_INDEX
        data = bytes(self.body.read(segment.start, segment.declared_bytes or 0))
        move = self._moves.get(place)
        if is_offsets and move is not None and not (move.is_copy and move.old_start == move.new_start):
            data = move_offset_index(data, move, row_groups.what(*place))
        if self._is_sealed(segment.column):
            module_type = ModuleType.OFFSET_INDEX if is_offsets else ModuleType.COLUMN_INDEX
            data = seal_module(self._index_cipher(segment, row_groups), data, self._aad.module(module_type, *place))
        if is_offsets and not row_groups.is_open(segment.row_group):
            self._moves.pop(place, None)  # nothing asks again
        self._index_places.add(segment, self.body.position, len(data))
        self.body.write(data)
        self.body.done(segment.declared_bytes or 0)

    def _index_cipher(self, segment: Segment, row_groups: RowGroups) -> MessageCipher:
        # The row group is closed by now, unless the index lies before its pages.
        place = self._key_place(segment.row_group, segment.column)
        made = self._footer_key if place is None else self._column_keys.get(place)
        return MessageCipher(made[0]) if made else self._cipher(row_groups.chunks(segment.row_group)[segment.column])

    def _finish_row_group(self, index: int, row_groups: RowGroups) -> None:
        chunks = row_groups.chunks(index)
        moves = [self._moves[place] for chunk in chunks if (place := (index, chunk.column)) in self._moves]
        relocate_row_group(index, row_groups.struct(index), moves, self._originals)
        for chunk in chunks:
            if self._is_sealed(chunk.column):
                self._seal_metadata(chunk)
                self._forget_key_metadata(chunk)
        row_groups.close(index)

    def _forget_key_metadata(self, chunk: Chunk) -> None:
        # Indexes still need the key of a batch, but nothing needs its key metadata, which is many times longer.
        place = self._key_place(chunk.row_group, chunk.column)
        if place is not None and self._policy.data_keys is KeyScope.BATCH:
            self._column_keys[place] = (self._column_keys[place][0], b"")

    def _seal_metadata(self, chunk: Chunk) -> None:
        entry, crypto = chunk.entry, Struct()
        is_footer_encrypted = self._policy.footer is FooterMode.ENCRYPTED
        if self._policy.uniform:
            crypto.set(ColumnCrypto.WITH_FOOTER_KEY, WireType.STRUCT, Struct())
        else:
            crypto.set(ColumnCrypto.WITH_COLUMN_KEY, WireType.STRUCT, self._column_key_struct(chunk))
        entry.set(ColumnChunk.CRYPTO_METADATA, WireType.STRUCT, crypto)
        if self._policy.uniform and is_footer_encrypted:
            return  # the encrypted footer protects the metadata in place (Encryption.md 5.3)
        aad = self._aad.module(ModuleType.COLUMN_META_DATA, chunk.row_group, chunk.column)
        sealed = seal_module(self._cipher(chunk), encode_struct(chunk.metadata), aad)
        entry.set(ColumnChunk.ENCRYPTED_COLUMN_METADATA, WireType.BINARY, sealed)
        if is_footer_encrypted:
            entry.remove(ColumnChunk.META_DATA)
        else:
            entry.set(ColumnChunk.META_DATA, WireType.STRUCT, _redacted(chunk.metadata))

    def _column_key_struct(self, chunk: Chunk) -> Struct:
        struct = Struct()
        # From the schema, not from the chunk's metadata, which may say anything.
        path: list[Value] = [name.encode() for name in chunk.leaf.path]
        struct.set_list(ColumnCrypto.PATH_IN_SCHEMA, WireType.BINARY, path)
        struct.set(ColumnCrypto.KEY_METADATA, WireType.BINARY, self._key_of(chunk)[1])
        return struct


def _redacted(metadata: Struct) -> Struct:
    # A field that an old draft used for something else was not opened, so nobody knows what it tells.
    clear = metadata.kept(ColumnMetaData.CLEAR)
    optional = (ColumnMetaData.BLOOM_FILTER_OFFSET, ColumnMetaData.BLOOM_FILTER_LENGTH)
    for field in optional:
        if isinstance(clear.get(field), Raw):
            clear.remove(field)
    return clear
