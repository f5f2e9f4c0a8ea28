"""Links that somebody put into a sink: whatever runs there, what they lead to keeps its names, bytes and times."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import fsspec
import pytest

import pipecrypt as pc
from pipecrypt.errors import IntegrityError, LinkError, PipecryptError
from pipecrypt.keys.keystores import create_key
from pipecrypt.runs import directory_run
from pipecrypt.runs.journal.cleaning import clean
from pipecrypt.runs.report.events import Event, FileDone
from pipecrypt.runs.run import run
from pipecrypt.runs.spec.options import OnSourceChange, RunOptions
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.store.location import Location
from tests.runs.conftest import NAMES, World, write_table


class _StoppedError(Exception):
    """What stops a run in these tests."""


class Sink:
    """A sink, what can be done to it, and a victim beside it."""

    def __init__(self, world: World, *, is_signed: bool) -> None:
        self.world, self.is_signed, self.path = world, is_signed, world.out
        self.sign = [world.reference("signing")] if is_signed else []
        self.victim = world.root / "victim"

    def run(self, *, stop_after: int | None = None, overwrite: bool = False, **options: object) -> None:
        done = 0

        def count(event: Event) -> None:
            nonlocal done
            done += isinstance(event, FileDone)
            if done == stop_after:
                raise _StoppedError

        request = EncryptSpec(
            source=Location(str(self.world.raw)),
            sink=Location(str(self.path)),
            policy=Policy({"email": self.world.key}, sign=self.sign[0] if self.sign else None),
            overwrite=overwrite,
            run=RunOptions(keeps_journal=True, on_source_change=OnSourceChange.REPLACE, **options),  # type: ignore[arg-type]
        )
        run(request, credentials=self.world.credentials, on_event=count)

    def stop(self, **options: object) -> None:
        with pytest.raises(_StoppedError):
            self.run(stop_after=1, **options)  # type: ignore[arg-type]

    def stop_before_files_are_in_place(self) -> None:
        """A run that dies once its version is signed."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(directory_run, "finish_version", _stop)
            with pytest.raises(_StoppedError):
                self.run()

    @property
    def commands(self) -> dict[str, Callable[[], object]]:
        key, other = self.world.key, self.world.reference("other")
        return {
            "run": self.run,
            "run --resume": lambda: self.run(resumes=True),
            "run --overwrite": lambda: self.run(overwrite=True),
            "clean": lambda: clean(self.path, grace=timedelta()),
            "rotate --deep": lambda: pc.rotate(self.path, key, other, deep=True, sign=self.sign),
            "grant": lambda: pc.grant(self.path, other, [key]),
            "revoke": lambda: pc.revoke(self.path, other),
        }

    def run_directories(self) -> list[Path]:
        return sorted((self.path / "_pipecrypt/runs").iterdir())

    def replace_by_link(self, path: Path) -> None:
        """Let what is at a path be in the victim, and a link lead there; nothing may be there yet."""
        target = self.victim / "taken"
        if path.exists():
            shutil.move(path, target)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            target.mkdir()
        path.symlink_to(target)

    def state(self) -> dict[str, tuple[int, bytes]]:
        return {
            str(path): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
            for path in [self.victim, *sorted(self.victim.rglob("*"))]
        }


def _stop(*_: object, **__: object) -> None:
    raise _StoppedError


@pytest.fixture(params=[False, True], ids=["unsigned", "signed"])
def sink(request: pytest.FixtureRequest, world: World, monkeypatch: pytest.MonkeyPatch) -> Sink:
    for name, value in world.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PIPECRYPT_STATE_DIR", "")
    create_key(world.reference("signing"), "ed25519", world.credentials)
    made = Sink(world, is_signed=request.param)
    (made.victim / "empty").mkdir(parents=True)
    for name in ("x", "a.parquet", "staged/a.parquet", "parts-000000.jsonl"):
        (made.victim / name).parent.mkdir(exist_ok=True)
        (made.victim / name).write_bytes(b"mine")
    return made


