"""Options that several commands share, and what their values become."""

from __future__ import annotations

import functools
import inspect
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from getpass import getpass
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from pipecrypt.cli.render import OUTPUT
from pipecrypt.dataset.trust import VerifyMode
from pipecrypt.errors import PassphraseError, UsageError
from pipecrypt.runs.report.logs import LogFormat, LogSetup, current_logs, write_logs

if TYPE_CHECKING:
    from pipecrypt.keys.credentials import Credentials

__all__ = [
    "DatasetID",
    "KeyReferences",
    "LogFormat",
    "LogLevel",
    "MinVersion",
    "NewKeystoreOption",
    "Overwrite",
    "Prefix",
    "Threshold",
    "TrustedKeys",
    "Verify",
    "Workers",
    "command",
    "credentials",
    "join_names",
    "output_options",
    "split_names",
]

_NAME = re.compile(r'\s*"(?P<quoted>(?:[^"]|"")*)"\s*(?=,|\Z)|(?!\s*")(?P<plain>[^,]*)')


_Result = TypeVar("_Result")


class LogLevel(StrEnum):
    """What is logged to standard error."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _take_json(value: bool) -> bool:
    OUTPUT.as_json = OUTPUT.as_json or value
    return value


def _take_log_level(value: LogLevel | None) -> LogLevel | None:
    if value is not None:
        # Only our own logger: the SDKs below log requests, which may hold secrets, at their debug level.
        write_logs(LogSetup(getattr(logging, value.upper()), _logs().format))
    return value


def _take_log_format(value: LogFormat | None) -> LogFormat | None:
    if value is not None:
        # Under --json all of standard error is JSON.
        write_logs(LogSetup(_logs().level, LogFormat.JSON if OUTPUT.as_json else value))
    return value


def _logs() -> LogSetup:
    return current_logs() or LogSetup(logging.WARNING, LogFormat.TEXT)


def _say_how(
    *,
    json: Annotated[
        bool, typer.Option("--json", callback=_take_json, help="Answer in JSON, progress and errors too.")
    ] = False,
    log_level: Annotated[
        LogLevel | None,
        typer.Option(
            "--log-level", callback=_take_log_level, help="Log to standard error from this level on; default: warning."
        ),
    ] = None,
    log_format: Annotated[
        LogFormat | None,
        typer.Option("--log-format", callback=_take_log_format, help="Of the log: lines of text, or of JSON."),
    ] = None,
) -> None:
    """Have the options that every command has."""


def output_options(function: Callable[..., _Result]) -> Callable[..., _Result]:
    """Let a command take `--json`, `--log-level` and `--log-format`, whose callbacks act."""

    @functools.wraps(function)
    def call(json: object, log_level: object, log_format: object, **given: object) -> _Result:
        return function(**given)

    # Evaluated once, with the names of the command's own module.
    signature = inspect.signature(function, eval_str=True)
    parameters = [*signature.parameters.values(), *inspect.signature(_say_how, eval_str=True).parameters.values()]
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {each.name: each.annotation for each in parameters}
    return call


def command(app: typer.Typer, name: str | None = None) -> Callable[[Callable[..., _Result]], Callable[..., _Result]]:
    """Make a function a command of `app`, with the options of all commands about what is written to the terminal."""

    def register(function: Callable[..., _Result]) -> Callable[..., _Result]:
        app.command(name)(output_options(function))
        return function

    return register


KeyReferences = Annotated[
    list[str], typer.Option("--key", metavar="KEYREF", help="Key reference; may be given several times.")
]
AcceptFuture = Annotated[
    bool,
    typer.Option(
        "--accept-future-statement", help="Follow a signed version although its signer's clock was ahead of this one."
    ),
]
NewKeystoreOption = Annotated[
    bool, typer.Option("--new-keystore", help="Make the keystore even if one stood there before, which is gone.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what DST holds.")]
Prefix = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="AAD prefix: needed where a file does not store it, compared where it does. Text, or hex:0a1b...",
    ),
]
Workers = Annotated[int, typer.Option(min=1, max=256, help="Files done at once, each in a process of its own.")]


def credentials() -> Credentials:
    """Return what opens keys in this process: the environment, and a person if there is a terminal."""
    from pipecrypt.keys.credentials import Credentials

    can_ask = sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()
    return Credentials.from_environment(_prompt if can_ask else None)


def split_names(values: list[str]) -> tuple[str, ...]:
    """Return the names in options that may be repeated and may each hold several, separated by commas.

    As in CSV, a name in double quotes may hold commas, and a quote inside of it is written twice. Elsewhere a quote is
    a character like others, and spaces around a name do not belong to it.

    Raises:
        UsageError: quotes are not closed, or something stands behind them.
    """
    return tuple(dict.fromkeys(name for value in values for name in _names_in(value)))


def join_names(names: Iterable[str]) -> str:
    """Return names as `split_names` takes them apart."""
    return ", ".join(_quoted(name) for name in names)


def _names_in(value: str) -> Iterator[str]:
    at = 0
    while at <= len(value):
        match = _NAME.match(value, at)
        if match is None:
            hint = "write '\"one, name\",other', and a quote inside of quotes twice"
            raise UsageError(f"names {value!r} have quotes that do not match", hint=hint)
        if match["quoted"] is not None:
            yield match["quoted"].replace('""', '"')
        elif name := match["plain"].strip():
            yield name
        at = match.end() + 1


def _quoted(name: str) -> str:
    is_plain = name == name.strip() and name and "," not in name and not name.startswith('"')
    return name if is_plain else '"' + name.replace('"', '""') + '"'


def _prompt(label: str) -> str:
    try:
        with OUTPUT.set_aside():
            return getpass(f"{label}: ")
    except UnicodeDecodeError:  # whose text shows a byte of it
        raise PassphraseError(f"the {label} is not in the terminal's encoding") from None
    except EOFError:
        raise PassphraseError(f"no {label} is given") from None


TrustedKeys = Annotated[
    list[str] | None,
    typer.Option(
        "--trust",
        metavar="PUBKEY",
        help="Public key whose signature counts: a PEM file or a key reference; may be given several times. "
        "Default: those in PIPECRYPT_TRUST.",
    ),
]
Threshold = Annotated[int, typer.Option(min=1, help="How many of those must have signed: each --trust has one vote.")]
Verify = Annotated[
    VerifyMode,
    typer.Option(help="Check statement, footers and what is read; or every whole file first; or nothing."),
]
MinVersion = Annotated[int, typer.Option(min=1, help="Lowest version of the dataset that is accepted.")]
DatasetID = Annotated[str | None, typer.Option(metavar="HEX", help="The dataset that is meant; default: whichever.")]
