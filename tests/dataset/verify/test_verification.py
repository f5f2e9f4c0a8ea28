from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest

import pipecrypt as pc
from pipecrypt.crypto.digest import DigestAlgorithm, digest
from pipecrypt.dataset.memory import VersionMemory
from pipecrypt.dataset.requirements import Requirements
from pipecrypt.dataset.statement.findings import FindingKind
from pipecrypt.dataset.statement.paths import MANIFEST_PATH, SIGNATURE_SUFFIX
from pipecrypt.dataset.verify.inspection import Unlocking
from pipecrypt.dataset.verify.report import VerifyReport
from pipecrypt.dataset.verify.verification import verify
from pipecrypt.errors import (
    AccessError,
    ExpiredError,
    IntegrityError,
    MissingExtraError,
    NotTrustedError,
    PipecryptError,
    RolledBackError,
    SourceNotFoundError,
    StorageError,
    UsageError,
    VerificationError,
)
from pipecrypt.formats.compression import ZstdCodec
from pipecrypt.keys.session import KeySession
from pipecrypt.parquet.protocols import PageCodec
from pipecrypt.store.location import Location
from tests.dataset.world import (
    ALICE,
    BOB,
    MALLORY,
    NAMES,
    SignedWorld,
    data_files,
    entry_of,
    next_version,
    sign,
    sign_file,
    trusting,
    write_table,
)

A, B, C = NAMES
Found = set[tuple[FindingKind, str]]
BOTH = (DigestAlgorithm.SHA256, DigestAlgorithm.BLAKE3)


@dataclass
class Watched:
    """Notes what it is told."""

    files: int = -1
    total_bytes: int = -1
    started_files: list[str] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)
    bytes: int = 0

    def started(self, files: int, total_bytes: int) -> None:
        self.files, self.total_bytes = files, total_bytes

    def file_started(self, path: str) -> None:
        self.started_files.append(path)

    def bytes_done(self, count: int) -> None:
        self.bytes += count

    def file_checked(self, path: str, findings: int) -> None:
        self.checked[path] = findings


def check(place: Path | str, *globs: str, **options: object) -> VerifyReport:
    given = {"requirements": Requirements(trust=trusting()), "workers": 2, "watcher": Watched(), **options}
    return verify(Location(str(place)), globs=globs, **given)  # type: ignore[arg-type]


def found(place: Path | str, *globs: str, **options: object) -> Found:
    with pytest.raises(VerificationError) as caught:
        check(place, *globs, **options)
    findings = caught.value.report.findings
    assert [each.path for each in findings] == sorted(each.path for each in findings)
    assert findings[0].kind.value in caught.value.message
    return {(each.kind, each.path) for each in findings}


def test_what_is_as_it_was_signed(dataset: Path) -> None:
    watched = Watched()
    report = check(dataset, watcher=watched)

    sizes = sum(map(len, data_files(dataset).values()))
    assert (report.files, report.signed_files, report.bytes) == (3, 3, sizes)
    assert report.whole_dataset
    assert not report.tags_checked
    assert report.findings == ()
    assert (report.version, report.expires, report.key_ids) == (1, None, (ALICE.key_id,))
    assert report.policy.columns == ("email",)
    assert (report.policy.footer, report.policy.others) == ("plaintext", "plaintext")
    assert report.digests == (DigestAlgorithm.SHA256,)
    assert (watched.files, watched.total_bytes, watched.bytes) == (3, sizes, sizes)
    assert watched.checked == dict.fromkeys(NAMES, 0)
    assert sorted(watched.started_files) == sorted(NAMES)


# ---- what happens to files ----


def _flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)


def _swap(one: Path, other: Path) -> None:
    one_data, other_data = one.read_bytes(), other.read_bytes()
    one.write_bytes(other_data)
    other.write_bytes(one_data)


def _replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _replace_by_directory(path: Path) -> None:
    path.unlink()
    (path / "sub").mkdir(parents=True)


def _replace_by_broken_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


