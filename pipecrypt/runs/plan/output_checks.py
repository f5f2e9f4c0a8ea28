"""Refuse outputs that cannot be where they would be, before anything is written.

A file system ends names at 255 bytes, and an output's name is longer than its source's: `.chunks.parquet`, or a number.
Some file systems take `A.parquet` and `a.parquet` for one file, where two sources would replace each other. Names that
nobody can sign, places that are pipecrypt's own, and files that would make a signed statement false are refused too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from pipecrypt.dataset.sign.sink_checks import check_outside_datasets, check_unsigned_directory, check_unsigned_file
from pipecrypt.dataset.statement.paths import LOCK_DIRECTORY, RESERVED_DIRECTORY, check_signable_paths, is_reserved
from pipecrypt.errors import SinkNotEmptyError, UsageError
from pipecrypt.keys.reference import parse_key_reference
from pipecrypt.runs.output import sidecar_files, unnumbered
from pipecrypt.runs.spec.policy import listed_signing_keys
from pipecrypt.runs.spec.spec import Spec
from pipecrypt.runs.task import Task
from pipecrypt.store.listing import check_outputs as check_places
from pipecrypt.store.location import NAME_BYTES, Location
from pipecrypt.store.open import open_store
from pipecrypt.store.protocol import SourceFile
from pipecrypt.vocabulary.in_flight import call_both

__all__ = ["check_outputs", "statement_places"]

_SHOWN: Final = 60


def check_outputs(spec: Spec, sources: Sequence[SourceFile], tasks: Sequence[Task], *, is_single_file: bool) -> None:
    """Pass if all outputs can be where they would be.

    Args:
        spec: what is asked for.
        sources: all of them.
        tasks: all of them.
        is_single_file: whether the sink names the one output itself.

    Raises:
        UsageError: two outputs would be at one place, among the sources, where pipecrypt keeps what is its own, or in
            place of the file of a key; or a name is too long, or cannot be signed.
        SinkNotEmptyError: the sink holds something, and nothing may be replaced.
        ConflictError: a signed statement would become false.
        StorageError: the storage refused or failed.
    """
    check_places(sources, [task.sink for task in tasks])
    _check_numbered(tasks)
    _check_names(spec.sink, tasks)
    _check_key_files(spec, tasks)
    if spec.policy is not None and not is_single_file:
        _check_reserved(tasks)
    if not spec.sink.is_standard_stream:
        _check_statements(spec, tasks, is_single_file=is_single_file)
    # A run that keeps a journal looks by itself, while it has the lock, what of it is done already.
    keeps_journal = spec.run.keeps_journal and not is_single_file
    if not spec.overwrite and not keeps_journal:
        _check_sink(spec.sink, tasks if is_single_file else ())


def statement_places(sink: Location, tasks: Sequence[Task]) -> list[Location]:
    """Return which files of a single source may have a statement beside them already."""
    if any(task.whole_path is not None for task in tasks):
        return [task.sink for task in tasks]
    return sidecar_files(sink, is_numbered=any(task.kind.rolls_over for task in tasks))


def _check_sink(sink: Location, tasks: Sequence[Task]) -> None:
    """Refuse a sink that holds something; `tasks` where a single file may be split, and have other names."""
    for place in dict.fromkeys([sink, *(task.sink for task in tasks)]):
        if not open_store(place).is_empty(besides=LOCK_DIRECTORY):
            raise SinkNotEmptyError(f"the sink {place.display} holds something already")


def _check_numbered(tasks: Sequence[Task]) -> None:
    """Refuse outputs that a file which is rolled over may come to replace."""
    rolled = {task.path for task in tasks if task.kind.rolls_over}
    for task in tasks if rolled else ():
        original = unnumbered(task.path)
        if original in rolled and not task.kind.rolls_over:
            raise UsageError(
                f"{task.sink.display} may be one of the files that {original} is rolled over to",
                hint="name the source files apart, or give no size of files",
            )


def _check_reserved(tasks: Sequence[Task]) -> None:
    """Refuse outputs where runs keep what is theirs: nobody would take them for data again."""
    reserved = next((task for task in tasks if is_reserved(task.path.lower())), None)  # some systems ignore case
    if reserved is not None:
        raise UsageError(
            f"{reserved.source.location.display} would be written below {RESERVED_DIRECTORY}/",
            hint="rename that directory, or name the source files by a glob",
        )


def _check_statements(spec: Spec, tasks: Sequence[Task], *, is_single_file: bool) -> None:
    """Refuse names that cannot be signed, and files that would make false what is signed already."""
    if not open_store(spec.sink).is_remote:
        check_outside_datasets(spec.sink)
        _check_own_statements(spec, tasks, is_single_file=is_single_file)
        return
    call_both(
        lambda: check_outside_datasets(spec.sink),
        lambda: _check_own_statements(spec, tasks, is_single_file=is_single_file),
    )


def _check_own_statements(spec: Spec, tasks: Sequence[Task], *, is_single_file: bool) -> None:
    """Refuse it in the sink itself."""
    if spec.policy is not None and spec.policy.signing is not None:
        check_signable_paths(task.first_path for task in tasks)
    elif is_single_file:
        for file in statement_places(spec.sink, tasks):
            check_unsigned_file(file)
    else:
        check_unsigned_directory(spec.sink, [task.first_path for task in tasks], overwrite=spec.overwrite)


def _check_names(sink: Location, tasks: Sequence[Task]) -> None:
    """Refuse names that a local sink cannot hold; what object stores take is theirs to say."""
    if sink.is_standard_stream or open_store(sink).is_remote:
        return
    for task in tasks:
        longest = max(os.fsencode(task.first_path).split(b"/"), key=len)
        if len(longest) > NAME_BYTES:
            what = f"{task.source.location.display} would be written as {os.fsdecode(longest)[:_SHOWN]!a}..."
            raise UsageError(
                f"{what}, a name of {len(longest)} bytes, and file systems end names at {NAME_BYTES}",
                hint="rename the source file, or choose an object store as the sink",
            )
    if _ignores_case(sink.local_path):
        _check_case(tasks)


def _check_key_files(spec: Spec, tasks: Sequence[Task]) -> None:
    """Refuse to write over a keystore, or another file of a key that the run uses: its keys would be lost."""
    if spec.sink.is_standard_stream or open_store(spec.sink).is_remote:
        return
    signing = () if spec.policy is None else listed_signing_keys(spec.policy.sign)
    references = [parse_key_reference(each) for each in (*spec.key_references, *spec.also, *signing)]
    files = {os.path.realpath(each.local_path) for each in references if each.names_file}
    names = {os.path.basename(file) for file in files}
    for task in tasks:
        # Outputs take the place of links, and follow none. Other names cost no look at the file system.
        if (name := task.sink.name) not in names:
            continue
        if os.path.join(os.path.realpath(os.path.dirname(task.sink.local_path)), name) in files:
            raise UsageError(
                f"{task.sink.display} is the file of a key that this run uses, and would be replaced",
                hint="name another sink",
            )


def _check_case(tasks: Sequence[Task]) -> None:
    seen: dict[str, Task] = {}
    for task in tasks:
        other = seen.setdefault(task.path.casefold(), task)
        if other.path != task.path:
            raise UsageError(
                f"{task.sink.display} and {other.sink.display} are one file there: the file system ignores case",
                hint="name the source files apart",
            )


def _ignores_case(path: str) -> bool:
    """Return whether the file system of a path takes names that differ in case for the same, by what exists."""
    place = os.path.abspath(path)
    while place != os.path.dirname(place):
        name = os.path.basename(place)
        other = os.path.join(os.path.dirname(place), name.swapcase())
        if other != place and os.path.lexists(place):
            try:
                return os.path.samestat(os.lstat(place), os.lstat(other))
            except OSError:
                return False
        place = os.path.dirname(place)
    return False
