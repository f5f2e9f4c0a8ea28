"""What a writer accepts as its own: what keys of its keystore signed, as its secret proves it, and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import pipecrypt as pc
from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.dataset.sign.records import SigningOptions
from pipecrypt.dataset.sign.signers import OpenSigners
from pipecrypt.errors import ConflictError, IntegrityError, NotTrustedError, RolledBackError
from pipecrypt.keys.keystores import create_key, read_keys, retire_key
from pipecrypt.keys.signers import read_version_keys
from pipecrypt.runs.files import encrypt
from pipecrypt.runs.plan.preview import report_plan
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.store.location import Location
from tests.dataset.written import World

_JOURNAL = "application/vnd.pipecrypt.journal+jsonl"


def _open(world: World) -> OpenSigners:
    options = SigningOptions(
        key_references=(world.reference("signing"),), digest=DigestAlgorithm.SHA256, valid_for=None
    )
    return OpenSigners(options, world.credentials)


def _rotate(world: World) -> None:
    create_key(world.reference("signing"), "ed25519", world.credentials, new_version=True)


def _put(world: World, public_key: str) -> None:
    """Exchange the public key of the first version of the signing key, without the secret."""
    path = world.root / "keys.json"
    document: dict[str, Any] = json.loads(path.read_bytes())
    entry = next(key for key in document["keys"] if (key["name"], key["version"]) == ("signing", 1))
    entry["public_key"] = public_key
    path.write_text(json.dumps(document))


@pytest.fixture
def mallory(world: World, tmp_path: Path) -> str:
    """The public key of another writer, whose version lies in the sink."""
    create_key(world.reference("mallory"), "ed25519", world.credentials)
    world.write("a.parquet")
    policy = Policy(columns={"email": world.reference("pii")}, sign=world.reference("mallory"))
    encrypt(world.raw, world.out, policy, credentials=world.credentials)
    public_key = read_keys(world.reference("mallory"), world.credentials).keys[0].public_key
    assert public_key is not None
    return public_key


def test_an_exchanged_public_key_lets_nobody_continue_anothers_version(world: World, mallory: str) -> None:
    _rotate(world)
    _put(world, mallory)
    before = (world.out / "_pipecrypt" / "manifest.json").read_bytes()
    with pytest.raises(IntegrityError):
        world.sign(overwrite=True)
    assert (world.out / "_pipecrypt" / "manifest.json").read_bytes() == before


def test_what_the_file_says_after_the_keys_were_opened_widens_nothing(world: World, mallory: str) -> None:
    _rotate(world)
    with _open(world) as signers:
        ids = signers.trust().key_ids
        _put(world, mallory)
        assert signers.trust().key_ids == ids
        assert len(ids) == 2


def test_a_retired_version_is_followed_where_it_signed_before(world: World) -> None:
    world.write("a.parquet")
    world.sign()
    _rotate(world)
    retire_key(world.reference("signing"), 1, world.credentials)
    world.write("b.parquet", pa.table({"email": ["a"], "id": [1]}))
    world.sign(overwrite=True)
    assert world.verify().manifest.version == 2


def test_a_retired_version_is_not_followed_where_it_signed_since(world: World) -> None:
    world.write("a.parquet")
    world.sign()
    _rotate(world)
    retire_key(world.reference("signing"), 1, world.credentials, at=datetime.now(UTC) - timedelta(hours=1))
    with pytest.raises((NotTrustedError, ConflictError)):
        world.sign(overwrite=True)
    with pytest.raises(NotTrustedError, match="is retired since"):
        world.verify()


def test_a_journal_of_a_retired_version_is_not_believed(world: World) -> None:
    with _open(world) as signers:
        sealed = signers.seal_payload(b"block", _JOURNAL)
    _rotate(world)
    with _open(world) as signers:
        assert signers.open_payload(sealed, _JOURNAL) == b"block"
    retire_key(world.reference("signing"), 1, world.credentials)
    with _open(world) as signers, pytest.raises(NotTrustedError):
        signers.open_payload(sealed, _JOURNAL)


def test_a_stolen_retired_key_cannot_date_a_version_back_behind_what_was_accepted(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPECRYPT_STATE_DIR", str(tmp_path / "state"))
    world.write("a.parquet")
    world.sign()
    signing, stolen = world.reference("signing"), (world.root / "keys.json").read_bytes()
    _rotate(world)
    now = datetime.now(UTC)
    retire_key(signing, 1, world.credentials, at=now)
    trust = ["".join(each.text for each in read_version_keys(signing, credentials=world.credentials).keys)]
    assert pc.verify(world.out, trust=trust).version == 1
    (record,) = (tmp_path / "state" / "accepted").glob("*.json")
    document = json.loads(record.read_bytes())

    # Whoever has the key writes a version more, which says that it is from before the retirement.
    (world.root / "keys.json").write_bytes(stolen)
    world.write("b.parquet", pa.table({"email": ["forged"], "id": [1]}))
    world.sign(overwrite=True)
    created = world.verify().manifest.created
    retired = f"# pipecrypt: retired {created:%Y-%m-%dT%H:%M:%SZ}\n"
    trust = [retired + trust[0][trust[0].index("-----BEGIN") :]]
    record.write_text(json.dumps({**document, "accepted": f"{created + timedelta(seconds=1):%Y-%m-%dT%H:%M:%SZ}"}))
    with pytest.raises(NotTrustedError, match="is retired since"):
        pc.verify(world.out, trust=trust)
    record.write_text(json.dumps({**document, "accepted": f"{created - timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}"}))
    assert pc.verify(world.out, trust=trust).version == 2  # nothing contradicts the signer's word


# ---- what a writer remembers ----


def _forge_next(world: World, stolen: bytes) -> None:
    """Publish the version that follows with the keystore that was stolen, on another machine."""
    ours = (world.root / "keys.json").read_bytes()
    (world.root / "keys.json").write_bytes(stolen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIPECRYPT_STATE_DIR", "")
        world.sign(overwrite=True)
    (world.root / "keys.json").write_bytes(ours)


def test_a_writer_does_not_follow_what_a_stolen_retired_key_dates_back(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPECRYPT_STATE_DIR", str(tmp_path / "state"))
    world.write("a.parquet")
    world.sign()
    stolen = (world.root / "keys.json").read_bytes()
    _rotate(world)
    _forge_next(world, stolen)
    created = world.verify().manifest.created
    retire_key(world.reference("signing"), 1, world.credentials, at=created)  # as if it was dated back to then
    (record,) = (tmp_path / "state" / "accepted").glob("*.json")
    document = json.loads(record.read_bytes())
    assert document["version"] == 1
    record.write_text(json.dumps({**document, "accepted": f"{created + timedelta(seconds=1):%Y-%m-%dT%H:%M:%SZ}"}))
    before = (world.out / "_pipecrypt" / "manifest.json").read_bytes()
    with pytest.raises(NotTrustedError, match="is retired since"):
        world.sign(overwrite=True)
    assert (world.out / "_pipecrypt" / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("what", ["older", "another dataset"])
def test_a_writer_follows_no_older_version_and_no_other_dataset(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setenv("PIPECRYPT_STATE_DIR", str(tmp_path / "state"))
    world.write("a.parquet")
    world.sign(sink=tmp_path / "other")
    world.sign()
    shutil.copytree(world.out, tmp_path / "older")
    world.sign(overwrite=True)
    shutil.rmtree(world.out)
    shutil.copytree(tmp_path / ("older" if what == "older" else "other"), world.out)
    for _ in range(2):
        with pytest.raises(RolledBackError if what == "older" else IntegrityError) as caught:
            world.sign(overwrite=True)
        assert caught.value.exit_code == 3
        assert "verify --forget" in caught.value.hint
    pc.verify(world.out, trust=[world.reference("signing")], forget=True)
    world.sign(overwrite=True)
    assert world.verify().manifest.version == 2


def _remove_manifest(out: Path) -> None:
    (out / "_pipecrypt" / "manifest.json").unlink()


def _remove_statements(out: Path) -> None:
    shutil.rmtree(out / "_pipecrypt")


def _empty(out: Path) -> None:
    shutil.rmtree(out)
    out.mkdir()


_REMOVALS: dict[str, Callable[[Path], None]] = {
    "everything": shutil.rmtree,
    "all but the directory": _empty,
    "the manifest": _remove_manifest,
    "the statements": _remove_statements,
}


@pytest.mark.parametrize(
    ("what", "overwrite"),
    [*((each, True) for each in _REMOVALS), ("everything", False), ("all but the directory", False)],
)
def test_a_writer_does_not_begin_anew_where_a_statement_was_removed(world: World, what: str, overwrite: bool) -> None:
    world.sign()
    world.sign(overwrite=True)
    _REMOVALS[what](world.out)
    # By now a source has a column that nobody listed: a first run would let it out.
    for name in ("a.parquet", "day=1/b.parquet"):
        world.write(name, pa.table({"id": [1], "email": ["a"], "ssn": ["123"]}))
    before = sorted(world.out.rglob("*"))
    for _ in range(2):
        with pytest.raises(NotTrustedError, match="is not signed any more") as caught:
            world.sign(overwrite=overwrite)
        assert caught.value.exit_code == 3
        assert f"pipecrypt verify --forget file://{world.out}" in caught.value.hint
    assert [path for path in sorted(world.out.rglob("*")) if path in before] == before
    assert not (world.out / "_pipecrypt" / "manifest.json").exists()


def test_a_plan_sees_that_a_statement_was_removed(world: World) -> None:
    world.sign()
    request = EncryptSpec(
        source=Location(str(world.raw)), sink=Location(str(world.out)), policy=world.policy(), overwrite=True
    )
    assert not report_plan(request).conflicts
    _remove_manifest(world.out)
    with pytest.raises(NotTrustedError, match="is not signed any more"):
        report_plan(request)


@pytest.mark.parametrize("put_back", ["older version", "another dataset"])
def test_a_plan_sees_what_its_run_would_not_follow(world: World, put_back: str) -> None:
    policy = world.policy()
    source, sink = Location(str(world.raw)), Location(str(world.out))
    request = EncryptSpec(source=source, sink=sink, policy=policy, overwrite=True)
    kept = world.root / "kept"
    world.sign()
    shutil.copytree(world.out, kept)
    if put_back == "older version":
        world.sign(overwrite=True)
    else:
        shutil.rmtree(world.out)
        with pytest.raises(NotTrustedError, match="is forgotten"):
            pc.verify(world.out, forget=True)
        world.sign()
    assert not report_plan(request).conflicts
    shutil.rmtree(world.out)
    kept.rename(world.out)
    with pytest.raises(IntegrityError) as planned:
        report_plan(request)
    with pytest.raises(IntegrityError) as run:
        world.sign(policy, overwrite=True)
    assert (type(planned.value), planned.value.message) == (type(run.value), run.value.message)
    assert planned.value.hint == run.value.hint
    assert (type(run.value) is RolledBackError) is (put_back == "older version")


def test_no_writer_begins_below_a_directory_whose_statement_was_removed(world: World) -> None:
    world.sign()
    _remove_manifest(world.out)
    shutil.rmtree(world.out / "day=1")
    (world.root / "link").symlink_to(world.out)
    for sink in (world.out / "day=1", world.root / "link" / "day=1"):
        with pytest.raises(NotTrustedError, match="is not signed any more"):
            world.sign(source=world.raw / "day=1", sink=sink)
    assert not (world.out / "day=1" / "_pipecrypt" / "manifest.json").exists()


def test_a_dataset_that_its_owner_removed_is_made_anew_once_it_is_forgotten(world: World) -> None:
    for _ in range(2):
        world.sign()
        world.sign(overwrite=True)
        assert pc.verify(world.out, trust=[world.reference("signing")]).version == 2
        shutil.rmtree(world.out)
        with pytest.raises(NotTrustedError, match="what was accepted there before is forgotten") as caught:
            pc.verify(world.out, forget=True)  # trusts no key, as there is nothing to verify
        assert caught.value.exit_code == 3


def test_forgetting_leaves_what_is_signed_and_what_was_never_signed_as_it_is(world: World) -> None:
    world.sign()
    assert pc.verify(world.out, trust=[world.reference("signing")], forget=True).version == 1
    shutil.copytree(world.out / "day=1", world.root / "elsewhere")
    with pytest.raises(NotTrustedError) as caught:
        pc.verify(world.root / "elsewhere", trust=[world.reference("signing")], forget=True)
    assert "forgotten" not in caught.value.message
    _remove_manifest(world.out)
    with pytest.raises(NotTrustedError, match="is not signed any more"):
        world.sign(overwrite=True)


def test_the_writer_of_a_single_file_does_not_begin_anew_either(world: World) -> None:
    file = {"source": world.raw / "a.parquet", "sink": world.root / "single.parquet"}
    world.sign(**file)
    (world.root / "single.parquet.sig.json").unlink()
    for overwrite in (True, False):
        if not overwrite:
            (world.root / "single.parquet").unlink()
        with pytest.raises(NotTrustedError, match="is not signed any more"):
            world.sign(**file, overwrite=overwrite)
    with pytest.raises(NotTrustedError, match="is forgotten"):
        pc.verify(world.root / "single.parquet", forget=True)
    world.sign(**file)


def test_a_single_file_is_not_rolled_back_by_its_writer(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPECRYPT_STATE_DIR", str(tmp_path / "state"))
    world.write("a.parquet")
    file = {"source": world.raw / "a.parquet", "sink": world.root / "single.parquet"}
    world.sign(**file)
    statement = world.root / "single.parquet.sig.json"
    older = statement.read_bytes()
    world.sign(**file, overwrite=True)
    statement.write_bytes(older)
    with pytest.raises(RolledBackError):
        world.sign(**file, overwrite=True)