# Every directory that a run makes in a sink, one of data, and files among them.
PLACES: dict[str, Callable[[Sink], Path]] = {
    "ours": lambda sink: sink.path / "_pipecrypt",
    "runs": lambda sink: sink.path / "_pipecrypt/runs",
    "lock": lambda sink: sink.path / "_pipecrypt/lock",
    "a run": lambda sink: sink.run_directories()[-1],
    "staged": lambda sink: sink.run_directories()[-1] / "staged",
    "attempts": lambda sink: sink.run_directories()[-1] / "attempts",
    "a block": lambda sink: next(iter(sorted(sink.run_directories()[-1].glob("parts-*")))),
    "data": lambda sink: sink.path / "day=1",
    "an output": lambda sink: sink.path / NAMES[0],
}


@pytest.mark.parametrize("place", list(PLACES))
@pytest.mark.parametrize("state", ["finished", "stopped", "signed, not in place"])
def test_whatever_a_link_leads_to_stays_as_it_is(sink: Sink, place: str, state: str) -> None:
    if state == "finished":
        sink.run()
    elif state == "stopped":
        sink.stop()
    elif sink.is_signed:
        sink.run()
        write_table(sink.world.raw / "day=3/new.parquet", 10)
        write_table(sink.world.raw / NAMES[0], 20)
        sink.stop_before_files_are_in_place()
    else:
        pytest.skip("only signed files wait for their places")
    write_table(sink.world.raw / "day=1/late.parquet", 10)  # so that there is something to do
    path = PLACES[place](sink)
    sink.replace_by_link(path)
    pristine = sink.world.root / "pristine"
    shutil.copytree(sink.path, pristine, symlinks=True)
    before = sink.state()
    for name, command in sink.commands.items():
        shutil.rmtree(sink.path)
        shutil.copytree(pristine, sink.path, symlinks=True)
        with contextlib.suppress(PipecryptError):
            command()
        assert sink.state() == before, name


@pytest.mark.parametrize("place", ["ours", "runs", "a run", "staged", "a block"])
def test_a_link_where_a_file_or_directory_of_ours_should_be_is_refused(sink: Sink, place: str) -> None:
    sink.stop()
    sink.replace_by_link(PLACES[place](sink))
    for name in ("run", "run --resume", "clean"):
        with pytest.raises(IntegrityError) as caught:
            sink.commands[name]()
        assert "symbolic link" in caught.value.message
        assert caught.value.exit_code == 3


@pytest.mark.parametrize("place", ["data", "an output"])
def test_outputs_are_not_written_through_links(sink: Sink, place: str) -> None:
    sink.run()
    for name in NAMES[:2]:
        write_table(sink.world.raw / name, 30)
    sink.replace_by_link(PLACES[place](sink))
    before = sink.state()
    with pytest.raises(LinkError):
        sink.run(overwrite=True)
    assert sink.state() == before


@pytest.mark.parametrize("command", ["encrypt", "decrypt"])
def test_one_output_is_not_written_into_a_directory_behind_a_link(world: World, command: str) -> None:
    """The name that was given is that of a file; the link was put there by whoever can write beside it."""
    source, given = world.raw / "a.parquet", {"overwrite": True, "credentials": world.credentials}
    if command == "decrypt":
        pc.encrypt(source, world.root / "sealed/a.parquet", Policy({"email": world.key}), credentials=world.credentials)
        source = world.root / "sealed/a.parquet"
    (world.root / "home").mkdir()
    precious = world.root / "home/a.parquet"
    precious.write_bytes(b"precious")
    world.out.mkdir()
    (world.out / "a.parquet").symlink_to(world.root / "home")

    def act(sink: str) -> None:
        if command == "encrypt":
            pc.encrypt(source, sink, Policy({"email": world.key}), **given)
        else:
            pc.decrypt(source, sink, [world.key], **given)

    for sink in (f"{world.out}/a.parquet", f"file://{world.out}/a.parquet"):
        with pytest.raises(LinkError) as caught:
            act(sink)
        assert f"{world.out}/a.parquet/" in str(caught.value.hint)
    assert precious.read_bytes() == b"precious"
    assert (world.out / "a.parquet").is_symlink()
    act(f"{world.out}/a.parquet/")
    assert precious.read_bytes() != b"precious"


