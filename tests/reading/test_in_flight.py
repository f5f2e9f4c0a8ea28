"""One batch as bytes and back: equal, self-contained, with keys of its own, and refused when changed."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipecrypt as pc
from pipecrypt.errors import (
    AccessError,
    FormatError,
    IntegrityError,
    KeyNotFoundError,
    NotEncryptedError,
    PipecryptError,
    UsageError,
)
from pipecrypt.keys.session import FileKeys, KeySession
from pipecrypt.parquet.files import TableView, open_table_view
from pipecrypt.parquet.footer.stored import parse_footer, read_footer_bytes, read_sealed_footer
from pipecrypt.parquet.wire.fields import EncryptionAlgorithm, FileMetaData
from pipecrypt.parquet.wire.thrift import Struct, WireType, encode_struct
from pipecrypt.reading import in_flight
from pipecrypt.vocabulary.ranges import MemorySource
from tests.parquet.world import parquet_bytes
from tests.reading.world import CREDENTIALS, Keys

BATCH = pa.record_batch({"id": [1, 2, 3], "email": ["PLANTED-a", None, "PLANTED-c"]})


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    yield Keys(tmp_path)
    in_flight._SESSIONS.forget()


def test_there_and_back(keys: Keys) -> None:
    for policy in (
        pc.Policy(default=keys.open),
        pc.Policy(default=keys.open, footer="encrypted"),
        pc.Policy(columns={"email": keys.open}, data_keys="file"),
        pc.Policy(default=keys.open, uniform=True),
    ):
        data = pc.encrypt_bytes(BATCH, policy, credentials=CREDENTIALS)
        assert b"PLANTED" not in data
        back = pc.decrypt_bytes(data, [keys.open], credentials=CREDENTIALS)
        assert isinstance(back, pa.RecordBatch)
        assert back.equals(BATCH)
        properties = pc.decryption_properties(keys=[keys.open], credentials=CREDENTIALS)
        assert pq.read_table(io.BytesIO(data), decryption_properties=properties).to_batches()[0].equals(BATCH)


def test_tables_frames_and_nothing(keys: Keys) -> None:
    policy = pc.Policy(default=keys.open, batch_rows=2)
    for value in (
        pa.Table.from_batches([BATCH, BATCH]),
        pd.DataFrame({"id": [1], "email": ["x"]}),
        pl.DataFrame({"id": [1], "email": ["x"]}),
        BATCH.slice(0, 0),
    ):
        back = pc.decrypt_bytes(
            pc.encrypt_bytes(value, policy, credentials=CREDENTIALS), [keys.open], credentials=CREDENTIALS
        )
        expected = pl.DataFrame(pa.table(BATCH.slice(0, 0)) if value is BATCH else value)
        assert pl.DataFrame(pa.Table.from_batches([back])).equals(expected)


def test_many_batches_make_one_call_and_new_keys_each(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions: list[KeySession] = []
    make = KeySession.__init__

    def remember(self: KeySession, *arguments: object, **options: object) -> None:
        make(self, *arguments, **options)  # type: ignore[arg-type]
        sessions.append(self)

    monkeypatch.setattr(KeySession, "__init__", remember)
    policy = pc.Policy(default=keys.open)
    sealed = [pc.encrypt_bytes(BATCH, policy, credentials=CREDENTIALS) for _ in range(50)]
    for data in sealed:
        pc.decrypt_bytes(data, [keys.open], credentials=CREDENTIALS)
    assert [session.service_calls for session in sessions] == [1, 1]
    assert len(set(sealed)) == 50


def test_from_several_threads(keys: Keys) -> None:
    policy, failures = pc.Policy(default=keys.open), list[BaseException]()

    def work() -> None:
        try:
            for _ in range(20):
                data = pc.encrypt_bytes(BATCH, policy, credentials=CREDENTIALS)
                assert pc.decrypt_bytes(data, [keys.open], credentials=CREDENTIALS).equals(BATCH)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_the_environment_decides_which_keys_open(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPECRYPT_PASSPHRASE", CREDENTIALS.environ["PIPECRYPT_PASSPHRASE"])
    data = pc.encrypt_bytes(BATCH, pc.Policy(default=keys.open))
    assert pc.decrypt_bytes(data, [keys.open]).equals(BATCH)
    monkeypatch.setenv("PIPECRYPT_PASSPHRASE", "wrong")
    with pytest.raises(AccessError):
        pc.decrypt_bytes(data, [keys.open])


def test_a_changed_or_missing_byte_never_gives_another_batch(keys: Keys) -> None:
    data = pc.encrypt_bytes(BATCH, pc.Policy(default=keys.open, footer="encrypted"), credentials=CREDENTIALS)
    noticed = 0
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 0x10
        try:
            # What remains are bytes that name no value, such as members of the key material that nobody needs.
            assert pc.decrypt_bytes(changed, [keys.open], credentials=CREDENTIALS).equals(BATCH)
        except PipecryptError:
            noticed += 1
    assert noticed > len(data) * 0.9
    for length in range(0, len(data), 7):
        with pytest.raises((FormatError, IntegrityError)):
            pc.decrypt_bytes(data[:length], [keys.open], credentials=CREDENTIALS)


def test_what_cannot_be(keys: Keys) -> None:
    data = pc.encrypt_bytes(BATCH, pc.Policy(columns={"email": keys.secret}), credentials=CREDENTIALS)
    with pytest.raises(KeyNotFoundError):
        pc.decrypt_bytes(data, [keys.open], credentials=CREDENTIALS)
    with pytest.raises(NotEncryptedError):
        pc.decrypt_bytes(parquet_bytes(pa.table(BATCH)), [keys.open], credentials=CREDENTIALS)
    with pytest.raises(FormatError):
        pc.decrypt_bytes(b"no", [keys.open], credentials=CREDENTIALS)
    with pytest.raises(UsageError, match="not bytes"):
        pc.decrypt_bytes("text", [keys.open], credentials=CREDENTIALS)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        pc.encrypt_bytes(b"no batch", pc.Policy(default=keys.open), credentials=CREDENTIALS)
    with pytest.raises(UsageError):
        pc.encrypt_bytes(BATCH, pc.Policy(default=keys.open, mode="chunks"), credentials=CREDENTIALS)
    with pytest.raises(UsageError):
        pc.encrypt_bytes(BATCH, keys.open, credentials=CREDENTIALS)  # type: ignore[arg-type]


def test_sessions_are_few_and_wiped(keys: Keys) -> None:
    policy = pc.Policy(default=keys.open)
    for _ in range(12):
        credentials = type(CREDENTIALS)(CREDENTIALS.environ)
        data = pc.encrypt_bytes(BATCH, policy, credentials=credentials)
    assert len(in_flight._SESSIONS._kept) == 8
    assert pc.decrypt_bytes(data, [keys.open], credentials=CREDENTIALS).equals(BATCH)
    in_flight._SESSIONS.forget()
    assert len(in_flight._SESSIONS._kept) == 0


def test_a_forked_process_begins_anew(keys: Keys) -> None:
    script = f"""
