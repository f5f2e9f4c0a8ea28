"""Of several that write to one sink at once, one goes on, and nothing is lost; the others end with exit code 5."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipecrypt.errors import PipecryptError
from tests.faults.scenes import SCENES, Shop, commitments, in_one_process, prepare, repeated_keys

CONFLICT = 5


@contextmanager
def _racers(shop: Shop, *, is_unlocked: bool) -> Iterator[Any]:
    command = [sys.executable, "-m", "tests.faults.racing", shop.scene.name, str(shop.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def race(sink: Shop, *actions: tuple[str, float]) -> list[tuple[int, str]]:
            request = {"sink": sink.sink, "options": sink.options, "actions": actions, "is_unlocked": is_unlocked}
            print(json.dumps(request), file=process.stdin, flush=True)
            return [(code, name) for code, name in json.loads(process.stdout.readline())]

        try:
            yield race
        finally:
            process.kill()


def _rounds(
    shop: Shop, sinks: list[Shop], *actions: str, step_seconds: float, is_unlocked: bool = False
) -> Counter[tuple[int, ...]]:
    """Let things happen to each sink at once, a little later each time; then continue, and compare."""
    outcomes: Counter[tuple[int, ...]] = Counter()
    with _racers(shop, is_unlocked=is_unlocked) as race:
        for number, sink in enumerate(sinks):
            late = (number % 8) * step_seconds
            answers = race(sink, *((action, late if place else 0.0) for place, action in enumerate(actions)))
            assert {code for code, _ in answers} <= {0, CONFLICT}, answers
            assert any(code == 0 for code, _ in answers)
            outcomes[tuple(code for code, _ in answers)] += 1
            _check(sink)
    return outcomes


def _check(shop: Shop) -> None:
    in_one_process(shop).run(resumes=True)
    assert shop.plaintext() == shop.expected()
    if shop.scene.is_signed:
        shop.verify()
    assert shop.leftovers() == []
    assert repeated_keys(commitments(shop.files())) == []


@pytest.mark.parametrize(
    ("scene", "rounds"),
    [("next", 6), pytest.param("first", 60, marks=pytest.mark.long), pytest.param("next", 60, marks=pytest.mark.long)],
)
def test_two_runs(tmp_path: Path, scene: str, rounds: int) -> None:
    shop = prepare(SCENES[scene], tmp_path)
    sinks = [shop.fresh(f"round-{number}") for number in range(rounds)]
    outcomes = _rounds(shop, sinks, "run", "run", step_seconds=0.004)
    assert outcomes[0, CONFLICT] + outcomes[CONFLICT, 0] > 0


@pytest.mark.long
def test_several_runs_of_one_that_was_killed(tmp_path: Path) -> None:
    shop = prepare(SCENES["first"], tmp_path)
    sinks = [shop.fresh(f"round-{number}") for number in range(20)]
    outcomes = _rounds(shop, sinks, "resume", "resume", "resume", step_seconds=0.0)
    assert any(CONFLICT in codes for codes in outcomes)


@pytest.mark.parametrize(
    ("action", "rounds"),
    [
        ("clean", 4),
        pytest.param("clean", 40, marks=pytest.mark.long),
        pytest.param("rotate", 24, marks=pytest.mark.long),
    ],
)
def test_a_run_and(tmp_path: Path, action: str, rounds: int) -> None:
    shop = prepare(SCENES["next"], tmp_path)
    sinks = [shop.fresh(f"round-{number}") for number in range(rounds)]
    outcomes = _rounds(shop, sinks, "run", action, step_seconds=0.006)
    outcomes += _rounds(shop, [shop.fresh(f"later-{n}") for n in range(rounds)], action, "run", step_seconds=0.003)
    assert sum(outcomes.values()) == 2 * rounds
    assert any(CONFLICT in codes for codes in outcomes)


@pytest.mark.long
def test_two_runs_on_an_object_store(tmp_path: Path, s3_server: Any) -> None:
    pytest.importorskip("s3fs")
    shop, bucket = prepare(SCENES["first"], tmp_path), s3_server.new_bucket()
    sinks = [shop.at(f"s3://{bucket}/round-{number}", options=s3_server.options) for number in range(12)]
    outcomes = _rounds(shop, sinks, "run", "run", step_seconds=0.05)
    assert outcomes[0, CONFLICT] + outcomes[CONFLICT, 0] > 0


def test_without_the_lock_it_is_noticed(tmp_path: Path) -> None:
    shop = prepare(SCENES["next"], tmp_path)
    sinks = [shop.fresh(f"round-{number}") for number in range(20)]
    with pytest.raises((AssertionError, PipecryptError)):
        _rounds(shop, sinks, "run", "run", step_seconds=0.0, is_unlocked=True)
