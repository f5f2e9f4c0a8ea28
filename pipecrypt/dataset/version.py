"""The one reader of manifests: the version of a dataset, verified by trusted keys or as anybody may claim it.

What was checked is in the type. A VerifiedVersion may be acted on; a ClaimedVersion tells what to leave alone, or what
is likely, and nothing may be written or believed on the strength of it. Which statement governs a path: governing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, overload

from pipecrypt.dataset.governing import (
    ACCEPT_ANEW,
    check_none_removed,
    find_governing,
    read_envelope,
    recall,
    remember,
    removed,
)
from pipecrypt.dataset.memory import VersionMemory
from pipecrypt.dataset.requirements import Requirements
from pipecrypt.dataset.signed_file import SignedFile
from pipecrypt.dataset.statement.envelope import (
    ACCEPT_FUTURE_HINT,
    MAX_ENVELOPE_BYTES,
    RememberedVersion,
    VerifiedManifest,
    check_remembered,
    files_of,
    parse_envelope,
    verify_envelope,
)
from pipecrypt.dataset.statement.file_list import MAX_UNVERIFIED_LIST_BYTES, FileEntry
from pipecrypt.dataset.statement.findings import Finding, FindingKind, extra, refusal
from pipecrypt.dataset.statement.manifest import Manifest, decode_statement, statement_sha256
from pipecrypt.dataset.statement.paths import MANIFEST_PATH, SIGNATURE_SUFFIX, signature_path
from pipecrypt.dataset.statement.promise import ClearColumns
from pipecrypt.errors import ExpiredError, FutureStatementError, IntegrityError, NotTrustedError
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.store.protocol import Revision
from pipecrypt.store.small_files import SmallFiles, locate

__all__ = [
    "ClaimedVersion",
    "VerifiedVersion",
    "Version",
    "check_follows",
    "is_current",
    "read_version",
    "read_version_above",
    "read_version_beside",
    "read_version_to_follow",
    "unsigned",
]

_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a dataset, or of one file outside of any, whoever wrote it.

    Args:
        manifest: what the statement says.
        statement_sha256: of the statement.
        entries: the files by path below the dataset, sorted; of a statement beside a file, that file.
    """

    manifest: Manifest
    statement_sha256: str
    entries: Mapping[str, FileEntry]

    @property
    def clear_columns(self) -> ClearColumns | None:
        """Leaf columns that files have in plaintext; None where they were not noted."""
        return self.manifest.clear_columns


@dataclass(frozen=True, slots=True)
class ClaimedVersion(Version):
    """What a statement says that nobody has verified."""


