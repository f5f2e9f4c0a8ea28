"""The files of a signed version that have not reached their places yet: found by readers, moved there by writers.

A run that replaces files writes the new ones below its own directory, signs the version that lists them, and moves them
to their places then. So a version exists as a whole from the moment its statement appears, and a run that is killed
before leaves the version before as it was. Moving only tidies up, and may be done again and again: by the run itself,
by the next one if it was killed, or by whoever cleans.

Whoever reads looks there first, and takes what has the size and the footer that were signed: an attempt that was given
up may write there at any later time. What is taken is compared with what was signed like any other file: putting
something there gains an attacker what replacing the file itself would.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, TypeVar

from pipecrypt.dataset.listing import is_data, name_some
from pipecrypt.dataset.statement.file_list import FileEntry
from pipecrypt.dataset.statement.paths import RUNS_DIRECTORY, parse_run_id, run_path, staged_path
from pipecrypt.errors import ConflictError, ContentError, IntegrityError
from pipecrypt.parquet.footer.stored import read_footer_bytes
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_range_source, open_store
from pipecrypt.store.protocol import SourceFile
from pipecrypt.vocabulary.documents import DocumentError
from pipecrypt.vocabulary.in_flight import AT_ONCE, map_in_flight
from pipecrypt.vocabulary.ranges import RangeSource

__all__ = ["finish_version", "is_listed", "is_signed", "listed_staged_files", "set_aside", "staged_files"]
_log = logging.getLogger(__name__)
_TABLES: Final = ("staged/", "attempts/")
_FEW: Final = 8  # of so many, and for each so many more, one more is changed at once
_T = TypeVar("_T")


def staged_files(directory: Location, run_id: str | None) -> dict[str, SourceFile]:
    """Return what is staged below a run, by paths below the dataset; usually nothing. Nobody has compared it yet.

    Args:
        directory: of the dataset.
        run_id: the run that the verified statement names.

    Raises:
        StorageError: the storage refused or failed.
    """
    if run_id is None:
        return {}
    found = ((entry.path, entry.source) for entry in open_store(directory.child(staged_path(run_id))).list())
    return {path: file for path, file in found if file is not None and is_data(path, file)}


def listed_staged_files(
    directory: Location,
    run_id: str | None,
    entries: Mapping[str, FileEntry],
    *,
    in_place: Collection[str] | None = None,
) -> dict[str, SourceFile]:
    """Return the staged files that are to be taken rather than those at their places, by path; usually none.

    They have the size and, where another file may be the right one, the footer that were signed. The caller still owes
    to compare all else.

    Args:
        directory: of the dataset.
        run_id: the run that the verified statement names.
        entries: what was signed, by path; other files are left out.
        in_place: paths at whose places a file of the signed size is; None where nobody has looked yet. A version of
            which much is staged is opened without reading each footer.

    Raises:
        StorageError: the storage refused or failed.
    """
    found = staged_files(directory, run_id)
    return {
        path: file
        for path, file in found.items()
        if path in entries
        and file.size_bytes == entries[path].size_bytes
        and ((in_place is not None and path not in in_place) or is_listed(file, entries[path]))
    }


def is_listed(file: SourceFile, entry: FileEntry) -> bool:
    """Return whether a file has the size and the footer of an entry, whatever it is called and wherever it lies.

    Two attempts at one output have keys of their own, so their footers differ.

    Raises:
        StorageError: the storage refused or failed.
    """
    if file.size_bytes != entry.size_bytes:
        return False
    try:
        with open_range_source(file) as source:
            return is_signed(source, entry)
    except (ContentError, ConflictError):
        return False


def is_signed(source: RangeSource, entry: FileEntry) -> bool:
    """Return whether an open file has the size and the footer of an entry; one that changes or goes meanwhile does not.

    Raises:
        StorageError: the storage refused or failed.
    """
    try:
        return source.size_bytes == entry.size_bytes and read_footer_bytes(source).sha256 == entry.footer_sha256
    except (ContentError, ConflictError):
        return False


def set_aside(
    sink: Location, run_id: str, paths: Iterable[str], *, before_each: Callable[[], None] = lambda: None
) -> None:
    """Move files that the next version will not have to where readers of this version look first.

    So they are of this version until the next statement appears, and from then on they lie in nobody's way. Whoever
    finishes this version once more, because the next one was never signed, moves them back.

    The caller holds the lock of the sink.

    Args:
        sink: the directory of the dataset.
        run_id: of the run that the statement names which is there now.
        paths: of files that it lists.
        before_each: passes while the lock is held; asked before each file.

    Raises:
        StorageError: the storage refused or failed.
    """
    directory = sink.child(staged_path(run_id))
    _each(lambda path: open_store(sink.child(path)).move(directory.child(path)), list(paths), before_each)


def finish_version(
    sink: Location,
    run_id: str,
    entries: Iterable[FileEntry],
    *,
    removes: Iterable[str] = (),
    before_each: Callable[[], None] = lambda: None,
) -> None:
    """Move what is staged to its place, and remove what the version no longer has.

    What holds of each staged file: 1. it has the size and the footer of the entry of its path, and is moved; or 2. its
    place holds the file that has them, and it is removed: it is of an attempt that failed, or that was given up and
    wrote once more after the first was moved; or 3. no version lists its path, and it is removed; or 4. it stays, as
    does what its place holds, and this fails in the end.

    The caller holds the lock of the sink, and the statement was published and verified.

    Args:
        sink: the directory of the dataset.
        run_id: of the run that the statement names.
        entries: the files that it lists.
        removes: paths of files of the version before.
        before_each: passes while the lock is held; asked before each file, on several threads.

    Raises:
        LinkError: a link is where a file or a directory should be; it is not followed, and it stays.
        IntegrityError: a listed file is neither staged nor at its place; all others are moved.
        StorageError: the storage refused or failed; do it again.
    """
    directory, listed = sink.child(staged_path(run_id)), {entry.path: entry for entry in entries}
    store = open_store(directory)
    for entry in () if store.is_remote else store.list():
        entry.refuse_link()
    staged = staged_files(sink, run_id)
    are_right = _each(
        lambda path: _put_in_place(staged[path], sink.child(path), listed.get(path)), list(staged), before_each
    )
    broken = [path for path, is_right in zip(staged, are_right, strict=True) if not is_right]
    if broken:
        raise _wrong_files(sink, directory, broken)
    gone = [path for path in removes if path not in listed]
    _each(lambda path: open_store(sink.child(path)).remove(), gone, before_each)
    _remove_of_earlier_runs(sink, before=run_id, before_each=before_each)
    open_store(directory).remove_empty_directories()


def _each(change: Callable[[str], _T], paths: Sequence[str], before_each: Callable[[], None]) -> list[_T]:
    """Change files, several at once where there are many: each waits for a disk or a network.

    `before_each` is asked on the threads, just before each change: files that wait their turn may wait for long.
    """

    def ask_and_change(path: str) -> _T:
        before_each()
        return change(path)

    return list(map_in_flight(ask_and_change, paths, name="moves", at_once=min(AT_ONCE, len(paths) // _FEW)))


def _put_in_place(staged: SourceFile, place: Location, entry: FileEntry | None) -> bool:
    """Move or remove a staged file, as far as one of the two is right."""
    if entry is None:
        open_store(staged.location).remove()  # 3
        return True
    if is_listed(staged, entry):
        open_store(staged.location).move(place, fingerprint=staged.fingerprint)  # 1
        return True
    there = open_store(place).stat().regular()
    if there is None or not is_listed(there, entry):
        return False  # 4
    _log.warning("%s is not the file that was signed, %s is: removed", staged.location.display, place.display)
    open_store(staged.location).remove()  # 2
    return True


def _wrong_files(sink: Location, directory: Location, paths: list[str]) -> IntegrityError:
    return IntegrityError(
        f"{name_some(directory, paths)}: not as signed, and neither is what lies at {name_some(sink, paths)}",
        hint=f"put the signed file there from a copy; or remove {directory.display}, then run again with --overwrite",
    )


def _remove_of_earlier_runs(sink: Location, *, before: str, before_each: Callable[[], None]) -> None:
    """Remove what was set aside, and tables of earlier runs that failed: who reads everything would read them too."""
    runs = sink.child(RUNS_DIRECTORY)
    emptied = set[str]()
    try:
        for found in open_store(runs).list():
            run_id, _, below = found.path.partition("/")
            if found.source is not None and below.startswith(_TABLES) and _is_earlier(run_id, before):
                before_each()
                open_store(found.source.location).remove()
                emptied.add(run_path(run_id, below.partition("/")[0]))
    finally:
        for path in sorted(emptied):  # once: each looks at all that is below
            before_each()
            open_store(sink.child(path)).remove_empty_directories()


def _is_earlier(run_id: str, other: str) -> bool:
    """Return whether a directory is that of a run, and that run began before another: its id sorts first."""
    try:
        parse_run_id(run_id)
    except DocumentError:
        return False
    return run_id < other
