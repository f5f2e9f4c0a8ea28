"""Encrypted files in the making: opened, grown batch by batch, rolled over at a size, published when all are complete.

Each appears whole or not at all; where publishing fails in between, those before stay. What a signature will say about
a file is noted while it is written: bytes are digested on their way to the storage, so nothing is read back.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from types import TracebackType
from typing import Final, Self

from pipecrypt.crypto.digest import DigestAlgorithm, Digester
from pipecrypt.dataset.memory import VersionMemory
from pipecrypt.dataset.share.grants import add_grants
from pipecrypt.dataset.sign.promises import note_file
from pipecrypt.dataset.sign.records import SignableFile
from pipecrypt.dataset.sign.signers import OpenSigners
from pipecrypt.dataset.signed_file import written_as
from pipecrypt.dataset.statement.paths import GRANTS_PATH, GRANTS_SUFFIX, signature_path
from pipecrypt.errors import SinkNotEmptyError, StorageError, UsageError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.grants import Grant
from pipecrypt.keys.session import FileKeys, KeySession
from pipecrypt.parquet.files import MAX_ORDINALS, FileEncryption
from pipecrypt.parquet.policy import EncryptionPolicy
from pipecrypt.parquet.protocols import AppendSink, DataKeys
from pipecrypt.parquet.report import FileReport
from pipecrypt.runs.report.events import Part
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.store.publication import Publication
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.ranges import RangeSource

__all__ = [
    "DigestingSink",
    "RollingOutput",
    "SignableOutput",
    "Target",
    "WrittenFile",
    "is_of_dataset",
    "is_written_as",
    "numbered",
    "open_signers",
    "parts_of",
    "sidecar_files",
    "store_grants",
    "unnumbered",
]

_NO_KEY_VALUES: Final[Mapping[bytes, bytes]] = {}
_DIGITS: Final = 5
_NUMBERED: Final = re.compile(rf"(?P<stem>.*)-\d{{{_DIGITS},}}(?P<suffix>\.[^.]*)?", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where an output appears, and which file it may replace.

    Args:
        sink: the file; the first of several, where outputs roll over at a size.
        path: its path below the sink, bound into what is encrypted.
        token: the run's; marks its temporary files.
        dataset_id: bound into what is encrypted; None for plaintext.
        overwrite: whether it may replace any file.
        is_repeated: whether an earlier attempt of this run may have published the output. That is replaced, and nothing
            else: what is encrypted names its dataset and path. Plaintext does not, so it is replaced whatever it is.
        is_free: whether the run knows that nothing is there; as for `Store.write`.
    """

    sink: Location
    path: str
    token: str
    dataset_id: str | None = None
    overwrite: bool = False
    is_repeated: bool = False
    is_free: bool = False

    def numbered(self, index: int) -> Target:
        """Return the target of the file at `index` (from 0) among those that the output is divided into."""
        return replace(self, sink=self.sink.sibling(numbered(self.sink.name, index)), path=numbered(self.path, index))

    def open(self, *, expected_bytes: int | None = None) -> Publication:
        """Open a new file there.

        What an earlier attempt has published by now may be replaced. What appears from now on is of an attempt that
        works at the same time, or of somebody else: it stays, because its result may count already.

        Nobody has signed what a file says of its dataset. But whoever can plant a file that claims to be the run's
        could as well remove the run's own.

        Args:
            expected_bytes: about how large the file will be, where that is known.

        Raises:
            SinkNotEmptyError: a file is there, and may not be replaced.
            StorageError: the storage refused or failed.
        """
        overwrite = self.overwrite or (self.is_repeated and self.dataset_id is None)
        try:
            return open_store(self.sink).write(
                overwrite=overwrite, token=self.token, expected_bytes=expected_bytes, is_free=self.is_free
            )
        except SinkNotEmptyError:
            if not self.is_repeated or not self.is_own_file(self.sink, self.path):
                raise
        return open_store(self.sink).write(overwrite=True, token=self.token, expected_bytes=expected_bytes)

    def is_own_file(self, place: Location, path: str) -> bool:
        """Return whether the file at `place` says that it is the output at `path` of this target's dataset."""
        return self.dataset_id is not None and is_written_as(place, Context(self.dataset_id, path))


def is_written_as(place: Location, context: Context) -> bool:
    """Return whether the file at a place says that it is of that dataset and path; no where it cannot be read."""
    try:
        file = open_store(place).stat().regular()
    except StorageError:
        return False
    return file is not None and written_as(file) == context


def is_of_dataset(sink: Location, path: str, dataset_id: str) -> bool:
    """Return whether the file at a path below a sink says that it is of a dataset. Anybody may write one that says so.

    Raises:
        StorageError: the storage refused or failed.
    """
    file = open_store(sink).stat(path).regular()
    context = None if file is None else written_as(file)
    return context is not None and context.dataset_id == dataset_id


