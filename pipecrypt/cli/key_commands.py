"""The commands `pipecrypt keys ...`. Making and storing keys is left to keys."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipecrypt.cli.keys import accept_backup, destroy, entry_lines, entry_text, passphrase, retire, rotate_key, usage
from pipecrypt.cli.options import JSONFlag, LogFormatOption, LogLevelOption, NewKeystoreOption, credentials
from pipecrypt.cli.render import note, show
from pipecrypt.errors import SourceNotFoundError, StorageError, UsageError

__all__ = ["KeyTypeChoice", "keys_app"]

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


keys_app.command("rotate")(rotate_key)
keys_app.command("retire")(retire)
keys_app.command("usage")(usage)
keys_app.command("destroy")(destroy)
keys_app.command("passphrase")(passphrase)
keys_app.command("accept-backup")(accept_backup)


@keys_app.command("new")
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
    json: JSONFlag = False,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = None,
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
    show(entry, lambda: [f"made {entry_text(entry)}"])
    _tell(made)


@keys_app.command("list")
def list_all(
    keystore: Annotated[str, typer.Argument(metavar="KEYSTORE", help="Path of a keystore, or keystore://PATH[#NAME].")],
    json: JSONFlag = False,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = None,
) -> None:
    """List the keys of a keystore; needs no passphrase, and says so where none was given."""
    from pipecrypt.keys.keystores import read_keys

    found = read_keys(keystore, credentials())
    entries = sorted(found.keys, key=lambda entry: (entry.name, entry.version))
    if found.doubt is not None:
        note(f"not authenticated: {found.doubt}")
    show({"authenticated": found.authenticated, "keys": entries}, lambda: entry_lines(entries))


@keys_app.command("export")
def export_key(
    reference: Annotated[str, typer.Argument(metavar="KEYREF", help="keystore://PATH#NAME, pem://PATH, ...")],
    public: Annotated[
        bool, typer.Option("--public", help="The public key of a signing key or identity, as PEM.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Open the private key and prove that the public key was not exchanged.")
    ] = False,
    json: JSONFlag = False,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = None,
) -> None:
    """Print a public key."""
    from pipecrypt.keys.export import export_public_half

    if not public:
        raise UsageError("only public keys can be exported", hint="add --public; secret keys stay in the keystore")
    half = export_public_half(reference, credentials(), prove=verify)
    show(half, half.public_key.splitlines)


@keys_app.command("import")
def import_from_file(
    reference: _Reference,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="32 bytes, raw or in base64, or a private key as PEM; - is stdin.")
    ],
    new_version: _NewVersion = False,
    new_keystore: NewKeystoreOption = False,
    json: JSONFlag = False,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = None,
) -> None:
    """Put an existing key into a keystore."""
    from pipecrypt.keys.keystores import NewKeystore, import_key

    made: list[Path] = []
    keystore = NewKeystore(replaces_lost=new_keystore, made=made.append)
    entry = import_key(reference, _read_key_bytes(file), credentials(), new_version=new_version, keystore=keystore)
    show(entry, lambda: [f"imported {entry_text(entry)}"])
    _tell(made)


def _tell(made: list[Path]) -> None:
    for path in made:
        note(f"made keystore {path}")


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
