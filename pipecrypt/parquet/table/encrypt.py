"""Encrypt tables, column chunk by column chunk, without decoding them.

The life of a chunk: its pages are read window by window, walked, sealed into a reused buffer, written; its metadata
then names the new places and is sealed itself. Plaintext chunks are copied. Memory is bounded by the largest page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Final, Self

from pipecrypt.crypto.aead import MessageCipher, random_bytes
from pipecrypt.crypto.digest import Digester
from pipecrypt.errors import FormatError
from pipecrypt.parquet.carry.writing import Body, ignore_bytes
from pipecrypt.parquet.footer.columns import LeafColumn, choose_keys, leaf_columns
from pipecrypt.parquet.footer.entries import (
    Originals,
    add_entries,
    check_clear_fields,
    check_clear_footer,
    check_notes,
    entry_values,
    push_originals,
    seal_notes,
)
from pipecrypt.parquet.footer.row_groups import RowGroups, check_counts, row_count
from pipecrypt.parquet.footer.segments import (
    Part,
    Segments,
    chunk_parts,
    order_segments,
)
from pipecrypt.parquet.footer.stored import Algorithm, encode_sealed_footer, magic, read_plain_footer
from pipecrypt.parquet.pages.headers import check_invocations, check_page_count, most_modules
from pipecrypt.parquet.pages.integrity import SegmentDigests
from pipecrypt.parquet.policy import ClearNotes, EncryptionPolicy, FooterMode, KeyScope
from pipecrypt.parquet.protocols import AppendSink, DataKeys
from pipecrypt.parquet.report import FileReport
from pipecrypt.parquet.table.keys import WritingKeys
from pipecrypt.parquet.table.sealing_walk import SealingWalk
from pipecrypt.parquet.table.shared import FileLayout, FileStart, RowGroupHelpers, SharedWalk, may_share
from pipecrypt.parquet.wire.fields import (
    BLOB_KEY,
    INTEGRITY_KEY,
    LAYOUT_KEY,
    NOTES_KEY,
    ColumnChunk,
    FileMetaData,
    RowGroup,
)
from pipecrypt.parquet.wire.modules import FileAAD
from pipecrypt.parquet.wire.thrift import Struct, WireType, encode_in_place, encode_struct
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.ranges import RangeSource, traits_of

__all__ = ["FileEncryption", "check_policy", "encrypt_file"]

_FILE_UNIQUE_BYTES: Final = 8


def encrypt_file(
    source: RangeSource,
    sink: AppendSink,
    policy: EncryptionPolicy,
    *,
    keys: DataKeys,
    context: Context,
    helpers: RowGroupHelpers | None = None,
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
        helpers: others who may seal row groups of it.
        on_bytes: told how many bytes of the input were done.

    Raises:
        FormatError: the input is not a Parquet file, truncated or malformed.
        AlreadyEncryptedError: the input is encrypted.
        ColumnNotFoundError: the policy names a column that is not there.
        PolicyError: the policy gives a column two keys.
        LimitError: the format cannot number the input's parts.
        UnsupportedError: the input uses what cannot be encrypted.
    """
    with FileEncryption(sink, policy, keys=keys, context=context, on_bytes=on_bytes) as encryption:
        encryption.append(source, helpers)
        return encryption.finish()


