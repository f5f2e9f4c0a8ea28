"""Write an encrypted file from batches, as they come or all at once: `ParquetWriter` and `encrypt_batches`.

Encoding and encrypting run beside the caller, on threads of their own.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Generator, Mapping
from contextlib import ExitStack, closing
from types import TracebackType
from typing import Any, Final, Self

from pipecrypt.dataset.sign.next_version import FileSigning
from pipecrypt.dataset.sign.records import SignedStatement
from pipecrypt.dataset.sign.sink_checks import check_outside_datasets, check_unsigned_file
from pipecrypt.dataset.statement.paths import check_signable_paths
from pipecrypt.errors import InterruptedRunError, UsageError
from pipecrypt.formats.batches import BatchStream, batches_of
from pipecrypt.formats.options import EncodeOptions
from pipecrypt.formats.row_groups import encode_row_groups
from pipecrypt.keys.credentials import Credentials, given_credentials
from pipecrypt.keys.session import KeySession
from pipecrypt.parquet.files import check_policy
from pipecrypt.runs.kinds.ingest import encrypt_rows
from pipecrypt.runs.output import (
    RollingOutput,
    Target,
    WrittenFile,
    open_signers,
    parts_of,
    sidecar_files,
    store_grants,
)
from pipecrypt.runs.report.events import Summary
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import check_sink
from pipecrypt.store.location import Location, Place
from pipecrypt.store.publication import new_token
from pipecrypt.vocabulary.context import new_dataset_id
from pipecrypt.vocabulary.ranges import MemorySource

__all__ = ["Feed", "ParquetWriter", "encrypt_batches"]

_MOST_WAITING: Final = 4


class Feed(BatchStream):
    """A stream of batches that is filled as it is read.

    At most a few batches wait, so a caller that is faster than encryption waits too.

    Args:
        schema: of every batch.
    """

    def __init__(self, schema: Any) -> None:
        """Wait for the first batch."""
        super().__init__(schema, self._read(), may_change_thread=False)
        self._waiting: deque[Any] = deque()
        self._changed = threading.Condition()
        self._is_whole = False
        self._is_aborted = False
        self._is_closed = False

    def put(self, batch: object) -> bool:
        """Hand over a batch; say no if nobody reads any more."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < _MOST_WAITING or self._is_closed)
            if not self._is_closed:
                self._waiting.append(batch)
                self._changed.notify_all()
            return not self._is_closed

    def finish(self) -> None:
        """Say that no batch follows."""
        with self._changed:
            self._is_whole = True
            self._changed.notify_all()

    def abort(self) -> None:
        """Say that what was handed over must not be used."""
        with self._changed:
            self._is_aborted = True
            self._changed.notify_all()

    def _read(self) -> Generator[Any]:
        """Yield the batches.

        Raises:
            InterruptedRunError: the caller gave up.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_whole or self._is_aborted)
                if self._is_aborted:
                    raise InterruptedRunError("the writer was left before it was closed")
                if not self._waiting:
                    return
                batch = self._waiting.popleft()
                self._changed.notify_all()
            yield batch
            del batch  # else it would live until the next one is there

    def close(self) -> None:
        """Stop reading, and let a caller that waits go on."""
        with self._changed:
            self._is_closed = True
            self._waiting.clear()
            self._changed.notify_all()


_RESERVED: Final = b"pipecrypt."


class ParquetWriter:
    """Writes one encrypted Parquet file; the interface of `pyarrow.parquet.ParquetWriter`.

    The file appears when the writer is closed, whole; after an exception in the `with` block, or if the writer is never
    closed, nothing appears. One thread at a time may use it, and no process but the one that made it.

    Batches are encoded on another thread after `write_batch` has returned, and are not copied: memory that they share,
    such as a numpy array, must not be changed before the writer is closed.

    Args:
        where: a path or any fsspec URL.
        schema: a `pyarrow.Schema`, of every batch.
        policy: what is encrypted under which key; also says how many rows a row group has, and their compression, and
            whether a signed statement appears beside the file, after it.
        overwrite: replace a file of that name.
        storage_options: for fsspec.
        credentials: what opens the keys; default: the environment of this process.
        accept_future_statement: replace a signed file whose signer's clock was ahead; its time is not undercut.

    Attributes:
        schema: as given.
        summary: what was written, once the writer is closed; None before.

    Raises:
        ColumnNotFoundError: the policy names a column that the schema has not.
        UnsupportedError: Parquet cannot hold a column.
        SinkNotEmptyError: the file exists.
        PipecryptError: see `pipecrypt.errors`.
    """

    def __init__(
        self,
        where: Place,
        schema: Any,
        policy: Policy,
        *,
        overwrite: bool = False,
        storage_options: Mapping[str, object] | None = None,
        credentials: Credentials | None = None,
        accept_future_statement: bool = False,
    ) -> None:
        """Open the keys and the sink; nothing is made before the first row group."""
        self.schema = schema
        self.summary: Summary | None = None
        self._key_values: dict[bytes, bytes] = {}
        sink, encoding = Location.of(where, storage_options), _checked_policy(policy).encode_options()
        # What would fail at the first row group is refused now.
        empty = next(iter(encode_row_groups(batches_of([], schema), encoding)))
        check_policy(MemorySource(empty, sink.display), policy.engine_policy())
        output = _BatchOutput(
            sink, policy, overwrite=overwrite, credentials=credentials, accept_future_statement=accept_future_statement
        )
        self._job = _WriterThread(Feed(schema), output, encoding, sink.display)
        # A writer that is forgotten, or still open when Python ends, leaves nothing behind.
        self._if_forgotten = weakref.finalize(self, self._job.abandon)

    @property
    def is_open(self) -> bool:
        """Whether batches may be written."""
        return self._if_forgotten.alive

    def _abandon(self) -> None:
        if self._if_forgotten.detach() is not None:
            self._job.discard()

    def write(self, table_or_batch: Any, row_group_size: int | None = None) -> None:
        """Write a table or a batch; see `write_batch`."""
        self.write_batch(table_or_batch, row_group_size)

    def write_table(self, table: Any, row_group_size: int | None = None) -> None:
        """Write a table; see `write_batch`."""
        self.write_batch(table, row_group_size)

    def write_batch(self, batch: Any, row_group_size: int | None = None) -> None:
        """Write a record batch, a table, or anything else with the schema's columns that Arrow can read.

        Rows are gathered until there are as many as a row group has.

        Raises:
            UsageError: its schema is another, or the writer is closed.
            PipecryptError: encrypting what was written before has failed; nothing will appear.
        """
        if row_group_size is not None:
            raise UsageError("row_group_size is not set by batch", hint="set batch_rows in the policy")
        self._check_open()
        for each in batches_of(batch, self.schema):
            if not self._job.feed.put(each):
                self._abandon()
                self._job.reraise()

    def add_key_value_metadata(self, key_value_metadata: Mapping[str | bytes, str | bytes]) -> None:
        """Add to the file's key-value metadata, which everybody can read unless the footer is encrypted.

        Raises:
            UsageError: a name is one of pipecrypt's own, or the writer is closed.
        """
        self._check_open()
        for name, value in key_value_metadata.items():
            if _bytes(name).startswith(_RESERVED):
                raise UsageError(
                    f"the name {name!r} is reserved", hint="choose one that does not begin with pipecrypt."
                )
            self._key_values[_bytes(name)] = _bytes(value)

    def close(self) -> None:
        """Write what is gathered, and publish the file. Safe to call twice.

        Raises:
            PipecryptError: it could not be written; nothing appears.
        """
        if not self.is_open:
            return
        self._job.check_process()
        try:
            self.summary = self._job.finish(self._key_values)
        finally:
            self._abandon()

    def _check_open(self) -> None:
        if not self.is_open:
            raise UsageError("the writer is closed", hint="open another one, for another file")
        self._job.check_process()

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Publish the file, or discard it after an exception."""
        if error is None:
            self.close()
        else:
            self._abandon()


