"""Sign what a run writes, and publish it: a manifest after its file list, or one beside its file.

Before the first file it is settled what the new version follows, and that nothing in the sink would make it false. The
statement comes last: without it there is no new version, whatever else was written. It replaces the statement that was
read before the first file, or nothing, and no other; and none that comes late from a dead run replaces it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.dataset.governing import remember, spellings
from pipecrypt.dataset.listing import (
    check_nothing_nested,
    check_nothing_unsigned,
    check_signed_is_there,
    name_some,
)
from pipecrypt.dataset.memory import VersionMemory
from pipecrypt.dataset.sign.promises import add_promises, continue_promise
from pipecrypt.dataset.sign.records import SignableFile, SignedStatement
from pipecrypt.dataset.sign.signers import OpenSigners
from pipecrypt.dataset.statement.envelope import MAX_ENVELOPE_BYTES, RememberedVersion, parse_envelope
from pipecrypt.dataset.statement.file_list import FileEntry, FileListSummary, encode_file_list
from pipecrypt.dataset.statement.manifest import Manifest, statement_sha256
from pipecrypt.dataset.statement.paths import MANIFEST_PATH, file_list_path, signature_path
from pipecrypt.dataset.statement.promise import ClearColumns, PromisedPolicy
from pipecrypt.dataset.version import VerifiedVersion, read_version_to_follow
from pipecrypt.errors import ConflictError, IntegrityError, SinkNotEmptyError, UsageError
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.store.small_files import locate
from pipecrypt.vocabulary.documents import DocumentError

__all__ = ["MOST_LINE_FEEDS", "DatasetSigning", "FileSigning", "fence", "publish_dataset", "publish_file"]


MOST_LINE_FEEDS: Final = 16
_TRIES: Final = 3
_log = logging.getLogger(__name__)


class DatasetSigning:
    """Signs the files of a directory with one manifest.

    Args:
        sink: the directory.
        signers: opened before, and wiped by their owner.
        earlier: the version that the sink holds, from `read_version_to_follow`.
        found: what the sink holds, from `sizes_below`.
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
        found: Mapping[str, int | None],
        replaces: Callable[[str], bool],
        covers: Callable[[tuple[str, ...]], bool],
    ) -> None:
        """Look at what the sink holds."""
        self._sink = sink
        self._signers = signers
        self._earlier = earlier
        self._covers = covers
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
        """Return whether no file that stays has a leaf column in plaintext, as far as its version noted that."""
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
        self._stays = tuple(
            entry if len(digests := entry.digests()) == 1 else entry.with_digests({digest: digests[digest]})
            for entry in self._stays
        )


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


def publish_dataset(
    sink: Location,
    entries: Iterable[FileEntry],
    promise: PromisedPolicy,
    *,
    dataset_id: str,
    signers: OpenSigners,
    earlier: VerifiedVersion | None,
    run: str | None = None,
    clear_columns: ClearColumns | None = None,
) -> SignedStatement:
    """Sign and publish the next version of a dataset whose files are all there.

    Args:
        sink: the directory.
        entries: its files, sorted by path.
        promise: what holds of all of them.
        dataset_id: of the dataset.
        signers: sign it.
        earlier: the version that it follows.
        run: id of the run that staged files of it; None where all are at their places.
        clear_columns: leaf columns that files are known to have in plaintext; None: those of the version before.

    Raises:
        ConflictError: another run has published a version in the meantime, or it is unknown whether this one appeared.
        KeyServiceError: a signing service failed or refused.
        StorageError: the storage refused or failed.
        UsageError: a statement cannot hold it.
    """
    try:
        blocks, summary = encode_file_list(entries, (signers.options.digest,))
    except DocumentError as error:
        raise UsageError(f"{sink.display} cannot be signed: {error}", hint="encrypt into several sinks") from error
    if clear_columns is None and earlier is not None:
        clear_columns = earlier.clear_columns
    manifest = _manifest(summary, promise, dataset_id, signers, earlier)
    manifest = replace(manifest, run=run, clear_columns=clear_columns)
    envelope = signers.seal(manifest)
    # No two lists of different content share a name, so readers of the version before still read theirs. A list that
    # is there already is this one: a run that was killed before its statement left it.
    with open_store(sink.child(file_list_path(manifest.version, summary.sha256))).write(overwrite=True) as publication:
        for block in blocks:
            publication.write(block)
        publication.publish()
    return _publish_statement(sink, sink.child(MANIFEST_PATH), envelope, manifest, signers, earlier)


