"""Look at the columns that a run would encrypt, without keys and without writing. Runs are left to run."""

from __future__ import annotations

from pipecrypt.parquet.columns import LeafColumn, choose_keys, leaf_columns
from pipecrypt.parquet.footer import read_plain_footer
from pipecrypt.parquet.names import FileMetaData
from pipecrypt.parquet.protocols import RangeSource
from pipecrypt.pipeline.task.operation import ChunkEncryption, Encryption, Ingestion, Operation
from pipecrypt.storage.listing import SourceFile
from pipecrypt.storage.source import open_range_source

__all__ = ["ChosenColumn", "source_columns"]

ChosenColumn = tuple[LeafColumn, str | None]


def source_columns(source: SourceFile, operation: Operation) -> tuple[ChosenColumn, ...] | None:
    """Return the leaf columns of a source that would be encrypted, each with its master key; None for chunks.

    Of a source that is not Parquet, as much is read as its types are inferred from.

    Raises:
        ColumnNotFoundError: the policy names a column that is not there.
        PipecryptError: the source cannot be read.
    """
    if isinstance(operation, Encryption):
        with open_range_source(source) as file:
            return _chosen(file, operation)
    if isinstance(operation, Ingestion):
        # pyarrow is loaded where rows are read, and only there.
        from pipecrypt.pipeline.task.ingest import empty_output  # noqa: PLC0415

        return _chosen(empty_output(source, operation), operation)
    if isinstance(operation, ChunkEncryption):
        return None
    raise AssertionError("decrypting chooses no keys")


def _chosen(file: RangeSource, operation: Encryption | Ingestion) -> tuple[ChosenColumn, ...]:
    footer, _ = read_plain_footer(file)
    leaves = leaf_columns(footer.structs(FileMetaData.SCHEMA), file.name)
    return tuple(zip(leaves, choose_keys(operation.policy, leaves, file.name), strict=True))
