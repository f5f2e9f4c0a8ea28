"""A table of which others seal row groups is the table that one process writes, but for keys and what is random."""

from __future__ import annotations

import io
from array import array
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.parquet.files import encrypt_file
from pipecrypt.parquet.footer.entries import Originals
from pipecrypt.parquet.footer.opened import OpenedFile
from pipecrypt.parquet.footer.row_groups import RowGroups
from pipecrypt.parquet.footer.segments import Part, SegmentKind, Segments, chunk_parts, order_segments
from pipecrypt.parquet.footer.stored import read_plain_footer, read_sealed_footer
from pipecrypt.parquet.pages.moves import ChunkMove, relocate_chunk, relocate_row_group
from pipecrypt.parquet.pages.sealing import PageBounds
from pipecrypt.parquet.policy import EncryptionPolicy, FooterMode, KeyScope
from pipecrypt.parquet.report import FileReport
from pipecrypt.parquet.table.shared import (
    FileLayout,
    FileStart,
    NextRowGroup,
    PlacedRowGroup,
    RowGroupSealer,
    SealedRowGroup,
)
from pipecrypt.parquet.wire.fields import ColumnMetaData
from pipecrypt.parquet.wire.thrift import WireType, encode_struct
from pipecrypt.vocabulary.context import Context, new_dataset_id
from tests.parquet.world import MemorySink, MemorySource, RandomKeys, all_columns, decrypt, only, parquet_bytes

ROOM_BYTES = 1 << 20


@dataclass
class Helpers:
    """Helpers in this process, each with a room for two row groups; they seal as soon as they are asked."""

    data: bytes
    policy: EncryptionPolicy
    keys: RandomKeys
    context: Context
    count: int = 1
    room_bytes: int = ROOM_BYTES
    skip: int = 1
    sealers: list[RowGroupSealer] = field(default_factory=list)
    begun: dict[int, tuple[int, SealedRowGroup | None, memoryview]] = field(default_factory=dict)
    writes: dict[int, Future[None]] = field(default_factory=dict)
    ready: dict[int, PlacedRowGroup] = field(default_factory=dict)
    helped: list[int] = field(default_factory=list)
    next: NextRowGroup = lambda *_: None

    def begin(self, start: FileStart, next_row_group: NextRowGroup) -> None:
        self.next = next_row_group
        self.sealers = [
            RowGroupSealer(MemorySource(self.data), self.policy, start, keys=self.keys, context=self.context)
            for _ in range(self.count)
        ]

    def poll(self) -> None:
        for number, sealer in enumerate(self.sealers):
            if sum(each[0] == number for at, each in self.begun.items() if at not in self.writes) < 2:
                row_group = self.next(self.room_bytes, self.skip)
                if row_group is not None:
                    room = memoryview(bytearray(self.room_bytes))
                    self.begun[row_group] = (number, sealer.seal(row_group, room), room)

    def sealed(self, row_group: int) -> tuple[SealedRowGroup, memoryview] | None:
        _, sealed, room = self.begun[row_group]
        if sealed is None:
            del self.begun[row_group]
            return None
        self.helped.append(row_group)
        return sealed, room

    def written(self, row_group: int, write: Future[None]) -> None:
        self.writes[row_group] = write

    def place(self, row_group: int, start: int, blooms: Mapping[int, int]) -> None:
        number, _, _ = self.begun.pop(row_group)
        self.ready[row_group] = self.sealers[number].place(row_group, start, blooms)

    def placed(self, row_group: int) -> PlacedRowGroup:
        return self.ready.pop(row_group)


@dataclass
class Outcome:
    data: bytes
    report: FileReport
    helped: list[int]
    done: int


def _encrypt(data: bytes, policy: EncryptionPolicy, keys: RandomKeys, helpers: int = 0, **options: int) -> Outcome:
    context, sink, done = Context(new_dataset_id(), "memory.parquet"), MemorySink(), list[int]()
    others = Helpers(data, policy, keys, context, count=helpers, **options) if helpers else None
    report = encrypt_file(
        MemorySource(data), sink, policy, keys=keys, context=context, helpers=others, on_bytes=done.append
    )
    if others is not None:
        assert not others.begun
        assert not others.ready
        assert all(write.done() for write in others.writes.values())
        for sealer in others.sealers:
            with sealer:
                pass
    return Outcome(bytes(sink.data), report, [] if others is None else others.helped, sum(done))


def _parts(data: bytes, keys: RandomKeys) -> list[Part]:
    """Return where all parts of an encrypted file lie, the footer as the last."""
    with OpenedFile(read_sealed_footer(MemorySource(data)), keys=keys, aad_prefix=None) as opened:
        parts: list[Part] = [(opened.body_end, 0, 0, 0, 0)]
        for index in opened.row_groups.ordinals:
            for chunk in opened.open_row_group(index):
                parts += list(chunk_parts(chunk))
        return sorted(parts)


