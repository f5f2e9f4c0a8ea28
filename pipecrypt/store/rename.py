"""Give a file another name on a storage that is not local. When it is safe to replace what is there is left to others.

Where a file system renames, that is one step. Where it copies, the old name goes once the copy is seen to be whole:
some stores answer before they have copied (Azure), and a death in between leaves both names, never none. Object stores
are told what both names held when they were looked at: a request that arrives late copies and removes nothing else.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from fsspec.spec import AbstractFileSystem

from pipecrypt.errors import StorageError
from pipecrypt.store.azure import AzureObject
from pipecrypt.store.conditional import ConditionalObject, ObjectHead, carry_out
from pipecrypt.store.filesystem import RemoteFilesystem, fingerprint_of, look_up, size_of
from pipecrypt.store.gcs import GCSObject
from pipecrypt.store.location import Location
from pipecrypt.store.problems import replaced_meanwhile
from pipecrypt.store.s3_object import S3Object

__all__ = ["conditional_object", "remove_object", "rename"]

_GCS: Final = frozenset({"gs", "gcs"})
_AZURE: Final = frozenset({"az", "abfs", "abfss"})

_COMPARE_BYTES: Final = 8 << 20
_NOT_OFFERED: Final = frozenset({errno.ENOSYS, errno.EOPNOTSUPP})


class _PartialCopyError(Exception):
    """A copy is not whole yet."""


def conditional_object(remote: RemoteFilesystem) -> ConditionalObject | None:
    """Return an object of a store that takes conditions; None for storages that have none."""
    if remote.is_s3:
        s3 = S3Object(remote)
        return s3 if s3.takes_conditions else None
    if remote.protocol in _GCS and hasattr(remote.fs, "_call"):
        return GCSObject(remote)
    if remote.protocol in _AZURE and hasattr(remote.fs, "service_client"):
        return AzureObject(remote)
    return None


def rename(
    remote: RemoteFilesystem,
    new: str,
    place: Location,
    *,
    fingerprint: str | None = None,
    replaces: Mapping[str, Any] | None = None,
) -> None:
    """Give a file another name, replacing what has it; doing it again after a failure or a death is safe.

    Args:
        remote: the file under its old name.
        new: the path of its new one, in the file system's own spelling.
        place: what errors call the new one.
        fingerprint: of the file, where the caller has looked at it.
        replaces: what fsspec said about the new name, where the caller has looked at it; else it is looked at now.

    Raises:
        FileNotFoundError: no file has the old name.
        ConflictError: another process has changed one of the two meanwhile, or nobody knows what became of a request.
        NotImplementedError: the storage offers neither renaming nor copying; nothing was done.
        StorageError: what the new name has did not become the file; both names stay.
        Exception: of the file system; the file has its old name, its new one, or both.
    """
    info = look_up(remote)
    if info is None:
        raise FileNotFoundError(errno.ENOENT, "there is no such file", remote.path)
    if fingerprint is not None and fingerprint_of(info) != fingerprint:
        raise replaced_meanwhile(place)
    size = size_of(info, remote.path)
    if _renames(remote):
        remote.retry.call(lambda: _move(remote, new, size))
    else:
        _copy(remote, info, new, place, replaces)
        remove_object(remote, info, place)


def remove_object(remote: RemoteFilesystem, info: Mapping[str, Any], place: Location) -> None:
    """Remove a file that was looked at, and nothing that has come in its place; one that is gone is fine.

    Args:
        remote: the file.
        info: what fsspec said about it.
        place: what errors call it.

    Raises:
        ConflictError: another process has replaced it meanwhile, or nobody knows what became of the request.
        Exception: of the file system.
    """
    target = conditional_object(remote)
    tag = None if target is None else target.tag_of(info)
    if target is not None and tag is not None:

        def send() -> None:
            target.remove(expected=tag)

        if carry_out(target, send, lambda head: head is None, expected=tag, location=place, retry=remote.retry):
            return
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


def _copy(
    remote: RemoteFilesystem, info: Mapping[str, Any], new: str, place: Location, replaces: Mapping[str, Any] | None
) -> None:
    target, size = replace(remote, path=new), size_of(info, remote.path)
    before = look_up(target) if replaces is None else replaces
    try:
        if not _copy_on_condition(remote, target, info, before, place):
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
            f"the copy at {place.display} is not whole: {error}",
            hint="wait until the storage has copied it, then run again",
        ) from error


def _copy_on_condition(
    remote: RemoteFilesystem,
    target: RemoteFilesystem,
    info: Mapping[str, Any],
    before: Mapping[str, Any] | None,
    place: Location,
) -> bool:
    """Copy where the store compares what both names hold; say whether it does."""
    one, other = conditional_object(remote), conditional_object(target)
    tag = None if one is None else one.tag_of(info)
    if one is None or other is None or tag is None:
        return False
    is_there = before is not None and before.get("type") != "directory"
    expected = other.tag_of(before) if before is not None and is_there else None
    if is_there and expected is None:
        return False
    head = one.head()
    if head is None or head.tag != tag:
        raise replaced_meanwhile(place)

    def is_done(found: ObjectHead | None) -> bool:
        if found is None or found.size_bytes != head.size_bytes:
            return False
        if head.write_id is not None:
            return found.write_id == head.write_id
        return _have_same_bytes(remote, target, head.size_bytes)

    def send() -> None:
        other.copy_from(remote.path, head, expected=expected)

    return carry_out(other, send, is_done, expected=expected, location=place, retry=remote.retry)


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
