import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecrypt.vocabulary.clock import utc_text
from pipecrypt.vocabulary.documents import DocumentError, decode_base64, encode_base64, parse_document


def _parse(text: str | bytes) -> object:
    return parse_document(text.encode() if isinstance(text, str) else text, max_bytes=100_000)


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", '"a"', "{", "{}x", '{"a":NaN}', '{"a":Infinity}', "\ufeff{}", "[" * 90_000, '{"a":' * 16_000,
     b"\xff", '{"a":1}'.encode("utf-16"), "9" * 5000],
)  # fmt: skip
def test_refuses_what_is_no_object(text: str | bytes) -> None:
    with pytest.raises(DocumentError):
        _parse(text)


def test_bounds_the_size_before_parsing() -> None:
    with pytest.raises(DocumentError):
        parse_document(b"{}" + b" " * 9, max_bytes=10)
    assert list(parse_document(b"{}" + b" " * 8, max_bytes=10)) == []


def test_duplicates_are_refused_on_the_first_look() -> None:
    document = parse_document(b'{"a":"1","b":{"x":1,"x":1},"a":"2"}', max_bytes=99)
    assert "a" in document
    with pytest.raises(DocumentError):
        document.text("b", max_characters=9)
    with pytest.raises(DocumentError):
        list(document)
    inner = parse_document(b'{"b":{"x":1,"\\u0078":1}}', max_bytes=99).document("b")
    with pytest.raises(DocumentError):
        inner.integer("x")


def test_types_are_exact() -> None:
    document = parse_document(b'{"t":"x","i":1,"b":true,"o":{},"l":[{}],"n":null,"m":[1],"s":"\\ud800"}', max_bytes=99)
    assert document.text("t", max_characters=1) == "x"
    assert document.integer("i") == 1
    assert document.boolean("b") is True
    assert document.boolean("missing", default=False) is False
    assert len(document.documents("l", max_count=1)) == 1
    for name in ("i", "b", "o", "l", "n", "s", "missing"):
        with pytest.raises(DocumentError):
            document.text(name, max_characters=9)
    for name in ("t", "b", "n"):
        with pytest.raises(DocumentError):
            document.integer(name)
    for name in ("t", "i", "n"):
        with pytest.raises(DocumentError):
            document.boolean(name)
    for name in ("t", "l", "n"):
        with pytest.raises(DocumentError):
            document.document(name)
    for name in ("t", "m", "o"):
        with pytest.raises(DocumentError):
            document.documents(name, max_count=9)
    with pytest.raises(DocumentError):
        document.documents("l", max_count=0)
    with pytest.raises(DocumentError):
        document.text("t", max_characters=0)
    with pytest.raises(DocumentError):
        document.only("t", "i")


@given(st.binary(max_size=100))
def test_base64_round_trip(data: bytes) -> None:
    assert decode_base64(encode_base64(data)) == data


@pytest.mark.parametrize(
    "text",
    ["A", "AA", "AA=", "AA==\n", " AA==", "AA==AA==", "A-_=", "ÄA==", "AA===", "AAAA=", "AAAA====", "===="],
)
def test_base64_is_strict(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever the reason
        decode_base64(text)


def test_lists_of_texts_and_nulls() -> None:
    document = parse_document(b'{"a":["x","y"],"b":["x",1],"c":null,"d":["\\ud800"]}', max_bytes=99)

    assert document.texts("a", max_count=2, max_characters=1) == ("x", "y")
    assert document.is_null("c")
    assert not document.is_null("a")
    assert not document.is_null("missing")
    for name in ("b", "c", "d", "missing"):
        with pytest.raises(DocumentError):
            document.texts(name, max_count=2, max_characters=1)
    with pytest.raises(DocumentError):
        document.texts("a", max_count=1, max_characters=1)


def test_bounds_forms_and_times() -> None:
    document = parse_document(
        b'{"i":-3,"n":9223372036854775807,"m":9223372036854775808,"t":"ab","z":null,"at":"2026-11-30T12:00:00Z"}',
        max_bytes=200,
    )
    assert document.integer("i", least=-3, most=-3) == -3
    assert document.count("n") == 2**63 - 1
    assert document.text("t", max_characters=2, pattern=re.compile("[ab]+")) == "ab"
    assert document.text_or_null("t", max_characters=2) == "ab"
    assert document.text_or_null("z", max_characters=2) is None
    assert utc_text(document.time("at")) == "2026-11-30T12:00:00Z"
    for refused in (
        lambda: document.integer("i", least=-2),
        lambda: document.integer("i", most=-4),
        lambda: document.count("i"),
        lambda: document.count("m"),
        lambda: document.text("t", max_characters=2, pattern=re.compile("a")),
        lambda: document.text_or_null("missing", max_characters=2),
        lambda: document.text_or_null("i", max_characters=2),
        lambda: document.time("t"),
        lambda: document.time("z"),
    ):
        with pytest.raises(DocumentError):
            refused()
