"""How sources are read, `pipecrypt.Reading`, and how a run goes about its tasks: by whom they are done, how often."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, TypeVar

from pipecrypt.errors import FormatError, UsageError
from pipecrypt.formats.compression import Compression
from pipecrypt.formats.options import (
    BadRows,
    CSVOptions,
    JSONOptions,
    ReadOptions,
    SourceFormat,
    guess_csv_options,
    guess_format,
)

__all__ = [
    "DEFAULT_ATTEMPTS",
    "DEFAULT_WORKER_WAIT_SECONDS",
    "MAX_ATTEMPTS",
    "MAX_FILES_IN_FLIGHT",
    "ExecutorKind",
    "FileReading",
    "OnSourceChange",
    "Reading",
    "RunOptions",
    "choose",
]

_Choice = TypeVar("_Choice", bound=StrEnum)


def choose(kind: type[_Choice], value: str, what: str, *, error: type[UsageError] = UsageError) -> _Choice:
    """Return the member of `kind` that `value` names; `error` is raised where it names none.

    Raises:
        UsageError: it names none; lists those that there are.
    """
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(repr(member.value) for member in kind)
        raise error(f"{what} is {value!r}", hint=f"it is one of {known}") from None


_NO_QUOTE: Final = ""
_TABLES: Final = tuple(each.value for each in SourceFormat if each is not SourceFormat.BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReading:
    """How one file is read.

    Args:
        format: what its bytes are.
        compression: what the whole file is compressed with.
        options: how its rows become batches.
    """

    format: SourceFormat
    compression: Compression
    options: ReadOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How sources are read; what is left out is guessed from each file's name.

    Args:
        format: `parquet`, `csv`, `json` (JSON lines), `arrow` (IPC file or stream, Feather) or `orc`.
        delimiter: of CSV, one character; otherwise each file's first rows tell it.
        header: whether CSV begins with the names of its columns.
        names: names of CSV's columns, instead of a header's.
        quote: of CSV; an empty text where quotes mean nothing.
        null_values: texts of CSV that mean null.
        types: type of a column by its name, such as `decimal128(12, 2)`; for CSV and JSON lines.
        encoding: of CSV and JSON lines, as Python calls it.
        decimal_point: of CSV.
        on_bad_rows: `fail`, or `skip`, which leaves out rows of CSV and JSON lines that do not fit and counts them.

    Raises:
        UsageError: a value is not one of those.
    """

    format: str | None = None
    delimiter: str | None = None
    header: bool | None = None
    names: Sequence[str] | None = field(default=None, hash=False)
    quote: str | None = None
    null_values: Sequence[str] | None = field(default=None, hash=False)
    types: Mapping[str, str] = field(default_factory=dict, hash=False)
    encoding: str | None = None
    decimal_point: str | None = None
    on_bad_rows: str = "fail"

    def __post_init__(self) -> None:
        """Refuse now what would fail at the first file."""
        if self.format == SourceFormat.BYTES.value:
            raise UsageError(
                "bytes of no format are not a table", hint="encrypt them in chunks: mode chunks, or --chunks"
            )
        if self.format is not None and self.format not in _TABLES:
            raise UsageError(f"format is {self.format!r}", hint=f"it is one of {', '.join(_TABLES)}")
        self._options("x.csv")

    def of(self, name: str, display: str) -> FileReading:
        """Return how the file called `name` is read; errors call it `display`.

        Raises:
            FormatError: no format is given, and the name tells none.
        """
        guessed, compression = guess_format(name)
        chosen = guessed if self.format is None else SourceFormat(self.format)
        if chosen is None:
            raise FormatError(
                f"{display} is not a Parquet file, and its name tells no other format",
                hint=f"say which it is ({', '.join(_TABLES)}), or encrypt it in chunks",
            )
        if chosen is SourceFormat.PARQUET and compression is not Compression.NONE:
            raise FormatError(f"{display} is a Parquet file inside another compression", hint="decompress it first")
        return FileReading(format=chosen, compression=compression, options=self._options(name))

    def _options(self, name: str) -> ReadOptions:
        given = {
            "delimiter": self.delimiter,
            "header": self.header,
            "names": None if self.names is None else tuple(self.names),
            "null_values": None if self.null_values is None else tuple(self.null_values),
            "encoding": self.encoding,
            "decimal_point": self.decimal_point,
        }
        csv: CSVOptions = replace(
            guess_csv_options(name),
            types=dict(self.types),
            **{option: value for option, value in given.items() if value is not None},  # type: ignore[arg-type]
        )
        if self.quote is not None:
            csv = replace(csv, quote=None if self.quote == _NO_QUOTE else self.quote)
        on_bad_rows = choose(BadRows, self.on_bad_rows, "on_bad_rows")
        json = JSONOptions(types=dict(self.types), encoding=csv.encoding)
        return ReadOptions(csv=csv, json=json, on_bad_rows=on_bad_rows)


DEFAULT_ATTEMPTS: Final = 3
MAX_ATTEMPTS: Final = 100
MAX_FILES_IN_FLIGHT: Final = 64
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
        files_in_flight: how many files each process is at work on at once, up to MAX_FILES_IN_FLIGHT; None: several
            where source or sink is not local, else one.
        memory_bytes: how much memory the files that are at work may take in all processes of this machine together, as
            far as their sizes tell; None: a quarter of what the machine, or its container, has.
        executor: processes of this machine, or a Dask cluster.
        address: of the Dask scheduler; None: a cluster of this machine is started.
        worker_wait_seconds: how long a run waits for a worker of a cluster while there is none.
        attempts: how often a task is tried whose worker died, from 1.
        is_only_writer: the operator vouches that nobody else writes to the sink, for storages that cannot tell.
        accept_future_statement: follow a version of a signer whose clock was ahead; its time is kept, not undercut.

    Raises:
        UsageError: a number means nothing, or an address is given and nobody to use it.
    """

    keeps_journal: bool = False
    resumes: bool = False
    on_source_change: OnSourceChange = OnSourceChange.FAIL
    split_bytes: int | None = None
    files_in_flight: int | None = None
    memory_bytes: int | None = None
    executor: ExecutorKind = ExecutorKind.LOCAL
    address: str | None = None
    worker_wait_seconds: int = DEFAULT_WORKER_WAIT_SECONDS
    attempts: int = DEFAULT_ATTEMPTS
    is_only_writer: bool = False
    accept_future_statement: bool = False

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
        files = self.files_in_flight
        if files is not None and (not _is_count(files) or files > MAX_FILES_IN_FLIGHT):
            raise UsageError(f"{files!r} is not a number of files in flight", hint=f"give 1 to {MAX_FILES_IN_FLIGHT}")
        if self.memory_bytes is not None and not _is_count(self.memory_bytes):
            raise UsageError(f"{self.memory_bytes!r} is not a size of memory", hint="give a number of bytes")
        if self.address is not None and self.executor is not ExecutorKind.DASK:
            raise UsageError("an address is of a Dask scheduler", hint="set the executor to dask, or leave it out")
        if self.address is not None and _ADDRESS.fullmatch(self.address) is None:
            raise UsageError(f"{self.address!a} is not an address of a Dask scheduler", hint="write tcp://HOST:PORT")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
