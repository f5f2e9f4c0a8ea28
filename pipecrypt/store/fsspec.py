"""Files of any fsspec file system as a store.

Ranges are read several at once, each tried again by itself. Small files are compared by the storage where it takes
conditions, and looked at just before everywhere else; a random write id tells after a lost answer whose object is
there.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

from pipecrypt.errors import (
    ConflictError,
    IntegrityError,
    NoRegularFileError,
    SinkNotEmptyError,
    SourceNotFoundError,
    StorageError,
)
from pipecrypt.store.conditional import ObjectHead, carry_out, is_condition_failed, new_write_id
from pipecrypt.store.filesystem import RemoteFilesystem, fingerprint_of, look_up, open_filesystem, read_stored, size_of
from pipecrypt.store.fsspec_changes import (
    RemotePublication,
    conditional_object,
    make_directories_above,
    remove_object,
    rename,
)
from pipecrypt.store.location import Location, Pattern, has_glob, split_glob
from pipecrypt.store.preconditions import try_conditions
from pipecrypt.store.problems import changed, describe, map_errors, not_regular, replaced_meanwhile, too_large
from pipecrypt.store.protocol import (
    Admits,
    Entry,
    EntryKind,
    Guarantees,
    Publish,
    Ranges,
    Revision,
    SourceFile,
    Store,
    check_range,
)
from pipecrypt.store.publication import Publication, is_temporary, new_token
from pipecrypt.vocabulary.ranges import SourceTraits
from pipecrypt.vocabulary.retry import Retry, TruncatedError, http_status

__all__ = ["FsspecStore", "RemoteRanges", "find_files", "read_small_object"]

_log = logging.getLogger(__name__)
_ONCE: Final = Retry(0)
# Stores name the time of an object's last change differently: S3, Azure, GCS, and what keeps files in memory.
_TIME_FIELDS: Final = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")
_NANOSECONDS: Final = 1_000_000_000
_RANGE_NOT_SATISFIABLE: Final = 416  # the object became shorter
_SMALL_BYTES: Final = 512 << 10  # on their way for about as long as a request waits for its answer
_LOCK_SUFFIX: Final = ".lock"
_MAX_LOCK_BYTES: Final = 1024
_LOCK_TRIES: Final = 40
_LOCK_WAIT_SECONDS: Final = 0.25


class FsspecStore(Store):
    """Files that fsspec reaches; see `Store`."""

    answers_late = True
    is_remote = True

    def _open_filesystem(self, place: Location) -> RemoteFilesystem:
        return open_filesystem(place)

    @contextmanager
    def _reach(self, doing: str, path: str = "") -> Iterator[tuple[Location, RemoteFilesystem]]:
        with self._doing(doing, path) as place:
            yield place, self._open_filesystem(place)

    def guarantees(self) -> Guarantees:
        """Try what the storage does in spite of conditions."""
        if self.root.is_in_this_process:
            return Guarantees("files lie in the memory of one process")
        return try_conditions(self.root)

    # ---- looking ----

    def stat(self, path: str = "") -> Entry:
        """Return what is at a path."""
        with self._reach("read", path) as (place, remote):
            info = self._look_up(remote)
            if info is None:
                return Entry(self.root, path, EntryKind.NOTHING)
            if info.get("type") == "directory":
                return Entry(self.root, path, EntryKind.DIRECTORY)
            return Entry(self.root, path, EntryKind.FILE, _source(place, path or place.name, info, _modified_ns(info)))

    def _look_up(self, remote: RemoteFilesystem) -> dict[str, Any] | None:
        return look_up(remote)

    def list(self, path: str = "", admits: Admits | None = None) -> Iterator[Entry]:
        """Yield everything below a path that is not a directory itself."""
        with self._reach("list", path) as (start, remote):
            for below, info in self._find_below(remote):
                # An empty object whose name ends so stands for a directory.
                is_marker = below.endswith("/") and not info.get("size")
                if info.get("type", "file") != "directory" and below and not is_marker:
                    try:
                        source = _source(start.child(below), below, info, _modified_ns(info))
                    except IntegrityError:  # whoever removes or moves what is found must not do so elsewhere
                        source = None
                    yield Entry(start, below, EntryKind.FILE, source)

    def _find_below(self, remote: RemoteFilesystem) -> Iterator[tuple[str, dict[str, Any]]]:
        return find_files(remote)

    def is_empty(self, *, besides: str | None = None) -> bool:
        """Return whether nothing is at the root, or a directory without files."""
        with self._reach("read") as (_, remote):
            return all(besides is not None and path.startswith(besides + "/") for path, _ in _find_whole_files(remote))

    def find_sources(self, below: Pattern) -> Iterator[SourceFile]:
        """Yield the files that the root names."""
        with self._reach("read") as (_, remote):
            info, directory = self._look_up(remote), self.root
            if info is not None and info.get("type") != "directory":
                yield _source(self.root, self.root.name, info)
                return
            if info is None:
                if not has_glob(self.root.url):
                    raise SourceNotFoundError(f"{self.root.display} does not exist")
                directory, below = split_glob(self.root)
            for path, found in _find_whole_files(self._open_filesystem(directory)):
                if below.matches(path.split("/")):
                    yield _source(directory.listed(path), path, found)

    # ---- reading ----

    def open(self, source: SourceFile, *, reads_all: bool = False) -> Ranges:
        """Open a pinned file."""
        return RemoteRanges(self._open_filesystem(source.location), source, reads_all=reads_all)

    def read_start(self, length: int, path: str = "") -> bytes:
        """Return the first bytes of a file."""
        with self._reach("read", path) as (place, remote):
            return remote.retry.call(lambda: _start(remote.fs, remote.path, length, place.display))

    def read_revision(self, path: str = "", *, max_bytes: int) -> Revision | None:
        """Return a small file as `replace` compares it."""
        with self._reach("read", path) as (place, remote):
            target = conditional_object(remote)
            if target is not None:
                return remote.retry.call(lambda: target.read(max_bytes, place.display))
            data = read_small_object(remote.fs, remote.path, max_bytes, place.display, remote.retry)
            return None if data is None else Revision(data)

    # ---- writing ----

    def write(
        self,
        path: str = "",
        *,
        overwrite: bool,
        token: str | None = None,
        expected_bytes: int | None = None,
        is_free: bool = False,
    ) -> Publication:
        """Open a new file."""
        place = self._at(path)
        remote, token = self._open_filesystem(place), token or new_token()
        return RemotePublication(place, remote, overwrite=overwrite, token=token, is_free=is_free)

    def replace(self, data: bytes, path: str = "", *, expected: Revision | None) -> None:
        """Let a small file appear, if there is what was read there before."""
        with self._reach("publish", path) as (place, remote):
            if _replace_on_condition(remote, place, data, expected):
                return
        self._check_same(path, expected)
        try:
            self._write(data, path, overwrite=expected is not None)
        except SinkNotEmptyError as error:
            raise replaced_meanwhile(place) from error

    def replace_end(self, source: SourceFile, body_end: int, tail: bytes) -> int:
        """Replace everything from `body_end` on, by a new object."""
        return self._rewrite_end(source, body_end, tail)

    # ---- moving and removing ----

    def move(self, new: Location, path: str = "", *, fingerprint: str | None = None) -> None:
        """Give a file another name: the storage renames, or copies and removes; else it is read and written."""
        place, target = self._at(path), type(self)(new)
        with map_errors(f"cannot move {place.display} to {new.display}"):
            try:
                target._take_name(self._open_filesystem(place), fingerprint)
            except NotImplementedError:
                type(self)(place)._rewrite_as(target)

    def _take_name(self, source: RemoteFilesystem, fingerprint: str | None) -> None:
        """Let the file at another place become the root."""
        target = self._open_filesystem(self.root)
        if not target.uploads_whole:
            make_directories_above(target)
        try:
            rename(source, target.path, self.root, fingerprint=fingerprint)
        except OSError as error:
            if not isinstance(error, FileExistsError) and error.errno != errno.EEXIST:
                raise
            # Some servers (SMB) rename to a free name only. Until they have, the file has its old one.
            self.remove()
            rename(source, target.path, self.root, fingerprint=fingerprint)

    def remove(self, path: str = "") -> None:
        """Remove the file that is there now, and nothing that has come in its place."""
        with self._reach("remove", path) as (place, remote), contextlib.suppress(FileNotFoundError):
            info = look_up(remote)
            if info is not None:
                remove_object(remote, info, place)

    def remove_leftovers(self, token: str, path: str = "", *, of_any_name: bool = False) -> None:
        """Do nothing: no part of an upload has a name that could be found safely."""

    def remove_empty_directories(self, path: str = "") -> None:
        """Do nothing: directories do not outlive their files."""

    def remove_directory(self, path: str = "") -> None:
        """Do nothing: likewise."""

    # ---- locks ----

    @contextmanager
    def changing(self, sleep: Callable[[float], None] = time.sleep) -> Iterator[Publish]:
        """Hold the lock file of the file."""
        with self._lock_file(self.root.sibling(self.root.name + _LOCK_SUFFIX), sleep) as check:

            def publish(data: bytes, before: Revision | None) -> None:
                check()
                self.replace(data, expected=before)

            yield publish

    def holding(
        self, lock: Location, sleep: Callable[[float], None] = time.sleep
    ) -> contextlib.AbstractContextManager[object]:
        """Hold the lock file."""
        return self._lock_file(lock, sleep)

    @contextmanager
    def _lock_file(self, place: Location, sleep: Callable[[float], None]) -> Iterator[Callable[[], None]]:
        lock, token = type(self)(place), new_token().encode()
        for _ in range(_LOCK_TRIES):
            with contextlib.suppress(SinkNotEmptyError):
                lock._write(token, overwrite=False)
                break
            sleep(_LOCK_WAIT_SECONDS)
        else:
            raise ConflictError(
                f"{place.display} is held by another command",
                hint="wait for it; if none is running, one died: remove that file, then run again",
            )

        def check() -> None:
            if lock.read_small(max_bytes=_MAX_LOCK_BYTES) != token:
                raise ConflictError(f"{place.display} was taken away while it was held", hint="run again")

        try:
            check()  # a storage that ignores conditions lets two create it: the later one has it
            yield check
            check()
        finally:
            try:
                lock.remove()
            except StorageError as error:
                _log.warning("the lock stays: %s", describe(error))


def _replace_on_condition(remote: RemoteFilesystem, place: Location, data: bytes, expected: Revision | None) -> bool:
    """Replace a small file where the storage compares; say whether it does."""
    target = conditional_object(remote)
    tag = None if expected is None else expected.tag
    if target is None or (expected is not None and tag is None):
        return False
    write_id = new_write_id()

    def send() -> None:
        target.replace(data, write_id, expected=tag)

    def is_done(head: ObjectHead | None) -> bool:
        return head is not None and head.write_id == write_id

    return carry_out(target, send, is_done, expected=tag, location=place, retry=remote.retry)


# ---- what file systems say ----


def find_files(
    remote: RemoteFilesystem, find: Callable[[], Mapping[str, dict[str, Any]]] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield all that a file system lists below a path, by names relative to it.

    Args:
        remote: the file system and the path.
        find: lists it once, by paths of the file system; default: fsspec's way.
    """
    find = find or (lambda: remote.fs.find(remote.path, detail=True))
    try:
        found = remote.retry.call(find)
    except (FileNotFoundError, NotADirectoryError):
        return
    base = remote.path.rstrip("/") + "/"
    for path, info in found.items():
        yield path[len(base) :] if path.startswith(base) else path.lstrip("/"), info