class _BatchOutput:
    """What batches are encrypted into: one file or several, with their keys, grants and statements.

    Closing it discards what was not published and wipes all keys; it may be done twice.

    Attributes:
        files: that row groups are appended to.

    Args:
        sink: the file; with `max_file_bytes`, numbers are added to its name.
        policy: what is encrypted under which key, and whether it is signed.
        max_file_bytes: begin another file once one is as large.
        overwrite: whether files and their statements may be replaced.
        credentials: what opens the keys; default: the environment of this process.
        accept_future_statement: whether to follow a statement of a signer whose clock was ahead.

    Raises:
        UsageError: standard output cannot be signed, or the name cannot.
        AccessError: a key is missing, or the credentials do not open it.
        ConflictError: a statement would become false.
        NotTrustedError: other keys signed what is there.
        SinkNotEmptyError: the file exists.
    """

    def __init__(
        self,
        sink: Location,
        policy: Policy,
        *,
        max_file_bytes: int | None = None,
        overwrite: bool,
        credentials: Credentials | None,
        accept_future_statement: bool,
    ) -> None:
        """Open the signing keys, look at the statements that are there, open the keys and the first file."""
        self._started = time.perf_counter()
        self._sink = sink
        check_sink(policy, sink, max_file_bytes)
        given = given_credentials(credentials)
        engine_policy = policy.engine_policy()
        with ExitStack() as stack:
            self._signing = None
            if not sink.is_standard_stream:
                files = _check_beside(
                    sink, is_signed=policy.signing is not None, is_numbered=max_file_bytes is not None
                )
                signers = open_signers(policy, given, accept_future_statement=accept_future_statement)
                if signers is not None:
                    self._signing = FileSigning(files, stack.enter_context(signers), overwrite=overwrite)
            known = None if self._signing is None else self._signing.dataset_id
            self._dataset_id = known or new_dataset_id()
            references = engine_policy.key_references()
            self._session = stack.enter_context(
                KeySession(references, credentials=given, dataset_id=self._dataset_id, also=policy.also)
            )
            target = Target(
                sink=sink, path=sink.name, token=new_token(), dataset_id=self._dataset_id, overwrite=overwrite
            )
            self.files = stack.enter_context(
                RollingOutput(target, engine_policy, self._session, max_file_bytes=max_file_bytes)
            )
            self.close = stack.pop_all().close

    def publish(self, key_values: Mapping[bytes, bytes]) -> Summary:
        """Make all files appear, then their grants, then their statements."""
        written = self.files.finish(key_values)
        self.files.publish()
        grants = self._session.take_grants()
        store_grants(self._sink, [each.path for each in written], grants, is_single_file=True)
        signed: tuple[SignedStatement, ...] = ()
        if self._signing is not None:
            self._signing.add(noted for file in written for noted in file.signable)
            signed = self._signing.publish(self._dataset_id)
        seconds = time.perf_counter() - self._started
        parts = parts_of(written, service_calls=self._session.service_calls, seconds=seconds)
        return Summary.of("encrypt", parts, seconds, signed=signed)


