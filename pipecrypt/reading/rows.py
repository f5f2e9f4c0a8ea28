"""Rows of one file for people to look at, and pyarrow's errors as ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipecrypt.dataset.checked_source import CheckedSource
from pipecrypt.dataset.requirements import NO_CHECKS, UNCHECKED, Checks, Requirements
from pipecrypt.dataset.signed_file import SignedFile, check_file, check_when_opened
from pipecrypt.dataset.signed_sources import find_signed_source, open_signed_source
from pipecrypt.dataset.trust import VerifyMode
from pipecrypt.errors import ColumnNotFoundError, ConflictError, FormatError, UnsupportedError, UsageError
from pipecrypt.keys.credentials import Credentials, given_credentials
from pipecrypt.keys.session import KeySession
from pipecrypt.parquet.files import TableView, open_table_view
from pipecrypt.parquet.footer.columns import match_columns
from pipecrypt.reading.view_file import ViewFile
from pipecrypt.runs.file_keys import keys_of_file
from pipecrypt.store.listing import find_file
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_range_source
from pipecrypt.store.protocol import SourceFile
from pipecrypt.vocabulary.ranges import RangeSource

__all__ = ["Rows", "arrow_errors", "read_rows"]

_UNKNOWN_FIELD: Final = "No match for FieldRef"
_UNLIKE_TYPES: Final = "has no kernel matching input types"
_SHOWN_CHARACTERS: Final = 200
_HINT: Final = "check the filter, if there is one; else that the file was copied whole and that its writer finished"
_BATCH_ROWS: Final = 1024


@contextmanager
def arrow_errors(what: str) -> Iterator[None]:
    """Raise pyarrow's errors as ours; our own, which pyarrow hands through, stay what they are.

    Only texts about names and types are passed on: others quote the value that they are about.

    Args:
        what: what is being read.

    Raises:
        ColumnNotFoundError: a filter names no column.
        UsageError: a filter compares a column with a value of another type.
        UnsupportedError: pyarrow cannot filter or convert these types.
        ConflictError: a file went away while it was read, as those do that a run moves or replaces.
        FormatError: pyarrow cannot decode it.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise ConflictError(f"a file of {what} went away while it was read", hint="open it once more") from error
    except (pa.ArrowException, OSError) as error:  # pyarrow raises a bare OSError for damaged pages
        text = str(error)[:_SHOWN_CHARACTERS]
        if _UNKNOWN_FIELD in text:
            raise ColumnNotFoundError(f"the filter names a column that {what} does not have: {text}") from error
        if _UNLIKE_TYPES in text:
            hint = "compare a column with values of its own type"
            raise UsageError(f"the filter does not fit the columns of {what}: {text}", hint=hint) from error
        if isinstance(error, pa.ArrowNotImplementedError):
            message = f"pyarrow cannot read {what} in this way: {text}"
            raise UnsupportedError(message, hint="check the types of the columns and of the filter") from error
        raise FormatError(f"pyarrow cannot decode {what}: {type(error).__name__}", hint=_HINT) from error


class Rows:
    """Rows of one file as Python values.

    Args:
        file: open; closed by whoever opened it.
        columns: the leaf columns that are read.
        locked_columns: dotted paths of columns whose key is missing and that were not asked for.
        limit: at most so many rows; None for all.
        unchecked: what was not authenticated, each as a sentence.

    Attributes:
        column_names: of the top-level columns that are read.
    """

    def __init__(
        self,
        file: pq.ParquetFile,
        columns: list[int],
        locked_columns: tuple[str, ...],
        *,
        limit: int | None,
        unchecked: tuple[str, ...],
    ) -> None:
        """Read no row yet."""
        self._file = file
        self._columns = columns
        self._limit = limit
        self.locked_columns = locked_columns
        self.unchecked = unchecked
        with arrow_errors("the schema"):
            # Columns are told apart by number: a name may stand twice, or have a dot in it.
            self.column_names = tuple(file.reader.read_row_groups([], column_indices=columns).column_names)

    def batches(self) -> Iterator[list[tuple[Any, ...]]]:
        """Yield lists of rows, each a tuple in the order of `column_names`.

        Raises:
            PipecryptError: the file is damaged or was tampered with.
        """
        left = self._limit
        for batch in self._arrow_batches():
            piece = batch if left is None else batch.slice(0, left)
            rows = list(zip(*map(_python_values, self.column_names, piece.columns), strict=True))
            if rows:
                yield rows
            if left is not None:
                left -= len(rows)
                if left <= 0:
                    return

    def _arrow_batches(self) -> Iterator[pa.RecordBatch]:
        if self._limit == 0:
            return
        batch_rows = _BATCH_ROWS if self._limit is None else min(_BATCH_ROWS, self._limit)
        row_groups = list(range(self._file.num_row_groups))
        with arrow_errors("the file"):
            yield from self._file.reader.iter_batches(
                batch_rows, row_groups=row_groups, column_indices=self._columns, use_threads=True
            )


