"""Open encrypted files as one table: `pipecrypt.open`. The file system shows their plaintext, and pyarrow decodes it.

Columns that are not asked for are not fetched, and row groups that statistics rule out are neither fetched nor
decrypted: pyarrow's scanner asks the file system only for what it decodes.
"""

from __future__ import annotations

import html
import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pipecrypt.dataset.requirements import Requirements, checks_of
from pipecrypt.dataset.signed_file import Origin, SignedFile
from pipecrypt.dataset.signed_sources import list_signed_sources
from pipecrypt.dataset.trust import Trust, given_trust
from pipecrypt.errors import (
    AccessError,
    ColumnNotFoundError,
    FormatError,
    MissingExtraError,
    MovedError,
    PipecryptError,
    UsageError,
)
from pipecrypt.keys.credentials import Credentials, given_credentials
from pipecrypt.keys.held_keys import Session
from pipecrypt.keys.material import KeyMaterial, parse_key_metadata
from pipecrypt.parquet.files import BlobView, TableView
from pipecrypt.reading.filesystem import PipecryptFileSystem
from pipecrypt.reading.rows import arrow_errors
from pipecrypt.reading.view_file import FileView
from pipecrypt.store.filesystem import open_filesystem_for_others, path_for_others
from pipecrypt.store.listing import list_sources
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.store.protocol import SourceFile
from pipecrypt.vocabulary.in_flight import AT_ONCE, map_in_flight

__all__ = ["EncryptedDataset", "open_dataset"]

_BATCH_ROWS: Final = 131_072
_MAX_BATCH_ROWS: Final = (1 << 31) - 1
_TRIES_BESIDE_RUNS: Final = 3
_KEY_ID_DIGITS: Final = 16


Filter: TypeAlias = "ds.Expression | Sequence[Any] | None"
_Cells: TypeAlias = tuple[str, str, str]


class _WithoutStatistics(pafs.FSSpecHandler):  # type: ignore[misc]  # pyarrow has no types
    """Opens files for readers that filter no rows."""

    def open_input_file(self, path: str) -> pa.NativeFile:
        """Return a file that can be read at any place."""
        return pa.PythonFile(self.fs.open(path, mode="rb", statistics=False), mode="r")


