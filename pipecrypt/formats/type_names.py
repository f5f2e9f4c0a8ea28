"""Read Arrow types from text, as users write them.

Grammar, spaces ignored; it takes what pyarrow prints, and shorter forms:

    type   = name | name "(" number {"," number} ")" | name "[" word {"," word} "]" | name "<" part {"," part} ">"
    part   = [label (":" | "=")] type ["not null"]

as in int64, decimal128(12,2), timestamp[us, UTC], list<string>, struct<a: int64, b: list<double>>, map<string, int8>,
dictionary<string>, dictionary<values=string, indices=int32>, fixed_size_binary[16].
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Final

import pyarrow as pa

from pipecrypt.errors import UsageError

__all__ = ["parse_type", "parse_types"]

_SIMPLE: Final[dict[str, pa.DataType]] = {
    "null": pa.null(),
    "bool": pa.bool_(),
    "boolean": pa.bool_(),
    **{f"{sign}int{bits}": getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "int": pa.int64(),
    "float16": pa.float16(),
    "halffloat": pa.float16(),
    "float32": pa.float32(),
    "float": pa.float32(),
    "float64": pa.float64(),
    "double": pa.float64(),
    "string": pa.string(),
    "str": pa.string(),
    "utf8": pa.string(),
    "large_string": pa.large_string(),
    "large_utf8": pa.large_string(),
    "string_view": pa.string_view(),
    "binary": pa.binary(),
    "large_binary": pa.large_binary(),
    "binary_view": pa.binary_view(),
    "date": pa.date32(),
    "date32": pa.date32(),
    "date64": pa.date64(),
    "timestamp": pa.timestamp("us"),
}
_TOKEN: Final = re.compile(r"\s*(?:([A-Za-z_0-9+\-./]+)|(.))")
_MAX_DEPTH: Final = 64
_HINT: Final = "write a type as int64, decimal128(12,2), timestamp[us, UTC], list<string> or dictionary<string>"


def parse_types(types: Mapping[str, str]) -> dict[str, pa.DataType]:
    """Return the Arrow type of every column.

    Raises:
        UsageError: a text is not a type; names the column.
    """
    return {column: parse_type(text, f"column {column}") for column, text in types.items()}


def parse_type(text: str, what: str = "type") -> pa.DataType:
    """Return the Arrow type that a text names.

    Args:
        text: in the grammar of this module.
        what: what the error calls it.

    Raises:
        UsageError: the text is not a type; suggests the nearest one.
    """
    try:
        reader = _TypeParser([word or sign for word, sign in _TOKEN.findall(text.strip())])
        found = reader.type()
        reader.expect("")
    except (_TypeTextError, ValueError, TypeError, pa.ArrowException) as error:
        reason = str(error) if isinstance(error, _TypeTextError) else "wrong arguments"
        raise UsageError(f"{what}: {text!r} is not a type: {reason}", hint=_HINT) from None
    return found


class _TypeTextError(Exception):
    pass


class _TypeParser:
    """Recursive descent over the tokens, which are kept in reverse order."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens[::-1]
        self._depth = 0

    def peek(self) -> str:
        return self._tokens[-1] if self._tokens else ""

    def take(self) -> str:
        return self._tokens.pop() if self._tokens else ""

    def expect(self, token: str) -> None:
        if (found := self.take()) != token:
            raise _TypeTextError(f"expected {token or 'its end'}, found {found or 'its end'}")

    def type(self) -> pa.DataType:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _TypeTextError("nested too deeply")
        name = self.take().lower()
        match self.peek():
            case "(":
                found = _call(name, _WITH_NUMBERS, *[int(word) for word in self.words("(", ")")])
            case "[":
                found = _with_words(name, self.words("[", "]"))
            case "<":
                found = self.nested(name)
            case _:
                found = _SIMPLE.get(name)
        self._depth -= 1
        if found is None:
            raise _TypeTextError(_unknown(name))
        return found

    def words(self, opening: str, closing: str) -> list[str]:
        self.expect(opening)
        words = [self.word()]
        while self.peek() == ",":
            self.take()
            words.append(self.word())
        self.expect(closing)
        return words

    def word(self) -> str:
        word = self.take()
        while self.peek() not in {",", ")", "]", ">", ""}:
            word += self.take()
        return word

    def nested(self, name: str) -> pa.DataType | None:
        self.expect("<")
        if name == "dictionary":
            return self.dictionary()
        parts = [self.part(name)]
        while self.peek() == ",":
            self.take()
            # What pyarrow prints after a map's parts.
            parts.append(self.part(name))
        self.expect(">")
        if name == "fixed_size_list":
            return pa.list_(_named(parts[0], "item"), int(self.words("[", "]")[0]))
        return _call(name, _WITH_PARTS, *parts)

    def part(self, parent: str) -> pa.Field:
        label = ""
        if len(self._tokens) > 1 and self._tokens[-2] in {":", "="}:
            label = self.take()
            self.take()
        elif parent == "struct":
            raise _TypeTextError("a field of a struct needs a name, as struct<a: int64>")
        found, is_nullable = self.type(), self.peek() != "not"
        if not is_nullable:
            self.take()
            self.expect("null")
        return pa.field(label, found, nullable=is_nullable)

    def dictionary(self) -> pa.DataType:
        values, indices, is_ordered = None, pa.int32(), False
        while self.peek() != ">":
            label = self.take() if len(self._tokens) > 1 and self._tokens[-2] == "=" else ""
            if label:
                self.take()
            if label == "ordered":
                is_ordered = self.take() == "1"
            elif label == "indices" or (not label and values is not None):
                indices = self.type()
            else:
                values = self.type()
            if self.peek() == ",":
                self.take()
        self.expect(">")
        return pa.dictionary(indices, values, ordered=is_ordered)


