"""What is left to do, and that finding it out takes as many steps as there are files, not their square."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from pipecrypt.parquet.policy import EncryptionPolicy
from pipecrypt.runs.journal.past_runs import FinishedFile
from pipecrypt.runs.kinds.blob import BlobEncryption
from pipecrypt.runs.output import Target
from pipecrypt.runs.plan.decision import Decision, compare_with_done, overwrite_done
from pipecrypt.runs.spec.options import OnSourceChange
from pipecrypt.runs.task import Task
from pipecrypt.store.location import Location
from pipecrypt.store.protocol import SourceFile


class _Counted(str):
    """An id that counts how often it is hashed or compared, as texts that were read from a sink are."""

    steps = 0

    def __hash__(self) -> int:
        _Counted.steps += 1
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        _Counted.steps += 1
        return super().__eq__(other)


def _tasks(names: Iterable[str]) -> list[Task]:
    kind = BlobEncryption(EncryptionPolicy(default="keystore://k.json#pii"), 1 << 20, compress=False)
    return [
        Task(
            id=_Counted(name),
            source=SourceFile(Location(f"/raw/{name}"), name, 1, "1"),
            kind=kind,
            target=Target(sink=Location(f"/sink/{name}"), path=_Counted(name), token="0" * 8, dataset_id="0" * 32),
        )
        for name in names
    ]


def _compare(count: int, lost: str) -> tuple[Decision, int]:
    names = [f"{number:06}" for number in range(count)]
    tasks, done = _tasks(names), {_Counted(name): FinishedFile(_Counted(name), 1) for name in names}
    some: set[str] = {_Counted(name) for name in names[::2]}
    found = dict.fromkeys(path for path in done if lost != "lost" or path not in some)
    _Counted.steps = 0
    changes = compare_with_done(tasks, done, {}, found, some if lost == "doubtful" else ())
    return changes, _Counted.steps


@pytest.mark.parametrize("lost", ["nothing", "lost", "doubtful"])
def test_comparing_takes_as_many_steps_as_there_are_files(lost: str) -> None:
    few, steps = _compare(500, lost)
    many, more_steps = _compare(2000, lost)
    assert (len(few.to_do), len(many.to_do)) == ((0, 0) if lost == "nothing" else (250, 1000))
    assert more_steps < 5 * steps


@pytest.mark.parametrize("choice", OnSourceChange)
def test_what_no_run_of_a_configuration_wrote_has_no_source_to_lose(choice: OnSourceChange) -> None:
    done = {"a": FinishedFile("a", 1), "gone": FinishedFile("gone", 1), "of others": FinishedFile("", 1)}
    changes = overwrite_done(_tasks(["a"]), done, (), choice)
    assert (*changes.removed, *changes.orphaned) == ("gone",)
    assert bool(changes.removed) is (choice is OnSourceChange.REPLACE)
    assert len(changes.to_do) == 1
