"""Check a policy against a file's columns before anything is written. Choosing the keys is left to columns."""

from __future__ import annotations

from pipecrypt.parquet.columns import choose_keys, leaf_columns
from pipecrypt.parquet.footer import read_plain_footer
from pipecrypt.parquet.names import FileMetaData
from pipecrypt.parquet.policy import EncryptionPolicy
from pipecrypt.parquet.protocols import RangeSource

__all__ = ["check_policy"]


def check_policy(source: RangeSource, policy: EncryptionPolicy) -> None:
    """Check that a policy fits the columns of a plaintext Parquet file.

    Raises:
        ColumnNotFoundError: the policy names a column that is not there.
        PolicyError: the policy gives a column two keys.
        FormatError: no Parquet file, truncated, or malformed.
    """
    footer, _ = read_plain_footer(source)
    choose_keys(policy, leaf_columns(footer.structs(FileMetaData.SCHEMA), source.name), source.name)