def _named(part: pa.Field, default: str) -> pa.Field:
    return part if part.name else part.with_name(default)


def _call(name: str, table: Mapping[str, Callable[..., pa.DataType]], *arguments: object) -> pa.DataType | None:
    make = table.get(name)
    return make(*arguments) if make else None


def _with_words(name: str, words: list[str]) -> pa.DataType | None:
    if name in {"date32", "date64"}:
        return _SIMPLE[name]
    if name == "fixed_size_binary":
        return pa.binary(int(words[0]))
    return _call(name, _WITH_WORDS, *[word.removeprefix("tz=") for word in words])


_WITH_NUMBERS: Final[dict[str, Callable[..., pa.DataType]]] = {
    "decimal": pa.decimal128,
    **{f"decimal{bits}": getattr(pa, f"decimal{bits}") for bits in (32, 64, 128, 256)},
    "fixed_size_binary": pa.binary,
}
_WITH_WORDS: Final[dict[str, Callable[..., pa.DataType]]] = {
    "timestamp": pa.timestamp,
    "time32": pa.time32,
    "time64": pa.time64,
    "duration": pa.duration,
}
_WITH_PARTS: Final[dict[str, Callable[..., pa.DataType]]] = {
    "list": lambda part: pa.list_(_named(part, "item")),
    "large_list": lambda part: pa.large_list(_named(part, "item")),
    "list_view": lambda part: pa.list_view(_named(part, "item")),
    "large_list_view": lambda part: pa.large_list_view(_named(part, "item")),
    "struct": lambda *parts: pa.struct(parts),
    "map": lambda key, value: pa.map_(key.type, _named(value, "value")),
}


def _unknown(name: str) -> str:
    if name in {*_WITH_NUMBERS, *_WITH_WORDS, *_WITH_PARTS, "dictionary", "fixed_size_list"}:
        return f"{name} needs other arguments"
    known = [*_SIMPLE, *_WITH_NUMBERS, *_WITH_WORDS, *_WITH_PARTS, "dictionary"]
    near = difflib.get_close_matches(name, known, n=1)
    return f"{name} is unknown" + (f", did you mean {near[0]}?" if near else "")
