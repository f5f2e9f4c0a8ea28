"""What a store is: files of one storage below a place, looked at, read, written, moved and removed.

Three kinds of store stand behind it (local, fsspec, s3) and pass the same tests. Paths are relative to the store's
root, with `/`; the empty path is the root itself, which may be a file. No link below the root is followed or replaced.
A store keeps no state between calls, so that any number of threads may use one.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol, TypeAlias

from pipecrypt.errors import (
    FormatError,
    IntegrityError,
    LinkError,
    NoRegularFileError,
    StorageError,
    UnsafeSinkError,
)
from pipecrypt.store.location import Location, Pattern
from pipecrypt.store.problems import map_errors, replaced_meanwhile
from pipecrypt.store.publication import Publication
from pipecrypt.vocabulary.ranges import DescribedSource

__all__ = [
    "Admits",
    "Entry",
    "EntryKind",
    "Guarantees",
    "Publish",
    "Ranges",
    "Revision",
    "SourceFile",
    "Store",
    "check_range",
    "check_writers",
]

Admits: TypeAlias = Callable[[tuple[str, ...]], bool]
"""Says of the names that lead to a directory whether a walk goes into it."""
_log = logging.getLogger(__name__)
_PIECE_BYTES: Final = 8 << 20


# ---- what is there ----


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file, as it was when it was looked at.

    Args:
        location: the file.
        relative_path: its path below where it was looked for, with `/`; its name where that is this one file.
        size_bytes: its size.
        fingerprint: changes when the file does.
        mode: permission bits of a local source (0o777).
        mtime_ns: when it was last changed, in nanoseconds since 1970, where that was looked at.
    """

    location: Location
    relative_path: str
    size_bytes: int
    fingerprint: str
    mode: int | None = None
    mtime_ns: int | None = None


