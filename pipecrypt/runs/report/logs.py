"""How logs are written, here and in worker processes: text, or one JSON object a line.

Levels are those of pipecrypt's own logger: the SDKs below log requests, which may hold secrets, at their debug level.
Their warnings, Python's, and what nobody caught come out in the same shape, from `write_stray_output_as_logs` on.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, TextIO

from pipecrypt.runs.report.run_id import current_run_id
from pipecrypt.vocabulary.printable import printable

__all__ = [
    "JSONFormatter",
    "LogFormat",
    "LogSetup",
    "TextFormatter",
    "current_logs",
    "ignore_unraisable",
    "write_logs",
    "write_stray_output_as_logs",
]

_LOGGER: Final = "pipecrypt"
_WARNINGS: Final = "pipecrypt.warnings"
_TEXT: Final = "%(levelname)s %(name)s: %(message)s"
_INDENT: Final = "  "


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


class TextFormatter(logging.Formatter):
    """One printable line a record; the lines of a traceback below it are indented, so that none looks like a record."""

    def __init__(self) -> None:
        """Keep the shape of a line."""
        super().__init__(_TEXT)

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines."""
        record.message = record.getMessage()
        lines = [printable(self.formatMessage(record))]
        if record.exc_info:
            told = self.formatException(record.exc_info)
            lines += [_INDENT + printable(line) for line in told.split("\n")]
        return "\n".join(lines)


class JSONFormatter(logging.Formatter):
    """One JSON object a line: event (`log`), time, level, logger, message, run id, an exception's class and places.

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
            "event": "log",
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
        self.setFormatter(JSONFormatter() if chosen is LogFormat.JSON else TextFormatter())

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


def write_stray_output_as_logs() -> None:
    """Write as logs what Python and libraries would write to standard error themselves, in any shape.

    These are warnings, records of loggers that have no handler, and exceptions that ended a thread or a finalizer. Only
    for processes that are pipecrypt's own: the command line's and its workers'.
    """
    warnings.showwarning = _show_warning
    logging.lastResort = _LastResort()
    threading.excepthook = _show_thread_error
    sys.unraisablehook = _show_unraisable


def ignore_unraisable(*kinds: type[BaseException]) -> None:
    """Say nothing of exceptions of these kinds where Python drops them; others are shown as they are now.

    For the end of the set-up: who replaces `sys.unraisablehook` after this takes it away.
    """
    show = sys.unraisablehook

    def show_others(told: sys.UnraisableHookArgs) -> None:
        if not issubclass(told.exc_type, kinds):
            show(told)

    sys.unraisablehook = show_others


class _LastResort(logging.Handler):
    """Takes what a library says where it has no handler: warnings and worse, as Python does, in our shape."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        for handler in logging.getLogger(_LOGGER).handlers:
            handler.handle(record)


def _show_warning(message: Warning | str, category: type[Warning], *place: object, **rest: object) -> None:
    del place, rest
    logging.getLogger(_WARNINGS).warning("%s: %s", category.__name__, message)


def _show_thread_error(told: threading.ExceptHookArgs) -> None:
    if told.exc_type is SystemExit:
        return
    name = "a thread" if told.thread is None else f"thread {told.thread.name}"
    _log_error(f"{name} ended", told.exc_value or told.exc_type())


def _show_unraisable(told: sys.UnraisableHookArgs) -> None:
    _log_error(told.err_msg or "ignored", told.exc_value or told.exc_type())


def _log_error(what: str, error: BaseException) -> None:
    """Log an exception that nobody caught; where it was raised is shown for debugging only."""
    logger = logging.getLogger(_LOGGER)
    is_debugging = logger.isEnabledFor(logging.DEBUG)
    logger.error("%s: %s: %s", what, type(error).__name__, error, exc_info=error if is_debugging else None)


def current_logs() -> LogSetup | None:
    """Return how `write_logs` set logs up, so that workers do the same; None where an application does it itself."""
    logger = logging.getLogger(_LOGGER)
    for handler in logger.handlers:
        if isinstance(handler, _StandardError):
            return LogSetup(logger.level, handler.chosen)
    return None
