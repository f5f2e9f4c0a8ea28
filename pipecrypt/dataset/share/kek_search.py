"""Find the KEKs that the files below a place use, reading as few footers as can be.

Where a manifest lists the KEKs, one footer is read for each, however many files there are. A directory without one
lists nothing, so all footers are read. An encrypted footer hides the KEKs of its columns from who cannot open it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pipecrypt.dataset.listing import ENCRYPTED_FILES
from pipecrypt.dataset.requirements import Requirements
from pipecrypt.dataset.statement.file_list import FileEntry
from pipecrypt.dataset.statement.manifest import Manifest
from pipecrypt.dataset.statement.paths import (
    GRANTS_PATH,
    GRANTS_SUFFIX,
    ROTATION_LOCK_SUFFIX,
)
from pipecrypt.dataset.version import VerifiedVersion, Version, read_version
from pipecrypt.errors import AccessError, DamagedKeystoreError, SourceNotFoundError, UsageError
from pipecrypt.keys.material import KeyMaterial, MaterialReader
from pipecrypt.parquet.footer.keys import column_key_uses, footer_key_use, open_clear_or_sealed
from pipecrypt.parquet.footer.stored import read_stored_footer
from pipecrypt.parquet.protocols import DataKeys
from pipecrypt.store.listing import list_in_place
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_range_source, open_store
from pipecrypt.store.protocol import Kind, SourceFile
from pipecrypt.store.small_files import LocatedFiles, locate
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.documents import encode_base64

__all__ = ["EncryptedData", "FoundKEK", "KEKSearch", "find_encrypted_data", "search_keks"]


@dataclass(frozen=True, slots=True)
class EncryptedData:
    """A dataset, a directory without a manifest, or a single file.

    Args:
        location: what the caller named.
        files: its storage.
        path: its path there.
        is_file: it is a single file.
        version: of the dataset, verified or claimed; None without a manifest.
    """

    location: Location
    files: LocatedFiles
    path: str
    is_file: bool
    version: Version | None = None

    @property
    def manifest(self) -> Manifest | None:
        """What its manifest says; None without one."""
        return None if self.version is None else self.version.manifest

    @property
    def is_verified(self) -> bool:
        """Whether trusted keys signed the manifest."""
        return isinstance(self.version, VerifiedVersion)

    @property
    def grants(self) -> Location:
        """Where its grants lie."""
        return self.files.location(self.path + GRANTS_SUFFIX if self.is_file else f"{self.path}/{GRANTS_PATH}")

    @property
    def rotation_lock(self) -> Location:
        """The file by which a deep rotation holds a single file, where the storage is not local."""
        return self.files.location(self.path + ROTATION_LOCK_SUFFIX)

    @property
    def name(self) -> str:
        """What errors and summaries call it."""
        return self.location.display


@dataclass(frozen=True, slots=True)
class FoundKEK:
    """A KEK, and one data key under it by which it is proven.

    Args:
        id: the text of "keyEncryptionKeyID".
        material: of that data key.
        context: of that data key.
        file: where it was found.
    """

    id: str
    material: KeyMaterial
    context: Context
    file: Location


@dataclass(frozen=True, slots=True)
class KEKSearch:
    """What a search found.

    Args:
        keks: each once, or several times where files claim different things about one id.
        footers_read: how many footers were read for it.
        hidden: files whose footer is encrypted and was not opened, so that the KEKs of their columns are not known.
        single_wrapped: master keys that wrapped data keys without a KEK, which no grant can share.
    """

    keks: tuple[FoundKEK, ...]
    footers_read: int
    hidden: tuple[str, ...]
    single_wrapped: tuple[str, ...]


def find_encrypted_data(location: Location, requirements: Requirements | None) -> EncryptedData:
    """Return what a caller named; with requirements, its manifest meets them.

    Without them the manifest is only a hint where to look: who can write to the dataset may have hidden KEKs in it.

    Raises:
        SourceNotFoundError: nothing is there.
        UsageError: standard input.
        NotTrustedError: too few trusted keys signed it, or nothing is signed.
        IntegrityError: the manifest is malformed or was changed.
        StorageError: the storage refused or failed.
    """
    if location.is_standard_stream:
        raise UsageError("standard input has no grants beside it", hint="name a file or a dataset")
    files, path = locate(location)
    kind = open_store(files.location(path)).stat().kind
    if kind is Kind.FILE:
        return EncryptedData(location, files, path, is_file=True)
    version = read_version(files, path, requirements)
    if version is None and kind is Kind.NOTHING:
        raise SourceNotFoundError(f"{location.display} does not exist")
    return EncryptedData(location, files, path, is_file=False, version=version)


def search_keks(place: EncryptedData, keys_of: Callable[[Location], DataKeys]) -> KEKSearch:
    """Return the KEKs of all files at a place.

    Args:
        place: where.
        keys_of: opens encrypted footers.

    Raises:
        PipecryptError: a footer that must be read cannot be, or is malformed.
    """
    search = _Search(keys_of)
    if place.version is None:
        for source in list_in_place(place.location, ENCRYPTED_FILES):
            search.read(source)
        return search.result()
    for entry in place.version.entries.values():
        if not search.knows(entry.kek_ids):
            search.read(_listed(place, entry))
    return search.result()


class _Search:
    """What was found so far."""

    def __init__(self, keys_of: Callable[[Location], DataKeys]) -> None:
        self._keys_of = keys_of
        self._reader = MaterialReader()
        self._found: dict[tuple[str, str, str], FoundKEK] = {}
        self._ids: set[str] = set()
        self._single: dict[str, None] = {}
        self._hidden: list[str] = []
        self._footers = 0

    def knows(self, kek_ids: Iterable[str]) -> bool:
        return self._ids.issuperset(kek_ids)

    def read(self, file: SourceFile) -> None:
        self._footers += 1
        with open_range_source(file) as source:
            stored = read_stored_footer(source)
        sealed, location = stored.sealed, file.location
        if sealed is None:
            return
        footer = footer_key_use(sealed)
        self._add(footer.key_metadata, footer.context, location)
        try:
            metadata = open_clear_or_sealed(sealed, self._keys_of(location))
        except DamagedKeystoreError:  # an error of the caller's keystore, not of the file
            raise
        except AccessError:
            self._hidden.append(location.display)
            return
        for use in column_key_uses(sealed, metadata):
            self._add(use.key_metadata, use.context, location)

    def _add(self, key_metadata: bytes, context: Context, file: Location) -> None:
        material = self._reader.parse(key_metadata)
        if not isinstance(material, KeyMaterial):
            return  # keys of another scheme, or kept outside: nothing that a grant could share
        if material.kek is None:
            self._single[material.master_key_id] = None
            return
        kek_id = encode_base64(material.kek.id)
        self._ids.add(kek_id)
        self._found.setdefault(
            (kek_id, material.master_key_id, material.kek.wrapped), FoundKEK(kek_id, material, context, file)
        )

    def result(self) -> KEKSearch:
        return KEKSearch(tuple(self._found.values()), self._footers, tuple(self._hidden), tuple(self._single))


def _listed(place: EncryptedData, entry: FileEntry) -> SourceFile:
    there = open_store(place.files.location(place.path)).stat(entry.path)
    found = there.file()
    if found is None:
        raise SourceNotFoundError(
            f"{there.location.display} does not exist, though the manifest lists it",
            hint="if a run was stopped here, run again with --resume; pipecrypt verify names all that is missing",
        )
    return found
