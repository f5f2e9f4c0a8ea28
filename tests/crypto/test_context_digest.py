import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecrypt.crypto.mac import CONTEXT_DIGEST_BYTES, append_context_digest, remove_context_digest
from pipecrypt.errors import IntegrityError


@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80))
def test_only_the_same_context_gives_the_plaintext(plaintext: bytes, info: bytes, other: bytes) -> None:
    message = append_context_digest(plaintext, info)
    assert len(message) == len(plaintext) + CONTEXT_DIGEST_BYTES
    assert remove_context_digest(bytes(message), info) == plaintext
    if other != info:
        with pytest.raises(IntegrityError):
            remove_context_digest(message, other)


def test_the_digest_is_sha256() -> None:
    assert append_context_digest(b"key", b"info") == b"key" + hashlib.sha256(b"info").digest()


@pytest.mark.parametrize("message", [b"", b"\0", bytes(31), bytes(32), bytes(64)])
def test_short_and_changed_messages(message: bytes) -> None:
    with pytest.raises(IntegrityError):
        remove_context_digest(message, b"info")
