import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.dataset.statement.file_list import FileEntry, FileListSummary
from pipecrypt.dataset.statement.manifest import (
    MAX_STATEMENT_BYTES,
    decode_statement,
    encode_statement,
    statement_sha256,
)
from pipecrypt.dataset.statement.promise import PromisedColumn, PromisedPolicy
from pipecrypt.errors import IntegrityError
from pipecrypt.parquet.policy import FooterMode
from pipecrypt.vocabulary.documents import DocumentError
from tests.dataset.statement.world import (
    BOTH,
    CREATED,
    DATASET_ID,
    PII,
    SUMMARY,
    counts,
    entry,
    hex_digests,
    manifest,
    names,
    policies,
    sha,
    times,
)

DATASET = encode_statement(manifest())
SINGLE = encode_statement(manifest(files=entry("a.parquet")))
summaries = st.builds(
    FileListSummary, hex_digests, counts.filter(lambda n: n < 1 << 32), st.integers(0, 10**7), counts, counts
)


@settings(max_examples=50)
@given(policies, summaries, st.integers(2, 1 << 60), times, st.booleans())
def test_round_trip_of_a_dataset(
    policy: PromisedPolicy, summary: FileListSummary, version: int, created: datetime, expires: bool
) -> None:
    made = manifest(
        policy=policy,
        files=summary,
        version=version,
        previous_sha256=sha("previous"),
        created=created,
        expires=created + timedelta(seconds=1) if expires else None,
    )
    assert decode_statement(encode_statement(made)) == made


@given(names, counts, counts, st.sampled_from([(sha("a"), None), (sha("a"), sha("b")), (None, sha("b"))]))
def test_round_trip_of_a_file(name: str, size: int, rows: int, digests: tuple[str | None, str | None]) -> None:
    sha256, blake3 = digests
    try:
        file = FileEntry(name.replace("/", "-"), size, rows, sha256, sha("footer"), ("x",), blake3)
    except DocumentError:
        return
    made = manifest(files=file, digests=tuple(file.digests()))
    assert decode_statement(encode_statement(made)) == made


def test_anybody_can_compare_the_subject() -> None:
    dataset, single = json.loads(DATASET), json.loads(SINGLE)

    assert dataset["subject"] == [
        {"name": f"_pipecrypt/files/1-{SUMMARY.sha256[:16]}.jsonl", "digest": {"sha256": SUMMARY.sha256}}
    ]
    assert single["subject"] == [{"name": "a.parquet", "digest": {"sha256": sha("a.parquet")}}]
    assert dataset["predicateType"] != single["predicateType"]
    assert statement_sha256(DATASET) == sha(DATASET.decode())


def test_ignores_what_in_toto_says_to_ignore() -> None:
    document = json.loads(DATASET)
    document["extension"] = {"a": [1.5]}
    document["subject"][0]["annotations"] = {"a": 1}
    document["subject"][0]["digest"]["md5"] = "00"

    assert decode_statement(json.dumps(document).encode()) == manifest()


