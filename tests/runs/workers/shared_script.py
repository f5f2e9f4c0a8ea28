"""A run of one file that helpers help with, for the tests that interrupt it.

Arguments: source, sink, key reference, a file for the ids of the helpers' processes, and `wait`, so that it waits once
helpers are at work, or `full`, so that the output may be no larger than a tenth of the source.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

import pipecrypt as pc
from pipecrypt.errors import PipecryptError
from pipecrypt.parquet.files import SealedRowGroup
from pipecrypt.runs.kinds import encrypt
from pipecrypt.runs.plan import plan
from pipecrypt.runs.workers import helpers
from pipecrypt.runs.workers.helpers import SharedTask

SOURCE, SINK, KEY, MARK, MODE = sys.argv[1:]
encrypt.LEAST_SHARED_BYTES = 1  # type: ignore[misc]
plan.usable_cores = lambda: 8
_begin, _sealed = SharedTask.begin, SharedTask.sealed


def _begin_with_all(self: SharedTask, *arguments: object) -> None:
    _begin(self, *arguments)  # type: ignore[arg-type]
    while any(each.rooms is None for each in self._helpers):
        self._wait()
    if MODE == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(SOURCE) // 10, resource.RLIM_INFINITY))


def _wait_at_first(self: SharedTask, row_group: int) -> tuple[SealedRowGroup, memoryview] | None:
    found = _sealed(self, row_group)
    if MODE == "wait":
        Path(MARK).write_text(" ".join(str(each.process.process.pid) for each in self._helpers) + "\n")
        time.sleep(60)
    return found


SharedTask.begin, SharedTask.sealed = _begin_with_all, _wait_at_first  # type: ignore[assignment, method-assign]
helpers._MOST_ROOM_BYTES = 1 << 20  # type: ignore[misc]

if __name__ == "__main__":
    try:
        pc.encrypt(SOURCE, SINK, pc.Policy(default=KEY), workers=3)
        print("done")
    except PipecryptError as error:
        print(f"{type(error).__name__}: {error.message}")
        sys.exit(error.exit_code)
