"""Read JSON lines, nested no deeper than Parquet's readers follow, and no number rounded in silence.

Arrow's parser calls itself for every level, and where the stack ends the process ends too. So brackets are counted
first, by a few searches over the whole block. The count is exact up to the first mistake in a text that is not JSON,
and no parser reads on after it.

Arrow makes a column `double` where one of its numbers has a fraction, or is too large for an int64, and rounds the
others in silence: whole ones beyond 2**53, others of more than 17 digits. A block costs one search of Arrow's for long
numbers; only the lines that have one are parsed in Python.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from pipecrypt.errors import FormatError, UnsupportedError
from pipecrypt.formats.lines import Block, RowEnds, cut_blocks, encoding_hint, read_start, transcoded
from pipecrypt.formats.options import ReadOptions
from pipecrypt.formats.text_rows import TextStream, bisect_rows
from pipecrypt.formats.type_names import parse_types

__all__ = ["MAX_DEPTH", "is_too_deep", "open_json"]

# Larger than any block, which is parsed at once. Handing a few rows to other threads takes longer than parsing them.
_MANY: Final = pj.ReadOptions(use_threads=True, block_size=(1 << 31) - 1)
_FEW: Final = pj.ReadOptions(use_threads=False, block_size=(1 << 31) - 1)
_FEW_BYTES: Final = 64 << 10
_TYPE_HINT: Final = "give the type of the field (source.types, --type); or leave such rows out with on_bad_rows: skip"
_NUMBER_HINT: Final = "give its type: source.types: {NAME: decimal128(38, 0)}, --type; double, if it may be rounded"
_RANGE_HINT: Final = "write the number as text, or leave such rows out with on_bad_rows: skip"
_SYNTAX_HINT: Final = "each line must be one JSON object; or leave such rows out with on_bad_rows: skip"
_LINES: Final = RowEnds(b"", None)
_LINE: Final = re.compile(rb"[^\n]+\n")

# Parquet's readers take no more levels in a schema.
MAX_DEPTH: Final = 100
_OTHERS: Final = bytes(set(range(256)) - set(b'"[]{}'))
_ONE_KIND: Final = bytes.maketrans(b"[]", b"{}")

_MOST_WHOLE: Final = 1 << 53
# As many digits as any double needs; those of whole numbers count from 2**53 on.
_MOST_DIGITS: Final = 17
_WHOLE_DIGITS: Final = len(str(_MOST_WHOLE))
# RE2: a whole number of 16 digits or more, or any of more than 17 that count.
_LONG_NUMBER: Final = (
    rf"(?:^|[^0-9.])(?:[1-9][0-9]{{{_WHOLE_DIGITS - 1},}}(?:[^0-9.eE]|$)|[0.]*[1-9](?:[.]?[0-9]){{{_MOST_DIGITS},}})"
)
_INEXACT: Final = object()
_TOO_LARGE: Final = object()


def open_json(read: Callable[[int], bytes], name: str, options: ReadOptions) -> TextStream:
    """Return the stream of a file of JSON lines, its types inferred from the first block where they are not given.

    A field that the first block does not have makes a later row bad: leaving out only the field would lose data
    unseen. Texts stay texts, and a number that would be rounded makes its row bad.

    Args:
        read: gives the file's bytes, b"" at the end.
        name: what errors call the file.
        options: types and limits.

    Raises:
        FormatError: the file is empty and no types are given, or it holds one JSON array, or is of another encoding.
        UnsupportedError: JSON is not read as a given type.
    """
    types = parse_types(options.json.types)
    start = read_start(transcoded(read, options.json.encoding, name), name)
    blocks = cut_blocks(
        start.read, _LINES, name=name, block_bytes=options.block_bytes, max_row_bytes=options.max_row_bytes
    )
    first = next(blocks, None)
    _check_first(first, types, name)
    parser = _JSONParser(types, name)
    parser.infer(first.data if first else b"", name)
    return TextStream(first, blocks, parser, name, options.on_bad_rows)


class _JSONParser:
    """A RowParser."""

    def __init__(self, types: Mapping[str, pa.DataType], name: str) -> None:
        self._given = types
        self._inferred = pa.schema([])
        self.schema = pa.schema(list(types.items()))
        self._options = pj.ParseOptions(explicit_schema=self.schema, unexpected_field_behavior="infer")
        for field in self.schema:
            _check_type(field, name)

    def infer(self, data: bytes, name: str) -> None:
        """Fix the schema from the first block's good rows."""
        if data.strip():
            parsed = _parsed(memoryview(data), self._options)
            found = self._schema_of_good_rows(data, name) if parsed is None else parsed.schema
            self.schema = pa.schema([self._settled(field) for field in found])
            self._inferred = pa.schema([field for field in self.schema if field.name not in self._given])
        self._options = pj.ParseOptions(explicit_schema=self.schema, unexpected_field_behavior="error")

    def parse(self, data: memoryview) -> pa.Table | None:
        """Return the rows, or None where one of them does not fit."""
        table = _parsed(data, self._options)
        return None if table is None or _has_inexact_numbers(bytes(data), self._inferred) else table

    def checks(self) -> list[Callable[[memoryview], bool]]:
        """Check all fields at once: whether one is unknown or appears twice is not a question to one field."""
        return [lambda data: self.parse(data) is not None]

    def ragged_rows(self, data: bytes, rows: Sequence[tuple[int, int]]) -> set[int]:
        """Return none: lines of JSON do not have a number of fields."""
        return set()

    def split(self, data: bytes) -> list[tuple[int, int]]:
        """Return the offsets of every line that is not blank."""
        return [line.span() for line in _LINE.finditer(data) if line.group().strip()]

    def explain(self, row: bytes) -> tuple[str, str]:
        """Say which field does not fit."""
        try:
            str(row, "utf-8")
        except UnicodeDecodeError:
            return "the line is not UTF-8: the file may be latin-1 or cp1252", encoding_hint("cp1252")
        if is_too_deep(row):
            return f"the line is not JSON, or has more than {MAX_DEPTH} levels", _SYNTAX_HINT
        try:
            value = json.loads(row)
        except (ValueError, RecursionError):
            return "the line is not JSON", _SYNTAX_HINT
        if isinstance(value, dict):
            return self._explain_object(row, value)
        return "the line is not a JSON object", _SYNTAX_HINT

    def _explain_object(self, row: bytes, value: dict[str, object]) -> tuple[str, str]:
        if (large := _too_large_field(row, self._given)) is not None:
            return f"field {large} has a number beyond the range of a double", _RANGE_HINT
        if (rounded := _inexact_field(row, self._inferred)) is not None:
            return f"field {rounded} has a number that a double would round", _NUMBER_HINT.replace("NAME", rounded)
        for field in self.schema:
            only = pj.ParseOptions(explicit_schema=pa.schema([field]), unexpected_field_behavior="ignore")
            single = json.dumps({field.name: value.get(field.name)}).encode() + b"\n"
            if _parsed(memoryview(single), only) is None:
                return f"field {field.name} does not fit {field.type}", _TYPE_HINT
        unknown = sorted(value.keys() - set(self.schema.names))
        if unknown:
            return f"field {unknown[0]} is not in the first rows", _TYPE_HINT
        return "a field does not fit, or is not in the first rows, or appears twice", _TYPE_HINT

    def _schema_of_good_rows(self, data: bytes, name: str) -> pa.Schema:
        view = memoryview(data)
        found: pa.Schema | None = None
        for table, _ in bisect_rows(self.split(data), lambda start, end: _parsed(view[start:end], self._options)):
            if table is not None:
                schema = pa.schema([self._settled(field) for field in table.schema])
                found = schema if found is None else _united(found, schema)
        if found is None:
            start, end = self.split(data)[0]
            reason, hint = self.explain(data[start:end])
            line = data.count(b"\n", 0, start) + 1
            raise FormatError(f"{name}:{line}: no row of the first block can be read: {reason}", hint=hint)
        return found

    def _settled(self, field: pa.Field) -> pa.Field:
        return field.with_type(self._given.get(field.name, _column_type(field.type)))