def numbered(path: str, index: int) -> str:
    """Return the path of the file at `index` (from 0) among those that `path` is divided into."""
    stem, suffix = posixpath.splitext(path)
    return f"{stem}-{index:0{_DIGITS}}{suffix}"


def unnumbered(path: str) -> str | None:
    """Return the path that may be divided into `path` and others, the reverse of `numbered`; None if there is none."""
    found = _NUMBERED.fullmatch(path)
    return None if found is None else found["stem"] + (found["suffix"] or "")


def sidecar_files(sink: Location, *, is_numbered: bool) -> list[Location]:
    """Return where files will be that may have a statement beside them already.

    Args:
        sink: the one file.
        is_numbered: whether it is rolled over, so that numbers are added to its name.
    """
    if not is_numbered:
        return [sink]
    files: list[Location] = []
    for index in count():
        file = sink.sibling(numbered(sink.name, index))
        if files and not open_store(file.sibling(signature_path(file.name))).stat().exists():
            break
        files.append(file)
    return files


class DigestingSink:
    """An AppendSink that digests what it passes on. It copies no ranges: nobody would see those bytes.

    Args:
        sink: where the bytes go.
        algorithm: how they are digested.

    Raises:
        MissingExtraError: BLAKE3 is asked for, and its package is not installed.
    """

    __slots__ = ("_digester", "_sink")

    def __init__(self, sink: AppendSink, algorithm: DigestAlgorithm) -> None:
        """Begin with no bytes."""
        self._sink = sink
        self._digester = Digester(algorithm)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append all of `data`; raises what the sink raises."""
        self._digester.update(data)
        self._sink.write(data)

    def hexdigest(self) -> str:
        """Return the digest of everything written so far."""
        return self._digester.hexdigest()


class SignableOutput:
    """Where one file is written, and the keys it is written with.

    Attributes:
        sink: what the engine writes to.
        keys: what the engine makes data keys with.

    Args:
        publication: of the file.
        session: makes data keys, or opens them.
        policy: under which the file is written; without a digest nothing is noted. None for plaintext.
    """

    __slots__ = ("_digesting", "_policy", "_recording", "keys", "publication", "session", "sink")

    def __init__(self, publication: Publication, session: KeySession, policy: EncryptionPolicy | None) -> None:
        """Stand between engine and storage, if the policy asks for it."""
        self.publication = publication
        self.session = session
        self._policy = policy
        algorithm = None if policy is None else policy.digest
        self._digesting = None if algorithm is None else DigestingSink(publication, algorithm)
        self._recording = FileKeys(session)
        self.sink: AppendSink = publication if self._digesting is None else self._digesting
        self.keys: DataKeys = session if self._digesting is None else self._recording

    def add_kek_ids(self, kek_ids: Iterable[str]) -> None:
        """Note KEKs under which other processes wrapped data keys of the file."""
        self._recording.add_kek_ids(kek_ids)

    def note(self, path: str, report: FileReport) -> tuple[SignableFile, ...]:
        """Return what a signature will say about the file, which is complete; nothing where nothing is signed.

        Args:
            path: of the file below the sink.
            report: what the engine did.

        Raises:
            UsageError: a statement cannot hold it.
        """
        if self._digesting is None or self._policy is None:
            return ()
        digest = self._digesting.hexdigest()
        return (note_file(path, report, digest, policy=self._policy, keys=self._recording),)


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file that is complete, and not published yet.

    Args:
        path: its path below the sink.
        report: its counts.
        signable: what a signature will say about it; empty where nothing is signed.
    """

    path: str
    report: FileReport
    signable: tuple[SignableFile, ...]


def parts_of(
    written: Sequence[WrittenFile],
    *,
    service_calls: int,
    seconds: float,
    source_bytes: Sequence[int | None] | None = None,
    bad_rows: int = 0,
) -> tuple[Part, ...]:
    """Return the records of files that were made of one input; what cannot be told apart counts for the first.

    Args:
        written: the files.
        service_calls: calls to key services.
        seconds: that all of them took.
        source_bytes: how much of the input went into each; None for what the engine read.
        bad_rows: rows of the input that were left out.
    """
    parts = []
    for index, (file, share) in enumerate(zip(written, source_bytes or [None] * len(written), strict=True)):
        report, is_first = file.report, index == 0
        parts.append(
            Part(
                path=file.path,
                source_bytes=report.source_bytes if share is None else share,
                sink_bytes=report.sink_bytes,
                rows=report.rows,
                batches=report.batches,
                data_keys=report.data_keys,
                service_calls=service_calls if is_first else 0,
                seconds=seconds if is_first else 0.0,
                bad_rows=bad_rows if is_first else 0,
            )
        )
    return tuple(parts)


def store_grants(sink: Location, paths: Iterable[str], grants: Sequence[Grant], *, is_single_file: bool) -> None:
    """Store grants for more master keys beside what was written.

    Args:
        sink: a directory, or a file.
        paths: of the files that appeared, below the sink; their names where the sink is a file.
        grants: to be stored; may be none.
        is_single_file: whether it is a file; several, then, if it is rolled over.

    Raises:
        ConflictError: another command holds the lock of the grants.
        PipecryptError: the storage refused or failed; the files stay, and `pipecrypt grant` makes up for it.
    """
    if not grants:
        return
    if not is_single_file:
        add_grants(sink.child(GRANTS_PATH), grants)
        return
    for path in paths:
        add_grants(sink.sibling(path + GRANTS_SUFFIX), grants)


