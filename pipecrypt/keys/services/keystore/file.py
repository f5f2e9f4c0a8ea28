"""Replace the file of a keystore, safely among concurrent writers. Reading is left to private_file, text to document.

Writers take an exclusive lock on the directory, read, and put a new file in the place of the old one (temporary file
with mode 0600, fsync, rename, fsync of the directory). Readers need no lock: they see the old file or the new one. What
a writer left that was killed before its rename holds all keys of that time under the secret of that time, so the next
one removes it.
POSIX systems only.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pipecrypt.errors import KeystoreError
from pipecrypt.keys.services.private_file import file_failure
from pipecrypt.vocabulary.state import take_lock

__all__ = ["LockedDirectory", "locked_directory"]

_LOCK_SECONDS: Final = 60.0  # passphrases are stretched under the lock, which takes seconds
_PRIVATE_FILE: Final = 0o600
_RANDOM_BYTES: Final = 8
_PRIVATE_DIRECTORY: Final = 0o700


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
        self._remove_leftovers()
        temporary = f".{self._path.name}.{secrets.token_hex(_RANDOM_BYTES)}.tmp"
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

    def _remove_leftovers(self) -> None:
        # Whoever holds the lock is the only writer, so none of these is still being written.
        leftover = re.compile(rf"\.{re.escape(self._path.name)}\.[0-9a-f]{{{2 * _RANDOM_BYTES}}}\.tmp")
        for name in os.listdir(self._descriptor):
            if leftover.fullmatch(name) is None:
                continue
            if stat.S_ISREG(os.stat(name, dir_fd=self._descriptor, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=self._descriptor)


@contextmanager
def locked_directory(path: Path) -> Iterator[LockedDirectory]:
    """Hold the lock of the directory of the keystore `path`; waits for other writers. The directory is made if absent.

    Raises:
        KeystoreError: the file system refused, also inside of the `with` block.
        StorageError: it is full.
        ConflictError: another process holds the lock for long.
    """
    path = _resolve(path)
    try:
        path.parent.mkdir(mode=_PRIVATE_DIRECTORY, parents=True, exist_ok=True)
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            take_lock(descriptor, str(path.parent), wait_seconds=_LOCK_SECONDS)
            yield LockedDirectory(path, descriptor)
        finally:
            os.close(descriptor)  # drops the lock
    except OSError as error:
        raise file_failure(error, "keystore", path, "written") from error


def _resolve(path: Path) -> Path:
    # A symbolic link is kept, and the file that it points to is replaced. One that leads nowhere makes nothing there.
    try:
        for each in (path, *path.parents):
            if each.is_symlink() and not each.exists():
                raise KeystoreError(f"keystore {path} cannot be written: {each} is a link that leads nowhere")
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise file_failure(error, "keystore", path, "written") from error
