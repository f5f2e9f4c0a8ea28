"""What `plan`, `run --dry-run`, `run` and `encrypt` say about keys and columns that nobody thought of."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipecrypt as pc
from pipecrypt.errors import SinkNotEmptyError, UsageError
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


def test_scripts_plan_what_the_command_plans(run: Run, world: Path, keyref: str) -> None:
    config = _configuration(world, keyref)
    report = pc.plan(config)
    members = dataclasses.asdict(report)
    for pairs in ("columns_by_key", "types"):  # objects in JSON
        members[pairs] = {str(name): value for name, value in members[pairs]} or []
    assert json.loads(json.dumps(members)) == run("plan", config, "--json").document
    assert (report.to_do, report.conflicts) == (1, ())

    policy = pc.Policy(columns={"email": keyref})
    same = pc.plan("raw", "out", policy)
    assert (same.to_do, same.source_bytes, same.columns_by_key) == (1, report.source_bytes, ((keyref, 1), (None, 1)))
    assert not (world / "out").exists()
    pc.encrypt("raw", "out", policy)
    with pytest.raises(SinkNotEmptyError):
        pc.plan("raw", "out", policy)
    assert pc.plan("raw", "out", policy, overwrite=True).conflicts == ()


def test_a_plan_is_of_a_configuration_or_of_a_source(world: Path, keyref: str) -> None:
    config, policy = _configuration(world, keyref), pc.Policy(default=keyref)
    for wrong in (
        lambda: pc.plan("raw", "out"),  # type: ignore[call-overload]
        lambda: pc.plan("raw", policy=policy),  # type: ignore[call-overload]
        lambda: pc.plan(config, max_file_bytes=1),  # type: ignore[call-overload]
        lambda: pc.plan(config, reading=pc.Reading()),  # type: ignore[call-overload]
        lambda: pc.plan("raw", "out", policy, resume=True),  # type: ignore[call-overload]
        lambda: pc.plan("raw", "out", policy, environ={}),  # type: ignore[call-overload]
        lambda: pc.plan("raw", "out", "pii"),  # type: ignore[call-overload]
    ):
        with pytest.raises((UsageError, TypeError)):
            wrong()
