"""Give pyarrow the keys to read our files itself: a KmsClient over a key session. Reading through us is left to rows.

pyarrow's KMS mode checks no commitment and no path; it checks what Parquet's own format authenticates.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

import pyarrow.parquet.encryption as pe

from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keyring import RequestOrigin
from pipecrypt.keys.session import KeySession
from pipecrypt.runs.files import listed_keys

__all__ = ["crypto_factory", "decryption_properties"]

_CACHE_LIFETIME: Final = timedelta(minutes=10)
# pyarrow's properties call into their factory without keeping it alive (apache/arrow #40328), and cannot be asked
# when they die, so a factory made for properties lives as long as the process.
_ALIVE: Final[list[Any]] = []


class _SessionClient(pe.KmsClient):  # type: ignore[misc]  # pyarrow has no types
    """Unwraps for pyarrow what our key services wrapped."""

    def __init__(self, session: KeySession) -> None:
        super().__init__()
        self._session = session

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> str:
        """Refuse: files are encrypted by pipecrypt."""
        raise NotImplementedError("pipecrypt's KmsClient only unwraps; encrypt with pipecrypt.encrypt")

    def unwrap_key(self, wrapped_key: bytes | str, master_key_identifier: str) -> bytes:
        """Return the KEK in clear, as pyarrow wants it."""
        text = wrapped_key.decode() if isinstance(wrapped_key, bytes) else wrapped_key
        # pyarrow tells no file. It ends at the first key that is wrong, so each call is taken for a file of its own.
        with self._session.unwrap_kek_text(text, master_key_identifier, RequestOrigin()) as key:
            return bytes(key.expose_key_bytes())


def crypto_factory(keys: Sequence[str], *, credentials: Credentials | None = None) -> Any:
    """Return a pyarrow CryptoFactory that opens our files, for `pyarrow.dataset.ParquetDecryptionConfig`.

    Keep it alive as long as anything reads with it. Its key encryption keys are wiped with it.

    Args:
        keys: key references; only these are ever used, whatever a file names.
        credentials: default: from the environment.

    Raises:
        KeyReferenceError: a reference cannot be parsed.
        AccessError: a key is missing, or the credentials do not open it.
    """
    session = KeySession(listed_keys(keys), credentials=credentials or Credentials.from_environment())
    factory = pe.CryptoFactory(lambda _configuration: _SessionClient(session))
    # A pyarrow whose factory takes no weak references leaves the session to the end of the process.
    with contextlib.suppress(TypeError):
        weakref.finalize(factory, session.close)
    return factory


def decryption_properties(keys: Sequence[str], *, credentials: Credentials | None = None) -> Any:
    """Return what `pyarrow.parquet.read_table(path, decryption_properties=...)` takes, for any of our files.

    What it needs is kept alive until the process ends.

    Args:
        keys: key references; only these are ever used, whatever a file names.
        credentials: default: from the environment.

    Raises:
        KeyReferenceError: a reference cannot be parsed.
        AccessError: a key is missing, or the credentials do not open it.
    """
    factory = crypto_factory(keys, credentials=credentials)
    _ALIVE.append(factory)
    configuration = pe.DecryptionConfiguration(cache_lifetime=_CACHE_LIFETIME)
    return factory.file_decryption_properties(pe.KmsConnectionConfig(), configuration)