@dataclass(frozen=True, slots=True)
class VerifiedVersion(Version):
    """A version whose statement trusted keys signed, and whose list of files is the signed one.

    Args:
        verified: the statement; only `verify_envelope` makes one.
        root: the directory of the dataset, or the single file, as a path of its storage.
        name: what errors call it.
        revision: the envelope as it was read, for who replaces it by the next one.
    """

    verified: VerifiedManifest
    root: str
    name: str
    revision: Revision

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Ids of the trusted keys that signed it."""
        return self.verified.key_ids

    def file(self, path: str) -> SignedFile:
        """Return the file that was signed as `path` below the root.

        Raises:
            IntegrityError: no file of that path was signed.
        """
        entry = self.entries.get(path)
        if entry is None:
            raise refusal([extra(path)], name=self.name)
        return SignedFile(self.manifest, entry, self.name, self.key_ids)

    def single_file(self) -> SignedFile:
        """Return the file that a statement beside it is about."""
        (path,) = self.entries
        return self.file(path)

    def below(self, path: str) -> str | None:
        """Return a path of the storage as one below the root, or None if it lies elsewhere."""
        prefix = self.root + "/"
        return path[len(prefix) :] if path.startswith(prefix) else None


@overload
def read_version(files: SmallFiles, root: str, requirements: Requirements) -> VerifiedVersion: ...
@overload
def read_version(files: SmallFiles, root: str, requirements: None) -> ClaimedVersion | None: ...
def read_version(
    files: SmallFiles, root: str, requirements: Requirements | None
) -> VerifiedVersion | ClaimedVersion | None:
    """Return the version of the dataset whose directory is `root`.

    With requirements, as `read_version_above`. Without, what the statement there says, if it is well formed and its
    list is the one that it names; None where there is none.

    Raises:
        NotTrustedError: with requirements: there is no statement, or too few trusted keys signed it.
        IntegrityError: with requirements, as `read_version_above`, or the directory is a part of another dataset.
            Without: the statement is malformed or about a single file, or its list of files is missing or another.
        StorageError: the storage refused or failed.
    """
    if requirements is None:
        return _read_claimed(files, root)
    version = read_version_above(files, f"{root}/", requirements)
    if version is None:
        raise unsigned(files, root)
    if version.root != root:
        raise IntegrityError(
            f"{files.display(root)} is a part of {version.name}, which is signed as a whole",
            hint=f"name {version.name}",
        )
    return version


def read_version_above(files: SmallFiles, path: str, requirements: Requirements) -> VerifiedVersion | None:
    """Return the version of the dataset that governs what lies at `path`, or None if there is none.

    What holds when it returns: 1. no other statement governs the path (`find_governing`); 2. all that `verify_envelope`
    lists, for the requirements; 3. the list of files is the signed one, whole; 4. the statement is remembered, so that
    an older one is noticed next time. The caller still owes to compare each file with its entry before a byte of it is
    used.

    Args:
        files: the storage.
        path: of a file, or of a directory with a `/` at its end.
        requirements: what must hold of the statement.

    Raises:
        NotTrustedError: too few trusted keys signed it; or it was accepted before, and is gone.
        IntegrityError: as `find_governing` and `verify_envelope`; or the list of files is missing or another.
    """
    tries_left = _TRIES
    while True:
        found = find_governing(files, path, requirements.memory)  # 1
        if found is None:
            return None
        root, envelope = found
        try:
            return _read_verified(files, root, envelope, requirements)  # 2, 3, 4
        except IntegrityError:
            # Another reader may have accepted a newer version since this one was read.
            tries_left -= 1
            if not tries_left or read_envelope(files, f"{root}/{MANIFEST_PATH}") in {envelope, None}:
                raise


def read_version_beside(files: SmallFiles, path: str, requirements: Requirements) -> VerifiedVersion:
    """Return what the statement beside a single file says; the caller found no dataset above it.

    Raises:
        NotTrustedError: there is no statement, or too few trusted keys signed it.
        IntegrityError: as `verify_envelope`.
    """
    place, name = signature_path(path), path.rpartition("/")[2]
    envelope = read_envelope(files, place)
    if envelope is None:
        if recall(files, place, requirements.memory) is not None:
            raise removed(files, path)
        raise unsigned(files, path, f"{name}{SIGNATURE_SUFFIX} beside it, and no dataset above it")
    return _read_verified(files, path, envelope, requirements, expected_file=name)


def read_version_to_follow(
    subject: Location,
    memory: VersionMemory | None,
    requirements: Callable[[], Requirements],
    *,
    is_file: bool = False,
) -> VerifiedVersion | None:
    """Return the version that the next one follows, or None where there is none and none was seen before.

    What holds when it returns is what `read_version_above` lists, for the statement of this very directory or file. The
    caller holds the lock of the sink; what governs it from above was looked at before (`check_outside_datasets`).

    Args:
        subject: the directory of a dataset, or a single file.
        memory: what was accepted before.
        requirements: returns those of the signing keys, which may ask their services; called where there is a
            statement. A version whose time is over is what a new one is for.
        is_file: whether it is a single file, with its statement beside it.

    Raises:
        NotTrustedError: none of the signing keys signed it; or there is none, and one was accepted there before.
        RolledBackError: it is older than one that was seen there.
        IntegrityError: statement or file list is malformed, missing or was changed.
        StorageError: the storage refused or failed.
    """
    place = subject.sibling(signature_path(subject.name)) if is_file else subject.child(MANIFEST_PATH)
    revision = (
        open_store(place).read_revision(max_bytes=MAX_ENVELOPE_BYTES)
        if is_file or open_store(subject).stat().is_directory()
        else None
    )
    if revision is None:
        check_none_removed(place if is_file else subject, memory)
        return None
    files, remembered_as = locate(place if is_file else subject)
    remembered = recall(files, remembered_as, memory)
    try:
        verified = _verify(revision.data, requirements(), remembered, subject.name if is_file else None)
    except FutureStatementError as error:
        raise FutureStatementError(f"{place.display}: {error.message}", hint=ACCEPT_FUTURE_HINT) from error
    except NotTrustedError as error:
        raise NotTrustedError(
            f"{place.display} was signed with other keys: {error.message}",
            hint="sign with the key that signed it, or any version of it; or choose another sink",
        ) from error
    except IntegrityError as error:
        hint = error.hint if remembered is None else f"{error.hint}; {ACCEPT_ANEW}"
        raise error.prefixed(place.display, hint=hint) from error
    version = _version(verified, revision, files, locate(subject)[1])
    remember(files, remembered_as, verified.remember(), memory)
    return version


def check_follows(subject: Location, version: ClaimedVersion, memory: VersionMemory | None) -> None:
    """Pass if a version that nobody has verified is not older than what was last accepted in that directory.

    Raises:
        IntegrityError: it is about another dataset, or a record is malformed.
        RolledBackError: it is older.
    """
    remembered = recall(*locate(subject), memory)
    try:
        check_remembered(version.manifest, version.statement_sha256, remembered)
    except IntegrityError as error:
        place = subject.child(MANIFEST_PATH)
        raise error.prefixed(place.display, hint=f"{error.hint}; {ACCEPT_ANEW}") from error


def is_current(files: SmallFiles, version: VerifiedVersion) -> bool:
    """Return whether a statement still lies where it was read; anything else there may be a newer one."""
    is_file = version.manifest.single_file is not None
    place = signature_path(version.root) if is_file else f"{version.root}/{MANIFEST_PATH}"
    try:
        envelope = read_envelope(files, place)
        return envelope is not None and decode_statement(parse_envelope(envelope).payload) == version.manifest
    except IntegrityError:
        return False


def unsigned(files: SmallFiles, path: str, missing: str = MANIFEST_PATH) -> NotTrustedError:
    """Return the error that a file or directory has no statement."""
    return NotTrustedError(
        f"{files.display(path)} is not signed: there is no {missing}",
        hint="ask its writer to sign it (sign: in the policy), or read it without trust",
    )


# ---- claimed ----


def _read_claimed(files: SmallFiles, root: str) -> ClaimedVersion | None:
    place = f"{root}/{MANIFEST_PATH}"
    envelope = read_envelope(files, place)
    if envelope is None:
        return None
    name = files.display(place)
    try:
        payload = parse_envelope(envelope).payload
        manifest = decode_statement(payload)
    except IntegrityError as error:
        raise IntegrityError(f"{name}: {error.message}", hint=error.hint) from error
    summary = manifest.file_list
    if summary is None:
        raise IntegrityError(f"{name} is about a single file", hint="it was put there by mistake, or worse")
    if summary.size_bytes > MAX_UNVERIFIED_LIST_BYTES:
        raise IntegrityError(
            f"{name} names a list of {summary.size_bytes} bytes; of a statement that nobody checked, at most "
            f"{MAX_UNVERIFIED_LIST_BYTES} are read"
        )
    return ClaimedVersion(manifest, statement_sha256(payload), _entries(files, root, manifest))


# ---- verified ----


def _read_verified(
    files: SmallFiles, path: str, envelope: bytes, requirements: Requirements, *, expected_file: str | None = None
) -> VerifiedVersion:
    """Return what an envelope says about a directory, or about the file beside it, and remember it."""
    place = path if expected_file is None else signature_path(path)
    try:
        verified = _verify(envelope, requirements, recall(files, place, requirements.memory), expected_file)
    except IntegrityError as error:
        raise error.prefixed(files.display(place)) from error
    version = _version(verified, Revision(envelope), files, path)
    remember(files, place, verified.remember(), requirements.memory)
    return version


def _verify(
    envelope: bytes, requirements: Requirements, remembered: RememberedVersion | None, expected_file: str | None
) -> VerifiedManifest:
    def verified_at(now: datetime) -> VerifiedManifest:
        return verify_envelope(
            envelope,
            requirements.trust.verify,
            now,
            min_version=requirements.min_version,
            remembered=remembered,
            expected_dataset_id=requirements.dataset_id,
            expected_file=expected_file,
        )

    try:
        return verified_at(requirements.clock())
    except (ExpiredError, FutureStatementError) as error:
        if type(error) not in requirements.tolerates:
            raise
        # All else was found to hold before times were looked at.
        return verified_at(decode_statement(parse_envelope(envelope).payload).created)


def _version(verified: VerifiedManifest, revision: Revision, files: SmallFiles, root: str) -> VerifiedVersion:
    manifest = verified.manifest
    single = manifest.single_file
    entries = {single.path: single} if single is not None else _entries(files, root, manifest)
    return VerifiedVersion(
        manifest=manifest,
        statement_sha256=verified.statement_sha256,
        entries=entries,
        verified=verified,
        root=root,
        name=files.display(root),
        revision=revision,
    )


# ---- both ----


def _entries(files: SmallFiles, root: str, manifest: Manifest) -> dict[str, FileEntry]:
    """Read the list of files that the manifest of a dataset names."""
    path, name = manifest.file_list_path, files.display(root)
    data = read_envelope(files, f"{root}/{path}", 0 if manifest.file_list is None else manifest.file_list.size_bytes)
    if data is None:
        raise refusal([Finding(FindingKind.MISSING, path, "the list of files is not there")], name=name)
    try:
        return {entry.path: entry for entry in files_of(manifest, data)}
    except IntegrityError as error:
        raise error.prefixed(f"{name}: {path!a}") from error
