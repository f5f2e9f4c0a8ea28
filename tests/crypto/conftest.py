import os
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from pipecrypt.crypto.signature import PrivateKey, SignatureAlgorithm
from pipecrypt.vocabulary.secret import DataKey
from tests.crypto.keys import private_pem

_CURVES = {SignatureAlgorithm.ECDSA_P256: ec.SECP256R1(), SignatureAlgorithm.ECDSA_P384: ec.SECP384R1()}


@pytest.fixture(scope="session")
def rsa_keys() -> tuple[rsa.RSAPrivateKey, rsa.RSAPrivateKey]:
    # Made once: a key of 2048 bits takes a tenth of a second.
    return rsa.generate_private_key(65537, 2048), rsa.generate_private_key(65537, 2048)


@pytest.fixture
def new_key(rsa_keys: tuple[rsa.RSAPrivateKey, rsa.RSAPrivateKey]) -> Callable[..., PrivateKey]:
    def make(algorithm: SignatureAlgorithm, number: int = 0) -> PrivateKey:
        if algorithm is SignatureAlgorithm.RSA_PSS:
            return PrivateKey.from_pem(private_pem(rsa_keys[number]))
        if algorithm in _CURVES:
            return PrivateKey.from_pem(private_pem(ec.generate_private_key(_CURVES[algorithm])))
        return PrivateKey.from_seed(algorithm, DataKey(os.urandom(32)))

    return make
