"""Move the files of a signed version from where its run staged them to their places. Reading it meanwhile: opening.

The version is signed before, so this only tidies up, and may be done again and again: by the run itself, by the next
one if it was killed, or by whoever cleans.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from pipecrypt.dataset.opening.staged_files import staged_files
from pipecrypt.manifest.paths import RUNS_DIRECTORY, staged_path
from pipecrypt.storage.exclusive import remove_file
from pipecrypt.storage.inventory import take_inventory
from pipecrypt.storage.location import Location
from pipecrypt.storage.move import move_file, remove_empty_directories

__all__ = ["finish_version", "set_aside"]


def set_aside(sink: Location, run_id: str, paths: Iterable[str]) -> None:
    """Move files that the next version will not have to where readers of this version look first.

    So they are of this version until the next statement appears, and from then on they lie in nobody's way. Whoever
    finishes this version once more, because the next one was never signed, moves them back.

    The caller holds the lock of the sink.

    Args:
        sink: the directory of the dataset.
        run_id: of the run that the statement names which is there now.
        paths: of files that it lists.

    Raises:
        StorageError: the storage refused or failed.
    """
    directory = sink.child(staged_path(run_id))
    for path in paths:
        move_file(sink.child(path), directory.child(path))


def finish_version(sink: Location, run_id: str, listed: Collection[str], *, removes: Iterable[str] = ()) -> None:
    """Move what is staged to its place, and remove what the version no longer has.

    The caller holds the lock of the sink, and the statement was published and verified.

    Args:
        sink: the directory of the dataset.
        run_id: of the run that the statement names.
        listed: the paths of its files: what was staged besides, by an attempt that failed, is removed.
        removes: paths of files of the version before.

    Raises:
        StorageError: the storage refused or failed; do it again.
    """
    directory = sink.child(staged_path(run_id))
    for path, file in staged_files(sink, run_id).items():
        if path in listed:
            move_file(file.location, sink.child(path))
        else:
            remove_file(file.location)
    gone = [path for path in removes if path not in listed]
    for path in gone:
        remove_file(sink.child(path))
    if gone:
        _remove_set_aside(sink, before=run_id)
    remove_empty_directories(directory)


def _remove_set_aside(sink: Location, *, before: str) -> None:
    """Remove what is staged by runs before this one; nobody looks there any more."""
    runs = sink.child(RUNS_DIRECTORY)
    for path, file in take_inventory(runs, lambda _: True):
        run_id, _, below = path.partition("/")
        if file is not None and run_id < before and below.startswith("staged/"):
            remove_file(file.location)
            remove_empty_directories(sink.child(staged_path(run_id)))
