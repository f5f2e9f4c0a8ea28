"""Read and write a file's ends: magic, footer, crypto metadata, signature.

Layout of the three kinds of Parquet file, from the end of the last segment::

    plain                      FileMetaData                                        || length (4) || "PAR1"
    encrypted, clear footer    FileMetaData || nonce (12) || tag (16)              || length (4) || "PAR1"
    encrypted footer           FileCryptoMetaData || module of FileMetaData        || length (4) || "PARE"

`length` counts everything between the last segment and itself. The file begins with the same magic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Final, TypeAlias

from pipecrypt.crypto.aead import MessageCipher
from pipecrypt.crypto.digest import Digester
from pipecrypt.errors import AlreadyEncryptedError, FormatError, LimitError, NotEncryptedError, UnsupportedError
from pipecrypt.parquet.policy import FooterMode
from pipecrypt.parquet.wire.fields import (
    FILE_CRYPTO_META_DATA,
    FILE_META_DATA,
    ROW_GROUP,
    SEALED_ROW_GROUP,
    EncryptionAlgorithm,
    FileCryptoMetaData,
    FileMetaData,
)
from pipecrypt.parquet.wire.modules import (
    FOOTER_SIGNATURE_BYTES,
    FileAAD,
    check_footer_signature,
    open_module,
    seal_pieces,
    sign_pieces,
)
from pipecrypt.parquet.wire.thrift import ListOf, Shape, Struct, WireType, encode_pieces, encode_struct
from pipecrypt.parquet.wire.thrift_read import read_struct
from pipecrypt.vocabulary.ranges import RangeSource, is_described, traits_of

__all__ = [
    "MAGIC_BYTES",
    "MAX_FOOTER_BYTES",
    "PLAIN_MAGIC",
    "Algorithm",
    "BytesCheck",
    "FooterBytes",
    "FooterCheck",
    "SealedFooter",
    "StoredFooter",
    "encode_plain_footer",
    "encode_sealed_footer",
    "is_parquet",
    "magic",
    "open_footer",
    "parse_footer",
    "read_footer_bytes",
    "read_plain_footer",
    "read_sealed_footer",
    "read_stored_footer",
]

MAGIC_BYTES: Final = 4
PLAIN_MAGIC: Final = b"PAR1"
_SEALED_MAGIC: Final = b"PARE"
_LENGTH_BYTES: Final = 4
_END_BYTES: Final = _LENGTH_BYTES + MAGIC_BYTES
_SMALLEST_FILE_BYTES: Final = MAGIC_BYTES + _END_BYTES
_FIRST_READ_BYTES: Final = 64 * 1024
# A million column chunks take some 130 MiB. Longer footers are refused before they are read.
MAX_FOOTER_BYTES: Final = 192 << 20
_PIECE_BYTES: Final = 4 << 20
# A footer with no more bytes is opened as a whole, which takes some thirty times its bytes.
_SMALL_FOOTER_BYTES: Final = 256 * 1024
_SMALL_PLAIN_FOOTER: Final[dict[int, Shape]] = {**FILE_META_DATA, FileMetaData.ROW_GROUPS: ListOf(ROW_GROUP)}
_SMALL_SEALED_FOOTER: Final[dict[int, Shape]] = {**FILE_META_DATA, FileMetaData.ROW_GROUPS: ListOf(SEALED_ROW_GROUP)}


@dataclass(frozen=True, slots=True)
class Algorithm:
    """The union EncryptionAlgorithm.

    Args:
        ctr_pages: AES_GCM_CTR_V1 rather than AES_GCM_V1.
        aad_prefix: the stored prefix, or None.
        file_unique: the file's random id.
        prefix_is_supplied: the prefix is not stored; the reader must bring it.
    """

    ctr_pages: bool
    aad_prefix: bytes | None
    file_unique: bytes
    prefix_is_supplied: bool = False

    @property
    def name(self) -> str:
        """The specification's name."""
        return "AES_GCM_CTR_V1" if self.ctr_pages else "AES_GCM_V1"


