"""Make the calls of S3 for one object, each one attempt. Trying again and what an answer means are left to the callers.

They go through s3fs, which holds the user's credentials and options, past its file objects: those publish a short
object after an exception, and hide what a store answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from fsspec.asyn import sync

from pipecrypt.storage.filesystem import RemoteFilesystem
from pipecrypt.storage.retry import TruncatedError, error_code, http_status

__all__ = ["S3Head", "S3Object", "asks_to_repeat", "precondition_failed"]

_WRITE_ID: Final = "pipecrypt-write-id"
_IF_ABSENT: Final = {"IfNoneMatch": "*"}


@dataclass(frozen=True, slots=True)
class S3Head:
    """What a store says about an object.

    Args:
        size_bytes: its size.
        write_id: what its writer marked it with; None where it is none of pipecrypt.
    """

    size_bytes: int
    write_id: str | None


class S3Object:
    """One object, there or not.

    Args:
        remote: the file system and the object's path.
    """

    def __init__(self, remote: RemoteFilesystem) -> None:
        """Call nothing yet."""
        self._fs = remote.fs
        self._seconds = remote.settings.deadline_seconds  # a call that hangs ends then; 0: with its socket
        bucket, key, _ = remote.fs.split_path(remote.path)
        self._place: dict[str, Any] = {"Bucket": bucket, "Key": key}

    def head(self) -> S3Head | None:
        """Return what is there, or None if nothing is."""
        try:
            answer = self._call("head_object")
        except FileNotFoundError:
            return None
        metadata = {str(name).lower(): value for name, value in answer.get("Metadata", {}).items()}
        return S3Head(int(answer["ContentLength"]), metadata.get(_WRITE_ID))

    def put(self, data: bytes | bytearray, write_id: str, *, if_absent: bool) -> None:
        """Store a whole object."""
        self._call("put_object", Body=data, Metadata=self._metadata(write_id), **_condition(if_absent=if_absent))

    def begin_upload(self, write_id: str) -> str:
        """Begin an upload in parts and return its id."""
        return str(self._call("create_multipart_upload", Metadata=self._metadata(write_id))["UploadId"])

    def put_part(self, upload_id: str, number: int, data: bytes | bytearray) -> str:
        """Store a part (numbers from 1) and return its tag; the same number again replaces it."""
        answer = self._call("upload_part", UploadId=upload_id, PartNumber=number, Body=data)
        return str(answer["ETag"])

    def complete_upload(self, upload_id: str, tags: Sequence[str], *, if_absent: bool) -> None:
        """Make the object appear, of the parts with these tags."""
        parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]
        condition = _condition(if_absent=if_absent)
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

    def remove(self) -> None:
        """Remove the object."""
        self._call("delete_object")

    def _call(self, method: str, **arguments: Any) -> dict[str, Any]:
        answer = self._fs.call_s3(method, **self._place, **arguments, timeout=self._seconds)
        return answer if isinstance(answer, dict) else {}

    def _metadata(self, write_id: str) -> dict[str, str]:
        return {**self._fs.s3_additional_kwargs.get("Metadata", {}), _WRITE_ID: write_id}


async def _get(fs: Any, arguments: dict[str, Any]) -> bytes:
    answer = await fs._call_s3("get_object", **arguments)
    async with answer["Body"] as body:
        return bytes(await body.read())


def _condition(*, if_absent: bool) -> dict[str, str]:
    return _IF_ABSENT if if_absent else {}


def precondition_failed(error: BaseException) -> bool:
    """Say whether a store refused because a condition did not hold."""
    return http_status(error) == 412 or error_code(error) == "PreconditionFailed"


def asks_to_repeat(error: BaseException) -> bool:
    """Say whether a store was busy with another write to the same name: neither has been decided."""
    return http_status(error) == 409 or error_code(error) == "ConditionalRequestConflict"
