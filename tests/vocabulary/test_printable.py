from __future__ import annotations

import json
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from pipecrypt.vocabulary.printable import printable, printable_json

_HOSTILE = [
    *map(chr, range(0x20)),
    *map(chr, range(0x7F, 0xA0)),
    "\u2028",
    "\u2029",
    *map(chr, range(0x202A, 0x202F)),
    *map(chr, range(0x2066, 0x206A)),
    "\u200b",
    "\ufeff",
    "\udc80",
    "\ud800",
    "\U000e0041",
]
_TEXT = st.text(st.characters() | st.sampled_from(_HOSTILE))


def test_nothing_that_controls_a_terminal_or_a_log_is_left() -> None:
    for each in _HOSTILE:
        shown = printable(f"a{each}b")
        assert shown.isascii(), ascii(each)
        assert shown.isprintable()
        assert shown[1] == "\\"


@given(_TEXT)
def test_what_is_returned_is_one_printable_line_and_stays_as_it_is(text: str) -> None:
    shown = printable(text)

    assert shown.isprintable()
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == shown
    assert not any(unicodedata.category(each) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for each in shown)
    shown.encode()


@given(_TEXT)
def test_json_stays_the_same_document(text: str) -> None:
    shown = printable_json(json.dumps({"a": text, text: [text]}, ensure_ascii=False))

    assert shown.isprintable()
    assert json.loads(shown) == json.loads(json.dumps({"a": text, text: [text]}))
