"""What a verification adds up stays true however often files are looked at again."""

from __future__ import annotations

from pipecrypt.dataset.statement.findings import Finding, FindingKind
from pipecrypt.dataset.verify.inspection import InspectionResult
from pipecrypt.dataset.verify.report import Tally
from pipecrypt.errors import ConflictError, KeyNotFoundError, StorageError


def test_failures_of_one_place_are_one_however_often_it_fails() -> None:
    tally = Tally()
    tally.fail("q", ConflictError("q changed"))
    tally.fail("", StorageError("first"))
    assert tally.doubtful() == ("q",)
    tally.forget("q")
    tally.fail("", StorageError("second"))
    assert tally.failures == 1
    assert [(each.path, each.message) for each in tally.unchecked()] == [("", "second")]
    assert str(tally.first_failure()) == "second"


def test_a_file_that_differs_and_cannot_be_decrypted_counts_once() -> None:
    tally = Tally()
    finding = Finding(FindingKind.MODIFIED, "a", "its bytes are others")
    for _ in range(3):
        tally.forget("a")
        tally.take(InspectionResult("a", 10, findings=(finding,), failure=KeyNotFoundError("no key")))
    assert (tally.failures, len(tally.unchecked()), tally.findings()) == (1, 1, (finding,))


def test_a_failure_that_passed_is_forgotten_with_its_file() -> None:
    tally = Tally()
    finding = Finding(FindingKind.MODIFIED, "a", "its bytes are others")
    tally.take(InspectionResult("a", 10, findings=(finding,), failure=KeyNotFoundError("no key")))
    tally.forget("a")
    tally.take(InspectionResult("a", 10))
    assert (tally.failures, tally.first_failure(), tally.findings(), tally.files) == (0, None, (), 1)


def test_the_first_failures_by_path_are_kept_whatever_their_order() -> None:
    tally = Tally()
    for number in reversed(range(30)):
        tally.fail(f"{number:02}", StorageError(str(number)))
    assert tally.failures == 30
    assert [each.path for each in tally.unchecked()] == [f"{number:02}" for number in range(20)]