import os, re, threading, pyarrow as pa, pipecrypt as pc
from pipecrypt.reading import in_flight
batch, policy = pa.record_batch({{"id": [1]}}), pc.Policy(default={keys.open!r})
kek = lambda: re.search(rb'"wrappedKEK" *: *"([^"]+)"', pc.encrypt_bytes(batch, policy))[1]
first = kek()
assert kek() == first
lock = in_flight._SESSIONS._lock
threading.Thread(target=lock.acquire).start()  # and it is still held when this process forks
child = os.fork()
if not child:
    os._exit(0 if kek() != first else 1)
status = os.waitpid(child, 0)[1]
lock.release()
assert status == 0 and kek() == first
"""
    environ = {**os.environ, **CREDENTIALS.environ}
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, env=environ, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_bytes_of_a_batch_are_not_signed(keys: Keys) -> None:
    policy = pc.Policy(default=keys.open, sign="pem:///signing.pem")
    with pytest.raises(UsageError):
        pc.encrypt_bytes(pa.table({"a": [1]}), policy, credentials=CREDENTIALS)


def dressed_up(plain: bytes, *, key_metadata: bytes, ctr: bool = False) -> bytes:
    """Return a plaintext file with the header of an encrypted one: no column of it is encrypted, its tag is random."""
    length = int.from_bytes(plain[-8:-4], "little")
    stored = parse_footer(read_footer_bytes(MemorySource(plain, "x")))
    footer, parameters, union = stored.metadata, Struct(), Struct()
    assert footer is not None
    parameters.set(EncryptionAlgorithm.AAD_FILE_UNIQUE, WireType.BINARY, os.urandom(8))
    kind = EncryptionAlgorithm.AES_GCM_CTR_V1 if ctr else EncryptionAlgorithm.AES_GCM_V1
    union.set(kind, WireType.STRUCT, parameters)
    footer.set(FileMetaData.ENCRYPTION_ALGORITHM, WireType.STRUCT, union)
    footer.set(FileMetaData.FOOTER_SIGNING_KEY_METADATA, WireType.BINARY, key_metadata)
    forged = encode_struct(footer) + os.urandom(28)
    return plain[: -8 - length] + forged + len(forged).to_bytes(4, "little") + b"PAR1"


def footer_key_of(message: bytes) -> bytes:
    sealed = read_sealed_footer(MemorySource(message, "x"))
    return sealed.key_metadata


@pytest.mark.parametrize("rows", [3, 0])
@pytest.mark.parametrize("ctr", [False, True])
@pytest.mark.parametrize("key_metadata", [b"", b"nobody's", None])
def test_plaintext_dressed_up_as_encrypted_is_refused(
    keys: Keys, key_metadata: bytes | None, rows: int, *, ctr: bool
) -> None:
    """Its header names a footer key that nobody has, so there is no tag that the reader could check."""
    if key_metadata is None:  # that of a true message, under a key that this reader lacks
        honest = pc.encrypt_bytes(BATCH, pc.Policy(default=keys.secret), credentials=CREDENTIALS)
        key_metadata = footer_key_of(honest)
    plain = io.BytesIO()
    pq.write_table(pa.Table.from_batches([BATCH]).slice(0, rows), plain)
    message = dressed_up(plain.getvalue(), key_metadata=key_metadata, ctr=ctr)
    with pytest.raises((IntegrityError, AccessError)):
        pc.decrypt_bytes(message, [keys.open], credentials=CREDENTIALS)
    for require in (["email"], ["*"], ["id", "email"]):
        with pytest.raises(IntegrityError):
            pc.decrypt_bytes(message, [keys.open], require=require, credentials=CREDENTIALS)


@pytest.mark.parametrize("columns", [["email"], ["id", "email"]])
def test_a_reader_without_the_footer_key_is_shown_nothing(keys: Keys, columns: list[str]) -> None:
    policy = pc.Policy(columns=dict.fromkeys(columns, keys.open), footer_key=keys.secret)
    message = pc.encrypt_bytes(BATCH, policy, credentials=CREDENTIALS)
    for require in (None, ["email"], ["*"], ["card_*"]):
        with pytest.raises(IntegrityError):
            pc.decrypt_bytes(message, [keys.open], require=require, credentials=CREDENTIALS)
    back = pc.decrypt_bytes(message, [keys.open, keys.secret], require=["email"], credentials=CREDENTIALS)
    assert back.equals(BATCH)


def _another_scale(footer: Struct) -> None:
    amount = footer.structs(FileMetaData.SCHEMA)[1]
    amount.remove(_LOGICAL_TYPE)
    amount.set(_SCALE, WireType.I32, 0)


def _no_moment(footer: Struct) -> None:
    moment = footer.structs(FileMetaData.SCHEMA)[2]
    moment.remove(_LOGICAL_TYPE)
    moment.remove(_CONVERTED_TYPE)


def _fewer_batches(footer: Struct) -> None:
    footer.structs(FileMetaData.ROW_GROUPS).pop()


_CONVERTED_TYPE, _SCALE, _LOGICAL_TYPE = 6, 7, 10  # of a SchemaElement


@pytest.mark.parametrize("change", [_another_scale, _no_moment, _fewer_batches])
@pytest.mark.parametrize("require", [None, ["*"]])
def test_a_footer_that_nobody_checks_changes_no_value(
    keys: Keys, change: Callable[[Struct], None], require: list[str] | None
) -> None:
    """All columns of a true message stay as they were encrypted. Its footer names a key that nobody has."""
    amounts, moments = pa.array([1, 2], pa.decimal128(9, 2)), pa.array([1, 2], pa.timestamp("ms"))
    batch = pa.record_batch({"amount": amounts, "at": moments})
    policy = pc.Policy(default=keys.open, batch_rows=1)
    message = pc.encrypt_bytes(batch, policy, credentials=CREDENTIALS)
    assert pc.decrypt_bytes(message, [keys.open], require=require, credentials=CREDENTIALS).equals(batch)
    found = parse_footer(read_footer_bytes(MemorySource(message, "x")))
    assert found.metadata is not None
    found.metadata.set(FileMetaData.FOOTER_SIGNING_KEY_METADATA, WireType.BINARY, b"nobody's")
    change(found.metadata)
    footer = encode_struct(found.metadata) + os.urandom(28)
    forged = message[: found.body_end] + footer + len(footer).to_bytes(4, "little") + b"PAR1"
    with pytest.raises(IntegrityError, match="nothing shows"):
        pc.decrypt_bytes(forged, [keys.open], require=require, credentials=CREDENTIALS)


def test_a_writer_with_the_key_who_leaves_a_column_in_plaintext_is_told_apart_by_require(keys: Keys) -> None:
    message = pc.encrypt_bytes(BATCH, pc.Policy(columns={"id": keys.open}), credentials=CREDENTIALS)
    assert pc.decrypt_bytes(message, [keys.open], credentials=CREDENTIALS).equals(BATCH)
    with pytest.raises(IntegrityError, match="'email' of the batch is not encrypted"):
        pc.decrypt_bytes(message, [keys.open], require=["email"], credentials=CREDENTIALS)


@pytest.mark.parametrize("footer", ["plaintext", "encrypted"])
def test_no_byte_of_a_column_in_plaintext_changes_unnoticed(keys: Keys, footer: str) -> None:
    """Else a page of a few bytes could say that it holds gigabytes: who decodes it believes that."""
    batch = pa.record_batch({"id": list(range(50)), "email": ["a"] * 50})
    policy = pc.Policy(columns={"email": keys.open}, footer=footer, unlisted="plaintext")
    message = pc.encrypt_bytes(batch, policy, credentials=CREDENTIALS)
    with KeySession([keys.open], credentials=CREDENTIALS) as session, _view(message, session) as view:
        footer_bytes = pa.BufferReader(view.read_range(0, view.size_bytes))
        plain = pq.read_metadata(footer_bytes).row_group(0).column(0)
    start = plain.dictionary_page_offset or plain.data_page_offset
    for at in range(start, start + plain.total_compressed_size):
        changed = bytearray(message)
        changed[at] ^= 0x10
        with pytest.raises(IntegrityError):
            pc.decrypt_bytes(changed, [keys.open], credentials=CREDENTIALS)
    assert pc.decrypt_bytes(message, [keys.open], credentials=CREDENTIALS).equals(batch)


def _view(message: bytes, session: KeySession) -> TableView:
    return open_table_view(MemorySource(message, "message"), keys=FileKeys(session))


def test_an_empty_batch_and_its_required_columns(keys: Keys) -> None:
    empty = BATCH.slice(0, 0)
    message = pc.encrypt_bytes(empty, pc.Policy(default=keys.open), credentials=CREDENTIALS)
    back = pc.decrypt_bytes(message, [keys.open], require=["email"], credentials=CREDENTIALS)
    assert back.schema == BATCH.schema


def test_columns_with_the_same_name(keys: Keys) -> None:
    """Whatever can be encrypted comes back."""
    twice = pa.RecordBatch.from_arrays([pa.array([1, 2]), pa.array(["PLANTED", "b"])], names=["x", "x"])
    for policy in (pc.Policy(default=keys.open), pc.Policy(columns={"x": keys.open}, footer="encrypted")):
        data = pc.encrypt_bytes(twice, policy, credentials=CREDENTIALS)
        assert b"PLANTED" not in data
        assert pc.decrypt_bytes(data, [keys.open], credentials=CREDENTIALS).equals(twice)


@pytest.mark.parametrize("require", ["email", [], [1]])
def test_what_require_cannot_be(keys: Keys, require: object) -> None:
    message = pc.encrypt_bytes(BATCH, pc.Policy(default=keys.open), credentials=CREDENTIALS)
    with pytest.raises(UsageError):
        pc.decrypt_bytes(message, [keys.open], require=require, credentials=CREDENTIALS)  # type: ignore[arg-type]


def test_files_that_are_dressed_up_decrypt_to_nothing(keys: Keys, tmp_path: Path) -> None:
    """`decrypt` needs the footer's key, so plaintext with the header of an encrypted file becomes no output."""
    plain = io.BytesIO()
    pq.write_table(pa.Table.from_batches([BATCH]), plain)
    honest = pc.encrypt_bytes(BATCH, pc.Policy(default=keys.secret), credentials=CREDENTIALS)
    for number, key_metadata in enumerate((b"", b"nobody's", footer_key_of(honest))):
        file, out = tmp_path / f"{number}.parquet", tmp_path / f"{number}.out"
        file.write_bytes(dressed_up(plain.getvalue(), key_metadata=key_metadata))
        with pytest.raises(AccessError):
            pc.decrypt(file, out, [keys.open], credentials=CREDENTIALS)
        assert not out.exists()
    own = pc.encrypt_bytes(BATCH, pc.Policy(default=keys.open), credentials=CREDENTIALS)
    (tmp_path / "own.parquet").write_bytes(dressed_up(plain.getvalue(), key_metadata=footer_key_of(own)))
    with pytest.raises(IntegrityError):  # a key that opens, and a tag that was never made with it
        pc.decrypt(tmp_path / "own.parquet", tmp_path / "own.out", [keys.open], credentials=CREDENTIALS)
    with pytest.raises(IntegrityError):
        pc.decrypt_bytes((tmp_path / "own.parquet").read_bytes(), [keys.open], credentials=CREDENTIALS)
