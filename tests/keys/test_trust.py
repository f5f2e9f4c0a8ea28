import logging
import os
import pickle
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from pipecrypt.crypto.signature import PrivateKey, PublicKey, Signature
from pipecrypt.errors import (
    IntegrityError,
    KeyNotFoundError,
    KeyReferenceError,
    KeystoreError,
    NotTrustedError,
    PipecryptError,
    UsageError,
)
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keystores import create_key, retire_key
from pipecrypt.keys.public_keys import MAX_PUBLIC_KEY_BYTES
from pipecrypt.keys.signers import LocalSigner, Signer, make_signatures, open_signer, read_version_keys
from pipecrypt.keys.trust import MAX_SIGNATURES, TrustedKeys
from tests.crypto.keys import private_pem
from tests.keys.conftest import CHEAP_KDF

Reference = Callable[[str], str]
A, B, C = (LocalSigner(PrivateKey.from_pem(private_pem(Ed25519PrivateKey.generate()))) for _ in range(3))
E = LocalSigner(PrivateKey.from_pem(private_pem(ec.generate_private_key(ec.SECP256R1()))))
MESSAGE = b"message"


def _trust(*signers: LocalSigner, threshold: int = 1) -> TrustedKeys:
    return TrustedKeys.of(
        [signer.public_key_pem for signer in signers], threshold=threshold, credentials=Credentials({})
    )


def _signed(*signers: Signer, message: bytes = MESSAGE) -> list[Signature]:
    return [Signature(signer.key_id, signer.sign(message)) for signer in signers]


def test_one_trusted_key_is_enough() -> None:
    assert _trust(A, B).verify(MESSAGE, make_signatures([B], MESSAGE)) == (B.key_id,)
    assert _trust(A, E).verify(MESSAGE, _signed(E, A)) == (E.key_id, A.key_id)


@pytest.mark.parametrize(
    "signatures",
    [[], _signed(C), _signed(A, message=b"another"), [Signature(A.key_id, b"")], [Signature("", b"")]],
    ids=["none", "untrusted", "another message", "empty", "no hint"],
)
def test_what_is_not_trusted(signatures: list[Signature]) -> None:
    with pytest.raises(NotTrustedError) as caught:
        _trust(A, B).verify(MESSAGE, signatures)
    assert isinstance(caught.value, IntegrityError)
    assert caught.value.exit_code == 3


def test_a_threshold_counts_different_keys() -> None:
    trust = _trust(A, B, C, threshold=2)
    assert trust.verify(MESSAGE, _signed(A, C)) == (A.key_id, C.key_id)
    # Each Ed25519 signature of A is the same; those of E differ, and are one key's all the same.
    for signers in ((A,), (A, A), (A, A, A, E)):
        with pytest.raises(NotTrustedError):
            trust.verify(MESSAGE, _signed(*signers))
    with pytest.raises(NotTrustedError):
        _trust(A, E, threshold=2).verify(MESSAGE, _signed(E, E, E))
    assert _trust(A, E, threshold=2).verify(MESSAGE, _signed(E, E, A)) == (E.key_id, A.key_id)


def test_one_signature_under_two_names_counts_once() -> None:
    value = A.sign(MESSAGE)
    with pytest.raises(NotTrustedError):
        _trust(A, B, threshold=2).verify(MESSAGE, [Signature(A.key_id, value), Signature(B.key_id, value)])


def test_a_key_id_is_only_a_hint() -> None:
    # The id of a trusted key on the signature of another.
    with pytest.raises(NotTrustedError):
        _trust(A).verify(MESSAGE, [Signature(A.key_id, C.sign(MESSAGE))])
    # A wrong or no id on the signature of a trusted key.
    for hint in (B.key_id, C.key_id, "", "\x1b[31m" * 1000):
        assert _trust(A, B).verify(MESSAGE, [Signature(hint, A.sign(MESSAGE))]) == (A.key_id,)


def test_untrusted_signatures_are_ignored_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="pipecrypt.keys.trust"):
        approval = _trust(A).examine(MESSAGE, [*_signed(C, A), Signature("\x1b[31mroot", b"")])
    assert approval.key_ids == (A.key_id,)
    assert approval.ignored == (C.key_id, "\x1b[31mroot")
    assert C.key_id in caplog.text
    assert "\x1b" not in caplog.text
    with pytest.raises(NotTrustedError) as caught:
        _trust(A).verify(MESSAGE, [*_signed(C), *(Signature("\x1b[31m" * 1000, b"") for _ in range(60))])
    assert C.key_id in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_too_many_signatures_cost_nothing() -> None:
    with pytest.raises(NotTrustedError):
        _trust(A).verify(MESSAGE, _signed(A) * (MAX_SIGNATURES + 1))
    assert _trust(A).verify(MESSAGE, _signed(A) * MAX_SIGNATURES) == (A.key_id,)


