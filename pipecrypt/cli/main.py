"""The command line's entry: find the command, run it, turn every failure into a message and an exit code.

Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 integrity, 4 access, 5 conflict or unknown state.
Commands import what they call only when they are called, so `--help` is fast.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from types import FrameType
from typing import Annotated, Any, Final

import typer

from pipecrypt import __version__
from pipecrypt.cli.keys import keys_app
from pipecrypt.cli.look import cat, inspect
from pipecrypt.cli.options import command, output_options
from pipecrypt.cli.render import OUTPUT, flush, prepare_streams, show, show_error, silence
from pipecrypt.cli.report import clean, report
from pipecrypt.cli.run import config_app, init, plan, run
from pipecrypt.cli.sharing import grant, revoke, rotate
from pipecrypt.cli.transfer import decrypt, encrypt
from pipecrypt.cli.verify import verify
from pipecrypt.errors import InterruptedRunError, OutputError, PipecryptError, UsageError
from pipecrypt.runs.report.logs import LogFormat, LogSetup, write_logs, write_stray_output_as_logs

__all__ = ["app", "main"]

_PROGRAM = "pipecrypt"
_FAILED = 1
_INTERRUPTED = 130
_STOPS: Final = (signal.SIGTERM, signal.SIGHUP)

# Plain help: the same in every locale, width and log, and no rich to import.
app = typer.Typer(
    help="Encrypt tables column by column, and files of any kind.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
)
for _command in (init, run, encrypt, decrypt, verify, cat, inspect, grant, revoke, rotate, plan, clean, report):
    command(app)(_command)
app.add_typer(keys_app, name="keys")
app.add_typer(config_app, name="config")


def _show_version(value: bool) -> None:
    if value:
        # The library that mypyc makes for all compiled modules; see docs/decisions/0064-a-compiled-engine.md.
        engine = "" if find_spec("pipecrypt__mypyc") is None else " (compiled)"
        show({"version": __version__}, lambda: [f"{_PROGRAM} {__version__}{engine}"])
        raise typer.Exit


@app.callback()
@output_options
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None, *, mask: Iterable[int] | None = None) -> int:
    """Run the command line and return the exit code.

    Args:
        arguments: without the program's name; default: those of this process.
        mask: the signals that were blocked when this process started; None where all are the caller's business.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    prepare_streams()
    # Looked for before parsing, so that an error in the arguments has its JSON twin too.
    OUTPUT.as_json, OUTPUT.is_taken = "--json" in given, False
    write_logs(LogSetup(logging.WARNING, LogFormat.JSON if OUTPUT.as_json else LogFormat.TEXT))
    if arguments is None:
        write_stray_output_as_logs()
    _warn_of_file_names()
    try:
        with _stopped_by_signals(mask):
            arguments_or_help = given or ["--help"]
            result: Any = typer.main.get_command(app).main(arguments_or_help, prog_name=_PROGRAM, standalone_mode=False)
            if result == _INTERRUPTED:
                raise KeyboardInterrupt
            flush()
    except BrokenPipeError:
        silence(sys.stdout)
        return _FAILED
    except typer.TyperException as error:
        return _fail(_usage_error(error))
    except PipecryptError as error:
        _log_traceback()
        return _fail(error)
    except (KeyboardInterrupt, typer.Abort):
        return _fail(InterruptedRunError("interrupted", hint="run the command again"))
    except Exception as error:  # the last resort: one line, so that no traceback hides it
        _log_traceback()
        return _fail(PipecryptError(f"unexpected {type(error).__name__}: {error}"))
    return result if isinstance(result, int) else 0


def _warn_of_file_names() -> None:
    """Say that names which other machines wrote in UTF-8 are read as something else here."""
    encoding = sys.getfilesystemencoding()
    if encoding.lower() not in ("utf-8", "utf8"):
        text = "file names are taken for %s in this locale, so names with other characters fail: set PYTHONUTF8=1"
        logging.getLogger(_PROGRAM).warning(text, encoding)


@contextmanager
def _stopped_by_signals(mask: Iterable[int] | None) -> Iterator[None]:
    """Let SIGTERM and SIGHUP end what is done as Ctrl-C does, unless they are ignored; those that waited come now."""
    replaced = [number for number in _STOPS if mask is not None and signal.getsignal(number) is signal.SIG_DFL]
    try:
        for number in replaced:
            signal.signal(number, _stop)
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        yield
    finally:
        for number in replaced:
            signal.signal(number, signal.SIG_DFL)


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # once: the next one must not disturb the tidying up
    raise KeyboardInterrupt


def _fail(error: PipecryptError) -> int:
    try:
        show_error(error)
    except (OSError, OutputError):
        silence(sys.stdout)
        silence(sys.stderr)
    return error.exit_code


def _usage_error(error: typer.TyperException) -> UsageError:
    text = error.format_message().strip().rstrip(".")
    command = getattr(getattr(error, "ctx", None), "command_path", _PROGRAM)
    return UsageError(text[:1].lower() + text[1:], hint=f"see {command} --help")


def _log_traceback() -> None:
    logging.getLogger(_PROGRAM).debug("the command failed", exc_info=True)
