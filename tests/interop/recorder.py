"""Run every reader on every kind of file, and note what it could read. Checking and showing the notes: test_matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Mode", "Recorder", "Rows", "Way"]

Rows = Mapping[str, list[object]]


@dataclass(frozen=True, slots=True)
class Mode:
    """A kind of file.

    Args:
        name: what the page calls it.
        path: the file.
        keys: what the reader has.
        on_missing_key: of our own ways to read.
        locked: columns whose key the reader lacks.
    """

    name: str
    path: str
    keys: tuple[str, ...]
    on_missing_key: str = "error"
    locked: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Way:
    """A way to read: given a kind of file and the columns to read, return them."""

    reader: str
    through: str
    read: Callable[[Mode, list[str]], Rows]


@dataclass(slots=True)
class Recorder:
    """Notes a verdict for each pair.

    Args:
        expected: the table's columns.
        verdicts: by way and mode.
    """

    expected: Rows
    verdicts: dict[tuple[str, str, str], str] = field(default_factory=dict)

    def run(self, way: Way, mode: Mode) -> None:
        """Note "all", "nulls" (all, and nulls for locked columns), "other columns" (all but those) or "no"."""
        self.verdicts[way.reader, way.through, mode.name] = self._verdict(way, mode)

    def _verdict(self, way: Way, mode: Mode) -> str:
        names = list(self.expected)
        nulls: list[object] = [None] * len(self.expected[names[0]])
        found = _attempt(way, mode, names)
        if found == self.expected:
            return "all"
        if found == {**self.expected, **dict.fromkeys(mode.locked, nulls)}:
            return "nulls"
        readable = [name for name in names if name not in mode.locked]
        if mode.locked and _attempt(way, mode, readable) == {name: self.expected[name] for name in readable}:
            return "other columns"
        return "no"

    def as_markdown(self, ways: Sequence[Way], modes: Sequence[Mode]) -> str:
        """Return the table: one line for each way, one column for each mode."""
        lines = [
            f"| reader | through | {' | '.join(mode.name for mode in modes)} |",
            f"|---|---|{'---|' * len(modes)}",
        ]
        for way in ways:
            verdicts = (self.verdicts[way.reader, way.through, mode.name] for mode in modes)
            lines.append(f"| {way.reader} | {way.through} | {' | '.join(verdicts)} |")
        return "\n".join(lines)


def _attempt(way: Way, mode: Mode, names: list[str]) -> Rows | None:
    try:
        return way.read(mode, names)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # whatever a reader raises, it did not read the file; Polars' panics are no Exception
        return None
