"""Digests of whole files: the same bytes whatever the pieces, as far as was asked, with what is installed."""

from __future__ import annotations

import hashlib
import sys

import pytest

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.dataset import checked_source
from pipecrypt.dataset.checked_source import computable, digest_file
from pipecrypt.errors import MissingExtraError
from pipecrypt.vocabulary.ranges import MemorySource

DATA = bytes(range(256)) * 5
SHA256, BLAKE3 = DigestAlgorithm.SHA256, DigestAlgorithm.BLAKE3


@pytest.mark.parametrize("piece_bytes", [1, 7, 1280, 4096])
@pytest.mark.parametrize("most_bytes", [None, 0, 1, 1279, 1280, 1281])
def test_pieces_make_no_difference(piece_bytes: int, most_bytes: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked_source, "_PIECE_BYTES", piece_bytes)
    told: list[int] = []

    found = digest_file(MemorySource(DATA, "f"), [SHA256], on_bytes=told.append, most_bytes=most_bytes)

    expected = DATA if most_bytes is None else DATA[:most_bytes]
    assert found == {SHA256: hashlib.sha256(expected).hexdigest()}
    assert sum(told) == len(expected)
    assert max(told, default=0) <= piece_bytes


def test_one_digest_that_can_be_computed_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "blake3", None)
    assert computable([BLAKE3, SHA256]) == (SHA256,)
    with pytest.raises(MissingExtraError):
        computable([BLAKE3])
