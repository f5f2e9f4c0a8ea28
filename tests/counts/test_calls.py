"""How many calls a page, a column chunk and a file take may only fall: whoever lowers them lowers the limit too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keystores import create_key

_PAGE_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a folder of files with two columns: how many files, row groups in each, pages in each column chunk."""

    files: int = 1
    row_groups: int = 1
    pages: int = 10


@dataclass(frozen=True, slots=True)
class Calls:
    """How many calls something takes: a page, a column chunk without its pages, a file without its column chunks."""

    page: float
    chunk: float
    file: float


_SHAPES = {"base": Shape(), "files": Shape(files=11), "pages": Shape(pages=110), "row groups": Shape(row_groups=11)}
# A few in a hundred above what Python 3.11 counts; later ones call less.
_LIMITS = {
    ("encrypt", "with a page index"): Calls(page=29, chunk=645, file=1720),
    ("encrypt", "without a page index"): Calls(page=26, chunk=405, file=1720),
    ("decrypt", "with a page index"): Calls(page=39, chunk=715, file=1570),
    ("decrypt", "without a page index"): Calls(page=29, chunk=540, file=1570),
}


@pytest.mark.parametrize("has_index", [True, False], ids=["with a page index", "without a page index"])
def test_no_page_chunk_or_file_takes_more_calls_than_before(has_index: bool, tmp_path: Path) -> None:
    (tmp_path / "machine.key").touch(mode=0o600)
    (tmp_path / "machine.key").write_bytes(os.urandom(32))
    environment = {"PIPECRYPT_KEY_FILE": str(tmp_path / "machine.key")}
    key = f"keystore://{tmp_path}/keys.json#pii"
    create_key(key, "aes256", Credentials(environment))
    for name, shape in _SHAPES.items():
        _write(tmp_path / "raw" / name, shape, has_index=has_index)

    done = subprocess.run(
        [sys.executable, "-m", "tests.counts.calls", str(tmp_path / "raw"), key],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )

    counted = json.loads(done.stdout)
    for place, way in enumerate(("encrypt", "decrypt")):
        limit = _LIMITS[way, "with a page index" if has_index else "without a page index"]
        calls = _calls({name: counts[place] for name, counts in counted.items()})
        print(f"{way}: {calls}")  # shown where a limit is exceeded
        assert calls.page <= limit.page
        assert calls.chunk <= limit.chunk
        assert calls.file <= limit.file


def _write(folder: Path, shape: Shape, *, has_index: bool) -> None:
    folder.mkdir(parents=True)
    rows = shape.pages * _PAGE_ROWS
    table = pa.table({name: range(rows * shape.row_groups) for name in ("a", "b")})
    for number in range(shape.files):
        pq.write_table(
            table,
            folder / f"{number}.parquet",
            row_group_size=rows,
            write_batch_size=_PAGE_ROWS,
            data_page_size=1,
            use_dictionary=False,
            write_page_index=has_index,
        )


def _calls(totals: dict[str, int]) -> Calls:
    """Return what one more of each costs."""
    base, two = Shape(), 2  # columns
    more_pages = two * (_SHAPES["pages"].pages - base.pages)
    page = (totals["pages"] - totals["base"]) / more_pages
    more_chunks = two * (_SHAPES["row groups"].row_groups - base.row_groups)
    chunk = (totals["row groups"] - totals["base"]) / more_chunks - base.pages * page
    more_files = _SHAPES["files"].files - base.files
    file = (totals["files"] - totals["base"]) / more_files - two * (chunk + base.pages * page)
    return Calls(page, chunk, file)
