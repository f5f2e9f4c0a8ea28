"""Read CSV: detect its delimiter, name its columns, parse blocks of rows with types that hold for the whole file."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import pyarrow as pa
import pyarrow.csv as pc

from pipecrypt.errors import FormatError, UnsupportedError, UsageError
from pipecrypt.formats.lines import Block, RowEnds, TextStart, cut_blocks, encoding_hint, read_start, transcoded
from pipecrypt.formats.options import DETECTABLE_DELIMITERS, CSVOptions, ReadOptions
from pipecrypt.formats.stream import mapped_errors
from pipecrypt.formats.text_rows import TextStream
from pipecrypt.formats.text_types import InferredColumn, infer_column
from pipecrypt.formats.type_names import parse_types

__all__ = ["open_csv"]

_BOM: Final = b"\xef\xbb\xbf"
# Larger than any block, which is parsed at once: Arrow would cut it again.
_WHOLE: Final = (1 << 31) - 1
# Handing a few rows to other threads takes longer than parsing them.
_FEW_BYTES: Final = 64 << 10
_ROWS_FOR_DELIMITER: Final = 100
_FIELDS_HINT: Final = "check the delimiter and the quotes; or leave such rows out with on_bad_rows: skip"


def open_csv(read: Callable[[int], bytes], name: str, options: ReadOptions) -> TextStream:
    """Return the stream of a CSV file, its types inferred from the first block where they are not given.

    `text_types` decides which texts have which type, and checks every later row too.

    Args:
        read: gives the file's bytes, b"" at the end.
        name: what errors call the file.
        options: the dialect, types and limits.

    Raises:
        FormatError: there is not even a header, or a name appears in it twice, or encoding or delimiter are not clear.
        UsageError: a type is given for a column that is not there.
        UnsupportedError: CSV cannot hold a given type.
    """
    start = read_start(transcoded(read, options.csv.encoding, name), name)
    dialect = options.csv
    if dialect.delimiter is None:
        fields = None if dialect.names is None else len(dialect.names)
        dialect = replace(dialect, delimiter=detect_delimiter(start, dialect.quote, name, fields=fields))
    types = parse_types(dialect.types)
    row_ends = RowEnds(_delimiter(dialect).encode(), dialect.quote.encode() if dialect.quote else None)
    blocks = cut_blocks(
        start.read,
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
    return TextStream(first, blocks, parser, name, options.on_bad_rows, delimiter=dialect.delimiter)


def _delimiter(dialect: CSVOptions) -> str:
    if dialect.delimiter is None:
        raise AssertionError("the delimiter is detected before rows are read")
    return dialect.delimiter


def _parsing(dialect: CSVOptions, **more: object) -> pc.ParseOptions:
    # Line ends in values are the parser's own business; the option is for Arrow's cutting, which is not used.
    return pc.ParseOptions(delimiter=_delimiter(dialect), quote_char=dialect.quote or False, **more)


class _CSVParser:
    """A RowParser. All of its options are made once: a block with many bad rows is parsed thousands of times."""

    def __init__(
        self, names: list[str], types: Mapping[str, pa.DataType], dialect: CSVOptions, row_ends: RowEnds
    ) -> None:
        self._names = names
        self._given = types
        self._inferred = {each: InferredColumn(()) for each in names if each not in types}
        self._dialect = dialect
        self.split = row_ends.split
        self.schema = pa.schema([(each, types.get(each, pa.string())) for each in names])
        # The field after a trailing delimiter has a name that no column has, and is not converted.
        extra = [max(names, key=len, default="") + "_"] if dialect.trailing_delimiter else []
        self._field_names = [*names, *extra]
        self._many = pc.ReadOptions(use_threads=True, block_size=_WHOLE, column_names=self._field_names)
        self._few = pc.ReadOptions(use_threads=False, block_size=_WHOLE, column_names=self._field_names)
        self._parse_options = _parsing(dialect)
        # Columns whose type is inferred are read as text.
        self._convert_options = self._converting({each: types.get(each, pa.string()) for each in names})

    def infer(self, data: bytes, name: str) -> None:
        """Fix the schema from the first block."""
        for column, kind in self._given.items():
            self._check_type(column, kind, name)
        if data and self._inferred:
            lenient = _parsing(self._dialect, invalid_row_handler=lambda _: "skip")
            # As bytes: text that is not UTF-8 is a bad row's, met later.
            texts = self._converting(dict.fromkeys(self._inferred, pa.binary()), only=list(self._inferred))
            found = pc.read_csv(pa.py_buffer(_guarded(data)), self._many, lenient, texts)
            for column in self._inferred:
                self._inferred[column] = infer_column(found[column], self._dialect.decimal_point)
            types = {**self._given, **{column: inferred.type for column, inferred in self._inferred.items()}}
            self.schema = pa.schema([(column, types[column]) for column in self._names])

    def parse(self, data: memoryview) -> pa.Table | None:
        """Return the rows, or None where one of them does not fit."""
        return self._typed(self._parsed(data, self._convert_options))

    def checks(self) -> Iterator[Callable[[memoryview], bool]]:
        """Ask for the number of fields, then column by column: one column is parsed in a third of the time of all."""
        first = self._names[0]
        as_bytes = self._converting({first: pa.binary()}, only=[first])
        yield lambda data: self._parsed(data, as_bytes) is not None
        for column in self._names:
            yield self._check(column)

    def ragged_rows(self, data: bytes, rows: Sequence[tuple[int, int]]) -> set[int]:
        """Return the rows with a wrong number of fields, all in one parse; none where Arrow cannot report them all."""
        try:
            texts = [invalid.text for invalid in self._invalid_rows(data, self._names[:1])]
        except (pa.ArrowInvalid, UnicodeError):
            return set()
        # The same text is as wrong in every row.
        wanted = {text.encode() for text in texts}
        wrong = {index for index, (start, end) in enumerate(rows) if data[start:end].rstrip(b"\r\n") in wanted}
        return wrong if len(wrong) == len(texts) else set()

    def explain(self, row: bytes) -> tuple[str, str]:
        """Say which column does not fit, or how many fields there are."""
        # As one byte a character: what is not UTF-8 could not be handed over.
        if invalid := self._invalid_rows(row.decode("latin-1").encode(), self._names):
            found = invalid[0].actual_columns - (1 if self._dialect.trailing_delimiter else 0)
            return f"{found} field{'' if found == 1 else 's'} instead of {len(self._names)}", _FIELDS_HINT
        for field in self.schema:
            if not self._check(field.name)(memoryview(row)):
                return _misfit(field, row, given=field.name in self._given)
        return "the row cannot be parsed", _FIELDS_HINT

    def _invalid_rows(self, data: bytes, columns: list[str]) -> list[pc.InvalidRow]:
        """Return the rows with a wrong number of fields; of the others, these columns are converted to bytes."""
        found: list[pc.InvalidRow] = []

        def note(invalid: pc.InvalidRow) -> str:
            found.append(invalid)
            return "skip"

        as_bytes = self._converting(dict.fromkeys(columns, pa.binary()), only=columns)
        noting = _parsing(self._dialect, invalid_row_handler=note)
        pc.read_csv(pa.py_buffer(_guarded(data)), self._few, noting, as_bytes)
        return found

    def _check(self, column: str) -> Callable[[memoryview], bool]:
        options = self._converting({column: self._given.get(column, pa.string())}, only=[column])
        return lambda data: self._typed(self._parsed(data, options)) is not None

    def _typed(self, table: pa.Table | None) -> pa.Table | None:
        """Return a table with the inferred types, or None where a text does not fit its own."""
        if table is None:
            return None
        columns: list[pa.ChunkedArray] = []
        narrower: dict[str, InferredColumn] = {}
        for column, texts in zip(table.column_names, table.columns, strict=True):
            inferred = self._inferred.get(column)
            if inferred is None or inferred.is_text:
                columns.append(texts)
            elif (found := inferred.converted(texts)) is not None:
                columns.append(found[0])
                narrower[column] = found[1]
            else:
                return None
        self._inferred.update(narrower)
        return pa.Table.from_arrays(columns, names=table.column_names)

    def _parsed(self, data: memoryview, convert_options: pc.ConvertOptions) -> pa.Table | None:
        try:
            read_options = self._few if len(data) < _FEW_BYTES else self._many
            return pc.read_csv(pa.py_buffer(_guarded(data)), read_options, self._parse_options, convert_options)
        except pa.ArrowInvalid:
            return None

    def _check_type(self, column: str, kind: pa.DataType, name: str) -> None:
        try:
            line = _delimiter(self._dialect).encode() * (len(self._field_names) - 1) + b"\n"
            only = self._converting({column: kind}, only=[column])
            pc.read_csv(pa.py_buffer(b"\n" + line), self._few, self._parse_options, only)
        except pa.ArrowNotImplementedError:
            hint = "choose another type; dictionaries have int32 indices"
            raise UnsupportedError(f"{name}: column {column}: csv is not read as {kind}", hint=hint) from None
        except pa.ArrowInvalid:
            # An empty field may not be a value of that type; the rows will show.
            return

    def _converting(self, types: Mapping[str, pa.DataType], *, only: list[str] | None = None) -> pc.ConvertOptions:
        nulls = self._dialect.null_values
        return pc.ConvertOptions(
            column_types=dict(types),
            null_values=nulls,
            strings_can_be_null=nulls is not None,
            quoted_strings_can_be_null=nulls is None,
            decimal_point=self._dialect.decimal_point,
            include_columns=self._names if only is None else only,
        )


def _guarded(data: bytes | memoryview) -> bytes | memoryview:
    # Arrow drops a byte order mark wherever it begins to parse; after an empty line it is the value that it is.
    return b"\n" + bytes(data) if data[: len(_BOM)] == _BOM else data


def _misfit(field: pa.Field, row: bytes, *, given: bool) -> tuple[str, str]:
    if pa.types.is_string(field.type) and not _is_utf8(row):
        what = f"column {field.name} is not UTF-8: the file may be latin-1 or cp1252"
        return what, encoding_hint("cp1252")
    what = f"column {field.name} does not fit {field.type}"
    hint = (
        f"give the type of the column: source.types: {{{field.name}: string}}, or --type {field.name}=string; "
        "or leave such rows out with on_bad_rows: skip"
    )
    return (what, hint) if given else (f"{what}, as its first rows do", hint)


def _is_utf8(data: bytes) -> bool:
    try:
        str(data, "utf-8")
    except UnicodeDecodeError:
        return False
    return True


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
    if not _is_utf8(first.data[start:end]):
        what = f"{name}:{first.line}: the names of the columns are not UTF-8: the file may be latin-1 or cp1252"
        raise FormatError(what, hint=encoding_hint("cp1252"))
    with mapped_errors(name):
        header = pc.read_csv(
            pa.py_buffer(_guarded(first.data[start:end])),
            pc.ReadOptions(use_threads=False, block_size=_WHOLE),
            _parsing(dialect),
        )
    names = header.schema.names
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
        if (row := row_ends.first(block.data)) is not None:
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


def detect_delimiter(start: TextStart, quote: str | None, name: str, *, fields: int | None) -> str:
    """Return the delimiter of a CSV file: the one that occurs in all of its first rows equally often.

    A file whose first row has none of them has one column.

    Args:
        start: of the file.
        quote: of the dialect.
        name: what errors call the file.
        fields: how many there are in a row, if that is known.

    Raises:
        FormatError: there are two such delimiters, or the rows differ where the first row has another than the comma.
    """
    rows = _first_rows(start, quote)
    counts = {delimiter: {row.count(delimiter.encode()) for row in rows} for delimiter in DETECTABLE_DELIMITERS}
    regular = [each for each, found in counts.items() if len(found) == 1 and 0 not in found]
    if fields is not None:
        regular = [each for each in regular if counts[each] == {fields - 1}] or regular
    if len(regular) == 1:
        return regular[0]
    in_first = [each for each in DETECTABLE_DELIMITERS if rows and each.encode() in rows[0]]
    if not regular and (not in_first or "," in in_first or fields == 1):
        return ","
    candidates = " or ".join(DETECTABLE_DELIMITERS[each] for each in regular or in_first)
    reason = "could be either" if len(regular) > 1 else "does not occur in all rows equally often"
    hint = 'give it: source.csv.delimiter: ";", or --delimiter ";"; a comma for a file of one column'
    raise FormatError(f"{name}: the delimiter is not clear: {candidates} {reason}", hint=hint)


def _first_rows(start: TextStart, quote: str | None) -> list[bytes]:
    """Return some rows without what is in quotes."""
    every_delimiter = "".join(DETECTABLE_DELIMITERS).encode()
    data = RowEnds(every_delimiter, quote.encode() if quote else None).without_quoted(start.data)
    rows = [row for row in data.splitlines() if row]
    # The last one may be cut off.
    return (rows if start.is_all or len(rows) == 1 else rows[:-1])[:_ROWS_FOR_DELIMITER]
