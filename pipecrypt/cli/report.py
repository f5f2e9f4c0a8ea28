"""The commands about runs of the past: report shows how one went, clean removes what killed ones left.

The HTML page needs no network: no script, no link, no style from elsewhere; all text is escaped, and a content
security policy says so once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape as escape_html
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from pipecrypt.cli.render import aligned, count, show
from pipecrypt.errors import OutputError
from pipecrypt.vocabulary.printable import printable

if TYPE_CHECKING:
    from pipecrypt.runs.journal.cleaning import CleanSummary
    from pipecrypt.runs.report.report import RunCounts, RunReport, Sample

__all__ = ["clean", "report", "report_page"]

_MB = 1_000_000
_WIDTH: Final = 720
_HEIGHT: Final = 180
_LEFT: Final = 60
_SHOWN_KEYS: Final = 20
_MOST_STEPS: Final = 90
_STYLE: Final = """
:root{color-scheme:light dark;--ink:#1c2430;--dim:#5b6675;--line:#d5dae1;--bar:#2f6fb2;--back:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ee;--dim:#9aa5b4;--line:#39424f;--bar:#6aa5e0;--back:#14181e}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back);max-width:46rem;margin:2rem auto;
padding:0 1rem}
h1{font-size:1.4rem;margin:0}h2{font-size:1.05rem;margin:2rem 0 .5rem}p{margin:.3rem 0;color:var(--dim)}
.failed,.interrupted{color:#c0392b;font-weight:600}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
td{padding:.15rem .5rem .15rem 0;border-bottom:1px solid var(--line);overflow-wrap:anywhere;vertical-align:top}
td.n{text-align:right;white-space:nowrap}td.b{width:30%}
svg{width:100%;height:auto}svg text{fill:var(--dim);font-size:12px}.axis{stroke:var(--line)}
.area{fill:var(--bar);fill-opacity:.25;stroke:var(--bar);stroke-width:1.5}
rect{fill:var(--bar)}
""".replace("\n", "")
_HEAD: Final = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
)
_MAX_PATHS = 20


def report(
    path: Annotated[str, typer.Argument(metavar="PATH", help="The directory that a run wrote.")],
    run_id: Annotated[str | None, typer.Option("--run", metavar="ID", help="Of this run; default: the latest.")] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with charts; replaces FILE.")
    ] = None,
) -> None:
    """Show how a run went: counts, time by stage, bytes by key, slowest files."""
    from pipecrypt.runs.report.report import read_report
    from pipecrypt.store.location import Location

    found = read_report(Location(path), run_id)
    if html is None:
        show(found, lambda: _lines(found))
        return
    try:
        html.write_text(report_page(found), encoding="utf-8")
    except OSError as error:
        reason = (error.strerror or "failed").lower()
        raise OutputError(
            f"{html} cannot be written: {reason}", hint="give a file in a directory that exists"
        ) from error
    show({"run_id": found.run_id, "html": str(html)}, lambda: [f"wrote {html}"])


def _lines(found: RunReport) -> Iterator[str]:
    counts = found.counts
    yield f"run {found.run_id}: {found.operation}, {found.outcome.value}, {_seconds(found.duration_ms)}"
    if found.error_type is not None:
        yield f"  {found.error_type}: {found.error or 'the message is not kept'}"
    facts = [
        ("started", f"{found.started:%Y-%m-%d %H:%M:%S} UTC"),
        ("ended", f"{found.ended:%Y-%m-%d %H:%M:%S} UTC"),
        ("files", f"{counts.files:,} published, of {counts.planned_files:,} sources"),
        ("source bytes", f"{counts.source_bytes:,} of {counts.planned_bytes:,}"),
        *((name, f"{value:,}") for name, value in _written(counts)),
    ]
    yield from aligned(facts, indent="  ")
    yield "time by stage, of all files"
    yield from aligned([(name, _seconds(value)) for name, value in found.stages_ms], right=(1,), indent="  ")
    if found.bytes_by_key:
        yield "bytes by master key"
        rows = [(each.key_reference or "plaintext", f"{each.page_bytes:,}") for each in found.bytes_by_key]
        yield from aligned(rows, right=(1,), indent="  ")
    if found.slowest:
        yield "slowest files"
        files = [(each.path, _seconds(each.duration_ms), _megabytes(each.source_bytes)) for each in found.slowest]
        yield from aligned(files, right=(1, 2), indent="  ")


def report_page(report: RunReport) -> str:
    """Return the page."""
    return "\n".join(_page_lines(report)) + "\n"


def _page_lines(report: RunReport) -> Iterator[str]:
    yield f"{_HEAD}<title>Run {_text(report.run_id)}</title><style>{_STYLE}</style></head><body>"
    yield f"<h1>Run {_text(report.run_id)}</h1>"
    yield f'<p>{_text(report.operation)}: <span class="{report.outcome.value}">{report.outcome.value}</span></p>'
    if report.error_type is not None:
        yield f"<p>{_text(report.error_type)}: {_text(report.error or 'the message is not kept')}</p>"
    times = f"{report.started:%Y-%m-%d %H:%M:%S} to {report.ended:%Y-%m-%d %H:%M:%S} UTC"
    yield f"<p>{times}, {_seconds(report.duration_ms)}</p>"
    yield "<h2>Counts</h2>"
    counts = report.counts
    planned = [("files planned", counts.planned_files), ("files published", counts.files)]
    planned += [("bytes planned", counts.planned_bytes), ("source bytes", counts.source_bytes)]
    cells = "".join(_row(name, f"{value:,}") for name, value in (*planned, *_written(counts)))
    yield f"<table>{cells}</table>"
    yield "<h2>Throughput, MB/s of input</h2>"
    yield _throughput(report.samples)
    yield "<h2>Time by stage, of all files</h2>"
    yield _bars([(name, value, _seconds(value)) for name, value in report.stages_ms])
    yield "<h2>Bytes by master key</h2>"
    keys = sorted(report.bytes_by_key, key=lambda each: -each.page_bytes)
    named = [(each.key_reference or "plaintext", each.page_bytes, _megabytes(each.page_bytes)) for each in keys]
    yield _bars(named[:_SHOWN_KEYS])
    if len(named) > _SHOWN_KEYS:
        yield f"<p>and {len(named) - _SHOWN_KEYS:,} more keys</p>"
    yield "<h2>Slowest files</h2>"
    yield _bars(
        [
            (each.path, each.duration_ms, f"{_seconds(each.duration_ms)}, {_megabytes(each.source_bytes)}")
            for each in report.slowest
        ]
    )
    yield "</body></html>"


def _written(counts: RunCounts) -> Iterator[tuple[str, int]]:
    """Yield what a run made of what it read."""
    yield "sink bytes", counts.sink_bytes
    yield "rows", counts.rows
    yield "bad rows left out", counts.bad_rows
    yield "batches", counts.batches
    yield "data keys", counts.data_keys
    yield "key service calls", counts.service_calls
    yield "statements signed", counts.statements
    yield "retries", counts.retries


def _row(name: str, number: str, bar: str = "") -> str:
    return f'<tr><td>{_text(name)}</td>{bar}<td class="n">{_text(number)}</td></tr>'


def _bars(rows: Sequence[tuple[str, int, str]]) -> str:
    if not rows:
        return "<p>none</p>"
    most = max(1, *(value for _, value, _ in rows))
    bar = '<td class="b"><svg viewBox="0 0 200 12" role="img"><rect width="{:.1f}" height="12" rx="2"/></svg></td>'
    cells = "".join(_row(name, shown, bar.format(200 * value / most)) for name, value, shown in rows)
    return f"<table>{cells}</table>"


def _throughput(samples: Sequence[Sample]) -> str:
    step = -(-len(samples) // _MOST_STEPS)  # files end in bursts, which say nothing
    samples = [*samples[:-1:step], *samples[-1:]] if step > 1 else samples
    rates = [
        (first.at_ms, second.at_ms, max(second.bytes_done - first.bytes_done, 0) * 1000 / (second.at_ms - first.at_ms))
        for first, second in pairwise(samples)
        if second.at_ms > first.at_ms
    ]
    if not rates:
        return "<p>the run was too short to tell</p>"
    end, most = rates[-1][1], max(rate for _, _, rate in rates) or 1.0
    points = [f"{_x(0, end)},{_HEIGHT}"]
    for start, stop, rate in rates:
        y = f"{_HEIGHT - (_HEIGHT - 20) * rate / most:.1f}"
        points += [f"{_x(start, end)},{y}", f"{_x(stop, end)},{y}"]
    points.append(f"{_x(end, end)},{_HEIGHT}")
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + 20}" role="img" aria-label="throughput over time">'
        f'<path class="axis" fill="none" d="M{_LEFT} 10V{_HEIGHT}H{_WIDTH}"/>'
        f'<polygon class="area" points="{" ".join(points)}"/>'
        f'<text x="{_LEFT - 6}" y="24" text-anchor="end">{most / _MB:,.1f}</text>'
        f'<text x="{_LEFT - 6}" y="{_HEIGHT}" text-anchor="end">0</text>'
        f'<text x="{_LEFT}" y="{_HEIGHT + 16}">0 s</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT + 16}" text-anchor="end">{_seconds(end)}</text></svg>'
    )


def _x(at_ms: int, end_ms: int) -> str:
    return f"{_LEFT + (_WIDTH - _LEFT) * at_ms / end_ms:.1f}"


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:,.1f} s"


def _megabytes(count: int) -> str:
    return f"{count / _MB:,.1f} MB"


def _text(text: str) -> str:
    return escape_html(printable(text), quote=True)


def clean(
    sink: Annotated[str, typer.Argument(metavar="SINK", help="The directory that runs write to; a path or URL.")],
    grace: Annotated[
        str, typer.Option("--grace", metavar="TIME", help="How long a killed run may still be resumed: 24h, 7d.")
    ] = "24h",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Remove what killed runs left behind; never what a running one, or a signed version, needs."""
    from pipecrypt.runs.journal.cleaning import clean as clean_sink
    from pipecrypt.runs.journal.cleaning import parse_grace

    summary = clean_sink(sink, grace=parse_grace(grace), dry_run=dry_run)
    show(summary, lambda: _clean_lines(summary))


def _clean_lines(summary: CleanSummary) -> list[str]:
    would = "would remove" if summary.is_dry_run else "removed"
    lines = [f"{would} {count(len(summary.removed), 'file')}, {summary.removed_bytes:,} bytes"]
    lines += [f"  {path}" for path in summary.removed[:_MAX_PATHS]]
    if len(summary.removed) > _MAX_PATHS:
        lines.append(f"  and {len(summary.removed) - _MAX_PATHS:,} more")
    if summary.put_in_place:
        lines.append("a version was signed, and its files are moved to their places")
    lines += [f"kept run {run}, which can be resumed" for run in summary.kept_runs]
    return lines
