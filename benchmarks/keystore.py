"""A keystore of a benchmark's own, and the key file that opens it. What is measured with it: each benchmark."""

from __future__ import annotations

import os
from pathlib import Path

from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keystores import create_key


def new_key_file(directory: Path) -> Path:
    """Make a random key file that only this user may read."""
    key_file = directory / "keystore.key"
    key_file.touch(mode=0o600)
    key_file.write_bytes(os.urandom(32))
    return key_file


def new_key(directory: Path) -> str:
    """Make a keystore with one master key, tell this process and its children how to open it; return its reference."""
    os.environ["PIPECRYPT_KEY_FILE"] = str(new_key_file(directory))
    reference = f"keystore://{directory}/keys.json#pii"
    create_key(reference, "aes256", Credentials.from_environment())
    return reference
