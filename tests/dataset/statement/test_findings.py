from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.dataset.signed_file import compare_encryption
from pipecrypt.dataset.statement.findings import (
    Finding,
    FindingKind,
    KnownDigests,
    ObservedFile,
    compare_file,
    compare_listing,
    finding_of,
    refuse,
)
from pipecrypt.dataset.statement.promise import PromisedPolicy
from pipecrypt.errors import ExpiredError, IntegrityError, NotTrustedError, RolledBackError
from pipecrypt.parquet.footer.keys import FooterColumn, FooterEncryption
from pipecrypt.parquet.policy import FooterMode
from tests.dataset.statement.world import DATASET_ID, PII, PRICES, entry, manifest, sha

SIGNED = entry("a.parquet")
EMAIL, TOTAL, NOTE = ("customer", "e.mail"), ("total",), ("note",)


def _file(**changes: Any) -> ObservedFile:
    seen = {
        "size_bytes": 1000,
        "digests": {DigestAlgorithm.SHA256: sha("a.parquet")},
        "footer_sha256": SIGNED.footer_sha256,
        "rows": 10,
        "kek_ids": SIGNED.kek_ids,
    }
    return ObservedFile(**(seen | changes))


def _digest(text: str) -> dict[DigestAlgorithm, str]:
    return {DigestAlgorithm.SHA256: sha(text)}


def _kinds(findings: tuple[Finding, ...]) -> list[FindingKind]:
    return [finding.kind for finding in findings]


def test_the_signed_file_passes() -> None:
    assert compare_file(SIGNED, _file()) == ()
    assert compare_file(SIGNED, ObservedFile(1000, footer_sha256=SIGNED.footer_sha256)) == ()
    assert compare_file(SIGNED, ObservedFile(1000, _digest("a.parquet"))) == ()


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"digests": _digest("x")}, FindingKind.MODIFIED),
        ({"digests": _digest("x"), "size_bytes": 1001}, FindingKind.MODIFIED),
        ({"digests": _digest("x"), "size_bytes": 999}, FindingKind.TRUNCATED),
        ({"digests": {}, "footer_sha256": sha("x")}, FindingKind.MODIFIED),
        ({"rows": 11}, FindingKind.MODIFIED),
        ({"kek_ids": ("AAAA",)}, FindingKind.MODIFIED),
        ({"size_bytes": 1001}, FindingKind.MODIFIED),
        ({"size_bytes": 0, "digests": _digest("")}, FindingKind.TRUNCATED),
        ({"digests": _digest("b.parquet"), "size_bytes": 5}, FindingKind.SWAPPED),
        ({"digests": _digest("old"), "size_bytes": 5}, FindingKind.ROLLED_BACK),
    ],
)
def test_another_file_is_named_by_its_attack(changes: dict[str, Any], kind: FindingKind) -> None:
    known = KnownDigests({sha("a.parquet"): "a.parquet", sha("b.parquet"): "b.parquet"}, {sha("old")})
    findings = compare_file(SIGNED, _file(**changes), known=lambda: known)

    assert _kinds(findings) == [kind]
    assert findings[0].path == "a.parquet"
    assert findings[0].detail


def test_an_observation_without_a_digest_proves_nothing() -> None:
    with pytest.raises(RuntimeError):
        compare_file(SIGNED, ObservedFile(1000, rows=10))
    with pytest.raises(RuntimeError):
        compare_file(SIGNED, ObservedFile(1000, {DigestAlgorithm.BLAKE3: sha("x")}))


def test_missing_and_extra_files() -> None:
    found = ["b", "d", "_pipecrypt/manifest.json", "_pipecrypt/files/1-0.jsonl", "_Pipecrypt/x"]

    assert [(one.kind, one.path) for one in compare_listing(["a", "b", "c"], found)] == [
        (FindingKind.EXTRA, "_Pipecrypt/x"),
        (FindingKind.MISSING, "a"),
        (FindingKind.MISSING, "c"),
        (FindingKind.EXTRA, "d"),
    ]
    assert compare_listing([], []) == ()


@given(st.sets(st.sampled_from("abcdef")), st.sets(st.sampled_from("abcdef")))
def test_nothing_is_found_only_where_the_listings_are_equal(signed: set[str], found: set[str]) -> None:
    assert len(compare_listing(signed, found)) == len(signed ^ found)


def column(path: tuple[str, ...], is_encrypted: bool, key_ids: tuple[str, ...] = ()) -> FooterColumn:
    return FooterColumn(path, is_encrypted, key_ids)


