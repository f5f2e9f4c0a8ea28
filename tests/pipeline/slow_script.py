"""A run whose files take long between the last byte and publishing, for the tests that interrupt it.

Worker processes import this script too, so what it replaces is replaced in them. Arguments: source, sink, key
reference, workers, a directory for marks, seconds.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from pipecrypt.errors import PipecryptError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.parquet.report import FileReport
from pipecrypt.pipeline import task
from pipecrypt.pipeline.calls import encrypt
from pipecrypt.pipeline.policy import Policy

SOURCE, SINK, KEY, WORKERS, MARKS, SECONDS = sys.argv[1:]
_encrypt_file = task.encrypt_file


def _slow_encrypt_file(*arguments: object, **options: object) -> FileReport:
    report = _encrypt_file(*arguments, **options)  # type: ignore[arg-type]
    (Path(MARKS) / str(os.getpid())).touch()
    time.sleep(float(SECONDS))
    return report


task.encrypt_file = _slow_encrypt_file

if __name__ == "__main__":
    try:
        summary = encrypt(
            SOURCE, SINK, Policy(default=KEY), workers=int(WORKERS), credentials=Credentials.from_environment()
        )
        print(f"done {summary.files}")
    except PipecryptError as error:
        print(f"{type(error).__name__}: {error.message}")
        sys.exit(error.exit_code)
