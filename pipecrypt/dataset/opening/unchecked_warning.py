"""Say once per process that nothing showed who wrote the data. When it has to be said is left to the readers."""

from __future__ import annotations

import warnings
from typing import Final

from pipecrypt.errors import UncheckedWarning
from pipecrypt.vocabulary.once import mark_given, was_given

__all__ = ["UNCHECKED", "warn_unchecked"]

UNCHECKED: Final = "authenticity was not checked: no public key to trust was given"
_HINT: Final = 'pass trust=[...] or set PIPECRYPT_TRUST; verify="off" silences this'


def warn_unchecked() -> None:
    """Warn that encrypted data is used and nobody asked who signed it; from the second call on, do nothing."""
    if was_given(UNCHECKED):
        return
    # Remembered behind the warning: where warnings are errors, every read fails, not only the first.
    warnings.warn(f"{UNCHECKED}: {_HINT}", UncheckedWarning, stacklevel=3)
    mark_given([UNCHECKED])
