"""Compare files, each whole and several at once, with what was signed about them, and recognize others.

Findings are values here, because one file that was tampered with says nothing about the next. What keeps a file from
being looked at is a failure, and is told apart from them.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Final, NoReturn, TypeAlias, TypeVar

from pipecrypt.crypto.digest import DigestAlgorithm, digest
from pipecrypt.dataset.checked_source import digest_file
from pipecrypt.dataset.signed_file import MAX_OTHER_FOOTER_BYTES, SignedFile, check_bytes
from pipecrypt.dataset.statement.file_list import decode_file_list
from pipecrypt.dataset.statement.findings import Finding, FindingKind, KnownDigests, ObservedFile, compare_file
from pipecrypt.dataset.statement.paths import RESERVED_DIRECTORY, file_list_path
from pipecrypt.dataset.version import VerifiedVersion
from pipecrypt.errors import ContentError, DamagedKeystoreError, FormatError, IntegrityError, PipecryptError
from pipecrypt.parquet.files import decrypt_file
from pipecrypt.parquet.footer.opened import OpenedFile
from pipecrypt.parquet.footer.segments import check_opened_structure, check_structure
from pipecrypt.parquet.footer.stored import StoredFooter, parse_footer, read_footer_bytes, read_sealed_footer
from pipecrypt.parquet.protocols import DataKeys, PageCodec
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_range_source, open_store
from pipecrypt.store.protocol import SourceFile
from pipecrypt.store.small_files import LocatedFiles
from pipecrypt.vocabulary.ranges import RangeSource

__all__ = [
    "InspectionResult",
    "Inspector",
    "StoppedError",
    "Tell",
    "Unlocking",
    "read_known_digests",
    "work_through",
]


_END_BYTES: Final = 8
# What a broken promise says better.
_COVERED: Final = frozenset({FindingKind.MODIFIED, FindingKind.TRUNCATED})
_LIST_NAME: Final = re.compile(r"\A(?P<version>[1-9][0-9]{0,18})-(?P<digest>[0-9a-f]{16})\.jsonl\Z", re.ASCII)
_MAX_LISTS: Final = 4
_MAX_LIST_BYTES: Final = 64 << 20
_STOP_SECONDS: Final = 5.0
_THREAD_NAME: Final = "pipecrypt-verify"
_Thing = TypeVar("_Thing")
# Has something called on the caller's thread, in the middle of the work; raises StoppedError when the work is to end.
Tell: TypeAlias = Callable[[Callable[[], object]], None]
_Due: TypeAlias = "SimpleQueue[_Thing | None]"  # None: there is no more
_Told: TypeAlias = "SimpleQueue[Callable[[], object] | None]"  # None: the work on one thing is done


@dataclass(frozen=True, slots=True)
class Unlocking:
    """What opens files, so that their GCM tags can be checked too.

    Args:
        keys_of: finds the data keys of the file at a location.
        codec: decompresses files of chunks.
    """

    keys_of: Callable[[Location], DataKeys]
    codec: PageCodec

    def check(
        self, signed: SignedFile, opened: RangeSource, location: Location, on_bytes: Callable[[int], None]
    ) -> None:
        """Pass if every module of an encrypted file opens, and its rows are those that were signed.

        Raises:
            IntegrityError: a module, a key or a digest of a plaintext part is another.
            FormatError: the structure is impossible, or has another number of rows.
            AccessError: a key is missing or was refused.
        """
        keys = self.keys_of(location)
        sealed = read_sealed_footer(opened, bytes_check=check_bytes(signed))
        with OpenedFile(sealed, keys=keys, aad_prefix=None) as file:
            rows, _ = check_opened_structure(file)
        if rows != signed.entry.rows:
            raise FormatError(f"{opened.name} has {rows} rows, but {signed.entry.rows} were signed")
        decrypt_file(opened, _Nowhere(), keys=keys, codec=self.codec, on_bytes=on_bytes)


@dataclass(frozen=True, slots=True)
class InspectionResult:
    """What became of one file.

    Args:
        path: inside the dataset.
        size_bytes: its size.
        findings: how it differs from the signed one.
        failure: what kept it from being checked to the end.
    """

    path: str
    size_bytes: int
    findings: tuple[Finding, ...] = ()
    failure: PipecryptError | None = None


@dataclass(frozen=True, slots=True)
class Inspector:
    """Looks at files; safe to use from several threads.

    Args:
        digests: which digests of the whole file are computed; at least one of those that were signed.
        max_bytes: size of the largest file that was signed; of a larger one no more than its beginning is digested.
        known: tells swapped and old files from modified ones; called when a file differs.
        unlocking: checks GCM tags too; None without keys.
    """

    digests: tuple[DigestAlgorithm, ...]
    max_bytes: int
    known: Callable[[], KnownDigests]
    unlocking: Unlocking | None = None

    def inspect(self, signed: SignedFile, source: SourceFile, on_bytes: Callable[[int], None]) -> InspectionResult:
        """Return how a file differs from the signed one.

        Without findings and failure, all of this holds of the file that was there from beginning to end: 1. it has the
        signed size and digests; 2. it has the signed footer, rows and KEK ids; 3. it is encrypted as was promised, and
        bound to its place; 4. its parts lie inside of it and over no other part, and its counts agree; 5. with keys,
        every module has the tag that it was encrypted with, and each plaintext part the digest that the file names.

        Args:
            signed: what was signed about it.
            source: the file, pinned.
            on_bytes: told how many more bytes are done, with keys twice for each byte; what it raises passes through.
        """
        path = signed.entry.path
        try:
            with open_range_source(source) as opened:
                findings, failure = self._look(signed, opened, source.location, on_bytes)
        except DamagedKeystoreError:  # an error of the caller's keystore, not of the file
            raise
        except PipecryptError as error:  # no file that could be looked at, or one that changed meanwhile
            return InspectionResult(path, source.size_bytes, failure=error)
        return InspectionResult(path, source.size_bytes, findings, failure)

    def _look(
        self, signed: SignedFile, opened: RangeSource, location: Location, on_bytes: Callable[[int], None]
    ) -> tuple[tuple[Finding, ...], PipecryptError | None]:
        # One byte more than any signed file has, so that what was appended to one changes its digest.
        digests = digest_file(opened, self.digests, on_bytes=on_bytes, most_bytes=self.max_bytes + 1)
        seen = ObservedFile(opened.size_bytes, digests)
        is_other = bool(compare_file(signed.entry, seen))  # 1
        stored, malformed = _read_footer(signed, opened, is_other=is_other)
        findings = self._compare(signed, seen, stored)  # 2, 3
        if malformed is not None and not findings:
            findings = (Finding(FindingKind.MODIFIED, signed.entry.path, malformed),)
        if stored is None:
            return findings, None
        checks: list[Callable[[], object]] = []
        if not findings:
            checks.append(lambda: check_structure(stored, signed.entry.path))  # 4
        unlocking = self.unlocking
        if unlocking is not None and stored.sealed is not None:
            checks.append(lambda: unlocking.check(signed, opened, location, on_bytes))  # 5
        for check in checks:
            try:
                check()
            except DamagedKeystoreError:  # an error of the caller's keystore, not of the file
                raise
            except (IntegrityError, FormatError) as error:
                findings = (*findings, Finding(FindingKind.MODIFIED, signed.entry.path, error.message))
            except PipecryptError as error:
                return findings, error
        return findings, None

    def _compare(self, signed: SignedFile, seen: ObservedFile, stored: StoredFooter | None) -> tuple[Finding, ...]:
        if stored is None:
            return compare_file(signed.entry, seen, known=self.known)
        broken, differing = signed.compare(stored, seen.digests, known=self.known)
        if broken and all(each.kind in _COVERED for each in differing):
            return broken
        kinds = {each.kind for each in differing}
        return differing + tuple(each for each in broken if each.kind not in kinds)


def _read_footer(signed: SignedFile, opened: RangeSource, *, is_other: bool) -> tuple[StoredFooter | None, str | None]:
    """Return the footer, or why there is none. That of another file is parsed only to name what was done to it."""
    try:
        if is_other and _footer_bytes(opened) > MAX_OTHER_FOOTER_BYTES:
            return None, None
        found = read_footer_bytes(opened)
        seen = ObservedFile(found.size_bytes, footer_sha256=found.sha256)
        if not is_other and compare_file(signed.entry, seen):  # changed since the whole was digested
            return None, "another footer than was signed"
        return parse_footer(found), None
    except ContentError as error:
        # A changed byte may look like a feature of tomorrow. A file that was signed so is one for a later release.
        if not is_other and not isinstance(error, FormatError):
            raise
        return None, error.message


def _footer_bytes(opened: RangeSource) -> int:
    if opened.size_bytes < _END_BYTES:
        return 0
    return int.from_bytes(opened.read_range(opened.size_bytes - _END_BYTES, _END_BYTES // 2), "little")


class _Nowhere:
    """A sink that drops its bytes. It copies nothing by itself, so that all bytes are read and checked."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Drop `data`."""


