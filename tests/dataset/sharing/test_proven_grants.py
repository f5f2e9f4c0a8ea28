"""What is believed of grants before a master key is destroyed, where keys, texts or keystores fail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import pytest

from pipecrypt.dataset.sharing.key_usage import KeyUsage, WrappedKEK
from pipecrypt.dataset.sharing.proven_grants import GrantProofs
from pipecrypt.errors import (
    AccessError,
    DamagedKeystoreError,
    FormatError,
    IntegrityError,
    KeyNotFoundError,
    KeyServiceError,
    PipecryptError,
)
from pipecrypt.keys.grants import Grant, Grants
from pipecrypt.keys.sessions.session import KeySession
from pipecrypt.secret import DataKey

DOOMED, OTHER, KEK = "keystore/pii/1", "keystore/other/2", "AAAA"
USAGE = KeyUsage(DOOMED, 1, 0, (), 1, 0, None, (), 1)
GRANTS = Grants((Grant(KEK, OTHER, "granted", "2026-01-31T12:00:00Z"),))
ONE = {KEK: WrappedKEK(frozenset({"text"}), has_unreadable=False)}


class Session:
    """Opens texts to keys of equal bytes, or fails as it is told, by master key."""

    def __init__(self, failures: Mapping[str, PipecryptError] | None = None) -> None:
        self._failures = failures or {}

    def unwrap_kek_text(self, text: str, master_key_id: str) -> DataKey:
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


@pytest.mark.parametrize("texts", [frozenset(), frozenset({"text"})], ids=["alone", "beside a readable one"])
def test_what_cannot_be_read_of_a_kek_is_lost(texts: frozenset[str]) -> None:
    assert apply(Session(), {KEK: WrappedKEK(texts, has_unreadable=True)}) == (1, 0, 0)
