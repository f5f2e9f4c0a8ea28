"""Columns on the command line, whatever their names hold."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecrypt.cli.options import join_names, split_names
from pipecrypt.errors import UsageError
from tests.cli.conftest import Run


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["a,b.c"], ("a", "b.c")),
        (["a", "b, a"], ("a", "b")),
        (['"free text, notes",email'], ("free text, notes", "email")),
        (['email , "free text, notes" '], ("email", "free text, notes")),
        (['"say ""x"", y"'], ('say "x", y',)),
        (['5" disk,b'], ('5" disk', "b")),
        (['" a "'], (" a ",)),
        (['""'], ("",)),
        (["", ",", " , "], ()),
        (["a\nb"], ("a\nb",)),
    ],
)
def test_names_are_told_apart(values: list[str], expected: tuple[str, ...]) -> None:
    assert split_names(values) == expected


@pytest.mark.parametrize("value", ['"a', '"a"b', 'a,"b', '"a" "b"', '"'])
def test_quotes_that_do_not_match_are_told(value: str) -> None:
    with pytest.raises(UsageError):
        split_names([value])


@given(st.lists(st.text(), unique=True))
def test_what_is_joined_comes_apart_again(names: list[str]) -> None:
    assert split_names([join_names(names)]) == tuple(names)


@pytest.fixture
def notes(world: Path) -> Path:
    table = pa.table({"free text, notes": ["x"], "email": ["y"], "a.b": ["z"], "a": [{"b": "w", "c": "v"}]})
    pq.write_table(table, world / "t.parquet")
    return world


def _encrypted(run: Run) -> set[str]:
    columns = run("inspect", "out.parquet", "--json").document["columns"]
    return {each["path"] for each in columns if each["encrypted"]}


def test_a_name_with_a_comma(run: Run, notes: Path, keyref: str) -> None:
    wanted = '"free text, notes",email'
    assert run("encrypt", "t.parquet", "out.parquet", "--key", keyref, "--columns", wanted).code == 0
    assert _encrypted(run) == {"free text, notes", "email"}

    rows = json.loads(run("cat", "out.parquet", "--key", keyref, "--columns", wanted, "--json").out)
    assert rows == [{"free text, notes": "x", "email": "y"}]
    assert 'left out, for want of a key: "free text, notes", email' in run("cat", "out.parquet").err
    assert run("encrypt", "t.parquet", "no.parquet", "--key", keyref, "--columns", "free text, notes").code == 2


def test_options_are_repeated(run: Run, notes: Path, keyref: str) -> None:
    names = ["--columns", '"free text, notes"', "--columns", "email"]
    assert run("encrypt", "t.parquet", "out.parquet", "--key", keyref, *names).code == 0
    assert _encrypted(run) == {"free text, notes", "email"}


def test_a_name_with_a_dot_means_the_column_and_the_nested_one(run: Run, notes: Path, keyref: str) -> None:
    """None of the two stays in plaintext because the other one was meant."""
    assert run("encrypt", "t.parquet", "out.parquet", "--key", keyref, "--columns", "a.b").code == 0
    leaves = run("inspect", "out.parquet", "--json").document["columns"]
    assert [each["encrypted"] for each in leaves if each["path"] == "a.b"] == [True, True]
    assert _encrypted(run) == {"a.b"}


@pytest.fixture
def odd_names(world: Path) -> Path:
    pq.write_table(pa.table({"": ["x"], " sp ": ["y"], "b": ["z"], ' "q" ': ["w"]}), world / "t.parquet")
    return world


@pytest.mark.parametrize(("asked", "name"), [(" sp ", " sp "), ("sp", " sp "), ("b ,sp", " sp "), ('"""q"""', ' "q" ')])
def test_the_hint_for_a_name_with_spaces_shows_the_spelling_that_works(
    run: Run, odd_names: Path, keyref: str, asked: str, name: str
) -> None:
    answer = run("encrypt", "t.parquet", "no.parquet", "--key", keyref, "--columns", asked)
    assert answer.code == 2
    _, option, spelling = shlex.split(answer.err.splitlines()[-1].rpartition(": ")[2].join(["hint ", ""]))

    assert run("encrypt", "t.parquet", "out.parquet", "--key", keyref, option, spelling).code == 0
    assert _encrypted(run) == {name}


def test_a_column_with_an_empty_name_can_be_listed(run: Run, odd_names: Path, keyref: str) -> None:
    assert run("encrypt", "t.parquet", "out.parquet", "--key", keyref, "--columns", '"",b').code == 0
    assert _encrypted(run) == {"", "b"}
    rows = json.loads(run("cat", "out.parquet", "--key", keyref, "--columns", '""', "--json").out)
    assert rows == [{"": "x"}]


def test_an_empty_name_that_no_column_has_is_refused(run: Run, people: Path, keyref: str) -> None:
    """As a variable that is not set would leave it."""
    answer = run("encrypt", "people.parquet", "out.parquet", "--key", keyref, "--columns", '""')
    assert answer.code == 2
    assert "has no column ''" in answer.err
    assert run("encrypt", "people.parquet", "out.parquet", "--key", keyref, "--columns", "").code == 2