@dataclass(frozen=True, slots=True)
class StoredFooter:
    """A file's end, as read. Opening the file changes `metadata`, so one footer serves to open it once.

    Args:
        name: what errors call the file.
        body_end: where the footer begins and the last segment must have ended.
        metadata: the clear footer, with the metadata of encrypted columns redacted; None where it is encrypted.
        size_bytes: size of the whole file.
        sha256: of everything from `body_end` on, in hex; the same bytes that were parsed.
    """

    name: str
    body_end: int
    metadata: Struct | None
    size_bytes: int
    sha256: str

    @property
    def sealed(self) -> SealedFooter | None:
        """The same, where the file is encrypted."""
        return self if isinstance(self, SealedFooter) else None

    @property
    def rows(self) -> int | None:
        """How many rows a readable footer says that the file has, unchecked."""
        return None if self.metadata is None else self.metadata.integer(FileMetaData.NUM_ROWS)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedFooter(StoredFooter):
    """The end of an encrypted file; nothing of it is authenticated yet.

    Args:
        mode: whether the footer itself is encrypted.
        algorithm: how modules are encrypted.
        key_metadata: of the footer key; b"" where the file stores none.
        stored: what `open_footer` opens or checks.
        signature: nonce || tag of a clear footer; None where the footer is encrypted.
    """

    mode: FooterMode
    algorithm: Algorithm
    key_metadata: bytes
    stored: memoryview
    signature: memoryview | None


# Raises IntegrityError to refuse a file before anything of it is used.
FooterCheck: TypeAlias = Callable[[StoredFooter], None]


def magic(mode: FooterMode) -> bytes:
    """Return what an encrypted file with this footer mode begins and ends with."""
    return _SEALED_MAGIC if mode is FooterMode.ENCRYPTED else PLAIN_MAGIC


def is_parquet(source: RangeSource) -> bool:
    """Return whether a file begins or ends as a Parquet file does; one that only begins or only ends so is damaged."""
    if source.size_bytes < MAGIC_BYTES:
        return False
    both = (0, source.size_bytes - MAGIC_BYTES)
    return any(bytes(source.read_range(start, MAGIC_BYTES)) in (PLAIN_MAGIC, _SEALED_MAGIC) for start in both)


def read_stored_footer(source: RangeSource) -> StoredFooter:
    """Return a file's footer, plain or encrypted, unauthenticated.

    Raises:
        FormatError: no Parquet file, truncated, or malformed.
    """
    return parse_footer(read_footer_bytes(source))


@dataclass(frozen=True, slots=True)
class FooterBytes:
    """A file's end, read and digested, not parsed: `stored` up to the footer's length, `ending` the magic behind it."""

    stored: bytes | bytearray
    ending: bytes
    size_bytes: int
    name: str
    sha256: str


# Raises IntegrityError to refuse a file before anything of it is parsed.
BytesCheck: TypeAlias = Callable[[FooterBytes], None]


def read_footer_bytes(source: RangeSource) -> FooterBytes:
    """Return a file's end, unparsed, for who knows which digest it must have.

    Raises:
        FormatError: no Parquet file, or truncated.
        LimitError: the footer would have more than `MAX_FOOTER_BYTES`.
    """
    stored, ending = _read_end(source)
    return FooterBytes(stored, ending, source.size_bytes, source.name, _sha256(stored, ending))


def parse_footer(found: FooterBytes, *, small_shape: Mapping[int, Shape] = FILE_META_DATA) -> StoredFooter:
    """Return what a file's end says; of a small one, `small_shape` is opened at once, so that it is walked once only.

    Raises:
        FormatError: malformed.
        LimitError: it has more parts than its size explains.
    """
    stored, what = memoryview(found.stored), f"footer of {found.name}"
    body_end = found.size_bytes - _END_BYTES - len(stored)
    metadata: Struct | None = None
    signature: memoryview | None = None
    if found.ending == _SEALED_MAGIC:
        crypto, end = read_struct(found.stored, 0, FILE_CRYPTO_META_DATA, what)
        algorithm = crypto.struct(FileCryptoMetaData.ENCRYPTION_ALGORITHM)
        if algorithm is None:
            raise FormatError(f"{what} names no encryption algorithm")
        key_metadata, stored = crypto.binary(FileCryptoMetaData.KEY_METADATA), stored[end:]
    else:
        shape = small_shape if len(stored) <= _SMALL_FOOTER_BYTES else FILE_META_DATA
        metadata, end = read_struct(found.stored, 0, shape, what)
        algorithm = metadata.struct(FileMetaData.ENCRYPTION_ALGORITHM)
        if algorithm is None:
            if end != len(stored):
                raise FormatError(f"{what} is followed by {len(stored) - end} bytes that nothing names")
            return StoredFooter(found.name, body_end, metadata, found.size_bytes, found.sha256)
        if end + FOOTER_SIGNATURE_BYTES != len(stored):
            raise FormatError(f"{what} has no signature")
        key_metadata = metadata.binary(FileMetaData.FOOTER_SIGNING_KEY_METADATA)
        stored, signature = stored[:end], stored[end:]
    return SealedFooter(
        found.name,
        body_end,
        metadata,
        found.size_bytes,
        found.sha256,
        mode=FooterMode.ENCRYPTED if metadata is None else FooterMode.PLAINTEXT,
        algorithm=_parse_algorithm(algorithm, what),
        key_metadata=key_metadata or b"",
        stored=stored,
        signature=signature,
    )


