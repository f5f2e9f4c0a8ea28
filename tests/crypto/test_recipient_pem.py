import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from pipecrypt.crypto.recipient import (
    RecipientAlgorithm,
    encode_pem,
    key_digest,
    parse_identity,
    parse_recipient,
    read_seed_pem,
)
from pipecrypt.errors import PassphraseError, UsageError
from tests.crypto.keys import private_pem, public_text

RSAKeys = tuple[rsa.RSAPrivateKey, rsa.RSAPrivateKey]
XWING_PRIVATE = (
    "-----BEGIN PRIVATE KEY-----\n"
    + base64.b64encode(bytes.fromhex("3034020100300d060b2b0601040183e62d81c87a0420") + bytes(range(32))).decode()
    + "\n-----END PRIVATE KEY-----\n"
).encode()


def test_pem_texts_of_the_library_are_read(rsa_keys: RSAKeys) -> None:
    for key, algorithm in (
        (X25519PrivateKey.generate(), RecipientAlgorithm.X25519),
        (rsa_keys[0], RecipientAlgorithm.RSA_OAEP_256),
    ):
        public, identity = parse_recipient(public_text(key)), parse_identity(private_pem(key))
        assert public.algorithm is algorithm
        assert public.spki == identity.public_key.spki
        assert encode_pem(public) == public_text(key)
        assert identity.open(public.seal(b"x" * 32, b"i"), b"i") == b"x" * 32


def test_the_private_key_of_x_wing() -> None:
    """As draft-connolly-cfrg-xwing-kem prints it for this seed."""
    identity = parse_identity(XWING_PRIVATE)
    known = parse_recipient((Path(__file__).parent / "vectors" / "xwing.pem").read_text())
    assert identity.public_key.spki == known.spki
    assert b"MDQCAQAwDQYLKwYBBAGD5i2ByHoEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZ" in XWING_PRIVATE
    assert parse_recipient(encode_pem(known)).spki == known.spki


def test_encrypted_private_keys_take_a_passphrase(rsa_keys: RSAKeys) -> None:
    for key in (X25519PrivateKey.generate(), rsa_keys[0]):
        pem = private_pem(key, b"secret")
        assert key_digest(parse_identity(pem, "secret").public_key) == key_digest(parse_recipient(public_text(key)))
        for wrong in (None, "other"):
            with pytest.raises(PassphraseError):
                parse_identity(pem, wrong)


def test_other_algorithms_are_refused() -> None:
    for key in (
        Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP256R1()),
        MLKEM768PrivateKey.generate(),
        rsa.generate_private_key(65537, 1024),  # noqa: S505 - that is the point
    ):
        with pytest.raises(UsageError):
            parse_recipient(public_text(key))
        with pytest.raises(UsageError):
            parse_identity(private_pem(key))


def test_malformed_texts_are_refused() -> None:
    xwing = (Path(__file__).parent / "vectors" / "xwing.pem").read_text()
    lines = xwing.splitlines()
    for text in (
        "",
        "x",
        private_pem(X25519PrivateKey.generate()).decode(),
        "\n".join([*lines[:-2], lines[-1]]),
        "\n".join([lines[0], "*" * 64, *lines[1:]]),
        "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n",
    ):
        with pytest.raises(UsageError):
            parse_recipient(text)
    for private in (b"", xwing.encode(), XWING_PRIVATE.replace(b"BQYH", b"BQYHBQYH"), b"\xff" * 100):
        with pytest.raises(UsageError):
            parse_identity(private)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    for pem in (text, f"-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n"):
        with pytest.raises(UsageError):
            parse_recipient(pem)


def test_seeds_for_a_keystore(rsa_keys: RSAKeys) -> None:
    x25519, ed25519 = X25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    for pem, name, seed in (
        (private_pem(x25519), "x25519", x25519.private_bytes_raw()),
        (private_pem(ed25519), "ed25519", ed25519.private_bytes_raw()),
        (XWING_PRIVATE, "mlkem768x25519", bytes(range(32))),
    ):
        algorithm, key = read_seed_pem(pem)
        assert (algorithm, bytes(key.expose_key_bytes())) == (name, seed)
    for refused in (private_pem(rsa_keys[0]), private_pem(x25519, b"p"), public_text(x25519).encode(), b""):
        with pytest.raises(UsageError):
            read_seed_pem(refused)
