"""Find out whether a sink keeps two writers of one object apart.

A store that ignores `If-None-Match` or `If-Match`, as some servers that only speak S3 do, takes the second object and
says nothing. No documentation tells reliably, nor does the version of a package that takes an option and does nothing
with it. So it is tried: one small object is created twice, in the ways in which files are, and replaced, copied and
removed in the ways in which versions are, each with a condition that does not hold.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Final

from pipecrypt.store.conditional import ObjectHead, is_condition_failed, is_worth_repeating, knows_no_condition
from pipecrypt.store.filesystem import RemoteFilesystem, open_filesystem
from pipecrypt.store.fsspec_changes import conditional_object
from pipecrypt.store.location import Location
from pipecrypt.store.problems import describe, map_errors
from pipecrypt.store.protocol import Guarantees
from pipecrypt.store.publication import new_token
from pipecrypt.store.s3_object import S3Object, condition
from pipecrypt.vocabulary.in_flight import call_both

__all__ = ["try_conditions"]

_log = logging.getLogger(__name__)
_DIRECTORY: Final = "_pipecrypt"
_CREATES_IF_ABSENT: Final = frozenset({"gs", "gcs", "az", "abfs", "abfss"})  # by fsspec's `mode="create"`
_BESIDE: Final = "-copy"
_IN_PARTS: Final = "-parts"
_STALE_TAG: Final = '"00000000000000000000000000000000"'  # the MD5 of nothing that anybody knows


def try_conditions(sink: Location) -> Guarantees:
    """Say how a sink keeps two writers of one name apart. On S3 this takes some ten requests.

    Args:
        sink: the directory of a dataset; the objects that are made for trying lie in its `_pipecrypt/` and are removed.

    Raises:
        StorageError: the storage refused or failed.
        StorageAccessError: it denied making objects there.
    """
    remote = open_filesystem(sink.child(f"{_DIRECTORY}/probe-{new_token()}{new_token()}"))
    if remote.is_s3:
        with map_errors(f"cannot try whether {sink.display} honours If-None-Match"):
            return _try_s3(remote)
    if remote.protocol in _CREATES_IF_ABSENT:
        with map_errors(f"cannot try whether {sink.display} creates objects only where none is"):
            return _try_create(remote)
    return _unsafe(f"{remote.protocol}:// has no way to create a file only where none is")


def _unsafe(reason: str) -> Guarantees:
    return Guarantees(reason, keeps_writers_apart=False)


def _try_s3(remote: RemoteFilesystem) -> Guarantees:
    """Try it with two objects side by side, because each request waits for its answer.

    What may change one of them follows what was tried on it before: a store that removes in spite of a condition would
    seem to have refused nothing afterwards.
    """
    in_parts = replace(remote, path=remote.path + _IN_PARTS)
    whole, parts = call_both(partial(_try_whole, remote), partial(_try_parts, in_parts))
    for each in (parts, whole):
        if not each.keeps_writers_apart:
            return each
    return whole


def _try_whole(remote: RemoteFilesystem) -> Guarantees:
    probe = S3Object(remote)
    # Not conditional: a store that does not know conditions may refuse the first one already.
    tag = remote.retry.call(lambda: probe.put(b"", "probe"))
    with _removed(remote, probe.remove):
        creates = partial(_refuses, remote, partial(probe.put, b"", "probe", condition=condition(None)))
        is_refused, ignores_copies = call_both(creates, partial(_ignores_copies, remote, tag))
        if not is_refused:
            return _unsafe("the store took a second object in spite of If-None-Match")
        removes = conditional_object(remote)
        ignored = ["copies"] if ignores_copies else []
        if removes is None or not _refuses(remote, lambda: removes.remove(expected=_STALE_TAG)):
            ignored.append("removes")
        return Guarantees("the store refused a second object, in one piece and in parts", ignored=tuple(ignored))


def _try_parts(remote: RemoteFilesystem) -> Guarantees:
    """Try an upload in parts where an object is, and meanwhile, whether that is replaced in spite of its tag."""
    call, probe = remote.retry.call, S3Object(remote)
    made, uploads = list[str | None](), list[str]()
    try:
        call_both(
            lambda: made.append(call(lambda: probe.put(b"", "probe"))),
            lambda: uploads.append(call(lambda: probe.begin_upload("probe"))),
        )
        replaces = partial(probe.put, b"", "probe", condition=condition(_STALE_TAG))
        tag, is_kept = call_both(
            lambda: call(lambda: probe.put_part(uploads[0], 1, b"probe")), lambda: _refuses(remote, replaces)
        )
        if not is_kept:
            return _unsafe("the store replaced an object in spite of If-Match")
        if _refuses(remote, lambda: probe.complete_upload(uploads[0], [tag], condition=condition(None))):
            return Guarantees("the store refused a second object in parts")
        return _unsafe("the store completed an upload in parts in spite of If-None-Match")
    finally:
        for upload_id in uploads:  # first: it cannot make an object any more then
            _clean_up(remote, partial(probe.abort_upload, upload_id))
        if made:
            _clean_up(remote, probe.remove)


def _ignores_copies(remote: RemoteFilesystem, tag: str | None) -> bool:
    """Try what moves files of a version to their places: a copy, to where nothing is to be copied over."""
    beside = replace(remote, path=remote.path + _BESIDE)
    copy = conditional_object(beside)
    if copy is None or tag is None:
        return True
    # A store that compares refuses all the same.
    if _refuses(remote, lambda: copy.copy_from(remote.path, ObjectHead(0, None, tag), expected=_STALE_TAG)):
        return False
    remote.retry.call(lambda: copy.remove(expected=None))
    return True


def _try_create(remote: RemoteFilesystem) -> Guarantees:
    probe, call = conditional_object(remote), remote.retry.call
    if probe is None:
        return _unsafe("its client takes no conditions")
    with tempfile.NamedTemporaryFile(prefix="pipecrypt-probe-") as spool:
        spool.write(b"probe")
        spool.flush()
        call(lambda: remote.fs.put_file(spool.name, remote.path, mode="overwrite"))
        with _removed(remote, lambda: remote.fs.rm_file(remote.path)):
            if not _refuses(remote, lambda: remote.fs.put_file(spool.name, remote.path, mode="create")):
                return _unsafe("the store took a second object where one was")
            head = call(probe.head)
            call(lambda: probe.replace(b"another", "probe", expected=None if head is None else head.tag))
            if not _refuses(remote, lambda: probe.replace(b"probe", "probe", expected=None if not head else head.tag)):
                return _unsafe("the store replaced an object that was not the expected one")
            return Guarantees("the store refused a second object")


@contextmanager
def _removed(remote: RemoteFilesystem, remove: Callable[[], None]) -> Iterator[None]:
    """Remove the object that was made for trying, when that is over."""
    try:
        yield
    finally:
        _clean_up(remote, remove)


def _clean_up(remote: RemoteFilesystem, remove: Callable[[], None]) -> None:
    try:
        remote.retry.call(remove)
    except Exception as error:
        _log.warning("%s stays: %s", remote.path, describe(error))


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
