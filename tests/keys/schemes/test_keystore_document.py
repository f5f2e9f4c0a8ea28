import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecrypt.crypto.kdf import Argon2Parameters, KDFParameters, ScryptParameters
from pipecrypt.errors import KeystoreError
from pipecrypt.keys.schemes.keystore_document import (
    KeystoreDocument,
    KeyType,
    StoredKey,
    encode_keystore,
    is_key_name,
    parse_keystore,
)

UUIDS = [f"00000000-0000-4000-8000-{number:012d}" for number in range(9)]


def _key(number: int, name: str, version: int = 1, key_type: KeyType = KeyType.AES256) -> StoredKey:
    return StoredKey(
        name=name,
        id=UUIDS[number],
        type=key_type,
        version=version,
        created="2026-11-24T12:00:00Z",
        public_key=None if key_type is KeyType.AES256 else "PEM",
        sealed=b"sealed",
    )


def _keystore(kdf: KDFParameters | None) -> KeystoreDocument:
    keys = (
        _key(1, "pii"),
        _key(2, "pii", 2),
        replace(_key(3, "sign", 1, KeyType.MLDSA65), retired="2026-11-25T12:00:00Z"),
    )
    return KeystoreDocument(id=UUIDS[0], kdf=kdf, verifier=b"verifier", keys=keys, counter=7, seal=b"seal")


DOCUMENT = _keystore(Argon2Parameters(salt=bytes(16)))


@pytest.mark.parametrize(
    "kdf",
    [
        None,
        Argon2Parameters(salt=bytes(16), lanes=2),
        ScryptParameters(salt=bytes(32), cost=2**15),
    ],
)
def test_round_trip(kdf: KDFParameters | None) -> None:
    document = _keystore(kdf)
    assert parse_keystore(encode_keystore(document), "x") == document
    keys = tuple(replace(key, retired=None) for key in document.keys)
    old = replace(document, keys=keys, counter=0, seal=b"", is_sealed=False)
    assert parse_keystore(encode_keystore(old), "x") == old


def test_versions_are_sorted() -> None:
    keys = (_key(1, "pii", 3), _key(2, "ops"), _key(3, "pii", 1))
    document = KeystoreDocument(id=UUIDS[0], kdf=None, verifier=b"", keys=keys)
    assert [key.version for key in document.versions("pii")] == [1, 3]
    assert document.versions("none") == ()


@pytest.mark.parametrize("name", ["pii", "a.b-c_d", "_x", "A" * 64, "0"])
def test_names(name: str) -> None:
    assert is_key_name(name)


@pytest.mark.parametrize("name", ["", ".a", "-a", "a/b", "a b", "a\n", "ä", "A" * 65])
def test_other_names(name: str) -> None:
    assert not is_key_name(name)


Change = Callable[[Any], object]
CHANGES: list[Change] = [
    lambda document: document.update(pipecrypt_keystore=3),
    lambda document: document.update(pipecrypt_keystore="1"),
    lambda document: document.pop("pipecrypt_keystore"),
    lambda document: document.update(extra=1),
    lambda document: document.update(id="x"),
    lambda document: document.update(id=UUIDS[0].upper() + "\n"),
    lambda document: document.update(verifier="?"),
    lambda document: document.update(verifier="A" * 4000),
    lambda document: document.update(keys={}),
    lambda document: document.update(keys=[1]),
    lambda document: document.update(protection=None),
    lambda document: document["protection"].update(kind="none"),
    lambda document: document["protection"].update(kind="key-file"),
    lambda document: document["protection"].update(kdf="pbkdf2"),
    lambda document: document["protection"].update(kdf="scrypt"),
    lambda document: document["protection"].update(memory_kib=2**40),
    lambda document: document["protection"].update(memory_kib=True),
    lambda document: document["protection"].update(memory_kib=65536.0),
    lambda document: document["protection"].update(iterations=10**400),
    lambda document: document["protection"].update(lanes=0),
    lambda document: document["protection"].update(salt=""),
    lambda document: document["protection"].update(extra=1),
    lambda document: document["keys"][0].update(name="../x"),
    lambda document: document["keys"][0].update(id="x"),
    lambda document: document["keys"][0].update(id=UUIDS[2]),
    lambda document: document["keys"][0].update(version=2),
    lambda document: document["keys"][0].update(version=0),
    lambda document: document["keys"][0].update(version=10**9),
    lambda document: document["keys"][0].update(type="rsa"),
    lambda document: document["keys"][0].update(type="ed25519"),
    lambda document: document["keys"][0].update(type="ed25519", public_key="PEM"),
    lambda document: document["keys"][0].update(public_key="PEM"),
    lambda document: document["keys"][0].update(created="yesterday"),
    lambda document: document["keys"][0].update(created="2026-13-24T12:00:00Z"),
    lambda document: document["keys"][0].update(extra=1),
    lambda document: document["keys"][0].pop("sealed"),
    lambda document: document["keys"][2].pop("public_key"),
    lambda document: document["keys"].extend([document["keys"][0]] * 10_000),
]


@pytest.mark.parametrize("change", CHANGES)
def test_malformed_keystores_are_refused(change: Change) -> None:
    document = json.loads(encode_keystore(DOCUMENT))
    change(document)
    with pytest.raises(KeystoreError):
        parse_keystore(json.dumps(document).encode(), "x")


@given(st.binary(max_size=200))
def test_hostile_bytes_end_in_our_errors(data: bytes) -> None:
    with pytest.raises(KeystoreError):
        parse_keystore(data, "x")


@given(st.integers(0, len(encode_keystore(DOCUMENT)) - 1), st.binary(max_size=3), st.integers(0, 9))
def test_hostile_changes_end_in_our_errors(position: int, inserted: bytes, removed: int) -> None:
    text = encode_keystore(DOCUMENT)
    with contextlib.suppress(KeystoreError):
        parse_keystore(text[:position] + inserted + text[position + removed :], "x")
