"""Views of files with so many chunks that row groups are opened one at a time."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.errors import AccessError
from pipecrypt.parquet.files import MissingKeys, TableView, open_table_view
from pipecrypt.parquet.footer.inspect import inspect_file
from pipecrypt.parquet.policy import ColumnRule, EncryptionPolicy, FooterMode
from pipecrypt.vocabulary.ranges import MemorySource
from tests.parquet.test_view import SomeKeys, read_file
from tests.parquet.world import decrypt, encrypt

_COLUMNS, _GROUPS = 230, 10


@pytest.fixture(scope="module")
def plain() -> bytes:
    table = pa.table(
        {f"c{index}": pa.array([index * 100 + row for row in range(_GROUPS)]) for index in range(_COLUMNS)}
    )
    out = io.BytesIO()
    pq.write_table(table, out, row_group_size=1, use_dictionary=False, compression="none")
    return out.getvalue()


def read(view: TableView) -> pa.Table:
    return pq.read_table(io.BytesIO(bytes(view.read_range(0, view.size_bytes))))


@pytest.mark.parametrize("footer", FooterMode)
@pytest.mark.parametrize("digest", [None, DigestAlgorithm.SHA256])
@pytest.mark.parametrize("every", [True, False])
def test_all_of_it_is_shown(plain: bytes, footer: FooterMode, digest: DigestAlgorithm | None, *, every: bool) -> None:
    keys = SomeKeys(missing="lost")
    rules = () if every else (ColumnRule("c7", "open"), ColumnRule("c20?", "open"))
    policy = EncryptionPolicy(rules=rules, default="open" if every else None, footer=footer, digest=digest)
    sealed = encrypt(plain, policy, keys)
    assert decrypt(sealed, keys) == plain
    for missing in MissingKeys:
        with open_table_view(MemorySource(sealed, "x"), keys=keys, missing=missing) as view:
            assert read(view).equals(pq.read_table(io.BytesIO(plain)))
            assert view.locked_columns == frozenset()
            assert len(view.clear_columns) == (0 if every else _COLUMNS - 11)


@pytest.mark.parametrize("footer", FooterMode)
@pytest.mark.parametrize("digest", [None, DigestAlgorithm.SHA256])
def test_columns_whose_key_is_missing(plain: bytes, footer: FooterMode, digest: DigestAlgorithm | None) -> None:
    keys = SomeKeys(missing="lost")
    rules = (ColumnRule("c7", "lost"), ColumnRule("c8", "open"), ColumnRule("c21?", "lost"))
    sealed = encrypt(plain, EncryptionPolicy(rules=rules, footer=footer, footer_key="open", digest=digest), keys)
    locked = {7, *range(210, 220)}
    true = pq.read_table(io.BytesIO(plain))
    with open_table_view(MemorySource(sealed, "x"), keys=keys, missing=MissingKeys.NULL) as view:
        shown = read(view)
        assert view.locked_columns == locked
    for index, name in enumerate(true.column_names):
        if index in locked:
            assert shown[name].null_count == _GROUPS
        else:
            assert shown[name].equals(true[name])
    with open_table_view(MemorySource(sealed, "x"), keys=keys) as view:
        file = read_file(view, pre_buffer=False)
        readable = [name for index, name in enumerate(true.column_names) if index not in locked]
        assert file.read(columns=readable).equals(true.select(readable))
        with pytest.raises(AccessError):
            view.check_column(7)


def test_inspecting_it(plain: bytes) -> None:
    keys = SomeKeys(missing="lost")
    sealed = encrypt(plain, EncryptionPolicy(rules=(ColumnRule("c7", "open"),)), keys)
    found = inspect_file(MemorySource(sealed, "x"))
    assert (found.batches, len(found.columns)) == (_GROUPS, _COLUMNS)
    assert [column.path for column in found.columns if column.encrypted] == ["c7"]
    assert found.columns[7].data_keys == _GROUPS
