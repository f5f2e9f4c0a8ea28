"""Ids of tasks: equal for the same work, different for any other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from pipecrypt.formats.options import EncodeOptions
from pipecrypt.parquet.policy import ColumnRule, EncryptionPolicy, FooterMode
from pipecrypt.runs.kinds.blob import BlobEncryption
from pipecrypt.runs.kinds.decrypt import Decryption
from pipecrypt.runs.kinds.encrypt import Encryption
from pipecrypt.runs.kinds.ingest import Ingestion
from pipecrypt.runs.spec.options import Reading
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.task import Kind, task_ids
from pipecrypt.store.location import Location
from pipecrypt.store.protocol import SourceFile

_POLICY = EncryptionPolicy(rules=(ColumnRule("email", "static://1#pii"),))
_SOURCE = SourceFile(Location("/in/a.parquet"), "a.parquet", 10, "10-1-2")
_KIND = Encryption(_POLICY)


def task_id(source: SourceFile, path: str, kind: Kind, spellings: Mapping[str, str] | None = None) -> str:
    return task_ids(spellings or {})(source, path, kind)


def _ingestion(**options: str) -> Ingestion:
    reading = Reading(**options).of("a.csv", "a.csv")  # type: ignore[arg-type]
    return Ingestion(_POLICY, reading, EncodeOptions(), None)


def test_the_same_work_has_the_same_id() -> None:
    moved = replace(_SOURCE, location=Location("/elsewhere/a.parquet"), mode=0o600)
    assert task_id(_SOURCE, "a.parquet", _KIND) == task_id(moved, "a.parquet", _KIND)
    optional = EncryptionPolicy(rules=(ColumnRule("email", "static://1#pii", is_optional=True),))
    assert task_id(_SOURCE, "a.parquet", replace(_KIND, policy=optional)) == task_id(_SOURCE, "a.parquet", _KIND)


@pytest.mark.parametrize(
    ("source", "path", "kind"),
    [
        (replace(_SOURCE, fingerprint="10-1-3"), "a.parquet", _KIND),
        (replace(_SOURCE, size_bytes=11), "a.parquet", _KIND),
        (replace(_SOURCE, relative_path="b.parquet"), "a.parquet", _KIND),
        (_SOURCE, "b.parquet", _KIND),
        (_SOURCE, "a.parquet", replace(_KIND, row_groups=range(2))),
        (_SOURCE, "a.parquet", replace(_KIND, policy=replace(_POLICY, footer=FooterMode.ENCRYPTED))),
        (_SOURCE, "a.parquet", replace(_KIND, policy=EncryptionPolicy(rules=(ColumnRule("email", "x://y"),)))),
        (_SOURCE, "a.parquet", BlobEncryption(_POLICY, 1, compress=False)),
        (_SOURCE, "a.parquet", Decryption(None)),
        (_SOURCE, "a.parquet", Decryption(b"prefix")),
        (_SOURCE, "a.parquet", _ingestion()),
        (_SOURCE, "a.parquet", _ingestion(delimiter=";")),
    ],
)
def test_any_other_work_has_another_id(source: SourceFile, path: str, kind: Kind) -> None:
    ids = {task_id(source, path, kind), task_id(_SOURCE, "a.parquet", _KIND)}
    assert len(ids) == 2


def test_each_aad_prefix_is_other_work() -> None:
    prefixes = (None, b"", b"a", b"a\xff", b"b")
    assert len({task_id(_SOURCE, "a.parquet", Decryption(prefix)) for prefix in prefixes}) == len(prefixes)


_OLD_POLICY = Policy(
    {"email": "static:///k.json#pii", "card_*": "static:///k.json#card"},
    footer="encrypted",
    data_keys="file",
    clear_metadata="drop",
    optional=["email"],
).engine_policy()
_OLD_BLOBS = Policy(mode="chunks", default="static:///k.json#pii").engine_policy()
_OLD_READING = Reading(delimiter=";", types={"a": "int64"}, null_values=["NA"]).of("a.csv.gz", "a.csv.gz")


@pytest.mark.parametrize(
    ("kind", "made", "made_elsewhere"),
    [
        (Encryption(_OLD_POLICY), "b33e78f53faf21c6", "94b3f3e71e728eb7"),
        (Encryption(_OLD_POLICY, range(2, 5), 7), "a31c753ffa3e2b9c", "740552bf1c812ade"),
        (
            Ingestion(_OLD_POLICY, _OLD_READING, EncodeOptions(batch_rows=5), 100),
            "7b7316ab8c3aa64b",
            "34b2ab0737f5df12",
        ),
        (BlobEncryption(_OLD_BLOBS, 1 << 20, compress=True), "2138058d74ba6dc7", "b9abc4fff2a0ccde"),
    ],
)
def test_ids_of_earlier_releases_still_hold(kind: Kind, made: str, made_elsewhere: str) -> None:
    """What was done under them is not done again, whatever classes are called since."""
    assert task_id(_SOURCE, "a.parquet", kind).startswith(made)
    spellings = {"static:///k.json": "static:///./k.json"}
    assert task_id(_SOURCE, "a.parquet", kind, spellings).startswith(made_elsewhere)


def test_ids_of_many_tasks_are_those_of_each() -> None:
    id_of = task_ids()
    kinds = (_KIND, _KIND, _ingestion(), Decryption(None), _KIND)
    assert [id_of(_SOURCE, "a.parquet", kind) for kind in kinds] == [
        task_id(_SOURCE, "a.parquet", kind) for kind in kinds
    ]
