"""What a footer shows of a file, in the words of the manifest. Reading it is left to parquet, comparing to compare."""

from __future__ import annotations

from pipecrypt.context import Context
from pipecrypt.manifest.compare import ObservedEncryption, ObservedFile
from pipecrypt.manifest.promise import PromisedFooter
from pipecrypt.parquet.footer import StoredFooter
from pipecrypt.parquet.policy import FooterMode

__all__ = ["observe_encryption", "observe_footer"]


def observe_footer(stored: StoredFooter) -> ObservedFile:
    """Return size and footer digest, of the very bytes that were parsed."""
    return ObservedFile(stored.size_bytes, footer_sha256=stored.sha256)


def observe_encryption(stored: StoredFooter) -> ObservedEncryption:
    """Return how a file is encrypted, as its footer shows without a key."""
    sealed = stored.sealed
    if sealed is None:
        return ObservedEncryption(None)
    context = Context.from_aad_prefix(sealed.algorithm.aad_prefix or b"")
    return ObservedEncryption(
        PromisedFooter.ENCRYPTED if sealed.mode is FooterMode.ENCRYPTED else PromisedFooter.PLAINTEXT,
        dataset_id=context.dataset_id if context is not None else None,
        path=context.path if context is not None else None,
    )
