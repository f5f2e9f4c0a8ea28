"""Choose who carries out the tasks of a plan, after a look at the keys. Carrying them out is left to executors."""

from __future__ import annotations

import os

from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.sessions.session import KeySession
from pipecrypt.pipeline.executors.here import HereExecutor
from pipecrypt.pipeline.executors.local import LocalExecutor
from pipecrypt.pipeline.executors.protocol import Executor, OnEvent
from pipecrypt.pipeline.executors.worker import WorkerSetup
from pipecrypt.pipeline.interruption import Interruption
from pipecrypt.pipeline.plan import Plan
from pipecrypt.pipeline.summary import Part

__all__ = ["run_tasks"]


def run_tasks(plan: Plan, credentials: Credentials, on_event: OnEvent, interruption: Interruption) -> list[Part]:
    """Carry out the tasks of a plan as its options say, and return their parts in the order of the tasks.

    Args:
        plan: what to do.
        credentials: what opens the keys.
        on_event: told about progress, in this thread. If it raises, all ends.
        interruption: asked now and then whether to stop.

    Raises:
        AccessError: a key is missing, or the credentials do not open it; nothing was made.
        WorkerError: a task's worker died as often as the options let it.
        PipecryptError: what the first failing task raised.
    """
    # Wrong passphrases and unknown keys show here, before a worker starts or a file is made. No key is made,
    # though a service may be asked what an alias stands for; what a person types is remembered for the workers.
    with KeySession(
        plan.key_references, credentials=credentials, dataset_id=plan.dataset_id, also=plan.also
    ) as session:
        if plan.workers == 1:
            return HereExecutor(session, interruption).run(plan.tasks, on_event)
    return _choose(plan, credentials).run(plan.tasks, on_event)


def _choose(plan: Plan, credentials: Credentials) -> Executor:
    setup = WorkerSetup(os.getcwd(), plan.key_references, credentials, plan.dataset_id, plan.also)
    return LocalExecutor(setup, workers=plan.workers, attempts=plan.options.attempts)
