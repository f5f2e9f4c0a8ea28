from typing import Any

import pytest

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.vocabulary.documents import DocumentError
from tests.dataset.statement.world import entry, sha


@pytest.mark.parametrize(
    "changes",
    [
        {"size_bytes": -1}, {"size_bytes": 1 << 63}, {"size_bytes": True}, {"size_bytes": 1.0}, {"size_bytes": None},
        {"rows": -1}, {"rows": 10**30}, {"rows": "1"},
        {"sha256": "0" * 63}, {"sha256": "A" * 64}, {"sha256": "g" * 64}, {"sha256": "0" * 64 + "\n"}, {"sha256": 5},
        {"sha256": None}, {"sha256": "\u0660" * 64}, {"footer_sha256": None}, {"footer_sha256": ""}, {"blake3": "x"},
        {"kek_ids": ("b", "a")}, {"kek_ids": ("a", "a")}, {"kek_ids": ("",)}, {"kek_ids": ("a b",)}, {"kek_ids": (1,)},
        {"kek_ids": ("a" * 257,)}, {"kek_ids": tuple(f"{number:05}" for number in range(1025))},
    ],
    ids=lambda changes: ascii(changes)[:40],
)  # fmt: skip
def test_refuses_what_no_file_can_be(changes: dict[str, Any]) -> None:
    with pytest.raises(DocumentError):
        entry("a", **changes)


def test_refuses_a_path_that_leads_elsewhere() -> None:
    with pytest.raises(DocumentError):
        entry("../a")


def test_digests_are_those_that_were_given() -> None:
    assert entry("a").digests() == {DigestAlgorithm.SHA256: sha("a")}
    assert entry("a", sha256=None, blake3=sha("b")).digests() == {DigestAlgorithm.BLAKE3: sha("b")}
    assert list(entry("a", blake3=sha("b")).digests()) == [DigestAlgorithm.SHA256, DigestAlgorithm.BLAKE3]
    assert entry("a", size_bytes=(1 << 63) - 1, rows=0).size_bytes == (1 << 63) - 1
