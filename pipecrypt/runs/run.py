"""Carry out a request: plan it, run its tasks here or in worker processes, add up. One file's life is in task."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from pipecrypt.errors import PipecryptError, SinkNotEmptyError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.runs.directory_run import DirectoryRun, open_directory_run
from pipecrypt.runs.journal.sink_locking import check_unlocked
from pipecrypt.runs.plan.plan import Plan, make_plan
from pipecrypt.runs.report.events import Event, FileDone, Part, RunFinished, RunStarted, Summary, ignore
from pipecrypt.runs.report.interruption import Interruption
from pipecrypt.runs.report.report import RunCollector, store_report
from pipecrypt.runs.report.run_id import new_run_id, running
from pipecrypt.runs.run_grants import RunGrants
from pipecrypt.runs.signed_run import SignedRun, open_signed_run
from pipecrypt.runs.spec.spec import EncryptSpec, Spec
from pipecrypt.runs.workers.choice import run_tasks
from pipecrypt.runs.workers.mapped import MapTasks
from pipecrypt.vocabulary.clock import utc_now

__all__ = ["run"]


def run(
    request: Spec,
    *,
    credentials: Credentials,
    on_event: Callable[[Event], None] = ignore,
    map_tasks: MapTasks | None = None,
) -> Summary:
    """Encrypt or decrypt all files of a source, each published whole or not at all.

    With several workers the calling script must guard its start with `if __name__ == "__main__":`, as always when
    processes are spawned.

    Args:
        request: what to do.
        credentials: what opens the keys.
        on_event: told about progress, in this thread. If it raises, the run stops.
        map_tasks: calls the tasks in processes of the caller's own, such as those of Ray or Spark.

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
            with _opened(request, plan, credentials) as opened, _reported(opened, on_event) as tell:
                tell(RunStarted(len(opened.plan.tasks), opened.plan.source_bytes))
                summary = _carry_out(opened, _Work(credentials, interruption, map_tasks), tell, started)
                tell(RunFinished(summary))
        except KeyboardInterrupt:
            is_resumable = request.run.keeps_journal
            raise interruption.error(is_resumable=is_resumable) from None
    return summary


def _plan(request: Spec) -> Plan:
    try:
        return make_plan(request)
    except SinkNotEmptyError:
        if request.policy is not None and not request.sink.is_standard_stream:
            check_unlocked(request.sink)  # what is there may be in the making
        raise


@contextmanager
def _opened(request: Spec, plan: Plan, credentials: Credentials) -> Iterator[SignedRun | DirectoryRun]:
    if isinstance(request, EncryptSpec) and not plan.is_single_file:
        with open_directory_run(request, plan, credentials, now=utc_now()) as directory_run:
            yield directory_run
    else:
        with open_signed_run(request, plan, credentials) as signed_run:
            yield signed_run


@contextmanager
def _reported(opened: SignedRun | DirectoryRun, on_event: Callable[[Event], None]) -> Iterator[Callable[[Event], None]]:
    """Yield what is told the events of a run; of one that keeps a journal they make a report, however it ends."""
    run_id = opened.run_id if isinstance(opened, DirectoryRun) else new_run_id(utc_now())
    with running(run_id):
        if not isinstance(opened, DirectoryRun) or not opened.is_reported:
            yield on_event
            return
        collector = RunCollector(run_id, opened.plan.name, now=utc_now, clock=time.monotonic)

        def tell(event: Event) -> None:
            collector.take(event)
            on_event(event)

        try:
            yield tell
        except BaseException as error:
            if opened.is_reported:
                store_report(opened.plan.sink, collector.report(error))
            raise
        store_report(opened.plan.sink, collector.report())


@dataclass(frozen=True, slots=True)
class _Work:
    """Who does the tasks."""

    credentials: Credentials
    interruption: Interruption
    map_tasks: MapTasks | None


def _carry_out(
    opened: SignedRun | DirectoryRun, work: _Work, on_event: Callable[[Event], None], started: float
) -> Summary:
    if isinstance(opened, DirectoryRun) and not opened.has_work:
        return _told(Summary.of(opened.plan.name, (), time.perf_counter() - started), opened)
    try:
        if opened.plan.tasks:
            parts = _run_tasks(opened, work, on_event)
        else:
            opened.begin()
            parts = []
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
    decision = opened.decision
    return replace(
        summary,
        run_id=opened.run_id,
        skipped=decision.changes.skipped,
        replaced=decision.changes.replaced,
        removed=tuple(sorted({*decision.changes.removed, *decision.dropped})),
    )


def _run_tasks(opened: SignedRun | DirectoryRun, work: _Work, on_event: Callable[[Event], None]) -> list[Part]:
    plan = opened.plan
    grants = RunGrants(plan.sink, is_single_file=plan.is_single_file)

    def on_event_too(event: Event) -> None:
        if isinstance(event, FileDone):
            grants.store((part.path for part in event.parts), event.grants)
            opened.add(event)
        else:
            opened.check_quickly()
        on_event(event)

    return run_tasks(plan, work.credentials, on_event_too, work.interruption, work.map_tasks, on_ready=opened.begin)
