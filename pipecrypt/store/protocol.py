"""What a store is: files of one storage below a place, looked at, read, written, moved and removed.

Three kinds of store stand behind it (local, fsspec, s3) and pass the same tests. Paths are relative to the store's
root, with `/`; the empty path is the root itself, which may be a file. No link below the root is followed or replaced.
A store keeps no state between calls, so that any number of threads may use one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol, TypeAlias

from pipecrypt.errors import ConflictError, FormatError, LinkError, NoRegularFileError
from pipecrypt.store.location import Location
from pipecrypt.store.patterns import Pattern
from pipecrypt.store.publication import Publication
from pipecrypt.vocabulary.ranges import DescribedSource

__all__ = [
    "Admits",
    "Entry",
    "Guarantees",
    "Kind",
    "Preconditions",
    "Publish",
    "Ranges",
    "Revision",
    "SourceFile",
    "Store",
    "changed",
    "check_range",
    "check_small",
    "everywhere",
    "not_regular",
    "replaced_meanwhile",
    "too_large",
]

Admits: TypeAlias = Callable[[tuple[str, ...]], bool]
"""Says of the names that lead to a directory whether a walk goes into it."""
_NOT_EXPECTED: Final = "this is not what it should be"


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


class Kind(Enum):
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
    kind: Kind
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
        """Say whether a file, a directory or a link is there.

        Raises:
            LinkError: what leads there is a link that the caller did not name.
        """
        if self.is_behind_link:
            raise self._is_link()
        return self.kind is not Kind.NOTHING

    def is_directory(self) -> bool:
        """Say whether a directory is there.

        Raises:
            LinkError: it, or what leads there, is a link that the caller did not name.
        """
        self.refuse_link()
        return self.kind is Kind.DIRECTORY

    def file(self) -> SourceFile | None:
        """Return the file that is there; None if nothing or a directory is.

        Raises:
            LinkError: it is a link, or lies behind one, that the caller did not name.
            NoRegularFileError: it is something else that is not a regular file.
        """
        self.refuse_link()
        if self.kind is Kind.FILE and self.source is None:
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
        if self.kind is Kind.LINK:
            raise self._is_link()

    def _is_link(self) -> LinkError:
        what = "lies behind a symbolic link" if self.is_behind_link else "is a symbolic link"
        return LinkError(f"{self.location.display} {what}")


# ---- what is read ----


class Ranges(DescribedSource, Protocol):
    """A pinned file that is open for reading, until it is closed."""

    def check_unchanged(self) -> None:
        """Look whether the file is still the pinned one.

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


class Preconditions(Enum):
    """How a store keeps two writers of one name apart."""

    HONOURED = "honoured"
    """The store refuses the second object, and to replace one that is not the expected one; this was tried."""
    BY_OTHER_MEANS = "by other means"
    """Links of a local file system, or one process's memory."""
    IGNORED = "ignored"
    """Nothing does: the second writer replaces the first one's object."""


@dataclass(frozen=True, slots=True)
class Guarantees:
    """How a store keeps two writers apart, and how that is known.

    Args:
        outcome: the answer.
        reason: one phrase for people.
        ignored: what the store does in spite of a condition although it honours others, in words for people. A request
            that a network held back for longer than a lock lasts may then still copy or remove something newer.
    """

    outcome: Preconditions
    reason: str
    ignored: tuple[str, ...] = ()

    @property
    def lets_several_write(self) -> bool:
        """Whether two runs may write to one directory at once."""
        return self.outcome is not Preconditions.IGNORED


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
        """Say whether nothing is at the root, or a directory without files.

        What runs that were killed left behind does not count, nor do the files of the directory `besides` below it.
        """

    def find_sources(self, below: Pattern) -> Iterator[SourceFile]:
        """Yield the files that the root names: itself, those below it, or those that match it as a glob.

        Links are the user's own, and are followed. Without an order.

        Raises:
            SourceNotFoundError: nothing is there.
            NoRegularFileError: something that counts is a named pipe, a socket or a device.
        """

    def open(self, source: SourceFile) -> Ranges:
        """Open a pinned file.

        Raises:
            ConflictError: it is not the file any more that was pinned.
        """

    def read_small(self, path: str = "", *, max_bytes: int) -> bytes | None:
        """Return a whole small file, or None if there is none.

        Raises:
            FormatError: it is larger than `max_bytes`, or not a regular file.
        """

    def read_start(self, length: int, path: str = "") -> bytes:
        """Return the first bytes of a file, at most `length`.

        Raises:
            FormatError: it is not a regular file.
        """

    def read_revision(self, path: str = "", *, max_bytes: int) -> Revision | None:
        """Return a small file as `replace` compares it; otherwise as `read_small`."""

    def write(
        self, path: str = "", *, overwrite: bool, token: str | None = None, expected_bytes: int | None = None
    ) -> Publication:
        """Open a new file; nothing is made before the first write, nothing appears before it is published.

        Args:
            path: of the file; directories above it are made.
            overwrite: whether it may replace a file.
            token: the run's, for `remove_leftovers`.
            expected_bytes: about how large the file will be, where that is known.

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
        thinks it forsaken may be wrong, and both would write.

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


def everywhere(names: tuple[str, ...]) -> bool:
    """Admit every directory."""
    return True


# ---- what all stores refuse alike ----


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


def check_small(data: bytes, max_bytes: int, name: str) -> bytes:
    """Return what was read of a small file; refuse one that is larger than it may be.

    Raises:
        FormatError: it is larger than `max_bytes`.
    """
    if len(data) > max_bytes:
        raise too_large(name, max_bytes)
    return data


def too_large(name: str, max_bytes: int) -> FormatError:
    """Return the error for a small file that is not small."""
    return FormatError(f"{name} is larger than {max_bytes} bytes", hint=_NOT_EXPECTED)


def not_regular(name: str) -> FormatError:
    """Return the error for what should be a small file, and is no file."""
    return FormatError(f"{name} is not a regular file", hint=_NOT_EXPECTED)


def changed(source: SourceFile) -> ConflictError:
    """Return the error for a file that is not the pinned one any more."""
    return ConflictError(
        f"{source.location.display} changed while it was read", hint="wait until its writer is done, then run again"
    )


def replaced_meanwhile(location: Location) -> ConflictError:
    """Return the error for an object that is not the one any more that was looked at."""
    return ConflictError(
        f"{location.display} was replaced by another run in the meantime",
        hint="let one run at a time write here; look which one goes on, then run again",
    )
