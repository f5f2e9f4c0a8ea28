"""Journals that earlier states of this release wrote are still read: a run that one of them began can be resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipecrypt.runs.journal.block import Block, decode_block, encode_block, open_unchecked

_HERE = Path(__file__).parent
_STATES = ("0.1-first", "0.1")


def _blocks(state: str) -> dict[str, list[tuple[bytes, Block]]]:
    """Return the blocks of each run, as stored in their envelopes and as read."""
    runs: dict[str, list[tuple[bytes, Block]]] = {}
    for path in sorted((_HERE / state / "signed" / "_pipecrypt" / "runs").glob("*/parts-*.json")):
        stored = open_unchecked(path.read_bytes())
        runs.setdefault(path.parent.name, []).append((stored, decode_block(stored)))
    return runs


@pytest.mark.parametrize("state", _STATES)
def test_each_run_has_noted_its_file(state: str) -> None:
    first, second = (
        {part.path for _, block in blocks for record in block.records for part in record.parts}
        for blocks in _blocks(state).values()
    )
    assert (first, second) == ({"day=1/a.parquet"}, {"b.parquet"})


@pytest.mark.parametrize("state", _STATES)
def test_what_was_noted_is_known_in_full(state: str) -> None:
    for run_id, blocks in _blocks(state).items():
        for stored, block in blocks:
            assert block.header.run_id == run_id
            for record in block.records:
                for part in record.parts:
                    assert part.sink_bytes == (_HERE / state / "signed" / part.path).stat().st_size
                assert [each.entry.path for each in record.signable] == [part.path for part in record.parts]
            lines = [json.loads(line) for line in stored.splitlines()]
            again = [json.loads(line) for line in encode_block(block).splitlines()]
            assert [_without_new(mine, old) for mine, old in zip(again, lines, strict=True)] == lines


def _without_new(mine: dict[str, object], old: dict[str, object]) -> dict[str, object]:
    """Leave out members that later states added: they are optional, so older journals stay readable."""
    return {name: value for name, value in mine.items() if name in old}
