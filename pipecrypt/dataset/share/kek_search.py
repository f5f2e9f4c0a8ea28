"""Find the KEKs that the files below a place use, reading as few footers as can be.

Where a manifest lists the KEKs, one footer is read for each, however many files there are. A directory without one
lists nothing, so all footers are read. An encrypted footer hides the KEKs of its columns from who cannot open it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pipecrypt.dataset.listing import ENCRYPTED_FILES
from pipecrypt.dataset.requirements import Requirements
from pipecrypt.dataset.share.grants import read_grants
from pipecrypt.dataset.statement.file_list import FileEntry
from pipecrypt.dataset.statement.manifest import Manifest
from pipecrypt.dataset.statement.paths import GRANTS_PATH, GRANTS_SUFFIX
from pipecrypt.dataset.version import Version, read_version
from pipecrypt.errors import AccessError, DamagedKeystoreError, SourceNotFoundError, UsageError
from pipecrypt.keys.grants import Grants
from pipecrypt.keys.material import KeyMaterial, MaterialReader
from pipecrypt.parquet.footer.keys import KeyUse, column_key_uses, footer_key_use, open_clear_or_sealed
from pipecrypt.parquet.footer.stored import StoredFooter, read_stored_footer
from pipecrypt.parquet.protocols import DataKeys
from pipecrypt.store.listing import list_in_place
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_range_source, open_store
from pipecrypt.store.protocol import EntryKind, SourceFile
from pipecrypt.store.small_files import LocatedFiles, locate
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.documents import encode_base64
from pipecrypt.vocabulary.in_flight import AT_ONCE, map_in_flight

__all__ = ["EncryptedData", "KEKSearch", "LocatedKEK", "find_encrypted_data", "search_keks"]


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
    def grants(self) -> Location:
        """Where its grants lie."""
        return self.files.location(self._grants_path)

    def read_grants(self) -> Grants:
        """Return its grants; raises as `grants.read_grants`."""
        return read_grants(self.files, self._grants_path)

    def read_footers(self, files: Iterable[SourceFile | FileEntry]) -> Iterator[tuple[SourceFile, StoredFooter]]:
        """Yield files, looked up where a manifest lists them, with their footers, in order.

        Several are read at once where they are not local.

        Raises:
            PipecryptError: a file is not there, its footer cannot be read, or is malformed.
        """

        def read(file: SourceFile | FileEntry) -> tuple[SourceFile, StoredFooter]:
            found = _listed(self, file) if isinstance(file, FileEntry) else file
            with open_range_source(found) as source:
                return found, read_stored_footer(source)

        at_once = AT_ONCE if open_store(self.location).is_remote else 1
        return map_in_flight(read, files, name="footer", at_once=at_once)

    @property
    def _grants_path(self) -> str:
        return self.path + GRANTS_SUFFIX if self.is_file else f"{self.path}/{GRANTS_PATH}"

    @property
    def name(self) -> str:
        """What errors and summaries call it."""
        return self.location.display


@dataclass(frozen=True, slots=True)
class LocatedKEK:
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
    if kind is EntryKind.FILE:
        return EncryptedData(location, files, path, is_file=True)
    version = read_version(files, path, requirements)
    if version is None and kind is EntryKind.NOTHING:
        raise SourceNotFoundError(f"{location.display} does not exist")
    return EncryptedData(location, files, path, is_file=False, version=version)


class KEKSearch:
    """The KEKs that files were found to use.

    Args:
        keys_of: opens encrypted footers.

    Attributes:
        kek_ids: of all that were found.
        footers_read: how many footers were read for it.
        hidden: files whose footer is encrypted and was not opened, so that the KEKs of their columns are not known.
    """

    def __init__(self, keys_of: Callable[[Location], DataKeys]) -> None:
        """Begin with none."""
        self.kek_ids: set[str] = set()
        self.footers_read = 0
        self.hidden: list[str] = []
        self._keys_of = keys_of
        self._reader = MaterialReader()
        self._found: dict[tuple[str, str, str], LocatedKEK] = {}

    @property
    def keks(self) -> tuple[LocatedKEK, ...]:
        """Each once, or several times where files claim different things about one id."""
        return tuple(self._found.values())

    def add(self, location: Location, stored: StoredFooter) -> None:
        """Add the KEKs of a file by its footer.

        Raises:
            PipecryptError: it is malformed.
        """
        self.footers_read += 1
        sealed = stored.sealed
        if sealed is None:
            return
        self._add(footer_key_use(sealed), location)
        try:
            metadata = open_clear_or_sealed(sealed, self._keys_of(location))
        except DamagedKeystoreError:  # an error of the caller's keystore, not of the file
            raise
        except AccessError:
            self.hidden.append(location.display)
            return
        for use in column_key_uses(sealed, metadata):
            self._add(use, location)

    def _add(self, use: KeyUse, file: Location) -> None:
        material = self._reader.parse(use.key_metadata)
        # Keys of another scheme, or kept outside, or wrapped without a KEK: nothing that a grant could share.
        if isinstance(material, KeyMaterial) and material.kek is not None:
            found = LocatedKEK(encode_base64(material.kek.id), material, use.context, file)
            self.kek_ids.add(found.id)
            self._found.setdefault((found.id, material.master_key_id, material.kek.wrapped), found)


def search_keks(place: EncryptedData, keys_of: Callable[[Location], DataKeys]) -> KEKSearch:
    """Return the KEKs of all files at a place.

    Args:
        place: where.
        keys_of: opens encrypted footers.

    Raises:
        PipecryptError: a footer that must be read cannot be, or is malformed.
    """
    search = KEKSearch(keys_of)
    if place.version is None:
        sources = list_in_place(place.location, ENCRYPTED_FILES)
        for source, stored in place.read_footers(sources):
            search.add(source.location, stored)
        return search
    due: list[FileEntry] = []
    others: list[FileEntry] = []
    named: set[str] = set()
    for entry in place.version.entries.values():
        (others if named.issuperset(entry.kek_ids) else due).append(entry)
        named.update(entry.kek_ids)
    for source, stored in place.read_footers(due):
        search.add(source.location, stored)
    # The files above may lack KEKs that the manifest claims they have.
    missing = [entry for entry in others if not search.kek_ids.issuperset(entry.kek_ids)]
    for source, stored in place.read_footers(missing):
        search.add(source.location, stored)
    return search


def _listed(place: EncryptedData, entry: FileEntry) -> SourceFile:
    there = open_store(place.files.location(place.path)).stat(entry.path)
    found = there.file()
    if found is None:
        raise SourceNotFoundError(
            f"{there.location.display} does not exist, though the manifest lists it",
            hint="if a run was stopped here, run again with --resume; pipecrypt verify names all that is missing",
        )
    return found
