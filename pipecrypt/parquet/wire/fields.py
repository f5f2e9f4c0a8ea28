"""Field ids and shapes of parquet.thrift, as far as encryption touches them."""

from __future__ import annotations

from typing import Final

from pipecrypt.parquet.wire.thrift import BINARY, BOOL, ENCODED, INTEGER, LENIENT_INTEGER, ListOf, Shape

__all__ = [
    "BLOB_KEY",
    "BLOOM_FILTER_BYTES",
    "BLOOM_FILTER_HEADER",
    "COLUMN_CHUNK",
    "COLUMN_META_DATA",
    "FILE_CRYPTO_META_DATA",
    "FILE_META_DATA",
    "INTEGRITY_KEY",
    "LAYOUT_KEY",
    "NOTES_KEY",
    "OFFSET_INDEX",
    "ROW_GROUP",
    "ROW_GROUP_INDEXES",
    "SEALED_ROW_GROUP",
    "ColumnChunk",
    "ColumnCrypto",
    "ColumnMetaData",
    "EncryptionAlgorithm",
    "FileCryptoMetaData",
    "FileMetaData",
    "KeyValue",
    "PageHeader",
    "PageLocation",
    "PageType",
    "RowGroup",
    "SchemaElement",
]

# The key-value entries of encrypted files that pipecrypt writes.
LAYOUT_KEY: Final = b"pipecrypt.layout"

INTEGRITY_KEY: Final = b"pipecrypt.integrity"

NOTES_KEY: Final = b"pipecrypt.notes"

BLOB_KEY: Final = b"pipecrypt.chunks"


class FileMetaData:
    """Fields of the footer."""

    SCHEMA: Final = 2
    NUM_ROWS: Final = 3
    ROW_GROUPS: Final = 4
    KEY_VALUE_METADATA: Final = 5
    CREATED_BY: Final = 6
    ENCRYPTION_ALGORITHM: Final = 8
    FOOTER_SIGNING_KEY_METADATA: Final = 9
    KNOWN: Final = frozenset(range(1, 10))


class SchemaElement:
    """Fields of a node of the schema tree, listed depth first."""

    TYPE: Final = 1
    REPETITION_TYPE: Final = 3
    NAME: Final = 4
    NUM_CHILDREN: Final = 5
    KNOWN: Final = frozenset(range(1, 11))


class KeyValue:
    """Fields of a key-value pair."""

    KEY: Final = 1
    VALUE: Final = 2


class RowGroup:
    """Fields of a row group."""

    COLUMNS: Final = 1
    NUM_ROWS: Final = 3
    FILE_OFFSET: Final = 5
    TOTAL_COMPRESSED_SIZE: Final = 6
    ORDINAL: Final = 7
    KNOWN: Final = frozenset(range(1, 8))


class ColumnChunk:
    """Fields of a column chunk."""

    FILE_PATH: Final = 1
    FILE_OFFSET: Final = 2
    META_DATA: Final = 3
    OFFSET_INDEX_OFFSET: Final = 4
    OFFSET_INDEX_LENGTH: Final = 5
    COLUMN_INDEX_OFFSET: Final = 6
    COLUMN_INDEX_LENGTH: Final = 7
    CRYPTO_METADATA: Final = 8
    ENCRYPTED_COLUMN_METADATA: Final = 9
    KNOWN: Final = frozenset(range(1, 10))


class ColumnMetaData:
    """Fields of a column chunk's metadata."""

    TYPE: Final = 1
    ENCODINGS: Final = 2
    PATH_IN_SCHEMA: Final = 3
    CODEC: Final = 4
    NUM_VALUES: Final = 5
    TOTAL_UNCOMPRESSED_SIZE: Final = 6
    TOTAL_COMPRESSED_SIZE: Final = 7
    DATA_PAGE_OFFSET: Final = 9
    INDEX_PAGE_OFFSET: Final = 10
    DICTIONARY_PAGE_OFFSET: Final = 11
    BLOOM_FILTER_OFFSET: Final = 14
    BLOOM_FILTER_LENGTH: Final = 15
    # What a plaintext footer shows of an encrypted column: where it lies and how to decode it. Everything else
    # (statistics, encoding statistics, sizes of values, key-value metadata, fields unknown to us) may tell values,
    # so the list names what stays, not what goes (Encryption.md 5.3).
    CLEAR: Final = frozenset({1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 14, 15})


class ColumnCrypto:
    """Alternatives of the union ColumnCryptoMetaData, and the fields of the second one."""

    WITH_FOOTER_KEY: Final = 1
    WITH_COLUMN_KEY: Final = 2
    PATH_IN_SCHEMA: Final = 1
    KEY_METADATA: Final = 2


class EncryptionAlgorithm:
    """Alternatives of the union EncryptionAlgorithm, and the fields that both have."""

    AES_GCM_V1: Final = 1
    AES_GCM_CTR_V1: Final = 2
    AAD_PREFIX: Final = 1
    AAD_FILE_UNIQUE: Final = 2
    SUPPLY_AAD_PREFIX: Final = 3


class FileCryptoMetaData:
    """Fields of what stands in clear before an encrypted footer."""

    ENCRYPTION_ALGORITHM: Final = 1
    KEY_METADATA: Final = 2


class PageHeader:
    """Fields of a page header."""

    TYPE: Final = 1
    UNCOMPRESSED_PAGE_SIZE: Final = 2
    COMPRESSED_PAGE_SIZE: Final = 3
    CRC: Final = 4
    DATA_PAGE_HEADER: Final = 5
    DATA_PAGE_HEADER_V2: Final = 8
    NUM_VALUES: Final = 1  # of both kinds of data page header