class EncryptedDataset:
    """Encrypted files as one table; a context manager that wipes its keys. `open_dataset` makes it.

    Filters are `pyarrow.compute` expressions, or lists of tuples as `pyarrow.parquet.read_table` takes them.

    Args:
        location: what was opened.
        files: its files.
        fs: shows them in plaintext.
        verified: where they come from; None where that was not checked.
        signed: what was signed about each file, by its path.
        look_again: lists the files once more, with what was signed about each; None where nothing is compared.
        open_again: opens them once more.
    """

    def __init__(
        self,
        location: Location,
        files: tuple[SourceFile, ...],
        fs: PipecryptFileSystem,
        *,
        verified: Origin | None = None,
        signed: Mapping[str, SignedFile] | None = None,
        look_again: Callable[[], Mapping[str, SignedFile] | None] | None = None,
        open_again: Callable[[], EncryptedDataset] | None = None,
    ) -> None:
        """Open the first file, which gives the schema."""
        self._signed = signed
        self._look_again = look_again
        self._open_again = open_again
        self._location = location
        self._verified = verified
        self._files = files
        self._fs = fs
        self._paths = [_path(file) for file in files]
        try:
            with self._beside_runs():
                self._dataset = self._open(_WithoutStatistics(fs))
        except BaseException:
            self.close()
            raise

    @contextmanager
    def _beside_runs(self) -> Iterator[None]:
        """Tell files that a run moved or replaced meanwhile from files that were tampered with.

        Raises:
            MovedError: the statement, or the places of its files, are others than when they were listed.
        """
        try:
            yield
        except PipecryptError as error:
            if self._look_again is None or isinstance(error, UsageError | AccessError):
                raise
            try:
                now = self._look_again()
            except PipecryptError:
                raise error from None
            if now == self._signed:
                raise
            raise MovedError(f"{self._location.display} was changed by a run while it was read") from error

    @cached_property
    def _filterable(self) -> ds.Dataset:
        """The dataset, with statistics of encrypted columns: they take their keys and tags, of each chunk there is."""
        with self._beside_runs():
            return self._open(pafs.FSSpecHandler(self._fs))

    def _open(self, handler: pafs.FSSpecHandler) -> ds.Dataset:
        arrow = pafs.PyFileSystem(handler)
        is_one = len(self._files) == 1 and self._files[0].location == self._location
        try:
            with arrow_errors(self._location.display):
                return ds.dataset(
                    self._paths,
                    filesystem=arrow,
                    format=ds.ParquetFileFormat(),
                    partitioning=None if is_one else "hive",
                    partition_base_dir=self._paths[0].removesuffix(self._files[0].relative_path),
                )
        except FormatError as error:
            if isinstance(self._fs.view(self._paths[0]), BlobView):
                raise UsageError(
                    f"{self._files[0].location.display} holds the bytes of another file, no table",
                    hint="read them with fsspec.open and a pipecrypt:: URL, or with pipecrypt decrypt",
                ) from error
            raise

    def __enter__(self) -> Self:
        """Return the dataset."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Wipe all keys and forget all plaintext; nothing can be read any more. Safe to call twice."""
        self._fs.close(for_good=True)

    @property
    def schema(self) -> pa.Schema:
        """The columns, as the first file has them, and those that directories named `column=value` add."""
        return self._dataset.schema

    @property
    def files(self) -> tuple[str, ...]:
        """The files, in order, without user names and passwords."""
        return tuple(file.location.display for file in self._files)

    @property
    def verified(self) -> Origin | None:
        """What was verified: dataset id, version, and the keys that signed; None where nothing was checked.

        The data is compared as it is read, and an error raised where it differs.
        """
        return self._verified

    @cached_property
    def num_rows(self) -> int:
        """Rows of all files: as they were signed; else as each file's footer says, of which no page is read."""
        if self._signed is not None:
            return sum(self._signed[path].entry.rows for path in self._paths)
        with arrow_errors(self._location.display):
            at_once = AT_ONCE if open_store(self._location).is_remote else 1
            return sum(map_in_flight(self._fs.count_rows, self._paths, name="footer", at_once=at_once))

    def dataset(self) -> ds.Dataset:
        """Return the `pyarrow.dataset.Dataset`, for whatever reads one. It can be read until this is closed."""
        return self._filterable

    def to_batches(
        self,
        columns: Sequence[str] | None = None,
        filter: Filter = None,  # pyarrow's name for it
        batch_rows: int = _BATCH_ROWS,
    ) -> Iterator[pa.RecordBatch]:
        """Yield record batches, in order.

        Args:
            columns: top-level columns; None: all.
            filter: which rows.
            batch_rows: at most so many rows in a batch.

        Raises:
            AccessError: the key of a column that is read is missing.
            ColumnNotFoundError: there is no such column.
            IntegrityError: a file was changed after it was written.
            MovedError: a run replaced or moved files meanwhile; open the dataset again.
        """
        scanner = self._scanner(columns, filter, batch_rows)
        with self._beside_runs(), arrow_errors(self._location.display):
            yield from scanner.to_batches()

    def to_table(self, columns: Sequence[str] | None = None, filter: Filter = None) -> pa.Table:
        """Return a table; arguments and errors are those of `to_batches`."""
        try:
            return self._read_table(columns, filter)
        except MovedError as error:
            moved = error
        # Where files were only moved, they are at their places now, and nothing was given out yet.
        for _ in range(_TRIES_BESIDE_RUNS if self._open_again is not None else 0):
            with suppress(MovedError), self._open_again() as again:  # type: ignore[misc]
                if again.verified != self._verified:
                    break
                return again._read_table(columns, filter)
        raise moved

    def _read_table(self, columns: Sequence[str] | None, rows: Filter) -> pa.Table:
        scanner = self._scanner(columns, rows, _BATCH_ROWS)
        with self._beside_runs(), arrow_errors(self._location.display):
            return scanner.to_table()

    def to_pandas(self, columns: Sequence[str] | None = None, filter: Filter = None) -> Any:
        """Return a `pandas.DataFrame`; arguments and errors are those of `to_batches`.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        _required("pandas")
        return self.to_table(columns, filter).to_pandas()

    def to_polars(self, columns: Sequence[str] | None = None, filter: Filter = None) -> Any:
        """Return a `polars.DataFrame`; arguments and errors are those of `to_batches`.

        Raises:
            MissingExtraError: Polars is not installed.
        """
        return _required("polars").from_arrow(self.to_table(columns, filter))

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return a fresh stream of all rows (Arrow PyCapsule interface), which DuckDB, Polars and others take."""
        # Not the scanner's own reader: some consumers hold Python's lock while they wait for a batch, and the threads
        # that read files need it. A reader over an iterator lets it go while it waits.
        reader = pa.RecordBatchReader.from_batches(self.schema, self.to_batches())
        return reader.__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        """Show files, rows if they were counted or there is one file, columns and their keys."""
        return self._shown(_as_text)

    def _repr_html_(self) -> str:
        return self._shown(_as_html)

    def _shown(self, render: Callable[[str, list[str], list[_Cells]], str]) -> str:
        # Notebooks and debuggers show objects at any time, also closed ones.
        try:
            facts, columns = self._describe()
        except UsageError:
            facts, columns = ["closed"], []
        return render(self._location.display, facts, columns)

    def _describe(self) -> tuple[list[str], list[_Cells]]:
        """Return files, rows, and authenticity; and name, type and protection of each column."""
        count, origin = len(self._files), self._verified
        is_counted = count == 1 or "num_rows" in self.__dict__
        facts = [f"{count:,} file{'' if count == 1 else 's'}"]
        facts.append(f"{self.num_rows:,} rows" if is_counted else "rows not counted")
        view = self._fs.view(self._paths[0])
        if origin is not None:
            signers = " and ".join(f"{key_id[:_KEY_ID_DIGITS]}..." for key_id in origin.key_ids)
            facts.append(f"verified: version {origin.version} of dataset {origin.dataset_id}, signed by {signers}")
            facts.append("each file is compared with what was signed when it is opened")
        else:
            facts.append(_authenticity(view, count))
        return facts, [(field.name, str(field.type), _protection(field.name, view)) for field in self.schema]

    def _scanner(self, columns: Sequence[str] | None, rows: Filter, batch_rows: int) -> ds.Scanner:
        if isinstance(columns, str):
            raise UsageError("the columns to read are a list of names", hint=f"write columns=[{columns!r}]")
        if not isinstance(batch_rows, int) or not 0 < batch_rows <= _MAX_BATCH_ROWS:
            raise UsageError(f"batch_rows is {batch_rows!r}", hint=f"give a number from 1 to {_MAX_BATCH_ROWS}")
        unknown = [name for name in columns or () if name not in self.schema.names]
        if unknown:
            raise ColumnNotFoundError(
                f"{self._location.display} has no column {unknown[0]!r}",
                hint=f"its columns are {', '.join(self.schema.names)}",
            )
        with arrow_errors(self._location.display):
            names, chosen = None if columns is None else list(columns), _expression(rows)
            dataset = self._dataset if chosen is None else self._filterable
            return dataset.scanner(columns=names, filter=chosen, batch_size=batch_rows)


