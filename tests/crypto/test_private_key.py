import copy
import hashlib
import os
import pickle
import re
from base64 import b64decode, b64encode
from collections.abc import Callable

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey

from pipecrypt.crypto import signature as private_key_module
from pipecrypt.crypto.recipient import read_seed_pem
from pipecrypt.crypto.signature import (
    PrivateKey,
    SignatureAlgorithm,
    is_encrypted_pem,
    public_pem,
)
from pipecrypt.errors import IntegrityError, PassphraseError, UsageError
from pipecrypt.vocabulary.secret import DataKey
from tests.crypto.keys import private_pem

SEEDS = [SignatureAlgorithm.ED25519, SignatureAlgorithm.MLDSA65]
NewKey = Callable[..., PrivateKey]


# RFC 8032 7.1: secret key, public key, message, signature of tests 1 to 3.
@pytest.mark.parametrize(
    ("seed", "public", "message", "signature"),
    [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
            "d25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
            "387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
            "4a7c15e9716ed28dc027beceea1ec40a",
        ),
    ],
)
def test_rfc_8032_vectors(seed: str, public: str, message: str, signature: str) -> None:
    key = PrivateKey.from_seed(SignatureAlgorithm.ED25519, DataKey(bytes.fromhex(seed)))
    assert _der(key.public_key.pem).hex().endswith(public)
    assert key.sign(bytes.fromhex(message)).hex() == signature
    key.public_key.verify(bytes.fromhex(message), bytes.fromhex(signature))


# Seeds and public keys (their SHA-256) of the first three known answers for ML-DSA-65 that FIPS 204's reference makes.
@pytest.mark.parametrize(
    ("seed", "public_sha256"),
    [
        (
            "f696484048ec21f96cf50a56d0759c448f3779752f0383d37449690694cf7a68",
            "ab0f27cfe4f84d2a9fa74d48467439df9e5dd8401f8715f82ed70e43a371400a",
        ),
        (
            "6de62e3465a55c9c78a07d265be8540b3e58b0801a124d07ff12b438d5202ea0",
            "7492efc0fe061dd862f3d2df3f9df030b143766ef056ff14bba44a4f0089ff1d",
        ),
        (
            "1eaae6bb91b27cd748c402c4111140d5a942cf3c95ff7977f88d2ef515bb26d0",
            "1a07e19eb0a9bf16faa9171421d7619b2d1d10bfd0325b35c2da12ddb70bf546",
        ),
    ],
)
def test_mldsa65_known_public_keys(seed: str, public_sha256: str) -> None:
    der = _der(public_pem(SignatureAlgorithm.MLDSA65, DataKey(bytes.fromhex(seed))))
    assert hashlib.sha256(der[-1952:]).hexdigest() == public_sha256


def test_mldsa65_example_of_rfc_9881() -> None:
    # Appendix C.1 and C.2: the seed in its own CHOICE [0], and the ends of the public key that belongs to it.
    pem = (
        b"-----BEGIN PRIVATE KEY-----\nMDQCAQAwCwYJYIZIAWUDBAMSBCKAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZ\n"
        b"GhscHR4f\n-----END PRIVATE KEY-----\n"
    )
    key = PrivateKey.from_pem(pem)
    lines = key.public_key.pem.splitlines()
    assert lines[1] == "MIIHsjALBglghkgBZQMEAxIDggehAEhoPZGXjjHrPd24sEc0gtK4il9iWUn9j1il"
    assert lines[-3:-1] == ["8tU4E5SKaToPk+ecRspdWm3KPSjKUK0YvRP8pVBZ3ZsYX3n5xHGWpOgbIQS8RgoF", "HgLy6ERP"]
    assert read_seed_pem(pem)[1].expose_key_bytes() == bytes(range(32))


def test_mldsa65_signs_without_a_context() -> None:
    private = MLDSA65PrivateKey.generate()
    public = PrivateKey.from_pem(private_pem(private)).public_key
    public.verify(b"message", private.sign(b"message"))
    with pytest.raises(IntegrityError):
        public.verify(b"message", private.sign(b"message", b"context"))


