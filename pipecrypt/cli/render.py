"""Write results, notes and errors to the terminal, or their JSON twins.

This is the one place that prints. Every line of text passes `printable` here, so that no name, message or value from
data can forge a line or reach a terminal's controls, whichever command shows it. Under `--json`, standard output is one
document and standard error one object a line, each with the member `event`; a log has them too (log_setup).
"""

from __future__ import annotations

import dataclasses
import datetime
import io
import json
import math
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TextIO

from pipecrypt.errors import OutputError, PipecryptError
from pipecrypt.vocabulary.printable import printable, printable_json

__all__ = [
    "OUTPUT",
    "Output",
    "aligned",
    "clipped",
    "count",
    "event_text",
    "fact_lines",
    "flush",
    "json_text",
    "json_value",
    "note",
    "prepare_streams",
    "show",
    "show_aside",
    "show_error",
    "show_refusal",
    "silence",
    "text_value",
    "write",
    "write_data",
    "write_event",
    "write_progress",
]

_GAP = "  "
_CUT = "..."
_ZERO_WIDTH = frozenset({"Mn", "Me"})


@dataclass(slots=True)
class Output:
    """How this process answers.

    Args:
        as_json: set by `--json`.
        is_taken: whether standard output holds something already, or data that nothing may be added to.
        set_aside: makes room on the terminal for a question, and puts back what was there; set while a bar is shown.
    """

    as_json: bool = False
    is_taken: bool = False
    set_aside: Callable[[], AbstractContextManager[None]] = nullcontext


OUTPUT = Output()


def prepare_streams() -> None:
    """Make the standard streams take every character: what the locale cannot show is written as an escape."""
    # A closed stream is None. What nobody can read is written nowhere, and the work is done all the same.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # open to the end
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def show(document: object, lines: Callable[[], Iterable[str]]) -> None:
    """Write a command's result: `document` as JSON, or the text lines."""
    if OUTPUT.as_json:
        write(json_text(document) + "\n")
    else:
        write("".join(printable(line) + "\n" for line in lines()))


def show_aside(document: object, lines: Callable[[], Iterable[str]]) -> None:
    """Write a command's result to standard error, where standard output carries the data."""
    for line in [json_text(document)] if OUTPUT.as_json else lines():
        write_progress(line)


def write(text: str) -> None:
    """Write to standard output what is a whole document, or text whose lines are printable.

    Raises:
        BrokenPipeError: its reader is gone.
        OutputError: it cannot be written.
    """
    with _output_errors():
        OUTPUT.is_taken = True
        sys.stdout.write(text)


def write_data(text: str) -> None:
    """Write to standard output what is data, as it is, in UTF-8 whatever the locale; raises what `write` raises."""
    with _output_errors():
        OUTPUT.is_taken = True
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode("utf-8", "surrogatepass"))


def note(text: str) -> None:
    """Write a remark to standard error, where no pipe picks it up, below the result that it belongs to."""
    flush()
    sys.stderr.write((event_text("note", message=text) if OUTPUT.as_json else printable(f"note: {text}")) + "\n")


def write_event(name: str, **members: object) -> None:
    """Write an event of `--json` to standard error."""
    write_progress(event_text(name, **members))


def event_text(name: str, **members: object) -> str:
    """Return what happened as one JSON object on one line."""
    return json_text({"event": name, **members})


