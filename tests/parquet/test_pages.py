"""Page headers: the pattern of usual ones says what the whole parser says, and pages are counted before any is read."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecrypt.errors import FormatError, LimitError
from pipecrypt.parquet.files import encrypt_file
from pipecrypt.parquet.pages import headers
from pipecrypt.parquet.pages.headers import Page, read_page_header, resized_header, resized_usual_header
from pipecrypt.parquet.wire.fields import PageType
from pipecrypt.parquet.wire.modules import MAX_ORDINALS, MODULE_OVERHEAD_BYTES
from pipecrypt.parquet.wire.thrift import encode_varint
from pipecrypt.vocabulary.context import Context, new_dataset_id
from tests.parquet.world import FillingSource, MemorySink, RandomKeys, all_columns, decrypt, encrypt, parquet_bytes

_KINDS = {b"\x00": b"\x2c", b"\x04": b"\x4c"}  # type of page -> field of its own header


def _varints(bits: int) -> st.SearchStrategy[bytes]:
    padded = st.tuples(st.integers(0, 2**bits - 1), st.integers(0, 2)).map(
        lambda each: (
            encode_varint(each[0])[:-1]
            + bytes([encode_varint(each[0])[-1] | (128 if each[1] else 0)])
            + b"\x80" * (each[1] - 1)
            + b"\x00" * (each[1] > 0)
        )
    )
    return st.one_of(st.integers(0, 2**14).map(encode_varint), padded)


_BINARY = st.one_of(st.binary(max_size=9), st.integers(100, 300).map(bytes)).map(
    lambda value: encode_varint(len(value)) + value
)
_FIELDS = st.one_of(
    st.tuples(st.sampled_from([b"\x18", b"\x28", b"\x38"]), _BINARY),
    st.tuples(st.sampled_from([b"\x16", b"\x26", b"\x15", b"\x06"]), _varints(64)),
    st.tuples(st.sampled_from([b"\x11", b"\x12", b"\x21", b"\x22", b"\x13", b"\x10", b"\x1c\x00"]), st.just(b"")),
).map(b"".join)
_STATISTICS = st.lists(_FIELDS, max_size=9).map(lambda fields: b"\x1c" + b"".join(fields) + b"\x00")
# Bytes that mean something somewhere in a header, and the ends of what a byte can be.
_BYTES = bytes([0, 1, 0x11, 0x15, 0x16, 0x18, 0x1C, 0x2C, 0x7F, 0x80, 0xFF])


@st.composite
def _headers(draw: st.DrawFn) -> bytes:
    """Return a header nearly as writers write it."""
    kind = draw(st.sampled_from([b"\x00", b"\x00", b"\x04"]))
    sizes = draw(st.tuples(_varints(33), _varints(33), _varints(33)))
    encodings = draw(st.sampled_from([[b"\x00", b"\x06", b"\x10"], [b"\x06", b"\x80\x01", b"\x00"]]))
    header = b"\x15" + kind + b"\x15" + sizes[0] + b"\x15" + sizes[1] + _KINDS[kind] + b"\x15" + sizes[2]
    header += b"".join(b"\x15" + each for each in encodings[: 3 if kind == b"\x00" else 1])
    return header + draw(st.one_of(st.just(b""), _STATISTICS, st.sampled_from([b"\x11", b"\x12"]))) + b"\x00\x00"


def _changed(header: bytes, values: bytes = _BYTES) -> Iterator[bytes]:
    """Yield the header, and all that differ from it by one end, or by one byte fewer, more, or of another value."""
    yield header
    yield header + b"\x15\x00\x15"
    for at in range(min(len(header), 80)):
        before, after = header[:at], header[at:]
        yield before
        yield before + after[1:]
        for byte in values:
            yield before + bytes([byte]) + after
            yield before + bytes([byte]) + after[1:]


def _compared(page: Page) -> tuple[object, ...]:
    # The number of a dictionary's values, and where a checksum is that there is not, mean nothing.
    body, end, kind, values, head, tail, crc, *_ = page
    return body, end, kind, None if kind == PageType.DICTIONARY else values, head, tail, crc


def _whole(data: bytes) -> tuple[object, ...] | None:
    """Return what the parser of all headers says; None where it refuses them."""
    try:
        page = headers._walk_header(data, 0)
    except IndexError:
        return None
    return None if page.kind < 0 or not page.head or page.end < page.body else _compared(page)


def _check(data: bytes) -> None:
    """Check that reading and resizing a header give what the whole parser says."""
    whole = _whole(data)
    try:
        found = _compared(read_page_header(memoryview(b"\x15" + data)[1:], 0, "page"))
    except FormatError:
        assert whole is None
    else:
        assert found == whole
    resized = resized_usual_header(data, MODULE_OVERHEAD_BYTES)
    if resized is not None:
        page = headers._walk_header(data, 0)
        plain_bytes = page.end - page.body - MODULE_OVERHEAD_BYTES
        assert page.body == len(data)
        assert plain_bytes >= 0 <= page.values
        assert resized == (resized_header(page, plain_bytes), plain_bytes, page.values)


@settings(max_examples=60, deadline=None)
@given(_headers())
def test_usual_headers_are_matched_as_the_whole_parser_reads_them(header: bytes) -> None:
    for data in _changed(header):
        _check(data)


_START = "1500158e7d15f03e2c15d00f150015061506"  # as pyarrow writes it


@pytest.mark.parametrize(
    "statistics",
    [
        "",
        "1c160000",
        "1c1100",
        "1c180000",
        "1c1808cf070000000000001808e80300000000000016002808cf070000000000001808e803000000000000111100",
    ],
)
def test_every_other_byte_is_matched_as_the_whole_parser_reads_it(statistics: str) -> None:
    header = bytes.fromhex(f"{_START}{statistics}0000")
    assert headers._DATA_HEADER.fullmatch(header) is not None
    for behind in (b"", bytes(4), b"\x11\x16\x00\x00\x00"):
        for data in _changed(header + behind, bytes(range(256))):
            _check(data)


@pytest.mark.parametrize("length", [0, 1, 4, 8, 12, 16, 127, 128, 5000])
def test_statistics_of_short_values_are_usual(length: int) -> None:
    value = encode_varint(length) + bytes(range(256)) * 20
    value = value[: len(encode_varint(length)) + length]
    ends = b"\x18" + value + b"\x18" + value
    for statistics in (ends + b"\x16\x00" + ends.replace(b"\x18", b"\x28", 1) + b"\x11\x11", b"\x36\x80\x01", ends):
        header = b"\x15\x00\x15\x64\x15\xc8\x01\x2c\x15\x14\x15\x00\x15\x06\x15\x06\x1c" + statistics + b"\x00\x00\x00"
        is_usual = headers._DATA_HEADER.fullmatch(header) is not None
        assert is_usual == (length < 128 and statistics[:1] == b"\x18")
        assert _compared(read_page_header(header, 0, "page")) == _whole(header)


class _CountingSource(FillingSource):
    reads = 0

    def read_range(self, start: int, length: int) -> memoryview:
        self.reads += 1
        return super().read_range(start, length)


def _pages(count: int) -> bytes:
    options = {"write_batch_size": 1, "data_page_size": 1, "use_dictionary": False, "compression": "none"}
    return parquet_bytes(pa.table({"n": pa.array(range(count), pa.int64())}), row_group_size=count, **options)


def test_pages_are_counted_before_the_first_byte_is_written() -> None:
    keys = RandomKeys()
    assert encrypt(_pages(MAX_ORDINALS), all_columns(), keys)

    source, sink = _CountingSource(_pages(MAX_ORDINALS + 1)), MemorySink()
    with pytest.raises(LimitError, match="cannot number them"):
        encrypt_file(source, sink, all_columns(), keys=keys, context=Context(new_dataset_id(), "memory.parquet"))
    assert not sink.data
    assert source.reads < MAX_ORDINALS / 100  # many small pages are counted in one read


def test_large_pages_and_long_headers_are_counted() -> None:
    long = list(chain.from_iterable([str(number) * 1000, *([None] * 999)] for number in range(100, 150)))
    wide = [number.to_bytes(300, "big") for number in range(50_000)]
    data = parquet_bytes(
        pa.table({"long": pa.array(long), "wide": pa.array(wide)}),
        write_batch_size=500,
        data_page_size=1000,
        use_dictionary=False,
        compression="none",
    )
    source, sink, keys = _CountingSource(data), MemorySink(), RandomKeys()
    encrypt_file(source, sink, all_columns(), keys=keys, context=Context(new_dataset_id(), "memory.parquet"))
    assert decrypt(bytes(sink.data), keys) == data


def test_a_chunk_that_ends_behind_all_pages_is_refused() -> None:
    source = FillingSource(_pages(10)[:4])
    with pytest.raises(FormatError):
        headers._walk_window(source, 4, (1000, 4), 512, "chunk")
