"""A process that is killed before any request to an object store leaves the version before or the new one.

The trials themselves are in store_trials. What makes this hold is switched off once, to see that they notice.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("s3fs")

_TIMEOUT_SECONDS = 1200
_S3 = ["first", "next", "unsigned", "unsigned-next"]


class _Trials:
    """The program with a scene set up."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.count = 0
        assert self._answer() == "ready"

    def run(self, last: int, *, action: str = "run", sabotage: str = "") -> tuple[list[str], list[str] | None]:
        """Kill before a request; return what was wrong, and all requests, where there were fewer."""
        self.count += 1
        assert self._process.stdin is not None
        request = {"name": f"trial-{self.count}", "last": last, "action": action, "sabotage": sabotage}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._answer()
        return [f"before request {last}: {problem}" for problem in answer["problems"]], answer["sent"]

    def at_every(self, *, action: str = "run", step: int = 1, sabotage: str = "") -> list[str]:
        """Kill before each request in turn, until one comes to its end; return what was wrong."""
        problems, last = [], 1
        while True:
            wrong, sent = self.run(last, action=action, sabotage=sabotage)
            problems += wrong
            if sent is not None:
                assert last > 1
                return problems
            last += step

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the program that runs trials has died"
        return json.loads(line)


@contextmanager
def _trials(scene: str, root: Path, base: str, options: dict[str, object]) -> Iterator[_Trials]:
    root.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.faults.store_trials", scene, str(root), base, json.dumps(options)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield _Trials(process)
        finally:
            process.kill()


@contextmanager
def _s3_trials(scene: str, root: Path, server: Any) -> Iterator[_Trials]:
    with _trials(scene, root, f"s3://{server.new_bucket()}", server.options) as trials:
        yield trials


def test_killed_before_some_requests(seaweedfs_server: Any, tmp_path: Path) -> None:
    with _s3_trials("next", tmp_path, seaweedfs_server) as trials:
        wrong, sent = trials.run(0)
        assert wrong == []
        assert sent is not None
        kinds = {"/manifest.json": 0, "/staged/": 1, "/a.parquet": 1, "/finished.json": 0}
        places = [number for number, each in enumerate(sent, 1) if any(kind in each for kind in kinds)]
        for last in random.Random(1).sample(places, 3):  # noqa: S311 - any of them
            assert trials.run(last)[0] == []


@pytest.mark.long
@pytest.mark.timeout(_TIMEOUT_SECONDS)
@pytest.mark.parametrize("scene", _S3)
def test_killed_before_every_request(seaweedfs_server: Any, tmp_path: Path, scene: str) -> None:
    with _s3_trials(scene, tmp_path, seaweedfs_server) as trials:
        assert trials.at_every() == []
        assert trials.count > 15


@pytest.mark.long
@pytest.mark.timeout(_TIMEOUT_SECONDS)
@pytest.mark.parametrize("scene", ["next", "unsigned-next"])
def test_killed_deep_rotations(seaweedfs_server: Any, tmp_path: Path, scene: str) -> None:
    with _s3_trials(scene, tmp_path, seaweedfs_server) as trials:
        assert trials.at_every(action="rotate") == []


@pytest.mark.long
@pytest.mark.timeout(_TIMEOUT_SECONDS)
@pytest.mark.parametrize("scene", ["first", "next"])
@pytest.mark.parametrize("store", ["fake_gcs_store", "azurite_store"])
def test_killed_on_other_stores(request: pytest.FixtureRequest, tmp_path: Path, scene: str, store: str) -> None:
    running = request.getfixturevalue(store)
    with _trials(scene, tmp_path / "root", running.new_bucket(), running.options) as trials:
        assert trials.at_every() == []


@pytest.mark.long
@pytest.mark.timeout(_TIMEOUT_SECONDS)
@pytest.mark.parametrize("store", ["fake_gcs_store", "azurite_store"])
def test_killed_deep_rotations_on_other_stores(request: pytest.FixtureRequest, tmp_path: Path, store: str) -> None:
    running = request.getfixturevalue(store)
    with _trials("next", tmp_path / "root", running.new_bucket(), running.options) as trials:
        assert trials.at_every(action="rotate") == []


@pytest.mark.long
@pytest.mark.timeout(_TIMEOUT_SECONDS)
@pytest.mark.parametrize(
    ("action", "sabotage"), [("run", "no staging"), ("run", "nothing is set aside"), ("rotate", "no undo")]
)
def test_what_makes_it_hold_is_missed(seaweedfs_server: Any, tmp_path: Path, action: str, sabotage: str) -> None:
    with _s3_trials("next", tmp_path, seaweedfs_server) as trials:
        problems = trials.at_every(action=action, sabotage=sabotage)
        assert [each for each in problems if ": _act: " not in each] != []  # the run itself does not miss it
