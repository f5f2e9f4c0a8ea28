"""docs/benchmarks.md and its plots, made of recorded results and of what the cases say: no figure in it is typed."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.cases import GROUPS, cases_of, find_case
from benchmarks.figures import load, series, spread_of, table
from benchmarks.plots import bars, lines
from benchmarks.promises import judged
from benchmarks.suite import Case, CaseResult

__all__ = ["page", "write_page"]

_DOCS = Path(__file__).parents[1] / "docs"
_HEAD = """\
# Benchmarks

How long pipecrypt takes, beside a limit such as `cp` and beside what else does the same work, always in the same run.
Contenders take turns, each run is a process of its own, and only counts after its output was found right. Imports are
not timed, but where a line says "command". Numbers are medians with the lowest and the highest round in brackets;
ratios are made round by round. Files lie in memory.

```sh
make bench                                            # installs peers, and measures what is promised
python -m benchmarks all --json benchmarks/results/   # or: columns, chunks, sources, ...; --quick to see that all works
python -m benchmarks docs                             # writes this page of the results
python -m benchmarks check                            # exit code 1 where a promise is broken
```

How many requests commands send to object stores is on [another page](requests.md): it does not depend on a machine.
"""


def write_page(results: Path) -> None:
    """Write the page and its plots into docs/."""
    for path, text in page(results).items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


def page(results: Path) -> dict[Path, str]:
    """Return the texts of the page and of its plots, by path."""
    texts, files = [_HEAD], {}
    found = {path.stem: load(path) for path in sorted(results.glob("*.json"))}
    everything = [result for _, some in found.values() for result in some]
    texts.append(_promises(everything))
    for group in GROUPS:
        if group not in found:
            continue
        head, some = found[group]
        lines_of = (cases_of(group)[0].name, head)
        texts.append(f"## {group.capitalize()}\n\n{_measured_on(lines_of[1])}\n")
        for result in some:
            case = find_case(result.name)
            plot = _DOCS / "benchmarks" / f"{re.sub('[^a-z0-9]+', '-', case.name.lower())}.svg"
            files[plot] = _plot(case, result)
            texts.append(
                f"### {case.question}\n\n![{case.name}](benchmarks/{plot.name})\n\n{case.limits}\n\n"
                f"<details><summary>{case.name}: all figures</summary>\n\n"
                + "\n".join(table(result))
                + "\n\n</details>\n"
            )
    return {_DOCS / "benchmarks.md": "\n".join(texts), **files}


def _measured_on(head: dict[str, object]) -> str:
    machine, command = head["machine"], head["command"]
    assert isinstance(machine, dict)  # noqa: S101
    assert isinstance(command, list)  # noqa: S101
    processor = f"{machine['cpus']} cores of {machine['processor']}, Python {machine['python']}"
    return f"`{' '.join(map(str, command))}`, {head['date']}, {processor}."


def _promises(results: list[CaseResult]) -> str:
    rows = ["| promise | measured | |", "|---|---:|---|"]
    for each in judged(results):
        if each.found is not None:
            rows.append(f"| {each.promise} | {each.found} | {'kept' if each.is_kept else '**broken**'} |")
    return "## Promises\n\n" + "\n".join(rows) + "\n"


def _plot(case: Case, result: CaseResult) -> str:
    if not case.axis:
        point = result.points[0]
        shown = {name: series(result, point, name, case.shows) for name in point.samples}
        return bars(f"{case.name}: {case.shows}", {name: spread_of(values) for name, values in shown.items() if values})
    over: dict[str, list[tuple[float, object]]] = {}
    for point in result.points:
        for name in point.samples:
            values = series(result, point, name, case.shows)
            if values:
                over.setdefault(name, []).append((point.point, spread_of(values)))
    return lines(f"{case.name}: {case.shows}", case.axis, over)  # type: ignore[arg-type]
