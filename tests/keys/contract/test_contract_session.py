"""What a session makes of any key service: few calls, an allow-list, wiped keys. The service alone: test_contract."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from pipecrypt.errors import IntegrityError, KeyNotFoundError, PipecryptError
from pipecrypt.keys.session import KeySession
from pipecrypt.vocabulary.context import Context, new_dataset_id
from pipecrypt.vocabulary.documents import encode_base64
from tests.keys.contract.worlds import Trouble, World

DATASET = new_dataset_id()
PLACE = Context(DATASET, "a.parquet", ("email",), 0)
MANY = 10_000


def test_ten_thousand_data_keys_take_one_call_each_way(world: World) -> None:
    before = world.calls()
    with _writer(world) as writer:
        made = [writer.new_data_key(world.reference, PLACE) for _ in range(MANY)]
        assert writer.service_calls == 1
    written = world.calls() - before
    with _reader(world) as reader:
        for key, key_metadata in made:
            assert reader.open_data_key(key_metadata, PLACE).same_as(key)
        assert reader.service_calls == 1
    assert world.calls() - before in {0, 2 * written}
    assert written in {0, 1}


def test_a_hostile_file_causes_no_call(world: World) -> None:
    with _writer(world) as writer:
        _, key_metadata = writer.new_data_key(world.reference, PLACE)
    before = world.calls()
    with _reader(world) as reader:
        for number in range(MANY):
            with pytest.raises(KeyNotFoundError):
                reader.open_data_key(_changed(key_metadata, masterKeyID=f"arn:aws:kms:xx-1:6:key/{number}"), PLACE)
        for hint in (world.reference, world.other_reference, "memory/other", "keystore/pii/0", ""):
            with pytest.raises(KeyNotFoundError):
                reader.open_data_key(_changed(key_metadata, masterKeyID=hint), PLACE)
        assert reader.service_calls == 0
    assert world.calls() == before


def test_a_key_of_another_dataset_is_refused(world: World) -> None:
    other = Context(new_dataset_id(), PLACE.path, PLACE.column, PLACE.batch)
    with _writer(world) as writer:
        _, key_metadata = writer.new_data_key(world.reference, PLACE)
    wrapped = json.loads(key_metadata)["wrappedKEK"]
    moved = _changed(key_metadata, wrappedKEK=wrapped.replace(DATASET, other.dataset_id))
    with _reader(world) as reader:
        for metadata, place in ((key_metadata, other), (moved, other), (moved, PLACE)):
            with pytest.raises(IntegrityError):
                reader.open_data_key(metadata, place)


def test_an_exchanged_kek_opens_nothing(world: World) -> None:
    with _writer(world) as first, _writer(world) as second:
        (_, one), (_, two) = (session.new_data_key(world.reference, PLACE) for session in (first, second))
    exchanged = _changed(one, wrappedKEK=json.loads(two)["wrappedKEK"])
    with _reader(world) as reader, pytest.raises(IntegrityError):
        reader.open_data_key(exchanged, PLACE)


def test_a_changed_data_key_opens_nothing(world: World) -> None:
    with _writer(world) as writer:
        _, key_metadata = writer.new_data_key(world.reference, PLACE)
    with _reader(world) as reader, pytest.raises(IntegrityError):
        reader.open_data_key(_changed(key_metadata, wrappedDEK=encode_base64(bytes(60))), PLACE)


def test_keys_are_wiped_when_a_session_closes(world: World) -> None:
    with _writer(world) as writer:
        _, key_metadata = writer.new_data_key(world.reference, PLACE)
        made = [kek.key.expose_key_bytes() for kek in writer._writing._keks.values()]
    with _reader(world) as reader:
        reader.open_data_key(key_metadata, PLACE).wipe()
        held = [each.key.expose_key_bytes() for each in reader._unwrapped._entries.values()]
    assert made == held == [bytearray(32)]


def test_a_service_that_dies_ends_the_session_only(world: World) -> None:
    with _writer(world) as writer:
        key, key_metadata = writer.new_data_key(world.reference, PLACE)
        with _reader(world) as reader:
            assert reader.open_data_key(key_metadata, PLACE).same_as(key)
            world.cause(Trouble.GONE)
            # What was unwrapped before still opens; what needs a call does not.
            assert reader.open_data_key(key_metadata, PLACE).same_as(key)
            writer.new_data_key(world.reference, PLACE)
    assert _exit_code(lambda: _use_once(world, key_metadata)) == 4


def _use_once(world: World, key_metadata: bytes) -> None:
    with _reader(world) as reader:
        reader.open_data_key(key_metadata, PLACE)


def _writer(world: World) -> KeySession:
    return KeySession([world.reference], credentials=world.credentials(), services=world.services(), dataset_id=DATASET)


def _reader(world: World) -> KeySession:
    return KeySession([world.reading_reference], credentials=world.credentials(), services=world.services())


def _changed(key_metadata: bytes, **members: str) -> bytes:
    return json.dumps(json.loads(key_metadata) | members).encode()


def _exit_code(use: Callable[[], object]) -> int:
    with pytest.raises(PipecryptError) as caught:
        use()
    return caught.value.exit_code