K = FindingKind
TAMPERS: dict[str, tuple[Callable[[Path], object], Found]] = {
    "dropped": (lambda root: (root / B).unlink(), {(K.MISSING, B)}),
    "all dropped": (lambda root: shutil.rmtree(root / "day=1"), {(K.MISSING, B)}),
    "added": (lambda root: (root / "day=1/new.parquet").write_bytes(b"x"), {(K.EXTRA, "day=1/new.parquet")}),
    "hidden": (lambda root: (root / ".hidden").write_bytes(b"x"), {(K.EXTRA, ".hidden")}),
    "marker": (lambda root: (root / "_SUCCESS").write_bytes(b""), {(K.EXTRA, "_SUCCESS")}),
    "duplicated": (lambda root: shutil.copy(root / A, root / "b.parquet"), {(K.EXTRA, "b.parquet")}),
    "renamed": (lambda root: (root / A).rename(root / "z.parquet"), {(K.MISSING, A), (K.EXTRA, "z.parquet")}),
    "other case": (
        lambda root: (root / "_PIPECRYPT").write_bytes(b""),
        {(K.EXTRA, "_PIPECRYPT")},
    ),
    "no unicode": (lambda root: open(os.fsencode(root) + b"/\xff", "wb").close(), {(K.EXTRA, "\udcff")}),
    "fifo beside": (lambda root: os.mkfifo(root / "fifo"), {(K.EXTRA, "fifo")}),
    "first byte": (lambda root: _flip(root / A, 0), {(K.MODIFIED, A)}),
    "body": (lambda root: _flip(root / A, 600), {(K.MODIFIED, A)}),
    "footer": (lambda root: _flip(root / A, -200), {(K.MODIFIED, A)}),
    "footer length": (lambda root: _flip(root / A, -5), {(K.MODIFIED, A)}),
    "last byte": (lambda root: _flip(root / A, -1), {(K.MODIFIED, A)}),
    "appended": (lambda root: (root / A).open("ab").write(b"x"), {(K.MODIFIED, A)}),
    "truncated": (lambda root: os.truncate(root / A, 1000), {(K.TRUNCATED, A)}),
    "emptied": (lambda root: os.truncate(root / A, 0), {(K.TRUNCATED, A)}),
    "swapped": (lambda root: _swap(root / A, root / C), {(K.SWAPPED, A), (K.SWAPPED, C)}),
    "overwritten by another": (lambda root: shutil.copy(root / A, root / C), {(K.SWAPPED, C)}),
    "fifo": (lambda root: _replace_by_fifo(root / A), {(K.MODIFIED, A)}),
    "directory": (lambda root: _replace_by_directory(root / A), {(K.MISSING, A)}),
    "broken link": (lambda root: _replace_by_broken_link(root / A), {(K.LINK, A)}),
}


@pytest.mark.parametrize("name", TAMPERS)
def test_what_is_not_as_it_was_signed(dataset: Path, name: str) -> None:
    tamper, expected = TAMPERS[name]
    tamper(dataset)

    assert found(dataset) == expected


def test_everything_at_once_is_named(dataset: Path) -> None:
    _flip(dataset / A, 600)
    (dataset / B).unlink()
    (dataset / "new").write_bytes(b"")

    with pytest.raises(VerificationError) as caught:
        check(dataset)

    assert caught.value.message.endswith("and 2 more")
    report = caught.value.report
    assert {(each.kind, each.path) for each in report.findings} == {(K.MODIFIED, A), (K.MISSING, B), (K.EXTRA, "new")}
    assert (report.files, report.signed_files) == (2, 3)


@pytest.mark.parametrize(
    "leftover", ["_pipecrypt/runs/20260131T120000Z-0123abcd/report.json", "day=1/.b.pipecrypt-0011aabb-ccdd0011.tmp"]
)
def test_what_is_no_data_does_not_count(dataset: Path, leftover: str) -> None:
    (dataset / leftover).parent.mkdir(parents=True, exist_ok=True)
    (dataset / leftover).write_bytes(b"x")

    assert check(dataset).files == 3


def test_what_was_signed_counts_whatever_its_name(signed_world: SignedWorld, tmp_path: Path) -> None:
    root, name = signed_world.encrypt("temporary names", bind_path=False), ".b.pipecrypt-0011aabb-ccdd0011.tmp"
    (root / A).rename(root / name)
    sign(root, policy=replace(sign(root).policy, bind_path=False))
    assert check(root).files == 3
    _flip(root / name, 600)

    assert found(root) == {(K.MODIFIED, name)}


def test_links_are_findings_and_not_followed(dataset: Path, tmp_path: Path) -> None:
    (dataset / "day=1").rename(tmp_path / "elsewhere")
    (dataset / "day=1").symlink_to(tmp_path / "elsewhere")
    (dataset / "loop").symlink_to(dataset)
    behind = {(K.LINK, entry) for entry in NAMES if entry.startswith("day=1/")}
    assert behind <= found(dataset)
    assert (K.EXTRA, "loop") in found(dataset)


