"""Move a file to another name on its storage, replacing what is there. When it is safe to is left to the callers.

On a file system of the operating system that is one step. Elsewhere the storage renames, or copies and then removes the
old name (see rename); where it offers neither, the file is read and written. After a death in between there are both
names, and moving once more ends it.
"""

from __future__ import annotations

import contextlib
import errno
from typing import Final

from pipecrypt.errors import StorageError
from pipecrypt.store.beneath import move, remove_directory, remove_empty
from pipecrypt.store.exclusive import remove_file
from pipecrypt.store.filesystem import RemoteFilesystem, open_filesystem
from pipecrypt.store.inventory import pin_regular
from pipecrypt.store.listing import SourceFile
from pipecrypt.store.location import Location
from pipecrypt.store.problems import map_errors
from pipecrypt.store.rename import rename
from pipecrypt.store.sink import open_sink
from pipecrypt.store.source import open_range_source

__all__ = ["move_file", "remove_empty_directories", "remove_if_empty"]

_PIECE_BYTES: Final = 4 << 20


def move_file(old: Location, new: Location, *, fingerprint: str | None = None) -> None:
    """Give a file another name on the same storage; directories above it are made.

    The old name goes once the file is seen whole under the new one.

    Args:
        old: its name.
        new: the other one.
        fingerprint: of the file, where the caller has looked at it; compared where the storage is not local.

    Raises:
        LinkError: one of the two places, or what leads to it, is a link that the caller did not name.
        ConflictError: another process has changed one of the two meanwhile, or nobody knows what became of a request.
        StorageError: the storage refused or failed; the file has its old name still, or both.
    """
    with map_errors(f"cannot move {old.display} to {new.display}"):
        try:
            if old.is_local:
                _move_local(old, new)
            else:
                _move_remote(open_filesystem(old), open_filesystem(new), new, fingerprint)
        except NotImplementedError:
            _rewrite(old, new)


def remove_empty_directories(directory: Location) -> None:
    """Remove a directory and those below it, as far as they hold no file; only local ones outlive their files.

    Raises:
        LinkError: it, or what leads to it, is a link that the caller did not name.
    """
    if directory.is_local:
        remove_empty(directory)


def remove_if_empty(directory: Location) -> None:
    """Remove one local directory, if it holds nothing; otherwise as `remove_empty_directories`."""
    if directory.is_local:
        with contextlib.suppress(OSError):
            remove_directory(directory)


def _move_remote(source: RemoteFilesystem, target: RemoteFilesystem, new: Location, fingerprint: str | None) -> None:
    if not target.uploads_whole:
        with contextlib.suppress(NotImplementedError, FileExistsError):
            target.retry.call(lambda: target.fs.makedirs(target.fs._parent(target.path), exist_ok=True))
    try:
        rename(source, target.path, new, fingerprint=fingerprint)
    except OSError as error:
        if not isinstance(error, FileExistsError) and error.errno != errno.EEXIST:
            raise
        # Some servers (SMB) rename to a free name only. Until they have, the file has its old one.
        remove_file(new)
        rename(source, target.path, new, fingerprint=fingerprint)


def _rewrite(old: Location, new: Location) -> None:
    """Write the file once more, and remove the old one."""
    source = _pinned(old)
    with open_sink(new, overwrite=True, expected_bytes=source.size_bytes) as sink:
        with open_range_source(source) as opened:
            for start in range(0, source.size_bytes, _PIECE_BYTES):
                sink.write(opened.read_range(start, min(_PIECE_BYTES, source.size_bytes - start)))
        sink.publish()
    written = _pinned(new).size_bytes
    if written != source.size_bytes:
        raise StorageError(f"the storage kept {written} of {source.size_bytes} bytes of {new.display}")
    remove_file(old)


def _pinned(location: Location) -> SourceFile:
    found = pin_regular(location, location.name)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, f"there is no file {location.display}")
    return found


def _move_local(old: Location, new: Location) -> None:
    try:
        move(old, new)
    except OSError as error:
        if error.errno == errno.EXDEV:  # a directory of the dataset is a file system of its own
            raise NotImplementedError(str(error)) from error
        raise
