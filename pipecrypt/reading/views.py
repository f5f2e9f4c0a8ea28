"""The plaintext views of the files of one file system: which view a file gets, and the ones kept under one key session.

What kind of view a file gets is decided in `Views._show`, and nowhere else. Where keys are trusted, no file gets one,
or is shown as it is stored, before it was compared with what was signed.
"""

from __future__ import annotations

import difflib
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from pipecrypt.dataset.checked_source import CheckedSource
from pipecrypt.dataset.requirements import Checks, checks_of, warn_unchecked
from pipecrypt.dataset.signed_file import SignedFile, check_file, check_when_opened
from pipecrypt.dataset.signed_sources import SignedRanges, first_signed
from pipecrypt.dataset.trust import Trust, VerifyMode
from pipecrypt.errors import ConflictError, IntegrityError, PipecryptError, StorageError, UsageError
from pipecrypt.formats.compression import ZstdCodec
from pipecrypt.keys.credentials import Credentials, given_credentials
from pipecrypt.keys.held_keys import Session
from pipecrypt.keys.session import KeySession
from pipecrypt.parquet.files import BlobView, ChunkCache, MissingKeys, is_parquet, open_view
from pipecrypt.parquet.footer.opened import count_rows
from pipecrypt.parquet.footer.stored import read_stored_footer
from pipecrypt.reading.statements import Statements
from pipecrypt.reading.view_file import FileView
from pipecrypt.runs.file_keys import keys_of_object
from pipecrypt.runs.files import listed_keys
from pipecrypt.store.filesystem import fingerprint_of, read_stored, size_of
from pipecrypt.store.problems import map_errors
from pipecrypt.vocabulary.context import parse_aad_prefix
from pipecrypt.vocabulary.ranges import SourceTraits

__all__ = ["FileRanges", "StoredFile", "Views", "check_names", "view_options"]

_KEYS_VARIABLE: Final = "PIPECRYPT_KEYS"
_NAMES: Final = (
    "keys",
    "trust",
    "threshold",
    "verify",
    "min_version",
    "dataset_id",
    "on_missing_key",
    "aad_prefix",
)
_OF_FSSPEC: Final = frozenset({"fo", "fs", "key", "token", "kwargs"})
_END_BYTES: Final = 64 * 1024
_KEPT_VIEWS: Final = 16
_KEPT_BYTES: Final = 256 << 20  # plaintext of all views together
_OPENING_LOCKS: Final = 64


@dataclass(frozen=True, slots=True)
class ViewOptions:
    """How files are shown.

    Args:
        keys: key references; None: those of the environment.
        missing: what is shown of columns whose key is missing.
        aad_prefix: of files that do not store it.
        trust: what is checked of signatures.
    """

    keys: tuple[str, ...] | None
    missing: MissingKeys
    aad_prefix: bytes | None
    trust: Trust = field(default_factory=Trust)


def view_options(
    keys: Sequence[str] | None, on_missing_key: str, aad_prefix: str | bytes | None, trust: Trust
) -> ViewOptions:
    """Check what a caller gave.

    Args:
        keys: key references, or None for those of the environment.
        on_missing_key: "error" or "null".
        aad_prefix: bytes; or text, or `hex:` and hex digits.
        trust: what is checked of signatures.

    Raises:
        UsageError: an option is malformed.
    """
    try:
        missing = MissingKeys(on_missing_key)
    except ValueError:
        raise UsageError(
            f"on_missing_key is {on_missing_key!r}", hint='write on_missing_key="error" or on_missing_key="null"'
        ) from None
    prefix = parse_aad_prefix(aad_prefix) if isinstance(aad_prefix, str) else aad_prefix
    return ViewOptions(None if keys is None else listed_keys(keys), missing, prefix, trust)