def open_dataset(
    url: str | os.PathLike[str],
    *,
    keys: Sequence[str] | None = None,
    trust: Trust | Sequence[str] | None = None,
    threshold: int | None = None,
    verify: str | None = None,
    min_version: int | None = None,
    dataset_id: str | None = None,
    on_missing_key: str = "error",
    aad_prefix: str | bytes | None = None,
    storage_options: Mapping[str, object] | None = None,
    credentials: Credentials | None = None,
) -> EncryptedDataset:
    """Open encrypted Parquet files, and plaintext ones among them, as one table.

    With keys to trust, the files are those that were signed, none missing and none added, each as it was signed.

    Args:
        url: a file, a directory (all `*.parquet` below it) or a glob; a path or any fsspec URL.
        keys: key references; default: those in PIPECRYPT_KEYS. Only these are ever used, whatever the files say.
        trust: whose signatures count and what must hold, as a `Trust`; or a list of public keys: PEM files, PEM texts
            or key references. Default: those in PIPECRYPT_TRUST. With none, nothing shows who wrote the files, and a
            warning says so once.
        threshold: deprecated, as the next three are: give a `Trust`.
        verify: likewise.
        min_version: likewise.
        dataset_id: likewise.
        on_missing_key: "error": columns whose key is missing raise an AccessError when they are read; "null": they
            read as null.
        aad_prefix: of files that do not store it.
        storage_options: for fsspec.
        credentials: what opens the keys; default: the environment of this process.

    Raises:
        SourceNotFoundError: nothing is there.
        KeyNotFoundError: the key of an encrypted footer is missing.
        NotTrustedError: nothing is signed there, or too few trusted keys signed it.
        IntegrityError: something is not as it was signed; names the first thing.
        UsageError: an argument is malformed.
        PipecryptError: the first file cannot be opened; see `pipecrypt.errors`.
    """
    location = Location(os.fspath(url), storage_options or {})
    asked = given_trust(trust, threshold=threshold, verify=verify, min_version=min_version, dataset_id=dataset_id)
    given = given_credentials(credentials)
    requirements = checks_of(asked, os.environ, given).requirements
    # What was read is what counts: a keystore is not read again, and perhaps without the secret.
    read = asked if requirements is None else replace(asked, keys=requirements.trust.texts)
    shown: dict[str, Any] = {"keys": keys, "trust": read, "on_missing_key": on_missing_key, "aad_prefix": aad_prefix}

    def opened() -> EncryptedDataset:
        files, signed, origin = _list(location, requirements)
        target = open_filesystem_for_others(files[0].location)
        fs = PipecryptFileSystem(fs=target, **shown, skip_instance_cache=True)
        # Threads of pyarrow open files too, and know nothing of a Session that is active here.
        chosen = given if credentials is not None or isinstance(given, Session) else None
        fs.use(credentials=chosen, signed=signed, listed={_path(file): file for file in files})
        return EncryptedDataset(
            location,
            files,
            fs,
            verified=origin,
            signed=signed,
            look_again=None if requirements is None else lambda: _list(location, requirements)[1],
            open_again=opened,
        )

    for _ in range(_TRIES_BESIDE_RUNS):
        with suppress(MovedError):
            return opened()
    return opened()


