"""The life of one file: opened, encrypted or decrypted, checked, published whole or not at all.

A task is a plain description that any process can carry out, perhaps twice. Its data keys are made inside the attempt,
and nothing secret goes back. What is done with the source is its kind's: each kind is one file in `kinds/`.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Final, Protocol, TypeAlias

from pipecrypt.crypto.digest import digest
from pipecrypt.errors import OutOfMemoryError, StorageError
from pipecrypt.keys.session import FileKeys, KeySession
from pipecrypt.parquet.files import FileStart, RowGroupHelpers, RowGroupSealer
from pipecrypt.parquet.footer.columns import LeafColumn, choose_keys
from pipecrypt.parquet.footer.row_groups import RowGroups
from pipecrypt.parquet.footer.stored import read_plain_footer
from pipecrypt.parquet.policy import EncryptionPolicy
from pipecrypt.parquet.report import FileReport
from pipecrypt.runs.output import SignableOutput, Target, WrittenFile, numbered, parts_of, unnumbered
from pipecrypt.runs.report.events import FileDone, StageClock, bytes_by_key
from pipecrypt.store.location import Location
from pipecrypt.store.protocol import SourceFile
from pipecrypt.vocabulary.ranges import RangeSource

__all__ = [
    "Kind",
    "OnBytes",
    "OutputWriter",
    "SourceShape",
    "Task",
    "TaskHelpers",
    "chosen_columns",
    "file_done",
    "run_task",
    "task_ids",
    "write_one_file",
]

OnBytes: TypeAlias = Callable[[int], None]
BeforePublishing: TypeAlias = Callable[[], None] | None
_MOST_CAUSES: Final = 8
_COPIES: Final = 4  # of a small file: as it was read, as it is written, and both on their way
_MOST_BYTES: Final = 128 << 20  # of a large one: ranges ahead, a column chunk, parts that are on their way
_NO_THREAD: Final = "can't start new thread"  # Python's RuntimeError where the system has no memory for its stack


@dataclass(frozen=True, slots=True)
class SourceShape:
    """What the beginning or the footer of a source says about its encryption.

    Args:
        columns: its leaf columns, each with its master key, None where it stays plaintext; None for bytes.
        row_groups: how many a Parquet source has, of the task's share where it is split; 0 for others.
        types: Arrow's types of the columns of text formats by name, inferred where they were not given.
        delimiter: of CSV, found where it was not given.
    """

    columns: tuple[tuple[LeafColumn, str | None], ...] | None
    row_groups: int = 0
    types: tuple[tuple[str, str], ...] = ()
    delimiter: str | None = None

    @property
    def schema(self) -> tuple[tuple[tuple[str, ...], bool], ...]:
        """The leaf columns, and whether each will be encrypted; none of bytes."""
        return tuple((leaf.path, key is not None) for leaf, key in self.columns or ())


def chosen_columns(file: RangeSource, policy: EncryptionPolicy) -> SourceShape:
    """Return the shape of a plaintext Parquet file.

    Raises:
        ColumnNotFoundError: the policy names a column that is not there.
        PipecryptError: the footer cannot be read.
    """
    footer, _ = read_plain_footer(file, opens_row_groups=False)
    row_groups = RowGroups(footer, file.name)
    leaves = row_groups.leaves
    columns = tuple(zip(leaves, choose_keys(policy, leaves, file.name), strict=True))
    return SourceShape(columns, len(row_groups))


class Kind(Protocol):
    """What is done with one source: a frozen dataclass that can be pickled, in a file of its own.

    Whoever plans and runs asks it, and knows no kind by name; `kinds/table.py` chooses one. What is not said otherwise
    holds of a source that stays whole, becomes one file and has no columns. A dataclass writes `policy: ... = field()`:
    otherwise it would take the property here for its default.
    """

    __slots__ = ()

    @property
    def policy(self) -> EncryptionPolicy | None:
        """Under which the output is encrypted; None where the output is plaintext."""

    @property
    def rolls_over(self) -> bool:
        """Whether the output may become several files, numbered."""
        return False

    @property
    def share_bytes(self) -> int | None:
        """How much of the source's size counts as this task's, where several tasks share it; None for all of it."""
        return None

    def memory_bytes(self, input_bytes: int) -> int:
        """Return about how much memory it takes: a small file is held whole, of a large one what is on its way.

        Args:
            input_bytes: how large the source is, or the task's share of it.
        """
        return min(_COPIES * input_bytes, _MOST_BYTES)

    def output_path(self, relative_path: str) -> str:
        """Return the path of the output below a sink, for that of the source.

        Raises:
            UsageError: the output could not have that name.
        """

    def split(self, source: SourceFile, split_bytes: int) -> tuple[Kind, ...]:
        """Return what several tasks of about that size would do; nothing where the source stays whole.

        Raises:
            ConflictError: the source is not, or no longer, the one that was pinned.
            StorageError: the storage refused or failed.
        """
        return ()

    def shape(self, source: SourceFile) -> SourceShape:
        """Look at the columns of a source, without keys and without writing.

        Raises:
            ColumnNotFoundError: the policy names a column that is not there.
            PipecryptError: the source cannot be read.
        """
        return SourceShape(None)

    def carry_out(
        self, task: Task, session: KeySession, on_bytes: OnBytes, before_publishing: BeforePublishing
    ) -> FileDone:
        """Do it; as `run_task`, which adds what holds for all kinds."""

    def may_be_shared(self, task: Task) -> bool:
        """Return whether other processes of this machine may help, and it is large enough for that."""
        return False

    def carry_out_shared(self, task: Task, session: KeySession, on_bytes: OnBytes, helpers: TaskHelpers) -> FileDone:
        """Do what may be shared; as `carry_out`."""
        raise AssertionError("this kind is done by one process")

    def open_sealer(self, task: Task, keys: FileKeys, start: FileStart) -> AbstractContextManager[RowGroupSealer]:
        """Return what seals row groups of a source whose output another process writes."""
        raise AssertionError("this kind is done by one process")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One source file, what is done with it and where its output goes.

    Args:
        id: 64 hex digits, the same in every run that does the same with the same source.
        source: the input, pinned.
        kind: what is done.
        target: where the output goes.
    """

    id: str
    source: SourceFile
    kind: Kind
    target: Target

    @property
    def sink(self) -> Location:
        """The output; the first name of several, where outputs roll over at a size."""
        return self.target.sink

    @property
    def path(self) -> str:
        """The output's path below the sink."""
        return self.target.path

    @property
    def input_bytes(self) -> int:
        """How much of the input this task does: all of it, or its share of a large file."""
        share = self.kind.share_bytes
        return self.source.size_bytes if share is None else share

    @property
    def first_path(self) -> str:
        """The path of the output, or of the first of several."""
        return numbered(self.path, 0) if self.kind.rolls_over else self.path

    @property
    def whole_path(self) -> str | None:
        """Which path the output would have if its source were not split; None where it is not."""
        return None if self.kind.share_bytes is None else unnumbered(self.path)

    def with_target(self, target: Target) -> Task:
        """Return the task with another target: where a run wants it, or an attempt that must not touch the sink."""
        return replace(self, target=target)

    def again(self) -> Task:
        """Return the task for another attempt, which replaces what the one before may have published."""
        return self.with_target(replace(self.target, is_repeated=True, is_free=False))


