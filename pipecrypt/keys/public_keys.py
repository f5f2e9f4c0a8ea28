"""Read public keys from PEM texts and files. Who is trusted with them is left to trust.

A PEM text may hold several keys, and other text around them (RFC 7468 2). What is read may be a private key by mistake:
then it is refused, and neither the text nor anything decoded from it is shown.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from pipecrypt.crypto.signature import PublicKey
from pipecrypt.errors import UsageError

__all__ = ["MAX_PUBLIC_KEY_BYTES", "parse_public_keys", "public_blocks", "read_public_file", "read_public_key_file"]

MAX_PUBLIC_KEY_BYTES: Final = 1024 * 1024
_BLOCK: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]{1,64})-----([A-Za-z0-9+/=\s]*)-----END \1-----")
_BEGIN: Final = "-----BEGIN "
_EXPORT_HINT: Final = "pipecrypt keys export KEYREF --public writes one"
_LABELS: Final = frozenset({"PUBLIC KEY", "RSA PUBLIC KEY"})


def parse_public_keys(text: str, name: str) -> tuple[PublicKey, ...]:
    """Return the public keys in a PEM text, at least one.

    Args:
        text: one or more blocks.
        name: what errors call the text.

    Raises:
        UsageError: it holds something else, or a key of an algorithm that signs nothing here.
    """
    return tuple(_parse(block, number, name) for number, block in enumerate(public_blocks(text, name), start=1))


def public_blocks(text: str, name: str) -> tuple[str, ...]:
    """Return the PEM blocks of public keys in a text, at least one; what is in them is not parsed.

    Args:
        text: one or more blocks, and other text around them.
        name: what errors call the text.

    Raises:
        UsageError: it holds something else.
    """
    if "PRIVATE KEY-----" in text:
        raise UsageError(
            f"{name} holds a private key, where a public one is asked for",
            hint="keep it secret; pipecrypt keys export pem:///path/key.pem --public prints its public key",
        )
    blocks = list(_BLOCK.finditer(text))
    if not blocks or len(blocks) != text.count(_BEGIN):
        raise UsageError(f"{name} holds no public key in PEM, or only a part of one", hint=_EXPORT_HINT)
    for number, block in enumerate(blocks, start=1):
        if block[1] not in _LABELS:
            raise UsageError(
                f"block {number} of {name} is no public key but a {block[1].lower()}",
                hint="openssl x509 -pubkey -noout prints the public key of a certificate",
            )
    return tuple(block[0] for block in blocks)


def read_public_key_file(path: Path, name: str) -> tuple[PublicKey, ...]:
    """Return the public keys in a PEM file, at least one. The path may be a pipe.

    Args:
        path: of the file.
        name: what errors call the file.

    Raises:
        UsageError: it cannot be read, is too long, or holds something else.
    """
    return parse_public_keys(read_public_file(path, name), name)


def read_public_file(path: Path, name: str) -> str:
    """Return the text of a file of public keys. The path may be a pipe.

    Args:
        path: of the file.
        name: what errors call the file.

    Raises:
        UsageError: it cannot be read, or is too long.
    """
    try:
        with path.expanduser().open("rb") as file:
            data = file.read(MAX_PUBLIC_KEY_BYTES + 1)
    except (OSError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise UsageError(
            f"{name} cannot be read: {(reason or 'no valid path').lower()}", hint="check the path"
        ) from error
    if len(data) > MAX_PUBLIC_KEY_BYTES:
        raise UsageError(f"{name} is longer than {MAX_PUBLIC_KEY_BYTES} bytes", hint=_EXPORT_HINT)
    # Text around the blocks may be in any encoding; the blocks themselves are ASCII.
    return data.decode("ascii", errors="replace")


def _parse(block: str, number: int, name: str) -> PublicKey:
    try:
        return PublicKey(block)
    except UsageError as error:
        raise UsageError(f"key {number} of {name}: {error.message}", hint=error.hint) from None
