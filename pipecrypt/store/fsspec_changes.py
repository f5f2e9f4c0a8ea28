"""Publish, rename and remove files of any storage of fsspec.

A new object is spooled here and uploaded when it is whole: a file object of fsspec that is left after an exception
publishes a short file, on every storage, so none is used. Stores whose uploads are atomic get the upload under the
final name. On all others a temporary name comes first.

Where a file system renames, that is one step. Where it copies, the old name goes once the copy is seen to be whole:
some stores answer before they have copied (Azure), and a death in between leaves both names, never none. Object stores
are told what both names held when they were looked at: a request that arrives late copies and removes nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from fsspec.spec import AbstractFileSystem

from pipecrypt.errors import StorageError
from pipecrypt.store.azure import AzureObject
from pipecrypt.store.conditional import ConditionalObject, ObjectHead, carry_out, repeat_until_known
from pipecrypt.store.filesystem import RemoteFilesystem, fingerprint_of, look_up, size_of
from pipecrypt.store.gcs import GCSObject
from pipecrypt.store.location import Location
from pipecrypt.store.problems import describe, map_errors, occupied, replaced_meanwhile
from pipecrypt.store.publication import Publication, temporary_name, write_fully
from pipecrypt.store.s3_object import S3Object
from pipecrypt.vocabulary.retry import TruncatedError

__all__ = ["RemotePublication", "conditional_object", "make_directories_above", "remove_object", "rename"]

_log = logging.getLogger(__name__)
_GCS: Final = frozenset({"gs", "gcs"})
_AZURE: Final = frozenset({"az", "abfs", "abfss"})
_NOT_OFFERED: Final = frozenset({errno.ENOSYS, errno.EOPNOTSUPP})
_DESCRIPTORS: Final = "/proc/self/fd"
_COMPARE_BYTES: Final = 8 << 20


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


def make_directories_above(remote: RemoteFilesystem) -> None:
    """Make the directories above a path, where the storage has such things."""
    with contextlib.suppress(NotImplementedError, FileExistsError):
        remote.retry.call(lambda: remote.fs.makedirs(remote.fs._parent(remote.path), exist_ok=True))


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
    # The inherited `mv` copies and deletes, and takes names with glob characters for globs. Object stores copy whole
    # objects; what a `mv` of theirs does is not known.
    if type(remote.fs).mv is not AbstractFileSystem.mv and not remote.uploads_whole:
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


def _move(remote: RemoteFilesystem, new: str, size: int) -> None:
    try:
        remote.fs.mv(remote.path, new)
    except Exception:
        # The last attempt may have taken effect, and only its answer was lost.
        found = look_up(replace(remote, path=new)) if look_up(remote) is None else None
        if found is None or found.get("size") != size:
            raise


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
            is_passing=lambda error: isinstance(error, TruncatedError),
        )
    except TruncatedError as error:
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
        raise TruncatedError(f"{0 if info is None else info.get('size')} of {size} bytes are there")
    # A file of the same size was there: it may be that one still, or have had the same bytes all along.
    is_unchanged = before is not None and fingerprint_of(before) == fingerprint_of(info)
    if is_unchanged and not _have_same_bytes(remote, target, size):
        raise TruncatedError("the file from before is there")


def _have_same_bytes(one: RemoteFilesystem, other: RemoteFilesystem, size: int) -> bool:
    starts = range(0, size, _COMPARE_BYTES)
    return all(_piece(one, start, size) == _piece(other, start, size) for start in starts)


def _piece(remote: RemoteFilesystem, start: int, size: int) -> bytes:
    end = min(start + _COMPARE_BYTES, size)
    return bytes(remote.retry.call(lambda: remote.fs.cat_file(remote.path, start=start, end=end)))


# ---- publishing ----


class RemotePublication(Publication):
    """A new object.

    Args:
        location: where the object will be.
        remote: its file system.
        overwrite: whether it may replace another one.
        token: stands in the temporary name.
        is_free: whether it is known that nothing is there; then a store that compares is not asked.

    Raises:
        SinkNotEmptyError: the object exists, and may not be replaced.
        StorageError: the storage refused or failed.
    """

    def __init__(
        self, location: Location, remote: RemoteFilesystem, *, overwrite: bool, token: str, is_free: bool = False
    ) -> None:
        """Look at what is there, unless that is known; make nothing yet."""
        super().__init__(location)
        self._remote = remote
        self._overwrite = overwrite
        parent, slash, _ = self._remote.path.rpartition("/")
        self._temporary = parent + slash + temporary_name(location.name, token)
        with map_errors(f"cannot write {self.name}"):
            is_known = is_free and remote.uploads_whole and self._takes_conditions
            self._seen = None if is_known else self._check_replaceable()
            self._spool = _open_spool()

    def _check_replaceable(self) -> Mapping[str, Any] | None:
        """Return what is there, and may be replaced."""
        info = look_up(self._remote)
        if info is None:
            return None
        # On an object store a name may be an object and the beginning of others.
        if info.get("type") == "directory" and not self._remote.uploads_whole:
            raise StorageError(f"{self.name} is a directory", hint="choose another sink")
        if info.get("type") != "directory" and not self._overwrite:
            raise occupied(self.location)
        return info if info.get("type") != "directory" else None

    @property
    def _fs(self) -> Any:
        return self._remote.fs

    def _append(self, data: memoryview) -> None:
        with map_errors(f"cannot spool {self.name} in {tempfile.gettempdir()}"):
            write_fully(self._spool.fileno(), data)

    def _publish(self) -> None:
        with map_errors(f"cannot publish {self.name}"):
            if self._remote.uploads_whole and (self._seen is None or not self._takes_conditions):
                self._upload()
            else:
                self._upload_beside()
        self._close()

    def _discard(self) -> None:
        self._close()

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            self._spool.close()

    @property
    def _spool_path(self) -> str:
        descriptor = os.path.join(_DESCRIPTORS, str(self._spool.fileno()))
        return descriptor if os.path.exists(descriptor) else str(self._spool.name)

    def _upload_beside(self) -> None:
        """Upload under a temporary name, then rename.

        Also on an object store that replaces: what was there when this was made, and nothing that appeared since. An
        upload of the client takes no such condition, but the store copies with one.
        """
        beside = replace(self._remote, path=self._temporary)
        if not self._remote.uploads_whole:
            make_directories_above(self._remote)
        try:
            self._remote.retry.call(lambda: self._fs.put_file(self._spool_path, self._temporary))
            self._check_size()
            # An upload takes a while: elsewhere than on object stores it is looked at once more.
            replaces = self._seen if self._remote.uploads_whole else self._check_replaceable()
            rename(beside, self._remote.path, self.location, replaces=replaces)
        except BaseException as error:
            self._remove_temporary()
            if isinstance(error, NotImplementedError):
                raise StorageError(
                    f"cannot publish {self.name}: the storage can neither rename nor copy a file",
                    hint="choose another sink: files cannot appear whole in this one",
                ) from error
            raise

    def _upload(self) -> None:
        def send() -> None:
            mode = "overwrite" if self._overwrite and not self._takes_conditions else "create"
            self._fs.put_file(self._spool_path, self._remote.path, mode=mode)

        repeat_until_known(send, self._look_after, self.location, self._remote.retry)

    def _look_after(self, error: Exception) -> Exception | None:
        """Say what a failed upload left there; see `settle`. What is there is ours if it has our bytes."""
        is_there, is_ours = self._compare()
        if is_ours:
            return None
        if is_there and not self._overwrite:
            return occupied(self.location)
        if is_there and self._takes_conditions:
            return replaced_meanwhile(self.location)
        return error

    @property
    def _takes_conditions(self) -> bool:
        return conditional_object(self._remote) is not None

    def _compare(self) -> tuple[bool, bool]:
        """Return whether an object is there, and whether it has the bytes of the spool."""
        size = os.fstat(self._spool.fileno()).st_size
        info = look_up(self._remote)
        if info is None or size_of(info, self.name) != size:
            return info is not None, False
        starts = range(0, size, _COMPARE_BYTES)
        return True, all(
            os.pread(self._spool.fileno(), min(_COMPARE_BYTES, size - start), start)
            == _piece(self._remote, start, size)
            for start in starts
        )

    def _check_size(self) -> None:
        expected = os.fstat(self._spool.fileno()).st_size
        stored = size_of(self._remote.retry.call(lambda: self._fs.info(self._temporary)), self.name)
        if stored != expected:
            raise StorageError(f"the storage kept {stored} of {expected} bytes of {self.name}")

    def _remove_temporary(self) -> None:
        try:
            self._fs.rm_file(self._temporary)
        except FileNotFoundError:
            return
        except Exception as error:
            _log.warning("cannot remove the temporary file of %s: %s", self.name, describe(error))


def _open_spool() -> Any:
    """Return a file that only this user can read; on Linux it has no name, so that a crash leaves nothing."""
    if os.path.isdir(_DESCRIPTORS):
        return tempfile.TemporaryFile(prefix="pipecrypt-", buffering=0)
    return tempfile.NamedTemporaryFile(prefix="pipecrypt-", buffering=0)
