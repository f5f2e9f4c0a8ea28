"""What every key service keeps to, asked of its master keys directly. What sessions add: test_contract_session."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable

import pytest

from pipecrypt.crypto.aead import random_bytes
from pipecrypt.errors import AccessError, IntegrityError, PipecryptError
from pipecrypt.keys.service import Wipeable, WrapsKeys
from pipecrypt.vocabulary.context import Context, new_dataset_id
from pipecrypt.vocabulary.secret import DataKey
from tests.keys.contract import test_contract_session
from tests.keys.contract.worlds import Trouble, World, all_worlds

HERE = Context(new_dataset_id(), "")
ELSEWHERE = (Context(new_dataset_id(), ""), Context("", ""))


def test_round_trip(world: World) -> None:
    for context in (HERE, Context("", "")):
        key, wrapped = world.open().generate_key(context)
        assert key.bits == 256
        assert bytes(key.expose_key_bytes()) not in wrapped
        reader = world.open_reading()
        for _ in range(2):
            assert reader.unwrap_key(wrapped, context).same_as(key)


def test_keys_that_exist_are_wrapped(world: World) -> None:
    maker = world.open()
    assert isinstance(maker, WrapsKeys)
    for context in (HERE, Context("", "")):
        key = DataKey(random_bytes(32))
        wrapped = maker.wrap_key(key, context)
        assert bytes(key.expose_key_bytes()) not in wrapped
        assert world.open_reading().unwrap_key(wrapped, context).same_as(key)
        with pytest.raises(IntegrityError):
            world.open_reading().unwrap_key(wrapped, ELSEWHERE[0])


def test_no_two_keys_agree(world: World) -> None:
    made = [world.open().generate_key(HERE) for _ in range(3)]
    assert len({bytes(key.expose_key_bytes()) for key, _ in made}) == 3
    assert len({wrapped for _, wrapped in made}) == 3


def test_ids_are_stable_and_name_no_place(world: World) -> None:
    ids = {world.open().id, world.open().id}
    assert len(ids) == 1
    assert world.open(world.other_reference).id not in ids
    assert str(world.folder) not in world.open().id


def test_wrong_context(world: World) -> None:
    _, wrapped = world.open().generate_key(HERE)
    for context in ELSEWHERE:
        with pytest.raises(IntegrityError):
            world.open_reading().unwrap_key(wrapped, context)


def test_wrong_key(world: World) -> None:
    _, wrapped = world.open().generate_key(HERE)
    with pytest.raises(IntegrityError):
        world.open(world.other_reference).unwrap_key(wrapped, HERE)


def test_changed_wrapped_keys_are_noticed(world: World) -> None:
    _, wrapped = world.open().generate_key(HERE)
    reader = world.open_reading()
    for position in (0, len(wrapped) // 3, 2 * len(wrapped) // 3, len(wrapped) - 1):
        changed = bytearray(wrapped)
        changed[position] ^= 1
        with pytest.raises(IntegrityError):
            reader.unwrap_key(bytes(changed), HERE)


def test_cut_wrapped_keys_are_noticed(world: World) -> None:
    _, wrapped = world.open().generate_key(HERE)
    reader = world.open_reading()
    for cut in (b"", wrapped[:1], wrapped[:-1], wrapped + b"\0", bytes(10_000)):
        with pytest.raises(IntegrityError):
            reader.unwrap_key(cut, HERE)


def test_unknown_keys_are_missing(world: World) -> None:
    with pytest.raises(AccessError) as caught:
        world.open(world.unknown_reference).generate_key(HERE)
    assert "nobody" in str(caught.value)


def test_who_is_denied_gets_no_key(world: World) -> None:
    _check_refused(world, Trouble.DENIED)


def test_a_disabled_key_gives_none(world: World) -> None:
    _check_refused(world, Trouble.DISABLED)


def test_a_key_that_waits_for_deletion_gives_none(world: World) -> None:
    _check_refused(world, Trouble.DOOMED)


def test_a_service_that_is_gone_gives_none(world: World) -> None:
    _check_refused(world, Trouble.GONE)


def test_denial_is_not_asked_again(world: World) -> None:
    _, wrapped = world.open().generate_key(HERE)
    world.cause(Trouble.DENIED)
    before = world.calls()
    for count, use in enumerate(_uses(world, wrapped), start=1):
        with pytest.raises(AccessError):
            use()
        assert world.calls() <= before + count


def test_some_throttling_is_overcome(world: World) -> None:
    writer, reader = world.open(), world.open_reading()
    world.cause(Trouble.HALF_THROTTLED)
    for _ in range(10):
        key, wrapped = writer.generate_key(HERE)
        assert reader.unwrap_key(wrapped, HERE).same_as(key)
    assert world.calls() > 20


def test_endless_throttling_ends(world: World) -> None:
    _, wrapped = world.open().generate_key(HERE)
    world.cause(Trouble.THROTTLED)
    for use in _uses(world, wrapped):
        with pytest.raises(AccessError):
            use()


def test_a_service_that_hangs_is_given_up(world: World) -> None:
    _, wrapped = world.open().generate_key(HERE)
    world.cause(Trouble.SLOW)
    for use in _uses(world, wrapped):
        with pytest.raises(AccessError):
            use()


def test_garbage_is_refused(world: World) -> None:
    _, wrapped = world.open().generate_key(HERE)
    for answer_garbage in world.garbage():
        answer_garbage()
        for use in _uses(world, wrapped):
            with pytest.raises((AccessError, IntegrityError)):
                use()


def test_calls_are_counted_by_the_service(world: World) -> None:
    before = world.calls()
    _, wrapped = world.open().generate_key(HERE)
    assert world.calls() == before + 1
    world.open_reading().unwrap_key(wrapped, HERE)
    assert world.calls() == before + 2


def test_nothing_works_after_a_wipe(world: World) -> None:
    master_key = world.open()
    key, wrapped = master_key.generate_key(HERE)
    if isinstance(master_key, Wipeable):
        master_key.wipe()
        master_key.wipe()
        with pytest.raises(RuntimeError):
            master_key.generate_key(HERE)
    assert world.open_reading().unwrap_key(wrapped, HERE).same_as(key)


def test_nothing_secret_in_errors_and_logs(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    master_key = world.open()
    key, wrapped = master_key.generate_key(HERE)
    shown = [repr(master_key), repr(world.credentials())]
    world.open_reading().unwrap_key(wrapped, HERE)
    for trouble in (lambda: _open(world, wrapped, ELSEWHERE[0]), lambda: world.cause(Trouble.DENIED), lambda: None):
        shown += _errors(trouble)
        shown += _errors(lambda: _open(world, wrapped, HERE))
    everything = "\n".join((*shown, caplog.text))
    for secret in (*world.secrets, *_forms(key)):
        assert secret not in everything


def test_lists_of_fakes_name_tests() -> None:
    tests = {name for name in (*globals(), *vars(test_contract_session)) if name.startswith("test_")}
    for world in all_worlds():
        assert {*world.fakes, *world.lacks} <= tests, world.name


def _check_refused(world: World, trouble: Trouble) -> None:
    _, wrapped = world.open().generate_key(HERE)
    world.cause(trouble)
    for use in _uses(world, wrapped):
        with pytest.raises(AccessError) as caught:
            use()
        assert caught.value.exit_code == 4
        assert caught.value.hint


def _uses(world: World, wrapped: bytes) -> tuple[Callable[[], object], ...]:
    return lambda: world.open().generate_key(HERE), lambda: _open(world, wrapped, HERE)


def _open(world: World, wrapped: bytes, context: Context) -> DataKey:
    return world.open_reading().unwrap_key(wrapped, context)


def _errors(use: Callable[[], object]) -> list[str]:
    try:
        use()
    except PipecryptError as error:
        chain: list[BaseException] = []
        cause: BaseException | None = error
        while cause is not None:
            chain.append(cause)
            cause = (
                None if cause.__suppress_context__ and cause.__cause__ is None else cause.__cause__ or cause.__context__
            )
        return [f"{each!r} {each}" for each in chain] + [error.hint]
    return []


def _forms(key: DataKey) -> tuple[str, ...]:
    key_bytes = bytes(key.expose_key_bytes())
    return key_bytes.hex(), base64.b64encode(key_bytes).decode(), repr(key_bytes)
