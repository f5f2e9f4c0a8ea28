"""Run a configuration file: `pipecrypt run` and `pipecrypt.run`. The work itself is left to pipeline."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace

from pipecrypt.config.load import load_config
from pipecrypt.config.spec import build_request, hints_about_paths
from pipecrypt.keys.credentials import Credentials
from pipecrypt.runs.plan.saved_plan import read_saved_plan
from pipecrypt.runs.report.events import Event, Summary
from pipecrypt.runs.run import run
from pipecrypt.runs.workers.mapped import MapTasks

__all__ = ["run_config"]


def run_config(
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    resume: bool = False,
    workers: int | None = None,
    credentials: Credentials | None = None,
    environ: Mapping[str, str] | None = None,
    on_event: Callable[[Event], None] | None = None,
    map_tasks: MapTasks | None = None,
    plan: str | os.PathLike[str] | None = None,
    accept_future_statement: bool = False,
) -> Summary:
    """Encrypt what the configuration at `path` names, and return the counts.

    Relative paths in the configuration start from its own directory.

    Args:
        path: the YAML file.
        overwrite: encrypt all sources again; otherwise those that an earlier run has done are left as they are.
        resume: continue the run that was not finished, if there is one.
        workers: instead of `run.workers`.
        credentials: what opens the keys; default: the environment of this process.
        environ: values for `${VAR}`; default: the environment of this process.
        on_event: told about progress.
        map_tasks: calls the tasks in processes of your own, such as those of Ray or Spark: see docs/executors.md.
        plan: a saved plan, of `pipecrypt plan --out`: only its tasks are done, and all of them as they were planned.
        accept_future_statement: go on with a dataset whose last signer's clock was ahead; its time is not undercut.

    Raises:
        ConfigError: the configuration is wrong; names file, line and column.
        PipecryptError: the run failed; see `pipecrypt.errors`.
    """
    loaded = load_config(path, os.environ if environ is None else environ)
    request = build_request(
        loaded, overwrite=overwrite, workers=workers, resumes=resume, accepts_future=accept_future_statement
    )
    if plan is not None:
        saved = read_saved_plan(plan)
        saved.check_sink(request.sink)
        request = replace(request, only_tasks=saved.task_ids)
    with hints_about_paths(loaded):
        return run(
            request,
            credentials=Credentials.from_environment() if credentials is None else credentials,
            on_event=_ignore if on_event is None else on_event,
            map_tasks=map_tasks,
        )


def _ignore(event: Event) -> None:
    del event