def _find_whole_files(remote: RemoteFilesystem) -> Iterator[tuple[str, dict[str, Any]]]:
    """Leave out an empty object that stands for a directory, and what a run that was killed left behind."""
    for path, info in find_files(remote):
        is_other = path.endswith("/") or is_temporary(path.rsplit("/", 1)[-1])
        if info.get("type", "file") == "file" and not is_other:
            yield path, info


def _source(location: Location, relative_path: str, info: Mapping[str, Any], mtime_ns: int | None = None) -> SourceFile:
    size = size_of(info, location.display)
    return SourceFile(location, relative_path, size, fingerprint_of(info), mtime_ns=mtime_ns)


def _modified_ns(info: Mapping[str, Any]) -> int | None:
    for name in _TIME_FIELDS:
        moment = info.get(name)
        if isinstance(moment, str):
            with contextlib.suppress(ValueError):
                moment = datetime.fromisoformat(moment)
        if isinstance(moment, datetime):
            moment = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
        if isinstance(moment, int | float):
            return int(moment) * _NANOSECONDS
    return None


def read_small_object(fs: Any, path: str, max_bytes: int, name: str, retry: Retry = _ONCE) -> bytes | None:
    """Return a whole small file of an fsspec file system, or None if there is none.

    Args:
        fs: the file system; one that a caller brought has its own way of trying again.
        path: of the file there.
        max_bytes: how large it may be.
        name: what errors call it.
        retry: tries again.

    Raises:
        FormatError: it is larger than `max_bytes`, or a directory.
        StorageError: the storage refused or failed.
    """
    with map_errors(f"cannot read {name}"):
        try:
            data = retry.call(lambda: _start(fs, path, max_bytes + 1, name, refuse_from=max_bytes + 1))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (IsADirectoryError, NoRegularFileError) as error:
            raise not_regular(name) from error
    if len(data) > max_bytes:
        raise too_large(name, max_bytes)
    return data


