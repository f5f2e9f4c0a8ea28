"""What opening a footer may take of memory, whoever wrote it, and that wide honest files stay below."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipecrypt.errors import ContentError, LimitError
from pipecrypt.parquet.files import encrypt_file
from pipecrypt.parquet.footer.columns import leaf_columns
from pipecrypt.parquet.footer.row_groups import RowGroups
from pipecrypt.parquet.footer.stored import MAX_FOOTER_BYTES, read_plain_footer
from pipecrypt.parquet.wire.fields import ColumnChunk
from pipecrypt.parquet.wire.thrift import WireType, encode_struct
from pipecrypt.parquet.wire.thrift_read import COST_FACTOR, LEAST_ALLOWANCE
from pipecrypt.store.listing import find_file
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_range_source
from pipecrypt.vocabulary.context import Context, new_dataset_id
from pipecrypt.vocabulary.ranges import MemorySource
from tests.parquet.hostile_footers import HOSTILE, file_of, schema, struct_list, wide_file
from tests.parquet.world import MemorySink, RandomKeys, all_columns

MIB = 1 << 20
_MEASURE = """
import sys
from pipecrypt.errors import PipecryptError
from pipecrypt.parquet.footer.stored import read_plain_footer, read_stored_footer
from pipecrypt.parquet.footer.keys import observe_encryption
from pipecrypt.parquet.footer.inspect import inspect_file
from pipecrypt.parquet.footer.segments import check_structure
from pipecrypt.store.listing import find_file
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_range_source

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))

ways = {
    "inspect": inspect_file,
    "plain": read_plain_footer,
    "structure": lambda source: check_structure(read_stored_footer(source), "x"),
    "observe": lambda source: observe_encryption(read_stored_footer(source), "x"),
}
with open_range_source(find_file(Location(sys.argv[1]))) as source:
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")
    before = peak()
    try:
        ways[sys.argv[2]](source)
        print("ok", end=" ")
    except PipecryptError as error:
        print(type(error).__name__, end=" ")
    print(peak() - before)
