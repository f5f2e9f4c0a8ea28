"""The keys that a footer names: reading them, walking over them, and putting them under another master key.

Under a plaintext footer no key is needed to read them, and nothing of it is authenticated. An encrypted footer hides
the keys of the columns from who does not hold its key.

Under another master key only the footer changes. Data keys, and so pages, indexes and the sealed metadata of columns,
stay as they are, and with them each commitment. What changes is `key_metadata`: of columns in the footer, of the footer
key beside it. So a footer in clear is signed again, and an encrypted one sealed again, each under the same footer key
and with a fresh nonce.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeAlias

from pipecrypt.crypto.aead import MessageCipher
from pipecrypt.errors import FormatError
from pipecrypt.parquet.footer.entries import read_originals
from pipecrypt.parquet.footer.opened import resolve_prefix
from pipecrypt.parquet.footer.row_groups import RowGroups
from pipecrypt.parquet.footer.stored import SealedFooter, StoredFooter, encode_sealed_footer, open_footer
from pipecrypt.parquet.policy import FooterMode, KeyScope
from pipecrypt.parquet.protocols import DataKeys
from pipecrypt.parquet.wire.fields import ColumnCrypto
from pipecrypt.parquet.wire.modules import FileAAD
from pipecrypt.parquet.wire.thrift import Struct, WireType
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.documents import DocumentError, parse_document
from pipecrypt.vocabulary.secret import DataKey

__all__ = [
    "FooterColumn",
    "FooterEncryption",
    "KeyNames",
    "KeyUse",
    "NewFooter",
    "column_key_uses",
    "footer_key_use",
    "observe_encryption",
    "open_clear_or_sealed",
    "read_key_names",
    "rekey_footer",
]

_MAX_BYTES: Final = 64 * 1024  # what any reader of ours takes
_MAX_CHARACTERS: Final = 4096
_MAX_TYPE_CHARACTERS: Final = 64


@dataclass(frozen=True, slots=True)
class KeyNames:
    """What the key metadata of one data key says.

    Args:
        master_key_id: None where it is no PKMT1 key material, or names material outside of the file.
        kek_id: the text of "keyEncryptionKeyID"; None without one.
        has_commitment: it commits to the data key.
    """

    master_key_id: str | None = None
    kek_id: str | None = None
    has_commitment: bool = False


_NO_NAMES: Final = KeyNames()


def read_key_names(key_metadata: bytes) -> KeyNames:
    """Return what key metadata says; names nothing where it is something else or malformed."""
    try:
        document = parse_document(key_metadata, max_bytes=_MAX_BYTES)
        if document.text("keyMaterialType", max_characters=_MAX_TYPE_CHARACTERS) != "PKMT1":
            return _NO_NAMES
        master_key_id = document.text("masterKeyID", max_characters=_MAX_CHARACTERS)
    except DocumentError:
        return _NO_NAMES
    kek_id, has_commitment = None, False
    with suppress(DocumentError):
        kek_id = document.text("keyEncryptionKeyID", max_characters=_MAX_CHARACTERS)
    with suppress(DocumentError):
        has_commitment = "commitment" in document.document("pipecrypt")
    return KeyNames(master_key_id, kek_id, has_commitment)


@dataclass(frozen=True, slots=True)
class KeyUse:
    """One data key in a file.

    Args:
        key_metadata: what the file stores of it.
        context: the place that it is bound to; the column is None for the footer's.
        batch: the row group in which it was met; None for the footer's.
    """

    key_metadata: bytes
    context: Context
    batch: int | None


def footer_key_use(sealed: SealedFooter) -> KeyUse:
    """Return the use of the footer's data key."""
    prefix = resolve_prefix(sealed, None)
    context = Context.from_aad_prefix(prefix) or Context("", "")
    return KeyUse(sealed.key_metadata, context.for_footer(), None)


