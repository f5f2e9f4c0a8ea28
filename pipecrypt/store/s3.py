"""Publish an object on S3 as it is made, or replace its end where the store copies the rest itself.

Parts go up while the next one is filled, and no disk holds any of it. The object appears with the last call, whole
or not at all. Each carries a random write id in its metadata, so that after an answer was lost a look at it tells ours
from another writer's.

The end of an object is replaced by a multipart upload whose first parts are ranges of the object as it is
(UploadPartCopy), and whose last part is the new end. The old object stays until the upload is completed. Both the
copies and the completion are bound to its ETag. S3 wants at least 5 MiB in each part but the last, at most 5 GiB, and
at most 10,000 parts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from pipecrypt.errors import PipecryptError, StorageError
from pipecrypt.store.conditional import (
    ObjectHead,
    asks_to_repeat,
    is_condition_failed,
    is_worth_repeating,
    knows_no_condition,
    new_write_id,
    precondition_failed,
    repeat_until_known,
    settle,
)
from pipecrypt.store.filesystem import RemoteFilesystem, bare_tag, fingerprint_of, look_up, pinned_version
from pipecrypt.store.fsspec import FsspecStore, RemoteRanges, find_files
from pipecrypt.store.location import Location, has_glob
from pipecrypt.store.problems import changed, describe, map_errors, occupied, replaced_meanwhile, unknown_outcome
from pipecrypt.store.protocol import Ranges, SourceFile
from pipecrypt.store.publication import Publication
from pipecrypt.store.s3_object import (
    UNCONDITIONAL,
    PartUpload,
    S3Object,
    condition,
    copied_ranges,
    first_part_bytes,
    list_objects,
    look_both_ways,
    part_bytes,
)
from pipecrypt.vocabulary.retry import error_code, http_status, is_transient

__all__ = [
    "MIN_BODY_BYTES",
    "S3Publication",
    "S3Store",
]

_log = logging.getLogger(__name__)
_NOT_FOUND: Final = 404
_FIRST_REFUSAL: Final = 400
_FIRST_SERVER_FAULT: Final = 500
MIN_BODY_BYTES: Final = 5 << 20
_WEAK: Final = "W/"
_UNKNOWN_CALL: Final = frozenset({"NotImplemented", "MethodNotAllowed"})


class S3Publication(Publication):
    """A new object on S3.

    Args:
        location: where the object will be.
        remote: its file system.
        overwrite: whether it may replace another one.
        expected_bytes: about how large it will be, where that is known; chooses the size of parts.
        is_free: whether it is known that nothing is there.

    It replaces what was there when this was made, and nothing that appeared since.

    Raises:
        SinkNotEmptyError: the object exists, and may not be replaced.
        StorageError: the storage refused or failed.
    """

    def __init__(
        self,
        location: Location,
        remote: RemoteFilesystem,
        *,
        overwrite: bool,
        expected_bytes: int | None = None,
        is_free: bool = False,
    ) -> None:
        """Look at what is there, unless that is known; make nothing yet."""
        super().__init__(location)
        self._overwrite = overwrite
        self._settings = remote.settings
        self._retry = remote.retry
        self._object = S3Object(remote)
        self._write_id = new_write_id()
        self._first_bytes = first_part_bytes(remote.settings, expected_bytes)
        self._buffer = bytearray()
        self._upload: PartUpload | None = None
        with map_errors(f"cannot write {self.name}"):
            self._condition = condition(None) if is_free else self._look()

    def _look(self) -> Mapping[str, str]:
        """Return what must hold when the object appears: a request that was held back replaces nothing newer."""
        try:
            head = self._retry.call(self._object.head)
        except PermissionError:
            # Whoever may write need not be allowed to look: the condition of the write decides, as far as it can.
            return UNCONDITIONAL if self._overwrite else condition(None)
        if head is not None and not self._overwrite:
            raise occupied(self.location)
        if head is None:
            return condition(None)
        return UNCONDITIONAL if head.tag is None else condition(head.tag)

    def _append(self, data: memoryview) -> None:
        octets, taken = data.cast("B"), 0
        with map_errors(f"cannot write {self.name}"):
            while taken < len(octets):
                number = self._upload.next_number if self._upload else 1
                room = part_bytes(self._first_bytes, number) - len(self._buffer)
                if not room:  # more follows, so this is not the only part
                    self._send()
                    continue
                self._buffer += octets[taken : taken + room]
                taken += min(room, len(octets) - taken)

    def _send(self) -> None:
        if self._upload is None:
            self._upload = PartUpload(self._object, self._settings, self._write_id)
        part, self._buffer = self._buffer, bytearray()
        self._upload.add(part)

    def _complete(self) -> None:
        if self._upload is not None:
            with map_errors(f"cannot write {self.name}"):
                if self._buffer:
                    self._send()
                self._upload.finish()

    def _park(self) -> None:
        # Many small files may wait to be published together: the store keeps them, not the memory.
        if self._upload is None and self._buffer:
            with map_errors(f"cannot write {self.name}"):
                self._send()
            self._complete()

    def _publish(self) -> None:
        def put(given: Mapping[str, str]) -> None:
            self._object.put(self._buffer, self._write_id, condition=given)

        with map_errors(f"cannot publish {self.name}"):
            if self._upload is None:
                self._settled(put)
            else:
                self._publish_parts(self._upload)
        self._buffer = bytearray()

    def _publish_parts(self, upload: PartUpload) -> None:
        try:
            self._settled(lambda given: self._object.complete_upload(upload.upload_id, upload.tags, condition=given))
        except PipecryptError:
            raise
        except Exception as error:
            # The call may still be under way. After the abort it cannot take effect any more, so a last look decides.
            is_over = self._abort(upload)
            settle(error, lambda failure: self._look_after_abort(failure, is_over=is_over), self.location)
        self._upload = None
        self._check_size(upload.size_bytes)

    def _settled(self, send: Callable[[Mapping[str, str]], None]) -> None:
        """Make the call that lets the object appear, until it is known whether it did."""

        def is_passing(error: BaseException) -> bool:
            # A condition that failed though nothing is there: the other object went away meanwhile.
            return is_worth_repeating(error) or precondition_failed(error)

        def attempt() -> None:
            repeat_until_known(
                lambda: send(self._condition), self._look_after, self.location, self._retry, is_passing=is_passing
            )

        try:
            attempt()
        except Exception as error:
            if "IfMatch" not in self._condition or not knows_no_condition(error):
                raise
            self._condition = UNCONDITIONAL  # nothing was done; that such a store has one writer is asked of the user
            attempt()

    def _look_after(self, error: Exception) -> Exception | None:
        """Say what a failed call left there; see `settle`."""
        if _was_refused(error):
            return error
        head = self._read_back()
        if self._is_ours(head):
            return None
        if head is not None and not self._overwrite:
            return occupied(self.location)
        if "IfMatch" in self._condition:
            is_replaced = head is None or head.tag != self._condition["IfMatch"]
        else:
            is_replaced = head is not None and precondition_failed(error)
        return replaced_meanwhile(self.location) if is_replaced else error

    def _look_after_abort(self, error: Exception, *, is_over: bool) -> Exception | None:
        if self._is_ours(self._read_back()):
            return None
        if is_over:
            return error
        self._upload = None  # the object may still appear
        return unknown_outcome(self.location, describe(error))

    def _read_back(self) -> ObjectHead | None:
        try:
            return self._retry.call(self._object.head)
        except Exception:
            self._upload = None  # not even parts are dropped while it is unknown what they became
            raise

    def _is_ours(self, head: ObjectHead | None) -> bool:
        return head is not None and head.write_id == self._write_id

    def _check_size(self, expected: int) -> None:
        try:
            head = self._retry.call(self._object.head)
        except PermissionError:
            return
        except Exception as unreadable:
            raise unknown_outcome(self.location, describe(unreadable)) from unreadable
        if head is None or not self._is_ours(head) or head.size_bytes == expected:
            return  # what another writer put there since is not ours to judge
        what = f"the storage kept {head.size_bytes} of {expected} bytes of {self.name}"
        try:
            self._remove(head)
        except Exception as error:
            raise StorageError(
                f"{what}, and they stay there: {describe(error)}", hint="remove them, then run again"
            ) from error
        raise StorageError(f"{what}; they were removed")

    def _remove(self, head: ObjectHead) -> None:
        """Remove the object of ours that was looked at, and nothing that has come in its place."""
        try:
            self._object.remove(expected=head.tag)
        except Exception as error:
            if is_condition_failed(error):
                return
            if not knows_no_condition(error):
                raise
            self._object.remove()  # that such a store has one writer is asked of the user

    def _discard(self) -> None:
        self._buffer = bytearray()
        upload, self._upload = self._upload, None
        if upload is not None:
            self._abort(upload)

    def _abort(self, upload: PartUpload) -> bool:
        """Drop the parts, and say whether the store knows of the upload no more: then it can make no object."""
        upload.abandon()
        try:
            self._retry.call(lambda: self._object.abort_upload(upload.upload_id))
            return True
        except Exception as error:
            if http_status(error) == _NOT_FOUND:
                return True
            _log.warning("parts of %s stay at the storage, see docs/storage.md: %s", self.name, describe(error))
            return False


def _was_refused(error: Exception) -> bool:
    """Return whether a store answered that it did not do what was asked, for a reason that a look cannot change."""
    status = http_status(error)
    if status is None or is_transient(error) or precondition_failed(error) or asks_to_repeat(error):
        return False
    return _FIRST_REFUSAL <= status < _FIRST_SERVER_FAULT and status != _NOT_FOUND


class S3Store(FsspecStore):
    """Objects of S3, past the file objects of s3fs; see `Store`."""

    def _look_up(self, remote: RemoteFilesystem) -> dict[str, Any] | None:
        # A name with a dot is most often one of an object, which one request finds; a glob hardly ever names one.
        name = remote.path.rpartition("/")[2]
        asks_both = remote.is_s3 and ("." not in name or has_glob(name))
        return look_both_ways(remote) if asks_both else super()._look_up(remote)

    def _find_below(self, remote: RemoteFilesystem) -> Iterator[tuple[str, dict[str, Any]]]:
        # Where nothing is below a path, fsspec's way asks twice more whether the path itself is an object.
        return find_files(remote, partial(list_objects, remote)) if remote.is_s3 else find_files(remote)

    def open(self, source: SourceFile, *, reads_all: bool = False) -> Ranges:
        """Open a pinned object: every range is asked for on condition that it is still the pinned one."""
        remote = self._open_filesystem(source.location)
        kind = _S3Ranges if remote.is_s3 else RemoteRanges
        return kind(remote, source, reads_all=reads_all)

    def write(
        self,
        path: str = "",
        *,
        overwrite: bool,
        token: str | None = None,
        expected_bytes: int | None = None,
        is_free: bool = False,
    ) -> Publication:
        """Open a new object; it replaces what is there now, and nothing that appears since."""
        place = self._at(path)
        remote = self._open_filesystem(place)
        if not remote.is_s3:
            return super().write(path, overwrite=overwrite, token=token, is_free=is_free)
        return S3Publication(place, remote, overwrite=overwrite, expected_bytes=expected_bytes, is_free=is_free)

    def replace_end(self, source: SourceFile, body_end: int, tail: bytes) -> int:
        """Replace everything from `body_end` on; the store copies what is before, where it can."""
        remote = self._open_filesystem(source.location)
        copies = body_end >= MIN_BODY_BYTES and remote.is_s3 and S3Object(remote).takes_conditions
        if copies:
            with map_errors(f"cannot write {source.location.display}"):
                if _replace_copied_end(remote, source, body_end, tail):
                    return len(tail)
        return super().replace_end(source, body_end, tail)


class _S3Ranges(RemoteRanges):
    """Ranges of an object that is pinned by its tag.

    Each range is asked for on condition that the object has that tag, and each answer names the tag of what it brings.
    As long as all name the pinned one, the object need not be looked at: what was read is of one version of it. Of a
    store that names none, or a weak one, it is looked at as elsewhere.
    """

    __slots__ = ("_is_told", "_object", "_pinned", "_spares_look", "_tag")

    def __init__(self, remote: RemoteFilesystem, source: SourceFile, *, reads_all: bool = False) -> None:
        super().__init__(remote, source, reads_all=reads_all)
        self._object = S3Object(remote)
        self._pinned = pinned_version(source.fingerprint)
        self._is_told = bool(self._pinned and source.size_bytes)
        self._tag: str | None = f'"{self._pinned}"' if self._is_told else None
        self._spares_look = True  # the first time: the first answer will tell

    def check_unchanged(self) -> None:
        """Pass where answers tell, or the first one will; else look whether the object is still the pinned one."""
        if not (self._is_told and self._spares_look):
            self._look()
        self._spares_look = False  # if nothing was read by the next time

    def _note(self, info: Mapping[str, Any]) -> None:
        tag = info.get("ETag")
        self._tag = tag if isinstance(tag, str) and tag and not tag.startswith(_WEAK) else None

    def _fetch_once(self, start: int, out: memoryview) -> None:
        try:
            tag = self._object.get(start, out, self._tag)
        except Exception as error:
            if not self._is_told or not precondition_failed(error):
                raise
            self._look_from_now_on()  # it may be the pinned one all the same, with a weak tag
            tag = self._object.get(start, out, self._tag)
        if self._is_told and not tag:
            self._look_from_now_on()
        elif self._is_told and bare_tag(tag) != self._pinned:  # a store that ignores the condition
            raise changed(self._source.location)
        self._spares_look = True

    def _look_from_now_on(self) -> None:
        self._is_told = False
        self._look()


def _replace_copied_end(remote: RemoteFilesystem, source: SourceFile, body_end: int, tail: bytes) -> bool:
    """Replace the end of an object by an upload whose first parts the store copies; say whether it can.

    Raises:
        ConflictError: the object is not the pinned one any more, or nobody knows what became of it.
    """
    target, write_id = S3Object(remote), new_write_id()
    call = partial(remote.retry.call, is_passing=is_worth_repeating)

    def pinned_tag() -> str | None:
        info = look_up(remote)
        if info is None or fingerprint_of(info) != source.fingerprint:
            raise replaced_meanwhile(source.location)
        return target.tag_of(info)

    def look(error: Exception) -> Exception | None:
        head = call(target.head)
        if head is not None and head.tag == tag:
            return error
        is_ours = head is not None and head.write_id == write_id
        return None if is_ours else replaced_meanwhile(source.location)

    def upload(upload_id: str, tag: str) -> None:
        copied = enumerate(copied_ranges(body_end), 1)
        tags = [call(partial(target.copy_part, upload_id, *each, tag)) for each in copied]
        tags.append(call(lambda: target.put_part(upload_id, len(tags) + 1, tail)))
        pinned_tag()  # for servers that ignore conditions

        def send() -> None:
            target.complete_upload(upload_id, tags, condition=condition(tag))

        repeat_until_known(send, look, source.location, remote.retry, is_passing=is_worth_repeating)

    tag = pinned_tag()
    if not tag:
        return False
    try:
        with target.upload(write_id, call) as upload_id:
            upload(upload_id, tag)
    except Exception as error:
        if error_code(error) in _UNKNOWN_CALL:
            return False
        if precondition_failed(error):
            raise replaced_meanwhile(source.location) from error
        raise
    return True
