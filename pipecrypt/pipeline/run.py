"""Carry out a request: plan it, run its tasks here or in worker processes, add up. One file's life is in task."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipecrypt.errors import InterruptedRunError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.sessions.session import KeySession
from pipecrypt.pipeline.events import BytesDone, Event, FileDone, FileStarted, RunFinished, RunStarted, ignore
from pipecrypt.pipeline.interruption import Interruption
from pipecrypt.pipeline.plan import Plan, make_plan
from pipecrypt.pipeline.request import DecryptRequest, EncryptRequest
from pipecrypt.pipeline.run_grants import RunGrants
from pipecrypt.pipeline.signed_run import SignedRun, open_signed_run
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
        WorkerError: a worker process died.
        PipecryptError: the first failure of any file, as its own class.
    """
    started = time.perf_counter()
    with Interruption() as interruption:
        try:
            plan = make_plan(request)
            with open_signed_run(request, plan, credentials) as signed_run:
                on_event(RunStarted(len(plan.tasks), plan.source_bytes))
                parts = _run_tasks(signed_run, credentials, on_event, interruption)
                signed = signed_run.publish()
        except KeyboardInterrupt:
            raise InterruptedRunError(f"the run was stopped by {interruption.reason}") from None
    summary = Summary.of(plan.name, parts, time.perf_counter() - started, signed=signed)
    on_event(RunFinished(summary))
    return summary


def _run_tasks(
    signed_run: SignedRun, credentials: Credentials, on_event: Callable[[Event], None], interruption: Interruption
) -> list[Part]:
    plan = signed_run.plan

    grants = RunGrants(plan.sink, is_single_file=plan.is_single_file)

    def on_event_too(event: Event) -> None:
        if isinstance(event, FileDone):
            grants.store((part.path for part in event.parts), event.grants)
            signed_run.add(event.signable)
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
