"""What earlier states of this release wrote opens, verifies, decrypts to the same bytes, and takes a next version."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import pipecrypt as pc
from tests.compat.make_golden import CONFIG, KEY_FILE, MTIME

_HERE = Path(__file__).parent
_STATES = ("0.1-first", "0.1")
_TWO_KEYS = ("pii", "prices")
# The keys that open a table, and its source.
_TABLES = {
    "plaintext-batch": _TWO_KEYS,
    "plaintext-file": _TWO_KEYS,
    "encrypted-batch": _TWO_KEYS,
    "encrypted-file": _TWO_KEYS,
    "uniform": ("pii",),
    "unbound": ("pii",),
    "recipient-x25519": ("alice",),
    "recipient-mlkem768x25519": ("bob",),
    "one-file-signed": ("pii",),
}


@pytest.fixture(params=_STATES)
def golden(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the golden files, made the current directory, with their key file in the environment."""
    root = tmp_path / "golden"
    shutil.copytree(_HERE / request.param, root)
    for path in (root / "sources").rglob("*"):
        os.utime(path, (MTIME, MTIME))
    (root / KEY_FILE).chmod(0o600)
    (root / "keys.json").chmod(0o600)
    monkeypatch.chdir(root)
    monkeypatch.setenv("PIPECRYPT_KEY_FILE", str(root / KEY_FILE))
    monkeypatch.setenv("PIPECRYPT_STATE_DIR", str(tmp_path / "state"))
    return root


def _keys(*names: str) -> list[str]:
    return [f"keystore://./keys.json#{name}" for name in names]


@pytest.mark.parametrize("state", _STATES)
def test_no_golden_file_was_changed_or_forgotten(state: str) -> None:
    root = _HERE / state
    digests = json.loads((root / "digests.json").read_bytes())
    found = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} - {"digests.json"}
    assert found == set(digests)
    for path, digest in digests.items():
        assert hashlib.sha256((root / path).read_bytes()).hexdigest() == digest, path
    tables = {path.stem for path in (root / "tables").glob("*.parquet")}
    assert tables == {*_TABLES, "from-csv"}


@pytest.mark.parametrize("name", _TABLES)
def test_a_table_decrypts_to_the_bytes_of_its_source(golden: Path, name: str) -> None:
    trust = ["signing.pub", "later.pub"] if name == "one-file-signed" else None
    source = golden / "sources/people.parquet"
    table = f"tables/{name}.parquet"
    with pc.open(table, keys=_keys(*_TABLES[name]), trust=trust, threshold=2 if trust else 1) as opened:
        assert opened.to_table().equals(pq.read_table(source))
    pc.decrypt(table, "back.parquet", _keys(*_TABLES[name]), trust=trust)
    assert (golden / "back.parquet").read_bytes() == source.read_bytes()


def test_a_table_without_its_key_is_refused(golden: Path) -> None:
    with pytest.raises(pc.errors.AccessError):
        pc.decrypt("tables/plaintext-batch.parquet", "back.parquet", _keys("pii"))
    assert not (golden / "back.parquet").exists()


def test_rows_of_csv_are_read(golden: Path) -> None:
    with pc.open("tables/from-csv.parquet", keys=_keys("pii")) as opened:
        rows = opened.to_table().to_pylist()
    # The first state took digits for numbers.
    assert [(row["id"], row["email"], f"{row['zip']:0>5}") for row in rows] == [
        (1, "ada@example.org", "00123"),
        (2, "", "04567"),
    ]


@pytest.mark.parametrize("name", ["stored", "zstd"])
def test_a_blob_decrypts_to_its_bytes(golden: Path, name: str) -> None:
    pc.decrypt(f"blobs/{name}.parquet", "back.bin", _keys("pii"))
    assert (golden / "back.bin").read_bytes() == (golden / "sources/notes.bin").read_bytes()


def test_a_message_gives_back_its_batch(golden: Path) -> None:
    batch = pc.decrypt_bytes((golden / "message.bin").read_bytes(), _keys("pii"), require=["email"])
    assert batch.equals(pq.read_table(golden / "sources/people.parquet").to_batches()[0])


def test_a_signed_dataset_verifies_and_its_grant_opens_it(golden: Path) -> None:
    report = pc.verify("signed", ["signing.pub"])
    assert not report.findings
    assert report.version == 2
    expected = pq.read_table(golden / "sources/orders", partitioning=None).sort_by("id")
    for key in ("pii", "partner", "backup"):
        with pc.open("signed", keys=_keys(key), trust=["signing.pub"], verify="full") as opened:
            assert opened.to_table().select(expected.column_names).sort_by("id").equals(expected), key


def test_a_signed_dataset_takes_a_next_version(golden: Path) -> None:
    pq.write_table(pq.read_table("sources/people.parquet"), "sources/orders/c.parquet")
    # Copies have other inodes than the sources that the journal knows.
    (golden / "run.yaml").write_text(f"{CONFIG}run: {{ on_source_change: replace }}\n", encoding="utf-8")
    pc.run("run.yaml")
    report = pc.verify("signed", ["signing.pub"])
    assert not report.findings
    assert report.version == 3
    with pc.open("signed", keys=_keys("pii"), trust=["signing.pub"]) as opened:
        assert opened.to_table().num_rows == 120


def test_a_signed_dataset_is_rotated_deeply_and_its_keystore_takes_a_next_version(golden: Path) -> None:
    (old, new), sign = _keys("pii", "prices"), _keys("signing")
    pc.rotate("signed", old, new, deep=True, sign=sign, trust=["signing.pub"])
    assert not pc.verify("signed", ["signing.pub"]).findings
    with pc.open("signed", keys=[new], trust=["signing.pub"]) as opened:
        assert opened.to_table().num_rows == 80
