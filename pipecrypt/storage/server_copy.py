"""Replace the end of an object where the store copies the rest itself. Where none does, tail sends the whole object.

S3: a multipart upload whose first parts are ranges of the object as it is (UploadPartCopy), and whose last part is the
new end. The old object stays until the upload is completed. Both the copies and the completion are bound to its ETag.
S3 wants at least 5 MiB in each part but the last, at most 5 GiB, and at most 10,000 parts.
"""

from __future__ import annotations

import logging
from typing import Any, Final, Protocol

from pipecrypt.errors import ConflictError
from pipecrypt.store.conditional import is_worth_repeating, precondition_failed, repeat_until_known
from pipecrypt.store.filesystem import RemoteFilesystem, fingerprint_of, look_up, open_filesystem, size_of
from pipecrypt.store.listing import SourceFile
from pipecrypt.store.location import Location
from pipecrypt.store.problems import describe, map_errors
from pipecrypt.store.s3_object import S3Object, copied_ranges
from pipecrypt.vocabulary.retry import error_code

__all__ = ["MIN_BODY_BYTES", "ReplacesEnds", "ends_replaced_by"]

MIN_BODY_BYTES: Final = 5 << 20
_UNKNOWN_CALL: Final = frozenset({"NotImplemented", "MethodNotAllowed"})

_log = logging.getLogger(__name__)


class ReplacesEnds(Protocol):
    """What some storages can do beyond reading and publishing."""

    def replace_end(self, source: SourceFile, body_end: int, tail: bytes) -> bool:
        """Replace everything from `body_end` on; say whether that was done, or this store cannot after all.

        Args:
            source: the pinned object.
            body_end: at least `MIN_BODY_BYTES`.
            tail: the new end, not empty.

        Raises:
            ConflictError: the object is not the one that was pinned, or it is unknown what became of it.
            StorageError: the storage refused or failed; the object is as it was.
        """


def ends_replaced_by(location: Location) -> ReplacesEnds | None:
    """Return what replaces the end of an object on its store; None where bodies have to come here."""
    if location.is_local or location.is_chained:
        return None
    remote = open_filesystem(location)
    return _S3Ends(remote, location) if remote.is_s3 and S3Object(remote).takes_conditions else None


class _S3Ends:
    def __init__(self, remote: RemoteFilesystem, location: Location) -> None:
        self._remote = remote
        self._location = location
        self._bucket, self._name, _ = remote.fs.split_path(remote.path)

    def replace_end(self, source: SourceFile, body_end: int, tail: bytes) -> bool:
        with map_errors(f"cannot write {self._location.display}"):
            etag = self._check_unchanged(source).get("ETag")
            if not etag:
                return False
            upload_id = str(self._call("create_multipart_upload")["UploadId"])
            try:
                parts = self._send(upload_id, str(etag), body_end, tail)
                self._check_unchanged(source)  # for servers that ignore conditions
                self._complete(upload_id, parts, str(etag), (source, body_end, tail))
            except BaseException as error:
                self._abort(upload_id)
                if error_code(error) in _UNKNOWN_CALL:
                    return False
                if precondition_failed(error):
                    raise self._has_changed() from error
                raise
            return True

    def _send(self, upload_id: str, etag: str, body_end: int, tail: bytes) -> list[dict[str, object]]:
        parts: list[dict[str, object]] = []
        for start, end in copied_ranges(body_end):
            copied = self._call(
                "upload_part_copy",
                UploadId=upload_id,
                PartNumber=len(parts) + 1,
                CopySource={"Bucket": self._bucket, "Key": self._name},
                CopySourceRange=f"bytes={start}-{end - 1}",
                CopySourceIfMatch=etag,
            )
            parts.append({"PartNumber": len(parts) + 1, "ETag": copied["CopyPartResult"]["ETag"]})
        sent = self._call("upload_part", UploadId=upload_id, PartNumber=len(parts) + 1, Body=tail)
        parts.append({"PartNumber": len(parts) + 1, "ETag": sent["ETag"]})
        return parts

    def _complete(
        self, upload_id: str, parts: list[dict[str, object]], etag: str, wish: tuple[SourceFile, int, bytes]
    ) -> None:
        arguments = {"UploadId": upload_id, "MultipartUpload": {"Parts": parts}, "IfMatch": etag}
        source, body_end, tail = wish

        def send() -> None:
            self._call_once("complete_multipart_upload", **arguments)

        def look(error: Exception) -> Exception | None:
            info = look_up(self._remote)
            if info is not None and fingerprint_of(info) == source.fingerprint:
                return error
            # The new end holds fresh nonces, so an object that ends so is ours.
            return None if self._ends_with(info, body_end, tail) else self._has_changed()

        repeat_until_known(send, look, self._location, self._remote.retry, is_passing=is_worth_repeating)

    def _ends_with(self, info: dict[str, Any] | None, body_end: int, tail: bytes) -> bool:
        size = body_end + len(tail)
        if info is None or size_of(info, self._location.display) != size:
            return False
        end = self._remote.retry.call(lambda: self._remote.fs.cat_file(self._remote.path, start=body_end, end=size))
        return bytes(end) == tail

    def _check_unchanged(self, source: SourceFile) -> dict[str, Any]:
        info = look_up(self._remote)
        if info is None or fingerprint_of(info) != source.fingerprint:
            raise self._has_changed()
        return info

    def _abort(self, upload_id: str) -> None:
        """Drop the parts of this upload, if it is not complete; those of others are theirs."""
        try:
            self._call("abort_multipart_upload", UploadId=upload_id)
        except FileNotFoundError:
            return
        except Exception as error:
            _log.warning("parts of an upload of %s stay: %s", self._location.display, describe(error))

    def _call(self, action: str, **arguments: object) -> Any:
        return self._remote.retry.call(lambda: self._call_once(action, **arguments), is_passing=is_worth_repeating)

    def _call_once(self, action: str, **arguments: object) -> Any:
        seconds = self._remote.settings.deadline_seconds
        return self._remote.fs.call_s3(action, Bucket=self._bucket, Key=self._name, **arguments, timeout=seconds)

    def _has_changed(self) -> ConflictError:
        return ConflictError(
            f"{self._location.display} was replaced meanwhile", hint="wait until its writer is done, then run again"
        )
