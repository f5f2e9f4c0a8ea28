"""What is bound into AADs, encryption contexts and key commitments.

Layout of the AAD prefix that a file stores (ASCII, then UTF-8)::

    "pipecrypt/1/" || dataset id (32 hex digits) || "/" || path inside the dataset

The dataset id has a fixed length and alphabet, so the encoding is injective.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Self

from pipecrypt.errors import UsageError

__all__ = ["Context", "new_dataset_id", "parse_aad_prefix"]

FORMAT_VERSION = 1
_HEX: Final = "hex:"
_PREFIX = re.compile(r"\Apipecrypt/(?P<version>\d{1,4})/(?P<dataset>[0-9a-f]{32})/(?P<path>.*)\Z", re.DOTALL)


def new_dataset_id() -> str:
    """Return a random dataset id: 128 bits as 32 lower-case hex digits."""
    return secrets.token_hex(16)


def parse_aad_prefix(text: str) -> bytes:
    """Return the AAD prefix that a user wrote: text, or `hex:` and hex digits.

    Raises:
        UsageError: `hex:` without hex digits after it.
    """
    if not text.startswith(_HEX):
        return text.encode(errors="surrogateescape")
    try:
        return bytes.fromhex(text.removeprefix(_HEX))
    except ValueError:
        hint = "write hex: and pairs of hex digits"
        raise UsageError(f"the AAD prefix {text!r} is not hexadecimal", hint=hint) from None


@dataclass(frozen=True, slots=True)
class Context:
    """Where a data key or module belongs.

    Args:
        dataset_id: 32 hex digits; one per run that made the dataset. Empty for files of other writers.
        path: path inside the dataset with `/`, or the file's name for a single file.
        column: leaf path, or None for the footer.
        batch: row group ordinal, or None where one data key serves the whole file.
        format_version: version of these bindings.
    """

    dataset_id: str
    path: str
    column: tuple[str, ...] | None = None
    batch: int | None = None
    format_version: int = FORMAT_VERSION

    def for_column(self, column: tuple[str, ...], batch: int | None) -> Self:
        """Return the context of one column, in one batch or (None) in the whole file."""
        return type(self)(self.dataset_id, self.path, column, batch, self.format_version)

    def for_footer(self) -> Self:
        """Return the context of the file's footer."""
        return replace(self, column=None, batch=None)

    def aad_prefix(self) -> bytes:
        """Return the AAD prefix that the file stores."""
        return f"pipecrypt/{self.format_version}/{self.dataset_id}/{self.path}".encode()

    @classmethod
    def from_aad_prefix(cls, aad_prefix: bytes) -> Self | None:
        """Return the context that a stored AAD prefix names, or None if another writer made it."""
        try:
            match = _PREFIX.match(aad_prefix.decode())
        except UnicodeDecodeError:
            return None
        if match is None or int(match["version"]) != FORMAT_VERSION:
            return None
        return cls(dataset_id=match["dataset"], path=match["path"])

    def key_binding(self) -> bytes:
        """Return an injective encoding of all fields, bound into the commitment of a data key.

        Each part is preceded by its length (8 hex digits), so no two contexts share an encoding.
        """
        batch = b"file" if self.batch is None else b"%d" % self.batch
        return _file_parts(self.format_version, self.dataset_id, self.path) + _column_part(self.column) + _part(batch)


# Both are asked for again for every data key of a file.
@lru_cache(maxsize=16)
def _file_parts(format_version: int, dataset_id: str, path: str) -> bytes:
    return _part(b"%d" % format_version) + _part(dataset_id) + _part(path)


@lru_cache(maxsize=1024)
def _column_part(column: tuple[str, ...] | None) -> bytes:
    return _part(b"footer" if column is None else b"column" + b"".join(map(_part, column)))


def _part(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return b"%08x" % len(data) + data
