"""What undo files keep, which of them are refused, and that they are not blamed for what is wrong with a keystore."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

import pipecrypt as pc
from pipecrypt.dataset.undo import check_unsigned_undo, is_authentic
from pipecrypt.errors import DamagedKeystoreError, IntegrityError, KeyNotFoundError
from pipecrypt.parquet.footer.stored import read_stored_footer
from pipecrypt.parquet.protocols import DataKeys
from pipecrypt.store.listing import list_sources
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_range_source
from pipecrypt.store.protocol import SourceFile
from pipecrypt.store.undo import Undo, as_before, read_undo, undo_place, write_undo
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.secret import DataKey
from tests.dataset.written import World


class Keys:
    """Fails with each key."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def new_data_key(self, key_reference: str, context: Context) -> tuple[DataKey, bytes]:
        raise AssertionError

    def open_data_key(self, key_metadata: bytes, context: Context) -> DataKey:
        raise self._error


def keys(error: Exception) -> DataKeys:
    return cast(DataKeys, Keys(error))


@pytest.fixture
def sealed(world: World, monkeypatch: pytest.MonkeyPatch) -> SourceFile:
    for name, value in world.environ.items():
        monkeypatch.setenv(name, value)
    pc.encrypt(world.raw, world.root / "sealed", pc.Policy(columns={"email": world.reference("pii")}))
    return list_sources(Location.of(world.root / "sealed"))[0]


@pytest.fixture
def undo(sealed: SourceFile) -> Undo:
    with open_range_source(sealed) as file:
        body_end = read_stored_footer(file).body_end
    write_undo(sealed, body_end)
    found = read_undo(sealed.location, max_end_bytes=1 << 20)
    assert found is not None
    return found


def test_a_damaged_keystore_is_named(sealed: SourceFile, undo: Undo) -> None:
    damaged = keys(DamagedKeystoreError("keystore keys.json was changed"))
    with pytest.raises(DamagedKeystoreError, match=r"keys\.json"):
        is_authentic(sealed, damaged)
    with pytest.raises(DamagedKeystoreError, match=r"keys\.json"):
        check_unsigned_undo(sealed, undo, damaged)


@pytest.mark.parametrize("kind", [IntegrityError, KeyNotFoundError])
def test_a_footer_that_no_key_opens_is_refused(
    sealed: SourceFile, undo: Undo, kind: type[IntegrityError | KeyNotFoundError]
) -> None:
    assert not is_authentic(sealed, keys(kind("another key")))
    with pytest.raises(IntegrityError, match="undo"):
        check_unsigned_undo(sealed, undo, keys(kind("another key")))


def kept_file(source: SourceFile) -> Path:
    return Path(undo_place(source.location).local_path)


def test_an_old_end_is_kept_whole_and_compressed(sealed: SourceFile, undo: Undo) -> None:
    path = Path(sealed.location.local_path)
    whole = path.read_bytes()
    assert undo.tail == whole[undo.body_end :]
    assert kept_file(sealed).stat().st_size < len(undo.tail) * 3 / 4
    path.write_bytes(whole[: undo.body_end])
    assert read_undo(sealed.location, max_end_bytes=1 << 20) == undo


def test_of_an_end_of_the_same_length_what_differs_is_kept(sealed: SourceFile, undo: Undo) -> None:
    path = Path(sealed.location.local_path)
    whole = path.read_bytes()
    new = bytearray(undo.tail)
    new[7] ^= 1
    new[400:450] = bytes(50)
    assert write_undo(sealed, undo.body_end, bytes(new)) < 250
    for half_written in (undo.tail, bytes(new), undo.tail[:420] + bytes(new[420:]), bytes(new[:420]) + undo.tail[420:]):
        path.write_bytes(whole[: undo.body_end] + half_written)
        assert read_undo(sealed.location, max_end_bytes=1 << 20) == undo


def test_what_differs_is_not_joined_to_a_file_that_is_too_short(sealed: SourceFile, undo: Undo) -> None:
    path = Path(sealed.location.local_path)
    new = undo.tail[:9] + b"new" + undo.tail[12:]
    write_undo(sealed, undo.body_end, new)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="cannot be the old end"):
        read_undo(sealed.location, max_end_bytes=1 << 20)


def test_what_differs_is_not_joined_to_another_file(sealed: SourceFile, undo: Undo) -> None:
    path = Path(sealed.location.local_path)
    write_undo(sealed, undo.body_end, undo.tail[:9] + b"new" + undo.tail[12:])
    data = bytearray(path.read_bytes())
    data[-20] ^= 1  # in the end, where nothing differs
    path.write_bytes(data)
    found = read_undo(sealed.location, max_end_bytes=1 << 20)
    source = list_sources(sealed.location)[0]
    assert found is not None
    with pytest.raises(IntegrityError, match="belongs to another file"), as_before(source, found):
        pass


def test_an_undo_file_of_an_earlier_release_is_read(sealed: SourceFile, undo: Undo) -> None:
    place = kept_file(sealed)
    head = place.read_bytes()[:48]
    place.write_bytes(b"pcundo1\0" + head[8:] + undo.tail)
    assert read_undo(sealed.location, max_end_bytes=1 << 20) == undo


def kept(length: int, *ranges: tuple[int, int, bytes]) -> bytes:
    parts = [struct.pack("<II", start, count) + data for start, count, data in ranges]
    return zlib.compress(length.to_bytes(8, "little") + b"".join(parts))


FORGED = {
    "a bomb": zlib.compress(bytes(1 << 27)),
    "empty": zlib.compress(b""),
    "no range": kept(0),
    "a head cut off": zlib.compress((9).to_bytes(8, "little") + b"\1\0\0"),
    "a range cut off": kept(100, (0, 9, b"12345678")),
    "an empty range": kept(100, (0, 0, b"")),
    "behind the end": kept(100, (95, 9, b"123456789")),
    "overlapping": kept(100, (0, 9, b"123456789"), (8, 2, b"12")),
    "descending": kept(100, (50, 2, b"12"), (8, 2, b"12")),
    "an end of more than the file has": kept(1 << 19, (50, 2, b"12")),
    "an end without end": kept(1 << 63, (50, 2, b"12")),
}


def refuse(sealed: SourceFile) -> None:
    tracemalloc.start()
    with pytest.raises(IntegrityError, match="cannot be the old end"):
        read_undo(sealed.location, max_end_bytes=1 << 20)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 12 << 20


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_what_was_not_kept_of_an_end_is_refused(sealed: SourceFile, undo: Undo, forged: bytes) -> None:
    place = kept_file(sealed)
    place.write_bytes(place.read_bytes()[:48] + forged)
    refuse(sealed)


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: data[:-1] + b"?"])
def test_a_damaged_undo_file_is_refused(sealed: SourceFile, undo: Undo, change: Callable[[bytes], bytes]) -> None:
    place = kept_file(sealed)
    place.write_bytes(change(place.read_bytes()))
    refuse(sealed)


def test_an_end_may_be_as_long_as_the_file_that_was_signed(sealed: SourceFile, undo: Undo) -> None:
    assert read_undo(sealed.location, max_end_bytes=len(undo.tail)) == undo
    with pytest.raises(IntegrityError, match="cannot be the old end"):
        read_undo(sealed.location, max_end_bytes=len(undo.tail) - 1)
