"""The commands `pipecrypt keys ...`: make, list, export and import keys, say what they are for, and remove them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipecrypt.cli.options import NewKeystoreOption, command, credentials
from pipecrypt.cli.render import aligned, note, show
from pipecrypt.errors import SourceNotFoundError, StorageError, UsageError
from pipecrypt.vocabulary.clock import parse_utc

if TYPE_CHECKING:
    from pipecrypt.dataset.share.key_usage import DatasetUsage, KeyUsage
    from pipecrypt.keys.keystores import KeystoreEntry
    from pipecrypt.runs.key_inventory import Destruction

__all__ = ["keys_app"]

_MAX_IMPORT_BYTES = 64 * 1024


keys_app = typer.Typer(help="Make, list, export and import keys.", rich_markup_mode=None, add_completion=False)

_Reference = Annotated[str, typer.Argument(metavar="KEYREF", help="keystore://PATH#NAME")]
_NewVersion = Annotated[
    bool, typer.Option("--new-version", help="Replace the key for new data; its earlier versions still open old data.")
]


class KeyTypeChoice(StrEnum):
    """Types of keys that a keystore makes."""

    AES256 = "aes256"
    ED25519 = "ed25519"
    MLDSA65 = "mldsa65"
    X25519 = "x25519"
    MLKEM768X25519 = "mlkem768x25519"


_IDENTITIES = (KeyTypeChoice.MLKEM768X25519, KeyTypeChoice.X25519)


@command(keys_app, "new")
def new_key(
    reference: _Reference,
    key_type: Annotated[
        KeyTypeChoice | None,
        typer.Option(
            "--type",
            help="aes256 (default) encrypts; ed25519 and mldsa65 sign; the others are identities of recipients.",
        ),
    ] = None,
    recipient: Annotated[
        bool,
        typer.Option("--recipient", help="An identity: who has its public key encrypts for it, and reads nothing."),
    ] = False,
    new_version: _NewVersion = False,
    new_keystore: NewKeystoreOption = False,
) -> None:
    """Make a key, and the keystore if there is none."""
    from pipecrypt.keys.keystores import NewKeystore, create_key

    wanted = key_type or (KeyTypeChoice.MLKEM768X25519 if recipient else KeyTypeChoice.AES256)
    if recipient and wanted not in _IDENTITIES:
        raise UsageError(
            f"a key of type {wanted} is not an identity", hint=f"leave out --type: {_IDENTITIES[0]} it is then"
        )
    made: list[Path] = []
    keystore = NewKeystore(replaces_lost=new_keystore, made=made.append)
    entry = create_key(reference, wanted.value, credentials(), new_version=new_version, keystore=keystore)
    show(entry, lambda: [f"made {_entry_text(entry)}"])
    _note_made(made)


@command(keys_app, "list")
def list_all(
    keystore: Annotated[str, typer.Argument(metavar="KEYSTORE", help="Path of a keystore, or keystore://PATH[#NAME].")],
) -> None:
    """List the keys of a keystore; needs no passphrase, and says so where none was given."""
    from pipecrypt.keys.keystores import read_keys

    found = read_keys(keystore, credentials())
    entries = sorted(found.keys, key=lambda entry: (entry.name, entry.version))
    if found.doubt is not None:
        note(f"not authenticated: {found.doubt}")
    head = ("name", "type", "version", "created", "id")
    rows = [(each.name, each.type, str(each.version), each.created, _entry_id(each) + _end(each)) for each in entries]
    show({"authenticated": found.authenticated, "keys": entries}, lambda: aligned([head, *rows], right=(2,)))


@command(keys_app, "export")
def export_key(
    reference: Annotated[str, typer.Argument(metavar="KEYREF", help="keystore://PATH#NAME, pem://PATH, ...")],
    public: Annotated[
        bool, typer.Option("--public", help="The public key of a signing key or identity, as PEM.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Open the private key and prove that the public key was not exchanged.")
    ] = False,
) -> None:
    """Print a public key."""
    from pipecrypt.keys.signers import export_public_half

    if not public:
        raise UsageError("only public keys can be exported", hint="add --public; secret keys stay in the keystore")
    half = export_public_half(reference, credentials(), prove=verify)
    show(half, half.public_key.splitlines)


@command(keys_app, "import")
def import_from_file(
    reference: _Reference,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="32 bytes, raw or in base64, or a private key as PEM; - is stdin.")
    ],
    new_version: _NewVersion = False,
    new_keystore: NewKeystoreOption = False,
) -> None:
    """Put an existing key into a keystore."""
    from pipecrypt.keys.keystores import NewKeystore, import_key

    made: list[Path] = []
    keystore = NewKeystore(replaces_lost=new_keystore, made=made.append)
    entry = import_key(reference, _read_key_bytes(file), credentials(), new_version=new_version, keystore=keystore)
    show(entry, lambda: [f"imported {_entry_text(entry)}"])
    _note_made(made)


def _note_made(keystores: Iterable[Path]) -> None:
    for keystore in keystores:
        note(f"made keystore {keystore}")


def _read_key_bytes(file: Path) -> bytes:
    if str(file) == "-":
        return sys.stdin.buffer.read(_MAX_IMPORT_BYTES)
    try:
        with file.open("rb") as stream:
            return stream.read(_MAX_IMPORT_BYTES)
    except FileNotFoundError:
        raise SourceNotFoundError(f"no key file {file}", hint="check the path") from None
    except OSError as error:
        raise StorageError(f"cannot read key file {file}: {str(error.strerror).lower()}") from None


_Keystore = Annotated[Path, typer.Argument(metavar="KEYSTORE", help="Path of a keystore.")]


@command(keys_app, "rotate")
def rotate_key(reference: _Reference) -> None:
    """Make a new version of a key: it replaces the key for new data, and its earlier versions still open old data."""
    from pipecrypt.keys.credentials import Credentials
    from pipecrypt.keys.keystores import create_key, read_keys

    newest = read_keys(reference, Credentials({})).keys[-1]
    entry = create_key(reference, newest.type, credentials(), new_version=True)
    show(entry, lambda: [f"made {_entry_text(entry)}", "for data that exists: pipecrypt rotate DATASET"])


@command(keys_app, "retire")
def retire(
    reference: _Reference,
    version: Annotated[int, typer.Option(min=1, help="The version that is meant.")],
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="From when on, as 2026-11-30T12:00:00Z; not in the future. Default: now."),
    ] = None,
) -> None:
    """Take a version of a key out of use: it signs and wraps nothing more, and what it signed since does not count."""
    from pipecrypt.keys.keystores import retire_key

    try:
        since = None if at is None else parse_utc(at)
    except ValueError:
        raise UsageError(f"{at!a} is not a time", hint="write it in UTC, as 2026-11-30T12:00:00Z") from None
    entry = retire_key(reference, version, credentials(), at=since)
    lines = [f"retired {_entry_text(entry)}, since {entry.retired}"]
    if entry.key_id:
        lines.append("give its public key to readers again: pipecrypt keys export KEYREF --public")
    else:
        lines[0] += "; it still opens what it wrapped"
    show(entry, lambda: lines)


@command(keys_app, "passphrase")
def passphrase(keystore: _Keystore) -> None:
    """Put a keystore under another passphrase or key file; copies of it keep the old one.

    The new one comes from PIPECRYPT_NEW_PASSPHRASE, the file PIPECRYPT_NEW_PASSPHRASE_FILE, PIPECRYPT_NEW_KEY_FILE or a
    prompt.
    """
    from pipecrypt.keys.keystores import change_passphrase

    document = change_passphrase(keystore, credentials())
    show(
        {"keystore": str(keystore), "keys": len(document.keys), "counter": document.counter},
        lambda: [
            f"{keystore} is under its new secret: {len(document.keys)} keys sealed anew",
            "not reached: copies and backups of the keystore, which the old one still opens",
        ],
    )


@command(keys_app, "accept-backup")
def accept_backup(keystore: _Keystore) -> None:
    """Take a keystore that you put back from a backup for the newest: what was changed since is gone from it."""
    from pipecrypt.keys.keystores import accept_backup as accept

    document = accept(keystore, credentials())
    show(
        {"keystore": str(keystore), "keys": len(document.keys), "counter": document.counter},
        lambda: [f"{keystore} is accepted: {len(document.keys)} keys; pipecrypt keys list shows them"],
    )


@command(keys_app, "usage")
def usage(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="A dataset, a directory or a file.")],
) -> None:
    """Show which master key protects what, without any key."""
    from pipecrypt.runs.key_inventory import key_usage

    found = key_usage(dataset)
    show(found, lambda: _usage_lines(found))


@command(keys_app, "destroy")
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
) -> None:
    """Remove a key from its keystore for good, and with it all that only it opens."""
    from pipecrypt.runs.key_inventory import destroy_keys

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
    lines = [f"{verb} {_entry_text(entry)}" for entry in done.keys]
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


def _entry_text(entry: KeystoreEntry) -> str:
    """Return one key in one line."""
    return f"{entry.type} key {entry.name}, version {entry.version}: {_entry_id(entry)}"


def _end(entry: KeystoreEntry) -> str:
    return "" if entry.retired is None else f"  retired {entry.retired}"


def _entry_id(entry: KeystoreEntry) -> str:
    # What a person meets elsewhere: data files store the one of a master key, statements that of a signing key.
    return entry.key_id or entry.master_key_id
