"""Encrypt any bytes as a Parquet file of chunks. Their layout is left to byte_layout, the way back to byte_restore.

A file of known size is shown as the plaintext Parquet file of its chunks and encrypted like any other. Where the size
is unknown, or pages are compressed, row groups are built in memory and appended one after another.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Final

from pipecrypt.errors import LimitError, PolicyError
from pipecrypt.parquet.body import ignore_bytes
from pipecrypt.parquet.byte_entry import CHUNKS_KEY, ChunkCompression, ChunkEntry, FileInfo, encode_entry
from pipecrypt.parquet.byte_groups import FillChunk, built_row_groups, chunks_of_source, chunks_of_stream
from pipecrypt.parquet.byte_layout import (
    DEFAULT_CHUNK_BYTES,
    ByteLayout,
    check_chunk_bytes,
    choose_chunk_bytes,
    most_bytes,
)
from pipecrypt.parquet.byte_source import plain_chunks
from pipecrypt.parquet.encrypt import FileEncryption
from pipecrypt.parquet.policy import EncryptionPolicy, FooterMode
from pipecrypt.parquet.protocols import AppendSink, ByteStream, DataKeys, PageCodec, RangeSource
from pipecrypt.parquet.report import FileReport
from pipecrypt.vocabulary.context import Context

__all__ = ["check_chunk_policy", "encrypt_byte_stream", "encrypt_bytes_file"]

_NOTHING: Final = FileInfo()


def check_chunk_policy(policy: EncryptionPolicy) -> EncryptionPolicy:
    """Return the policy as it holds for chunks: the footer is encrypted, because it tells name and size.

    Raises:
        PolicyError: it names columns, or no default key.
    """
    if policy.rules or policy.default is None:
        raise PolicyError("chunks have no columns to choose", hint="give one key for the whole file")
    return replace(policy, footer=FooterMode.ENCRYPTED)


def encrypt_bytes_file(
    source: RangeSource,
    sink: AppendSink,
    policy: EncryptionPolicy,
    *,
    keys: DataKeys,
    context: Context,
    info: FileInfo = _NOTHING,
    chunk_bytes: int = DEFAULT_CHUNK_BYTES,
    codec: PageCodec | None = None,
    on_bytes: Callable[[int], None] = ignore_bytes,
) -> FileReport:
    """Write the bytes of `source` to `sink` as an encrypted Parquet file of chunks.

    The caller publishes what the sink holds only after this returns, and after `source` proved to be unchanged.

    Args:
        source: any bytes, of known size.
        sink: the output, empty.
        policy: its default key; the footer is encrypted in any case.
        keys: makes data keys.
        context: dataset id and path; bound into AADs and commitments.
        info: kept about the file.
        chunk_bytes: wanted; a larger file than these can number gets larger chunks.
        codec: compresses pages with zstd; None for none.
        on_bytes: told how many bytes of the source were done.

    Raises:
        PolicyError: the policy names columns.
        UsageError: chunks cannot have this size, or the name cannot be kept.
        LimitError: the source is larger than a file can number.
        FormatError: the source is shorter than it was.
    """
    size_bytes = source.size_bytes
    layout = ByteLayout(size_bytes, choose_chunk_bytes(size_bytes, chunk_bytes, source.name))
    if codec is not None:
        return _encrypt_built(
            chunks_of_source(source),
            sink,
            policy,
            keys=keys,
            context=context,
            info=info,
            chunk_bytes=layout.chunk_bytes,
            codec=codec,
            on_bytes=on_bytes,
            name=source.name,
        )
    entry = {CHUNKS_KEY: encode_entry(ChunkEntry(layout, ChunkCompression.NONE, info))}
    progress = _AtMost(size_bytes, on_bytes)
    policy = check_chunk_policy(policy)
    with FileEncryption(sink, policy, keys=keys, context=context, on_bytes=progress) as encryption:
        encryption.append(plain_chunks(source, layout))
        return replace(encryption.finish(entry), source_bytes=size_bytes)


def encrypt_byte_stream(
    stream: ByteStream,
    sink: AppendSink,
    policy: EncryptionPolicy,
    *,
    keys: DataKeys,
    context: Context,
    info: FileInfo = _NOTHING,
    chunk_bytes: int = DEFAULT_CHUNK_BYTES,
    codec: PageCodec | None = None,
    on_bytes: Callable[[int], None] = ignore_bytes,
    name: str = "the stream",
) -> FileReport:
    """Write all bytes of `stream` to `sink` as an encrypted Parquet file of chunks; see `encrypt_bytes_file`.

    Memory holds two row groups: 128 chunks.

    Args:
        stream: read on a thread of its own, to its end; its errors pass through.
        sink: the output, empty.
        policy: its default key.
        keys: makes data keys.
        context: dataset id and path.
        info: kept about the file.
        chunk_bytes: of each chunk.
        codec: compresses pages with zstd; None for none.
        on_bytes: told how many bytes of the stream were done.
        name: what errors call the stream.

    Raises:
        PolicyError: the policy names columns.
        UsageError: chunks cannot have this size, or the name cannot be kept.
        LimitError: the stream is larger than a file of such chunks can number.
    """
    check_chunk_bytes(chunk_bytes)
    return _encrypt_built(
        chunks_of_stream(stream, name),
        sink,
        policy,
        keys=keys,
        context=context,
        info=info,
        chunk_bytes=chunk_bytes,
        codec=codec,
        on_bytes=on_bytes,
        name=name,
    )


def _encrypt_built(
    fill_chunk: FillChunk,
    sink: AppendSink,
    policy: EncryptionPolicy,
    *,
    keys: DataKeys,
    context: Context,
    info: FileInfo,
    chunk_bytes: int,
    codec: PageCodec | None,
    on_bytes: Callable[[int], None],
    name: str,
) -> FileReport:
    compression, size_bytes = ChunkCompression.NONE if codec is None else ChunkCompression.ZSTD, 0
    encode_entry(ChunkEntry(ByteLayout(0, chunk_bytes), compression, info))  # a name that cannot be kept fails now
    policy = check_chunk_policy(policy)
    with FileEncryption(sink, policy, keys=keys, context=context) as encryption:
        with closing(built_row_groups(fill_chunk, chunk_bytes, name, codec)) as row_groups:
            for row_group in row_groups:
                size_bytes += row_group.plain_bytes
                if size_bytes > most_bytes(chunk_bytes):
                    raise _too_long(name, chunk_bytes)
                encryption.append(row_group.source)
                on_bytes(row_group.plain_bytes)
        entry = ChunkEntry(ByteLayout(size_bytes, chunk_bytes), compression, info)
        return replace(encryption.finish({CHUNKS_KEY: encode_entry(entry)}), source_bytes=size_bytes)


def _too_long(name: str, chunk_bytes: int) -> LimitError:
    return LimitError(
        f"{name} has more than {most_bytes(chunk_bytes)} bytes, which chunks of {chunk_bytes} bytes cannot number",
        hint="choose larger chunks",
    )


class _AtMost:
    """Passes on how many bytes were done, without those of page headers."""

    def __init__(self, most_bytes: int, on_bytes: Callable[[int], None]) -> None:
        self._left = most_bytes
        self._on_bytes = on_bytes

    def __call__(self, count: int) -> None:
        passed = min(count, self._left)
        self._left -= passed
        self._on_bytes(passed)
