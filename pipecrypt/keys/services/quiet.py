"""Keep the debug logs of other libraries from what they would tell of keys. Which loggers tell, is left to each door.

SDKs write whole requests and answers into their debug logs, keys in the clear among them. A filter drops those
records while a call of ours runs in the same thread; the program's own use of the SDK logs as it did.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["quiet_loggers"]

_in_call: Final = contextvars.ContextVar("pipecrypt_in_call", default=False)


@contextmanager
def quiet_loggers(names: Iterable[str]) -> Iterator[None]:
    """Drop what the named loggers log below a warning, while the block runs.

    Args:
        names: the loggers that the records are given to; a filter is not asked for records of loggers below.
    """
    for name in names:
        logger = logging.getLogger(name)
        if _drop not in logger.filters:
            logger.addFilter(_drop)
    token = _in_call.set(True)
    try:
        yield
    finally:
        _in_call.reset(token)


def _drop(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or not _in_call.get()
