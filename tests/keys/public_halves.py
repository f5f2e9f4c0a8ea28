"""Public keys of signing keys, as tests compare them."""

from __future__ import annotations

from typing import Any

from pipecrypt.crypto.signature import PublicKey
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.signers import export_public_half, read_version_keys


def read_public_keys(text: str, **options: Any) -> tuple[PublicKey, ...]:
    return tuple(each.key for each in read_version_keys(text, **options).keys)


def export_public_key(text: str, credentials: Credentials, **options: Any) -> str:
    return PublicKey(export_public_half(text, credentials, **options).public_key).pem