def _check_beside(sink: Location, *, is_signed: bool, is_numbered: bool) -> list[Location]:
    """Pass if no statement would become false, and the names can be signed; return the files that may have one."""
    check_outside_datasets(sink)
    files = sidecar_files(sink, is_numbered=is_numbered)
    if is_signed:
        check_signable_paths([files[0].name])
    else:
        for file in files:
            check_unsigned_file(file)
    return files


class _WriterThread:
    """The thread behind a writer, and what it uses."""

    def __init__(self, feed: Feed, output: _BatchOutput, encoding: EncodeOptions, name: str) -> None:
        self._process = os.getpid()
        self.feed = feed
        self._output = output
        self._encoding = encoding
        self._name = name
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._encrypt, name="pipecrypt-encrypt", daemon=True)
        self._thread.start()

    def _encrypt(self) -> None:
        try:
            encrypt_rows(self.feed, self._output.files, self._encoding, name=self._name, on_batch=_ignore)
        except BaseException as error:  # raised again on the caller's thread
            self._error = error
            self._output.close()
        finally:
            self.feed.close()

    def finish(self, key_values: Mapping[bytes, bytes]) -> Summary:
        self.feed.finish()
        self._thread.join()
        self.reraise()
        return self._output.publish(key_values)

    def reraise(self) -> None:
        if self._error is not None:
            raise self._error

    def check_process(self) -> None:
        """Refuse what would wait for ever: a process that was forked has no thread to encrypt."""
        if os.getpid() != self._process:
            raise UsageError("the writer belongs to another process", hint="open one writer in each process")

    def abandon(self) -> None:
        """Make the thread give up. It tidies up itself, and only at the end of Python is it waited for.

        Garbage is collected on any thread, also on the one that would be waited for, or that it waits for. A forked
        child has no such thread, and the file is its parent's.
        """
        if os.getpid() != self._process:
            return
        self.feed.abort()
        if threading.current_thread() is threading.main_thread():
            self._thread.join()

    def discard(self) -> None:
        # Finalizers run in forked processes too. The temporary file is not theirs to remove.
        if os.getpid() != self._process:
            return
        self.feed.abort()
        self._thread.join()
        self._output.close()


