"""Whoever can write to a sink, but has no key, changes nothing outside of it, is not believed, and costs little.

At every path below a sink that a command hands to the system, things are planted: links out, FIFOs, files of others,
enormous files. Then the command runs. Which paths there are is found by tracing the command on an honest sink.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest

from tests.hostile_sinks.plants import LINKS, PLANTS
from tests.hostile_sinks.world import COMMANDS, STATES, Answer, Server, World, make_states

_MAX_BYTES = 512 << 20
# The quick suite takes one plant at each path, another one from path to path, and leaves out commands that take the
# same way as another one in that state.
_QUICK = [("signed", command) for command in COMMANDS] + [
    (state, command)
    for state in STATES[1:]
    for command in ("run resume", "verify", "decrypt", "grant", "rotate deep", "clean")
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("hostile") / "server")
    yield started
    started.close()


@pytest.fixture(scope="module")
def world(server: Server, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world") / "root", server)


@pytest.fixture(scope="module")
def states(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_states(world, tmp_path_factory.mktemp("states"))


@pytest.fixture(scope="module")
def idle_bytes(world: World, states: dict[str, Path]) -> int:
    """The size of a process that does next to nothing."""
    world.lay(states["signed"])
    return world.command("inspect").memory


def _touched(world: World, state: Path, command: str) -> list[str]:
    """Return paths below the sink that a command uses, as names below the sink, the sink itself left out."""
    world.lay(state)
    log = world.root / "state" / "trace"
    log.parent.mkdir(exist_ok=True)
    world.command(command, trace=str(log))
    paths = {Path(json.loads(line)) for line in log.read_text().splitlines()}
    below = {path.relative_to(world.sink) for path in paths if path.is_relative_to(world.sink)}
    # What is called after a run that begins now cannot be planted before. What a directory lists is looked at too.
    world.lay(state)
    there = {path.relative_to(world.sink) for path in world.sink.rglob("*")}
    known = {path for path in below if path in there or path.parent in there | {Path()}}
    listed = {path for path in there if path.parent in known | {Path()}}
    return sorted(path.as_posix() for path in (known | listed) - {Path()} if not _is_random(path, there))


def _is_random(path: Path, there: set[Path]) -> bool:
    """Say whether a name holds a token that is drawn anew each time."""
    return path not in there and any(
        part.startswith(".") and part.endswith(".tmp") and "undo" not in part for part in path.parts
    )


def _plants_at(path: str, command: str, *, every: bool) -> list[str]:
    names = list(PLANTS)
    if every:
        return names
    return [names[crc32(f"{path} {command}".encode()) % len(names)]]


def _problem(answer: Answer, idle_bytes: int) -> str | None:
    if answer.code is None:
        return "it hung"
    if not 0 <= answer.code <= 5:
        return f"it ended with {answer.code}"
    if "Traceback" in answer.stderr or "error: unexpected " in answer.stderr:
        return "it did not expect that"
    if answer.memory - idle_bytes > _MAX_BYTES:
        return f"it took {answer.memory >> 20} MiB"
    return None


def _try(world: World, state: Path, command: str, path: str, plant: str, idle_bytes: int) -> str | None:
    """Plant one thing, carry out one command, and return what went wrong, or None."""
    victim = world.lay(state)
    was_there = (world.sink / path).exists() or (world.sink / path).is_symlink()
    PLANTS[plant](world.sink / path, victim)
    before = world.outside()
    answer = world.command(command)
    problem = _problem(answer, idle_bytes)
    after = world.outside()
    if problem is None and before != after:
        changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        problem = f"outside of the sink changed: {sorted(changed)}"
    if problem is None and answer.code == 0 and command.startswith("decrypt"):
        wrong = world.wrong_rows()
        problem = f"wrong files came back: {wrong}" if wrong else None
    if problem is None and answer.code == 0 and command == "cat" and world.is_signed():
        problem = None if answer.stdout == world.true_rows() else f"wrong rows came back: {answer.stdout[:300]!r}"
    if (
        problem is None
        and answer.code == 0
        and command in {"verify", "verify with keys"}
        and was_there
        and plant in LINKS
    ):
        problem = "a link in the place of a file or directory passed"
    return None if problem is None else f"{command}, {plant} at {path}: {problem}: {answer.stderr[:300]!r}"


def _problems(world: World, state: Path, command: str, idle_bytes: int, *, every: bool) -> list[str]:
    """Plant at each path that a command uses, one thing after the other, and return what went wrong."""
    cases = [
        (path, plant) for path in _touched(world, state, command) for plant in _plants_at(path, command, every=every)
    ]
    assert cases
    return list(filter(None, (_try(world, state, command, path, plant, idle_bytes) for path, plant in cases)))


@pytest.mark.parametrize(("state", "command"), _QUICK)
def test_nothing_planted_is_followed_or_believed(
    state: str, command: str, world: World, states: dict[str, Path], idle_bytes: int
) -> None:
    assert not _problems(world, states[state], command, idle_bytes, every=False)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("state", STATES)
def test_nothing_of_any_kind_planted_is_followed_or_believed(
    state: str, command: str, world: World, states: dict[str, Path], idle_bytes: int
) -> None:
    assert not _problems(world, states[state], command, idle_bytes, every=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_on_an_honest_sink_each_command_does_its_work(command: str, world: World, states: dict[str, Path]) -> None:
    """One that is called wrongly touches nothing, and would pass everywhere."""
    world.lay(states["signed"])
    answer = world.command(command)
    assert answer.code == (5 if command == "encrypt into" else 0), answer
    assert command != "cat" or answer.stdout == world.true_rows()


def test_the_trace_sees_what_commands_use(world: World, states: dict[str, Path]) -> None:
    """A suite that traced nothing would pass too."""
    touched = _touched(world, states["signed"], "run")
    assert {"_pipecrypt", "_pipecrypt/manifest.json", "_pipecrypt/runs"} <= set(touched)
    assert "a.parquet" in _touched(world, states["signed"], "decrypt")
    assert "_pipecrypt/grants.json" in _touched(world, states["signed"], "grant")
