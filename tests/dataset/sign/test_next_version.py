"""Datasets and files that a run signs: what is signed is what is there, and one version follows another."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.csv
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pipecrypt.dataset.sign import signers
from pipecrypt.dataset.statement.envelope import files_of, verify_envelope
from pipecrypt.dataset.statement.paths import MANIFEST_PATH
from pipecrypt.dataset.statement.promise import PromisedColumn
from pipecrypt.errors import (
    AlreadyEncryptedError,
    ConflictError,
    IntegrityError,
    KeyNotFoundError,
    LinkError,
    MissingExtraError,
    NotTrustedError,
    PassphraseError,
    SinkNotEmptyError,
    UsageError,
)
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keystores import create_key
from pipecrypt.keys.signers import LocalSigner
from pipecrypt.keys.trust import TrustedKeys
from pipecrypt.parquet.policy import FooterMode
from pipecrypt.runs.files import decrypt
from pipecrypt.runs.report.events import Event, FileDone
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.store.lease import Lease
from pipecrypt.store.local import LocalStore
from pipecrypt.store.protocol import Revision
from tests.crypto.keys import private_pem
from tests.dataset.written import World, people, tree
from tests.parquet.world import no_row_groups

BOTH = {"a.parquet", "day=1/b.parquet"}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_directory_carries_a_manifest_of_all_its_files(world: World, workers: int) -> None:
    summary = world.sign(workers=workers)

    assert set(world.entries()) == BOTH
    verified = world.verify()
    assert tree(world.out) == {*BOTH, MANIFEST_PATH, verified.manifest.file_list_path}
    (signed,) = summary.signed
    assert signed.path == f"{world.out}/{MANIFEST_PATH}"
    assert (signed.version, signed.expires, signed.key_ids) == (1, None, verified.key_ids)
    assert signed.dataset_id == verified.manifest.dataset_id
    assert {len(entry.kek_ids) for entry in world.entries().values()} == {1}


def test_sha256sum_prints_what_was_signed(world: World) -> None:
    world.sign()
    printed = subprocess.run(["sha256sum", *sorted(BOTH)], cwd=world.out, capture_output=True, text=True, check=True)

    assert printed.stdout.splitlines() == [f"{entry.sha256}  {path}" for path, entry in world.entries().items()]


def test_the_summary_and_events_tell_parts_as_ever(world: World) -> None:
    seen: list[Event] = []
    signed, unsigned = (
        world.sign(on_event=seen.append),
        world.sign(world.policy(sign=None), sink=world.root / "unsigned"),
    )

    assert {field.name for field in dataclasses.fields(signed.parts[0])} == {
        field.name for field in dataclasses.fields(unsigned.parts[0])
    }
    assert unsigned.signed == ()
    noted = [each.entry.path for event in seen if isinstance(event, FileDone) for each in event.signable]
    assert noted == sorted(BOTH)


def test_blake3_stands_alone_in_the_manifest(world: World) -> None:
    world.sign(world.policy(digest="blake3"))

    assert [name.value for name in world.verify().manifest.digests] == ["blake3"]
    assert {entry.sha256 for entry in world.entries().values()} == {None}


def test_a_missing_package_shows_before_anything_is_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr("pipecrypt.crypto.digest.importlib.import_module", missing)
    with pytest.raises(MissingExtraError):
        world.policy(digest="blake3")


def test_a_single_file_carries_a_statement_beside_it(world: World) -> None:
    file = world.root / "one.parquet"
    summary = world.sign(source=world.raw / "a.parquet", sink=file)

    assert world.verify_single(file).manifest.version == 1
    assert [signed.path for signed in summary.signed] == [f"{file}.sig.json"]


def test_one_file_into_a_directory_is_a_dataset(world: World) -> None:
    world.out.mkdir()
    world.sign(source=world.raw / "a.parquet")

    assert set(world.entries()) == {"a.parquet"}


def test_several_keys_sign_and_it_expires(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = world.sign(
        world.policy(sign=[world.reference("signing"), world.reference("second")], valid_for=timedelta(hours=1))
    )

    for signer in ("signing", "second"):
        manifest = world.verify(signer=signer).manifest
        assert manifest.expires == manifest.created + timedelta(hours=1)
    assert summary.signed[0].expires == manifest.expires
    assert len(summary.signed[0].key_ids) == 2


def test_a_pem_file_signs(world: World) -> None:
    pem = world.root / "k.pem"
    pem.write_bytes(private_pem(Ed25519PrivateKey.generate()))
    pem.chmod(0o600)
    policy = world.policy(sign=f"pem://{pem}")

    world.sign(policy)
    world.sign(policy, overwrite=True)  # whose public half is shown by no keystore


def test_another_storage(world: World) -> None:
    world.sign(sink="memory://signed/out")
    fs = fsspec.filesystem("memory")

    check = TrustedKeys.of([world.reference("signing")], credentials=Credentials({})).verify
    verified = verify_envelope(fs.cat_file(f"/signed/out/{MANIFEST_PATH}"), check, datetime.now(UTC))
    entries = files_of(verified.manifest, fs.cat_file(f"/signed/out/{verified.manifest.file_list_path}"))
    assert {entry.path: entry.size_bytes for entry in entries} == {
        path: fs.size(f"/signed/out/{path}") for path in BOTH
    }
    assert world.sign(sink="memory://signed/out", overwrite=True).signed[0].version == 2
    with pytest.raises(ConflictError):
        world.sign(world.policy(sign=None), sink="memory://signed/out", overwrite=True)
    with pytest.raises(ConflictError):
        world.sign(source=world.raw / "a.parquet", sink="memory://signed/out/x/y.parquet")

    file = "memory://signed/one.parquet"
    assert world.sign(source=world.raw / "a.parquet", sink=file).signed[0].path == file + ".sig.json"
    assert world.sign(source=world.raw / "a.parquet", sink=file, overwrite=True).signed[0].version == 2
    fs.rm("/signed", recursive=True)


# What is promised is what holds of every file


def _nested() -> pa.Table:
    return pa.table({"id": [1], "customer": [{"email": "a", "city": "b"}], "email": ["c"]})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"footer": "encrypted"},
        {"footer_key": "other"},
        {"columns": None, "default": "pii"},
        {"columns": None, "default": "pii", "footer": "encrypted"},
        {"columns": None, "default": "pii", "uniform": True},
        {"columns": None, "default": "pii", "uniform": True, "footer_key": "other"},
        {"columns": None, "default": "pii", "uniform": True, "footer": "encrypted"},
        {"columns": {"email": "other"}, "default": "pii"},
        {"columns": {"email": "pii"}, "default": "pii", "footer_key": "other"},
        {"columns": {"e*": "pii", "id": "other"}},
        {"data_keys": "file"},
        {"bind_path": False},
        {"columns": None, "default": "pii", "mode": "chunks"},
        {"columns": None, "default": "pii", "mode": "chunks", "compression": "zstd"},
        {"digest": "blake3"},
    ],
    ids=str,
)
def test_every_kind_of_policy_is_promised_as_it_was_kept(world: World, options: dict[str, object]) -> None:
    def named(value: object) -> object:
        return world.reference(value) if value in {"pii", "other"} else value

    world.write("empty.parquet", people(0))
    (world.raw / "none.parquet").write_bytes(no_row_groups(people().schema))
    given = {name: named(value) if isinstance(value, str) else value for name, value in options.items()}
    if isinstance(given.get("columns"), dict):
        given["columns"] = {name: named(key) for name, key in options["columns"].items()}  # type: ignore[attr-defined]
    world.sign(world.policy(**given))

    suffix = ".chunks.parquet" if options.get("mode") == "chunks" else ""
    assert set(world.entries()) == {f"{name}{suffix}" for name in {*BOTH, "empty.parquet", "none.parquet"}}


def test_files_of_different_schemas_have_one_promise(world: World) -> None:
    world.write("nested.parquet", _nested())
    world.sign(world.policy(columns={"*email": world.reference("pii")}, unlisted="plaintext"))

    assert len(world.entries()) == 3
    assert {column.path for column in world.verify().manifest.policy.columns} == {("email",), ("customer", "email")}


def test_the_default_is_promised_of_all_others(world: World) -> None:
    world.write("nested.parquet", _nested())
    world.sign(
        world.policy(columns={"email": world.reference("other")}, default=world.reference("pii"), footer="encrypted")
    )

    promise = world.verify().manifest.policy
    assert promise.footer is FooterMode.ENCRYPTED
    assert [column.path for column in promise.columns] == [("email",)]
    assert promise.other_key_ids == promise.footer_key_ids != promise.columns[0].master_key_ids


@pytest.mark.parametrize("max_file_bytes", [None, 1])
@pytest.mark.parametrize("is_directory", [True, False])
def test_rows_that_are_read(world: World, max_file_bytes: int | None, is_directory: bool) -> None:
    source = world.root / "text" / "people.csv"
    source.parent.mkdir()
    pyarrow.csv.write_csv(people(), source)
    options = {"max_file_bytes": max_file_bytes, "overwrite": True}
    policy = world.policy(batch_rows=30)
    if is_directory:
        for version in (1, 2):
            assert [signed.version for signed in world.sign(policy, source=source.parent, **options).signed] == [
                version
            ]
        assert sum(entry.rows for entry in world.entries().values()) == 100
        return
    names = ["people"] if max_file_bytes is None else [f"people-{index:05}" for index in range(4)]
    for version in (1, 2):
        summary = world.sign(policy, source=source, sink=world.root / "people.parquet", **options)
        assert [signed.path for signed in summary.signed] == [f"{world.root}/{name}.parquet.sig.json" for name in names]
        assert {signed.version for signed in summary.signed} == {version}
        assert len({signed.dataset_id for signed in summary.signed}) == 1
        for name in names:
            world.verify_single(world.root / f"{name}.parquet")


# One version after another


@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_version_follows_the_first(world: World, workers: int) -> None:
    first = world.sign().signed[0]
    earlier = world.verify()
    second = world.sign(overwrite=True, workers=workers).signed[0]

    verified = world.verify()
    assert (second.version, second.dataset_id) == (2, first.dataset_id)
    assert verified.manifest.previous_sha256 == earlier.statement_sha256
    assert set(world.entries()) == BOTH  # and the files are bound to the dataset's id
    assert earlier.manifest.file_list_path in tree(world.out)  # whoever reads the first version still finds its list
    back = world.root / "back"
    keys, trust = [world.reference("pii")], [world.reference("signing")]
    decrypt(world.out, back, keys, trust=trust, credentials=world.credentials)
    assert tree(back) == BOTH


def test_files_that_are_not_replaced_stay_signed(world: World) -> None:
    world.sign()
    before = world.entries()
    more = world.root / "more"
    world.write("../more/c.parquet")
    world.sign(source=more, overwrite=True)

    after = world.entries()
    assert set(after) == {*BOTH, "c.parquet"}
    assert {path: after[path] for path in BOTH} == before
    assert world.verify().manifest.version == 2


def test_a_newer_version_of_the_signing_key_continues(world: World) -> None:
    world.sign()
    create_key(world.reference("signing"), "ed25519", world.credentials, new_version=True)
    create_key(world.reference("pii"), "aes256", world.credentials, new_version=True)
    world.write("../more/c.parquet")
    world.sign(source=world.root / "more", overwrite=True)

    assert len(world.entries()) == 3
    (column,) = world.verify().manifest.policy.columns
    assert isinstance(column, PromisedColumn)
    assert len(column.master_key_ids) == 2


def test_an_expired_version_can_be_renewed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    past = datetime.now(UTC) - timedelta(days=30)
    monkeypatch.setattr(signers.OpenSigners, "now", lambda self: past.replace(microsecond=0))
    world.sign(world.policy(valid_for=timedelta(days=1)))
    monkeypatch.undo()
    with pytest.raises(IntegrityError):
        world.verify()

    assert world.sign(overwrite=True).signed[0].version == 2
    assert set(world.entries()) == BOTH


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {"footer": "encrypted"}),
        ({}, {"bind_path": False}),
        ({}, {"columns": None, "default": "pii"}),
        ({"columns": None, "default": "pii"}, {}),
        ({}, {"columns": {"email": "pii", "id": "pii"}}),
        ({"columns": {"email": "pii", "id": "pii"}}, {}),
        ({}, {"columns": {"id": "pii"}}),
        ({}, {"digest": "blake3"}),
        ({"digest": "blake3"}, {}),
    ],
    ids=str,
)
def test_what_cannot_be_promised_of_old_and_new_files_is_refused_before_writing(
    world: World, first: dict[str, object], second: dict[str, object]
) -> None:
    def policy(options: dict[str, object]) -> Policy:
        given = dict(options)
        if isinstance(given.get("columns"), dict):
            given["columns"] = {name: world.reference("pii") for name in given["columns"]}  # type: ignore[attr-defined]
        if "default" in given:
            given["default"] = world.reference("pii")
        else:
            given["unlisted"] = "plaintext"
        return world.policy(**given)

    world.sign(policy(first))
    before = {path: (world.out / path).read_bytes() for path in tree(world.out)}
    world.write("../more/c.parquet")
    with pytest.raises(ConflictError):
        world.sign(policy(second), source=world.root / "more", overwrite=True)
    assert {path: (world.out / path).read_bytes() for path in tree(world.out)} == before

    world.sign(policy(second), overwrite=True)  # where all files are replaced, the new promise is theirs
    assert set(world.entries()) == BOTH


def test_another_master_key_may_join(world: World) -> None:
    world.sign()
    world.write("../more/c.parquet")
    world.sign(world.policy(columns={"email": world.reference("other")}), source=world.root / "more", overwrite=True)

    assert len(world.entries()) == 3


@pytest.mark.parametrize("had", ["no such column", "it in plaintext"])
def test_a_column_is_promised_unless_files_that_stay_have_it_in_plaintext(world: World, had: str) -> None:
    if had == "it in plaintext":
        world.write("nested.parquet", _nested())
    world.sign(world.policy(unlisted="plaintext"))
    signed = set(world.entries())
    world.write("../more/new.parquet", _nested())
    glob = world.policy(columns={"*email": world.reference("pii")}, unlisted="plaintext")
    if had == "it in plaintext":
        with pytest.raises(ConflictError, match="promised to be in plaintext"):
            world.sign(glob, source=world.root / "more", overwrite=True)
        assert set(world.entries()) == signed
        return

    world.sign(glob, source=world.root / "more", overwrite=True)
    promised = {column.path for column in world.verify().manifest.policy.columns}
    assert promised == {("email",), ("customer", "email")}
    assert set(world.entries()) == signed | {"new.parquet"}


def test_a_column_in_plaintext_stays_so_in_new_files(world: World) -> None:
    world.sign()
    world.write("../more/nested.parquet", _nested())
    world.sign(world.policy(unlisted="plaintext"), source=world.root / "more", overwrite=True)
    assert len(world.entries()) == 3


def test_a_dataset_that_others_signed_is_refused(world: World) -> None:
    world.sign(world.policy(sign=world.reference("second")))
    before = tree(world.out)
    with pytest.raises(NotTrustedError) as caught:
        world.sign(overwrite=True)
    assert "sign with the key that signed it" in caught.value.hint
    assert tree(world.out) == before
    world.sign(world.policy(sign=[world.reference("signing"), world.reference("second")]), overwrite=True)


@pytest.mark.parametrize("damage", ["manifest", "list", "no list"])
def test_a_damaged_version_is_not_continued(world: World, damage: str) -> None:
    world.sign()
    listed = world.out / world.verify().manifest.file_list_path
    if damage == "no list":
        listed.unlink()
    elif damage == "list":
        listed.write_bytes(listed.read_bytes().replace(b"a.parquet", b"x.parquet"))
    else:
        (world.out / MANIFEST_PATH).write_bytes(b"{}")
    with pytest.raises(IntegrityError):
        world.sign(overwrite=True)


@pytest.mark.parametrize("is_first", [True, False])
def test_files_that_nobody_signs_are_refused(world: World, is_first: bool) -> None:
    if not is_first:
        world.sign()
    for name in ("day=1/x.parquet", "_SUCCESS"):
        (world.out / name).parent.mkdir(parents=True, exist_ok=True)
        (world.out / name).write_bytes(b"x")
        before = tree(world.out)
        with pytest.raises(ConflictError) as caught:
            world.sign(overwrite=True)
        assert name in caught.value.message
        assert tree(world.out) == before
        (world.out / name).unlink()
    (world.out / ".a.parquet.pipecrypt-00aa00aa-00aa00aa.tmp").write_bytes(b"left of a run that was killed")
    world.sign(overwrite=True)


@pytest.mark.parametrize("put", [os.mkfifo, lambda path: path.symlink_to("..")])
@pytest.mark.parametrize("is_first", [True, False])
def test_no_name_hides_what_is_not_a_file(world: World, put: Callable[[Path], None], is_first: bool) -> None:
    if not is_first:
        world.sign()
    world.out.mkdir(exist_ok=True)
    place = world.out / ".a.parquet.pipecrypt-undo.tmp"
    put(place)
    with pytest.raises((ConflictError, LinkError)) as caught:
        world.sign(overwrite=True)
    assert place.name in caught.value.message


@pytest.mark.parametrize("is_gone", [True, False])
def test_files_that_stay_must_be_there(world: World, is_gone: bool) -> None:
    world.sign()
    (world.out / "a.parquet").unlink()
    if not is_gone:
        (world.out / "a.parquet").write_bytes(b"cut off")
    with pytest.raises(ConflictError) as caught:
        world.sign(source=world.raw / "day=1", overwrite=True)
    assert "a.parquet" in caught.value.message

    world.sign(overwrite=True)  # which replaces it
    assert set(world.entries()) == BOTH


def test_fewer_numbered_files_leave_some_that_nobody_signs(world: World) -> None:
    source = world.root / "text"
    source.mkdir()
    pyarrow.csv.write_csv(people(), source / "people.csv")
    policy = world.policy(batch_rows=30)
    world.sign(policy, source=source, max_file_bytes=1)
    assert len(world.entries()) == 4

    pyarrow.csv.write_csv(people(50), source / "people.csv")
    with pytest.raises(ConflictError) as caught:
        world.sign(policy, source=source, max_file_bytes=1, overwrite=True)
    assert "people-00002.parquet" in caught.value.message
    for name in ("people-00002.parquet", "people-00003.parquet"):
        (world.out / name).unlink()
    world.sign(policy, source=source, max_file_bytes=1, overwrite=True)
    assert len(world.entries()) == 2


# What goes wrong


def test_nothing_is_signed_when_a_file_fails(world: World) -> None:
    world.sign(sink=world.root / "done", source=world.raw / "a.parquet")
    (world.raw / "day=1" / "b.parquet").write_bytes((world.root / "done").read_bytes())
    with pytest.raises(AlreadyEncryptedError):
        world.sign()
    assert tree(world.out) == {"a.parquet"}

    world.write("day=1/b.parquet")
    with pytest.raises(SinkNotEmptyError):
        world.sign()
    world.sign(overwrite=True)
    assert set(world.entries()) == BOTH
    assert world.verify().manifest.version == 1


def test_a_failed_second_version_is_repaired_by_the_next_run(world: World) -> None:
    world.sign()
    world.sign(sink=world.root / "done", source=world.raw / "a.parquet")
    (world.raw / "day=1" / "b.parquet").write_bytes((world.root / "done").read_bytes())
    with pytest.raises(AlreadyEncryptedError):
        world.sign(overwrite=True)
    assert world.verify().manifest.version == 1

    world.write("day=1/b.parquet")
    world.sign(overwrite=True)
    assert set(world.entries()) == BOTH
    assert world.verify().manifest.version == 2


def test_signing_keys_are_opened_first_and_wiped_always(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    wiped: list[str] = []
    monkeypatch.setattr(LocalSigner, "wipe", lambda self: wiped.append(self.key_id))
    for sign, error in ((world.reference("none"), KeyNotFoundError), (world.reference("pii"), UsageError)):
        with pytest.raises(error):
            world.sign(world.policy(sign=[world.reference("signing"), sign]))
        assert not world.out.exists()
        assert len(wiped) == 1
        wiped.clear()
    with pytest.raises(PassphraseError):
        world.sign(credentials=Credentials({}))
    assert not world.out.exists()

    world.sign()
    assert len(wiped) == 1
    with pytest.raises(SinkNotEmptyError):
        world.sign()
    (world.raw / "a.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(Exception, match=r"a\.parquet"):
        world.sign(overwrite=True)
    assert len(wiped) == 2


def test_one_key_under_two_names_is_refused_before_anything_is_written(world: World) -> None:
    twice = [world.reference("signing"), world.reference("signing").replace("keystore://", "keystore:///")]
    with pytest.raises(UsageError):
        world.sign(world.policy(sign=twice))
    assert not world.out.exists()


@pytest.mark.parametrize("version", [1, 2])
def test_of_two_runs_at_once_the_second_is_refused(world: World, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if version == 2:
        world.sign()
    seal = signers.OpenSigners.seal
    refused: list[int] = []

    def seal_late(self: signers.OpenSigners, manifest: object) -> bytes:
        monkeypatch.setattr(signers.OpenSigners, "seal", seal)
        with pytest.raises(ConflictError) as caught:
            world.sign(overwrite=True)
        refused.append(caught.value.exit_code)
        return seal(self, manifest)  # type: ignore[arg-type]

    monkeypatch.setattr(signers.OpenSigners, "seal", seal_late)
    assert world.sign(overwrite=True).signed[0].version == version
    assert refused == [5]
    assert world.verify().manifest.version == version


@pytest.mark.parametrize("version", [1, 2])
def test_a_run_whose_lock_was_taken_publishes_no_version(
    world: World, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if version == 2:
        world.sign()
    statement = _manifest_bytes(world)

    def take(self: Lease) -> None:
        (world.out / "_pipecrypt/lock/9.json").write_bytes(b"{}")
        real(self)

    real = Lease.check
    monkeypatch.setattr(Lease, "check", take)
    with pytest.raises(ConflictError):
        world.sign(overwrite=True)
    assert _manifest_bytes(world) == statement
    if version == 2:
        world.verify()


def _manifest_bytes(world: World) -> bytes | None:
    place = world.out / MANIFEST_PATH
    return place.read_bytes() if place.exists() else None


def test_paths_that_cannot_be_signed_are_refused_when_planning(world: World) -> None:
    world.write("_pipecrypt/c.parquet")
    with pytest.raises(UsageError):
        world.sign(world.policy(columns=None, default=world.reference("pii"), mode="chunks"))
    (world.raw / "_pipecrypt/c.parquet").unlink()
    world.write("a\\b.parquet")
    with pytest.raises(UsageError):
        world.sign()
    with pytest.raises(UsageError):
        world.sign(source=world.raw / "a.parquet", sink=world.root / "a\\b.parquet")
    assert not world.out.exists()


def test_standard_output_is_not_signed(world: World) -> None:
    with pytest.raises(UsageError):
        world.sign(source=world.raw / "a.parquet", sink="-")


# Single files, version after version


def test_a_signed_file_is_replaced_by_a_signed_one_only(world: World) -> None:
    file, source = world.root / "one.parquet", world.raw / "a.parquet"
    first = world.sign(source=source, sink=file).signed[0]
    before = world.verify_single(file)
    with pytest.raises(SinkNotEmptyError):
        world.sign(source=source, sink=file)
    second = world.sign(source=source, sink=file, overwrite=True).signed[0]
    assert (second.version, second.dataset_id) == (2, first.dataset_id)
    assert world.verify_single(file).manifest.previous_sha256 == before.statement_sha256

    for policy in (world.policy(sign=None), world.policy(sign=world.reference("second"))):
        with pytest.raises((ConflictError, NotTrustedError)):
            world.sign(policy, source=source, sink=file, overwrite=True)
    assert world.verify_single(file).manifest.version == 2


def test_a_statement_without_its_file_is_not_forgotten(world: World) -> None:
    file, source = world.root / "one.parquet", world.raw / "a.parquet"
    world.sign(source=source, sink=file)
    file.unlink()
    with pytest.raises(SinkNotEmptyError):
        world.sign(source=source, sink=file)
    with pytest.raises(ConflictError):
        world.sign(world.policy(sign=None), source=source, sink=file)
    assert not file.exists()
    assert world.sign(source=source, sink=file, overwrite=True).signed[0].version == 2


def test_a_statement_of_another_file_is_not_continued(world: World) -> None:
    source = world.raw / "a.parquet"
    world.sign(source=source, sink=world.root / "one.parquet")
    os.replace(world.root / "one.parquet.sig.json", world.root / "two.parquet.sig.json")
    with pytest.raises(IntegrityError):
        world.sign(source=source, sink=world.root / "two.parquet", overwrite=True)


def test_a_statement_replaces_the_one_that_was_read_and_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.sign()
    place = world.out / MANIFEST_PATH
    real = LocalStore.replace

    def late(store: LocalStore, data: bytes, path: str = "", *, expected: Revision | None) -> None:
        place.write_bytes(place.read_bytes() + b"\n")  # another run publishes a moment before
        real(store, data, path, expected=expected)

    monkeypatch.setattr(LocalStore, "replace", late)
    with pytest.raises(ConflictError):
        world.sign(overwrite=True)
    monkeypatch.undo()
    assert world.verify().manifest.version == 1
