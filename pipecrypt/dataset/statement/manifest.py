"""The manifest: everything that one signed statement says, as an in-toto Statement v1 and back.

Both kinds are compact JSON in UTF-8, members in this order::

    {"_type": "https://in-toto.io/Statement/v1",
     "subject": [{"name": "_pipecrypt/files/<version>-<16 hex>.jsonl", "digest": {"sha256": <of the file list>},
                  "annotations": {"clearColumns": <see promise>}}],     left out where no columns were noted
     "predicateType": "urn:pipecrypt:dataset:v1",
     "predicate": {"dataset": <32 hex>, "version": 1, "previous_sha256": <hex> | null,
                   "created": "2026-01-31T12:00:00Z", "expires": "..." | null,
                   "policy": <see promise>, "digests": ["sha256"],
                   "file_list": {"size_bytes": n, "count": n, "total_bytes": n, "total_rows": n},
                   "run": "20260131T120000Z-0123abcd"}}        only where a run staged files

    {..., "subject": [{"name": "part-0.parquet", "digest": {"sha256": <of the file>}}],
     "predicateType": "urn:pipecrypt:file:v1",
     "predicate": {... as above, without "file_list",
                   "file": {"size_bytes": n, "rows": n, "footer_sha256": <hex>, "kek_ids": [...]}}}

There is exactly one subject, so every in-toto tool can compare it. Unknown members of the statement and of its subject
are ignored, as in-toto asks. Unknown members of the predicate are refused: a promise that a reader does not know must
not look kept. A new member therefore takes a new predicate type. Tools that parse a statement as in-toto's protobuf
refuse members that it does not have; `annotations` of a subject may hold anything, for them and for older readers of
ours.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from pipecrypt.crypto.digest import DigestAlgorithm, digest
from pipecrypt.dataset.statement.file_list import (
    MAX_KEK_ID_CHARACTERS,
    MAX_KEK_IDS,
    FileEntry,
    FileListSummary,
    check_count,
    check_digest,
)
from pipecrypt.dataset.statement.paths import MAX_PATH_BYTES, check_file_name, file_list_path, parse_run_id
from pipecrypt.dataset.statement.promise import (
    ClearColumns,
    JSONObject,
    PromisedPolicy,
    decode_clear_columns,
    decode_policy,
    encode_clear_columns,
    encode_policy,
    fits_clear_columns,
)
from pipecrypt.errors import IntegrityError
from pipecrypt.vocabulary.clock import utc_text
from pipecrypt.vocabulary.documents import Document, DocumentError, parse_document

__all__ = [
    "DATASET_PREDICATE_TYPE",
    "FILE_PREDICATE_TYPE",
    "MAX_STATEMENT_BYTES",
    "STATEMENT_TYPE",
    "Manifest",
    "decode_statement",
    "encode_statement",
    "statement_sha256",
]


STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
DATASET_PREDICATE_TYPE: Final = "urn:pipecrypt:dataset:v1"
FILE_PREDICATE_TYPE: Final = "urn:pipecrypt:file:v1"
# Twenty thousand encrypted columns, each named.
MAX_STATEMENT_BYTES: Final = 3 * 1024 * 1024
_MAX_SUBJECTS: Final = 16
_DIGEST_CHARACTERS: Final = 64
_TEXT_CHARACTERS: Final = 256
_RUN: Final = "run"
_SUMS: Final = ("size_bytes", "count", "total_bytes", "total_rows")
_ANNOTATIONS: Final = "annotations"
_CLEAR: Final = "clearColumns"
_COMMON: Final = ("dataset", "version", "previous_sha256", "created", "expires", "policy", "digests")
_DATASET_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a signer says about a dataset, or about one file outside of any.

    Args:
        dataset_id: 32 lower-case hex digits, as in the AAD prefix of each file.
        version: counts from 1 for each dataset.
        previous_sha256: digest of the statement of the version before; None in version 1 only.
        created: when, in UTC and whole seconds.
        expires: from when on readers refuse it; None for never.
        policy: what is encrypted.
        digests: which digests of whole files are given, in the order of `DigestAlgorithm`; at least one.
        files: the file list of a dataset, or the one file of a statement beside a file.
        clear_columns: leaf columns that files have, or had, in plaintext; None where they were not noted.
        run: id of the run that wrote the version, where some of its files may still lie in that run's own directory;
            None where all of them were at their places before the statement was signed.

    Raises:
        DocumentError: a member is outside of its range, or contradicts another.
    """

    dataset_id: str
    version: int
    previous_sha256: str | None
    created: datetime
    expires: datetime | None
    policy: PromisedPolicy
    digests: tuple[DigestAlgorithm, ...]
    files: FileListSummary | FileEntry
    run: str | None = None
    clear_columns: ClearColumns | None = None

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if self.run is not None:
            parse_run_id(self.run)
        if _DATASET_ID.fullmatch(self.dataset_id) is None:
            raise DocumentError("the dataset id is not 32 lower-case hex digits")
        check_count("version", self.version)
        if self.version == 0 or (self.version == 1) != (self.previous_sha256 is None):
            raise DocumentError("the version is 0, or a digest of the statement before it is missing or too much")
        if self.previous_sha256 is not None:
            check_digest("previous_sha256", self.previous_sha256)
        for moment in (self.created, self.expires):
            # UTC itself: a zone that is at UTC in winter only would pass here and be written wrong in summer.
            if moment is not None and (moment.tzinfo is not UTC or moment.microsecond):
                raise DocumentError("a time is not in UTC and whole seconds")
        if self.expires is not None and self.expires <= self.created:
            raise DocumentError("the statement expires before it is created")
        if not self.digests or self.digests != tuple(kind for kind in DigestAlgorithm if kind in self.digests):
            raise DocumentError("the digests are missing, doubled or in another order")
        if isinstance(self.files, FileEntry):
            check_file_name(self.files.path)
            if tuple(self.files.digests()) != self.digests:
                raise DocumentError("the file has other digests than the manifest names")

    @property
    def file_list(self) -> FileListSummary | None:
        """The file list of a dataset; None for a single file."""
        return self.files if isinstance(self.files, FileListSummary) else None

    @property
    def file_list_path(self) -> str:
        """Where the file list lies below the dataset.

        Raises:
            IntegrityError: this is the statement of a single file.
        """
        if self.file_list is None:
            raise IntegrityError("the statement is about a single file, not about a dataset")
        return file_list_path(self.version, self.file_list.sha256)

    @property
    def single_file(self) -> FileEntry | None:
        """The single file; None for a dataset."""
        return self.files if isinstance(self.files, FileEntry) else None


