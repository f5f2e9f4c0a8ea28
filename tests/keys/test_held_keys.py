"""A Session opens keys once, lends them to calls, gives nobody more than was asked for, and wipes them."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from pipecrypt.crypto.kdf import Argon2Parameters, derive_key
from pipecrypt.errors import KeyNotFoundError, KeyServiceError, PassphraseError, UsageError
from pipecrypt.keys import held_keys
from pipecrypt.keys.credentials import Credentials, given_credentials
from pipecrypt.keys.held_keys import HeldKeys, Session, held_keys_of
from pipecrypt.keys.keyring import KEKLimits
from pipecrypt.keys.keystores import create_key
from pipecrypt.keys.schemes import keystore_document
from pipecrypt.keys.session import KeySession
from pipecrypt.testing import MemoryKeyService, use_memory_keys
from pipecrypt.vocabulary.context import Context, new_dataset_id
from pipecrypt.vocabulary.secret import DataKey

DATASET = new_dataset_id()
EMAIL = Context(DATASET, "a/b.parquet").for_column(("email",), 0)
PII, OPS = "memory://pii", "memory://ops"


@pytest.fixture
def service() -> Iterator[MemoryKeyService]:
    with use_memory_keys() as service:
        yield service


@pytest.fixture
def derivations(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    made: list[bytes] = []

    def counted(passphrase: bytes, parameters: Argon2Parameters) -> DataKey:
        made.append(passphrase)
        return derive_key(passphrase, parameters)

    monkeypatch.setattr(keystore_document, "derive_key", counted)
    return made


@pytest.fixture
def pii(keystore: Callable[[str], str], cheap_kdf: Argon2Parameters, derivations: list[bytes]) -> str:
    create_key(keystore("pii"), "aes256", _passphrase(), kdf=cheap_kdf)
    create_key(keystore("other"), "aes256", _passphrase())
    derivations.clear()
    return keystore("pii")


def _passphrase(passphrase: str = "correct horse") -> Credentials:  # noqa: S107
    # What the process remembers is turned off: what is counted here is what a Session saves.
    return Credentials({"PIPECRYPT_PASSPHRASE": passphrase, "PIPECRYPT_UNLOCKED_SECONDS": "0"})


def _written(reference: str, credentials: Credentials) -> bytes:
    with KeySession([reference], credentials=credentials, dataset_id=DATASET) as session:
        key, key_metadata = session.new_data_key(reference, EMAIL)
        key.wipe()
        return key_metadata


def _read(reference: str, key_metadata: bytes, credentials: Credentials) -> None:
    with KeySession([reference], credentials=credentials) as session:
        session.open_data_key(key_metadata, EMAIL).wipe()


def _held(session: Session) -> HeldKeys:
    held = held_keys_of(session)
    assert held is not None
    return held


def test_a_keystore_is_unlocked_once(pii: str, derivations: list[bytes]) -> None:
    with Session([pii], credentials=_passphrase()) as session:
        for _ in range(5):
            _read(pii, _written(pii, session), session)
        _written(pii.replace("#pii", "#other"), session)  # a key that it does not hold
        assert len(derivations) == 1
    _written(pii, _passphrase())
    assert len(derivations) == 2


def test_a_kek_is_unwrapped_once_for_readers_of_the_same_references(service: MemoryKeyService) -> None:
    key_metadata = _written(PII, Credentials({}))
    service.calls.clear()
    with Session([PII, OPS]) as session:
        for _ in range(3):
            _read(PII, key_metadata, session)
        assert [call.operation for call in service.calls] == ["unwrap"]
        with pytest.raises(KeyNotFoundError):  # what others unwrapped is not for who was not given its key
            _read(OPS, key_metadata, session)


def test_keks_of_other_keys_than_it_holds_are_not_kept(service: MemoryKeyService) -> None:
    by_ops, by_pii = _written(OPS, Credentials({})), _written(PII, Credentials({}))
    with Session([PII]) as session:
        service.calls.clear()
        for _ in range(2):
            _read(OPS, by_ops, session)
            with KeySession([PII, OPS], credentials=session) as both:
                both.open_data_key(by_pii, EMAIL).wipe()
        assert [call.operation for call in service.calls] == ["unwrap"] * 4
        assert len(_held(session)._unwrapped._entries) == 0


def test_its_readers_keep_no_more_keks_together_than_one_alone(
    service: MemoryKeyService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_keys, "KEKLimits", lambda: KEKLimits(count=2))
    written = {key: [_written(key, Credentials({})) for _ in range(3)] for key in (PII, OPS)}
    with Session([PII, OPS]) as session:
        for key, texts in written.items():
            for text in texts:
                _read(key, text, session)
        kept = [entry.key for entry in _held(session)._unwrapped._entries.values()]
        assert len(kept) == 2
    assert [key.bits for key in kept] == [0, 0]


def test_keks_that_are_over_are_wiped_when_the_next_reader_comes(
    service: MemoryKeyService, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(held_keys.time, "monotonic", lambda: now[0])
    text = _written(PII, Credentials({}))
    with Session([PII]) as session:
        _read(PII, text, session)
        (entry,) = _held(session)._unwrapped._entries.values()
        now[0] = 3600.0
        KeySession([PII, OPS], credentials=session).close()
        assert entry.key.bits == 0


def test_writers_make_a_kek_each(service: MemoryKeyService) -> None:
    with Session([PII]) as session:
        texts = {_written(PII, session) for _ in range(3)}
    assert len(texts) == 3
    assert [call.operation for call in service.calls] == ["generate"] * 3


def test_it_is_active_in_its_block_and_on_its_thread() -> None:
    found: list[Credentials] = []
    with Session() as outer:
        with Session() as inner:
            assert given_credentials(None) is inner
            own = Credentials({})
            assert given_credentials(own) is own
        assert given_credentials(None) is outer
        thread = threading.Thread(target=lambda: found.append(given_credentials(None)))
        thread.start()
        thread.join()
    assert not isinstance(given_credentials(None), Session)
    assert not isinstance(found[0], Session)


def test_it_takes_the_credentials_of_the_one_around_it(pii: str) -> None:
    with Session(credentials=_passphrase()), Session([pii]) as inner:
        _written(pii, inner)


def test_a_closed_one_opens_nothing(pii: str) -> None:
    session = Session([pii], credentials=_passphrase())
    with KeySession([pii], credentials=session, dataset_id=DATASET) as borrowing:
        held = _held(session).lend(pii, session)
        assert "1 keys" in repr(session)
        session.close()
        session.close()
        with pytest.raises(UsageError, match="closed"):
            borrowing.new_data_key(pii, EMAIL)
    with pytest.raises(RuntimeError, match="wiped"):
        held.wrap_key(DataKey(bytes(32)), EMAIL)  # type: ignore[union-attr]
    for use in (lambda: _written(pii, session), session.__enter__, lambda: KeySession([], credentials=session)):
        with pytest.raises(UsageError, match="closed"):
            use()
    assert session._derived == {}


def test_closing_it_wipes_the_keks_of_who_borrows(service: MemoryKeyService) -> None:
    session = Session([PII])
    writers = [KeySession([PII], credentials=session, dataset_id=DATASET) for _ in range(3)]
    for writer in writers:
        writer.new_data_key(PII, EMAIL)[0].wipe()
    keks = [kek.key for writer in writers for kek in writer._writing._keks.values()]
    assert [kek.bits for kek in keks] == [256] * 3
    writers[1].close()
    session.close()
    assert [kek.bits for kek in keks] == [0] * 3
    for writer in writers:
        for use in (
            lambda: writer.new_data_key(PII, EMAIL),  # noqa: B023
            lambda: writer.unwrap_kek_text("AAAA", "memory/pii"),  # noqa: B023
            lambda: writer.open_data_key(b"", EMAIL),  # noqa: B023
        ):
            with pytest.raises(UsageError, match="closed"):
                use()


def test_a_key_session_keeps_the_session_that_it_borrows_from(pii: str) -> None:
    with KeySession([pii], credentials=Session([pii], credentials=_passphrase()), dataset_id=DATASET) as borrowing:
        borrowing.new_data_key(pii, EMAIL)[0].wipe()


def test_what_is_wrong_shows_at_its_beginning(pii: str) -> None:
    with pytest.raises(PassphraseError):
        Session([pii], credentials=_passphrase("battery staple"))
    with pytest.raises(UsageError, match="list of key references"):
        Session(pii)
    with pytest.raises(UsageError, match="list of key references"):
        Session([1])  # type: ignore[list-item]


def test_what_nobody_closes_is_wiped_when_it_is_collected(pii: str) -> None:
    session = Session([pii], credentials=_passphrase())
    held = _held(session).lend(pii, session)
    del session
    with pytest.raises(RuntimeError, match="wiped"):
        held.wrap_key(DataKey(bytes(32)), EMAIL)  # type: ignore[union-attr]


def test_a_worker_process_gets_credentials_and_no_key(pii: str) -> None:
    with Session([pii], credentials=_passphrase()) as session:
        sent = pickle.loads(pickle.dumps(session))  # noqa: S301
    assert type(sent) is Credentials
    _written(pii, sent)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_opens_keys_anew(pii: str, derivations: list[bytes]) -> None:
    session = Session([pii], credentials=_passphrase())
    borrowing = KeySession([pii], credentials=session, dataset_id=DATASET)
    derivations.clear()
    with _held(session).turn:  # as another thread may hold it
        child = os.fork()
        if not child:
            os._exit(_in_child(session, borrowing, pii, derivations))
        assert os.waitpid(child, 0)[1] == 0
    borrowing.new_data_key(pii, EMAIL)[0].wipe()
    session.close()


def _in_child(session: Session, borrowing: KeySession, pii: str, derivations: list[bytes]) -> int:
    signal.alarm(20)  # ends it where it waits for a lock that no thread holds here
    try:
        _written(pii, session)
        if len(derivations) != 1 or borrowing.is_usable:
            return 1
        with pytest.raises(UsageError, match="forked"):
            borrowing.new_data_key(pii, EMAIL)
        borrowing.close()
        session.close()
        return 0
    except BaseException:  # the parent tells
        return 2


def test_errors_of_the_service_pass_through(service: MemoryKeyService) -> None:
    with Session([PII]) as session:
        service.fail()
        with pytest.raises(KeyServiceError):
            _written(PII, session)


def test_threads_take_turns() -> None:
    with use_memory_keys() as service, Session([PII]) as session:
        texts = [_written(PII, session) for _ in range(4)]
        service.calls.clear()

        def use() -> None:
            for _ in range(50):
                for text in texts:
                    _read(PII, text, session)

        threads = [threading.Thread(target=use) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(service.calls) == len(texts)