TABLE = pa.table(
    {
        "id": pa.array(range(2000), pa.int64()),
        "email": [f"user{row}@example.com" for row in range(2000)],
        "city": pa.array(["Berlin", "Lima", None, "Pune"][row % 4] for row in range(2000)).dictionary_encode(),
        "customer": pa.array([{"name": f"n{row}", "age": row % 90} for row in range(2000)]),
        "tags": pa.array([[f"t{row % 7}", "x"] if row % 3 else [] for row in range(2000)]),
    }
)
PLAIN = parquet_bytes(TABLE, row_group_size=150)
INDEXED = parquet_bytes(TABLE, row_group_size=150, write_page_index=True)
CHECKED = parquet_bytes(TABLE, row_group_size=150, write_page_index=True, write_page_checksum=True)
BLOOMS = parquet_bytes(
    TABLE,
    row_group_size=150,
    write_page_index=True,
    bloom_filter_options={name: {"ndv": 150, "fpp": 0.1} for name in ("city", "email")},
)
SMALL_PAGES = parquet_bytes(TABLE, row_group_size=200, write_page_index=True, data_page_size=300, write_batch_size=20)
V2 = parquet_bytes(TABLE, row_group_size=150, write_page_index=True, data_page_version="2.0", use_dictionary=False)
FILES = {"plain": PLAIN, "indexed": INDEXED, "checked": CHECKED, "blooms": BLOOMS, "small pages": SMALL_PAGES, "v2": V2}
POLICIES = {
    "readable": all_columns(),
    "encrypted": all_columns(FooterMode.ENCRYPTED),
    "some": only("email", "customer"),
    "some, digested": only("email", "customer", digest=DigestAlgorithm.SHA256),
    "some, BLAKE3": only("email", "customer", digest=DigestAlgorithm.BLAKE3, footer=FooterMode.ENCRYPTED),
    "unbound": replace(all_columns(), bind_path=False),
}


@pytest.mark.parametrize("helpers", [1, 2])
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_the_file_is_that_of_one_process(data: bytes, policy: EncryptionPolicy, helpers: int) -> None:
    keys = RandomKeys()
    alone, shared = _encrypt(data, policy, keys), _encrypt(data, policy, keys, helpers)
    assert len(shared.helped) >= len(TABLE) // 400
    assert decrypt(shared.data, keys) == data
    parts = _parts(shared.data, keys)
    assert [each[2:] for each in parts] == [each[2:] for each in _parts(alone.data, keys)]
    ends = [each[0] + each[1] for each in parts]
    assert ends[:-1] == [each[0] for each in parts[1:]]
    if data is not CHECKED:  # checksums are of what is encrypted, so the lengths of their numbers are random
        assert parts == _parts(alone.data, keys)
        assert len(shared.data) == len(alone.data)
    left_out = {"footer_sha256": "", "read_seconds": 0.0, "write_seconds": 0.0, "sink_bytes": 0}
    assert replace(shared.report, **left_out) == replace(alone.report, **left_out)
    assert shared.done == alone.done


def _with_empty_row_groups() -> bytes:
    out = io.BytesIO()
    with pq.ParquetWriter(out, TABLE.schema, write_page_index=True) as writer:
        for start in range(0, 2000, 200):
            writer.write_table(TABLE[start : start + 200])
            writer.write_table(TABLE[:0])
    return out.getvalue()


def test_row_groups_of_no_rows() -> None:
    data, keys = _with_empty_row_groups(), RandomKeys()
    shared = _encrypt(data, all_columns(), keys, 2)
    assert shared.helped
    assert _parts(shared.data, keys) == _parts(_encrypt(data, all_columns(), keys).data, keys)
    assert decrypt(shared.data, keys) == data


def test_what_does_not_fit_is_sealed_by_the_writer() -> None:
    """A row group that needs more room than there is, and one of which that shows only while it is sealed."""
    keys = RandomKeys()
    sizes = [sum(each[1] for each in parts) for parts in _stretches(SMALL_PAGES)]
    for room_bytes, helped in ((max(sizes) - 1, False), (max(sizes) * 4, True)):
        shared = _encrypt(SMALL_PAGES, all_columns(), keys, 1, room_bytes=room_bytes)
        assert bool(shared.helped) is helped
        assert decrypt(shared.data, keys) == SMALL_PAGES
    mixed = io.BytesIO()
    with pq.ParquetWriter(mixed, TABLE.schema) as writer:
        for rows in (50, 50, 50, 1500, 50, 50, 50, 50):
            writer.write_table(TABLE[:rows])
    shared = _encrypt(mixed.getvalue(), all_columns(), keys, 1, room_bytes=20_000)
    assert 3 not in shared.helped
    assert len(shared.helped) >= 2
    assert decrypt(shared.data, keys) == mixed.getvalue()


