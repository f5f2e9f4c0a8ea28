"""The commands `keys rotate`, `keys usage`, `keys destroy`. Making and removing keys is left to keys and pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipecrypt.cli.options import JSONFlag, LogFormatOption, LogLevelOption, credentials
from pipecrypt.cli.render import show
from pipecrypt.cli.summaries import entry_text
from pipecrypt.errors import UsageError

if TYPE_CHECKING:
    from pipecrypt.dataset.sharing.key_usage import DatasetUsage, KeyUsage
    from pipecrypt.pipeline.calls.key_inventory import Destruction

__all__ = ["destroy", "rotate_key", "usage"]

_Reference = Annotated[str, typer.Argument(metavar="KEYREF", help="keystore://PATH#NAME")]


def rotate_key(
    reference: _Reference,
    json: JSONFlag = False,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = None,
) -> None:
    """Make a new version of a key: it replaces the key for new data, and its earlier versions still open old data."""
    from pipecrypt.keys.services.keystore.making import create_key, list_keys

    newest = list_keys(reference)[-1]
    entry = create_key(reference, newest.type, credentials(), new_version=True)
    show(entry, lambda: [f"made {entry_text(entry)}", "for data that exists: pipecrypt rotate DATASET"])


def usage(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="A dataset, a directory or a file.")],
    json: JSONFlag = False,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = None,
) -> None:
    """Show which master key protects what, without any key."""
    from pipecrypt.pipeline.calls.key_inventory import key_usage

    found = key_usage(dataset)
    show(found, lambda: _usage_lines(found))


def destroy(
    reference: _Reference,
    version: Annotated[int | None, typer.Option(min=1, help="Only this version; default: all of them.")] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            "--dataset", metavar="URL", help="Tell what becomes unreadable there; may be given several times."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove the key for good.")] = False,
    json: JSONFlag = False,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = None,
) -> None:
    """Remove a key from its keystore for good, and with it all that only it opens."""
    from pipecrypt.pipeline.calls.key_inventory import destroy_keys

    if dry_run == yes:
        raise UsageError("destroying a key cannot be undone", hint="look with --dry-run first, then give --yes")
    done = destroy_keys(reference, version=version, datasets=dataset or (), dry_run=dry_run, credentials=credentials())
    show(done, lambda: _destruction_lines(done))


def _usage_lines(found: DatasetUsage) -> list[str]:
    head = f"{found.dataset}: {found.files} files"
    if found.version is not None:
        head += f", version {found.version}, signed {found.since}"
    lines = [head]
    for key in found.keys:
        lines += ["", *_key_lines(key)]
    if found.hidden_files:
        lines += ["", f"hidden by encrypted footers: the keys of the columns in {found.hidden_files} files"]
    if found.plaintext_files:
        lines += ["", f"not encrypted: {found.plaintext_files} files"]
    return lines


def _key_lines(key: KeyUsage) -> list[str]:
    lines = [ascii(key.master_key_id)]
    if key.files:
        lines.append(f"  wraps {key.keks} key encryption keys in {key.files} files, {key.footers} footer keys")
    lines += [
        f"  column {column.path!a}: {column.batches} batches in {column.files} files, {column.data_keys} data keys"
        for column in key.columns
    ]
    if key.granted_keks:
        lines.append(f"  opens {key.granted_keks} key encryption keys of others by grants, since {key.granted_since}")
    lines += [f"  shared by grants with {each!a}" for each in key.shared_with]
    return lines


def _destruction_lines(done: Destruction) -> list[str]:
    verb = "would remove" if done.is_dry_run else "removed"
    lines = [f"{verb} {entry_text(entry)}" for entry in done.keys]
    for loss in done.losses:
        key = loss.key
        lines.append(f"{loss.dataset}: nothing else opens {key.only_opener_of} of its {key.keks} key encryption keys")
        lines += [f"  {line}" for line in _key_lines(key)]
        if loss.hidden_files:
            lines.append(f"  and perhaps columns of {loss.hidden_files} files, whose footers are encrypted")
    if not done.losses:
        lines.append(f"not in use in the {done.datasets} datasets that were named; others were not looked into")
    return [*lines, "not reached: copies and backups of the keystore, and keys that were unwrapped before"]
