"""Sign what a run writes: the parts, then the manifest, then its signatures, then where readers look for it.

Before the first file it is settled what the new version follows, and that nothing in the sink would make it false.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from pipecrypt.dataset.listing import (
    check_nothing_nested,
    check_nothing_unsigned,
    check_signed_is_there,
    name_some,
    sizes_below,
)
from pipecrypt.dataset.sign.promises import add_promises, continue_promise
from pipecrypt.dataset.sign.publishing import publish_dataset, publish_file
from pipecrypt.dataset.sign.records import SignableFile, SignedStatement
from pipecrypt.dataset.sign.signers import OpenSigners
from pipecrypt.dataset.statement.file_list import FileEntry
from pipecrypt.dataset.statement.paths import signature_path
from pipecrypt.dataset.statement.promise import ClearColumns, PromisedPolicy
from pipecrypt.dataset.version import VerifiedVersion, read_version_to_follow
from pipecrypt.errors import ConflictError, SinkNotEmptyError
from pipecrypt.store.location import Location

__all__ = ["DatasetSigning", "FileSigning", "Signing"]


class Signing(Protocol):
    """How what one run writes gets signed."""

    @property
    def dataset_id(self) -> str | None:
        """The id that the files must be bound to, because the sink has it already; None where a new one is due."""

    def add(self, files: Iterable[SignableFile]) -> None:
        """Note files that were published."""

    def publish(self, dataset_id: str) -> tuple[SignedStatement, ...]:
        """Sign all files that were added, once the run is done, and publish what was signed."""


class DatasetSigning:
    """Signs the files of a directory with one manifest.

    Args:
        sink: the directory.
        signers: opened before, and wiped by their owner.
        earlier: the version that the sink holds, from `read_version_to_follow`.
        replaces: says of a path below the sink whether this run may write or remove it.
        covers: says of a leaf column whether each file of this run that has it encrypts it.

    Raises:
        ConflictError: the sink holds files that nobody signs, or lacks some that stay.
        StorageError: the storage refused or failed.
    """

    def __init__(
        self,
        sink: Location,
        signers: OpenSigners,
        earlier: VerifiedVersion | None,
        *,
        replaces: Callable[[str], bool],
        covers: Callable[[tuple[str, ...]], bool],
    ) -> None:
        """Look at what the sink holds."""
        self._sink = sink
        self._signers = signers
        self._earlier = earlier
        self._covers = covers
        found = sizes_below(sink)
        entries = () if self._earlier is None else self._earlier.entries.values()
        self._stays = tuple(entry for entry in entries if not replaces(entry.path))
        self._to_replace = frozenset(path for path in found if replaces(path))
        self._entries: list[FileEntry] = []
        self._promises: dict[PromisedPolicy, None] = {}
        check_nothing_nested(sink, found)
        check_nothing_unsigned(sink, self._stays, found.keys() - self._to_replace)
        check_signed_is_there(sink, self._stays, found, {})
        self._check_digests()

    @property
    def dataset_id(self) -> str | None:
        """The id of the dataset that the sink holds."""
        return None if self._earlier is None else self._earlier.manifest.dataset_id

    @property
    def staying_promise(self) -> PromisedPolicy | None:
        """What was promised of files that this run leaves as they are; None where it leaves none."""
        return self._earlier.manifest.policy if self._earlier is not None and self._stays else None

    def stays_without(self, path: tuple[str, ...]) -> bool:
        """Say whether no file that stays has a leaf column in plaintext, as far as its version noted that."""
        clear = None if self._earlier is None else self._earlier.clear_columns
        return clear is not None and path not in clear

    def add(self, files: Iterable[SignableFile]) -> None:
        """Note files that were published."""
        for file in files:
            self._entries.append(file.entry)
            self._promises[file.promise] = None

    def rename_tasks(self, task_ids: Mapping[str, str]) -> None:
        """Give files that stay the ids of the tasks that would write them now, by path."""
        self._stays = tuple(
            replace(entry, task_id=task_ids[entry.path]) if entry.path in task_ids else entry for entry in self._stays
        )

    @property
    def left_over(self) -> frozenset[str]:
        """Paths that were to be replaced, and were not: an earlier run wrote more files."""
        return self._to_replace.difference(entry.path for entry in self._entries)

    @property
    def entries(self) -> tuple[FileEntry, ...]:
        """The next version's files, as far as they were added or stay, sorted by path."""
        return tuple(sorted((*self._stays, *self._entries), key=lambda entry: entry.path))

    def publish(
        self,
        dataset_id: str,
        *,
        run: str | None = None,
        removes: Collection[str] = (),
        clear_columns: ClearColumns | None = None,
    ) -> tuple[SignedStatement, ...]:
        """Sign all files that were added and all that stay, and publish the manifest.

        Args:
            dataset_id: of the dataset.
            run: id of the run that staged the files that were added; None where they are at their places.
            removes: paths that the caller removes afterwards.
            clear_columns: leaf columns that files are known to have in plaintext; None: those of the version before.

        Raises:
            ConflictError: files of an earlier run were not replaced, the promises do not fit together, or another run
                published a version in the meantime.
            PipecryptError: signing or publishing failed.
        """
        left = self.left_over.difference(removes)
        if left:
            hint = "remove them, then run again with --overwrite"
            raise ConflictError(
                f"{name_some(self._sink, left)}: left of an earlier run, which wrote more files", hint=hint
            )
        statement = publish_dataset(
            self._sink,
            self.entries,
            self._promise(),
            dataset_id=dataset_id,
            signers=self._signers,
            earlier=self._earlier,
            run=run,
            clear_columns=clear_columns,
        )
        return (statement,)

    def _promise(self) -> PromisedPolicy:
        if not self._promises and self.staying_promise is not None:
            return self.staying_promise  # files were removed, and none was added
        promise = add_promises(tuple(self._promises))
        if self.staying_promise is None:
            return promise
        return continue_promise(self.staying_promise, promise, lacks_earlier=self.stays_without, lacks_new=self._covers)

    def _check_digests(self) -> None:
        digest = self._signers.options.digest
        if any(digest not in entry.digests() for entry in self._stays):
            raise ConflictError(
                f"the files of {self._sink.display} that stay have no digests with {digest}",
                hint="sign with the digest of the version before, or replace all files",
            )
        self._stays = tuple(entry.with_digests({digest: entry.digests()[digest]}) for entry in self._stays)


