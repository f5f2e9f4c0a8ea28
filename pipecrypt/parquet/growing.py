"""The footer of a file that is made of several, as it grows. Writing the row groups themselves is left to encrypt."""

from __future__ import annotations

from collections.abc import Mapping

from pipecrypt.errors import FormatError
from pipecrypt.parquet.byte_entry import CHUNKS_KEY
from pipecrypt.parquet.chunks import RowGroups
from pipecrypt.parquet.integrity import INTEGRITY_KEY
from pipecrypt.parquet.originals import Originals
from pipecrypt.parquet.sealed_notes import NOTES_KEY
from pipecrypt.parquet.wire.fields import FileMetaData, KeyValue
from pipecrypt.parquet.wire.thrift import Struct, Value, WireType, encode_in_place, encode_struct

__all__ = ["GrowingFooter"]


class GrowingFooter:
    """The first file's footer, to which the row groups of the following ones are added.

    Row groups of a file that stays the only one are left as they are; of several, all are kept as bytes.
    """

    def __init__(self) -> None:
        """Know no file yet."""
        self.appended = 0
        self.batches = 0
        self.rows = 0
        self._footer = Struct()
        self._schema = b""
        self._originals: Originals | None = None
        self._row_groups: list[Value] = []

    def check_schema(self, footer: Struct, name: str) -> None:
        """Check that a file can follow the first one.

        Raises:
            FormatError: its schema is another.
        """
        if _schema_bytes(footer) != self._schema:
            raise FormatError(f"{name} has another schema than the row groups before it")

    def append(self, footer: Struct, rows: int, row_groups: RowGroups, *, originals: Originals) -> None:
        """Add a file whose row groups are written, `rows` in all; the first file's `originals` are kept.

        Raises:
            FormatError: it has an entry that only our encrypted files have, by which decrypting would take it for one.
        """
        names = {pair.binary(KeyValue.KEY) for pair in footer.structs(FileMetaData.KEY_VALUE_METADATA)}
        for name in (CHUNKS_KEY, INTEGRITY_KEY, NOTES_KEY):
            if name in names:
                raise FormatError(f"a plaintext file has the key-value entry {name.decode()!r}")
        structs: list[Value] = [*footer.structs(FileMetaData.ROW_GROUPS)]
        if not self.appended:
            self._footer, self._schema, self._originals = footer, _schema_bytes(footer), originals
            self._row_groups = structs
        else:
            if self.appended == 1:
                self._row_groups = [encode_in_place(each) for each in self._row_groups if isinstance(each, Struct)]
            self._row_groups += [encode_in_place(each) for each in structs if isinstance(each, Struct)]
        self.appended += 1
        self.batches += len(row_groups)
        self.rows += rows

    def finish(self, key_values: Mapping[bytes, bytes]) -> tuple[Struct, Originals]:
        """Return the whole footer, with `key_values` added, and what stood in the first file."""
        if self._originals is None:
            raise RuntimeError("no file was appended")
        if self.appended > 1:
            self._footer.set_list(FileMetaData.ROW_GROUPS, WireType.STRUCT, self._row_groups)
            self._footer.set(FileMetaData.NUM_ROWS, WireType.I64, self.rows)
        if key_values:
            pairs: list[Value] = [*self._footer.structs(FileMetaData.KEY_VALUE_METADATA)]
            pairs += [_key_value(name, value) for name, value in key_values.items()]
            self._footer.set_list(FileMetaData.KEY_VALUE_METADATA, WireType.STRUCT, pairs)
        return self._footer, self._originals


def _schema_bytes(footer: Struct) -> bytes:
    return encode_struct(footer.kept(frozenset({FileMetaData.SCHEMA})))


def _key_value(name: bytes, value: bytes) -> Struct:
    pair = Struct()
    pair.set(KeyValue.KEY, WireType.BINARY, name)
    pair.set(KeyValue.VALUE, WireType.BINARY, value)
    return pair
