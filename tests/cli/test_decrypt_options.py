"""`decrypt`: the AAD prefix that a caller brings, and names that no file can have."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipecrypt as pc
from pipecrypt.parquet.footer.stored import read_sealed_footer
from pipecrypt.vocabulary.ranges import MemorySource
from tests.cli.conftest import Run


@pytest.fixture
def sealed(world: Path, run: Run, keyref: str) -> Path:
    pq.write_table(pa.table({"id": [1, 2, 3]}), world / "people.parquet")
    assert run("encrypt", "people.parquet", "sealed.parquet", "--key", keyref).code == 0
    return world / "sealed.parquet"


def stored_prefix(file: Path) -> bytes:
    return read_sealed_footer(MemorySource(file.read_bytes(), "x")).algorithm.aad_prefix or b""


def test_the_prefix_that_a_file_stores_may_be_given_too(sealed: Path, run: Run, keyref: str, world: Path) -> None:
    prefix = stored_prefix(sealed)
    for number, given in enumerate((prefix.decode(), f"hex:{prefix.hex()}")):
        answer = run("decrypt", "sealed.parquet", f"{number}.parquet", "--key", keyref, "--aad-prefix", given)
        assert (answer.code, "Traceback" in answer.err) == (0, False), answer.err
        assert (world / f"{number}.parquet").read_bytes() == (world / "people.parquet").read_bytes()
    pc.decrypt(sealed, world / "python.parquet", [keyref], aad_prefix=prefix)
    assert (world / "python.parquet").is_file()


@pytest.mark.parametrize("given", ["another", "hex:00ff", "\udcff"])
def test_another_prefix_is_refused(sealed: Path, run: Run, keyref: str, world: Path, given: str) -> None:
    answer = run("decrypt", "sealed.parquet", "out.parquet", "--key", keyref, "--aad-prefix", given)
    assert (answer.code, "Assertion" in answer.err) == (3, False)
    assert not (world / "out.parquet").exists()


@pytest.mark.parametrize("given", ["text", "hex:00ff"])
def test_a_whole_directory_with_a_prefix(sealed: Path, run: Run, keyref: str, world: Path, given: str) -> None:
    assert run("encrypt", "people.parquet", "many/a.parquet", "--key", keyref).code == 0
    answer = run("decrypt", "many/", "out/", "--key", keyref, "--aad-prefix", given)
    assert (answer.code, "Assertion" in answer.err) == (3, False)


@pytest.mark.parametrize(
    "name",
    [
        "...chunks.parquet",
        "..chunks.parquet",
        ".chunks.parquet",
        "sub/...chunks.parquet",
        "sub/.chunks.parquet",
        "_pipecrypt.chunks.parquet",
        "_PIPECRYPT.chunks.parquet",
    ],
)
def test_names_that_would_be_decrypted_to_no_name(world: Path, run: Run, keyref: str, name: str) -> None:
    (world / "model.bin").write_bytes(b"weights")
    assert run("encrypt", "model.bin", "one.chunks.parquet", "--chunks", "--key", keyref).code == 0
    place = world / "in" / name
    place.parent.mkdir(parents=True)
    (world / "one.chunks.parquet").rename(place)
    before = {path for path in world.rglob("*") if "in" not in path.parts}
    answer = run("decrypt", "in/", "out/", "--key", keyref)
    assert answer.code == 2
    assert "no file can have" in answer.err
    assert {path for path in world.rglob("*") if "in" not in path.parts and "out" not in path.parts} == before
    assert [path for path in (world / "out").rglob("*") if path.is_file()] == []
    assert run("decrypt", place, "model.out", "--key", keyref).code == 0
    assert (world / "model.out").read_bytes() == b"weights"
