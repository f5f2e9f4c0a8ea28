"""Verifying sees what readers see that know nothing of `_pipecrypt/`: files at their places, and no other table."""

from __future__ import annotations

import copy
import os
import shutil
import unicodedata
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import fsspec
import pytest

from pipecrypt.dataset.statement.findings import FindingKind
from pipecrypt.dataset.statement.paths import LOCK_DIRECTORY, staged_path
from pipecrypt.dataset.verify import verification
from pipecrypt.dataset.verify.verification import RecheckPolicy
from pipecrypt.errors import ConflictError, NotInPlaceError, VerificationError
from pipecrypt.runs.journal.cleaning import clean
from pipecrypt.runs.journal.journal import trusted_run_files
from pipecrypt.store.lease import MAX_LOCK_FILES, Lease, LeaseHolder, LeaseTiming, LeaseWatch
from pipecrypt.store.location import Location
from pipecrypt.store.process_identity import ProcessIdentity
from tests.dataset.verify.test_verification import K, Watched, check, found
from tests.dataset.world import NAMES, SignedWorld, entry_of, half_rotate, sign, tree, trusting

A, B, C = NAMES
RUN = "20260131T120000Z-0123abcd"
LATER = "20260201T120000Z-0123abcd"
EARLIER = "20260101T120000Z-0123abcd"
NOW = RecheckPolicy(seconds=0.0, sleep=lambda _: None)


@pytest.fixture
def dataset(signed_world: SignedWorld, tmp_path: Path) -> Path:
    """A dataset whose statement names the run that wrote it."""
    root = Path(shutil.copytree(signed_world.root / "signed", tmp_path / "signed"))
    shutil.rmtree(root / "_pipecrypt")
    sign(root, run=RUN)
    check(root)
    return root


def _stage(dataset: Path, name: str, run: str = RUN) -> Path:
    place = dataset / staged_path(run) / name
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(dataset / name, place)
    return place


# ---- files that wait for their places ----


def test_a_file_that_waits_for_its_place_is_not_at_its_place(dataset: Path) -> None:
    _stage(dataset, B)
    (dataset / B).unlink()
    assert found(dataset) == {(K.NOT_IN_PLACE, B)}
    assert found(dataset / B) == {(K.NOT_IN_PLACE, B)}
    assert found(dataset, "day=1/*") == {(K.NOT_IN_PLACE, B)}
    assert check(dataset / A).findings == ()


@pytest.mark.parametrize("kind", ["forged", "swapped", "cut", "plaintext"])
def test_what_lies_at_the_place_is_named_too(signed_world: SignedWorld, dataset: Path, kind: str) -> None:
    _stage(dataset, B)
    data = (dataset / B).read_bytes()
    forged, expected = {
        "forged": (bytes([data[600] ^ 255]).join((data[:600], data[601:])), K.MODIFIED),
        "swapped": ((dataset / A).read_bytes(), K.SWAPPED),
        "cut": (data[:-1], K.TRUNCATED),
        "plaintext": ((signed_world.root / "raw" / A).read_bytes(), K.PLAINTEXT),
    }[kind]
    (dataset / B).write_bytes(forged)
    for place in (dataset, dataset / B, dataset / "day=1"):
        kinds = {each for each, path in found(place) if path == B}
        assert kinds == {K.NOT_IN_PLACE, expected}


def test_a_staged_copy_that_differs_excuses_nothing(dataset: Path) -> None:
    staged = _stage(dataset, B)
    data = bytearray(staged.read_bytes())
    data[600] ^= 255  # the footer is the signed one
    staged.write_bytes(data)
    (dataset / B).unlink()
    assert found(dataset) == {(K.MISSING, B), (K.LEFT_OVER, staged.relative_to(dataset).as_posix())}