def statement_sha256(statement: bytes) -> str:
    """Return the digest by which the next version's statement names this one: of the payload, not the envelope.

    Signatures may be added to an envelope later without breaking the chain.
    """
    return digest(statement)


def encode_statement(manifest: Manifest) -> bytes:
    """Return the bytes that are signed.

    Raises:
        DocumentError: the policy names more columns than a statement can hold.
    """
    files = manifest.files
    subject, body = _encode_list(manifest.version, files) if isinstance(files, FileListSummary) else _encode_file(files)
    if manifest.clear_columns is not None and fits_clear_columns(manifest.clear_columns):
        subject[_ANNOTATIONS] = {_CLEAR: encode_clear_columns(manifest.clear_columns)}
    document = {
        "_type": STATEMENT_TYPE,
        "subject": [subject],
        "predicateType": DATASET_PREDICATE_TYPE if manifest.file_list is not None else FILE_PREDICATE_TYPE,
        "predicate": {
            "dataset": manifest.dataset_id,
            "version": manifest.version,
            "previous_sha256": manifest.previous_sha256,
            "created": utc_text(manifest.created),
            "expires": utc_text(manifest.expires) if manifest.expires is not None else None,
            "policy": encode_policy(manifest.policy),
            "digests": [algorithm.value for algorithm in manifest.digests],
            **body,
            **({} if manifest.run is None else {_RUN: manifest.run}),
        },
    }
    data = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    if len(data) > MAX_STATEMENT_BYTES:
        raise DocumentError(f"the statement has {len(data)} bytes, but at most {MAX_STATEMENT_BYTES}")
    return data


def decode_statement(data: bytes) -> Manifest:
    """Return what a statement says; the caller has checked its signatures before.

    Raises:
        IntegrityError: malformed, of another type, or it contradicts itself.
    """
    try:
        document = parse_document(data, max_bytes=MAX_STATEMENT_BYTES)
        if document.text("_type", max_characters=_TEXT_CHARACTERS) != STATEMENT_TYPE:
            raise DocumentError("no in-toto Statement v1")
        kind = document.text("predicateType", max_characters=_TEXT_CHARACTERS)
        subjects = document.documents("subject", max_count=_MAX_SUBJECTS)
        if len(subjects) != 1:
            raise DocumentError("several subjects, or none")
        manifest = _decode_predicate(kind, document.document("predicate"), subjects[0])
        if _ANNOTATIONS not in subjects[0]:
            return manifest
        annotations = subjects[0].document(_ANNOTATIONS)
        clear_columns = decode_clear_columns(annotations, _CLEAR) if _CLEAR in annotations else None
        return replace(manifest, clear_columns=clear_columns)
    except DocumentError as error:
        raise IntegrityError(f"the signed statement is malformed: {error}") from error


