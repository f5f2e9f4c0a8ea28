"""The life of one file: opened, encrypted or decrypted, checked, published whole or not at all.

A task is a plain description that any process can carry out, perhaps twice. Its data keys are made in here, inside the
attempt, and nothing secret goes back. Choosing tasks is left to plan, running many of them to run.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import Final, TypeAlias

from pipecrypt.context import Context
from pipecrypt.dataset.checked_source import CheckedSource
from pipecrypt.dataset.sign.records import SignableFile
from pipecrypt.dataset.signed_file import check_bytes, check_file, check_when_opened
from pipecrypt.dataset.trust import VerifyMode
from pipecrypt.errors import OutOfMemoryError, StorageError
from pipecrypt.keys.sessions.session import KeySession
from pipecrypt.parquet.decrypt import decrypt_file
from pipecrypt.parquet.encrypt import encrypt_file
from pipecrypt.parquet.protocols import RangeSource
from pipecrypt.parquet.report import FileReport, RestoredFile
from pipecrypt.parquet.row_group_slice import slice_row_groups
from pipecrypt.parquet.tampering import as_tampering
from pipecrypt.pipeline.progress.events import FileDone
from pipecrypt.pipeline.progress.stages import StageClock, bytes_by_key
from pipecrypt.pipeline.progress.summary import Part
from pipecrypt.pipeline.task.chunk_codec import LazyCodec
from pipecrypt.pipeline.task.chunk_task import encrypt_chunks
from pipecrypt.pipeline.task.earlier_attempt import open_output
from pipecrypt.pipeline.task.file_keys import keys_of_file
from pipecrypt.pipeline.task.operation import ChunkEncryption, Decryption, Encryption, Ingestion, Task
from pipecrypt.pipeline.task.signable_output import SignableOutput
from pipecrypt.storage.sink import Publication
from pipecrypt.storage.source import open_range_source

__all__ = ["OnBytes", "run_task"]

OnBytes: TypeAlias = Callable[[int], None]
_MOST_CAUSES: Final = 8
_NO_THREAD: Final = "can't start new thread"  # Python's RuntimeError where the system has no memory for its stack


def run_task(
    task: Task, session: KeySession, on_bytes: OnBytes, *, before_publishing: Callable[[], None] | None = None
) -> FileDone:
    """Carry out a task and return the records of all files that it published.

    Args:
        task: what to do.
        session: this process's keys.
        on_bytes: told how many bytes of the input were done; the last call comes just before publishing and brings
            the sum to the input's size, or to the task's share of it. It may raise, to stop: then nothing is published.
        before_publishing: called once, just before the first file appears. It may raise likewise.

    Raises:
        OutOfMemoryError: memory ran out.
        PipecryptError: as the engine, the keys and the storage say; nothing of this file is left in the sink.
    """
    try:
        return _carry_out(task, session, on_bytes, before_publishing)
    except MemoryError as error:
        raise OutOfMemoryError(f"memory ran out at {task.source.location.display}") from error
    except (OSError, RuntimeError, StorageError) as error:
        if not _is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"memory ran out at {task.source.location.display}") from error


def _is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error says that memory ran out, or was raised because of one that does."""
    seen: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if seen is None or isinstance(seen, MemoryError):
            return seen is not None
        if (isinstance(seen, OSError) and seen.errno == errno.ENOMEM) or str(seen) == _NO_THREAD:
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _carry_out(
    task: Task, session: KeySession, on_bytes: OnBytes, before_publishing: Callable[[], None] | None
) -> FileDone:
    if isinstance(task.operation, Ingestion):
        return _ingest(task, session, on_bytes, before_publishing)
    started, calls_before = time.perf_counter(), session.service_calls
    progress, clock = _Progress(on_bytes, task.input_bytes if _is_part(task) else None), StageClock()
    expected = task.input_bytes or None
    with _open_output(task, expected) as sink:
        if isinstance(task.operation, Decryption):
            report, signable = (
                _decrypt(task, task.operation, sink, session, progress, clock=clock),
                tuple[SignableFile, ...](),
            )
        else:
            output = SignableOutput(sink, session, task.operation.policy)
            report = _encrypt(task, task.operation, output, progress, clock)
            signable = output.note(task.path, report)
        clock.worked([report])
        # The source was still the pinned one when its block ended, so what was made from it may appear.
        on_bytes(max(task.input_bytes - progress.bytes_done, 0))  # what the engine does not count: the footer
        sink.publish(just_before=before_publishing)
    calls, seconds = session.service_calls - calls_before, time.perf_counter() - started
    source_bytes = task.input_bytes if _is_part(task) else None
    part = Part.of(task.path, report, service_calls=calls, seconds=seconds, source_bytes=source_bytes)
    return FileDone(
        task.id,
        (part,),
        signable,
        session.take_grants(),
        clock.published(),
        bytes_by_key([report]),
        clear=report.clear_columns,
    )


