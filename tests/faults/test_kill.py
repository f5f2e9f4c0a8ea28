"""A run that is killed at any moment leaves the version before or the new one, and can be continued.

The trials themselves are in kill_trials. Each thing that makes this hold is switched off once, to see that they notice.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_TIMEOUT_SECONDS = 600
_HERE = [scene for scene in ("first", "next", "unsigned", "unsigned-next", "chunks", "chunks-next", "csv", "csv-next")]
_HERE += ["unsigned-csv", "unsigned-csv-next"]
_STEPS = {
    "the lock is taken": ("link", r"/lock/\.1\.json\..*tmp$"),
    "a block of the journal": ("link", r"/\.parts-\d+\.json.*tmp$"),
    "a file is published": ("rename|link", r"/\.(a|b|c|d)\.parquet.*tmp$"),
    "the list of files": ("rename|link", r"/files/\..*tmp$"),
    "a file is set aside": ("rename", r"/sinks/[^/]+/day=2/c\.parquet$"),
    "the manifest": ("rename|link", r"/\.manifest\.json.*tmp$"),
    "a file is moved": ("rename", r"/staged/.*\.parquet$"),
    "a file is removed": ("unlink", r"/staged/day=2/c\.parquet$"),
    "finished": ("rename", r"/\.finished\.json.*tmp$"),
    "the lock is given back": ("unlink", r"/lock/1\.json$"),
}
_ONLY_IN_A_SECOND_RUN = {"a file is set aside", "a file is moved", "a file is removed"}


class _Trials:
    """The program with a scene set up.

    Attributes:
        calls: what a run does that nobody kills, each the name of a call and a path.
        seconds: how long that takes.
        count: trials so far.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        trace = self._answer()
        self.calls: list[tuple[str, str]] = [(call, path) for call, path in trace["calls"]]
        self.seconds: float = trace["seconds"]
        self.count = 0

    def run(self, *kills: dict[str, float], sabotage: str = "") -> list[str]:
        """Carry out a trial and return what was wrong, each with the kills."""
        self.count += 1
        assert self._process.stdin is not None
        request = {"name": f"trial-{self.count}", "kills": kills, "sabotage": sabotage}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return [f"{kills}: {problem}" for problem in self._answer()["problems"]]

    def at(self, calls: Sequence[int], sabotage: str = "") -> list[str]:
        """Kill a run at each of these calls in turn."""
        return [problem for call in calls for problem in self.run({"call": call}, sabotage=sabotage)]

    def steps(self) -> dict[str, list[int]]:
        """Return the numbers of the calls that make up each step of the protocol."""
        return {
            step: [
                number
                for number, (name, path) in enumerate(self.calls, 1)
                if re.fullmatch(calls, name) and re.search(pattern, path)
            ]
            for step, (calls, pattern) in _STEPS.items()
        }

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the program that runs trials has died"
        return json.loads(line)


@contextmanager
def _trials(scene: str, action: str = "run") -> Iterator[_Trials]:
    # In memory, where there is such a place: thousands of fsyncs would wait for a disk.
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
    with tempfile.TemporaryDirectory(prefix="pipecrypt-faults-", dir=memory) as root:
        command = [sys.executable, "-m", "tests.faults.kill_trials", scene, root, action]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield _Trials(process)
            finally:
                process.kill()


@pytest.mark.parametrize("scene", ["next", pytest.param("first", marks=pytest.mark.long)])
def test_killed_at_each_step_of_the_protocol(scene: str) -> None:
    with _trials(scene) as trials:
        steps = trials.steps()
        missing = {step for step, calls in steps.items() if not calls}
        assert missing == (_ONLY_IN_A_SECOND_RUN if scene == "first" else set())
        # Before the first call of a step, then after the last one of the others.
        chosen = {calls[number % 2 - 1] + number % 2 for number, calls in enumerate(steps.values()) if calls}
        assert trials.at(sorted(chosen)) == []


def test_killed_at_some_moments_also_while_it_is_resumed() -> None:
    chosen = random.Random(1)  # noqa: S311 - any moments
    with _trials("csv-next") as trials:
        for _ in range(3):
            kills = [{"call": chosen.randrange(1, len(trials.calls))} for _ in range(2)]
            assert trials.run(*kills) == []


@pytest.mark.parametrize(
    ("scene", "sabotage", "step", "problem"),
    [
        ("next", "no staging", "the list of files", "truncated: it has .* bytes, but .* were signed"),
        ("next", "nothing is set aside", "a file is moved", "extra: it is there, but was not signed"),
        ("next", "same keys", "a file is published", "a data key was used twice"),
        ("first", "no temporary names", "finished", "neither written by this run nor signed before"),
        ("unsigned", "no journal", "finished", "holds files that no run of a configuration wrote"),
    ],
)
def test_what_makes_it_hold_is_missed(scene: str, sabotage: str, step: str, problem: str) -> None:
    with _trials(scene) as trials:
        calls = trials.steps()[step]
        problems = trials.at(calls, sabotage)
        if sabotage == "no temporary names":
            problems = trials.at(range(25, len(trials.calls), 30), sabotage)
        assert any(re.search(problem, each) for each in problems), problems
        assert trials.at(calls) == []


@pytest.mark.long
@pytest.mark.timeout(_TIMEOUT_SECONDS)
@pytest.mark.parametrize("scene", _HERE)
def test_killed_at_every_call(scene: str) -> None:
    with _trials(scene) as trials:
        assert trials.at(range(1, len(trials.calls) + 2)) == []
        assert trials.count > 50


@pytest.mark.long
@pytest.mark.timeout(_TIMEOUT_SECONDS)
@pytest.mark.parametrize("scene", _HERE)
def test_killed_while_it_is_resumed(scene: str) -> None:
    chosen = random.Random(scene)  # noqa: S311 - any moments
    with _trials(scene) as trials:
        for _ in range(20):
            kills = [{"call": chosen.randrange(len(trials.calls) // 4, len(trials.calls))} for _ in range(3)]
            assert trials.run(*kills) == []


@pytest.mark.long
@pytest.mark.timeout(_TIMEOUT_SECONDS)
@pytest.mark.parametrize("scene", ["workers", "workers-next"])
def test_killed_at_any_moment_with_its_workers(scene: str) -> None:
    chosen = random.Random(scene)  # noqa: S311 - any moments
    with _trials(scene) as trials:
        for _ in range(12):
            assert trials.run({"after": chosen.uniform(0.2, 1.2) * trials.seconds}) == []
        for _ in range(8):
            assert trials.run({"call": chosen.randrange(1, len(trials.calls))}) == []


def test_a_rotation_killed_at_some_calls() -> None:
    chosen = random.Random(2)  # noqa: S311 - any moments
    with _trials("next", "rotate") as trials:
        assert trials.at(chosen.sample(range(1, len(trials.calls) + 1), 3)) == []


@pytest.mark.long
@pytest.mark.timeout(_TIMEOUT_SECONDS)
@pytest.mark.parametrize("scene", ["next", "unsigned-next", "chunks-next"])
def test_a_rotation_killed_at_every_call(scene: str) -> None:
    with _trials(scene, "rotate") as trials:
        assert trials.at(range(1, len(trials.calls) + 2)) == []
        assert trials.count > 20


@pytest.mark.long
def test_without_undo_files_a_killed_rotation_is_noticed() -> None:
    with _trials("next", "rotate") as trials:
        problems = trials.at(range(1, len(trials.calls) + 1), "no undo")
        assert [each for each in problems if ": run: " not in each] != []  # the rotation itself does not miss it