def _decode_predicate(kind: str, predicate: Document, subject: Document) -> Manifest:
    if kind not in {DATASET_PREDICATE_TYPE, FILE_PREDICATE_TYPE}:
        raise DocumentError(f"its predicate type {kind!a} is unknown to this version of pipecrypt")
    body = "file_list" if kind == DATASET_PREDICATE_TYPE else "file"
    # Writers leave the run out where there is none, so that a null would be a second spelling.
    has_run = kind == DATASET_PREDICATE_TYPE and _RUN in predicate
    predicate.only(*_COMMON, body, *((_RUN,) if has_run else ()))
    version = predicate.integer("version")
    digests = _decode_digests(predicate)
    return Manifest(
        dataset_id=predicate.text("dataset", max_characters=_TEXT_CHARACTERS),
        version=version,
        previous_sha256=predicate.text_or_null("previous_sha256", max_characters=_DIGEST_CHARACTERS),
        created=predicate.time("created"),
        expires=None if predicate.is_null("expires") else predicate.time("expires"),
        policy=decode_policy(predicate.document("policy")),
        digests=digests,
        files=_decode_list(version, predicate.document(body), subject)
        if kind == DATASET_PREDICATE_TYPE
        else _decode_file(digests, predicate.document(body), subject),
        run=predicate.text(_RUN, max_characters=_TEXT_CHARACTERS) if has_run else None,
    )


def _encode_list(version: int, files: FileListSummary) -> tuple[JSONObject, JSONObject]:
    subject: JSONObject = {"name": file_list_path(version, files.sha256), "digest": {"sha256": files.sha256}}
    return subject, {"file_list": {name: getattr(files, name) for name in _SUMS}}


def _decode_list(version: int, body: Document, subject: Document) -> FileListSummary:
    body.only(*_SUMS)
    sha256 = subject.document("digest").text("sha256", max_characters=_DIGEST_CHARACTERS)
    summary = FileListSummary(sha256, **{name: body.integer(name) for name in _SUMS})
    if subject.text("name", max_characters=MAX_PATH_BYTES) != file_list_path(version, sha256):
        raise DocumentError("the subject has another name than the file list of this version")
    return summary


def _encode_file(file: FileEntry) -> tuple[JSONObject, JSONObject]:
    digests = {algorithm.value: value for algorithm, value in file.digests().items()}
    body = {
        "size_bytes": file.size_bytes,
        "rows": file.rows,
        "footer_sha256": file.footer_sha256,
        "kek_ids": list(file.kek_ids),
    }
    return {"name": file.path, "digest": digests}, {"file": body}


def _decode_file(digests: tuple[DigestAlgorithm, ...], body: Document, subject: Document) -> FileEntry:
    body.only("size_bytes", "rows", "footer_sha256", "kek_ids")
    # Digests that the manifest does not name are ignored, as in-toto's DigestSet asks.
    stored = subject.document("digest")
    values = {kind: stored.text(kind.value, max_characters=_DIGEST_CHARACTERS) for kind in digests}
    return FileEntry(
        path=subject.text("name", max_characters=MAX_PATH_BYTES),
        size_bytes=body.integer("size_bytes"),
        rows=body.integer("rows"),
        sha256=values.get(DigestAlgorithm.SHA256),
        footer_sha256=body.text("footer_sha256", max_characters=_DIGEST_CHARACTERS),
        kek_ids=body.texts("kek_ids", max_count=MAX_KEK_IDS, max_characters=MAX_KEK_ID_CHARACTERS),
        blake3=values.get(DigestAlgorithm.BLAKE3),
    )


def _decode_digests(predicate: Document) -> tuple[DigestAlgorithm, ...]:
    names = predicate.texts("digests", max_count=len(DigestAlgorithm), max_characters=_TEXT_CHARACTERS)
    try:
        return tuple(map(DigestAlgorithm, names))
    except ValueError as error:
        raise DocumentError("'digests' names one that is unknown to this version of pipecrypt") from error