class PageType:
    """Values of PageHeader.TYPE."""

    DATA: Final = 0
    INDEX: Final = 1
    DICTIONARY: Final = 2
    DATA_V2: Final = 3


class PageLocation:
    """Fields of one page's place in an offset index, and the index's field that lists them."""

    LIST: Final = 1
    OFFSET: Final = 1
    COMPRESSED_PAGE_SIZE: Final = 2


COLUMN_META_DATA: Final[dict[int, Shape]] = {
    ColumnMetaData.NUM_VALUES: INTEGER,
    ColumnMetaData.TOTAL_COMPRESSED_SIZE: INTEGER,
    ColumnMetaData.DATA_PAGE_OFFSET: INTEGER,
    ColumnMetaData.INDEX_PAGE_OFFSET: INTEGER,
    ColumnMetaData.DICTIONARY_PAGE_OFFSET: INTEGER,
    ColumnMetaData.BLOOM_FILTER_OFFSET: LENIENT_INTEGER,
    ColumnMetaData.BLOOM_FILTER_LENGTH: LENIENT_INTEGER,
}

_COLUMN_CRYPTO: Final[dict[int, Shape]] = {
    ColumnCrypto.WITH_FOOTER_KEY: {},
    ColumnCrypto.WITH_COLUMN_KEY: {
        ColumnCrypto.KEY_METADATA: BINARY,
    },
}

COLUMN_CHUNK: Final[dict[int, Shape]] = {
    ColumnChunk.FILE_PATH: BINARY,
    ColumnChunk.FILE_OFFSET: INTEGER,
    ColumnChunk.META_DATA: COLUMN_META_DATA,
    ColumnChunk.OFFSET_INDEX_OFFSET: INTEGER,
    ColumnChunk.OFFSET_INDEX_LENGTH: INTEGER,
    ColumnChunk.COLUMN_INDEX_OFFSET: INTEGER,
    ColumnChunk.COLUMN_INDEX_LENGTH: INTEGER,
    ColumnChunk.CRYPTO_METADATA: _COLUMN_CRYPTO,
    ColumnChunk.ENCRYPTED_COLUMN_METADATA: BINARY,
}

_ALGORITHM_PARAMETERS: Final[dict[int, Shape]] = {
    EncryptionAlgorithm.AAD_PREFIX: BINARY,
    EncryptionAlgorithm.AAD_FILE_UNIQUE: BINARY,
    EncryptionAlgorithm.SUPPLY_AAD_PREFIX: BOOL,
}
_ALGORITHM: Final[dict[int, Shape]] = {
    EncryptionAlgorithm.AES_GCM_V1: _ALGORITHM_PARAMETERS,
    EncryptionAlgorithm.AES_GCM_CTR_V1: _ALGORITHM_PARAMETERS,
}

ROW_GROUP: Final[dict[int, Shape]] = {
    RowGroup.COLUMNS: ListOf(COLUMN_CHUNK),
    RowGroup.NUM_ROWS: INTEGER,
    RowGroup.FILE_OFFSET: INTEGER,
    RowGroup.TOTAL_COMPRESSED_SIZE: INTEGER,
    RowGroup.ORDINAL: INTEGER,
}

# Of an encrypted column, what the clear metadata shows is rarely asked for: it is opened then.
SEALED_ROW_GROUP: Final[dict[int, Shape]] = {
    **ROW_GROUP,
    RowGroup.COLUMNS: ListOf({**COLUMN_CHUNK, ColumnChunk.META_DATA: ENCODED}),
}

# Only the places of indexes, which are known last.
ROW_GROUP_INDEXES: Final[dict[int, Shape]] = {
    RowGroup.COLUMNS: ListOf(
        {
            ColumnChunk.OFFSET_INDEX_OFFSET: INTEGER,
            ColumnChunk.OFFSET_INDEX_LENGTH: INTEGER,
            ColumnChunk.COLUMN_INDEX_OFFSET: INTEGER,
            ColumnChunk.COLUMN_INDEX_LENGTH: INTEGER,
        }
    ),
}

FILE_META_DATA: Final[dict[int, Shape]] = {
    FileMetaData.SCHEMA: ListOf(
        {
            SchemaElement.TYPE: INTEGER,
            SchemaElement.REPETITION_TYPE: INTEGER,
            SchemaElement.NAME: BINARY,
            SchemaElement.NUM_CHILDREN: INTEGER,
        }
    ),
    FileMetaData.NUM_ROWS: INTEGER,
    FileMetaData.ROW_GROUPS: ListOf(ENCODED),
    FileMetaData.KEY_VALUE_METADATA: ListOf({KeyValue.KEY: BINARY, KeyValue.VALUE: BINARY}),
    FileMetaData.CREATED_BY: BINARY,
    FileMetaData.ENCRYPTION_ALGORITHM: _ALGORITHM,
    FileMetaData.FOOTER_SIGNING_KEY_METADATA: BINARY,
}

FILE_CRYPTO_META_DATA: Final[dict[int, Shape]] = {
    FileCryptoMetaData.ENCRYPTION_ALGORITHM: _ALGORITHM,
    FileCryptoMetaData.KEY_METADATA: BINARY,
}

OFFSET_INDEX: Final[dict[int, Shape]] = {
    PageLocation.LIST: ListOf({PageLocation.OFFSET: INTEGER, PageLocation.COMPRESSED_PAGE_SIZE: INTEGER}),
}

BLOOM_FILTER_BYTES: Final = 1  # the field of a Bloom filter's header that says how long its bitset is
BLOOM_FILTER_HEADER: Final[dict[int, Shape]] = {BLOOM_FILTER_BYTES: INTEGER}
