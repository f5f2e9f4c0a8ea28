from __future__ import annotations

from typing import Any

import pytest

from pipecrypt.store.location import ALL_PARQUET, Pattern, all_parquet_and_hidden


def _pattern(text: str) -> Pattern:
    return Pattern(tuple(text.split("/")))


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("*.parquet", "a.parquet", True),
        ("*.parquet", "x/a.parquet", False),
        ("**/*.parquet", "a.parquet", True),
        ("**/*.parquet", "x/y/a.parquet", True),
        ("**/**/*.parquet", "a.parquet", True),
        ("x/**", "x/y/a", True),
        ("x/**", "y/a", False),
        ("x/**/z/*.parquet", "x/z/a.parquet", True),
        ("x/**/z/*.parquet", "x/y/z/z/a.parquet", True),
        ("day=?/[ab].parquet", "day=1/a.parquet", True),
        ("day=?/[!ab].parquet", "day=1/a.parquet", False),
        ("*", "_SUCCESS", False),
        ("*", ".hidden", False),
        ("_*", "_SUCCESS", True),
        ("**/*", "_tmp/a", False),
        ("_tmp/*", "_tmp/a", True),
        ("**/_*.parquet", "x/_a.parquet", True),
        ("*/*", "_date=2026/a", True),
        ("A*", "a1", False),
    ],
)
def test_matches(pattern: str, path: str, expected: bool) -> None:
    assert _pattern(pattern).matches(path.split("/")) is expected


@pytest.mark.parametrize(
    ("pattern", "directory", "expected"),
    [
        ("*.parquet", "x", False),
        ("*/*.parquet", "x", True),
        ("x/*.parquet", "y", False),
        ("**/*.parquet", "x/y", True),
        ("**", "_x", False),
        ("x/**", "x/y/z", True),
    ],
)
def test_admits_directory(pattern: str, directory: str, expected: bool) -> None:
    assert _pattern(pattern).admits_directory(directory.split("/")) is expected


def test_every_matching_file_lies_in_admitted_directories() -> None:
    names = ["a", "b", "c", "d.parquet"]
    for pattern in (ALL_PARQUET, _pattern("a/**/c/*"), _pattern("*/b/*/*")):
        assert pattern.matches(names)
        assert all(pattern.admits_directory(names[:depth]) for depth in range(1, len(names)))


def test_hidden_files_count_but_not_below_what_is_left_out() -> None:
    pattern = all_parquet_and_hidden(".chunks.parquet", left_out="_ours")
    assert pattern.matches(["_x", ".a.chunks.parquet"])
    assert pattern.admits_directory(["_x", "_ours"])
    assert pattern.matches(["x", "_ours", "a.chunks.parquet"])
    assert not pattern.matches(["_ours", "a.chunks.parquet"])
    assert not pattern.admits_directory(["_ours"])
    assert not pattern.admits_directory(["_ours", "runs"])


@pytest.mark.parametrize("options", [{}, {"takes_hidden": True}, {"hidden_suffixes": (".h",)}, {"left_out": "x"}])
def test_all_files_are_those_of_a_longer_pattern_that_says_the_same(options: dict[str, Any]) -> None:
    whole, same = (Pattern(parts, **options) for parts in (("**", "*"), ("**", "**", "*")))
    parts = ["x", "_x", "_x=1", ".x", "x.h", "_x.h", ".", "*"]
    for names in [(a,) for a in parts] + [(a, b) for a in parts for b in parts]:
        assert whole.matches(names) is same.matches(names), names
        assert whole.admits_directory(names) is same.admits_directory(names), names
