"""Look at the columns that a run would encrypt, without keys and without writing. Runs are left to run."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipecrypt.parquet.footer.columns import LeafColumn, choose_keys, leaf_columns
from pipecrypt.parquet.footer.stored import read_plain_footer
from pipecrypt.parquet.wire.fields import FileMetaData
from pipecrypt.runs.kinds.blob import BlobEncryption
from pipecrypt.runs.kinds.encrypt import Encryption
from pipecrypt.runs.kinds.ingest import Ingestion
from pipecrypt.runs.task import Kind
from pipecrypt.store.protocol import SourceFile
from pipecrypt.store.source import open_range_source
from pipecrypt.vocabulary.ranges import RangeSource

__all__ = ["ChosenColumn", "SourceShape", "source_shape"]

ChosenColumn = tuple[LeafColumn, str | None]


@dataclass(frozen=True, slots=True)
class SourceShape:
    """What the footer of a source says about its encryption.

    Args:
        columns: its leaf columns, each with its master key, None where it stays plaintext; None for chunks.
        row_groups: how many a Parquet source has, of the task's share where it is split; 0 for others.
        types: Arrow's types of the columns of text formats by name, inferred where they were not given.
        delimiter: of CSV, found where it was not given.
    """

    columns: tuple[ChosenColumn, ...] | None
    row_groups: int = 0
    types: tuple[tuple[str, str], ...] = ()
    delimiter: str | None = None


def source_shape(source: SourceFile, operation: Kind) -> SourceShape:
    """Return the shape of a source that would be encrypted.

    Of a source that is not Parquet, as much is read as its types are inferred from.

    Raises:
        ColumnNotFoundError: the policy names a column that is not there.
        PipecryptError: the source cannot be read.
    """
    if isinstance(operation, Encryption):
        with open_range_source(source) as file:
            shape = _shape(file, operation)
        return shape if operation.row_groups is None else replace(shape, row_groups=len(operation.row_groups))
    if isinstance(operation, Ingestion):
        # pyarrow is loaded where rows are read, and only there.
        from pipecrypt.runs.kinds.ingest import outline  # noqa: PLC0415

        found = outline(source, operation)
        shape = _shape(found.empty_output, operation)
        return replace(shape, row_groups=0, types=found.types, delimiter=found.delimiter)
    if isinstance(operation, BlobEncryption):
        return SourceShape(None)
    raise AssertionError("decrypting chooses no keys")


def _shape(file: RangeSource, operation: Encryption | Ingestion) -> SourceShape:
    footer, _ = read_plain_footer(file)
    leaves = leaf_columns(footer.structs(FileMetaData.SCHEMA), file.name)
    columns = tuple(zip(leaves, choose_keys(operation.policy, leaves, file.name), strict=True))
    return SourceShape(columns, len(footer.structs(FileMetaData.ROW_GROUPS)))
