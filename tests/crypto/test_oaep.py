import copy
import pickle
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from pipecrypt.crypto.recipient import OAEPIdentity, OAEPRecipient
from pipecrypt.errors import IntegrityError, UsageError
from tests.crypto.keys import private_pem

_OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
RSAKeys = tuple[rsa.RSAPrivateKey, rsa.RSAPrivateKey]


def test_round_trip(rsa_keys: RSAKeys) -> None:
    identity = OAEPIdentity(rsa_keys[0])
    first, second = (identity.public_key.seal(bytes(range(32)), b"here") for _ in range(2))
    assert first != second
    assert len(first) == 256
    assert identity.open(first, b"here") == identity.open(second, b"here") == bytes(range(32))


def test_whatever_does_not_belong_together_is_refused(rsa_keys: RSAKeys) -> None:
    identity, other = OAEPIdentity(rsa_keys[0]), OAEPIdentity(rsa_keys[1])
    sealed = identity.public_key.seal(bytes(32), b"here")
    # A message of another program: the padding is right, and there is no digest of the context in it.
    foreign = [rsa_keys[0].public_key().encrypt(message, _OAEP) for message in (b"", bytes(32), bytes(64))]
    for key, message, info in (
        (identity, sealed, b"there"),
        (other, sealed, b"here"),
        (identity, sealed[:-1] + bytes([sealed[-1] ^ 1]), b"here"),
        (identity, b"", b"here"),
        (identity, b"\xff" * 256, b"here"),
        (identity, bytes(255), b"here"),
        *((identity, message, b"here") for message in foreign),
    ):
        with pytest.raises(IntegrityError):
            key.open(message, info)


def test_openssl_opens_it_and_finds_the_layout(tmp_path: Path, rsa_keys: RSAKeys) -> None:
    (tmp_path / "key.pem").write_bytes(private_pem(rsa_keys[0]))
    (tmp_path / "sealed").write_bytes(OAEPRecipient(rsa_keys[0].public_key()).seal(b"k" * 32, b"here"))
    options = ["rsa_padding_mode:oaep", "rsa_oaep_md:sha256", "rsa_mgf1_md:sha256"]
    done = subprocess.run(
        ["openssl", "pkeyutl", "-decrypt", "-inkey", tmp_path / "key.pem", "-in", tmp_path / "sealed"]
        + [word for option in options for word in ("-pkeyopt", option)],
        capture_output=True,
        check=True,
    )
    digest = subprocess.run(["openssl", "dgst", "-sha256", "-binary"], input=b"here", capture_output=True, check=True)
    assert done.stdout == b"k" * 32 + digest.stdout


def test_small_keys_and_unsafe_exponents_are_refused(rsa_keys: RSAKeys) -> None:
    with pytest.raises(UsageError):
        OAEPRecipient(rsa.generate_private_key(65537, 1024).public_key())  # noqa: S505 - that is the point
    with pytest.raises(UsageError):
        OAEPIdentity(rsa.generate_private_key(3, 2048))


def test_private_keys_do_not_leak(rsa_keys: RSAKeys) -> None:
    identity = OAEPIdentity(rsa_keys[0])
    for copier in (pickle.dumps, copy.deepcopy, copy.copy):
        with pytest.raises(TypeError):
            copier(identity)
    sealed = identity.public_key.seal(bytes(32), b"")
    identity.wipe()
    identity.wipe()
    with pytest.raises(RuntimeError):
        identity.open(sealed, b"")
    assert "2048" in repr(identity.public_key)
    assert repr(identity) == "<OAEPIdentity rsa-oaep-256>"
