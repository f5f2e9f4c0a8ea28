"""Files of the operating system as a store.

Files appear by a link or a rename, small ones are compared under a lock on their directory, and no link that the caller
did not name is followed: everything below a root is reached through beneath.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from pipecrypt.errors import (
    ConflictError,
    LinkError,
    NoRegularFileError,
    SinkNotEmptyError,
    StorageError,
)
from pipecrypt.store import beneath
from pipecrypt.store.beneath import hold_directory, hold_parent
from pipecrypt.store.local_sources import find_local_sources, local_fingerprint
from pipecrypt.store.location import Location, Pattern
from pipecrypt.store.problems import changed, map_errors, not_regular, replaced_meanwhile, too_large
from pipecrypt.store.protocol import (
    Admits,
    Entry,
    EntryKind,
    Guarantees,
    Publish,
    Revision,
    SourceFile,
    Store,
    check_range,
)
from pipecrypt.store.publication import (
    LocalPublication,
    Publication,
    is_temporary,
    new_token,
    remove_leftovers_beside,
    write_fully,
)
from pipecrypt.vocabulary.ranges import SourceTraits, differing_ranges, read_each
from pipecrypt.vocabulary.state import take_lock

__all__ = ["LocalStore"]

_UNTOLD_BYTES: Final = 64 * 1024  # of a file that does not tell its size
_LEADS_NOWHERE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})  # what a link says that does
_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EINVAL})


class LocalStore(Store):
    """Local files below a directory, or one file; see `Store`."""

    answers_late = False
    is_remote = False

    def guarantees(self) -> Guarantees:
        """Say that files appear by a link."""
        return Guarantees("files appear by a link, which never replaces one")

    # ---- looking ----

    def stat(self, path: str = "") -> Entry:
        """Return what is at a path."""
        with self._doing("read", path) as place:
            try:
                found = beneath.own_status(place)
            except LinkError:  # on the way
                return Entry(self.root, path, EntryKind.LINK, is_behind_link=True)
            except (FileNotFoundError, NotADirectoryError):
                return Entry(self.root, path, EntryKind.NOTHING)
            if stat.S_ISLNK(found.st_mode) and not place.depth:
                try:
                    return replace(self._entry(path, place, beneath.status(place)), follows_link=True)
                except OSError as error:
                    if error.errno not in _LEADS_NOWHERE:
                        raise
                return Entry(self.root, path, EntryKind.FILE, follows_link=True)
            return self._entry(path, place, found)

    def _entry(self, path: str, place: Location, found: os.stat_result) -> Entry:
        if stat.S_ISDIR(found.st_mode):
            return Entry(self.root, path, EntryKind.DIRECTORY)
        if stat.S_ISLNK(found.st_mode):
            return Entry(self.root, path, EntryKind.LINK)
        if not stat.S_ISREG(found.st_mode):
            return Entry(self.root, path, EntryKind.FILE)
        name = path or place.name
        source = SourceFile(place, name, found.st_size, local_fingerprint(found), mtime_ns=found.st_mtime_ns)
        return Entry(self.root, path, EntryKind.FILE, source)

    def list(self, path: str = "", admits: Admits | None = None) -> Iterator[Entry]:
        """Yield everything below a path that is not a directory itself."""
        with self._doing("list", path) as start:
            below = self if not path else LocalStore(start)
            for names, found in beneath.walk(start, admits or (lambda _: True)):
                name = "/".join(names)
                yield below._entry(name, start.child(name), found)

    def is_empty(self, *, besides: str | None = None) -> bool:
        """Return whether nothing is at the root, or a directory without files."""
        left_out = None if besides is None else tuple(besides.split("/"))
        with self._doing("read"):
            entry = self.stat()
            if not entry.is_directory():
                return not entry.exists()
            found = beneath.walk(self.root, lambda names: names != left_out)
            return all(stat.S_ISREG(each.st_mode) and is_temporary(names[-1]) for names, each in found)

    def find_sources(self, below: Pattern) -> Iterator[SourceFile]:
        """Yield the files that the root names."""
        return find_local_sources(self.root, below)

    # ---- reading ----

    def open(self, source: SourceFile, *, reads_all: bool = False) -> _LocalRanges:
        """Open a pinned file."""
        return _LocalRanges(source)

    def read_revision(self, path: str = "", *, max_bytes: int) -> Revision | None:
        """Return a whole small file, whose bytes are what `replace` compares."""
        with self._doing("read", path) as place:
            try:
                data = _start(place, max_bytes + 1, refuse_from=max_bytes + 1)
            except (FileNotFoundError, NotADirectoryError):
                return None
        if len(data) > max_bytes:
            raise too_large(place.display, max_bytes)
        return Revision(data)

    def read_start(self, length: int, path: str = "") -> bytes:
        """Return the first bytes of a file."""
        with self._doing("read", path) as place:
            return _start(place, length)

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
        return LocalPublication(self._at(path), overwrite=overwrite, token=token or new_token())

    def replace(self, data: bytes, path: str = "", *, expected: Revision | None) -> None:
        """Let a small file appear, if there is what was read there before."""
        if expected is None:
            try:
                self._write(data, path, overwrite=False)  # a link never replaces a file
            except SinkNotEmptyError as error:
                raise replaced_meanwhile(self._at(path)) from error
            return
        with self._locked_directory(path, wait=None):
            self._check_same(path, expected)
            self._write(data, path, overwrite=True)

    def replace_end(self, source: SourceFile, body_end: int, tail: bytes) -> int:
        """Replace everything from `body_end` on, in place; of an end of the same length, what differs.

        Unless the file has another name elsewhere, which would show the change: then this one gets a file of its own.
        """
        with map_errors(f"cannot write {source.location.display}"):
            descriptor = beneath.open_to_change(source.location)
            try:
                found = os.fstat(descriptor)
                if local_fingerprint(found) != source.fingerprint:
                    raise changed(source.location)
                if found.st_nlink > 1:
                    return self._rewrite_end(source, body_end, tail, mode=found.st_mode)
                written = 0
                for start, end in differing_ranges(os.pread(descriptor, len(tail), body_end), tail):
                    os.lseek(descriptor, body_end + start, os.SEEK_SET)
                    write_fully(descriptor, memoryview(tail)[start:end])
                    written += end - start
                os.ftruncate(descriptor, body_end + len(tail))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        return written

    # ---- moving and removing ----

    def move(self, new: Location, path: str = "", *, fingerprint: str | None = None) -> None:
        """Give a file another name, in one step where both are on one file system."""
        place = self._at(path)
        with map_errors(f"cannot move {place.display} to {new.display}"):
            try:
                beneath.move(place, new)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                LocalStore(place)._rewrite_as(LocalStore(new))  # a directory of the dataset is a file system of its own

    def remove(self, path: str = "") -> None:
        """Remove the file that is there now."""
        with self._doing("remove", path) as place, contextlib.suppress(FileNotFoundError):
            beneath.remove(place)

    def remove_leftovers(self, token: str, path: str = "", *, of_any_name: bool = False) -> None:
        """Remove the temporary files that the run `token` left of a file, or beside it."""
        remove_leftovers_beside(self._at(path), token, of_any_name=of_any_name)

    def remove_empty_directories(self, path: str = "") -> None:
        """Remove a directory and those below it, as far as they hold no file."""
        beneath.remove_empty(self._at(path))

    def remove_directory(self, path: str = "") -> None:
        """Remove one directory, if it holds nothing."""
        with contextlib.suppress(OSError):
            beneath.remove_directory(self._at(path))

    # ---- locks ----

    @contextmanager
    def changing(self, sleep: Callable[[float], None] = time.sleep) -> Iterator[Publish]:
        """Hold the lock of the file's directory, which is made if there is none."""
        with map_errors(f"cannot lock {self.root.above.display}"):
            beneath.make_directories_above(self.root)
            with self._locked_directory("", wait=sleep):
                yield lambda data, _: self._write(data, overwrite=True)

    @contextmanager
    def _locked_directory(self, path: str, *, wait: Callable[[float], None] | None) -> Iterator[None]:
        """Hold the lock of a file's directory. Who is stopped while holding it keeps others out, but not waiting."""
        directory = self._at(path).above.display
        with map_errors(f"cannot lock {directory}"):
            held, _ = hold_parent(self._at(path))
            with held:
                descriptor = held.readable()
        try:
            if wait is not None:
                take_lock(descriptor, directory, sleep=wait)
            else:
                _lock_where_possible(descriptor, directory)
            yield
        finally:
            os.close(descriptor)  # drops the lock

    @contextmanager
    def holding(self, lock: Location, sleep: Callable[[float], None] = time.sleep) -> Iterator[None]:
        """Hold the root by a lock of the system, which it drops when its holder dies."""
        descriptor = self._open_held()
        try:
            yield
        finally:
            os.close(descriptor)  # drops the lock

    def _open_held(self) -> int:
        with map_errors(f"cannot lock {self.root.display}"):
            descriptor = _open_to_lock(self.root)
            try:
                take_lock(descriptor, self.root.display, wait_seconds=0)
            except ConflictError as error:
                os.close(descriptor)
                raise ConflictError(
                    f"another command is changing {self.root.display}", hint="wait until it is done, then run again"
                ) from error
            except BaseException:
                os.close(descriptor)
                raise
        return descriptor


