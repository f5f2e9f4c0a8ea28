"""Read the version that lies in a dataset without asking who signed it, for whoever has no key to trust.

Nothing may be written or believed on the strength of it: it tells what to leave alone, or what is likely.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pipecrypt.crypto.digest import digest
from pipecrypt.errors import IntegrityError
from pipecrypt.manifest.clear_columns import ClearColumns
from pipecrypt.manifest.entry import FileEntry
from pipecrypt.manifest.envelope import MAX_ENVELOPE_BYTES, parse_envelope
from pipecrypt.manifest.file_list import decode_file_list
from pipecrypt.manifest.model import MAX_UNVERIFIED_LIST_BYTES, Manifest
from pipecrypt.manifest.paths import MANIFEST_PATH, file_list_path
from pipecrypt.manifest.promise import PromisedPolicy
from pipecrypt.manifest.statement import decode_statement, statement_sha256
from pipecrypt.store.location import Location
from pipecrypt.store.open import read_small_file

__all__ = ["UnverifiedVersion", "read_unverified_version"]


@dataclass(frozen=True, slots=True)
class UnverifiedVersion:
    """What a statement says that anybody may have written.

    Args:
        manifest: the statement.
        statement_sha256: of the statement.
        entries: the files that it lists.
    """

    manifest: Manifest
    statement_sha256: str
    entries: tuple[FileEntry, ...]

    @property
    def run(self) -> str | None:
        """The run that wrote it, if it names one."""
        return self.manifest.run

    @property
    def dataset_id(self) -> str:
        """Of the dataset."""
        return self.manifest.dataset_id

    @property
    def created(self) -> datetime:
        """When it was signed, in UTC."""
        return self.manifest.created

    @property
    def expires(self) -> datetime | None:
        """Until when it holds, in UTC; None: for ever."""
        return self.manifest.expires

    @property
    def policy(self) -> PromisedPolicy:
        """What is promised of the files' encryption."""
        return self.manifest.policy

    @property
    def clear_columns(self) -> ClearColumns | None:
        """Leaf columns that files have in plaintext; None where they were not noted."""
        return self.manifest.clear_columns


def read_unverified_version(directory: Location) -> UnverifiedVersion | None:
    """Return what the statement in a directory says, or None where there is none.

    Raises:
        IntegrityError: it is malformed, is about a single file, or its list of files is missing or malformed.
        StorageError: the storage refused or failed.
    """
    place = directory.child(MANIFEST_PATH)
    envelope = read_small_file(place, MAX_ENVELOPE_BYTES)
    if envelope is None:
        return None
    try:
        payload = parse_envelope(envelope).payload
        manifest = decode_statement(payload)
    except IntegrityError as error:
        raise IntegrityError(f"{place.display}: {error.message}", hint=error.hint) from error
    summary = manifest.file_list
    if summary is None:
        raise IntegrityError(f"{place.display} is about a single file", hint="it was put there by mistake, or worse")
    list_place = directory.child(file_list_path(manifest.version, summary.sha256))
    if summary.size_bytes > MAX_UNVERIFIED_LIST_BYTES:
        raise IntegrityError(
            f"{place.display} names a list of {summary.size_bytes} bytes; of a statement that nobody checked, at most "
            f"{MAX_UNVERIFIED_LIST_BYTES} are read"
        )
    data = read_small_file(list_place, summary.size_bytes)
    if data is None:
        raise IntegrityError(f"{list_place.display} is missing, so nobody knows what {directory.display} holds")
    if digest(data) != summary.sha256:
        raise IntegrityError(f"{list_place.display} is another list than {place.display} names")
    entries = tuple(decode_file_list(data, manifest.digests))
    return UnverifiedVersion(manifest, statement_sha256(payload), entries)
