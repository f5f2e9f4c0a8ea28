"""Say which statement governs a place: what was promised for a directory holds for everything below it.

A dataset of the same signer can be copied into a part of another one, and a statement beside a file. So what lies
deeper never takes over. Nothing here is verified: see version.

What was accepted before is asked by readers and by writers: a version that is older than one that was seen, or that a
retired key signed since, is not followed by the next one either, and none begins anew where a statement was removed.
"""

from __future__ import annotations

import logging
from typing import Final

from pipecrypt.dataset.memory import VersionMemory
from pipecrypt.dataset.statement.envelope import MAX_ENVELOPE_BYTES, RememberedVersion
from pipecrypt.dataset.statement.paths import MANIFEST_PATH, SIGNATURE_SUFFIX, signature_path
from pipecrypt.errors import FormatError, IntegrityError, NotTrustedError, StorageAccessError, UsageError
from pipecrypt.store.location import Location
from pipecrypt.store.small_files import SmallFiles, directories_above, locate

__all__ = [
    "ACCEPT_ANEW",
    "check_none_removed",
    "find_governing",
    "forget_removed",
    "read_envelope",
    "recall",
    "remember",
    "removed",
    "spellings",
]


_log = logging.getLogger(__name__)
ACCEPT_ANEW: Final = (
    "if an older version, or another dataset, was put there on purpose, accept it first: pipecrypt verify --forget"
)
_ANEW = "verify it with --forget if that was done on purpose"


def find_governing(files: SmallFiles, path: str, memory: VersionMemory | None) -> tuple[str, bytes] | None:
    """Return the directory and the statement that govern what lies at a path, or None if no directory above has one.

    Nobody has verified the statement yet.

    What holds when it returns: 1. of the directories above, the uppermost that a version is remembered of governs, and
    has a statement; 2. where none is, the uppermost that has a statement governs; 3. where a version of a directory or
    of the file itself is remembered, no other statement above takes over; 4. the path does not lead through a link into
    a directory that another statement governs.

    Args:
        files: the storage; costs one small request for each directory above.
        path: a file, or a directory with a `/` at its end.
        memory: what was accepted before.

    Raises:
        NotTrustedError: 1, the statement was removed.
        IntegrityError: 3, 4, or what lies in the place of a statement is not one.
        UsageError: the path is too deep.
        StorageError: the storage refused or failed.
    """
    levels = _levels(path)
    remembered = [level for level in levels if recall(files, level, memory) is not None]
    found = _uppermost(files, levels, remembered)
    root = None if found is None else found[0]
    if remembered and (root is None or len(root) > len(remembered[0])):
        raise removed(files, remembered[0])  # 1
    if root is not None and root not in remembered:
        is_deeper = any(len(level) > len(root) for level in remembered)
        is_alone = not path.endswith("/") and recall(files, signature_path(path), memory) is not None
        if is_deeper or is_alone:
            raise _took_over(files, path, root)  # 3
    _check_links(files, path, levels, root, memory)  # 4
    return found  # 2


def read_envelope(files: SmallFiles, path: str, max_bytes: int = MAX_ENVELOPE_BYTES) -> bytes | None:
    """Return a statement or a list of files, or None if there is none.

    Raises:
        IntegrityError: it is larger than that, or not a file.
        StorageError: the storage refused or failed.
    """
    try:
        return files.read(path, max_bytes)
    except FormatError as error:  # endless data, where a statement has a limit
        raise IntegrityError(error.message, hint=error.hint) from error


def recall(files: SmallFiles, path: str, memory: VersionMemory | None) -> RememberedVersion | None:
    """Return what was last accepted at a directory or a statement, however its place was spelled then.

    Raises:
        IntegrityError: a record is malformed, or two spellings of the place were two datasets.
    """
    if memory is None:
        return None
    found = [each for each in map(memory.recall, spellings(files, path)) if each is not None]
    if len({each.dataset_id for each in found}) > 1:
        raise IntegrityError(f"{files.display(path)} was another dataset before, or a link leads elsewhere", hint=_ANEW)
    return max(found, key=lambda each: each.version, default=None)


def remember(files: SmallFiles, path: str, remembered: RememberedVersion, memory: VersionMemory | None) -> None:
    """Keep what was accepted at a directory or a statement; raises as `VersionMemory.remember`."""
    if memory is None:
        return
    place, *others = spellings(files, path)
    memory.remember(place, remembered)
    if memory.starts_anew:
        above = [spelling for level in _levels(path) for spelling in spellings(files, level)]
        for other in (*others, *above):
            memory.forget(other)


