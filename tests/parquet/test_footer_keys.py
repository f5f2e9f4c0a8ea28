"""What a footer says about keys and encryption, without a key; and what it cannot be made to say."""

from __future__ import annotations

import json
import os

import pyarrow as pa
import pytest

from pipecrypt.parquet.files import encrypt_file, open_table_view
from pipecrypt.parquet.footer.keys import FooterColumn, FooterEncryption, KeyNames, observe_encryption, read_key_names
from pipecrypt.parquet.footer.stored import read_stored_footer
from pipecrypt.parquet.policy import ColumnRule, EncryptionPolicy, FooterMode, KeyScope
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.secret import DataKey
from tests.parquet.blob_world import seal
from tests.parquet.world import (
    MemorySink,
    MemorySource,
    RandomKeys,
    all_columns,
    encrypt,
    no_row_groups,
    parquet_bytes,
    sample_table,
)

_LONG_ID = "arn:" + "x" * 600


class _NamedKeys(RandomKeys):
    """Keys whose metadata is PKMT1 JSON, under one KEK for each master key."""

    def new_data_key(self, key_reference: str, context: Context) -> tuple[DataKey, bytes]:
        key, _ = super().new_data_key(key_reference, context)
        wrapped = os.urandom(8).hex()
        metadata = _material(
            masterKeyID=key_reference, keyEncryptionKeyID=f"kek of {key_reference}", wrappedDEK=wrapped
        )
        self.by_metadata[metadata] = (bytes(key.expose_key_bytes()), context)
        return key, metadata


def _material(**members: object) -> bytes:
    return json.dumps({"keyMaterialType": "PKMT1", **members}).encode()


def _observed(data: bytes, policy: EncryptionPolicy) -> FooterEncryption:
    sink = MemorySink()
    context = Context("ab" * 16, "a/b.parquet")
    encrypt_file(MemorySource(data), sink, policy, keys=_NamedKeys(), context=context)
    return observe_encryption(read_stored_footer(MemorySource(bytes(sink.data))), "memory.parquet")


@pytest.mark.parametrize("scope", KeyScope)
def test_columns_and_keys_are_told_in_full(scope: KeyScope) -> None:
    rules = (ColumnRule("email", _LONG_ID), ColumnRule("customer.age", "crm"))
    policy = EncryptionPolicy(rules=rules, footer_key="footer", data_keys=scope)
    seen = _observed(parquet_bytes(sample_table(100), row_group_size=30), policy)
    assert (seen.mode, seen.footer_key_ids) == (FooterMode.PLAINTEXT, ("footer",))
    assert (seen.dataset_id, seen.path) == ("ab" * 16, "a/b.parquet")
    assert seen.kek_ids == (f"kek of {_LONG_ID}", "kek of crm", "kek of footer")
    assert seen.columns is not None
    encrypted = {column.path: column for column in seen.columns if column.is_encrypted}
    assert encrypted[("email",)].master_key_ids == (_LONG_ID,)
    assert encrypted[("customer", "age")].master_key_ids == ("crm",)
    assert len(encrypted) == 2
    assert len(seen.columns) == 6


def test_columns_under_the_footers_data_key_name_its_master_key() -> None:
    seen = _observed(parquet_bytes(pa.table({"a": [1]})), EncryptionPolicy(default="k", footer_key="f", uniform=True))
    column = FooterColumn(("a",), is_encrypted=True, master_key_ids=("f",))
    assert seen.columns == (column,)
    assert seen.kek_ids == ("kek of f",)


def test_an_encrypted_footer_hides_columns() -> None:
    seen = _observed(parquet_bytes(sample_table(10)), all_columns(FooterMode.ENCRYPTED))
    assert (seen.mode, seen.columns, seen.footer_key_ids) == (FooterMode.ENCRYPTED, None, ("master",))
    assert seen.kek_ids == ("kek of master",)
    chunks, _ = seal(b"x" * 5000, _NamedKeys())
    seen = observe_encryption(read_stored_footer(MemorySource(chunks)), "x.bin")
    assert (seen.mode, seen.columns, seen.path) == (FooterMode.ENCRYPTED, None, "x.bin")


def test_plaintext_files_and_files_without_a_prefix() -> None:
    plain = parquet_bytes(sample_table(10))
    seen = observe_encryption(read_stored_footer(MemorySource(plain)), "memory.parquet")
    assert (seen.mode, seen.dataset_id, seen.kek_ids) == (None, None, ())
    assert seen.columns is not None
    assert not any(column.is_encrypted for column in seen.columns)
    assert _observed(plain, EncryptionPolicy(default="k", bind_path=False)).path is None


def test_a_file_without_row_groups_proves_nothing_of_its_columns() -> None:
    seen = _observed(no_row_groups(pa.schema([("a", pa.int64())])), all_columns())
    assert seen.columns == ()


def test_keys_that_name_nothing_are_told() -> None:
    data = encrypt(parquet_bytes(sample_table(10)), all_columns(), RandomKeys())
    seen = observe_encryption(read_stored_footer(MemorySource(data)), "memory.parquet")
    assert seen.footer_key_ids == ()
    assert seen.columns is not None
    assert all(column.is_encrypted and not column.master_key_ids for column in seen.columns)


@pytest.mark.parametrize("open_chunks", [0, 10_000])
def test_looking_changes_nothing_for_who_opens_the_file_next(open_chunks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipecrypt.parquet.footer.row_groups._OPEN_CHUNKS", open_chunks)
    keys, seen = RandomKeys(), list[FooterEncryption]()
    data = encrypt(parquet_bytes(sample_table(100), row_group_size=30), all_columns(), keys)
    stored = read_stored_footer(MemorySource(data))
    seen.append(observe_encryption(stored, "x"))
    with open_table_view(MemorySource(data), keys=keys, stored=stored) as view:
        looked_at = bytes(view.read_range(0, view.size_bytes))
    with open_table_view(MemorySource(data), keys=keys) as view:
        assert bytes(view.read_range(0, view.size_bytes)) == looked_at
    assert seen[0].mode is FooterMode.PLAINTEXT


@pytest.mark.parametrize(
    ("key_metadata", "names"),
    [
        (_material(masterKeyID="m", keyEncryptionKeyID="k", pipecrypt={"commitment": ""}), KeyNames("m", "k", True)),
        (_material(masterKeyID="m"), KeyNames("m")),
        (_material(masterKeyID="m", keyEncryptionKeyID=5, pipecrypt=[]), KeyNames("m")),
        (_material(internalStorage=False, keyReference="r"), KeyNames()),
        (b'{"keyMaterialType":"PKMT1","masterKeyID":"a","masterKeyID":"b"}', KeyNames()),
        (b'{"keyMaterialType":"PKMT2","masterKeyID":"a"}', KeyNames()),
        (b'{"keyMaterialType":"PKMT1","masterKeyID":"\\ud800"}', KeyNames()),
        (_material(masterKeyID="m" * 5000), KeyNames()),
        (_material(masterKeyID="m", other="x" * 70_000), KeyNames()),
        (b"[" * 60_000, KeyNames()),
        (b"\xff\xfe", KeyNames()),
        (b"", KeyNames()),
    ],
)
def test_key_metadata_names_keys_or_nothing(key_metadata: bytes, names: KeyNames) -> None:
    assert read_key_names(key_metadata) == names
