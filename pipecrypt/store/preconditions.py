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

from pipecrypt.store.conditional import is_condition_failed, is_worth_repeating, knows_no_condition
from pipecrypt.store.filesystem import RemoteFilesystem, open_filesystem
from pipecrypt.store.fsspec_changes import conditional_object
from pipecrypt.store.location import Location
from pipecrypt.store.problems import describe, map_errors
from pipecrypt.store.protocol import Guarantees
from pipecrypt.store.publication import new_token
from pipecrypt.store.s3_object import S3Object, condition
from pipecrypt.vocabulary.in_flight import map_in_flight

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
    """Try it with two objects side by side, because each request waits for its answer."""
    in_parts = replace(remote, path=remote.path + _IN_PARTS)
    tries = [partial(_try_whole, remote), partial(_try_parts, in_parts)]
    whole, parts = map_in_flight(_called, tries, name="probe", at_once=len(tries))
    for each in (whole, parts):
        if not each.keeps_writers_apart:
            return each
    return whole


def _called(given: Callable[[], Guarantees]) -> Guarantees:
    return given()


def _try_whole(remote: RemoteFilesystem) -> Guarantees:
    with _existing(remote) as probe:
        creations = {
            "took a second object in spite of If-None-Match": condition(None),
            "replaced an object in spite of If-Match": condition(_STALE_TAG),
        }
        for reason, given in creations.items():
            if not _refuses(remote, partial(probe.put, b"", "probe", condition=given)):
                return _unsafe(f"the store {reason}")
        reason = "the store refused a second object, in one piece and in parts"
        return Guarantees(reason, ignored=_ignored(remote))


def _try_parts(remote: RemoteFilesystem) -> Guarantees:
    with _existing(remote) as probe:
        if _refuses(remote, lambda: _upload(probe)):
            return Guarantees("the store refused a second object in parts")
        return _unsafe("the store completed an upload in parts in spite of If-None-Match")


@contextmanager
def _existing(remote: RemoteFilesystem) -> Iterator[S3Object]:
    """Make an object for trying, and remove it in the end."""
    probe = S3Object(remote)
    # Not conditional: a store that does not know conditions may refuse the first one already.
    remote.retry.call(lambda: probe.put(b"", "probe"))
    with _removed(remote, probe.remove):
        yield probe


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
        try:
            remote.retry.call(remove)
        except Exception as error:
            _log.warning("%s stays: %s", remote.path, describe(error))


def _upload(probe: S3Object) -> None:
    upload_id = probe.begin_upload("probe")
    try:
        tag = probe.put_part(upload_id, 1, b"probe")
        probe.complete_upload(upload_id, [tag], condition=condition(None))
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
