import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecrypt.crypto.signature import Signature
from pipecrypt.dataset.statement.envelope import (
    MAX_ENVELOPE_BYTES,
    MAX_SIGNATURES,
    PAYLOAD_TYPE,
    UntrustedEnvelope,
    encode_envelope,
    message_to_sign,
    parse_envelope,
)
from pipecrypt.dataset.statement.manifest import MAX_STATEMENT_BYTES
from pipecrypt.errors import IntegrityError

STATEMENT = b'{"_type":"https://in-toto.io/Statement/v1"}'
SIGNATURES = (Signature("A", b"\xfb\xff\xbf"), Signature("", b"\x00" * 64))
STORED = encode_envelope(STATEMENT, SIGNATURES)
signatures = st.lists(st.builds(Signature, st.text(st.characters(exclude_categories=["Cs"]), max_size=9), st.binary()))


def _changed(**members: Any) -> bytes:
    return json.dumps(json.loads(STORED) | members).encode()


def _signature(**members: Any) -> bytes:
    return _changed(signatures=[{"keyid": "A", "sig": "AAAA"} | members])


def test_what_is_signed_is_the_pre_authentication_encoding() -> None:
    # A vector of the DSSE project: its id is "single-signature".
    assert message_to_sign(STATEMENT).hex() == (
        "445353457631203238206170706c69636174696f6e2f766e642e696e2d746f746f2b6a736f6e203433207b225f74797065223a22"
        "68747470733a2f2f696e2d746f746f2e696f2f53746174656d656e742f7631227d"
    )
    assert message_to_sign(b"") == b"DSSEv1 28 application/vnd.in-toto+json 0 "


@given(st.binary(max_size=99), signatures.filter(lambda found: 0 < len(found) <= MAX_SIGNATURES))
def test_round_trip(statement: bytes, found: list[Signature]) -> None:
    assert parse_envelope(encode_envelope(statement, found)) == UntrustedEnvelope(statement, tuple(found))


def test_either_alphabet_is_read() -> None:
    url_safe = _changed(
        payload=base64.urlsafe_b64encode(b"\xfb\xff\xbf>?").decode(), signatures=[{"sig": "-_-_", "keyid": "A"}]
    )
    assert parse_envelope(url_safe) == UntrustedEnvelope(b"\xfb\xff\xbf>?", (Signature("A", b"\xfb\xff\xbf"),))


@pytest.mark.parametrize("keyid", [{}, {"keyid": None}, {"keyid": ""}])
def test_the_key_id_is_optional(keyid: dict[str, Any]) -> None:
    assert parse_envelope(_changed(signatures=[{"sig": "AAAA", **keyid}])).signatures == (Signature("", bytes(3)),)


def test_members_that_dsse_does_not_name_are_ignored() -> None:
    extended = _changed(more={"a": [1.5, None]}, signatures=[{"sig": "AAAA", "keyid": "A", "cert": {"x": 1}}])
    assert parse_envelope(extended).payload == STATEMENT


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        STORED.decode().encode("utf-16"),
        b"\xef\xbb\xbf" + STORED,
        STORED + b"x",
        STORED[:-3],
        STORED.replace(b'{"payload"', b'{"payload":"AAAA","payload"'),
        STORED.replace(b'{"keyid"', b'{"sig":"AAAA","keyid"'),
        STORED + b" " * MAX_ENVELOPE_BYTES,
        _changed(payloadType="application/json"),
        _changed(payloadType="application/vnd.in-toto+JSON"),
        _changed(payloadType=PAYLOAD_TYPE + " "),
        _changed(payloadType=""),
        _changed(payloadType=None),
        _changed(payload=None),
        _changed(payload=1),
        _changed(payload="A" * (MAX_STATEMENT_BYTES // 3 * 4 + 4)),
        *(_changed(payload=text) for text in ("A", "AA", "AAA", "AA=", "AAAA=", "=AAA", "AA==AAAA", "AA AA", "AAAA\n")),
        *(_changed(payload=text) for text in ("-_+/", "A\u00e4AA", "A\u0660AA", "-_-_=")),
        _changed(signatures=[]),
        _changed(signatures=None),
        _changed(signatures={"keyid": "A", "sig": "AAAA"}),
        _changed(signatures=[["A", "AAAA"]]),
        _changed(signatures=[{"sig": "AAAA"}] * (MAX_SIGNATURES + 1)),
        _signature(sig=None),
        _signature(sig="AAA"),
        _signature(sig="A" * 20_000),
        _signature(keyid=1),
        _signature(keyid="A" * 1025),
        _signature(keyid="\ud800"),
        _changed(more=[{}] * 5000),
        b'{"more":' + b"[" * 2_000_000,
        b'{"more":' * 500_000,
        b'{"more":' + b"9" * 5000 + b"}",
    ],
    ids=lambda data: ascii(data[:30]),
)
def test_refuses_what_is_no_envelope_of_ours(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        parse_envelope(data)


@given(
    st.one_of(
        st.binary(max_size=99), st.recursive(st.none() | st.text(), st.lists).map(lambda v: json.dumps(v).encode())
    )
)
def test_only_our_errors_for_any_bytes(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        parse_envelope(data)


@given(st.integers(0, len(STORED)), st.binary(max_size=3), st.integers(0, 3))
def test_only_our_errors_for_any_change(place: int, put: bytes, cut: int) -> None:
    try:
        parse_envelope(STORED[:place] + put + STORED[place + cut :])
    except IntegrityError:
        return


@pytest.mark.parametrize("count", [0, MAX_SIGNATURES + 1])
def test_the_writer_refuses_its_own_mistakes(count: int) -> None:
    with pytest.raises(RuntimeError):
        encode_envelope(STATEMENT, [Signature("A", b"x")] * count)