def _sha256(stored: bytes | bytearray, ending: bytes) -> str:
    digester = Digester()
    digester.update(stored)
    digester.update(len(stored).to_bytes(_LENGTH_BYTES, "little") + ending)
    return digester.hexdigest()


def read_plain_footer(source: RangeSource, *, opens_row_groups: bool = True) -> tuple[Struct, int]:
    """Return the footer of a plaintext file, and where it begins.

    Args:
        source: the file.
        opens_row_groups: whether the row groups of a small one are opened at once: who works with them needs them all.

    Raises:
        AlreadyEncryptedError: the file is encrypted.
        FormatError: no Parquet file, truncated, or malformed.
    """
    small_shape = _SMALL_PLAIN_FOOTER if opens_row_groups else FILE_META_DATA
    footer = parse_footer(read_footer_bytes(source), small_shape=small_shape)
    if footer.sealed is not None or footer.metadata is None:
        raise AlreadyEncryptedError(f"{source.name} is already encrypted")
    return footer.metadata, footer.body_end


def read_sealed_footer(
    source: RangeSource, *, check: FooterCheck | None = None, bytes_check: BytesCheck | None = None
) -> SealedFooter:
    """Return the footer of an encrypted file, unauthenticated.

    `bytes_check` is called before anything is parsed, then `check`, also with the footer of a plaintext file; what they
    raise passes through.

    Raises:
        NotEncryptedError: the file is plaintext.
        FormatError: no Parquet file, truncated, or malformed.
    """
    found = read_footer_bytes(source)
    if bytes_check is not None:
        bytes_check(found)
    footer = parse_footer(found, small_shape=_SMALL_SEALED_FOOTER)
    if check is not None:
        check(footer)
    if footer.sealed is None:
        raise NotEncryptedError(f"{source.name} is not encrypted")
    return footer.sealed


def _read_end(source: RangeSource) -> tuple[bytes | bytearray, bytes]:
    size = source.size_bytes
    if size < _SMALLEST_FILE_BYTES:
        raise FormatError(f"{source.name} is not a Parquet file: it has {size} bytes")
    first, last = (0, MAGIC_BYTES), (max(0, size - _FIRST_READ_BYTES), min(size, _FIRST_READ_BYTES))
    if traits_of(source).reads_in_flight > 1 and is_described(source):
        start, tail = map(bytes, source.read_many([first, last]))  # each is a request
    else:
        start, tail = bytes(source.read_range(*first)), bytes(source.read_range(*last))
    ending = tail[-MAGIC_BYTES:]
    if ending not in (PLAIN_MAGIC, _SEALED_MAGIC):
        began = start in (PLAIN_MAGIC, _SEALED_MAGIC)
        raise FormatError(f"{source.name} is {'truncated' if began else 'not a Parquet file'}")
    if start != ending:
        raise FormatError(f"{source.name} begins and ends with different magic bytes")
    length = int.from_bytes(tail[-_END_BYTES:-MAGIC_BYTES], "little")
    if length > size - _SMALLEST_FILE_BYTES or length == 0:
        raise FormatError(f"{source.name} is truncated or malformed: its footer would have {length} bytes")
    if length > MAX_FOOTER_BYTES:
        raise LimitError(f"{source.name} has a footer of {length} bytes; at most {MAX_FOOTER_BYTES} are read")
    if length + _END_BYTES > len(tail):
        return _read_footer(source, size - _END_BYTES - length, length), ending
    return tail[-_END_BYTES - length : -_END_BYTES], ending


def _read_footer(source: RangeSource, start: int, length: int) -> bytearray:
    # In pieces, because a local source keeps a buffer as large as the largest range that it was asked for.
    footer = bytearray(length)
    for at in range(0, length, _PIECE_BYTES):
        piece = min(_PIECE_BYTES, length - at)
        footer[at : at + piece] = source.read_range(start + at, piece)
    return footer  # no copy: a long one takes much memory


