"""The suite itself: who takes turns with whom, what counts, what is left out, and what a broken promise does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import pipecrypt as pc
from benchmarks import cases
from benchmarks.__main__ import main
from benchmarks.cases import GROUPS, cases_of
from benchmarks.figures import Spread, load, save, series
from benchmarks.inputs import new_keys
from benchmarks.pages import page
from benchmarks.plots import bars, lines
from benchmarks.profile import stage_shares
from benchmarks.promises import PROMISES, Promise, judged
from benchmarks.suite import (
    Case,
    CaseResult,
    Contender,
    LeftOutError,
    Options,
    Place,
    PointResult,
    Ready,
    Work,
    WrongOutputError,
    run_case,
)

_ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_keys_of_a_case_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what making a case's keys does to the environment of this process."""
    monkeypatch.setenv("PIPECRYPT_KEY_FILE", "")


@contextmanager
def _prepare(place: Place) -> Iterator[Ready]:
    (place.root / "input").write_bytes(b"data")
    yield Ready(4, {"GIVEN": "yes"}, lambda: {"observed": 7})


def _writes(text: str) -> Callable[[Place], Work]:
    return lambda place: [sys.executable, "-c", f"open({str(place.out)!r}, 'x').write({text!r})"]


def _check(place: Place) -> None:
    if place.out.read_text(encoding="utf-8") != "right":
        raise WrongOutputError("it is wrong")


def _missing(place: Place) -> Work:
    raise LeftOutError("there is no such program")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[CaseResult, list[str]]]:
    """Run contenders from this process: a process of its own would look for their case in the suite."""

    def run_contenders(**contenders: Contender) -> tuple[CaseResult, list[str]]:
        order: list[str] = []

        def run_one(case: Case, turn: Any, place: Place, ready: Ready) -> dict[str, float]:
            work = turn.contender.start(place)
            order.append(turn.name)
            subprocess.run(list(work), check=True)
            return {"seconds": 1.0, "cpu": 0.5}

        monkeypatch.setattr("benchmarks.suite._run", run_one)
        monkeypatch.setattr(Place, "pipecrypt", lambda place, *arguments: None)  # the other tree is empty
        case = Case("of a test", "?", "Nothing.", _prepare, contenders, next(iter(contenders)), rounds=3)
        return run_case(case, Options(base=tmp_path, scratch=tmp_path), lambda _: None), order

    return run_contenders


def test_contenders_take_turns_and_each_begins_once(run: Callable[..., tuple[CaseResult, list[str]]]) -> None:
    result, order = run(a=Contender(_writes("right"), _check), b=Contender(_writes("right")), c=Contender(_writes("x")))
    assert order == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert result.points[0].samples["a"] == {"seconds": [1.0] * 3, "cpu": [0.5] * 3, "observed": [7] * 3}


def test_our_contenders_run_in_another_tree_too(run: Callable[..., tuple[CaseResult, list[str]]]) -> None:
    _, order = run(cp=Contender(_writes("right")), ours=Contender(_writes("right"), is_ours=True))
    assert order[:3] == ["cp", "ours", "ours, base"]


def test_a_wrong_output_ends_all(run: Callable[..., tuple[CaseResult, list[str]]]) -> None:
    with pytest.raises(WrongOutputError):
        run(a=Contender(_writes("wrong"), _check))


def test_who_cannot_run_is_named(run: Callable[..., tuple[CaseResult, list[str]]]) -> None:
    result, order = run(a=Contender(_missing), b=Contender(_writes("right"), _check))
    assert order == ["b"] * 3
    assert result.left_out == {"a": "there is no such program"}


def test_a_case_runs_in_processes_of_its_own(tmp_path: Path) -> None:
    case = next(case for case in cases_of("keys") if case.name == "keys: start")

    result = run_case(case, Options(rounds=2, scratch=tmp_path), lambda _: None)

    (point,) = result.points
    assert set(point.samples) == set(case.contenders)
    assert all(len(samples["seconds"]) == 2 for samples in point.samples.values())
    assert all(peak > 1 for samples in point.samples.values() for peak in samples["peak"])
    assert not result.left_out


def test_every_case_has_its_limit_and_is_found_by_its_name() -> None:
    names = [case.name for group in GROUPS for case in cases_of(group)]
    assert len(set(names)) == len(names)
    for group in GROUPS:
        for case in cases_of(group):
            assert case.limit in case.contenders
            assert cases.find_case(case.name) is case
            assert case.limits.endswith((".", ")."))


