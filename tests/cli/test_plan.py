"""What `plan`, `run --dry-run`, `run` and `encrypt` say about keys and columns that nobody thought of."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.conftest import Run


def _configuration(world: Path, key: str, *, sign: str | None = None, unlisted: str | None = None) -> Path:
    if not (world / "raw").exists():
        (world / "raw").mkdir()
        pq.write_table(pa.table({"id": [1], "email": ["a@example.org"]}), world / "raw/a.parquet")
    document = {
        "source": {"url": "raw"},
        "sink": {"url": "out"},
        "encrypt": {"columns": [{"match": ["email"], "key": "pii"}], **({"unlisted": unlisted} if unlisted else {})},
        "keys": {"pii": key},
        **({"sign": sign} if sign else {}),
    }
    (world / "c.yaml").write_text(json.dumps(document))
    return world / "c.yaml"


@pytest.mark.parametrize("command", [("plan",), ("run", "--dry-run")])
@pytest.mark.parametrize("what", ["keystore", "key", "signing key"])
def test_a_missing_key_is_found_without_a_passphrase(
    run: Run, world: Path, keyref: str, command: tuple[str, ...], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIPECRYPT_KEY_FILE")
    missing = {"keystore": "keystore://./none.json#pii"}.get(what, "keystore://./keys.json#none")
    key, sign = (keyref, missing) if what == "signing key" else (missing, None)
    answer = run(*command, _configuration(world, key, sign=sign))
    assert answer.code == 4
    assert f"pipecrypt keys new {'keystore://'}" in answer.err
    assert ("--type ed25519" in answer.err) is (what == "signing key")
    assert not (world / "none.json").exists()
    assert not (world / "out").exists()


def test_a_policy_that_fits_no_source_ends_plan_as_it_ends_run(run: Run, world: Path, keyref: str) -> None:
    config = _configuration(world, keyref)
    pq.write_table(pa.table({"email": ["b"]}), world / "raw/b.parquet")
    config.write_text(config.read_text().replace('"email"', '"emial"'))
    for command in (("plan",), ("run", "--dry-run"), ("plan", "--out", "saved.json"), ("run",)):
        answer = run(*command, config)
        assert answer.code == 2
        assert "did you mean 'email'?" in answer.err
    assert not (world / "saved.json").exists()

    pq.write_table(pa.table({"emial": ["c"]}), world / "raw/c.parquet")
    answer = run("plan", config)
    assert answer.code == 0, "one source that it fits is a drift of the others, as it was"
    assert "has no column 'emial'" in answer.out


def test_a_new_column_ends_plan_and_run_with_the_line_to_add(run: Run, world: Path, keyref: str) -> None:
    config = _configuration(world, keyref)
    assert run("run", config).code == 0
    pq.write_table(pa.table({"id": [1], "email": ["b"], "ssn": ["123-45-6789"]}), world / "raw/b.parquet")
    for command in (("plan",), ("run", "--dry-run"), ("run",), ("run", "--overwrite")):
        answer = run(*command, config)
        assert answer.code == 5
        assert "ssn" in answer.out + answer.err
        assert "encrypt.unlisted: plaintext" in answer.out + answer.err
    assert not (world / "out/b.parquet").exists()
    assert run("run", _configuration(world, keyref, unlisted="plaintext")).code == 0
    assert run("run", _configuration(world, keyref)).code == 0


def test_encrypt_takes_what_becomes_of_unlisted_columns(run: Run, world: Path, keyref: str) -> None:
    _configuration(world, keyref)
    pq.write_table(pa.table({"id": [1], "email": ["b"], "ssn": ["123-45-6789"]}), world / "raw/b.parquet")
    common = ("raw", "--key", keyref, "--columns", "email")
    answer = run("encrypt", *common[:1], "out", *common[1:])
    assert answer.code == 5
    assert not list((world / "out").rglob("*.parquet"))
    assert run("encrypt", "raw", "refused", *common[1:], "--unlisted", "refuse").code == 5
    assert run("encrypt", "raw", "plain", *common[1:], "--unlisted", "plaintext").code == 0
    assert run("encrypt", "raw", "sealed", *common[1:], "--unlisted", "encrypt").code == 0
    assert b"123-45-6789" in (world / "plain/b.parquet").read_bytes()
    assert b"123-45-6789" not in (world / "sealed/b.parquet").read_bytes()
    assert run("encrypt", "raw", "x", "--key", keyref, "--unlisted", "plaintext").code == 2
