"""Remember how far each keystore was seen, so that an older file in its place shows. Reading keystores: opening.

One small JSON file for each keystore, by its id, in the directory of this user's state::

    {"keystore": uuid, "counter": 7, "seal_sha256": <64 hex>, "path": where it was seen last}

A counter never goes back here, whichever of several processes is the last to write. What cannot be kept is warned about
once in a process: reading goes on, and an older keystore will not be noticed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from pipecrypt.crypto.digest import digest
from pipecrypt.documents import DocumentError, parse_document
from pipecrypt.errors import DamagedKeystoreError
from pipecrypt.keys.services.keystore.document import MAX_COUNTER, KeystoreDocument
from pipecrypt.said_once import warn_once
from pipecrypt.state_directory import STATE_VARIABLE, state_directory

__all__ = ["KeystoreMemory"]

_MAX_BYTES: Final = 16 * 1024
_ACCEPT: Final = "if you put a backup there yourself: pipecrypt keys accept-backup KEYSTORE"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Seen:
    counter: int
    seal_sha256: str


@dataclass(frozen=True, slots=True)
class KeystoreMemory:
    """The keystores seen so far.

    Args:
        directory: where they are kept, made with the first one; None to remember nothing.
    """

    directory: str | None

    @classmethod
    def of_user(cls, environ: Mapping[str, str]) -> Self:
        """Return this user's memory; see `state_directory`."""
        return cls(state_directory(environ))

    def check(self, document: KeystoreDocument, name: str) -> None:
        """Pass if a document is not older than what was seen of its keystore, nor another one of the same age.

        Nothing of the document needs to be authenticated: who changes its id or counter breaks its seal.

        Raises:
            DamagedKeystoreError: it is; or the record is malformed, and ignoring it would let an old keystore pass.
        """
        seen = self._recall(document.id)
        if seen is None:
            return
        if not document.is_sealed:
            raise DamagedKeystoreError(
                f"keystore {name} was sealed when it was seen last, and is not now", hint=_ACCEPT
            )
        if document.counter < seen.counter:
            raise DamagedKeystoreError(
                f"keystore {name} is older than when it was seen last: it was written {document.counter} times, and "
                f"{seen.counter} times then",
                hint=_ACCEPT,
            )
        if document.counter == seen.counter and digest(document.seal) != seen.seal_sha256:
            raise DamagedKeystoreError(
                f"keystore {name} is another than was seen last, and was written as often", hint=_ACCEPT
            )

    def counter(self, document: KeystoreDocument) -> int:
        """Return how often the keystore was written when it was seen last; 0 where it was not."""
        seen = self._recall(document.id)
        return 0 if seen is None else seen.counter

    def remember(self, document: KeystoreDocument, path: Path, *, replaces: bool = False) -> None:
        """Keep what was seen of an authenticated document, unless more was seen before and it does not replace that."""
        if self.directory is None or not document.is_sealed:
            return
        now = _Seen(document.counter, digest(document.seal))
        try:
            if not replaces and self._recall(document.id) == now:
                return
            with _locked(Path(self.directory, "keystores")) as directory:
                seen = None if replaces else self._recall(document.id)
                if seen is None or seen.counter < now.counter:
                    _write(directory, self._path(document.id).name, _text(document.id, now, path))
        except OSError as error:
            warn_once(
                _logger,
                "cannot remember keystore %s in %s: %s; an older one in its place will not be noticed",
                path,
                self.directory,
                error.strerror,
            )

    def _recall(self, keystore_id: str) -> _Seen | None:
        if self.directory is None:
            return None
        path = self._path(keystore_id)
        try:
            # Without O_NONBLOCK a named pipe would hang here; read as empty, it is a malformed record.
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(path, flags), "rb") as file:
                data = file.read(_MAX_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise DamagedKeystoreError(
                f"the record of keystores {path} cannot be read: {error.strerror}",
                hint=f"mend its permissions, or set {STATE_VARIABLE}",
            ) from error
        try:
            return _parse(data)
        except DocumentError as error:
            raise DamagedKeystoreError(
                f"the record of keystores {path} is malformed: {error}",
                hint="remove it if you know why, and look whether the keystore is the newest",
            ) from error

    def _path(self, keystore_id: str) -> Path:
        # The id has the form of a UUID, and nothing else in it.
        return Path(self.directory or "", "keystores", f"{keystore_id}.json")


def _parse(data: bytes) -> _Seen:
    document = parse_document(data, max_bytes=_MAX_BYTES)
    counter = document.integer("counter")
    if not 0 < counter <= MAX_COUNTER:
        raise DocumentError("'counter' is out of range")
    return _Seen(counter, document.text("seal_sha256", max_characters=64))


def _text(keystore_id: str, seen: _Seen, path: Path) -> bytes:
    members = {
        "keystore": keystore_id,
        "counter": seen.counter,
        "seal_sha256": seen.seal_sha256,
        "path": os.path.abspath(path),
    }
    return (json.dumps(members) + "\n").encode("ascii")


@contextmanager
def _locked(directory: Path) -> Iterator[int]:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)  # drops the lock


def _write(directory: int, name: str, data: bytes) -> None:
    temporary = f".{name}.{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, 0o600, dir_fd=directory), "wb") as file:
            file.write(data)
        os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        raise
