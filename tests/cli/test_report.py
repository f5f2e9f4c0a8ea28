from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipecrypt.cli.report import report_page
from pipecrypt.parquet.report import KeyBytes
from pipecrypt.runs.report.report import MAX_SAMPLES, RunReport, Sample, SlowFile, encode_report, report_path
from tests.cli.conftest import Run
from tests.runs.report.test_run_report import finished_report as example  # the one report of the tests

_EVIL = '"><script>alert(1)</script><img src=x onerror=y>\x1b[31m\u202e'


def _store(root: Path, report: RunReport) -> None:
    place = root / report_path(report.run_id)
    place.parent.mkdir(parents=True)
    place.write_bytes(encode_report(report))


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.names.update(name for name, _ in attrs)


def _tags(page: str) -> _Tags:
    parser = _Tags()
    parser.feed(page)
    return parser


def test_text_and_json(run: Run, world: Path) -> None:
    report = example()
    _store(world, report)

    text = run("report", ".")
    assert text.code == 0
    assert text.out.startswith(f"run {report.run_id}: encrypt, finished, 3.0 s\n")
    assert "slowest files\n  2.parquet  0.2 s  0.0 MB\n" in text.out

    document = run("report", ".", "--run", report.run_id, "--json").document
    assert document["run_id"] == report.run_id
    assert document["counts"]["files"] == 3


def test_a_page(run: Run, world: Path) -> None:
    _store(world, example())

    answer = run("report", ".", "--html", "report.html")

    assert (answer.code, answer.out) == (0, "wrote report.html\n")
    page = (world / "report.html").read_text(encoding="utf-8")
    assert "<polygon" in page
    assert "2.parquet" in page
    assert not re.search(r"https?://|<script|<link|url\(|@import", page)
    assert run("report", ".", "--html", "no/such/report.html").code == 1


def test_a_page_injects_nothing() -> None:
    plain = example()
    evil = replace(
        plain,
        operation=_EVIL,
        error_type=_EVIL,
        error=_EVIL,
        bytes_by_key=(KeyBytes(_EVIL, 1),),
        slowest=(SlowFile(_EVIL, 1, 1),),
    )

    found = _tags(report_page(evil))

    assert set(found.tags) <= set(_tags(report_page(plain)).tags)
    assert not {name for name in found.names if name.startswith("on")}
    assert "\x1b" not in report_page(evil)
    assert "\u202e" not in report_page(evil)


@pytest.mark.parametrize(
    "samples",
    [
        (),
        (Sample(0, 0),),
        (Sample(5, 1), Sample(5, 2)),
        (Sample(0, 9), Sample(1, 0)),
        tuple(Sample(number * (1 << 53), (1 << 63) - 1 - number) for number in range(MAX_SAMPLES)),
    ],
)
def test_any_samples_can_be_drawn(samples: tuple[Sample, ...]) -> None:
    page = report_page(replace(example(), samples=samples))

    assert page.endswith("</html>\n")
    assert "nan" not in page


def test_hostile_reports_are_errors(run: Run, world: Path) -> None:
    report = example()
    assert run("report", ".").code == 2
    _store(world, report)
    (world / report_path(report.run_id)).write_bytes(b'{"version":1,"run_id":["<b>"]}')

    answer = run("report", ".", "--html", "report.html")

    assert answer.code == 1
    assert not (world / "report.html").exists()
    assert run("report", ".", "--run", "../../etc/passwd").code == 2
