"""The signed list of a dataset that has many files and lies nowhere."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.crypto.signature import Signature
from pipecrypt.dataset.statement.envelope import encode_envelope, files_of, verify_envelope
from pipecrypt.dataset.statement.file_list import FileEntry, encode_file_list
from pipecrypt.dataset.statement.manifest import Manifest, encode_statement
from pipecrypt.dataset.statement.promise import PromisedPolicy
from pipecrypt.parquet.policy import FooterMode

__all__ = ["verify", "write"]

_DIGESTS = (DigestAlgorithm.SHA256,)
_NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _entries(count: int) -> Iterator[FileEntry]:
    for number in range(count):
        digest = hashlib.sha256(b"%d" % number).hexdigest()
        path = f"year=2026/month=01/day={number // 4000:02}/part-{number:06}-{digest[:8]}.zstd.parquet"
        yield FileEntry(path, 128_000_000 + number, 1_000_000, digest, digest[::-1], (f"{number % 4:022}==",))


def write(count: int, folder: Path) -> None:
    """Make the entries one by one, and write list and manifest."""
    blocks, summary = encode_file_list(_entries(count), _DIGESTS)
    with (folder / "files.jsonl").open("wb") as file:
        file.writelines(blocks)
    manifest = Manifest(
        dataset_id="0" * 32,
        version=1,
        previous_sha256=None,
        created=_NOW,
        expires=None,
        policy=PromisedPolicy(FooterMode.PLAINTEXT, ("keystore/pii/1",), (), ("keystore/pii/1",)),
        digests=_DIGESTS,
        files=summary,
    )
    envelope = encode_envelope(encode_statement(manifest), [Signature("key", bytes(64))])
    (folder / "manifest.json").write_bytes(envelope)


def _manifest(folder: Path) -> Manifest:
    envelope = (folder / "manifest.json").read_bytes()
    return verify_envelope(envelope, lambda *_: ("key",), _NOW + timedelta(days=1)).manifest


def verify(count: int, folder: Path) -> None:
    """What a reader does before it opens a file: check the statement, then walk the list."""
    if sum(1 for _ in files_of(_manifest(folder), (folder / "files.jsonl").read_bytes())) != count:
        raise AssertionError("files are missing")
