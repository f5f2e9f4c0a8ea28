"""What encrypting or decrypting one file did. Adding reports up is left to pipeline."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FileReport"]


@dataclass(frozen=True, slots=True)
class FileReport:
    """Counts of one file.

    Args:
        rows: rows of the file.
        batches: row groups.
        data_keys: data keys made or opened.
        source_bytes: size of the input.
        sink_bytes: size of the output.
        encrypted_columns: leaf columns that are encrypted in the encrypted file.
    """

    rows: int
    batches: int
    data_keys: int
    source_bytes: int
    sink_bytes: int
    encrypted_columns: int
