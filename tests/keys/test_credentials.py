import logging
import os
import pickle
from pathlib import Path

import pytest

from pipecrypt.errors import PassphraseError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.held_keys import Session
from pipecrypt.vocabulary.secret import DataKey

SECRET = "correct horse"  # noqa: S105 - for tests


class Person:
    """Answers prompts, and remembers what was asked."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, label: str) -> str:
        self.asked.append(label)
        return self.answers.pop(0)


def test_environment_comes_first(tmp_path: Path) -> None:
    file = tmp_path / "p"
    file.write_text("from file\n")
    person = Person()
    both = {"PIPECRYPT_PASSPHRASE": SECRET, "PIPECRYPT_PASSPHRASE_FILE": str(file)}
    assert Credentials(both, person).passphrase("x") == SECRET
    assert Credentials({"PIPECRYPT_PASSPHRASE_FILE": str(file)}, person).passphrase("x") == "from file"
    assert person.asked == []


@pytest.mark.parametrize(("content", "expected"), [("a\n", "a"), ("a\r\n", "a"), ("a", "a"), (" a \n\n", " a \n")])
def test_one_line_end_is_removed(tmp_path: Path, content: str, expected: str) -> None:
    file = tmp_path / "p"
    file.write_bytes(content.encode())
    assert Credentials({"PIPECRYPT_PASSPHRASE_FILE": str(file)}).passphrase("x") == expected


def test_file_is_read_once(tmp_path: Path) -> None:
    file = tmp_path / "p"
    file.write_text(SECRET)
    credentials = Credentials({"PIPECRYPT_PASSPHRASE_FILE": str(file)})
    assert credentials.passphrase("x") == SECRET
    file.unlink()
    assert pickle.loads(pickle.dumps(credentials)).passphrase("x") == SECRET  # noqa: S301 - our own


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"x" * 5000])
def test_bad_files_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "p"
    file.write_bytes(content)
    with pytest.raises(PassphraseError):
        Credentials({"PIPECRYPT_PASSPHRASE_FILE": str(file)}).passphrase("x")


def test_missing_and_empty_passphrases_are_refused(tmp_path: Path) -> None:
    for environ in (
        {}, {"PIPECRYPT_PASSPHRASE": ""}, {"PIPECRYPT_PASSPHRASE_FILE": str(tmp_path / "none")},
        {"PIPECRYPT_PASSPHRASE_FILE": str(tmp_path)}, {"PIPECRYPT_PASSPHRASE_FILE": "a\0b"},
    ):  # fmt: skip
        with pytest.raises(PassphraseError):
            Credentials(environ).passphrase("x")
    with pytest.raises(PassphraseError):
        Credentials({}, Person("")).passphrase("x")


def test_a_person_is_asked_once_for_each_label() -> None:
    person = Person("a", "b")
    credentials = Credentials({}, person)
    assert [credentials.passphrase(label) for label in ("x", "y", "x", "y")] == ["a", "b", "a", "b"]
    assert person.asked == ["x", "y"]


def test_a_new_passphrase_is_typed_twice() -> None:
    person = Person(SECRET, SECRET)
    credentials = Credentials({}, person)
    assert credentials.new_passphrase("x") == credentials.passphrase("x") == SECRET
    assert len(person.asked) == 2
    with pytest.raises(PassphraseError):
        Credentials({}, Person("a", "b")).new_passphrase("x")
    assert Credentials({"PIPECRYPT_PASSPHRASE": SECRET}).new_passphrase("x") == SECRET


def test_one_letter_composed_in_two_ways_is_one_passphrase() -> None:
    composed, decomposed = ({"PIPECRYPT_PASSPHRASE": text} for text in ("\u00e9", "e\u0301"))
    assert Credentials(composed).passphrase("x") == Credentials(decomposed).passphrase("x")


def test_pickle_drops_the_prompt_and_keeps_the_answer() -> None:
    credentials = Credentials({"AWS_PROFILE": "p"}, Person(SECRET))
    credentials.passphrase("x")
    credentials.derive_once("name", SECRET, lambda: DataKey(b"K" * 32))
    data = pickle.dumps(credentials)
    assert b"K" * 32 not in data
    copy = pickle.loads(data)  # noqa: S301 - our own
    assert copy.passphrase("x") == SECRET
    assert copy.environ == {"AWS_PROFILE": "p"}
    with pytest.raises(PassphraseError):
        copy.passphrase("y")


def test_nothing_is_shown() -> None:
    credentials = Credentials({"PIPECRYPT_PASSPHRASE": SECRET})
    assert repr(credentials) == str(credentials) == "<Credentials>"


@pytest.mark.parametrize("content", [bytes(range(32)), b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"])
def test_key_file_raw_or_base64(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "k"
    file.write_bytes(content)
    file.chmod(0o600)
    credentials = Credentials({"PIPECRYPT_KEY_FILE": str(file)})
    assert credentials.has_key_file()
    assert credentials.key_file().expose_key_bytes() == bytes(range(32))


@pytest.mark.parametrize("content", [b"", bytes(31), bytes(33), b"AAECAwQFBgcICQoLDA0ODw==", b"00" * 32, bytes(5000)])
def test_other_key_files_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "k"
    file.write_bytes(content)
    with pytest.raises(PassphraseError):
        Credentials({"PIPECRYPT_KEY_FILE": str(file)}).key_file()


def test_missing_key_file_is_refused(tmp_path: Path) -> None:
    assert not Credentials({}).has_key_file()
    for environ in ({}, {"PIPECRYPT_KEY_FILE": ""}, {"PIPECRYPT_KEY_FILE": str(tmp_path / "none")}):
        with pytest.raises(PassphraseError):
            Credentials(environ).key_file()


def test_open_key_file_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "k"
    file.write_bytes(b"K" * 32)
    file.chmod(0o640)
    with caplog.at_level(logging.WARNING):
        Credentials({"PIPECRYPT_KEY_FILE": str(file)}).key_file()
    assert str(file) in caplog.text
    assert "KKKK" not in caplog.text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_in_a_forked_process_one_failure_keeps_no_key_of_others() -> None:
    class Failing(Credentials):
        __slots__ = ()

        def _begin_anew(self) -> None:
            raise RuntimeError("not this one")

    many = [kind({"PIPECRYPT_UNLOCKED_SECONDS": "0"}) for kind in (Credentials, Failing) for _ in range(10)]
    keys = [DataKey(b"K" * 32) for _ in many]
    for credentials, key in zip(many, keys, strict=True):
        credentials.derive_once("name", SECRET, lambda key=key: key)  # type: ignore[misc]
    child = os.fork()
    if not child:
        os._exit(sum(key.bits != 0 for key in keys[:10]))
    assert os.waitpid(child, 0)[1] == 0
    assert {key.bits for key in keys} == {256}


def test_a_session_that_is_just_being_made_can_be_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Session] = []
    init = Credentials.__init__

    def fork_here(self: Credentials, *arguments: object) -> None:
        init(self, *arguments)  # type: ignore[arg-type]
        if isinstance(self, Session):  # as the child of another thread's fork meets it
            self._begin_anew()
            seen.append(self)

    monkeypatch.setattr(Credentials, "__init__", fork_here)
    with Session() as session:
        assert seen == [session]


def test_derivations_are_remembered_until_forgotten() -> None:
    credentials, calls = Credentials({"PIPECRYPT_UNLOCKED_SECONDS": "0"}), []

    def derive() -> DataKey:
        calls.append(1)
        return DataKey(b"K" * 32)

    first, second = (credentials.derive_once("a", SECRET, derive) for _ in range(2))
    first.wipe()
    assert second.expose_key_bytes() == b"K" * 32
    assert len(calls) == 1
    credentials.forget()
    credentials.derive_once("a", SECRET, derive)
    assert len(calls) == 2
    credentials.derive_once("a", "another secret", derive)
    assert len(calls) == 3
