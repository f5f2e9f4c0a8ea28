"""Write and read PKMT1 key material, the JSON that Parquet's key tools keep in `key_metadata`. Unwrapping: session.

Layout, as parquet-java's KeyMaterial and parquet-cpp's key_material.cc have it; members in the order written::

    {"keyMaterialType": "PKMT1", "internalStorage": true, "isFooterKey": bool,
     "kmsInstanceID": "DEFAULT", "kmsInstanceURL": "DEFAULT",              (footer keys only)
     "masterKeyID": text, "doubleWrapping": true,
     "keyEncryptionKeyID": base64(16 bytes),
     "wrappedKEK": "pc1." dataset id "." base64(KEK wrapped by the key service),
     "wrappedDEK": base64(nonce || ciphertext || tag)                      (under the KEK, AAD = the KEK id's bytes),
     "pipecrypt": {"v": 1, "commitment": base64(32 bytes)}}

The dataset id stands in "wrappedKEK" because a KmsClient of pyarrow or Spark sees that text and the master key id
only, and has to rebuild the context that the key service bound. Other writers have plain base64 there.
With external storage `key_metadata` names an entry of `_KEY_MATERIAL_FOR_<file>.json`, a JSON object of such texts.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pipecrypt.crypto.mac import COMMITMENT_BYTES
from pipecrypt.errors import FormatError, UnsupportedError
from pipecrypt.vocabulary.documents import Document, DocumentError, decode_base64, encode_base64, parse_document

__all__ = [
    "KEK_ID_BYTES",
    "MAX_KEY_METADATA_BYTES",
    "MAX_MASTER_KEY_ID_CHARACTERS",
    "ExternalMaterial",
    "KeyMaterial",
    "MaterialReader",
    "MaterialWriter",
    "WrappedKEK",
    "dataset_of_kek_text",
    "kek_text",
    "parse_external_material",
    "parse_kek_text",
    "parse_key_metadata",
]

KEK_ID_BYTES: Final = 16
MAX_KEY_METADATA_BYTES: Final = 64 * 1024
MAX_MASTER_KEY_ID_CHARACTERS: Final = 4096
_MAX_EXTERNAL_BYTES: Final = 64 * 1024 * 1024
_MAX_KEK_ID_BYTES: Final = 256
_TYPE: Final = "keyMaterialType"
_PKMT1: Final = "PKMT1"
_OWN: Final = "pipecrypt"
_OWN_VERSION: Final = 1
_OWN_KEK: Final = re.compile(r"pc1\.(?P<dataset>(?:[0-9a-f]{32})?)\.(?P<wrapped>[A-Za-z0-9+/=]+)")


@dataclass(frozen=True, slots=True)
class WrappedKEK:
    """A KEK's id and its wrapped form, the text of "wrappedKEK"."""

    id: bytes
    wrapped: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyMaterial:
    """What a file says about one data key; all of it is a hint until something authenticates it.

    Args:
        master_key_id: the master key that the writer named.
        wrapped_data_key: the text of "wrappedDEK": wrapped by the KEK, or without one by the master key.
        kek: the KEK in between, or None for single wrapping.
        commitment: to the data key; None in files of other writers.
    """

    master_key_id: str
    wrapped_data_key: str
    kek: WrappedKEK | None
    commitment: bytes | None


@dataclass(frozen=True, slots=True)
class ExternalMaterial:
    """Key material is kept outside of the file, under this name."""

    reference: str


class MaterialWriter:
    """Writes the key material of many data keys under one KEK; all that does not change is encoded once.

    Args:
        master_key_id: the master key.
        kek_id: KEK_ID_BYTES random bytes.
        wrapped_kek: the result of `kek_text`.
    """

    __slots__ = ("_column_head", "_footer_head")

    def __init__(self, master_key_id: str, kek_id: bytes, wrapped_kek: str) -> None:
        """Encode the members that all data keys share."""
        self._column_head = _head(master_key_id, kek_id, wrapped_kek, is_footer_key=False)
        self._footer_head = _head(master_key_id, kek_id, wrapped_kek, is_footer_key=True)

    def encode(self, wrapped_data_key: bytes, commitment: bytes, *, is_footer_key: bool) -> bytes:
        """Return the `key_metadata` of one data key."""
        head = self._footer_head if is_footer_key else self._column_head
        # Base64 needs no JSON escapes, so a format string gives the same text as json.dumps in a fifth of the time.
        tail = (
            f'{encode_base64(wrapped_data_key)}","{_OWN}":'
            f'{{"v":{_OWN_VERSION},"commitment":"{encode_base64(commitment)}"}}}}'
        )
        return head + tail.encode("ascii")