def _forge(sink: Sink, **members: object) -> None:
    """Add what anybody can add to a journal that nobody signs."""
    block = next(iter(sorted(sink.run_directories()[-1].glob("parts-*"))))
    first, *lines = block.read_text().splitlines()
    block.write_text("\n".join([json.dumps(json.loads(first) | members), *lines]) + "\n")


def test_a_forged_entry_that_leads_through_a_link(world: World, sink: Sink) -> None:
    if sink.is_signed:
        pytest.skip("nobody can forge the journal of a signed run")
    sink.run()
    blocks = {path: path.read_text() for path in sink.run_directories()[-1].glob("parts-*")}
    assert any(f'"{NAMES[0]}"' in text for text in blocks.values())
    for path, text in blocks.items():
        path.write_text(text.replace(f'"{NAMES[0]}"', '"link/x"'))
    (sink.path / "link").symlink_to(sink.victim)
    before = sink.state()
    with contextlib.suppress(PipecryptError):
        sink.run()
    (world.raw / NAMES[0]).unlink()
    with contextlib.suppress(PipecryptError):
        sink.run()
    with contextlib.suppress(PipecryptError):
        clean(sink.path, grace=timedelta())
    assert sink.state() == before


@pytest.mark.parametrize("path", ["../victim/x", "/etc/hostname", "a/../../victim/x", "link/x", "./x", "a//x", "x\0"])
def test_a_forged_journal_removes_nothing_elsewhere(sink: Sink, path: str) -> None:
    if sink.is_signed:
        pytest.skip("nobody can forge the journal of a signed run")
    sink.stop()
    (sink.path / "link").symlink_to(sink.victim)
    _forge(sink, removes=[path], replaces=[path])
    before = sink.state()
    for name in ("run --resume", "run --overwrite", "run", "clean"):
        with contextlib.suppress(PipecryptError):
            sink.commands[name]()
        assert sink.state() == before


@pytest.mark.parametrize("place", ["staged", "a run", "a block", "ours"])
def test_what_is_no_directory_where_one_should_be(sink: Sink, place: str) -> None:
    """A named pipe makes nobody wait, and a file is no directory."""
    sink.stop()
    path = PLACES[place](sink)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    os.mkfifo(path)
    for command in sink.commands.values():
        with contextlib.suppress(PipecryptError):
            command()


def test_links_of_the_users_own_among_data_are_left_alone(sink: Sink) -> None:
    if sink.is_signed:
        pytest.skip("a signed dataset holds what was signed and nothing else")
    sink.run()
    (sink.path / "latest").symlink_to("day=1")
    write_table(sink.world.raw / "day=3/new.parquet", 10)
    sink.run()
    clean(sink.path, grace=timedelta())
    assert (sink.path / "latest").is_symlink()
    assert (sink.path / "day=3/new.parquet").is_file()


def test_names_that_lead_nowhere_do_not_stop_cleaning(world: World) -> None:
    """Object stores hold any name, and whoever lists them may meet it."""
    request = EncryptSpec(
        source=Location(str(world.raw)),
        sink=Location("memory://planted-names"),
        policy=Policy({"email": world.key}),
        run=RunOptions(keeps_journal=True),
    )
    run(request, credentials=world.credentials)
    memory = fsspec.filesystem("memory")
    planted = "/planted-names/_pipecrypt/runs/20200101T000000Z-00000000/a/../b//c"
    memory.store[planted] = type(next(iter(memory.store.values())))(memory, planted, b"x")

    left = "/planted-names/_pipecrypt/.a.pipecrypt-0011aabb-0011aabb.tmp"
    memory.pipe_file(left, b"x")
    assert clean("memory://planted-names", grace=timedelta()).removed == (left.removeprefix("/planted-names/"),)
    assert planted in memory.store  # whoever follows the name may be led elsewhere
    memory.rm("/planted-names", recursive=True)