def open_clear_or_sealed(sealed: SealedFooter, keys: DataKeys) -> Struct:
    """Return a footer's content: as it is where it stands in clear, else opened with its key.

    Raises:
        AccessError: the key of an encrypted footer is missing or refused.
        IntegrityError: an encrypted footer was changed.
    """
    if sealed.metadata is not None:
        return sealed.metadata
    use = footer_key_use(sealed)
    aad = FileAAD(resolve_prefix(sealed, None), sealed.algorithm.file_unique)
    with keys.open_data_key(use.key_metadata, use.context) as key:
        return open_footer(sealed, MessageCipher(key), aad)


def column_key_uses(sealed: SealedFooter, metadata: Struct) -> Iterator[KeyUse]:
    """Yield the use of the data key of each encrypted column chunk that has one of its own.

    Args:
        sealed: the footer.
        metadata: the result of `open_clear_or_sealed`; row groups in it are opened one at a time.

    Raises:
        FormatError: malformed.
    """
    context = footer_key_use(sealed).context
    originals = read_originals(metadata)
    per_batch = originals is not None and originals.data_keys is KeyScope.BATCH
    for chunk in RowGroups(metadata, sealed.name, is_sealed=True).each_chunk():
        if chunk.column_key is not None:
            at = context.for_column(chunk.leaf.path, chunk.row_group if per_batch else None)
            yield KeyUse(chunk.column_key.binary(ColumnCrypto.KEY_METADATA) or b"", at, chunk.row_group)


@dataclass(frozen=True, slots=True)
class FooterColumn:
    """How a leaf column is encrypted.

    Args:
        path: from the root to the leaf.
        is_encrypted: in every row group.
        master_key_ids: sorted, each once; the footer's where it is under the footer's data key.
    """

    path: tuple[str, ...]
    is_encrypted: bool
    master_key_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FooterEncryption:
    """What a footer says without a key.

    Args:
        mode: None where the file is not encrypted.
        footer_key_ids: master keys of the footer: one, or none where its key metadata names none.
        columns: leaf columns, none where no row group shows any; None where the footer is encrypted.
        dataset_id: from the AAD prefix; None without a prefix of ours.
        path: from the AAD prefix.
        kek_ids: the texts "keyEncryptionKeyID" of footer and columns, sorted, each once.
    """

    mode: FooterMode | None
    footer_key_ids: tuple[str, ...]
    columns: tuple[FooterColumn, ...] | None
    dataset_id: str | None
    path: str | None
    kek_ids: tuple[str, ...]


def observe_encryption(stored: StoredFooter, name: str) -> FooterEncryption:
    """Return what a footer says about the file's encryption, unauthenticated.

    Args:
        stored: the footer, which stays as it is.
        name: what errors call the file.

    Raises:
        FormatError: malformed, or row groups and schema disagree.
    """
    sealed = stored.sealed
    footer_names = KeyNames() if sealed is None else read_key_names(sealed.key_metadata)
    context = Context.from_aad_prefix(b"" if sealed is None else sealed.algorithm.aad_prefix or b"")
    kek_ids = {footer_names.kek_id}
    columns = None if stored.metadata is None else _columns(stored.metadata, footer_names, kek_ids, name)
    return FooterEncryption(
        mode=None if sealed is None else sealed.mode,
        footer_key_ids=_ids({footer_names.master_key_id}),
        columns=columns,
        dataset_id=None if context is None else context.dataset_id,
        path=None if context is None else context.path,
        kek_ids=_ids(kek_ids),
    )


def _columns(footer: Struct, under_footer: KeyNames, kek_ids: set[str | None], name: str) -> tuple[FooterColumn, ...]:
    """Return how the columns are encrypted, and add the ids of their KEKs."""
    row_groups = RowGroups(footer, name, is_sealed=True)
    if not len(row_groups):
        return ()
    encrypted: Counter[int] = Counter()
    key_ids: list[set[str | None]] = [set() for _ in row_groups.leaves]
    # In a file with one data key for each column, its key metadata is the same every time.
    last: dict[int, tuple[bytes, KeyNames]] = {}
    for chunk in row_groups.each_chunk():
        if not chunk.is_sealed:
            continue
        names, own = under_footer, chunk.column_key
        if own is not None:
            key_metadata = own.binary(ColumnCrypto.KEY_METADATA) or b""
            known = last.get(chunk.column)
            names = known[1] if known is not None and known[0] == key_metadata else read_key_names(key_metadata)
            last[chunk.column] = key_metadata, names
        encrypted[chunk.column] += 1
        key_ids[chunk.column].add(names.master_key_id)
        kek_ids.add(names.kek_id)
    return tuple(
        FooterColumn(leaf.path, encrypted[column] == len(row_groups), _ids(key_ids[column]))
        for column, leaf in enumerate(row_groups.leaves)
    )