def _parsed(data: memoryview, options: pj.ParseOptions) -> pa.Table | None:
    try:
        # Arrow does not check the text of values, and a file of half-encoded names would only fail its readers.
        str(data, "utf-8")
        if is_too_deep(bytes(data)):
            return None
        table = pj.read_json(pa.py_buffer(data), _FEW if len(data) < _FEW_BYTES else _MANY, options)
    except (pa.ArrowInvalid, UnicodeDecodeError):
        return None
    is_fixed = options.unexpected_field_behavior != "infer"
    return table.select(options.explicit_schema.names) if is_fixed else table


def _united(one: pa.Schema, other: pa.Schema) -> pa.Schema:
    try:
        return pa.unify_schemas([one, other], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        # The rows contradict each other. Those that came first are right; the parser will say which others are not.
        return one


def _check_type(field: pa.Field, name: str) -> None:
    options = pj.ParseOptions(explicit_schema=pa.schema([field]), unexpected_field_behavior="error")
    try:
        pj.read_json(pa.py_buffer(json.dumps({field.name: None}).encode()), _FEW, options)
    except pa.ArrowNotImplementedError:
        message = f"{name}: field {field.name}: json is not read as {field.type}"
        raise UnsupportedError(message, hint="choose another type") from None


def _check_first(first: Block | None, types: Mapping[str, pa.DataType], name: str) -> None:
    start = first.data[:4096].lstrip()[:1] if first else b""
    if start == b"[":
        hint = "write one object a line, as `jq -c '.[]'` does"
        raise FormatError(f"{name} holds a JSON array, not JSON lines", hint=hint)
    if not types and (first is None or not first.data.strip()):
        raise FormatError(f"{name} is empty: there are no fields", hint="give the types of the fields")


def is_too_deep(data: bytes) -> bool:
    """Return whether objects and arrays are nested deeper than `MAX_DEPTH`."""
    brackets, depth = _brackets(data), 0
    while depth <= MAX_DEPTH:
        # The innermost pair of every nesting goes.
        outer = brackets.replace(b"{}", b"")
        if len(outer) == len(brackets):
            break
        brackets, depth = outer, depth + 1
    return depth + len(brackets) > MAX_DEPTH


def _brackets(data: bytes) -> bytes:
    """Return all brackets outside of texts, as if there were one kind of them."""
    without_escaped = data.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in data else data
    # Two quotes side by side can go, whichever texts they belong to: what follows stays inside or outside.
    kept = without_escaped.translate(_ONE_KIND, _OTHERS).replace(b'""', b"")
    return b"".join(kept.split(b'"')[::2])


def _has_inexact_numbers(data: bytes, fields: pa.Schema) -> bool:
    """Return whether a number among valid JSON lines is not what it would be as the type of its field.

    Args:
        data: the lines.
        fields: those whose types were inferred.
    """
    if not any(_has_doubles(field.type) for field in fields):
        return False
    start = 0
    while (at := _long_number(data, start)) >= 0:
        begin, end = data.rfind(b"\n", 0, at) + 1, data.find(b"\n", at)
        if _inexact_field(data[begin : end if end >= 0 else len(data)], fields) is not None:
            return True
        start = end + 1 if end >= 0 else len(data)
    return False


def _long_number(data: bytes, start: int) -> int:
    """Return the offset of a long number at or after `start`, -1 where there is none."""
    offsets = pa.py_buffer(struct.pack("=ii", start, len(data)))
    text = pa.Array.from_buffers(pa.binary(), 1, [None, offsets, pa.py_buffer(data)])
    found = pc.find_substring_regex(text, _LONG_NUMBER)[0].as_py()
    # The match may begin with the character before the number.
    return -1 if found < 0 else start + found + 1


def _inexact_field(line: bytes, fields: pa.Schema) -> str | None:
    """Return the field of a valid line whose number is not what it would be as the field's type."""
    if not any(_has_doubles(field.type) for field in fields):
        return None
    try:
        # A line may hold several objects.
        for value in _values(line.decode()):
            for field in fields:
                if isinstance(value, dict) and _is_inexact(value.get(field.name), field.type):
                    return str(field.name)
    except ValueError:
        # What only Arrow takes for JSON, as Inf, or an object that goes on in the next line.
        is_long = _long_number(line, 0) >= 0
        return next((str(field.name) for field in fields if is_long and _has_doubles(field.type)), None)
    return None


def _too_large_field(line: bytes, given: Mapping[str, pa.DataType]) -> str | None:
    """Return the field of a line, one JSON object, that has a number beyond the range of a double.

    Args:
        line: as it is in the file.
        given: types of fields that were not inferred; those without a double are the parser's business.
    """
    value = json.loads(line, parse_int=_ranged, parse_float=_ranged)
    return next(
        (
            name
            for name, field in value.items()
            if (name not in given or _has_doubles(given[name])) and _has_too_large(field)
        ),
        None,
    )


def _ranged(text: str) -> object:
    return _TOO_LARGE if math.isinf(float(text)) else 0


def _has_too_large(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_has_too_large, value.values()))
    return any(map(_has_too_large, value)) if isinstance(value, list) else value is _TOO_LARGE


