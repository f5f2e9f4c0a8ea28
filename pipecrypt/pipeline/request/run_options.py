"""How a run goes about its tasks: by whom, how often, and what an earlier run changes. What is done is in request."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pipecrypt.errors import UsageError

__all__ = [
    "DEFAULT_ATTEMPTS",
    "DEFAULT_WORKER_WAIT_SECONDS",
    "MAX_ATTEMPTS",
    "ExecutorKind",
    "OnSourceChange",
    "RunOptions",
]

DEFAULT_ATTEMPTS: Final = 3
MAX_ATTEMPTS: Final = 100
DEFAULT_WORKER_WAIT_SECONDS: Final = 300
# Dask itself finds out late: its client tries for a minute to reach what has no port.
_ADDRESS: Final = re.compile(
    r"(?:(?:tcp|tls)://)?[^\s/:@]+:\d{1,5}|(?:tcp|tls)://\[[0-9A-Fa-f:.]+\]:\d{1,5}|(?:ws|wss|ucx)://\S+"
)


class ExecutorKind(StrEnum):
    """Who carries out the tasks."""

    LOCAL = "local"
    DASK = "dask"


class OnSourceChange(StrEnum):
    """What happens when a source that was encrypted before has changed, or is gone."""

    FAIL = "fail"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a run goes about its tasks.

    Args:
        keeps_journal: record each file below `_pipecrypt/runs/` in the sink, so that the run can be resumed and the
            next one does only what is new.
        resumes: continue the run that was not finished, if there is one.
        on_source_change: what to do about sources that changed or are gone since they were encrypted.
        split_bytes: a Parquet source of at least twice this size becomes several tasks of about this size, by row
            groups; None: never.
        executor: processes of this machine, or a Dask cluster.
        address: of the Dask scheduler; None: a cluster of this machine is started.
        worker_wait_seconds: how long a run waits for a worker of a cluster while there is none.
        attempts: how often a task is tried whose worker died, from 1.
        is_only_writer: the operator vouches that nobody else writes to the sink, for storages that cannot tell.
        accepts_future_statement: follow a version of a signer whose clock was ahead; its time is kept, not undercut.

    Raises:
        UsageError: a number means nothing, or an address is given and nobody to use it.
    """

    keeps_journal: bool = False
    resumes: bool = False
    on_source_change: OnSourceChange = OnSourceChange.FAIL
    split_bytes: int | None = None
    executor: ExecutorKind = ExecutorKind.LOCAL
    address: str | None = None
    worker_wait_seconds: int = DEFAULT_WORKER_WAIT_SECONDS
    attempts: int = DEFAULT_ATTEMPTS
    is_only_writer: bool = False
    accepts_future_statement: bool = False

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        if not _is_count(self.attempts) or self.attempts > MAX_ATTEMPTS:
            raise UsageError(f"{self.attempts!r} is not a number of attempts", hint=f"give 1 to {MAX_ATTEMPTS}")
        if not _is_count(self.worker_wait_seconds):
            raise UsageError(
                f"{self.worker_wait_seconds!r} is not a number of seconds", hint="give a whole number from 1"
            )
        if self.split_bytes is not None and not _is_count(self.split_bytes):
            raise UsageError(f"{self.split_bytes!r} is not a size of a task", hint="give a number of bytes")
        if self.address is not None and self.executor is not ExecutorKind.DASK:
            raise UsageError("an address is of a Dask scheduler", hint="set the executor to dask, or leave it out")
        if self.address is not None and _ADDRESS.fullmatch(self.address) is None:
            raise UsageError(f"{self.address!a} is not an address of a Dask scheduler", hint="write tcp://HOST:PORT")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
