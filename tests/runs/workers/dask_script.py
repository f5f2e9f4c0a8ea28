"""A run on a Dask cluster of its own whose files take long before they are published, for tests that interrupt it.

What replaces a worker's function is pickled along with each task. Arguments: source, sink, key reference, a directory
for marks, seconds, and `resume` to go on with a run. A file `marks/../go-on` ends the waiting.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from pipecrypt.errors import PipecryptError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.parquet.report import FileReport
from pipecrypt.runs.kinds import encrypt as life
from pipecrypt.runs.report.events import FileDone
from pipecrypt.runs.run import run
from pipecrypt.runs.spec.options import ExecutorKind, RunOptions
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.runs.task import Task
from pipecrypt.runs.workers import dask as dask_executor
from pipecrypt.runs.workers.remote import RemoteSetup, run_remotely
from pipecrypt.store.location import Location

SOURCE, SINK, KEY, MARKS, SECONDS, *HOW = sys.argv[1:]


def _slow_task(task: Task, setup: RemoteSetup) -> FileDone:
    real, marks, seconds = life.encrypt_file, Path(MARKS), float(SECONDS)

    def slow(*arguments: object, **options: object) -> FileReport:
        report = real(*arguments, **options)  # type: ignore[arg-type]
        (marks / str(os.getpid())).touch()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not (marks.parent / "go-on").exists():
            time.sleep(0.01)
        return report

    life.encrypt_file = slow  # type: ignore[attr-defined]
    try:
        return run_remotely(task, setup)
    finally:
        life.encrypt_file = real  # type: ignore[attr-defined]


if __name__ == "__main__":
    dask_executor.run_remotely = _slow_task
    request = EncryptSpec(
        source=Location(SOURCE),
        sink=Location(SINK),
        policy=Policy(default=KEY),
        workers=2,
        run=RunOptions(keeps_journal=True, executor=ExecutorKind.DASK, resumes="resume" in HOW),
    )
    try:
        summary = run(request, credentials=Credentials.from_environment())
        print(f"done {summary.files}")
    except PipecryptError as error:
        print(f"{type(error).__name__}: {error.message}")
        sys.exit(error.exit_code)
