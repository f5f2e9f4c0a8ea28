"""Turn what pyarrow raises into our errors. What is read when it happens is left to the callers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pyarrow as pa

from pipecrypt.errors import ColumnNotFoundError, ConflictError, FormatError, UnsupportedError, UsageError

__all__ = ["arrow_errors"]

_UNKNOWN_FIELD: Final = "No match for FieldRef"
_UNLIKE_TYPES: Final = "has no kernel matching input types"
_SHOWN_CHARACTERS: Final = 200
_HINT: Final = "check the filter, if there is one; else that the file was copied whole and that its writer finished"


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
