"""Encrypt one source as it is, in chunks, into an open sink. Publishing and everything around it is left to task."""

from __future__ import annotations

from collections.abc import Callable

from pipecrypt.formats.compression import ZstdCodec
from pipecrypt.parquet.files import BlobInfo, encrypt_blob, encrypt_blob_stream
from pipecrypt.parquet.protocols import AppendSink, DataKeys
from pipecrypt.parquet.report import FileReport
from pipecrypt.runs.kinds.blob import BlobEncryption
from pipecrypt.runs.task import Task
from pipecrypt.store.source import open_range_source, open_source_file
from pipecrypt.vocabulary.context import Context

__all__ = ["encrypt_chunks"]


def encrypt_chunks(  # what a task is carried out with
    task: Task,
    operation: BlobEncryption,
    sink: AppendSink,
    keys: DataKeys,
    on_bytes: Callable[[int], None],
) -> FileReport:
    """Write a source's bytes to `sink` as an encrypted Parquet file of chunks.

    Standard input is not held in memory: chunks need no end of the input before its beginning.

    Raises:
        PipecryptError: as the engine, the keys and the storage say.
    """
    file = task.source
    context = Context(operation.dataset_id, task.path)
    codec = ZstdCodec() if operation.compress else None
    if file.location.is_standard_stream:
        with open_source_file(file) as stream:
            return encrypt_blob_stream(
                stream,
                sink,
                operation.policy,
                keys=keys,
                context=context,
                chunk_bytes=operation.chunk_bytes,
                codec=codec,
                on_bytes=on_bytes,
                name=file.location.display,
            )
    with open_range_source(file) as source:
        return encrypt_blob(
            source,
            sink,
            operation.policy,
            keys=keys,
            context=context,
            info=BlobInfo(file.location.name, file.mode, file.mtime_ns),
            chunk_bytes=operation.chunk_bytes,
            codec=codec,
            on_bytes=on_bytes,
        )
