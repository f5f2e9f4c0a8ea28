from __future__ import annotations

import pickle
from dataclasses import replace
from datetime import timedelta

import pytest

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.errors import KeyReferenceError, PolicyError, UsageError
from pipecrypt.runs.spec.policy import Policy, parse_validity
from pipecrypt.runs.spec.spec import check_sink
from pipecrypt.store.location import Location

KEY, SIGNING = "keystore://./keys.json#pii", "keystore://./keys.json#signing"


@pytest.mark.parametrize("sign", [SIGNING, [SIGNING], (SIGNING,)])
def test_one_key_or_a_list(sign: object) -> None:
    policy = Policy(default=KEY, sign=sign)  # type: ignore[arg-type]
    assert policy.signing is not None
    assert policy.signing.key_references == (SIGNING,)
    assert (policy.signing.digest, policy.signing.valid_for) == (DigestAlgorithm.SHA256, None)
    assert policy.engine_policy().digest is DigestAlgorithm.SHA256
    assert policy.engine_policy().key_references() == (KEY,)  # workers never see the signing key
    assert pickle.loads(pickle.dumps(policy)) == policy  # noqa: S301
    assert hash(policy) == hash(pickle.loads(pickle.dumps(policy)))  # noqa: S301
    assert replace(policy, batch_rows=1).signing == policy.signing


def test_several_keys_digest_and_validity() -> None:
    policy = Policy(default=KEY, sign=[SIGNING, KEY], digest="blake3", valid_for=timedelta(days=1))
    assert policy.signing is not None
    assert policy.signing.key_references == (SIGNING, KEY)
    assert policy.signing.valid_for == timedelta(days=1)
    assert policy.engine_policy().digest is DigestAlgorithm.BLAKE3


def test_unsigned_by_default() -> None:
    policy = Policy(default=KEY)
    assert policy.signing is None
    assert policy.sign is None
    assert policy.engine_policy().digest is None
    assert replace(policy, default=SIGNING).signing is None


@pytest.mark.parametrize(
    "options",
    [
        {"sign": ""},
        {"sign": []},
        {"sign": 3},
        {"sign": [SIGNING, 3]},
        {"sign": {SIGNING}},
        {"sign": [SIGNING, SIGNING]},
        {"sign": [f"{SIGNING}{index}" for index in range(33)]},
        {"sign": SIGNING, "digest": "md5"},
        {"sign": SIGNING, "valid_for": "30d"},
        {"sign": SIGNING, "valid_for": timedelta()},
        {"sign": SIGNING, "valid_for": timedelta(days=-1)},
        {"sign": SIGNING, "valid_for": timedelta(seconds=1.5)},
        {"sign": SIGNING, "valid_for": timedelta(days=40_000)},
        {"digest": "blake3"},
        {"digest": "md5"},
        {"valid_for": timedelta(days=1)},
    ],
    ids=str,
)
def test_contradictions(options: dict[str, object]) -> None:
    with pytest.raises(PolicyError):
        Policy(default=KEY, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("reference", ["signing", "keystor://keys.json#signing"])
def test_bad_references_show_at_once(reference: str) -> None:
    for sign in (reference, [SIGNING, reference]):
        with pytest.raises(KeyReferenceError):
            Policy(default=KEY, sign=sign)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1h", timedelta(hours=1)), ("30d", timedelta(days=30)), ("36525d", timedelta(days=36_525))],
)
def test_validity_in_text(text: str, expected: timedelta) -> None:
    assert parse_validity(text) == expected


@pytest.mark.parametrize(
    "text", ["", "d", "30", "0d", "-1d", "1.5d", "30 d", "30D", "1d1h", "36526d", "99999999d", "٣d", "1m", "x" * 5000]
)
def test_nonsense_is_no_validity(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_validity(text)
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("sink", ["-", "a.sig.json", "memory://x/a.sig.json", "a.sig.json/"])
def test_what_has_no_place_for_a_statement_is_not_signed(sink: str) -> None:
    with pytest.raises(UsageError):
        check_sink(Policy(default=KEY, sign=SIGNING), Location(sink))
    check_sink(Policy(default=KEY), Location(sink))
