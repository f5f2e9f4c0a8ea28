"""Records of what was seen before are whole and on the disk; what is planted in their place is not taken for none."""

from __future__ import annotations

import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from pipecrypt.errors import DamagedKeystoreError, IntegrityError
from pipecrypt.vocabulary.documents import Document, DocumentError
from pipecrypt.vocabulary.state import StateRecords


@pytest.fixture
def records(tmp_path: Path) -> StateRecords:
    return StateRecords(str(tmp_path / "state"), "seen", "record of tests", DamagedKeystoreError, "remove it")


def parse(document: Document) -> int:
    return document.integer("n")


def write(records: StateRecords, number: int) -> None:
    with records.changing("a") as record:
        record.put({"n": number})


def path_of(records: StateRecords) -> Path:
    return Path(records.directory, "seen", "a.json")


def test_a_record_is_kept(records: StateRecords) -> None:
    assert records.read("a", parse) is None
    for number in (1, 2):
        write(records, number)
        assert pickle.loads(pickle.dumps(records)).read("a", parse) == number  # noqa: S301 - our own
    assert stat.S_IMODE(path_of(records).stat().st_mode) == 0o600
    assert stat.S_IMODE(path_of(records).parent.stat().st_mode) == 0o700
    assert [path.name for path in path_of(records).parent.iterdir()] == ["a.json"]
    with records.changing("a") as record:
        assert record.read(parse) == 2
        record.drop()
        record.drop()
    assert records.read("a", parse) is None


def test_a_record_reaches_the_disk_before_and_after_it_takes_its_place(
    records: StateRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    real_sync, real_replace = os.fsync, os.rename

    def sync(descriptor: int) -> None:
        steps.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        real_sync(descriptor)

    def replace(*names: str, **directories: int) -> None:
        steps.append("replace")
        real_replace(*names, **directories)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "rename", replace)
    write(records, 1)
    assert steps == ["file", "replace", "directory"]


def test_a_failure_leaves_the_record_as_it_was(records: StateRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    write(records, 1)

    def fail(_: int) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        write(records, 2)
    assert records.read("a", parse) == 1
    assert [path.name for path in path_of(records).parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    "put",
    [
        lambda path: path.write_bytes(b"{}"),
        lambda path: path.write_bytes(b" " * 20_000 + b'{"n": 1}'),
        lambda path: path.symlink_to("elsewhere.json"),
        os.mkfifo,
        Path.mkdir,
    ],
    ids=["malformed", "large", "link", "pipe", "directory"],
)
def test_what_is_planted_is_not_taken_for_none(records: StateRecords, put: Callable[[Path], None]) -> None:
    write(records, 1)
    path_of(records).rename(path_of(records).with_name("elsewhere.json"))
    put(path_of(records))
    with pytest.raises(DamagedKeystoreError, match="record of tests"):
        records.read("a", parse)
    with pytest.raises(DamagedKeystoreError), records.changing("a") as record:
        record.read(parse)


def test_a_directory_that_is_a_link_is_not_followed(records: StateRecords, tmp_path: Path) -> None:
    write(records, 1)
    path_of(records).parent.rename(tmp_path / "elsewhere")
    path_of(records).parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError):
        records.read("a", parse)
    with pytest.raises(NotADirectoryError):
        write(records, 2)
    assert b'"n": 1' in (tmp_path / "elsewhere" / "a.json").read_bytes()


def test_what_a_kind_refuses_is_malformed(records: StateRecords) -> None:
    def refuse(_: Document) -> None:
        raise DocumentError("'n' is out of range")

    write(records, 1)
    with pytest.raises(DamagedKeystoreError, match="malformed: 'n' is out of range") as caught:
        records.read("a", refuse)
    assert caught.value.hint == "remove it"