Change = Callable[[dict[str, Any]], object]
_predicate: list[tuple[str, object]] = [
    ("promise", True),
    ("dataset", DATASET_ID.upper()), ("dataset", DATASET_ID[1:]), ("dataset", None), ("dataset", DATASET_ID + "\n"),
    ("version", 0), ("version", -1), ("version", 1.0), ("version", "1"), ("version", True),
    ("version", 1 << 63), ("version", 2), ("version", 10**30), ("previous_sha256", sha("a")), ("previous_sha256", ""),
    ("created", "2026-01-31 12:00:00Z"), ("created", "2026-01-31T12:00:00+00:00"), ("created", "2026-02-30T12:00:00Z"),
    ("created", "2026-01-31T12:00:00.5Z"), ("created", "2026-01-31T12:00:00"), ("created", "0000-01-31T12:00:00Z"),
    ("created", "2026-01-31T12:00:60Z"), ("created", 1769860800), ("created", None),
    ("created", "\uff12026-01-31T12:00:00Z"),
    ("expires", "2026-01-31T12:00:00Z"), ("expires", "2025-01-31T12:00:00Z"), ("expires", 0),
    ("policy", None), ("policy", {}),
    ("digests", []), ("digests", ["md5"]), ("digests", ["sha256", "md5"]), ("digests", ["sha256", "sha256"]),
    ("digests", ["blake3", "sha256"]), ("digests", "sha256"), ("digests", [1]),
    ("file_list", None), ("file_list", []), ("file", {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), _predicate, ids=ascii)
def test_refuses_a_predicate_that_says_something_else(name: str, value: object) -> None:
    document = json.loads(DATASET)
    document["predicate"][name] = value
    with pytest.raises(IntegrityError):
        decode_statement(json.dumps(document).encode())


@pytest.mark.parametrize("name", list(json.loads(DATASET)["predicate"]))
def test_every_member_of_the_predicate_is_needed(name: str) -> None:
    document = json.loads(DATASET)
    del document["predicate"][name]
    with pytest.raises(IntegrityError):
        decode_statement(json.dumps(document).encode())


def _subject(document: dict[str, Any]) -> Any:
    return document["subject"][0]


_changes: list[Change] = [
    lambda document: document.update(_type="https://in-toto.io/Statement/v0.1"),
    lambda document: document.update(predicateType="urn:pipecrypt:dataset:v2"),
    lambda document: document.update(predicateType="urn:pipecrypt:file:v1"),
    lambda document: document.update(subject=[]),
    lambda document: document.update(subject=document["subject"] * 2),
    lambda document: document.update(subject=document["subject"][0]),
    lambda document: document.update(predicate=None),
    lambda document: _subject(document).pop("digest"),
    lambda document: _subject(document).update(digest={"sha512": "0" * 128}),
    lambda document: _subject(document).update(digest={"sha256": sha("other")}),
    lambda document: _subject(document).update(digest={"sha256": SUMMARY.sha256.upper()}),
    lambda document: _subject(document).update(name="_pipecrypt/files/../manifest.json"),
    lambda document: _subject(document).update(name=f"_pipecrypt/files/2-{SUMMARY.sha256[:16]}.jsonl"),
    lambda document: _subject(document).pop("name"),
    lambda document: document["predicate"]["file_list"].update(count=-1),
    lambda document: document["predicate"]["file_list"].update(count=10**7 + 1),
    lambda document: document["predicate"]["file_list"].update(size_bytes=(1 << 32) + 1),
    lambda document: document["predicate"]["file_list"].update(total_bytes=1 << 63),
    lambda document: document["predicate"]["file_list"].update(more=1),
    lambda document: document["predicate"]["file_list"].pop("total_rows"),
]


@pytest.mark.parametrize("change", _changes, ids=range(len(_changes)))
def test_refuses_another_statement(change: Change) -> None:
    document = json.loads(DATASET)
    change(document)
    with pytest.raises(IntegrityError):
        decode_statement(json.dumps(document).encode())


_file_changes: list[Change] = [
    lambda document: document.update(predicateType="urn:pipecrypt:dataset:v1"),
    lambda document: _subject(document).update(name="a/b.parquet"),
    lambda document: _subject(document).update(name="../b.parquet"),
    lambda document: _subject(document).update(name=""),
    lambda document: _subject(document)["digest"].pop("sha256"),
    lambda document: document["predicate"].update(digests=["sha256", "blake3"]),
    lambda document: document["predicate"]["file"].update(size_bytes=1.5),
    lambda document: document["predicate"]["file"].update(footer_sha256="0"),
    lambda document: document["predicate"]["file"].update(kek_ids=["b", "a"]),
    lambda document: document["predicate"]["file"].update(path="b"),
    lambda document: document["predicate"].update(file_list={}),
]


@pytest.mark.parametrize("change", _file_changes, ids=range(len(_file_changes)))
def test_refuses_another_statement_of_a_file(change: Change) -> None:
    document = json.loads(SINGLE)
    change(document)
    with pytest.raises(IntegrityError):
        decode_statement(json.dumps(document).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        DATASET.decode().encode("utf-16"),
        DATASET + b"x",
        DATASET.replace(b'"version":1', b'"version":1,"version":1'),
        DATASET.replace(b'{"_type"', b'{"_type":"x","_type"'),
        DATASET.replace(b'"version":1', b'"version":NaN'),
        DATASET.replace(b'"version":1', b'"version":' + b"9" * 5000),
        DATASET.replace(b'"version":1', b'"version":' + b"[" * 100_000),
        DATASET + b" " * MAX_STATEMENT_BYTES,
    ],
    ids=lambda data: ascii(data[:40]),
)
def test_refuses_what_is_no_statement(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        decode_statement(data)


@given(st.sampled_from([DATASET, SINGLE]), st.integers(0, 400), st.binary(max_size=4), st.integers(0, 4))
def test_only_our_errors_for_any_change(data: bytes, place: int, put: bytes, cut: int) -> None:
    try:
        decode_statement(data[:place] + put + data[place + cut :])
    except IntegrityError:
        return


@pytest.mark.parametrize(
    "changes",
    [
        {"created": CREATED.replace(tzinfo=None)},
        {"created": CREATED.replace(microsecond=1)},
        {"created": CREATED.astimezone(timezone(timedelta(hours=1)))},
        {"expires": CREATED},
        {"version": 2},
        {"digests": BOTH[::-1]},
        {"digests": (), "files": SUMMARY},
        {"digests": (DigestAlgorithm.BLAKE3,), "files": entry("a")},
        {"files": entry("a/b")},
    ],
    ids=ascii,
)
def test_a_manifest_cannot_contradict_itself(changes: dict[str, Any]) -> None:
    with pytest.raises(DocumentError):
        manifest(**changes)


def test_a_policy_beyond_the_limit_is_refused_when_it_is_written() -> None:
    columns = tuple(PromisedColumn((f"{number:05}" + "x" * 900,), (PII,)) for number in range(4000))
    with pytest.raises(DocumentError):
        encode_statement(manifest(policy=PromisedPolicy(FooterMode.PLAINTEXT, (PII,), columns)))


def test_times_of_other_zones_are_none_of_ours() -> None:
    assert decode_statement(DATASET).created.tzinfo is UTC
    assert decode_statement(DATASET).created == CREATED


def test_clear_columns_are_an_annotation_that_other_readers_may_ignore() -> None:
    noted = manifest(clear_columns=frozenset({("id",), ("address", "city")}))
    document = json.loads(encode_statement(noted))

    assert decode_statement(encode_statement(noted)) == noted
    assert set(document) == {"_type", "subject", "predicateType", "predicate"}
    assert document["predicate"] == json.loads(DATASET)["predicate"]
    (subject,) = document["subject"]
    assert subject.pop("annotations") == {"clearColumns": [{"path": ["address", "city"]}, {"path": ["id"]}]}
    assert [subject] == json.loads(DATASET)["subject"]


@pytest.mark.parametrize("annotations", [{}, {"other": 1}])
def test_annotations_of_others_are_ignored(annotations: dict[str, Any]) -> None:
    document = json.loads(DATASET)
    document["subject"][0]["annotations"] = annotations
    assert decode_statement(json.dumps(document).encode()) == manifest()