def test_with_keys_it_is_the_same(dataset: Path, signed_world: SignedWorld) -> None:
    _stage(dataset, C)
    (dataset / C).write_bytes((dataset / A).read_bytes())
    with pytest.raises(VerificationError) as caught:
        check(dataset)
    assert FindingKind.NOT_IN_PLACE in {each.kind for each in caught.value.report.findings}
    assert caught.value.exit_code == 3


def test_a_name_that_only_looks_the_same_is_another_place(dataset: Path) -> None:
    """Two spellings of one name in Unicode are two files: neither stands in for the other."""
    twin = unicodedata.normalize("NFD", B)
    assert twin != B
    staged = _stage(dataset, B)
    staged.rename(staged.with_name(Path(twin).name))
    assert found(dataset) == {(K.LEFT_OVER, f"{staged_path(RUN)}/{twin}")}
    (dataset / B).rename(dataset / twin)
    assert {(K.MISSING, B), (K.EXTRA, twin)} < found(dataset)
    assert found(dataset / B) == {(K.MISSING, B)}
    assert found(dataset / twin) == {(K.EXTRA, twin)}


def test_a_second_name_of_the_signed_file_is_not_the_file(dataset: Path) -> None:
    """A hard link has the bytes that were signed, but of another file, or at another place too."""
    staged = _stage(dataset, B)
    (dataset / B).unlink()
    (dataset / B).hardlink_to(dataset / A)
    assert found(dataset) == {(K.SWAPPED, B), (K.NOT_IN_PLACE, B)}
    (dataset / B).unlink()
    (dataset / B).hardlink_to(staged)
    assert found(dataset) == {(K.LEFT_OVER, f"{staged_path(RUN)}/{B}")}


@pytest.mark.parametrize(
    "name",
    [
        "_pipecrypt//z.parquet",
        "_pipecrypt/../z.parquet",
        f"{staged_path(LATER)}//z.parquet",
        "_pipecrypt/lock/1.json/z.parquet",
        "_PIPECRYPT//z.parquet",
        "day=1/%2e%2e/z.parquet",
        "a.parquet/",
    ],
)
def test_an_object_under_a_name_that_no_file_can_have(dataset: Path, name: str) -> None:
    """Object stores hold any name, and engines read whatever ends with that of a table."""
    memory, root = fsspec.filesystem("memory"), f"/{dataset.parent.name}"
    try:
        for path, data in tree(dataset).items():
            memory.pipe_file(f"{root}/{path}", data)
        assert check(f"memory:/{root}").findings == ()
        one = memory.store[f"{root}/{A}"]
        memory.store[f"{root}/{name}"] = type(one)(memory, f"{root}/{name}", (dataset / A).read_bytes())
        kind = K.UNEXPECTED if name.startswith("_pipecrypt") else K.EXTRA
        assert (kind, name) in found(f"memory:/{root}")
    finally:
        for path in [each for each in memory.store if each.startswith(f"{root}/")]:
            del memory.store[path]


# ---- tables and other files below _pipecrypt ----


@pytest.mark.parametrize(
    "path",
    [
        "_pipecrypt/z.parquet",
        "_pipecrypt/files/z.parquet",
        "_pipecrypt/lock/1.json.parquet",
        "_pipecrypt/lock/999999999999.json",
        f"_pipecrypt/runs/{RUN}/z.parquet",
        f"_pipecrypt/runs/{RUN}/Staged/z.parquet",
        "_pipecrypt/runs/x/staged/z.parquet",
        "_pipecrypt/runs/../runs/z.parquet",
        "_pipecrypt/notes.txt",
        "_pipecrypt/manifest.json.sig.json",
        "_pipecrypt/.pipecrypt-0.tmp/z.parquet",
        "_pipecrypt/files/1-0123456789abcdef.jsonl\n",
    ],
)
def test_what_is_not_ours_below_the_reserved_directory(dataset: Path, path: str) -> None:
    place = dataset / path
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(dataset / A, place)
    name = os.path.relpath(place, dataset)
    assert found(dataset) == {(K.UNEXPECTED, name)}