class FileEncryption:
    """One encrypted file as it grows, from one or several plaintext files of one schema; a context manager.

    Each file appended becomes row groups behind those that are there. Leaving the block writes out what is buffered and
    wipes the keys; the caller publishes what the sink holds only after that, and only if `finish` returned.

    Args:
        sink: the output, empty; inside the block nobody else touches it.
        policy: which columns under which key.
        keys: makes data keys.
        context: dataset id and path; bound into AADs and commitments.
        on_bytes: told how many bytes of the inputs were done.

    Attributes:
        batches: how many row groups the file has so far.
    """

    def __init__(
        self,
        sink: AppendSink,
        policy: EncryptionPolicy,
        *,
        keys: DataKeys,
        context: Context,
        on_bytes: Callable[[int], None] = ignore_bytes,
    ) -> None:
        """Write nothing yet."""
        self._digests = None if policy.digest is None else SegmentDigests(policy.digest)
        self.body = Body(sink, on_bytes, self._digests)
        self._policy = policy
        prefix = context.aad_prefix() if policy.bind_path else None
        self._algorithm = Algorithm(ctr_pages=False, aad_prefix=prefix, file_unique=random_bytes(_FILE_UNIQUE_BYTES))
        self._aad = FileAAD(prefix or b"", self._algorithm.file_unique)
        # A reader rebuilds the context from the AAD prefix alone, so without one nothing is bound.
        self._keys = WritingKeys(policy, keys, context if policy.bind_path else Context("", ""), self._aad)
        self._modules_by_key: Counter[object] = Counter()
        self.batches = 0
        self._rows = 0
        self._source_bytes = 0
        # The first file's footer, to which the row groups of the following ones are added.
        self._footer: Struct | None = None
        self._schema = b""
        self._originals = Originals(policy.data_keys, 0)
        # Those of a file that stays the only one are left as they are; of several, all are kept as bytes.
        self._row_groups: list[Struct] = []
        self._is_single = True
        # The roots of which a readable footer may tell all; None where it need not hide anything.
        self._plain_roots: frozenset[str] | None = None

    def __enter__(self) -> Self:
        """Return the encryption."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write out what is buffered, unless an error is on its way, and wipe the keys."""
        try:
            self.body.__exit__(kind, error, trace)
        finally:
            self._keys.wipe()

    @property
    def size_bytes(self) -> int:
        """How large the file is so far, without its footer."""
        return self.body.position

    def append(self, source: RangeSource, helpers: RowGroupHelpers | None = None) -> None:
        """Append the row groups of a plaintext Parquet file.

        Args:
            source: the file.
            helpers: others who may seal row groups of it, where it is the only one.

        Raises:
            FormatError: malformed, or its schema is not that of the files before.
            PipecryptError: see `encrypt_file`.
        """
        footer, body_end = read_plain_footer(source)
        _check_entries(footer)
        row_groups = RowGroups(footer, source.name, first=self.batches)
        leaves = row_groups.leaves
        check_counts(self.batches + len(row_groups), len(leaves), source.name)
        is_first = self._footer is None
        if is_first:
            chosen = choose_keys(self._policy, leaves, source.name)
            self._keys.choose(leaves, chosen)
            self._plain_roots = _check_readable(footer, self._policy, leaves, chosen, source.name)
            self._schema = _schema_bytes(footer)
        elif _schema_bytes(footer) != self._schema:
            raise FormatError(f"{source.name} has another schema than the row groups before it")
        self.body.open_input(source)
        segments = self._survey(source, row_groups, body_end)
        if is_first:
            self._keys.footer()  # before all others: a key service that refuses is met before the first byte
            self.body.write(magic(self._policy.footer))
        originals = Originals(self._policy.data_keys, 0)
        self._carry(segments, row_groups, originals, helpers)
        self.body.close_input()
        self._keys.end_batches()
        if not self._policy.uniform and self._policy.data_keys is KeyScope.BATCH:
            self._modules_by_key.clear()
        self._add_row_groups(footer, source, originals)

    def _carry(
        self, segments: Segments, row_groups: RowGroups, originals: Originals, helpers: RowGroupHelpers | None
    ) -> None:
        layout = None if helpers is None else FileLayout.of(segments)
        if helpers is None or layout is None or not may_share(layout, self._keys, self._policy, len(row_groups.leaves)):
            walk = SealingWalk(
                self.body,
                row_groups,
                keys=self._keys,
                aad=self._aad,
                digests=self._digests,
                originals=originals,
            )
            walk.run(segments)
            return
        shared = SharedWalk(
            self.body,
            row_groups,
            keys=self._keys,
            aad=self._aad,
            digests=self._digests,
            originals=originals,
            layout=layout,
            helpers=helpers,
        )
        shared.run_shared(segments, FileStart(self._algorithm.aad_prefix, self._algorithm.file_unique))

    def _add_row_groups(self, footer: Struct, source: RangeSource, originals: Originals) -> None:
        """Add the row groups of a file, which are written, to the footer."""
        row_groups, part_bytes = footer.structs(FileMetaData.ROW_GROUPS), traits_of(source).part_bytes
        if self._footer is None:
            self._footer, self._row_groups = footer, row_groups
            if part_bytes is None:  # nobody has a part as a file, and what stood in the whole one would be wrong in it
                self._originals = originals
        else:  # nor has anybody the files that become one, so there is nothing in the following ones to give back
            if self._is_single:
                self._row_groups = [encode_in_place(each) for each in self._row_groups]
            self._row_groups += [encode_in_place(each) for each in row_groups]
            self._is_single = False
        self.batches += len(row_groups)
        self._rows += row_count(footer, source.name)
        self._source_bytes += source.size_bytes if part_bytes is None else part_bytes

    def finish(self, key_values: Mapping[bytes, bytes] | None = None) -> FileReport:
        """Write the footer and return the counts; at least one file was appended.

        Args:
            key_values: added to the key-value metadata.
        """
        footer = self._footer
        if footer is None:
            raise RuntimeError("no file was appended")
        if not self._is_single:
            footer.set_list(FileMetaData.ROW_GROUPS, WireType.STRUCT, [*self._row_groups])
            footer.set(FileMetaData.NUM_ROWS, WireType.I64, self._rows)
        if key_values:
            add_entries(footer, key_values)
        if self._plain_roots is not None and self._policy.clear_notes in (ClearNotes.STRIP, ClearNotes.DROP):
            cipher = MessageCipher(self._keys.footer()[0])
            seal_notes(footer, self._plain_roots, self._policy.clear_notes, cipher, self._aad)
        self._originals.source_bytes = self._source_bytes
        push_originals(footer, self._originals)
        if self._digests is not None and self._keys.clear_columns():
            self.body.settle()
            add_entries(footer, {INTEGRITY_KEY: self._digests.encode()})
        footer_sha256, sealed_columns = self._write_footer(footer), self._keys.sealed_columns()
        self.body.settle()  # nothing follows, and what is waited for here is told below
        return FileReport(
            rows=self._rows,
            batches=self.batches,
            data_keys=self._keys.made,
            source_bytes=self._source_bytes,
            sink_bytes=self.body.position,
            encrypted_columns=len(sealed_columns),
            footer_sha256=footer_sha256,
            sealed_columns=sealed_columns,
            clear_columns=self._keys.clear_columns(),
            bytes_by_key=self._keys.bytes_by_key(),
            read_seconds=self.body.read_seconds,
            write_seconds=self.body.write_seconds,
        )

    def _write_footer(self, footer: Struct) -> str:
        """Write everything behind the last segment; return its SHA-256."""
        (key, key_metadata), digester = self._keys.footer(), Digester()
        for piece in encode_sealed_footer(
            footer, self._policy.footer, self._algorithm, key_metadata, MessageCipher(key)
        ):
            digester.update(piece)
            self.body.write(piece)
        return digester.hexdigest()

    def _survey(self, source: RangeSource, row_groups: RowGroups, body_end: int) -> Segments:
        """Return the segments in order, once all that must hold before the first byte is written does."""
        parts: list[Part] = []
        for index in row_groups.ordinals:
            for chunk in row_groups.chunks(index):
                parts += chunk_parts(chunk)
                if self._keys.is_sealed(chunk.column):
                    check_page_count(source, chunk, body_end)
                    self._modules_by_key[self._keys.place(index, chunk.column)] += most_modules(chunk)
                    if self._policy.footer is FooterMode.PLAINTEXT:
                        check_clear_fields(chunk.entry, ColumnChunk.KNOWN, chunk.what)
            if self._policy.footer is FooterMode.PLAINTEXT:
                check_clear_fields(row_groups.struct(index), RowGroup.KNOWN, f"{source.name} row group {index}")
            row_groups.release(index)
        check_invocations(self._modules_by_key, source.name)
        segments = order_segments(parts, body_end, row_groups)
        if self._digests is not None:
            self._digests.expect(filter(lambda each: not self._keys.is_sealed(each.column), segments))
        return segments


