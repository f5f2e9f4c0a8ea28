"""How long the stages of one file took, so that operators see what a run waits for. Adding up is left to run_report.

Reading and writing overlap with the work, on threads of their own. What counts is how long the work waited for them, so
the stages of a file add up to its time.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pipecrypt.parquet.report import FileReport, KeyBytes

__all__ = ["NO_STAGES", "StageClock", "StageSeconds", "bytes_by_key"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSeconds:
    """Seconds of one file, or the sums of several.

    Args:
        open_seconds: until input and output were open.
        read_seconds: waiting for the input.
        work_seconds: encrypting or decrypting, and all that is not told apart.
        write_seconds: waiting for the output, and for the digests made on the way there.
        publish_seconds: making the output appear.
    """

    open_seconds: float = 0.0
    read_seconds: float = 0.0
    work_seconds: float = 0.0
    write_seconds: float = 0.0
    publish_seconds: float = 0.0

    def __add__(self, other: StageSeconds) -> StageSeconds:
        """Return the sums."""
        return StageSeconds(
            open_seconds=self.open_seconds + other.open_seconds,
            read_seconds=self.read_seconds + other.read_seconds,
            work_seconds=self.work_seconds + other.work_seconds,
            write_seconds=self.write_seconds + other.write_seconds,
            publish_seconds=self.publish_seconds + other.publish_seconds,
        )


NO_STAGES: Final = StageSeconds()


class StageClock:
    """Takes the time of one file's stages, beginning now.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Begin to open."""
        self._clock = clock
        self._began = self._opened = self._worked = clock()
        self._read_seconds = self._write_seconds = 0.0

    def opened(self) -> None:
        """Note that input and output are open."""
        self._opened = self._worked = self._clock()

    def worked(self, reports: Sequence[FileReport], *, read_seconds: float = 0.0) -> None:
        """Note that the outputs are complete, and not published.

        Args:
            reports: what the engine did, for each output.
            read_seconds: waiting for the input elsewhere than in the engine.
        """
        self._worked = self._clock()
        self._read_seconds = read_seconds + sum(report.read_seconds for report in reports)
        self._write_seconds = sum(report.write_seconds for report in reports)

    def published(self) -> StageSeconds:
        """Return the stages of the file, whose outputs were published."""
        waited = self._read_seconds + self._write_seconds
        return StageSeconds(
            open_seconds=self._opened - self._began,
            read_seconds=self._read_seconds,
            work_seconds=max(self._worked - self._opened - waited, 0.0),
            write_seconds=self._write_seconds,
            publish_seconds=self._clock() - self._worked,
        )


def bytes_by_key(reports: Sequence[FileReport]) -> tuple[KeyBytes, ...]:
    """Return how much is under each master key in several outputs together."""
    counts = Counter[str | None]()
    for report in reports:
        for each in report.bytes_by_key:
            counts[each.key_reference] += each.page_bytes
    return tuple(KeyBytes(reference, page_bytes) for reference, page_bytes in counts.items())
