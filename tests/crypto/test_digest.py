import hashlib
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecrypt.crypto.digest import DIGEST_BYTES, DigestAlgorithm, Digester, digest
from pipecrypt.errors import MissingExtraError


def test_sha256_is_the_default_and_what_other_tools_print() -> None:
    assert digest(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert digest(memoryview(b"abc")) == hashlib.sha256(b"abc").hexdigest()
    assert Digester().algorithm is DigestAlgorithm.SHA256


def test_blake3_gives_what_its_authors_publish() -> None:
    pytest.importorskip("blake3")
    # test_vectors.json of BLAKE3: no input, and the bytes 0, 1, ... 250, 0, ... of length 1025, which takes two chunks.
    assert digest(b"", DigestAlgorithm.BLAKE3) == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    data = bytes(number % 251 for number in range(1025))
    assert digest(data, DigestAlgorithm.BLAKE3) == "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444"


@pytest.mark.parametrize("algorithm", list(DigestAlgorithm))
@given(pieces=st.lists(st.binary(max_size=100), max_size=5))
def test_pieces_make_the_whole(algorithm: DigestAlgorithm, pieces: list[bytes]) -> None:
    if algorithm is DigestAlgorithm.BLAKE3:
        pytest.importorskip("blake3")
    digester = Digester(algorithm)
    for piece in pieces:
        digester.update(bytearray(piece))
        assert len(digester.hexdigest()) == 2 * DIGEST_BYTES
    assert digester.hexdigest() == digest(b"".join(pieces), algorithm)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "blake3", None)
    with pytest.raises(MissingExtraError) as caught:
        Digester(DigestAlgorithm.BLAKE3)
    assert "pipecrypt[blake3]" in caught.value.hint
    assert digest(b"") == hashlib.sha256().hexdigest()