def test_a_plaintext_file_where_encryption_was_promised(signed_world: SignedWorld, dataset: Path) -> None:
    shutil.copy(signed_world.root / "raw" / A, dataset / A)

    assert found(dataset) == {(K.PLAINTEXT, A)}


def test_a_plaintext_column_where_encryption_was_promised(signed_world: SignedWorld, dataset: Path) -> None:
    other = signed_world.encrypt("id only", columns={"id": signed_world.key}, bind_path=False)
    shutil.copy(other / A, dataset / A)

    assert (K.PLAINTEXT, A) in found(dataset)


def test_a_promise_that_the_signed_files_never_kept(signed_world: SignedWorld, dataset: Path) -> None:
    promise = sign(dataset).policy
    sign(dataset, policy=replace(promise, other_key_ids=promise.footer_key_ids))

    assert found(dataset) == {(K.PLAINTEXT, name) for name in NAMES}


def test_a_file_of_another_dataset(signed_world: SignedWorld, dataset: Path) -> None:
    other = signed_world.encrypt("another dataset")
    shutil.copy(other / A, dataset / A)

    assert found(dataset) == {(K.SWAPPED, A)}


def test_a_file_under_another_key(signed_world: SignedWorld, dataset: Path) -> None:
    key = signed_world.other_key
    other = signed_world.encrypt("other key", columns={"email": key}, footer_key=key, bind_path=False)
    shutil.copy(other / A, dataset / A)

    with pytest.raises(VerificationError) as caught:
        check(dataset)
    assert any("keystore/other/" in each.detail for each in caught.value.report.findings)


def test_a_file_of_an_earlier_version(signed_world: SignedWorld, dataset: Path) -> None:
    old = (dataset / A).read_bytes()
    first = sign(dataset)
    _flip(dataset / A, 600)
    sign(dataset, **next_version(first))
    assert check(dataset).version == 2

    (dataset / A).write_bytes(old)
    assert found(dataset) == {(K.ROLLED_BACK, A)}


@pytest.mark.parametrize("damage", [b"", b"{}\n", None])
def test_lists_of_earlier_versions_only_help_to_name(dataset: Path, damage: bytes | None) -> None:
    old = (dataset / A).read_bytes()
    first = sign(dataset)
    (earlier,) = (dataset / "_pipecrypt/files").iterdir()
    _flip(dataset / A, 600)
    sign(dataset, **next_version(first))
    if damage is None:
        earlier.unlink()
    else:
        earlier.write_bytes(damage)
    (dataset / A).write_bytes(old)

    assert found(dataset) == {(K.MODIFIED, A)}


def test_a_file_that_claims_a_huge_footer(dataset: Path) -> None:
    with (dataset / A).open("r+b") as file:
        file.truncate(4 << 30)  # sparse
        file.seek(-8, os.SEEK_END)
        file.write(((4 << 30) - 12).to_bytes(4, "little") + b"PAR1")

    assert found(dataset) == {(K.MODIFIED, A)}


def test_rows_and_keks_that_were_signed_wrong(dataset: Path) -> None:
    files = data_files(dataset)
    entries = [entry_of(path, data) for path, data in files.items()]
    entries[0] = replace(entries[0], rows=7)
    entries[1] = replace(entries[1], kek_ids=("AAAA",))
    entries[2] = replace(entries[2], footer_sha256="0" * 64)
    sign(dataset, entries=entries)

    assert found(dataset) == {(K.MODIFIED, name) for name in NAMES}


def test_a_signed_file_that_is_no_parquet_file(dataset: Path) -> None:
    entries = [entry_of(path, data) for path, data in data_files(dataset).items()]
    (dataset / C).write_bytes(b"words")
    sign(dataset, entries=[*entries[:2], replace(entries[2], size_bytes=5, sha256=digest(b"words"))])

    with pytest.raises(VerificationError) as caught:
        check(dataset)

    (finding,) = caught.value.report.findings
    assert (finding.kind, finding.path) == (K.MODIFIED, C)
    assert "no Parquet" in finding.detail or "not a Parquet" in finding.detail


# ---- what happens to the statement ----