def encrypt_batches(
    reader: Any,
    sink: Place,
    policy: Policy,
    *,
    schema: Any = None,
    max_file_bytes: int | None = None,
    overwrite: bool = False,
    storage_options: Mapping[str, object] | None = None,
    credentials: Credentials | None = None,
    accept_future_statement: bool = False,
) -> Summary:
    """Encrypt the batches of a reader into one file, or several of a size, and return the counts.

    Args:
        reader: a `pyarrow.RecordBatchReader` or `Table`, an iterable of record batches, or a frame of another library
            (`__arrow_c_stream__`).
        sink: the file; with `max_file_bytes`, numbers are added to its name.
        policy: what is encrypted under which key; also says how many rows a row group has, and their compression, and
            whether a signed statement appears beside each file, once all files are there.
        schema: of every batch; needed where there may be none.
        max_file_bytes: begin another file once one is as large.
        overwrite: replace files of those names.
        storage_options: for fsspec.
        credentials: what opens the keys; default: the environment of this process.
        accept_future_statement: replace signed files whose signer's clock was ahead; its time is not undercut.

    Raises:
        UsageError: the reader is none, or `max_file_bytes` no size.
        PipecryptError: see `pipecrypt.errors`; nothing is published then, unless publishing failed after the first of
            several files.
    """
    location, encoding = Location.of(sink, storage_options), _checked_policy(policy).encode_options()
    stream = batches_of(reader, schema)
    output = _BatchOutput(
        location,
        policy,
        max_file_bytes=max_file_bytes,
        overwrite=overwrite,
        credentials=credentials,
        accept_future_statement=accept_future_statement,
    )
    with closing(output):
        encrypt_rows(stream, output.files, encoding, name="the batches", on_batch=_ignore)
        return output.publish({})


def _checked_policy(policy: object) -> Policy:
    if not isinstance(policy, Policy):
        raise UsageError(
            "the policy is not a pipecrypt.Policy", hint="write Policy(default=KEYREF) or Policy(columns={...})"
        )
    if policy.is_chunks:
        raise UsageError("batches are not bytes that chunks could be made of", hint="use a policy of mode columns")
    return policy


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else bytes(text)


def _ignore(full: WrittenFile | None) -> None:
    del full
