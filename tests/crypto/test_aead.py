import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecrypt.crypto.aead import NONCE_BYTES, TAG_BYTES, MessageCipher, open_sealed, seal
from pipecrypt.errors import IntegrityError
from pipecrypt.vocabulary.secret import DataKey

KEY = DataKey(bytes(range(32)))


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_round_trip(plaintext: bytes, associated_data: bytes) -> None:
    sealed = seal(KEY, plaintext, associated_data)
    assert len(sealed) == NONCE_BYTES + len(plaintext) + TAG_BYTES
    assert open_sealed(KEY, sealed, associated_data) == plaintext


@given(st.integers(0, 59), st.integers(1, 255))
def test_every_changed_byte_is_noticed(position: int, change: int) -> None:
    sealed = bytearray(seal(KEY, bytes(32), b"aad"))
    sealed[position] ^= change
    with pytest.raises(IntegrityError):
        open_sealed(KEY, bytes(sealed), b"aad")


@pytest.mark.parametrize("length", [0, 1, 27])
def test_short_messages_are_refused(length: int) -> None:
    with pytest.raises(IntegrityError):
        open_sealed(KEY, bytes(length), b"")


def test_other_key_or_associated_data_is_refused() -> None:
    sealed = seal(KEY, b"x", b"aad")
    with pytest.raises(IntegrityError):
        open_sealed(KEY, sealed, b"dad")
    with pytest.raises(IntegrityError):
        open_sealed(DataKey(bytes(32)), sealed, b"aad")


def test_nonces_differ() -> None:
    assert len({seal(KEY, b"", b"")[:NONCE_BYTES] for _ in range(200)}) == 200


def test_cipher_and_message_agree() -> None:
    sealed, out = seal(KEY, b"page", b"aad"), bytearray(4)
    assert MessageCipher(KEY).decrypt_into(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], b"aad", out) == 4
    assert out == b"page"
    with pytest.raises(IntegrityError):
        MessageCipher(KEY).decrypt_into(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], b"dad", out)