def _statement_of_a_file(root: Path) -> None:
    sign_file(root / A)
    (root / (A + SIGNATURE_SUFFIX)).replace(root / MANIFEST_PATH)


STATEMENTS: dict[str, tuple[Callable[[Path], object], type[IntegrityError]]] = {
    "none": (lambda root: (root / MANIFEST_PATH).unlink(), NotTrustedError),
    "signed by another": (lambda root: sign(root, MALLORY), NotTrustedError),
    "expired": (
        lambda root: sign(root, created=_long_ago(), expires=_long_ago() + timedelta(days=1)),
        ExpiredError,
    ),
    "of the future": (lambda root: sign(root, created=datetime(2999, 1, 1, tzinfo=UTC)), IntegrityError),
    "garbage": (lambda root: (root / MANIFEST_PATH).write_bytes(b"{}"), IntegrityError),
    "too long": (lambda root: (root / MANIFEST_PATH).write_bytes(bytes(20 << 20)), IntegrityError),
    "of a file": (_statement_of_a_file, IntegrityError),
    "no list": (lambda root: shutil.rmtree(root / "_pipecrypt/files"), IntegrityError),
    "a longer list": (lambda root: _list_of(root).open("ab").write(b"{}"), IntegrityError),
    "another list": (lambda root: _flip(_list_of(root), 20), IntegrityError),
}


def _long_ago() -> datetime:
    return datetime(2020, 1, 1, tzinfo=UTC)


def _list_of(root: Path) -> Path:
    (found_list,) = (root / "_pipecrypt/files").iterdir()
    return found_list


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_that_is_refused(dataset: Path, name: str) -> None:
    tamper, error = STATEMENTS[name]
    tamper(dataset)

    with pytest.raises(error) as caught:
        check(dataset)
    assert not isinstance(caught.value, VerificationError)
    assert caught.value.exit_code == 3


def test_how_many_must_have_signed(dataset: Path) -> None:
    two = Requirements(trust=trusting(ALICE, BOB, threshold=2))
    with pytest.raises(NotTrustedError):
        check(dataset, requirements=two)

    sign(dataset, ALICE, BOB, MALLORY)
    assert check(dataset, requirements=two).key_ids == (ALICE.key_id, BOB.key_id)


def test_versions_are_remembered(dataset: Path, tmp_path: Path) -> None:
    memory = VersionMemory(str(tmp_path / "state"))
    remembering = Requirements(trust=trusting(), memory=memory)
    first = sign(dataset)
    old = (dataset / MANIFEST_PATH).read_bytes()
    assert check(dataset, requirements=remembering).version == 1
    sign(dataset, **next_version(first))
    assert check(dataset, requirements=remembering).version == 2

    (dataset / MANIFEST_PATH).write_bytes(old)
    with pytest.raises(RolledBackError):
        check(dataset, requirements=remembering)
    with pytest.raises(RolledBackError):
        check(dataset / A, requirements=remembering)
    assert check(dataset).version == 1
    with pytest.raises(RolledBackError):
        check(dataset, requirements=Requirements(trust=trusting(), min_version=2))

    anew = Requirements(trust=trusting(), memory=replace(memory, starts_anew=True))
    assert check(dataset, requirements=anew).version == 1
    assert check(dataset, requirements=remembering).version == 1


def test_the_dataset_that_is_meant(dataset: Path) -> None:
    dataset_id = check(dataset).dataset_id
    assert check(dataset, requirements=Requirements(trust=trusting(), dataset_id=dataset_id)).files == 3
    with pytest.raises(IntegrityError):
        check(dataset, requirements=Requirements(trust=trusting(), dataset_id="0" * 32))


# ---- what is named ----


@pytest.mark.parametrize(
    ("place", "globs", "files"),
    [
        ("", ["day=1/*"], {B}),
        ("", ["a.parquet", "day=2/"], {A, C}),
        ("", ["**/*.parquet"], set(NAMES)),
        ("", ["*.parquet"], {A}),
        ("day=1", [], {B}),
        ("day=1/", ["*ü*"], {B}),
        (A, [], {A}),
        (B, [], {B}),
    ],
)
def test_some_files(dataset: Path, place: str, globs: list[str], files: set[str]) -> None:
    watched = Watched()
    report = check(f"{dataset}/{place}", *globs, watcher=watched)

    assert set(watched.checked) == files
    assert (report.files, report.signed_files) == (len(files), 3)
    assert report.whole_dataset is False
    assert report.root == f"file://{dataset}"


