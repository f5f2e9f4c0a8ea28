from __future__ import annotations

import pickle

import pytest

from pipecrypt.errors import KeyReferenceError, PolicyError
from pipecrypt.parquet.policy import ColumnRule, FooterMode, KeyScope
from pipecrypt.runs.spec.policy import Policy

KEY = "keystore://./keys.json#pii"


def test_becomes_the_engines_policy() -> None:
    policy = Policy({"email": KEY}, None, "encrypted", "file", footer_key=KEY + "2", bind_path=False).engine_policy()
    assert policy.rules == (ColumnRule("email", KEY),)
    assert (policy.footer, policy.data_keys, policy.bind_path) == (FooterMode.ENCRYPTED, KeyScope.FILE, False)
    assert policy.key_references() == (KEY + "2", KEY)


def test_defaults() -> None:
    policy = Policy(default=KEY)
    assert policy.columns == {}
    assert policy.engine_policy().footer is FooterMode.PLAINTEXT
    assert pickle.loads(pickle.dumps(policy)) == policy  # noqa: S301
    assert hash(policy) == hash(Policy(default=KEY))


def test_keeps_its_own_columns() -> None:
    columns = {"email": KEY}
    policy = Policy(columns)
    columns["ssn"] = KEY
    assert policy.columns == {"email": KEY}


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"columns": {}},
        {"columns": ["email"]},
        {"columns": {5: KEY}},
        {"columns": {"email": None}},
        {"columns": {"email": KEY}, "uniform": True},
        {"default": KEY, "footer": "encripted"},
        {"default": KEY, "data_keys": "row"},
    ],
)
def test_contradictions(arguments: dict[str, object]) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy(**arguments)  # type: ignore[arg-type]
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("reference", ["pii", "keystor://keys.json#pii"])
def test_bad_references_show_at_once(reference: str) -> None:
    for arguments in ({"default": reference}, {"columns": {"a": reference}}, {"default": KEY, "footer_key": reference}):
        with pytest.raises(KeyReferenceError):
            Policy(**arguments)  # type: ignore[arg-type]
