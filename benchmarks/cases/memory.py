"""Peak memory, while files grow, and while an attacker chooses what is read."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from benchmarks.cases.columns import TWO_COLUMNS, decrypting, encrypting, prepare_lineitem
from benchmarks.cases.sources import FORMATS, encrypting_rows, prepare_rows
from benchmarks.inputs import new_keys, write_table
from benchmarks.suite import Case, Contender, Place, Ready, Work

__all__ = ["CASES"]

_ROW_GROUPS = 3_900_000
_SOURCE = "lineitem.parquet"
_READ = """
import sys
import pipecrypt as pc
place, key, trust, right = sys.argv[1:]
try:
    trusted = pc.Trust([trust] if trust else None, verify="read" if trust else "off")
    with pc.open(place, keys=[key], trust=trusted) as dataset:
        dataset.to_table()
    ended = "read"
except pc.errors.PipecryptError as error:
    ended = type(error).__name__
assert ended == right, ended
"""


def _forged(row_groups: int) -> bytes:
    """Return a Parquet file of one column, in Thrift's compact protocol: version, schema, rows, empty row groups."""
    count, left = bytearray(), row_groups
    while left > 0x7F:
        count.append(left & 0x7F | 0x80)
        left >>= 7
    count.append(left)
    schema = b"\x19\x2c" + b"\x48\x01r\x15\x02\x00" + b"\x15\x02\x38\x01a\x00"
    footer = b"\x15\x02" + schema + b"\x16\x00" + b"\x19\xfc" + count + bytes(row_groups) + b"\x00"
    return b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"


@contextmanager
def _prepare_forged(place: Place) -> Iterator[Ready]:
    import pipecrypt as pc

    environment = new_keys(place.root)
    write_table(place.root / "raw/a.parquet", rows=3, columns=1)
    policy = pc.Policy(default=place.key(), sign=place.key("signing"))
    for name in ("honest", "forged"):
        pc.encrypt(place.root / "raw", place.root / name, policy)
    data = _forged(int(_ROW_GROUPS * place.scale))
    (place.root / "forged/a.parquet").write_bytes(data)
    yield Ready(len(data), environment)


def _read(folder: str, right: str, *, trusts: bool) -> Contender:
    def start(place: Place) -> Work:
        trust = place.key("signing") if trusts else ""
        return [sys.executable, "-c", _READ, f"{place.root}/{folder}/", place.key(), trust, right]

    return Contender(start, is_ours=True)


@contextmanager
def _prepare_sources(place: Place) -> Iterator[Ready]:
    with ExitStack() as stack:
        made = None
        for kind in FORMATS:
            (place.root / "keys.json").unlink(missing_ok=True)  # each makes keys: the last ones are used
            made = stack.enter_context(prepare_rows(kind)(place))
        assert made is not None  # noqa: S101
        yield replace(made, input_bytes=0)


def _prepare_columns(place: Place) -> object:
    return prepare_lineitem(place, place.point)


CASES = (
    Case(
        "memory: columns",
        "Does memory stay flat while a file grows?",
        "The largest column chunk, a few times. What grows is the footer: half a kilobyte of key material for each "
        "encrypted chunk.",
        _prepare_columns,  # type: ignore[arg-type]
        {
            "16 columns": encrypting(),
            "2 columns": encrypting(TWO_COLUMNS),
            "decrypt": decrypting(_SOURCE),
        },
        "16 columns",
        axis="scale of lineitem (1: 232 MB)",
        points=(0.25, 1, 4),
        shows="peak",
        rounds=2,
    ),
    Case(
        "memory: sources",
        "Does memory stay flat while sources of each format grow four times?",
        "Row groups that are read, encoded and encrypted side by side, and what pyarrow keeps; ORC grows with what "
        "its reader takes of a file.",
        _prepare_sources,
        {kind: encrypting_rows(kind) for kind in FORMATS},
        "csv",
        axis="scale of lineitem",
        points=(0.15, 0.6),
        shows="peak",
        rounds=2,
    ),
    Case(
        "memory: forged footer",
        "What does a forged file cost its reader, whose footer has 3.9 million row groups?",
        "With trusted keys the footer is compared with what was signed before it is parsed; without, its row groups "
        "are counted first.",
        _prepare_forged,
        {
            "honest file": _read("honest", "read", trusts=True),
            "with trusted keys": _read("forged", "IntegrityError", trusts=True),
            "without": _read("forged", "LimitError", trusts=False),
        },
        "honest file",
        shows="peak",
    ),
)