def _start(fs: Any, path: str, length: int, name: str, *, refuse_from: int | None = None) -> bytes:
    # Some stores refuse a range that reaches past the end.
    size = size_of(fs.info(path), name)
    if refuse_from is not None and size >= refuse_from:
        raise too_large(name, refuse_from - 1)
    due = min(size, length)
    data = read_stored(fs, path, [(0, due)])[0] if due else b""
    if len(data) < due:
        raise TruncatedError(f"{len(data)} bytes came where {due} were asked for")
    return data[:due]


class RemoteRanges:
    """Ranges of an object; all methods may be called on several threads at once.

    The object is looked at before and after; a body that was cut short never counts as whole. A small object is fetched
    whole by the first read, because a second request takes longer than its bytes.

    Args:
        remote: the object.
        source: the same, pinned.
        reads_all: whether all of it will be read: then it is fetched whole up to the size of the longest range.
    """

    __slots__ = ("_fetches_whole", "_lock", "_pool", "_remote", "_source", "_whole", "name", "size_bytes", "traits")

    def __init__(self, remote: RemoteFilesystem, source: SourceFile, *, reads_all: bool = False) -> None:
        """Ask for nothing yet."""
        self._source = source
        self._remote = remote
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self.name = source.location.display
        self.size_bytes = source.size_bytes
        settings = self._remote.settings
        most = settings.range_bytes if reads_all else min(settings.range_bytes, _SMALL_BYTES)
        self._fetches_whole = 0 < self.size_bytes <= most
        self._whole: memoryview | None = None
        self.traits = SourceTraits(reads_in_flight=0 if self._fetches_whole else settings.ranges_in_flight)

    def read_range(self, start: int, length: int) -> memoryview:
        """Return exactly `length` bytes from `start`, in memory of their own.

        Raises:
            FormatError: the file is shorter than that.
            ConflictError: the object is not the pinned one any more.
            StorageError: the storage refused or failed.
        """
        check_range(self._source, start, length)
        if self._fetches_whole:
            return self._fetched_whole()[start : start + length]
        if length <= self._remote.settings.range_bytes:
            return self._fetched(start, length)
        out = memoryview(bytearray(length))
        self.read_into(start, out)
        return out

    def read_into(self, start: int, out: memoryview) -> None:
        """Fill `out` with the bytes from `start`; raises what `read_range` raises."""
        check_range(self._source, start, len(out))
        if self._fetches_whole:
            out[:] = self._fetched_whole()[start : start + len(out)]
            return
        step = self._remote.settings.range_bytes
        self._fill([(start + at, out[at : at + step]) for at in range(0, len(out), step)])

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Return the bytes of each range (start, length); raises what `read_range` raises."""
        if self._fetches_whole:
            return [self.read_range(start, length) for start, length in ranges]
        step, pieces, found = self._remote.settings.range_bytes, list[tuple[int, memoryview]](), list[memoryview]()
        for start, length in ranges:
            check_range(self._source, start, length)
            out = memoryview(bytearray(length))
            pieces += [(start + at, out[at : at + step]) for at in range(0, length, step)]
            found.append(out)
        self._fill(pieces)
        return found

    def _fetched_whole(self) -> memoryview:
        with self._lock:  # several threads may come at once
            if self._whole is None:
                self._whole = self._fetched(0, self.size_bytes)
            return self._whole

    def _fill(self, pieces: Sequence[tuple[int, memoryview]]) -> None:
        if len(pieces) <= 1:
            for start, out in pieces:
                self._fetch(start, out)
            return
        running = [self._threads().submit(self._fill, [piece]) for piece in pieces]
        try:
            for each in running:
                each.result()
        finally:
            for each in running:
                each.cancel()

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.traits.reads_in_flight, thread_name_prefix="pipecrypt-range")
            return self._pool

    def _fetched(self, start: int, length: int) -> memoryview:
        out = memoryview(bytearray(length))
        self._fetch(start, out)
        return out

    def _fetch(self, start: int, out: memoryview) -> None:
        if not len(out):
            return
        with map_errors(f"cannot read {self.name}"):
            try:
                self._remote.retry.call(lambda: self._fetch_once(start, out))
            except TruncatedError as error:
                self._look()
                raise StorageError(
                    f"{self.name}: of the bytes from {start} on, {error}",
                    hint="run again; if this stays, the storage does not serve ranges: copy the file first",
                ) from error
            except Exception as error:
                if is_condition_failed(error) or http_status(error) == _RANGE_NOT_SATISFIABLE:
                    raise changed(self._source.location) from error
                raise

    def _fetch_once(self, start: int, out: memoryview) -> None:
        length = len(out)
        data = self._remote.fs.cat_file(self._remote.path, start=start, end=start + length)
        if len(data) > length:  # all of the file: trying again does not help
            raise StorageError(
                f"{self.name}: the storage returned {len(data)} bytes where {length} were asked for",
                hint="the storage does not serve ranges: copy the file first",
            )
        if len(data) < length:
            raise TruncatedError(f"{len(data)} bytes came where {length} were asked for")
        out[:] = data

    def check_unchanged(self) -> None:
        """Look whether the object is still the pinned one.

        Raises:
            ConflictError: it is not.
            StorageError: the storage refused or failed.
        """
        self._look()

    def _look(self) -> None:
        with map_errors(f"cannot read {self.name}"):
            info = look_up(self._remote)
        if info is None or fingerprint_of(info) != self._source.fingerprint:
            raise changed(self._source.location)
        self._note(info)

    def _note(self, info: Mapping[str, Any]) -> None:
        """Keep what the next requests can say that they have seen."""

    def close(self) -> None:
        """End the threads, and leave the file system to fsspec, which shares it."""
        self._remote.retry.stop()
        with self._lock:
            self._whole = None
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)
