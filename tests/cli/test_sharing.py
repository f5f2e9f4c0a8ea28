"""grant, revoke and rotate on the command line: answers, their JSON twins, exit codes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cli.conftest import Run

_OTHER = "keystore://./keys.json#other"


@pytest.fixture
def sealed(run: Run, people: Path, keyref: str) -> str:
    assert run("keys", "new", _OTHER).code == 0
    assert run("encrypt", people, "sealed/", "--key", keyref, "--columns", "email").code == 0
    return "sealed"


def test_grant_and_revoke(run: Run, people: Path, keyref: str, sealed: str) -> None:
    assert run("decrypt", sealed, "back/", "--key", _OTHER).code == 4

    answer = run("grant", sealed, "--to", _OTHER, "--key", keyref)
    assert answer.code == 0, answer.err
    assert answer.out.startswith("granted sealed to 'keystore/other/")
    assert "1 granted now, 0 before" in answer.out
    assert "all: there is no manifest" in answer.out
    assert run("decrypt", sealed, "back/", "--key", _OTHER).code == 0
    assert Path("back/people.parquet").read_bytes() == people.read_bytes()

    again = run("grant", sealed, "--to", _OTHER, "--key", keyref, "--json").document
    assert (again["operation"], again["granted"], again["already"]) == ("grant", 0, 1)

    answer = run("revoke", sealed, "--from", again["master_key_id"])
    assert answer.code == 0, answer.err
    assert answer.out.startswith("removed 1 grants of ")
    assert answer.out.count("not undone") == 2
    assert run("revoke", sealed, "--from", _OTHER).code == 4


def test_rotate(run: Run, keyref: str, sealed: str) -> None:
    answer = run("rotate", sealed, "--from", keyref, "--to", _OTHER)
    assert answer.code == 0, answer.err
    assert "still opens the files" in answer.out

    summary = run("rotate", sealed, "--from", keyref, "--to", _OTHER, "--json").document
    assert (summary["operation"], summary["granted"], summary["already"]) == ("rotate", 0, 1)
    removed = run("revoke", sealed, "--from", _OTHER, "--json").document
    assert (removed["removed"], removed["left"], removed["is_in_files"]) == (1, 0, None)


def test_a_key_that_opens_nothing(run: Run, keyref: str, sealed: str) -> None:
    third = "keystore://./keys.json#third"
    assert run("keys", "new", third).code == 0

    assert run("grant", sealed, "--to", third, "--key", _OTHER).code == 4
    assert run("grant", sealed, "--to", keyref, "--key", _OTHER, "--json").document["already"] == 1
    assert not Path("sealed/_pipecrypt").exists()


def test_hidden_files_are_named(run: Run, people: Path, keyref: str, sealed: str) -> None:
    footer = "keystore://./keys.json#footer"
    assert run("keys", "new", footer).code == 0
    arguments = ["--columns", "email", "--footer", "encrypted", "--footer-key", footer]
    assert run("encrypt", people, "hidden/", "--key", keyref, *arguments).code == 0
    assert run("grant", "hidden", "--to", _OTHER, "--key", footer).code == 0

    answer = run("grant", "hidden", "--to", footer, "--key", keyref)

    assert answer.code == 0, answer.err
    assert "not looked into      1 files" in answer.out


def test_rotate_deeply(run: Run, people: Path, keyref: str, sealed: str) -> None:
    assert run("rotate", sealed, "--from", keyref, "--to", _OTHER, "--sign", keyref).code == 2
    answer = run("rotate", sealed, "--from", keyref, "--to", _OTHER, "--deep")
    assert answer.code == 0, answer.err
    assert "1 of 1 files changed" in answer.out
    assert re.search(r"^bytes written +\d+, undo files included$", answer.out, re.MULTILINE)
    assert re.search(r"^bytes of the files +\d+$", answer.out, re.MULTILINE)
    assert run("decrypt", sealed, "back/", "--key", keyref).code == 4
    assert run("decrypt", sealed, "back/", "--key", _OTHER).code == 0
    assert Path("back/people.parquet").read_bytes() == people.read_bytes()

    summary = run("rotate", sealed, "--from", keyref, "--to", _OTHER, "--deep", "--json").document
    assert (summary["operation"], summary["changed"], summary["bytes_moved"]) == ("rotate --deep", 0, 0)


def test_a_signed_dataset_gets_a_new_version(run: Run, people: Path, keyref: str, sealed: str) -> None:
    signing = "keystore://./keys.json#signing"
    assert run("keys", "new", signing, "--type", "ed25519").code == 0
    assert run("encrypt", people, "signed/", "--key", keyref, "--sign", signing).code == 0
    rotate = ["rotate", "signed", "--from", keyref, "--to", _OTHER, "--deep"]

    assert run(*rotate).code == 2
    answer = run(*rotate, "--sign", signing)

    assert answer.code == 0, answer.err
    assert "signed signed/_pipecrypt/manifest.json, version 2" in answer.out
    assert run("verify", "signed", "--trust", signing).code == 0