class FileSigning:
    """Signs single files, each with a statement beside it.

    Args:
        files: where files will be that may have a statement already. All of them are of one dataset.
        signers: opened before, and wiped by their owner.
        overwrite: whether a statement may be replaced.

    Raises:
        NotTrustedError: a file has a statement that none of the signing keys signed.
        IntegrityError: a statement is malformed.
        SinkNotEmptyError: a file has a statement, and nothing may be replaced.
        ConflictError: the files have statements about different datasets.
        StorageError: the storage refused or failed.
    """

    def __init__(self, files: Sequence[Location], signers: OpenSigners, *, overwrite: bool) -> None:
        """Look at the statements that are there."""
        self._first = files[0]
        self._signers = signers
        found = {
            file.name: read_version_to_follow(file, signers.memory, signers.requirements, is_file=True)
            for file in files
        }
        self._earlier = {name: earlier for name, earlier in found.items() if earlier is not None}
        self._added: list[SignableFile] = []
        for name, earlier in self._earlier.items():
            if not overwrite:
                raise SinkNotEmptyError(f"{self._statement_of(name).display} exists already")
            if earlier.manifest.dataset_id != self.dataset_id:
                what = f"{self._statement_of(name).display} is about another dataset than the files beside it"
                raise ConflictError(what, hint="remove the files of other runs, or choose another sink")

    def _statement_of(self, name: str) -> Location:
        return self._first.sibling(signature_path(name))

    @property
    def dataset_id(self) -> str | None:
        """The id in the statements that are there."""
        return next((earlier.manifest.dataset_id for earlier in self._earlier.values()), None)

    def add(self, files: Iterable[SignableFile]) -> None:
        """Note files that were published."""
        self._added += files

    def publish(self, dataset_id: str) -> tuple[SignedStatement, ...]:
        """Sign each file that was added, and publish its statement.

        Raises:
            ConflictError: another run published one in the meantime.
            PipecryptError: signing or publishing failed; the statements before that one stay.
        """
        return tuple(
            publish_file(
                self._first.sibling(file.entry.path),
                file.entry,
                file.promise,
                dataset_id=dataset_id,
                signers=self._signers,
                earlier=self._earlier.get(file.entry.path),
            )
            for file in self._added
        )
