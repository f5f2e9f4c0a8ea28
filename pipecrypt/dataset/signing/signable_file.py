"""Note what a signature will say about one file that was just written. Signing it is left to next_version."""

from __future__ import annotations

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.dataset.signing.records import SignableFile
from pipecrypt.errors import UsageError
from pipecrypt.keys.session import FileKeys
from pipecrypt.manifest.entry import FileEntry
from pipecrypt.manifest.promise import PromisedColumn, PromisedFooter, PromisedPolicy
from pipecrypt.parquet.policy import EncryptionPolicy
from pipecrypt.parquet.report import FileReport
from pipecrypt.vocabulary.documents import DocumentError

__all__ = ["note_file"]


def note_file(path: str, report: FileReport, digest: str, *, policy: EncryptionPolicy, keys: FileKeys) -> SignableFile:
    """Return what a signature will say about a file.

    Args:
        path: of the file below the dataset; the name of a single file.
        report: what the engine did.
        digest: of the whole file, of the algorithm in `policy`.
        policy: under which it was written.
        keys: under which it was written.

    Raises:
        UsageError: a statement cannot hold it, such as a column nested too deeply.
    """
    is_sha256 = policy.digest is DigestAlgorithm.SHA256
    try:
        entry = FileEntry(
            path=path,
            size_bytes=report.sink_bytes,
            rows=report.rows,
            sha256=digest if is_sha256 else None,
            footer_sha256=report.footer_sha256,
            kek_ids=keys.kek_ids,
            blake3=None if is_sha256 else digest,
        )
        return SignableFile(entry, _promise(report, policy, keys))
    except DocumentError as error:
        raise UsageError(f"{path!a} cannot be signed: {error}", hint="encrypt it without signing") from error


def _promise(report: FileReport, policy: EncryptionPolicy, keys: FileKeys) -> PromisedPolicy:
    footer_key_id = keys.master_key_id(policy.footer_key_reference())
    others = footer_key_id if policy.uniform else None
    if others is None and policy.default is not None:
        others = keys.master_key_id(policy.default)
    sealed = {column.path: keys.master_key_id(column.key_reference) for column in report.sealed_columns}
    return PromisedPolicy(
        footer=PromisedFooter(policy.footer.value),
        footer_key_ids=(footer_key_id,),
        columns=tuple(PromisedColumn(path, (sealed[path],)) for path in sorted(sealed) if sealed[path] != others),
        other_key_ids=None if others is None else (others,),
        bind_path=policy.bind_path,
    )
