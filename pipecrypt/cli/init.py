"""The command `pipecrypt init`: a configuration and a keystore to begin with."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from pipecrypt.cli.options import NewKeystoreOption, credentials
from pipecrypt.cli.render import show
from pipecrypt.errors import ConflictError, StorageError

__all__ = ["init"]

_CONFIG_NAME = "pipecrypt.yaml"
_KEYSTORE_NAME = "keys.json"
_KEY_NAME = "main"
_CONFIG = """\
# A pipecrypt configuration: what is read, where it goes, what is encrypted under which key.
# Check it with `pipecrypt config check pipecrypt.yaml`, run it with `pipecrypt run pipecrypt.yaml`.
# Relative paths start from the directory of this file, wherever pipecrypt is started.
# ${VAR} and ${VAR:-default} stand for environment variables, $$ for a dollar sign.

source:
  url: ./data/**/*.parquet      # a file, a directory or a glob; a path or any fsspec URL (s3://..., gs://..., az://...)
  # options: {}                 # storage options for fsspec

sink:
  url: ./encrypted/             # every source file goes to the same relative path below it

encrypt:
  default: main                 # the key of every column that no entry below lists; leave out: those stay plaintext
  # columns:                    # names, nested paths (customer.email), roots (customer) or globs ("card_*")
  #   - { match: [email, ssn, "card_*"], key: main }
  footer: plaintext             # or encrypted: hides schema, row counts and statistics from readers without keys
  data_keys: batch              # or file: one data key per column and file, for Spark

keys:                           # names for key references
  main: keystore://./keys.json#main

run:
  workers: 1                    # files encrypted at once, each in a process of its own
"""


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Made if it does not exist.")] = Path(),
    new_keystore: NewKeystoreOption = False,
) -> None:
    """Write a commented configuration and a keystore with one key; overwrites nothing."""
    from pipecrypt.keys.keystores import NewKeystore, create_key

    config, keystore = directory / _CONFIG_NAME, directory / _KEYSTORE_NAME
    _check_absent(config, keystore)
    _make_directory(directory)
    # The keystore first: it asks for a passphrase, and without one there is nothing to configure.
    made = NewKeystore(replaces_lost=new_keystore)
    entry = create_key(_reference(keystore), "aes256", credentials(), keystore=made)
    _write_new(config)
    document = {"config": str(config), "keystore": str(keystore), "key": entry}
    show(document, lambda: _lines(config, keystore))


def _lines(config: Path, keystore: Path) -> list[str]:
    written = shlex.quote(str(config))
    return [
        f"wrote {config}",
        f"wrote {keystore} with key {_KEY_NAME}; keep a copy of it: without it the data is lost",
        "next:",
        f"  edit {written}: the source is {config.parent / 'data'} until you say otherwise",
        f"  pipecrypt config check {written}",
        f"  pipecrypt run {written}",
    ]


def _check_absent(*paths: Path) -> None:
    for path in paths:
        if path.exists() or path.is_symlink():
            raise ConflictError(f"{path} exists already", hint="choose another directory, or move the file away")


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make directory {directory}: {str(error.strerror).lower()}") from None


def _write_new(path: Path) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(_CONFIG)
    except FileExistsError:
        _check_absent(path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {str(error.strerror).lower()}") from None


def _reference(keystore: Path) -> str:
    return f"keystore://{quote(str(keystore.absolute()))}#{_KEY_NAME}"