def _values(line: str) -> Iterator[object]:
    decoder = json.JSONDecoder(parse_int=_whole, parse_float=_fraction, strict=False)
    at = 0
    while rest := line[at:].lstrip():
        value, end = decoder.raw_decode(rest)
        yield value
        at = len(line) - len(rest) + end


def _whole(text: str) -> object:
    digits = text.removeprefix("-")
    return _INEXACT if len(digits) > _WHOLE_DIGITS or int(digits) > _MOST_WHOLE else 0


def _fraction(text: str) -> object:
    digits = text.lower().partition("e")[0].replace(".", "").lstrip("-0")
    return _INEXACT if len(digits) > _MOST_DIGITS else 0


def _is_inexact(value: object, kind: pa.DataType) -> bool:
    if pa.types.is_floating(kind):
        return value is _INEXACT
    if pa.types.is_list(kind) and isinstance(value, list):
        return any(_is_inexact(each, kind.value_type) for each in value)
    if pa.types.is_struct(kind) and isinstance(value, dict):
        return any(_is_inexact(value.get(field.name), field.type) for field in kind)
    return False


def _has_doubles(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind):
        return any(_has_doubles(kind.field(index).type) for index in range(kind.num_fields))
    return bool(pa.types.is_floating(kind))


def _column_type(kind: pa.DataType) -> pa.DataType:
    """Return an inferred type with text in the place of null and of timestamps, also in lists and structs.

    A column without a value takes whatever comes later. Arrow takes texts for timestamps, from which the day alone, the
    zone and the seconds that were not written could not be rebuilt.
    """
    if pa.types.is_null(kind) or pa.types.is_timestamp(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_column_type(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_column_type(field.type)) for field in kind])
    return kind