@given(
    signers=st.lists(st.sampled_from([A, B, C, E]), max_size=6),
    trusted=st.sets(st.sampled_from([A, B, C, E]), min_size=1),
    threshold=st.integers(1, 4),
)
def test_trust_is_counting_a_set(signers: list[LocalSigner], trusted: set[LocalSigner], threshold: int) -> None:
    if threshold > len(trusted):
        with pytest.raises(UsageError):
            _trust(*trusted, threshold=threshold)
        return
    expected = trusted & set(signers)
    trust = _trust(*trusted, threshold=threshold)
    if len(expected) >= threshold:
        assert set(trust.verify(MESSAGE, _signed(*signers))) == {signer.key_id for signer in expected}
    else:
        with pytest.raises(NotTrustedError):
            trust.verify(MESSAGE, _signed(*signers))


@pytest.mark.parametrize("threshold", [0, -1, 3])
def test_thresholds_that_cannot_be_met(threshold: int) -> None:
    with pytest.raises(UsageError):
        _trust(A, B, A, threshold=threshold)


def test_no_key_is_no_trust() -> None:
    with pytest.raises(UsageError):
        TrustedKeys.of([], credentials=Credentials({}))


def test_a_file_with_several_keys(tmp_path: Path) -> None:
    path = tmp_path / "trusted keys.pem"
    path.write_bytes(
        f"# écrit par Alice\r\n{A.public_key_pem}\nBob:\n{B.public_key_pem}{E.public_key_pem}".encode("latin-1")
    )
    for text in (str(path), f"pem://{path}"):
        assert TrustedKeys.of([text], credentials=Credentials({})).key_ids == (A.key_id, B.key_id, E.key_id)


def test_a_path_may_be_relative_or_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    name = "A" * 40  # looks like base64, and is a file all the same
    Path(name).write_text(A.public_key_pem)
    assert (
        TrustedKeys.of([name], credentials=Credentials({}))
        == TrustedKeys.of([f"~/{name}"], credentials=Credentials({}))
        == _trust(A)
    )
    os.mkfifo("pipe")
    writer = threading.Thread(target=Path("pipe").write_text, args=(B.public_key_pem,))
    writer.start()
    assert TrustedKeys.of(["pipe"], credentials=Credentials({})) == _trust(B)
    writer.join()


def test_a_keystore_is_trusted_in_all_versions(keystore: Reference, credentials: Credentials) -> None:
    create_key(keystore("sign"), "ed25519", credentials, kdf=CHEAP_KDF)
    old = open_signer(keystore("sign"), credentials)
    create_key(keystore("sign"), "ed25519", credentials, new_version=True, kdf=CHEAP_KDF)
    new = open_signer(keystore("sign"), credentials)
    trust = TrustedKeys.of([keystore("sign")], credentials=Credentials({}))
    assert trust.key_ids == (old.key_id, new.key_id)
    for signer in (old, new):
        assert trust.verify(MESSAGE, make_signatures([signer], MESSAGE)) == (signer.key_id,)


def test_one_key_by_several_names_counts_once(keystore: Reference, credentials: Credentials, tmp_path: Path) -> None:
    entry = create_key(keystore("sign"), "ed25519", credentials, kdf=CHEAP_KDF)
    assert entry.public_key is not None
    (tmp_path / "a.pem").write_text(entry.public_key)
    (tmp_path / "b.pem").write_text("again\n" + entry.public_key.replace("\n", "\r\n"))
    texts = [keystore("sign"), str(tmp_path / "a.pem"), str(tmp_path / "b.pem"), entry.public_key]
    assert TrustedKeys.of(texts, credentials=Credentials({})).key_ids == (entry.key_id,)
    with pytest.raises(UsageError):
        TrustedKeys.of(texts, threshold=2, credentials=Credentials({}))


def test_references_that_name_no_key(keystore: Reference, credentials: Credentials) -> None:
    create_key(keystore("pii"), "aes256", credentials, kdf=CHEAP_KDF)
    for text, error in (
        ("nothing://x", KeyReferenceError),
        ("s3://bucket/key.pem", KeyReferenceError),
        ("keystore:./keys.json#a", KeyReferenceError),
        (keystore("other"), KeyNotFoundError),
        (keystore("pii"), UsageError),
        (keystore("pii").replace("keys.json", "none.json"), KeystoreError),
        ("static:///x.json", UsageError),
        ("pem://x.pem?a=b", KeyReferenceError),
    ):
        with pytest.raises(error):
            TrustedKeys.of([text], credentials=Credentials({}))


