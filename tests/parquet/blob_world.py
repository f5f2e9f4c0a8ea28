"""Files of chunks in memory: made, opened in both ways, and forged with and without their keys."""

from __future__ import annotations

import io
import random
from collections.abc import Callable

from pipecrypt.crypto.aead import MessageCipher
from pipecrypt.errors import FormatError
from pipecrypt.formats.compression import ZstdCodec
from pipecrypt.parquet.files import BlobInfo, BlobView, decrypt_file, encrypt_blob, encrypt_blob_stream, open_view
from pipecrypt.parquet.footer.stored import encode_sealed_footer, open_footer, read_sealed_footer
from pipecrypt.parquet.policy import EncryptionPolicy, KeyScope
from pipecrypt.parquet.protocols import PageCodec
from pipecrypt.parquet.report import FileReport
from pipecrypt.parquet.wire.fields import BLOB_KEY, FileMetaData, KeyValue
from pipecrypt.parquet.wire.modules import FileAAD
from pipecrypt.parquet.wire.thrift import Struct, Value, WireType
from pipecrypt.vocabulary.context import Context, new_dataset_id
from pipecrypt.vocabulary.ranges import RangeSource
from tests.parquet.world import FillingSource, MemorySink, MemorySource, RandomKeys

CHUNK = 4096
ROW_GROUP = 64 * CHUNK
POLICY = EncryptionPolicy(default="master")
ZSTD = ZstdCodec()


def some_bytes(length: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(length)  # noqa: S311


def some_text(length: int) -> bytes:
    return b"".join(b"line %d of a log\n" % number for number in range(length // 14 + 1))[:length]


def seal(
    data: bytes,
    keys: object,
    *,
    way: str = "file",
    codec: PageCodec | None = None,
    info: BlobInfo = BlobInfo(),  # noqa: B008
    block_bytes: int = CHUNK,
    policy: EncryptionPolicy = POLICY,
    context: Context | None = None,
) -> tuple[bytes, FileReport]:
    sink = MemorySink()
    options: dict[str, object] = {"info": info, "block_bytes": block_bytes, "codec": codec, "keys": keys}
    options["context"] = context or Context(new_dataset_id(), "x.bin")
    if way == "stream":
        report = encrypt_blob_stream(io.BytesIO(data), sink, policy, **options)  # type: ignore[arg-type]
    else:
        source = FillingSource(data) if way == "file" else MemorySource(data)
        report = encrypt_blob(source, sink, policy, **options)  # type: ignore[arg-type]
    return bytes(sink.data), report


def restore(data: bytes, keys: object) -> bytes:
    sink = MemorySink()
    decrypt_file(FillingSource(data), sink, keys=keys, codec=ZSTD)  # type: ignore[arg-type]
    return bytes(sink.data)


def blob_view(source: RangeSource, keys: object, codec: PageCodec | None = ZSTD) -> BlobView:
    view = open_view(source, keys=keys, codec=codec)  # type: ignore[arg-type]
    if not isinstance(view, BlobView):
        raise FormatError("it is shown as a table")
    return view


def show(data: bytes, keys: object) -> bytes:
    with blob_view(FillingSource(data), keys) as view:
        return bytes(view.read_range(0, view.size_bytes))


def edit_footer(data: bytes, keys: RandomKeys, edit: Callable[[Struct], None]) -> bytes:
    """Rewrite the footer as somebody could who has its key."""
    sealed = read_sealed_footer(MemorySource(data))
    key = keys.open_data_key(sealed.key_metadata, keys.by_metadata[sealed.key_metadata][1])
    aad = FileAAD(sealed.algorithm.aad_prefix or b"", sealed.algorithm.file_unique)
    footer = open_footer(sealed, MessageCipher(key), aad)
    edit(footer)
    pieces = encode_sealed_footer(footer, sealed.mode, sealed.algorithm, sealed.key_metadata, MessageCipher(key))
    return data[: sealed.body_end] + b"".join(pieces)


def with_entry(data: bytes, keys: RandomKeys, *values: bytes) -> bytes:
    """Replace the entry by others of its name."""

    def edit(footer: Struct) -> None:
        pairs = footer.structs(FileMetaData.KEY_VALUE_METADATA)
        kept: list[Value] = [pair for pair in pairs if pair.binary(KeyValue.KEY) != BLOB_KEY]
        for value in values:
            pair = Struct()
            pair.set(KeyValue.KEY, WireType.BINARY, BLOB_KEY)
            pair.set(KeyValue.VALUE, WireType.BINARY, value)
            kept.append(pair)
        footer.set_list(FileMetaData.KEY_VALUE_METADATA, WireType.STRUCT, kept)

    return edit_footer(data, keys, edit)


def by_file() -> EncryptionPolicy:
    return EncryptionPolicy(default="master", data_keys=KeyScope.FILE)
