"""What the options of `encrypt` that concern the kind of source do, and how they are refused."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from cli.conftest import Run


@pytest.fixture
def table(world: Path) -> Path:
    path = world / "table.csv"
    path.write_text("id,name\n1,Ada\n2\n3,Grace\n", encoding="utf-8")
    return path


def test_a_bad_row_stops_the_run_or_is_left_out(run: Run, table: Path, keyref: str) -> None:
    stopped = run("encrypt", table, "sealed.parquet", "--key", keyref)
    assert stopped.code == 1
    assert f"{table}:3: 1 field instead of 2" in stopped.err
    assert not Path("sealed.parquet").exists()

    skipped = run("encrypt", table, "sealed.parquet", "--key", keyref, "--on-bad-rows", "skip")
    assert skipped.code == 0
    assert ["bad", "rows", "left", "out", "1"] in [line.split() for line in skipped.out.splitlines()]


@pytest.mark.parametrize("file_format", ["bytes", "csv"])
def test_chunks_take_a_file_for_bytes_whatever_its_format(run: Run, table: Path, keyref: str, file_format: str) -> None:
    answer = run("encrypt", table, "sealed/", "--key", keyref, "--chunks", "--format", file_format)
    assert answer.code == 0
    assert run("decrypt", "sealed/table.csv.chunks.parquet", "back.csv", "--key", keyref).code == 0
    assert Path("back.csv").read_bytes() == table.read_bytes()


def test_bytes_are_no_table(run: Run, table: Path, keyref: str) -> None:
    answer = run("encrypt", table, "sealed/", "--key", keyref, "--format", "bytes")
    assert answer.code == 2
    assert "--chunks" in answer.err


def test_standard_input_needs_a_format(run: Run, table: Path, keyref: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"id\n1\n")))
    answer = run("encrypt", "-", "sealed.parquet", "--key", keyref)
    assert answer.code == 2
    assert "standard input has no name that tells its format" in answer.err

    assert run("encrypt", "-", "sealed.parquet", "--key", keyref, "--format", "csv").code == 0
    assert run("cat", "sealed.parquet", "--key", keyref).out.split() == ["id", "1"]


def test_standard_output_is_one_file(run: Run, table: Path, keyref: str) -> None:
    before = set(Path().iterdir())
    answer = run("encrypt", table, "-", "--key", keyref, "--max-file-bytes", "100", "--on-bad-rows", "skip")
    assert answer.code == 2
    assert set(Path().iterdir()) == before
