"""keys rotate, usage and destroy: what they tell and what they remove."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.conftest import Run

_OTHER = "keystore://./keys.json#other"


@pytest.fixture
def sealed(run: Run, people: Path, keyref: str) -> str:
    assert run("keys", "new", _OTHER).code == 0
    arguments = ["--columns", "email", "--columns", "id", "--footer-key", _OTHER]
    assert run("encrypt", people, "sealed/", "--key", keyref, *arguments).code == 0
    return "sealed"


def test_usage_names_columns_footers_and_grants(run: Run, keyref: str, sealed: str) -> None:
    assert run("grant", sealed, "--to", _OTHER, "--key", keyref).code == 0

    found = run("keys", "usage", sealed, "--json").document

    other, pii = found["keys"]
    assert (found["files"], found["hidden_files"], found["version"], found["since"]) == (1, 0, None, None)
    assert pii["columns"] == [{"path": path, "files": 1, "batches": 2, "data_keys": 2} for path in ("email", "id")]
    assert (pii["keks"], pii["footers"], pii["only_opener_of"]) == (1, 0, 0)
    assert pii["shared_with"] == [other["master_key_id"]]
    assert (other["footers"], other["granted_keks"], other["columns"]) == (1, 1, [])
    assert other["granted_since"] is not None
    text = run("keys", "usage", sealed).out
    assert "column 'email': 2 batches in 1 files, 2 data keys" in text
    assert "opens 1 key encryption keys of others by grants" in text


def test_usage_says_what_footers_hide(run: Run, people: Path, keyref: str) -> None:
    signing = "keystore://./keys.json#signing"
    assert run("keys", "new", signing, "--type", "ed25519").code == 0
    assert run("encrypt", people, "hidden/", "--key", keyref, "--footer", "encrypted", "--sign", signing).code == 0

    answer = run("keys", "usage", "hidden")

    assert answer.code == 0, answer.err
    assert ", version 1, signed 20" in answer.out
    assert "hidden by encrypted footers: the keys of the columns in 1 files" in answer.out
    assert "not encrypted: 1 files" in run("keys", "usage", people).out


def test_a_new_version_of_a_key(run: Run, people: Path, keyref: str, sealed: str) -> None:
    answer = run("keys", "rotate", keyref)
    assert answer.code == 0, answer.err
    assert run("keys", "list", "keys.json", "--json").document["keys"][-1]["version"] == 2
    assert run("decrypt", sealed, "back/", "--key", keyref, "--key", _OTHER).code == 0

    assert run("rotate", sealed, "--from", keyref, "--to", keyref, "--key", _OTHER, "--deep").code == 0
    assert run("keys", "destroy", keyref, "--version", "1", "--yes").code == 0
    assert run("decrypt", sealed, "again/", "--key", keyref, "--key", _OTHER).code == 0
    assert Path("again/people.parquet").read_bytes() == people.read_bytes()
    assert run("keys", "rotate", "keystore://./keys.json#nobody").code == 4


def test_destroying_a_key(run: Run, keyref: str, sealed: str) -> None:
    before = Path("keys.json").read_bytes()
    assert run("keys", "destroy", keyref).code == 2
    assert run("keys", "destroy", keyref, "--dry-run", "--yes").code == 2

    answer = run("keys", "destroy", keyref, "--dataset", sealed, "--dry-run")
    assert answer.code == 0, answer.err
    assert answer.out.startswith("would remove ")
    assert "sealed: nothing else opens 1 of its 1 key encryption keys" in answer.out
    assert "column 'email'" in answer.out
    assert Path("keys.json").read_bytes() == before

    done = run("keys", "destroy", keyref, "--dataset", sealed, "--yes", "--json").document
    assert (done["is_dry_run"], done["losses"][0]["key"]["only_opener_of"]) == (False, 1)
    assert run("decrypt", sealed, "back/", "--key", keyref).code == 4
    assert run("keys", "destroy", keyref, "--yes").code == 4
    assert "not in use in the 0 datasets" in run("keys", "destroy", _OTHER, "--yes").out


def test_a_wrong_passphrase_removes_nothing(run: Run, keyref: str, sealed: str, world: Path) -> None:
    before = Path("keys.json").read_bytes()
    (world / "machine.key").write_bytes(bytes(32))

    assert run("keys", "destroy", keyref, "--yes").code == 4
    assert run("keys", "destroy", keyref, "--version", "7", "--dry-run").code == 4
    assert Path("keys.json").read_bytes() == before
