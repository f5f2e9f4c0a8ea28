"""A run whose files take long between the last byte and publishing, for the tests that interrupt it.

Worker processes import this script too, so what it replaces is replaced in them. Arguments: source, sink, key
reference, workers, a directory for marks, seconds, and perhaps attempts. A file `marks/../go-on` ends the waiting, one
called `marks/../die` makes each worker kill itself, before publishing or behind it, as it says. FILES_IN_FLIGHT in the
environment is how many files each process is at work on; threads do not hear of a stop, so the driver then waits short.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from pipecrypt.errors import PipecryptError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.parquet.report import FileReport
from pipecrypt.runs.kinds import encrypt
from pipecrypt.runs.report.events import Event, FileDone, TaskRetried
from pipecrypt.runs.run import run
from pipecrypt.runs.spec.options import RunOptions
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.runs.workers import local
from pipecrypt.store.location import Location

SOURCE, SINK, KEY, WORKERS, MARKS, SECONDS, *ATTEMPTS = sys.argv[1:]
FILES_IN_FLIGHT = int(os.environ.get("FILES_IN_FLIGHT", "1"))
GO_ON, DIE = Path(MARKS).parent / "go-on", Path(MARKS).parent / "die"
_encrypt_file, _run_task = encrypt.encrypt_file, local.run_task


def _slow_encrypt_file(*arguments: object, **options: object) -> FileReport:
    report = _encrypt_file(*arguments, **options)  # type: ignore[arg-type]
    (Path(MARKS) / str(os.getpid())).touch()
    if DIE.exists() and DIE.read_text() == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    deadline = time.monotonic() + float(SECONDS)
    while time.monotonic() < deadline and not GO_ON.exists():
        time.sleep(0.01)
    return report


def _deadly_run_task(*arguments: object) -> FileDone:
    done = _run_task(*arguments)  # type: ignore[arg-type]
    if DIE.exists() and DIE.read_text() == "behind":
        DIE.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return done


encrypt.encrypt_file, local.run_task = _slow_encrypt_file, _deadly_run_task
if FILES_IN_FLIGHT > 1:
    local._STOP_SECONDS = 1.0  # type: ignore[misc]


def _show(event: Event) -> None:
    if isinstance(event, TaskRetried):
        print(f"retried {event.path} {event.attempt} {event.reason} {event.bytes_undone}", flush=True)


if __name__ == "__main__":
    request = EncryptSpec(
        source=Location(SOURCE),
        sink=Location(SINK),
        policy=Policy(default=KEY),
        workers=int(WORKERS),
        run=RunOptions(attempts=int(ATTEMPTS[0]) if ATTEMPTS else 3, files_in_flight=FILES_IN_FLIGHT),
    )
    try:
        summary = run(request, credentials=Credentials.from_environment(), on_event=_show)
        print(f"done {summary.files}")
    except PipecryptError as error:
        print(f"{type(error).__name__}: {error.message}")
        sys.exit(error.exit_code)
