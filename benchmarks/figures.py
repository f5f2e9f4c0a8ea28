"""From what was measured to figures: medians with their spread, and ratios of runs that took turns."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.cases import find_case
from benchmarks.suite import CaseResult, PointResult

__all__ = ["Spread", "load", "save", "series", "spread_of", "table", "times"]

_UNITS = {"seconds": "s", "cpu": "s of CPU", "peak": "MiB", "cpu per GB": "s of CPU for each GB"}


@dataclass(frozen=True, slots=True)
class Spread:
    """A median, and the lowest and highest of its rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{_short(self.median)} ({_short(self.low)}-{_short(self.high)})"


def spread_of(values: Sequence[float]) -> Spread:
    """Return the median of some rounds, with the lowest and the highest."""
    return Spread(statistics.median(values), min(values), max(values))


def times(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Return the ratio of each round, or of each to the other's median where one has fewer rounds."""
    if len(values) != len(others):
        return [each / statistics.median(others) for each in values]
    return [one / other for one, other in zip(values, others, strict=True)]


def series(result: CaseResult, point: PointResult, contender: str, measure: str) -> list[float] | None:
    """Return what a measure was in each round of a contender; None where it was not measured.

    Args:
        result: of the case.
        point: one of its points.
        contender: one of its contenders.
        measure: one that was taken, `cpu per GB`, `MB/s`, or `x` and another contender for the ratio of their seconds.
    """
    samples = point.samples.get(contender)
    if samples is None:
        return None
    if measure == "cpu per GB":
        return [cpu / point.input_bytes * 1e9 for cpu in samples["cpu"]]
    if measure == "MB/s":
        return [point.input_bytes / seconds / 1e6 for seconds in samples["seconds"]]
    if measure.startswith("x "):
        other = point.samples.get(measure[2:])
        return None if other is None else times(samples["seconds"], other["seconds"])
    return samples.get(measure)


def table(result: CaseResult) -> list[str]:
    """Return what was measured as Markdown."""
    case = find_case(result.name)
    lines = []
    for point in result.points:
        if case.axis:
            lines += [f"**{_short(point.point)} {case.axis}**", ""]
        further = sorted(
            {measure for samples in point.samples.values() for measure in samples} - {"seconds", "cpu", "peak"}
        )
        sizes = ["MB/s", "cpu per GB"] if point.input_bytes else []
        heads = ["contender", "seconds", f"x {case.limit}", "CPU s", *sizes, "peak, MiB", *further]
        lines += [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
        measures = ["seconds", f"x {case.limit}", "cpu", *sizes, "peak", *further]
        for contender in point.samples:
            found = (series(result, point, contender, measure) for measure in measures)
            cells = [str(spread_of(values)) if values else "" for values in found]
            lines.append(f"| {contender} | {' | '.join(cells)} |")
        lines.append("")
    lines += [f"Left out: {name}: {why}." for name, why in result.left_out.items()]
    return lines


def save(path: Path, results: Iterable[CaseResult]) -> None:
    """Write results as JSON, with what they were measured on."""
    document = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {
            "cpus": len(os.sched_getaffinity(0)),
            "processor": _processor(),
            "python": platform.python_version(),
        },
        "command": ["python", "-m", "benchmarks", *sys.argv[1:]],
        "cases": [asdict(result) for result in results],
    }
    path.write_text(json.dumps(document, indent=1, default=str, sort_keys=True) + "\n", encoding="utf-8")


def load(path: Path) -> tuple[dict[str, object], list[CaseResult]]:
    """Return what `save` wrote: the heads, and the results."""
    document = json.loads(path.read_text(encoding="utf-8"))
    results = [
        CaseResult(case["name"], [PointResult(**point) for point in case["points"]], case["left_out"])
        for case in document.pop("cases")
    ]
    return document, results


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
