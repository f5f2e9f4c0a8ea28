"""The engine's world in memory: sources, sinks and keys, and tables to encrypt."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.errors import FormatError, IntegrityError, KeyNotFoundError
from pipecrypt.parquet.files import decrypt_file, encrypt_file
from pipecrypt.parquet.footer.row_groups import Chunk, RowGroups
from pipecrypt.parquet.policy import ColumnRule, EncryptionPolicy, FooterMode, KeyScope
from pipecrypt.vocabulary import ranges
from pipecrypt.vocabulary.context import Context, new_dataset_id
from pipecrypt.vocabulary.secret import DataKey

_PLACE = os.environ.get("PIPECRYPT_VECTORS")
VECTORS = Path(_PLACE) if _PLACE else Path(__file__).parents[3] / "shared" / "vectors"
DATA = VECTORS / "parquet-testing" / "data"
BAD_DATA = VECTORS / "parquet-testing" / "bad_data"

# Compiled code has its constants in it, and its classes cannot be changed.
changes_the_engine = pytest.mark.skipif(
    find_spec("pipecrypt__mypyc") is not None, reason="changes constants or methods of modules that are compiled"
)

needs_vectors = pytest.mark.skipif(not DATA.is_dir(), reason=f"the Parquet test files are not at {VECTORS}")


def every_row_group(row_groups: RowGroups) -> list[list[Chunk]]:
    """Return the chunks of all row groups, which stay open."""
    return [row_groups.chunks(index) for index in row_groups.ordinals]


class MemorySource(ranges.MemorySource):
    """A file in memory."""

    def __init__(self, data: bytes, name: str = "memory.parquet") -> None:
        super().__init__(bytes(data), name)


class FillingSource(MemorySource):
    """A file in memory that is read ahead, as a local file is."""

    traits = ranges.SourceTraits(seeks_cheaply=True, reads_in_flight=1)


class PlainSource:
    """A file in memory that has no other power than to be read by range, on one thread."""

    def __init__(self, data: bytes, name: str = "memory.parquet") -> None:
        self._data = memoryview(bytes(data))
        self.name = name
        self.size_bytes = len(data)

    def read_range(self, start: int, length: int) -> memoryview:
        if start < 0 or length < 0 or start + length > self.size_bytes:
            raise FormatError(f"{self.name} is shorter than its footer says")
        return self._data[start : start + length]


class MemorySink:
    """A new file in memory."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.data += data


class RandomKeys:
    """Data keys by random metadata, bound to their context as a commitment would."""

    def __init__(self) -> None:
        self.by_metadata: dict[bytes, tuple[bytes, Context]] = {}
        self.made: list[tuple[str, Context]] = []

    def new_data_key(self, key_reference: str, context: Context) -> tuple[DataKey, bytes]:
        key, metadata = os.urandom(32), os.urandom(12).hex().encode()
        self.by_metadata[metadata] = (key, context)
        self.made.append((key_reference, context))
        return DataKey(key), metadata

    def open_data_key(self, key_metadata: bytes, context: Context) -> DataKey:
        if key_metadata not in self.by_metadata:
            raise KeyNotFoundError("no such key")
        key, bound = self.by_metadata[key_metadata]
        if bound != context:
            raise IntegrityError("the key belongs elsewhere")
        return DataKey(key)


class FixedKeys:
    """Keys of other writers' files, by their key metadata."""

    def __init__(self, keys: Mapping[bytes, bytes]) -> None:
        self._keys = keys

    def new_data_key(self, key_reference: str, context: Context) -> tuple[DataKey, bytes]:
        raise AssertionError("only reads")

    def open_data_key(self, key_metadata: bytes, context: Context) -> DataKey:
        if key_metadata not in self._keys:
            raise KeyNotFoundError("no such key")
        return DataKey(self._keys[key_metadata])


def encrypt(data: bytes, policy: EncryptionPolicy, keys: object, *, path: str = "memory.parquet") -> bytes:
    sink = MemorySink()
    encrypt_file(MemorySource(data), sink, policy, keys=keys, context=Context(new_dataset_id(), path))  # type: ignore[arg-type]
    return bytes(sink.data)


def decrypt(data: bytes, keys: object, aad_prefix: bytes | None = None) -> bytes:
    sink = MemorySink()
    decrypt_file(MemorySource(data), sink, keys=keys, aad_prefix=aad_prefix)  # type: ignore[arg-type]
    return bytes(sink.data)


def all_columns(footer: FooterMode = FooterMode.PLAINTEXT, data_keys: KeyScope = KeyScope.BATCH) -> EncryptionPolicy:
    return EncryptionPolicy(default="master", footer=footer, data_keys=data_keys)


def only(
    *patterns: str,
    footer: FooterMode = FooterMode.PLAINTEXT,
    key: str = "master",
    digest: DigestAlgorithm | None = None,
) -> EncryptionPolicy:
    return EncryptionPolicy(rules=tuple(ColumnRule(pattern, key) for pattern in patterns), footer=footer, digest=digest)


def parquet_bytes(table: pa.Table, **options: object) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **options)
    return out.getvalue()


def no_row_groups(schema: pa.Schema) -> bytes:
    out = io.BytesIO()
    pq.ParquetWriter(out, schema).close()
    return out.getvalue()


def sample_table(rows: int = 1000) -> pa.Table:
    return pa.table(
        {
            "id": pa.array(range(rows), pa.int64()),
            "email": pa.array([f"user{row}@example.com" for row in range(rows)]),
            "city": pa.array(["Berlin", "Lima", None, "Pune"][row % 4] for row in range(rows)).dictionary_encode(),
            "customer": pa.array([{"name": f"n{row}", "age": row % 90} for row in range(rows)]),
            "tags": pa.array([[f"t{row % 7}", "x"] if row % 3 else [] for row in range(rows)]),
        }
    )
