"""What a footer shows of a file, in the words of the manifest. Reading it is left to parquet, comparing to compare."""

from __future__ import annotations

from pipecrypt.errors import PipecryptError
from pipecrypt.manifest.compare import ObservedColumn, ObservedEncryption, ObservedFile
from pipecrypt.manifest.promise import PromisedFooter
from pipecrypt.parquet.footer.keys import FooterColumn, FooterEncryption
from pipecrypt.parquet.footer.keys import observe_encryption as read_encryption
from pipecrypt.parquet.footer.stored import StoredFooter, read_stored_footer
from pipecrypt.parquet.policy import FooterMode
from pipecrypt.store.protocol import SourceFile
from pipecrypt.store.source import open_range_source
from pipecrypt.vocabulary.context import Context

__all__ = ["Observation", "dataset_id_of", "master_keys_of", "observe", "observe_footer", "written_as"]

# What a footer shows of the file and of its encryption.
Observation = tuple[ObservedFile, ObservedEncryption]


def observe_footer(stored: StoredFooter) -> ObservedFile:
    """Return size and footer digest, of the very bytes that were parsed."""
    return ObservedFile(stored.size_bytes, footer_sha256=stored.sha256)


def observe(stored: StoredFooter, name: str) -> Observation:
    """Return all that a footer shows without a key.

    Rows and KEK ids are None where an encrypted footer hides them: of its KEKs it shows its own only.

    Args:
        stored: the footer, which stays as it is.
        name: what errors call the file.

    Raises:
        FormatError: the footer is malformed.
    """
    seen, metadata = read_encryption(stored, name), stored.metadata
    file = ObservedFile(
        stored.size_bytes,
        footer_sha256=stored.sha256,
        rows=stored.rows,
        kek_ids=None if metadata is None else seen.kek_ids,
    )
    return file, _encryption(seen)


def dataset_id_of(file: SourceFile) -> str | None:
    """Return the id of the dataset that a file says it belongs to; None where it says none, or cannot be read."""
    context = written_as(file)
    return None if context is None else context.dataset_id


def written_as(file: SourceFile) -> Context | None:
    """Return the dataset and the path that a file says it was written for; None as `dataset_id_of`."""
    seen = _read(file)
    if seen is None or seen.dataset_id is None or seen.path is None:
        return None
    return Context(seen.dataset_id, seen.path)


def master_keys_of(file: SourceFile) -> frozenset[str]:
    """Return the ids of the master keys that a file shows without a key; none where it cannot be read."""
    seen = _read(file)
    columns = () if seen is None or seen.columns is None else seen.columns
    lists = [() if seen is None else seen.footer_key_ids, *(column.master_key_ids for column in columns)]
    return frozenset(key_id for key_ids in lists for key_id in key_ids)


def _read(file: SourceFile) -> FooterEncryption | None:
    try:
        with open_range_source(file) as source:
            return read_encryption(read_stored_footer(source), source.name)
    except PipecryptError:
        return None


def _encryption(seen: FooterEncryption) -> ObservedEncryption:
    return ObservedEncryption(
        None if seen.mode is None else _FOOTERS[seen.mode],
        footer_key_ids=seen.footer_key_ids,
        columns=None if seen.columns is None else tuple(map(_column, seen.columns)),
        dataset_id=seen.dataset_id,
        path=seen.path,
    )


def _column(column: FooterColumn) -> ObservedColumn:
    return ObservedColumn(column.path, column.is_encrypted, column.master_key_ids)


_FOOTERS = {FooterMode.ENCRYPTED: PromisedFooter.ENCRYPTED, FooterMode.PLAINTEXT: PromisedFooter.PLAINTEXT}
