"""Move the files of a signed version from where its run staged them to their places. Reading it meanwhile: opening.

The version is signed before, so this only tidies up, and may be done again and again: by the run itself, by the next
one if it was killed, or by whoever cleans.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from pipecrypt.dataset.opening.staged_files import is_listed, staged_files
from pipecrypt.dataset.signing.directory_state import name_some
from pipecrypt.errors import IntegrityError
from pipecrypt.manifest.entry import FileEntry
from pipecrypt.manifest.paths import RUNS_DIRECTORY, parse_run_id, run_path, staged_path
from pipecrypt.store.exclusive import remove_file
from pipecrypt.store.inventory import pin, refuse_links, take_inventory
from pipecrypt.store.location import Location
from pipecrypt.store.move import move_file, remove_empty_directories
from pipecrypt.store.protocol import SourceFile
from pipecrypt.vocabulary.documents import DocumentError

__all__ = ["finish_version", "set_aside"]

_log = logging.getLogger(__name__)
_TABLES: Final = ("staged/", "attempts/")


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
    for path in paths:
        before_each()
        move_file(sink.child(path), directory.child(path))


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
        before_each: passes while the lock is held; asked before each file.

    Raises:
        LinkError: a link is where a file or a directory should be; it is not followed, and it stays.
        IntegrityError: a listed file is neither staged nor at its place; all others are moved.
        StorageError: the storage refused or failed; do it again.
    """
    directory, listed = sink.child(staged_path(run_id)), {entry.path: entry for entry in entries}
    if sink.is_local:
        deque(refuse_links(directory, take_inventory(directory, lambda _: True)), maxlen=0)
    broken = []
    for path, file in staged_files(sink, run_id).items():
        before_each()
        if not _put_in_place(file, sink.child(path), listed.get(path)):
            broken.append(path)
    if broken:
        raise _wrong_files(sink, directory, broken)
    gone = [path for path in removes if path not in listed]
    for path in gone:
        before_each()
        remove_file(sink.child(path))
    _remove_of_earlier_runs(sink, before=run_id, before_each=before_each)
    remove_empty_directories(directory)


def _put_in_place(staged: SourceFile, place: Location, entry: FileEntry | None) -> bool:
    """Move or remove a staged file, as far as one of the two is right."""
    if entry is None:
        remove_file(staged.location)  # 3
        return True
    if is_listed(staged, entry):
        move_file(staged.location, place, fingerprint=staged.fingerprint)  # 1
        return True
    found = pin(place, entry.path)
    if found is None or found[1] is None or not is_listed(found[1], entry):
        return False  # 4
    _log.warning("%s is not the file that was signed, %s is: removed", staged.location.display, place.display)
    remove_file(staged.location)  # 2
    return True


def _wrong_files(sink: Location, directory: Location, paths: list[str]) -> IntegrityError:
    return IntegrityError(
        f"{name_some(directory, paths)}: not as signed, and neither is what lies at {name_some(sink, paths)}",
        hint=f"put the signed file there from a copy; or remove {directory.display}, then run again with --overwrite",
    )


def _remove_of_earlier_runs(sink: Location, *, before: str, before_each: Callable[[], None]) -> None:
    """Remove what was set aside, and tables of earlier runs that failed: who reads everything would read them too."""
    runs = sink.child(RUNS_DIRECTORY)
    for path, file in take_inventory(runs, lambda _: True):
        run_id, _, below = path.partition("/")
        if file is not None and below.startswith(_TABLES) and _is_earlier(run_id, before):
            before_each()
            remove_file(file.location)
            remove_empty_directories(sink.child(run_path(run_id, below.partition("/")[0])))


def _is_earlier(run_id: str, other: str) -> bool:
    """Say whether a directory is that of a run, and that run began before another: its id sorts first."""
    try:
        parse_run_id(run_id)
    except DocumentError:
        return False
    return run_id < other
