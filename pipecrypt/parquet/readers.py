"""Which readers can open an encrypted file, by what stands in clear about it. Measuring readers is left to the tests.

Verdicts are those of pyarrow 26, Spark 4.3 (parquet-java 1.17), Polars 2.1 and DuckDB 2.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["FileTraits", "ReaderSummary", "judge_readers"]

_ALL: Final = "all"
_PLAINTEXT: Final = "plaintext columns"
_NO: Final = "no"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTraits:
    """What decides which readers can open a file. Under an encrypted footer, traits of columns are unknown: False."""

    is_encrypted: bool
    footer_is_encrypted: bool
    ctr_pages: bool
    has_prefix: bool
    stores_prefix: bool
    is_uniform: bool
    is_nested: bool
    has_many_data_keys: bool
    has_material: bool
    has_plaintext_columns: bool


@dataclass(frozen=True, slots=True)
class ReaderSummary:
    """What one reader can open.

    Args:
        reader: its name.
        verdict: `all`, `plaintext columns` or `no`.
        reason: why, or what it needs.
    """

    reader: str
    verdict: str
    reason: str


def judge_readers(traits: FileTraits) -> tuple[ReaderSummary, ...]:
    """Return one verdict for each reader that was measured."""
    if not traits.is_encrypted:
        return (ReaderSummary("any Parquet reader", _ALL, "the file is not encrypted"),)
    judges = (_pyarrow, _spark, _polars, _duckdb, _without_keys)
    return (ReaderSummary("pipecrypt", _ALL, "with the keys"), *(judge(traits) for judge in judges))


def _without(reader: str, traits: FileTraits, reason: str) -> ReaderSummary:
    if traits.footer_is_encrypted or not traits.has_plaintext_columns:
        return ReaderSummary(reader, _NO, reason)
    return ReaderSummary(reader, _PLAINTEXT, reason)


def _pyarrow(traits: FileTraits) -> ReaderSummary:
    if traits.has_material:
        return ReaderSummary("pyarrow, pandas, Dask", _ALL, "with pipecrypt.decryption_properties(keys=[...])")
    return _without("pyarrow, pandas, Dask", traits, "the file stores no PKMT1 key material")


def _spark(traits: FileTraits) -> ReaderSummary:
    if traits.has_many_data_keys:
        return _without("Spark, parquet-java", traits, "takes one data key per column and file: use data_keys: file")
    if not traits.has_material:
        return _without("Spark, parquet-java", traits, "the file stores no PKMT1 key material")
    return ReaderSummary("Spark, parquet-java", _ALL, "with a KmsClient, if one data key serves each column")


def _polars(traits: FileTraits) -> ReaderSummary:
    if traits.ctr_pages:
        return _without("Polars", traits, "does not read AES_GCM_CTR_V1")
    if traits.has_many_data_keys:
        return _without("Polars", traits, "takes one data key per column and file: use data_keys: file")
    return ReaderSummary("Polars", _ALL, "with explicit keys, if one data key serves each column")


def _duckdb(traits: FileTraits) -> ReaderSummary:
    if traits.has_prefix:
        return _without("DuckDB", traits, "does not read files with an AAD prefix: use bind_path: false")
    if not traits.footer_is_encrypted:
        return _without("DuckDB", traits, "decrypts only files with an encrypted footer")
    if traits.is_nested:
        return ReaderSummary("DuckDB", _NO, "decrypts flat columns only")
    return ReaderSummary(
        "DuckDB", _ALL, "with the footer's data key, if the encryption is uniform and columns are flat"
    )


def _without_keys(traits: FileTraits) -> ReaderSummary:
    return _without("any reader without keys", traits, "sees what is not encrypted")
