"""The report of a run as JSON, and back, and where it lies below a dataset. Showing it is left to cli.

`_pipecrypt/runs/<run id>/report.json`, one object with `"version": 1`. Whoever may write there may have written
anything, so reading bounds every size and refuses what is unknown.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, fields
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final

from pipecrypt.dataset.statement.paths import RUNS_DIRECTORY, run_path
from pipecrypt.documents import Document, DocumentError, parse_document
from pipecrypt.errors import FormatError, PipecryptError, SourceNotFoundError, UsageError
from pipecrypt.parquet.report import KeyBytes
from pipecrypt.pipeline.progress.run_id import is_run_id
from pipecrypt.pipeline.progress.run_report import (
    MAX_KEYS,
    MAX_SAMPLES,
    MAX_SLOWEST,
    MAX_TEXT,
    Outcome,
    RunCounts,
    RunReport,
    Sample,
    SlowFile,
)
from pipecrypt.storage.inventory import take_inventory
from pipecrypt.storage.location import Location
from pipecrypt.storage.sink import open_sink
from pipecrypt.storage.source import read_small_file

__all__ = ["MAX_REPORT_BYTES", "decode_report", "encode_report", "read_report", "report_path", "store_report"]

_log = logging.getLogger(__name__)
_VERSION: Final = 1
# The texts of 1,000 keys and 20 files, none of them short, and what else there is.
MAX_REPORT_BYTES: Final = 8 << 20
_MOST: Final = (1 << 63) - 1
_STAGES: Final = ("open", "read", "work", "write", "publish")
_NAME: Final = "report.json"
_MEMBERS: Final = tuple(each.name for each in fields(RunReport))


def report_path(run_id: str) -> str:
    """Return the path of a run's report below its dataset."""
    return run_path(run_id, _NAME)


def encode_report(report: RunReport) -> bytes:
    """Return a report as JSON."""
    document = asdict(report) | {
        "version": _VERSION,
        "started": report.started.isoformat(),
        "ended": report.ended.isoformat(),
        "stages_ms": dict(report.stages_ms),
    }
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def store_report(sink: Location, report: RunReport) -> None:
    """Store a report in the sink. A run ends as it ended: what goes wrong here is logged."""
    try:
        with open_sink(sink.child(report_path(report.run_id)), overwrite=True) as publication:
            publication.write(encode_report(report))
            publication.publish()
    except PipecryptError as error:
        _log.warning("the report of run %s is not kept: %s", report.run_id, error.message)


def decode_report(data: bytes, name: str) -> RunReport:
    """Return a report that `encode_report` wrote; errors call it `name`.

    Raises:
        FormatError: it is malformed, or of another version.
    """
    try:
        return _report(parse_document(data, max_bytes=MAX_REPORT_BYTES))
    except DocumentError as error:
        raise FormatError(
            f"the run report {name} is malformed: {error}", hint="another program, or a newer version, wrote it"
        ) from error


def read_report(dataset: Location, run_id: str | None) -> RunReport:
    """Read the report of a run below a dataset.

    Args:
        dataset: the directory.
        run_id: of the run; None for the latest that left a report.

    Raises:
        UsageError: the text is not a run id.
        SourceNotFoundError: there is no such report.
        FormatError: it is malformed.
        StorageError: the storage refused or failed.
    """
    if run_id is not None and not is_run_id(run_id):
        raise UsageError(f"{run_id!r} is not a run id", hint="a run id looks like 20261128T020000Z-0a1b2c3d")
    for each in [run_id] if run_id is not None else _run_ids(dataset):
        place = dataset.child(report_path(each))
        data = read_small_file(place, MAX_REPORT_BYTES)
        if data is not None:
            report = decode_report(data, place.display)
            if report.run_id != each:
                raise FormatError(f"the run report {place.display} is of another run")
            return report
    what = "a run report" if run_id is None else f"the report of run {run_id}"
    raise SourceNotFoundError(f"{what} is not below {dataset.display}", hint="pipecrypt run leaves one in its sink")


def _run_ids(dataset: Location) -> list[str]:
    """Return the runs that left a report, the latest first."""
    found = (
        path.split("/")
        for path, _ in take_inventory(dataset.child(RUNS_DIRECTORY), lambda directory: len(directory) < 2)
    )
    names = {parts[0] for parts in found if parts[1:] == [_NAME]}
    return sorted(filter(is_run_id, names), reverse=True)


def _report(document: Document) -> RunReport:
    if document.integer("version") != _VERSION:
        raise DocumentError("another version than 1")
    document.only("version", *_MEMBERS)
    run_id, outcome = document.text("run_id", max_characters=64), document.text("outcome", max_characters=16)
    if not is_run_id(run_id) or outcome not in list(Outcome):
        raise DocumentError("no run id, or no outcome")
    samples = tuple(_sample(each) for each in document.documents("samples", max_count=MAX_SAMPLES + 1))
    if any(a.at_ms > b.at_ms for a, b in pairwise(samples)):
        raise DocumentError("samples are not in order")
    counts, stages = document.document("counts"), document.document("stages_ms")
    names = [each.name for each in fields(RunCounts)]
    counts.only(*names)
    stages.only(*_STAGES)
    return RunReport(
        run_id=run_id,
        operation=document.text("operation", max_characters=64),
        started=_time(document, "started"),
        ended=_time(document, "ended"),
        duration_ms=_number(document, "duration_ms"),
        outcome=Outcome(outcome),
        error_type=_text_or_null(document, "error_type"),
        error=_text_or_null(document, "error"),
        counts=RunCounts(**{name: _number(counts, name) for name in names}),
        samples=samples,
        stages_ms=tuple((name, _number(stages, name)) for name in _STAGES),
        bytes_by_key=tuple(_key(each) for each in document.documents("bytes_by_key", max_count=MAX_KEYS)),
        slowest=tuple(_file(each) for each in document.documents("slowest", max_count=MAX_SLOWEST)),
    )


def _number(document: Document, name: str) -> int:
    value = document.integer(name)
    if not 0 <= value <= _MOST:
        raise DocumentError(f"{name} is out of range")
    return value


def _time(document: Document, name: str) -> datetime:
    try:
        moment = datetime.fromisoformat(document.text(name, max_characters=64))
        if moment.tzinfo is None:
            raise DocumentError(f"{name} has no zone")
        return moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise DocumentError(f"{name} is not a time") from error


def _text_or_null(document: Document, name: str) -> str | None:
    return None if document.is_null(name) else document.text(name, max_characters=MAX_TEXT)


def _sample(document: Document) -> Sample:
    document.only("at_ms", "bytes_done")
    return Sample(_number(document, "at_ms"), _number(document, "bytes_done"))


def _key(document: Document) -> KeyBytes:
    document.only("key_reference", "page_bytes")
    return KeyBytes(_text_or_null(document, "key_reference"), _number(document, "page_bytes"))


def _file(document: Document) -> SlowFile:
    document.only("path", "duration_ms", "source_bytes")
    path = document.text("path", max_characters=MAX_TEXT)
    return SlowFile(path, _number(document, "duration_ms"), _number(document, "source_bytes"))