def open_signers(
    policy: Policy | None, credentials: Credentials, *, accept_future_statement: bool
) -> OpenSigners | None:
    """Open the signing keys that a policy names, for this user; the caller closes them. None where it names none.

    Args:
        policy: None where nothing is encrypted.
        credentials: what opens the keys.
        accept_future_statement: whether to follow a statement of a signer whose clock was ahead.

    Raises:
        AccessError: a signing key is missing, or the credentials do not open it.
    """
    options = None if policy is None else policy.signing
    if options is None:
        return None
    return OpenSigners(
        replace(options, accept_future_statement=accept_future_statement),
        credentials,
        VersionMemory.of_user(os.environ),
    )


class _OutputFile:
    """One file: its publication and its encryption."""

    def __init__(self, publication: Publication, target: Target, policy: EncryptionPolicy, session: KeySession) -> None:
        self.publication = publication
        self._path = target.path
        self._output = SignableOutput(publication, session, policy)
        context = Context(target.dataset_id or "", target.path)
        self.encryption = FileEncryption(self._output.sink, policy, keys=self._output.keys, context=context)

    def finish(self, key_values: Mapping[bytes, bytes]) -> WrittenFile:
        with self.encryption:
            report = self.encryption.finish(key_values)
        self.publication.complete()
        return WrittenFile(self._path, report, self._output.note(self._path, report))


class RollingOutput:
    """One encrypted file, or several in a row; a context manager that discards what was not published.

    Args:
        target: where.
        policy: which columns under which key.
        session: makes data keys; it stays its owner's.
        max_file_bytes: begin another file once this one is as large; None for one file whatever its size.

    Raises:
        SinkNotEmptyError: a file is there already, and may not be replaced.
        StorageError: the storage refused or failed.
        UsageError: several files would go to standard output.
    """

    def __init__(
        self, target: Target, policy: EncryptionPolicy, session: KeySession, *, max_file_bytes: int | None = None
    ) -> None:
        """Open the first file."""
        if max_file_bytes is not None and target.sink.is_standard_stream:
            raise UsageError("standard output cannot hold several files", hint="leave out the size of a file")
        self._target = target
        self._policy = policy
        self._session = session
        self._max_file_bytes = max_file_bytes
        self._publications: list[Publication] = []
        self._written: list[WrittenFile] = []
        self._file: _OutputFile | None = self._begin()

    def __enter__(self) -> Self:
        """Return the output."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Discard what was not published, and wipe all keys."""
        self.discard()

    def append(self, source: RangeSource) -> WrittenFile | None:
        """Append the row groups of a plaintext Parquet file in memory; return the file that was full before it, if any.

        Raises:
            PipecryptError: as `FileEncryption.append`.
        """
        full = self._finish_full()
        if self._file is None:
            self._file = self._begin()
        self._file.encryption.append(source)
        return full

    def finish(self, key_values: Mapping[bytes, bytes] = _NO_KEY_VALUES) -> tuple[WrittenFile, ...]:
        """Complete the last file and return all of them; nothing is published yet."""
        if self._file is not None:
            file, self._file = self._file, None
            self._written.append(file.finish(key_values))
        return tuple(self._written)

    def publish(self, *, just_before: Callable[[], None] | None = None) -> None:
        """Make all files appear, in their order.

        Args:
            just_before: called once, before the first one appears. What it raises passes through, and none appears.

        Raises:
            PipecryptError: as `Publication.publish`; the files before the one that failed stay, whole as they are,
                and those after it do not appear.
        """
        if just_before is not None:
            just_before()  # all files are complete
        for publication in self._publications:
            publication.publish()

    def discard(self) -> None:
        """Remove all that was not published. Safe to call twice, and after publishing."""
        file, self._file = self._file, None
        try:
            if file is not None:
                # An error tells the encryption to write nothing more.
                file.encryption.__exit__(GeneratorExit, GeneratorExit(), None)
        finally:
            for publication in self._publications:
                publication.discard()

    def _begin(self) -> _OutputFile:
        target = self._target
        if self._max_file_bytes is not None:
            target = target.numbered(len(self._publications))
        publication = target.open()
        self._publications.append(publication)
        return _OutputFile(publication, target, self._policy, self._session)

    def _finish_full(self) -> WrittenFile | None:
        file, limit = self._file, self._max_file_bytes
        if file is None or limit is None or not file.encryption.batches:
            return None
        if file.encryption.size_bytes < limit and file.encryption.batches < MAX_ORDINALS:
            return None
        self._file = None
        self._written.append(file.finish(_NO_KEY_VALUES))
        return self._written[-1]
