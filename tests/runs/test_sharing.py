"""grant, revoke, rotate on datasets on disk and in memory: who reads afterwards, and what an attacker cannot do."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipecrypt as pc
from pipecrypt.dataset.share import grants
from pipecrypt.errors import (
    ConflictError,
    IntegrityError,
    KeyNotFoundError,
    NotEncryptedError,
    PipecryptError,
    PolicyError,
    UsageError,
)
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.grants import parse_grants
from pipecrypt.keys.keystores import create_key
from pipecrypt.parquet.footer.inspect import inspect_file
from pipecrypt.runs.sharing import GrantSummary
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.vocabulary.ranges import MemorySource
from tests.runs.conftest import NAMES, World


@pytest.fixture(autouse=True)
def environment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in world.environ.items():
        monkeypatch.setenv(name, value)
    create_key(world.reference("third"), "aes256", world.credentials)


def encrypt(world: World, **changes: object) -> None:
    create_key(world.reference("signing"), "ed25519", world.credentials)
    policy = {"columns": {"email": world.key}, "sign": world.reference("signing"), **changes}
    pc.encrypt(world.raw, world.out, pc.Policy(**policy))  # type: ignore[arg-type]


def emails(world: World, *names: str, place: Path | None = None) -> list[str]:
    with pc.open(str(place or world.out), keys=[world.reference(name) for name in names], verify="off") as dataset:
        return sorted(dataset.to_table(columns=["email"]).column("email").to_pylist())


def share(world: World, to: str, *keys: str, **options: object) -> GrantSummary:
    references = [world.reference(name) for name in keys or ("pii",)]
    return pc.grant(world.out, world.reference(to), references, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"footer": "encrypted"},
        {"data_keys": "file"},
        {"sign": None},
        {"sign": None, "footer": "encrypted"},
        {"mode": "chunks", "columns": None},
        {"uniform": True, "columns": None},
        {"bind_path": False},
    ],
    ids=str,
)
def test_whom_it_is_granted_reads_and_whom_it_is_revoked_does_not(world: World, changes: dict[str, object]) -> None:
    encrypt(world, **(changes if "columns" not in changes else {"default": world.key, **changes}))
    before = world.tree()

    first, again = share(world, "other"), share(world, "other")

    assert (first.granted, first.already, first.unopened) == (first.keks, 0, ())
    assert (again.granted, again.already, again.keks) == (0, first.keks, first.keks)
    assert first.used_manifest is (changes.get("sign", "signing") is not None)
    assert {name: data for name, data in world.tree().items() if name != "_pipecrypt/grants.json"} == before
    back = world.root / "back"
    pc.decrypt(world.out, back, [world.reference("other")])
    pc.decrypt(world.out, world.root / "mine", [world.key])
    assert world.tree(back) == world.tree(world.root / "mine")

    revoked = pc.revoke(world.out, world.reference("other"))
    assert (revoked.removed, revoked.left) == (first.keks, 0)
    assert revoked.is_in_files is (False if first.used_manifest else None)
    with pytest.raises(KeyNotFoundError):
        pc.decrypt(world.out, world.root / "no", [world.reference("other")])
    with pytest.raises(KeyNotFoundError):
        pc.revoke(world.out, world.reference("other"))


def test_signatures_stay_valid_and_one_footer_is_read_for_each_kek(world: World) -> None:
    encrypt(world)
    trust = [world.reference("signing")]

    summary = share(world, "other", trust=trust)

    assert (summary.footers_read, summary.keks, summary.manifest_verified) == (1, 1, True)
    assert summary.service_calls == 2  # open, wrap
    pc.verify(world.out, trust=trust)  # raises where anything differs
    with pytest.raises(IntegrityError):
        share(world, "third", trust=[_stranger(world)])


def _stranger(world: World) -> str:
    create_key(world.reference("stranger"), "ed25519", world.credentials)
    return world.reference("stranger")


def test_rotating_by_grants_chains(world: World) -> None:
    encrypt(world)

    pc.rotate(world.out, world.key, world.reference("other"))
    pc.rotate(world.out, world.reference("other"), world.reference("third"))

    assert emails(world, "third") == emails(world, "other") == emails(world, "pii")
    # Not one file is under the third master key itself.
    pc.revoke(world.out, world.reference("third"))
    with pytest.raises(PipecryptError):
        emails(world, "third")


def test_rotating_to_a_new_version_of_the_key(world: World) -> None:
    encrypt(world)
    old = shutil.copy(world.root / "keys.json", world.root / "old.json")
    create_key(world.key, "aes256", world.credentials, new_version=True)

    summary = pc.rotate(world.out, world.key, world.key)

    assert (summary.granted, summary.already) == (1, 0)
    assert pc.rotate(world.out, world.key, world.key).already == 1
    assert Path(old).exists()


def test_keys_of_other_columns_stay_as_they_are(world: World) -> None:
    encrypt(world, columns={"email": world.key, "id": world.reference("third")}, footer_key=world.key)

    summary = share(world, "other")

    assert (summary.keks, summary.granted, len(summary.unopened)) == (2, 1, 1)
    assert summary.unopened[0].startswith("keystore/third/")
    with pc.open(str(world.out), keys=[world.reference("other")], verify="off") as dataset:
        assert dataset.to_table(columns=["email"]).num_rows == 3000
        with pytest.raises(PipecryptError):
            dataset.to_table(columns=["id"])


def test_an_encrypted_footer_hides_keys_and_says_so(world: World) -> None:
    encrypt(world, columns={"email": world.key}, footer_key=world.reference("third"), footer="encrypted")

    with pytest.raises(KeyNotFoundError):
        pc.rotate(world.out, world.key, world.reference("other"))
    summary = pc.rotate(world.out, world.key, world.reference("other"), keys=[world.reference("third")])

    assert (summary.granted, summary.footers_read, summary.hidden_files) == (1, 1, ())
    assert emails(world, "other", "third") == emails(world, "pii", "third")


def test_a_single_file(world: World) -> None:
    pc.encrypt(world.raw / "a.parquet", world.root / "one.parquet", pc.Policy(default=world.key))

    pc.grant(world.root / "one.parquet", world.reference("other"), [world.key])

    assert (world.root / "one.parquet.grants.json").exists()
    pc.decrypt(world.root / "one.parquet", world.root / "back.parquet", [world.reference("other")])
    assert (world.root / "back.parquet").read_bytes() == (world.raw / "a.parquet").read_bytes()
    assert pc.revoke(world.root / "one.parquet", world.reference("other")).removed == 1


def test_a_file_of_another_dataset_is_not_given_away(world: World) -> None:
    """Whoever writes here could have put it here, to have its KEK shared with somebody."""
    encrypt(world)
    secret = world.root / "secret"
    pc.encrypt(world.raw, secret, pc.Policy(default=world.key))
    shutil.copy(secret / "a.parquet", world.out / "a.parquet")

    with pytest.raises(IntegrityError):
        share(world, "other")
    shutil.rmtree(world.out / "_pipecrypt")
    with pytest.raises(UsageError):
        share(world, "other")
    assert not (world.out / "_pipecrypt").exists()

    with pc.open(str(secret), keys=[world.key], verify="off") as dataset:
        assert dataset.to_table().num_rows
    ids = sorted({_dataset_id(path) for path in world.out.rglob("*.parquet")})
    assert share(world, "other", dataset_ids=ids).granted == 2
    with pytest.raises(IntegrityError):
        share(world, "other", dataset_ids=ids[:1])


def _dataset_id(path: Path) -> str:
    return inspect_file(MemorySource(path.read_bytes(), path.name)).dataset_id or ""


def test_a_kek_that_only_claims_to_belong_here_is_not_shared(world: World) -> None:
    """The key metadata of another dataset's file, behind the prefix of this one: what it opens is bound elsewhere."""
    encrypt(world, sign=None)
    before = (world.out / "a.parquet").read_bytes()
    other = world.root / "elsewhere"
    pc.encrypt(world.raw, other, pc.Policy(columns={"email": world.key}))
    swapped = before.replace(_dataset_id(world.out / "a.parquet").encode(), b"0" * 32)
    (world.out / "a.parquet").write_bytes(swapped)

    with pytest.raises(PipecryptError):
        share(world, "other", dataset_ids=["0" * 32, _dataset_id(world.out / NAMES[1])])


