"""Grants as text, and what a session does with them: honest, forged, of others, and where no service answers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace

import pytest

from pipecrypt.crypto.aead import random_bytes
from pipecrypt.errors import (
    DamagedKeystoreError,
    FormatError,
    IntegrityError,
    KeyNotFoundError,
    KeyServiceError,
    PolicyError,
    UsageError,
)
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.grants import (
    MAX_GRANTS,
    MAX_TRIED,
    Grant,
    Grants,
    check_strengths,
    encode_grants,
    parse_grants,
)
from pipecrypt.keys.material import KeyMaterial, kek_text, parse_key_metadata
from pipecrypt.keys.session import FindGrants, KeySession
from pipecrypt.testing import MemoryKeyService
from pipecrypt.vocabulary.context import Context, new_dataset_id
from pipecrypt.vocabulary.documents import encode_base64
from pipecrypt.vocabulary.secret import DataKey

DATASET = new_dataset_id()
PLACE = Context(DATASET, "a.parquet", ("email",), 0)
PII, NEW, THIRD = "memory://pii", "memory://new", "memory://third"
SINCE = "2026-01-31T12:00:00Z"


@pytest.fixture
def memory() -> MemoryKeyService:
    return MemoryKeyService()


def session(memory: MemoryKeyService, *references: str, also: tuple[str, ...] = ()) -> KeySession:
    dataset_id = DATASET if also else None
    return KeySession(
        references, credentials=Credentials({}), services={"memory": memory}, also=also, dataset_id=dataset_id
    )


def finding(grants: Iterable[Grant]) -> FindGrants:
    return Grants(tuple(grants)).of


def made(memory: MemoryKeyService) -> tuple[DataKey, bytes, Grant]:
    """Return a data key, its metadata, and the grant of its KEK for NEW."""
    with session(memory, PII) as writer, session(memory, NEW) as new:
        key, key_metadata = writer.new_data_key(PII, PLACE)
        material = parse_key_metadata(key_metadata)
        assert isinstance(material, KeyMaterial)
        assert material.kek is not None
        with writer.open_kek(material, PLACE) as kek:
            grant = Grant(encode_base64(material.kek.id), "memory/new", new.wrap_kek(NEW, kek, DATASET), SINCE)
    return key, key_metadata, grant


def test_a_grant_opens_what_its_master_key_may_open(memory: MemoryKeyService) -> None:
    key, key_metadata, grant = made(memory)

    with session(memory, NEW) as reader:
        with pytest.raises(KeyNotFoundError):
            reader.open_data_key(key_metadata, PLACE)
        for _ in range(3):
            assert reader.open_data_key(key_metadata, PLACE, grants=finding([grant])).same_as(key)
        assert reader.service_calls == 1
    with session(memory, THIRD) as stranger, pytest.raises(KeyNotFoundError):
        stranger.open_data_key(key_metadata, PLACE, grants=finding([grant]))
    assert not [call for call in memory.calls if call.master_key_id == "memory/third"]


def test_grants_are_looked_for_only_in_need(memory: MemoryKeyService) -> None:
    key, key_metadata, _ = made(memory)

    def look(kek_id: str) -> Iterable[Grant]:
        raise AssertionError(kek_id)

    with session(memory, PII) as reader:
        assert reader.open_data_key(key_metadata, PLACE, grants=look).same_as(key)


def test_a_grant_stands_in_for_a_service_that_is_away() -> None:
    here, away = MemoryKeyService(), MemoryKeyService()
    services = {"memory": here, "away": away}
    with KeySession(["away://pii", NEW], credentials=Credentials({}), services=services) as both:
        key, key_metadata = both.new_data_key("away://pii", PLACE)
        material = parse_key_metadata(key_metadata)
        assert isinstance(material, KeyMaterial)
        assert material.kek is not None
        with both.open_kek(material, PLACE) as kek:
            grant = Grant(encode_base64(material.kek.id), "memory/new", both.wrap_kek(NEW, kek, DATASET), SINCE)
    away.fail()
    away.calls.clear()
    # Both services call their keys memory/..., so the reader of the one that is away knows the id.
    with KeySession(["away://pii", NEW], credentials=Credentials({}), services=services) as reader:
        for _ in range(3):
            assert reader.open_data_key(key_metadata, PLACE, grants=finding([grant])).same_as(key)
        assert len(away.calls) == 1
        with pytest.raises(KeyServiceError):
            reader.open_data_key(made(MemoryKeyService())[1], PLACE, grants=finding([]))


def test_forged_grants_open_nothing_and_hide_nothing(memory: MemoryKeyService) -> None:
    key, key_metadata, grant = made(memory)
    with session(memory, NEW) as attacker, DataKey(random_bytes(32)) as other:
        forged = replace(grant, wrapped=attacker.wrap_kek(NEW, other, DATASET))
        elsewhere = new_dataset_id()
        other_dataset = replace(grant, wrapped=attacker.wrap_kek(NEW, other, elsewhere))
    renamed = replace(grant, wrapped=grant.wrapped.replace(DATASET, elsewhere))
    garbage = replace(grant, wrapped=kek_text(DATASET, b"garbage"))

    for bad in (forged, garbage):
        with session(memory, NEW) as reader:
            with pytest.raises(IntegrityError):
                reader.open_data_key(key_metadata, PLACE, grants=finding([bad]))
            assert reader.open_data_key(key_metadata, PLACE, grants=finding([bad, grant])).same_as(key)
    for bad in (other_dataset, renamed):
        with session(memory, NEW) as reader:
            with pytest.raises(KeyNotFoundError):
                reader.open_data_key(key_metadata, PLACE, grants=finding([bad]))
            assert reader.service_calls == 0


def test_a_flood_of_grants_makes_few_calls(memory: MemoryKeyService) -> None:
    _, key_metadata, grant = made(memory)
    flood = [replace(grant, wrapped=kek_text(DATASET, b"%d" % number)) for number in range(1000)]

    with session(memory, NEW) as reader, pytest.raises(IntegrityError):
        reader.open_data_key(key_metadata, PLACE, grants=finding(flood))
    assert reader.service_calls == MAX_TRIED


def test_a_grant_is_bound_to_the_place_like_any_key(memory: MemoryKeyService) -> None:
    _, key_metadata, grant = made(memory)

    with session(memory, NEW) as reader:
        for place in (replace(PLACE, path="b.parquet"), replace(PLACE, dataset_id=new_dataset_id())):
            with pytest.raises(IntegrityError):
                reader.open_data_key(key_metadata, place, grants=finding([grant]))


def test_a_writer_wraps_each_kek_for_further_master_keys(memory: MemoryKeyService) -> None:
    with session(memory, PII, also=(NEW, THIRD)) as writer:
        key, key_metadata = writer.new_data_key(PII, PLACE)
        writer.new_data_key(PII, PLACE)
        grants = writer.take_grants()
        assert writer.take_grants() == ()
        assert writer.service_calls == 3

    assert {grant.master_key_id for grant in grants} == {"memory/new", "memory/third"}
    for reference in (NEW, THIRD):
        with session(memory, reference) as reader:
            assert reader.open_data_key(key_metadata, PLACE, grants=finding(grants)).same_as(key)


def test_only_master_keys_that_can_are_asked_to_wrap(memory: MemoryKeyService) -> None:
    class OnlyMakes:
        id = "only/makes"

        def generate_key(self, context: Context) -> tuple[DataKey, bytes]:
            return DataKey(bytes(32)), b""

        def unwrap_key(self, wrapped: bytes, context: Context) -> DataKey:
            return DataKey(bytes(32))

    class Service:
        def open_key(self, reference: object, credentials: object) -> OnlyMakes:
            return OnlyMakes()

    with (
        KeySession(["only://key"], credentials=Credentials({}), services={"only": Service()}) as keys,
        DataKey(bytes(32)) as kek,
        pytest.raises(UsageError),
    ):
        keys.wrap_kek("only://key", kek, DATASET)


def test_grants_as_text() -> None:
    one, two = Grant("a", "k1", "pc1..AAAA", SINCE), Grant("a", "k2", f"pc1.{DATASET}.AAAA", SINCE)
    grants = Grants().with_added([one, two])

    assert parse_grants(encode_grants(grants)) == grants
    assert (one.dataset_id, two.dataset_id) == ("", DATASET)
    newer = replace(one, since="2027-01-31T12:00:00Z")
    assert grants.with_added([newer]).all == (newer, two)
    assert grants.without(["k1", "no"]).all == (two,)
    assert (grants.of("a"), grants.of("b")) == ([one, two], ())


def _document(**changes: object) -> dict[str, object]:
    entry = {"kek": "a", "master_key": "k", "wrapped": "pc1..AAAA", "since": SINCE} | changes
    return {"v": 1, "grants": [{name: value for name, value in entry.items() if value is not None}]}


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"grants": []},
        {"v": 2, "grants": []},
        {"v": 1},
        {"v": 1, "grants": [1]},
        {"v": 1, "grants": [], "more": 1},
        {"v": 1, "grants": [{}] * (MAX_GRANTS + 1)},
        _document(since="yesterday"),
        _document(kek=None),
        _document(kek="a" * 345),
        _document(master_key="k" * 4097),
        _document(wrapped="w" * (64 * 1024 + 1)),
        _document(more="member"),
    ],
    ids=lambda document: str(document)[:40],
)
def test_malformed_grants_are_refused(document: object) -> None:
    with pytest.raises(FormatError):
        parse_grants(json.dumps(document).encode())


def test_too_many_grants_are_not_written() -> None:
    with pytest.raises(FormatError):
        encode_grants(Grants(tuple(Grant(str(number), "k", "w", SINCE) for number in range(MAX_GRANTS + 1))))


def test_post_quantum_recipients_share_with_none_that_is_not() -> None:
    strong, weak = f"recipient/mlkem768x25519/{'0' * 64}", f"recipient/x25519/{'0' * 64}"

    check_strengths([strong, strong, "keystore/pii/1", "recipient/unknown/0"])
    check_strengths([weak, f"recipient/rsa-oaep-256/{'0' * 64}"])
    with pytest.raises(PolicyError):
        check_strengths([strong, "keystore/pii/1", weak])


@pytest.mark.parametrize("is_remembered", [False, True])
def test_a_damaged_keystore_is_named_and_no_other_grant_tried(is_remembered: bool) -> None:
    memory, third = MemoryKeyService(), MemoryKeyService()
    key, key_metadata, grant = made(memory)
    services = {"memory": memory, "third": third}
    with KeySession(["third://third", NEW], credentials=Credentials({}), services=services) as reader:
        with session(memory, NEW) as new, new.open_kek(_material(key_metadata), PLACE, finding([grant])) as kek:
            more = replace(grant, master_key_id="memory/third", wrapped=reader.wrap_kek("third://third", kek, DATASET))
        grants = finding([grant, more])
        if is_remembered:
            reader.open_data_key(key_metadata, PLACE, grants=grants)
            reader._unwrapped.wipe()  # as after an hour
        memory.fail(DamagedKeystoreError("keystore keys.json was changed"))
        with pytest.raises(DamagedKeystoreError, match=r"keys\.json") as caught:
            reader.open_data_key(key_metadata, PLACE, grants=grants)
        assert caught.value.exit_code == 3
        memory.failure = None
        assert reader.open_data_key(key_metadata, PLACE, grants=grants).same_as(key)


def _material(key_metadata: bytes) -> KeyMaterial:
    material = parse_key_metadata(key_metadata)
    assert isinstance(material, KeyMaterial)
    return material
