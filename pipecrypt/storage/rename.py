"""Give a file another name on a storage that is not local. When it is safe to replace what is there is left to others.

Where a file system renames, that is one step. Where it copies, the old name goes once the copy is seen to be whole:
some stores answer before they have copied (Azure), and a death in between leaves both names, never none.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from fsspec.spec import AbstractFileSystem

from pipecrypt.errors import StorageError
from pipecrypt.storage.filesystem import RemoteFilesystem, fingerprint_of, look_up, size_of

__all__ = ["rename"]

_COMPARE_BYTES: Final = 8 << 20
_NOT_OFFERED: Final = frozenset({errno.ENOSYS, errno.EOPNOTSUPP})


class _PartialCopyError(Exception):
    """A copy is not whole yet."""


def rename(remote: RemoteFilesystem, new: str, name: str) -> None:
    """Give a file another name, replacing what has it; doing it again after a failure or a death is safe.

    Args:
        remote: the file under its old name.
        new: the path of its new one, in the file system's own spelling.
        name: what errors call the new one.

    Raises:
        FileNotFoundError: no file has the old name.
        NotImplementedError: the storage offers neither renaming nor copying; nothing was done.
        StorageError: what the new name has did not become the file; both names stay.
        Exception: of the file system; the file has its old name, its new one, or both.
    """
    info = look_up(remote)
    if info is None:
        raise FileNotFoundError(errno.ENOENT, "there is no such file", remote.path)
    size = size_of(info, remote.path)
    if _renames(remote):
        remote.retry.call(lambda: _move(remote, new, size))
    else:
        _copy(remote, new, size, name)
        with contextlib.suppress(FileNotFoundError):
            remote.retry.call(lambda: remote.fs.rm_file(remote.path))


def _renames(remote: RemoteFilesystem) -> bool:
    # The inherited `mv` copies and deletes, and takes names with glob characters for globs. Object stores copy whole
    # objects; what a `mv` of theirs does is not known.
    return type(remote.fs).mv is not AbstractFileSystem.mv and not remote.uploads_whole


def _move(remote: RemoteFilesystem, new: str, size: int) -> None:
    try:
        remote.fs.mv(remote.path, new)
    except Exception:
        if not _is_moved(remote, new, size):
            raise


def _is_moved(remote: RemoteFilesystem, new: str, size: int) -> bool:
    """Say whether the last attempt took effect, and only its answer was lost."""
    found = look_up(replace(remote, path=new)) if look_up(remote) is None else None
    return found is not None and found.get("size") == size


def _copy(remote: RemoteFilesystem, new: str, size: int, name: str) -> None:
    target = replace(remote, path=new)
    before = look_up(target)
    try:
        remote.retry.call(lambda: remote.fs.cp_file(remote.path, new))
    except OSError as error:
        if error.errno in _NOT_OFFERED:
            raise NotImplementedError(str(error)) from error
        raise
    try:
        remote.retry.call(
            lambda: _check_copy(remote, target, size, before),
            is_passing=lambda error: isinstance(error, _PartialCopyError),
        )
    except _PartialCopyError as error:
        raise StorageError(
            f"the copy at {name} is not whole: {error}",
            hint="wait until the storage has copied it, then run again",
        ) from error


def _check_copy(
    remote: RemoteFilesystem, target: RemoteFilesystem, size: int, before: Mapping[str, Any] | None
) -> None:
    info = look_up(target)
    if info is None or info.get("size") != size:
        raise _PartialCopyError(f"{0 if info is None else info.get('size')} of {size} bytes are there")
    # A file of the same size was there: it may be that one still, or have had the same bytes all along.
    is_unchanged = before is not None and fingerprint_of(before) == fingerprint_of(info)
    if is_unchanged and not _have_same_bytes(remote, target, size):
        raise _PartialCopyError("the file from before is there")


def _have_same_bytes(one: RemoteFilesystem, other: RemoteFilesystem, size: int) -> bool:
    starts = range(0, size, _COMPARE_BYTES)
    return all(_piece(one, start, size) == _piece(other, start, size) for start in starts)


def _piece(remote: RemoteFilesystem, start: int, size: int) -> bytes:
    end = min(start + _COMPARE_BYTES, size)
    return bytes(remote.retry.call(lambda: remote.fs.cat_file(remote.path, start=start, end=end)))
