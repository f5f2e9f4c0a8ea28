"""Ids of tasks: equal for the same work, different for any other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipecrypt.formats.options import EncodeOptions
from pipecrypt.parquet.policy import ColumnRule, EncryptionPolicy, FooterMode
from pipecrypt.runs.kinds.blob import BlobEncryption
from pipecrypt.runs.kinds.decrypt import Decryption
from pipecrypt.runs.kinds.encrypt import Encryption
from pipecrypt.runs.kinds.ingest import Ingestion
from pipecrypt.runs.spec.options import Reading
from pipecrypt.runs.task import Kind, task_id
from pipecrypt.store.location import Location
from pipecrypt.store.protocol import SourceFile

_POLICY = EncryptionPolicy(rules=(ColumnRule("email", "static://1#pii"),))
_SOURCE = SourceFile(Location("/in/a.parquet"), "a.parquet", 10, "10-1-2")
_OPERATION = Encryption(_POLICY, "dataset")


def _ingestion(**options: str) -> Ingestion:
    reading = Reading(**options).of("a.csv", "a.csv")  # type: ignore[arg-type]
    return Ingestion(_POLICY, "dataset", reading, EncodeOptions(), None)


def test_the_same_work_has_the_same_id() -> None:
    other_dataset = replace(_OPERATION, dataset_id="another")
    moved = replace(_SOURCE, location=Location("/elsewhere/a.parquet"), mode=0o600)
    assert task_id(_SOURCE, "a.parquet", _OPERATION) == task_id(moved, "a.parquet", other_dataset)
    optional = EncryptionPolicy(rules=(ColumnRule("email", "static://1#pii", is_optional=True),))
    assert task_id(_SOURCE, "a.parquet", replace(_OPERATION, policy=optional)) == task_id(
        _SOURCE, "a.parquet", _OPERATION
    )


@pytest.mark.parametrize(
    ("source", "path", "operation"),
    [
        (replace(_SOURCE, fingerprint="10-1-3"), "a.parquet", _OPERATION),
        (replace(_SOURCE, size_bytes=11), "a.parquet", _OPERATION),
        (replace(_SOURCE, relative_path="b.parquet"), "a.parquet", _OPERATION),
        (_SOURCE, "b.parquet", _OPERATION),
        (_SOURCE, "a.parquet", replace(_OPERATION, row_groups=range(2))),
        (_SOURCE, "a.parquet", replace(_OPERATION, policy=replace(_POLICY, footer=FooterMode.ENCRYPTED))),
        (_SOURCE, "a.parquet", replace(_OPERATION, policy=EncryptionPolicy(rules=(ColumnRule("email", "x://y"),)))),
        (_SOURCE, "a.parquet", BlobEncryption(_POLICY, "dataset", 1, compress=False)),
        (_SOURCE, "a.parquet", Decryption(None)),
        (_SOURCE, "a.parquet", Decryption(b"prefix")),
        (_SOURCE, "a.parquet", _ingestion()),
        (_SOURCE, "a.parquet", _ingestion(delimiter=";")),
    ],
)
def test_any_other_work_has_another_id(source: SourceFile, path: str, operation: Kind) -> None:
    ids = {task_id(source, path, operation), task_id(_SOURCE, "a.parquet", _OPERATION)}
    assert len(ids) == 2


def test_each_aad_prefix_is_other_work() -> None:
    prefixes = (None, b"", b"a", b"a\xff", b"b")
    assert len({task_id(_SOURCE, "a.parquet", Decryption(prefix)) for prefix in prefixes}) == len(prefixes)
