"""Encrypt one batch into bytes and back, for queues and for engines that pass batches around.

The bytes are a whole encrypted Parquet file.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.errors import ColumnNotFoundError, FormatError, IntegrityError, NotEncryptedError, UsageError
from pipecrypt.formats.batches import batches_of
from pipecrypt.formats.row_groups import encode_row_groups
from pipecrypt.keys.credentials import Credentials, given_credentials
from pipecrypt.keys.held_keys import Session
from pipecrypt.keys.session import FileKeys, KeySession
from pipecrypt.parquet.files import FileEncryption, TableView, open_table_view
from pipecrypt.parquet.footer.columns import match_columns
from pipecrypt.runs.files import listed_keys
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.vocabulary.context import Context, new_dataset_id
from pipecrypt.vocabulary.ranges import MemorySource

__all__ = ["decrypt_bytes", "encrypt_bytes"]

_NAME: Final = "the batch"
_REQUIRED_HINT: Final = "require= asked for it: whoever made this message did not, or changed it"
_PATH: Final = "batch.parquet"
_MOST_SESSIONS: Final = 8
_VARIABLES: Final = "PIPECRYPT_"


def encrypt_bytes(batch: Any, policy: Policy, *, credentials: Credentials | None = None) -> bytes:
    """Return a batch as the bytes of an encrypted Parquet file, with data keys of its own.

    A process keeps the keys of the last few policies that it used, so ten thousand batches make one call per master
    key. Two batches encrypted so can take each other's place unnoticed: number them inside if that matters.

    Args:
        batch: a `pyarrow.RecordBatch` or `Table`, or a frame of another library (`__arrow_c_stream__`).
        policy: what is encrypted under which key; also says how many rows a row group has, and their compression.
        credentials: what opens the keys; default: the environment of this process.

    Raises:
        UsageError: the policy signs, shares keys with others, or encrypts files in chunks.
        PipecryptError: see `pipecrypt.errors`.
    """
    if not isinstance(policy, Policy) or policy.is_chunks:
        raise UsageError("the policy is not a pipecrypt.Policy for columns", hint="write Policy(default=KEYREF)")
    if policy.signing is not None:
        hint = "sign files or datasets; or use a policy without sign for batches"
        raise UsageError("the bytes of a batch carry no signature", hint=hint)
    if policy.also:
        raise UsageError("there is no place for grants beside a batch", hint="use a policy without also for batches")
    # Digests of what stays in plaintext, as of files that are signed: the footer's tag vouches for them.
    engine_policy, sink = replace(policy.engine_policy(), digest=DigestAlgorithm.SHA256), _MemorySink()
    session, dataset_id = _SESSIONS.find("write", engine_policy.key_references(), credentials)
    with FileEncryption(sink, engine_policy, keys=session, context=Context(dataset_id, _PATH)) as encryption:
        with closing(encode_row_groups(batches_of(batch), policy.encode_options())) as groups:
            for group in groups:
                encryption.append(MemorySource(group, _NAME))
        encryption.finish()
    return bytes(sink)


def decrypt_bytes(
    data: bytes | bytearray | memoryview,
    keys: Sequence[str],
    *,
    require: Iterable[str] | None = None,
    credentials: Credentials | None = None,
) -> pa.RecordBatch:
    """Return the batch in the bytes of an encrypted Parquet file, of whichever writer.

    Who puts a message into a queue also chooses what is encrypted in it, so say what must be. Your keys must
    authenticate its footer: it says what is encrypted, which types values have, and how many batches there are. With
    the digests that `encrypt_bytes` puts there, it vouches for columns in plaintext too.

    Args:
        data: what `encrypt_bytes` returned.
        keys: key references; only these are ever used.
        require: columns that must be there, and encrypted under `keys`: names, nested paths, roots or globs.
        credentials: what opens the keys; default: the environment of this process.

    Raises:
        AccessError: a key is missing or was refused.
        IntegrityError: the bytes were changed, or a column is in plaintext that must not be.
        NotEncryptedError: they are a plaintext file.
        UsageError: `data` is not bytes; `require` is a text instead of a list, or empty.
        FormatError: they are not a Parquet file, or truncated.
    """
    required = _required(require)
    if not isinstance(data, bytes | bytearray | memoryview):
        raise UsageError("the message is not bytes", hint="pass what encrypt_bytes returned")
    source = MemorySource(data, _NAME)
    session, _ = _SESSIONS.find("read", listed_keys(keys), credentials)
    with open_table_view(source, keys=FileKeys(session)) as view:
        if not view.is_encrypted:
            raise NotEncryptedError(f"{_NAME} is not encrypted")
        for column in sorted(view.locked_columns):
            view.check_column(column)
        _check_encrypted(view, required)
        plain = view.read_range(0, view.size_bytes)
    try:
        # Not read_table: it finds columns by their names, and two may have the same.
        with pq.ParquetFile(pa.BufferReader(plain)) as file:
            table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"{_NAME} cannot be decoded") from error
    return _one_batch(table)


def _required(require: Iterable[str] | None) -> tuple[str, ...]:
    if require is None:
        return ()
    patterns = () if isinstance(require, str) else tuple(require)
    if not patterns or not all(isinstance(each, str) for each in patterns):
        raise UsageError("require= takes a list of columns", hint='write require=["email"], or leave it out')
    return patterns


def _check_encrypted(view: TableView, required: Sequence[str]) -> None:
    """Pass if these columns are encrypted, and if nothing passes for decrypted that has no tag.

    A footer that nobody checks is not enough even where each column is encrypted: tags of pages do not tell types, nor
    how many batches there were.
    """
    leaves, clear = view.leaves, view.clear_columns
    for pattern in required:
        try:
            columns = match_columns(pattern, leaves, _NAME)
        except ColumnNotFoundError as error:
            raise IntegrityError(f"{error.message}, which must be there and encrypted", hint=_REQUIRED_HINT) from error
        for column in columns:
            if column in clear:
                raise IntegrityError(
                    f"column {leaves[column].dotted!r} of {_NAME} is not encrypted", hint=_REQUIRED_HINT
                )
    if required and not view.authenticates_pages:
        raise IntegrityError(f"{_NAME} names AES_GCM_CTR_V1, which does not authenticate pages", hint=_REQUIRED_HINT)
    if not view.is_authenticated:
        raise IntegrityError(
            f"nothing shows whether {_NAME} was changed: none of your keys belongs to its footer",
            hint="pass the footer's key too; if you did, somebody put another one into the message",
        )


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    if not batches:
        return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in table.schema], schema=table.schema)
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


class _MemorySink(bytearray):
    """The bytes of a file."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self += data


