"""The options of `pipecrypt encrypt`. What they mean is left to transfer and to the policy."""

from __future__ import annotations

from typing import Annotated

import typer

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.formats.options import BadRows, Codec, SourceFormat
from pipecrypt.parquet.policy import ClearNotes, FooterMode, KeyScope, Unlisted

__all__ = [
    "Also",
    "BatchRows",
    "Chunks",
    "ClearMetadata",
    "Columns",
    "Compression",
    "DataKeys",
    "Delimiter",
    "Encoding",
    "FileFormat",
    "Footer",
    "FooterKey",
    "Key",
    "MaxFileBytes",
    "NoBindPath",
    "OnBadRows",
    "Sign",
    "SignDigest",
    "Types",
    "Uniform",
    "UnlistedColumns",
    "ValidFor",
]

Key = Annotated[str, typer.Option(metavar="KEYREF", help="Master key, such as keystore://./keys.json#pii.")]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        metavar="A,B.C",
        help="Names, nested paths, roots or globs; '\"a, b\"' is one name; may be repeated; default: all columns.",
    ),
]
UnlistedColumns = Annotated[
    Unlisted | None,
    typer.Option(
        "--unlisted", help="Columns that are not listed: plaintext, under --key, or an error; default: as files before."
    ),
]
ClearMetadata = Annotated[
    ClearNotes,
    typer.Option(
        "--clear-metadata",
        help="Bounds, defaults, labels that a plaintext footer tells of encrypted columns.",
    ),
]
Footer = Annotated[FooterMode, typer.Option(help="Whether readers without keys can open it.")]
DataKeys = Annotated[
    KeyScope, typer.Option(help="A data key per column and row group, or (for Spark) per column and file.")
]
FooterKey = Annotated[str | None, typer.Option(metavar="KEYREF", help="Master key of the footer; default: --key.")]
Uniform = Annotated[bool, typer.Option("--uniform", help="All columns under the footer's data key.")]
NoBindPath = Annotated[bool, typer.Option("--no-bind-path", help="Store no AAD prefix; DuckDB reads only such files.")]
Chunks = Annotated[
    bool, typer.Option("--chunks", help="Files of any kind, as they are; a directory is mirrored whole.")
]
FileFormat = Annotated[
    SourceFormat | None, typer.Option("--format", help="Of the source; default: what each file's name tells.")
]
Delimiter = Annotated[
    str | None, typer.Option(metavar="CHAR", help="Of CSV, one character; default: what each file's first rows tell.")
]
Encoding = Annotated[
    str | None, typer.Option(metavar="NAME", help="Of CSV and JSON, such as latin-1 or utf-16; default: utf-8.")
]
Types = Annotated[
    list[str] | None,
    typer.Option(
        "--type", metavar="COLUMN=TYPE", help="Type of a CSV or JSON column, as id=string; may be given several times."
    ),
]
OnBadRows = Annotated[
    BadRows, typer.Option(help="Rows of CSV and JSON that do not fit: stop, or leave them out and count them.")
]
BatchRows = Annotated[int | None, typer.Option(min=1, help="Rows of a row group, where the source is not Parquet.")]
Compression = Annotated[
    Codec | None, typer.Option(help="Of such sources, default zstd; of chunks, zstd or none, default none.")
]
MaxFileBytes = Annotated[
    int | None, typer.Option(min=1, help="Begin another file at this size, where the source is not Parquet.")
]
Sign = Annotated[
    list[str] | None,
    typer.Option(metavar="KEYREF", help="Signing key; may be given several times. What is written is then signed."),
]
Also = Annotated[
    list[str] | None,
    typer.Option(metavar="KEYREF", help="Further key or recipient that shall open it; may be given several times."),
]
SignDigest = Annotated[DigestAlgorithm, typer.Option("--digest", help="Of files that are signed.")]
ValidFor = Annotated[
    str | None, typer.Option(metavar="TIME", help="Until readers refuse the signature, such as 30d or 12h.")
]
