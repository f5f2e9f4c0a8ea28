from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipecrypt.cli.progress import show_progress
from pipecrypt.cli.render import OUTPUT
from pipecrypt.runs.report.events import BytesDone, Event, FileChecked, FileDone, FileStarted, Part, RunStarted
from pipecrypt.runs.report.run_id import running

_PART = Part(
    path="a.parquet", source_bytes=1, sink_bytes=2, rows=3, batches=1, data_keys=1, service_calls=1, seconds=0.1
)


def _ten_seconds() -> Iterator[Event]:
    yield RunStarted(2, 100_000_000)
    yield FileStarted("a.parquet")
    for _ in range(100):
        yield BytesDone(1_000_000)
    yield FileDone("0" * 64, (_PART,))


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

    assert lines[0].startswith("49 %, 0 of 2 files, 49 of 100 MB, 10 MB/s, ")
    assert lines[0].endswith(" s left, 5 s so far")
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


def test_a_verification_counts_the_files_it_checked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [RunStarted(2, 10), FileStarted("a"), BytesDone(5), FileChecked("a", 1)]
    with show_progress(iter(range(0, 100, 10)).__next__) as on_event:
        for event in events:
            on_event(event)
    assert capsys.readouterr().err.splitlines()[-1].startswith("50 %, 1 of 2 files, ")

    monkeypatch.setattr(OUTPUT, "as_json", True)
    with show_progress(_Clock()) as on_event:
        on_event(events[-1])
    assert json.loads(capsys.readouterr().err) == {"event": "file_checked", "path": "a", "findings": 1}


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


def test_a_question_has_the_terminal_to_itself(tmp_path: Path) -> None:
    environment = {**os.environ, "PIPECRYPT_PASSPHRASE": "some words", "TERM": "xterm"}
    pipecrypt, key = [sys.executable, "-m", "pipecrypt"], f"keystore://{tmp_path}/keys.json#pii"
    subprocess.run([*pipecrypt, "keys", "new", key], env=environment, check=True, capture_output=True)
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "a.parquet")
    del environment["PIPECRYPT_PASSPHRASE"]
    command = [*pipecrypt, "encrypt", str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet"), "--key", key]

    master, slave = pty.openpty()
    with subprocess.Popen(
        command, env=environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    ) as process:
        os.close(slave)
        asked = _read_until_quiet(master, b": ", seconds=30)
        assert b"passphrase" in asked
        assert not select.select([master], [], [], 0.5)[0], "something was drawn while the question stood"
        os.write(master, b"some words\n")
        assert b"encrypted 1 file" in _read_until_quiet(master, b"service calls", seconds=30)
        assert process.wait(30) == 0
    os.close(master)


def _read_until_quiet(terminal: int, marker: bytes, seconds: float) -> bytes:
    """Return what is written up to `marker` and right behind it."""
    text, end = b"", time.monotonic() + seconds
    while (marker not in text or select.select([terminal], [], [], 0.3)[0]) and time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                piece = os.read(terminal, 4096)
            except OSError:  # the other side is closed
                break
            text += piece
    return text


def test_a_terminal_names_the_files_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")

    with show_progress() as on_event:
        on_event(RunStarted(9, 100))
        on_event(FileStarted("[red]first.parquet"))
        on_event(FileStarted("a.parquet"))
        on_event(FileDone("0" * 64, (_PART,)))
        on_event(FileStarted("b.parquet"))

    assert "[red]first.parquet, b.parquet" in terminal.getvalue()


def test_json_lines_name_the_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OUTPUT, "as_json", True)
    with running("20261128T020000Z-00000000"):
        documents = [json.loads(line) for line in _run(capsys)]
    assert {document["run_id"] for document in documents} == {"20261128T020000Z-00000000"}
