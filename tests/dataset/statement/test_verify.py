import copy
import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.crypto.signature import Signature
from pipecrypt.dataset.statement.envelope import (
    MAX_CLOCK_SKEW,
    RememberedVersion,
    VerifiedManifest,
    encode_envelope,
    files_of,
    message_to_sign,
    verify_envelope,
)
from pipecrypt.dataset.statement.manifest import encode_statement, statement_sha256
from pipecrypt.errors import ExpiredError, FutureStatementError, IntegrityError, NotTrustedError, RolledBackError
from tests.dataset.statement.world import (
    ALICE,
    BOTH,
    CREATED,
    DATASET_ID,
    ENTRIES,
    FILE_LIST,
    MALLORY,
    NOW,
    entry,
    envelope,
    key_id,
    listed,
    manifest,
    sha,
    signed,
    trusting,
)

ALICE_ONLY = trusting(ALICE)
STORED = envelope(manifest())
FILE = manifest(files=entry("a.parquet"))


def _verify(data: bytes = STORED, **options: Any) -> VerifiedManifest:
    return verify_envelope(data, ALICE_ONLY, options.pop("now", NOW), **options)


def _refused(kind: type[IntegrityError], data: bytes = STORED, **options: Any) -> None:
    with pytest.raises(IntegrityError) as caught:
        _verify(data, **options)
    assert type(caught.value) is kind


def test_gives_what_was_signed() -> None:
    verified = _verify()

    assert verified.manifest == manifest()
    assert verified.key_ids == (key_id(ALICE),)
    assert verified.statement_sha256 == statement_sha256(encode_statement(manifest()))
    assert verified.remember() == RememberedVersion(DATASET_ID, 1, verified.statement_sha256)
    assert list(files_of(verified.manifest, FILE_LIST)) == list(ENTRIES)
    assert DATASET_ID in repr(verified)


def test_nothing_else_makes_a_verified_manifest() -> None:
    verified = _verify()

    with pytest.raises(RuntimeError):
        VerifiedManifest(manifest(), ("x",), "x", object())
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            copied(verified)
    with pytest.raises(AttributeError):
        verified.manifest = manifest(version=1)  # type: ignore[misc]


# 1: the envelope; what no envelope is stands in test_envelope.


def test_a_signed_payload_of_another_type_is_refused() -> None:
    payload = encode_statement(manifest())
    kind = b"application/vnd.other+json"
    message = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    stored = json.loads(encode_envelope(payload, [Signature("", ALICE.sign(message))]))

    _refused(NotTrustedError, json.dumps(stored).encode())
    stored["payloadType"] = kind.decode()
    _refused(IntegrityError, json.dumps(stored).encode())


# 2: who signed.


def test_a_stranger_is_not_trusted_whatever_the_key_id_says() -> None:
    _refused(NotTrustedError, envelope(manifest(), MALLORY))

    statement = encode_statement(manifest())
    forged = Signature(key_id(ALICE), MALLORY.sign(message_to_sign(statement)))
    _refused(NotTrustedError, encode_envelope(statement, [forged]))
    good = Signature(key_id(MALLORY), ALICE.sign(message_to_sign(statement)))
    assert _verify(encode_envelope(statement, [forged, good])).key_ids == (key_id(ALICE),)


def test_a_check_that_trusts_nobody_and_does_not_say_so_is_refused() -> None:
    def careless(message: bytes, signatures: Sequence[Signature], _: Callable[[], datetime]) -> tuple[str, ...]:
        return ()

    with pytest.raises(NotTrustedError):
        verify_envelope(STORED, careless, NOW)


def test_nothing_of_the_payload_is_read_before_its_signature() -> None:
    _refused(NotTrustedError, signed(b"[" * 100_000, MALLORY))
    _refused(IntegrityError, signed(b"[" * 100_000, ALICE))


def test_one_key_twice_counts_once() -> None:
    both = trusting(ALICE, MALLORY, threshold=2)

    with pytest.raises(NotTrustedError):
        verify_envelope(envelope(manifest(), ALICE, ALICE), both, NOW)
    assert len(verify_envelope(envelope(manifest(), ALICE, MALLORY), both, NOW).key_ids) == 2


@given(st.integers(0, len(STORED) - 1), st.integers(1, 255))
def test_a_changed_byte_never_changes_what_was_signed(place: int, mask: int) -> None:
    data = bytearray(STORED)
    data[place] ^= mask
    try:
        verified = _verify(bytes(data))
    except IntegrityError:
        return
    # Only the key id, which nobody signs, may read differently, or white space stand at the end.
    assert verified.manifest == manifest()


# 3: the statement; what is none stands in test_statement.


@pytest.mark.parametrize(
    "payload", [b"", b"{}", b'"x"', encode_statement(manifest()).replace(b"dataset:v1", b"dataset:v2")]
)
def test_a_signed_payload_must_be_a_statement_of_ours(payload: bytes) -> None:
    _refused(IntegrityError, signed(payload))


# 4: dataset or file.


def test_a_file_is_no_dataset_and_the_reverse() -> None:
    _refused(IntegrityError, envelope(FILE))
    _refused(IntegrityError, STORED, expected_file="a.parquet")
    _refused(IntegrityError, envelope(FILE), expected_file="b.parquet")

    verified = _verify(envelope(FILE), expected_file="a.parquet")
    assert verified.manifest.single_file == entry("a.parquet")
    assert verified.manifest.file_list is None
    with pytest.raises(IntegrityError):
        files_of(verified.manifest, b"")
    with pytest.raises(IntegrityError):
        _ = verified.manifest.file_list_path


