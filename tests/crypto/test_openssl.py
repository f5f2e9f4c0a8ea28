"""The `openssl` command line verifies what we sign, and signs what we verify."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from pipecrypt.crypto.signature import PrivateKey, PublicKey, SignatureAlgorithm
from pipecrypt.errors import IntegrityError

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl command")

_PSS = ["-pkeyopt", "rsa_padding_mode:pss", "-pkeyopt", "rsa_pss_saltlen:digest", "-pkeyopt", "rsa_mgf1_md:sha256"]
_P256 = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
_P384 = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"]
_RSA = ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"]
# Algorithm, options of genpkey, options of pkeyutl; Ed25519 and ML-DSA take the message itself.
_CASES = [
    (SignatureAlgorithm.ED25519, ["-algorithm", "ED25519"], ["-rawin"]),
    (SignatureAlgorithm.MLDSA65, ["-algorithm", "ML-DSA-65"], ["-rawin"]),
    (SignatureAlgorithm.ECDSA_P256, _P256, ["-rawin", "-digest", "sha256"]),
    (SignatureAlgorithm.ECDSA_P384, _P384, ["-rawin", "-digest", "sha384"]),
    (SignatureAlgorithm.RSA_PSS, _RSA, ["-rawin", "-digest", "sha256", *_PSS]),
]


def _openssl(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["openssl", *arguments], capture_output=True, check=check)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "message").write_bytes(b"a statement")
    return tmp_path


def _generate(folder: Path, options: list[str]) -> Path:
    path = folder / "private.pem"
    done = _openssl("genpkey", *options, "-out", path, check=False)
    if done.returncode:
        pytest.skip("this openssl lacks the algorithm")
    return path


@pytest.mark.parametrize(("algorithm", "generate", "sign"), _CASES, ids=[case[0] for case in _CASES])
def test_both_directions(folder: Path, algorithm: SignatureAlgorithm, generate: list[str], sign: list[str]) -> None:
    private, message, signature = _generate(folder, generate), folder / "message", folder / "signature"
    public = folder / "public.pem"
    _openssl("pkey", "-in", private, "-pubout", "-out", public)
    key = PrivateKey.from_pem(private.read_bytes())
    assert key.algorithm is algorithm
    assert key.public_key == PublicKey(public.read_text())
    assert key.public_key.pem == public.read_text()

    _openssl("pkeyutl", "-sign", "-inkey", private, *sign, "-in", message, "-out", signature)
    key.public_key.verify(b"a statement", signature.read_bytes())
    with pytest.raises(IntegrityError):
        key.public_key.verify(b"another statement", signature.read_bytes())

    signature.write_bytes(key.sign(b"a statement"))
    check = ["pkeyutl", "-verify", "-pubin", "-inkey", str(public), *sign, "-sigfile", str(signature), "-in"]
    _openssl(*check, message)
    message.write_bytes(b"another statement")
    assert _openssl(*check, message, check=False).returncode


def test_the_key_id_is_what_openssl_and_sha256sum_say(folder: Path) -> None:
    private = _generate(folder, _P256)
    der = _openssl("pkey", "-in", private, "-pubout", "-outform", "DER").stdout
    assert PrivateKey.from_pem(private.read_bytes()).public_key.key_id == hashlib.sha256(der).hexdigest()


def test_older_forms_of_private_keys(folder: Path) -> None:
    curve = _openssl("ecparam", "-name", "prime256v1", "-genkey").stdout
    assert b"BEGIN EC PARAMETERS" in curve
    assert PrivateKey.from_pem(curve).algorithm is SignatureAlgorithm.ECDSA_P256
    private = _generate(folder, _RSA)
    plain = PrivateKey.from_pem(private.read_bytes())
    for options in ([], ["-aes256", "-passout", "pass:word"]):
        pem = _openssl("rsa", "-in", private, "-traditional", *options).stdout
        assert b"BEGIN RSA PRIVATE KEY" in pem
        assert PrivateKey.from_pem(pem, "word").public_key == plain.public_key


def test_a_key_encrypted_by_openssl(folder: Path) -> None:
    private = _generate(folder, _P384)
    pem = _openssl("pkcs8", "-topk8", "-in", private, "-v2", "aes256", "-passout", "pass:word").stdout
    assert PrivateKey.from_pem(pem, "word").public_key == PrivateKey.from_pem(private.read_bytes()).public_key


def test_a_salt_of_another_length_is_refused(folder: Path) -> None:
    private, message = _generate(folder, _RSA), folder / "message"
    public = PrivateKey.from_pem(private.read_bytes()).public_key
    sign = ["pkeyutl", "-sign", "-inkey", str(private), "-rawin", "-digest", "sha256", "-in", str(message)]
    for length in ("20", "max"):
        options = ["-pkeyopt", "rsa_padding_mode:pss", "-pkeyopt", f"rsa_pss_saltlen:{length}"]
        signature = _openssl(*sign, *options).stdout
        assert len(signature) == 384
        with pytest.raises(IntegrityError):
            public.verify(b"a statement", signature)


def test_a_key_restricted_to_pss(folder: Path) -> None:
    private = _generate(folder, ["-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048"])
    key = PrivateKey.from_pem(private.read_bytes())
    key.public_key.verify(b"m", key.sign(b"m"))
    # Its id is that of the same numbers in a key without the restriction.
    restricted = _openssl("pkey", "-in", private, "-pubout").stdout.decode()
    assert PublicKey(restricted) == key.public_key == PublicKey(key.public_key.pem)
