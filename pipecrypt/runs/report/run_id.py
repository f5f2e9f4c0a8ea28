"""Name runs, and know which one is at work, for logs and progress."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Final

from pipecrypt.dataset.statement.paths import RUN_TIME_FORMAT, parse_run_id
from pipecrypt.errors import ConflictError
from pipecrypt.vocabulary.documents import DocumentError

__all__ = ["current_run_id", "is_run_id", "new_run_id", "running"]

_RANDOM_BYTES: Final = 4
_current: ContextVar[str | None] = ContextVar("pipecrypt_run_id", default=None)
_lock: Final = threading.Lock()
_at_work: list[str] = []


def new_run_id(now: datetime, random: Callable[[int], bytes] = secrets.token_bytes, earlier: Sequence[str] = ()) -> str:
    """Return the id of a run that begins now: `YYYYMMDDTHHMMSSZ-<8 hex digits>`, so that ids sort by time.

    An id later than all earlier ones is made even where this machine's clock is behind.

    Args:
        now: the time, with its zone.
        random: returns so many random bytes.
        earlier: ids of runs of the same sink.

    Raises:
        ConflictError: an earlier one is of the last second that an id can tell.
    """
    began = now.astimezone(UTC)
    last = max(map(parse_run_id, earlier), default=None)
    if last is not None and began.replace(microsecond=0) <= last:
        began = last + timedelta(seconds=1)
    run_id = f"{began.strftime(RUN_TIME_FORMAT)}-{random(_RANDOM_BYTES).hex()}"
    if not is_run_id(run_id):
        raise ConflictError(
            f"no run can come after {max(earlier, default='')}", hint="no clock is that late: remove what is named so"
        )
    return run_id


def is_run_id(text: str) -> bool:
    """Return whether a text is spelled like the id of a run."""
    try:
        parse_run_id(text)
    except DocumentError:
        return False
    return True


@contextmanager
def running(run_id: str) -> Iterator[None]:
    """Name the run that is at work in the block, and in the threads that it starts."""
    token = _current.set(run_id)
    with _lock:
        _at_work.append(run_id)
    try:
        yield
    finally:
        with _lock:
            _at_work.remove(run_id)
        _current.reset(token)


def current_run_id() -> str | None:
    """Return the id of the run at work here; None where there is none, or nobody can tell which."""
    run_id = _current.get()
    if run_id is not None:
        return run_id
    with _lock:  # a thread knows no context of its starter, but where one run is at work it can be no other
        return _at_work[0] if len(set(_at_work)) == 1 else None
