"""The commands that change what a keystore's keys are for, and show it: rotate, retire, usage, destroy, passphrase.

Making and removing keys is left to keys and pipeline.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipecrypt.cli.options import JSONFlag, LogFormatOption, LogLevelOption, credentials
from pipecrypt.cli.render import show
from pipecrypt.cli.summaries import entry_text
from pipecrypt.clock import parse_utc
from pipecrypt.errors import UsageError

if TYPE_CHECKING:
    from pipecrypt.dataset.share.key_usage import DatasetUsage, KeyUsage
    from pipecrypt.pipeline.calls.key_inventory import Destruction

__all__ = ["accept_backup", "destroy", "passphrase", "retire", "rotate_key", "usage"]

_Reference = Annotated[str, typer.Argument(metavar="KEYREF", help="keystore://PATH#NAME")]
_Keystore = Annotated[Path, typer.Argument(metavar="KEYSTORE", help="Path of a keystore.")]


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


def retire(
    reference: _Reference,
    version: Annotated[int, typer.Option(min=1, help="The version that is meant.")],
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="From when on, as 2026-11-30T12:00:00Z; not in the future. Default: now."),
    ] = None,
    json: JSONFlag = False,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = None,
) -> None:
    """Take a version of a key out of use: it signs and wraps nothing more, and what it signed since does not count."""
    from pipecrypt.keys.services.keystore.removal import retire_key

    entry = retire_key(reference, version, credentials(), at=None if at is None else _parse_time(at))
    show(
        entry,
        lambda: (
            [
                f"retired {entry_text(entry)}, since {entry.retired}",
                "give its public key to readers again: pipecrypt keys export KEYREF --public",
            ]
            if entry.key_id
            else [f"retired {entry_text(entry)}, since {entry.retired}; it still opens what it wrapped"]
        ),
    )


def passphrase(
    keystore: _Keystore,
    json: JSONFlag = False,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = None,
) -> None:
    """Put a keystore under another passphrase or key file; copies of it keep the old one.

    The new one comes from PIPECRYPT_NEW_PASSPHRASE, the file PIPECRYPT_NEW_PASSPHRASE_FILE, PIPECRYPT_NEW_KEY_FILE or a
    prompt.
    """
    from pipecrypt.keys.services.keystore.changing import change_passphrase

    document = change_passphrase(keystore, credentials())
    show(
        {"keystore": str(keystore), "keys": len(document.keys), "counter": document.counter},
        lambda: [
            f"{keystore} is under its new secret: {len(document.keys)} keys sealed anew",
            "not reached: copies and backups of the keystore, which the old one still opens",
        ],
    )


def accept_backup(
    keystore: _Keystore,
    json: JSONFlag = False,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = None,
) -> None:
    """Take a keystore that you put back from a backup for the newest: what was changed since is gone from it."""
    from pipecrypt.keys.services.keystore.changing import accept_backup as accept

    document = accept(keystore, credentials())
    show(
        {"keystore": str(keystore), "keys": len(document.keys), "counter": document.counter},
        lambda: [f"{keystore} is accepted: {len(document.keys)} keys; pipecrypt keys list shows them"],
    )


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
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key", metavar="KEYREF", help="Key that opens those datasets afterwards; may be given several times."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove the key for good.")] = False,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Even if only unproven grants say that another key opens the data.")
    ] = False,
    json: JSONFlag = False,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = None,
) -> None:
    """Remove a key from its keystore for good, and with it all that only it opens."""
    from pipecrypt.pipeline.calls.key_inventory import destroy_keys

    if dry_run == yes:
        raise UsageError("destroying a key cannot be undone", hint="look with --dry-run first, then give --yes")
    done = destroy_keys(
        reference,
        version=version,
        datasets=dataset or (),
        keys=key or (),
        accept_loss=accept_loss,
        dry_run=dry_run,
        credentials=credentials(),
    )
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
    lines += [f"  shared with {each!a}, as grants claim" for each in key.shared_with]
    return lines


def _destruction_lines(done: Destruction) -> list[str]:
    verb = "would remove" if done.is_dry_run else "removed"
    lines = [f"{verb} {entry_text(entry)}" for entry in done.keys]
    for loss in done.losses:
        key = loss.key
        lines.append(f"{loss.dataset}: nothing else opens {key.only_opener_of} of its {key.keks} key encryption keys")
        if key.proven_by_grants:
            lines.append(f"  another key was found to open {key.proven_by_grants} of them")
        if key.claimed_by_grants:
            count = key.claimed_by_grants
            lines.append(f"  only grants claim that another key opens {count} of them: name that key with --key")
        lines += [f"  {line}" for line in _key_lines(key)]
        if loss.hidden_files:
            lines.append(f"  and perhaps columns of {loss.hidden_files} files, whose footers are encrypted")
    if not done.losses:
        lines.append(f"not in use in the {done.datasets} datasets that were named; others were not looked into")
    return [*lines, "not reached: copies and backups of the keystore, and keys that were unwrapped before"]


def _parse_time(text: str) -> datetime:
    try:
        return parse_utc(text)
    except ValueError:
        raise UsageError(f"{text!a} is not a time", hint="write it in UTC, as 2026-11-30T12:00:00Z") from None
