"""The lock of a sink: one holder at a time, and nobody waits for the dead."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipecrypt.errors import ConflictError, StorageError
from pipecrypt.store import lease, process_identity
from pipecrypt.store.lease import (
    HeldLease,
    Lease,
    LeaseTiming,
    LeaseWatch,
    ProcessIdentity,
    is_running,
    this_process,
)
from pipecrypt.store.location import Location, transfer_settings
from pipecrypt.store.open import open_store


@pytest.fixture(params=["local", "memory"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Location]:
    if request.param == "local":
        yield Location(str(tmp_path / "lock"))
        return
    yield Location(f"memory://lock-{tmp_path.name}/lock")
    fsspec.filesystem("memory").rm(f"/lock-{tmp_path.name}", recursive=True)


def _never(seconds: float) -> None:
    raise AssertionError(f"waited for {seconds} s")


def _put(directory: Location, number: int, **members: object) -> None:
    content = {"holder": "another", "write_id": "00", "place": "elsewhere", "process": 1, "started": "1"}
    content |= {"interval_seconds": 1, "beat": 0} | members
    with fsspec.open(directory.child(f"{number}.json").url, "w", auto_mkdir=True) as file:
        json.dump(content, file)


def _names(directory: Location) -> list[str]:
    fs, path = fsspec.core.url_to_fs(directory.url)
    return sorted(name.rsplit("/", 1)[-1] for name in fs.find(path)) if fs.exists(path) else []


def test_a_second_run_is_told_who_holds_the_lock(directory: Location) -> None:
    with Lease(directory, "run-1", timing=LeaseTiming(sleep=_never)):
        holder = LeaseWatch(directory, LeaseTiming(sleep=_never)).living()
        assert holder is not None
        assert holder.who == "run-1"
        with pytest.raises(ConflictError, match="run-1"):
            Lease(directory, "run-2", timing=LeaseTiming(sleep=_never))
    assert LeaseWatch(directory).living() is None
    assert _names(directory) == []
    Lease(directory, "run-2", timing=LeaseTiming(sleep=_never)).release()


def test_a_process_of_this_machine_that_died_is_not_waited_for(tmp_path: Path) -> None:
    directory = Location(str(tmp_path / "lock"))
    code = (
        "import os, signal; from pipecrypt.store.location import Location; "
        "from pipecrypt.store.lease import Lease; "
        f"Lease(Location({directory.url!r}), 'dead'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert _names(directory) == ["1.json"]
    with Lease(directory, "next", timing=LeaseTiming(sleep=_never)) as lock:
        lock.check()
        assert _names(directory) == ["2.json"]


def test_a_holder_elsewhere_counts_as_dead_after_several_intervals_without_a_beat(directory: Location) -> None:
    _put(directory, 7, interval_seconds=5)
    waited: list[float] = []
    with Lease(directory, "next", timing=LeaseTiming(patience=4, sleep=waited.append)):
        assert waited == [5, 5, 5, 5]
        assert _names(directory) == ["8.json"]


def test_a_holder_elsewhere_that_beats_keeps_its_lock(directory: Location) -> None:
    _put(directory, 7)

    def beat(_: float) -> None:
        _put(directory, 7, beat=1)

    with pytest.raises(ConflictError, match="another"):
        Lease(directory, "next", timing=LeaseTiming(sleep=beat))


@pytest.mark.parametrize("age_seconds", [31, 3600, -3600], ids=["long ago", "an hour ago", "in the future"])
def test_a_lock_that_names_a_process_that_runs_is_watched_where_it_is_not_fresh(
    tmp_path: Path, age_seconds: int
) -> None:
    """Whoever can write to the sink may name any process: once, and nobody would ever write there again."""
    directory, waited = Location(str(tmp_path / "lock")), list[float]()
    parent = os.getppid()
    _put(directory, 7, place=this_process().place, process=parent, started=_start_of(parent), interval_seconds=10)
    assert LeaseWatch(directory, LeaseTiming(sleep=_never)).living() is not None  # as long as it may be about to beat
    written = time.time() - age_seconds
    os.utime(tmp_path / "lock" / "7.json", (written, written))
    with Lease(directory, "next", timing=LeaseTiming(sleep=waited.append)):
        assert waited == [10, 10, 10]
        assert _names(directory) == ["8.json"]


def test_a_process_of_this_machine_that_beats_late_keeps_its_lock(tmp_path: Path) -> None:
    directory, parent = Location(str(tmp_path / "lock")), os.getppid()
    names = {"place": this_process().place, "process": parent, "started": _start_of(parent)}
    _put(directory, 7, **names)
    os.utime(tmp_path / "lock" / "7.json", (0, 0))
    with pytest.raises(ConflictError, match="another"):
        Lease(directory, "next", timing=LeaseTiming(sleep=lambda _: _put(directory, 7, beat=1, **names)))


def test_a_holder_that_was_given_up_must_stop(directory: Location) -> None:
    waits: list[float] = []
    with Lease(directory, "slow", timing=LeaseTiming(sleep=waits.append)) as lock:
        lock.check()
        assert waits == []
        _put(directory, 2)
        with pytest.raises(ConflictError):
            lock.check()
        assert lock.is_lost
    assert _names(directory) == ["2.json"]  # it no longer touches what is another's


def test_a_holder_whose_file_was_replaced_must_stop(directory: Location) -> None:
    with Lease(directory, "slow", timing=LeaseTiming(sleep=_never)) as lock:
        _put(directory, 1)
        with pytest.raises(ConflictError):
            lock.check()


def test_a_number_that_is_used_again_is_no_sign_of_the_dead(
    directory: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B sees the lock of A; A gives it back, and C takes it, with the same number, before B goes on."""
    a = Lease(directory, "A", timing=LeaseTiming(sleep=_never))
    others: list[Lease] = []
    real = LeaseWatch.living

    def none_lives(self: LeaseWatch, seen: Any = None) -> Any:
        if others or not seen:
            return real(self, seen)
        a.release()
        others.append(Lease(directory, "C", timing=LeaseTiming(sleep=_never)))
        return None

    monkeypatch.setattr(LeaseWatch, "living", none_lives)
    with pytest.raises(ConflictError, match="C"):
        Lease(directory, "B", timing=LeaseTiming(sleep=lambda _: None))
    others[0].check()
    assert _names(directory) == ["1.json"]
    others[0].release()


