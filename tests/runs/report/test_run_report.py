from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipecrypt.errors import FormatError, InterruptedRunError, PipecryptError, SourceNotFoundError, UsageError
from pipecrypt.parquet.report import KeyBytes
from pipecrypt.runs.report.events import (
    BytesDone,
    FileDone,
    Part,
    RunFinished,
    RunStarted,
    StageSeconds,
    Summary,
    TaskRetried,
)
from pipecrypt.runs.report.report import (
    MAX_SAMPLES,
    Outcome,
    RunCollector,
    RunReport,
    decode_report,
    encode_report,
    read_report,
    report_path,
)
from pipecrypt.runs.report.run_id import new_run_id
from pipecrypt.store.location import Location

_NOW = datetime(2026, 11, 28, 2, 0, 0, 5, UTC)
_ID = new_run_id(_NOW, bytes)


class _Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def _collector(clock: Callable[[], float]) -> RunCollector:
    return RunCollector(_ID, "encrypt", now=lambda: _NOW, clock=clock)


def _part(path: str, seconds: float, size: int = 10) -> Part:
    return Part(
        path=path,
        source_bytes=size,
        sink_bytes=size + 1,
        rows=2,
        batches=1,
        data_keys=1,
        service_calls=1,
        seconds=seconds,
        bad_rows=1,
    )


def finished_report(error: BaseException | None = None, files: int = 3) -> RunReport:
    clock = _Clock()
    collector = _collector(clock)
    collector.take(RunStarted(files, 10 * files))
    parts = []
    for number in range(files):
        clock.seconds += 1
        collector.take(BytesDone(10))
        parts.append(_part(f"{number}.parquet", number / 10))
        stages = StageSeconds(read_seconds=0.25, work_seconds=0.5)
        collector.take(FileDone("0" * 64, (parts[-1],), (), (), stages, (KeyBytes("k", 7), KeyBytes(None, 3))))
    collector.take(TaskRetried("0.parquet", 2, "died", 10))
    if error is None:
        collector.take(RunFinished(Summary.of("encrypt", parts, 3.0)))
    return collector.report(error)


def test_a_report_adds_up() -> None:
    report = finished_report()

    assert report.outcome is Outcome.FINISHED
    assert (report.run_id, report.operation, report.started, report.duration_ms) == (_ID, "encrypt", _NOW, 3000)
    assert (report.counts.planned_files, report.counts.planned_bytes) == (3, 30)
    assert (report.counts.files, report.counts.source_bytes, report.counts.sink_bytes) == (3, 30, 33)
    assert (report.counts.rows, report.counts.bad_rows, report.counts.retries) == (6, 3, 1)
    assert dict(report.stages_ms) == {"open": 0, "read": 750, "work": 1500, "write": 0, "publish": 0}
    assert report.bytes_by_key == (KeyBytes("k", 21), KeyBytes(None, 9))
    assert [(each.path, each.duration_ms) for each in report.slowest] == [
        ("2.parquet", 200),
        ("1.parquet", 100),
        ("0.parquet", 0),
    ]
    assert [each.at_ms for each in report.samples] == [0, 1000, 2000, 3000]


@pytest.mark.parametrize(
    ("error", "outcome", "message"),
    [
        (InterruptedRunError("stopped by SIGTERM"), Outcome.INTERRUPTED, "stopped by SIGTERM"),
        (KeyboardInterrupt(), Outcome.INTERRUPTED, None),
        (PipecryptError("no space"), Outcome.FAILED, "no space"),
        (ValueError("a secret, for all we know"), Outcome.FAILED, None),
    ],
)
def test_errors_are_named_without_what_may_be_secret(
    error: BaseException, outcome: Outcome, message: str | None
) -> None:
    report = finished_report(error)

    assert (report.outcome, report.error_type, report.error) == (outcome, type(error).__name__, message)
    assert decode_report(encode_report(report), "r") == report


def test_memory_and_size_are_bounded() -> None:
    clock = _Clock()
    collector = _collector(clock)
    tracemalloc.start()
    for number in range(50_000):
        clock.seconds += 0.37
        collector.take(BytesDone(1000))
        collector.take(
            FileDone(
                "0" * 64, (_part(f"{number}.parquet", number % 977),), (), (), bytes_by_key=(KeyBytes(str(number), 1),)
            )
        )
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    report = collector.report()

    assert peak_bytes < 2_000_000
    assert MAX_SAMPLES // 4 <= len(report.samples) <= MAX_SAMPLES + 1
    assert report.samples[-1].bytes_done == 50_000_000
    gaps = [b.at_ms - a.at_ms for a, b in zip(report.samples, report.samples[1:], strict=False)]
    assert max(gaps) < report.duration_ms // 50, "samples stay spread over the run"
    assert len(report.slowest) == 20
    assert {each.duration_ms for each in report.slowest} == {976_000}
    assert sum(each.page_bytes for each in report.bytes_by_key) == 50_000
    assert decode_report(encode_report(report), "r") == report


def test_names_that_are_no_unicode_can_be_read_back() -> None:
    collector = _collector(_Clock())
    collector.take(FileDone("0" * 64, (_part("\udcff.parquet", 1.0),)))
    report = collector.report()

    assert decode_report(encode_report(report), "r") == report


def _changed(**members: object) -> bytes:
    return json.dumps(json.loads(encode_report(finished_report())) | members).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{" * 10_000,
        b"x" * (9 << 20),
        _changed(version=2),
        _changed(extra=1),
        _changed(run_id="../../etc"),
        _changed(outcome="fine"),
        _changed(started="yesterday"),
        _changed(started="2026-11-28T02:00:00"),
        _changed(started="0001-01-01T00:00:00+14:00"),
        _changed(duration_ms=-1),
        _changed(duration_ms=1 << 70),
        _changed(duration_ms=1.5),
        _changed(counts={}),
        _changed(stages_ms={"open": "1"}),
        _changed(samples=[{"at_ms": 5, "bytes_done": 1}, {"at_ms": 4, "bytes_done": 1}]),
        _changed(samples=[{"at_ms": 1, "bytes_done": 1}] * 700),
        _changed(slowest=[{"path": 1, "duration_ms": 1, "source_bytes": 1}]),
        _changed(bytes_by_key=[{"key_reference": "k" * 5000, "page_bytes": 1}]),
    ],
)
def test_hostile_reports_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode_report(data, "r")


def test_the_latest_or_a_named_report_is_read(tmp_path: Path) -> None:
    dataset = Location(str(tmp_path))
    with pytest.raises(SourceNotFoundError):
        read_report(dataset, None)
    place = tmp_path / report_path(_ID)
    place.parent.mkdir(parents=True)
    place.write_bytes(encode_report(finished_report()))
    (tmp_path / "_pipecrypt" / "runs" / "20991231T000000Z-00000000" / "staged").mkdir(parents=True)
    (tmp_path / "_pipecrypt" / "runs" / "zzz").mkdir()
    (tmp_path / "_pipecrypt" / "runs" / "zzz" / "report.json").write_text("{}")

    assert read_report(dataset, None) == read_report(dataset, _ID) == finished_report()

    later = tmp_path / report_path("20270101T000000Z-00000000")
    later.parent.mkdir()
    later.write_bytes(encode_report(finished_report()))
    with pytest.raises(FormatError):
        read_report(dataset, None)
    with pytest.raises(SourceNotFoundError):
        read_report(dataset, "20250101T000000Z-00000000")
    with pytest.raises(UsageError):
        read_report(dataset, "../x")
