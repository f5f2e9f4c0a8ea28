import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from pipecrypt.crypto.signature import (
    SignatureAlgorithm,
    algorithm_of,
    new_signing_seed,
    public_pem,
    read_private_pem,
    sign,
    verify,
)
from pipecrypt.errors import IntegrityError, UsageError
from pipecrypt.secret import DataKey

ALGORITHMS = list(SignatureAlgorithm)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_sign_and_verify(algorithm: SignatureAlgorithm) -> None:
    seed = new_signing_seed(algorithm)
    pem = public_pem(algorithm, seed)
    signature = sign(algorithm, seed, b"message")
    verify(pem, b"message", signature)
    assert algorithm_of(pem) is algorithm
    for message, wrong in ((b"massage", signature), (b"message", b""), (b"message", bytes(len(signature)))):
        with pytest.raises(IntegrityError):
            verify(pem, message, wrong)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_another_key_does_not_verify(algorithm: SignatureAlgorithm) -> None:
    signature = sign(algorithm, new_signing_seed(algorithm), b"message")
    for other in ALGORITHMS:
        with pytest.raises(IntegrityError):
            verify(public_pem(other, new_signing_seed(other)), b"message", signature)


def test_rfc_8032_vector() -> None:
    seed = DataKey(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
    signature = sign(SignatureAlgorithm.ED25519, seed, b"")
    assert signature.hex().startswith("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555f")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_public_key_belongs_to_the_seed(algorithm: SignatureAlgorithm) -> None:
    seed = new_signing_seed(algorithm)
    assert public_pem(algorithm, seed) == public_pem(algorithm, DataKey(seed.expose_key_bytes()))
    assert public_pem(algorithm, seed) != public_pem(algorithm, new_signing_seed(algorithm))


def _private_pem(key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def test_reads_a_private_pem() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    algorithm, seed = read_private_pem(_private_pem(key))
    assert algorithm is SignatureAlgorithm.ED25519
    assert seed.expose_key_bytes() == key.private_bytes_raw()


def test_refuses_other_private_keys_without_quoting_them() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    for pem in (
        b"",
        b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n",
        _private_pem(key, b"password"),
        _private_pem(ec.generate_private_key(ec.SECP256R1())),
    ):
        with pytest.raises(UsageError) as caught:
            read_private_pem(pem)
        assert "c2Vj" not in str(caught.value)


@pytest.mark.parametrize(
    "pem", ["", "no pem", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "\ud800"]
)
def test_refuses_other_public_keys(pem: str) -> None:
    with pytest.raises(UsageError):
        verify(pem, b"", b"")
    with pytest.raises(UsageError):
        algorithm_of(pem)


def test_refuses_a_public_key_of_another_algorithm() -> None:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(UsageError):
        verify(pem.decode(), b"", b"")