def publish_file(
    file: Location,
    entry: FileEntry,
    promise: PromisedPolicy,
    *,
    dataset_id: str,
    signers: OpenSigners,
    earlier: VerifiedVersion | None,
) -> SignedStatement:
    """Sign a single file and publish the statement beside it; otherwise as `publish_dataset`."""
    manifest = _manifest(entry, promise, dataset_id, signers, earlier)
    place = file.sibling(signature_path(file.name))
    return _publish_statement(place, place, signers.seal(manifest), manifest, signers, earlier)


def _manifest(
    files: FileListSummary | FileEntry,
    promise: PromisedPolicy,
    dataset_id: str,
    signers: OpenSigners,
    earlier: VerifiedVersion | None,
) -> Manifest:
    valid_for, digest = signers.options.valid_for, signers.options.digest
    # Times never go back, also where the clock of whoever signed before was ahead.
    created = signers.now() if earlier is None else max(signers.now(), earlier.manifest.created)
    return Manifest(
        dataset_id=dataset_id,
        version=1 if earlier is None else earlier.manifest.version + 1,
        previous_sha256=None if earlier is None else earlier.statement_sha256,
        created=created,
        expires=None if valid_for is None else created + valid_for,
        policy=promise,
        digests=tuple(kind for kind in DigestAlgorithm if kind is digest),
        files=files,
    )


def _publish_statement(  # noqa: PLR0917
    subject: Location,
    place: Location,
    envelope: bytes,
    manifest: Manifest,
    signers: OpenSigners,
    earlier: VerifiedVersion | None,
) -> SignedStatement:
    open_store(place).replace(envelope, expected=None if earlier is None else earlier.revision)
    sha256 = statement_sha256(parse_envelope(envelope).payload)
    published = RememberedVersion(manifest.dataset_id, manifest.version, sha256)
    _remember_published(subject, published, signers.memory, is_first=earlier is None)
    return SignedStatement(
        path=place.display,
        dataset_id=manifest.dataset_id,
        version=manifest.version,
        expires=manifest.expires,
        key_ids=signers.key_ids,
    )


def _remember_published(
    subject: Location, published: RememberedVersion, memory: VersionMemory | None, *, is_first: bool
) -> None:
    """Keep what this writer has published; where that cannot be, a warning says so.

    Args:
        subject: the directory of a dataset, or the statement beside a single file.
        published: the version.
        memory: of the user.
        is_first: whether it follows none, so that nothing was remembered before the first file.
    """
    if memory is None:
        return
    files, path = locate(subject)
    try:
        if is_first:
            place, *others = spellings(files, path)
            replace(memory, starts_anew=True).remember(place, published)
            for other in others:
                memory.forget(other)
        else:
            remember(files, path, published, memory)
    except IntegrityError as error:
        _log.warning("%s was published, and is not remembered: %s", subject.display, error.message)


def fence(sink: Location) -> None:
    """Let no statement appear any more that a dead holder has sent, and that a network still holds back.

    It would replace the statement that it has read. So that one is written once more, with one line feed more, which is
    another object to the store and the same statement to readers. The first statement of a dataset replaces none: it
    appears only where no other run has published one.

    Raises:
        ConflictError: the statement is too large for that, or changes all the time.
        StorageError: the storage refused or failed.
    """
    place, store = sink.child(MANIFEST_PATH), open_store(sink)
    for _ in range(_TRIES):
        revision = store.read_revision(MANIFEST_PATH, max_bytes=MAX_ENVELOPE_BYTES) if store.answers_late else None
        if revision is None or revision.tag is None:
            return
        text = revision.data.rstrip(b"\n")
        feeds = (len(revision.data) - len(text)) % MOST_LINE_FEEDS + 1
        if len(text) + feeds > MAX_ENVELOPE_BYTES:
            raise ConflictError(
                f"{place.display} is too large to be written once more, so what a run that died has sent may still "
                "replace it",
                hint="make sure that the other machine is down, wait some minutes, then run again",
            )
        try:
            open_store(place).replace(text + b"\n" * feeds, expected=revision)
        except ConflictError as error:
            _log.info("once more: %s", error.message)
        else:
            return
    raise ConflictError(f"{place.display} changes all the time", hint="let one run at a time write there")
