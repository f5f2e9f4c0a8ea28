"""`decrypt --trust` and `cat --trust`: exit codes, notes, the environment."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import pipecrypt as pc
from tests.cli.conftest import Run

SIGNING = "keystore://./keys.json#signing"


@pytest.fixture
def signed(run: Run, people: Path, keyref: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("PIPECRYPT_TRUST", raising=False)
    assert run("keys", "new", SIGNING, "--type", "ed25519").code == 0
    assert run("keys", "new", "keystore://./keys.json#other", "--type", "ed25519").code == 0
    Path("signing.pub").write_text(run("keys", "export", SIGNING, "--public").out)
    Path("other.pub").write_text(run("keys", "export", "keystore://./keys.json#other", "--public").out)
    Path("raw").mkdir()
    for name in "ab":
        shutil.copy(people, f"raw/{name}.parquet")
    pc.encrypt("raw", "signed", pc.Policy(columns={"email": keyref}, sign=SIGNING))
    return keyref


@pytest.mark.parametrize("verify", ["read", "full"])
@pytest.mark.parametrize("pubkey", ["signing.pub", SIGNING])
def test_what_was_signed_is_decrypted(run: Run, signed: str, verify: str, pubkey: str) -> None:
    answer = run("decrypt", "signed", "back", "--key", signed, "--trust", pubkey, "--verify", verify)
    assert (answer.code, answer.err) == (0, "")
    assert Path("back/a.parquet").read_bytes() == Path("raw/a.parquet").read_bytes()
    answer = run("cat", "signed/a.parquet", "--key", signed, "--trust", pubkey, "--verify", verify, "--limit", 1)
    assert (answer.code, answer.err) == (0, "")
    assert "user0@example.org" in answer.out


@pytest.mark.parametrize("verify", ["read", "full"])
def test_other_files_end_with_exit_code_3(run: Run, signed: str, verify: str) -> None:
    shutil.copy("signed/b.parquet", "signed/a.parquet")
    chosen = ("--key", signed, "--trust", "signing.pub", "--verify", verify)
    answer = run("decrypt", "signed", "back", *chosen)
    assert answer.code == 3
    assert not Path("back/a.parquet").exists()
    answer = run("cat", "signed/a.parquet", *chosen)
    assert (answer.code, answer.out) == (3, "")
    document = json.loads(run("cat", "signed/a.parquet", *chosen, "--json").out)
    assert document["error"]["exit_code"] == 3

    shutil.copy("raw/a.parquet", "signed/a.parquet")
    answer = run("cat", "signed/a.parquet", *chosen)
    assert (answer.code, answer.out) == (3, "")
    assert "plaintext where encryption was promised" in answer.err

    Path("signed/a.parquet").unlink()
    assert run("decrypt", "signed", "back", *chosen).code == 3


def test_who_is_trusted(run: Run, signed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in (("decrypt", "signed", "back"), ("cat", "signed/a.parquet")):
        assert run(*command, "--key", signed, "--trust", "other.pub").code == 3
        assert run(*command, "--key", signed, "--trust", "none.pub").code == 2
        assert run(*command, "--key", signed, "--threshold", 2).code == 2
        assert run(*command, "--key", signed, "--verify", "full").code == 2
        both = ("--trust", "other.pub", "--trust", "signing.pub")
        assert run(*command, "--key", signed, *both, "--threshold", 2).code == 3
        assert run(*command, "--key", signed, *both, "--min-version", 2).code == 3
        assert run(*command, "--key", signed, *both, "--dataset-id", "0" * 32).code == 3
        assert run(*command, "--key", signed, *both, "--dataset-id", "0").code == 2
        monkeypatch.setenv("PIPECRYPT_TRUST", "other.pub")
        assert run(*command, "--key", signed).code == 3
        assert command[0] == "cat" or not Path("back").exists()
        monkeypatch.setenv("PIPECRYPT_TRUST", "other.pub signing.pub")
        answer = run(*command, "--key", signed)
        assert (answer.code, answer.err) == (0, "")
        monkeypatch.delenv("PIPECRYPT_TRUST")
    assert run("decrypt", "-", "x.parquet", "--key", signed, "--trust", "signing.pub").code == 2
    assert run("cat", "-", "--key", signed, "--trust", "signing.pub").code == 2


def test_notes_say_what_was_not_checked(run: Run, signed: str) -> None:
    note = "note: authenticity was not checked: no public key to trust was given\n"
    assert run("decrypt", "signed", "one", "--key", signed).err == note
    assert run("cat", "signed/a.parquet", "--key", signed).err == note
    assert run("decrypt", "signed", "two", "--key", signed, "--verify", "off").err == ""
    assert run("cat", "signed/a.parquet", "--key", signed, "--verify", "off").err == ""
    assert run("cat", "raw/a.parquet").err == ""
    last = json.loads(run("decrypt", "signed", "three", "--key", signed, "--json").err.splitlines()[-1])
    assert last == {"event": "note", "message": note.strip().removeprefix("note: ")}