class _SessionCache:
    """The key sessions that this process used last, so that each batch does not unwrap or make a KEK anew."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, tuple[KeySession, str, Credentials]] = OrderedDict()
        atexit.register(self.forget)
        os.register_at_fork(after_in_child=self._begin_anew)

    def find(
        self, purpose: str, references: tuple[str, ...], credentials: Credentials | None
    ) -> tuple[KeySession, str]:
        """Return a session for a purpose, "read" or "write", and the dataset id of all batches that it writes."""
        given = given_credentials(credentials)
        environment = ((name, value) for name, value in os.environ.items() if name.startswith(_VARIABLES))
        is_own = credentials is None and not isinstance(given, Session)
        opener: Hashable = tuple(sorted(environment)) if is_own else id(given)
        name = (purpose, references, opener)
        with self._lock:
            self._drop_unusable()
            if name not in self._kept:
                dataset_id = new_dataset_id()
                written = dataset_id if purpose == "write" else None
                session = KeySession(references, credentials=given, dataset_id=written)
                self._kept[name] = (session, dataset_id, given)  # the last one so that its id is nobody else's
            self._kept.move_to_end(name)
            # A session that another thread still uses must not be wiped: it goes when that thread lets go of it.
            while len(self._kept) > _MOST_SESSIONS:
                self._kept.popitem(last=False)
            return self._kept[name][:2]

    def _drop_unusable(self) -> None:
        """Wipe the keys of a Session that was closed."""
        for name in [name for name, (session, _, _) in self._kept.items() if not session.is_usable]:
            self._kept.pop(name)[0].close()

    def _begin_anew(self) -> None:
        # A forked process has a KEK of its own: two processes that share one would not know how often it was used.
        # Another thread of the parent may have held the lock, or one of a session's, which nobody lets go of here.
        self._lock = threading.Lock()
        self._kept = OrderedDict()

    def forget(self) -> None:
        """Wipe all keys."""
        with self._lock:
            for session, _, _ in self._kept.values():
                session.close()
            self._kept.clear()


_SESSIONS: Final = _SessionCache()