def test_a_forged_grant_is_replaced_not_believed(world: World) -> None:
    encrypt(world)
    share(world, "other")
    place = world.out / "_pipecrypt" / "grants.json"
    document = json.loads(place.read_text())
    document["grants"][0]["wrapped"] = document["grants"][0]["wrapped"][:-8] + "AAAAAAA="
    place.write_text(json.dumps(document))
    with pytest.raises(PipecryptError):
        emails(world, "other")

    assert share(world, "other").granted == 1
    assert emails(world, "other") == emails(world, "pii")


def test_malformed_grants_are_named_where_they_are_needed(world: World) -> None:
    encrypt(world)
    share(world, "other")
    (world.out / "_pipecrypt" / "grants.json").write_text("{}")

    assert emails(world, "pii")
    with pytest.raises(PipecryptError):
        emails(world, "other")
    with pytest.raises(PipecryptError):
        share(world, "other")


def test_two_at_once_lose_no_grant(world: World) -> None:
    encrypt(world)
    names = [f"reader{number}" for number in range(6)]
    for name in names:
        create_key(world.reference(name), "aes256", world.credentials)
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(
            target=_grant_in_a_process, args=(str(world.out), world.reference(name), world.key, world.environ)
        )
        for name in names
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0] * len(names)
    granted = {grant.master_key_id for grant in parse_grants((world.out / "_pipecrypt/grants.json").read_bytes()).all}
    assert len(granted) == len(names)


