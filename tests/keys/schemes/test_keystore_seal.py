"""A keystore vouches for itself: whatever somebody without its secret did to the file, nothing of it is used."""

from __future__ import annotations

import base64
import copy
import json
import logging
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipecrypt.crypto.kdf import Argon2Parameters
from pipecrypt.errors import (
    ConflictError,
    DamagedKeystoreError,
    IntegrityError,
    KeyNotFoundError,
    KeystoreError,
    PassphraseError,
    PipecryptError,
    RetiredKeyError,
    UsageError,
)
from pipecrypt.keys import keystores
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keystores import create_key, find_doomed, import_key, read_keys, remove_keys, retire_key
from pipecrypt.keys.reference import parse_key_reference
from pipecrypt.keys.schemes import keystore_document
from pipecrypt.keys.schemes.keystore import SERVICE
from pipecrypt.keys.session import KeySession
from pipecrypt.keys.signers import export_public_half, open_signer, read_version_keys
from pipecrypt.keys.trust import TrustedKeys

CHEAP = Argon2Parameters(salt=bytes(range(16)), memory_kib=8192, iterations=1, lanes=1)
GOLDEN = Path(__file__).parents[2] / "compat" / "keystore-1"
Change = Callable[[dict[str, Any]], object]


class Store:
    """A keystore with two versions of a master key, two of a signing key, and identities, and what opens it."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.path = folder / "keys.json"
        self.environ = {**environ, "PIPECRYPT_STATE_DIR": str(folder / "state")}
        for name, kind in (("pii", "aes256"), ("sign", "ed25519"), ("bob", "x25519"), ("eve", "x25519")):
            create_key(self.reference(name), kind, self.credentials, kdf=CHEAP)
        for name, kind in (("pii", "aes256"), ("sign", "ed25519")):
            create_key(self.reference(name), kind, self.credentials, new_version=True)

    @property
    def credentials(self) -> Credentials:
        return Credentials(self.environ)

    @property
    def forgetful(self) -> Credentials:
        """The same secret on a machine that has not seen the keystore."""
        return Credentials({name: text for name, text in self.environ.items() if name != "PIPECRYPT_STATE_DIR"})

    @property
    def document(self) -> dict[str, Any]:
        return json.loads(self.path.read_bytes())  # type: ignore[no-any-return]

    def reference(self, name: str) -> str:
        return f"keystore://{self.path}#{name}"

    def change(self, change: Change) -> None:
        document = self.document
        change(document)
        self.path.write_text(json.dumps(document, indent=2))

    def uses(self, credentials: Credentials) -> Iterator[Callable[[], object]]:
        """All that uses a keystore while its secret is at hand."""
        yield lambda: KeySession([self.reference("pii")], credentials=credentials).close()
        yield lambda: KeySession([self.reference("bob")], credentials=credentials).close()
        yield lambda: open_signer(self.reference("sign"), credentials)
        yield lambda: TrustedKeys.of([self.reference("sign")], credentials=credentials)
        yield lambda: export_public_half(self.reference("sign"), credentials)
        yield lambda: export_public_half(self.reference("bob"), credentials)
        yield lambda: read_keys(str(self.path), credentials)
        yield lambda: find_doomed(self.reference("pii"), 1, credentials)
        yield lambda: create_key(self.reference("more"), "aes256", credentials)
        yield lambda: import_key(self.reference("more"), bytes(32), credentials)
        yield lambda: remove_keys(self.reference("pii"), 1, credentials)
        yield lambda: retire_key(self.reference("pii"), 1, credentials)
        yield lambda: keystores.change_passphrase(self.path, credentials)


@pytest.fixture(params=["passphrase", "key file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "passphrase":
        return Store(tmp_path, {"PIPECRYPT_PASSPHRASE": "correct horse", "PIPECRYPT_NEW_PASSPHRASE": "battery staple"})
    key_file = tmp_path / "key"
    key_file.write_bytes(bytes(range(32)))
    key_file.chmod(0o600)
    return Store(tmp_path, {"PIPECRYPT_KEY_FILE": str(key_file), "PIPECRYPT_NEW_KEY_FILE": str(key_file)})


def _swap(keys: list[dict[str, Any]], first: int, second: int, member: str) -> None:
    keys[first][member], keys[second][member] = keys[second][member], keys[first][member]


CHANGES: dict[str, Change] = {
    "newest master key taken out": lambda d: d["keys"].pop(4),
    "newest signing key taken out": lambda d: d["keys"].pop(5),
    "another key taken out": lambda d: d["keys"].pop(2),
    "all taken out": lambda d: d.update(keys=[]),
    "doubled": lambda d: d["keys"].append({**copy.deepcopy(d["keys"][0]), "name": "copy", "id": d["id"]}),
    "exchanged": lambda d: d["keys"].insert(0, d["keys"].pop()),
    "versions exchanged": lambda d: _swap(d["keys"], 0, 4, "version"),
    "sealed keys exchanged": lambda d: _swap(d["keys"], 0, 4, "sealed"),
    "public keys exchanged": lambda d: _swap(d["keys"], 1, 5, "public_key"),
    "public keys of identities exchanged": lambda d: _swap(d["keys"], 2, 3, "public_key"),
    "renamed": lambda d: d["keys"][2].update(name="bobby"),
    "ids exchanged": lambda d: _swap(d["keys"], 0, 4, "id"),
    "older": lambda d: d["keys"][0].update(created="2020-01-01T00:00:00Z"),
    "retired": lambda d: d["keys"][0].update(retired="2020-01-01T00:00:00Z"),
    "counter raised": lambda d: d.update(counter=d["counter"] + 1),
    "another id": lambda d: d.update(id=d["keys"][0]["id"]),
    "another verifier": lambda d: d.update(verifier=base64.b64encode(bytes(32)).decode()),
    "another seal": lambda d: d.update(seal=base64.b64encode(bytes(32)).decode()),
    "empty seal": lambda d: d.update(seal=""),
    "bits that mean nothing": lambda d: d.update(seal=d["seal"][:-2] + chr(ord(d["seal"][-2]) + 1) + "="),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_nothing_of_a_changed_keystore_is_used(store: Store, change: Change) -> None:
    store.change(change)
    before = store.path.read_bytes()
    for credentials in (store.credentials, store.forgetful):
        for number, use in enumerate(store.uses(credentials)):
            with pytest.raises(IntegrityError) as caught:
                use()
            assert caught.value.exit_code == 3, number
    assert store.path.read_bytes() == before


def test_every_byte_counts(tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_bytes(bytes(range(32)))
    key_file.chmod(0o600)
    store = Store(tmp_path, {"PIPECRYPT_KEY_FILE": str(key_file)})
    data = store.path.read_bytes()
    protection = range(data.index(b'"protection"'), data.index(b'"verifier"'))
    for place in range(len(data)):
        for mask in (1, 0x20):
            store.path.write_bytes(data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :])
            with pytest.raises((IntegrityError, PassphraseError)) as caught:
                open_signer(store.reference("sign"), store.forgetful)
            assert caught.value.exit_code == 3 or place in protection, place
    store.path.write_bytes(data)
    open_signer(store.reference("sign"), store.credentials)


def test_white_space_means_nothing(store: Store) -> None:
    store.path.write_text(json.dumps(store.document))
    open_signer(store.reference("sign"), store.credentials)


def test_an_older_keystore_in_its_place_is_refused_where_it_was_seen(store: Store) -> None:
    old = store.path.read_bytes()
    remove_keys(store.reference("pii"), 2, store.credentials)
    store.path.write_bytes(old)
    for use in store.uses(store.credentials):
        with pytest.raises(DamagedKeystoreError, match="older than when it was seen last") as caught:
            use()
        assert "accept-backup" in caught.value.hint
    open_signer(store.reference("sign"), store.forgetful)


def test_a_fork_that_was_written_as_often_is_refused(store: Store) -> None:
    old = store.path.read_bytes()
    create_key(store.reference("here"), "aes256", store.credentials)
    here = store.path.read_bytes()
    store.path.write_bytes(old)
    create_key(store.reference("there"), "aes256", store.forgetful)
    assert json.loads(here)["counter"] == store.document["counter"]
    with pytest.raises(DamagedKeystoreError, match="another than was seen last"):
        open_signer(store.reference("sign"), store.credentials)


def test_a_backup_is_accepted_on_purpose(store: Store) -> None:
    old = store.path.read_bytes()
    create_key(store.reference("lost"), "aes256", store.credentials)
    seen = store.document["counter"]
    store.path.write_bytes(old)
    keystores.accept_backup(store.path, store.credentials)
    assert store.document["counter"] == seen + 1
    open_signer(store.reference("sign"), store.credentials)
    with pytest.raises(KeyNotFoundError):
        KeySession([store.reference("lost")], credentials=store.credentials)
    store.path.write_bytes(old)
    store.change(CHANGES["newest master key taken out"])
    with pytest.raises(DamagedKeystoreError):  # only its age is accepted
        keystores.accept_backup(store.path, store.credentials)


def test_a_writer_between_reading_and_remembering_is_no_attack(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipecrypt.keys.schemes import keystore_file  # noqa: PLC0415 - patched here only

    read, credentials = keystore_file.read_keystore, store.credentials

    def overtaken(path: Path) -> object:
        document = read(path)
        monkeypatch.setattr(keystore_file, "read_keystore", read)
        create_key(store.reference("meanwhile"), "aes256", store.credentials)
        return document

    monkeypatch.setattr(keystore_file, "read_keystore", overtaken)
    open_signer(store.reference("sign"), credentials)


def _old_version(document: dict[str, Any]) -> None:
    del document["counter"], document["seal"]
    document["pipecrypt_keystore"] = 1


def test_a_seal_that_was_removed_is_missed(store: Store) -> None:
    store.change(_old_version)
    for credentials in (store.credentials, store.forgetful):
        for use in store.uses(credentials):
            with pytest.raises(DamagedKeystoreError):
                use()


@pytest.fixture(params=["passphrase", "scrypt", "key-file"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Credentials]:
    """A keystore of the old version, as release 0.1.0 wrote it."""
    path = tmp_path / "old.json"
    shutil.copy(GOLDEN / f"{request.param}.json", path)
    shutil.copy(GOLDEN / "key-file.txt", tmp_path / "key")
    for file in (path, tmp_path / "key"):
        file.chmod(0o600)
    secrets = {
        "passphrase": {"PIPECRYPT_PASSPHRASE": "x1"},
        "scrypt": {"PIPECRYPT_PASSPHRASE": "correct horse"},
        "key-file": {"PIPECRYPT_KEY_FILE": str(tmp_path / "key")},
    }
    return path, Credentials({**secrets[request.param], "PIPECRYPT_STATE_DIR": str(tmp_path / "state")})


def test_the_old_version_cannot_be_put_back_together(old: tuple[Path, Credentials]) -> None:
    path, credentials = old
    before = json.loads(path.read_bytes())
    create_key(f"keystore://{path}#new", "aes256", credentials)
    after = json.loads(path.read_bytes())
    forgetful = Credentials({k: v for k, v in credentials.environ.items() if k != "PIPECRYPT_STATE_DIR"})
    # The old verifier holds, since salt and passphrase are what they were; no key that was written since opens.
    mixed = {**before, "keys": [after["keys"][-1], *before["keys"][1:]]}
    for document in ({**before, "keys": after["keys"]}, mixed):
        path.write_text(json.dumps(document))
        with pytest.raises(DamagedKeystoreError, match="was changed after it was written"):
            KeySession([f"keystore://{path}#pii"], credentials=forgetful)
    path.write_text(json.dumps(before))
    with pytest.raises(DamagedKeystoreError, match="was sealed when it was seen last"):
        KeySession([f"keystore://{path}#pii"], credentials=credentials)


def test_the_first_change_seals_an_old_keystore_and_says_so(
    old: tuple[Path, Credentials], caplog: pytest.LogCaptureFixture
) -> None:
    path, credentials = old
    before = json.loads(path.read_bytes())
    with caplog.at_level(logging.WARNING):
        create_key(f"keystore://{path}#new", "aes256", credentials)
    assert "is sealed as a whole from now on" in caplog.text
    after = json.loads(path.read_bytes())
    assert (after["pipecrypt_keystore"], after["counter"], len(after["keys"])) == (2, 1, len(before["keys"]) + 1)
    for entry, was in zip(after["keys"], before["keys"], strict=False):
        assert entry.pop("sealed") != was.pop("sealed")
        assert entry == was


def test_a_changed_old_keystore_is_refused_as_a_whole(old: tuple[Path, Credentials]) -> None:
    path, credentials = old
    document = json.loads(path.read_bytes())
    public = [key for key in document["keys"] if key["name"] == "signing"]
    _swap(public, 0, 1, "public_key")
    path.write_text(json.dumps(document))
    for use in (
        lambda: KeySession([f"keystore://{path}#pii"], credentials=credentials),
        lambda: create_key(f"keystore://{path}#new", "aes256", credentials),
        lambda: keystores.accept_backup(path, credentials),
    ):
        with pytest.raises(DamagedKeystoreError):
            use()


def test_without_the_secret_a_keystore_says_that_nothing_proves_it(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    nobody = Credentials({})
    assert read_keys(str(store.path), store.credentials).authenticated
    assert not read_keys(str(store.path), nobody).authenticated
    assert len(read_keys(str(store.path), Credentials({})).keys) == 6
    assert export_public_half(store.reference("sign"), store.credentials).authenticated
    assert not export_public_half(store.reference("sign"), nobody).authenticated
    with caplog.at_level(logging.WARNING):
        TrustedKeys.of([store.reference("sign")], credentials=nobody)
        TrustedKeys.of([store.reference("sign")], credentials=nobody)
        TrustedKeys.of([store.reference("sign")], credentials=store.credentials)
    assert caplog.text.count("nothing proves the public keys") <= 1


def test_a_secret_that_does_not_open_proves_nothing(store: Store, tmp_path: Path) -> None:
    key_file = tmp_path / "other"
    key_file.write_bytes(bytes(32))
    other = Credentials({"PIPECRYPT_PASSPHRASE": "wrong horse", "PIPECRYPT_KEY_FILE": str(key_file)})
    with pytest.raises(PassphraseError):
        TrustedKeys.of([store.reference("sign")], credentials=other)
    listed = read_keys(str(store.path), other)
    assert (listed.authenticated, len(listed.keys)) == (False, 6)
    assert listed.doubt is not None
    assert "does not open" in listed.doubt


def test_one_derivation_for_each_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path, {"PIPECRYPT_PASSPHRASE": "correct horse", "PIPECRYPT_UNLOCKED_SECONDS": "0"})
    calls = 0
    derive = keystore_document.derive_key

    def counted(*args: Any) -> object:
        nonlocal calls
        calls += 1
        return derive(*args)

    monkeypatch.setattr(keystore_document, "derive_key", counted)
    KeySession([store.reference("pii"), store.reference("bob")], credentials=store.credentials).close()
    assert calls == 1
    open_signer(store.reference("sign"), store.credentials)
    assert calls == 2
    create_key(store.reference("more"), "aes256", store.credentials)
    assert calls == 3
    for _ in range(3):  # trust is read again with each file that is opened
        TrustedKeys.of([store.reference("sign")], credentials=store.credentials)
    assert calls == 4


def test_retiring(store: Store) -> None:
    at = datetime(2026, 11, 30, 7, tzinfo=UTC)
    clock = lambda: datetime(2026, 11, 30, 12, tzinfo=UTC)  # noqa: E731
    entry = retire_key(store.reference("sign"), 1, store.credentials, at=at, clock=clock)
    assert entry.retired == "2026-11-30T07:00:00Z"
    first, second = read_version_keys(store.reference("sign"), credentials=store.credentials).keys
    assert (first.retired, second.retired) == (at, None)
    signer = open_signer(store.reference("sign"), store.credentials)
    assert signer.key_id == second.key.key_id
    with pytest.raises(ConflictError):
        retire_key(store.reference("sign"), 1, store.credentials, clock=clock)
    with pytest.raises(UsageError):
        retire_key(store.reference("sign"), 2, store.credentials, at=datetime(2027, 1, 1, tzinfo=UTC), clock=clock)
    with pytest.raises(KeyNotFoundError):
        retire_key(store.reference("sign"), 3, store.credentials, clock=clock)
    # Somebody else may have had it earlier than was thought.
    earlier = retire_key(store.reference("sign"), 1, store.credentials, at=datetime(2026, 11, 1, tzinfo=UTC))
    assert earlier.retired == "2026-11-01T00:00:00Z"


def test_a_retired_newest_version_signs_and_wraps_nothing_and_opens_what_it_wrapped(store: Store) -> None:
    from tests.keys.schemes.test_keystore import PLACE  # noqa: PLC0415

    made: dict[str, bytes] = {}
    for name in ("pii", "bob"):
        with KeySession([store.reference(name)], credentials=store.credentials, dataset_id=PLACE.dataset_id) as session:
            key, made[name] = session.new_data_key(store.reference(name), PLACE)
            key.wipe()
    for name, version in (("pii", 2), ("bob", 1), ("sign", 2)):
        retire_key(store.reference(name), version, store.credentials)
    for name, key_metadata in made.items():
        with KeySession([store.reference(name)], credentials=store.credentials) as session:
            session.open_data_key(key_metadata, PLACE).wipe()
            with pytest.raises(RetiredKeyError):
                session.new_data_key(store.reference(name), PLACE)
    for use in (
        lambda: open_signer(store.reference("sign"), store.credentials),
        lambda: export_public_half(store.reference("bob"), store.credentials),
        lambda: SERVICE.check_exists(parse_key_reference(store.reference("pii")), store.credentials, signs=False),
    ):
        with pytest.raises(RetiredKeyError) as caught:
            use()
        assert "keys rotate" in caught.value.hint
    create_key(store.reference("pii"), "aes256", store.credentials, new_version=True)
    with KeySession([store.reference("pii")], credentials=store.credentials, dataset_id=PLACE.dataset_id) as session:
        session.new_data_key(store.reference("pii"), PLACE)[0].wipe()
        session.open_data_key(made["pii"], PLACE).wipe()


@pytest.mark.parametrize("to", ["passphrase", "key file"])
def test_another_secret(store: Store, tmp_path: Path, to: str) -> None:
    other = tmp_path / "other key"
    other.write_bytes(os.urandom(32))
    other.chmod(0o600)
    new = {"passphrase": {"PIPECRYPT_PASSPHRASE": "battery staple"}, "key file": {"PIPECRYPT_KEY_FILE": str(other)}}[to]
    given = {name: text for name, text in store.environ.items() if "NEW" not in name}
    given.update({name.replace("PIPECRYPT_", "PIPECRYPT_NEW_"): text for name, text in new.items()})
    before = store.document
    keystores.change_passphrase(store.path, Credentials(given), CHEAP)
    after = store.document
    assert (after["id"], after["counter"]) == (before["id"], before["counter"] + 1)
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert not {key["sealed"] for key in after["keys"]} & {key["sealed"] for key in before["keys"]}
    with pytest.raises(PassphraseError):
        KeySession([store.reference("pii")], credentials=store.credentials)
    opens = Credentials({**new, "PIPECRYPT_STATE_DIR": store.environ["PIPECRYPT_STATE_DIR"]})
    KeySession([store.reference("pii"), store.reference("bob")], credentials=opens).close()
    open_signer(store.reference("sign"), opens)


def test_a_short_passphrase_is_refused_for_what_is_new_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reference = f"keystore://{tmp_path}/keys.json#pii"
    for short in ("x1", "1234567", "e\u0301" * 7):  # composed, each is one character
        with pytest.raises(UsageError) as caught:
            create_key(reference, "aes256", Credentials({"PIPECRYPT_PASSPHRASE": short}), kdf=CHEAP)
        assert caught.value.exit_code == 2
        assert short not in caught.value.message + caught.value.hint
    assert not (tmp_path / "keys.json").exists()
    with caplog.at_level(logging.WARNING):
        create_key(reference, "aes256", Credentials({"PIPECRYPT_PASSPHRASE": "passw0rd"}), kdf=CHEAP)
    assert "12 characters or more" in caplog.text
    with pytest.raises(UsageError):
        keystores.change_passphrase(
            tmp_path / "keys.json", Credentials({"PIPECRYPT_PASSPHRASE": "passw0rd", "PIPECRYPT_NEW_PASSPHRASE": "x1"})
        )
    KeySession([reference], credentials=Credentials({"PIPECRYPT_PASSPHRASE": "passw0rd"})).close()


def test_what_cannot_be_remembered_is_warned_about_once(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    blocked = Credentials({**store.environ, "PIPECRYPT_STATE_DIR": str(tmp_path / "file")})
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            open_signer(store.reference("sign"), blocked)
    assert caplog.text.count("cannot remember keystore") == 1


@pytest.mark.parametrize("plant", ["nonsense", "pipe", "link to nothing", "directory", "counter"])
def test_a_planted_record_is_no_record(store: Store, plant: str) -> None:
    record = Path(store.environ["PIPECRYPT_STATE_DIR"], "keystores", f"{store.document['id']}.json")
    record.unlink()
    {
        "nonsense": lambda: record.write_bytes(b"{"),
        "pipe": lambda: os.mkfifo(record),
        "link to nothing": lambda: record.symlink_to("/nonexistent"),
        "directory": record.mkdir,
        "counter": lambda: record.write_text(json.dumps({"counter": 10**400, "seal_sha256": ""})),
    }[plant]()
    with pytest.raises(DamagedKeystoreError):
        open_signer(store.reference("sign"), store.credentials)


@pytest.mark.parametrize("plant", ["pipe", "link to a pipe", "directory", "sparse", "device", "many keys", "deep"])
def test_hostile_files_neither_hang_nor_fill_memory(tmp_path: Path, plant: str) -> None:
    path = tmp_path / "keys.json"
    if plant == "pipe":
        os.mkfifo(path)
    elif plant == "link to a pipe":
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to("pipe")
    elif plant == "directory":
        path.mkdir()
    elif plant == "sparse":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    elif plant == "device":
        path.symlink_to("/dev/zero")
    elif plant == "many keys":
        path.write_bytes(b'{"pipecrypt_keystore": 2, "keys": [' + b"{}," * 200_000 + b"{}]}")
    else:
        path.write_bytes(b"[" * 1_000_000)
    began = time.monotonic()
    credentials = Credentials({"PIPECRYPT_PASSPHRASE": "correct horse"})
    for use in (
        lambda: KeySession([f"keystore://{path}#pii"], credentials=credentials),
        lambda: create_key(f"keystore://{path}#pii", "aes256", credentials, kdf=CHEAP),
        lambda: read_keys(str(path), credentials),
        lambda: keystores.accept_backup(path, credentials),
        lambda: keystores.change_passphrase(path, credentials),
        lambda: TrustedKeys.of([f"keystore://{path}#pii"], credentials=credentials),
    ):
        with pytest.raises(KeystoreError):
            use()
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "cost", [{"memory_kib": 64 << 20}, {"iterations": 10**6}, {"lanes": 10**6}, {"memory_kib": 10**400}]
)
def test_a_planted_cost_is_refused_before_it_is_paid(tmp_path: Path, cost: dict[str, int]) -> None:
    store = Store(tmp_path, {"PIPECRYPT_PASSPHRASE": "correct horse"})
    store.change(lambda document: document["protection"].update(cost))
    began = time.monotonic()
    with pytest.raises(PipecryptError) as caught:
        open_signer(store.reference("sign"), store.credentials)
    assert caught.value.exit_code == 3
    assert time.monotonic() - began < 5


def test_changes_take_turns(store: Store) -> None:
    names = [f"k{number}" for number in range(6)]
    threads = [
        threading.Thread(target=create_key, args=(store.reference(name), "aes256", store.credentials)) for name in names
    ]
    before = store.document["counter"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.document["counter"] == before + len(names)
    assert {key["name"] for key in store.document["keys"]} >= set(names)
    open_signer(store.reference("sign"), store.credentials)
