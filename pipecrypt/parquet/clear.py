"""Refuse to encrypt what a readable footer would still tell. What a footer shows of a column is left to names.

A footer in plaintext keeps whatever this release does not know. What writers note in key-value metadata: clear_notes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pipecrypt.errors import UnsupportedError
from pipecrypt.parquet.columns import LeafColumn
from pipecrypt.parquet.wire.fields import FileMetaData, SchemaElement
from pipecrypt.parquet.wire.thrift import Struct

__all__ = ["check_clear_fields", "check_clear_footer"]

_HINT: Final = "encrypt the footer too: --footer encrypted"


def check_clear_fields(struct: Struct, known: frozenset[int], what: str) -> None:
    """Check that a struct of a plaintext footer has no field that may tell values and would stay readable.

    Raises:
        UnsupportedError: it has a field that is not in `known`.
    """
    unknown = sorted({entry[0] for entry in struct.entries} - known)
    if unknown:
        raise UnsupportedError(
            f"{what} has fields {unknown} that this release does not know, and the footer stays readable", hint=_HINT
        )


def check_clear_footer(footer: Struct, encrypted: Sequence[LeafColumn], name: str) -> None:
    """Check that a plaintext footer would not tell values of the columns that are encrypted.

    Raises:
        UnsupportedError: it has fields unknown to this release.
    """
    if not encrypted:
        return
    check_clear_fields(footer, FileMetaData.KNOWN, f"footer of {name}")
    for element in footer.structs(FileMetaData.SCHEMA):
        check_clear_fields(element, SchemaElement.KNOWN, f"schema of {name}")
