"""A Session opens keys once, lends them to calls, gives nobody more than was asked for, and wipes them."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable, Iterator

import pytest

from pipecrypt.crypto.kdf import Argon2Parameters, derive_key
from pipecrypt.errors import KeyNotFoundError, KeyServiceError, PassphraseError, UsageError
from pipecrypt.keys.credentials import Credentials, given_credentials
from pipecrypt.keys.held_keys import Session
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
        held = session.lend(pii)
        assert "1 keys" in repr(session)
        session.close()
        session.close()
        with pytest.raises(UsageError, match="closed"):
            borrowing.new_data_key(pii, EMAIL)
    with pytest.raises(RuntimeError, match="wiped"):
        held.wrap_key(DataKey(bytes(32)), EMAIL)  # type: ignore[union-attr]
    for use in (lambda: _written(pii, session), session.__enter__, lambda: session.lend(pii)):
        with pytest.raises(UsageError, match="closed"):
            use()
    assert session._derived == {}


def test_what_is_wrong_shows_at_its_beginning(pii: str) -> None:
    with pytest.raises(PassphraseError):
        Session([pii], credentials=_passphrase("battery staple"))
    with pytest.raises(UsageError, match="list of key references"):
        Session(pii)
    with pytest.raises(UsageError, match="list of key references"):
        Session([1])  # type: ignore[list-item]


def test_what_nobody_closes_is_wiped_when_it_is_collected(pii: str) -> None:
    session = Session([pii], credentials=_passphrase())
    held = session.lend(pii)
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
    with session.turn:  # as another thread may hold it
        child = os.fork()
        if not child:
            os._exit(_in_child(session, borrowing, pii, derivations))
        assert os.waitpid(child, 0)[1] == 0
    borrowing.new_data_key(pii, EMAIL)[0].wipe()
    session.close()


def _in_child(session: Session, borrowing: KeySession, pii: str, derivations: list[bytes]) -> int:
    try:
        _written(pii, session)
        return 0 if len(derivations) == 1 and not borrowing.is_usable else 1
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
