"""Move a file to another name on its storage, replacing what is there. When it is safe to is left to the callers.

On a file system of the operating system that is one step. Elsewhere the storage copies, whole or not at all, and then
removes the old name: after a crash in between there are both, and moving once more ends it.
"""

from __future__ import annotations

import contextlib
import os

from pipecrypt.storage.exclusive import remove_file
from pipecrypt.storage.filesystem import open_filesystem
from pipecrypt.storage.location import Location
from pipecrypt.storage.problems import map_errors

__all__ = ["move_file", "remove_empty_directories"]


def move_file(old: Location, new: Location) -> None:
    """Give a file another name on the same storage; directories above it are made.

    Raises:
        StorageError: the storage refused or failed; the file has its old name still, or both.
    """
    with map_errors(f"cannot move {old.display} to {new.display}"):
        if old.is_local:
            _move_local(old.local_path, new.local_path)
            return
        source, target = open_filesystem(old), open_filesystem(new)
        with contextlib.suppress(NotImplementedError, FileExistsError):
            target.fs.makedirs(target.fs._parent(target.path), exist_ok=True)
        target.retry.call(lambda: target.fs.cp_file(source.path, target.path))
    remove_file(old)


def remove_empty_directories(directory: Location) -> None:
    """Remove a directory and those below it, as far as they hold no file; only local ones outlive their files."""
    if not directory.is_local:
        return
    for path, _, _ in os.walk(directory.local_path, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(path)


def _move_local(old: str, new: str) -> None:
    directory = os.path.dirname(new) or "."
    os.makedirs(directory, exist_ok=True)
    os.rename(old, new)
    for path in {directory, os.path.dirname(old) or "."}:
        with contextlib.suppress(OSError):  # the file is moved; whether that survives a power failure is unknown
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
