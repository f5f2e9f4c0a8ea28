"""What a benchmark is, and the one way to run it.

A case is one question. Its contenders do the same work, or its opposite, and take turns; each run is a process of its
own (`benchmarks/process.py`), which imports first and is timed then. A run counts once its output was found right.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

__all__ = [
    "Case",
    "CaseResult",
    "Contender",
    "LeftOutError",
    "Options",
    "Place",
    "PointResult",
    "Ready",
    "Work",
    "WrongOutputError",
    "accept",
    "run_case",
]

# What is timed: a command line, or a call. A call may return further measures, or a call for them that is not timed.
Measures: TypeAlias = Mapping[str, float]
Work: TypeAlias = Callable[[], Measures | Callable[[], Measures] | None] | Sequence[str]
_MEMORY = Path("/dev/shm")  # noqa: S108 - a memory file system, so that disks are not what is measured
_QUICK_SCALE = 0.05
_BASE_SUFFIX = ", base"


class LeftOutError(Exception):
    """A contender cannot run here; the text says what is missing."""


class WrongOutputError(Exception):
    """What a contender wrote is not what it should be."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a case works.

    Args:
        root: a directory of its own.
        point: how much there is of what the case varies.
        scale: by what the sizes of inputs are multiplied.
        base: the other tree whose pipecrypt works here, with keys of its own.
    """

    root: Path
    point: float = 0.0
    scale: float = 1.0
    base: Path | None = None

    @property
    def out(self) -> Path:
        """What contenders write: removed before each run, with all whose name begins so."""
        return self.root / "out"

    def clear(self) -> None:
        """Remove outputs, and what is remembered of datasets that were removed."""
        for each in [*self.root.glob("out*"), self.root / "state"]:
            if each.is_dir():
                shutil.rmtree(each)
            else:
                each.unlink(missing_ok=True)

    def key(self, name: str = "pii") -> str:
        return f"keystore://{self.root}/{'keys' if self.base is None else 'base-keys'}.json#{name}"

    def pipecrypt(self, *arguments: str) -> None:
        """Carry out a command of pipecrypt, of the tree whose turn it is.

        Raises:
            WrongOutputError: it failed.
        """
        where = {} if self.base is None else {"PYTHONPATH": str(self.base)}
        done = subprocess.run(
            [sys.executable, "-m", "pipecrypt", *arguments],
            cwd=self.base,
            env={**os.environ, "PIPECRYPT_STATE_DIR": "", **where},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise WrongOutputError(done.stderr)


@dataclass(frozen=True, slots=True)
class Ready:
    """What a case has prepared.

    Args:
        input_bytes: how many bytes each contender works on; 0 where that means nothing.
        environment: for the processes of contenders.
        observe: returns further measures of the run that has just ended.
    """

    input_bytes: int
    environment: Mapping[str, str] = field(default_factory=dict)
    observe: Callable[[], Mapping[str, float]] = dict


def accept(_: Place) -> None:
    """Check nothing: for what checks itself while it runs, or writes nothing."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to do the work of a case.

    Args:
        start: imports what is needed and returns what is timed; an ImportError leaves a peer out.
        check: looks at the output, and raises WrongOutputError.
        is_ours: it is pipecrypt, which is never left out, and may be compared with that of another tree.
        up_to: the largest point at which it runs.
    """

    start: Callable[[Place], Work]
    check: Callable[[Place], None] = accept
    is_ours: bool = False
    up_to: float = float("inf")


@dataclass(frozen=True, slots=True)
class Case:
    """One question.

    Args:
        name: begins with the name of its module.
        question: what it answers.
        limits: what keeps pipecrypt from being faster, for the documentation.
        prepare: makes the inputs, and ends what it started.
        contenders: by name.
        limit: the one that others are divided by.
        axis: what the points are, with its unit.
        points: how much of it.
        quick_points: the same for `--quick`.
        shows: what a plot shows: `seconds`, `cpu`, `cpu per GB`, `peak`, `x` and a contender, or a measure of its own.
        rounds: how often each contender runs.
    """

    name: str
    question: str
    limits: str
    prepare: Callable[[Place], AbstractContextManager[Ready]]
    contenders: Mapping[str, Contender]
    limit: str
    axis: str = ""
    points: tuple[float, ...] = (0.0,)
    quick_points: tuple[float, ...] = ()
    shows: str = "seconds"
    rounds: int = 5


@dataclass(frozen=True, slots=True)
class Options:
    """How cases are run.

    Args:
        scale: by what the sizes of inputs are multiplied.
        rounds: how often each contender runs; None for what the case says.
        is_quick: few rounds and points, small inputs: to see that everything works.
        base: another tree of this project, whose pipecrypt joins in.
        scratch: where files lie.
    """

    scale: float = 1.0
    rounds: int | None = None
    is_quick: bool = False
    base: Path | None = None
    scratch: Path | None = _MEMORY if _MEMORY.is_dir() else None


@dataclass(slots=True)
class PointResult:
    """What was measured at one point: of each contender, each measure of each round."""

    point: float
    input_bytes: int
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, contender: str, sample: Mapping[str, float]) -> None:
        """Add the measures of one round."""
        for measure, value in sample.items():
            self.samples.setdefault(contender, {}).setdefault(measure, []).append(value)


@dataclass(slots=True)
class CaseResult:
    """What was measured; `left_out` says why which contenders did not run."""

    name: str
    points: list[PointResult] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def run_case(case: Case, options: Options, say: Callable[[str], None]) -> CaseResult:
    """Run all contenders of a case at all its points."""
    result = CaseResult(case.name)
    points = (case.quick_points or case.points[:2]) if options.is_quick else case.points
    scale = options.scale * (_QUICK_SCALE if options.is_quick else 1)
    for point in points:
        with tempfile.TemporaryDirectory(prefix="pipecrypt-bench-", dir=options.scratch) as name:
            place = Place(Path(name), point, scale)
            with case.prepare(place) as ready:
                result.points.append(_at_point(case, place, ready, options, result.left_out))
        say(f"{case.name}{f': {point:g} {case.axis}' if case.axis else ''} is done")
    return result


def _at_point(case: Case, place: Place, ready: Ready, options: Options, left_out: dict[str, str]) -> PointResult:
    if options.base is not None:
        there = replace(place, base=options.base.absolute())
        for name, kind in (("pii", "aes256"), ("signing", "ed25519")):
            there.pipecrypt("keys", "new", there.key(name), "--type", kind)
    measured, turns = PointResult(place.point, ready.input_bytes), list(_turns(case, place, options))
    for number in range(options.rounds or (2 if options.is_quick else case.rounds)):
        first = number % len(turns)  # whoever always came after the same one might find what it leaves in caches
        for turn in turns[first:] + turns[:first]:
            if turn.name in left_out:
                continue
            try:
                measured.add(turn.name, _take(turn, case, place, ready))
            except LeftOutError as error:
                left_out[turn.name] = str(error)
    return measured


def _take(turn: _Turn, case: Case, place: Place, ready: Ready) -> dict[str, float]:
    """Let one contender run once, and return what was measured if its output is right."""
    place.clear()
    sample = _run(case, turn, place, ready)
    turn.contender.check(replace(place, base=turn.base))
    return {**sample, **ready.observe()}


class _Turn(NamedTuple):
    name: str
    contender: Contender
    base: Path | None


def _turns(case: Case, place: Place, options: Options) -> Iterator[_Turn]:
    for name, contender in case.contenders.items():
        if place.point <= contender.up_to:
            yield _Turn(name, contender, None)
            if contender.is_ours and options.base is not None:
                yield _Turn(name + _BASE_SUFFIX, contender, options.base.absolute())


def _run(case: Case, turn: _Turn, place: Place, ready: Ready) -> dict[str, float]:
    arguments = {
        "case": case.name,
        "contender": turn.name.removesuffix(_BASE_SUFFIX),
        "root": str(place.root),
        "point": place.point,
        "scale": place.scale,
        "base": None if turn.base is None else str(turn.base),
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.process", json.dumps(arguments)],
        env={**os.environ, **ready.environment, "PIPECRYPT_STATE_DIR": str(place.root / "state")},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and turn.base is not None:
        raise LeftOutError(done.stderr.strip().rpartition("\n")[2])
    if done.returncode:
        raise SystemExit(f"{case.name}, {turn.name} failed:\n{done.stderr[-4000:]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    if "left out" in answer:
        raise LeftOutError(answer["left out"])
    return dict(answer)
