from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from pipecrypt.dataset.memory import VersionMemory
from pipecrypt.dataset.requirements import Requirements
from pipecrypt.dataset.signed_file import SignedFile
from pipecrypt.dataset.statement.paths import MANIFEST_PATH, SIGNATURE_SUFFIX
from pipecrypt.dataset.trust import Trust, VerifyMode, parse_mode
from pipecrypt.dataset.version import read_version, read_version_above, read_version_beside
from pipecrypt.errors import IntegrityError, NotTrustedError, RolledBackError, UsageError
from pipecrypt.parquet.footer.stored import read_stored_footer
from pipecrypt.store.location import Location
from pipecrypt.store.small_files import FilesystemFiles, LocatedFiles, SmallFiles, locate
from pipecrypt.vocabulary.ranges import MemorySource
from tests.dataset.world import ALICE, MALLORY, NAMES, SignedWorld, next_version, sign, sign_file, trusting

A, B, C = NAMES
FILES = LocatedFiles({})
TRUSTING = Requirements(trust=trusting())


def open_signed_file(files: SmallFiles, path: str, requirements: Requirements) -> SignedFile:
    above = read_version_above(files, path, requirements)
    return (
        read_version_beside(files, path, requirements).single_file()
        if above is None
        else above.file(above.below(path) or "")
    )


def test_a_dataset_and_its_files(dataset: Path) -> None:
    files, root = locate(Location(f"{dataset}/"))
    opened = read_version(files, root, TRUSTING)

    assert list(opened.entries) == list(NAMES)
    assert opened.name == f"file://{dataset}"
    assert opened.below(f"{root}/{B}") == B
    assert opened.below(f"{root}x/{B}") is None
    signed = opened.file(B)
    assert signed.key_ids == (ALICE.key_id,)
    assert pickle.loads(pickle.dumps(signed)) == signed  # noqa: S301  # workers get it
    with pytest.raises(IntegrityError):
        opened.file("other.parquet")


def test_the_uppermost_dataset_above_counts(dataset: Path) -> None:
    above = read_version_above(FILES, str(dataset / B), TRUSTING)
    assert above is not None
    assert above.root == str(dataset)
    assert read_version_above(FILES, str(dataset), TRUSTING) is None
    assert open_signed_file(FILES, str(dataset / B), TRUSTING).entry.path == B

    inner = dataset / "day=1"
    sign(inner, policy=replace(above.manifest.policy, bind_path=False))
    again = read_version_above(FILES, str(dataset / B), TRUSTING)
    assert again is not None
    assert again.root == str(dataset)
    with pytest.raises(IntegrityError, match="is a part of"):
        read_version(FILES, str(inner), TRUSTING)


def test_what_a_dataset_does_not_list_is_refused_although_it_has_its_own_statement(dataset: Path) -> None:
    shutil.copy(dataset / A, dataset / "b.parquet")
    sign_file(dataset / "b.parquet")

    with pytest.raises(IntegrityError):
        open_signed_file(FILES, str(dataset / "b.parquet"), TRUSTING)
    assert read_version_beside(FILES, str(dataset / "b.parquet"), TRUSTING).single_file().entry.path == "b.parquet"


def test_a_single_file(signed_world: SignedWorld, tmp_path: Path) -> None:
    file = Path(shutil.copy(signed_world.root / "signed" / A, tmp_path / A))
    with pytest.raises(NotTrustedError):
        open_signed_file(FILES, str(file), TRUSTING)
    sign_file(file)
    signed = open_signed_file(FILES, str(file), TRUSTING)

    assert (signed.entry.path, signed.name, signed.key_ids) == (A, f"file://{file}", (ALICE.key_id,))
    signed.check_footer(read_stored_footer(MemorySource(file.read_bytes(), A)))
    with pytest.raises(NotTrustedError):
        open_signed_file(FILES, str(file), Requirements(trust=trusting(MALLORY)))
    shutil.copy(f"{file}{SIGNATURE_SUFFIX}", tmp_path / f"b.parquet{SIGNATURE_SUFFIX}")
    with pytest.raises(IntegrityError):
        open_signed_file(FILES, str(tmp_path / "b.parquet"), TRUSTING)


