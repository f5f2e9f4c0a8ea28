import base64
import copy
import hashlib
import pickle
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, padding, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecrypt.crypto.signature import PrivateKey, PublicKey, SignatureAlgorithm
from pipecrypt.errors import IntegrityError, UsageError
from tests.crypto.keys import private_pem, public_text

ALGORITHMS = list(SignatureAlgorithm)
ECDSA = [SignatureAlgorithm.ECDSA_P256, SignatureAlgorithm.ECDSA_P384]
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
P384_ORDER = int("ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16)
ORDERS = dict(zip(ECDSA, (P256_ORDER, P384_ORDER), strict=True))
ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493
NewKey = Callable[..., PrivateKey]

# Wycheproof, ecdsa_secp256r1_sha256: its second public key, and signatures of "123400".
WYCHEPROOF_KEY = """-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEKSexBRK64+3c/kZ4KBKLrSkDJpkZ
9whgacjE32xzKDjHeHlk6qwA5ZIfsUmKYPRgZ2az2WhQAVWNGpdOc0FRPg==
-----END PUBLIC KEY-----
"""
R = "2ba3a8be6b94d5ec80a6d9d1190a436effe50d85a1eee859b8cc6af9bd5c2e18"
S = "b329f479a2bbd0a5c384ee1493b1f5186a87139cac5df4087c134b49156847db"
NEGATED_S = "4cd60b855d442f5b3c7b11eb6c4e0ae7525fe710fab9aa7c77a67f79e6fadd76"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_sign_and_verify(algorithm: SignatureAlgorithm, new_key: NewKey) -> None:
    key = new_key(algorithm)
    signature = key.sign(b"message")
    PublicKey(key.public_key.pem).verify(b"message", signature)
    assert PublicKey(key.public_key.pem).algorithm is algorithm is key.algorithm
    for wrong in (b"", bytes(len(signature)), signature[:-1], signature[1:], signature + b"\0", b"\0" + signature):
        with pytest.raises(IntegrityError):
            key.public_key.verify(b"message", wrong)
    for message in (b"", b"massage", b"message\0"):
        with pytest.raises(IntegrityError):
            key.public_key.verify(message, signature)


def test_a_signature_of_rsa_is_as_long_as_the_modulus(new_key: NewKey) -> None:
    key = new_key(SignatureAlgorithm.RSA_PSS)
    signature = key.sign(b"message")
    while signature[0]:  # one in 256 begins with a zero, without which it is the same number
        signature = key.sign(b"message")
    key.public_key.verify(b"message", signature)
    with pytest.raises(IntegrityError):
        key.public_key.verify(b"message", signature[1:])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_another_key_does_not_verify(algorithm: SignatureAlgorithm, new_key: NewKey) -> None:
    signature = new_key(algorithm, 0).sign(b"message")
    for other in ALGORITHMS:
        with pytest.raises(IntegrityError):
            new_key(other, 1).public_key.verify(b"message", signature)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_bit_of_a_signature_can_be_flipped(algorithm: SignatureAlgorithm, new_key: NewKey) -> None:
    key = new_key(algorithm)
    signature = key.sign(b"message")

    @settings(deadline=None)
    @given(place=st.integers(0, len(signature) * 8 - 1))
    def flip(place: int) -> None:
        forged = bytearray(signature)
        forged[place // 8] ^= 1 << place % 8
        with pytest.raises(IntegrityError):
            key.public_key.verify(b"message", bytes(forged))

    flip()


@given(signature=st.binary(max_size=200))
def test_nothing_but_an_integrity_error_comes_of_nonsense(signature: bytes) -> None:
    with pytest.raises(IntegrityError):
        PublicKey(WYCHEPROOF_KEY).verify(b"123400", signature)


@pytest.mark.parametrize("algorithm", ECDSA)
def test_ecdsa_takes_one_encoding_of_numbers_in_range(algorithm: SignatureAlgorithm, new_key: NewKey) -> None:
    key, order = new_key(algorithm), ORDERS[algorithm]
    signature = key.sign(b"message")
    r, s = decode_dss_signature(signature)
    for numbers in (
        (0, s), (r, 0), (0, 0), (order, s), (r, order), (r + order, s), (r, s + order), (1, 1),
    ):  # fmt: skip
        with pytest.raises(IntegrityError):
            key.public_key.verify(b"message", encode_dss_signature(*numbers))
    long_form = b"\x30\x81" + signature[1:]
    padded_r = b"\x30" + bytes([signature[1] + 1, 2, signature[3] + 1, 0]) + signature[4:]
    raw = r.to_bytes(48, "big") + s.to_bytes(48, "big")
    for encoding in (long_form, padded_r, raw, signature + signature, signature + b"\x05\0"):
        with pytest.raises(IntegrityError):
            key.public_key.verify(b"message", encoding)
    # Known and harmless here: nothing takes a signature for the name of a message.
    key.public_key.verify(b"message", encode_dss_signature(r, order - s))


@pytest.mark.parametrize(
    ("signature", "valid"),
    [
        (f"30450220{R}022100{S}", True),
        (f"30440220{R}0220{NEGATED_S}", True),
        (f"30440220{R}0220{S}", False),  # the zero before s is missing
        (f"3081450220{R}022100{S}", False),  # a length in the long form
        (f"308200450220{R}022100{S}", False),
        (f"30460220{R}022100{S}", False),  # a length too long and one too short
        (f"30440220{R}022100{S}", False),
        (f"308501000000450220{R}022100{S}", False),  # a length that overflows 32 bits
    ],
)
def test_ecdsa_vectors_of_wycheproof(signature: str, valid: bool) -> None:
    if valid:
        PublicKey(WYCHEPROOF_KEY).verify(b"123400", bytes.fromhex(signature))
    else:
        with pytest.raises(IntegrityError):
            PublicKey(WYCHEPROOF_KEY).verify(b"123400", bytes.fromhex(signature))


def test_ed25519_takes_no_number_beyond_the_order(new_key: NewKey) -> None:
    key = new_key(SignatureAlgorithm.ED25519)
    signature = key.sign(b"message")
    number = int.from_bytes(signature[32:], "little") + ED25519_ORDER  # RFC 8032 5.1.7
    with pytest.raises(IntegrityError):
        key.public_key.verify(b"message", signature[:32] + number.to_bytes(32, "little"))


@pytest.mark.parametrize(
    ("algorithm", "wrong"),
    [
        (SignatureAlgorithm.ECDSA_P256, hashes.SHA384()),
        (SignatureAlgorithm.ECDSA_P256, hashes.SHA1()),  # noqa: S303 - shall be refused
        (SignatureAlgorithm.ECDSA_P384, hashes.SHA256()),
    ],
)
def test_ecdsa_with_another_hash_is_refused(algorithm: SignatureAlgorithm, wrong: hashes.HashAlgorithm) -> None:
    curve = ec.SECP256R1() if algorithm is SignatureAlgorithm.ECDSA_P256 else ec.SECP384R1()
    private = ec.generate_private_key(curve)
    with pytest.raises(IntegrityError):
        PublicKey(public_text(private)).verify(b"message", private.sign(b"message", ec.ECDSA(wrong)))


@pytest.mark.parametrize(
    ("scheme", "digest", "valid"),
    [
        (padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256(), True),
        (padding.PSS(padding.MGF1(hashes.SHA256()), 0), hashes.SHA256(), False),
        (padding.PSS(padding.MGF1(hashes.SHA256()), 20), hashes.SHA256(), False),
        (padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH), hashes.SHA256(), False),
        (padding.PSS(padding.MGF1(hashes.SHA512()), 32), hashes.SHA256(), False),
        (padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA512(), False),
        (padding.PSS(padding.MGF1(hashes.SHA1()), 32), hashes.SHA1(), False),  # noqa: S303 - shall be refused
        (padding.PKCS1v15(), hashes.SHA256(), False),
    ],
)
def test_rsa_takes_one_padding(
    scheme: padding.PSS | padding.PKCS1v15,
    digest: hashes.HashAlgorithm,
    valid: bool,
    rsa_keys: tuple[rsa.RSAPrivateKey, rsa.RSAPrivateKey],
) -> None:
    signature = rsa_keys[0].sign(b"message", scheme, digest)
    if valid:
        PublicKey(public_text(rsa_keys[0])).verify(b"message", signature)
    else:
        with pytest.raises(IntegrityError):
            PublicKey(public_text(rsa_keys[0])).verify(b"message", signature)


@pytest.mark.parametrize("bits", [1024, 2047])
def test_refuses_small_rsa_keys(bits: int) -> None:
    private = rsa.generate_private_key(65537, bits)
    with pytest.raises(UsageError):
        PublicKey(public_text(private))
    with pytest.raises(UsageError):
        PrivateKey.from_pem(private_pem(private))


@pytest.mark.parametrize("exponent", [3, 65536 + 3])
def test_refuses_small_rsa_exponents(exponent: int, rsa_keys: tuple[rsa.RSAPrivateKey, rsa.RSAPrivateKey]) -> None:
    modulus = rsa_keys[0].public_key().public_numbers().n
    pem = _text(rsa.RSAPublicNumbers(exponent, modulus).public_key())
    if exponent == 3:
        with pytest.raises(UsageError):
            PublicKey(pem)
    else:
        assert PublicKey(pem).algorithm is SignatureAlgorithm.RSA_PSS


@pytest.mark.parametrize("exponent", [1, 65538])
def test_refuses_rsa_exponents_that_sign_nothing(
    exponent: int, rsa_keys: tuple[rsa.RSAPrivateKey, rsa.RSAPrivateKey]
) -> None:
    modulus = rsa_keys[0].public_key().public_numbers().n
    good = rsa.RSAPublicNumbers(65537, modulus).public_key()
    der = good.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    forged = der.removesuffix((65537).to_bytes(3, "big")) + exponent.to_bytes(3, "big")
    with pytest.raises(UsageError):
        PublicKey(_pem_of(forged))


@pytest.mark.parametrize(
    "private",
    [
        ec.generate_private_key(ec.SECP521R1()),
        ec.generate_private_key(ec.SECP256K1()),
        ec.generate_private_key(ec.BrainpoolP256R1()),
        ed448.Ed448PrivateKey.generate(),
        x25519.X25519PrivateKey.generate(),
    ],
    ids=["P-521", "secp256k1", "brainpool", "Ed448", "X25519"],
)
def test_refuses_keys_of_other_algorithms(private: object) -> None:
    with pytest.raises(UsageError):
        PublicKey(public_text(private))
    with pytest.raises(UsageError):
        PrivateKey.from_pem(private_pem(private))


@pytest.mark.parametrize(
    "pem",
    [
        "",
        "no pem",
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        "\ud800",
        "-----BEGIN PUBLIC KEY-----\n" + "A" * 100_000,
        WYCHEPROOF_KEY + "A" * 100_000,  # more than any key needs
        WYCHEPROOF_KEY.replace("KSex", "KSey"),  # no point of the curve
    ],
)
def test_refuses_what_is_no_public_key(pem: str) -> None:
    with pytest.raises(UsageError):
        PublicKey(pem)


def test_a_private_key_is_not_quoted() -> None:
    private = private_pem(ec.generate_private_key(ec.SECP256R1())).decode()
    with pytest.raises(UsageError) as caught:
        PublicKey(private)
    assert private.splitlines()[1][:16] not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_key_id_is_the_digest_of_the_der(algorithm: SignatureAlgorithm, new_key: NewKey) -> None:
    public = new_key(algorithm).public_key
    der = serialization.load_pem_public_key(public.pem.encode()).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert PublicKey(public.pem).key_id == public.key_id == hashlib.sha256(der).hexdigest()
    assert public.key_id != new_key(algorithm, 1).public_key.key_id


def test_one_key_has_one_id_however_it_is_written(rsa_keys: tuple[rsa.RSAPrivateKey, rsa.RSAPrivateKey]) -> None:
    public = PublicKey(WYCHEPROOF_KEY)
    point = serialization.load_pem_public_key(WYCHEPROOF_KEY.encode())
    assert isinstance(point, ec.EllipticCurvePublicKey)
    compressed = point.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    header = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200")
    assert PublicKey(_pem_of(header + compressed)) == public
    assert PublicKey("by Alice\n" + WYCHEPROOF_KEY.replace("\n", "\r\n")) == public
    pkcs1 = rsa_keys[0].public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.PKCS1)
    assert PublicKey(pkcs1.decode()).key_id == PublicKey(public_text(rsa_keys[0])).key_id


def test_public_keys_travel_and_compare() -> None:
    public = PublicKey(WYCHEPROOF_KEY)
    for twin in (pickle.loads(pickle.dumps(public)), copy.deepcopy(public)):  # noqa: S301 - our own
        assert twin == public
        assert hash(twin) == hash(public)
        twin.verify(b"123400", bytes.fromhex(f"30450220{R}022100{S}"))
    assert public != WYCHEPROOF_KEY
    assert public.key_id in repr(public)


def _text(public: rsa.RSAPublicKey) -> str:
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def _pem_of(der: bytes) -> str:
    return f"-----BEGIN PUBLIC KEY-----\n{base64.b64encode(der).decode()}\n-----END PUBLIC KEY-----\n"