"""


def measure(file: Path, way: str) -> tuple[str, int]:
    """Return how opening a file ended, and what it took of memory."""
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(file), way], capture_output=True, text=True, env=environ, check=True
    )
    ended, peak = done.stdout.split()
    return ended, int(peak)


@pytest.mark.parametrize("way", ["inspect", "structure"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_footer_costs_no_more_than_twenty_times_its_bytes(tmp_path: Path, name: str, way: str) -> None:
    (tmp_path / "x").write_bytes(data := file_of(HOSTILE[name](3_900_000)))
    ended, peak = measure(tmp_path / "x", way)
    assert ended in ("LimitError", "FormatError", "ok")
    assert peak <= max(COST_FACTOR * len(data), LEAST_ALLOWANCE) + 8 * MIB, f"{peak / MIB:.0f} MiB"


@pytest.mark.parametrize("way", ["inspect", "plain", "observe"])
def test_a_file_that_is_all_footer_is_refused_before_it_is_read(tmp_path: Path, way: str) -> None:
    size = 3 << 30
    with (tmp_path / "x").open("wb") as file:
        file.write(b"PAR1")
        file.truncate(size - 8)
        file.seek(size - 8)
        file.write((size - 12).to_bytes(4, "little") + b"PAR1")
    assert measure(tmp_path / "x", way)[0] == "LimitError"
    assert measure(tmp_path / "x", way)[1] < 4 * MIB


def test_the_largest_footer_takes_less_than_half_a_gibibyte(tmp_path: Path) -> None:
    """Zeros, of which a footer of the greatest length ends at the first: what is behind must not be copied again."""
    with (tmp_path / "x").open("wb") as file:
        file.write(b"PAR1")
        file.truncate(MAX_FOOTER_BYTES + 4)
        file.seek(MAX_FOOTER_BYTES + 4)
        file.write(MAX_FOOTER_BYTES.to_bytes(4, "little") + b"PAR1")
    ended, peak = measure(tmp_path / "x", "structure")
    assert ended == "FormatError"
    assert peak < 512 * MIB


def test_a_large_hostile_footer_stays_below_half_a_gibibyte(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(file_of(HOSTILE["many_row_groups_with_rows"](30_000_000)))
    ended, peak = measure(tmp_path / "x", "structure")
    assert ended == "LimitError"
    assert peak < 512 * MIB, f"{peak / MIB:.0f} MiB"


def test_a_wide_honest_file_opens(tmp_path: Path) -> None:
    """It says as little of each column as a writer may, so its footer costs most for each of its bytes."""
    (tmp_path / "x").write_bytes(wide_file(6_000))
    for way in ("inspect", "structure", "observe", "plain"):
        assert measure(tmp_path / "x", way)[0] == "ok"


@pytest.mark.parametrize("times", [10, pytest.param(50, marks=pytest.mark.long)])
def test_a_hundred_thousand_chunks_open_row_group_by_row_group(times: int) -> None:
    """One row group of an honest file, many times: its places are wrong then, but not what opening it takes."""
    columns = 2_000
    data = wide_file(columns)
    footer, body_end = read_plain_footer(MemorySource(data, "x"))
    one = data[body_end:-8]
    start = one.index(b"\x19\x1c\x19", one.index(b"c1999"))  # field 4, a list of one struct
    many = one[: start + 1] + struct_list(times, one[start + 2 : one.rindex(b"\x28")])
    assert len(leaf_columns(footer, "x")) == columns
    found, _ = read_plain_footer(MemorySource(file_of(many + b"\x00"), "x"))
    row_groups = RowGroups(found, "x")
    row_groups.check_size()
    assert len(row_groups) == times
    for index in row_groups.ordinals:
        assert len(row_groups.chunks(index)) == columns
        row_groups.release(index)


def test_columns_that_no_encrypted_file_can_number() -> None:
    data = file_of(b"\x15\x02\x19" + schema(40_000) + b"\x16\x00\x19\x0c\x00")
    footer, _ = read_plain_footer(MemorySource(data, "x"))
    with pytest.raises(LimitError, match="32767 columns"):
        leaf_columns(footer, "x")


def test_a_field_number_that_grows_by_small_steps_ends_too() -> None:
    with pytest.raises(ContentError):
        read_plain_footer(MemorySource(file_of(b"\x11" * 100_000 + b"\x00"), "x"))


@pytest.mark.parametrize("field", [ColumnChunk.COLUMN_INDEX_LENGTH, ColumnChunk.OFFSET_INDEX_LENGTH])
def test_an_index_that_says_it_is_huge_is_not_read(tmp_path: Path, field: int) -> None:
    """The file has as many bytes as the index claims, all of them a hole."""
    out = io.BytesIO()
    pq.write_table(pa.table({"id": [1, 2]}), out, write_page_index=True)
    stored = out.getvalue()
    footer, body_end = read_plain_footer(MemorySource(stored, "x"))
    row_groups = RowGroups(footer, "x")
    entry = row_groups.chunks(0)[0].entry
    offset = ColumnChunk.COLUMN_INDEX_OFFSET if field == ColumnChunk.COLUMN_INDEX_LENGTH else field - 1
    size = 2 << 30
    entry.set(offset, WireType.I64, body_end)
    entry.set(field, WireType.I32, size - 1)
    end = encode_struct(footer)
    with (tmp_path / "x").open("wb") as file:
        file.write(stored[:body_end])
        file.seek(body_end + size)
        file.write(end + len(end).to_bytes(4, "little") + b"PAR1")
    with (
        open_range_source(find_file(Location(str(tmp_path / "x")))) as source,
        pytest.raises(LimitError, match="index"),
    ):
        encrypt_file(source, MemorySink(), all_columns(), keys=RandomKeys(), context=Context(new_dataset_id(), "x"))
