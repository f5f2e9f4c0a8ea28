from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from pipecrypt.cli.verify import finding_lines, report_document, report_lines
from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.dataset.statement.findings import Finding, FindingKind
from pipecrypt.dataset.verify.report import PolicySummary, Unchecked, VerifyReport

REPORT = VerifyReport(
    root="file:///data",
    dataset_id="0" * 32,
    version=3,
    created=datetime(2026, 1, 31, tzinfo=UTC),
    expires=None,
    key_ids=("a" * 64, "b" * 64),
    policy=PolicySummary("encrypted", tuple(f"column {n}" for n in range(25)), "plaintext", ("k",), bind_path=True),
    digests=(DigestAlgorithm.SHA256,),
    tags_checked=False,
    whole_dataset=True,
    signed_files=12,
    files=12,
    bytes=3_400_000_000,
    seconds=2.0,
    findings=(),
)


@pytest.mark.parametrize(
    ("changes", "beginning"),
    [
        ({}, "verified: 12 files, 3.4 GB, dataset "),
        ({"files": 1, "bytes": 999}, "verified: 1 of 12 files, 999 bytes, dataset "),
        ({"files": 1, "signed_files": 1, "bytes": 5_000_000 * 10**15}, "verified: 1 file, 5000000.0 PB, dataset "),
    ],
)
def test_how_much_was_verified(changes: dict[str, object], beginning: str) -> None:
    assert next(iter(report_lines(replace(REPORT, **changes)))).startswith(beginning)  # type: ignore[arg-type]


def test_what_was_verified() -> None:
    text = "\n".join(report_lines(replace(REPORT, expires=datetime(2027, 1, 1, tzinfo=UTC), tags_checked=True)))

    assert f"version 3, signed by {'a' * 64}, {'b' * 64}" in text
    assert "footers encrypted; encrypted columns: column 0, " in text
    assert "column 19 and 5 more; all other columns plaintext" in text
    assert "2027-01-01T00:00:00+00:00" in text
    assert "the tag of every encrypted page" in text
    assert "1,700.0 MB/s" in text
    assert report_document(REPORT)["verified"] is True


def test_what_could_not_be_checked_is_named_beside_findings() -> None:
    report = replace(
        REPORT,
        findings=(Finding(FindingKind.MISSING, "a", "gone"),),
        unchecked=(Unchecked("", "StorageError", "not listed"), Unchecked("b\x1b", "AccessError", "no key")),
        unchecked_files=30,
    )
    lines = list(finding_lines("data/", report.findings, report))

    assert lines[0] == "not verified: 1 finding in data/"
    at = lines.index("could not be checked: 30")
    assert lines[at + 1].split("  ")[1:] == ["file:///data", "not listed"]
    assert lines[at + 2].strip().startswith(r"b\x1b")
    assert lines[at + 3] == "  and 28 more"
    assert report_document(report)["verified"] is False


def test_a_refused_statement_has_no_report() -> None:
    assert list(finding_lines("data/", [Finding(FindingKind.EXPIRED, "data/", "over")])) == [
        "not verified: 1 finding in data/",
        "",
        "expired: 1",
        "  data/  over",
    ]
