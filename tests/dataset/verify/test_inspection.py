from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.dataset.signed_file import SignedFile
from pipecrypt.dataset.statement.findings import FindingKind, nothing_known
from pipecrypt.dataset.verify.inspection import InspectionResult, Inspector
from pipecrypt.errors import ConflictError
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from tests.dataset.world import NAMES, entry_of, sign

A = NAMES[0]


def _inspect(path: Path, meanwhile: Callable[[], object]) -> InspectionResult:
    manifest = sign(path.parent)
    entry = entry_of(A, path.read_bytes())
    found = open_store(Location(str(path))).stat().file()
    assert found is not None
    meanwhile()
    inspector = Inspector((DigestAlgorithm.SHA256,), entry.size_bytes, nothing_known)
    return inspector.inspect(SignedFile(manifest, entry, "here"), found, lambda _: None)


def test_a_file_as_it_was_signed(dataset: Path) -> None:
    path = dataset / A
    assert _inspect(path, lambda: None) == InspectionResult(A, path.stat().st_size)


@pytest.mark.parametrize(
    "meanwhile",
    [
        lambda path: path.write_bytes(path.read_bytes() + b"x"),
        lambda path: os.utime(path, ns=(1, 1)),
        lambda path: path.unlink(),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["grown", "touched", "gone", "a directory"],
)
def test_a_file_that_is_not_the_pinned_one_is_a_failure(dataset: Path, meanwhile: Callable[[Path], object]) -> None:
    inspected = _inspect(dataset / A, lambda: meanwhile(dataset / A))

    assert inspected.findings == ()
    assert isinstance(inspected.failure, ConflictError)


def test_of_a_file_that_is_too_large_the_beginning_says_enough(dataset: Path) -> None:
    read = 0

    def count(more: int) -> None:
        nonlocal read
        read += more

    manifest, entry = sign(dataset), entry_of(A, (dataset / A).read_bytes())
    with (dataset / A).open("r+b") as file:
        file.truncate(1 << 40)  # sparse
    found = open_store(Location(str(dataset / A))).stat().file()
    assert found is not None
    inspector = Inspector((DigestAlgorithm.SHA256,), 9999, nothing_known)

    inspected = inspector.inspect(SignedFile(manifest, entry, "here"), found, count)

    assert [each.kind for each in inspected.findings] == [FindingKind.MODIFIED]
    assert read == 10_000
