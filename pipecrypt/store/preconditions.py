"""Find out whether a sink keeps two writers of one object apart.

A store that ignores `If-None-Match` or `If-Match`, as some servers that only speak S3 do, takes the second object and
says nothing. No documentation tells reliably, nor does the version of a package that takes an option and does nothing
with it. So it is tried: one small object is created twice, in the ways in which files are, and replaced, copied and
removed in the ways in which versions are, each with a condition that does not hold.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from typing import Final

from pipecrypt.errors import UnsafeSinkError
from pipecrypt.store.conditional import is_condition_failed, is_worth_repeating, knows_no_condition
from pipecrypt.store.filesystem import RemoteFilesystem, open_filesystem
from pipecrypt.store.location import Location
from pipecrypt.store.problems import describe, map_errors
from pipecrypt.store.protocol import Guarantees, Preconditions, Store
from pipecrypt.store.publication import new_token
from pipecrypt.store.rename import conditional_object
from pipecrypt.store.s3_object import S3Object

__all__ = ["Writers", "check_writers", "try_conditions"]

_log = logging.getLogger(__name__)
_DIRECTORY: Final = "_pipecrypt"
_CREATES_IF_ABSENT: Final = frozenset({"gs", "gcs", "az", "abfs", "abfss"})  # by fsspec's `mode="create"`
_BESIDE: Final = "-copy"
_STALE_TAG: Final = '"00000000000000000000000000000000"'  # the MD5 of nothing that anybody knows


class Writers(Enum):
    """How many runs the user lets write to a sink at once."""

    SEVERAL = "several"
    ONE = "one"


def check_writers(store: Store, writers: Writers) -> Guarantees:
    """Refuse a sink that cannot keep two writers apart, unless the user says that there is only one.

    Raises:
        UnsafeSinkError: it cannot, and there may be several.
        StorageError: the storage refused or failed.
    """
    report, sink = store.guarantees(), store.root
    if not report.lets_several_write:
        if writers is Writers.SEVERAL:
            raise UnsafeSinkError(f"{sink.display} cannot keep two writers apart: {report.reason}")
        _log.warning("%s cannot keep two writers apart, and one was promised: %s", sink.display, report.reason)
    elif report.ignored:
        _log.info("%s %s in spite of a condition", sink.display, " and ".join(report.ignored))
    return report


def try_conditions(sink: Location) -> Guarantees:
    """Say how a sink keeps two writers of one name apart. On S3 this takes some ten requests.

    Args:
        sink: the directory of a dataset; the objects that are made for trying lie in its `_pipecrypt/` and are removed.

    Raises:
        StorageError: the storage refused or failed.
        StorageAccessError: it denied making objects there.
    """
    remote = open_filesystem(sink.child(f"{_DIRECTORY}/probe-{new_token()}{new_token()}"))
    if remote.is_s3 and not sink.is_chained:
        with map_errors(f"cannot try whether {sink.display} honours If-None-Match"):
            return _try_s3(remote)
    if remote.protocol in _CREATES_IF_ABSENT and not sink.is_chained:
        with map_errors(f"cannot try whether {sink.display} creates objects only where none is"):
            return _try_create(remote)
    reason = f"{remote.protocol}:// has no way to create a file only where none is"
    return Guarantees(Preconditions.IGNORED, reason)


def _try_s3(remote: RemoteFilesystem) -> Guarantees:
    probe, call = S3Object(remote), remote.retry.call
    # Not conditional: a store that does not know conditions may refuse the first one already.
    call(lambda: probe.put(b"", "probe"))
    try:
        creations = {
            "took a second object in spite of If-None-Match": lambda: probe.put(b"", "probe", if_absent=True),
            "completed an upload in parts in spite of If-None-Match": lambda: _upload(probe),
            "replaced an object in spite of If-Match": lambda: probe.put(b"", "probe", if_match=_STALE_TAG),
        }
        for reason, create in creations.items():
            if not _refuses(remote, create):
                return Guarantees(Preconditions.IGNORED, f"the store {reason}")
        return Guarantees(
            Preconditions.HONOURED, "the store refused a second object, in one piece and in parts", _ignored(remote)
        )
    finally:
        try:
            call(probe.remove)
        except Exception as error:
            _log.warning("%s stays: %s", remote.path, describe(error))


def _ignored(remote: RemoteFilesystem) -> tuple[str, ...]:
    """Try what moves files of a version to their places, on objects of ours."""
    beside = replace(remote, path=remote.path + _BESIDE)
    probe, copy = conditional_object(remote), conditional_object(beside)
    head = None if probe is None else remote.retry.call(probe.head)
    if probe is None or copy is None or head is None:
        return ("copies", "removes")
    ignored = []
    # There is nothing to copy over: a store that compares refuses all the same.
    if not _refuses(remote, lambda: copy.copy_from(remote.path, head, expected=_STALE_TAG)):
        ignored.append("copies")
        remote.retry.call(lambda: copy.remove(expected=None))
    if not _refuses(remote, lambda: probe.remove(expected=_STALE_TAG)):
        ignored.append("removes")
    return tuple(ignored)


def _try_create(remote: RemoteFilesystem) -> Guarantees:
    probe, call = conditional_object(remote), remote.retry.call
    if probe is None:
        return Guarantees(Preconditions.IGNORED, "its client takes no conditions")
    with tempfile.NamedTemporaryFile(prefix="pipecrypt-probe-") as spool:
        spool.write(b"probe")
        spool.flush()
        call(lambda: remote.fs.put_file(spool.name, remote.path, mode="overwrite"))
        try:
            if not _refuses(remote, lambda: remote.fs.put_file(spool.name, remote.path, mode="create")):
                return Guarantees(Preconditions.IGNORED, "the store took a second object where one was")
            head = call(probe.head)
            call(lambda: probe.replace(b"another", "probe", expected=None if head is None else head.tag))
            if not _refuses(remote, lambda: probe.replace(b"probe", "probe", expected=None if not head else head.tag)):
                reason = "the store replaced an object that was not the expected one"
                return Guarantees(Preconditions.IGNORED, reason)
            return Guarantees(Preconditions.HONOURED, "the store refused a second object")
        finally:
            try:
                call(lambda: remote.fs.rm_file(remote.path))
            except Exception as error:
                _log.warning("%s stays: %s", remote.path, describe(error))


def _upload(probe: S3Object) -> None:
    upload_id = probe.begin_upload("probe")
    try:
        tag = probe.put_part(upload_id, 1, b"probe")
        probe.complete_upload(upload_id, [tag], if_absent=True)
    finally:
        probe.abort_upload(upload_id)


def _refuses(remote: RemoteFilesystem, create: Callable[[], object]) -> bool:
    try:
        remote.retry.call(create, is_passing=is_worth_repeating)
    except Exception as error:
        if is_condition_failed(error):
            return True
        if knows_no_condition(error):
            return False
        raise
    return False
