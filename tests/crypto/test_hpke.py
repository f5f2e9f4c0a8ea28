import copy
import json
import os
import pickle
from pathlib import Path

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey

from pipecrypt.crypto import recipient
from pipecrypt.crypto.recipient import (
    RAW_PUBLIC_BYTES,
    HPKEIdentity,
    HPKERecipient,
    RecipientAlgorithm,
    key_digest,
    parse_recipient,
)
from pipecrypt.crypto.signature import pem_text
from pipecrypt.errors import IntegrityError, UsageError
from pipecrypt.vocabulary.secret import DataKey
from tests.crypto import hpke_reference as reference

_VECTORS = Path(__file__).parent / "vectors"
_KNOWN = json.loads((_VECTORS / "hpke.json").read_text())
_KEMS = {RecipientAlgorithm.X25519: reference.X25519, RecipientAlgorithm.MLKEM768X25519: reference.XWING}
_BY_KEM = {kem: algorithm for algorithm, kem in _KEMS.items()}
_PRIME = 2**255 - 19
# Points of order 1, 2, 4 and 8 on the curve and its twist (RFC 7748 6.1; their list is in many libraries' tests).
_LOW_ORDER = [
    (0).to_bytes(32, "little"),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (_PRIME - 1).to_bytes(32, "little"),
]

both = pytest.mark.parametrize("algorithm", list(_KEMS))


def _identity(algorithm: RecipientAlgorithm, seed: bytes | None = None) -> HPKEIdentity:
    return HPKEIdentity(algorithm, DataKey(os.urandom(32)) if seed is None else DataKey(seed))


@pytest.mark.parametrize("vector", _KNOWN, ids=lambda vector: f"{vector['origin']}-{vector['aead_id']}")
def test_the_reference_gives_the_known_answers(vector: dict[str, object]) -> None:
    text = {name: bytes.fromhex(str(vector[name])) for name in ("info", "skRm", "enc")}
    kem, aead = int(str(vector["kem_id"])), int(str(vector["aead_id"]))
    schedule = reference.receive(kem, aead, text["skRm"], text["enc"], text["info"])
    for name in ("shared_secret", "key", "base_nonce"):
        assert getattr(schedule, name).hex() == vector[name]
    message = {name: bytes.fromhex(value) for name, value in vector["encryption"].items()}  # type: ignore[attr-defined]
    opened = reference.open_first(kem, aead, text["skRm"], text["enc"] + message["ct"], text["info"], message["aad"])
    assert opened == message["pt"]


@pytest.mark.parametrize("vector", _KNOWN, ids=lambda vector: f"{vector['origin']}-{vector['aead_id']}")
def test_public_keys_and_encapsulations_are_the_known_ones(vector: dict[str, object]) -> None:
    """Each `enc` of the known answers, with the one AEAD that is ours: the key schedule is the reference's."""
    algorithm = _BY_KEM[int(str(vector["kem_id"]))]
    private, enc, info = (bytes.fromhex(str(vector[name])) for name in ("skRm", "enc", "info"))
    identity = _identity(algorithm, private)
    assert identity.public_key.raw.hex() == vector["pkRm"]

    schedule = reference.receive(_KEMS[algorithm], reference.AES_256_GCM, private, enc, info)
    assert schedule.shared_secret.hex() == vector["shared_secret"]
    sealed = enc + AESGCM(schedule.key).encrypt(schedule.base_nonce, b"a key", b"")
    assert identity.open(sealed, info) == b"a key"


def test_a_message_of_the_rfc_whole() -> None:
    """The RFC's own X25519 and AES-256-GCM vector, whose AAD is not empty, so its ciphertext is made anew without."""
    vector = next(each for each in _KNOWN if each["kem_id"] == reference.X25519 and each["aead_id"] == 2)
    cipher = AESGCM(bytes.fromhex(vector["key"]))
    sealed = bytes.fromhex(vector["enc"]) + cipher.encrypt(bytes.fromhex(vector["base_nonce"]), b"beauty", b"")
    identity = _identity(RecipientAlgorithm.X25519, bytes.fromhex(vector["skRm"]))
    assert identity.open(sealed, bytes.fromhex(vector["info"])) == b"beauty"


def test_the_public_key_of_the_draft_of_x_wing() -> None:
    identity = _identity(RecipientAlgorithm.MLKEM768X25519, bytes(range(32)))
    known = parse_recipient((_VECTORS / "xwing.pem").read_text())
    assert identity.public_key.spki == known.spki
    assert key_digest(identity.public_key) == key_digest(known)


@both
def test_the_reference_opens_what_is_sealed(algorithm: RecipientAlgorithm) -> None:
    private = bytes(range(1, 33))
    sealed = _identity(algorithm, private).public_key.seal(b"a key", b"somewhere")
    assert reference.open_first(_KEMS[algorithm], reference.AES_256_GCM, private, sealed, b"somewhere") == b"a key"
    assert len(sealed) == reference.ENC_BYTES[_KEMS[algorithm]] + 5 + 16