def test_a_private_key_is_refused_and_not_quoted(tmp_path: Path) -> None:
    for password in (None, b"word"):
        private = private_pem(Ed25519PrivateKey.generate(), password).decode()
        body = "".join(private.splitlines()[1:-1])
        path = tmp_path / "private.pem"
        with pytest.raises(UsageError) as caught:
            TrustedKeys.of([private], credentials=Credentials({}))
        assert "keep it secret" in caught.value.hint
        for content in (private, A.public_key_pem + private):
            path.write_text(content)
            for text in (
                content,
                str(path),
                f"pem://{path}",
                body,
                body + "\n",
                private.replace("-----BEGIN", "BEGIN"),
            ):
                with pytest.raises(UsageError) as caught:
                    TrustedKeys.of([text], credentials=Credentials({}))
                assert body[-20:] not in f"{caught.value} {caught.value.hint}"
                assert body[:20] not in f"{caught.value} {caught.value.hint}"


def test_files_that_hold_no_public_key(tmp_path: Path) -> None:
    block = A.public_key_pem
    bad = {
        "empty": "",
        "text": "no key",
        "half": block[: len(block) // 2],
        "one and a half": block + block[: len(block) // 2],
        "certificate": block.replace("PUBLIC KEY", "CERTIFICATE"),
        "labels differ": block.replace("END PUBLIC", "END RSA PUBLIC"),
        "damaged": block.replace("MCow", "MCox"),
        "one damaged": block + block.replace("MCow", "MCox"),
        "long block": "-----BEGIN PUBLIC KEY-----\n" + "A" * 100_000 + "\n-----END PUBLIC KEY-----\n",
    }
    for name, content in bad.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(UsageError) as caught:
            TrustedKeys.of([str(tmp_path / name)], credentials=Credentials({}))
        assert str(tmp_path / name) in str(caught.value)
        assert (name == "certificate") == ("x509" in caught.value.hint)


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    for text in ("", str(tmp_path), str(tmp_path / "none.pem"), "a\0b", "x" * 300, "~nobody-of-this-name/x", "\ud800"):
        with pytest.raises(UsageError):
            TrustedKeys.of([text], credentials=Credentials({}))


def test_a_huge_file_is_read_no_further_than_the_bound(tmp_path: Path) -> None:
    path = tmp_path / "huge.pem"
    path.write_text(A.public_key_pem)
    os.truncate(path, 1 << 40)  # takes no space on the disk
    with pytest.raises(UsageError) as caught:
        TrustedKeys.of([str(path)], credentials=Credentials({}))
    assert str(MAX_PUBLIC_KEY_BYTES) in str(caught.value)
    with pytest.raises(UsageError):
        TrustedKeys.of(["/dev/zero"], credentials=Credentials({}))


@given(text=st.text(alphabet=st.sampled_from("-BEGIN PUBLICKEYD\nA=/+~.:#%"), max_size=120))
def test_any_text_is_answered_by_an_error_of_ours(text: str) -> None:
    with pytest.raises(PipecryptError):
        TrustedKeys.of([f"{text}-----BEGIN"], credentials=Credentials({}))


def test_trust_travels_and_compares() -> None:
    trust = _trust(A, E, threshold=2)
    twin = pickle.loads(pickle.dumps(trust))  # noqa: S301 - our own
    assert twin == trust
    assert hash(twin) == hash(trust)
    assert twin.verify(MESSAGE, _signed(A, E)) == (A.key_id, E.key_id)
    assert trust != _trust(A, E)
    assert trust != _trust(A, B, threshold=2)
    assert repr(trust) == "<TrustedKeys 2 of 2>"
    assert TrustedKeys([PublicKey(A.public_key_pem)]) == _trust(A)


def _two_versions(keystore: Reference, name: str, credentials: Credentials) -> tuple[Signer, Signer]:
    create_key(keystore(name), "ed25519", credentials, kdf=CHEAP_KDF)
    old = open_signer(keystore(name), credentials)
    create_key(keystore(name), "ed25519", credentials, new_version=True)
    return old, open_signer(keystore(name), credentials)


def test_two_versions_of_one_key_are_one_vote(keystore: Reference, credentials: Credentials) -> None:
    old, new = _two_versions(keystore, "alice", credentials)
    create_key(keystore("bob"), "ed25519", credentials)
    bob = open_signer(keystore("bob"), credentials)
    trust = TrustedKeys.of([keystore("alice"), keystore("bob")], threshold=2, credentials=credentials)
    with pytest.raises(NotTrustedError, match="1 of 2 trusted parties"):
        trust.verify(MESSAGE, make_signatures([old, new], MESSAGE))
    assert trust.verify(MESSAGE, make_signatures([old, new, bob], MESSAGE)) == (old.key_id, new.key_id, bob.key_id)
    for copied in (
        TrustedKeys.of(trust.texts, threshold=2, credentials=Credentials({})),
        pickle.loads(pickle.dumps(trust)),  # noqa: S301 - our own
    ):
        assert copied == trust
        with pytest.raises(NotTrustedError):
            copied.verify(MESSAGE, make_signatures([old, new], MESSAGE))


def test_keys_of_one_file_are_one_vote_and_files_that_share_a_key_are_one_party(tmp_path: Path) -> None:
    for name, signers in (("both", (A, B)), ("shared", (B, E)), ("alone", (C,))):
        (tmp_path / name).write_text("".join(each.public_key_pem for each in signers))
    both, shared, alone = (str(tmp_path / name) for name in ("both", "shared", "alone"))
    with pytest.raises(NotTrustedError):
        TrustedKeys.of([both, alone], threshold=2, credentials=Credentials({})).verify(MESSAGE, _signed(A, B))
    assert TrustedKeys.of([both, alone], threshold=2, credentials=Credentials({})).verify(MESSAGE, _signed(A, C)) == (
        A.key_id,
        C.key_id,
    )
    # Whoever holds B holds all that was named beside it: neither one nor two of its signatures are two votes.
    for signers in ((B,), (A, E), (A, B, E)):
        with pytest.raises(NotTrustedError):
            TrustedKeys.of([both, shared, alone], threshold=2, credentials=Credentials({})).verify(
                MESSAGE, _signed(*signers)
            )
    for named in ([both, both], [both, shared], [A.public_key_pem, both]):
        with pytest.raises(UsageError, match="share a key") as caught:
            TrustedKeys.of(named, threshold=2, credentials=Credentials({}))
        assert "2 were named" in caught.value.message


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_a_retired_key_counts_for_what_was_signed_before(tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_text(f"hello\n# pipecrypt: retired 2026-11-30T07:00:00Z\n{A.public_key_pem}# bye\n")
    trust = TrustedKeys.of([str(tmp_path / "a.pem"), B.public_key_pem], credentials=Credentials({}))
    for text in ("2026-11-30T06:59:59", "2026-11-30T07:00:00"):
        assert trust.verify(MESSAGE, _signed(A), lambda: _at(text)) == (A.key_id,)  # noqa: B023 - called at once
    for moment in (lambda: _at("2026-11-30T07:00:01"), None):  # what does not say when it was signed never counts
        with pytest.raises(NotTrustedError, match="is retired since 2026-11-30T07:00:00Z"):
            trust.verify(MESSAGE, _signed(A), moment)
        assert trust.examine(MESSAGE, _signed(A, B), moment).key_ids == (B.key_id,)
        assert trust.examine(MESSAGE, _signed(A, B), moment).retired == (A.key_id,)
    for copied in (TrustedKeys.of(trust.texts, credentials=Credentials({})), pickle.loads(pickle.dumps(trust))):  # noqa: S301 - our own
        assert copied == trust != TrustedKeys.of([A.public_key_pem, B.public_key_pem], credentials=Credentials({}))


def test_a_copy_without_the_line_brings_no_key_back() -> None:
    retired = f"# pipecrypt: retired 2026-11-30T07:00:00Z\n{A.public_key_pem}"
    for texts in ([retired, A.public_key_pem], [A.public_key_pem, retired], [A.public_key_pem + retired]):
        with pytest.raises(NotTrustedError):
            TrustedKeys.of(texts, credentials=Credentials({})).verify(
                MESSAGE, _signed(A), lambda: _at("2026-12-01T00:00:00")
            )


@pytest.mark.parametrize(
    "line", ["# pipecrypt: retired", "# pipecrypt: retired 2026-13-30T07:00:00Z", "#pipecrypt: retires soon"]
)
def test_a_line_of_ours_that_is_not_understood_is_refused(line: str) -> None:
    with pytest.raises(UsageError, match="not understood"):
        TrustedKeys.of([f"{line}\n{A.public_key_pem}"], credentials=Credentials({}))


def test_other_comments_mean_nothing() -> None:
    text = f"# pipecrypt is nice\n# retired 2020-01-01T00:00:00Z\nX: pipecrypt: retired\n{A.public_key_pem}"
    assert TrustedKeys.of([text], credentials=Credentials({})) == _trust(A)


def test_retiring_reaches_readers_of_the_keystore_and_of_its_export(
    keystore: Reference, credentials: Credentials
) -> None:
    old, _ = _two_versions(keystore, "sign", credentials)
    retire_key(keystore("sign"), 1, credentials, at=_at("2026-11-30T07:00:00"))
    exported = "".join(each.text for each in read_version_keys(keystore("sign"), credentials=credentials).keys)
    for text in (keystore("sign"), exported):
        trust = TrustedKeys.of([text], credentials=credentials)
        assert trust.verify(MESSAGE, _signed(old), lambda: _at("2026-11-30T06:00:00")) == (old.key_id,)
        with pytest.raises(NotTrustedError):
            trust.verify(MESSAGE, _signed(old), lambda: _at("2026-11-30T08:00:00"))
