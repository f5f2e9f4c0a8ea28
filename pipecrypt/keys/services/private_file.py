"""Read small files that only their owner should see: keystores, PEM files, tokens. What is in them is the caller's."""

from __future__ import annotations

import errno
import logging
import os
import stat
from pathlib import Path
from typing import Final

from pipecrypt.errors import KeystoreError, StorageError
from pipecrypt.vocabulary.once import warn_once

__all__ = ["MAX_PRIVATE_FILE_BYTES", "file_failure", "read_private_file"]

MAX_PRIVATE_FILE_BYTES: Final = 16 * 1024 * 1024
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_logger = logging.getLogger(__name__)


def read_private_file(path: Path, what: str) -> bytes | None:
    """Return the content of a file that only its owner should see, or None if it does not exist.

    Args:
        path: of the file.
        what: it is, for errors and warnings, such as "private key".

    Raises:
        KeystoreError: it cannot be read, is not a regular file, or is longer than `MAX_PRIVATE_FILE_BYTES`.
    """
    try:
        # Without O_NONBLOCK a named pipe would hang here until somebody writes.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise KeystoreError(f"{what} {path} is not a regular file")
            data = file.read(MAX_PRIVATE_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise file_failure(error, what, path, "read") from error
    if len(data) > MAX_PRIVATE_FILE_BYTES:
        raise KeystoreError(f"{what} {path} is longer than {MAX_PRIVATE_FILE_BYTES} bytes")
    if mode & _OTHERS:
        warn_once(_logger, "%s %s is open to other users; chmod 600 it", what, path)
    return data


def file_failure(error: Exception, what: str, path: Path, verb: str) -> KeystoreError | StorageError:
    """Return the error to raise where the file system failed or refused.

    Args:
        error: of the file system, or of a path that is none.
        what: the file is.
        path: of the file.
        verb: what could not be done, "read" or "written".
    """
    number = error.errno if isinstance(error, OSError) else None
    reason = os.strerror(number).lower() if number else "no valid path"
    if number in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"{what} {path} cannot be {verb}: {reason}", hint="free some space; nothing was changed")
    hint = "check the permissions of the directory" if number in (errno.EACCES, errno.EPERM, errno.EROFS) else None
    return KeystoreError(f"{what} {path} cannot be {verb}: {reason}", hint=hint)
