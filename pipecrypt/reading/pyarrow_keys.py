"""Keys for programs that read our files themselves: a KmsClient for pyarrow, and data keys in clear for others.

pyarrow's KMS mode checks no commitment and no path; it checks what Parquet's own format authenticates.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import pyarrow.parquet.encryption as pe

from pipecrypt.errors import UsageError
from pipecrypt.keys.credentials import Credentials, given_credentials
from pipecrypt.keys.keyring import RequestOrigin
from pipecrypt.keys.session import KeySession
from pipecrypt.parquet.footer.opened import OpenedFile
from pipecrypt.parquet.footer.stored import read_sealed_footer
from pipecrypt.runs.file_keys import keys_of_file
from pipecrypt.runs.files import listed_keys
from pipecrypt.store.listing import find_file
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_range_source

__all__ = ["ExposedKeys", "crypto_factory", "decryption_properties", "expose_data_keys"]

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
        # pyarrow does not say for which file. It ends at the first key that is wrong, so each call counts as a file.
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
    session = KeySession(listed_keys(keys), credentials=given_credentials(credentials))
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


@dataclass(frozen=True, slots=True)
class ExposedKeys:
    """Data keys in clear. Whoever holds them reads the file; the caller keeps them out of logs and files.

    Args:
        footer: the footer's data key.
        columns: by dotted leaf path; without the columns that are in plaintext or under the footer key.
    """

    footer: bytes = field(repr=False)
    columns: Mapping[str, bytes] = field(repr=False)


def expose_data_keys(path: str, keys: Sequence[str], *, credentials: Credentials | None = None) -> ExposedKeys:
    """Return the data keys of a file written with `data_keys: file`, for Polars or DuckDB.

    Raises:
        UsageError: a column has one data key per batch, which no reader with explicit keys can take.
        KeyNotFoundError: a key is missing.
    """
    found = find_file(Location(path))
    session_credentials = given_credentials(credentials)
    with open_range_source(found) as source, KeySession(keys, credentials=session_credentials) as session:
        sealed = read_sealed_footer(source)
        with OpenedFile(sealed, keys=keys_of_file(found.location, session), aad_prefix=None) as opened:
            return ExposedKeys(bytes(opened.footer_key().expose_key_bytes()), _column_keys(opened))


def _column_keys(opened: OpenedFile) -> dict[str, bytes]:
    columns: dict[str, bytes] = {}
    for chunk in (each for each in opened.each_chunk() if each.is_sealed):
        key = opened.key_of(chunk)
        if key is opened.footer_key():
            continue
        exposed = bytes(key.expose_key_bytes())
        if columns.setdefault(chunk.leaf.dotted, exposed) != exposed:
            raise UsageError(
                f"{chunk.what} has a data key of its own, and readers with explicit keys take one per column",
                hint="encrypt with data_keys: file",
            )
    return columns