def test_only_what_is_chosen_is_looked_at(dataset: Path) -> None:
    _flip(dataset / A, 600)
    (dataset / "extra").write_bytes(b"")
    (dataset / "day=1/extra").write_bytes(b"")

    assert found(dataset, "day=1/*") == {(K.EXTRA, "day=1/extra")}
    assert found(dataset / "day=1") == {(K.EXTRA, "day=1/extra")}
    assert found(dataset / "day=1/extra") == {(K.EXTRA, "day=1/extra")}
    assert found(dataset / A) == {(K.MODIFIED, A)}
    assert check(dataset / B).files == 1


def test_a_chosen_file_that_is_missing(dataset: Path) -> None:
    shutil.rmtree(dataset / "day=1")

    assert found(dataset, "day=1/*") == {(K.MISSING, B)}
    assert found(dataset / "day=1") == {(K.MISSING, B)}
    assert found(dataset / B) == {(K.MISSING, B)}


def test_a_name_with_glob_characters(signed_world: SignedWorld) -> None:
    write_table(signed_world.root / "odd/a[1].parquet")
    write_table(signed_world.root / "odd/a1.parquet")
    root = signed_world.root / "odd names"
    policy = pc.Policy(columns={"email": signed_world.key})
    pc.encrypt(signed_world.root / "odd", root, policy, credentials=signed_world.credentials)
    sign(root)
    watched = Watched()

    check(root, "a[1].parquet", watcher=watched)

    assert set(watched.checked) == {"a[1].parquet", "a1.parquet"}
    assert check(root / "a[1].parquet").files == 1


def test_a_single_file_and_its_statement(signed_world: SignedWorld, tmp_path: Path) -> None:
    file = Path(shutil.copy(signed_world.root / "signed" / A, tmp_path / A))
    sign_file(file)
    report = check(file)
    assert (report.files, report.signed_files, report.whole_dataset) == (1, 1, True)

    _flip(file, 600)
    assert found(file) == {(K.MODIFIED, A)}
    file.unlink()
    assert found(file) == {(K.MISSING, A)}


def test_a_renamed_single_file(signed_world: SignedWorld, tmp_path: Path) -> None:
    file = Path(shutil.copy(signed_world.root / "signed" / A, tmp_path / A))
    sign_file(file)
    for each in (file, Path(f"{file}{SIGNATURE_SUFFIX}")):
        each.rename(each.with_name(each.name.replace("a.", "b.")))

    with pytest.raises(IntegrityError):
        check(tmp_path / "b.parquet")


def test_a_statement_beside_a_file_does_not_replace_the_dataset_s(signed_world: SignedWorld, dataset: Path) -> None:
    shutil.copy(signed_world.root / "raw" / A, dataset / "new.parquet")
    sign_file(Path(shutil.copy(dataset / A, dataset / "new.parquet")))

    assert found(dataset / "new.parquet") == {(K.EXTRA, "new.parquet")}


@pytest.mark.parametrize(
    ("place", "globs", "error"),
    [
        ("nothing", [], SourceNotFoundError),
        ("signed/nothing", [], SourceNotFoundError),
        ("signed/*.parquet", [], SourceNotFoundError),
        ("signed", ["*.csv"], SourceNotFoundError),
        ("signed", ["_*"], SourceNotFoundError),
        ("signed", [""], UsageError),
        ("signed", ["../*"], UsageError),
        ("signed/a.parquet", ["*"], UsageError),
        ("signed/_pipecrypt/manifest.json", [], UsageError),
        ("signed/_pipecrypt", [], UsageError),
        ("signed/a.parquet.sig.json", [], UsageError),
        ("raw", [], NotTrustedError),
        ("raw/a.parquet", [], NotTrustedError),
    ],
)
def test_what_cannot_be_verified(
    signed_world: SignedWorld, place: str, globs: list[str], error: type[PipecryptError]
) -> None:
    with pytest.raises(error):
        check(signed_world.root / place, *globs)


def test_standard_input_cannot_be_verified() -> None:
    with pytest.raises(UsageError):
        check("-")


# ---- with keys ----


def _with_keys(session: KeySession) -> Unlocking:
    codec: PageCodec = ZstdCodec()
    return Unlocking(lambda _: session, codec)


