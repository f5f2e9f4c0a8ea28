"""keys rotate, usage and destroy: what they tell and what they remove."""

from __future__ import annotations

import base64
import json
import re
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


def _grants(place: str) -> Path:
    return Path(place, "_pipecrypt", "grants.json")


def _forge_grants(place: str, master_key_id: str) -> None:
    """Write what somebody can who may write to the dataset, and has no key: a grant of each KEK to some master key."""
    material = re.findall(rb'"keyEncryptionKeyID": ?"([A-Za-z0-9+/=]+)"', Path(place, "people.parquet").read_bytes())
    grants = [
        {
            "kek": kek.decode(),
            "master_key": master_key_id,
            "wrapped": f"pc1..{base64.b64encode(bytes(60)).decode()}",
            "since": "2026-01-01T00:00:00Z",
        }
        for kek in sorted(set(material))
    ]
    _grants(place).parent.mkdir(exist_ok=True)
    _grants(place).write_text(json.dumps({"v": 1, "grants": grants}))


@pytest.mark.parametrize("named", ["other", "nobody"])
def test_a_forged_grant_lets_nobody_destroy_the_only_key(run: Run, keyref: str, sealed: str, named: str) -> None:
    ids = {key["name"]: key["master_key_id"] for key in run("keys", "list", "keys.json", "--json").document["keys"]}
    _forge_grants(sealed, ids.get(named, "aws-kms/arn:of:somebody"))
    before = Path("keys.json").read_bytes()

    looked = run("keys", "destroy", keyref, "--dataset", sealed, "--dry-run", "--json").document
    usage = looked["losses"][0]["key"]
    assert (usage["only_opener_of"], usage["claimed_by_grants"], usage["proven_by_grants"]) == (0, 1, 0)
    refused = run("keys", "destroy", keyref, "--dataset", sealed, "--yes")
    assert refused.code == 5
    assert "only grants claim" in refused.err
    assert "--accept-loss" in refused.err
    assert Path("keys.json").read_bytes() == before
    # Nor does it keep the key for ever.
    done = run("keys", "destroy", keyref, "--dataset", sealed, "--yes", "--accept-loss")
    assert done.code == 0, done.err
    assert "only grants claim that another key opens 1 of them" in done.out


def test_a_true_grant_of_another_key_encryption_key_proves_nothing(
    run: Run, people: Path, keyref: str, sealed: str
) -> None:
    """Its text opens, and somebody wrote it down once more, for a key encryption key that it does not hold."""
    assert run("encrypt", people, "shared/", "--key", keyref).code == 0
    assert run("grant", "shared", "--to", _OTHER, "--key", keyref).code == 0
    true = json.loads(_grants("shared").read_text())["grants"][0]
    _forge_grants(sealed, true["master_key"])
    forged = json.loads(_grants(sealed).read_text())
    for grant in forged["grants"]:
        grant["wrapped"] = true["wrapped"]
    _grants(sealed).write_text(json.dumps(forged))
    before = Path("keys.json").read_bytes()

    refused = run("keys", "destroy", keyref, "--dataset", sealed, "--yes")

    assert (refused.code, Path("keys.json").read_bytes()) == (5, before)
    assert "only grants claim" in refused.err


def test_a_true_grant_is_proven_by_the_keystore_and_by_keys_elsewhere(
    run: Run, keyref: str, sealed: str, world: Path
) -> None:
    far = "keystore://./far.json#partner"
    assert run("keys", "new", far).code == 0
    assert run("grant", sealed, "--to", far, "--key", keyref, "--key", _OTHER).code == 0
    assert run("keys", "destroy", keyref, "--dataset", sealed, "--yes").code == 5
    looked = run("keys", "destroy", keyref, "--dataset", sealed, "--key", far, "--dry-run", "--json").document
    assert looked["losses"][0]["key"]["proven_by_grants"] == 1

    assert run("grant", sealed, "--to", _OTHER, "--key", keyref).code == 0
    done = run("keys", "destroy", keyref, "--dataset", sealed, "--yes")
    assert done.code == 0, done.err
    assert "another key was found to open 1 of them" in done.out
    assert run("decrypt", sealed, "back/", "--key", _OTHER).code == 0


def test_a_grant_to_the_doomed_key_itself_proves_nothing(run: Run, people: Path, keyref: str, sealed: str) -> None:
    assert run("keys", "rotate", keyref).code == 0
    assert run("grant", sealed, "--to", keyref, "--key", keyref).code == 0
    refused = run("keys", "destroy", keyref, "--dataset", sealed, "--dry-run", "--json").document
    key = next(each["key"] for each in refused["losses"] if each["key"]["files"])
    assert (key["proven_by_grants"], key["claimed_by_grants"], key["only_opener_of"]) == (0, 0, 1)
    # One version of it may go, where the other opens what it does.
    looked = run("keys", "destroy", keyref, "--version", "1", "--dataset", sealed, "--dry-run", "--json").document
    assert looked["losses"][0]["key"]["proven_by_grants"] == 1


def test_a_file_that_nobody_wrote_with_the_key_keeps_nothing(run: Run, keyref: str, sealed: str) -> None:
    data = Path(sealed, "people.parquet").read_bytes()
    forged = re.sub(rb"(\.)[A-Za-z0-9+/]{8}", lambda match: match[1] + b"AAAAAAAA", data)
    Path(sealed, "forged.parquet").write_bytes(forged)
    looked = run("keys", "destroy", keyref, "--dataset", sealed, "--dry-run", "--json").document
    assert looked["losses"][0]["key"]["only_opener_of"] == 1


