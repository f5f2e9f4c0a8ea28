"""Choose who carries out the tasks of a plan, after a look at the keys. Carrying them out is left to executors."""

from __future__ import annotations

import os
from collections.abc import Callable

from pipecrypt.dataset.statement.paths import attempts_path
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.session import KeySession
from pipecrypt.runs.plan.plan import Plan
from pipecrypt.runs.report.events import Part
from pipecrypt.runs.report.interruption import Interruption
from pipecrypt.runs.report.run_id import current_run_id
from pipecrypt.runs.workers.alone import AloneSetup
from pipecrypt.runs.workers.here import HereExecutor
from pipecrypt.runs.workers.local import LocalExecutor
from pipecrypt.runs.workers.mapped import MappedExecutor, MapTasks
from pipecrypt.runs.workers.portable import portable_location, portable_lock
from pipecrypt.runs.workers.protocol import Executor, OnEvent
from pipecrypt.runs.workers.worker import WorkerSetup
from pipecrypt.store.sink import new_token

__all__ = ["run_tasks"]


def run_tasks(
    plan: Plan,
    credentials: Credentials,
    on_event: OnEvent,
    interruption: Interruption,
    map_tasks: MapTasks | None = None,
    *,
    on_ready: Callable[[], None] = lambda: None,
) -> list[Part]:
    """Carry out the tasks of a plan as its options say, and return their parts in the order of the tasks.

    Args:
        plan: what to do.
        credentials: what opens the keys.
        on_event: told about progress, in this thread. If it raises, all ends.
        interruption: asked now and then whether to stop.
        map_tasks: calls the tasks, instead of who the options name.
        on_ready: called once the keys are known to open, before the first file.

    Raises:
        AccessError: a key is missing, or the credentials do not open it; nothing was made.
        WorkerError: a task's worker died as often as the options let it.
        PipecryptError: what the first failing task raised.
    """
    # A single file is done here: without a lock nobody may do it twice.
    is_mapped = map_tasks is not None and plan.may_travel
    # Wrong passphrases and unknown keys show here, before a worker starts or a file is made. No key is made,
    # though a service may be asked what an alias stands for; what a person types is remembered for the workers.
    with KeySession(
        plan.key_references, credentials=credentials, dataset_id=plan.dataset_id, also=plan.also
    ) as session:
        on_ready()
        if plan.workers == 1 and not plan.is_on_cluster and not is_mapped:
            return HereExecutor(session, interruption).run(plan.tasks, on_event)
    if map_tasks is not None and is_mapped:
        return MappedExecutor(_alone(plan), map_tasks).run(plan.tasks, on_event)
    return _choose(plan, credentials).run(plan.tasks, on_event)


def _choose(plan: Plan, credentials: Credentials) -> Executor:
    if plan.is_on_cluster:
        # Dask and its network are loaded where a run wants them, and only there.
        from pipecrypt.runs.workers.dask import DaskExecutor  # noqa: PLC0415

        options = plan.options
        return DaskExecutor(
            _alone(plan),
            address=options.address,
            workers=plan.workers,
            attempts=options.attempts,
            wait_seconds=options.worker_wait_seconds,
        )
    setup = WorkerSetup(os.getcwd(), plan.key_references, credentials, plan.dataset_id, plan.also)
    return LocalExecutor(setup, workers=plan.workers, attempts=plan.options.attempts)


def _alone(plan: Plan) -> AloneSetup:
    name, lock = new_token() + new_token(), portable_lock(plan.lock)
    run_id = current_run_id()
    attempts = None if run_id is None else portable_location(plan.sink.child(attempts_path(run_id)))
    return AloneSetup(name, plan.key_references, plan.dataset_id, plan.also, lock, attempts)
