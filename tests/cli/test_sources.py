"""Sources of every kind, chunks and standard streams from the command line and from configurations."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipecrypt as pc
from cli.conftest import Run

CSV = "id,email\n1,a@example.org\n2,b@example.org\nx\n"
COMMAND = [sys.executable, "-m", "pipecrypt"]


def read(path: str, keyref: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = pq.read_table(
        path, decryption_properties=pc.decryption_properties(keys=[keyref])
    ).to_pylist()
    return rows


def test_csv_with_bad_rows(run: Run, keyref: str) -> None:
    Path("people.csv").write_text(CSV)
    answer = run("encrypt", "people.csv", "out/", "--key", keyref)
    assert (answer.code, answer.err.splitlines()[0]) == (1, "error: people.csv:4: 1 field instead of 2")
    assert "skip" in answer.err
    assert not Path("out").exists()

    options = ["--on-bad-rows", "skip", "--batch-rows", "1", "--compression", "none", "--columns", "email"]
    answer = run("encrypt", "people.csv", "out/", "--key", keyref, *options)
    assert answer.code == 0, answer.err
    assert "bad rows left out      1" in answer.out
    assert read("out/people.parquet", keyref) == [
        {"id": 1, "email": "a@example.org"},
        {"id": 2, "email": "b@example.org"},
    ]
    assert run("inspect", "out/people.parquet", "--json").document["batches"] == 2


def test_a_format_that_no_name_tells(run: Run, keyref: str) -> None:
    Path("people.txt").write_text(CSV.removesuffix("x\n"))
    assert run("encrypt", "people.txt", "x.parquet", "--key", keyref).code == 1
    assert run("encrypt", "people.txt", "x.parquet", "--key", keyref, "--format", "bytes").code == 2
    answer = run("encrypt", "people.txt", "x.parquet", "--key", keyref, "--format", "csv", "--max-file-bytes", "1")
    assert answer.code == 0, answer.err
    assert len(read("x-00000.parquet", keyref)) == 2


def test_a_tree_in_chunks(run: Run, keyref: str) -> None:
    files = {"a.bin": os.urandom(5000), "sub/.hidden/b": b"", "sub/c.parquet": b"no table", "_d/e": b"x"}
    for name, data in files.items():
        Path("tree", name).parent.mkdir(parents=True, exist_ok=True)
        Path("tree", name).write_bytes(data)
    Path("tree/a.bin").chmod(0o640)
    os.utime("tree/a.bin", ns=(10**18, 10**18))
    answer = run("encrypt", "tree", "sealed", "--key", keyref, "--chunks", "--json")
    assert answer.code == 0, answer.err
    assert sorted(part["path"] for part in answer.document["parts"]) == sorted(
        f"{name}.chunks.parquet" for name in files
    )
    assert len(run("inspect", "sealed", "--json").document["files"]) == len(files)
    assert run("decrypt", "sealed", "back", "--key", keyref).code == 0
    assert {
        str(path.relative_to("back")): path.read_bytes() for path in Path("back").rglob("*") if path.is_file()
    } == files
    status = Path("back/a.bin").stat()
    assert (status.st_mode & 0o777 & ~0o022, status.st_mtime_ns) == (0o640, 10**18)
    assert run("cat", "sealed/a.bin.chunks.parquet", "--key", keyref).code == 2
    assert run("encrypt", "tree", "x", "--key", keyref, "--chunks", "--columns", "a").code == 2


def pipe(data: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, *arguments], input=data, capture_output=True, check=False, timeout=60)


@pytest.mark.parametrize("compression", [[], ["--compression", "zstd"]])
def test_bytes_through_pipes(world: Path, keyref: str, compression: list[str]) -> None:
    data = os.urandom(100_000)
    sealed = pipe(data, "encrypt", "-", "-", "--key", keyref, "--chunks", *compression)
    assert sealed.returncode == 0, sealed.stderr
    assert b"encrypted 1 file" in sealed.stderr
    assert data[:64] not in sealed.stdout
    back = pipe(sealed.stdout, "decrypt", "-", "-", "--key", keyref, "--json")
    assert (back.returncode, back.stdout) == (0, data)
    cut = pipe(sealed.stdout[:-9], "decrypt", "-", "-", "--key", keyref)
    assert (cut.returncode, cut.stdout) == (1, b"")


def test_tables_through_pipes(world: Path, keyref: str) -> None:
    sealed = pipe(CSV.removesuffix("x\n").encode(), "encrypt", "-", "-", "--key", keyref, "--format", "csv")
    assert sealed.returncode == 0, sealed.stderr
    back = pipe(sealed.stdout, "decrypt", "-", "-", "--key", keyref)
    assert pq.read_table(io.BytesIO(back.stdout)).num_rows == 2
    again = pipe(back.stdout, "encrypt", "-", "x.parquet", "--key", keyref, "--format", "parquet")
    assert again.returncode == 0, again.stderr
    assert len(read("x.parquet", keyref)) == 2


def test_standard_streams_that_cannot_be(run: Run, world: Path, keyref: str) -> None:
    Path("many").mkdir()
    for name in ("a.csv", "b.csv"):
        Path("many", name).write_text("a\n1\n")
    assert run("encrypt", "many", "-", "--key", keyref).code == 2
    assert run("encrypt", "-", "out/", "--key", keyref, "--format", "csv").code == 2
    without_format = pipe(b"a\n1\n", "encrypt", "-", "x.parquet", "--key", keyref)
    assert without_format.returncode in {1, 2}
    assert b"format" in without_format.stderr


_CONFIG = """\
source:
  url: people.txt
  format: csv
  csv: {delimiter: ";", header: false, names: [id, price], null_values: ["-"], decimal_point: ","}
  types: {id: int16, price: "decimal128(8, 2)"}
  on_bad_rows: skip