def _check_entries(footer: Struct) -> None:
    """Check that a plaintext file has no entry that only our encrypted files have, as which decrypting would take it.

    Raises:
        FormatError: it has one.
    """
    for name in (BLOB_KEY, INTEGRITY_KEY, LAYOUT_KEY, NOTES_KEY):
        if entry_values(footer, name):
            raise FormatError(f"a plaintext file has the key-value entry {name.decode()!r}")


def _schema_bytes(footer: Struct) -> bytes:
    return encode_struct(footer.kept(frozenset({FileMetaData.SCHEMA})))


def check_policy(source: RangeSource, policy: EncryptionPolicy) -> None:
    """Check that a policy fits the columns of a plaintext Parquet file.

    Raises:
        ColumnNotFoundError: the policy names a column that is not there.
        PolicyError: the policy gives a column two keys.
        FormatError: no Parquet file, truncated, or malformed.
        UnsupportedError: the policy refuses notes that a readable footer would show, and there are some.
    """
    footer, _ = read_plain_footer(source)
    leaves = leaf_columns(footer, source.name)
    _check_readable(footer, policy, leaves, choose_keys(policy, leaves, source.name), source.name)


def _check_readable(
    footer: Struct, policy: EncryptionPolicy, leaves: Sequence[LeafColumn], chosen: Sequence[str | None], name: str
) -> frozenset[str] | None:
    """Return the roots of which a readable footer may tell all; None where it need not hide anything.

    Raises:
        UnsupportedError: it has fields that this release does not know, or notes that the policy refuses.
    """
    sealed = [leaf for leaf, reference in zip(leaves, chosen, strict=True) if reference is not None]
    if policy.footer is FooterMode.ENCRYPTED or not sealed:
        return None
    check_clear_footer(footer, name)
    plain = frozenset(each.path[0] for each in leaves) - {each.path[0] for each in sealed}
    if policy.clear_notes is ClearNotes.REFUSE:
        check_notes(footer, plain, name)
    return plain
