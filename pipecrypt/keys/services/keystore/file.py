"""Read and replace the file of a keystore, safely among concurrent writers. What is in it is left to its siblings.

Writers take an exclusive lock on the directory, read, and put a new file in the place of the old one (temporary file
with mode 0600, fsync, rename, fsync of the directory). Readers need no lock: they see the old file or the new one.
POSIX systems only.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pipecrypt.errors import KeystoreError, StorageError
from pipecrypt.keys.services.keystore.document import MAX_KEYSTORE_BYTES

__all__ = ["LockedDirectory", "locked_directory", "read_private_file"]

_PRIVATE_FILE: Final = 0o600
_PRIVATE_DIRECTORY: Final = 0o700
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_logger = logging.getLogger(__name__)


class LockedDirectory:
    """A keystore's directory while this process holds its lock.

    Args:
        path: of the keystore, with no symbolic link in it.
        descriptor: of the directory.
    """

    __slots__ = ("_descriptor", "_path")

    def __init__(self, path: Path, descriptor: int) -> None:
        """Keep both; `locked_directory` closes the descriptor."""
        self._path = path
        self._descriptor = descriptor

    def replace(self, data: bytes) -> None:
        """Put a file with `data` in the place of the keystore, whole or not at all.

        Raises:
            OSError: the file system failed or refused; `locked_directory` maps it.
        """
        temporary = f".{self._path.name}.{secrets.token_hex(8)}.tmp"
        # O_EXCL and the mode at creation: at no time is the file open to others, and no planted link is followed.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, _PRIVATE_FILE, dir_fd=self._descriptor)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, self._path.name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=self._descriptor)
            raise
        os.fsync(self._descriptor)


@contextmanager
def locked_directory(path: Path) -> Iterator[LockedDirectory]:
    """Hold the lock of the directory of the keystore `path`; waits for other writers. The directory is made if absent.

    Raises:
        KeystoreError: the file system refused, also inside of the `with` block.
        StorageError: it is full.
    """
    path = _resolve(path)
    try:
        path.parent.mkdir(mode=_PRIVATE_DIRECTORY, parents=True, exist_ok=True)
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield LockedDirectory(path, descriptor)
        finally:
            os.close(descriptor)  # drops the lock
    except OSError as error:
        raise _failed("written", path, error) from error


def read_private_file(path: Path, what: str = "keystore") -> bytes | None:
    """Return the content of a file that only its owner should see, or None if it does not exist.

    Raises:
        KeystoreError: it cannot be read, is no regular file, or is too long.
    """
    try:
        # Without O_NONBLOCK a named pipe would hang here until somebody writes.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise KeystoreError(f"{what} {path} is no regular file")
            data = file.read(MAX_KEYSTORE_BYTES + 1)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _failed("read", path, error, what) from error
    if len(data) > MAX_KEYSTORE_BYTES:
        raise KeystoreError(f"{what} {path} is longer than {MAX_KEYSTORE_BYTES} bytes")
    if mode & _OTHERS:
        _logger.warning("%s %s is open to other users; chmod 600 it", what, path)
    return data


def _resolve(path: Path) -> Path:
    # A symbolic link is kept, and the file that it points to is replaced.
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise _failed("written", path, error) from error


def _failed(verb: str, path: Path, error: Exception, what: str = "keystore") -> KeystoreError | StorageError:
    number = error.errno if isinstance(error, OSError) else None
    reason = os.strerror(number).lower() if number else "no valid path"
    if number in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"{what} {path} cannot be {verb}: {reason}", hint="free some space; nothing was changed")
    hint = "check the permissions of the directory" if number in (errno.EACCES, errno.EPERM, errno.EROFS) else None
    return KeystoreError(f"{what} {path} cannot be {verb}: {reason}", hint=hint)