@pytest.mark.parametrize("algorithm", SEEDS)
def test_public_key_belongs_to_the_seed(algorithm: SignatureAlgorithm) -> None:
    seed = DataKey(os.urandom(32))
    assert public_pem(algorithm, seed) == public_pem(algorithm, DataKey(seed.expose_key_bytes()))
    assert public_pem(algorithm, seed) != public_pem(algorithm, DataKey(os.urandom(32)))


@pytest.mark.parametrize("algorithm", list(SignatureAlgorithm))
def test_a_wiped_key_signs_nothing_and_is_never_shown_or_copied(algorithm: SignatureAlgorithm, new_key: NewKey) -> None:
    key = new_key(algorithm)
    secret = key._secret
    for copier in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            copier(key)
    assert repr(key) == f"<PrivateKey {algorithm}>"
    key.wipe()
    key.wipe()
    assert not isinstance(secret, DataKey) or secret.bits == 0
    with pytest.raises(RuntimeError):
        key.sign(b"message")


@pytest.mark.parametrize("algorithm", [each for each in SignatureAlgorithm if each not in SEEDS])
def test_only_two_algorithms_have_seeds(algorithm: SignatureAlgorithm) -> None:
    with pytest.raises(AssertionError):
        PrivateKey.from_seed(algorithm, seed := DataKey(bytes(32)))
    assert seed.bits == 0


def test_reads_a_private_pem_for_a_keystore() -> None:
    key = Ed25519PrivateKey.generate()
    algorithm, seed = read_seed_pem(private_pem(key))
    assert algorithm == SignatureAlgorithm.ED25519.value
    assert seed.expose_key_bytes() == key.private_bytes_raw()


def test_a_keystore_refuses_other_private_keys_without_quoting_them() -> None:
    key = Ed25519PrivateKey.generate()
    for pem in (
        b"",
        b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n",
        private_pem(key, b"password"),
        private_pem(ec.generate_private_key(ec.SECP256R1())),
        PrivateKey.from_pem(private_pem(key)).public_key.pem.encode(),
    ):
        with pytest.raises(UsageError) as caught:
            read_seed_pem(pem)
        assert "c2Vj" not in str(caught.value)


def test_encrypted_pem_needs_its_passphrase(rsa_keys: tuple[rsa.RSAPrivateKey, rsa.RSAPrivateKey]) -> None:
    for private in (Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1()), rsa_keys[0]):
        pem = private_pem(private, "pässword".encode())
        assert is_encrypted_pem(pem)
        assert not is_encrypted_pem(private_pem(private))
        key = PrivateKey.from_pem(pem, "pässword")
        assert key.public_key == PrivateKey.from_pem(private_pem(private)).public_key
        for wrong in (None, "", "password"):
            with pytest.raises(PassphraseError):
                PrivateKey.from_pem(pem, wrong)


def test_a_passphrase_that_nothing_needs_changes_nothing() -> None:
    pem = private_pem(Ed25519PrivateKey.generate())
    assert PrivateKey.from_pem(pem, "word").public_key == PrivateKey.from_pem(pem).public_key


def test_damaged_private_keys_are_refused_without_quoting_them(
    rsa_keys: tuple[rsa.RSAPrivateKey, rsa.RSAPrivateKey],
) -> None:
    for private in (Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1()), rsa_keys[0]):
        der = _der(private_pem(private).decode())
        for damaged in (der[:-1], der[: len(der) // 2], b"", der + b"\0"):
            body = b64encode(damaged).decode()
            with pytest.raises(UsageError) as caught:
                PrivateKey.from_pem(f"-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n".encode())
            assert caught.value.__cause__ is None
            assert not body or body[:16] not in str(caught.value) + caught.value.hint
    with pytest.raises(UsageError):
        PrivateKey.from_pem(private_pem(ed448.Ed448PrivateKey.generate()))


def test_an_openssl_without_the_algorithm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing:
        @staticmethod
        def from_seed_bytes(seed: bytes) -> None:
            raise UnsupportedAlgorithm("no ML-DSA")

    monkeypatch.setattr(private_key_module, "MLDSA65PrivateKey", Missing)
    with pytest.raises(UsageError):
        PrivateKey.from_seed(SignatureAlgorithm.MLDSA65, DataKey(bytes(32)))


def _der(pem: str) -> bytes:
    return b64decode("".join(re.findall(r"^[A-Za-z0-9+/=]+$", pem, re.MULTILINE)))
