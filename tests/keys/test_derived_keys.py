"""What was derived from a passphrase is derived once in a while, and only for who knows the passphrase."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipecrypt.crypto.kdf import Argon2Parameters, derive_key
from pipecrypt.errors import DamagedKeystoreError, KeyNotFoundError, PassphraseError, UsageError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.derived_keys import DERIVED_KEYS, DerivedKeys
from pipecrypt.keys.keystores import change_passphrase, create_key, remove_keys
from pipecrypt.keys.schemes import keystore_document
from pipecrypt.keys.session import KeySession
from pipecrypt.keys.signers import open_signer
from pipecrypt.vocabulary.secret import DataKey

PASSPHRASE = "correct horse"  # noqa: S105


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def derivations(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The passphrases that were stretched, each time."""
    DERIVED_KEYS.wipe()
    made: list[str] = []

    def counted(passphrase: bytes, parameters: Argon2Parameters) -> DataKey:
        made.append(passphrase.decode())
        return derive_key(passphrase, parameters)

    monkeypatch.setattr(keystore_document, "derive_key", counted)
    yield made
    DERIVED_KEYS.wipe()


@pytest.fixture
def pii(keystore: Callable[[str], str], cheap_kdf: Argon2Parameters, derivations: list[str]) -> str:
    create_key(keystore("pii"), "aes256", _credentials(), kdf=cheap_kdf)
    create_key(keystore("sign"), "ed25519", _credentials())
    DERIVED_KEYS.wipe()
    derivations.clear()
    return keystore("pii")


def _credentials(passphrase: str = PASSPHRASE, **more: str) -> Credentials:
    return Credentials({"PIPECRYPT_PASSPHRASE": passphrase, **more})


def _open(reference: str, credentials: Credentials) -> tuple[str, ...]:
    with KeySession([reference], credentials=credentials) as session:
        return session.master_key_ids()


def test_many_calls_stretch_a_passphrase_once(pii: str, derivations: list[str]) -> None:
    for _ in range(10):
        _open(pii, _credentials())
        open_signer(pii.replace("#pii", "#sign"), _credentials())
    assert derivations == [PASSPHRASE]


def test_another_passphrase_opens_nothing(pii: str, derivations: list[str]) -> None:
    _open(pii, _credentials())
    for _ in range(2):
        with pytest.raises(PassphraseError):
            _open(pii, _credentials("battery staple"))
    _open(pii, _credentials())
    assert derivations == [PASSPHRASE, "battery staple"]


def test_without_the_passphrase_nothing_is_opened(pii: str) -> None:
    _open(pii, _credentials())
    with pytest.raises(PassphraseError):
        _open(pii, Credentials({}))


def test_it_can_be_turned_off(pii: str, derivations: list[str]) -> None:
    off = {"PIPECRYPT_UNLOCKED_SECONDS": "0"}
    for _ in range(2):
        KeySession([pii, f"{pii}"], credentials=_credentials(**off)).close()
    assert derivations == [PASSPHRASE, PASSPHRASE]
    assert len(DERIVED_KEYS) == 0


@pytest.mark.parametrize("text", ["-1", "3601", "soon", "nan", "inf"])
def test_a_time_that_makes_no_sense_is_refused(pii: str, text: str) -> None:
    with pytest.raises(UsageError, match="PIPECRYPT_UNLOCKED_SECONDS"):
        _open(pii, _credentials(PIPECRYPT_UNLOCKED_SECONDS=text))


def test_a_keystore_is_read_and_authenticated_each_time(pii: str, tmp_path: Path) -> None:
    path, given = tmp_path / "keys.json", _credentials(PIPECRYPT_STATE_DIR=str(tmp_path / "state"))
    (key_id,) = _open(pii, given)
    before = path.read_bytes()
    create_key(pii, "aes256", given, new_version=True)
    assert len(_open(pii, given)) == 2
    after = path.read_bytes()

    path.write_bytes(after.replace(key_id.rpartition("/")[2].encode(), b"0" * 8 + b"-0000-4000-8000-" + b"0" * 12))
    with pytest.raises(DamagedKeystoreError):
        _open(pii, given)
    path.write_bytes(before)  # an older one
    with pytest.raises(DamagedKeystoreError):
        _open(pii, given)
    path.write_bytes(after)
    remove_keys(pii, None, given)
    with pytest.raises(KeyNotFoundError):
        _open(pii, given)


