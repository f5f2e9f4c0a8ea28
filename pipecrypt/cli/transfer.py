"""The commands that write data: run, encrypt, decrypt. What they do is left to config and pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipecrypt.cli.encrypt_options import (
    Also,
    BatchRows,
    Chunks,
    ClearMetadata,
    Columns,
    Compression,
    DataKeys,
    Delimiter,
    Encoding,
    FileFormat,
    Footer,
    FooterKey,
    Key,
    MaxFileBytes,
    NoBindPath,
    OnBadRows,
    Sign,
    SignDigest,
    Types,
    Uniform,
    UnlistedColumns,
    ValidFor,
)
from pipecrypt.cli.options import (
    AcceptFuture,
    JSONFlag,
    KeyReferences,
    LogFormatOption,
    LogLevelOption,
    Overwrite,
    Prefix,
    Workers,
    credentials,
    parse_aad_prefix,
    split_names,
)
from pipecrypt.cli.planning import show_plan
from pipecrypt.cli.render import OUTPUT, note, show, show_aside
from pipecrypt.cli.summaries import run_lines
from pipecrypt.cli.trust_options import DatasetID, MinVersion, Threshold, Trust, Verify, read_checks
from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.dataset.trust import VerifyMode
from pipecrypt.errors import UsageError
from pipecrypt.parquet.policy import ClearNotes, FooterMode, KeyScope
from pipecrypt.sources.options import BadRows

if TYPE_CHECKING:
    from pipecrypt.keys.credentials import Credentials
    from pipecrypt.pipeline.request.request import DecryptRequest, EncryptRequest
    from pipecrypt.pipeline.request.run_options import RunOptions

__all__ = ["decrypt", "encrypt", "run"]

_Source = Annotated[
    str, typer.Argument(metavar="SRC", help="File, directory or glob; a path, an fsspec URL, or - for standard input.")
]
_Sink = Annotated[
    str,
    typer.Argument(metavar="DST", help="Directory, or a file name where SRC is one file, or - for standard output."),
]


# A tab is hard to give in a shell.
_DELIMITER_WORDS = {"tab": "\t", "\\t": "\t"}


def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The YAML configuration.")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run that was not finished, if any.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Encrypt all sources again, also those that were done before.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done, as plan does.")] = False,
    plan: Annotated[
        Path | None, typer.Option("--plan", metavar="FILE", help="Do the tasks of this saved plan, and no others.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Instead of run.workers.")] = None,
    accept_future: AcceptFuture = False,
    json: JSONFlag = False,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = None,
) -> int:
    """Encrypt what a configuration names."""
    from pipecrypt.cli.progress import show_progress
    from pipecrypt.config.run import run_config

    if dry_run:
        if plan is not None:
            raise UsageError("a saved plan was looked at when it was made", hint="leave out --dry-run, or --plan")
        return show_plan(config, overwrite=overwrite, resume=resume, workers=workers, accept_future=accept_future)
    opens = credentials()  # asks whether there is a terminal, which a bar hides
    with show_progress() as on_event:
        summary = run_config(
            config,
            overwrite=overwrite,
            resume=resume,
            workers=workers,
            credentials=opens,
            on_event=on_event,
            plan=plan,
            accept_future_statement=accept_future,
        )
    show(summary, lambda: run_lines(summary))
    return 0


def encrypt(
    source: _Source,
    sink: _Sink,
    key: Key,
    columns: Columns = None,
    unlisted: UnlistedColumns = None,
    clear_metadata: ClearMetadata = ClearNotes.STRIP,
    footer: Footer = FooterMode.PLAINTEXT,
    data_keys: DataKeys = KeyScope.BATCH,
    footer_key: FooterKey = None,
    uniform: Uniform = False,
    no_bind_path: NoBindPath = False,
    chunks: Chunks = False,
    file_format: FileFormat = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    types: Types = None,
    on_bad_rows: OnBadRows = BadRows.FAIL,
    batch_rows: BatchRows = None,
    compression: Compression = None,
    max_file_bytes: MaxFileBytes = None,
    also: Also = None,
    sign: Sign = None,
    digest: SignDigest = DigestAlgorithm.SHA256,
    valid_for: ValidFor = None,
    workers: Workers = 1,
    overwrite: Overwrite = False,
    accept_future: AcceptFuture = False,
    json: JSONFlag = False,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = None,
) -> None:
    """Encrypt tables, all columns or some, or any files in chunks."""
    from pipecrypt.pipeline.request.policy import Mode, Policy
    from pipecrypt.pipeline.request.reading import Reading
    from pipecrypt.pipeline.request.request import EncryptRequest
    from pipecrypt.storage.location import Location

    policy = Policy(
        dict.fromkeys(split_names(columns or []), key),
        None if columns else key,
        footer.value,
        data_keys.value,
        footer_key=footer_key,
        uniform=uniform,
        bind_path=not no_bind_path,
        mode=(Mode.CHUNKS if chunks else Mode.COLUMNS).value,
        unlisted=None if unlisted is None else unlisted.value,
        clear_metadata=clear_metadata.value,
        compression=None if compression is None else compression.value,
        also=also or (),
        **_signing(sign, digest, valid_for),
        **_batches(batch_rows),
    )
    # In chunks every file is taken for bytes, so whatever format is given says nothing.
    given = None if file_format is None or chunks else file_format.value
    request = EncryptRequest(
        source=Location(source),
        sink=Location(sink),
        policy=policy,
        reading=Reading(format=given, on_bad_rows=on_bad_rows.value, **_text_options(delimiter, encoding, types)),
        max_file_bytes=max_file_bytes,
        overwrite=overwrite,
        workers=workers,
        run=_run_options(accepts_future=accept_future),
    )
    _carry_out(request, credentials())


def _run_options(*, accepts_future: bool) -> RunOptions:
    from pipecrypt.pipeline.request.run_options import RunOptions

    return RunOptions(accepts_future_statement=accepts_future)


def _batches(batch_rows: int | None) -> dict[str, Any]:
    """Return what a policy takes about row groups."""
    return {} if batch_rows is None else {"batch_rows": batch_rows}


def _text_options(delimiter: str | None, encoding: str | None, types: list[str] | None) -> dict[str, Any]:
    """Return what a reading takes about text formats."""
    given = None if delimiter is None else _DELIMITER_WORDS.get(delimiter, delimiter)
    return {"delimiter": given, "encoding": encoding, "types": _types(types or [])}


def _types(values: list[str]) -> dict[str, str]:
    """Return the type of each column that `--type` names."""
    types: dict[str, str] = {}
    for value in values:
        column, equals, kind = value.partition("=")
        if not (column and equals and kind):
            raise UsageError(f"--type {value!r} names no type", hint="write the column and its type, as id=string")
        types[column] = kind
    return types


def _signing(sign: list[str] | None, digest: DigestAlgorithm, valid_for: str | None) -> dict[str, Any]:
    """Return what a policy takes about signatures."""
    from pipecrypt.pipeline.request.sign_options import parse_validity

    validity = None if valid_for is None else parse_validity(valid_for)
    return {"sign": sign or None, "digest": digest.value, "valid_for": validity}


def decrypt(
    source: _Source,
    sink: _Sink,
    keys: KeyReferences,
    trust: Trust = None,
    threshold: Threshold = 1,
    verify: Verify = VerifyMode.READ,
    min_version: MinVersion = 1,
    dataset_id: DatasetID = None,
    aad_prefix: Prefix = None,
    workers: Workers = 1,
    overwrite: Overwrite = False,
    json: JSONFlag = False,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = None,
) -> None:
    """Decrypt files, back to the bytes that were encrypted."""
    from pipecrypt.dataset.requirements import UNCHECKED
    from pipecrypt.pipeline.request.request import DecryptRequest
    from pipecrypt.storage.location import Location

    opens = credentials()
    request = DecryptRequest(
        source=Location(source),
        sink=Location(sink),
        keys=tuple(keys),
        aad_prefix=parse_aad_prefix(aad_prefix),
        checks=read_checks(
            trust, opens, threshold=threshold, verify=verify, min_version=min_version, dataset_id=dataset_id
        ),
        overwrite=overwrite,
        workers=workers,
    )
    _carry_out(request, opens)
    if request.checks.warns:
        note(UNCHECKED)


def _carry_out(request: EncryptRequest | DecryptRequest, opens: Credentials) -> None:
    from pipecrypt.cli.progress import show_progress
    from pipecrypt.pipeline.run.run import run as run_request

    # Nothing may be added to data, no error either.
    OUTPUT.is_taken = request.sink.is_standard_stream
    with show_progress() as on_event:
        summary = run_request(request, credentials=opens, on_event=on_event)
    answer = show_aside if request.sink.is_standard_stream else show
    answer(summary, lambda: run_lines(summary))