def _lock_where_possible(descriptor: int, directory: str) -> None:
    try:
        take_lock(descriptor, directory)
    except OSError as error:
        # A file system without such locks; the lock of the sink keeps writers apart all the same.
        if error.errno not in _NO_LOCKS:
            raise StorageError(f"cannot lock {directory}: {error.strerror}") from error


def _open_to_lock(location: Location) -> int:
    try:
        with hold_directory(location) as directory:
            return directory.readable()
    except NotADirectoryError:
        return beneath.open_to_change(location)  # NFS locks a file only for who may write to it


def _start(location: Location, length: int, *, refuse_from: int | None = None) -> bytes:
    """Return the first bytes; of a file that says it has `refuse_from` or more, none is read."""
    try:
        with open(beneath.open_to_read(location), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if refuse_from is not None and size >= refuse_from:
                raise too_large(location.display, refuse_from - 1)
            # Python makes room for all that it is asked for before it reads. Files of /proc say that they are empty.
            return file.read(min(length, max(size, _UNTOLD_BYTES)))
    except NoRegularFileError as error:
        raise not_regular(location.display) from error


class _LocalRanges:
    """Ranges of a local file, in one buffer that grows and is used again.

    The file is not mapped into memory: another process that truncates it would then kill this one.
    """

    __slots__ = ("_buffer", "_file", "_source", "name", "size_bytes", "traits")

    def __init__(self, source: SourceFile) -> None:
        self._source = source
        self._buffer = bytearray()
        self.name = source.location.display
        self.size_bytes = source.size_bytes
        with map_errors(f"cannot read {self.name}"):
            try:
                self._file = beneath.open_to_read(source.location)
            except (FileNotFoundError, NoRegularFileError) as error:
                raise changed(source.location) from error
            if local_fingerprint(os.fstat(self._file)) != source.fingerprint:  # another file by that name
                os.close(self._file)
                raise changed(source.location)
            self._check_end()
        self.traits = SourceTraits(seeks_cheaply=True, reads_in_flight=1, descriptor=self._file)

    def _check_end(self) -> None:
        # Files of /proc, and of some file systems in user space, have a size of 0 and content all the same.
        if not os.pread(self._file, 1, self.size_bytes):
            return
        has_grown = local_fingerprint(os.fstat(self._file)) != self._source.fingerprint
        os.close(self._file)
        if has_grown:
            raise changed(self._source.location)
        raise StorageError(
            f"{self.name} holds more than the {self.size_bytes} bytes that its file system reports",
            hint="copy it to a file first, or send it to standard input",
        )

    def read_range(self, start: int, length: int) -> memoryview:
        check_range(self._source, start, length)
        if length > len(self._buffer):
            self._buffer = bytearray(length + length // 8)
        view = memoryview(self._buffer)[:length]
        self.read_into(start, view)
        return view

    def read_into(self, start: int, out: memoryview) -> None:
        filled = 0
        with map_errors(f"cannot read {self.name}"):
            while filled < len(out):  # one call reads at most 2 GiB
                count = os.preadv(self._file, [out[filled:]], start + filled)
                if not count:
                    raise changed(self._source.location)
                filled += count

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> Sequence[memoryview]:
        return read_each(self, ranges)

    def check_unchanged(self) -> None:
        with map_errors(f"cannot read {self.name}"):
            try:
                found = beneath.status(self._source.location)
            except FileNotFoundError as error:
                raise changed(self._source.location) from error
        if local_fingerprint(found) != self._source.fingerprint:
            raise changed(self._source.location)

    def close(self) -> None:
        os.close(self._file)