# ---- files that were signed elsewhere or earlier ----


def read_known_digests(version: VerifiedVersion, files: LocatedFiles) -> KnownDigests:
    """Return the digests of this version's files and of the files of versions before, as far as lists are left."""
    paths = {value: path for path, entry in version.entries.items() for value in entry.digests().values()}
    earlier, earlier_paths = set[str](), set[str]()
    for number, sha256_start in _earlier_lists(version, files):
        try:
            data = files.read(f"{version.root}/{file_list_path(number, sha256_start)}", _MAX_LIST_BYTES) or b""
            if digest(data).startswith(sha256_start):
                for entry in decode_file_list(data, version.manifest.digests):
                    earlier_paths.add(entry.path)
                    earlier.update(entry.digests().values())
        except PipecryptError:
            continue  # a list that cannot be read tells nothing
    return KnownDigests(paths, earlier.difference(paths), earlier_paths)


def _earlier_lists(version: VerifiedVersion, files: LocatedFiles) -> list[tuple[int, str]]:
    """Return version and beginning of the digest of the newest lists before a version."""
    found = []
    try:
        for entry in open_store(files.location(f"{version.root}/{RESERVED_DIRECTORY}/files")).list(
            admits=lambda _: False
        ):
            match = _LIST_NAME.match(entry.path)
            if match is not None and entry.source is not None and int(match["version"]) < version.manifest.version:
                found.append((int(match["version"]), match["digest"]))
    except PipecryptError:
        return []
    return sorted(found, reverse=True)[:_MAX_LISTS]


