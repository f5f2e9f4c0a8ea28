"""Read CSV. Cutting the file into blocks is left to lines, what happens to bad rows to text_rows."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import pyarrow as pa
import pyarrow.csv as pc

from pipecrypt.errors import FormatError, UnsupportedError, UsageError
from pipecrypt.sources.inputs import recoded
from pipecrypt.sources.lines import Block, RowEnds, cut_blocks
from pipecrypt.sources.options import CSVOptions, ReadOptions
from pipecrypt.sources.stream import mapped_errors
from pipecrypt.sources.text_rows import TextStream, with_first, without_null_types
from pipecrypt.sources.type_names import parse_types

__all__ = ["open_csv"]

_BOM: Final = b"\xef\xbb\xbf"
# Larger than any block, which is parsed at once: Arrow would cut it again.
_WHOLE: Final = (1 << 31) - 1
# Handing a few rows to other threads takes longer than parsing them.
_FEW_BYTES: Final = 64 << 10
_TYPE_HINT: Final = "give the type of the column, as string; or leave such rows out with on_bad_rows: skip"
_FIELDS_HINT: Final = "check the delimiter and the quotes; or leave such rows out with on_bad_rows: skip"


def open_csv(read: Callable[[int], bytes], name: str, options: ReadOptions) -> TextStream:
    """Return the stream of a CSV file, its types inferred from the first block where they are not given.

    Args:
        read: gives the file's bytes, b"" at the end.
        name: what errors call the file.
        options: the dialect, types and limits.

    Raises:
        FormatError: there is not even a header, or a name stands in it twice.
        UsageError: a type is given for a column that is not there.
        UnsupportedError: CSV cannot hold a given type.
    """
    dialect = options.csv
    types = parse_types(dialect.types)
    row_ends = RowEnds(dialect.delimiter.encode(), dialect.quote.encode() if dialect.quote else None)
    blocks = cut_blocks(
        recoded(read, dialect.encoding, name),
        row_ends,
        name=name,
        block_bytes=options.block_bytes,
        max_row_bytes=options.max_row_bytes,
    )
    names, first = _names(blocks, row_ends, dialect, name)
    _check_names(names, types, name)
    parser = _CSVParser(names, types, dialect, row_ends)
    with mapped_errors(name):
        parser.infer(first.data if first else b"", name)
    return TextStream(with_first(first, blocks), parser, name, options.on_bad_rows)


class _CSVParser:
    """A RowParser. All of its options are made once: a block with many bad rows is parsed thousands of times."""

    def __init__(
        self, names: list[str], types: Mapping[str, pa.DataType], dialect: CSVOptions, row_ends: RowEnds
    ) -> None:
        self._names = names
        self._given = types
        self._dialect = dialect
        self.split = row_ends.split
        self.schema = pa.schema([(each, types.get(each, pa.string())) for each in names])
        # The field behind a trailing delimiter has a name that no column has, and is not converted.
        behind = [max(names, key=len, default="") + "_"] if dialect.trailing_delimiter else []
        self._field_names = [*names, *behind]
        self._many = pc.ReadOptions(use_threads=True, block_size=_WHOLE, column_names=self._field_names)
        self._few = pc.ReadOptions(use_threads=False, block_size=_WHOLE, column_names=self._field_names)
        self._parse_options = self._parsing()
        self._convert_options = self._converting({})

    def infer(self, data: bytes, name: str) -> None:
        """Fix the schema from the first block."""
        for column, kind in self._given.items():
            self._check_type(column, kind, name)
        lenient = self._parsing(invalid_row_handler=lambda _: "skip")
        if data:
            # Columns whose type is given are not judged yet: a value that does not fit is a bad row's, met later.
            unjudged = self._converting(dict.fromkeys(self._given, pa.binary()))
            found = pc.read_csv(pa.py_buffer(_guarded(data)), self._many, lenient, unjudged)
            self.schema = pa.schema([self._settled(field) for field in found.schema])
        self._convert_options = self._converting({field.name: field.type for field in self.schema})

    def parse(self, data: memoryview) -> pa.Table | None:
        """Return the rows, or None where one of them does not fit."""
        return self._parsed(data, self._convert_options)

    def checks(self) -> Iterator[Callable[[memoryview], bool]]:
        """Ask for the number of fields, then column by column: one column is parsed in a third of the time of all."""
        first = self._names[0]
        yield self._check(self._converting({first: pa.binary()}, only=first))
        for field in self.schema:
            yield self._check(self._converting({field.name: field.type}, only=field.name))

    def misshapen(self, data: bytes, rows: Sequence[tuple[int, int]]) -> set[int] | None:
        """Return the rows with a wrong number of fields, all in one parse, or None where it cannot be told so."""
        texts: list[str] = []

        def note(invalid: pc.InvalidRow) -> str:
            texts.append(invalid.text)
            return "skip"

        first = self._converting({self._names[0]: pa.binary()}, only=self._names[0])
        try:
            pc.read_csv(pa.py_buffer(_guarded(data)), self._few, self._parsing(invalid_row_handler=note), first)
        except (pa.ArrowInvalid, UnicodeError):
            return None
        # The same text is as wrong in every row.
        wanted = {text.encode() for text in texts}
        wrong = {index for index, (start, end) in enumerate(rows) if data[start:end].rstrip(b"\r\n") in wanted}
        return wrong if len(wrong) == len(texts) else None

    def explain(self, row: bytes) -> tuple[str, str]:
        """Say which column does not fit, or how many fields there are."""
        counts: list[int] = []

        def count(invalid: pc.InvalidRow) -> str:
            counts.append(invalid.actual_columns)
            return "skip"

        as_bytes = self._converting({each: pa.binary() for each in self._names})
        pc.read_csv(pa.py_buffer(_guarded(row)), self._few, self._parsing(invalid_row_handler=count), as_bytes)
        if counts:
            extra = 1 if self._dialect.trailing_delimiter else 0
            found = counts[0] - extra
            return f"{found} field{'' if found == 1 else 's'} instead of {len(self._names)}", _FIELDS_HINT
        for field in self.schema:
            only = self._converting({field.name: field.type}, only=field.name)
            if self._parsed(memoryview(row), only) is None:
                return _misfit(field, given=field.name in self._given)
        return "the row cannot be parsed", _FIELDS_HINT

    def _check(self, convert_options: pc.ConvertOptions) -> Callable[[memoryview], bool]:
        return lambda data: self._parsed(data, convert_options) is not None

    def _parsed(self, data: memoryview, convert_options: pc.ConvertOptions) -> pa.Table | None:
        try:
            read_options = self._few if len(data) < _FEW_BYTES else self._many
            return pc.read_csv(pa.py_buffer(_guarded(data)), read_options, self._parse_options, convert_options)
        except pa.ArrowInvalid:
            return None

    def _settled(self, field: pa.Field) -> pa.Field:
        kind = without_null_types(field.type)
        # Arrow takes text that is not UTF-8 for bytes. As text, its row will be named.
        if pa.types.is_binary(kind) and field.name not in self._given:
            kind = pa.string()
        return field.with_type(self._given.get(field.name, kind))

    def _check_type(self, column: str, kind: pa.DataType, name: str) -> None:
        try:
            line = self._dialect.delimiter.encode() * (len(self._field_names) - 1) + b"\n"
            only = self._converting({column: kind}, only=column)
            pc.read_csv(pa.py_buffer(b"\n" + line), self._few, self._parse_options, only)
        except pa.ArrowNotImplementedError:
            hint = "choose another type; dictionaries have int32 indices"
            raise UnsupportedError(f"{name}: column {column}: csv is not read as {kind}", hint=hint) from None
        except pa.ArrowInvalid:
            # An empty field may be no value of that type; the rows will tell.
            return

    def _parsing(self, **more: object) -> pc.ParseOptions:
        # Line ends in values are the parser's own business; the option is for Arrow's cutting, which is not used.
        return pc.ParseOptions(delimiter=self._dialect.delimiter, quote_char=self._dialect.quote or False, **more)

    def _converting(self, types: Mapping[str, pa.DataType], *, only: str | None = None) -> pc.ConvertOptions:
        nulls = self._dialect.null_values
        return pc.ConvertOptions(
            column_types=dict(types),
            null_values=nulls,
            strings_can_be_null=nulls is not None,
            quoted_strings_can_be_null=nulls is None,
            decimal_point=self._dialect.decimal_point,
            include_columns=self._names if only is None else [only],
        )


def _guarded(data: bytes | memoryview) -> bytes | memoryview:
    # Arrow drops a byte order mark wherever it begins to parse; behind an empty line it is the value that it is.
    return b"\n" + bytes(data) if data[: len(_BOM)] == _BOM else data


def _misfit(field: pa.Field, *, given: bool) -> tuple[str, str]:
    what = f"column {field.name} does not fit {field.type}"
    return (what, _TYPE_HINT) if given else (f"{what}, which its first rows are", _TYPE_HINT)


def _names(
    blocks: Iterator[Block], row_ends: RowEnds, dialect: CSVOptions, name: str
) -> tuple[list[str], Block | None]:
    """Return the columns' names and the first block that holds a row, without the header."""
    first, row = _next_row(next(blocks, None), blocks, row_ends)
    if first is None:
        if dialect.names is None:
            raise FormatError(f"{name} is empty: there are no column names", hint="give the names of the columns")
        return list(dialect.names), None
    start, end = row
    with mapped_errors(name):
        text = first.data[start:end].decode()
    lines = io.StringIO(text, newline="")
    if dialect.quote:
        names = next(csv.reader(lines, delimiter=dialect.delimiter, quotechar=dialect.quote))
    else:
        names = next(csv.reader(lines, delimiter=dialect.delimiter, quoting=csv.QUOTE_NONE))
    if dialect.trailing_delimiter:
        del names[-1:]
    if dialect.header:
        first = Block(first.data[end:], first.line + first.data.count(b"\n", 0, end))
        first, _ = _next_row(first, blocks, row_ends)
    else:
        names = [f"f{index}" for index in range(len(names))]
    return list(dialect.names or names), first


def _next_row(block: Block | None, blocks: Iterator[Block], row_ends: RowEnds) -> tuple[Block | None, tuple[int, int]]:
    """Return the first block that holds more than empty lines, and its first row's offsets."""
    while block is not None:
        for row in row_ends.rows(block.data):
            return block, row
        block = next(blocks, None)
    return None, (0, 0)


def _check_names(names: list[str], types: Mapping[str, pa.DataType], name: str) -> None:
    twice = sorted({each for each in names if names.count(each) > 1})
    if twice:
        raise FormatError(f"{name}: two columns are called {twice[0]!r}", hint="give names of the columns that differ")
    for column in types:
        if column not in names:
            near = difflib.get_close_matches(column, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the columns are {', '.join(names[:20])}"
            raise UsageError(f"{name}: a type is given for column {column}, which is not there", hint=hint)
