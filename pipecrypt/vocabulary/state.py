"""What this user saw before, kept so that older things show: small JSON records, one file each, and their locks.

A sink or a keystore's file is where an attacker may write; the state directory is not. It holds one directory for each
kind of record, and beside it the file `<kind>.lock`, on which processes that change records of this kind lock each
other out. A record is replaced whole, and reaches the disk before the call ends. Who can write there can make old
things look new, and no more: links, pipes and large files there are refused, and a record that cannot be read or is
malformed is an error, for to treat it as missing would let an old thing pass.

The system drops a lock when its holder dies. A process that is stopped keeps it, so nobody waits without an end.
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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from pipecrypt.errors import ConflictError, IntegrityError
from pipecrypt.vocabulary.documents import Document, DocumentError, parse_document

__all__ = ["STATE_VARIABLE", "LockedRecord", "StateRecords", "replace_private_file", "state_directory", "take_lock"]

STATE_VARIABLE: Final = "PIPECRYPT_STATE_DIR"
_T = TypeVar("_T")
_MAX_BYTES: Final = 16 * 1024
_LOCK_SECONDS: Final = 5.0
_FIRST_PAUSE_SECONDS: Final = 0.005
_LONGEST_PAUSE_SECONDS: Final = 0.1
_SUFFIX: Final = ".json"
_logger = logging.getLogger(__name__)


def state_directory(environ: Mapping[str, str]) -> str | None:
    """Return this user's directory: PIPECRYPT_STATE_DIR, else below XDG_STATE_HOME, else below ~/.local/state.

    None where PIPECRYPT_STATE_DIR is set and empty, or no home directory is known.
    """
    named = environ.get(STATE_VARIABLE)
    if named is not None:
        return named or None
    state, home = environ.get("XDG_STATE_HOME"), environ.get("HOME")
    if state:
        return os.path.join(state, "pipecrypt")
    return os.path.join(home, ".local", "state", "pipecrypt") if home else None


def take_lock(
    descriptor: int, name: str, *, wait_seconds: float = 10.0, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Take the only lock of an open file or directory; closing the descriptor drops it.

    Args:
        descriptor: of the file or directory.
        name: what errors call it.
        wait_seconds: how long to wait while another holds the lock; 0 for one attempt.
        sleep: waits so many seconds.

    Raises:
        ConflictError: another holds it all that time.
        OSError: the file system has no locks, or refused.
    """
    waited, pause = 0.0, _FIRST_PAUSE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if waited >= wait_seconds:
                raise ConflictError(
                    f"another process holds the lock of {name}",
                    hint="if it was stopped, let it go on or end it; run again",
                ) from error
        sleep(pause)
        waited, pause = waited + pause, min(2 * pause, _LONGEST_PAUSE_SECONDS)


def replace_private_file(directory: int, name: str, data: bytes, *, suffix: str = "") -> None:
    """Put a file that only its owner reads in the place of another, whole or not at all; it reaches the disk.

    Args:
        directory: descriptor of the directory.
        name: of the file.
        data: its content.
        suffix: ends the name of the temporary file, `.<name>.<16 hex digits><suffix>`.

    Raises:
        OSError: the file system failed or refused.
    """
    temporary = f".{name}.{secrets.token_hex(8)}{suffix}"
    # O_EXCL and the mode at creation: at no time is the file open to others, and no planted link is followed.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        raise
    os.fsync(directory)


@dataclass(frozen=True, slots=True)
class StateRecords:
    """The records of one kind; can be sent to worker processes.

    Args:
        directory: of this user's state; made with the first record.
        kind: the name of the directory in it.
        title: what errors call such a record.
        error: the class of errors about records.
        malformed_hint: what to do about a record that is malformed.
    """

    directory: str
    kind: str
    title: str
    error: type[IntegrityError]
    malformed_hint: str

    def read(self, name: str, parse: Callable[[Document], _T]) -> _T | None:
        """Return what a record says, or None if there is none.

        Args:
            name: of the record; a file name.
            parse: reads it; raises DocumentError where it is malformed.

        Raises:
            IntegrityError: of class `error`: it cannot be read, or is malformed.
        """
        path = self._path(name)
        try:
            with _open_directory(path.parent) as directory:
                return LockedRecord(self, path, directory).read(parse)
        except OSError as error:
            if isinstance(error, FileNotFoundError | NotADirectoryError) and not os.path.lexists(path.parent):
                return None
            raise self.unreadable(path, error) from error

    def each(self, parse: Callable[[Document], _T]) -> Iterator[_T]:
        """Yield what all records of this kind say, sorted by name; one that is malformed is passed by, with a warning.

        Raises:
            IntegrityError: of class `error`: their directory cannot be read.
        """
        for name in self._names():
            try:
                said = self.read(name, parse)
            except IntegrityError as error:
                _logger.warning("%s; %s", error.message, error.hint)
                continue
            if said is not None:
                yield said

    @contextmanager
    def changing(self, name: str) -> Iterator[LockedRecord]:
        """Keep other processes from changing records of this kind meanwhile.

        Raises:
            ConflictError: another process holds the lock for long.
            OSError: the file system refused or failed.
        """
        path = self._path(name)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _open_directory(path.parent) as directory, _locked(path.parent):
            yield LockedRecord(self, path, directory)

    def unreadable(self, path: Path, error: OSError) -> IntegrityError:
        """Return the error for a record that the file system does not give."""
        return self.error(
            f"the {self.title} {path} cannot be read: {error.strerror}",
            hint=f"mend its permissions, or set {STATE_VARIABLE}",
        )

    def _names(self) -> list[str]:
        path = Path(self.directory, self.kind)
        if not os.path.lexists(path):
            return []
        try:
            with _open_directory(path) as directory:
                names = os.listdir(directory)
        except OSError as error:
            raise self.unreadable(path, error) from error
        return sorted(name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX) and name[0] != ".")

    def _path(self, name: str) -> Path:
        return Path(self.directory, self.kind, f"{name}{_SUFFIX}")


