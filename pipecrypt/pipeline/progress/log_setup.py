"""How logs are written, here and in worker processes: text, or one JSON object a line. What is logged: each room.

Only pipecrypt's own logger: the SDKs below log requests, which may hold secrets, at their debug level.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, TextIO

from pipecrypt.pipeline.progress.run_id import current_run_id

__all__ = ["JSONFormatter", "LogFormat", "LogSetup", "current_logs", "write_logs"]

_LOGGER: Final = "pipecrypt"
_TEXT: Final = "%(levelname)s %(name)s: %(message)s"


class LogFormat(StrEnum):
    """The shape of a line."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class LogSetup:
    """How logs are written to standard error.

    Args:
        level: from which on, as `logging` numbers them.
        format: of each line.
    """

    level: int
    format: LogFormat


class JSONFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, run id, and of an exception its class and places.

    An exception's own text is left out, and no local variable is shown: either may hold a secret.

    Args:
        run_id: returns the id of the run at work, or None.
    """

    def __init__(self, run_id: Callable[[], str | None] = current_run_id) -> None:
        """Keep who knows the run."""
        super().__init__()
        self._run_id = run_id

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        members: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "run_id": self._run_id(),
        }
        if record.exc_info and record.exc_info[0] is not None:
            kind, _, trace = record.exc_info
            places = [f"{each.filename}:{each.lineno} {each.name}" for each in traceback.extract_tb(trace)]
            members["exception"] = {"type": kind.__name__, "at": places}
        return json.dumps(members)


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to standard error as it is at the time: tests and redirections replace it."""

    def __init__(self, chosen: LogFormat) -> None:
        super().__init__(sys.stderr)
        self.chosen = chosen
        self.setFormatter(JSONFormatter() if chosen is LogFormat.JSON else logging.Formatter(_TEXT))

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def write_logs(setup: LogSetup) -> None:
    """Write pipecrypt's logs to standard error from now on, instead of as was set up before."""
    logger = logging.getLogger(_LOGGER)
    for handler in [each for each in logger.handlers if isinstance(each, _StandardError)]:
        logger.removeHandler(handler)
    logger.addHandler(_StandardError(setup.format))
    logger.setLevel(setup.level)


def current_logs() -> LogSetup | None:
    """Return how `write_logs` set logs up, so that workers do the same; None where an application does it itself."""
    logger = logging.getLogger(_LOGGER)
    for handler in logger.handlers:
        if isinstance(handler, _StandardError):
            return LogSetup(logger.level, handler.chosen)
    return None