def test_after_another_passphrase_the_old_one_opens_nothing(
    pii: str, tmp_path: Path, cheap_kdf: Argon2Parameters
) -> None:
    _open(pii, _credentials())
    new = _credentials(PIPECRYPT_NEW_PASSPHRASE="battery staple")
    change_passphrase(tmp_path / "keys.json", new, cheap_kdf)
    with pytest.raises(PassphraseError):
        _open(pii, _credentials())
    _open(pii, _credentials("battery staple"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_begins_with_none(pii: str) -> None:
    _open(pii, _credentials())
    assert len(DERIVED_KEYS) == 1
    with DERIVED_KEYS._lock:  # as another thread may hold it
        child = os.fork()
        if not child:
            os._exit(len(DERIVED_KEYS) + bool(_open(pii, _credentials()) == ()))
        assert os.waitpid(child, 0)[1] == 0
    assert len(DERIVED_KEYS) == 1


def _derive(made: list[DataKey]) -> Callable[[], DataKey]:
    def derive() -> DataKey:
        made.append(DataKey(bytes(32)))
        return made[-1]

    return derive


def test_what_was_not_used_for_a_while_is_wiped() -> None:
    clock, made = Clock(), list[DataKey]()
    keys = DerivedKeys(clock=clock)
    keys.get("a", "secret", _derive(made), 60).wipe()
    clock.now = 59
    assert keys.get("a", "secret", _derive(made), 60).same_as(made[0])
    clock.now = 118
    keys.get("b", "secret", _derive(made), 60)
    assert (len(made), made[0].bits) == (2, 256)
    clock.now = 119
    keys.get("b", "secret", _derive(made), 60)
    assert (len(keys), len(made), made[0].bits) == (1, 2, 0)
    keys.wipe()
    assert made[1].bits == 0


def test_a_thread_wipes_what_nobody_asks_for_again() -> None:
    made: list[DataKey] = []
    keys = DerivedKeys()
    keys.get("a", "secret", _derive(made), 0.01).wipe()
    timer = keys._timer
    assert timer is not None
    timer.join(10)
    assert (len(keys), keys._timer, made[0].bits) == (0, None, 0)


def test_the_thread_comes_sooner_where_an_earlier_end_comes() -> None:
    made: list[DataKey] = []
    keys = DerivedKeys()
    keys.get("a", "secret", _derive(made), 3600).wipe()
    late = keys._timer
    keys.get("b", "secret", _derive(made), 0.01).wipe()
    soon = keys._timer
    assert late is not None
    assert soon is not None
    for timer in (late, soon):
        timer.join(10)
    assert [key.bits for key in made] == [256, 0]
    assert keys._timer is not None  # for what is left
    keys.wipe()
    keys._look_after()
    assert keys._timer is None


def test_where_no_thread_starts_nothing_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(timer: threading.Timer) -> None:
        raise RuntimeError("can't start new thread")

    made: list[DataKey] = []
    keys = DerivedKeys()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Timer, "start", refuse)
        assert keys.get("a", "secret", _derive(made), 60).bits == 256
    assert (len(keys), keys._timer, made[0].bits) == (0, None, 0)
    keys.get("a", "secret", _derive(made), 0.01).wipe()
    timer = keys._timer
    assert timer is not None
    timer.join(10)
    assert (len(keys), made[1].bits) == (0, 0)


def test_the_thread_stays_while_there_is_anything() -> None:
    clock, made = Clock(), list[DataKey]()
    keys = DerivedKeys(clock=clock)
    keys.get("a", "secret", _derive(made), 60)
    first = keys._timer
    assert first is not None
    first.cancel()
    clock.now = 30
    keys.get("a", "secret", _derive(made), 60)
    clock.now = 60
    keys._look_after()  # it was used meanwhile
    assert (len(keys), made[0].bits) == (1, 256)
    second = keys._timer
    assert second is not None
    assert second.interval == 30
    second.cancel()
    keys.wipe()


def test_few_are_kept_and_those_used_last() -> None:
    made: list[DataKey] = []
    keys = DerivedKeys(most=2)
    for name in ("a", "b", "a", "c", "a"):
        keys.get(name, "secret", _derive(made), 60)
    assert len(keys) == 2
    assert [key.bits for key in made] == [256, 0, 256]
    keys.wipe()


def test_no_passphrase_is_kept_in_clear() -> None:
    keys = DerivedKeys()
    keys.get("a", "correct horse battery", _derive([]), 60)
    (name,) = keys._entries
    assert name[0] == "a"
    assert len(name[1]) == 32
    assert not [each for each in gc.get_referents(keys, name) if each == "correct horse battery"]
    before = name[1]
    keys.wipe()
    keys.get("a", "correct horse battery", _derive([]), 60)
    assert next(iter(keys._entries))[1] != before  # the random key went with the last entry
    keys.wipe()


def test_threads_derive_once() -> None:
    made: list[DataKey] = []
    keys, start = DerivedKeys(), threading.Barrier(8)

    def use() -> None:
        start.wait()
        for _ in range(100):
            keys.get("a", "secret", _derive(made), 60).wipe()

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    keys.wipe()