@pytest.mark.parametrize("name", ["probe-0123456789abcdef", "probe-0123456789abcdef-copy"])
def test_what_a_killed_look_at_the_sink_left(dataset: Path, name: str) -> None:
    (dataset / "_pipecrypt" / name).write_bytes(b"probe")
    assert check(dataset).findings == ()
    clean(dataset, grace=timedelta())
    assert not (dataset / "_pipecrypt" / name).exists()


@pytest.mark.parametrize("run", [EARLIER, RUN, LATER])
@pytest.mark.parametrize("where", ["staged", "attempts/0011"])
@pytest.mark.parametrize("name", ["z.parquet", A, "day=1/z.csv"])
def test_a_table_in_the_directory_of_a_run(dataset: Path, run: str, where: str, name: str) -> None:
    place = dataset / "_pipecrypt" / "runs" / run / where / name
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(dataset / A, place)  # a second copy of a signed file doubles its rows
    assert found(dataset) == {(K.LEFT_OVER, place.relative_to(dataset).as_posix())}
    assert check(dataset / A).findings == ()


def test_a_named_pipe_hangs_nobody(dataset: Path) -> None:
    for path in ("_pipecrypt/grants.json", f"{staged_path(RUN)}/{B}", "day=1/pipe"):
        (dataset / path).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(dataset / path)
    expected = {(K.UNEXPECTED, "_pipecrypt/grants.json"), (K.UNEXPECTED, f"{staged_path(RUN)}/{B}")}
    assert found(dataset) == {*expected, (K.EXTRA, "day=1/pipe")}


@pytest.mark.parametrize("put", [os.mkfifo, lambda path: path.symlink_to("../.."), lambda path: path.symlink_to(A)])
@pytest.mark.parametrize(
    "name", [".a.parquet.pipecrypt-undo.tmp", ".a.pipecrypt-x.tmp", ".a.pipecrypt-0011aabb-0011aabb.tmp"]
)
def test_no_name_hides_what_is_not_a_file(dataset: Path, put: Callable[[Path], None], name: str) -> None:
    for path in (name, f"day=1/{name}"):
        put(dataset / path)
    assert found(dataset) == {(K.EXTRA, name), (K.EXTRA, f"day=1/{name}")}


def test_a_name_that_pipecrypt_never_gives_hides_no_file(dataset: Path) -> None:
    shutil.copy(dataset / A, dataset / ".a.pipecrypt-x.tmp")
    assert found(dataset) == {(K.EXTRA, ".a.pipecrypt-x.tmp")}


def test_links_are_findings(dataset: Path, tmp_path: Path) -> None:
    """A copy of what was signed, behind a link, is not what lies at its place."""
    shutil.copytree(dataset / "day=1", tmp_path / "elsewhere")
    shutil.rmtree(dataset / "day=1")
    (dataset / "day=1").symlink_to(tmp_path / "elsewhere")
    (dataset / C).rename(tmp_path / "c")
    (dataset / C).symlink_to(tmp_path / "c")
    (dataset / "_pipecrypt" / "runs").symlink_to(tmp_path)
    kinds = found(dataset)
    assert {path for kind, path in kinds if kind is K.LINK} >= {B, C}
    assert found(dataset / B) >= {(K.LINK, B)}


@pytest.mark.parametrize("path", ["elsewhere/*", "elsewhere/b.parquet"])
def test_a_link_where_globs_begin_is_a_finding(dataset: Path, tmp_path: Path, path: str) -> None:
    shutil.copytree(dataset / "day=1", tmp_path / "copy")
    (dataset / "elsewhere").symlink_to(tmp_path / "copy")
    assert found(dataset, path, A) == found(dataset, path) == {(K.LINK, "elsewhere")}
    shutil.rmtree(dataset / "day=1")
    (dataset / "day=1").symlink_to(tmp_path / "copy")
    assert {(K.LINK, "day=1"), (K.LINK, B)} == found(dataset, "day=1/*", C)
    (dataset / A).write_bytes(b"forged")
    assert (K.TRUNCATED, A) in found(dataset, "day=1/*", A)


