"""Turn a passphrase into a key with Argon2id or scrypt, and a key into several. Parameters are stored by keys/.

Parameters may come from a file that an attacker wrote, so they are bounded when constructed: deriving a key takes
at most about 1 GiB of memory and some tens of seconds.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from pipecrypt.crypto.aead import random_bytes
from pipecrypt.errors import UnsupportedError
from pipecrypt.vocabulary.secret import DATA_KEY_BYTES, DataKey

__all__ = ["Argon2Parameters", "KDFParameters", "ScryptParameters", "derive_key", "derive_subkey", "new_parameters"]

SALT_BYTES: Final = 16
_MAX_SALT_BYTES: Final = 64
_KIB: Final = 1024
_MAX_MEMORY_KIB: Final = 1024 * _KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Argon2Parameters:
    """Cost of Argon2id (RFC 9106); the defaults are its second recommended option.

    Args:
        salt: random.
        memory_kib: memory in KiB.
        iterations: passes over the memory.
        lanes: degree of parallelism.

    Raises:
        ValueError: out of bounds; the reader of a file maps it to its own error.
    """

    salt: bytes = field(repr=False)
    memory_kib: int = 64 * _KIB
    iterations: int = 3
    lanes: int = 4

    def __post_init__(self) -> None:
        """Check the bounds."""
        _check_salt(self.salt)
        _check_range("memory_kib", self.memory_kib, 8 * _KIB, _MAX_MEMORY_KIB)
        _check_range("iterations", self.iterations, 1, 16)
        _check_range("lanes", self.lanes, 1, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScryptParameters:
    """Cost of scrypt (RFC 7914); the default takes 128 MiB.

    Args:
        salt: random.
        cost: CPU and memory cost N, a power of two.
        block_size: r.
        parallelism: p.

    Raises:
        ValueError: out of bounds; the reader of a file maps it to its own error.
    """

    salt: bytes = field(repr=False)
    cost: int = 2**17
    block_size: int = 8
    parallelism: int = 1

    def __post_init__(self) -> None:
        """Check the bounds."""
        _check_salt(self.salt)
        _check_range("cost", self.cost, 2**14, 2**20)
        _check_range("block_size", self.block_size, 8, 16)
        _check_range("parallelism", self.parallelism, 1, 4)
        if self.cost & (self.cost - 1):
            raise ValueError("scrypt's cost must be a power of two")
        # RFC 7914 2: scrypt's large array takes 128 * r * N bytes.
        _check_range("memory of scrypt in KiB", 128 * self.block_size * self.cost // _KIB, 1, _MAX_MEMORY_KIB)


KDFParameters: TypeAlias = Argon2Parameters | ScryptParameters


# OpenSSL runs the lanes of Argon2id in threads of its own, and two derivations at once wait for each other for ever
# (cryptography 50.0.2 with OpenSSL 4.0.3).
_ONE_AT_A_TIME: Final = threading.Lock()


def new_parameters() -> KDFParameters:
    """Return default parameters with a fresh salt: Argon2id, or scrypt where OpenSSL is older than 3.2."""
    parameters = Argon2Parameters(salt=random_bytes(SALT_BYTES))
    try:
        _argon2(parameters)
    except UnsupportedAlgorithm:
        return ScryptParameters(salt=random_bytes(SALT_BYTES))
    return parameters


def derive_key(passphrase: bytes, parameters: KDFParameters) -> DataKey:
    """Return the 256-bit key of `passphrase`; takes about a tenth of a second by default.

    Raises:
        UnsupportedError: this OpenSSL lacks the algorithm, or the memory is not there.
    """
    try:
        kdf = _argon2(parameters) if isinstance(parameters, Argon2Parameters) else _scrypt(parameters)
        with _ONE_AT_A_TIME:
            return DataKey(kdf.derive(passphrase))
    except UnsupportedAlgorithm as error:
        raise UnsupportedError("this build of OpenSSL has no Argon2id", hint="use OpenSSL 3.2 or newer") from error
    except MemoryError as error:
        raise UnsupportedError(
            "not enough memory to derive a key from the passphrase", hint="free some memory, or use a key file"
        ) from error


def derive_subkey(key: DataKey, label: bytes) -> DataKey:
    """Return the 256-bit key for one purpose: HKDF-Expand (RFC 5869 2.3) with SHA-256; the caller wipes it.

    Args:
        key: uniformly random, as from `derive_key`, so that HKDF's extract step is left out (RFC 5869 3.3).
        label: names the purpose.
    """
    expand = HKDFExpand(algorithm=SHA256(), length=DATA_KEY_BYTES, info=label)
    return DataKey(expand.derive(bytes(key.expose_key_bytes())))


def _argon2(parameters: Argon2Parameters) -> Argon2id:
    return Argon2id(
        salt=parameters.salt,
        length=DATA_KEY_BYTES,
        iterations=parameters.iterations,
        lanes=parameters.lanes,
        memory_cost=parameters.memory_kib,
    )


def _scrypt(parameters: ScryptParameters) -> Scrypt:
    return Scrypt(
        salt=parameters.salt,
        length=DATA_KEY_BYTES,
        n=parameters.cost,
        r=parameters.block_size,
        p=parameters.parallelism,
    )


def _check_salt(salt: bytes) -> None:
    _check_range("length of the salt", len(salt), SALT_BYTES, _MAX_SALT_BYTES)


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}, not in {low} to {high}")
