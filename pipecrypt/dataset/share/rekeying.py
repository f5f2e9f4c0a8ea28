"""Put the files of a dataset under another master key, one after the other. The caller signs them anew.

Where files were signed, each is compared with what was signed before it is touched, all of it, and its undo file stays
until the caller has published the new version. So whatever happens, the next call finds either a file that is as it was
signed, or an undo file that makes it so. What an undo file says counts only where undoing has made sure of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace

from pipecrypt.crypto.digest import Digester, digest
from pipecrypt.dataset.checked_source import pieces
from pipecrypt.dataset.statement.file_list import FileEntry
from pipecrypt.dataset.undo import (
    check_signed_undo,
    check_unsigned_undo,
    is_authentic,
    is_of_another_file,
    same_as_signed,
)
from pipecrypt.errors import DamagedKeystoreError, IntegrityError, SourceNotFoundError
from pipecrypt.keys.material import KeyMaterial, MaterialReader, dataset_of_kek_text
from pipecrypt.keys.session import KeySession
from pipecrypt.parquet.footer.keys import NewFooter, rekey_footer
from pipecrypt.parquet.footer.stored import read_stored_footer
from pipecrypt.parquet.protocols import DataKeys
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_range_source, open_store
from pipecrypt.store.protocol import SourceFile
from pipecrypt.store.undo import MAX_END_BYTES, Undo, drop_undo, put_back, read_undo, replace_tail, write_undo
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.documents import encode_base64

__all__ = ["Rekeying"]


_log = logging.getLogger(__name__)
_NAMED = 3


@dataclass(slots=True)
class Rekeying:
    """Wraps data keys of some master keys again, under one KEK of another: changes files and counts.

    Args:
        old_ids: ids of the master keys that are left.
        session: of the new master key.
        key_reference: names it.
        keys_of: opens the keys of a file.
        before_change: called before each file is changed, once its new keys are made.
        dataset_ids: whose keys the caller means, see `granting.check_datasets`; known before the first change.
        left_keks: ids of KEKs that files no longer use.
        seen_master_keys: ids of all that files name.
        files: how many were looked at.
        changed: where footers were replaced.
        data_keys: that were wrapped again.
        bytes_moved: that were sent from here, undo files included.
        total_bytes: of all files.
        put_back: files that an earlier call had left in between.
    """

    old_ids: frozenset[str]
    session: KeySession
    key_reference: str
    keys_of: Callable[[Location], DataKeys]
    before_change: Callable[[], None]
    dataset_ids: Collection[str] = ()
    left_keks: set[str] = field(default_factory=set)
    seen_master_keys: set[str] = field(default_factory=set)
    files: int = 0
    changed: list[Location] = field(default_factory=list)
    data_keys: int = 0
    bytes_moved: int = 0
    total_bytes: int = 0
    put_back: int = 0
    _undone_later: list[tuple[Location, FileEntry | None]] = field(default_factory=list)
    _reader: MaterialReader = field(default_factory=MaterialReader)

    def change(self, file: Location, entry: FileEntry | None) -> FileEntry | None:
        """Change one file, and return what is to be signed about it.

        Args:
            file: the file.
            entry: what was signed about it; None where nothing was.

        Raises:
            IntegrityError: it is not as it was signed, or its footer or a key was changed.
            PipecryptError: a key or the storage failed.
        """
        source = self._settled(file, entry)
        with open_range_source(source) as opened:
            stored = read_stored_footer(opened)
        if entry is not None and (stored.size_bytes, stored.sha256) != (entry.size_bytes, entry.footer_sha256):
            raise _differs(file)
        self.files += 1
        self.total_bytes += source.size_bytes
        keys = self.keys_of(file)
        left, made = set[str](), set[str]()  # ids of KEKs; the session's may change in the middle

        def rewrap(key_metadata: bytes, context: Context) -> bytes | None:
            wrapped = self._rewrap(key_metadata, context, keys)
            if wrapped is None:
                return None
            left.add(wrapped[1])
            made.add(wrapped[2])
            return wrapped[0]

        new = rekey_footer(stored, keys.open_data_key, rewrap)
        if new is None:
            return entry
        self.left_keks |= left
        new_entry = None
        if entry is not None:
            new_entry = _new_entry(source, entry, new, {*entry.kek_ids} - left | made)
        self.before_change()
        self.bytes_moved += write_undo(source, new.body_end, new.tail)
        self._undone_later.append((file, entry))
        self.bytes_moved += replace_tail(source, new.body_end, new.tail)
        self.changed.append(file)
        self.data_keys += new.data_keys
        if entry is None:
            self.finish()
        return new_entry

    def _rewrap(self, key_metadata: bytes, context: Context, keys: DataKeys) -> tuple[bytes, str, str] | None:
        """Return new key metadata, the id of the KEK before and that of the new one; None where the key stays.

        Raises:
            IntegrityError: the key is of a dataset that is not meant, or does not belong where it is.
            PipecryptError: a key service failed or refused.
        """
        material = self._reader.parse(key_metadata)
        if not isinstance(material, KeyMaterial) or material.kek is None or material.commitment is None:
            return None
        self.seen_master_keys.add(material.master_key_id)
        if material.master_key_id not in self.old_ids:
            return None
        dataset_id = dataset_of_kek_text(material.kek.wrapped) or ""
        if dataset_id not in self.dataset_ids:
            raise IntegrityError(f"a key encryption key is of dataset {dataset_id}, which is not meant")
        with keys.open_data_key(key_metadata, context) as key:
            new = self.session.adopt_data_key(self.key_reference, key, context, dataset_id)
        made = self._reader.parse(new)
        if not isinstance(made, KeyMaterial) or made.kek is None:
            raise AssertionError("this session writes no other key material")
        return new, encode_base64(material.kek.id), encode_base64(made.kek.id)

    def settle(self, file: Location) -> None:
        """Put a file that nobody signed back, where an earlier call left it in between."""
        self._settled(file, None)

    def finish(self) -> None:
        """Forget how files were before: they are signed as they are now, or nobody signed them."""
        while self._undone_later:
            drop_undo(self._undone_later[-1][0])
            self._undone_later.pop()

    def roll_back(self) -> None:
        """Make all files that were not finished what they were, each whatever becomes of the others.

        Raises:
            IntegrityError: some cannot be made so; what their undo files keep stays.
            StorageError: the storage refused or failed; the next call goes on from there.
        """
        lost = []
        for file, entry in reversed(self._undone_later):
            try:
                self._restore(file, entry)
            except DamagedKeystoreError:  # an error of the caller's keystore, not of the file
                raise
            except (IntegrityError, SourceNotFoundError) as error:
                _log.warning("%s stays changed: %s", file.display, error.message)
                lost.append(file.display)
            else:
                drop_undo(file)
        self._undone_later.clear()
        if lost:
            more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
            raise IntegrityError(
                f"{', '.join(lost[:_NAMED])}{more}: changed, and not to be put back: undo files are gone or forged",
                hint="fetch them again from a copy, verify, then run the same command again",
            )

    def _restore(self, file: Location, entry: FileEntry | None) -> None:
        source = _pinned(file)
        undo = _read_undo(source, entry)
        if _is_as_signed(source, entry):
            return
        if undo is not None:
            self._put_back(source, undo, entry)
        elif entry is not None or not is_authentic(source, self.keys_of(file)):
            raise IntegrityError("its undo file is gone")

    def _settled(self, file: Location, entry: FileEntry | None) -> SourceFile:
        """Return a file, pinned, once what an earlier call left in between was put right."""
        source = _pinned(file)
        undo = _read_undo(source, entry)
        if undo is None:
            return source
        if self._is_settled(source, undo, entry):
            drop_undo(file)
            return source
        self._put_back(source, undo, entry)
        self.put_back += 1
        drop_undo(file)
        return _pinned(file)

    def _is_settled(self, source: SourceFile, undo: Undo, entry: FileEntry | None) -> bool:
        """Return whether a file is whole as it is, so that nothing has to be believed of what its undo file says."""
        if entry is not None:
            return _is_as_signed(source, entry)
        if is_authentic(source, self.keys_of(source.location)):
            return True
        name = source.location.display
        if is_of_another_file(source, undo):
            _log.warning("%s was replaced since a rotation was stopped at it, so it is taken as it is", name)
            return True
        return False

    def _put_back(self, source: SourceFile, undo: Undo, entry: FileEntry | None) -> None:
        if entry is not None:
            check_signed_undo(source, undo, entry)
        else:
            check_unsigned_undo(source, undo, self.keys_of(source.location))
        put_back(source, undo)


def _read_undo(source: SourceFile, entry: FileEntry | None) -> Undo | None:
    # Nobody says how long the footer was of a file that was not signed.
    return read_undo(source.location, max_end_bytes=MAX_END_BYTES if entry is None else entry.size_bytes)


def _is_as_signed(source: SourceFile, entry: FileEntry | None) -> bool:
    if entry is None or source.size_bytes != entry.size_bytes:
        return False
    with open_range_source(source) as opened:
        return same_as_signed(opened, entry)


def _new_entry(source: SourceFile, entry: FileEntry, new: NewFooter, kek_ids: Iterable[str]) -> FileEntry:
    """Return what is to be signed, in one pass that also compares the whole file with what was signed before."""
    before = {algorithm: Digester(algorithm) for algorithm in entry.digests()}
    after = {algorithm: Digester(algorithm) for algorithm in entry.digests()}
    with open_range_source(source) as opened:
        for start, piece in pieces(opened):
            for digester in before.values():
                digester.update(piece)
            for digester in after.values():
                digester.update(piece[: max(0, new.body_end - start)])
    if any(before[algorithm].hexdigest() != value for algorithm, value in entry.digests().items()):
        raise _differs(source.location)
    for digester in after.values():
        digester.update(new.tail)
    return replace(
        entry.with_digests({algorithm: digester.hexdigest() for algorithm, digester in after.items()}),
        size_bytes=new.body_end + len(new.tail),
        footer_sha256=digest(new.tail),
        kek_ids=tuple(sorted(kek_ids)),
    )


def _pinned(file: Location) -> SourceFile:
    found = open_store(file).stat().file()
    if found is None:
        raise SourceNotFoundError(f"{file.display} does not exist")
    return found


def _differs(file: Location) -> IntegrityError:
    return IntegrityError(
        f"{file.display} is not as it was signed", hint="verify the dataset first; nothing was changed in this file"
    )