def check_names(others: Collection[str]) -> None:
    """Refuse options of fsspec's that look like ours: a misspelt one would be taken as not given.

    Raises:
        UsageError: one does.
    """
    for name in others:
        near = difflib.get_close_matches(name, _NAMES, n=1)
        if near and name not in _OF_FSSPEC:
            raise UsageError(f"the file system has no option {name!r}", hint=f"did you mean {near[0]!r}?")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as its storage has it.

    Args:
        fs: the fsspec file system that stores it.
        path: its path there, by which it is shown.
        size_bytes: its size.
        fingerprint: changes when the file does.
        lies_at: where it is read instead, while a run moves it from where it was staged to its place.
    """

    fs: Any
    path: str
    size_bytes: int
    fingerprint: str
    lies_at: str | None = None

    @property
    def place(self) -> str:
        """Where it is read."""
        return self.lies_at or self.path


def stat_file(fs: Any, path: str, place: str) -> StoredFile | None:
    """Return the file that lies at a place, shown by its path; None if there is none."""
    with map_errors(f"cannot read {path}"):
        try:
            info = fs.info(place)
        except FileNotFoundError:
            return None
    if info.get("type") != "file":
        return None
    return StoredFile(fs, path, size_of(info, path), fingerprint_of(info), None if place == path else place)


def open_places(file: StoredFile, signed: SignedFile) -> Iterator[FileRanges]:
    """Open the file at its other place and at its path, as what is there now."""
    for place in (signed.other_place(file.path), file.path):
        found = None if place is None else stat_file(file.fs, file.path, place)
        if found is not None:
            with suppress(ConflictError):
                yield FileRanges(found)


class FileRanges:
    """Ranges of a file of some fsspec file system, one request each, and several side by side where it can."""

    traits = SourceTraits()

    __slots__ = ("_ends", "_file", "name", "size_bytes")

    def __init__(self, file: StoredFile) -> None:
        """Fetch both ends, which opening a file takes, at once."""
        self._file = file
        self.name = file.path
        self.size_bytes = size = file.size_bytes
        tail = max(0, size - _END_BYTES)
        ranges = [(0, min(size, _END_BYTES))] if tail == 0 else [(0, 4), (tail, size - tail)]
        self._ends: list[tuple[int, memoryview]] = []
        if size:
            self._ends = [(start, data) for (start, _), data in zip(ranges, self.read_many(ranges), strict=True)]

    def forget_ends(self) -> None:
        """Forget what was fetched when it was opened."""
        self._ends = []

    def read_range(self, start: int, length: int) -> memoryview:
        """Return exactly `length` bytes from `start`.

        Raises:
            ConflictError: the file went away.
            StorageError: the storage failed, or something else than a file is there.
        """
        for first, data in self._ends:
            if first <= start and start + length <= first + len(data):
                return data[start - first : start - first + length]
        return self.read_many([(start, length)])[0]

    def read_into(self, start: int, out: memoryview) -> None:
        """Fill `out` with the bytes from `start`; raises what `read_range` raises."""
        out[:] = self.read_range(start, len(out))

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Return the bytes of each range (start, length); raises what `read_range` raises."""
        with map_errors(f"cannot read {self.name}"):
            try:
                found = read_stored(self._file.fs, self._file.place, ranges)
            except FileNotFoundError as error:
                raise ConflictError(f"{self.name} went away while it was read", hint="open it once more") from error
        for (_, length), data in zip(ranges, found, strict=True):
            if len(data) != length:
                raise StorageError(
                    f"{self.name}: the storage returned {len(data)} bytes where {length} were asked for",
                    hint="the file changed while it was read, or the storage does not serve ranges",
                )
        return [memoryview(data) for data in found]


@dataclass(frozen=True, slots=True)
class _OpenKeys:
    """What files are opened with.

    Args:
        references: of the keys.
        credentials: what opened the keys.
        session: opens the keys.
        checks: what is checked.
        statements: say what was signed; None where nothing is compared.
    """

    references: tuple[str, ...]
    credentials: Credentials
    session: KeySession
    checks: Checks
    statements: Statements | None

    @property
    def generation(self) -> int:
        """Changes when a statement was replaced."""
        return 0 if self.statements is None else self.statements.generation