class TaskHelpers(RowGroupHelpers, Protocol):
    """Other processes that help with one task."""

    @property
    def kek_ids(self) -> Collection[str]:
        """Of the KEKs that they used for the file."""

    def added_to(self, done: FileDone) -> FileDone:
        """Return the record of the task with what they did with keys."""


def run_task(
    task: Task,
    session: KeySession,
    on_bytes: OnBytes,
    *,
    before_publishing: BeforePublishing = None,
    helpers: TaskHelpers | None = None,
) -> FileDone:
    """Carry out a task and return the records of all files that it published.

    Args:
        task: what to do.
        session: this process's keys.
        on_bytes: told how many bytes of the input were done; the last call comes just before publishing and brings
            the sum to the input's size, or to the task's share of it. It may raise, to stop: then nothing is published.
        before_publishing: called once, just before the first file appears. It may raise likewise.
        helpers: other processes that help, where that may be shared.

    Raises:
        OutOfMemoryError: memory ran out.
        PipecryptError: as the engine, the keys and the storage say; nothing of this file is left in the sink, unless
            publishing failed after the first of several outputs.
    """
    try:
        if helpers is not None:
            return helpers.added_to(task.kind.carry_out_shared(task, session, on_bytes, helpers))
        return task.kind.carry_out(task, session, on_bytes, before_publishing)
    except MemoryError as error:
        raise OutOfMemoryError(f"memory ran out at {task.source.location.display}") from error
    except (OSError, RuntimeError, StorageError) as error:
        if not _is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"memory ran out at {task.source.location.display}") from error


