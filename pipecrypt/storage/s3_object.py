"""Make the calls of S3 for one object, each one attempt. Trying again and what an answer means are left to the callers.

They go through s3fs, which holds the user's credentials and options, past its file objects: those publish a short
object after an exception, and hide what a store answered.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from fsspec.asyn import sync

from pipecrypt.store.conditional import WRITE_ID, ObjectHead
from pipecrypt.store.filesystem import RemoteFilesystem
from pipecrypt.vocabulary.retry import TruncatedError

__all__ = ["S3Object", "copied_ranges"]

_IF_ABSENT: Final = {"IfNoneMatch": "*"}
_MOST_COPIED_BYTES: Final = 5 << 30  # in one request
_COPIED_PART_BYTES: Final = 256 << 20  # the answer comes when the part is copied: small enough for usual timeouts
_MOST_COPIED_PARTS: Final = 9_000


class S3Object:
    """One object, there or not.

    Args:
        remote: the file system and the object's path.
    """

    def __init__(self, remote: RemoteFilesystem) -> None:
        """Call nothing yet."""
        self._fs = remote.fs
        self._seconds = remote.settings.deadline_seconds  # a call that hangs ends then; 0: with its socket
        bucket, key, self._version = remote.fs.split_path(remote.path)
        self._place: dict[str, Any] = {"Bucket": bucket, "Key": key}

    @property
    def takes_conditions(self) -> bool:
        """Whether the object may be replaced and copied here: not one version of it, nor one under the user's key."""
        # The source of a copy would need these keys under other names.
        has_own_key = any(name.startswith("SSECustomer") for name in self._fs.s3_additional_kwargs)
        return self._version is None and not has_own_key

    def head(self) -> ObjectHead | None:
        """Return what is there, or None if nothing is."""
        try:
            answer = self._call("head_object")
        except FileNotFoundError:
            return None
        metadata = {str(name).lower(): value for name, value in answer.get("Metadata", {}).items()}
        return ObjectHead(int(answer["ContentLength"]), metadata.get(WRITE_ID), answer.get("ETag"))

    def tag_of(self, info: Mapping[str, Any]) -> str | None:
        """Return the tag in what s3fs says about an object; see `ConditionalObject`."""
        return info.get("ETag")

    def read(self, max_bytes: int) -> tuple[bytes, str] | None:
        """Return the beginning of an object, and its tag; see `ConditionalObject`."""
        try:
            answer, data = sync(self._fs.loop, _get_whole, self._fs, self._place, max_bytes, timeout=self._seconds)
        except FileNotFoundError:
            return None
        return data, str(answer["ETag"])

    def replace(self, data: bytes | bytearray, write_id: str, *, expected: str | None) -> None:
        """Store a whole object in place of one with this tag; see `ConditionalObject`."""
        self.put(data, write_id, if_absent=expected is None, if_match=expected)

    def copy_from(self, path: str, head: ObjectHead, *, expected: str | None) -> None:
        """Become a copy of another object, with its metadata; see `ConditionalObject`."""
        bucket, key, _ = self._fs.split_path(path)
        source = {"CopySource": {"Bucket": bucket, "Key": key}, "CopySourceIfMatch": head.tag}
        condition = _condition(if_absent=expected is None, if_match=expected)
        if head.size_bytes <= _MOST_COPIED_BYTES:
            self._call("copy_object", **source, **condition)
        else:
            self._copy_in_parts(source, head, condition)

    def _copy_in_parts(self, source: dict[str, Any], head: ObjectHead, condition: dict[str, str]) -> None:
        upload_id = self.begin_upload(head.write_id or "")
        try:
            parts = []
            for number, (start, end) in enumerate(copied_ranges(head.size_bytes), 1):
                chosen = {"UploadId": upload_id, "PartNumber": number, "CopySourceRange": f"bytes={start}-{end - 1}"}
                copied = self._call("upload_part_copy", **source, **chosen)
                parts.append(str(copied["CopyPartResult"]["ETag"]))
            self._complete(upload_id, parts, condition)
        except BaseException:
            with contextlib.suppress(Exception):  # another error is on its way
                self.abort_upload(upload_id)
            raise

    def put(
        self, data: bytes | bytearray, write_id: str, *, if_absent: bool = False, if_match: str | None = None
    ) -> None:
        """Store a whole object."""
        condition = _condition(if_absent=if_absent, if_match=if_match)
        self._call("put_object", Body=data, Metadata=self._metadata(write_id), **condition)

    def begin_upload(self, write_id: str) -> str:
        """Begin an upload in parts and return its id."""
        return str(self._call("create_multipart_upload", Metadata=self._metadata(write_id))["UploadId"])

    def put_part(self, upload_id: str, number: int, data: bytes | bytearray) -> str:
        """Store a part (numbers from 1) and return its tag; the same number again replaces it."""
        answer = self._call("upload_part", UploadId=upload_id, PartNumber=number, Body=data)
        return str(answer["ETag"])

    def complete_upload(
        self, upload_id: str, tags: Sequence[str], *, if_absent: bool = False, if_match: str | None = None
    ) -> None:
        """Make the object appear, of the parts with these tags."""
        self._complete(upload_id, tags, _condition(if_absent=if_absent, if_match=if_match))

    def _complete(self, upload_id: str, tags: Sequence[str], condition: dict[str, str]) -> None:
        parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]
        self._call("complete_multipart_upload", UploadId=upload_id, MultipartUpload={"Parts": parts}, **condition)

    def abort_upload(self, upload_id: str) -> None:
        """Drop one upload and its parts, if it is still there. Uploads of others are never touched."""
        try:
            self._call("abort_multipart_upload", UploadId=upload_id)
        except FileNotFoundError:
            return

    def get(self, start: int, length: int, tag: str | None) -> bytes:
        """Return a range of an object that has this tag.

        Raises:
            TruncatedError: fewer bytes, or more, came.
        """
        condition = {"IfMatch": tag} if tag else {}
        chosen = {**self._place, "Range": f"bytes={start}-{start + length - 1}", **condition}
        data: bytes = sync(self._fs.loop, _get, self._fs, chosen, timeout=self._seconds)
        if len(data) != length:
            raise TruncatedError(f"{len(data)} bytes came where {length} were asked for")
        return data

    def remove(self, *, expected: str | None = None) -> None:
        """Remove the object, if it has this tag; see `ConditionalObject`."""
        self._call("delete_object", **_condition(if_absent=False, if_match=expected))

    def _call(self, method: str, **arguments: Any) -> dict[str, Any]:
        answer = self._fs.call_s3(method, **self._place, **arguments, timeout=self._seconds)
        return answer if isinstance(answer, dict) else {}

    def _metadata(self, write_id: str) -> dict[str, str]:
        return {**self._fs.s3_additional_kwargs.get("Metadata", {}), WRITE_ID: write_id}


def copied_ranges(size_bytes: int) -> list[tuple[int, int]]:
    """Return the parts in which an object is copied, as equal as can be, so that none is smaller than S3 allows."""
    count = min(_MOST_COPIED_PARTS, -(-size_bytes // _COPIED_PART_BYTES))
    return list(pairwise(size_bytes * number // count for number in range(count + 1)))


async def _get(fs: Any, arguments: dict[str, Any]) -> bytes:
    answer = await fs._call_s3("get_object", **arguments)
    async with answer["Body"] as body:
        return bytes(await body.read())


async def _get_whole(fs: Any, place: dict[str, Any], max_bytes: int) -> tuple[dict[str, Any], bytes]:
    answer = await fs._call_s3("get_object", **place)
    data, length = bytearray(), min(max_bytes, int(answer["ContentLength"]))
    async with answer["Body"] as body:
        while len(data) < length:
            piece = await body.read(length - len(data))
            if not piece:
                raise TruncatedError(f"{len(data)} bytes came where {length} were said to be there")
            data += piece
    return answer, bytes(data)


def _condition(*, if_absent: bool, if_match: str | None = None) -> dict[str, str]:
    if if_match is not None:
        return {"IfMatch": if_match}
    return _IF_ABSENT if if_absent else {}
