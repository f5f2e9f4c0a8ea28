"""Publish statements: a manifest after its file list, or one beside its file. What they say is left to next_version.

The statement comes last: without it there is no new version, whatever else was written. It replaces the statement that
was read before the first file, or nothing, and no other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.dataset.signing.earlier_version import EarlierVersion
from pipecrypt.dataset.signing.known_versions import remember_published
from pipecrypt.dataset.signing.records import SignedStatement
from pipecrypt.dataset.signing.signers import OpenSigners
from pipecrypt.errors import UsageError
from pipecrypt.manifest.clear_columns import ClearColumns
from pipecrypt.manifest.entry import FileEntry
from pipecrypt.manifest.envelope import parse_envelope
from pipecrypt.manifest.file_list import FileListEncoder
from pipecrypt.manifest.model import FileListSummary, Manifest
from pipecrypt.manifest.paths import MANIFEST_PATH, file_list_path, signature_path
from pipecrypt.manifest.promise import PromisedPolicy
from pipecrypt.manifest.statement import statement_sha256
from pipecrypt.manifest.verify import Remembered
from pipecrypt.store.location import Location
from pipecrypt.store.revision import replace_revision
from pipecrypt.store.sink import open_sink
from pipecrypt.vocabulary.documents import DocumentError

__all__ = ["publish_dataset", "publish_file"]


def publish_dataset(
    sink: Location,
    entries: Iterable[FileEntry],
    promise: PromisedPolicy,
    *,
    dataset_id: str,
    signers: OpenSigners,
    earlier: EarlierVersion | None,
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
    encoder = FileListEncoder((signers.options.digest,))
    try:
        blocks = list(encoder.encode(entries))
        summary = encoder.summary()
    except DocumentError as error:
        raise UsageError(f"{sink.display} cannot be signed: {error}", hint="encrypt into several sinks") from error
    if clear_columns is None and earlier is not None:
        clear_columns = earlier.clear_columns
    manifest = _manifest(summary, promise, dataset_id, signers, earlier)
    manifest = replace(manifest, run=run, clear_columns=clear_columns)
    envelope = signers.seal(manifest)
    # No two lists of different content share a name, so readers of the version before still read theirs. A list that
    # is there already is this one: a run that was killed before its statement left it.
    with open_sink(sink.child(file_list_path(manifest.version, summary.sha256)), overwrite=True) as publication:
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
    earlier: EarlierVersion | None,
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
    earlier: EarlierVersion | None,
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
    earlier: EarlierVersion | None,
) -> SignedStatement:
    replace_revision(place, envelope, expected=None if earlier is None else earlier.revision)
    sha256 = statement_sha256(parse_envelope(envelope).payload)
    published = Remembered(manifest.dataset_id, manifest.version, sha256)
    remember_published(subject, published, signers.memory, is_first=earlier is None)
    return SignedStatement(
        path=place.display,
        dataset_id=manifest.dataset_id,
        version=manifest.version,
        expires=manifest.expires,
        key_ids=signers.key_ids,
    )