def test_another_implementation_seals_and_opens() -> None:
    suite = CipherSuite.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.AES256_GCM)
    private = bytes(range(1, 33))
    identity = _identity(RecipientAlgorithm.X25519, private)
    public = KEMKey.from_pyca_cryptography_key(X25519PublicKey.from_public_bytes(identity.public_key.raw))
    enc, sender = suite.create_sender_context(public, info=b"there")
    assert identity.open(enc + sender.seal(b"a key"), b"there") == b"a key"

    sealed = identity.public_key.seal(b"another", b"here")
    receiver = suite.create_recipient_context(
        sealed[:32], KEMKey.from_pyca_cryptography_key(X25519PrivateKey.from_private_bytes(private)), info=b"here"
    )
    assert receiver.open(sealed[32:]) == b"another"


@both
@given(plaintext=st.binary(max_size=100), info=st.binary(max_size=200))
def test_round_trip(algorithm: RecipientAlgorithm, plaintext: bytes, info: bytes) -> None:
    identity = _identity(algorithm)
    first, second = (identity.public_key.seal(plaintext, info) for _ in range(2))
    assert first != second
    assert identity.open(first, info) == identity.open(second, info) == plaintext


@both
def test_whatever_does_not_belong_together_is_refused(algorithm: RecipientAlgorithm) -> None:
    identity, other = _identity(algorithm), _identity(algorithm)
    sealed = identity.public_key.seal(bytes(32), b"here")
    enc_bytes = reference.ENC_BYTES[_KEMS[algorithm]]
    for key, message, info in (
        (other, sealed, b"here"),
        (identity, sealed, b"there"),
        (identity, sealed, b""),
        (identity, sealed[:-1], b"here"),
        (identity, sealed[:enc_bytes], b"here"),
        (identity, b"", b"here"),
        (identity, bytes(2000), b"here"),
        *((identity, sealed[: enc_bytes - 32] + low + sealed[enc_bytes:], b"here") for low in _LOW_ORDER),
        *(
            (identity, sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :], b"here")
            for place in {0, enc_bytes - 1, enc_bytes, len(sealed) - 1}
        ),
    ):
        with pytest.raises(IntegrityError):
            key.open(message, info)


@both
def test_hostile_public_keys_are_refused(algorithm: RecipientAlgorithm) -> None:
    good = _identity(algorithm).public_key.raw
    # The same curve point in a second encoding would be a second id of one key.
    doubles = [(_PRIME + 9).to_bytes(32, "little"), (9 + 2**255).to_bytes(32, "little"), b"\xff" * 32]
    for point in (*_LOW_ORDER, *doubles):
        with pytest.raises(UsageError):
            HPKERecipient(algorithm, good[:-32] + point)
    for raw in (b"", good[:-1], good + b"\0"):
        with pytest.raises(UsageError):
            HPKERecipient(algorithm, raw)


def test_a_public_key_of_ml_kem_with_numbers_too_large_is_refused() -> None:
    good = _identity(RecipientAlgorithm.MLKEM768X25519).public_key.raw
    with pytest.raises(UsageError):
        HPKERecipient(RecipientAlgorithm.MLKEM768X25519, b"\xff" * 384 + good[384:])


@both
def test_private_keys_do_not_leak(algorithm: RecipientAlgorithm) -> None:
    identity = _identity(algorithm, bytes(range(32)))
    for copier in (pickle.dumps, copy.deepcopy, copy.copy):
        with pytest.raises(TypeError):
            copier(identity)
    assert repr(identity) == f"<HPKEIdentity {algorithm}>"
    sealed = identity.public_key.seal(b"x", b"")
    identity.wipe()
    identity.wipe()
    with pytest.raises(RuntimeError):
        identity.open(sealed, b"")


def test_the_head_of_a_structure_decides_the_algorithm() -> None:
    for algorithm in _KEMS:
        spki = _identity(algorithm).public_key.spki
        again = parse_recipient(pem_text("PUBLIC KEY", spki))
        assert isinstance(again, HPKERecipient)
        assert (again.algorithm, again.spki) == (algorithm, spki)
        assert len(again.raw) == RAW_PUBLIC_BYTES[algorithm]
    with pytest.raises(UsageError):
        parse_recipient(pem_text("PUBLIC KEY", b""))


class _Lacking:
    """ML-KEM-768 of an OpenSSL that has none."""

    @staticmethod
    def from_seed_bytes(data: bytes) -> None:
        raise UnsupportedAlgorithm("no ML-KEM")

    from_public_bytes = from_seed_bytes


def test_an_openssl_without_ml_kem_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = _identity(RecipientAlgorithm.MLKEM768X25519).public_key.raw
    monkeypatch.setattr(recipient, "MLKEM768PrivateKey", _Lacking)
    monkeypatch.setattr(recipient, "MLKEM768PublicKey", _Lacking)
    seed = DataKey(os.urandom(32))
    with pytest.raises(UsageError):
        HPKEIdentity(RecipientAlgorithm.MLKEM768X25519, seed)
    with pytest.raises(RuntimeError):
        seed.expose_key_bytes()
    with pytest.raises(UsageError):
        HPKERecipient(RecipientAlgorithm.MLKEM768X25519, raw)
