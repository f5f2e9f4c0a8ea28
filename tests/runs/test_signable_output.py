from __future__ import annotations

import hashlib
from typing import cast

import pytest

from pipecrypt.crypto.digest import DigestAlgorithm, digest
from pipecrypt.errors import StorageError, UsageError
from pipecrypt.keys.session import KeySession
from pipecrypt.parquet.carry.writing import copies_ranges
from pipecrypt.parquet.policy import ColumnRule, EncryptionPolicy
from pipecrypt.parquet.report import FileReport, SealedColumn
from pipecrypt.runs.output import DigestingSink, SignableOutput
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.store.publication import Publication
from pipecrypt.vocabulary.context import Context
from tests.runs.conftest import World


class _Sink:
    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.data += data

    def copy_range(self, descriptor: int, start: int, length: int) -> None:
        raise AssertionError("nobody sees these bytes")


class _FullSink:
    def write(self, data: bytes | bytearray | memoryview) -> None:
        raise StorageError("the disk is full")


@pytest.mark.parametrize("algorithm", DigestAlgorithm)
def test_it_digests_what_it_passes_on(algorithm: DigestAlgorithm) -> None:
    inner = _Sink()
    sink = DigestingSink(inner, algorithm)
    buffer = bytearray(b"one")
    sink.write(buffer)
    buffer[:] = b"two"  # which may be used again after the call
    sink.write(memoryview(buffer))
    sink.write(b"")

    assert bytes(inner.data) == b"onetwo"
    assert sink.hexdigest() == digest(b"onetwo", algorithm)


def test_it_copies_no_ranges() -> None:
    assert copies_ranges(_Sink())
    assert not copies_ranges(DigestingSink(_Sink(), DigestAlgorithm.SHA256))


def test_errors_of_the_sink_pass_through() -> None:
    with pytest.raises(StorageError):
        DigestingSink(_FullSink(), DigestAlgorithm.SHA256).write(b"x")


def _session(world: World) -> KeySession:
    return KeySession((world.key,), credentials=world.credentials, dataset_id=None)


def _report(**options: object) -> FileReport:
    given: dict[str, object] = {
        "rows": 1,
        "batches": 1,
        "data_keys": 2,
        "source_bytes": 3,
        "sink_bytes": 4,
        "encrypted_columns": 1,
        "footer_sha256": "0" * 64,
    }
    return FileReport(**{**given, **options})  # type: ignore[arg-type]


def test_without_a_digest_nothing_stands_in_between(world: World) -> None:
    sink = open_store(Location(str(world.out / "x"))).write(overwrite=False)
    with _session(world) as session:
        output = SignableOutput(sink, session, EncryptionPolicy(default=world.key))
        assert output.sink is sink
        assert output.keys is session
        assert output.note("x", _report()) == ()


def test_a_file_is_noted_with_its_keys(world: World) -> None:
    policy, inner = EncryptionPolicy(default=world.key, digest=DigestAlgorithm.SHA256), _Sink()
    with _session(world) as session:
        output = SignableOutput(cast("Publication", inner), session, policy)
        output.sink.write(b"data")
        output.keys.new_data_key(world.key, Context("0" * 32, "x"))
        (noted,) = output.note("x", _report(sealed_columns=(SealedColumn(("a",), world.key),)))
        master_key_id = session.master_key_id(world.key)

    assert noted.entry.sha256 == hashlib.sha256(b"data").hexdigest()
    assert (noted.entry.path, noted.entry.size_bytes, noted.entry.rows, noted.entry.blake3) == ("x", 4, 1, None)
    assert len(noted.entry.kek_ids) == 1
    assert noted.promise.other_key_ids == noted.promise.footer_key_ids == (master_key_id,)
    assert noted.promise.columns == ()


def test_what_a_statement_cannot_hold(world: World) -> None:
    policy = EncryptionPolicy(rules=(ColumnRule("a", world.key),), digest=DigestAlgorithm.SHA256)
    with _session(world) as session:
        output = SignableOutput(cast("Publication", _Sink()), session, policy)
        sealed = (SealedColumn(("a",), world.key),)
        assert output.note("x", _report(sealed_columns=sealed))
        with pytest.raises(UsageError):
            output.note("_pipecrypt/x", _report(sealed_columns=sealed))
        with pytest.raises(UsageError):
            output.note("x", _report(sealed_columns=(SealedColumn(tuple("a" * 65), world.key),)))