class EntryKind(Enum):
    """What is at a place."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"  # a symbolic link, or what such a link would lead to, where the caller did not name it
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Entry:
    """What was found at a place of a store.

    Args:
        root: of the store.
        path: below the root.
        kind: what is there; what is neither link, file nor directory counts as a file.
        source: the file; None of what is not a regular file, and of what a server lists by a name that leads elsewhere.
        is_behind_link: whether the way there leads over a link that the caller did not name.
        follows_link: whether the root is a link, which the caller named, and what is told is where it leads.
    """

    root: Location
    path: str
    kind: EntryKind
    source: SourceFile | None = None
    is_behind_link: bool = False
    follows_link: bool = False

    @property
    def location(self) -> Location:
        """Where it is.

        Raises:
            IntegrityError: a server lists it by a name that leads elsewhere.
        """
        return self.root.child(self.path) if self.path else self.root

    def exists(self) -> bool:
        """Return whether a file, a directory or a link is there.

        Raises:
            LinkError: what leads there is a link that the caller did not name.
        """
        if self.is_behind_link:
            raise self._is_link()
        return self.kind is not EntryKind.NOTHING

    def is_directory(self) -> bool:
        """Return whether a directory is there.

        Raises:
            LinkError: it, or what leads there, is a link that the caller did not name.
        """
        self.refuse_link()
        return self.kind is EntryKind.DIRECTORY

    def file(self) -> SourceFile | None:
        """Return the file that is there; None if nothing or a directory is.

        Raises:
            LinkError: it is a link, or lies behind one, that the caller did not name.
            NoRegularFileError: it is something else that is not a regular file.
        """
        self.refuse_link()
        if self.kind is EntryKind.FILE and self.source is None:
            raise NoRegularFileError(f"{self.location.display} is not a regular file")
        return self.source

    def regular(self) -> SourceFile | None:
        """Return the file that is there; None if nothing is, or anything else, such as a link.

        Raises:
            LinkError: what leads there is a link that the caller did not name.
        """
        return self.source if self.exists() else None

    def refuse_link(self) -> None:
        """Pass unless it is a link, or lies behind one, that the caller did not name.

        Raises:
            LinkError: it does.
        """
        if self.kind is EntryKind.LINK:
            raise self._is_link()

    def _is_link(self) -> LinkError:
        what = "lies behind a symbolic link" if self.is_behind_link else "is a symbolic link"
        return LinkError(f"{self.location.display} {what}")


# ---- what is read ----


class Ranges(DescribedSource, Protocol):
    """A pinned file that is open for reading, until it is closed."""

    def check_unchanged(self) -> None:
        """Look whether the file is still the pinned one, unless each answer of its store says which file it is of.

        Raises:
            ConflictError: it is not.
            StorageError: the storage refused or failed.
        """

    def close(self) -> None:
        """Let it go."""


@dataclass(frozen=True, slots=True)
class Revision:
    """A small file as it was read.

    Args:
        data: all of it.
        tag: what its store compares; None where the bytes are compared.
    """

    data: bytes
    tag: str | None = None


# ---- what is promised ----


@dataclass(frozen=True, slots=True)
class Guarantees:
    """How a store keeps two writers of one name apart, and how that is known.

    Args:
        reason: one phrase for people.
        keeps_writers_apart: whether the second of two objects is refused, and to replace one that is not the expected
            one; else the second writer replaces the first one's object.
        ignored: what the store does in spite of a condition although it honours others, in words for people. A request
            that a network held back for longer than a lock lasts may then still copy or remove something newer.
    """

    reason: str
    keeps_writers_apart: bool = True
    ignored: tuple[str, ...] = ()


# ---- the store ----

Publish: TypeAlias = Callable[[bytes, Revision | None], None]


class Store(Protocol):
    """Files below a root. All methods raise StorageError where the storage refused or failed.

    Attributes:
        root: the place that the paths are relative to.
        answers_late: whether a request may take effect after its sender died or gave up.
        is_remote: whether reading waits for a network more than for a processor.
    """

    root: Location
    answers_late: bool
    is_remote: bool

    def __init__(self, root: Location) -> None:
        """Look at nothing yet."""
        self.root = root

    def _at(self, path: str) -> Location:
        return self.root.child(path) if path else self.root

    @contextmanager
    def _doing(self, what: str, path: str = "") -> Iterator[Location]:
        """Yield the location of a path; errors of the storage say what was being done there."""
        place = self._at(path)
        with map_errors(f"cannot {what} {place.display}"):
            yield place

    def guarantees(self) -> Guarantees:
        """Say how two writers of one name are kept apart below the root. On object stores this takes some ten requests.

        Objects that are made for trying lie in `_pipecrypt/` below the root, and are removed.

        Raises:
            StorageAccessError: the storage denied making objects there.
        """

    def stat(self, path: str = "") -> Entry:
        """Return what is at a path, by one look.

        A link that the caller named counts as what it leads to, and as a file where it leads nowhere.
        """

    def list(self, path: str = "", admits: Admits | None = None) -> Iterator[Entry]:
        """Yield everything below a path that is not a directory itself, each once, whatever it is called.

        Nothing is left out and no name stops the walk: whoever put a strange file there would else choose what is
        seen. A link is named where it is. Local directories are read one at a time, in no order between them; other
        storages answer with one list.

        Args:
            path: where to begin; nothing is yielded if it does not exist. Paths of entries begin below it.
            admits: which directories below it are looked into, where that saves reading them; None for all.

        Raises:
            LinkError: where to begin is a link that the caller did not name, or lies behind one.
        """

    def is_empty(self, *, besides: str | None = None) -> bool:
        """Return whether nothing is at the root, or a directory without files.

        What runs that were killed left behind does not count, nor do the files of the directory `besides` below it.
        """

    def find_sources(self, below: Pattern) -> Iterator[SourceFile]:
        """Yield the files that the root names: itself, those below it, or those that match it as a glob.

        Links are the user's own, and are followed. Without an order.

        Raises:
            SourceNotFoundError: nothing is there.
            NoRegularFileError: something that counts is a named pipe, a socket or a device.
        """

    def open(self, source: SourceFile, *, reads_all: bool = False) -> Ranges:
        """Open a pinned file.

        Args:
            source: the file.
            reads_all: whether all of it will be read, so that one of modest size may be fetched by one request.

        Raises:
            ConflictError: it is not the file any more that was pinned.
        """

    def read_start(self, length: int, path: str = "") -> bytes:
        """Return the first bytes of a file, at most `length`.

        Raises:
            FormatError: it is not a regular file.
        """

    def read_revision(self, path: str = "", *, max_bytes: int) -> Revision | None:
        """Return a whole small file as `replace` compares it, or None if there is none.

        Raises:
            FormatError: it is larger than `max_bytes`, or not a regular file.
        """

    def write(
        self,
        path: str = "",
        *,
        overwrite: bool,
        token: str | None = None,
        expected_bytes: int | None = None,
        is_free: bool = False,
    ) -> Publication:
        """Open a new file; nothing is made before the first write, nothing appears before it is published.

        Args:
            path: of the file; directories above it are made.
            overwrite: whether it may replace a file.
            token: the run's, for `remove_leftovers`.
            expected_bytes: about how large the file will be, where that is known.
            is_free: whether the caller knows that nothing is there, and that this store keeps writers apart: then an
                object store need not be asked, and refuses the file if something is there all the same.

        Raises:
            SinkNotEmptyError: the file exists, and may not be replaced.
        """

    def replace(self, data: bytes, path: str = "", *, expected: Revision | None) -> None:
        """Let a small file appear, if there is what was read there before, in one step where the storage has one.

        So of two runs that read the same version only one publishes the next, however long a request of the other was
        held back.

        Args:
            data: all of it.
            path: of the file.
            expected: what was read; None where there was nothing.

        Raises:
            ConflictError: something else is there by now, or it is unknown whether the file appeared. Nothing was
                deleted.
        """

    def replace_end(self, source: SourceFile, body_end: int, tail: bytes) -> int:
        """Replace everything from `body_end` on, durably, and return how many bytes were sent from here.

        Args:
            source: the root, which is a file.
            body_end: where the new end begins.
            tail: the new end, not empty.

        Raises:
            ConflictError: the file is not the one that was pinned, or nobody knows what became of it.
        """

    def move(self, new: Location, path: str = "", *, fingerprint: str | None = None) -> None:
        """Give a file another name on the same storage, replacing what has it; directories above it are made.

        The old name goes once the file is seen whole under the new one. After a death in between there are both names,
        and moving once more ends it.

        Args:
            new: the other name.
            path: of the file.
            fingerprint: of the file, where the caller has looked at it; compared where the storage is not local.

        Raises:
            LinkError: one of the two places, or what leads to it, is a link that the caller did not name.
            ConflictError: another process has changed one of the two meanwhile, or nobody knows what became of a
                request.
        """

    def remove(self, path: str = "") -> None:
        """Remove the file that is there now; none is fine.

        Raises:
            LinkError: it, or what leads to it, is a link that the caller did not name.
            ConflictError: another process has put another file there meanwhile, or nobody knows what became of a
                request.
        """

    def remove_leftovers(self, token: str, path: str = "", *, of_any_name: bool = False) -> None:
        """Remove the temporary files that the run `token` left of a file, or beside it `of_any_name`.

        Object stores and other remote storages show no part of an upload under a name that could be found safely.
        """

    def remove_empty_directories(self, path: str = "") -> None:
        """Remove a directory and those below it, as far as they hold no file; only local ones outlive their files.

        Raises:
            LinkError: it, or what leads to it, is a link that the caller did not name.
        """

    def remove_directory(self, path: str = "") -> None:
        """Remove one directory, if it holds nothing and its storage keeps such directories."""

    def changing(self, sleep: Callable[[float], None] = time.sleep) -> AbstractContextManager[Publish]:
        """Keep others who ask this out of the root, a small file, while it is changed.

        Local files: a lock on the directory, which the system drops when its holder dies. Elsewhere a file
        `<name>.lock` that only one can create. It stays where its holder dies, and nobody takes it over: whoever
        takes it for abandoned may be wrong, and both would write.

        Args:
            sleep: waits, in seconds, where another holds the lock.

        Returns:
            What publishes the new file in place of the revision that was read.

        Raises:
            ConflictError: another holds it for too long, or took it away meanwhile.
        """

    def holding(self, lock: Location, sleep: Callable[[float], None] = time.sleep) -> AbstractContextManager[object]:
        """Hold the root, which exists, for as long as the block lasts; whoever else asks is refused at once.

        Args:
            lock: the file that stands for it where the storage is not local.
            sleep: waits, in seconds, where another holds the lock file.

        Raises:
            ConflictError: another holds it, or the lock file was taken away meanwhile.
        """

    # ---- what all stores do alike, by the methods above alone ----

    def read_small(self, path: str = "", *, max_bytes: int) -> bytes | None:
        """Return a whole small file, or None if there is none; as `read_revision`."""
        found = self.read_revision(path, max_bytes=max_bytes)
        return None if found is None else found.data

    @contextmanager
    def opened(self, source: SourceFile, *, reads_all: bool = False) -> Iterator[Ranges]:
        """Open a pinned file; on leaving the block, check that what was read is of the file that was pinned.

        The caller publishes what it made from the file only after leaving the block. Arguments are those of `open`.

        Raises:
            ConflictError: the file is not, or no longer, the one that was pinned. This also replaces an error about the
                content, which a file that changes under the reader is bound to give.
        """
        ranges = self.open(source, reads_all=reads_all)
        try:
            ranges.check_unchanged()
            yield ranges
            ranges.check_unchanged()
        except (FormatError, IntegrityError):
            ranges.check_unchanged()
            raise
        finally:
            ranges.close()

    def replace_exclusively(
        self,
        change: Callable[[bytes | None], bytes | None],
        *,
        max_bytes: int,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Replace the root, a small file, by what `change` makes of it, while no other caller of this does.

        Args:
            change: given its content, None where it does not exist, returns the new one, None to leave it as it is. It
                calls nothing slow: others wait.
            max_bytes: of the file.
            sleep: waits, in seconds, where another holds the lock.

        Raises:
            ConflictError: another holds the lock for too long, or replaced the file all the same.
            FormatError: the file is larger than `max_bytes`.
            IntegrityError: what was read back is not what was written.
        """
        with self.changing(sleep) as publish:
            before = self.read_revision(max_bytes=max_bytes)
            data = change(None if before is None else before.data)
            if data is None:
                return
            publish(data, before)
            if self.read_small(max_bytes=max_bytes) != data:
                raise IntegrityError(
                    f"{self.root.display} is not what was written to it",
                    hint="another program writes there too, or the storage serves old content; run again",
                )

    def _write(self, data: bytes, path: str = "", *, overwrite: bool) -> None:
        with self.write(path, overwrite=overwrite) as sink:
            sink.write(data)
            sink.publish()

    def _check_same(self, path: str, expected: Revision | None) -> None:
        wanted = None if expected is None else expected.data
        try:
            found = self.read_small(path, max_bytes=len(wanted or b""))
        except FormatError as error:  # a longer one
            raise replaced_meanwhile(self._at(path)) from error
        if found != wanted:
            raise replaced_meanwhile(self._at(path))

    def _rewrite_end(self, source: SourceFile, body_end: int, tail: bytes, *, mode: int | None = None) -> int:
        """Replace the end of the root by writing all of it once more; see `replace_end`."""
        with self.write(overwrite=True) as sink:
            sink.restore_attributes(mode=mode, mtime_ns=None)
            self._copy(source, body_end, sink)
            sink.write(tail)
            sink.publish()
        return body_end + len(tail)

    def _rewrite_as(self, target: Store) -> None:
        """Move the root to another one by writing it once more and removing the old one; see `move`."""
        source = self._existing()
        with target.write(overwrite=True, expected_bytes=source.size_bytes) as sink:
            self._copy(source, source.size_bytes, sink)
            sink.publish()
        written = target._existing().size_bytes
        if written != source.size_bytes:
            raise StorageError(f"the storage kept {written} of {source.size_bytes} bytes of {target.root.display}")
        self.remove()

    def _copy(self, source: SourceFile, end: int, sink: Publication) -> None:
        with self.opened(source) as before:
            for start in range(0, end, _PIECE_BYTES):
                sink.write(before.read_range(start, min(_PIECE_BYTES, end - start)))

    def _existing(self) -> SourceFile:
        found = self.stat().file()
        if found is None:
            raise FileNotFoundError(errno.ENOENT, f"there is no file {self.root.display}")
        return found


def check_writers(store: Store, *, is_only_writer: bool) -> Guarantees:
    """Refuse a sink that cannot keep two writers apart, unless the user says that there is only one.

    Raises:
        UnsafeSinkError: it cannot, and there may be several.
        StorageError: the storage refused or failed.
    """
    report, sink = store.guarantees(), store.root
    if not report.keeps_writers_apart:
        if not is_only_writer:
            raise UnsafeSinkError(f"{sink.display} cannot keep two writers apart: {report.reason}")
        _log.warning("%s cannot keep two writers apart, and one was promised: %s", sink.display, report.reason)
    elif report.ignored:
        _log.info("%s %s in spite of a condition", sink.display, " and ".join(report.ignored))
    return report


def check_range(source: SourceFile, start: int, length: int) -> None:
    """Refuse a range that a pinned file does not have.

    Raises:
        FormatError: it ends behind the file's end.
    """
    if start < 0 or length < 0 or start + length > source.size_bytes:
        end = start + length
        raise FormatError(
            f"{source.location.display} has {source.size_bytes} bytes, but bytes {start} to {end} are due"
        )
