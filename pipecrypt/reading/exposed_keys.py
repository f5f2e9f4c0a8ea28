"""Hand out the data keys of one file in clear, for readers that take explicit keys only. Others use pyarrow_keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pipecrypt.errors import UsageError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.session import KeySession
from pipecrypt.parquet.footer.opened import OpenedFile, is_sealed
from pipecrypt.parquet.footer.row_groups import Chunk
from pipecrypt.parquet.footer.stored import read_sealed_footer
from pipecrypt.runs.file_keys import keys_of_file
from pipecrypt.store.listing import find_file
from pipecrypt.store.location import Location
from pipecrypt.store.source import open_range_source

__all__ = ["ExposedKeys", "expose_data_keys"]


@dataclass(frozen=True, slots=True)
class ExposedKeys:
    """Data keys in clear. Whoever holds them reads the file; the caller keeps them out of logs and files.

    Args:
        footer: the footer's data key.
        columns: by dotted leaf path; without the columns that are in plaintext or under the footer key.
    """

    footer: bytes = field(repr=False)
    columns: Mapping[str, bytes] = field(repr=False)


def expose_data_keys(path: str, keys: Sequence[str], *, credentials: Credentials | None = None) -> ExposedKeys:
    """Return the data keys of a file written with `data_keys: file`, for Polars or DuckDB.

    Raises:
        UsageError: a column has one data key per batch, which no reader with explicit keys can take.
        KeyNotFoundError: a key is missing.
    """
    found = find_file(Location(path))
    session_credentials = credentials or Credentials.from_environment()
    with open_range_source(found) as source, KeySession(keys, credentials=session_credentials) as session:
        sealed, _ = read_sealed_footer(source)
        with OpenedFile(sealed, source.name, keys=keys_of_file(found.location, session), aad_prefix=None) as opened:
            return ExposedKeys(bytes(opened.footer_key().expose_key_bytes()), _column_keys(opened))


def _column_keys(opened: OpenedFile) -> dict[str, bytes]:
    columns: dict[str, bytes] = {}
    for chunk in _sealed_chunks(opened):
        key = opened.key_of(chunk)
        if key is opened.footer_key():
            continue
        exposed = bytes(key.expose_key_bytes())
        if columns.setdefault(chunk.leaf.dotted, exposed) != exposed:
            raise UsageError(
                f"{chunk.what} has a data key of its own, and readers with explicit keys take one per column",
                hint="encrypt with data_keys: file",
            )
    return columns


def _sealed_chunks(opened: OpenedFile) -> Iterator[Chunk]:
    for index in opened.row_groups.ordinals:
        yield from filter(is_sealed, opened.open_row_group(index))
        opened.row_groups.release(index)