def test_every_promise_is_of_a_case_and_its_contenders() -> None:
    for promise in PROMISES:
        case = cases.find_case(promise.case)
        assert promise.contender in case.contenders
        assert promise.over is None or promise.over in case.contenders
        assert promise.at is None or promise.at in case.points
        assert promise.over_at is None or promise.over_at in case.points


def _result(ours: list[float], cp: list[float]) -> CaseResult:
    samples = {
        "16 columns": {"seconds": ours, "cpu": ours, "peak": [50.0] * len(ours)},
        "cp": {"seconds": cp, "cpu": cp, "peak": [5.0] * len(cp)},
    }
    return CaseResult("columns", [PointResult(0.0, 1_000_000_000, samples)], {"DuckDB, encrypted": "is not installed"})


def test_ratios_are_of_runs_that_took_turns() -> None:
    promise = Promise("columns", "16 columns", 2, over="cp")
    (kept,) = judged([_result([2, 20, 3], [1, 10, 2])], [promise])
    assert kept.found == Spread(2, 1.5, 2)
    assert kept.is_kept
    (broken,) = judged([_result([5, 5, 5], [1, 1, 10])], [promise])
    assert not broken.is_kept


def test_what_was_not_measured_is_not_kept() -> None:
    (judgement,) = judged([_result([1], [1])], [Promise("columns", "decrypt", 2, over="cp")])
    assert judgement.found is None
    assert not judgement.is_kept
    assert judged([_result([1], [1])], [Promise("chunks", "encrypt", 2)]) == []


def test_figures_of_each_gigabyte() -> None:
    result = _result([2.0], [1.0])
    assert series(result, result.points[0], "16 columns", "cpu per GB") == [2.0]
    assert series(result, result.points[0], "16 columns", "MB/s") == [500.0]
    assert series(result, result.points[0], "nobody", "cpu") is None


@pytest.mark.parametrize(("seconds", "code"), [(1.0, 0), (9.0, 1)])
def test_check_ends_with_1_where_a_promise_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seconds: float, code: int
) -> None:
    monkeypatch.setattr("benchmarks.__main__.judged", lambda results: judged(results, PROMISES[:1]))
    save(tmp_path / "columns.json", [_result([seconds] * 3, [1.0] * 3)])

    assert main(["check", "--results", str(tmp_path / "columns.json")]) == code

    assert ("BROKEN" in capsys.readouterr().out) is bool(code)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    save(tmp_path / "columns.json", [_result([1.0], [1.0])])
    head, results = load(tmp_path / "columns.json")
    assert results == [_result([1.0], [1.0])]
    assert set(head) == {"command", "date", "machine"}


def test_plots_are_pictures() -> None:
    one, two = Spread(1, 0.5, 2), Spread(100, 90, 110)
    for text in (
        bars("a < b", {"x": one, "y": two}),
        lines("a", "files", {"x": [(0, one), (10, two)], "y": [(0, two)]}),
    ):
        assert ElementTree.fromstring(text).tag.endswith("svg")  # noqa: S314 - our own text


def test_a_page_shows_every_figure_and_names_who_was_left_out(tmp_path: Path) -> None:
    save(tmp_path / "columns.json", [_result([2.0], [1.0])])
    (text, picture) = page(tmp_path).values()
    assert "| 16 columns | 2 (2-2) | 2 (2-2) |" in text
    assert "Left out: DuckDB, encrypted: is not installed." in text
    assert picture.startswith("<svg")


def test_the_documentation_is_what_was_recorded() -> None:
    for path, text in page(_ROOT / "benchmarks/results").items():
        assert path.read_text(encoding="utf-8") == text, "python -m benchmarks docs"
    for path in (_ROOT / "benchmarks/results").glob("*.json"):
        assert json.loads(path.read_text(encoding="utf-8"))["cases"]


def test_shares_of_stages_are_of_all_threads_and_add_up(tmp_path: Path) -> None:
    new_keys(tmp_path)
    policy = pc.Policy(default=f"keystore://{tmp_path}/keys.json#pii")

    shares = stage_shares(lambda: pc.encrypt(tmp_path / "warm.parquet", tmp_path / "out.parquet", policy))

    assert sum(shares.values()) == pytest.approx(100, abs=10)  # the smallest are left out
    assert {"share of runs", "share of store"} <= set(shares)