def test_every_tag_is_checked(signed_world: SignedWorld, dataset: Path) -> None:
    data = bytearray((dataset / A).read_bytes())
    data[600] ^= 1
    (dataset / A).write_bytes(data)
    sign(dataset)  # by somebody who signs what is broken
    assert check(dataset).findings == ()

    watched = Watched()
    with KeySession([signed_world.key], credentials=signed_world.credentials) as session:
        unlocking = _with_keys(session)
        assert found(dataset, unlocking=unlocking, watcher=watched) == {(K.MODIFIED, A)}
        assert watched.bytes == watched.total_bytes
        assert check(dataset / B, unlocking=unlocking).tags_checked


def test_a_missing_key_is_no_finding(signed_world: SignedWorld, dataset: Path) -> None:
    with KeySession([signed_world.other_key], credentials=signed_world.credentials) as session:
        unlocking = _with_keys(session)
        with pytest.raises(AccessError):
            check(dataset, unlocking=unlocking)

        (dataset / B).unlink()
        with pytest.raises(VerificationError) as caught:
            check(dataset, unlocking=unlocking)
    report = caught.value.report
    assert [each.kind for each in report.findings] == [K.MISSING]
    assert report.unchecked_files == 2
    assert {each.path for each in report.unchecked} == {A, C}
    assert report.files == 0


@pytest.mark.parametrize(
    "policy",
    [
        {"columns": {"email": "KEY"}},
        {"columns": {"email": "KEY"}, "footer": "encrypted"},
        {"default": "KEY", "bind_path": False},
        {"default": "KEY", "data_keys": "file", "uniform": True},
        {"default": "KEY", "mode": "chunks", "compression": "zstd"},
    ],
    ids=str,
)
def test_what_a_run_signs_is_verified(signed_world: SignedWorld, tmp_path: Path, policy: dict[str, Any]) -> None:
    root, world = tmp_path / "sealed", signed_world
    given = {name: _with_key(value, world.key) for name, value in policy.items()}
    made = pc.Policy(**given, sign=world.signing_key)
    pc.encrypt(world.root / "raw", root, made, credentials=world.credentials)
    assert check(root).files == 3

    with KeySession([world.key], credentials=world.credentials) as session:
        unlocking = _with_keys(session)
        report = check(root, unlocking=unlocking)
        assert (report.files, report.tags_checked) == (3, True)
        first = min(data_files(root))
        _flip(root / first, 600)
        assert {path for _, path in found(root, unlocking=unlocking)} == {first}
    (root / first).unlink()
    assert found(root) == {(K.MISSING, first)}


def _with_key(value: object, key: str) -> object:
    if isinstance(value, dict):
        return dict.fromkeys(value, key)
    return key if value == "KEY" else value


def test_rows_that_only_keys_show(signed_world: SignedWorld, tmp_path: Path) -> None:
    root, world = tmp_path / "sealed", signed_world
    pc.encrypt(
        world.root / "raw", root, pc.Policy(default=world.key, footer="encrypted"), credentials=world.credentials
    )
    sign(root)  # with no rows
    assert check(root).files == 3

    with KeySession([world.key], credentials=world.credentials) as session:
        assert found(root, unlocking=_with_keys(session)) == {(K.MODIFIED, name) for name in NAMES}


def test_a_clear_footer_where_an_encrypted_one_was_promised(signed_world: SignedWorld, tmp_path: Path) -> None:
    root, world = tmp_path / "sealed", signed_world
    pc.encrypt(
        world.root / "raw", root, pc.Policy(default=world.key, footer="encrypted"), credentials=world.credentials
    )
    sign(root)
    shutil.copy(world.encrypt("clear footer", bind_path=False) / A, root / A)

    assert (K.PLAINTEXT, A) in found(root)


def test_parts_that_cannot_be(signed_world: SignedWorld, dataset: Path) -> None:
    data = (dataset / A).read_bytes()
    length = int.from_bytes(data[-8:-4], "little") + 8
    (dataset / A).write_bytes(data[:4] + data[-length:])  # a footer without what it describes
    sign(dataset)

    assert found(dataset) == {(K.MODIFIED, A)}


# ---- digests ----


