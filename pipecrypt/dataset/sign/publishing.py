"""Publish statements: a manifest after its file list, or one beside its file, and none that comes late from a dead run.

The statement comes last: without it there is no new version, whatever else was written. It replaces the statement that
was read before the first file, or nothing, and no other.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.dataset.governing import remember, spellings
from pipecrypt.dataset.memory import VersionMemory
from pipecrypt.dataset.sign.records import SignedStatement
from pipecrypt.dataset.sign.signers import OpenSigners
from pipecrypt.dataset.statement.envelope import MAX_ENVELOPE_BYTES, RememberedVersion, parse_envelope
from pipecrypt.dataset.statement.file_list import FileEntry, FileListSummary, encode_file_list
from pipecrypt.dataset.statement.manifest import Manifest, statement_sha256
from pipecrypt.dataset.statement.paths import MANIFEST_PATH, file_list_path, signature_path
from pipecrypt.dataset.statement.promise import ClearColumns, PromisedPolicy
from pipecrypt.dataset.version import VerifiedVersion
from pipecrypt.errors import ConflictError, IntegrityError, UsageError
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store
from pipecrypt.store.small_files import locate
from pipecrypt.vocabulary.documents import DocumentError

__all__ = ["MOST_LINE_FEEDS", "fence", "publish_dataset", "publish_file"]
MOST_LINE_FEEDS: Final = 16
_TRIES: Final = 3
_log = logging.getLogger(__name__)


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
