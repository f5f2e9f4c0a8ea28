"""Text as one line that a terminal and a log can show. Who writes text for people passes it through here, whole.

Names, metadata and messages of servers come from data, so they may hold line ends that forge a line, control sequences
that change a terminal, and marks that turn the reading direction.
"""

from __future__ import annotations

from typing import Final

__all__ = ["printable", "printable_json", "quoted"]

# Python's rule of what can be shown leaves out C0, C1, DEL, line and paragraph separators, marks of direction, lone
# surrogates, and all spaces but one: what only looks like a space, or like nothing, is shown as what it is.
_BASIC_PLANE: Final = 0xFFFF


def printable(text: str) -> str:
    """Return text with everything that cannot be shown as an escape; what it returns stays as it is if given again."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escape(each) for each in text)


def printable_json(text: str) -> str:
    r"""Return a JSON document with everything that cannot be shown as `\uXXXX`: the same document, safe to look at.

    Args:
        text: JSON on one line, in which such characters stand only within strings.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _json_escape(ord(each)) for each in text)


def quoted(text: str, *, most: int = 200) -> str:
    """Return a text from a file in quotes and cut off; escaped, for it may hold control sequences of a terminal."""
    return ascii(text if len(text) <= most else text[:most] + "...")


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _json_escape(code: int) -> str:
    if code <= _BASIC_PLANE:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
