"""Make the calls of S3 for one object, each one attempt, and upload its parts beside their making, a few at a time.

They go through s3fs, which holds the user's credentials and options, past its file objects: those publish a short
object after an exception, and hide what a store answered. Parts have one size as long as their number lets, because
some stores (Cloudflare R2) insist on it. Where a file turns out longer than was expected, parts grow, so that 10,000 of
them hold 5 TiB.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Final

from fsspec.asyn import sync

from pipecrypt.errors import LimitError
from pipecrypt.store.conditional import WRITE_ID, ObjectHead
from pipecrypt.store.filesystem import RemoteFilesystem, look_up
from pipecrypt.store.location import TransferSettings
from pipecrypt.store.problems import describe, too_large
from pipecrypt.store.protocol import Revision
from pipecrypt.vocabulary.retry import Retry, TruncatedError

__all__ = [
    "MOST_PARTS",
    "UNCONDITIONAL",
    "PartUpload",
    "S3Object",
    "condition",
    "copied_ranges",
    "first_part_bytes",
    "list_objects",
    "look_both_ways",
    "part_bytes",
]

_log = logging.getLogger(__name__)
UNCONDITIONAL: Final[Mapping[str, str]] = {}
_MOST_COPIED_BYTES: Final = 5 << 30  # in one request
_COPIED_PART_BYTES: Final = 256 << 20  # the answer comes when the part is copied: small enough for usual timeouts
_MOST_COPIED_PARTS: Final = 9_000


def condition(expected: str | None) -> dict[str, str]:
    """Return what a request says so that it replaces the object with this tag, or that none is there, and no other."""
    return {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected}


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

    def read(self, max_bytes: int, name: str) -> Revision | None:
        """Return a whole small object and its tag, by one request; see `ConditionalObject`."""
        try:
            found = sync(self._fs.loop, _get_small, self._fs, self._place, max_bytes, timeout=self._seconds)
        except FileNotFoundError:
            return None
        if found is None:
            raise too_large(name, max_bytes)
        return Revision(*found)

    def replace(self, data: bytes | bytearray, write_id: str, *, expected: str | None) -> None:
        """Store a whole object in place of one with this tag; see `ConditionalObject`."""
        self.put(data, write_id, condition=condition(expected))

    def copy_from(self, path: str, head: ObjectHead, *, expected: str | None) -> None:
        """Become a copy of another object, with its metadata; see `ConditionalObject`."""
        bucket, key, _ = self._fs.split_path(path)
        source = {"Bucket": bucket, "Key": key}
        if head.size_bytes <= _MOST_COPIED_BYTES:
            self._call("copy_object", CopySource=source, CopySourceIfMatch=head.tag, **condition(expected))
            return
        with self.upload(head.write_id or "", lambda action: action()) as upload_id:
            ranges = enumerate(copied_ranges(head.size_bytes), 1)
            tags = [self.copy_part(upload_id, *each, str(head.tag), source=source) for each in ranges]
            self.complete_upload(upload_id, tags, condition=condition(expected))

    def copy_part(
        self,
        upload_id: str,
        number: int,
        copied: tuple[int, int],
        tag: str,
        *,
        source: Mapping[str, str] | None = None,
    ) -> str:
        """Let a part be a range (start, end) of an object that has this tag, of this one where none is named.

        Returns:
            The tag of the part.
        """
        answer = self._call(
            "upload_part_copy",
            CopySource=dict(source or self._place),
            CopySourceIfMatch=tag,
            CopySourceRange=f"bytes={copied[0]}-{copied[1] - 1}",
            UploadId=upload_id,
            PartNumber=number,
        )
        return str(answer["CopyPartResult"]["ETag"])

    def put(
        self, data: bytes | bytearray, write_id: str, *, condition: Mapping[str, str] = UNCONDITIONAL
    ) -> str | None:
        """Store a whole object, and return its tag; None where the store does not tell."""
        answer = self._call("put_object", Body=data, Metadata=self._metadata(write_id), **condition)
        tag = answer.get("ETag")
        return tag if isinstance(tag, str) and tag else None

    @contextmanager
    def upload(self, write_id: str, call: Callable[[Callable[[], Any]], Any]) -> Iterator[str]:
        """Begin an upload in parts and yield its id; drop its parts where the block fails.

        Args:
            write_id: what the object is marked with.
            call: makes a request, again where that helps.
        """
        upload_id = call(lambda: self.begin_upload(write_id))
        try:
            yield upload_id
        except BaseException:
            try:
                call(lambda: self.abort_upload(upload_id))
            except Exception as error:  # another one is on its way
                _log.warning("parts of an upload of %s stay: %s", self._place["Key"], describe(error))
            raise

    def begin_upload(self, write_id: str) -> str:
        """Begin an upload in parts and return its id."""
        return str(self._call("create_multipart_upload", Metadata=self._metadata(write_id))["UploadId"])

    def put_part(self, upload_id: str, number: int, data: bytes | bytearray) -> str:
        """Store a part (numbers from 1) and return its tag; the same number again replaces it."""
        answer = self._call("upload_part", UploadId=upload_id, PartNumber=number, Body=data)
        return str(answer["ETag"])

    def complete_upload(
        self, upload_id: str, tags: Sequence[str], *, condition: Mapping[str, str] = UNCONDITIONAL
    ) -> None:
        """Make the object appear, of the parts with these tags."""
        parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]
        self._call("complete_multipart_upload", UploadId=upload_id, MultipartUpload={"Parts": parts}, **condition)

    def abort_upload(self, upload_id: str) -> None:
        """Drop one upload and its parts, if it is still there. Uploads of others are never touched."""
        try:
            self._call("abort_multipart_upload", UploadId=upload_id)
        except FileNotFoundError:
            return

    def get(self, start: int, out: memoryview, tag: str | None) -> str | None:
        """Fill `out` with the bytes from `start` of an object that has this tag; return the tag that the answer names.

        Raises:
            TruncatedError: fewer bytes, or more, came.
        """
        pinned = {"IfMatch": tag} if tag else {}
        chosen = {**self._place, "Range": f"bytes={start}-{start + len(out) - 1}", **pinned}
        # Once the call has ended, however it did, nothing is written through this view: an answer that comes late must
        # not touch memory that holds something else by then.
        with out[:] as writable:
            found: str | None = sync(self._fs.loop, _get, self._fs, chosen, writable, timeout=self._seconds)
        return found

    def remove(self, *, expected: str | None = None) -> None:
        """Remove the object, if it has this tag; see `ConditionalObject`."""
        self._call("delete_object", **({} if expected is None else condition(expected)))

    def _call(self, method: str, **arguments: Any) -> dict[str, Any]:
        answer = self._fs.call_s3(method, **self._place, **arguments, timeout=self._seconds)
        return answer if isinstance(answer, dict) else {}

    def _metadata(self, write_id: str) -> dict[str, str]:
        return {**self._fs.s3_additional_kwargs.get("Metadata", {}), WRITE_ID: write_id}


def list_objects(remote: RemoteFilesystem) -> dict[str, dict[str, Any]]:
    """Return what s3fs says about all objects whose names begin with a path and a slash, by their paths."""
    fs = remote.fs
    found = sync(fs.loop, fs._lsdir, remote.path.rstrip("/"), delimiter="")
    return {info["name"]: info for info in found}


def look_both_ways(remote: RemoteFilesystem) -> dict[str, Any] | None:
    """Return what s3fs would say about a path, or None if nothing is there.

    Whether there is an object of that name, and whether there are objects below it, is asked for at once: s3fs asks the
    one after the other, and where nothing is yet, both are asked for anyway.
    """
    bucket, key, version = remote.fs.split_path(remote.path)
    if not key or version is not None:
        return look_up(remote)
    head, below = remote.retry.call(lambda: sync(remote.fs.loop, _head_and_list, remote.fs, bucket, key.rstrip("/")))
    if head is not None:
        size, changed = head["ContentLength"], head.get("LastModified", "")
        return {
            "name": remote.path,
            "type": "file",
            "size": size,
            "ETag": head.get("ETag", ""),
            "LastModified": changed,
        }
    return {"name": remote.path, "type": "directory", "size": 0} if below else None


async def _head_and_list(fs: Any, bucket: str, key: str) -> tuple[dict[str, Any] | None, bool]:
    answers: Any = await asyncio.gather(
        fs._call_s3("head_object", Bucket=bucket, Key=key),
        fs._call_s3("list_objects_v2", Bucket=bucket, Prefix=key + "/", Delimiter="/", MaxKeys=1),
        return_exceptions=True,
    )
    head, listed = answers
    if not isinstance(head, BaseException):
        return head, False
    if not isinstance(head, FileNotFoundError):
        raise head
    if isinstance(listed, FileNotFoundError):  # there is no such bucket
        return None, False
    if isinstance(listed, BaseException):
        raise listed
    return None, bool(listed.get("Contents") or listed.get("CommonPrefixes"))


def copied_ranges(size_bytes: int) -> list[tuple[int, int]]:
    """Return the parts in which an object is copied, as equal as can be, so that none is smaller than S3 allows."""
    count = min(_MOST_COPIED_PARTS, -(-size_bytes // _COPIED_PART_BYTES))
    return list(pairwise(size_bytes * number // count for number in range(count + 1)))


async def _get(fs: Any, arguments: dict[str, Any], out: memoryview) -> str | None:
    answer = await fs._call_s3("get_object", **arguments)
    filled, length = 0, len(out)
    async with answer["Body"] as body:
        while piece := await body.read(max(1, length - filled)):
            if filled == length:
                raise TruncatedError(f"more bytes came than the {length} that were asked for")
            out[filled : filled + len(piece)] = piece  # while it lasts, no other thread can take the view away
            filled += len(piece)
    if filled < length:
        raise TruncatedError(f"{filled} bytes came where {length} were asked for")
    tag: str | None = answer.get("ETag")
    return tag


async def _get_small(fs: Any, place: dict[str, Any], max_bytes: int) -> tuple[bytes, str] | None:
    """Return an object and its tag; None, with none of it read, where it is larger."""
    answer = await fs._call_s3("get_object", **place)
    async with answer["Body"] as body:
        data, length = bytearray(), int(answer["ContentLength"])
        if length > max_bytes:
            return None
        while len(data) < length and (piece := await body.read(length - len(data))):
            data += piece
    if len(data) < length:
        raise TruncatedError(f"{len(data)} bytes came where {length} were said to be there")
    return bytes(data), str(answer["ETag"])


MOST_PARTS: Final = 10_000
_UNIFORM_PARTS: Final = 6_000
_PARTS_PER_STEP: Final = 400
_MOST_BYTES: Final = 5 << 30  # of a part
_SPARE: Final = 1.1  # encrypting adds a little to what is expected
_MIB: Final = 1 << 20


def first_part_bytes(settings: TransferSettings, expected_bytes: int | None) -> int:
    """Return the size of parts with which a file of the expected size needs no larger ones."""
    needed = int((expected_bytes or 0) * _SPARE) // _UNIFORM_PARTS
    return min(_MOST_BYTES, max(settings.part_bytes, -(-needed // _MIB) * _MIB))


def part_bytes(first_bytes: int, number: int) -> int:
    """Return the size of the part at a number from 1: it doubles again and again where a file has very many."""
    steps = -(-max(0, number - _UNIFORM_PARTS) // _PARTS_PER_STEP)
    return int(min(_MOST_BYTES, first_bytes << steps))


class PartUpload:
    """An upload in parts, not complete yet.

    Args:
        target: the object.
        settings: how many parts travel at once: fewer where they are larger, so that memory stays bounded.
        write_id: what the object is marked with.

    Raises:
        Exception: as the store's client says; nothing was begun.
    """

    def __init__(self, target: S3Object, settings: TransferSettings, write_id: str) -> None:
        """Begin it at the store."""
        self._target = target
        self._retry = Retry(settings.deadline_seconds)
        self._in_flight_bytes = settings.parts_in_flight * settings.part_bytes
        self._parts: list[Future[str]] = []
        self._running: list[Future[str]] = []
        self._pool = ThreadPoolExecutor(settings.parts_in_flight, thread_name_prefix="pipecrypt-upload")
        self.size_bytes = 0
        self.tags: list[str] = []
        self.upload_id = self._retry.call(lambda: target.begin_upload(write_id))

    @property
    def next_number(self) -> int:
        """Number of the part that is added next."""
        return len(self._parts) + 1

    def add(self, data: bytes | bytearray) -> None:
        """Send a part on its way, which nobody changes any more; waits where too much is on its way.

        Raises:
            LimitError: there are 10,000 parts already.
            Exception: a part before could not be stored.
        """
        number = self.next_number
        if number > MOST_PARTS:
            raise LimitError("an object of S3 has at most 10,000 parts", hint="roll the output over to several files")
        self._make_room(len(data))
        part = self._pool.submit(self._store, number, data)
        self._parts.append(part)
        self._running.append(part)
        self.size_bytes += len(data)

    def finish(self) -> None:
        """Wait for all parts and keep their tags.

        Raises:
            Exception: a part could not be stored.
        """
        self.tags = [part.result() for part in self._parts]
        self._pool.shutdown()

    def abandon(self) -> None:
        """Stop, and wait for the calls under way: only then an abort leaves nothing behind."""
        self._retry.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _make_room(self, length: int) -> None:
        most = max(1, self._in_flight_bytes // max(1, length))
        while True:
            for part in [each for each in self._running if each.done()]:
                part.result()
                self._running.remove(part)
            if len(self._running) < most:
                return
            wait(self._running, return_when="FIRST_COMPLETED")

    def _store(self, number: int, data: bytes | bytearray) -> str:
        return self._retry.call(lambda: self._target.put_part(self.upload_id, number, data))