class Views:
    """The views of one file system. Safe to use from several threads; closing it wipes all keys.

    Args:
        fs: the fsspec file system that stores the files.
        options: how files are shown.
        credentials: what opens the keys; None: the environment, when the first key is needed.
        pinned: what was signed about files that were listed before, by path; None: looked for as files are opened.

    Raises:
        UsageError: what is trusted holds no public key, or the options contradict each other.
        KeyReferenceError: a trusted key's reference is malformed, or has an unknown scheme.
        AccessError: a trusted key's reference names no key.
    """

    def __init__(
        self,
        fs: Any,
        options: ViewOptions,
        credentials: Credentials | None = None,
        *,
        pinned: Mapping[str, SignedFile] | None = None,
    ) -> None:
        """Read what is trusted; open no key yet."""
        self._fs = fs
        self._options = options
        self._credentials = credentials
        self._pinned = pinned
        self._asked = options.trust.completed(os.environ)
        self._checks = self._read_checks(self._asked)
        self._statements = self._new_statements()
        # Taken in this order. The last two may be taken again: a file system that is collected closes its views on
        # whatever thread is at work, perhaps in here.
        self._opening = tuple(threading.Lock() for _ in range(_OPENING_LOCKS))
        self._session_lock = threading.RLock()  # of the session
        self._lock = threading.RLock()  # of the views and their users
        self._is_closed = False
        self._open_keys: _OpenKeys | None = None
        # By path, and whether statistics are shown: the file's fingerprint, the generation of the statements that it
        # was compared with, and its view; or None where it is shown as it is stored.
        self._views: OrderedDict[tuple[str, bool], tuple[str, int, FileView | None]] = OrderedDict()
        self._users: Counter[int] = Counter()
        self._kept = ChunkCache(_KEPT_BYTES)

    def view(self, file: StoredFile, *, statistics: bool = True) -> FileView | None:
        """Return the view of a file, or None where it is shown as it is stored.

        Args:
            file: as its storage has it.
            statistics: show those of encrypted columns; see `TableView`.

        Raises:
            FormatError: a Parquet file is truncated or malformed.
            AccessError: a key cannot be opened, or that of an encrypted footer is missing.
            IntegrityError: the footer was changed after it was written.
            StorageError: the storage failed.
        """
        with self._opening[hash(file.path) % _OPENING_LOCKS]:  # of two threads that want one new file, one opens it
            current = self._open_current()
            known = self.known(file, statistics=statistics)
            if known is None:
                generation = current.generation
                view = self._open(file, current, statistics=statistics)
                self._keep((file.path, statistics), file, generation, view, current)
            else:
                view = known[0]
        if view is not None and current.checks.warns:
            warn_unchecked()
        return view

    def count_rows(self, file: StoredFile) -> int:
        """Return the rows of a table, as its footer says; no column's key is opened for it, and no view is kept.

        Raises:
            UsageError: the file holds no table.
            FormatError: no Parquet file, truncated or malformed.
            AccessError: the footer is encrypted, and its key is missing or was refused.
            IntegrityError: the footer was changed after it was written.
            StorageError: the storage failed.
        """
        current = self._open_current()
        stored = read_stored_footer(FileRanges(file))
        keys = keys_of_object(file.fs, file.path, current.session)
        rows = count_rows(stored, keys=keys, aad_prefix=self._options.aad_prefix)
        if stored.sealed is not None and current.checks.warns:
            warn_unchecked()
        return rows

    def known(self, file: StoredFile, *, statistics: bool = True) -> tuple[FileView | None] | None:
        """Return the view in a tuple if it was opened before and the file is still the same, else None."""
        with self._lock:
            known = self._views.get((file.path, statistics))
            generation = 0 if self._open_keys is None else self._open_keys.generation
            if known is None or known[:2] != (file.fingerprint, generation):
                return None
            self._views.move_to_end((file.path, statistics))
            return known[2:]

    def use(self, view: FileView) -> None:
        """Say that a file object reads the view from now on."""
        with self._lock:
            self._users[id(view)] += 1

    def leave(self, view: FileView) -> None:
        """Say that a file object was closed; with the last one, plaintext is forgotten."""
        with self._lock:
            self._users[id(view)] -= 1
            is_last = self._users[id(view)] <= 0
            if is_last:
                del self._users[id(view)]
        if is_last:
            view.forget_plaintext()

    def close(self, *, for_good: bool = False) -> None:
        """Wipe all keys and forget all plaintext. Safe to call twice; file objects that are open fail from now on.

        Args:
            for_good: refuse to open files from now on.
        """
        with self._session_lock, self._lock:
            self._is_closed = self._is_closed or for_good
            self._close_current()
            self._statements = self._new_statements()

    def statements(self) -> Statements | None:
        """Return what says what was signed; None where nothing is compared. No key is opened for it."""
        with self._session_lock:
            self._read_trust()
            return self._statements

    def trusted_pems(self) -> tuple[str, ...] | None:
        """Return the public keys that are trusted now, as PEM; None where nothing is compared."""
        with self._session_lock:
            self._read_trust()
            requirements = self._checks.requirements
            return None if requirements is None else requirements.trust.texts

    def _open_current(self) -> _OpenKeys:
        with self._session_lock:
            if self._is_closed:
                raise _closed()
            self._read_trust()
            current = self._open_keys
            credentials = self._current_credentials()
            references = self._options.keys
            if references is None:
                references = tuple(credentials.environ.get(_KEYS_VARIABLE, "").split())
            is_outdated = current is None or not current.session.is_usable or current.references != references
            if current is None or is_outdated or current.statements is not self._statements:
                with self._lock:
                    self._close_current()
                session = KeySession(references, credentials=credentials)
                current = _OpenKeys(references, credentials, session, self._checks, self._statements)
                self._open_keys = current
            return current

    def _current_credentials(self) -> Credentials:
        current = self._open_keys
        if current is not None and isinstance(current.credentials, Session) and current.session.is_usable:
            return current.credentials  # also on threads where it is not the active one
        return given_credentials(self._credentials)

    def _close_current(self) -> None:
        for _, _, view in self._views.values():
            if view is not None:
                view.close()
        self._views.clear()
        if self._open_keys is not None:
            self._open_keys.session.close()
            self._open_keys = None

    def _read_trust(self) -> None:
        # Pinned files stay with what they were listed under.
        asked = self._asked if self._pinned is not None else self._options.trust.completed(os.environ)
        if asked != self._asked:
            self._checks = self._read_checks(asked)
            self._asked = asked
            self._statements = self._new_statements()

    def _read_checks(self, asked: Trust) -> Checks:
        return checks_of(asked, os.environ, given_credentials(self._credentials))

    def _new_statements(self) -> Statements | None:
        requirements = self._checks.requirements
        return None if requirements is None else Statements(self._fs, requirements, pinned=self._pinned)

    def find_elsewhere(self, path: str) -> StoredFile | None:
        """Return a signed file that is not at its path from where a run has it; None if it is not there."""
        statements = self.statements()
        if statements is None:
            return None
        with suppress(PipecryptError):  # what is not signed is nowhere else either
            signed = statements.find(path)
            newer = statements.find_again(path, signed)
            for each in (signed,) if newer is None else (newer, signed):
                place = each.other_place(path)
                found = None if place is None else stat_file(self._fs, path, place)
                if found is not None and found.size_bytes == each.entry.size_bytes:
                    return found
        return None

    def _open(self, file: StoredFile, current: _OpenKeys, *, statistics: bool) -> FileView | None:
        show = partial(self._show, file=file, current=current, statistics=statistics)
        if current.statements is None:
            return show(FileRanges(file), signed=None)
        signed = current.statements.find(file.path)
        try:
            return show(FileRanges(file), signed=signed)
        except (IntegrityError, ConflictError, StorageError):
            # A run may have published another version, and staged the file or moved it to its place meanwhile.
            newer = current.statements.find_again(file.path, signed)
            now = newer or signed
            found = first_signed(partial(open_places, file, now), now.entry)
            if found is None and newer is None:
                raise
        return show(FileRanges(file) if found is None else found, signed=now)

    def _show(
        self,
        ranges: FileRanges,
        *,
        file: StoredFile,
        signed: SignedFile | None,
        current: _OpenKeys,
        statistics: bool,
    ) -> FileView | None:
        """Return the view that fits the kind of file, or None where the file is shown as it is stored."""
        mode = current.checks.mode
        if signed is None:
            source = CheckedSource(ranges)
            if not is_parquet(source):
                return None
            stored = read_stored_footer(source)
        else:
            source = CheckedSource(SignedRanges(ranges, signed.entry, partial(open_places, file, signed)))
            stored = check_file(signed, source, mode)
        view = open_view(
            source,
            keys=keys_of_object(file.fs, file.path, current.session),
            aad_prefix=self._options.aad_prefix,
            codec=ZstdCodec(),
            missing=self._options.missing,
            cache=self._kept,
            stored=stored,
            check_opened=None if signed is None else check_when_opened(signed, source, mode),
            checks_digests=mode is not VerifyMode.OFF,
            statistics=statistics,
        )
        ranges.forget_ends()
        return view if isinstance(view, BlobView) or view.is_encrypted else None

    def _keep(
        self, name: tuple[str, bool], file: StoredFile, generation: int, view: FileView | None, current: _OpenKeys
    ) -> None:
        with self._session_lock, self._lock:
            if self._open_keys is not current:  # closed while the view was opened, so nobody else would close the view
                if view is not None:
                    view.close()
                raise _closed()
            self._views[name] = (file.fingerprint, generation, view)
            self._views.move_to_end(name)
            while len(self._views) > _KEPT_VIEWS:
                # Not closed: somebody may read it. Its keys are wiped when nobody does any more.
                self._views.popitem(last=False)


def _closed() -> UsageError:
    return UsageError("this dataset was closed, and its keys were wiped", hint="read it inside of its with block")
