"""Every bit, every length: one small file of a signed dataset, changed in all places, one after the other."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

import pipecrypt as pc
from pipecrypt.errors import IntegrityError, PipecryptError
from tests.tamper.world import TamperWorld, write_plain

# Of every byte one bit, which one depends on its place, and of those every 37th byte in the quick suite.
SHORT_STEP = 37
SHORT_CUTS = 41


@pytest.fixture(scope="session")
def one_file(world: TamperWorld) -> Path:
    """Return a signed dataset of one file."""
    source, sink = world.root / "plain-one", world.root / "one"
    write_plain(source / "a.parquet", 7)
    world.encrypt(source, sink)
    return sink


@pytest.fixture
def data(one_file: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(one_file, tmp_path / "data"))


def flips(original: bytes, places: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    changed = bytearray(original)
    for at, bit in places:
        changed[at] ^= 1 << bit
        yield bytes(changed)
        changed[at] = original[at]


def undetected(path: Path, changes: Iterable[bytes], check: Callable[[], object]) -> int:
    """Return how many changes of a file pass a check."""
    original, passed, tried = path.read_bytes(), 0, 0
    for changed in changes:
        path.write_bytes(changed)
        tried += 1
        try:
            check()
        except IntegrityError:
            continue
        passed += 1
    path.write_bytes(original)
    assert tried > 100
    check()
    return passed


class Checks:
    """The checks of an auditor and of a reader, on one dataset."""

    def __init__(self, world: TamperWorld, data: Path) -> None:
        self.world, self.data = world, data
        self.file = data / "a.parquet"
        self.size = self.file.stat().st_size

    def verify(self) -> None:
        pc.verify(self.data, trust=self.world.trust, remember=False, workers=1)

    def decrypt(self, **options: object) -> None:
        out = self.data.parent / "out"
        options = {"trust": self.world.trust, **options}
        world = self.world
        pc.decrypt(self.file, out, world.keys, overwrite=True, credentials=world.credentials, **options)

    def all_bits(self, step: int = 1) -> Iterator[bytes]:
        places = ((at, bit) for at in range(0, self.size, step) for bit in range(8))
        return flips(self.file.read_bytes(), places)

    def one_bit_each(self, step: int) -> Iterator[bytes]:
        return flips(self.file.read_bytes(), ((at, at // step % 8) for at in range(0, self.size, step)))

    def cuts(self, step: int) -> Iterator[bytes]:
        original = self.file.read_bytes()
        return (original[:length] for length in range(0, self.size, step))


@pytest.fixture
def checks(world: TamperWorld, data: Path) -> Checks:
    return Checks(world, data)


def test_an_auditor_detects_flipped_bits(checks: Checks) -> None:
    assert undetected(checks.file, checks.one_bit_each(SHORT_STEP), checks.verify) == 0


def test_decrypting_detects_flipped_bits(checks: Checks) -> None:
    assert undetected(checks.file, checks.one_bit_each(SHORT_STEP), checks.decrypt) == 0


def test_an_auditor_detects_every_length(checks: Checks) -> None:
    assert undetected(checks.file, checks.cuts(SHORT_CUTS), checks.verify) == 0


def test_decrypting_detects_every_length(checks: Checks) -> None:
    assert undetected(checks.file, checks.cuts(SHORT_CUTS), checks.decrypt) == 0


def test_trailing_bytes_are_detected(checks: Checks) -> None:
    original = checks.file.read_bytes()
    for check in (checks.verify, checks.decrypt):
        assert (
            undetected(checks.file, (original + bytes([value % 256]) * (value + 1) for value in range(101)), check) == 0
        )


def test_flipped_bits_of_statement_and_list_are_detected(checks: Checks) -> None:
    reserved = checks.data / "_pipecrypt"
    (file_list,) = (reserved / "files").iterdir()
    original = file_list.read_bytes()
    places = [(at, bit) for at in range(len(original)) for bit in range(0, 8, 3)]
    assert undetected(file_list, flips(original, places), checks.verify) == 0


def test_a_statement_with_a_flipped_bit_says_the_same_or_is_refused(checks: Checks) -> None:
    """Bits of names that DSSE ignores, such as the key id, may change: they decide nothing."""
    statement = checks.data / "_pipecrypt" / "manifest.json"
    original = statement.read_bytes()
    expected = pc.verify(checks.data, trust=checks.world.trust, remember=False)
    for changed in flips(original, ((at, at % 8) for at in range(len(original)))):
        statement.write_bytes(changed)
        try:
            report = pc.verify(checks.data, trust=checks.world.trust, remember=False)
        except IntegrityError:
            continue
        assert (report.dataset_id, report.version, report.files) == (
            expected.dataset_id,
            expected.version,
            expected.files,
        )


def test_without_checks_flipped_bits_pass(checks: Checks) -> None:
    """Shows that the places above are not all noticed by encryption: plaintext parts and what binds nothing."""

    def decrypt_unchecked() -> None:
        try:
            checks.decrypt(trust=pc.Trust(verify="off"))
        except PipecryptError as error:
            raise IntegrityError("noticed") from error

    assert undetected(checks.file, checks.one_bit_each(SHORT_STEP), decrypt_unchecked) > 10


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_an_auditor_detects_every_flipped_bit(checks: Checks) -> None:
    assert undetected(checks.file, checks.all_bits(), checks.verify) == 0


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_decrypting_detects_every_flipped_byte(checks: Checks) -> None:
    assert undetected(checks.file, checks.one_bit_each(1), checks.decrypt) == 0


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_both_detect_every_length(checks: Checks) -> None:
    for check in (checks.verify, checks.decrypt):
        assert undetected(checks.file, checks.cuts(1), check) == 0