@pytest.mark.parametrize("name", ["people.parquet", "copy.parquet"])
def test_a_kek_in_key_material_that_cannot_be_read_counts_as_lost(
    run: Run, keyref: str, sealed: str, name: str
) -> None:
    assert run("grant", sealed, "--to", _OTHER, "--key", keyref).code == 0
    data = Path(sealed, "people.parquet").read_bytes()
    # The material still names its master key and its KEK.
    malformed, count = re.subn(rb'"doubleWrapping":true', b'"doubleWrapping":null', data)
    assert count
    Path(sealed, name).write_bytes(malformed)

    looked = run("keys", "destroy", keyref, "--dataset", sealed, "--dry-run", "--json").document

    usage = looked["losses"][0]["key"]
    assert (usage["only_opener_of"], usage["claimed_by_grants"], usage["proven_by_grants"]) == (1, 0, 0)


def test_usage_says_that_grants_only_claim(run: Run, keyref: str, sealed: str) -> None:
    _forge_grants(sealed, "somebody")
    assert "shared with 'somebody', as grants claim" in run("keys", "usage", sealed).out


def test_a_grant_planted_under_a_key_references_text_saves_no_grant_from_revoking(
    run: Run, keyref: str, sealed: str
) -> None:
    assert run("grant", sealed, "--to", _OTHER, "--key", keyref).code == 0
    document = json.loads(_grants(sealed).read_text())
    (true,) = document["grants"]
    document["grants"] = [{**true, "master_key": _OTHER}, true]
    _grants(sealed).write_text(json.dumps(document))

    assert run("revoke", sealed, "--from", _OTHER).code == 0

    left = [grant["master_key"] for grant in json.loads(_grants(sealed).read_text())["grants"]]
    assert true["master_key"] not in left


def test_listing_says_what_is_authenticated(run: Run, keyref: str, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = run("keys", "list", "keys.json", "--json")
    assert listed.document["authenticated"] is True
    monkeypatch.delenv("PIPECRYPT_KEY_FILE")
    listed = run("keys", "list", "keys.json", "--json")
    assert listed.document["authenticated"] is False
    assert "not authenticated: no passphrase or key file was given" in run("keys", "list", "keys.json").err


def test_retiring_on_the_command_line(run: Run, world: Path, people: Path, keyref: str) -> None:
    signing = "keystore://./keys.json#signing"
    assert run("keys", "new", signing, "--type", "ed25519").code == 0
    assert run("encrypt", people, "signed/", "--key", keyref, "--sign", signing).code == 0
    assert run("keys", "rotate", signing).code == 0
    retired = run("keys", "retire", signing, "--version", "1")
    assert retired.code == 0, retired.err
    assert "retired ed25519 key signing, version 1" in retired.out
    assert "retired 20" in run("keys", "list", "keys.json").out
    assert run("verify", "signed", "--trust", signing).code == 0
    assert run("keys", "retire", signing, "--version", "1", "--at", "2020-01-01T00:00:00Z").code == 0
    refused = run("verify", "signed", "--trust", signing)
    assert refused.code == 3
    assert "is retired since 2020-01-01T00:00:00Z" in refused.err
    assert run("keys", "retire", signing, "--version", "1", "--at", "yesterday").code == 2
    unknown = run("keys", "retire", signing, "--version", "9")
    assert (unknown.code, "hint: it has versions 1, 2" in unknown.err) == (4, True), unknown.err
    assert run("keys", "retire", signing, "--version", "2").code == 0
    assert run("encrypt", people, "again/", "--key", keyref, "--sign", signing).code == 4
    assert run("keys", "export", signing, "--public").out.startswith("# pipecrypt: retired 20")


def test_a_passphrase_is_changed_and_a_backup_accepted(run: Run, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIPECRYPT_KEY_FILE")
    monkeypatch.setenv("PIPECRYPT_PASSPHRASE", "x1")
    refused = run("keys", "new", "keystore://./keys.json#pii")
    assert (refused.code, "at least 8 characters" in refused.err) == (2, True)
    monkeypatch.setenv("PIPECRYPT_PASSPHRASE", "correct horse")
    assert run("keys", "new", "keystore://./keys.json#pii").code == 0
    backup = Path("keys.json").read_bytes()
    monkeypatch.setenv("PIPECRYPT_NEW_PASSPHRASE", "battery staple")
    changed = run("keys", "passphrase", "keys.json")
    assert changed.code == 0, changed.err
    assert "not reached: copies and backups" in changed.out
    assert run("keys", "new", "keystore://./keys.json#more").code == 4
    monkeypatch.setenv("PIPECRYPT_PASSPHRASE", "battery staple")
    assert run("keys", "new", "keystore://./keys.json#more").code == 0

    Path("keys.json").write_bytes(backup)
    monkeypatch.setenv("PIPECRYPT_PASSPHRASE", "correct horse")
    refused = run("keys", "new", "keystore://./keys.json#more")
    assert (refused.code, "keys accept-backup" in refused.err) == (3, True)
    assert run("keys", "accept-backup", "keys.json").code == 0
    assert run("keys", "new", "keystore://./keys.json#more").code == 0
