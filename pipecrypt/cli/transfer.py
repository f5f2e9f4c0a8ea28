"""The commands encrypt and decrypt, and the options of encrypt."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from pipecrypt.cli.options import (
    AcceptFuture,
    DatasetID,
    KeyReferences,
    MinVersion,
    Overwrite,
    Prefix,
    Threshold,
    TrustedKeys,
    Verify,
    Workers,
    credentials,
    split_names,
)
from pipecrypt.cli.render import OUTPUT, note, show, show_aside
from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.dataset.trust import Trust, VerifyMode
from pipecrypt.errors import UsageError
from pipecrypt.formats.options import DEFAULT_BATCH_ROWS, BadRows, Codec, SourceFormat
from pipecrypt.parquet.policy import ClearNotes, FooterMode, KeyScope, Unlisted

if TYPE_CHECKING:
    from pipecrypt.keys.credentials import Credentials
    from pipecrypt.runs.spec.spec import DecryptSpec, EncryptSpec

__all__ = ["decrypt", "encrypt"]

# A tab is hard to give in a shell.
_DELIMITER_WORDS = {"tab": "\t", "\\t": "\t"}


_Source = Annotated[
    str, typer.Argument(metavar="SRC", help="File, directory or glob; a path, an fsspec URL, or - for standard input.")
]
_Sink = Annotated[
    str,
    typer.Argument(metavar="DST", help="Directory, or a file name where SRC is one file, or - for standard output."),
]


def encrypt(
    source: _Source,
    sink: _Sink,
    key: Annotated[str, typer.Option(metavar="KEYREF", help="Master key, such as keystore://./keys.json#pii.")],
    columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B.C",
            help="Names, nested paths, roots or globs; '\"a, b\"' is one name; may be repeated; default: all columns.",
        ),
    ] = None,
    unlisted: Annotated[
        Unlisted | None,
        typer.Option(
            "--unlisted",
            help="Columns that are not listed: plaintext, under --key, or an error; default: as files before.",
        ),
    ] = None,
    clear_metadata: Annotated[
        ClearNotes,
        typer.Option(
            "--clear-metadata", help="Bounds, defaults, labels of encrypted columns that a plaintext footer would show."
        ),
    ] = ClearNotes.STRIP,
    footer: Annotated[
        FooterMode, typer.Option(help="Whether readers without keys can open it.")
    ] = FooterMode.PLAINTEXT,
    data_keys: Annotated[
        KeyScope, typer.Option(help="A data key per column and row group, or (for Spark) per column and file.")
    ] = KeyScope.BATCH,
    footer_key: Annotated[
        str | None, typer.Option(metavar="KEYREF", help="Master key of the footer; default: --key.")
    ] = None,
    uniform: Annotated[bool, typer.Option("--uniform", help="All columns under the footer's data key.")] = False,
    no_bind_path: Annotated[
        bool, typer.Option("--no-bind-path", help="Store no AAD prefix; DuckDB reads only such files.")
    ] = False,
    chunks: Annotated[
        bool, typer.Option("--chunks", help="Files of any kind, as they are; a directory is mirrored whole.")
    ] = False,
    file_format: Annotated[
        SourceFormat | None, typer.Option("--format", help="Of the source; default: by each file's name.")
    ] = None,
    delimiter: Annotated[
        str | None,
        typer.Option(metavar="CHAR", help="Of CSV, one character; default: found in each file's first rows."),
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of CSV and JSON, such as latin-1 or utf-16; default: utf-8.")
    ] = None,
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            metavar="COLUMN=TYPE",
            help="Type of a CSV or JSON column, as id=string; may be given several times.",
        ),
    ] = None,
    on_bad_rows: Annotated[
        BadRows, typer.Option(help="Rows of CSV and JSON that do not fit: stop, or leave them out and count them.")
    ] = BadRows.FAIL,
    batch_rows: Annotated[
        int | None, typer.Option(min=1, help="Rows of a row group, where the source is not Parquet.")
    ] = None,
    compression: Annotated[
        Codec | None, typer.Option(help="Of such sources, default zstd; of chunks, zstd or none, default none.")
    ] = None,
    max_file_bytes: Annotated[
        int | None, typer.Option(min=1, help="Begin another file at this size, where the source is not Parquet.")
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(metavar="KEYREF", help="Further key or recipient that shall open it; may be given several times."),
    ] = None,
    sign: Annotated[
        list[str] | None,
        typer.Option(metavar="KEYREF", help="Signing key; may be given several times. What is written is then signed."),
    ] = None,
    digest: Annotated[
        DigestAlgorithm, typer.Option("--digest", help="Of files that are signed.")
    ] = DigestAlgorithm.SHA256,
    valid_for: Annotated[
        str | None, typer.Option(metavar="TIME", help="Until readers refuse the signature, such as 30d or 12h.")
    ] = None,
    workers: Workers = 1,
    overwrite: Overwrite = False,
    accept_future_statement: AcceptFuture = False,
) -> None:
    """Encrypt tables, all columns or some, or any files in chunks."""
    from pipecrypt.runs.spec.options import Reading, RunOptions
    from pipecrypt.runs.spec.policy import Policy, parse_validity
    from pipecrypt.runs.spec.spec import EncryptSpec
    from pipecrypt.store.location import Location

    spec = EncryptSpec(
        source=Location(source),
        sink=Location(sink),
        policy=Policy(
            dict.fromkeys(split_names(columns or []), key),
            None if columns else key,
            footer.value,
            data_keys.value,
            footer_key=footer_key,
            uniform=uniform,
            bind_path=not no_bind_path,
            mode="chunks" if chunks else "columns",
            unlisted=None if unlisted is None else unlisted.value,
            clear_metadata=clear_metadata.value,
            compression=None if compression is None else compression.value,
            also=also or (),
            sign=sign or None,
            digest=digest.value,
            valid_for=None if valid_for is None else parse_validity(valid_for),
            batch_rows=DEFAULT_BATCH_ROWS if batch_rows is None else batch_rows,
        ),
        reading=Reading(
            # In chunks every file is taken for bytes, so whatever format is given says nothing.
            format=None if file_format is None or chunks else file_format.value,
            delimiter=None if delimiter is None else _DELIMITER_WORDS.get(delimiter, delimiter),
            encoding=encoding,
            types=_types(types or []),
            on_bad_rows=on_bad_rows.value,
        ),
        max_file_bytes=max_file_bytes,
        overwrite=overwrite,
        workers=workers,
        run=RunOptions(accept_future_statement=accept_future_statement),
    )
    _carry_out(spec, credentials())


def _types(values: list[str]) -> dict[str, str]:
    """Return the type of each column that `--type` names."""
    types: dict[str, str] = {}
    for value in values:
        column, equals, kind = value.partition("=")
        if not (column and equals and kind):
            raise UsageError(f"--type {value!r} names no type", hint="write the column and its type, as id=string")
        types[column] = kind
    return types


def decrypt(
    source: _Source,
    sink: _Sink,
    keys: KeyReferences,
    trust: TrustedKeys = None,
    threshold: Threshold = 1,
    verify: Verify = VerifyMode.READ,
    min_version: MinVersion = 1,
    dataset_id: DatasetID = None,
    aad_prefix: Prefix = None,
    workers: Workers = 1,
    overwrite: Overwrite = False,
) -> None:
    """Decrypt files, back to the bytes that were encrypted."""
    from pipecrypt.dataset.requirements import UNCHECKED, checks_of
    from pipecrypt.runs.spec.spec import DecryptSpec
    from pipecrypt.store.location import Location
    from pipecrypt.vocabulary.context import parse_aad_prefix

    opens = credentials()
    given = Trust(trust or None, threshold=threshold, verify=verify, min_version=min_version, dataset_id=dataset_id)
    request = DecryptSpec(
        source=Location(source),
        sink=Location(sink),
        keys=tuple(keys),
        aad_prefix=None if aad_prefix is None else parse_aad_prefix(aad_prefix),
        checks=checks_of(given, os.environ, opens),
        overwrite=overwrite,
        workers=workers,
    )
    _carry_out(request, opens)
    if request.checks.warns:
        note(UNCHECKED)


def _carry_out(request: EncryptSpec | DecryptSpec, opens: Credentials) -> None:
    from pipecrypt.cli.progress import run_lines, show_progress
    from pipecrypt.runs.run import run as run_request

    # Nothing may be added to data, no error either.
    OUTPUT.is_taken = request.sink.is_standard_stream
    with show_progress() as on_event:
        summary = run_request(request, credentials=opens, on_event=on_event)
    answer = show_aside if request.sink.is_standard_stream else show
    answer(summary, lambda: run_lines(summary))
