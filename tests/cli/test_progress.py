from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator

import pytest

from pipecrypt.cli.progress import show_progress
from pipecrypt.cli.render import OUTPUT
from pipecrypt.pipeline.events import BytesDone, Event, FileDone, FileStarted, RunStarted
from pipecrypt.pipeline.summary import Part

_PART = Part(
    path="a.parquet", source_bytes=1, sink_bytes=2, rows=3, batches=1, data_keys=1, service_calls=1, seconds=0.1
)


def _ten_seconds() -> Iterator[Event]:
    yield RunStarted(2, 100_000_000)
    yield FileStarted("a.parquet")
    for _ in range(100):
        yield BytesDone(1_000_000)
    yield FileDone(_PART)


class _Clock:
    """Goes on by a tenth of a second at each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.1
        return self.now


@pytest.fixture(autouse=True)
def _plain_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OUTPUT, "as_json", False)


def _run(capsys: pytest.CaptureFixture[str]) -> list[str]:
    with show_progress(_Clock()) as on_event:
        for event in _ten_seconds():
            on_event(event)
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_a_log_gets_a_line_every_few_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    lines = _run(capsys)

    assert lines[0].startswith("49 %, 0 of 2 files, 49 of 100 MB, 9 MB/s, ")
    assert lines[0].endswith(" s left")
    assert 1 <= len(lines) <= 3


def test_json_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OUTPUT, "as_json", True)

    documents = [json.loads(line) for line in _run(capsys)]

    names = [document["event"] for document in documents]
    assert names[:2] == ["run_started", "file_started"]
    assert names[-1] == "file_done"
    progress = [document for document in documents if document["event"] == "progress"]
    assert 5 <= len(progress) <= 11
    assert progress[-1]["bytes_done"] > progress[0]["bytes_done"]
    assert set(progress[0]) >= {"megabytes_per_second", "seconds_left", "files", "files_done", "bytes"}


def test_a_terminal_gets_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "30")

    with show_progress() as on_event:
        for event in _ten_seconds():
            on_event(event)

    assert "1/2 files" in terminal.getvalue()
    assert "\x1b[2K" in terminal.getvalue(), "the bar is erased"


def test_progress_that_nobody_reads_stops_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Closed())

    with show_progress(_Clock()) as on_event:
        for event in _ten_seconds():
            on_event(event)
