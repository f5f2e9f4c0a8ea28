"""Remember the last statement that was accepted at each place, so that an older one shows. Comparing: manifest/verify.

One small JSON file for each place, in a directory of this user, `accepted/`. Its name is a digest of the place, and it
holds what `Remembered` holds, and the place in clear::

    {"place": "s3://bucket/orders", "dataset": <32 hex>, "version": 7, "statement_sha256": <64 hex>,
     "accepted": when it was last found there, "2026-01-31T12:00:00Z"; absent in older records}

Who can write there can make an old version look new, and no more: links, pipes and large files there are refused.
Several readers change a record one after the other, under a lock on `accepted.lock`, and never to an older version.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import secrets
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self

from pipecrypt.crypto.digest import digest
from pipecrypt.documents import Document, DocumentError, parse_document
from pipecrypt.errors import IntegrityError, RolledBackError
from pipecrypt.manifest.verify import Remembered
from pipecrypt.state_directory import STATE_VARIABLE, state_directory

__all__ = ["STATE_VARIABLE", "VersionMemory"]

_MAX_BYTES: Final = 16 * 1024
_NAME_DIGITS: Final = 40
_LOCK_TRIES: Final = 500
_LOCK_PAUSE_SECONDS: Final = 0.01
_FRESH: Final = timedelta(minutes=1)
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"
_MALFORMED_HINT: Final = "remove it if you know why, and say the lowest version to accept"
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
            IntegrityError: the record is malformed: ignoring it would let an old version pass.
        """
        if self.starts_anew:
            return None
        path = self._path(place)
        try:
            with _directory(path.parent) as directory:
                return _read(directory, path)
        except OSError as error:
            if isinstance(error, FileNotFoundError | NotADirectoryError) and not os.path.lexists(path.parent):
                return None
            raise _unreadable(path, error) from error

    def remember(self, place: str, remembered: Remembered) -> None:
        """Keep what was accepted at a place; a newer version stays that another reader accepted meanwhile.

        Where that fails, a warning says so: reading goes on.

        Raises:
            RolledBackError: another reader accepted another statement of this version meanwhile.
            IntegrityError: it accepted another dataset; or its record is malformed.
        """
        path = self._path(place)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _directory(path.parent) as directory, _alone(path.parent):
                known = None if self.starts_anew else _read(directory, path)
                if known is None or _is_newer(remembered, known, place) or _is_stale(known, remembered):
                    _write(directory, path.name, _document(place, remembered))
        except OSError as error:
            _logger.warning(
                "cannot remember the accepted version of %s in %s: %s; an older one will not be noticed",
                place,
                self.directory,
                error.strerror,
            )

    def forget(self, place: str) -> None:
        """Drop what was accepted at a place, for whoever starts anew.

        Raises:
            IntegrityError: the record cannot be removed.
        """
        path = self._path(place)
        try:
            with _directory(path.parent) as directory, _alone(path.parent):
                os.unlink(path.name, dir_fd=directory)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise _unreadable(path, error) from error

    def _path(self, place: str) -> Path:
        name = digest(place.encode(errors="surrogateescape"))[:_NAME_DIGITS]
        return Path(self.directory, "accepted", f"{name}.json")


def _is_newer(remembered: Remembered, known: Remembered, place: str) -> bool:
    if known.dataset_id != remembered.dataset_id:
        raise IntegrityError(
            f"{place} held dataset {known.dataset_id} for another reader a moment ago, not {remembered.dataset_id}",
            hint="look which one belongs there; verify --forget accepts what is there",
        )
    if known.version == remembered.version and known != remembered:
        raise RolledBackError(f"there are two statements of version {known.version} of {place}")
    return remembered.version > known.version


def _is_stale(known: Remembered, remembered: Remembered) -> bool:
    """Say whether it is time to note that the same version is still what is accepted."""
    is_same = known.version == remembered.version
    return is_same and (known.accepted is None or datetime.now(UTC) - known.accepted > _FRESH)


def _document(place: str, remembered: Remembered) -> bytes:
    members = {
        "place": place,
        "dataset": remembered.dataset_id,
        "version": remembered.version,
        "statement_sha256": remembered.statement_sha256,
        "accepted": datetime.now(UTC).strftime(_TIME),
    }
    return json.dumps(members).encode() + b"\n"


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keep other readers from changing records; one that holds the lock for long keeps nobody from reading on."""
    path = directory.with_name(f"{directory.name}.lock")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, f"{path} is not a file")
        for attempt in range(_LOCK_TRIES):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == _LOCK_TRIES - 1:
                    raise
                time.sleep(_LOCK_PAUSE_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _read(directory: int, path: Path) -> Remembered | None:
    try:
        # Without O_NONBLOCK a named pipe would hang here.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(path.name, flags, dir_fd=directory), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise IntegrityError(f"the record of accepted versions {path} is not a file", hint=_MALFORMED_HINT)
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        document = parse_document(data, max_bytes=_MAX_BYTES)
        return Remembered(
            dataset_id=document.text("dataset", max_characters=32),
            version=document.integer("version"),
            statement_sha256=document.text("statement_sha256", max_characters=64),
            accepted=_read_time(document) if "accepted" in document else None,
        )
    except DocumentError as error:
        message = f"the record of accepted versions {path} is malformed: {error}"
        raise IntegrityError(message, hint=_MALFORMED_HINT) from error


def _read_time(document: Document) -> datetime:
    try:
        return datetime.strptime(document.text("accepted", max_characters=32), _TIME).replace(tzinfo=UTC)
    except ValueError as error:
        raise DocumentError("'accepted' is not a time") from error


def _write(directory: int, name: str, data: bytes) -> None:
    temporary = f".{name}.{secrets.token_hex(4)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, 0o600, dir_fd=directory), "wb") as file:
            file.write(data)
        os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=directory)


def _unreadable(path: Path, error: OSError) -> IntegrityError:
    return IntegrityError(
        f"the record of accepted versions {path} cannot be read: {error.strerror}",
        hint=f"mend its permissions, or set {STATE_VARIABLE}",
    )
