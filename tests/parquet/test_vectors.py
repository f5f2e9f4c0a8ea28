"""Files that others wrote: encrypted, read by pyarrow, decrypted byte for byte; and encrypted ones decrypted."""

from __future__ import annotations

import io
import itertools

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.errors import AlreadyEncryptedError, IntegrityError, KeyNotFoundError, LimitError, UsageError
from pipecrypt.parquet.footer.columns import leaf_columns
from pipecrypt.parquet.footer.stored import read_plain_footer
from pipecrypt.parquet.policy import EncryptionPolicy, FooterMode, KeyScope
from tests.parquet.world import (
    DATA,
    FixedKeys,
    MemorySource,
    RandomKeys,
    all_columns,
    decrypt,
    encrypt,
    needs_vectors,
    only,
)

pytestmark = needs_vectors

# Old parquet-cpp, Impala and fastparquet wrote a copy of each chunk's metadata behind its pages, where nothing points
# to. It holds statistics in clear, so it is not carried over, and decrypting gives the same table in a smaller file.
GAPS = {
    "alltypes_dictionary.parquet",
    "alltypes_plain.parquet",
    "alltypes_plain.snappy.parquet",
    "byte_array_decimal.parquet",
    "byte_stream_split.zstd.parquet",
    "column_chunk_key_value_metadata.parquet",
    "concatenated_gzip_members.parquet",
    "float16_nonzeros_and_nans.parquet",
    "list_columns.parquet",
    "lz4_raw_compressed.parquet",
    "nan_in_stats.parquet",
    "null_list.parquet",
    "page_v2_empty_compressed.parquet",
    "repeated_no_annotation.parquet",
    "single_nan.parquet",
    "sort_columns.parquet",
}
TOO_MANY_PAGES = "overflow_i16_page_cnt.parquet"
FOREIGN_KEYS = {b"kf": b"0123456789012345", b"kc1": b"1234567890123450", b"kc2": b"1234567890123451"}
PLAIN = sorted(path.name for path in DATA.glob("*.parquet"))
ENCRYPTED = sorted(path.name for path in DATA.glob("*.encrypted") if "external_key_material" not in path.name)


def read(data: bytes, properties: object = None) -> pa.Table | None:
    try:
        return pq.ParquetFile(io.BytesIO(data), decryption_properties=properties).read()
    except pa.ArrowException:
        return None


def same(left: pa.Table | None, right: pa.Table | None) -> bool:
    if left is None or right is None:
        return left is right
    return left.equals(right) or (left.schema == right.schema and str(left.to_pylist()) == str(right.to_pylist()))


def middle_column(data: bytes) -> str:
    leaves = leaf_columns(read_plain_footer(MemorySource(data))[0], "file")
    return leaves[len(leaves) // 2].dotted


@pytest.mark.parametrize("name", [name for name in PLAIN if name != TOO_MANY_PAGES])
def test_every_file_comes_back(name: str) -> None:
    original = (DATA / name).read_bytes()
    for footer, scope in itertools.product(FooterMode, KeyScope):
        for policy in (
            all_columns(footer, scope),
            only(middle_column(original), footer=footer),
            only(middle_column(original), footer=footer, digest=DigestAlgorithm.SHA256),
            EncryptionPolicy(default="master", footer=footer, uniform=True),
            EncryptionPolicy(default="master", footer=footer, bind_path=False),
        ):
            keys = RandomKeys()
            restored = decrypt(encrypt(original, policy, keys), keys)
            if name in GAPS:
                assert len(restored) < len(original)
                assert same(read(restored), read(original))
            else:
                assert restored == original


@pytest.mark.parametrize("name", [name for name in PLAIN if name != TOO_MANY_PAGES])
@pytest.mark.parametrize("footer", FooterMode)
def test_pyarrow_reads_uniform_encryption(name: str, footer: FooterMode) -> None:
    original = (DATA / name).read_bytes()
    keys = RandomKeys()
    encrypted = encrypt(original, EncryptionPolicy(default="master", footer=footer, uniform=True), keys)
    ((key, _),) = keys.by_metadata.values()
    table = read(original)
    if table is None:
        pytest.skip("pyarrow does not read the original either")
    assert same(read(encrypted, pe.create_decryption_properties(key)), table)


def test_too_many_pages_are_refused_before_the_first_byte() -> None:
    keys = RandomKeys()
    with pytest.raises(LimitError):
        encrypt((DATA / TOO_MANY_PAGES).read_bytes(), all_columns(), keys)
    assert not keys.made


@pytest.mark.parametrize("name", ENCRYPTED)
def test_files_of_other_writers_decrypt(name: str) -> None:
    encrypted = (DATA / name).read_bytes()
    prefix = b"tester" if "disable_aad_storage" in name else None
    table = read(decrypt(encrypted, FixedKeys(FOREIGN_KEYS), prefix))
    assert table is not None
    if "bloom" in name:
        assert table.num_rows == 2000
        return
    assert table.num_rows == 50
    assert table["double_field"].to_pylist() == pytest.approx([row * 1.1111111 for row in range(50)])
    assert table["float_field"].to_pylist() == pytest.approx([row * 1.1 for row in range(50)], rel=1e-5)


def test_prefix_not_stored_must_be_given_and_right() -> None:
    data = (DATA / "encrypt_columns_and_footer_disable_aad_storage.parquet.encrypted").read_bytes()
    with pytest.raises(UsageError):
        decrypt(data, FixedKeys(FOREIGN_KEYS))
    with pytest.raises(IntegrityError):
        decrypt(data, FixedKeys(FOREIGN_KEYS), b"other")


def test_missing_and_wrong_keys() -> None:
    data = (DATA / "encrypt_columns_plaintext_footer.parquet.encrypted").read_bytes()
    with pytest.raises(KeyNotFoundError, match="column"):
        decrypt(data, FixedKeys({b"kf": FOREIGN_KEYS[b"kf"]}))
    with pytest.raises(IntegrityError):
        decrypt(data, FixedKeys({**FOREIGN_KEYS, b"kc1": b"0" * 16}))
    with pytest.raises(AlreadyEncryptedError):
        encrypt(data, all_columns(), RandomKeys())


def test_checksums_hold_for_the_encrypted_pages() -> None:
    for name in ("datapage_v1-snappy-compressed-checksum.parquet", "rle-dict-snappy-checksum.parquet"):
        original = (DATA / name).read_bytes()
        keys = RandomKeys()
        encrypted = encrypt(original, EncryptionPolicy(default="master", uniform=True), keys)
        ((key, _),) = keys.by_metadata.values()
        file = pq.ParquetFile(
            io.BytesIO(encrypted),
            decryption_properties=pe.create_decryption_properties(key),
            page_checksum_verification=True,
        )
        assert same(file.read(), read(original))
