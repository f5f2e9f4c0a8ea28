"""What the options of `encrypt` that concern the kind of source do, and how they are refused."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from cli.conftest import Run


@pytest.fixture
def table(world: Path) -> Path:
    path = world / "table.csv"
    path.write_text("id,name\n1,Ada\n3,Grace\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("file_format", ["bytes", "csv"])
def test_chunks_take_a_file_for_bytes_whatever_its_format(run: Run, table: Path, keyref: str, file_format: str) -> None:
    answer = run("encrypt", table, "sealed/", "--key", keyref, "--chunks", "--format", file_format)
    assert answer.code == 0
    assert run("decrypt", "sealed/table.csv.chunks.parquet", "back.csv", "--key", keyref).code == 0
    assert Path("back.csv").read_bytes() == table.read_bytes()


def test_standard_input_needs_a_format(run: Run, table: Path, keyref: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"id\n1\n")))
    answer = run("encrypt", "-", "sealed.parquet", "--key", keyref)
    assert answer.code == 2
    assert "standard input has no name that tells its format" in answer.err

    assert run("encrypt", "-", "sealed.parquet", "--key", keyref, "--format", "csv").code == 0
    assert run("cat", "sealed.parquet", "--key", keyref).out.split() == ["id", "1"]


def test_standard_output_is_one_file(run: Run, table: Path, keyref: str) -> None:
    before = set(Path().iterdir())
    answer = run("encrypt", table, "-", "--key", keyref, "--max-file-bytes", "100")
    assert answer.code == 2
    assert set(Path().iterdir()) == before
