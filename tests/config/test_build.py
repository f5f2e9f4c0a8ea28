from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from pipecrypt.config.load import build_spec, load_config
from pipecrypt.config.run import check_config
from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.errors import ConfigError, UsageError
from pipecrypt.runs.spec.spec import EncryptSpec

_GOOD = """\
source: {url: a.parquet}
sink: {url: out/}
encrypt: {default: pii}
keys: {pii: keystore://./k.json#pii, auditor: "keystore://./k.json#signing"}
"""


def _build(tmp_path: Path, text: str) -> EncryptSpec:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return build_spec(load_config(path, {}))


def test_nothing_is_signed_unless_it_says_so(tmp_path: Path) -> None:
    assert _build(tmp_path, _GOOD).policy.signing is None


def test_sign_becomes_part_of_the_policy(tmp_path: Path) -> None:
    text = _GOOD + "sign: {keys: [auditor, 'pem:///k.pem'], digest: blake3, valid_for: 36h}\n"
    signing = _build(tmp_path, text).policy.signing

    assert signing is not None
    assert signing.key_references == (f"keystore://{tmp_path}/k.json#signing", "pem:///k.pem")
    assert (signing.digest, signing.valid_for) == (DigestAlgorithm.BLAKE3, timedelta(hours=36))


@pytest.mark.parametrize("sign", ["[auditor, 'keystore://./k.json#signing']", "[auditor, auditor]"])
def test_one_key_signs_once_under_whatever_name(tmp_path: Path, sign: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _build(tmp_path, f"{_GOOD}sign: {sign}\n")
    assert caught.value.message.startswith(f"{tmp_path}/c.yaml:5:7: ")


def test_standard_output_cannot_be_signed(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        _build(tmp_path, _GOOD.replace("out/", "'-'") + "sign: auditor\n")


def test_a_plan_tells_who_would_sign(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(_GOOD + "sign: {keys: auditor, valid_for: 2d}\n", encoding="utf-8")
    plan = check_config(path, offline=True, environ={})

    assert (plan.sign, plan.digest, plan.valid_for_seconds) == (
        (f"keystore://{tmp_path}/k.json#signing",),
        "sha256",
        172_800,
    )


@pytest.mark.parametrize(
    ("columns", "optional"),
    [
        ("[{match: [a, b], key: pii}]", ()),
        ("[{match: a, key: pii}, {match: [ssn, 'card_*'], key: pii, optional: true}]", ("ssn", "card_*")),
        ("[{match: [a, ssn], key: pii}, {match: [ssn, b], key: pii, optional: true}]", ("b",)),
        ("[{match: [a, ssn], key: pii, optional: true}, {match: a, key: pii, optional: false}]", ("ssn",)),
    ],
)
def test_an_entry_may_be_optional(tmp_path: Path, columns: str, optional: tuple[str, ...]) -> None:
    policy = _build(tmp_path, _GOOD.replace("default: pii", f"columns: {columns}")).policy
    assert policy.optional == optional
    assert {rule.pattern for rule in policy.engine_policy().rules if rule.is_optional} == set(optional)


def test_a_pattern_under_two_keys_is_named_by_its_place(tmp_path: Path) -> None:
    text = _GOOD.replace("default: pii", "columns: [{match: a, key: pii}, {match: [b, a], key: auditor}]")
    with pytest.raises(ConfigError) as caught:
        _build(tmp_path, text)
    assert caught.value.message == f"{tmp_path}/c.yaml:3:55: 'a' stands under two keys"
