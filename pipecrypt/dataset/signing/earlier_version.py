"""Read the signed version that the next one follows, and refuse one that others signed. Writing: next_version."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pipecrypt.dataset.signing.known_versions import ANEW, check_none_removed, recall, remember
from pipecrypt.dataset.signing.signers import OpenSigners
from pipecrypt.errors import ExpiredError, FutureStatementError, IntegrityError, NotTrustedError
from pipecrypt.manifest.clear_columns import ClearColumns
from pipecrypt.manifest.entry import FileEntry
from pipecrypt.manifest.envelope import MAX_ENVELOPE_BYTES, parse_envelope
from pipecrypt.manifest.model import Manifest
from pipecrypt.manifest.paths import MANIFEST_PATH, signature_path
from pipecrypt.manifest.promise import PromisedPolicy
from pipecrypt.manifest.statement import decode_statement
from pipecrypt.manifest.verify import ACCEPT_FUTURE_HINT, Remembered, VerifiedManifest, verify_envelope
from pipecrypt.store.location import Location
from pipecrypt.store.protocol import Revision
from pipecrypt.store.revision import read_revision
from pipecrypt.store.sink import is_directory
from pipecrypt.store.source import read_small_file

__all__ = ["EarlierVersion", "read_earlier_dataset", "read_earlier_file"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierVersion:
    """A statement that one of the signing keys signed.

    Args:
        place: where it lies.
        revision: its bytes, and what tells whether it is still there.
        manifest: what it says.
        statement_sha256: what the next version calls it.
        entries: the files of a dataset; none for a single file.
    """

    place: Location
    revision: Revision
    manifest: Manifest
    statement_sha256: str
    entries: tuple[FileEntry, ...] = ()

    @property
    def run(self) -> str | None:
        """The run that wrote it, if it names one."""
        return self.manifest.run

    @property
    def policy(self) -> PromisedPolicy:
        """What is promised of the encryption of its files."""
        return self.manifest.policy

    @property
    def clear_columns(self) -> ClearColumns | None:
        """Leaf columns that files have in plaintext; None where they were not noted."""
        return self.manifest.clear_columns

    @property
    def dataset_id(self) -> str:
        """Of the dataset."""
        return self.manifest.dataset_id

    @property
    def expires(self) -> datetime | None:
        """Until when it holds, in UTC; None: for ever."""
        return self.manifest.expires


def read_earlier_dataset(sink: Location, signers: OpenSigners) -> EarlierVersion | None:
    """Return the signed version of the dataset in a directory, or None where there is none.

    Raises:
        NotTrustedError: none of the signing keys signed it; or there is none, and one was accepted there before.
        RolledBackError: it is older than one that was seen there.
        IntegrityError: statement or file list is malformed, missing or was changed.
        StorageError: the storage refused or failed.
    """
    place = sink.child(MANIFEST_PATH)
    revision = read_revision(place, MAX_ENVELOPE_BYTES) if is_directory(sink) else None
    if revision is None:
        check_none_removed(sink, signers.memory)
        return None
    verified = _verify(revision.data, place, signers, recall(sink, signers.memory), expected_file=None)
    summary = verified.manifest.file_list
    if summary is None:
        raise AssertionError("a statement about a single file is refused before")
    list_place = sink.child(verified.file_list_path)
    file_list = read_small_file(list_place, summary.size_bytes)
    if file_list is None:
        raise IntegrityError(f"{list_place.display} is missing, so nobody knows what {sink.display} holds")
    version = _version(verified, place, revision, tuple(verified.files(file_list)))
    remember(sink, verified.remember(), signers.memory)
    return version


def read_earlier_file(file: Location, signers: OpenSigners) -> EarlierVersion | None:
    """Return the statement beside a single file, or None where there is none; raises as `read_earlier_dataset`."""
    place = file.sibling(signature_path(file.name))
    revision = read_revision(place, MAX_ENVELOPE_BYTES)
    if revision is None:
        check_none_removed(place, signers.memory)
        return None
    verified = _verify(revision.data, place, signers, recall(place, signers.memory), expected_file=file.name)
    remember(place, verified.remember(), signers.memory)
    return _version(verified, place, revision, ())


def _verify(
    envelope: bytes, place: Location, signers: OpenSigners, remembered: Remembered | None, *, expected_file: str | None
) -> VerifiedManifest:
    check, now = signers.trust().verify, signers.now()
    try:
        return verify_envelope(envelope, check, now, remembered=remembered, expected_file=expected_file)
    except (ExpiredError, FutureStatementError) as error:
        # A version whose time is over is what a new one is for. All else was found to hold before times were looked at.
        if isinstance(error, FutureStatementError) and not signers.options.accepts_future:
            raise FutureStatementError(f"{place.display}: {error.message}", hint=ACCEPT_FUTURE_HINT) from error
        created = decode_statement(parse_envelope(envelope).payload).created
        return verify_envelope(envelope, check, created, remembered=remembered, expected_file=expected_file)
    except NotTrustedError as error:
        raise NotTrustedError(
            f"{place.display} was signed with other keys: {error.message}",
            hint="sign with the key that signed it, or any version of it; or choose another sink",
        ) from error
    except IntegrityError as error:
        hint = error.hint if remembered is None else f"{error.hint}; {ANEW}"
        raise type(error)(f"{place.display}: {error.message}", hint=hint) from error


def _version(
    verified: VerifiedManifest, place: Location, revision: Revision, entries: tuple[FileEntry, ...]
) -> EarlierVersion:
    return EarlierVersion(
        place=place,
        revision=revision,
        manifest=verified.manifest,
        statement_sha256=verified.statement_sha256,
        entries=entries,
    )
