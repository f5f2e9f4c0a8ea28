"""What encrypting or decrypting one file did: its counts, which columns under which keys, how long was waited."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FileReport", "KeyBytes", "SealedColumn"]


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """An encrypted leaf column and its master key.

    Args:
        path: from the root to the leaf.
        key_reference: of the master key; the footer's where the column is under the footer's data key.
    """

    path: tuple[str, ...]
    key_reference: str


@dataclass(frozen=True, slots=True)
class KeyBytes:
    """How much of a file is under a master key.

    Args:
        key_reference: of the master key; None for what stays in plaintext.
        page_bytes: of pages, compressed as Parquet holds them, before they are encrypted.
    """

    key_reference: str | None
    page_bytes: int


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
        footer_sha256: of everything behind the last segment of an encrypted file, in hex; empty for a decrypted one.
        sealed_columns: which columns were encrypted under which master key, by ordinal; empty for a decrypted file.
        clear_columns: paths of the leaf columns that stay in plaintext; empty for a decrypted file.
        bytes_by_key: pages under each master key, and in plaintext; empty for a decrypted file.
        read_seconds: how long the engine waited for the input, as far as it reads it itself.
        write_seconds: how long it waited for the output.
    """

    rows: int
    batches: int
    data_keys: int
    source_bytes: int
    sink_bytes: int
    encrypted_columns: int
    footer_sha256: str = ""
    sealed_columns: tuple[SealedColumn, ...] = ()
    clear_columns: tuple[tuple[str, ...], ...] = ()
    bytes_by_key: tuple[KeyBytes, ...] = ()
    read_seconds: float = 0.0
    write_seconds: float = 0.0
