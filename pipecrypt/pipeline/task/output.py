"""Encrypted files in the making: grown batch by batch, rolled over at a size, published when all are complete.

Each appears whole or not at all; where publishing fails in between, those before stay. Where the batches come from is
left to ingest and writer.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Final, Self

from pipecrypt.context import Context
from pipecrypt.dataset.sign.records import SignableFile
from pipecrypt.dataset.statement.paths import signature_path
from pipecrypt.errors import UsageError
from pipecrypt.keys.sessions.session import KeySession
from pipecrypt.parquet.encrypt import FileEncryption
from pipecrypt.parquet.limits import MAX_ORDINALS
from pipecrypt.parquet.policy import EncryptionPolicy
from pipecrypt.parquet.protocols import RangeSource
from pipecrypt.parquet.report import FileReport
from pipecrypt.pipeline.task.earlier_attempt import open_output
from pipecrypt.pipeline.task.signable_output import SignableOutput
from pipecrypt.storage.location import Location
from pipecrypt.storage.sink import Publication, exists

__all__ = ["OutputSpec", "RollingOutput", "WrittenFile", "numbered", "sidecar_files", "unnumbered"]

_NO_KEY_VALUES: Final[Mapping[bytes, bytes]] = {}
_DIGITS: Final = 5
_NUMBERED: Final = re.compile(rf"(?P<stem>.*)-\d{{{_DIGITS},}}(?P<suffix>\.[^.]*)?", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSpec:
    """Where encrypted files go, and how.

    Args:
        sink: the file, or the first of several.
        path: its path below the sink, bound into what is encrypted.
        policy: which columns under which key.
        dataset_id: bound likewise.
        overwrite: whether files may be replaced.
        token: the run's; marks temporary files.
        max_file_bytes: begin another file once this one is as large; None for one file whatever its size.
        is_repeated: whether an earlier attempt may have published files, which are replaced.
    """

    sink: Location
    path: str
    policy: EncryptionPolicy
    dataset_id: str
    overwrite: bool
    token: str
    max_file_bytes: int | None = None
    is_repeated: bool = False


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


def numbered(path: str, index: int) -> str:
    """Return the path of the file at `index` (from 0) among those that `path` is rolled over to."""
    stem, suffix = posixpath.splitext(path)
    return f"{stem}-{index:0{_DIGITS}}{suffix}"


def unnumbered(path: str) -> str | None:
    """Return the path that may be rolled over to `path`, the reverse of `numbered`; None where there is none."""
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
        if files and not exists(file.sibling(signature_path(file.name))):
            return files
        files.append(file)
    raise AssertionError("counting does not end")


class _File:
    """One file: its publication and its encryption."""

    def __init__(self, publication: Publication, path: str, spec: OutputSpec, session: KeySession) -> None:
        self.publication = publication
        self.path = path
        self._output = SignableOutput(publication, session, spec.policy)
        context = Context(spec.dataset_id, path)
        self.encryption = FileEncryption(self._output.sink, spec.policy, keys=self._output.keys, context=context)

    def finish(self, key_values: Mapping[bytes, bytes]) -> WrittenFile:
        with self.encryption:
            report = self.encryption.finish(key_values)
        self.publication.complete()
        return WrittenFile(self.path, report, self._output.note(self.path, report))


class RollingOutput:
    """One encrypted file, or several in a row; a context manager that discards what was not published.

    Args:
        spec: where and how.
        session: makes data keys; it stays its owner's.

    Raises:
        SinkNotEmptyError: a file is there already, and may not be replaced.
        StorageError: the storage refused or failed.
        UsageError: several files would go to standard output.
    """

    def __init__(self, spec: OutputSpec, session: KeySession) -> None:
        """Open the first file."""
        if spec.max_file_bytes is not None and spec.sink.is_standard_stream:
            raise UsageError("standard output cannot hold several files", hint="leave out the size of a file")
        self._spec = spec
        self._session = session
        self._publications: list[Publication] = []
        self._written: list[WrittenFile] = []
        self._file: _File | None = self._begin(0)

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
            self._file = self._begin(len(self._publications))
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

    def _begin(self, index: int) -> _File:
        spec = self._spec
        sink, path = spec.sink, spec.path
        if spec.max_file_bytes is not None:
            sink, path = sink.sibling(numbered(sink.name, index)), numbered(path, index)
        earlier = Context(spec.dataset_id, path) if spec.is_repeated else None
        publication = open_output(sink, overwrite=spec.overwrite, token=spec.token, earlier=earlier)
        self._publications.append(publication)
        return _File(publication, path, spec, self._session)

    def _finish_full(self) -> WrittenFile | None:
        file, limit = self._file, self._spec.max_file_bytes
        if file is None or limit is None or not file.encryption.batches:
            return None
        if file.encryption.size_bytes < limit and file.encryption.batches < MAX_ORDINALS:
            return None
        self._file = None
        self._written.append(file.finish(_NO_KEY_VALUES))
        return self._written[-1]
