"""What was written once is read for ever, and is written again as the same bytes.

PIPECRYPT_UPDATE_COMPAT=1 writes golden files that do not exist yet; one that exists is never changed by it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.dataset.statement.envelope import files_of, verify_envelope
from pipecrypt.dataset.statement.manifest import Manifest
from pipecrypt.dataset.statement.promise import PromisedPolicy
from pipecrypt.parquet.policy import FooterMode
from tests.dataset.statement.world import (
    ALICE,
    BOTH,
    CREATED,
    ENTRIES,
    FILE_LIST,
    MALLORY,
    NOW,
    PII,
    PRICES,
    SHA256,
    entry,
    envelope,
    listed,
    manifest,
    sha,
    trusting,
)

_GOLDEN = Path(__file__).parent / "manifest-1"
_UPDATES = os.environ.get("PIPECRYPT_UPDATE_COMPAT", "") not in {"", "0"}
_BLAKE3_ENTRIES = tuple(entry(one.path, blake3=sha("blake3 of " + one.path)) for one in ENTRIES)
_EVERYTHING = PromisedPolicy(FooterMode.ENCRYPTED, (PII,), (), (PII, PRICES), bind_path=False)

_LISTS = {"files.jsonl": (FILE_LIST, SHA256), "files-blake3.jsonl": (listed(_BLAKE3_ENTRIES, BOTH)[0], BOTH)}
_MANIFESTS = {
    "dataset.json": manifest(),
    "dataset-blake3.json": manifest(digests=BOTH, files=listed(_BLAKE3_ENTRIES, BOTH)[1]),
    "dataset-version-2.json": manifest(
        version=2, previous_sha256=sha("previous"), expires=CREATED.replace(year=2100), policy=_EVERYTHING
    ),
    "file.sig.json": manifest(files=entry("ä.parquet")),
    "file-blake3.sig.json": manifest(
        digests=(DigestAlgorithm.BLAKE3,), files=entry("a.parquet", sha256=None, blake3=sha("blake3"))
    ),
}


def _golden(name: str, written: bytes) -> bytes:
    path = _GOLDEN / name
    if _UPDATES and not path.exists():
        _GOLDEN.mkdir(exist_ok=True)
        path.write_bytes(written)
    return path.read_bytes()


@pytest.mark.parametrize(("name", "made"), _MANIFESTS.items())
def test_envelopes(name: str, made: Manifest) -> None:
    # Ed25519 signs the same bytes with the same signature every time.
    written = envelope(made, ALICE, MALLORY)
    golden = _golden(name, written)

    file = None if made.single_file is None else made.single_file.path
    assert verify_envelope(golden, trusting(ALICE, MALLORY, threshold=2), NOW, expected_file=file).manifest == made
    assert written == golden


@pytest.mark.parametrize("name", _LISTS)
def test_file_lists(name: str) -> None:
    written, digests = _LISTS[name]
    golden = _golden(name, written)

    made = manifest(digests=digests, files=listed(ENTRIES if digests == SHA256 else _BLAKE3_ENTRIES, digests)[1])
    verified = verify_envelope(envelope(made), trusting(ALICE), NOW)
    assert list(files_of(verified.manifest, golden)) == list(ENTRIES if digests == SHA256 else _BLAKE3_ENTRIES)
    assert written == golden


def test_every_golden_file_is_read() -> None:
    assert {path.name for path in _GOLDEN.iterdir()} == {*_MANIFESTS, *_LISTS}