# ---- several at once ----


class StoppedError(Exception):
    """The caller has left; whoever works on lets it pass. It never reaches a user."""


def work_through(things: Iterable[_Thing], work: Callable[[_Thing, Tell], object], *, workers: int) -> None:
    """Do the same with many things on several threads; what the work tells is called on this thread, in that order.

    No more than twice as many things as threads wait, however many there are. Leaving, by an exception too, stops the
    threads: each ends when it next tells something. They are daemons: one that hangs in a read of a dead network keeps
    nobody from leaving.

    Args:
        things: taken one by one, on this thread.
        work: done on another thread, for several things at once. What it raises is raised here.
        workers: how many threads; no more than things wait.
    """
    stopped = threading.Event()
    due: _Due[_Thing] = SimpleQueue()
    told: _Told = SimpleQueue()
    threads: list[threading.Thread] = []
    waiting = 0

    def listen(most_waiting: int) -> None:
        nonlocal waiting
        while waiting:
            try:
                call = told.get(block=waiting > most_waiting)
            except Empty:
                return
            if call is None:
                waiting -= 1
            else:
                call()

    try:
        for thing in things:
            due.put(thing)
            waiting += 1
            if len(threads) < min(workers, waiting):
                threads.append(
                    threading.Thread(target=_work, args=(work, due, told, stopped), name=_THREAD_NAME, daemon=True)
                )
                threads[-1].start()
            listen(2 * workers)
        listen(0)
    finally:
        stopped.set()
        deadline = time.monotonic() + _STOP_SECONDS
        for _ in threads:
            due.put(None)
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0))


def _work(work: Callable[[_Thing, Tell], object], due: _Due[_Thing], told: _Told, stopped: threading.Event) -> None:
    """Work on what is due until there is no more, or all of it was stopped; run by each thread."""

    def tell(call: Callable[[], object]) -> None:
        if stopped.is_set():
            raise StoppedError
        told.put(call)

    while (thing := due.get()) is not None and not stopped.is_set():
        try:
            work(thing, tell)
        except StoppedError:
            return
        except BaseException as error:
            told.put(partial(_raise, error))
            return
        told.put(None)


def _raise(error: BaseException) -> NoReturn:
    raise error
