"""Read JSON documents that an attacker may have written.

Size is bounded before parsing, and so is the number of parts, for each takes far more memory than its bytes; and the
depth. Duplicate members, lone surrogates, NaN, numbers of more than 64 bits and values of another type than asked for
are refused. Callers map `DocumentError` to an error of the user's world.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final, NoReturn, TypeAlias, cast

from pipecrypt.vocabulary.clock import parse_utc
from pipecrypt.vocabulary.printable import quoted

__all__ = [
    "Document",
    "DocumentError",
    "check_parts",
    "cost_of",
    "decode_base64",
    "encode_base64",
    "load_json",
    "parse_document",
]

MOST_INTEGER: Final = (1 << 64) - 1
_MOST_COUNT: Final = (1 << 63) - 1
# What CPython takes for a part, rounded up, by the character that each part has. Characters inside of texts count too.
_COSTS: Final = ((b"{", 200), (b"[", 96), (b":", 100), (b",", 40), (b'"', 32))
# What parsing may take: so many times the text, no less than the second, no more than the third.
_COST_FACTOR: Final = 18
_LEAST_COST: Final = 1 << 20
_MOST_COST: Final = 288 << 20
_SHORT_BYTES: Final = _LEAST_COST // max(each for _, each in _COSTS)
_TIME_CHARACTERS: Final = 64
_MOST_FLOAT: Final = sys.float_info.max  # Python reads 1e999 as infinity
JSONValue: TypeAlias = "str | int | float | bool | list[JSONValue] | Document | None"


class DocumentError(Exception):
    """A document is malformed; its text names the member, never a value."""


class Document:
    """A JSON object whose members are read by name and type.

    Args:
        members: name and value pairs in the order of the text, duplicates included.
    """

    __slots__ = ("_duplicate", "_members")

    def __init__(self, members: list[tuple[str, JSONValue]]) -> None:
        """Keep the members, and remember a duplicate until one is read."""
        self._members = dict(members)
        self._duplicate = len(self._members) != len(members)

    def __contains__(self, name: str) -> bool:
        """Return whether there is such a member."""
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        self._check_duplicates()
        return iter(self._members)

    def text(self, name: str, *, max_characters: int, pattern: re.Pattern[str] | None = None) -> str:
        """Return a string member, which has the form of a pattern as a whole where one is given.

        Raises:
            DocumentError: missing, of another type or form, too long, or not Unicode.
        """
        value = _text(name, self._get(name), max_characters)
        if pattern is not None and pattern.fullmatch(value) is None:
            raise DocumentError(f"{quoted(name)} has no valid form")
        return value

    def text_or_null(self, name: str, *, max_characters: int) -> str | None:
        """Return a string member, or None where it is null; it may not be missing.

        Raises:
            DocumentError: missing, of another type, too long, or not Unicode.
        """
        return None if self.is_null(name) else self.text(name, max_characters=max_characters)

    def time(self, name: str) -> datetime:
        """Return a time in UTC, in the form in which our documents write it.

        Raises:
            DocumentError: missing, of another type, or in another form.
        """
        try:
            return parse_utc(self.text(name, max_characters=_TIME_CHARACTERS))
        except ValueError as error:
            raise DocumentError(f"{quoted(name)} is {error}") from error

    def base64(self, name: str, *, max_bytes: int) -> bytes:
        """Return a string member in base64, decoded.

        Raises:
            DocumentError: missing, of another type, too long, or not base64.
        """
        try:
            return decode_base64(self.text(name, max_characters=(max_bytes + 2) // 3 * 4))
        except ValueError as error:
            raise DocumentError(f"{quoted(name)} is not base64") from error

    def integer(self, name: str, *, least: int = -MOST_INTEGER, most: int = MOST_INTEGER) -> int:
        """Return an integer member, from the least to the most.

        Raises:
            DocumentError: missing, of another type, or out of this range.
        """
        value = self._get(name)
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MOST_INTEGER:
            raise DocumentError(f"{quoted(name)} is missing or not an integer of 64 bits")
        if not least <= value <= most:
            raise DocumentError(f"{quoted(name)} is out of range")
        return value

    def count(self, name: str) -> int:
        """Return a member that is a size or a number of things: an integer from 0 to 2^63 - 1.

        Raises:
            DocumentError: missing, of another type, or out of this range.
        """
        return self.integer(name, least=0, most=_MOST_COUNT)

    def counts(self, names: Sequence[str]) -> list[int]:
        """Return several members at once, each as `count`."""
        self._check_duplicates()
        found = [self._members.get(name) for name in names]
        if all(type(value) is int and 0 <= value <= _MOST_COUNT for value in found):
            return cast("list[int]", found)
        return [self.count(name) for name in names]  # says which one is wrong

    def number(self, name: str) -> float:
        """Return a member that is a number; the caller bounds it.

        Raises:
            DocumentError: missing or of another type.
        """
        value = self._get(name)
        # A number of 400 digits is less than infinity, and still not a float.
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MOST_FLOAT:
            raise DocumentError(f"{quoted(name)} is missing or not a number")
        return float(value)

    def boolean(self, name: str, *, default: bool | None = None) -> bool:
        """Return a boolean member, which parquet-java writes as the string "true" or "false".

        Raises:
            DocumentError: missing without a default, or of another type.
        """
        value = self._get(name)
        if value is None and default is not None:
            return default
        if value in ("true", "false"):
            return value == "true"
        if not isinstance(value, bool):
            raise DocumentError(f"{quoted(name)} is missing or not a boolean")
        return value

    def is_null(self, name: str) -> bool:
        """Return whether the member is null; a member that is missing is not.

        Raises:
            DocumentError: a member occurs twice.
        """
        return self._get(name) is None and name in self._members

    def texts(self, name: str, *, max_count: int, max_characters: int) -> tuple[str, ...]:
        """Return a member that is a list of strings.

        Raises:
            DocumentError: missing, of another type, too long, or not Unicode.
        """
        return tuple(_text(name, entry, max_characters) for entry in self._list(name, max_count, "strings"))

    def document(self, name: str) -> Document:
        """Return a member that is an object.

        Raises:
            DocumentError: missing or of another type.
        """
        value = self._get(name)
        if not isinstance(value, Document):
            raise DocumentError(f"{quoted(name)} is missing or not an object")
        return value

    def documents(self, name: str, *, max_count: int) -> tuple[Document, ...]:
        """Return a member that is a list of objects.

        Raises:
            DocumentError: missing, of another type, or too long.
        """
        value = self._list(name, max_count, "objects")
        found = tuple(entry for entry in value if isinstance(entry, Document))
        if len(found) != len(value):
            raise DocumentError(f"{quoted(name)} holds something that is not an object")
        return found

    def only(self, *names: str) -> None:
        """Pass if there are no members but these.

        Raises:
            DocumentError: there is another.
        """
        self._check_duplicates()
        unknown = self._members.keys() - set(names)
        if unknown:
            raise DocumentError(f"{quoted(min(unknown))} is not known")

    def _list(self, name: str, max_count: int, of: str) -> list[JSONValue]:
        value = self._get(name)
        if not isinstance(value, list) or len(value) > max_count:
            raise DocumentError(f"{quoted(name)} is missing or not a list of at most {max_count} {of}")
        return value

    def _get(self, name: str) -> JSONValue:
        if self._duplicate:
            self._check_duplicates()
        return self._members.get(name)

    def _check_duplicates(self) -> None:
        # Readers disagree on which of two members counts, so an object with duplicates means nothing.
        if self._duplicate:
            raise DocumentError("a member occurs twice")


def parse_document(data: bytes, *, max_bytes: int) -> Document:
    """Parse a JSON object in UTF-8.

    Raises:
        DocumentError: too long, too deep, not JSON, or not an object.
    """
    if len(data) > max_bytes:
        raise DocumentError(f"longer than {max_bytes} bytes")
    check_parts(data)
    try:
        # Bytes are decoded here: json.loads would guess UTF-16 and UTF-32 too.
        value = _DECODER.decode(data.decode())
    except (ValueError, RecursionError) as error:
        raise DocumentError("not JSON") from error
    if not isinstance(value, Document):
        raise DocumentError("not a JSON object")
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=Document, parse_constant=_refuse_constant)


def load_json(data: bytes) -> object:
    """Parse any JSON value in UTF-8 into Python's own types, for those who look at a document as a whole.

    Members that occur twice are refused here, because nobody asks for them by name. NaN and infinities are not:
    programs write them, and these documents are theirs.

    Raises:
        DocumentError: too many parts for its bytes, too deep, a member twice, or not JSON.
    """
    check_parts(data)
    try:
        return json.loads(data.decode(), object_pairs_hook=_members)
    except (ValueError, RecursionError) as error:
        raise DocumentError("not JSON") from error


def check_parts(data: bytes) -> None:
    """Pass if a text of JSON has no more parts than its size explains, before they are made.

    Raises:
        DocumentError: parsed, it would take many times its bytes, or more than memory should hold.
    """
    # A short text, such as a line about one file, cannot take much whatever it holds.
    if len(data) > _SHORT_BYTES and cost_of(data) > min(max(_LEAST_COST, _COST_FACTOR * len(data)), _MOST_COST):
        raise DocumentError("more parts than its size explains")


def cost_of(data: bytes) -> int:
    """Return how many bytes of memory the parts of a text of JSON take at most."""
    return sum(data.count(character) * each for character, each in _COSTS)


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member occurs twice")
    return found


def decode_base64(text: str) -> bytes:
    """Decode standard base64 with padding; nothing else is skipped or accepted.

    Raises:
        ValueError: it is not that.
    """
    # strict_mode lets padding pass after a whole group.
    if len(text) % 4 or text.endswith("==="):
        raise ValueError("the padding is wrong")
    return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)


def encode_base64(data: bytes) -> str:
    """Return standard base64 with padding."""
    return base64.b64encode(data).decode("ascii")


def _text(name: str, value: JSONValue, max_characters: int) -> str:
    if not isinstance(value, str):
        raise DocumentError(f"{quoted(name)} is missing or not a string")
    if len(value) > max_characters:
        raise DocumentError(f"{quoted(name)} is longer than {max_characters} characters")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise DocumentError(f"{quoted(name)} is not valid Unicode")
    return value
