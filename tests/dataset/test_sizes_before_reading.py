"""Files that say they are huge are refused by their sizes: nothing makes room for what is only claimed."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from pipecrypt.crypto.signature import Signature
from pipecrypt.dataset.statement.envelope import encode_envelope
from pipecrypt.dataset.statement.file_list import MAX_FILE_LIST_BYTES
from pipecrypt.dataset.statement.manifest import encode_statement
from pipecrypt.dataset.statement.paths import MANIFEST_PATH, file_list_path
from pipecrypt.dataset.version import read_version
from pipecrypt.errors import FormatError, IntegrityError
from pipecrypt.store.fsspec import read_small_object
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.store.small_files import locate
from tests.dataset.statement.world import SUMMARY, manifest

MIB = 1 << 20


def sparse(path: Path, size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    return path


def peak_of(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        call()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


def claim(folder: Path, list_bytes: int) -> Path:
    """Put a statement into a directory that nobody signed, which names a list of so many bytes."""
    said = manifest(files=replace(SUMMARY, size_bytes=list_bytes))
    (folder / MANIFEST_PATH).parent.mkdir(parents=True)
    (folder / MANIFEST_PATH).write_bytes(encode_envelope(encode_statement(said), [Signature("x", b"x")]))
    assert said.file_list is not None
    return folder / file_list_path(said.version, said.file_list.sha256)


@pytest.mark.parametrize("claimed", [MAX_FILE_LIST_BYTES, 1 << 30, 1000])
def test_a_list_of_four_gibibytes_of_nothing(tmp_path: Path, claimed: int) -> None:
    sparse(claim(tmp_path, claimed), MAX_FILE_LIST_BYTES)

    def read() -> None:
        with pytest.raises((IntegrityError, FormatError)):
            read_version(*locate(Location(str(tmp_path))), None)

    assert peak_of(read) < 4 * MIB


def test_a_list_that_is_not_the_one_that_the_statement_names_is_not_parsed(tmp_path: Path) -> None:
    place = claim(tmp_path, 8)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"{}\n{}\n{}")
    with pytest.raises(IntegrityError, match="not the one that was signed"):
        read_version(*locate(Location(str(tmp_path))), None)


def test_a_small_file_that_became_huge(tmp_path: Path) -> None:
    place = sparse(tmp_path / "x", 8 << 30)
    for read in (
        lambda: open_store(Location(str(place))).read_small(max_bytes=4 << 30),
        lambda: read_small_object(LocalFileSystem(), str(place), 4 << 30, "x"),
    ):

        def refused(read: Callable[[], object] = read) -> None:
            with pytest.raises(FormatError, match="is larger than"):
                read()

        assert peak_of(refused) < MIB


def test_a_bound_of_gibibytes_makes_no_room_for_a_small_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"small")
    assert peak_of(lambda: open_store(Location(str(tmp_path / "x"))).read_small(max_bytes=4 << 30)) < MIB
    assert open_store(Location(str(tmp_path / "x"))).read_small(max_bytes=4 << 30) == b"small"


def test_a_file_that_does_not_tell_its_size_is_read() -> None:
    found = open_store(Location("/proc/self/status")).read_small(max_bytes=1 << 20)
    assert found is not None
    assert b"VmPeak" in found
