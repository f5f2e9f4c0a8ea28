import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecrypt.errors import KeyReferenceError
from pipecrypt.keys.reference import parse_key_reference


@pytest.mark.parametrize(
    ("text", "scheme", "location", "fragment", "query"),
    [
        ("keystore:///abs/keys.json#pii", "keystore", "/abs/keys.json", "pii", ()),
        ("keystore://./keys.json#pii", "keystore", "./keys.json", "pii", ()),
        ("keystore://keys.json", "keystore", "keys.json", None, ()),
        ("keystore:///a%20b%23c.json#pii", "keystore", "/a b#c.json", "pii", ()),
        ("KEYSTORE://Keys.json#A", "keystore", "Keys.json", "A", ()),
        ("static://map.json", "static", "map.json", None, ()),
        ("aws-kms://alias/pii?region=eu-west-1", "aws-kms", "alias/pii", None, (("region", "eu-west-1"),)),
        ("aws-kms://arn:aws:kms:eu-west-1:1:key/a", "aws-kms", "arn:aws:kms:eu-west-1:1:key/a", None, ()),
        ("pkcs11:token=a%3Bb;object=c?x=/y", "pkcs11", "token=a%3Bb;object=c", None, (("x", "/y"),)),
        ("x://a?b=c%26d&e=", "x", "a", None, (("b", "c&d"), ("e", ""))),
    ],
)  # fmt: skip
def test_parses(text: str, scheme: str, location: str, fragment: str | None, query: object) -> None:
    reference = parse_key_reference(text)
    assert (reference.scheme, reference.location, reference.fragment, reference.query) == (
        scheme, location, fragment, query,
    )  # fmt: skip
    assert str(reference) == reference.text == text


@pytest.mark.parametrize(
    "text",
    ["", "keys.json", "/keys.json", "1x://a", "://a", "x://", "x:", "x://#a", "x://a%", "x://a%2", "x://a%zz", "x://%ff",
     "x://a%00", "x://a#%zz", "x://a?b", "x://a?=b", "x://a?b=1&&c=2", "x://a\nb", "x://a\ud800", "x://" + "a" * 4096,
     "keystore:/keys.json", "keystore:./keys.json#a"],
)  # fmt: skip
def test_refuses(text: str) -> None:
    with pytest.raises(KeyReferenceError):
        parse_key_reference(text)


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_key_reference("keystore://~/keys.json#a").local_path == tmp_path / "keys.json"
    assert parse_key_reference("keystore:///x/~/keys.json#a").local_path == Path("/x/~/keys.json")
    with pytest.raises(KeyReferenceError):
        _ = parse_key_reference("keystore://~nobody-at-all/keys.json").local_path


def test_options() -> None:
    reference = parse_key_reference("x://a?region=b")
    assert reference.option("region") == "b"
    assert reference.option("other") is None
    reference.check_options("region", "other")
    with pytest.raises(KeyReferenceError):
        reference.check_options("other")
    with pytest.raises(KeyReferenceError):
        reference.check_options()
    with pytest.raises(KeyReferenceError):
        parse_key_reference("x://a?b=1&b=2").check_options("b")


@given(st.text(max_size=60) | st.from_regex(r"[a-z]+:(//)?[%a-z0-9#?=&;/~.]*", fullmatch=True))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with contextlib.suppress(KeyReferenceError):
        assert parse_key_reference(text).text == text