def _grant_in_a_process(dataset: str, to: str, key: str, environ: dict[str, str]) -> None:
    pc.grant(dataset, to, [key], credentials=Credentials(environ))


def test_on_other_storages_one_holds_a_lock_file(world: World) -> None:
    place = f"memory://{world.root.name}"
    policy = pc.Policy(columns={"email": world.key})
    pc.encrypt(world.raw, f"{place}/out", policy)

    assert pc.grant(f"{place}/out", world.reference("other"), [world.key]).granted == 1
    with pc.open(f"{place}/out", keys=[world.reference("other")], verify="off") as dataset:
        assert dataset.to_table().num_rows == 3000
    with open_store(Location(f"{place}/out/_pipecrypt/grants.json.lock")).write(overwrite=False) as lock:
        lock.write(b"another")
        lock.publish()
    with pytest.raises(ConflictError):
        open_store(Location(f"{place}/out/_pipecrypt/grants.json")).replace_exclusively(
            lambda data: data, max_bytes=1 << 20, sleep=lambda _: None
        )


def test_recipients_get_grants_and_are_not_mixed(world: World) -> None:
    encrypt(world)
    places = {}
    for kind in ("x25519", "mlkem768x25519"):
        create_key(world.reference(kind), kind, world.credentials)
        places[kind] = world.reference(kind)

    assert share(world, "mlkem768x25519").granted == 1
    assert emails(world, "mlkem768x25519") == emails(world, "pii")
    with pytest.raises(PolicyError):
        share(world, "x25519")


def test_what_cannot_be_granted(world: World, tmp_path: Path) -> None:
    with pytest.raises(PipecryptError):
        share(world, "other")
    encrypt(world)
    with pytest.raises(UsageError):
        pc.grant(world.out, world.reference("other"), [])
    with pytest.raises(UsageError):
        pc.grant("-", world.reference("other"), [world.key])
    with pytest.raises(KeyNotFoundError):
        pc.revoke(world.out, "keystore/nobody/0")
    plain = tmp_path / "plain.parquet"
    pq.write_table(pa.table({"a": [1]}), plain)
    with pytest.raises(NotEncryptedError):
        pc.grant(plain, world.reference("other"), [world.key])


def test_a_thousand_files_read_the_grants_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    encrypt(world)
    share(world, "other")
    reads: list[str] = []
    read = grants.read_grants
    monkeypatch.setattr(grants, "read_grants", lambda files, place: reads.append(place) or read(files, place))

    emails(world, "other")

    assert len([place for place in reads if place.endswith("out/_pipecrypt/grants.json")]) == 1
