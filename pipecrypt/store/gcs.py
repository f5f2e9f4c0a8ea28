"""Make the calls of Google Cloud Storage for one object that gcsfs has no name for, each one attempt of ours.

They go through the session of gcsfs, which holds the user's credentials and options. The tag is an object's generation,
which changes with each write; 0 stands for no object.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from fsspec.asyn import sync

from pipecrypt.errors import StorageError
from pipecrypt.store.conditional import WRITE_ID, ObjectHead
from pipecrypt.store.filesystem import RemoteFilesystem
from pipecrypt.store.problems import too_large
from pipecrypt.store.protocol import Revision

__all__ = ["GCSObject"]

_OBJECT: Final = "b/{}/o/{}"
_REWRITE: Final = "b/{}/o/{}/rewriteTo/b/{}/o/{}"
_JSON: Final = {"Content-Type": "application/json"}
_NOTHING: Final = "0"
_LONGEST_COPY_SECONDS: Final = 3600.0
_READS: Final = 5  # an object may be replaced between two requests


class GCSObject:
    """One object, there or not; see `ConditionalObject`.

    Args:
        remote: the file system and the object's path.
    """

    def __init__(self, remote: RemoteFilesystem) -> None:
        """Call nothing yet."""
        self._fs = remote.fs
        self._seconds = remote.settings.deadline_seconds or None
        self._bucket, self._key, _ = remote.fs.split_path(remote.path)

    def head(self) -> ObjectHead | None:
        """Return what is there, or None if nothing is."""
        try:
            answer = self._call("GET", _OBJECT, self._bucket, self._key, json_out=True)
        except FileNotFoundError:
            return None
        return ObjectHead(int(answer["size"]), (answer.get("metadata") or {}).get(WRITE_ID), str(answer["generation"]))

    def tag_of(self, info: Mapping[str, Any]) -> str | None:
        """Return the tag in what gcsfs says about an object."""
        generation = info.get("generation")
        return None if generation is None else str(generation)

    def read(self, max_bytes: int, name: str) -> Revision | None:
        """Return a whole small object and its tag."""
        for _ in range(_READS):
            head = self.head()
            if head is None:
                return None
            if head.size_bytes > max_bytes:
                raise too_large(name, max_bytes)
            if not head.size_bytes:
                return Revision(b"", head.tag)
            wanted = {"Range": f"bytes=0-{head.size_bytes - 1}"}
            try:
                url = f"{self._fs._location}/download/storage/v1/b/{quote(self._bucket)}/o/{quote(self._key, safe='')}"
                _, data = self._call("GET", url, headers=wanted, alt="media", generation=head.tag)
            except FileNotFoundError:
                continue  # that generation went away a moment ago
            return Revision(bytes(data), head.tag)
        raise TimeoutError(f"{self._key} is replaced all the time")

    def replace(self, data: bytes | bytearray, write_id: str, *, expected: str | None) -> None:
        """Store a whole object in place of one with this tag."""
        described = json.dumps({"name": self._key, "metadata": {WRITE_ID: write_id}}).encode()
        mark = write_id.encode()  # random, so that the data does not hold it
        parts = (
            *(b"--", mark, b"\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n", described, b"\r\n--", mark),
            *(b"\r\nContent-Type: application/octet-stream\r\n\r\n", bytes(data), b"\r\n--", mark, b"--"),
        )
        self._call(
            "POST",
            f"{self._fs._location}/upload/storage/v1/b/{quote(self._bucket)}/o",
            uploadType="multipart",
            ifGenerationMatch=expected or _NOTHING,
            headers={"Content-Type": f'multipart/related; boundary="{write_id}"'},
            data=b"".join(parts),
        )

    def copy_from(self, path: str, head: ObjectHead, *, expected: str | None) -> None:
        """Become a copy of another object, with its metadata."""
        bucket, key, _ = self._fs.split_path(path)
        conditions = {"ifGenerationMatch": expected or _NOTHING, "ifSourceGenerationMatch": head.tag}
        token, end = None, time.monotonic() + _LONGEST_COPY_SECONDS
        while True:  # a large object is copied in several calls
            answer = self._call(
                *("POST", _REWRITE, bucket, key, self._bucket, self._key),
                **(conditions | {"rewriteToken": token}),
                headers=_JSON,
                json_out=True,
            )
            if answer.get("done") is True:
                return
            token = answer.get("rewriteToken")
            if not token:
                raise StorageError(f"the store neither copied {path} nor says how to go on", hint="run again")
            if time.monotonic() >= end:
                raise TimeoutError(f"copying {path} took longer than {_LONGEST_COPY_SECONDS:.0f} s")

    def remove(self, *, expected: str | None) -> None:
        """Remove the object, if it has this tag."""
        self._call("DELETE", _OBJECT, self._bucket, self._key, ifGenerationMatch=expected)

    def _call(self, *arguments: Any, **options: Any) -> Any:
        return sync(self._fs.loop, self._fs._call, *arguments, timeout=self._seconds, **options)
