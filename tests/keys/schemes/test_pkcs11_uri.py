import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecrypt.errors import KeyReferenceError
from pipecrypt.keys.reference import parse_key_reference
from pipecrypt.keys.schemes.pkcs11 import TokenKey, parse_token_key


def _parse(text: str, key_type: str = "secret-key") -> TokenKey:
    return parse_token_key(parse_key_reference(text), key_type=key_type)


def test_all_attributes() -> None:
    wanted = _parse(
        "pkcs11:token=The%20Token;manufacturer=Snake%20Oil;model=1.0;serial=DECAFBAD;object=p%3Bi%25i;id=%00%ffa;"
        "type=secret-key?module-path=/lib/p.so&pin-source=file:///etc/pin&pipecrypt-id=pkcs11/AA/01"
    )
    assert (wanted.token, wanted.manufacturer, wanted.model, wanted.serial) == (
        "The Token",
        "Snake Oil",
        "1.0",
        "DECAFBAD",
    )
    assert (wanted.label, wanted.key_id) == ("p;i%i", b"\x00\xffa")
    assert (wanted.module_path, wanted.pin_source, wanted.stored_id) == ("/lib/p.so", "/etc/pin", "pkcs11/AA/01")


def test_what_is_not_given_is_none() -> None:
    wanted = _parse("PKCS11:serial=1;id=%01")
    assert (wanted.token, wanted.label, wanted.module_path, wanted.pin_source) == (None, None, None, None)


@pytest.mark.parametrize("source", ["file:/etc/pin", "file:///etc/pin", "/etc/pin"])
def test_sources_of_a_pin(source: str) -> None:
    assert _parse(f"pkcs11:token=t;object=o?pin-source={source}").pin_source == "/etc/pin"


@pytest.mark.parametrize(
    "text",
    [
        "pkcs11:object=o",
        "pkcs11:token=t",
        "pkcs11:token=t;id=",
        "pkcs11:token=;object=o",
        "pkcs11:token=t;object=o;object=p",
        "pkcs11:token=t;object=o;slot-id=1",
        "pkcs11:token=t;object=o;",
        "pkcs11:token=t;object",
        "pkcs11:token=t;object=o;type=private",
        "pkcs11:token=t;object=o;type=cert",
        "pkcs11:token=t;object=%zz",
        "pkcs11:token=t;object=%25%4",
        "pkcs11:token=t;object=%ff",
        "pkcs11:token=t;object=%00",
        "pkcs11:token=t;object=o#f",
        "pkcs11:token=t;object=o?module-name=p11",
        "pkcs11:token=t;object=o?module-path=lib.so",
        "pkcs11:token=t;object=o?module-path=/a&module-path=/b",
        "pkcs11:token=t;object=o?pin-source=pin",
        "pkcs11:token=t;object=o?pin-source=|cat%20pin",
        "pkcs11:token=t;object=o?pin-source=https://example.org/pin",
        "pkcs11:token=t;object=o?pipecrypt-id=keystore/a/b",
    ],
)
def test_what_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(KeyReferenceError):
        _parse(text)


def test_a_pin_is_refused_and_not_repeated() -> None:
    for text in ("pkcs11:token=t;object=o?pin-value=8151623", "pkcs11:nonsense?x=y&pin-value=8151623"):
        with pytest.raises(KeyReferenceError) as caught:
            _parse(text)
        assert "8151623" not in f"{caught.value!r} {caught.value.hint}"


def test_a_signing_key_is_private() -> None:
    assert _parse("pkcs11:token=t;object=o;type=private", "private").label == "o"
    with pytest.raises(KeyReferenceError):
        _parse("pkcs11:token=t;object=o;type=secret-key", "private")


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=100))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        _parse(f"pkcs11:{text}")
    except KeyReferenceError:
        pass
    else:
        assert "=" in text