def _list(
    location: Location, requirements: Requirements | None
) -> tuple[tuple[SourceFile, ...], Mapping[str, SignedFile] | None, Origin | None]:
    """Return the files, what was signed about each by its path, and where they come from."""
    if requirements is None:
        return list_sources(location), None, None
    found = list_signed_sources(location, requirements)
    signed = {_path(each.source): each.signed for each in found}
    return tuple(each.source for each in found), signed, found[0].signed.origin


def _expression(rows: Filter) -> ds.Expression | None:
    if rows is None or isinstance(rows, ds.Expression):
        return rows
    try:
        return pq.filters_to_expression(rows)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the filter is malformed: {error}",
            hint='write filter=[("column", "<", 3)] or a pyarrow.compute expression',
        ) from error


def _path(file: SourceFile) -> str:
    return path_for_others(file.location)


def _required(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(f"{package} is not installed", hint=f"pip install {package}") from error


def _as_text(title: str, facts: list[str], columns: list[_Cells]) -> str:
    longest = [max(map(len, cells)) for cells in zip(*columns, strict=True)]
    lines = [f"pipecrypt dataset {title}", *(f"  {fact}" for fact in facts)]
    for name, kind, protection in columns:
        lines.append(f"    {name:<{longest[0]}}  {kind:<{longest[1]}}  {protection}")
    return "\n".join(lines)


def _as_html(title: str, facts: list[str], columns: list[_Cells]) -> str:
    """Return an HTML table; everything that comes from a file is escaped."""
    rows = ("".join(f"<td>{html.escape(cell)}</td>" for cell in column) for column in columns)
    cells = "".join(f"<tr>{row}</tr>" for row in rows)
    listed = "".join(f"<li>{html.escape(fact)}</li>" for fact in facts)
    return (
        f"<div><b>pipecrypt dataset</b> <code>{html.escape(title)}</code><ul>{listed}</ul>"
        f"<table><thead><tr><th>column</th><th>type</th><th>protection</th></tr></thead>"
        f"<tbody>{cells}</tbody></table></div>"
    )


def _authenticity(view: FileView | None, files: int) -> str:
    which = "the file" if files == 1 else "the first file"
    if view is None:
        return f"{which} is not encrypted: nothing shows whether it was changed"
    if not isinstance(view, TableView):
        return f"{which} is encrypted in chunks, which are checked as they are read"
    if not view.is_authenticated:
        return f"the footer of {which} was not checked, for want of its key"
    return f"the footer of {which} was checked with its key; encrypted columns are checked as they are read"


def _protection(root: str, view: FileView | None) -> str:
    if view is None:
        return "plaintext"
    if not isinstance(view, TableView):
        return "encrypted in chunks"
    under, keys = [index for index, leaf in enumerate(view.leaves) if leaf.path[0] == root], view.column_keys
    sealed = [index for index in under if index in keys]
    if not sealed:
        return "plaintext"
    owners = dict.fromkeys(_owner(keys[index]) for index in sealed)
    parts = "partly encrypted" if len(sealed) < len(under) else "encrypted"
    missing = ", key missing" if view.locked_columns & set(sealed) else ""
    return f"{parts} under {' and '.join(owners)}{missing}"


def _owner(key_metadata: bytes) -> str:
    material = parse_key_metadata(key_metadata)
    return ascii(material.master_key_id)[1:-1] if isinstance(material, KeyMaterial) else "a key of another program"
