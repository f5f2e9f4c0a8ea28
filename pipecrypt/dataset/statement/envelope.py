"""The DSSE envelope around a statement, and the way from its untrusted bytes to a VerifiedManifest.

Stored as one JSON object (DSSE, envelope.md 1.0.0)::

    {"payload": base64(statement), "payloadType": "application/vnd.in-toto+json",
     "signatures": [{"keyid": <hint>, "sig": base64(signature)}, ...]}

What is signed is not that JSON but its pre-authentication encoding (DSSE, protocol.md 1.0.0)::

    "DSSEv1" SP len(payloadType) SP payloadType SP len(payload) SP payload              lengths in bytes, decimal
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import InitVar, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, NoReturn, TypeAlias

from pipecrypt.crypto.digest import digest
from pipecrypt.crypto.signature import Signature
from pipecrypt.dataset.statement.file_list import FileEntry, FileListSummary, decode_file_list
from pipecrypt.dataset.statement.manifest import MAX_STATEMENT_BYTES, Manifest, decode_statement, statement_sha256
from pipecrypt.errors import ExpiredError, FutureStatementError, IntegrityError, NotTrustedError, RolledBackError
from pipecrypt.vocabulary.documents import Document, DocumentError, decode_base64, encode_base64, parse_document

__all__ = [
    "ACCEPT_FUTURE_HINT",
    "MAX_CLOCK_SKEW",
    "MAX_ENVELOPE_BYTES",
    "MAX_SIGNATURES",
    "PAYLOAD_TYPE",
    "Check",
    "RememberedVersion",
    "UntrustedEnvelope",
    "VerifiedManifest",
    "check_created",
    "check_remembered",
    "encode_envelope",
    "files_of",
    "message_to_sign",
    "parse_envelope",
    "verify_envelope",
]


PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
MAX_SIGNATURES: Final = 32
# An RSA signature of 16,384 bits has 2,048 bytes, one of ML-DSA-65 3,309, one of SLH-DSA up to 49,856.
_MAX_SIGNATURE_BYTES: Final = 8 * 1024
_MAX_KEY_ID_CHARACTERS: Final = 1024
_MAX_TYPE_CHARACTERS: Final = 256
MAX_ENVELOPE_BYTES: Final = (MAX_STATEMENT_BYTES + MAX_SIGNATURES * 2 * _MAX_SIGNATURE_BYTES) // 3 * 4
# Unknown members are ignored, but each object in them costs far more memory than its two bytes.
_MAX_BRACKETS: Final = 4096
_URL_SAFE: Final = re.compile(r"[A-Za-z0-9_-]*={0,2}", re.ASCII)
_TO_STANDARD: Final = str.maketrans("-_", "+/")
# (message, signatures, reads when it was signed) -> ids of the trusted keys that signed; raises NotTrustedError if they
# are too few.
Check: TypeAlias = Callable[[bytes, Sequence[Signature], Callable[[], datetime]], tuple[str, ...]]
# How far ahead of this machine's clock the signer's may be.
MAX_CLOCK_SKEW: Final = timedelta(minutes=10)
# For whoever is about to sign the next version; readers have no such choice.
ACCEPT_FUTURE_HINT: Final = (
    "compare both clocks with the true time; a writer may pass --accept-future-statement to run or encrypt"
)
_PROOF: Final = object()


@dataclass(frozen=True, slots=True)
class UntrustedEnvelope:
    """An envelope that nobody has checked yet; `verify_envelope` makes a VerifiedManifest of it.

    Args:
        payload: the statement's bytes, as signed.
        signatures: in the order of the envelope.
    """

    payload: bytes
    signatures: tuple[Signature, ...]


def message_to_sign(statement: bytes, *, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """Return the bytes that each signer signs and each verifier checks: PAE(payload type, statement).

    Args:
        statement: or what else is signed.
        payload_type: keeps signatures of one kind of payload from counting for another.
    """
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(statement), statement)


def encode_envelope(statement: bytes, signatures: Sequence[Signature], *, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """Return the envelope as it is stored: compact JSON, standard base64, one LF at the end.

    Args:
        statement: from `encode_statement`, or what else is signed.
        signatures: each of `message_to_sign(statement)`; at least one.
        payload_type: as for `message_to_sign`.
    """
    if not 0 < len(signatures) <= MAX_SIGNATURES:
        raise RuntimeError(f"an envelope has 1 to {MAX_SIGNATURES} signatures")
    document = {
        "payload": encode_base64(statement),
        "payloadType": payload_type,
        "signatures": [{"keyid": one.key_id, "sig": encode_base64(one.value)} for one in signatures],
    }
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def parse_envelope(data: bytes, *, payload_type: str = PAYLOAD_TYPE) -> UntrustedEnvelope:
    """Return what an envelope holds, without any check of signatures.

    Members that DSSE does not name are ignored, as it asks. The caller reads at most MAX_ENVELOPE_BYTES + 1 bytes.

    Args:
        data: the envelope.
        payload_type: the only one that is accepted.

    Raises:
        IntegrityError: no envelope, of another payload type, without signatures, or beyond the limits.
    """
    try:
        # Counting what opens an object or a list bounds depth and memory before the parser sees the text.
        if data.count(b"{") + data.count(b"[") > _MAX_BRACKETS:
            raise DocumentError("too many objects and lists")
        document = parse_document(data, max_bytes=MAX_ENVELOPE_BYTES)
        # protocol.md: a payload of another type may parse as ours, and mean something else.
        if document.text("payloadType", max_characters=_MAX_TYPE_CHARACTERS) != payload_type:
            raise DocumentError(f"the payload type is not {payload_type}")
        signatures = document.documents("signatures", max_count=MAX_SIGNATURES)
        if not signatures:
            raise DocumentError("no signatures")
        return UntrustedEnvelope(
            payload=_either_base64(document, "payload", max_bytes=MAX_STATEMENT_BYTES),
            signatures=tuple(map(_signature, signatures)),
        )
    except DocumentError as error:
        raise IntegrityError(f"the signature file is malformed: {error}") from error


def _signature(document: Document) -> Signature:
    # envelope.md: an unset keyid means the same as an empty one.
    has_key_id = "keyid" in document and not document.is_null("keyid")
    return Signature(
        key_id=document.text("keyid", max_characters=_MAX_KEY_ID_CHARACTERS) if has_key_id else "",
        value=_either_base64(document, "sig", max_bytes=_MAX_SIGNATURE_BYTES),
    )


def _either_base64(document: Document, name: str, *, max_bytes: int) -> bytes:
    """Decode standard or URL-safe base64, both of which verifiers must accept; padded, and never the two mixed."""
    text = document.text(name, max_characters=(max_bytes + 2) // 3 * 4)
    try:
        # Text of both alphabets, or of neither, stays as it is and is refused.
        return decode_base64(text.translate(_TO_STANDARD) if _URL_SAFE.fullmatch(text) else text)
    except ValueError as error:
        raise DocumentError(f"{name!r} is not base64") from error


@dataclass(frozen=True, slots=True)
class RememberedVersion:
    """The last statement that this reader accepted for a dataset; the caller stores it where no attacker writes.

    Args:
        dataset_id: of the dataset.
        version: the highest that was seen.
        statement_sha256: of that version's statement.
        accepted: when, in UTC, by this machine's clock; None where that was not kept.
    """

    dataset_id: str
    version: int
    statement_sha256: str
    accepted: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class VerifiedManifest:
    """A manifest that trusted keys signed and that is fresh. Only `verify_envelope` makes one; it cannot be copied.

    Args:
        manifest: what was signed.
        key_ids: of the trusted keys that signed it.
        statement_sha256: digest of the statement; `previous_sha256` of the version after it.
        proof: what only this module has.
    """

    manifest: Manifest
    key_ids: tuple[str, ...]
    statement_sha256: str
    proof: InitVar[object]

    def __post_init__(self, proof: object) -> None:
        """Refuse to be made by anything but `verify_envelope`."""
        if proof is not _PROOF:
            raise RuntimeError("only verify_envelope makes a verified manifest")

    def remember(self) -> RememberedVersion:
        """Return what the caller stores, to notice next time if an older statement is shown."""
        return RememberedVersion(self.manifest.dataset_id, self.manifest.version, self.statement_sha256)

    def __reduce__(self) -> NoReturn:
        """Refuse: bytes from elsewhere must pass `verify_envelope`."""
        raise TypeError("a verified manifest cannot be pickled or copied; send the envelope")


def files_of(manifest: Manifest, file_list: bytes) -> Iterator[FileEntry]:
    """Return the files of a dataset one by one, after the list was found to be the one that its manifest names.

    Numbers: 1. the size is the named one, 2. so is the digest (both before this returns), 3. every line is well formed,
    sorted, and has the digests that the manifest names, 4. count, bytes and rows add up to what the manifest says
    (after the last).

    Args:
        manifest: of a dataset.
        file_list: what lies at its `file_list_path`. The caller reads at most one byte more than `size_bytes` of the
            manifest's file list.

    Raises:
        IntegrityError: another list, or the statement of a single file.
    """
    summary = manifest.file_list
    if summary is None:
        raise IntegrityError("the statement is about a single file, not about a dataset")
    if len(file_list) != summary.size_bytes:  # 1
        raise IntegrityError(f"the file list has {len(file_list)} bytes, but {summary.size_bytes} were signed")
    if digest(file_list) != summary.sha256:  # 2
        raise IntegrityError("the file list is not the one that was signed")
    return _entries(manifest, file_list, summary)


def _entries(manifest: Manifest, file_list: bytes, summary: FileListSummary) -> Iterator[FileEntry]:
    count = total_bytes = total_rows = 0
    for entry in decode_file_list(file_list, manifest.digests):  # 3
        count, total_bytes, total_rows = count + 1, total_bytes + entry.size_bytes, total_rows + entry.rows
        yield entry
    if (count, total_bytes, total_rows) != (summary.count, summary.total_bytes, summary.total_rows):  # 4
        raise IntegrityError("the files of the list do not add up to what was signed")


def verify_envelope(
    envelope: bytes,
    check: Check,
    now: datetime,
    *,
    min_version: int = 1,
    remembered: RememberedVersion | None = None,
    expected_dataset_id: str | None = None,
    expected_file: str | None = None,
) -> VerifiedManifest:
    """Return the manifest in an envelope if all that is numbered here holds, checked in this order.

    1. The bytes are a DSSE envelope of in-toto's payload type, within the limits.
    2. Enough trusted parties signed payload type and payload (`check`), at least one. Nothing of the payload is looked
       at before; where a retired key signed it, when it says that it was created. That is the signer's word: a version
       above the remembered one was signed when that was accepted, at the earliest.
    3. The payload is an in-toto Statement v1 of a predicate type of ours, which does not contradict itself.
    4. It is about what the caller opened: a dataset, or the single file of the expected name.
    5. It is about the expected dataset, and about the remembered one.
    6. Its version is at least the lowest one accepted, and at least the remembered one. Of the remembered version it
       is the same statement; the version right after it names that statement as the one before. A reader that skipped
       versions cannot check the chain between.
    7. It was created before now, give or take MAX_CLOCK_SKEW, and is not expired; expiry has no grace.

    What the caller still owes: to store `remember()`, to read the file list through `files_of`, and to compare each
    file before a byte of it is released.

    Args:
        envelope: what was stored; at most MAX_ENVELOPE_BYTES + 1 bytes need to be read.
        check: `Trust.verify`.
        now: in UTC.
        min_version: lowest version that the caller accepts.
        remembered: the last statement that was accepted here.
        expected_dataset_id: of the dataset that the caller means, if it knows.
        expected_file: the name of a single file beside its statement; None for a dataset.

    Raises:
        NotTrustedError: 2.
        RolledBackError: 6.
        ExpiredError: 7, expired.
        FutureStatementError: 7, created later than now.
        IntegrityError: any other.
    """
    if now.tzinfo is not UTC:
        raise RuntimeError("the time to compare with must be in UTC")
    untrusted = parse_envelope(envelope)  # 1
    message = message_to_sign(untrusted.payload)
    key_ids = check(message, untrusted.signatures, lambda: _signed_at(untrusted.payload, remembered))  # 2
    if not key_ids:
        raise NotTrustedError("no trusted key signed the statement")
    manifest = decode_statement(untrusted.payload)  # 3
    sha256 = statement_sha256(untrusted.payload)
    _check_kind(manifest, expected_file)  # 4
    _check_dataset(manifest, remembered, expected_dataset_id)  # 5
    _check_version(manifest, sha256, min_version, remembered)  # 6
    _check_time(manifest, now)  # 7
    return VerifiedManifest(manifest, key_ids, sha256, _PROOF)


def _signed_at(payload: bytes, remembered: RememberedVersion | None) -> datetime:
    manifest = decode_statement(payload)
    if remembered is None or remembered.accepted is None or manifest.version <= remembered.version:
        return manifest.created
    return max(manifest.created, remembered.accepted)


def _check_kind(manifest: Manifest, expected_file: str | None) -> None:
    single = manifest.single_file
    if expected_file is None:
        if single is not None:
            raise IntegrityError("the statement is about a single file, not about a dataset")
    elif single is None:
        raise IntegrityError(f"the statement beside {expected_file!a} is about a dataset, not about a single file")
    elif single.path != expected_file:
        raise IntegrityError(
            f"the statement beside {expected_file!a} is about {single.path!a}",
            hint="a signed file keeps the name under which it was signed",
        )


def _check_dataset(manifest: Manifest, remembered: RememberedVersion | None, expected_dataset_id: str | None) -> None:
    known = [remembered.dataset_id] if remembered is not None else []
    for dataset_id in [*known, *([expected_dataset_id] if expected_dataset_id is not None else [])]:
        if manifest.dataset_id != dataset_id:
            raise IntegrityError(
                f"the statement is about dataset {manifest.dataset_id}, but {dataset_id} was expected here",
                hint="another dataset was put in its place, or it was made anew: ask whoever writes it",
            )


def _check_version(manifest: Manifest, sha256: str, min_version: int, remembered: RememberedVersion | None) -> None:
    version = manifest.version
    if version < min_version:
        raise RolledBackError(f"the statement has version {version}, but {min_version} is the lowest accepted")
    if remembered is None:
        return
    if version < remembered.version:
        raise RolledBackError(f"the statement has version {version}, but {remembered.version} was seen before")
    if version == remembered.version and sha256 != remembered.statement_sha256:
        raise RolledBackError(f"there are two statements of version {version}: another one was seen before")
    if version == remembered.version + 1 and manifest.previous_sha256 != remembered.statement_sha256:
        raise RolledBackError(f"version {version} follows another version {remembered.version} than was seen before")


def check_remembered(manifest: Manifest, sha256: str, remembered: RememberedVersion | None) -> None:
    """Pass if a statement is not older than one that was accepted, nor about another dataset.

    Args:
        manifest: what it says.
        sha256: of the statement.
        remembered: the last one that was accepted.

    Raises:
        IntegrityError: it is about another dataset.
        RolledBackError: it is older, or another one of that version, or follows another one.
    """
    _check_dataset(manifest, remembered, None)
    _check_version(manifest, sha256, 1, remembered)


def check_created(created: datetime, now: datetime, *, hint: str | None = None) -> None:
    """Pass if a statement was created before now, give or take MAX_CLOCK_SKEW.

    Args:
        created: by the statement's own word.
        now: in UTC.
        hint: what the caller's user can do; None: what a reader can.

    Raises:
        FutureStatementError: it was not; names both times.
    """
    if created > now + MAX_CLOCK_SKEW:
        ahead = timedelta(seconds=int((created - now).total_seconds()))
        raise FutureStatementError(
            f"the statement says that it was signed at {created.isoformat()}, and the clock here says "
            f"{now.replace(microsecond=0).isoformat()}: the signer's clock was {ahead} ahead, or this one is behind; "
            f"{MAX_CLOCK_SKEW} are allowed",
            hint=hint,
        )


def _check_time(manifest: Manifest, now: datetime) -> None:
    check_created(manifest.created, now)
    if manifest.expires is not None and now >= manifest.expires:
        raise ExpiredError(f"the statement expired at {manifest.expires.isoformat()}")
