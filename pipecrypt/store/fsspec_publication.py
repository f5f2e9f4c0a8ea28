"""Publish an object on any storage of fsspec: spool it here, upload it when it is whole.

A file object of fsspec that is left after an exception publishes a short file, on every storage, so none is used.
Stores whose uploads are atomic get the upload under the final name. On all others a temporary name comes first.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from pipecrypt.errors import StorageError
from pipecrypt.store.conditional import repeat_until_known
from pipecrypt.store.filesystem import RemoteFilesystem, look_up, size_of
from pipecrypt.store.location import Location
from pipecrypt.store.problems import describe, map_errors, occupied, replaced_meanwhile
from pipecrypt.store.publication import Publication, temporary_name, write_fully
from pipecrypt.store.rename import conditional_object, rename

__all__ = ["RemotePublication"]

_log = logging.getLogger(__name__)
_DESCRIPTORS: Final = "/proc/self/fd"
_COMPARE_BYTES: Final = 8 << 20


class RemotePublication(Publication):
    """A new object.

    Args:
        location: where the object will be.
        remote: its file system.
        overwrite: whether it may replace another one.
        token: stands in the temporary name.

    Raises:
        SinkNotEmptyError: the object exists, and may not be replaced.
        StorageError: the storage refused or failed.
    """

    def __init__(self, location: Location, remote: RemoteFilesystem, *, overwrite: bool, token: str) -> None:
        """Look at what is there; make nothing yet."""
        super().__init__(location)
        self._remote = remote
        self._overwrite = overwrite
        parent, slash, _ = self._remote.path.rpartition("/")
        self._temporary = parent + slash + temporary_name(location.name, token)
        with map_errors(f"cannot write {self.name}"):
            self._seen = self._check_replaceable()
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
            if self._remote.uploads_whole and self._seen is not None and self._takes_conditions:
                self._upload_beside()
            elif self._remote.uploads_whole:
                self._upload()
            else:
                self._upload_and_rename()
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
        """Replace what was there when this was made, and nothing that appeared since.

        An upload of the client takes no such condition: so a temporary object is uploaded, and the store copies it.
        """
        beside = replace(self._remote, path=self._temporary)
        try:
            self._remote.retry.call(lambda: self._fs.put_file(self._spool_path, self._temporary))
            self._check_size()
            rename(beside, self._remote.path, self.location, replaces=self._seen)
        except BaseException:
            self._remove_temporary()
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
        for start in range(0, size, _COMPARE_BYTES):
            end = min(start + _COMPARE_BYTES, size)
            ours = os.pread(self._spool.fileno(), end - start, start)
            if self._stored(start, end) != ours:
                return True, False
        return True, True

    def _stored(self, start: int, end: int) -> bytes:
        return bytes(self._remote.retry.call(lambda: self._fs.cat_file(self._remote.path, start=start, end=end)))

    def _upload_and_rename(self) -> None:
        with contextlib.suppress(NotImplementedError, FileExistsError):
            self._fs.makedirs(self._fs._parent(self._remote.path), exist_ok=True)
        try:
            self._remote.retry.call(lambda: self._fs.put_file(self._spool_path, self._temporary))
            self._check_size()
            self._check_replaceable()  # once more: an upload takes a while
            self._rename()
        except BaseException:
            self._remove_temporary()
            raise

    def _rename(self) -> None:
        try:
            rename(replace(self._remote, path=self._temporary), self._remote.path, self.location)
        except NotImplementedError as error:
            raise StorageError(
                f"cannot publish {self.name}: the storage can neither rename nor copy a file",
                hint="choose another sink: files cannot appear whole in this one",
            ) from error

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
