"""Sums of promises: of files of one run, and of files that stay with new ones."""

from __future__ import annotations

import pytest

from pipecrypt.dataset.sign.promises import add_promises, check_columns, check_frame, continue_promise
from pipecrypt.dataset.statement.promise import PromisedColumn, PromisedPolicy
from pipecrypt.errors import ConflictError, UsageError
from pipecrypt.parquet.policy import ColumnRule, EncryptionPolicy, FooterMode


def promise(
    columns: dict[str, tuple[str, ...]] | None = None,
    *,
    footer: FooterMode = FooterMode.PLAINTEXT,
    others: tuple[str, ...] | None = None,
    bind_path: bool = True,
    footer_keys: tuple[str, ...] = ("f",),
) -> PromisedPolicy:
    given = {"a": ("k",)} if columns is None and others is None else columns or {}
    listed = tuple(PromisedColumn((name,), keys) for name, keys in sorted(given.items()))
    return PromisedPolicy(footer, footer_keys, listed, others, bind_path)


def test_files_of_one_run_add_up() -> None:
    total = add_promises([promise({"a": ("k",)}), promise({"b": ("l",)}, footer_keys=("g",)), promise({"a": ("m",)})])
    assert total == promise({"a": ("k", "m"), "b": ("l",)}, footer_keys=("f", "g"))

    total = add_promises([promise({"a": ("k",)}, others=("o",)), promise(others=("p",))])
    assert total.other_key_ids == ("o", "p")
    assert total.keys_of(("a",)) == ("k", "p")  # the second file may have it too, under the default key


def test_files_of_one_run_have_one_policy() -> None:
    for other in (promise(footer=FooterMode.ENCRYPTED), promise(bind_path=False), promise(others=("o",))):
        with pytest.raises(RuntimeError):
            add_promises([promise(), other])


def test_a_promise_is_continued_column_by_column() -> None:
    assert continue_promise(promise({"a": ("k",)}), promise({"a": ("l",)})) == promise({"a": ("k", "l")})
    total = continue_promise(promise({"a": ("k",)}, others=("o",)), promise({"b": ("l",)}, others=("p",)))
    assert total == promise({"a": ("k", "p"), "b": ("l", "o")}, others=("o", "p"))


@pytest.mark.parametrize(
    "new",
    [
        promise({"b": ("k",)}),
        promise({"a": ("k",), "b": ("k",)}),
        promise(footer=FooterMode.ENCRYPTED),
        promise(bind_path=False),
        promise(others=("k",)),
    ],
)
def test_no_column_is_promised_two_things(new: PromisedPolicy) -> None:
    for one, other in ((promise(), new), (new, promise())):
        with pytest.raises(ConflictError):
            continue_promise(one, other)


def test_a_column_that_only_new_files_or_only_those_that_stay_have() -> None:
    one, both = promise({"a": ("k",)}), promise({"a": ("k",), "b": ("l",)})

    def is_b(path: tuple[str, ...]) -> bool:
        return path == ("b",)

    assert continue_promise(one, both, lacks_earlier=is_b) == both
    assert continue_promise(both, one, lacks_new=is_b) == both
    for wrong in ({"lacks_new": is_b}, {"lacks_earlier": lambda path: path == ("a",)}):
        with pytest.raises(ConflictError):
            continue_promise(one, both, **wrong)
    with pytest.raises(ConflictError):
        continue_promise(both, one, lacks_earlier=is_b)
    check_columns(one, [(("b",), True)], lacks_earlier=is_b)
    with pytest.raises(ConflictError):  # in plaintext, where it was promised to be encrypted
        check_columns(both, [(("b",), False)], lacks_earlier=is_b)


def test_a_statement_holds_so_many_keys() -> None:
    keys = [tuple(sorted(f"k{index:03}" for index in range(start, start + 40))) for start in (0, 40)]
    total = continue_promise(promise({"a": keys[0]}), promise({"a": keys[0]}))
    assert total.keys_of(("a",)) == keys[0]
    many = [promise({f"c{index:05}": ("k",) for index in range(start, start + 20_000)}) for start in (0, 20_000)]
    with pytest.raises(UsageError):
        add_promises(many)


def test_a_policy_is_compared_before_any_file() -> None:
    rules = (ColumnRule("a", "ref"),)
    check_frame(promise(), EncryptionPolicy(rules=rules))
    check_frame(promise(others=("o",)), EncryptionPolicy(default="ref"))
    for policy in (
        EncryptionPolicy(rules=rules, footer=FooterMode.ENCRYPTED),
        EncryptionPolicy(rules=rules, bind_path=False),
        EncryptionPolicy(rules=rules, default="ref"),
    ):
        with pytest.raises(ConflictError):
            check_frame(promise(), policy)
    check_columns(promise(), [(("a",), True), (("b",), False), (("a", "b"), False)])
    for column in ((("a",), False), (("b",), True), (("a", "b"), True)):
        with pytest.raises(ConflictError):
            check_columns(promise(), [column])
