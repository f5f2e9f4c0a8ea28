from __future__ import annotations

import pytest

from pipecrypt.dataset.verify.target import Selection
from pipecrypt.errors import UsageError


@pytest.mark.parametrize(
    ("directory", "globs", "taken", "left"),
    [
        ("", [], ["a", ".a", "x/y/_z"], []),
        ("x", [], ["x/a", "x/.y/b"], ["a", "x", "xy/a", "y/x/a"]),
        ("x/y/", [], ["x/y/a"], ["x/a", "x/y"]),
        ("", ["*.parquet"], ["a.parquet"], ["x/a.parquet", "a.csv", ".a.parquet"]),
        ("", ["**/*.parquet"], ["a.parquet", "x/y/a.parquet"], ["x/_y/a.parquet"]),
        ("", ["x/"], ["x/a", "x/y/b"], ["a", "x/_a"]),
        ("", ["/x/*"], ["x/a"], ["x/y/a"]),
        ("", ["a", "x/b"], ["a", "x/b"], ["b", "x/a"]),
        ("", ["a[1]"], ["a[1]", "a1"], ["a"]),
        ("x", ["*"], ["x/a"], ["a", "x/y/a"]),
    ],
)
def test_which_files_count(directory: str, globs: list[str], taken: list[str], left: list[str]) -> None:
    selection = Selection.of(globs, directory=directory)

    assert [path for path in [*taken, *left] if selection.takes(path)] == taken
    for path in taken:
        names = tuple(path.split("/"))
        assert all(selection.admits(names[:depth]) for depth in range(1, len(names)))
        assert any(not start or path.startswith(start + "/") for start in selection.starts())


def test_directories_in_which_nothing_counts_are_not_looked_into() -> None:
    selection = Selection.of(["x/*/z"], directory="d")

    assert selection.admits(("d",))
    assert selection.admits(("d", "x"))
    assert not selection.admits(("e",))
    assert not selection.admits(("d", "y"))
    assert not selection.admits(("d", "x", "y", "z"))


@pytest.mark.parametrize(
    ("globs", "starts"),
    [
        ([], ("d",)),
        (["*"], ("d",)),
        (["x/y/*", "x/y/z/*", "v/w"], ("d/v", "d/x/y")),
        (["x/*", "*"], ("d",)),
        (["x*/y/*"], ("d",)),
    ],
)
def test_where_to_begin(globs: list[str], starts: tuple[str, ...]) -> None:
    assert Selection.of(globs, directory="d").starts() == starts


def test_everything() -> None:
    assert Selection().is_everything
    assert Selection().starts() == ("",)
    assert not Selection.of(["**"]).is_everything


@pytest.mark.parametrize("glob", ["", "/", "..", "a/../b", "./a", "a//b"])
def test_no_glob(glob: str) -> None:
    with pytest.raises(UsageError):
        Selection.of([glob])