def _parse_algorithm(union: Struct, what: str) -> Algorithm:
    ctr = union.struct(EncryptionAlgorithm.AES_GCM_CTR_V1)
    parameters = union.struct(EncryptionAlgorithm.AES_GCM_V1) or ctr
    if parameters is None or len(union.entries) != 1:
        raise UnsupportedError(f"{what} names an encryption algorithm that is neither AES_GCM_V1 nor AES_GCM_CTR_V1")
    return Algorithm(
        ctr_pages=parameters is ctr,
        aad_prefix=parameters.binary(EncryptionAlgorithm.AAD_PREFIX),
        file_unique=parameters.binary(EncryptionAlgorithm.AAD_FILE_UNIQUE) or b"",
        prefix_is_supplied=bool(parameters.get(EncryptionAlgorithm.SUPPLY_AAD_PREFIX)),
    )


def _algorithm_struct(algorithm: Algorithm) -> Struct:
    parameters, union = Struct(), Struct()
    if algorithm.aad_prefix is not None:
        parameters.set(EncryptionAlgorithm.AAD_PREFIX, WireType.BINARY, algorithm.aad_prefix)
    parameters.set(EncryptionAlgorithm.AAD_FILE_UNIQUE, WireType.BINARY, algorithm.file_unique)
    union.set(EncryptionAlgorithm.AES_GCM_V1, WireType.STRUCT, parameters)
    return union


def encode_sealed_footer(
    metadata: Struct, mode: FooterMode, algorithm: Algorithm, key_metadata: bytes, cipher: MessageCipher
) -> Iterator[bytes]:
    """Yield the pieces of everything behind the last segment of an encrypted file.

    `metadata` gets the algorithm and the footer key's `key_metadata` where the footer stays readable.
    """
    aad = FileAAD(algorithm.aad_prefix or b"", algorithm.file_unique).footer()
    if mode is FooterMode.PLAINTEXT:
        metadata.set(FileMetaData.ENCRYPTION_ALGORITHM, WireType.STRUCT, _algorithm_struct(algorithm))
        metadata.set(FileMetaData.FOOTER_SIGNING_KEY_METADATA, WireType.BINARY, key_metadata)
        return _with_end(sign_pieces(cipher, encode_pieces(metadata), aad), PLAIN_MAGIC)
    crypto = Struct()
    crypto.set(FileCryptoMetaData.ENCRYPTION_ALGORITHM, WireType.STRUCT, _algorithm_struct(algorithm))
    crypto.set(FileCryptoMetaData.KEY_METADATA, WireType.BINARY, key_metadata)
    module = seal_pieces(cipher, lambda: encode_pieces(metadata), aad)
    return _with_end(chain((encode_struct(crypto),), module), _SEALED_MAGIC)


def encode_plain_footer(metadata: Struct) -> Iterator[bytes]:
    """Yield the pieces of everything behind the last segment of a plaintext file."""
    metadata.remove(FileMetaData.ENCRYPTION_ALGORITHM)
    metadata.remove(FileMetaData.FOOTER_SIGNING_KEY_METADATA)
    return _with_end(encode_pieces(metadata), PLAIN_MAGIC)


def _with_end(pieces: Iterable[bytes], ending: bytes) -> Iterator[bytes]:
    # Pieces, because the footer of a file with many row groups takes megabytes, and joining them would copy it.
    length = 0
    for piece in pieces:
        length += len(piece)
        yield piece
    yield length.to_bytes(_LENGTH_BYTES, "little") + ending


def open_footer(sealed: SealedFooter, cipher: MessageCipher, file_aad: FileAAD) -> Struct:
    """Return the authenticated footer of an encrypted file.

    Raises:
        IntegrityError: footer, AAD prefix or key differ from those it was written with.
    """
    aad = file_aad.footer()
    if sealed.metadata is not None and sealed.signature is not None:
        check_footer_signature(cipher, sealed.stored, sealed.signature, aad, sealed.name)
        return sealed.metadata
    what = f"footer of {sealed.name}"
    plaintext = open_module(cipher, sealed.stored, aad, what)
    # Some writers seal their whole buffer, so bytes may follow; they are authenticated and mean nothing.
    shape = _SMALL_SEALED_FOOTER if len(plaintext) <= _SMALL_FOOTER_BYTES else FILE_META_DATA
    return read_struct(plaintext, 0, shape, what)[0]