sink: {url: out.parquet}
encrypt: {default: pii, batch_rows: 2, compression: snappy}
keys: {pii: "keystore://./keys.json#pii"}
"""


def test_a_configuration_for_csv(run: Run, keyref: str) -> None:
    Path("people.txt").write_text("1;2,50\n2;-\n70000;1,00\n3;3,25\n")
    Path("c.yaml").write_text(_CONFIG)
    plan = run("config", "check", "c.yaml", "--json")
    assert plan.code == 0, plan.err
    assert [column["path"] for column in plan.document["columns"]] == ["id", "price"]
    answer = run("run", "c.yaml", "--json")
    assert answer.code == 0, answer.err
    assert (answer.document["rows"], answer.document["bad_rows"], answer.document["batches"]) == (3, 1, 2)
    table = pq.read_table("out.parquet", decryption_properties=pc.decryption_properties(keys=[keyref]))
    assert table.schema.types == [pa.int16(), pa.decimal128(8, 2)]
    assert [str(value) for value in table["price"].to_pylist()] == ["2.50", "None", "3.25"]


def test_a_configuration_for_chunks(run: Run, keyref: str) -> None:
    Path("tree").mkdir()
    Path("tree/a.log").write_bytes(b"hello" * 1000)
    Path("c.yaml").write_text(
        "source: {url: tree}\nsink: {url: out/}\n"
        "encrypt: {mode: chunks, default: pii, chunk_bytes: 4096, compression: zstd}\n"
        'keys: {pii: "keystore://./keys.json#pii"}\n'
    )
    plan = run("config", "check", "c.yaml", "--json").document
    assert (plan["columns"], plan["footer"]) == (None, "encrypted")
    assert "c.yaml is valid" in run("config", "check", "c.yaml").out
    assert run("run", "c.yaml").code == 0
    assert run("decrypt", "out/a.log.chunks.parquet", "a.log", "--key", keyref).code == 0
    assert Path("a.log").read_bytes() == b"hello" * 1000


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("format: csv", "format: xls", "c.yaml:3:"),
        ('delimiter: ";"', 'delimiter: ";;"', "c.yaml:4:"),
        ("batch_rows: 2", "batch_rows: 0", "c.yaml:8:"),
        ("compression: snappy", "compression: gzip", "c.yaml:8:"),
        ("default: pii", "default: pii, mode: chunks", "c.yaml:8:"),
        ("on_bad_rows: skip", "on_bad_rows: keep", "c.yaml:6:"),
        ("csv: {", "csv: {delimeter: 1, ", "c.yaml:4:"),
    ],
)
def test_a_wrong_configuration(run: Run, keyref: str, old: str, new: str, place: str) -> None:
    Path("people.txt").write_text("1;2,50\n")
    assert old in _CONFIG
    Path("c.yaml").write_text(_CONFIG.replace(old, new))
    answer = run("config", "check", "c.yaml", "--offline")
    assert answer.code == 2
    assert place in answer.err


def test_a_wrong_type_is_explained(run: Run, keyref: str) -> None:
    Path("people.txt").write_text("1;2,50\n")
    Path("c.yaml").write_text(_CONFIG.replace("int16", "int61"))
    answer = run("run", "c.yaml")
    assert answer.code == 2
    assert "column id" in answer.err
    assert "did you mean" in answer.err


def test_identifiers_come_back_as_they_were(run: Run, keyref: str) -> None:
    Path("ids.csv").write_text("id\tphone\tpaid\n00001\t+4700000001\t12.50\n00002\t+4700000002\t7.25\n")

    answer = run("encrypt", "ids.csv", "ids.parquet", "--key", keyref)

    assert answer.code == 0, answer.err
    assert read("ids.parquet", keyref) == [
        {"id": "00001", "phone": "+4700000001", "paid": 12.5},
        {"id": "00002", "phone": "+4700000002", "paid": 7.25},
    ]


def test_dialect_encoding_and_types_are_options(run: Run, keyref: str) -> None:
    Path("a.csv").write_bytes("größe;n\nä;007\né;8\n".encode("latin-1"))
    answer = run("encrypt", "a.csv", "a.parquet", "--key", keyref)
    assert answer.code == 1
    assert "--encoding cp1252" in answer.err

    options = ["--encoding", "latin-1", "--delimiter", ";", "--type", "n=int16"]
    answer = run("encrypt", "a.csv", "a.parquet", "--key", keyref, *options)
    assert answer.code == 0, answer.err
    assert read("a.parquet", keyref) == [{"größe": "ä", "n": 7}, {"größe": "é", "n": 8}]

    Path("b.csv").write_text("a\tb\n1\t2\n3\n")
    assert run("encrypt", "b.csv", "b.parquet", "--key", keyref).code == 1
    for tab in ("tab", "\\t", "\t"):
        skipping = ["--delimiter", tab, "--on-bad-rows", "skip", "--overwrite"]
        assert run("encrypt", "b.csv", "b.parquet", "--key", keyref, *skipping).code == 0
        assert read("b.parquet", keyref) == [{"a": 1, "b": 2}]
    for wrong in (["--type", "n"], ["--type", "n=int61"], ["--encoding", "hex"], ["--delimiter", ";;"]):
        assert run("encrypt", "a.csv", "c.parquet", "--key", keyref, *wrong).code == 2


def test_a_plan_shows_types_and_the_delimiter(run: Run, keyref: str) -> None:
    Path("raw").mkdir()
    Path("raw/a.csv").write_bytes("id|paid|note\n007|1|ä\n".encode("cp1252"))
    Path("c.yaml").write_text(
        "source: {url: raw/, encoding: cp1252, types: {note: large_string}}\nsink: {url: out/}\n"
        'encrypt: {default: pii}\nkeys: {pii: "keystore://./keys.json#pii"}\n'
    )

    plan, check = run("plan", "c.yaml"), run("config", "check", "c.yaml")

    assert plan.code == 0, plan.err
    assert "delimiter of the first source: vertical bar" in plan.out
    assert [line.split() for line in plan.out.splitlines()[-3:]] == [
        ["id", "string"],
        ["paid", "int64"],
        ["note", "large_string"],
    ]
    document = run("plan", "c.yaml", "--json").document
    assert (document["delimiter"], document["types"]["id"]) == ("|", "string")
    assert "delimiter: vertical bar" in check.out
    assert ["id", "string", "pii"] in [line.split()[:3] for line in check.out.splitlines()]
    columns = run("config", "check", "c.yaml", "--json").document["columns"]
    assert [column["type"] for column in columns] == ["string", "int64", "large_string"]

    Path("c.yaml").write_text(Path("c.yaml").read_text().replace("types:", "csv: {encoding: utf-16}, types:"))
    assert run("plan", "c.yaml").code == 2
