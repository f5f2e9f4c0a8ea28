"""Make the calls of Azure Blob Storage for one blob that adlfs has no name for, each one attempt of ours.

They go through the client of adlfs, which holds the user's credentials and options.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

from fsspec.asyn import sync

from pipecrypt.errors import StorageError
from pipecrypt.store.conditional import WRITE_ID, ObjectHead
from pipecrypt.store.filesystem import RemoteFilesystem
from pipecrypt.store.problems import too_large
from pipecrypt.store.protocol import Revision

__all__ = ["AzureObject"]

_T = TypeVar("_T")
_WRITE_ID: Final = WRITE_ID.replace("-", "_")  # names of metadata are identifiers there
_NOT_FOUND: Final = 404
_POLL_SECONDS: Final = 0.2
_LONGEST_COPY_SECONDS: Final = 3600.0


class AzureObject:
    """One blob, there or not; see `ConditionalObject`.

    Args:
        remote: the file system and the blob's path.
    """

    def __init__(self, remote: RemoteFilesystem) -> None:
        """Call nothing yet."""
        self._fs = remote.fs
        self._seconds = remote.settings.deadline_seconds or None
        self._container, self._name, _ = remote.fs.split_path(remote.path)

    def head(self) -> ObjectHead | None:
        """Return what is there, or None if nothing is."""

        async def head() -> ObjectHead:
            async with self._client() as blob:
                found = await blob.get_blob_properties()
            metadata = {str(name).lower(): value for name, value in (found.metadata or {}).items()}
            return ObjectHead(int(found.size), metadata.get(_WRITE_ID), str(found.etag))

        return self._found(head)

    def tag_of(self, info: Mapping[str, Any]) -> str | None:
        """Return the tag in what adlfs says about a blob."""
        return info.get("etag")

    def read(self, max_bytes: int, name: str) -> Revision | None:
        """Return a whole small blob and its tag."""

        async def read() -> Revision:
            async with self._client() as blob:
                stream = await blob.download_blob()
                if stream.properties.size > max_bytes:
                    raise too_large(name, max_bytes)
                return Revision(bytes(await stream.readall()), str(stream.properties.etag))

        return self._found(read)

    def replace(self, data: bytes | bytearray, write_id: str, *, expected: str | None) -> None:
        """Store a whole blob in place of one with this tag."""

        async def replace() -> None:
            marks = {"is_directory": "false", _WRITE_ID: write_id}
            async with self._client() as blob:
                await blob.upload_blob(
                    bytes(data), overwrite=expected is not None, metadata=marks, **_condition(expected)
                )

        self._sync(replace)

    def copy_from(self, path: str, head: ObjectHead, *, expected: str | None) -> None:
        """Become a copy of another blob, with its metadata; returns when all of it is copied."""
        container, name, _ = self._fs.split_path(path)

        async def copy() -> None:
            async with self._client() as blob, self._fs.service_client.get_blob_client(container, name) as source:
                condition = _condition(expected) if expected is not None else _absent()
                begun = blob.start_copy_from_url(
                    source.url, **condition, source_etag=head.tag, source_match_condition=_unchanged()
                )
                await asyncio.wait_for(begun, self._seconds)
                await self._wait_for_copy(blob, path)

        sync(self._fs.loop, copy, timeout=_LONGEST_COPY_SECONDS)

    def remove(self, *, expected: str | None) -> None:
        """Remove the blob, if it has this tag."""

        async def remove() -> None:
            async with self._client() as blob:
                await blob.delete_blob(delete_snapshots="include", **_condition(expected))

        self._sync(remove)

    async def _wait_for_copy(self, blob: Any, path: str) -> None:
        end = time.monotonic() + _LONGEST_COPY_SECONDS
        while (status := await self._copy_status(blob)) == "pending":
            if time.monotonic() >= end:
                raise TimeoutError(f"copying {path} takes longer than {_LONGEST_COPY_SECONDS:.0f} s")
            await asyncio.sleep(_POLL_SECONDS)
        if status is None:  # what is there is not a copy: another writer has replaced it
            raise FileExistsError(f"{self._name} was replaced while {path} was copied there")
        if status != "success":
            raise StorageError(f"the store did not copy {path}: it says {status!r}", hint="run again")

    async def _copy_status(self, blob: Any) -> str | None:
        found = await asyncio.wait_for(blob.get_blob_properties(), self._seconds)
        return None if found.copy.status is None else str(found.copy.status)

    def _client(self) -> Any:
        return self._fs.service_client.get_blob_client(self._container, self._name)

    def _sync(self, action: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        return sync(self._fs.loop, action, timeout=self._seconds)  # type: ignore[no-any-return]

    def _found(self, action: Callable[[], Coroutine[Any, Any, _T]]) -> _T | None:
        try:
            return self._sync(action)
        except Exception as error:
            if getattr(error, "status_code", None) == _NOT_FOUND:
                return None
            raise


def _condition(tag: str | None) -> dict[str, Any]:
    return {} if tag is None else {"etag": tag, "match_condition": _unchanged()}


def _unchanged() -> Any:
    from azure.core import MatchConditions  # noqa: PLC0415 - of an extra

    return MatchConditions.IfNotModified


def _absent() -> dict[str, Any]:
    from azure.core import MatchConditions  # noqa: PLC0415 - of an extra

    return {"match_condition": MatchConditions.IfMissing}
