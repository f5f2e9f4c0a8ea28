import json
from typing import Any

import pytest
from hypothesis import given

from pipecrypt.dataset.statement.promise import PromisedColumn, PromisedPolicy, decode_policy, encode_policy
from pipecrypt.parquet.policy import FooterMode
from pipecrypt.vocabulary.documents import DocumentError, parse_document
from tests.dataset.statement.world import PII, POLICY, PRICES, policies


def _decode(members: object) -> PromisedPolicy:
    return decode_policy(parse_document(json.dumps(members).encode(), max_bytes=100_000))


@given(policies)
def test_round_trip(policy: PromisedPolicy) -> None:
    assert _decode(encode_policy(policy)) == policy


def test_says_of_every_column_whether_it_is_encrypted() -> None:
    assert POLICY.keys_of(("customer", "e.mail")) == (PII,)
    assert POLICY.keys_of(("total",)) == (PII, PRICES)
    # The parts count, not the dotted name.
    assert POLICY.keys_of(("customer", "e", "mail")) is None
    assert POLICY.keys_of(("customer",)) is None

    everything = PromisedPolicy(FooterMode.ENCRYPTED, (PII,), POLICY.columns, other_key_ids=(PRICES,))
    assert everything.keys_of(("anything",)) == (PRICES,)
    assert everything.keys_of(("customer", "e.mail")) == (PII,)


@pytest.mark.parametrize(
    "changes",
    [
        {"footer_key_ids": ()},
        {"footer_key_ids": (PRICES, PII)},
        {"footer_key_ids": (PII, PII)},
        {"columns": ()},
        {"columns": (PromisedColumn(("b",), (PII,)), PromisedColumn(("a",), (PII,)))},
        {"columns": (PromisedColumn(("a",), (PII,)), PromisedColumn(("a",), (PRICES,)))},
        {"columns": (PromisedColumn((), (PII,)),)},
        {"columns": (PromisedColumn(("a",) * 65, (PII,)),)},
        {"columns": (PromisedColumn(("a",), ()),)},
        {"columns": (PromisedColumn(("a",), ("",)),)},
        {"other_key_ids": ()},
    ],
)
def test_refuses_what_readers_might_understand_differently(changes: dict[str, Any]) -> None:
    members = {"footer": FooterMode.PLAINTEXT, "footer_key_ids": (PII,), "columns": POLICY.columns} | changes
    with pytest.raises(DocumentError):
        PromisedPolicy(**members)


@pytest.mark.parametrize(
    "changes",
    [
        {"unknown": 1},
        {"footer": {"mode": "none", "master_keys": [PII]}},
        {"footer": {"mode": "plaintext", "master_keys": [PII], "more": 1}},
        {"footer": "plaintext"},
        {"columns": None},
        {"columns": [["a"]]},
        {"columns": [{"path": "a", "master_keys": [PII]}]},
        {"columns": [{"path": ["a"], "master_keys": [PII], "mask": True}]},
        {"columns": [{"path": ["a"], "master_keys": PII}]},
        {"others": []},
        {"others": PII},
        {"bind_path": None},
        {"bind_path": 1},
    ],
)
def test_refuses_a_promise_that_it_does_not_know(changes: dict[str, Any]) -> None:
    _decode(encode_policy(POLICY))
    with pytest.raises(DocumentError):
        _decode(encode_policy(POLICY) | changes)


@pytest.mark.parametrize("name", ["footer", "columns", "others", "bind_path"])
def test_every_member_is_needed(name: str) -> None:
    members = encode_policy(POLICY)
    del members[name]
    with pytest.raises(DocumentError):
        _decode(members)


def test_there_are_no_more_columns_than_a_file_can_have() -> None:
    columns = tuple(PromisedColumn((f"{number:05}",), (PII,)) for number in range(32_768))
    assert PromisedPolicy(FooterMode.PLAINTEXT, (PII,), columns[1:]).keys_of(("32767",)) == (PII,)
    with pytest.raises(DocumentError):
        PromisedPolicy(FooterMode.PLAINTEXT, (PII,), columns)
