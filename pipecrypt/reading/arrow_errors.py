"""Turn what pyarrow raises into our errors. What is read when it happens is left to the callers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pyarrow as pa

from pipecrypt.errors import ColumnNotFoundError, FormatError

__all__ = ["arrow_errors"]

_UNKNOWN_FIELD: Final = "No match for FieldRef"
_SHOWN_CHARACTERS: Final = 200


@contextmanager
def arrow_errors(what: str) -> Iterator[None]:
    """Raise pyarrow's errors as ours; our own, which pyarrow hands through, stay what they are.

    Args:
        what: what is being read.

    Raises:
        ColumnNotFoundError: a filter names no column.
        FormatError: pyarrow cannot decode it.
    """
    try:
        yield
    except (pa.ArrowException, OSError) as error:  # pyarrow raises a bare OSError for damaged pages
        text = str(error)[:_SHOWN_CHARACTERS]
        if _UNKNOWN_FIELD in text:
            raise ColumnNotFoundError(f"the filter names a column that {what} does not have: {text}") from error
        raise FormatError(f"pyarrow cannot decode {what}: {text}") from error