def removed(files: SmallFiles, path: str) -> NotTrustedError:
    """Return the error that a statement is gone which was accepted before."""
    return NotTrustedError(
        f"{files.display(path)} is not signed any more: a version of it was accepted before, and its statement is gone",
        hint=f"somebody removed the statement; {_ANEW}",
    )


def check_none_removed(subject: Location, memory: VersionMemory | None) -> None:
    """Pass if no statement was removed that governed a place, for a writer that found none there to go on with.

    Else whoever can delete makes a writer begin anew: at version 1, and with whatever columns its sources have by then.

    Args:
        subject: a directory, or the statement beside a single file; neither has a statement.
        memory: what was accepted before.

    Raises:
        NotTrustedError: a version of it, or of a directory above that has no statement any more, is remembered.
        IntegrityError: a record is malformed.
        StorageError: the storage refused or failed.
    """
    files, path = locate(subject)
    if recall(files, path, memory) is not None:
        raise _removed_for_writer(files, path)
    real = files.real_path(path, follows_name=_follows_name(path))
    for level in dict.fromkeys((*_levels(path), *_levels(path if real is None else real))):
        if recall(files, level, memory) is not None and read_envelope(files, f"{level}/{MANIFEST_PATH}") is None:
            raise _removed_for_writer(files, level)


def forget_removed(files: SmallFiles, path: str, memory: VersionMemory) -> bool:
    """Forget what was accepted at a place that nothing signed governs any more; returns whether there was something.

    Args:
        files: the storage.
        path: of a directory or of a single file.
        memory: where it is kept.

    Raises:
        IntegrityError: a record cannot be removed.
        StorageError: the storage refused or failed.
    """
    statement = signature_path(path)
    if _uppermost(files, _levels(f"{path}/"), []) is not None or read_envelope(files, statement) is not None:
        return False
    names = (each for subject in (path, statement) for each in spellings(files, subject))
    return any([memory.forget(each) for each in dict.fromkeys(names)])


def _levels(path: str) -> tuple[str, ...]:
    """Return the directories above a path, the uppermost first."""
    levels = tuple(directories_above(path))
    if levels and next(directories_above(levels[-1]), None) is not None:
        raise UsageError(f"{path[:80]!a} lies below too many directories", hint="read the dataset above it as a whole")
    return levels[::-1]


def spellings(files: SmallFiles, path: str) -> tuple[str, ...]:
    """Return the name of a directory's or statement's place, and how it was recorded where it was called otherwise."""
    place = files.place(path, follows_name=_follows_name(path))
    return tuple(dict.fromkeys((place, files.display(path))))


def _follows_name(path: str) -> bool:
    """Return whether a link with this name is followed: that of a directory, and never that of a statement."""
    return not path.endswith(SIGNATURE_SUFFIX)


def _uppermost(files: SmallFiles, levels: tuple[str, ...], remembered: list[str]) -> tuple[str, bytes] | None:
    for level in levels:
        try:
            envelope = read_envelope(files, f"{level}/{MANIFEST_PATH}")
        except StorageAccessError as error:
            # Who may read below a directory need not be allowed to look above.
            if level in remembered:
                raise
            _log.debug("cannot tell whether a directory above is a signed dataset: %s", error.message)
            continue
        if envelope is not None:
            return level, envelope
    return None


def _check_links(
    files: SmallFiles, path: str, levels: tuple[str, ...], root: str | None, memory: VersionMemory | None
) -> None:
    """Pass if links on the way to a path lead into nothing that another statement governs."""
    named = path.rpartition("/")[0] if root is None else root
    real = files.real_path(named)
    if real is None or real == named:
        return
    known = {files.real_path(level) for level in levels}
    others = [level for level in _levels(f"{real}/") if level not in known]
    remembered = [level for level in others if recall(files, level, memory) is not None]
    taken = _uppermost(files, tuple(others), remembered)
    above = taken[0] if taken else next(iter(remembered), None)
    if above is not None:
        raise IntegrityError(
            f"{files.display(path)} leads through a link into {files.display(above)}, which is signed as a whole",
            hint=f"name it by its own path, below {files.display(above)}",
        )


def _removed_for_writer(files: SmallFiles, path: str) -> NotTrustedError:
    anew = f"if you removed it yourself: pipecrypt verify --forget {files.display(path)}, then run again"
    return NotTrustedError(removed(files, path).message, hint=anew)


def _took_over(files: SmallFiles, path: str, root: str) -> IntegrityError:
    return IntegrityError(
        f"{files.display(path)}: a statement has appeared in {files.display(root)}, which was not there when what lies "
        "below was accepted",
        hint=f"somebody put another dataset above it; {_ANEW}",
    )
