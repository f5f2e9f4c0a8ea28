"""Find the statement above or beside data, verify it, and look up files in it. Looking at the files: signed_file.

A dataset's statement lies in `_pipecrypt/manifest.json` in one of the directories above a file, a single file's beside
it. Which of them counts, where there are several: governing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from pipecrypt.dataset.opening.governing import (
    GoverningStatement,
    find_governing,
    read_envelope,
    recall,
    remember,
    removed,
)
from pipecrypt.dataset.opening.requirements import Requirements
from pipecrypt.dataset.opening.signed_file import SignedFile
from pipecrypt.errors import IntegrityError, NotTrustedError
from pipecrypt.manifest.compare import KnownDigests
from pipecrypt.manifest.entry import FileEntry
from pipecrypt.manifest.envelope import parse_envelope
from pipecrypt.manifest.findings import Finding, FindingKind, extra, refuse
from pipecrypt.manifest.model import FileListSummary, Manifest
from pipecrypt.manifest.paths import MANIFEST_PATH, SIGNATURE_SUFFIX, signature_path
from pipecrypt.manifest.statement import decode_statement
from pipecrypt.manifest.verify import VerifiedManifest, verify_envelope
from pipecrypt.store.small_files import SmallFiles

__all__ = ["SignedDataset", "is_current", "open_above", "open_beside", "open_dataset", "unsigned"]

_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class SignedDataset:
    """A dataset whose statement and list of files were verified.

    Args:
        root: its directory, as a path of its storage.
        name: what errors call it.
        verified: the statement.
        entries: its files by path below `root`, sorted.
    """

    root: str
    name: str
    verified: VerifiedManifest
    entries: Mapping[str, FileEntry]

    def file(self, path: str) -> SignedFile:
        """Return the file that was signed as `path` below the root.

        Raises:
            IntegrityError: no file of that path was signed.
        """
        entry = self.entries.get(path)
        if entry is None:
            refuse([extra(path)], name=self.name)
            raise AssertionError("a finding is refused")
        return SignedFile(self.verified.manifest, entry, self.name, self.verified.key_ids)

    def below(self, path: str) -> str | None:
        """Return a path of the storage as one below the root, or None if it lies elsewhere."""
        prefix = self.root + "/"
        return path[len(prefix) :] if path.startswith(prefix) else None

    def known_digests(self) -> KnownDigests:
        """Return what tells swapped files from modified ones."""
        return KnownDigests({value: path for path, each in self.entries.items() for value in each.digests().values()})


def open_above(files: SmallFiles, path: str, requirements: Requirements) -> SignedDataset | None:
    """Return the dataset that governs what lies at `path`, or None if there is none.

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
        try:
            return _open(files, found, requirements)  # 2, 3, 4
        except IntegrityError:
            # Another reader may have accepted a newer version since this one was read.
            tries_left -= 1
            if not tries_left or read_envelope(files, f"{found.root}/{MANIFEST_PATH}") in {found.envelope, None}:
                raise


def open_dataset(files: SmallFiles, root: str, requirements: Requirements) -> SignedDataset:
    """Return the dataset whose directory is `root`; otherwise as `open_above`.

    Raises:
        NotTrustedError: there is no statement, or too few trusted keys signed it.
        IntegrityError: as `open_above`; or the directory is a part of another dataset.
    """
    found = open_above(files, f"{root}/", requirements)
    if found is None:
        raise unsigned(files, root)
    if found.root != root:
        raise IntegrityError(
            f"{files.display(root)} is a part of {found.name}, which is signed as a whole", hint=f"name {found.name}"
        )
    return found


def open_beside(files: SmallFiles, path: str, requirements: Requirements) -> SignedFile:
    """Return what the statement beside a single file says about it; the caller found no dataset above it.

    Raises:
        NotTrustedError: there is no statement, or too few trusted keys signed it.
        IntegrityError: as `verify_envelope`.
    """
    place = signature_path(path)
    envelope = read_envelope(files, place)
    if envelope is None:
        if recall(files, place, requirements.memory) is not None:
            raise removed(files, path)
        beside = f"{path.rpartition('/')[2]}{SIGNATURE_SUFFIX} beside it, and no dataset above it"
        raise unsigned(files, path, beside)
    name = path.rpartition("/")[2]
    verified = _verify(files, place, envelope, requirements, expected_file=name)
    entry = verified.manifest.single_file
    if entry is None:
        raise AssertionError("verified as the statement of a single file")
    remember(files, place, verified.remember(), requirements.memory)
    return SignedFile(verified.manifest, entry, files.display(path), verified.key_ids)


def is_current(files: SmallFiles, place: str, manifest: Manifest) -> bool:
    """Say whether a statement still lies where it was read; anything else there may be a newer one.

    Args:
        files: the storage.
        place: of the statement.
        manifest: what it said.
    """
    try:
        envelope = read_envelope(files, place)
        return envelope is not None and decode_statement(parse_envelope(envelope).payload) == manifest
    except IntegrityError:
        return False


def unsigned(files: SmallFiles, path: str, missing: str = MANIFEST_PATH) -> NotTrustedError:
    """Return the error that a file or directory has no statement."""
    return NotTrustedError(
        f"{files.display(path)} is not signed: there is no {missing}",
        hint="ask its writer to sign it (sign: in the policy), or read it without trust",
    )


def _open(files: SmallFiles, found: GoverningStatement, requirements: Requirements) -> SignedDataset:
    root = found.root
    verified = _verify(files, root, found.envelope, requirements, expected_file=None)
    summary = verified.manifest.file_list
    if summary is None:
        raise AssertionError("verified as the statement of a dataset")
    entries = {entry.path: entry for entry in _entries(files, root, verified, summary)}
    remember(files, root, verified.remember(), requirements.memory)
    return SignedDataset(root, files.display(root), verified, entries)


def _entries(files: SmallFiles, root: str, verified: VerifiedManifest, summary: FileListSummary) -> Iterator[FileEntry]:
    path = verified.file_list_path
    data = read_envelope(files, f"{root}/{path}", summary.size_bytes)
    name = files.display(root)
    if data is None:
        refuse([Finding(FindingKind.MISSING, path, "the list of files is not there")], name=name)
        raise AssertionError("a finding is refused")
    try:
        yield from verified.files(data)
    except IntegrityError as error:
        raise type(error)(f"{name}: {path!a}: {error.message}", hint=error.hint) from error


def _verify(
    files: SmallFiles, place: str, envelope: bytes, requirements: Requirements, *, expected_file: str | None
) -> VerifiedManifest:
    name = files.display(place)
    try:
        return verify_envelope(
            envelope,
            requirements.trust.verify,
            requirements.clock(),
            min_version=requirements.min_version,
            remembered=recall(files, place, requirements.memory),
            expected_dataset_id=requirements.dataset_id,
            expected_file=expected_file,
        )
    except IntegrityError as error:
        raise type(error)(f"{name}: {error.message}", hint=error.hint) from error
