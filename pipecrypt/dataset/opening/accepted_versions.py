"""Remember the last statement that was accepted at each place, so that an older one shows. Comparing: manifest/verify.

One small JSON file for each place, in a directory of this user: a dataset's storage is where an attacker may write, and
this is not. Its name is a digest of the place, and it holds what `Remembered` holds, and the place in clear::

    {"place": "s3://bucket/orders", "dataset": <32 hex>, "version": 7, "statement_sha256": <64 hex>}
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from pipecrypt.crypto.digest import digest
from pipecrypt.documents import DocumentError, parse_document
from pipecrypt.errors import IntegrityError
from pipecrypt.manifest.verify import Remembered
from pipecrypt.state_directory import STATE_VARIABLE, state_directory

__all__ = ["STATE_VARIABLE", "VersionMemory"]

_MAX_BYTES: Final = 16 * 1024
_NAME_DIGITS: Final = 40
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VersionMemory:
    """The statements accepted so far; can be sent to worker processes.

    Args:
        directory: where they are kept; made with the first one.
        starts_anew: nothing is recalled, and what is accepted now replaces what was kept.
    """

    directory: str
    starts_anew: bool = False

    @classmethod
    def of_user(cls, environ: Mapping[str, str]) -> Self | None:
        """Return this user's memory: in PIPECRYPT_STATE_DIR, else XDG_STATE_HOME, else ~/.local/state.

        None where PIPECRYPT_STATE_DIR is set and empty, or no home directory is known.
        """
        directory = state_directory(environ)
        return None if directory is None else cls(directory)

    def recall(self, place: str) -> Remembered | None:
        """Return what was last accepted at a place, or None.

        Raises:
            IntegrityError: the record is malformed: taking it for none would let an old version pass.
        """
        path = self._path(place)
        if self.starts_anew:
            return None
        try:
            # Without O_NONBLOCK a named pipe would hang here; read as empty, it is a malformed record.
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                data = file.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise IntegrityError(
                f"the record of accepted versions {path} cannot be read: {error.strerror}",
                hint=f"mend its permissions, or set {STATE_VARIABLE}",
            ) from error
        try:
            document = parse_document(data, max_bytes=_MAX_BYTES)
            return Remembered(
                dataset_id=document.text("dataset", max_characters=32),
                version=document.integer("version"),
                statement_sha256=document.text("statement_sha256", max_characters=64),
            )
        except DocumentError as error:
            hint = "remove it if you know why, and say the lowest version to accept"
            raise IntegrityError(f"the record of accepted versions {path} is malformed: {error}", hint=hint) from error

    def remember(self, place: str, remembered: Remembered) -> None:
        """Keep what was accepted at a place. Where that fails, a warning says so: reading goes on."""
        path = self._path(place)
        document = {
            "place": place,
            "dataset": remembered.dataset_id,
            "version": remembered.version,
            "statement_sha256": remembered.statement_sha256,
        }
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                temporary.write_text(json.dumps(document) + "\n", encoding="utf-8")
                os.replace(temporary, path)
            finally:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
        except OSError as error:
            _logger.warning(
                "cannot remember the accepted version of %s in %s: %s; an older one will not be noticed",
                place,
                self.directory,
                error.strerror,
            )

    def _path(self, place: str) -> Path:
        name = digest(place.encode(errors="surrogateescape"))[:_NAME_DIGITS]
        return Path(self.directory, "accepted", f"{name}.json")
