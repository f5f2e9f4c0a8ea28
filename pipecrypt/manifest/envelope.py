"""The DSSE envelope around a statement: what is signed, and how it is stored. Whose signatures count is left to trust.

Stored as one JSON object (DSSE, envelope.md 1.0.0)::

    {"payload": base64(statement), "payloadType": "application/vnd.in-toto+json",
     "signatures": [{"keyid": <hint>, "sig": base64(signature)}, ...]}

What is signed is not that JSON but its pre-authentication encoding (DSSE, protocol.md 1.0.0)::

    "DSSEv1" SP len(payloadType) SP payloadType SP len(payload) SP payload              lengths in bytes, decimal
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pipecrypt.crypto.signature import Signature
from pipecrypt.errors import IntegrityError
from pipecrypt.manifest.statement import MAX_STATEMENT_BYTES
from pipecrypt.vocabulary.documents import Document, DocumentError, decode_base64, encode_base64, parse_document

__all__ = [
    "MAX_ENVELOPE_BYTES",
    "MAX_SIGNATURES",
    "PAYLOAD_TYPE",
    "UntrustedEnvelope",
    "encode_envelope",
    "message_to_sign",
    "parse_envelope",
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