def parse_key_metadata(key_metadata: bytes) -> KeyMaterial | ExternalMaterial | None:
    """Return what PKMT1 `key_metadata` says, or None if another scheme wrote it.

    Raises:
        FormatError: it claims to be PKMT1 and is malformed, or it is too long.
        UnsupportedError: a later release of pipecrypt wrote it.
    """
    if len(key_metadata) > MAX_KEY_METADATA_BYTES:
        raise FormatError(f"key metadata is longer than {MAX_KEY_METADATA_BYTES} bytes")
    try:
        document = parse_document(key_metadata, max_bytes=MAX_KEY_METADATA_BYTES)
    except DocumentError:
        return None
    if _TYPE not in document:
        return None
    try:
        if document.text(_TYPE, max_characters=64) != _PKMT1:
            return None
        if document.boolean("internalStorage"):
            return _read_material(document)
        return ExternalMaterial(document.text("keyReference", max_characters=1024))
    except DocumentError as error:
        raise FormatError(f"key metadata is malformed: {error}") from error


class MaterialReader:
    """Reads the key material of many data keys; what those under one KEK share is parsed once. Safe across threads."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        """Know no KEK yet."""
        self._known: dict[bytes, KeyMaterial] = {}

    def parse(self, key_metadata: bytes) -> KeyMaterial | ExternalMaterial | None:
        """Return what `parse_key_metadata` returns; raises what it raises."""
        head, tail = key_metadata[:-_TAIL_BYTES], _TAIL.fullmatch(key_metadata[-_TAIL_BYTES:])
        known = self._known.get(head)
        if known is not None and tail is not None:
            with contextlib.suppress(ValueError):  # not base64, of which the whole parser tells
                return KeyMaterial(
                    master_key_id=known.master_key_id,
                    wrapped_data_key=tail[1].decode("ascii"),
                    kek=known.kek,
                    commitment=decode_base64(tail[2].decode("ascii")),
                )
        material = parse_key_metadata(key_metadata)
        if tail is not None and isinstance(material, KeyMaterial) and _is_head(head, tail, material):
            if len(self._known) >= _MAX_KNOWN_HEADS:
                self._known.clear()
            self._known[head] = material
        return material

    def kek_id(self, key_metadata: bytes) -> bytes | None:
        """Return the id of the KEK that key material names, which is as its writer made it; None without one.

        Of all keys under one KEK, the first is parsed.

        Raises:
            PipecryptError: as `parse`.
        """
        material = self._known.get(key_metadata[:-_TAIL_BYTES]) or self.parse(key_metadata)
        return None if not isinstance(material, KeyMaterial) or material.kek is None else material.kek.id


# What follows `"wrappedDEK":"` in the material of a 256-bit data key that MaterialWriter wrote.
_TAIL: Final = re.compile(rb'([A-Za-z0-9+/]{80})","pipecrypt":\{"v":1,"commitment":"([A-Za-z0-9+/]{43}=)"\}\}')
_TAIL_BYTES: Final = 80 + len('","pipecrypt":{"v":1,"commitment":"') + 44 + len('"}}')
_MAX_KNOWN_HEADS: Final = 256


def _is_head(head: bytes, tail: re.Match[bytes], material: KeyMaterial) -> bool:
    # Without an escape, the quotation marks are those of the JSON itself, so another tail of the same form stands for
    # the same members with other values. Comparing the values makes sure that these are the members that counted.
    if b"\\" in head or not head.endswith(b'"wrappedDEK":"') or material.commitment is None:
        return False
    commitment = encode_base64(material.commitment)
    return (material.wrapped_data_key, commitment) == (tail[1].decode("ascii"), tail[2].decode("ascii"))


def parse_external_material(data: bytes) -> Mapping[str, KeyMaterial]:
    """Return the entries of a `_KEY_MATERIAL_FOR_<file>.json` of parquet-java by their names.

    Raises:
        FormatError: it is malformed or too long.
        UnsupportedError: a later release of pipecrypt wrote it.
    """
    try:
        document = parse_document(data, max_bytes=_MAX_EXTERNAL_BYTES)
        return {name: _read_entry(document, name) for name in document}
    except DocumentError as error:
        raise FormatError(f"the external key material is malformed: {error}") from error


def kek_text(dataset_id: str, wrapped: bytes) -> str:
    """Return the text of "wrappedKEK" for a KEK wrapped in the context of a dataset ("" for none)."""
    return f"pc1.{dataset_id}.{encode_base64(wrapped)}"


def dataset_of_kek_text(text: str) -> str | None:
    """Return the dataset id in a text of "wrappedKEK", or None if another program wrote it."""
    match = _OWN_KEK.fullmatch(text)
    return None if match is None else match["dataset"]


def parse_kek_text(text: str) -> tuple[str | None, bytes]:
    """Return the dataset id, None in texts of other writers, and the wrapped key.

    Raises:
        FormatError: neither form.
    """
    match = _OWN_KEK.fullmatch(text)
    try:
        if match is None:
            return None, decode_base64(text)
        return match["dataset"], decode_base64(match["wrapped"])
    except ValueError as error:
        raise FormatError("key metadata is malformed: the wrapped key is not base64") from error


def _head(master_key_id: str, kek_id: bytes, wrapped_kek: str, *, is_footer_key: bool) -> bytes:
    members: dict[str, str | bool] = {_TYPE: _PKMT1, "internalStorage": True, "isFooterKey": is_footer_key}
    if is_footer_key:
        members |= {"kmsInstanceID": "DEFAULT", "kmsInstanceURL": "DEFAULT"}
    members |= {
        "masterKeyID": master_key_id,
        "doubleWrapping": True,
        "keyEncryptionKeyID": encode_base64(kek_id),
        "wrappedKEK": wrapped_kek,
        "wrappedDEK": "",
    }
    return json.dumps(members, separators=(",", ":")).removesuffix('"}').encode("ascii")


def _read_entry(document: Document, name: str) -> KeyMaterial:
    text = document.text(name, max_characters=MAX_KEY_METADATA_BYTES)
    material = parse_document(text.encode(), max_bytes=MAX_KEY_METADATA_BYTES)
    if material.text(_TYPE, max_characters=64) != _PKMT1:
        raise DocumentError("an entry is not of type PKMT1")
    return _read_material(material)


def _read_material(document: Document) -> KeyMaterial:
    kek = None
    if document.boolean("doubleWrapping"):
        kek_id = document.base64("keyEncryptionKeyID", max_bytes=_MAX_KEK_ID_BYTES)
        kek = WrappedKEK(kek_id, document.text("wrappedKEK", max_characters=MAX_KEY_METADATA_BYTES))
    return KeyMaterial(
        master_key_id=document.text("masterKeyID", max_characters=MAX_MASTER_KEY_ID_CHARACTERS),
        wrapped_data_key=document.text("wrappedDEK", max_characters=MAX_KEY_METADATA_BYTES),
        kek=kek,
        commitment=_read_commitment(document.document(_OWN)) if _OWN in document else None,
    )


def _read_commitment(own: Document) -> bytes:
    version = own.integer("v")
    if version != _OWN_VERSION:
        raise UnsupportedError(
            f"key metadata of version {version} is not known to this release", hint="upgrade pipecrypt"
        )
    commitment = own.base64("commitment", max_bytes=COMMITMENT_BYTES)
    if len(commitment) != COMMITMENT_BYTES:
        raise DocumentError(f"the commitment has {len(commitment)} bytes, not {COMMITMENT_BYTES}")
    return commitment