def _stretches(data: bytes) -> list[list[Part]]:
    row_groups = RowGroups(read_plain_footer(MemorySource(data))[0], "")
    return [[part for chunk in row_groups.chunks(at) for part in chunk_parts(chunk)] for at in row_groups.ordinals]


@pytest.mark.parametrize(
    "policy",
    [
        all_columns(data_keys=KeyScope.FILE),
        EncryptionPolicy(default="master", uniform=True),
        only("tags"),  # a part of the file that is too small to be worth it
    ],
)
def test_what_is_not_shared(policy: EncryptionPolicy) -> None:
    keys = RandomKeys()
    shared = _encrypt(INDEXED, policy, keys, 2)
    assert not shared.helped
    assert decrypt(shared.data, keys) == INDEXED


def test_every_row_group_has_keys_of_its_own() -> None:
    keys = RandomKeys()
    _encrypt(PLAIN, all_columns(), keys, 2)
    assert len({key for key, _ in keys.by_metadata.values()}) == len(keys.made) == 14 * 6 + 1
    assert len({context for _, context in keys.made}) == len(keys.made)


def test_a_sealer_with_too_little_room_uses_no_key_again() -> None:
    keys = RandomKeys()
    context, start = Context(new_dataset_id(), "memory.parquet"), FileStart(None, bytes(8))
    policy = replace(all_columns(), bind_path=False)
    with RowGroupSealer(MemorySource(PLAIN), policy, start, keys=keys, context=context) as sealer:
        assert sealer.seal(3, memoryview(bytearray(3000))) is None
        assert len(keys.made) == 6
        assert not sealer._keys._columns
        sealed = sealer.seal(3, memoryview(bytearray(ROOM_BYTES)))
        assert sealed is not None
        assert len(keys.made) == 12


def _with_blooms_behind_row_groups() -> bytes:
    """Return a file whose Bloom filters lie behind the pages of their row groups, as arrow-rs writes them."""
    data = parquet_bytes(
        TABLE, row_group_size=150, bloom_filter_options={name: {"ndv": 150, "fpp": 0.1} for name in ("id", "email")}
    )
    footer, _ = read_plain_footer(MemorySource(data))
    row_groups, body = RowGroups(footer, ""), bytearray(data[:4])
    for index in row_groups.ordinals:
        chunks, moves = row_groups.chunks(index), list[ChunkMove]()
        for start, length, _, _, kind in sorted(part for chunk in chunks for part in chunk_parts(chunk)):
            if kind == SegmentKind.PAGES:
                bounds = array("q", (0, length))
                moves.append(
                    ChunkMove(start, len(body), PageBounds(bounds, bounds, has_dictionary=False), is_copy=True)
                )
                body += data[start : start + length]
        for chunk, move in zip(chunks, moves, strict=True):
            bloom = next((each for each in chunk_parts(chunk) if each[4] == SegmentKind.BLOOM_FILTER), None)
            relocate_chunk(chunk, move, Originals(KeyScope.BATCH, 0))
            if bloom is not None:
                chunk.metadata.set(ColumnMetaData.BLOOM_FILTER_OFFSET, WireType.I64, len(body))
                body += data[bloom[0] : bloom[0] + bloom[1]]
        relocate_row_group(index, row_groups.struct(index), moves, Originals(KeyScope.BATCH, 0))
    end = encode_struct(footer)
    return bytes(body) + end + len(end).to_bytes(4, "little") + b"PAR1"


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_bloom_filters_between_row_groups(policy: EncryptionPolicy) -> None:
    data, keys = _with_blooms_behind_row_groups(), RandomKeys()
    assert pq.read_table(io.BytesIO(data)).equals(TABLE)
    assert len(FileLayout.of(_ordered(data)).tail) <= 2  # type: ignore[union-attr]
    shared = _encrypt(data, policy, keys, 2)
    assert len(shared.helped) >= 5
    assert _parts(shared.data, keys) == _parts(_encrypt(data, policy, keys).data, keys)
    assert decrypt(shared.data, keys) == data


def _ordered(data: bytes) -> Segments:
    footer, body_end = read_plain_footer(MemorySource(data))
    row_groups = RowGroups(footer, "")
    return order_segments(
        [part for chunk in row_groups.each_chunk() for part in chunk_parts(chunk)], body_end, row_groups
    )