def observed(
    mode: FooterMode | None,
    footer_key_ids: tuple[str, ...] = (),
    columns: tuple[FooterColumn, ...] | None = None,
    dataset_id: str | None = None,
    path: str | None = None,
) -> FooterEncryption:
    return FooterEncryption(mode, footer_key_ids, columns, dataset_id, path, ())


def _seen(*columns: FooterColumn, **changes: Any) -> FooterEncryption:
    seen = {
        "mode": FooterMode.PLAINTEXT,
        "footer_key_ids": (PII,),
        "columns": columns or (column(EMAIL, True, (PII,)), column(NOTE, False)),
        "dataset_id": DATASET_ID,
        "path": "a.parquet",
    }
    return observed(**(seen | changes))


def test_what_was_promised_passes() -> None:
    assert compare_encryption(manifest(), "a.parquet", _seen()) == ()
    total = column(TOTAL, True, (PII, PRICES))
    assert compare_encryption(manifest(), "a.parquet", _seen(total)) == ()
    # A column that a file lacks is not a plaintext one: sources of one dataset may differ.
    assert compare_encryption(manifest(), "a.parquet", _seen(column(NOTE, False))) == ()


@pytest.mark.parametrize(
    ("seen", "kind"),
    [
        (observed(None), FindingKind.PLAINTEXT),
        (observed(None, columns=(column(NOTE, False),)), FindingKind.PLAINTEXT),
        (_seen(column(EMAIL, False)), FindingKind.PLAINTEXT),
        (_seen(column(EMAIL, False, (PII,))), FindingKind.PLAINTEXT),
        (_seen(column(NOTE, False), column(TOTAL, False)), FindingKind.PLAINTEXT),
        (_seen(column(EMAIL, True, ("keystore/mallory/1",))), FindingKind.MODIFIED),
        (_seen(column(EMAIL, True, (PII, "keystore/mallory/1"))), FindingKind.MODIFIED),
        (_seen(column(NOTE, True, (PII,))), FindingKind.MODIFIED),
        (_seen(mode=FooterMode.ENCRYPTED, columns=None), FindingKind.MODIFIED),
        (_seen(footer_key_ids=("keystore/mallory/1",)), FindingKind.MODIFIED),
        (_seen(dataset_id="f" * 32), FindingKind.SWAPPED),
        (_seen(path="b.parquet"), FindingKind.SWAPPED),
        (_seen(dataset_id=None, path=None), FindingKind.MODIFIED),
    ],
)
def test_a_broken_promise_is_found(seen: FooterEncryption, kind: FindingKind) -> None:
    findings = compare_encryption(manifest(), "a.parquet", seen)

    assert _kinds(findings) == [kind]
    with pytest.raises(IntegrityError):
        refuse(findings, name="orders")


def test_columns_that_are_not_listed_may_be_promised_too() -> None:
    everything = manifest(policy=PromisedPolicy(FooterMode.ENCRYPTED, (PII,), (), (PRICES,), bind_path=False))
    hidden = observed(FooterMode.ENCRYPTED, (PII,))
    good = column(NOTE, True, (PRICES,))

    assert compare_encryption(everything, "a", hidden) == ()
    assert compare_encryption(everything, "a", observed(FooterMode.ENCRYPTED, (PII,), (good,))) == ()
    for seen in (
        observed(FooterMode.PLAINTEXT, (PII,), (good,)),
        observed(FooterMode.ENCRYPTED, (PII,), (column(NOTE, False),)),
    ):
        assert _kinds(compare_encryption(everything, "a", seen)) == [FindingKind.PLAINTEXT]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NotTrustedError("x"), FindingKind.NOT_TRUSTED),
        (ExpiredError("x"), FindingKind.EXPIRED),
        (RolledBackError("x"), FindingKind.ROLLED_BACK),
        (IntegrityError("x"), FindingKind.MODIFIED),
    ],
)
def test_errors_and_findings_stand_for_each_other(error: IntegrityError, kind: FindingKind) -> None:
    finding = finding_of(error, "_pipecrypt/manifest.json")

    assert finding == Finding(kind, "_pipecrypt/manifest.json", "x")
    with pytest.raises(IntegrityError) as caught:
        refuse([finding, finding], name="orders")
    assert type(caught.value) is type(error)
    assert caught.value.exit_code == 3


def test_every_kind_is_refused() -> None:
    refuse([], name="orders")
    for kind in FindingKind:
        with pytest.raises(IntegrityError):
            refuse([Finding(kind, "a", "b")], name="orders")
