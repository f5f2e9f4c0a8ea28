"""What pipecrypt promises, as data, and whether it is kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from benchmarks.figures import Spread, series, spread_of, times
from benchmarks.suite import CaseResult

__all__ = ["PROMISES", "Judgement", "Promise", "judged"]


@dataclass(frozen=True, slots=True)
class Promise:
    """A figure of a case, and its limit.

    Args:
        case: where it is measured.
        contender: whose figure.
        limit: at most so much, or at least.
        measure: what is measured.
        over: the contender whose figure it is divided by, in the same case at the same point.
        at: the point; None for a case that has one only.
        over_at: the point whose figure of the same contender it is divided by.
        is_least: the limit is the least, not the most.
    """

    case: str
    contender: str
    limit: float
    measure: str = "seconds"
    over: str | None = None
    at: float | None = None
    over_at: float | None = None
    is_least: bool = False

    def __str__(self) -> str:
        where = "" if self.at is None else f" at {self.at:g}"
        least = ">=" if self.is_least else "<="
        over = f" over {self.over}" if self.over else ""
        over += f" over that at {self.over_at:g}" if self.over_at is not None else ""
        return f"{self.case}{where}: {self.measure} of {self.contender}{over} {least} {self.limit:g}"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A promise, and what was found; None where it was not measured."""

    promise: Promise
    found: Spread | None

    @property
    def is_kept(self) -> bool:
        """Whether the median is within the limit."""
        if self.found is None:
            return False
        least = self.promise.is_least
        return self.found.median >= self.promise.limit if least else self.found.median <= self.promise.limit


PROMISES = (
    Promise("columns", "16 columns", 1.8, over="cp"),
    Promise("columns", "2 columns", 1.5, over="cp"),
    Promise("columns", "decrypt", 1.8, over="cp"),
    Promise("columns", "16 columns, signed, SHA-256", 1.3, over="16 columns"),
    Promise("columns", "16 columns, signed, BLAKE3", 1.1, over="16 columns"),
    Promise("chunks", "encrypt", 1.3, over="cp"),
    Promise("chunks", "decrypt", 1.3, over="cp"),
    Promise("sources: csv", "pipecrypt", 1.4, over="pyarrow's reader, encrypted", is_least=True, measure="MB/s"),
    Promise("readers: l_shipdate", "first open", 1.3, over="plaintext"),
    Promise("readers: l_shipdate", "first open", 1.15, over="plaintext", measure="fetched MB"),
    Promise("readers: all 16 columns", "first open", 1.5, over="plaintext"),
    Promise("objects: small files", "pipecrypt", 3, over="rclone"),
    Promise("objects: large files", "pipecrypt", 1.5, over="rclone"),
    Promise("scale: files", "run", 60, measure="cpu", at=20_000),
    Promise("scale: files", "nothing to do", 4, measure="cpu", at=20_000),
    Promise("scale: files", "plan", 6, measure="cpu", at=20_000),
    Promise("scale: files", "run", 1.3, measure="peak", at=20_000, over_at=1000),
    Promise("scale: cores", "two workers", 1.8, over="one core", is_least=True, measure="MB/s"),
    Promise("scale: cores", "two workers", 1.05, over="one worker"),
    Promise("scale: one large file", "both cores", 1.7, over="one core", is_least=True, measure="MB/s"),
    Promise("verify", "verify, SHA-256, two workers", 1, over="sha256sum"),
    Promise("verify: rotation", "deep rotation", 2, measure="% of bytes moved"),
    Promise("keys: start", "pipecrypt --help", 0.25, measure="cpu"),
    Promise("memory: columns", "16 columns", 1.15, measure="peak", at=4, over_at=1),
    Promise("memory: columns", "decrypt", 1.15, measure="peak", at=4, over_at=1),
    Promise("memory: sources", "csv", 1.3, measure="peak", at=0.6, over_at=0.15),
    Promise("memory: forged footer", "with trusted keys", 1.1, measure="peak", over="honest file"),
)


def judged(results: Iterable[CaseResult], promises: Iterable[Promise] = PROMISES) -> list[Judgement]:
    """Judge the promises of the cases that were run."""
    by_name = {result.name: result for result in results}
    return [Judgement(each, _found(each, by_name)) for each in promises if each.case in by_name]


def _found(promise: Promise, results: Mapping[str, CaseResult]) -> Spread | None:
    result = results[promise.case]
    points = {point.point: point for point in result.points}
    point = result.points[0] if promise.at is None else points.get(promise.at)
    other = point if promise.over_at is None else points.get(promise.over_at)
    if point is None or other is None:
        return None
    values = series(result, point, promise.contender, promise.measure)
    if values is None:
        return None
    if promise.over is None and promise.over_at is None:
        return spread_of(values)
    others = series(result, other, promise.over or promise.contender, promise.measure)
    return None if others is None else spread_of(times(values, others))