def _is_part(task: Task) -> bool:
    return isinstance(task.operation, Encryption) and task.operation.row_groups is not None


def _open_output(task: Task, expected_bytes: int | None) -> Publication:
    """Open the one output of a task that reads no rows."""
    operation, overwrite, earlier = task.operation, task.overwrite, None
    if isinstance(operation, Decryption):
        overwrite = overwrite or task.is_repeated  # plaintext does not tell whose it is
    elif task.is_repeated:
        earlier = Context(operation.dataset_id, task.path)
    return open_output(task.sink, overwrite=overwrite, token=task.token, earlier=earlier, expected_bytes=expected_bytes)


def _ingest(
    task: Task, session: KeySession, on_bytes: OnBytes, before_publishing: Callable[[], None] | None
) -> FileDone:
    # Reading rows takes pyarrow, whose import takes longer than encrypting a small file. Parquet does without.
    from pipecrypt.pipeline.task.ingest import ingest  # noqa: PLC0415

    return ingest(task, session, on_bytes, before_publishing=before_publishing)


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


def _encrypt(
    task: Task, operation: Encryption | ChunkEncryption, output: SignableOutput, on_bytes: OnBytes, clock: StageClock
) -> FileReport:
    if isinstance(operation, ChunkEncryption):
        clock.opened()
        return encrypt_chunks(task, operation, output.sink, output.keys, on_bytes)
    context = Context(operation.dataset_id, task.path)
    with open_range_source(task.source) as file:
        source: RangeSource = file if operation.row_groups is None else slice_row_groups(file, operation.row_groups)
        clock.opened()
        return encrypt_file(source, output.sink, operation.policy, keys=output.keys, context=context, on_bytes=on_bytes)


def _decrypt(
    task: Task, operation: Decryption, sink: Publication, session: KeySession, on_bytes: OnBytes, *, clock: StageClock
) -> FileReport:
    signed, mode = operation.signed, operation.mode

    def restore(file: RestoredFile) -> None:
        sink.restore_attributes(mode=file.mode, mtime_ns=file.mtime_ns)

    def go_on(_: int) -> None:
        on_bytes(0)  # no byte is done while a file is digested, which may take long: may stop it

    with open_range_source(task.source) as file:
        clock.opened()
        checked = None if signed is None else CheckedSource(file)
        source = file if checked is None else checked
        if signed is not None and checked is not None:
            check_file(signed, checked, mode, on_bytes=go_on)
        with as_tampering(is_signed=signed is not None):
            return decrypt_file(
                source,
                sink,
                keys=keys_of_file(task.source.location, session),
                aad_prefix=operation.aad_prefix,
                codec=LazyCodec(),
                bytes_check=None if signed is None else check_bytes(signed),
                check=None if signed is None else signed.check_footer,
                check_opened=(
                    None
                    if signed is None or checked is None
                    else check_when_opened(signed, checked, mode, on_bytes=go_on)
                ),
                checks_digests=mode is not VerifyMode.OFF,
                on_restored=restore,
                on_bytes=on_bytes,
            )