def test_a_holder_below_one_who_came_too_late_keeps_its_lock(directory: Location) -> None:
    """Whoever is late creates the next number, sees the holder below and takes it back; others may look in between."""
    parent = os.getppid()
    _put(directory, 1, holder="D", place=this_process().place, process=parent, started=_start_of(parent))
    _put(directory, 2, holder="late", write_id="0b")

    with pytest.raises(ConflictError, match="'D'"):
        Lease(directory, "E", timing=LeaseTiming(sleep=_never))
    _put(directory, 1, holder="D")  # elsewhere

    def take_back(_: float) -> None:
        if "2.json" in _names(directory):
            open_store(directory.child("2.json")).remove()
        _put(directory, 1, holder="D", beat=1)

    with pytest.raises(ConflictError, match="'D'"):
        Lease(directory, "E", timing=LeaseTiming(sleep=take_back))
    assert _names(directory) == ["1.json"]


def test_a_lost_lock_takes_its_own_file_back_and_nobody_elses(directory: Location) -> None:
    lock = Lease(directory, "slow", timing=LeaseTiming(sleep=lambda _: None))
    _put(directory, 1, write_id="0c")
    lock.release()
    assert _names(directory) == ["1.json"]


def test_what_a_helper_knows_of_a_lock_travels_and_tells_its_end(
    directory: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(lease.time, "sleep", waited.append)
    with Lease(directory, "run", timing=LeaseTiming(sleep=_never)) as lock:
        held = pickle.loads(pickle.dumps(lock.held))  # noqa: S301
        assert isinstance(held, HeldLease)
        held.check()
        _put(directory, 2)
        with pytest.raises(ConflictError):
            held.check()
        assert len(waited) == 1
        open_store(directory.child("2.json")).remove()
        held.check()
        _put(directory, 1)
        with pytest.raises(ConflictError):
            held.check()
        open_store(directory.child("1.json")).remove()
        with pytest.raises(ConflictError):
            held.check()
        assert len(waited) == 1


def test_a_helper_waits_for_a_latecomer_to_take_its_file_back_as_the_holder_does(
    directory: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take_back(_: float) -> None:
        open_store(directory.child("2.json")).remove()

    with Lease(directory, "run", timing=LeaseTiming(sleep=take_back)) as lock:
        _put(directory, 2)
        lock.check()
        _put(directory, 2)
        monkeypatch.setattr(lease.time, "sleep", take_back)
        lock.held.check()


def test_a_place_where_nothing_can_be_written_is_not_taken_for_a_race(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise StorageError("there is no such bucket") from FileNotFoundError()

    monkeypatch.setattr(lease, "write_holder", refuse)
    with pytest.raises(StorageError, match="no such bucket"):
        Lease(Location(str(tmp_path / "lock")), "run", timing=LeaseTiming(sleep=lambda _: None))


def test_calls_of_a_lock_end_before_others_count_its_holder_as_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def numbers(directory: Location) -> list[int]:
        seen.append(transfer_settings(directory.options).deadline_seconds)
        raise StorageError("no network")

    monkeypatch.setattr(lease, "numbers", numbers)
    given = Location("memory://nowhere/lock", {"transfer": {"part_bytes": 16 << 20, "deadline_seconds": 900}})
    with pytest.raises(StorageError):
        Lease(given, "run", timing=LeaseTiming(interval_seconds=7))
    assert seen == [7]


def test_what_another_took_meanwhile_is_not_forgotten_with_the_dead(
    directory: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    _put(directory, 1, write_id="0a")
    _put(directory, 2, write_id="0b")
    real = Lease._is_alone

    def taken_afterwards(self: Lease, *arguments: Any) -> bool:
        is_alone = real(self, *arguments)
        _put(directory, 1, write_id="0c")
        return is_alone

    monkeypatch.setattr(Lease, "_is_alone", taken_afterwards)
    lock = Lease(directory, "next", timing=LeaseTiming(sleep=lambda _: None))
    assert _names(directory) == ["1.json", "3.json"]
    lock.release()


def test_a_holder_without_beats_looks_for_itself(directory: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    with Lease(directory, "run", timing=LeaseTiming(interval_seconds=5, patience=2, sleep=_never)) as lock:
        assert not lock.is_doubtful
        later = lease._seconds_passed() + 11
        monkeypatch.setattr(lease, "_seconds_passed", lambda: later)
        assert lock.is_doubtful
        lock.check()


def test_intervals_of_others_are_bounded(directory: Location) -> None:
    for written, waited in ((-5, 0), (11, 10), (60, 10), (10**9, 10)):
        _put(directory, 7, interval_seconds=written)
        waits: list[float] = []
        Lease(directory, "next", timing=LeaseTiming(patience=1, sleep=waits.append)).release()
        assert waits == [waited]


def test_many_that_are_silent_keep_nobody_waiting_longer_than_one(directory: Location) -> None:
    for number, interval in enumerate([60, 1, 10, -1, 7, 10**9] * 5, start=1):
        _put(directory, number, interval_seconds=interval)
    waits: list[float] = []
    assert LeaseWatch(directory, LeaseTiming(sleep=waits.append)).living() is None
    assert waits == [10, 10, 10]
    Lease(directory, "next", timing=LeaseTiming(sleep=waits.append)).release()
    assert waits == [10] * 6


@pytest.mark.parametrize("number", [1, 4, 9])
def test_among_many_that_are_silent_one_that_beats_is_seen(directory: Location, number: int) -> None:
    """It beats as late as a holder may whose beats are as far apart as pipecrypt lets them be."""
    for other in range(1, 10):
        _put(directory, other, holder=f"run-{other}", interval_seconds=10 if other == number else other % 3)
    waits: list[float] = []

    def beat_late(seconds: float) -> None:
        waits.append(seconds)
        if sum(waits) > 2 * lease.LONGEST_INTERVAL_SECONDS:
            _put(directory, number, holder=f"run-{number}", interval_seconds=10, beat=1)

    with pytest.raises(ConflictError, match=f"run-{number}"):
        Lease(directory, "next", timing=LeaseTiming(sleep=beat_late))
    assert len(_names(directory)) == 9


def test_who_was_waited_for_in_vain_is_not_waited_for_again(directory: Location) -> None:
    _put(directory, 7)
    waits: list[float] = []
    watch = LeaseWatch(directory, LeaseTiming(sleep=waits.append))
    assert watch.living() is None
    assert waits == [1, 1, 1]
    assert watch.living() is None
    assert waits == [1, 1, 1]
    _put(directory, 7, beat=1)  # it was asleep
    _put(directory, 8, interval_seconds=2)
    assert watch.living() is None
    assert waits == [1, 1, 1, 2, 2, 2]


def test_no_lock_is_held_with_beats_that_nobody_waits_for() -> None:
    assert LeaseTiming().interval_seconds == LeaseTiming(10).interval_seconds == 10
    with pytest.raises(AssertionError):
        LeaseTiming(interval_seconds=11)


def test_more_lock_files_than_runs_leave_are_named(directory: Location) -> None:
    for number in range(1, lease.MAX_LOCK_FILES + 1):
        _put(directory, number)
    assert LeaseWatch(directory, LeaseTiming(sleep=lambda _: None)).living() is None
    _put(directory, 5000)
    for ask in (
        lambda place, timing: LeaseWatch(place, timing).living(),
        lambda place, timing: Lease(place, "run", timing=timing),
    ):
        with pytest.raises(ConflictError, match="33 lock files") as caught:
            ask(directory, timing=LeaseTiming(sleep=_never))
        assert directory.display in caught.value.message
        assert "remove" in caught.value.hint
    assert len(_names(directory)) == 33


def test_a_lock_that_cannot_be_looked_at_again_is_given_back(directory: Location) -> None:
    """Somebody puts what is not a lock beside the one that was just made."""
    _put(directory, 7, interval_seconds=0)
    real = Lease._create

    def create(self: Lease, mine: Any) -> bool:
        made = real(self, mine)
        with fsspec.open(directory.child("9.json").url, "wb") as file:
            file.write(b"[]")
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lease, "_create", create)
        with pytest.raises(ConflictError, match=r"9\.json is not a lock"):
            Lease(directory, "run", timing=LeaseTiming(sleep=lambda _: None))
    assert _names(directory) == ["7.json", "9.json"]


@pytest.mark.parametrize("step", ["_is_alone", "_forget", "_beat"])
def test_a_lock_whose_owner_is_interrupted_before_it_has_it_is_given_back(directory: Location, step: str) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        if step == "_beat":
            patch.setattr(threading.Thread, "start", interrupt)
        else:
            patch.setattr(Lease, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            Lease(directory, "run", timing=LeaseTiming(sleep=lambda _: None))
    assert _names(directory) == []


def test_the_holder_beats_and_notices_its_loss(directory: Location) -> None:
    with Lease(directory, "run", timing=LeaseTiming(interval_seconds=0)) as lock:  # beats without a pause
        first = LeaseWatch(directory).living()
        assert first is not None
        _wait(lambda: (LeaseWatch(directory).living() or first).beat > first.beat)
        _put(directory, 2)
        _wait(lambda: lock.is_lost)


def test_of_many_at_once_one_at_a_time_holds_the_lock(directory: Location) -> None:
    _put(directory, 3, place=this_process().place)  # a dead one, which all of them find: process 1 began otherwise
    holding, most, gate = [0], [0], threading.Lock()

    def attempt(number: int) -> bool:
        try:
            with Lease(directory, f"run-{number}"):
                with gate:
                    holding[0] += 1
                    most[0] = max(most[0], holding[0])
                time.sleep(0.02)
                with gate:
                    holding[0] -= 1
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = sum(pool.map(attempt, range(24)))
    assert most[0] == 1
    assert won >= 1


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"holder": 1}'])
def test_what_is_no_lock_is_told(directory: Location, content: bytes) -> None:
    with fsspec.open(directory.child("1.json").url, "wb", auto_mkdir=True) as file:
        file.write(content)
    with pytest.raises(ConflictError, match="not a lock"):
        Lease(directory, "run", timing=LeaseTiming(sleep=_never))


def test_a_dead_holder_with_the_highest_number_is_named(directory: Location) -> None:
    _put(directory, lease.MAX_LOCK_NUMBER)
    with pytest.raises(ConflictError, match=f"{lease.MAX_LOCK_NUMBER}.json"):
        Lease(directory, "run", timing=LeaseTiming(patience=1, sleep=lambda _: None))
    open_store(directory.child(f"{lease.MAX_LOCK_NUMBER}.json")).remove()
    Lease(directory, "run", timing=LeaseTiming(sleep=_never)).release()


@pytest.mark.parametrize("number", [lease.MAX_LOCK_NUMBER + 1, 10**12 - 1, 10**12])
def test_a_number_that_no_lock_can_have_keeps_nobody_out(directory: Location, number: int) -> None:
    _put(directory, number)
    with Lease(directory, "run", timing=LeaseTiming(sleep=_never)) as lock:
        lock.check()
        assert LeaseWatch(directory, LeaseTiming(sleep=_never)).living() is not None


def test_a_huge_file_is_no_lock(directory: Location) -> None:
    with fsspec.open(directory.child("1.json").url, "wb", auto_mkdir=True) as file:
        file.write(b" " * 10_000)
    with pytest.raises(StorageError):
        Lease(directory, "run", timing=LeaseTiming(sleep=_never))


def test_processes_are_told_apart() -> None:
    me = this_process()
    assert is_running(me) is True
    assert is_running(ProcessIdentity(me.place, me.number, "0")) is False
    assert is_running(ProcessIdentity("elsewhere", me.number, me.started)) is None
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        started = _start_of(child.pid)
        assert is_running(ProcessIdentity(me.place, child.pid, started)) is True
    finally:
        child.kill()
        zombie = _wait(lambda: is_running(ProcessIdentity(me.place, child.pid, started)) is False)
        child.communicate()
    assert zombie is None


def _start_of(number: int) -> str:
    return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19]


def _wait(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, os.getpid()
        time.sleep(0.005)


def test_what_this_process_could_not_give_back_does_not_keep_it_out(directory: Location) -> None:
    lock = Lease(directory, "run-1", timing=LeaseTiming(sleep=_never))
    with pytest.raises(ConflictError):
        Lease(directory, "run-2", timing=LeaseTiming(sleep=_never))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipecrypt.store.lease.remove_holder", _refuse)
        lock.release()
    assert _names(directory) == ["1.json"]
    Lease(directory, "run-2", timing=LeaseTiming(sleep=_never)).release()


def test_a_lock_in_the_making_that_is_cleaned_up_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, waits = Location(str(tmp_path / "lock")), list[float]()
    real = os.link

    def link(*given: object, **options: object) -> None:
        if not waits:
            os.unlink(given[0], dir_fd=options["src_dir_fd"])  # type: ignore[call-overload]
        real(*given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", link)
    with Lease(directory, "run-1", timing=LeaseTiming(sleep=waits.append)):
        assert len(waits) == 1
        assert _names(directory) == ["1.json"]


def _refuse(directory: Location, number: int) -> None:
    raise StorageError(f"cannot remove {number} in {directory.display}")


@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError], ids=["hidepid=2", "hidepid=1"])
def test_a_process_that_is_hidden_is_not_called_dead(error: type[OSError], monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(this_process(), number=os.getppid(), started="1")
    assert is_running(other) is False  # another one that got its number

    def hidden(path: str, **options: Any) -> Any:
        if path.endswith("/stat"):
            raise error
        return open(path, **options)

    monkeypatch.setattr(process_identity, "open", hidden, raising=False)
    assert is_running(other) is None
    assert is_running(replace(other, number=2**22 + 1)) is False  # more than Linux gives
