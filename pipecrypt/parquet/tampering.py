"""Tell malformed data from changed data: what was signed was well formed. Comparing with what was signed: dataset."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipecrypt.errors import ContentError, IntegrityError

__all__ = ["as_tampering"]


@contextmanager
def as_tampering(*, is_signed: bool) -> Iterator[None]:
    """Raise errors about the content as IntegrityErrors, if `is_signed`.

    Args:
        is_signed: the footer is one that a trusted key signed, so that what does not fit it was changed afterwards.
    """
    try:
        yield
    except ContentError as error:
        if not is_signed:
            raise
        raise IntegrityError(error.message) from error