# 5: which dataset.


def test_another_dataset_is_refused() -> None:
    other = "f" * 32

    _refused(IntegrityError, expected_dataset_id=other)
    _refused(IntegrityError, remembered=RememberedVersion(other, 1, sha("a")))
    _refused(IntegrityError, remembered=_verify().remember(), expected_dataset_id=other)
    assert _verify(expected_dataset_id=DATASET_ID)


# 6: which version.


def test_versions_do_not_go_back() -> None:
    second = manifest(version=2, previous_sha256=_verify().statement_sha256)
    remembered = _verify(envelope(second)).remember()

    _refused(RolledBackError, min_version=2)
    _refused(RolledBackError, remembered=remembered)
    assert _verify(envelope(second), min_version=2, remembered=remembered)


def test_there_is_one_statement_of_a_version() -> None:
    fork = manifest(created=CREATED + timedelta(seconds=1))

    _refused(RolledBackError, envelope(fork), remembered=_verify().remember())
    # More signatures on the same statement are no other statement.
    assert _verify(envelope(manifest(), MALLORY, ALICE), remembered=_verify().remember())


def test_a_version_names_the_one_before_it() -> None:
    first = _verify().remember()
    second = manifest(version=2, previous_sha256=first.statement_sha256)
    unrelated = manifest(version=2, previous_sha256=sha("something else"))

    assert _verify(envelope(second), remembered=first)
    _refused(RolledBackError, envelope(unrelated), remembered=first)
    # A reader that was away for a version can go by the number only.
    assert _verify(envelope(replace(unrelated, version=3)), remembered=first)


# 7: when.


def test_expiry_has_no_grace() -> None:
    stored = envelope(manifest(expires=NOW))

    assert _verify(stored, now=NOW - timedelta(microseconds=1))
    _refused(ExpiredError, stored, now=NOW)
    _refused(ExpiredError, stored, now=NOW + timedelta(days=1000))


def test_clocks_differ_a_little() -> None:
    assert _verify(now=CREATED - MAX_CLOCK_SKEW)
    _refused(FutureStatementError, now=CREATED - MAX_CLOCK_SKEW - timedelta(seconds=1))


def test_going_back_is_told_before_expiry() -> None:
    _refused(RolledBackError, envelope(manifest(expires=NOW)), now=NOW, min_version=2)


def test_the_time_has_a_zone() -> None:
    for now in (NOW.replace(tzinfo=None), NOW.astimezone(timezone(timedelta(hours=1)))):
        with pytest.raises(RuntimeError):
            _verify(now=now)


# Which digests.


def test_one_digest_of_each_file_is_enough() -> None:
    for digests in ((DigestAlgorithm.BLAKE3,), BOTH):
        assert _verify(envelope(manifest(digests=digests)))


# The file list.


@pytest.mark.parametrize(
    "other",
    [b"", FILE_LIST[:-1], FILE_LIST + b"\n", FILE_LIST[:-2] + b" \n", FILE_LIST.replace(b'"rows":10', b'"rows":11', 1)],
)
def test_another_file_list_is_refused_before_its_first_line(other: bytes) -> None:
    with pytest.raises(IntegrityError):
        files_of(_verify().manifest, other)


@pytest.mark.parametrize(
    "changes",
    [{"count": 2}, {"count": 4}, {"total_bytes": 2006}, {"total_rows": 21}, {"size_bytes": len(FILE_LIST) - 1}],
)
def test_the_files_add_up(changes: dict[str, int]) -> None:
    data, summary = listed(ENTRIES)
    verified = _verify(envelope(manifest(files=replace(summary, **changes))))
    with pytest.raises(IntegrityError):
        list(files_of(verified.manifest, data))


def test_a_signed_list_is_read_with_care_too() -> None:
    data = FILE_LIST + FILE_LIST
    summary = replace(
        listed(ENTRIES)[1], sha256=sha(data.decode()), size_bytes=len(data), count=6, total_bytes=4014, total_rows=40
    )
    verified = _verify(envelope(manifest(files=summary)))

    assert verified.manifest.file_list_path == f"_pipecrypt/files/1-{summary.sha256[:16]}.jsonl"
    with pytest.raises(IntegrityError):
        list(files_of(verified.manifest, data))


def test_a_newer_version_than_the_remembered_one_was_not_signed_before_that_was_accepted() -> None:
    said: list[datetime] = []

    def check(message: bytes, signatures: Sequence[Signature], signed_at: Callable[[], datetime]) -> tuple[str, ...]:
        said.append(signed_at())
        return (key_id(ALICE),)

    first = envelope(manifest(), ALICE)
    remembered = verify_envelope(first, check, NOW).remember()
    second = envelope(manifest(version=2, previous_sha256=remembered.statement_sha256), ALICE)
    later = CREATED + timedelta(minutes=1)
    for stored, accepted in ((first, later), (second, later), (second, CREATED - timedelta(days=1)), (second, None)):
        verify_envelope(stored, check, NOW, remembered=replace(remembered, accepted=accepted))
    assert said == [CREATED, CREATED, later, CREATED, CREATED]
