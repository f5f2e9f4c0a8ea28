"""Which files a version must list: all but ours."""

from __future__ import annotations

import pytest

from pipecrypt.dataset.listing import is_data
from pipecrypt.store.location import Location
from pipecrypt.store.protocol import SourceFile
from pipecrypt.store.publication import new_token, temporary_name
from pipecrypt.store.undo import undo_place

LONG = "ü" * 127
TEMPORARY = (
    temporary_name("a.parquet", new_token()),
    temporary_name(LONG, new_token()),
    temporary_name("line\nbreak", new_token()),
    temporary_name(temporary_name("a", new_token()), new_token()),
    undo_place(Location("d/a.parquet")).name,
    undo_place(Location(f"d/{LONG}")).name,
    temporary_name(undo_place(Location("d/a.parquet")).name, "undo"),
    temporary_name(undo_place(Location(f"d/{LONG}")).name, "undo"),
)


def regular(path: str) -> SourceFile:
    return SourceFile(Location(path), path, 1, "")


@pytest.mark.parametrize(
    "path",
    [
        "a.parquet",
        "day=1/.hidden",
        "day=1/_SUCCESS",
        "x/_pipecrypt.parquet",
        ".a.pipecrypt-notes.tmp",
        ".a.pipecrypt-0011aabb-0011aabb.tmp.parquet",
        ".a.pipecrypt-0011AABB-0011aabb.tmp",
        ".a.pipecrypt-0011aabb-0011aabb.tmp\n",
        ".a.pipecrypt-0011aabb.tmp",
        ".pipecrypt-undo.tmp",
        "a.pipecrypt-undo.tmp",
        ".a.pipecrypt-undo.tmp/b.parquet",
        ".a.pipecrypt-0011aabb-0011aabb.tmp/b.parquet",
    ],
)
def test_whatever_somebody_put_there_counts(path: str) -> None:
    assert is_data(path, regular(path))
    assert is_data(path, None)


@pytest.mark.parametrize("name", TEMPORARY, ids=range(len(TEMPORARY)))
def test_only_a_regular_file_can_be_temporary(name: str) -> None:
    for path in (name, f"day=1/{name}"):
        assert not is_data(path, regular(path))
        assert is_data(path, None)


def test_our_own_files_do_not_count() -> None:
    for path in ("_pipecrypt/manifest.json", "_pipecrypt/files/x"):
        assert not is_data(path, regular(path))
        assert not is_data(path, None)  # what lies there has checks of its own