def test_the_digests_that_were_signed_and_are_there(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("blake3")
    sign(dataset, digests=BOTH)
    statement = (dataset / MANIFEST_PATH).read_bytes()
    assert check(dataset).digests == BOTH
    sign(dataset, digests=BOTH[1:])
    assert check(dataset).digests == BOTH[1:]
    _flip(dataset / A, 600)
    assert found(dataset) == {(K.MODIFIED, A)}
    _flip(dataset / A, 600)

    def missing() -> None:
        raise MissingExtraError("no blake3")

    monkeypatch.setattr("pipecrypt.crypto.digest._new_blake3", missing)
    with pytest.raises(MissingExtraError):
        check(dataset)
    (dataset / MANIFEST_PATH).write_bytes(statement)
    assert check(dataset).digests == BOTH[:1]


# ---- other storages, and those that fail ----


def _in_memory(root: Path, name: str) -> str:
    fs = fsspec.filesystem("memory")
    for path in root.rglob("*"):
        if path.is_file():
            fs.pipe_file(f"/{name}/{path.relative_to(root).as_posix()}", path.read_bytes())
    return f"memory://{name}"


def test_an_object_storage(dataset: Path) -> None:
    place = _in_memory(dataset, "verified")
    fs = fsspec.filesystem("memory")
    assert check(place).files == 3
    assert check(place + "/day=1").files == 1
    assert check(place + "/" + A).files == 1
    assert check(place, "day=1/*", "day=2/*").files == 2

    fs.pipe_file(f"/verified/{A}", b"x")
    fs.rm_file(f"/verified/{B}")
    fs.pipe_file("/verified/day=1/.new", b"")
    assert found(place) == {(K.TRUNCATED, A), (K.MISSING, B), (K.EXTRA, "day=1/.new")}
    assert found(place, "day=1/.n*", "day=1/*") == {(K.MISSING, B), (K.EXTRA, "day=1/.new")}
    assert found(place + "/" + B) == {(K.MISSING, B)}
    with pytest.raises(SourceNotFoundError):
        check("memory://verified/nothing")
    with pytest.raises(NotTrustedError):
        check("memory://verified/day=1", requirements=Requirements(trust=trusting(MALLORY)))


def test_a_storage_that_lists_nothing(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = _in_memory(dataset, "unlisted")
    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "find", lambda *_, **__: {})

    assert check(place).files == 3
    fsspec.filesystem("memory").rm_file(f"/unlisted/{A}")
    assert found(place) == {(K.MISSING, A)}


def _failing(*_: object, **__: object) -> None:
    raise OSError(5, "Input/output error")


def test_a_file_that_cannot_be_read(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = _in_memory(dataset, "unreadable")
    whole = fsspec.get_filesystem_class("memory").cat_file

    def cat_file(self: object, path: str, *rest: object, **options: object) -> bytes:
        if path.endswith(A):
            _failing()
        return whole(self, path, *rest, **options)  # type: ignore[no-any-return]

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "cat_file", cat_file)
    with pytest.raises(StorageError):
        check(place)

    fsspec.filesystem("memory").rm_file(f"/unreadable/{B}")
    with pytest.raises(VerificationError) as caught:
        check(place)
    assert [each.path for each in caught.value.report.unchecked] == [A]
    assert caught.value.report.unchecked_files == 1


def test_a_place_that_cannot_be_looked_at_is_no_missing_file(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, memory = _in_memory(dataset, "unseen"), fsspec.get_filesystem_class("memory")
    whole = memory.info

    def info(self: object, path: str, **options: object) -> object:
        if path.endswith(A):
            _failing()
        return whole(self, path, **options)

    monkeypatch.setattr(memory, "find", lambda *_, **__: {})
    monkeypatch.setattr(memory, "info", info)
    with pytest.raises(StorageError):
        check(place)


def test_earlier_lists_that_cannot_be_listed(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, memory = _in_memory(dataset, "no earlier lists"), fsspec.get_filesystem_class("memory")
    whole = memory.find

    def find(self: object, path: str, *rest: object, **options: object) -> object:
        if "_pipecrypt" in path:
            _failing()
        return whole(self, path, *rest, **options)

    monkeypatch.setattr(memory, "find", find)
    fsspec.filesystem("memory").pipe_file(f"/no earlier lists/{A}", bytes(10_000))
    assert found(place) == {(K.MODIFIED, A)}


def test_a_storage_that_cannot_be_listed(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = _in_memory(dataset, "not listed")
    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "find", _failing)

    with pytest.raises(StorageError):
        check(place)


def test_a_watcher_that_raises_stops_it(dataset: Path) -> None:
    class Leaving(Watched):
        def file_checked(self, path: str, findings: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(dataset, watcher=Leaving(), workers=3)