def test_a_link_among_journals_hides_no_table(dataset: Path, tmp_path: Path) -> None:
    left = _stage(dataset, A, LATER)
    (dataset / "_pipecrypt" / "runs" / EARLIER).symlink_to(tmp_path)
    journals = {"run_files": partial(trusted_run_files, trusting())}
    table = (K.LEFT_OVER, left.relative_to(dataset).as_posix())
    assert found(dataset, **journals) == {(K.UNEXPECTED, f"_pipecrypt/runs/{EARLIER}"), table}


def test_a_link_where_files_wait_is_a_finding(dataset: Path, tmp_path: Path) -> None:
    staged = _stage(dataset, B).parents[1]
    shutil.move(staged, tmp_path / "elsewhere")
    staged.symlink_to(tmp_path / "elsewhere")
    (dataset / B).unlink()
    (dataset / "day=1" / "z.parquet").write_bytes(b"")
    path = staged.relative_to(dataset).as_posix()
    expected = {(K.MISSING, B), (K.EXTRA, "day=1/z.parquet"), (K.LINK, path), (K.UNEXPECTED, path)}
    assert found(dataset) == expected
    assert found(dataset / B) == expected - {(K.EXTRA, "day=1/z.parquet")}


@pytest.mark.parametrize("path", [LOCK_DIRECTORY, f"{LOCK_DIRECTORY}/1.json", "_pipecrypt/files-of-others"])
def test_a_link_in_the_place_of_a_lock_hides_no_finding(dataset: Path, tmp_path: Path, path: str) -> None:
    (dataset / path).parent.mkdir(exist_ok=True)
    (dataset / path).symlink_to(tmp_path)
    (dataset / A).write_bytes(b"forged")
    assert found(dataset) == {(K.TRUNCATED, A), (K.UNEXPECTED, path)}


# ---- beside a run that is at work ----


def _lock(dataset: Path) -> Lease:
    return Lease(Location(str(dataset)).child(LOCK_DIRECTORY), RUN, timing=LeaseTiming(interval_seconds=1))


def test_while_a_run_is_at_work_what_is_not_in_place_is_a_conflict(dataset: Path) -> None:
    _stage(dataset, B)
    (dataset / B).unlink()
    with _lock(dataset):
        with pytest.raises(ConflictError, match="at work there, and 1 files are not in their places"):
            check(dataset, recheck=NOW)
        (dataset / A).write_bytes(b"forged")
        assert {(K.NOT_IN_PLACE, B), (K.TRUNCATED, A)} == found(dataset, recheck=NOW)
    assert {(K.NOT_IN_PLACE, B), (K.TRUNCATED, A)} == found(dataset)


def test_while_a_rotation_is_at_work_its_files_are_a_conflict_and_named(dataset: Path) -> None:
    half_rotate(dataset, B)
    with _lock(dataset), pytest.raises(NotInPlaceError) as caught:
        check(dataset, recheck=NOW)
    assert [(each.kind, each.path) for each in caught.value.report.findings] == [(K.MODIFIED, B)]
    assert copy.copy(caught.value).report == caught.value.report
    assert found(dataset) == {(K.MODIFIED, B)}


@pytest.mark.parametrize("planted", ["anything", "of another file", "of this file, whose body is changed", "link"])
def test_an_undo_file_that_somebody_planted_excuses_nothing(dataset: Path, tmp_path: Path, planted: str) -> None:
    undo = half_rotate(dataset, B)
    if planted == "anything":
        undo.write_bytes(b"x")
    elif planted == "of another file":
        undo.write_bytes(half_rotate(dataset, C).read_bytes())
    elif planted == "link":
        shutil.move(undo, tmp_path / "undo")
        undo.symlink_to(tmp_path / "undo")
    else:
        data = bytearray((dataset / B).read_bytes())
        data[10] ^= 255
        (dataset / B).write_bytes(data)
    with _lock(dataset):
        assert (K.MODIFIED, B) in found(dataset, recheck=NOW)