def _is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, or was raised because of one that does."""
    seen: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if seen is None or isinstance(seen, MemoryError):
            return seen is not None
        if (isinstance(seen, OSError) and seen.errno == errno.ENOMEM) or str(seen) == _NO_THREAD:
            return True
        seen = seen.__cause__ or seen.__context__
    return False


# Writes all of a task's output, tells the clock when its input is open, and the callback what it has done of the input.
OutputWriter: TypeAlias = Callable[[Task, SignableOutput, StageClock, OnBytes], FileReport]


def write_one_file(
    task: Task, session: KeySession, on_bytes: OnBytes, before_publishing: BeforePublishing, write: OutputWriter
) -> FileDone:
    """Carry out a task whose output is one file.

    Args:
        task: what to do.
        session: this process's keys.
        on_bytes: as for `run_task`.
        before_publishing: likewise.
        write: writes the output; returns only where the source was still the pinned one when all of it was read.

    Raises:
        PipecryptError: as `run_task`.
    """
    share = task.kind.share_bytes
    progress, clock = _Progress(on_bytes, share), StageClock()
    with task.target.open(expected_bytes=task.input_bytes or None) as publication:
        output = SignableOutput(publication, session, task.kind.policy)
        report = write(task, output, clock, progress)
        written = WrittenFile(task.path, report, output.note(task.path, report))
        clock.worked([report])
        on_bytes(max(task.input_bytes - progress.bytes_done, 0))  # what the engine does not count: the footer
        publication.publish(just_before=before_publishing)
    return file_done(task, session, clock, [written], source_bytes=[share])


def file_done(
    task: Task,
    session: KeySession,
    clock: StageClock,
    written: Sequence[WrittenFile],
    *,
    source_bytes: Sequence[int | None],
    bad_rows: int = 0,
) -> FileDone:
    """Return the record of a task whose files were published just now.

    Args:
        task: that was carried out.
        session: its keys.
        clock: begun with the task.
        written: its files.
        source_bytes: how much of the input went into each file; None for what the engine read.
        bad_rows: rows of the input that were left out.
    """
    stages, reports = clock.published(), [file.report for file in written]
    return FileDone(
        task.id,
        parts_of(
            written,
            service_calls=session.take_service_calls(),
            seconds=clock.seconds(),
            source_bytes=source_bytes,
            bad_rows=bad_rows,
        ),
        signable=tuple(noted for file in written for noted in file.signable),
        grants=session.grants,
        stages=stages,
        bytes_by_key=bytes_by_key(reports),
        clear=reports[0].clear_columns,  # all files of one source have its columns
    )


class _Progress:
    """Counts what it passes on, and passes on no more than `most` bytes in all."""

    def __init__(self, on_bytes: OnBytes, most: int | None) -> None:
        self._on_bytes = on_bytes
        self._most = most
        self.bytes_done = 0

    def __call__(self, count: int) -> None:
        if self._most is not None:
            count = min(count, self._most - self.bytes_done)
        self.bytes_done += count
        self._on_bytes(count)


_ID_VERSION: Final = 1
# Members that say nothing about what is done: what is refused, and what a file is compared with.
_LEFT_OUT: Final = frozenset({"refuses_unlisted", "is_optional", "signed"})
_LATER: Final = {"clear_notes": "strip"}  # options that are newer than the ids: left out of them at their defaults
# Ids outlive the names of classes: what was done under an earlier name is not done again.
_FIRST_NAMES: Final = {"BlobEncryption": "ChunkEncryption"}
_AS_THEY_ARE: Final[Mapping[str, str]] = {}


def task_ids(spellings: Mapping[str, str] = _AS_THEY_ARE) -> Callable[[SourceFile, str, Kind], str]:
    """Return what gives tasks their ids: 64 hex digits, the same for the same source, unchanged, output and policy.

    It takes the pinned input, the path of the output below the sink, and what is done. Which dataset the output belongs
    to is not part of an id: a run that is resumed continues the dataset that it finds.

    Args:
        spellings: how key references, and what stands before their `#`, were written, by what they became.
    """
    # Most tasks of a run share what is done, which takes longest to write.
    last: tuple[Kind | None, str] = (None, "")

    def id_of(source: SourceFile, path: str, kind: Kind) -> str:
        nonlocal last
        if last[0] is not kind:
            last = kind, json.dumps(_plain(kind, spellings), sort_keys=True, separators=(",", ":"))
        pinned = [_ID_VERSION, source.relative_path, source.size_bytes, source.fingerprint, path]
        start = json.dumps(pinned, separators=(",", ":"))
        return digest(f"{start[:-1]},{last[1]}]".encode())

    return id_of


def _spelled(text: str, spellings: Mapping[str, str]) -> str:
    if text in spellings:
        return spellings[text]
    place, mark, name = text.partition("#")  # another key of the same keystore
    return spellings[place] + mark + name if place in spellings else text


def _plain(value: object, spellings: Mapping[str, str]) -> object:
    """Return what JSON can write, with the names of classes: two kinds of equal members are not the same."""
    if value is None or isinstance(value, str | int | float):
        return _spelled(value, spellings) if isinstance(value, str) else value  # an enum of texts too
    if isinstance(value, bytes):
        return ["bytes", value.hex()]
    if isinstance(value, range):
        return ["range", value.start, value.stop]
    if isinstance(value, Mapping):
        return {str(name): _plain(value[name], spellings) for name in value}
    if isinstance(value, list | tuple):
        return [_plain(member, spellings) for member in value]
    if is_dataclass(value) and not isinstance(value, type):
        kept = (each.name for each in fields(value) if each.name not in _LEFT_OUT)
        members = {name: _plain(getattr(value, name), spellings) for name in kept}
        for name, default in _LATER.items():
            if members.get(name) == default:
                del members[name]
        return {_FIRST_NAMES.get(type(value).__name__, type(value).__name__): members}
    raise AssertionError(f"{type(value).__name__} has no plain form")
