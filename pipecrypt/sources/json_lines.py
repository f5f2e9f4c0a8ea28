"""Read JSON lines. Cutting the file into blocks is left to lines, what happens to bad rows to text_rows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Final

import pyarrow as pa
import pyarrow.json as pj

from pipecrypt.errors import FormatError, UnsupportedError
from pipecrypt.formats.json import (
    MAX_DEPTH,
    has_inexact_numbers,
    inexact_field,
    is_too_deep,
    too_large_field,
    without_times,
)
from pipecrypt.formats.lines import Block, RowEnds, cut_blocks, encoding_hint, read_start, transcoded
from pipecrypt.formats.options import ReadOptions
from pipecrypt.formats.text_rows import TextStream, bisect_rows, with_first, without_null_types
from pipecrypt.formats.type_names import parse_types

__all__ = ["open_json"]

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
    return TextStream(with_first(first, blocks), parser, name, options.on_bad_rows)


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
        return None if table is None or has_inexact_numbers(bytes(data), self._inferred) else table

    def checks(self) -> list[Callable[[memoryview], bool]]:
        """Ask for all at once: whether a field is unknown or stands there twice is no question to one field."""
        return [lambda data: self.parse(data) is not None]

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
            return f"the line is no JSON, or has more than {MAX_DEPTH} levels", _SYNTAX_HINT
        try:
            value = json.loads(row)
        except (ValueError, RecursionError):
            return "the line is not JSON", _SYNTAX_HINT
        if isinstance(value, dict):
            return self._explain_object(row, value)
        return "the line is not a JSON object", _SYNTAX_HINT

    def _explain_object(self, row: bytes, value: dict[str, object]) -> tuple[str, str]:
        if (large := too_large_field(row, self._given)) is not None:
            return f"field {large} has a number beyond the range of a double", _RANGE_HINT
        if (rounded := inexact_field(row, self._inferred)) is not None:
            return f"field {rounded} has a number that a double would round", _NUMBER_HINT.replace("NAME", rounded)
        for field in self.schema:
            only = pj.ParseOptions(explicit_schema=pa.schema([field]), unexpected_field_behavior="ignore")
            single = json.dumps({field.name: value.get(field.name)}).encode() + b"\n"
            if _parsed(memoryview(single), only) is None:
                return f"field {field.name} does not fit {field.type}", _TYPE_HINT
        unknown = sorted(value.keys() - set(self.schema.names))
        if unknown:
            return f"field {unknown[0]} is not in the first rows", _TYPE_HINT
        return "a field does not fit, or is not in the first rows, or stands there twice", _TYPE_HINT

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
        return field.with_type(self._given.get(field.name, without_times(without_null_types(field.type))))


def _parsed(data: memoryview, options: pj.ParseOptions) -> pa.Table | None:
    try:
        # Arrow does not check the text of values, and a file of half-encoded names would only fail its readers.
        str(data, "utf-8")
        if is_too_deep(bytes(data)):
            return None
        table = pj.read_json(pa.py_buffer(data), _FEW if len(data) < _FEW_BYTES else _MANY, options)
    except (pa.ArrowInvalid, UnicodeDecodeError):
        return None
    return table.select(options.explicit_schema.names) if _is_fixed(options) else table


def _united(one: pa.Schema, other: pa.Schema) -> pa.Schema:
    try:
        return pa.unify_schemas([one, other], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        # The rows contradict each other. Those that came first are right; the parser will say which others are not.
        return one


def _is_fixed(options: pj.ParseOptions) -> bool:
    return bool(options.unexpected_field_behavior != "infer")


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