def _python_values(name: str, column: pa.Array) -> list[Any]:
    try:
        return list(column.to_pylist())
    except (OverflowError, ValueError, pa.ArrowException):
        # A time before the year 1 or after 9999, a text that is not UTF-8, a struct with one name twice. The error is
        # not chained, because it may quote the value.
        raise UnsupportedError(
            f"column {name!r} holds values that Python has none for",
            hint="name other columns with --columns, or decrypt the file and read it with another tool",
        ) from None


@contextmanager
def read_rows(
    location: Location,
    *,
    keys: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    limit: int | None = None,
    aad_prefix: bytes | None = None,
    checks: Checks = NO_CHECKS,
    credentials: Credentials | None = None,
) -> Iterator[Rows]:
    """Open one file for reading rows; leaving the block closes it and wipes its keys.

    Args:
        location: the file.
        keys: key references.
        columns: exact names, nested paths, roots or globs; None: all that the keys open.
        limit: at most so many rows.
        aad_prefix: of a file that does not store it.
        checks: what must have been signed, and how much of the file is compared with it.
        credentials: default: from the environment.

    Raises:
        KeyNotFoundError: the key of a column that was asked for, or of an encrypted footer, is missing.
        ColumnNotFoundError: there is no such column.
        UsageError: the file holds no table.
        FormatError: no Parquet file, truncated or malformed.
        NotTrustedError: the file is not signed, or too few trusted keys signed it.
        IntegrityError: the file was tampered with.
    """
    with ExitStack() as stack:
        found, signed, ranges = _open_ranges(location, checks.requirements, stack)
        source = CheckedSource(ranges)
        session = stack.enter_context(KeySession(keys, credentials=given_credentials(credentials)))
        view = open_table_view(
            source,
            keys=keys_of_file(found.location, session),
            aad_prefix=aad_prefix,
            stored=None if signed is None else check_file(signed, source, checks.mode),
            check_opened=None if signed is None else check_when_opened(signed, source, checks.mode),
            checks_digests=checks.mode is not VerifyMode.OFF,
        )
        stack.enter_context(view)
        if view.holds_blob:
            raise UsageError(
                f"{view.name} holds the bytes of another file, no table",
                hint="pipecrypt decrypt FILE - writes them to standard output",
            )
        with arrow_errors(view.name):
            file = stack.enter_context(pq.ParquetFile(pa.PythonFile(ViewFile(view), mode="r")))
        chosen, locked = _choose(view, columns)
        unchecked = _unchecked(view, checks, has_keys=bool(keys))
        rows = Rows(file, chosen, locked, limit=limit, unchecked=unchecked)
        opened = stack.pop_all()
    with closing(opened):  # which need not know how reading ended
        yield rows


def _open_ranges(
    location: Location, required: Requirements | None, stack: ExitStack
) -> tuple[SourceFile, SignedFile | None, RangeSource]:
    if required is None:
        found = find_file(location)
        return found, None, stack.enter_context(open_range_source(found))
    each = find_signed_source(location, required)
    return each.source, each.signed, stack.enter_context(open_signed_source(each))


def _unchecked(view: TableView, checks: Checks, *, has_keys: bool) -> tuple[str, ...]:
    if checks.requirements is not None:
        return ()
    found = [UNCHECKED] if view.is_encrypted and checks.warns else []
    if has_keys and not view.is_encrypted:
        found.append(f"{view.name} is not encrypted: nothing shows whether it was changed or exchanged")
    elif has_keys and not view.is_authenticated:
        found.append(
            f"the footer of {view.name} was not checked, for want of its key: "
            "columns in plaintext may have been changed or put in the place of encrypted ones"
        )
    return tuple(found)


def _choose(view: TableView, columns: Sequence[str] | None) -> tuple[list[int], tuple[str, ...]]:
    leaves, locked = view.leaves, view.locked_columns
    if columns is None:
        hidden = tuple(leaves[index].dotted for index in sorted(locked))
        return [index for index in range(len(leaves)) if index not in locked], hidden
    if not columns:
        raise ColumnNotFoundError("no column was named")
    wanted = sorted({index for pattern in columns for index in match_columns(pattern, leaves, view.name)})
    for index in wanted:
        view.check_column(index)
    return wanted, ()
