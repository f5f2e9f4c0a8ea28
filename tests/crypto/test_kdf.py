import hashlib
import subprocess
import sys
from typing import Any

import pytest
from cryptography.exceptions import UnsupportedAlgorithm

from pipecrypt.crypto import kdf
from pipecrypt.crypto.kdf import Argon2Parameters, ScryptParameters, derive_key, new_parameters
from pipecrypt.errors import UnsupportedError

SALT = bytes(range(16))
CHEAP_ARGON2 = Argon2Parameters(salt=SALT, memory_kib=8192, iterations=1, lanes=1)
CHEAP_SCRYPT = ScryptParameters(salt=SALT, cost=2**14)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (CHEAP_ARGON2, "68aa6b3e6343f355586e5dd84710fb380cc542b0a47fa8a06ad81318fa48e3b3"),
        (CHEAP_SCRYPT, "25b376840366f4d3b0e21e414476676e3cd0e89af4430356a234ce0b65a021b5"),
    ],
)
def test_known_answers_stay(parameters: kdf.KDFParameters, expected: str) -> None:
    assert derive_key(b"correct horse", parameters).expose_key_bytes().hex() == expected


def test_scrypt_agrees_with_hashlib() -> None:
    expected = hashlib.scrypt(b"x", salt=SALT, n=2**14, r=8, p=1, dklen=32)
    assert derive_key(b"x", CHEAP_SCRYPT).expose_key_bytes() == expected


def test_passphrase_and_salt_matter() -> None:
    other_salt = Argon2Parameters(salt=bytes(16), memory_kib=8192, iterations=1, lanes=1)
    keys = [derive_key(b"a", CHEAP_ARGON2), derive_key(b"b", CHEAP_ARGON2), derive_key(b"a", other_salt)]
    assert len({bytes(key.expose_key_bytes()) for key in keys}) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"memory_kib": 8191},
        {"memory_kib": 2**20 + 1},
        {"memory_kib": -1},
        {"iterations": 0},
        {"iterations": 17},
        {"iterations": 2**40},
        {"lanes": 0},
        {"lanes": 17},
        {"salt": b""},
        {"salt": bytes(15)},
        {"salt": bytes(65)},
    ],
)
def test_argon2_is_bounded(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not in"):
        Argon2Parameters(**{"salt": SALT, **change})


@pytest.mark.parametrize(
    "change",
    [{"cost": 2**13}, {"cost": 2**21}, {"cost": 2**14 + 1}, {"block_size": 17}, {"block_size": 0},
     {"parallelism": 5}, {"cost": 2**20, "block_size": 9}, {"salt": b"x"}],
)  # fmt: skip
def test_scrypt_is_bounded(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"not in|power of two"):
        ScryptParameters(**{"salt": SALT, **change})


def test_new_parameters_have_fresh_salts() -> None:
    first, second = new_parameters(), new_parameters()
    assert isinstance(first, Argon2Parameters)
    assert first.salt != second.salt
    assert first.salt.hex() not in repr(first)


def test_old_openssl_falls_back_to_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(parameters: Argon2Parameters) -> None:
        raise UnsupportedAlgorithm("no argon2")

    monkeypatch.setattr(kdf, "_argon2", refuse)
    assert isinstance(new_parameters(), ScryptParameters)
    with pytest.raises(UnsupportedError):
        derive_key(b"x", CHEAP_ARGON2)


def test_missing_memory_is_our_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(parameters: ScryptParameters) -> None:
        raise MemoryError

    monkeypatch.setattr(kdf, "_scrypt", refuse)
    with pytest.raises(UnsupportedError):
        derive_key(b"x", CHEAP_SCRYPT)


def test_two_threads_derive_at_once() -> None:
    # Run apart: where they wait for each other, nothing but the end of the process ends them.
    script = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from pipecrypt.crypto.kdf import derive_key, new_parameters\n"
        "parameters = new_parameters()\n"
        "with ThreadPoolExecutor(4) as pool:\n"
        "    keys = list(pool.map(lambda _: bytes(derive_key(b'word', parameters).expose_key_bytes()), range(8)))\n"
        "assert len(set(keys)) == 1\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
