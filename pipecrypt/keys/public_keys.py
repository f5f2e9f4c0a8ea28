"""Public keys from PEM texts and files, and since when each is retired.

A PEM text may hold several keys, and other text around them (RFC 7468 2). What is read may be a private key by mistake:
then it is refused, and neither the text nor anything decoded from it is shown. The text before a key may hold a line of
ours, which says after which second the key signs nothing any more; all other lines mean nothing::

    # pipecrypt: retired 2026-11-30T12:00:00Z
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from pipecrypt.crypto.recipient import RecipientKey, key_digest
from pipecrypt.crypto.signature import PublicKey
from pipecrypt.errors import UsageError
from pipecrypt.vocabulary.clock import parse_utc, utc_text

__all__ = [
    "MAX_PUBLIC_KEY_BYTES",
    "VersionKey",
    "parse_version_keys",
    "public_blocks",
    "read_public_file",
    "recipient_id",
    "retired_at",
    "retirement_line",
]

MAX_PUBLIC_KEY_BYTES: Final = 1024 * 1024
_BLOCK: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]{1,64})-----([A-Za-z0-9+/=\s]*)-----END \1-----")
_BEGIN: Final = "-----BEGIN "
_EXPORT_HINT: Final = "pipecrypt keys export KEYREF --public writes one"
_LABELS: Final = frozenset({"PUBLIC KEY", "RSA PUBLIC KEY"})
_OURS: Final = re.compile(r"^[ \t]*#[ \t]*pipecrypt:(.*)$", re.MULTILINE)
_RETIRED: Final = re.compile(r"[ \t]*retired[ \t]+(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)[ \t\r]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class VersionKey:
    """The public key of one version of a signing key.

    Args:
        key: the public key.
        retired: in UTC: what it signs after that second does not count. None while it is in use.
    """

    key: PublicKey
    retired: datetime | None = None

    @property
    def text(self) -> str:
        """The key as PEM, after the line that says since when it is retired."""
        return self.key.pem if self.retired is None else retirement_line(self.retired) + self.key.pem


def parse_version_keys(text: str, name: str) -> tuple[VersionKey, ...]:
    """Return the public keys in a PEM text, at least one, and since when each is retired.

    Args:
        text: one or more blocks.
        name: what errors call the text.

    Raises:
        UsageError: it holds something else, or a key of an algorithm that signs nothing here; or a line of ours is
            not understood, which taken for none would let a retired key sign.
    """
    blocks = public_blocks(text, name)
    ends = [match.end() for match in _BLOCK.finditer(text)]
    before = (text[start:end] for start, end in zip([0, *ends], ends, strict=False))
    return tuple(
        VersionKey(_parse(block, number, name), retired_at(above, name))
        for number, (block, above) in enumerate(zip(blocks, before, strict=True), start=1)
    )


def retired_at(text: str, name: str) -> datetime | None:
    """Return the time of retirement in the text before a public key, in UTC; the earliest of several.

    Raises:
        UsageError: a line of ours is not understood.
    """
    times: list[datetime] = []
    for line in _OURS.finditer(text):
        match = _RETIRED.fullmatch(line[1])
        try:
            if match is None:
                raise ValueError
            times.append(parse_utc(match[1]))
        except ValueError:
            raise UsageError(
                f"{name} has a line for pipecrypt that is not understood",
                hint="a line reads: # pipecrypt: retired 2026-11-30T12:00:00Z",
            ) from None
    return min(times, default=None)


def retirement_line(moment: datetime) -> str:
    """Return the line, with its end, that tells of a public key since when it is retired."""
    return f"# pipecrypt: retired {utc_text(moment)}\n"


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
                f"block {number} of {name} is not a public key but a {block[1].lower()}",
                hint="openssl x509 -pubkey -noout prints the public key of a certificate",
            )
    return tuple(block[0] for block in blocks)


def recipient_id(key: RecipientKey) -> str:
    """Return what data files store: `recipient/<algorithm>/<SHA-256 of the public key>`, never a path."""
    return f"recipient/{key.algorithm}/{key_digest(key)}"


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