def test_it_waits_for_a_run_that_ends(dataset: Path) -> None:
    staged = _stage(dataset, B)
    (dataset / B).unlink()
    pauses = 0

    def move(seconds: float) -> None:
        nonlocal pauses
        pauses += 1
        if pauses == 3:
            os.rename(staged, dataset / B)

    with _lock(dataset):
        assert check(dataset, recheck=RecheckPolicy(sleep=move)).findings == ()
    assert pauses == 3


def test_a_lock_that_is_none_excuses_nothing(dataset: Path) -> None:
    _stage(dataset, B)
    (dataset / B).unlink()
    lock = dataset / LOCK_DIRECTORY / "1.json"
    lock.parent.mkdir()
    lock.write_bytes(b"{" * 10_000)
    assert found(dataset) == {(K.NOT_IN_PLACE, B)}


@pytest.mark.parametrize("count", [1, 20, 33])
def test_forged_locks_keep_nobody_waiting_for_longer_than_one_does(
    dataset: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stage(dataset, B)
    (dataset / B).unlink()
    (dataset / LOCK_DIRECTORY).mkdir()
    lock = LeaseHolder(1, "x", "00", ProcessIdentity("elsewhere", 1, "1"), 3600, 0)
    for number in range(1, count + 1):
        (dataset / LOCK_DIRECTORY / f"{number}.json").write_bytes(lock.encode())
    waits: list[float] = []
    monkeypatch.setattr(verification, "LeaseWatch", partial(LeaseWatch, timing=LeaseTiming(sleep=waits.append)))
    assert found(dataset) == {(K.NOT_IN_PLACE, B)}
    assert waits == ([] if count > MAX_LOCK_FILES else [10, 10, 10])


class _Changing(Watched):
    """Changes the dataset when the first look is over."""

    def __init__(self, *changes: object) -> None:
        super().__init__()
        self._changes = list(changes)

    def bytes_done(self, count: int) -> None:
        super().bytes_done(count)
        if self.bytes and not count and self._changes:
            self._changes.pop(0)()  # type: ignore[operator]


def test_what_was_moved_meanwhile_is_looked_at_again(dataset: Path, tmp_path: Path) -> None:
    data = (dataset / B).read_bytes()
    (dataset / B).unlink()
    (dataset / "day=1" / "new").write_bytes(b"")
    left = _stage(dataset, A, LATER)

    def tidy() -> None:
        (dataset / B).write_bytes(data)
        (dataset / "day=1" / "new").unlink()
        left.unlink()

    report = check(dataset, watcher=_Changing(tidy))
    assert (report.findings, report.files) == ((), 3)


def test_a_new_version_that_appears_meanwhile_is_the_one_that_is_verified(
    dataset: Path, signed_world: SignedWorld, tmp_path: Path
) -> None:
    manifest = sign(dataset, run=RUN)
    (dataset / B).unlink()

    def publish() -> None:
        sign(dataset, dataset_id=manifest.dataset_id, version=2, previous_sha256="0" * 64, run=LATER)

    report = check(dataset, watcher=_Changing(publish))
    assert (report.version, report.files, report.findings) == (2, 2, ())


def test_versions_without_end_are_a_conflict(dataset: Path) -> None:
    manifest = sign(dataset, run=RUN)
    entries = [entry_of(name, (dataset / name).read_bytes()) for name in NAMES]
    (dataset / B).unlink()
    versions = iter(range(2, 100))

    class Restless(Watched):
        def bytes_done(self, count: int) -> None:
            if not count:
                changes = {"dataset_id": manifest.dataset_id, "previous_sha256": "0" * 64, "run": LATER}
                sign(dataset, entries=entries, version=next(versions), **changes)

    with pytest.raises(ConflictError, match="a new version each time"):
        check(dataset, watcher=Restless())