def write_progress(line: str) -> None:
    """Write a line of progress to standard error; a run does not fail because nobody listens."""
    try:
        sys.stderr.write(printable(line) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        silence(sys.stderr)


def show_error(error: PipecryptError) -> None:
    """Write an error and its hint to standard error, and its JSON twin to standard output, unless that has data."""
    # Flushed first, so that on a terminal the error stands below the result's beginning.
    flush()
    _write_error(error)
    if OUTPUT.as_json and not OUTPUT.is_taken:
        write(json_text({"error": _error_document(error)}) + "\n")
        flush()


def show_refusal(document: dict[str, object], lines: Callable[[], Iterable[str]], error: PipecryptError) -> int:
    """Write a result that is a refusal, then its error, and return the error's exit code, whether they can be written.

    The JSON twin is one document, which holds the error.
    """
    try:
        show(document | {"error": _error_document(error)}, lines)
        flush()
    except (OSError, OutputError):
        silence(sys.stdout)
    try:
        _write_error(error)
    except OSError:
        silence(sys.stderr)
    return error.exit_code


def _write_error(error: PipecryptError) -> None:
    if OUTPUT.as_json:
        sys.stderr.write(event_text("error", **_error_document(error)) + "\n")
        return
    first, *others = error.lines
    for line in (f"error: {first}", *others, *([f"hint: {error.hint}"] if error.hint else [])):
        sys.stderr.write(printable(line) + "\n")


def flush() -> None:
    """Flush standard output; raises what `write` raises."""
    with _output_errors():
        sys.stdout.flush()


@contextmanager
def _output_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        silence(sys.stdout)
        raise OutputError(f"standard output cannot be written: {(error.strerror or 'failed').lower()}") from error


def silence(stream: TextIO) -> None:
    """Point a stream whose reader is gone at nothing, so that the interpreter's own last flush succeeds."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        return  # the stream has no file descriptor, as in tests


def json_text(document: object) -> str:
    """Return a document on one line; dataclasses are objects, bytes are hex."""
    # An escape is only needed where the stream cannot carry the character: "\xe9" as Python writes it is not JSON.
    is_unicode = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "") == "utf8"
    text = json.dumps(json_value(_plain(document)), ensure_ascii=not is_unicode, allow_nan=False)
    return printable_json(text)


def aligned(rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), indent: str = "") -> Iterable[str]:
    """Return rows as lines with aligned columns, printable.

    Args:
        rows: cells; all rows have the same number.
        right: indexes of the columns that are aligned to the right.
        indent: what each line begins with.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        sized = enumerate(zip(row, widths, strict=True))
        padded = [_pad(cell, width, to_right=index in right) for index, (cell, width) in sized]
        yield (indent + _GAP.join(padded)).rstrip()


def fact_lines(facts: Mapping[str, str | None]) -> Iterable[str]:
    """Return facts as aligned lines, indented; what is None has no line."""
    return aligned([(name, value) for name, value in facts.items() if value is not None], indent="  ")


def clipped(text: str, most: int) -> str:
    """Return text as one printable cell that takes at most so many columns of a terminal."""
    # Each character of the text makes at least one of the shown ones or joins one, so the rest is not looked at.
    shown = printable(text[: most * 4])
    if len(text) <= most * 4 and _width(shown) <= most:
        return shown
    room, end = most - len(_CUT), 0
    for character in shown:
        room -= _character_width(character)
        if room < 0:
            break
        end += 1
    return shown[:end] + _CUT


def _pad(cell: str, width: int, *, to_right: bool) -> str:
    space = " " * (width - _width(cell))
    return space + cell if to_right else cell + space


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(_character_width(each) for each in text)


def _character_width(character: str) -> int:
    if unicodedata.category(character) in _ZERO_WIDTH:
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _plain(document: object) -> Any:
    if dataclasses.is_dataclass(document) and not isinstance(document, type):
        return dataclasses.asdict(document)
    if isinstance(document, dict):
        return {name: _plain(value) for name, value in document.items()}
    if isinstance(document, list | tuple):
        return [_plain(value) for value in document]
    return document


def _error_document(error: PipecryptError) -> dict[str, object]:
    return {
        "type": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
        "exit_code": error.exit_code,
    }


def json_value(value: Any) -> Any:
    """Return a Python value as one that JSON can carry."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else _float_name(value)
    if isinstance(value, Mapping):
        return {_member_name(name): json_value(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return _pairs(value) or [json_value(each) for each in value]
    return _text(value)


def text_value(value: Any) -> str | None:
    """Return a Python value as text, nested ones as JSON; None for a null."""
    plain = json_value(value)
    if plain is None or isinstance(plain, str):
        return plain
    return json.dumps(plain, ensure_ascii=False)


def _pairs(value: list[Any] | tuple[Any, ...]) -> dict[str, Any] | None:
    """Return a map, which pyarrow gives as a list of pairs, as an object; None if keys would collide or it is none."""
    if not value or not all(isinstance(each, tuple) and len(each) == 2 for each in value):
        return None
    result = {_member_name(name): json_value(each) for name, each in value}
    return result if len(result) == len(value) else None


def _member_name(name: Any) -> str:
    return name if isinstance(name, str) else str(text_value(name))


def _text(value: Any) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, Decimal):
        return format(value, "f") if value.is_finite() else str(value)
    if isinstance(value, datetime.timedelta):
        return _duration(value)
    isoformat = getattr(value, "isoformat", None)
    return str(isoformat()) if isoformat is not None else str(value)


def _float_name(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _duration(value: datetime.timedelta) -> str:
    """Return a duration as ISO 8601 in days and seconds, such as `P1DT0.5S` or `-PT3S`."""
    sign, size = ("-", -value) if value < datetime.timedelta(0) else ("", value)
    seconds = f"{size.seconds + size.microseconds / 1_000_000:.6f}".rstrip("0").rstrip(".")
    days = f"{size.days}D" if size.days else ""
    return f"{sign}P{days}T{seconds}S"


def count(number: int, noun: str) -> str:
    """Return a number and what is counted: `1 file`, `2 files`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
