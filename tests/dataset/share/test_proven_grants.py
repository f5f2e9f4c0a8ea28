"""What is believed of grants before a master key is destroyed, where keys, texts or keystores fail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import pytest

from pipecrypt.crypto.aead import random_bytes
from pipecrypt.dataset.share.key_usage import GrantProofs, KeyUsage, WrappedKEK
from pipecrypt.errors import (
    AccessError,
    DamagedKeystoreError,
    FormatError,
    IntegrityError,
    KeyNotFoundError,
    KeyServiceError,
    PipecryptError,
)
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.grants import Grant, Grants
from pipecrypt.keys.keyring import RequestOrigin
from pipecrypt.keys.session import KeySession
from pipecrypt.testing import MemoryKeyService
from pipecrypt.vocabulary.context import new_dataset_id
from pipecrypt.vocabulary.documents import encode_base64
from pipecrypt.vocabulary.secret import DataKey

DOOMED, OTHER, KEK = "keystore/pii/1", "keystore/other/2", "AAAA"
USAGE = KeyUsage(DOOMED, 1, 0, (), 1, 0, None, (), 1)
SINCE = "2026-01-31T12:00:00Z"
GRANTS = Grants((Grant(KEK, OTHER, "granted", SINCE),))
ONE = {KEK: WrappedKEK({"text"})}


class Session:
    """Opens texts to keys of equal bytes, or fails as it is told, by master key."""

    def __init__(self, failures: Mapping[str, PipecryptError] | None = None) -> None:
        self._failures = failures or {}

    def unwrap_kek_text(self, text: str, master_key_id: str, origin: RequestOrigin) -> DataKey:
        if master_key_id in self._failures:
            raise self._failures[master_key_id]
        return DataKey(bytes(range(32)))


def apply(session: Session, wrapped: Mapping[str, WrappedKEK] = ONE) -> tuple[int, int, int]:
    proofs = GrantProofs(cast(KeySession, session), frozenset({DOOMED}))
    found = proofs.applied_to(USAGE, wrapped, GRANTS)
    return found.only_opener_of, found.claimed_by_grants, found.proven_by_grants


def test_a_true_grant_is_proven() -> None:
    assert apply(Session()) == (0, 0, 1)


@pytest.mark.parametrize("kind", [KeyServiceError, KeyNotFoundError, AccessError])
def test_a_doomed_key_that_cannot_be_asked_ends_the_search(kind: type[PipecryptError]) -> None:
    with pytest.raises(kind, match="denied"):
        apply(Session({DOOMED: kind("denied")}))


@pytest.mark.parametrize("kind", [IntegrityError, FormatError])
def test_a_text_that_the_doomed_key_did_not_make_is_not_one_of_its_keks(kind: type[PipecryptError]) -> None:
    assert apply(Session({DOOMED: kind("forged")})) == (0, 0, 0)


@pytest.mark.parametrize("kind", [KeyServiceError, KeyNotFoundError, IntegrityError])
def test_a_grant_that_does_not_open_stays_a_claim(kind: type[PipecryptError]) -> None:
    assert apply(Session({OTHER: kind("denied")})) == (0, 1, 0)


@pytest.mark.parametrize("master_key_id", [DOOMED, OTHER])
def test_a_damaged_keystore_is_named(master_key_id: str) -> None:
    with pytest.raises(DamagedKeystoreError, match=r"keys\.json"):
        apply(Session({master_key_id: DamagedKeystoreError("keystore keys.json was changed")}))


@pytest.mark.parametrize("texts", [set(), {"text"}], ids=["alone", "beside a readable one"])
def test_what_cannot_be_read_of_a_kek_is_lost(texts: set[str]) -> None:
    assert apply(Session(), {KEK: WrappedKEK(texts, has_unreadable=True)}) == (1, 0, 0)


@pytest.mark.parametrize("names_it_too", [False, True])
def test_forged_grants_for_one_file_deny_no_other_file_its_proof(names_it_too: bool) -> None:
    dataset_id, memory = new_dataset_id(), MemoryKeyService()
    references = ("memory://doomed", "memory://other")
    with KeySession(references, credentials=Credentials({}), services={"memory": memory}) as session:
        with DataKey(random_bytes(32)) as kek:
            text = session.wrap_kek(references[0], kek, dataset_id)
            granted = session.wrap_kek(references[1], kek, dataset_id)
        forged = [f"pc1.{dataset_id}.{encode_base64(random_bytes(60))}" for _ in range(20)]
        # A hostile file names the same wrapped text under ids of its own; its grants come first.
        grants = [Grant(f"A{number:03}", "memory/other", each, SINCE) for number, each in enumerate(forged)]
        grants.append(Grant("B000", "memory/other", granted, SINCE))
        files = {f"A{number:03}": {"hostile"} for number in range(20)}
        files["B000"] = {"honest", "hostile"} if names_it_too else {"honest"}
        wrapped = {kek_id: WrappedKEK({text}, files=names) for kek_id, names in files.items()}
        proofs = GrantProofs(session, frozenset({"memory/doomed"}))
        usage = replace(USAGE, master_key_id="memory/doomed")
        found = proofs.applied_to(usage, wrapped, Grants(tuple(grants)))
    assert (found.only_opener_of, found.claimed_by_grants, found.proven_by_grants) == (0, 20, 1)
    assert sum(call.master_key_id == "memory/other" and call.operation == "unwrap" for call in memory.calls) == 16 + 1
