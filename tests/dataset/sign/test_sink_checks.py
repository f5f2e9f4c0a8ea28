"""What would make a signed statement false is refused before anything is written."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from pipecrypt.dataset.sign import sink_checks
from pipecrypt.dataset.statement.paths import MANIFEST_PATH, signature_path
from pipecrypt.errors import ConflictError, NotTrustedError, SourceNotFoundError, StorageError
from pipecrypt.runs.files import decrypt
from pipecrypt.runs.plan.preview import report_plan
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.runs.verifying import verify
from pipecrypt.runs.writer import ParquetWriter, encrypt_batches
from pipecrypt.store.local import LocalStore
from pipecrypt.store.location import Location
from pipecrypt.store.protocol import Entry
from tests.dataset.written import World, people, tree


@pytest.fixture
def signed(world: World) -> World:
    world.sign()
    return world


def _bytes(base: Path) -> dict[str, bytes]:
    return {path: (base / path).read_bytes() for path in tree(base)}


def test_an_unsigned_run_into_a_signed_dataset(signed: World) -> None:
    before = _bytes(signed.out)
    for options in ({}, {"overwrite": True}, {"workers": 2, "overwrite": True}):
        with pytest.raises(ConflictError) as caught:
            signed.sign(signed.policy(sign=None), **options)
        assert "sign it" in caught.value.hint
    assert _bytes(signed.out) == before


@pytest.mark.parametrize("name", ["", "day=1", "a.parquet", "deep/er/x.parquet"])
@pytest.mark.parametrize("is_whole", [True, False])
def test_a_statement_that_was_removed_lets_nobody_write_unsigned(signed: World, name: str, is_whole: bool) -> None:
    """Whoever can remove it, or all of the dataset, would turn off what keeps such a run out."""
    if is_whole:
        shutil.rmtree(signed.out)
    else:
        (signed.out / MANIFEST_PATH).unlink()
    before = _bytes(signed.out) if signed.out.exists() else {}
    policy, source = signed.policy(sign=None), signed.raw / "a.parquet" if name.endswith(".parquet") else signed.raw
    with pytest.raises(NotTrustedError):
        signed.sign(policy, source=source, sink=signed.out / name, overwrite=True)
    if name.endswith(".parquet"):
        with pytest.raises(NotTrustedError):
            ParquetWriter(signed.out / name, people().schema, policy, overwrite=True, credentials=signed.credentials)
    assert (_bytes(signed.out) if signed.out.exists() else {}) == before
    verify_forgets(signed)
    signed.sign(policy, source=source, sink=signed.out / name, overwrite=True)


def verify_forgets(world: World) -> None:
    """Say that the statement was removed on purpose."""
    with pytest.raises((NotTrustedError, SourceNotFoundError)):
        verify(world.out, trust=[world.reference("signing")], forget=True, credentials=world.credentials)


def test_a_statement_that_was_removed_from_beside_a_file(world: World) -> None:
    file = world.root / "x.parquet"
    world.sign(source=world.raw / "a.parquet", sink=file)
    file.with_name(signature_path(file.name)).unlink()
    with pytest.raises(NotTrustedError):
        world.sign(world.policy(sign=None), source=world.raw / "a.parquet", sink=file, overwrite=True)


@pytest.mark.parametrize("overwrite", [True, False])
def test_decrypting_into_a_signed_dataset(signed: World, overwrite: bool) -> None:
    signed.sign(sink=signed.root / "other")
    for source, sink in ((signed.root / "other", signed.out), (signed.root / "other/a.parquet", signed.out / "x")):
        with pytest.raises(ConflictError):
            decrypt(source, sink, [signed.reference("pii")], overwrite=overwrite, credentials=signed.credentials)


@pytest.mark.parametrize("name", ["x.parquet", "a.parquet", "deep/er/x.parquet", "day=1/b.parquet"])
@pytest.mark.parametrize("is_signed", [True, False])
def test_a_file_inside_a_signed_dataset(signed: World, name: str, is_signed: bool) -> None:
    before = _bytes(signed.out)
    policy = signed.policy() if is_signed else signed.policy(sign=None)
    with pytest.raises(ConflictError):
        signed.sign(policy, source=signed.raw / "a.parquet", sink=signed.out / name, overwrite=True)
    with pytest.raises(ConflictError):
        signed.sign(policy, sink=signed.out / "deep")
    with pytest.raises(ConflictError):
        ParquetWriter(signed.out / name, people().schema, policy, overwrite=True, credentials=signed.credentials)
    with pytest.raises(ConflictError):
        encrypt_batches(people(), signed.out / name, policy, overwrite=True, credentials=signed.credentials)
    assert _bytes(signed.out) == before


def test_a_signed_file_among_those_of_an_unsigned_run(world: World) -> None:
    world.sign(source=world.raw / "a.parquet", sink=world.out / "a.parquet")
    unsigned = world.policy(sign=None)
    with pytest.raises(ConflictError) as caught:
        world.sign(unsigned, overwrite=True)
    assert "a.parquet" in caught.value.message
    with pytest.raises(ConflictError):  # a dataset would hold a file that it does not sign: the statement
        world.sign(overwrite=True)
    world.sign(unsigned, source=world.raw / "day=1", overwrite=True)
    world.verify_single(world.out / "a.parquet")


def test_a_storage_that_does_not_let_look_above(
    signed: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(store: LocalStore, path: str = "") -> Entry:
        raise StorageError("denied")

    monkeypatch.setattr(LocalStore, "stat", refuse)
    with caplog.at_level(logging.DEBUG, "pipecrypt"):
        sink_checks.check_outside_datasets(Location(str(signed.out / "x")))
    assert "denied" in caplog.text


def test_a_writer_signs_beside_its_file(world: World) -> None:
    file = world.root / "one.parquet"
    for version in (1, 2):
        policy, overwrite = world.policy(batch_rows=30), version == 2
        with ParquetWriter(file, people().schema, policy, overwrite=overwrite, credentials=world.credentials) as writer:
            writer.write_table(people())
            assert not Path(f"{file}.sig.json").exists() or overwrite
        assert writer.summary is not None
        assert [signed.version for signed in writer.summary.signed] == [version]
        assert world.verify_single(file).manifest.version == version


def test_a_writer_that_fails_signs_nothing(world: World) -> None:
    file = world.root / "one.parquet"
    writer = ParquetWriter(file, people().schema, world.policy(), credentials=world.credentials)
    writer.write_table(people())
    writer.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert not {path for path in tree(world.root) if path.startswith("one.parquet")}


def test_a_writer_of_no_rows(world: World) -> None:
    file = world.root / "one.parquet"
    ParquetWriter(file, people().schema, world.policy(), credentials=world.credentials).close()
    entry = world.verify_single(file).manifest.single_file
    assert entry is not None
    assert entry.rows == 0


@pytest.mark.parametrize("max_file_bytes", [None, 1])
def test_batches_are_signed_file_by_file(world: World, max_file_bytes: int | None) -> None:
    policy, sink = world.policy(batch_rows=30), world.root / "one.parquet"
    names = ["one.parquet"] if max_file_bytes is None else [f"one-{index:05}.parquet" for index in range(4)]
    for version in (1, 2):
        summary = encrypt_batches(
            people(), sink, policy, max_file_bytes=max_file_bytes, overwrite=True, credentials=world.credentials
        )
        assert [signed.path for signed in summary.signed] == [f"{world.root}/{name}.sig.json" for name in names]
        assert {signed.version for signed in summary.signed} == {version}
        assert len({world.verify_single(world.root / name).manifest.dataset_id for name in names}) == 1
    with pytest.raises(ConflictError):
        encrypt_batches(
            people(),
            sink,
            world.policy(sign=None),
            max_file_bytes=max_file_bytes,
            overwrite=True,
            credentials=world.credentials,
        )


def test_files_of_several_datasets_are_not_continued_as_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPECRYPT_STATE_DIR", "")  # a statement is removed, and nobody remembers it
    policy, sink = world.policy(batch_rows=50), world.root / "one.parquet"
    options = {"max_file_bytes": 1, "overwrite": True, "credentials": world.credentials}
    encrypt_batches(people(), sink, policy, **options)  # type: ignore[arg-type]
    one = pa.table(people())
    encrypt_batches(one, world.root / "one-00001.parquet", policy, overwrite=True, credentials=world.credentials)
    (world.root / "one-00000.parquet.sig.json").unlink()
    encrypt_batches(one, world.root / "one-00000.parquet", policy, overwrite=True, credentials=world.credentials)
    with pytest.raises(ConflictError):
        encrypt_batches(people(), sink, policy, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("is_signed", [True, False])
@pytest.mark.parametrize("overwrite", [True, False])
def test_nothing_is_written_around_a_signed_dataset(world: World, is_signed: bool, overwrite: bool) -> None:
    inner = world.out / "day=1"
    world.sign(source=world.raw / "day=1", sink=inner)
    before = _bytes(world.out)
    policy = world.policy() if is_signed else world.policy(sign=None)
    with pytest.raises(ConflictError):
        world.sign(policy, overwrite=overwrite)
    assert _bytes(world.out) == before
    if is_signed and overwrite:
        request = EncryptSpec(
            source=Location(str(world.raw)), sink=Location(str(world.out)), policy=policy, overwrite=overwrite
        )
        assert "signed dataset" in "".join(report_plan(request).conflicts)


@pytest.mark.parametrize("is_signed", [True, False])
def test_a_link_into_a_signed_dataset(signed: World, is_signed: bool) -> None:
    (signed.root / "link").symlink_to(signed.out / "day=1")
    before = _bytes(signed.out)
    policy = signed.policy() if is_signed else signed.policy(sign=None)
    for sink in (signed.root / "link", signed.root / "link" / "new.parquet", signed.root / "link" / "deep" / "er"):
        source = signed.raw / "a.parquet" if sink.suffix else signed.raw
        with pytest.raises(ConflictError, match="lies inside"):
            signed.sign(policy, source=source, sink=sink, overwrite=True)
    assert _bytes(signed.out) == before
