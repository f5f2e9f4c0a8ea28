"""Undo files are not blamed for what is wrong with a keystore."""

from __future__ import annotations

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
from pipecrypt.store.undo import Undo, read_undo, write_undo
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
