"""The report of a run as one HTML page that needs no network: tables and SVG charts. Text lines are left to report.

No script, no link, no style from elsewhere; all text is escaped, and a content security policy says so once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape as escape_html
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from pipecrypt.vocabulary.printable import printable

if TYPE_CHECKING:
    from pipecrypt.runs.report.report import RunReport, Sample

__all__ = ["report_page"]

_MB: Final = 1_000_000
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


def report_page(report: RunReport) -> str:
    """Return the page."""
    return "\n".join(_parts(report)) + "\n"


def _parts(report: RunReport) -> Iterable[str]:
    yield f"{_HEAD}<title>Run {_text(report.run_id)}</title><style>{_STYLE}</style></head><body>"
    yield f"<h1>Run {_text(report.run_id)}</h1>"
    yield f'<p>{_text(report.operation)}: <span class="{report.outcome.value}">{report.outcome.value}</span></p>'
    if report.error_type is not None:
        yield f"<p>{_text(report.error_type)}: {_text(report.error or 'the message is not kept')}</p>"
    times = f"{report.started:%Y-%m-%d %H:%M:%S} to {report.ended:%Y-%m-%d %H:%M:%S} UTC"
    yield f"<p>{times}, {_seconds(report.duration_ms)}</p>"
    yield "<h2>Counts</h2>"
    yield _table((name, f"{value:,}") for name, value in _counts(report))
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


def _counts(report: RunReport) -> Iterable[tuple[str, int]]:
    counts = report.counts
    yield "files planned", counts.planned_files
    yield "files published", counts.files
    yield "bytes planned", counts.planned_bytes
    yield "source bytes", counts.source_bytes
    yield "sink bytes", counts.sink_bytes
    yield "rows", counts.rows
    yield "bad rows left out", counts.bad_rows
    yield "batches", counts.batches
    yield "data keys", counts.data_keys
    yield "key service calls", counts.service_calls
    yield "statements signed", counts.statements
    yield "retries", counts.retries


def _table(rows: Iterable[tuple[str, str]]) -> str:
    cells = "".join(f'<tr><td>{_text(name)}</td><td class="n">{_text(value)}</td></tr>' for name, value in rows)
    return f"<table>{cells}</table>"


def _bars(rows: Sequence[tuple[str, int, str]]) -> str:
    if not rows:
        return "<p>none</p>"
    most = max(1, *(value for _, value, _ in rows))
    return (
        "<table>"
        + "".join(
            f'<tr><td>{_text(name)}</td><td class="b"><svg viewBox="0 0 200 12" role="img">'
            f'<rect width="{200 * value / most:.1f}" height="12" rx="2"/></svg></td>'
            f'<td class="n">{_text(shown)}</td></tr>'
            for name, value, shown in rows
        )
        + "</table>"
    )


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
