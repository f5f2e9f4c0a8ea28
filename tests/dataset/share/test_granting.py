"""What sharing does where grants are forged, or a keystore of the caller's is damaged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from pipecrypt.crypto.aead import random_bytes
from pipecrypt.dataset.share.granting import Grantee, share_keks
from pipecrypt.dataset.share.kek_search import EncryptedData, KEKSearch, LocatedKEK, find_encrypted_data
from pipecrypt.errors import DamagedKeystoreError, IntegrityError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.grants import Grant, Grants, encode_grants
from pipecrypt.keys.material import KeyMaterial, parse_key_metadata
from pipecrypt.keys.session import KeySession
from pipecrypt.store.location import Location
from pipecrypt.testing import MemoryCall, MemoryKeyService
from pipecrypt.vocabulary.context import Context, new_dataset_id
from pipecrypt.vocabulary.documents import encode_base64
from pipecrypt.vocabulary.secret import DataKey

DATASET = new_dataset_id()
PII, NEW, THIRD = "memory://pii", "memory://new", "memory://third"
SINCE = "2026-01-31T12:00:00Z"


def _session(memory: MemoryKeyService, reference: str) -> KeySession:
    return KeySession([reference], credentials=Credentials({}), services={"memory": memory})


def _found(memory: MemoryKeyService, place: EncryptedData, file: str) -> LocatedKEK:
    """Return a KEK of its own, and a data key under it, as a file may hold them."""
    context = Context(DATASET, file, ("email",), 0)
    with _session(memory, PII) as writer:
        key, key_metadata = writer.new_data_key(PII, context)
        key.wipe()
    material = parse_key_metadata(key_metadata)
    assert isinstance(material, KeyMaterial)
    assert material.kek is not None
    return LocatedKEK(encode_base64(material.kek.id), material, context, place.files.location(f"{place.path}/{file}"))


def _granted(memory: MemoryKeyService, kek: LocatedKEK, reference: str = NEW) -> Grant:
    with _session(memory, PII) as opening, _session(memory, reference) as target:
        with opening.open_kek(kek.material, kek.context) as key:
            wrapped = target.wrap_kek(reference, key, DATASET)
        return Grant(kek.id, target.master_key_id(reference), wrapped, SINCE)


def _forged(kek: LocatedKEK) -> Iterator[Grant]:
    for _ in range(3):
        yield Grant(kek.id, "memory/new", f"pc1.{DATASET}.{encode_base64(random_bytes(60))}", SINCE)


def _search(keks: Iterable[LocatedKEK]) -> KEKSearch:
    return cast("KEKSearch", SimpleNamespace(keks=tuple(keks)))


@pytest.fixture
def memory() -> MemoryKeyService:
    return MemoryKeyService()


@pytest.fixture
def place(tmp_path: Path) -> EncryptedData:
    return find_encrypted_data(Location(str(tmp_path)), None)


def test_forged_grants_of_one_file_count_against_that_one(memory: MemoryKeyService, place: EncryptedData) -> None:
    keks = [_found(memory, place, file) for file in ("a", "b", "c") for _ in range(5)]
    grants: list[Grant] = []
    for kek in keks:
        grants += [*_forged(kek), _granted(memory, kek)]
    grants_file = Path(place.grants.local_path)
    grants_file.parent.mkdir()
    grants_file.write_bytes(encode_grants(Grants(tuple(grants))))
    with _session(memory, NEW) as opening, _session(memory, THIRD) as third:
        shared = share_keks(place, _search(keks), opening, Grantee(third, THIRD))
    assert (shared.granted, shared.unopened) == (15, ())


def test_what_was_forged_is_named_with_its_file(memory: MemoryKeyService, place: EncryptedData) -> None:
    kek = _found(memory, place, "a")
    with (
        _session(MemoryKeyService(), PII) as opening,
        _session(memory, NEW) as new,
        pytest.raises(IntegrityError, match=f"{kek.file.display}: "),
    ):
        share_keks(place, _search([kek]), opening, Grantee(new, NEW))


class _Damageable(MemoryKeyService):
    """Unwraps nothing once it is told so: as if its keystore had been changed."""

    is_damaged = False

    def use(self, call: MemoryCall, name: str) -> DataKey:
        if call.operation == "unwrap" and self.is_damaged:
            raise DamagedKeystoreError("keystore keys.json was changed")
        return MemoryKeyService.use(self, call, name)


@pytest.mark.parametrize("whose", ["opening", "target"])
def test_a_damaged_keystore_is_not_taken_for_a_grant_that_is_there_or_forged(place: EncryptedData, whose: str) -> None:
    services = {"opening": _Damageable(), "target": _Damageable()}
    kek = _found(services["opening"], place, "a")
    with _session(services["opening"], PII) as opening, _session(services["target"], NEW) as new:
        target = Grantee(new, NEW)
        assert share_keks(place, _search([kek]), opening, target).granted == 1
        assert share_keks(place, _search([kek]), opening, target).already == 1
    with _session(services["opening"], PII) as opening, _session(services["target"], NEW) as new:
        services[whose].is_damaged = True
        with pytest.raises(DamagedKeystoreError, match=r"keys\.json"):
            share_keks(place, _search([kek]), opening, Grantee(new, NEW))