@pytest.mark.parametrize(
    "tamper",
    [
        lambda root: (root / MANIFEST_PATH).unlink(),
        lambda root: shutil.rmtree(root / "_pipecrypt/files"),
        lambda root: next((root / "_pipecrypt/files").iterdir()).write_bytes(b""),
        lambda root: (root / MANIFEST_PATH).write_bytes(b"[]"),
        lambda root: (root / MANIFEST_PATH).write_bytes(b" " * (20 << 20)),
    ],
    ids=["no statement", "no list", "an empty list", "no envelope", "endless"],
)
def test_a_dataset_that_is_refused(dataset: Path, tamper: object) -> None:
    tamper(dataset)  # type: ignore[operator]

    with pytest.raises(IntegrityError):
        read_version(FILES, str(dataset), TRUSTING)


def test_a_statement_that_cannot_be_read_is_not_taken_for_none(dataset: Path) -> None:
    (dataset / MANIFEST_PATH).unlink()
    (dataset / MANIFEST_PATH).mkdir()

    with pytest.raises(IntegrityError):
        read_version_above(FILES, str(dataset / A), TRUSTING)


def test_what_is_accepted_is_remembered(dataset: Path, tmp_path: Path) -> None:
    remembering = replace(TRUSTING, memory=VersionMemory(str(tmp_path / "state")))
    first = sign(dataset)
    old = (dataset / MANIFEST_PATH).read_bytes()
    sign(dataset, **next_version(first))
    open_signed_file(FILES, str(dataset / A), remembering)

    (dataset / MANIFEST_PATH).write_bytes(old)
    with pytest.raises(RolledBackError):
        read_version(FILES, str(dataset), remembering)


def test_what_is_refused_is_not_remembered(dataset: Path, tmp_path: Path) -> None:
    remembering = replace(TRUSTING, memory=VersionMemory(str(tmp_path / "state")))
    first = sign(dataset)
    old = {path: path.read_bytes() for path in (dataset / "_pipecrypt").rglob("*") if path.is_file()}
    sign(dataset, **next_version(first))
    (listed,) = (path for path in (dataset / "_pipecrypt/files").iterdir() if path.name.startswith("2-"))
    listed.unlink()
    with pytest.raises(IntegrityError):
        read_version(FILES, str(dataset), remembering)

    for path, data in old.items():
        path.write_bytes(data)
    assert read_version(FILES, str(dataset), remembering).manifest.version == 1


def test_footers_are_compared(signed_world: SignedWorld, dataset: Path) -> None:
    signed = open_signed_file(FILES, str(dataset / A), TRUSTING)
    for path in (dataset / C, signed_world.root / "raw" / A):
        with pytest.raises(IntegrityError):
            signed.check_footer(read_stored_footer(MemorySource(path.read_bytes(), A)))


def test_on_an_fsspec_file_system(dataset: Path) -> None:
    fs = fsspec.filesystem("memory")
    for path in dataset.rglob("*"):
        if path.is_file():
            fs.pipe_file(f"/opened/{path.relative_to(dataset).as_posix()}", path.read_bytes())

    assert read_version(FilesystemFiles(fs), "/opened", TRUSTING).name == "memory:///opened"
    assert open_signed_file(FilesystemFiles(fs), f"/opened/{B}", TRUSTING).entry.path == B
    assert open_signed_file(FILES, f"memory://opened/{B}", TRUSTING).entry.path == B


def test_requirements() -> None:
    assert parse_mode("read") is VerifyMode.READ
    for wrong in ("", "FULL", "none"):
        with pytest.raises(UsageError):
            parse_mode(wrong)
    for version in (0, -1, True, "1"):
        with pytest.raises(UsageError):
            Trust(min_version=version)  # type: ignore[arg-type]
    assert TRUSTING.clock().tzinfo is not None
