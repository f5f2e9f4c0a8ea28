"""Carry out a request: plan it, run its tasks here or in worker processes, add up. One file's life is in task."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from pipecrypt.dataset.signing.signers import utc_now
from pipecrypt.errors import InterruptedRunError, PipecryptError, SinkNotEmptyError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.sessions.session import KeySession
from pipecrypt.pipeline.directory_run import DirectoryRun, open_directory_run
from pipecrypt.pipeline.events import BytesDone, Event, FileDone, FileStarted, RunFinished, RunStarted, ignore
from pipecrypt.pipeline.interruption import Interruption
from pipecrypt.pipeline.plan import Plan, make_plan
from pipecrypt.pipeline.request import DecryptRequest, EncryptRequest
from pipecrypt.pipeline.run_grants import RunGrants
from pipecrypt.pipeline.signed_run import SignedRun, open_signed_run
from pipecrypt.pipeline.sink_locking import check_unlocked
from pipecrypt.pipeline.summary import Part, Summary
from pipecrypt.pipeline.task import run_task
from pipecrypt.pipeline.workers import run_in_workers

__all__ = ["run"]


def run(
    request: EncryptRequest | DecryptRequest, *, credentials: Credentials, on_event: Callable[[Event], None] = ignore
) -> Summary:
    """Encrypt or decrypt all files of a source, each published whole or not at all.

    With several workers the calling script must guard its start with `if __name__ == "__main__":`, as always when
    processes are spawned.

    Args:
        request: what to do.
        credentials: what opens the keys.
        on_event: told about progress, in this thread. If it raises, the run stops.

    Raises:
        InterruptedRunError: Ctrl-C, SIGTERM or SIGHUP; what was published stays, all else is removed.
        ConflictError: another run is writing to the sink, or what is there stands in the way.
        WorkerError: a worker process died.
        PipecryptError: the first failure of any file, as its own class.
    """
    started = time.perf_counter()
    with Interruption() as interruption:
        try:
            plan = _plan(request)
            with _opened(request, plan, credentials) as opened:
                on_event(RunStarted(len(opened.plan.tasks), opened.plan.source_bytes))
                summary = _carry_out(opened, credentials, on_event, interruption, started)
        except KeyboardInterrupt:
            raise InterruptedRunError(
                f"the run was stopped by {interruption.reason}", hint=_how_to_go_on(request)
            ) from None
    on_event(RunFinished(summary))
    return summary


def _plan(request: EncryptRequest | DecryptRequest) -> Plan:
    try:
        return make_plan(request)
    except SinkNotEmptyError:
        if isinstance(request, EncryptRequest) and not request.sink.is_standard_stream:
            check_unlocked(request.sink)  # what is there may be in the making
        raise


@contextmanager
def _opened(
    request: EncryptRequest | DecryptRequest, plan: Plan, credentials: Credentials
) -> Iterator[SignedRun | DirectoryRun]:
    if isinstance(request, EncryptRequest) and not plan.is_single_file:
        with open_directory_run(request, plan, credentials, now=utc_now()) as directory_run:
            yield directory_run
    else:
        with open_signed_run(request, plan, credentials) as signed_run:
            yield signed_run


def _carry_out(
    opened: SignedRun | DirectoryRun,
    credentials: Credentials,
    on_event: Callable[[Event], None],
    interruption: Interruption,
    started: float,
) -> Summary:
    if isinstance(opened, DirectoryRun) and not opened.has_work:
        return _told(Summary.of(opened.plan.name, (), time.perf_counter() - started), opened)
    opened.begin()
    try:
        parts = _run_tasks(opened, credentials, on_event, interruption) if opened.plan.tasks else []
    except BaseException:
        # What is noted need not be done again. Another error is on its way.
        with contextlib.suppress(PipecryptError):
            opened.flush()
        raise
    signed = opened.publish()
    return _told(Summary.of(opened.plan.name, parts, time.perf_counter() - started, signed=signed), opened)


def _told(summary: Summary, opened: SignedRun | DirectoryRun) -> Summary:
    """Return the summary of a run, with what it left alone."""
    if not isinstance(opened, DirectoryRun):
        return summary
    changes = opened.changes
    return replace(
        summary,
        run_id=opened.run_id,
        skipped=changes.skipped,
        replaced=changes.replaced,
        removed=changes.removed,
    )


def _how_to_go_on(request: EncryptRequest | DecryptRequest) -> str | None:
    if isinstance(request, EncryptRequest) and request.run.keeps_journal:
        return "continue it with --resume: files that are done are not done again"
    return None


def _run_tasks(
    opened: SignedRun | DirectoryRun,
    credentials: Credentials,
    on_event: Callable[[Event], None],
    interruption: Interruption,
) -> list[Part]:
    plan = opened.plan
    grants = RunGrants(plan.sink, is_single_file=plan.is_single_file)

    def on_event_too(event: Event) -> None:
        if isinstance(event, FileDone):
            grants.store((part.path for part in event.parts), event.grants)
            opened.add(event)
        else:
            opened.check_quickly()
        on_event(event)

    # Wrong passphrases and unknown keys show here, before a worker starts or a file is made. No key is made,
    # though a service may be asked what an alias stands for; what a person types is remembered for the workers.
    with KeySession(
        plan.key_references, credentials=credentials, dataset_id=plan.dataset_id, also=plan.also
    ) as session:
        if plan.workers == 1:
            return _run_here(plan, session, on_event_too, interruption)
    return run_in_workers(plan, credentials, on_event_too)


def _run_here(
    plan: Plan, session: KeySession, on_event: Callable[[Event], None], interruption: Interruption
) -> list[Part]:
    def on_bytes(count: int) -> None:
        interruption.check()
        on_event(BytesDone(count))

    parts: list[Part] = []
    for task in plan.tasks:
        on_event(FileStarted(task.path))
        done = run_task(task, session, on_bytes)
        parts += done.parts
        on_event(done)
    return parts
