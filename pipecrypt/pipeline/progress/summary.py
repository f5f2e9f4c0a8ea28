"""What was done: one record for each file, and one for the run. Showing them is left to cli."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from pipecrypt.dataset.sign.records import SignedStatement
from pipecrypt.parquet.report import FileReport

__all__ = ["Part", "Summary"]

_MEGABYTE: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The record of one output file.

    Args:
        path: the file's path below the sink, with `/`; its name where the sink is one file.
        source_bytes: size of the input.
        sink_bytes: size of the output.
        rows: rows of the table.
        batches: row groups.
        data_keys: data keys made or opened.
        service_calls: calls to key services that this file caused; later files of the same worker share their result.
        seconds: time from opening the input to having published the output.
        bad_rows: rows of the input that did not fit and were left out.
    """

    path: str
    source_bytes: int
    sink_bytes: int
    rows: int
    batches: int
    data_keys: int
    service_calls: int
    seconds: float
    bad_rows: int = 0

    @classmethod
    def of(
        cls,
        path: str,
        report: FileReport,
        *,
        service_calls: int,
        seconds: float,
        source_bytes: int | None = None,
        bad_rows: int = 0,
    ) -> Self:
        """Return the record of a file from the engine's report; `source_bytes` where the engine saw another input."""
        return cls(
            path=path,
            source_bytes=report.source_bytes if source_bytes is None else source_bytes,
            sink_bytes=report.sink_bytes,
            rows=report.rows,
            batches=report.batches,
            data_keys=report.data_keys,
            service_calls=service_calls,
            seconds=seconds,
            bad_rows=bad_rows,
        )

    @classmethod
    def found(cls, path: str, size_bytes: int) -> Self:
        """Return the record of a file that is there, of which nothing else is known."""
        counts = {"source_bytes": 0, "rows": 0, "batches": 0, "data_keys": 0, "service_calls": 0}
        return cls(path=path, sink_bytes=size_bytes, seconds=0.0, **counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The record of a run: the sums of its parts.

    Args:
        operation: `encrypt` or `decrypt`.
        files: files published.
        source_bytes: size of all inputs.
        sink_bytes: size of all outputs.
        rows: rows of all tables.
        batches: row groups of all files.
        data_keys: data keys made or opened.
        service_calls: calls to key services.
        seconds: wall-clock time of the run.
        megabytes_per_second: input over that time, in 1,000,000 bytes.
        parts: one for each file, in the order of their paths.
        bad_rows: rows of all inputs that did not fit and were left out.
        signed: the statements that were published; none where nothing was signed.
        run_id: of a run that wrote a directory; None for any other.
        skipped: files that an earlier run had done.
        replaced: outputs that were written again, because their sources had changed.
        removed: outputs that were removed, because their sources were gone.
    """

    operation: str
    files: int
    source_bytes: int
    sink_bytes: int
    rows: int
    batches: int
    data_keys: int
    service_calls: int
    seconds: float
    megabytes_per_second: float
    parts: tuple[Part, ...]
    bad_rows: int = 0
    signed: tuple[SignedStatement, ...] = ()
    run_id: str | None = None
    skipped: int = 0
    replaced: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, operation: str, parts: Sequence[Part], seconds: float, *, signed: tuple[SignedStatement, ...] = ()
    ) -> Self:
        """Add up the parts of a run that took `seconds`; what it left alone is left to the caller."""
        source_bytes = sum(part.source_bytes for part in parts)
        return cls(
            operation=operation,
            files=len(parts),
            source_bytes=source_bytes,
            sink_bytes=sum(part.sink_bytes for part in parts),
            rows=sum(part.rows for part in parts),
            batches=sum(part.batches for part in parts),
            data_keys=sum(part.data_keys for part in parts),
            service_calls=sum(part.service_calls for part in parts),
            seconds=seconds,
            megabytes_per_second=source_bytes / _MEGABYTE / seconds if seconds > 0 else 0.0,
            parts=tuple(parts),
            bad_rows=sum(part.bad_rows for part in parts),
            signed=signed,
        )
