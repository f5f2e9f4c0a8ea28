"""Keep the key-value metadata of a file as it was, sealed, where a readable footer shows less of it.

Layout of the value of the key-value entry `pipecrypt.notes`: base64 of a module (see modules), sealed under the key of
the footer, of a struct of Thrift's compact protocol whose field 5 is the list of all entries as the file had them. That
key is what would have hidden them in an encrypted footer too. A reader with it sees the entries as they were, and
decrypting gives them back; any other reader sees what the footer shows.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from pipecrypt.crypto.aead import MessageCipher
from pipecrypt.errors import FormatError, UnsupportedError
from pipecrypt.parquet.clear_notes import strip_note
from pipecrypt.parquet.policy import ClearNotes
from pipecrypt.parquet.wire.fields import FILE_META_DATA, FileMetaData, KeyValue
from pipecrypt.parquet.wire.modules import FileAAD, open_module, seal_module
from pipecrypt.parquet.wire.thrift import Struct, Value, WireType, encode_struct
from pipecrypt.parquet.wire.thrift_read import read_struct
from pipecrypt.vocabulary.documents import decode_base64, encode_base64

__all__ = ["NOTES_KEY", "check_notes", "restore_notes", "seal_notes"]

NOTES_KEY: Final = b"pipecrypt.notes"
_HINT: Final = "encrypt the footer too (--footer encrypted), or let what it tells be stripped"


def check_notes(footer: Struct, plain: Collection[str], name: str) -> None:
    """Pass if no entry tells of encrypted columns what a readable footer would show.

    Args:
        footer: of the plaintext file.
        plain: the columns at the root of which nothing is encrypted.
        name: what errors call the file.

    Raises:
        UnsupportedError: an entry does; names it.
    """
    for pair in footer.structs(FileMetaData.KEY_VALUE_METADATA):
        key, value = pair.binary(KeyValue.KEY) or b"", pair.binary(KeyValue.VALUE)
        if value is not None and strip_note(key, value, plain) != value:
            raise UnsupportedError(
                f"{name} tells in its key-value metadata {key.decode(errors='replace')!a} of columns that are "
                "encrypted, and the footer stays readable",
                hint=_HINT,
            )


def seal_notes(footer: Struct, plain: Collection[str], mode: ClearNotes, cipher: MessageCipher, aad: FileAAD) -> None:
    """Take out of the key-value metadata of a readable footer what tells of encrypted columns, and keep it sealed."""
    pairs = footer.structs(FileMetaData.KEY_VALUE_METADATA)
    shown: list[Value] = []
    for pair in pairs:
        left = _shown(pair, plain, mode)
        if left is not None:
            shown.append(left)
    if len(shown) == len(pairs) and all(each is pair for each, pair in zip(shown, pairs, strict=True)):
        return
    sealed, kept = Struct(), Struct()
    kept.set_list(FileMetaData.KEY_VALUE_METADATA, WireType.STRUCT, [*pairs])
    module = seal_module(cipher, encode_struct(kept), aad.notes())
    sealed.set(KeyValue.KEY, WireType.BINARY, NOTES_KEY)
    sealed.set(KeyValue.VALUE, WireType.BINARY, encode_base64(module).encode("ascii"))
    footer.set_list(FileMetaData.KEY_VALUE_METADATA, WireType.STRUCT, [*shown, sealed])


def _shown(pair: Struct, plain: Collection[str], mode: ClearNotes) -> Struct | None:
    key, value = pair.binary(KeyValue.KEY) or b"", pair.binary(KeyValue.VALUE)
    left = strip_note(key, value or b"", plain, drops_unknown=mode is ClearNotes.DROP)
    if left is None:
        return None
    if left == (value or b""):
        return pair
    stripped = pair.kept(frozenset({KeyValue.KEY}))
    stripped.set(KeyValue.VALUE, WireType.BINARY, left)
    return stripped


def restore_notes(footer: Struct, cipher: MessageCipher | None, aad: FileAAD, name: str) -> None:
    """Put the entries back as they were; without the footer's key, only the sealed one is taken out.

    Raises:
        FormatError: the entry is there twice, or malformed.
        IntegrityError: it was not written with this key for this file.
    """
    pairs = footer.structs(FileMetaData.KEY_VALUE_METADATA)
    found = [pair.binary(KeyValue.VALUE) for pair in pairs if pair.binary(KeyValue.KEY) == NOTES_KEY]
    if not found:
        return
    what = f"the key-value entry {NOTES_KEY.decode()!r} of {name}"
    shown: list[Value] = [pair for pair in pairs if pair.binary(KeyValue.KEY) != NOTES_KEY]
    if cipher is None:
        footer.set_list(FileMetaData.KEY_VALUE_METADATA, WireType.STRUCT, shown)
        return
    try:
        if len(found) != 1 or found[0] is None:
            raise ValueError
        module = decode_base64(found[0].decode("ascii"))
    except ValueError:
        raise FormatError(f"{what} is malformed") from None
    plaintext = open_module(cipher, memoryview(module), aad.notes(), what)
    kept = read_struct(plaintext, 0, _NOTES, what)[0].structs(FileMetaData.KEY_VALUE_METADATA)
    footer.set_list(FileMetaData.KEY_VALUE_METADATA, WireType.STRUCT, [*kept])


_NOTES: Final = {FileMetaData.KEY_VALUE_METADATA: FILE_META_DATA[FileMetaData.KEY_VALUE_METADATA]}