class LockedRecord:
    """One record while its directory is open, and, to change it, locked.

    Args:
        records: its kind.
        path: of its file.
        directory: descriptor of its directory.
    """

    __slots__ = ("_directory", "_path", "_records")

    def __init__(self, records: StateRecords, path: Path, directory: int) -> None:
        """Keep them; read nothing yet."""
        self._records = records
        self._path = path
        self._directory = directory

    def read(self, parse: Callable[[Document], _T]) -> _T | None:
        """Return what the record says, or None if there is none; see `StateRecords.read`."""
        try:
            if (kind := self._planted()) is not None:
                raise self._malformed(f"it is {kind}, not a file")
            # Without O_NONBLOCK a named pipe would hang here.
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(self._path.name, flags, dir_fd=self._directory), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise self._malformed("it is not a file")
                data = file.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._records.unreadable(self._path, error) from error
        try:
            return parse(parse_document(data, max_bytes=_MAX_BYTES))
        except DocumentError as error:
            raise self._malformed(str(error)) from error

    def put(self, members: Mapping[str, object]) -> None:
        """Put a record in the place of this one, whole or not at all. A link or pipe there goes, unopened.

        Raises:
            IntegrityError: a directory that is not empty is there.
            OSError: the file system refused or failed.
        """
        self._remove_directory()
        replace_private_file(self._directory, self._path.name, json.dumps(members).encode("ascii") + b"\n")

    def drop(self) -> bool:
        """Remove the record, or the link or pipe in its place, and return whether there was one.

        Raises:
            IntegrityError: a directory that is not empty is there.
            OSError: the file system refused or failed.
        """
        if self._remove_directory():
            return True
        try:
            os.unlink(self._path.name, dir_fd=self._directory)
        except FileNotFoundError:
            return False
        os.fsync(self._directory)
        return True

    def _planted(self) -> str | None:
        """Return what lies in the record's place, if it is nothing that was ever put there."""
        mode = os.stat(self._path.name, dir_fd=self._directory, follow_symlinks=False).st_mode
        kinds = (
            (stat.S_ISREG, None),
            (stat.S_ISDIR, "a directory"),
            (stat.S_ISLNK, "a link"),
            (stat.S_ISFIFO, "a pipe"),
        )
        return next((kind for is_kind, kind in kinds if is_kind(mode)), "a device or socket")

    def _remove_directory(self) -> bool:
        """Remove an empty directory in the record's place. What is below one is somebody else's, and stays."""
        try:
            if self._planted() != "a directory":
                return False
            os.rmdir(self._path.name, dir_fd=self._directory)
        except FileNotFoundError:
            return False
        except OSError as error:
            records, why = self._records, str(error.strerror).lower()
            raise records.error(
                f"a directory is in the place of the {records.title} {self._path}, and cannot be removed: {why}",
                hint=f"look what it is, and remove it yourself; or set {STATE_VARIABLE} to another directory",
            ) from error
        return True

    def _malformed(self, why: str) -> IntegrityError:
        records = self._records
        return records.error(f"the {records.title} {self._path} is malformed: {why}", hint=records.malformed_hint)


@contextmanager
def _open_directory(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    path = directory.with_name(f"{directory.name}.lock")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, f"{path} is not a file")
        take_lock(descriptor, str(directory), wait_seconds=_LOCK_SECONDS)
        yield
    finally:
        os.close(descriptor)  # drops the lock
