"""Check a policy against a file's columns before anything is written. Choosing the keys is left to columns."""

from __future__ import annotations

from pipecrypt.parquet.columns import choose_keys, leaf_columns
from pipecrypt.parquet.footer import read_plain_footer
from pipecrypt.parquet.policy import ClearNotes, EncryptionPolicy, FooterMode
from pipecrypt.parquet.protocols import RangeSource
from pipecrypt.parquet.sealed_notes import check_notes
from pipecrypt.parquet.wire.fields import FileMetaData

__all__ = ["check_policy"]


def check_policy(source: RangeSource, policy: EncryptionPolicy) -> None:
    """Check that a policy fits the columns of a plaintext Parquet file.

    Raises:
        ColumnNotFoundError: the policy names a column that is not there.
        PolicyError: the policy gives a column two keys.
        FormatError: no Parquet file, truncated, or malformed.
        UnsupportedError: the policy refuses notes that a readable footer would show, and there are some.
    """
    footer, _ = read_plain_footer(source)
    leaves = leaf_columns(footer.structs(FileMetaData.SCHEMA), source.name)
    keys = choose_keys(policy, leaves, source.name)
    if policy.footer is FooterMode.PLAINTEXT and policy.clear_notes is ClearNotes.REFUSE:
        sealed = frozenset(leaf.path[0] for leaf, key in zip(leaves, keys, strict=True) if key is not None)
        check_notes(footer, sealed, source.name)