def _ids(found: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(sorted({each for each in found if each is not None}))


# (key_metadata, context) -> the data key, which its receiver wipes.
OpenKey: TypeAlias = Callable[[bytes, Context], DataKey]
# (key_metadata, context) -> the data key's new key_metadata; None where it stays as it is.
Rewrap: TypeAlias = Callable[[bytes, Context], bytes | None]


@dataclass(frozen=True, slots=True)
class NewFooter:
    """What shall stand behind the body of a file.

    Args:
        body_end: where it begins.
        tail: footer, length and magic.
        data_keys: how many data keys are under another master key now.
    """

    body_end: int
    tail: bytes
    data_keys: int


def rekey_footer(stored: StoredFooter, open_key: OpenKey, rewrap: Rewrap) -> NewFooter | None:
    """Return the footer with other key metadata, or None where all of it stays.

    What holds when it returns: (1) pipecrypt wrote the file; (2) its footer's tag fits the footer key, so that nothing
    is signed again that was changed; (3) each data key that was wrapped again was opened and matched its commitment,
    which is `rewrap`'s to see to. The caller still owes: what authenticates the body.

    Args:
        stored: the footer, which this changes.
        open_key: opens data keys.
        rewrap: says what becomes of each.

    Raises:
        FormatError: malformed, or of another writer.
        AccessError: a key is missing or was refused.
        IntegrityError: the footer or a key was changed.
    """
    sealed = stored.sealed
    if sealed is None:
        return None
    footer = footer_key_use(sealed)
    aad = FileAAD(sealed.algorithm.aad_prefix or b"", sealed.algorithm.file_unique)
    with open_key(footer.key_metadata, footer.context) as key:
        cipher = MessageCipher(key)
        metadata = open_footer(sealed, cipher, aad)  # (2)
        # By the old: in a file with one data key for each column, its bytes must stay the same in all row groups.
        rewrapped: dict[bytes, bytes | None] = {}

        def rewrap_once(key_metadata: bytes, context: Context) -> bytes | None:
            if key_metadata not in rewrapped:
                rewrapped[key_metadata] = rewrap(key_metadata, context)
            return rewrapped[key_metadata]

        new_key_metadata = rewrap_once(footer.key_metadata, footer.context)
        _rekey_columns(metadata, sealed.name, footer.context, rewrap_once)  # (1), (3)
        count = sum(each is not None for each in rewrapped.values())
        if not count:
            return None
        pieces = encode_sealed_footer(
            metadata, sealed.mode, sealed.algorithm, new_key_metadata or footer.key_metadata, cipher
        )
        return NewFooter(stored.body_end, b"".join(pieces), count)


def _rekey_columns(metadata: Struct, name: str, context: Context, rewrap: Rewrap) -> None:
    originals = read_originals(metadata)
    if originals is None:
        raise FormatError(f"{name} was written by another program", hint="rotate it without --deep, by grants")
    per_batch = originals.data_keys is KeyScope.BATCH
    row_groups = RowGroups(metadata, name, is_sealed=True)
    for index in row_groups.ordinals:
        for chunk in row_groups.chunks(index):
            own = chunk.column_key
            if own is not None:
                at = context.for_column(chunk.leaf.path, index if per_batch else None)
                new = rewrap(own.binary(ColumnCrypto.KEY_METADATA) or b"", at)
                if new is not None:
                    own.set(ColumnCrypto.KEY_METADATA, WireType.BINARY, new)
        row_groups.close(index)
